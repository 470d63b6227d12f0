"""What a comparison is: systems, their utterances, and every pair of them."""

from dataclasses import dataclass
from typing import Any

from asr_lora.scoring.intervals import Difference


@dataclass(frozen=True)
class Pair:
    """B beside A on the same utterances."""

    a: str
    b: str
    wer: Difference
    cer: Difference

    @property
    def sentence(self) -> str:
        """The verdict in words."""
        points = f"{100 * abs(self.wer.value):.1f} points of WER"
        interval = f"95 % interval {100 * self.wer.low:+.1f} to {100 * self.wer.high:+.1f}"
        if self.wer.verdict == "not distinguishable":
            change = f"{100 * self.wer.value:+.1f} points of WER"
            return f"{self.b} and {self.a} are not distinguishable ({change}, {interval})."
        return f"{self.b} is {self.wer.verdict} than {self.a} by {points} ({interval})."


@dataclass(frozen=True)
class Comparison:
    """Everything that the page shows; the first system is what the others are held against."""

    systems: list[dict[str, Any]]  # report.json of each
    rows: list[list[dict[str, Any]]]  # hypotheses of each, in the same order
    pairs: list[Pair]
    unit: str  # what the bootstrap drew: "speaker" or "utterance"
    units: int

    @property
    def verdict(self) -> str:
        return " ".join(pair.sentence for pair in self.pairs)
