"""What a comparison is: systems, their utterances, and every pair of them."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from asr_lora.evaluation.report import SCORING
from asr_lora.metrics.confusions import changed_words, confusions
from asr_lora.metrics.hallucination import hallucination
from asr_lora.metrics.intervals import REPLICATES, Difference
from asr_lora.metrics.mapsswe import MatchedPairs
from asr_lora.metrics.wer import Scored


@dataclass(frozen=True)
class Pair:
    """B beside A on the same utterances."""

    a: str
    b: str
    wer: Difference
    cer: Difference
    lead: str = "wer"  # the rate that the verdict goes by
    test: MatchedPairs | None = None  # of words, or of characters where these lead; None: not of equal references

    @property
    def leading(self) -> Difference:
        """The difference that the verdict goes by."""
        return self.cer if self.lead == "cer" else self.wer

    @property
    def verdict(self) -> str:
        """What B is beside A: "better", "worse" or "not distinguishable"."""
        return self.leading.verdict

    @property
    def sentence(self) -> str:
        """The verdict in words, and a second sentence where the matched-pairs test does not agree."""
        found, rate = self.leading, self.lead.upper()
        points = f"{100 * abs(found.value):.1f} points of {rate}"
        interval = f"95 % interval {100 * found.low:+.1f} to {100 * found.high:+.1f}"
        if found.verdict == "not distinguishable":
            change = f"{100 * found.value:+.1f} points of {rate}"
            said = f"{self.b} and {self.a} are not distinguishable ({change}, {interval})."
        else:
            said = f"{self.b} is {found.verdict} than {self.a} by {points} ({interval})."
        if self.test is None or self.test.verdict == found.verdict:
            return said
        return f"{said} {self._otherwise(self.test)}"

    def _otherwise(self, test: MatchedPairs) -> str:
        facts = f"MAPSSWE, {test.segments} segments, p = {test.p:.3f}"
        if test.verdict == "not distinguishable":
            return f"The matched-pairs test does not tell them apart ({facts})."
        return f"The matched-pairs test, which does not know of speakers, finds {self.b} {test.verdict} ({facts})."


@dataclass(frozen=True)
class Comparison:
    """Everything that the page shows; the first system is what the others are held against."""

    systems: list[dict[str, Any]]  # report.json of each
    rows: list[list[dict[str, Any]]]  # hypotheses of each, in the same order
    pairs: list[Pair]
    unit: str  # what the bootstrap drew: "speaker" or "utterance"
    units: int
    scored: list[Scored] = field(default_factory=list)  # of each
    lead: str = "wer"
    breakdown: dict[str, Any] = field(default_factory=dict)  # see `breakdown`, rates in the order of the systems
    combined: list[dict[str, Any]] = field(default_factory=list)  # systems of several seeds or subsets, see `combine`
    contests: list[Pair] = field(default_factory=list)  # pairs of these and of systems that are of none of them
    terms: list[dict[str, Any]] = field(default_factory=list)  # of each system, where terms were asked for
    guards: "list[Comparison]" = field(default_factory=list)  # of the same systems on other datasets

    @property
    def names(self) -> list[str]:
        return [system["system"]["name"] for system in self.systems]

    @property
    def verdict(self) -> str:
        """The best system beside the first, and whether the next best can be told from it; seeds by their mean."""
        pairs = {frozenset((pair.a, pair.b)): pair for pair in self.contests or self.pairs}
        first = (self.contests or self.pairs)[0].a
        best, second, *_ = ranked = sorted(self._rates(pairs), key=lambda named: named[1])
        if best[0] == first:
            said = pairs[frozenset((first, second[0]))].sentence
            return said if len(ranked) == 2 else f"None is better than {first}. {said}"
        said = pairs[frozenset((first, best[0]))].sentence
        if second[0] == first:
            return said
        return f"{said} {_beside_next(pairs[frozenset((best[0], second[0]))], best[0], second[0])}"

    def _rates(self, pairs: Iterable[frozenset[str]]) -> list[tuple[str, float]]:
        """Name and leading rate of all that stand for themselves, in their order."""
        rates = {
            name: float(system["scores"][self.lead]) for name, system in zip(self.names, self.systems, strict=True)
        }
        rates |= {combined_name(body): float(body[self.lead]["mean"]) for body in self.combined}
        held = {name for pair in pairs for name in pair}
        return [(name, rate) for name, rate in rates.items() if name in held]


def combined_name(body: dict[str, Any]) -> str:
    """How several seeds or subsets are called where they stand for one system."""
    return f"{body['name']} (mean of {len(body['systems'])})"


def _beside_next(pair: Pair, best: str, second: str) -> str:
    """The best system beside the next best, whichever of them the pair was made against."""
    found, rate, sign = pair.leading, pair.lead.upper(), 1 if pair.b == best else -1
    low, high = sorted((100 * sign * found.low, 100 * sign * found.high))
    interval = f"95 % interval {low:+.1f} to {high:+.1f}"
    change = 100 * sign * found.value
    if found.verdict == "not distinguishable":
        return f"The next best, {second}, is not distinguishable from it ({change:+.1f} points of {rate}, {interval})."
    return f"It is also better than the next best, {second}, by {abs(change):.1f} points of {rate} ({interval})."


def comparison_facts(comparison: Comparison, *, transcripts: bool) -> dict[str, Any]:
    """What comparison.json says, but for where it was made; no words of anybody without `transcripts`."""
    systems = comparison.systems
    facts = {
        "systems": [{key: system.get(key) for key in ("system", "scores", "rtfx", "decoding")} for system in systems],
        "dataset": systems[0]["dataset"],
        "normaliser": systems[0]["normaliser"],
        "scoring": SCORING,
        "lead": comparison.lead,
        "bootstrap": {"unit": comparison.unit, "units": comparison.units, "replicates": REPLICATES},
        "pairs": [_pair_facts(comparison, pair) for pair in comparison.pairs],
        "combined": comparison.combined,
        "contests": [_pair_facts(comparison, pair) for pair in comparison.contests],
        "breakdown": comparison.breakdown,
        "hallucination": [hallucination(scored, characters=comparison.lead == "cer") for scored in comparison.scored],
        "terms": [
            own if transcripts else {key: value for key, value in own.items() if key != "each"}
            for own in comparison.terms
        ],
        "guards": [_guard_facts(guard) for guard in comparison.guards],
        "verdict": comparison.verdict,
    }
    if transcripts:
        facts["words"] = [confusions(scored.alignments) for scored in comparison.scored]
        facts["changed_words"] = _changed_words(comparison)
    return facts


def _pair_facts(comparison: Comparison, pair: Pair) -> dict[str, Any]:
    dataset = comparison.systems[0]["dataset"]
    rows = comparison.rows[0]
    return {
        "a": pair.a,
        "b": pair.b,
        "wer": asdict(pair.wer),
        "cer": asdict(pair.cer),
        "mapsswe": {**asdict(pair.test), "verdict": pair.test.verdict} if pair.test else None,
        "utterances": len(rows),
        "speakers": len({row["speaker"] for row in rows}),
        "seconds": dataset["seconds"],
        "verdict": pair.verdict,
        "sentence": pair.sentence,
    }


def _changed_words(comparison: Comparison) -> list[dict[str, Any]]:
    """For every system after the first, the words that it has right more often and less often than that."""
    names = [system["system"]["name"] for system in comparison.systems]
    first = comparison.scored[0]
    return [
        {"a": names[0], "b": name, **changed_words(first.alignments, other.alignments)}
        for name, other in zip(names[1:], comparison.scored[1:], strict=True)
        if first.references == other.references
    ]


def _guard_facts(guard: Comparison) -> dict[str, Any]:
    return {
        "dataset": guard.systems[0]["dataset"],
        "normaliser": guard.systems[0]["normaliser"],
        "lead": guard.lead,
        "systems": [{"name": system["system"]["name"], "scores": system["scores"]} for system in guard.systems],
        "pairs": [_pair_facts(guard, pair) for pair in guard.pairs],
    }
