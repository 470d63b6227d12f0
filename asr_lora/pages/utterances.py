"""Which utterances a page shows, and every hypothesis of them under the words of the reference."""

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from asr_lora.evaluation.comparison import Comparison
from asr_lora.metrics.wer import Alignment, Errors, Step, align_characters

CHANGED_SHOWN = 60  # utterances that differ most between the first system and any other
SHOWN = 100  # these, and those that are hardest for all
UNITS_SHOWN = 40_000  # words (or characters) of all hypotheses in a page, which bounds its size

Sounds = dict[str, bytes]  # id -> FLAC


@dataclass(frozen=True)
class AlignedLine:
    """One line of an alignment, a cell a column; None where other lines have something and this one nothing."""

    name: str
    edits: int | None  # None: the reference
    cells: Sequence[Step | None]


@dataclass(frozen=True)
class ShownUtterance:
    """What the page shows of an utterance. Systems are counted from 1, the first one being what others beat or not."""

    id: str
    seconds: float
    reference: str  # as written
    edits: float  # mean over systems
    change: int  # edits of the system that differs most from the first, minus those of the first
    better: Sequence[int]  # systems that make fewer errors than the first
    worse: Sequence[int]
    kinds: Sequence[str]  # of errors that any system makes
    blocks: Sequence[Sequence[AlignedLine]]  # for each reading of the reference, it and the systems held against it
    direction: str  # "ltr" or "rtl"


def shown_places(comparison: Comparison) -> list[int]:
    """Places of the utterances that a page shows: those that changed most, then those with the most errors."""
    edits = _edits(comparison)
    places = range(len(edits[0]))
    changes = {place: max(abs(own[place] - edits[0][place]) for own in edits[1:]) for place in places}
    errors = {place: sum(own[place] for own in edits) for place in places}
    changed = sorted((place for place in places if changes[place]), key=lambda place: (-changes[place], place))
    hard = sorted((place for place in places if errors[place]), key=lambda place: (-errors[place], place))
    chosen = list(dict.fromkeys([*changed[:CHANGED_SHOWN], *hard]))[:SHOWN]
    kept, units = [], 0
    for place in chosen:
        units += sum(_units(comparison, number, place) for number in range(len(edits)))
        if units > UNITS_SHOWN:
            break
        kept.append(place)
    return kept


def shown_utterances(comparison: Comparison) -> list[ShownUtterance]:
    """The utterances of `shown_places`, aligned by words, or by characters where these lead."""
    places = shown_places(comparison)
    edits = _edits(comparison)
    alignments = [
        align_characters([scored.references[place] for place in places], [scored.hypotheses[place] for place in places])
        if comparison.lead == "cer"
        else [scored.alignments[place] for place in places]
        for scored in comparison.scored
    ]
    return [
        _utterance(comparison, place, [own[place] for own in edits], [own[number] for own in alignments])
        for number, place in enumerate(places)
    ]


def _errors(comparison: Comparison) -> list[list[Errors]]:
    return [scored.characters if comparison.lead == "cer" else scored.words for scored in comparison.scored]


def _edits(comparison: Comparison) -> list[list[int]]:
    """Edits of the leading rate, of each system a list over utterances."""
    return [[one.edits for one in own] for own in _errors(comparison)]


def _units(comparison: Comparison, system: int, place: int) -> int:
    one = _errors(comparison)[system][place]
    return one.reference + one.insertions


def _utterance(comparison: Comparison, place: int, edits: list[int], alignments: list[Alignment]) -> ShownUtterance:
    row = comparison.rows[0][place]
    changes = [count - edits[0] for count in edits[1:]]
    kinds = {step.kind for steps in alignments for step in steps}
    return ShownUtterance(
        id=str(row["id"]),
        seconds=float(row["seconds"]),
        reference=str(row["reference"]),
        edits=sum(edits) / len(edits),
        change=max(changes, key=abs),
        better=[number for number, change in enumerate(changes, 2) if change < 0],
        worse=[number for number, change in enumerate(changes, 2) if change > 0],
        kinds=[kind for kind in ("sub", "ins", "del") if kind in kinds],
        blocks=_blocks(comparison.names, edits, alignments),
        direction=direction(str(row["reference"])),
    )


def _blocks(names: Sequence[str], edits: Sequence[int], alignments: Sequence[Alignment]) -> list[list[AlignedLine]]:
    """Systems under the reference that they are held against; a normaliser may read one in several ways."""
    readings: dict[tuple[str, ...], list[int]] = {}
    for system, steps in enumerate(alignments):
        said = tuple(step.reference for step in steps if step.reference is not None)
        readings.setdefault(said, []).append(system)
    blocks = []
    for systems in readings.values():
        columns = _columns([alignments[system] for system in systems])
        spoken = [next((step.reference for step in column if step and step.reference), None) for column in columns]
        lines = [AlignedLine("reference", None, [None if word is None else Step(word, word) for word in spoken])]
        for number, system in enumerate(systems):
            lines.append(AlignedLine(names[system], edits[system], [column[number] for column in columns]))
        blocks.append(lines)
    return blocks


def _columns(alignments: Sequence[Alignment]) -> list[list[Step | None]]:
    """Steps of several systems on one reference, side by side: what is added has columns of its own."""
    spoken = [[step for step in steps if step.reference is not None] for steps in alignments]
    added = [_added(steps) for steps in alignments]
    columns: list[list[Step | None]] = []
    for place in range(len(spoken[0]) + 1):
        extra = [own.get(place, []) for own in added]
        for number in range(max(map(len, extra))):
            columns.append([own[number] if number < len(own) else None for own in extra])
        if place < len(spoken[0]):
            columns.append([own[place] for own in spoken])
    return columns


def _added(steps: Alignment) -> Mapping[int, list[Step]]:
    """What is added, by how many words of the reference come before it."""
    found: dict[int, list[Step]] = {}
    before = 0
    for step in steps:
        if step.reference is None:
            found.setdefault(before, []).append(step)
        else:
            before += 1
    return found


def direction(text: str) -> str:
    """Which way a text runs: as its first letter does."""
    for character in text:
        if (kind := unicodedata.bidirectional(character)) in ("L", "R", "AL"):
            return "ltr" if kind == "L" else "rtl"
    return "ltr"
