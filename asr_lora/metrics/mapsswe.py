"""The matched pairs sentence segment word error test (MAPSSWE; Gillick & Cox, ICASSP 1989), as in NIST's sc_stats.

Utterances are cut into segments separated by two words in a row that both systems have right, so that the errors of one
segment are independent of those of the next. The mean difference of errors per segment is tested against zero.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from asr_lora.metrics.wer import Alignment

BOUNDARY = 2  # correct words in a row that end a segment
SIGNIFICANT = 0.05  # p below which two systems differ, two-tailed: |z| above 1.96


class ErrorSegment(NamedTuple):
    """A stretch in which at least one of two systems makes an error."""

    errors_a: int
    errors_b: int
    reference: int  # words, including the correct ones at its ends, as sc_stats counts them


@dataclass(frozen=True)
class MatchedPairs:
    """Result of the test of B against A; sc_stats prints A minus B, so its mean and z have the other sign."""

    segments: int
    errors_a: int
    errors_b: int
    reference: int
    mean: float  # errors of B minus those of A, per segment
    deviation: float  # standard deviation of that difference
    z: float  # 0 where the difference is the same in every segment (no variance), as in sc_stats
    p: float  # two-tailed, normal distribution; without variance from a sign test, which sc_stats does not do

    @property
    def verdict(self) -> str:
        """The verdict on B compared with A: "better", "worse" or "not distinguishable"."""
        if self.p >= SIGNIFICANT:
            return "not distinguishable"
        return "better" if self.mean < 0 else "worse"


def matched_pairs(a: Sequence[Alignment], b: Sequence[Alignment]) -> MatchedPairs:
    """Test two systems on the same utterances, their alignments in the same order.

    Raises:
        ValueError: two alignments have references of different lengths.
    """
    found = [part for one, other in zip(a, b, strict=True) for part in segments(one, other)]
    changes = [part.errors_b - part.errors_a for part in found]
    mean = sum(changes) / len(changes) if changes else 0.0
    squares = sum((change - mean) ** 2 for change in changes)
    deviation = math.sqrt(squares / (len(changes) - 1)) if squares else 0.0
    z = mean / (deviation / math.sqrt(len(changes))) if deviation else 0.0
    return MatchedPairs(
        segments=len(found),
        errors_a=sum(part.errors_a for part in found),
        errors_b=sum(part.errors_b for part in found),
        reference=sum(part.reference for part in found),
        mean=mean,
        deviation=deviation,
        z=z,
        p=min(1.0, 2 * 0.5 ** len(changes)) if mean and not deviation else math.erfc(abs(z) / math.sqrt(2)),
    )


def segments(a: Alignment, b: Alignment, *, boundary: int = BOUNDARY) -> list[ErrorSegment]:
    """Cut one utterance into segments with errors, separated by `boundary` words that both systems have right."""
    (added_a, right_a), (added_b, right_b) = _places(a), _places(b)
    if len(right_a) != len(right_b):
        raise ValueError(f"alignments of {len(right_a)} and {len(right_b)} reference words are of two utterances")
    found: list[ErrorSegment] = []
    errors_a = errors_b = good = last_good = 0
    begun = False
    for place in range(len(right_a) + 1):
        if added_a[place] or added_b[place]:
            errors_a, errors_b, begun, good = errors_a + added_a[place], errors_b + added_b[place], True, 0
        if place == len(right_a):
            break
        if not (right_a[place] and right_b[place]):
            errors_a, errors_b, begun, good = errors_a + (not right_a[place]), errors_b + (not right_b[place]), True, 0
        elif not begun:
            last_good = place
        else:
            good += 1
            if good == boundary:
                found.append(ErrorSegment(errors_a, errors_b, place + 1 - max(0, last_good + 1 - boundary)))
                errors_a, errors_b, begun, good, last_good = 0, 0, False, 0, place
    if begun:
        found.append(ErrorSegment(errors_a, errors_b, len(right_a) - max(0, last_good + 1 - boundary)))
    return found


def _places(alignment: Alignment) -> tuple[list[int], list[bool]]:
    """Count insertions before each reference word and after the last, (words + 1,); mark the right words, (words,)."""
    added, right = [0], []
    for step in alignment:
        if step.reference is None:
            added[-1] += 1
        else:
            right.append(step.kind == "equal")
            added.append(0)
    return added, right
