"""Count signs of hallucinated text: insertions, hypotheses that are far too long, loops, and words on silence."""

from collections.abc import Sequence
from dataclasses import dataclass

from asr_lora.metrics.wer import Scored, total

LOOP_REPEATS = 3  # repetitions in a row that make a loop
LONGEST_LOOP = 8  # units (words or characters) of the stretch that repeats
TOO_LONG_RATIO = 2.0  # a hypothesis is much too long from this many times the reference length on,
TOO_LONG_EXTRA = 5  # and with this many units more than the reference


@dataclass(frozen=True)
class SilentUtterances:
    """Utterances whose reference is empty."""

    utterances: int
    with_words: int  # those whose hypothesis is not empty
    words: int  # of these hypotheses


@dataclass(frozen=True)
class HallucinationSigns:
    """Signs of hallucination in the hypotheses of one system."""

    unit: str  # "word" or "character"
    utterances: int
    insertions: int
    insertion_rate: float | None  # insertions over reference length; None: no reference
    length_ratio: float | None  # hypothesis length over reference length; None: no reference
    much_too_long: int
    loops: int
    empty: int
    silence: SilentUtterances


def hallucination_signs(scored: Scored, *, characters: bool = False) -> HallucinationSigns:
    """Count signs of hallucination in words, or in characters where a script puts no blanks between words.

    A stretch that the reference repeats as well is no loop.
    """
    errors = scored.characters if characters else scored.words
    pooled = total(errors)
    on_silence = [one.hypothesis for one in scored.words if not one.reference]
    long = [
        one.hypothesis >= TOO_LONG_RATIO * one.reference and one.hypothesis - one.reference >= TOO_LONG_EXTRA
        for one in errors
    ]
    looped = [
        loops(_units(hypothesis, characters)) and not loops(_units(reference, characters))
        for reference, hypothesis in zip(scored.references, scored.hypotheses, strict=True)
    ]
    return HallucinationSigns(
        unit="character" if characters else "word",
        utterances=len(errors),
        insertions=pooled.insertions,
        insertion_rate=pooled.insertions / pooled.reference if pooled.reference else None,
        length_ratio=pooled.hypothesis / pooled.reference if pooled.reference else None,
        much_too_long=sum(long),
        loops=sum(looped),
        empty=sum(not one.hypothesis and one.reference > 0 for one in errors),
        silence=SilentUtterances(len(on_silence), sum(count > 0 for count in on_silence), sum(on_silence)),
    )


def _units(text: str, characters: bool) -> Sequence[str]:
    return text.replace(" ", "") if characters else text.split()


def loops(units: Sequence[str]) -> bool:
    """Whether a stretch of up to eight units is repeated so that it stands three times in a row or more."""
    for length in range(1, LONGEST_LOOP + 1):
        run = 0  # units in a row that equal the unit `length` places before
        for place in range(length, len(units)):
            run = run + 1 if units[place] == units[place - length] else 0
            if run >= (LOOP_REPEATS - 1) * length:
                return True
    return False
