"""Compute confidence intervals of error rates and their differences by bootstrap (Bisani & Ney, ICASSP 2004)."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np

from asr_lora.folders.measurements import Difference

REPLICATES = 10_000
MIN_SPEAKERS = 10  # with fewer, utterances are resampled instead: too few speakers give no interval
AT_ONCE = 250_000  # weights drawn at a time, which bounds memory
Key = TypeVar("Key")


@dataclass(frozen=True)
class Interval:
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float


class Sums(NamedTuple):
    """A count summed over the utterances, and over the utterances of each bootstrap replicate."""

    total: float
    replicates: np.ndarray  # (REPLICATES,), float64


@dataclass(frozen=True)
class Resamples:
    """The sampling units of a bootstrap. The draws follow from units and seed: they are the same for every system."""

    unit: str  # "speaker" or "utterance"
    units: int
    groups: np.ndarray  # (utterances,) unit of each utterance
    seed: int

    def draw(self, columns: Mapping[Key, Sequence[float] | np.ndarray]) -> dict[Key, Sums]:
        """Sum every column, shape (utterances,), over the same replicates, which are drawn once for all of them."""
        keys = list(columns)
        totals = np.stack([np.bincount(self.groups, columns[key], self.units) for key in keys], axis=1)
        exact = 4 * np.abs(totals).sum(axis=0).max() < 2**24  # then float32 holds every sum, and is twice as quick
        totals = totals.astype(np.float32 if exact else np.float64)
        parts = [weights.astype(totals.dtype) @ totals for weights in _weights(self.units, self.seed)]
        many = np.concatenate(parts).astype(np.float64)  # (REPLICATES, columns)
        whole = totals.sum(axis=0, dtype=np.float64)
        return {key: Sums(float(whole[place]), many[:, place]) for place, key in enumerate(keys)}


def _weights(units: int, seed: int) -> Iterator[np.ndarray]:
    """Yield how often each unit is drawn, (replicates at a time, units), uint8: multinomial, `units` draws a row.

    Independent Poisson counts are multinomial given their sum, and stay so when single draws fill up a sum that is too
    small. So most counts come from a table, with 16 random bits each, and only about five times the root of `units` are
    drawn one by one (of few units, all).
    """
    generator = np.random.default_rng(seed)
    mean = max(0.0, 1 - 5 / np.sqrt(units))  # a sum above `units` is then one in millions; that row is drawn again
    table = _poisson_table(mean)
    step = max(1, AT_ONCE // units)
    for start in range(0, REPLICATES, step):
        draws = min(step, REPLICATES - start)
        counts = _poisson(generator, table, draws, units) if mean else np.zeros((draws, units), np.uint8)
        left = units - counts.sum(axis=1, dtype=np.int64)
        while (left < 0).any():
            again = np.flatnonzero(left < 0)
            counts[again] = _poisson(generator, table, len(again), units)
            left = units - counts.sum(axis=1, dtype=np.int64)
        rows = np.repeat(np.arange(draws), left)
        single = generator.integers(0, units, len(rows))
        np.add.at(counts, (rows, single), 1)
        yield counts


def _poisson_table(mean: float) -> np.ndarray:
    """Return the Poisson count for each value of 16 random bits, (65536,), uint8."""
    counts = np.arange(32)
    mass = np.exp(-mean) * mean**counts / np.cumprod(np.maximum(counts, 1).astype(float))
    edges = np.round(65536 * np.cumsum(mass)[:-1])
    return np.searchsorted(edges, np.arange(65536), side="right").astype(np.uint8)


def _poisson(generator: np.random.Generator, table: np.ndarray, draws: int, units: int) -> np.ndarray:
    bits = generator.integers(0, 2**64, (draws * units + 3) // 4, dtype=np.uint64)
    return np.asarray(table[bits.view(np.uint16)[: draws * units]]).reshape(draws, units)


def resamples(speakers: Sequence[str], *, seed: int = 0) -> Resamples:
    """Plan a bootstrap over speakers, whose utterances are not independent (arXiv 1912.09508).

    Raises:
        ValueError: no utterances.
    """
    if not len(speakers):
        raise ValueError("an interval needs utterances")
    names, groups = np.unique(np.asarray(speakers), return_inverse=True)
    if len(names) >= MIN_SPEAKERS:
        return Resamples("speaker", len(names), groups, seed)
    return Resamples("utterance", len(speakers), np.arange(len(speakers)), seed)


def rate_of(edits: Sums, lengths: Sums) -> Interval:
    """Interval of an error rate from sums of edits and of reference lengths."""
    some = (lengths.replicates > 0) | (edits.replicates > 0)  # a group may be missing from a replicate
    if not some.any():
        return Interval(0.0, 0.0, 0.0)
    low, high = np.quantile(_rates(edits.replicates[some], lengths.replicates[some]), [0.025, 0.975])
    return Interval(float(_rates(edits.total, lengths.total)), float(low), float(high))


def difference_of(edits_a: Sums, edits_b: Sums, lengths_a: Sums, lengths_b: Sums | None = None) -> Difference:
    """Interval of B's error rate minus A's, both on the same replicates.

    Args:
        edits_a: edits of A.
        edits_b: edits of B.
        lengths_a: lengths of the references of A.
        lengths_b: those of B, which differ where a normaliser joins compounds; those of A when not given.
    """
    lengths_b = lengths_b or lengths_a
    many_a, many_b = (
        _rates(edits.replicates, lengths.replicates) for edits, lengths in ((edits_a, lengths_a), (edits_b, lengths_b))
    )
    some = (lengths_a.replicates > 0) | (edits_a.replicates > 0) | (edits_b.replicates > 0)
    low, high = np.quantile((many_b - many_a)[some], [0.025, 0.975]) if some.any() else (0.0, 0.0)
    # A tie counts half, so that a system against itself has a probability of improvement of one half.
    fewer, same = edits_b.replicates < edits_a.replicates, edits_b.replicates == edits_a.replicates
    value = float(_rates(edits_b.total, lengths_b.total) - _rates(edits_a.total, lengths_a.total))
    better = float(np.mean(fewer) + np.mean(same) / 2)
    return Difference(value=value, low=float(low), high=float(high), probability_of_improvement=better)


def _rates(edits: float | np.ndarray, lengths: float | np.ndarray) -> np.ndarray:
    """Edits over lengths; over no reference as in `wer.Errors.rate`."""
    return np.where(np.asarray(lengths) > 0, edits / np.maximum(lengths, 1), np.asarray(edits) > 0)
