"""What a manifest records beside what was made again from the hypotheses."""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TOLERANCE = 1e-9  # of a number, relative: sums in another order
DRAWN = {"wer_interval", "low", "high", "probability_of_improvement"}  # depend on the bootstrap's draws
SHOWN = 20


@dataclass(frozen=True)
class Rerun:
    """How a rerun went."""

    numbers: int = 0  # values that agree
    differences: tuple[str, ...] = ()  # one sentence each
    notes: tuple[str, ...] = ()  # what could not be made again

    @staticmethod
    def together(parts: "Sequence[Rerun]") -> "Rerun":
        return Rerun(
            sum(part.numbers for part in parts),
            tuple(sentence for part in parts for sentence in part.differences),
            tuple(sentence for part in parts for sentence in part.notes),
        )


def disagreements(place: Path, recorded: dict[str, Any], again: dict[str, Any]) -> Rerun:
    """Hold what was made again against what is recorded, value by value.

    What is recorded and was not made again (machine, time, settings) is left alone, and so is what an older version
    did not record. Intervals of before `scoring` 2 were drawn otherwise: they are not compared, and that is noted.
    """
    older = "scoring" in again and recorded.get("scoring") != again["scoring"]
    numbers, found, notes = 0, [], []
    if older:
        notes.append(f"{place}: its intervals were drawn by an earlier version and are not compared")
    shared = {key: recorded[key] for key in again if key in recorded and key != "scoring"}
    for path, old, new in _values(shared, again, ""):
        if older and (DRAWN & set(re.split(r"[.\[]", path)) or "95 % interval" in str(old)):
            continue
        if _same(old, new):
            numbers += 1
        else:
            found.append(f"{place}: {path} is recorded as {_shown(old)}, and made again it is {_shown(new)}")
    if len(found) > SHOWN:
        found[SHOWN:] = [f"{place}: and {len(found) - SHOWN} more values"]
    return Rerun(numbers, tuple(found), tuple(notes))


def _values(old: Any, new: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
    """Pairs of values that stand in the same place, down to the keys that are recorded."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key, value in old.items():
            yield from _values(value, new.get(key, _MISSING), f"{path}.{key}" if path else key)
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for number, (one, other) in enumerate(zip(old, new, strict=True)):
            yield from _values(one, other, f"{path}[{number}]")
    else:
        yield path.lstrip("."), old, new


_MISSING = object()


def _same(old: Any, new: Any) -> bool:
    if isinstance(old, int | float) and isinstance(new, int | float):
        return math.isclose(old, new, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    return bool(old == new)


def _shown(value: Any) -> str:
    if value is _MISSING:
        return "nothing"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
