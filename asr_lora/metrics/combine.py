"""Systems that differ in their seed or subset alone, named NAME#1, NAME#2 and so on -> their mean and spread."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from statistics import fmean, stdev
from typing import Any

from asr_lora.metrics.intervals import Difference, Sums, difference_of, rate_of

MARK = "#"


def families(names: Sequence[str]) -> dict[str, list[int]]:
    """Places of systems that share what stands before the #, where there are two or more."""
    found: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        family, mark, _ = name.rpartition(MARK)
        if mark and family:
            found.setdefault(family, []).append(place)
    return {family: places for family, places in found.items() if len(places) > 1}


def combine(names: Sequence[str], sums: Mapping[tuple[Any, ...], Sums]) -> list[dict[str, Any]]:
    """Mean and spread of WER and CER of each family, and the difference of its mean to the first system.

    The spread (`sd`, with n - 1) is over runs: another seed would move a single run by about as much. The interval is
    over speakers: other speakers would move the mean within it.
    """
    facts = []
    for family, places in families(names).items():
        body: dict[str, Any] = {"name": family, "systems": [names[place] for place in places]}
        for rate in ("wer", "cer"):
            values = [_rate(sums, rate, place) for place in places]
            edits, lengths = (_pooled([sums[rate, place, what] for place in places]) for what in ("edits", "lengths"))
            interval = rate_of(edits, lengths)
            body[rate] = {
                "mean": fmean(values),
                "sd": stdev(values),
                "lowest": min(values),
                "highest": max(values),
                "interval": [interval.low, interval.high],
            }
            if 0 not in places:
                change = _difference(sums, rate, [0], places)
                body[rate]["difference"] = {**asdict(change), "verdict": change.verdict}
        facts.append(body)
    return facts


def contests(
    names: Sequence[str], sums: Mapping[tuple[Any, ...], Sums]
) -> list[tuple[Sequence[int], Sequence[int], Difference, Difference]]:
    """Places, and differences of WER and CER, of every two of the families and of the systems that are of none.

    Nothing where there are no families: then every system stands for itself.
    """
    found = families(names)
    if not found:
        return []
    alone = [[place] for place in range(len(names)) if not any(place in places for places in found.values())]
    sides = sorted([*found.values(), *alone])
    return [
        (a, b, _difference(sums, "wer", a, b), _difference(sums, "cer", a, b))
        for a, b in itertools.combinations(sides, 2)
    ]


def _difference(sums: Mapping[tuple[Any, ...], Sums], rate: str, a: Sequence[int], b: Sequence[int]) -> Difference:
    """Of the means of two sides; each side is counted as often as the other has systems."""
    (edits_a, lengths_a), (edits_b, lengths_b) = (
        [_scaled(_pooled([sums[rate, place, what] for place in own]), len(other)) for what in ("edits", "lengths")]
        for own, other in ((a, b), (b, a))
    )
    return difference_of(edits_a, edits_b, lengths_a, lengths_b)


def _rate(sums: Mapping[tuple[Any, ...], Sums], rate: str, place: int) -> float:
    return rate_of(sums[rate, place, "edits"], sums[rate, place, "lengths"]).value


def _pooled(parts: Sequence[Sums]) -> Sums:
    return Sums(sum(part.total for part in parts), sum(part.replicates for part in parts))  # type: ignore[arg-type]


def _scaled(part: Sums, times: int) -> Sums:
    return Sums(part.total * times, part.replicates * times)
