"""Confidence intervals of an error rate and of the difference of two, by bootstrap (Bisani & Ney, ICASSP 2004)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

REPLICATES = 10_000
MIN_SPEAKERS = 10  # with fewer, utterances are resampled instead: a handful of speakers gives no interval


@dataclass(frozen=True)
class Interval:
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """Error rate of B minus A on the same utterances, with its 95 % interval."""

    value: float
    low: float
    high: float
    probability_of_improvement: float  # share of replicates in which B makes fewer errors than A

    @property
    def verdict(self) -> str:
        """What B is beside A: "better", "worse" or "not distinguishable"."""
        return "better" if self.high < 0 else "worse" if self.low > 0 else "not distinguishable"


@dataclass(frozen=True)
class Resamples:
    """Weights of the sampling units in each replicate, drawn once so that every system meets the same ones."""

    unit: str  # "speaker" or "utterance"
    units: int
    groups: np.ndarray  # (utterances,) unit of each utterance
    seed: int

    def sums(self, *columns: Sequence[int]) -> list[np.ndarray]:
        """Sum each column, shape (utterances,), over every replicate: a list of (replicates,) arrays."""
        totals = np.stack([np.bincount(self.groups, column, self.units) for column in columns], axis=1)
        generator = np.random.default_rng(self.seed)
        parts, step = [], max(1, 4_000_000 // self.units)  # replicates at a time, which bounds memory
        for start in range(0, REPLICATES, step):
            draws = min(step, REPLICATES - start)
            weights = generator.multinomial(self.units, np.full(self.units, 1 / self.units), size=draws)
            parts.append(weights @ totals)  # (draws, columns)
        return list(np.concatenate(parts).T)


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


def rate_interval(plan: Resamples, edits: Sequence[int], lengths: Sequence[int]) -> Interval:
    """Interval of an error rate from edits and reference length of each utterance."""
    many_edits, many_lengths = plan.sums(edits, lengths)
    low, high = np.quantile(many_edits / np.maximum(many_lengths, 1), [0.025, 0.975])
    return Interval(sum(edits) / max(sum(lengths), 1), float(low), float(high))


def paired_difference(
    plan: Resamples, edits_a: Sequence[int], edits_b: Sequence[int], lengths: Sequence[int]
) -> Difference:
    """Interval of B's error rate minus A's, both on the same replicates."""
    many_a, many_b, many_lengths = plan.sums(edits_a, edits_b, lengths)
    differences = (many_b - many_a) / np.maximum(many_lengths, 1)
    low, high = np.quantile(differences, [0.025, 0.975])
    # A tie counts half, so that a system beside itself improves with probability one half.
    improved = float(np.mean(many_b < many_a) + np.mean(many_b == many_a) / 2)
    return Difference((sum(edits_b) - sum(edits_a)) / max(sum(lengths), 1), float(low), float(high), improved)
