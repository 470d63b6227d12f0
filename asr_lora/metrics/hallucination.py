"""Signs of text that nobody spoke: insertions, hypotheses that are far too long, loops, and words on silence."""

from collections.abc import Sequence
from typing import Any

from asr_lora.metrics.wer import Scored, total

TIMES = 3  # in a row, from which a stretch is a loop
LONGEST = 8  # units of a stretch that repeats
TWICE = 2.0  # times the reference, from which a hypothesis is much too long
MORE = 5  # words more than the reference, which it must have besides


def hallucination(scored: Scored, *, characters: bool = False) -> dict[str, Any]:
    """Measure a system's hypotheses, in words, or in `characters` where a script puts no blanks between words.

    A loop is a stretch of up to eight units, three times in a row or more, of which the reference has none. Silence is
    an utterance whose reference is empty after the normaliser.
    """
    errors = scored.characters if characters else scored.words
    pooled = total(errors)
    silent = [place for place, one in enumerate(scored.words) if not one.reference]
    on_silence = [scored.words[place].hypothesis for place in silent]
    long = [one.hypothesis >= TWICE * one.reference and one.hypothesis - one.reference >= MORE for one in errors]
    looped = [
        loops(_units(hypothesis, characters)) and not loops(_units(reference, characters))
        for reference, hypothesis in zip(scored.references, scored.hypotheses, strict=True)
    ]
    return {
        "unit": "character" if characters else "word",
        "utterances": len(errors),
        "insertions": pooled.insertions,
        "insertion_rate": pooled.insertions / pooled.reference if pooled.reference else None,
        "length_ratio": pooled.hypothesis / pooled.reference if pooled.reference else None,
        "much_too_long": sum(long),
        "loops": sum(looped),
        "empty": sum(not one.hypothesis and one.reference > 0 for one in errors),
        "silence": {
            "utterances": len(silent),
            "with_words": sum(count > 0 for count in on_silence),
            "words": sum(on_silence),
        },
    }


def _units(text: str, characters: bool) -> Sequence[str]:
    return text.replace(" ", "") if characters else text.split()


def loops(units: Sequence[str]) -> bool:
    """Whether a stretch of up to eight units comes three times in a row or more."""
    for length in range(1, LONGEST + 1):
        run = 0  # units in a row that are what stood `length` places before
        for place in range(length, len(units)):
            run = run + 1 if units[place] == units[place - length] else 0
            if run >= (TIMES - 1) * length:
                return True
    return False
