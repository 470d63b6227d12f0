"""Scores by gender, age, accent, domain, duration and speaker.

A group that is too small is withheld: a handful of people may be recognised, and a handful of clips says nothing. That
is no shield against somebody who subtracts what is shown from the total.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from asr_lora.metrics.intervals import Resamples, Sums, difference_of, rate_of

PERSONAL = ("gender", "age", "accent")
MIN_SPEAKERS = 5  # of a personal group
MIN_UTTERANCES = 20  # of any group, and of a single speaker
RULE = (
    f"A group of gender, age or accent is shown from {MIN_SPEAKERS} speakers and {MIN_UTTERANCES} utterances on, one "
    f"of domain or duration, and a single speaker, from {MIN_UTTERANCES} utterances on."
)
NOT_STATED = "not stated"
DURATIONS = (0, 2, 4, 6, 10, 20)  # seconds at which groups begin
SPEAKERS_SHOWN = 10  # those with the highest rates

Row = Mapping[str, Any]
Columns = dict[tuple[Any, ...], np.ndarray]


@dataclass(frozen=True)
class Counts:
    """Edits and reference lengths of one system, in words or in characters, both (utterances,)."""

    edits: np.ndarray
    lengths: np.ndarray


@dataclass(frozen=True)
class Group:
    """Utterances that have something in common."""

    field: str
    name: str
    members: np.ndarray  # (utterances,) bool
    speakers: int

    @property
    def utterances(self) -> int:
        return int(self.members.sum())

    @property
    def shown(self) -> bool:
        return self.utterances >= MIN_UTTERANCES and (self.field not in PERSONAL or self.speakers >= MIN_SPEAKERS)


def find_groups(rows: Sequence[Row]) -> list[Group]:
    """Group utterances by every field that the rows record; one utterance may be of several domains."""
    speakers = np.asarray([row["speaker"] for row in rows])
    found = []
    for field, names_of in _FIELDS.items():
        if not all(field in row or field == "duration" for row in rows):
            continue
        named = [names_of(row) for row in rows]
        for name in dict.fromkeys(name for names in sorted(named, key=_order) for name in names):
            members = np.asarray([name in names for names in named])
            found.append(Group(field, name, members, len(set(speakers[members]))))
    return found


def _stated(field: str) -> Callable[[Row], list[str]]:
    return lambda row: [str(row[field] or "").strip() or NOT_STATED]


def _domains(row: Row) -> list[str]:
    return [name for name in (part.strip() for part in str(row["domain"] or "").split(",")) if name] or [NOT_STATED]


def _duration(row: Row) -> list[str]:
    for low, high in pairwise(DURATIONS):
        if row["seconds"] < high:
            return [f"{low} to {high} s"]
    return [f"{DURATIONS[-1]} s and more"]


_FIELDS: dict[str, Callable[[Row], list[str]]] = {
    **{field: _stated(field) for field in PERSONAL},
    "domain": _domains,
    "duration": _duration,
}


def _order(names: list[str]) -> tuple[bool, int, str]:
    """What is not stated comes last, durations by their length, all else by name."""
    start = names[0].split(" ")[0]
    return names == [NOT_STATED], int(start) if start.isdigit() else 0, names[0]


def group_columns(groups: Sequence[Group], systems: Sequence[Counts]) -> Columns:
    """What a bootstrap has to sum for the groups that are shown."""
    return {
        (group.field, group.name, place, what): np.where(group.members, column, 0)
        for group in groups
        if group.shown
        for place, counts in enumerate(systems)
        for what, column in (("edits", counts.edits), ("lengths", counts.lengths))
    }


def group_facts(groups: Sequence[Group], systems: int, sums: Mapping[tuple[Any, ...], Sums]) -> dict[str, Any]:
    """Rates of every system, and the differences to the first, by field and group, in the order of the systems."""
    facts: dict[str, Any] = {}
    for group in groups:
        body = facts.setdefault(group.field, {"groups": [], "withheld": {"groups": 0, "utterances": 0}})
        if not group.shown:
            body["withheld"]["groups"] += 1
            body["withheld"]["utterances"] += group.utterances
            continue
        pairs = [
            tuple(sums[group.field, group.name, place, what] for what in ("edits", "lengths"))
            for place in range(systems)
        ]
        (edits, lengths), *others = pairs
        body["groups"].append(
            {
                "group": group.name,
                "utterances": group.utterances,
                "speakers": group.speakers,
                "reference": int(lengths.total),
                "rates": [asdict(rate_of(*pair)) for pair in pairs],
                "differences": [asdict(difference_of(edits, other[0], lengths, other[1])) for other in others],
            }
        )
    return facts


def speaker_facts(rows: Sequence[Row], systems: Sequence[Counts]) -> dict[str, Any]:
    """How rates spread over speakers, whose names are pseudonyms, and which of them have the highest."""
    names, groups, utterances = np.unique(
        np.asarray([row["speaker"] for row in rows]), return_inverse=True, return_counts=True
    )
    edits, lengths = (
        np.stack([np.bincount(groups, getattr(counts, what), len(names)) for counts in systems])
        for what in ("edits", "lengths")
    )  # (systems, speakers)
    rates = edits / np.maximum(lengths, 1)
    many = (utterances >= MIN_UTTERANCES) & (lengths[0] > 0)
    highest = [place for place in np.argsort(-rates[0], kind="stable") if many[place]][:SPEAKERS_SHOWN]
    spoke = lengths[0] > 0
    spread = (
        [
            {
                "quartiles": [float(value) for value in np.quantile(row[spoke], [0, 0.25, 0.5, 0.75, 1])],
                "mean": float(row[spoke].mean()),
            }
            for row in rates
        ]
        if spoke.any()
        else []
    )
    return {
        "speakers": len(names),
        "withheld": {"speakers": int((~many).sum()), "utterances": int(utterances[~many].sum())},
        "spread": spread,
        "against_first": [
            {"lower": int((row < rates[0]).sum()), "higher": int((row > rates[0]).sum())} for row in rates[1:]
        ],
        "highest": [
            {
                "speaker": str(names[place]),
                "utterances": int(utterances[place]),
                "reference": int(lengths[0][place]),
                "rates": [_alone(counts, groups == place) for counts in systems],
            }
            for place in highest
        ],
    }


def _alone(counts: Counts, members: np.ndarray) -> dict[str, float]:
    """One speaker's rate, with an interval over utterances."""
    size = int(members.sum())
    sums = Resamples("utterance", size, np.arange(size), 0).draw(
        {"edits": counts.edits[members], "lengths": counts.lengths[members]}
    )
    return asdict(rate_of(sums["edits"], sums["lengths"]))
