"""Count which words go wrong in one system, and which words another system has right more or less often."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from asr_lora.metrics.wer import Alignment

SHOWN = 30
Key = TypeVar("Key")


@dataclass(frozen=True)
class Substitution:
    reference: str
    hypothesis: str
    count: int


@dataclass(frozen=True)
class WordCount:
    word: str | None  # None: the word was left out
    count: int


@dataclass(frozen=True)
class WrongWord:
    """A reference word, how often it was spoken and wrong, and what was transcribed in its place most often."""

    word: str
    spoken: int
    wrong: int
    heard_as: list[WordCount]


@dataclass(frozen=True)
class Confusions:
    """The most frequent errors of one system, each list with the most frequent first."""

    substitutions: list[Substitution]
    insertions: list[WordCount]
    deletions: list[WordCount]
    words: list[WrongWord]


@dataclass(frozen=True)
class ChangedWord:
    """A reference word, and how often it is right in system A (before) and in system B (after)."""

    word: str
    spoken: int
    right_before: int
    right_after: int

    @property
    def change(self) -> int:
        return self.right_after - self.right_before


@dataclass(frozen=True)
class ChangedWords:
    """Words that system B has right more often than A, and less often; the largest changes, and how many changed."""

    better: list[ChangedWord]
    worse: list[ChangedWord]
    words_better: int
    words_worse: int


def confusions(alignments: Sequence[Alignment], *, shown: int = SHOWN) -> Confusions:
    """Count the most frequent substitutions, insertions and deletions, and the words that are wrong most often."""
    pairs = Counter((step.reference, step.hypothesis) for steps in alignments for step in steps)
    spoken: Counter[str] = Counter()
    instead: dict[str, Counter[str | None]] = {}
    substituted: Counter[tuple[str, str]] = Counter()
    inserted: Counter[str] = Counter()
    deleted: Counter[str] = Counter()
    for (reference, hypothesis), count in pairs.items():
        if reference is None:
            inserted[hypothesis or ""] += count
            continue
        spoken[reference] += count
        if hypothesis == reference:
            continue
        instead.setdefault(reference, Counter())[hypothesis] += count
        if hypothesis is None:
            deleted[reference] += count
        else:
            substituted[reference, hypothesis] += count
    worst = sorted(instead, key=lambda word: (-instead[word].total(), word))[:shown]
    return Confusions(
        substitutions=[Substitution(*words, count) for words, count in _top(substituted, shown)],
        insertions=[WordCount(*item) for item in _top(inserted, shown, repr)],
        deletions=[WordCount(*item) for item in _top(deleted, shown, repr)],
        words=[
            WrongWord(word, spoken[word], instead[word].total(), [WordCount(*item) for item in _top(instead[word], 3)])
            for word in worst
        ],
    )


def _top(counts: Counter[Key], shown: int, name: Callable[[object], str] = str) -> list[tuple[Key, int]]:
    """The most frequent first; equal counts in the order of their names, so that the order never depends on a hash.

    Insertions and deletions are in the order of `repr`, which places words with an apostrophe first: reports of
    earlier versions have them so, and `compare --rerun` compares place by place.
    """
    return sorted(counts.items(), key=lambda item: (-item[1], name(item[0])))[:shown]


def changed_words(a: Sequence[Alignment], b: Sequence[Alignment], *, shown: int = SHOWN) -> ChangedWords:
    """Find the words that B has right more often than A, and less often; both were aligned to the same references."""
    spoken = Counter(step.reference for steps in a for step in steps if step.reference is not None)
    right_a, right_b = (
        Counter(step.reference for steps in side for step in steps if step.kind == "equal") for side in (a, b)
    )
    words = [ChangedWord(word, count, right_a[word], right_b[word]) for word, count in spoken.items()]
    better = sorted((word for word in words if word.change > 0), key=lambda word: (-word.change, word.word))
    worse = sorted((word for word in words if word.change < 0), key=lambda word: (word.change, word.word))
    return ChangedWords(better[:shown], worse[:shown], len(better), len(worse))
