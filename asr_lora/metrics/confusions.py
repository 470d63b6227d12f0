"""Which words go wrong: what they are heard as, what is added and left out, and what changes between two systems."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from asr_lora.metrics.wer import Alignment

SHOWN = 30


def confusions(alignments: Sequence[Alignment], *, shown: int = SHOWN) -> dict[str, Any]:
    """The most frequent substitutions, insertions and deletions, and the words that are most often wrong."""
    pairs = Counter((step.reference, step.hypothesis) for steps in alignments for step in steps)
    spoken, heard_as = _by_word(pairs)
    wrong = {word: spoken[word] - pairs[word, word] for word in spoken}
    worst = sorted((word for word in wrong if wrong[word]), key=lambda word: (-wrong[word], word))
    substituted = {pair: count for pair, count in pairs.items() if None not in pair and pair[0] != pair[1]}
    return {
        "substitutions": [
            {"reference": said, "hypothesis": heard, "count": count}
            for (said, heard), count in _top(substituted, shown)
        ],
        "insertions": [
            {"word": heard, "count": count}
            for (_, heard), count in _top({pair: n for pair, n in pairs.items() if pair[0] is None}, shown)
        ],
        "deletions": [
            {"word": said, "count": count}
            for (said, _), count in _top({pair: n for pair, n in pairs.items() if pair[1] is None}, shown)
        ],
        "words": [
            {
                "word": word,
                "spoken": spoken[word],
                "wrong": wrong[word],
                "heard_as": [
                    {"word": heard, "count": count}
                    for heard, count in _top({h: n for h, n in heard_as[word].items() if h != word}, 3)
                ],
            }
            for word in worst[:shown]
        ],
    }


def _by_word(pairs: "Counter[tuple[str | None, str | None]]") -> tuple[Counter[str], dict[str, dict[str | None, int]]]:
    """How often each word was spoken, and as what it was heard, None where it was left out."""
    spoken: Counter[str] = Counter()
    heard_as: dict[str, dict[str | None, int]] = {}
    for (said, heard), count in pairs.items():
        if said is not None:
            spoken[said] += count
            heard_as.setdefault(said, {})[heard] = count
    return spoken, heard_as


def _top(counts: dict[Any, int], shown: int) -> list[tuple[Any, int]]:
    """The most frequent ones; of equals, the first by name, so that the order is that of no hash."""
    return sorted(counts.items(), key=lambda item: (-item[1], str(item[0])))[:shown]


def changed_words(a: Sequence[Alignment], b: Sequence[Alignment], *, shown: int = SHOWN) -> dict[str, Any]:
    """Words that B has right more often than A, and less often; both on the same references."""
    spoken = Counter(step.reference for steps in a for step in steps if step.reference is not None)
    right_a, right_b = (
        Counter(step.reference for steps in side for step in steps if step.kind == "equal") for side in (a, b)
    )
    rows = [
        {"word": word, "spoken": count, "right_before": right_a[word], "right_after": right_b[word]}
        for word, count in spoken.items()
        if right_a[word] != right_b[word]
    ]

    def change(row: dict[str, Any]) -> int:
        return int(row["right_after"] - row["right_before"])

    better = sorted((row for row in rows if change(row) > 0), key=lambda row: (-change(row), row["word"]))
    worse = sorted((row for row in rows if change(row) < 0), key=lambda row: (change(row), row["word"]))
    return {"better": better[:shown], "worse": worse[:shown], "words_better": len(better), "words_worse": len(worse)}
