"""Choose the utterances that a page shows, and align every hypothesis of them under the words of the reference."""

import unicodedata
from collections.abc import Mapping, Sequence

from asr_lora.evaluation.comparison import Comparison
from asr_lora.metrics.wer import Alignment, Errors, Step, align_characters
from asr_lora.pages.comparison_page import AlignedLine, ShownUtterance

CHANGED_SHOWN = 60  # utterances that differ most between the first system and any other
SHOWN = 100  # these, and those with the most errors in all systems
UNITS_SHOWN = 40_000  # words (or characters) of all hypotheses on a page, which bounds its size


def shown_places(comparison: Comparison) -> list[int]:
    """Return the places of the utterances to show: those that changed most, then those with the most errors."""
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
    """Return the utterances of `shown_places`, aligned by words, or by characters where CER leads."""
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
    """Edits of the leading rate: a list over utterances for each system."""
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
    """Put each system under its reference; a normaliser that joins compounds may give systems different references."""
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
    """Line up the steps of several systems on one reference; insertions have columns of their own."""
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
    """Return the insertions, by the number of reference words before them."""
    found: dict[int, list[Step]] = {}
    before = 0
    for step in steps:
        if step.reference is None:
            found.setdefault(before, []).append(step)
        else:
            before += 1
    return found


def direction(text: str) -> str:
    """Return the direction of a text, which is that of its first letter."""
    for character in text:
        if (kind := unicodedata.bidirectional(character)) in ("L", "R", "AL"):
            return "ltr" if kind == "L" else "rtl"
    return "ltr"
