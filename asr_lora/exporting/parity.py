"""Decide whether another engine transcribes as ours does, from the transcripts of both."""

from collections.abc import Sequence

from asr_lora.folders.run_folder import ErrorRates, ExportRecord, ParityRecord
from asr_lora.metrics.normalize import characters_lead, find_normaliser
from asr_lora.metrics.wer import score


def parity(
    references: Sequence[str], ours: Sequence[str], theirs: Sequence[str], language: str, tolerance: float
) -> ParityRecord:
    """Compare the transcripts of two engines; they pass if their leading rates differ by at most `tolerance`."""
    normaliser = find_normaliser("basic", language)
    lead = "cer" if characters_lead(references) else "wer"
    sides = [score(references, transcripts, normaliser).rates for transcripts in (ours, theirs)]
    drift = getattr(sides[1], lead) - getattr(sides[0], lead)
    between = score(ours, theirs, normaliser)
    return ParityRecord(
        clips=len(references),
        normaliser=normaliser.label,
        lead=lead,
        ours=ErrorRates(wer=sides[0].wer, cer=sides[0].cer),
        theirs=ErrorRates(wer=sides[1].wer, cer=sides[1].cer),
        drift=drift,
        tolerance=tolerance,
        alike=sum(errors.edits == 0 for errors in between.words),
        apart=between.rates.wer,
        passed=abs(drift) <= tolerance + 1e-9,
    )


def parity_table(record: ExportRecord) -> str:
    """Lay out the rates of both engines, a line each, and how far their transcripts differ."""
    found, width = record.parity, max(len(record.engine), len(record.reference))
    lines = [f"{'engine':{width}}  WER %  CER %"]
    for label, rates in ((record.reference, found.ours), (record.engine, found.theirs)):
        lines.append(f"{label:{width}} {100 * rates.wer:6.1f} {100 * rates.cer:6.1f}")
    outcome = "within" if found.passed else "more than"
    lines.append(
        f"{found.lead.upper()} drifts by {100 * found.drift:+.2f} points, {outcome} the "
        f"{100 * found.tolerance:.2f} tolerated; the same words in {found.alike} of {found.clips} utterances, "
        f"{100 * found.apart:.1f} % of words apart"
    )
    return "\n".join(lines)
