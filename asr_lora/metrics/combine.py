"""Compute mean and spread of systems that differ in seed or subset only and are named NAME#1, NAME#2 and so on."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any, NamedTuple

from asr_lora.folders.measurements import Difference
from asr_lora.metrics.intervals import Sums, difference_of, rate_of

MARK = "#"


@dataclass(frozen=True)
class FamilyRate:
    """One rate of a family of systems.

    The standard deviation (n - 1) is over runs: another seed would move a single run by about as much. The interval is
    over speakers: other speakers would move the mean within it.
    """

    mean: float
    sd: float
    lowest: float
    highest: float
    interval: list[float]  # of the mean: low, high
    difference: Difference | None  # of the mean to the first system; None: the first system is one of the family


@dataclass(frozen=True)
class Family:
    """Systems that share the part of their name before the #."""

    name: str
    systems: list[str]
    wer: FamilyRate
    cer: FamilyRate

    @property
    def label(self) -> str:
        return mean_label(self.name, len(self.systems))


class Contest(NamedTuple):
    """Two sides, each a family or a single system, and the differences of B to A."""

    a: str
    b: str
    wer: Difference
    cer: Difference


def mean_label(family: str, systems: int) -> str:
    """Return what the mean of a family is called."""
    return f"{family} (mean of {systems})"


def families(names: Sequence[str]) -> dict[str, list[int]]:
    """Return the places of systems that share the part of their name before the #, where there are two or more."""
    found: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        family, mark, _ = name.rpartition(MARK)
        if mark and family:
            found.setdefault(family, []).append(place)
    return {family: places for family, places in found.items() if len(places) > 1}


def combine(names: Sequence[str], sums: Mapping[tuple[Any, ...], Sums]) -> list[Family]:
    """Compute mean and spread of WER and CER of each family."""
    return [
        Family(
            family,
            [names[place] for place in places],
            _family_rate(sums, "wer", places),
            _family_rate(sums, "cer", places),
        )
        for family, places in families(names).items()
    ]


def _family_rate(sums: Mapping[tuple[Any, ...], Sums], rate: str, places: Sequence[int]) -> FamilyRate:
    values = [rate_of(sums[rate, place, "edits"], sums[rate, place, "lengths"]).value for place in places]
    edits, lengths = (_pooled([sums[rate, place, what] for place in places]) for what in ("edits", "lengths"))
    interval = rate_of(edits, lengths)
    return FamilyRate(
        mean=fmean(values),
        sd=stdev(values),
        lowest=min(values),
        highest=max(values),
        interval=[interval.low, interval.high],
        difference=None if 0 in places else _difference(sums, rate, [0], places),
    )


def contests(names: Sequence[str], sums: Mapping[tuple[Any, ...], Sums]) -> list[Contest]:
    """Compare every two of the families and of the systems outside them; nothing where there are no families."""
    found = families(names)
    if not found:
        return []
    members = {place for places in found.values() for place in places}
    sides = [(places, mean_label(family, len(places))) for family, places in found.items()]
    sides += [([place], name) for place, name in enumerate(names) if place not in members]
    return [
        Contest(name_a, name_b, _difference(sums, "wer", a, b), _difference(sums, "cer", a, b))
        for (a, name_a), (b, name_b) in itertools.combinations(sorted(sides), 2)
    ]


def _difference(sums: Mapping[tuple[Any, ...], Sums], rate: str, a: Sequence[int], b: Sequence[int]) -> Difference:
    """Difference of the means of two sides; each side is counted as often as the other has systems."""
    (edits_a, lengths_a), (edits_b, lengths_b) = (
        [_scaled(_pooled([sums[rate, place, what] for place in own]), len(other)) for what in ("edits", "lengths")]
        for own, other in ((a, b), (b, a))
    )
    return difference_of(edits_a, edits_b, lengths_a, lengths_b)


def _pooled(parts: Sequence[Sums]) -> Sums:
    return Sums(sum(part.total for part in parts), sum(part.replicates for part in parts))  # type: ignore[arg-type]


def _scaled(part: Sums, times: int) -> Sums:
    return Sums(part.total * times, part.replicates * times)
