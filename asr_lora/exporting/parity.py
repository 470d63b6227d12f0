"""What two engines heard of the same clips -> whether they are the same model, in numbers and as a table."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from asr_lora.metrics.normalize import characters_lead, find_normaliser
from asr_lora.metrics.wer import score


@dataclass(frozen=True)
class ErrorRates:
    wer: float
    cer: float


@dataclass(frozen=True)
class Parity:
    """Rates are shares; `drift` is theirs less ours, in the leading rate."""

    clips: int
    normaliser: str
    lead: str  # "cer" where most of what is spoken is written without blanks between words, else "wer"
    ours: ErrorRates
    theirs: ErrorRates
    drift: float
    tolerance: float
    alike: int  # clips in which both heard the same words
    apart: float  # WER of theirs, were ours the reference

    @property
    def passed(self) -> bool:
        return abs(self.drift) <= self.tolerance + 1e-9

    def facts(self) -> dict[str, Any]:
        """What export.json says."""
        return {**asdict(self), "passed": self.passed}


def parity(
    references: Sequence[str], ours: Sequence[str], theirs: Sequence[str], language: str, tolerance: float
) -> Parity:
    """Hold what an engine heard against what ours heard of the same clips."""
    normaliser = find_normaliser("basic", language)
    lead = "cer" if characters_lead(references) else "wer"
    sides = [score(references, heard, normaliser) for heard in (ours, theirs)]
    rates = [ErrorRates(side.rates.wer, side.rates.cer) for side in sides]
    between = score(ours, theirs, normaliser)
    return Parity(
        clips=len(references),
        normaliser=normaliser.label,
        lead=lead,
        ours=rates[0],
        theirs=rates[1],
        drift=getattr(rates[1], lead) - getattr(rates[0], lead),
        tolerance=tolerance,
        alike=sum(errors.edits == 0 for errors in between.words),
        apart=between.rates.wer,
    )


def parity_table(facts: dict[str, Any]) -> str:
    """The two engines of an export.json, a line each, and what lies between them."""
    found, name = facts["parity"], facts["engine"]
    width = max(len(name), len(facts["reference"]))
    lines = [f"{'engine':{width}}  WER %  CER %"]
    for label, side in ((facts["reference"], "ours"), (name, "theirs")):
        lines.append(f"{label:{width}} {100 * found[side]['wer']:6.1f} {100 * found[side]['cer']:6.1f}")
    outcome = "within" if found["passed"] else "more than"
    lines.append(
        f"{found['lead'].upper()} drifts by {100 * found['drift']:+.2f} points, {outcome} the "
        f"{100 * found['tolerance']:.2f} tolerated; the same words in {found['alike']} of {found['clips']} clips, "
        f"{100 * found['apart']:.1f} % of words apart"
    )
    return "\n".join(lines)
