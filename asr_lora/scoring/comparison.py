"""What a comparison is: systems, their utterances, and every pair of them."""

from dataclasses import dataclass, field
from typing import Any

from asr_lora.scoring.intervals import Difference
from asr_lora.scoring.mapsswe import MatchedPairs
from asr_lora.scoring.wer import Scored


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
    terms: list[dict[str, Any]] = field(default_factory=list)  # of each system, where terms were asked for
    guards: "list[Comparison]" = field(default_factory=list)  # of the same systems on other datasets

    @property
    def verdict(self) -> str:
        return " ".join(pair.sentence for pair in self.pairs)
