"""Compute error rates by gender, age, accent, domain, duration and speaker.

A group that is too small is withheld: a handful of people may be recognised, and a handful of utterances says nothing.
This does not protect against a reader who subtracts the groups that are shown from the total.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from asr_lora.folders.measurements import Difference
from asr_lora.metrics.intervals import Interval, Resamples, Sums, difference_of, rate_of

PERSONAL = ("gender", "age", "accent")
RECORDED = (*PERSONAL, "domain")  # fields of a row that name a group; older reports have none of them
MIN_SPEAKERS = 5  # of a personal group
MIN_UTTERANCES = 20  # of any group, and of a single speaker
RULE = (
    f"A group of gender, age or accent is shown from {MIN_SPEAKERS} speakers and {MIN_UTTERANCES} utterances on, one "
    f"of domain or duration, and a single speaker, from {MIN_UTTERANCES} utterances on."
)
NOT_STATED = "not stated"
DURATIONS = (0, 2, 4, 6, 10, 20)  # seconds at which groups begin
SPEAKERS_SHOWN = 10  # those with the highest rates

Row = Mapping[str, Any]  # a line of hypotheses.jsonl
Columns = dict[tuple[Any, ...], np.ndarray]


@dataclass(frozen=True)
class Counts:
    """Edits and reference lengths of one system, in words or in characters, both (utterances,)."""

    edits: np.ndarray
    lengths: np.ndarray


@dataclass(frozen=True)
class Group:
    """Utterances that share the value of a field."""

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


@dataclass(frozen=True)
class GroupRates:
    """Rates of every system in one group, and the differences of the others to the first system."""

    group: str
    utterances: int
    speakers: int
    reference: int  # words or characters of the references
    rates: list[Interval]
    differences: list[Difference]


@dataclass(frozen=True)
class WithheldGroups:
    groups: int
    utterances: int


@dataclass(frozen=True)
class FieldRates:
    """The groups of one field, such as gender, and how many of them are withheld."""

    groups: list[GroupRates]
    withheld: WithheldGroups


@dataclass(frozen=True)
class Spread:
    """How the rates of one system spread over speakers."""

    quartiles: list[float]  # lowest, first quartile, median, third quartile, highest
    mean: float


@dataclass(frozen=True)
class AgainstFirst:
    """Speakers whose rate is lower, or higher, than with the first system."""

    lower: int
    higher: int


@dataclass(frozen=True)
class OneSpeaker:
    """Rates of every system for one speaker, with intervals over the speaker's utterances."""

    speaker: str  # pseudonym
    utterances: int
    reference: int
    rates: list[Interval]


@dataclass(frozen=True)
class WithheldSpeakers:
    speakers: int
    utterances: int


@dataclass(frozen=True)
class SpeakerRates:
    speakers: int
    withheld: WithheldSpeakers
    spread: list[Spread]  # of each system
    against_first: list[AgainstFirst]  # of each system after the first
    highest: list[OneSpeaker]


@dataclass(frozen=True)
class Breakdown:
    """Rates by group and by speaker, in the order of the systems, with the rule that withholds some."""

    rate: str  # "wer" or "cer"
    rule: str
    by: dict[str, FieldRates]
    not_recorded: list[str]
    speaker: SpeakerRates


def find_groups(rows: Sequence[Row]) -> list[Group]:
    """Group utterances by every field that all rows record; an utterance may be of several domains."""
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
    """Sort durations by length and all else by name; what is not stated comes last."""
    start = names[0].split(" ")[0]
    return names == [NOT_STATED], int(start) if start.isdigit() else 0, names[0]


def group_columns(groups: Sequence[Group], systems: Sequence[Counts]) -> Columns:
    """Return the columns that a bootstrap has to sum for the groups that are shown."""
    return {
        (group.field, group.name, place, what): np.where(group.members, column, 0)
        for group in groups
        if group.shown
        for place, counts in enumerate(systems)
        for what, column in (("edits", counts.edits), ("lengths", counts.lengths))
    }


def break_down(
    rows: Sequence[Row],
    systems: Sequence[Counts],
    rate: str,
    groups: Sequence[Group],
    sums: Mapping[tuple[Any, ...], Sums],
) -> Breakdown:
    """Compute rates by group and by speaker.

    Args:
        rows: one for each utterance.
        systems: counts of each system, in units of `rate`.
        rate: "wer" or "cer".
        groups: from `find_groups`.
        sums: bootstrap sums of `group_columns`.
    """
    by = group_rates(groups, len(systems), sums)
    missing = [field for field in RECORDED if field not in by]
    return Breakdown(rate, RULE, by, missing, speaker_rates(rows, systems))


def group_rates(groups: Sequence[Group], systems: int, sums: Mapping[tuple[Any, ...], Sums]) -> dict[str, FieldRates]:
    """Compute the rates of each group by field, from the bootstrap sums of `group_columns`."""
    found = {}
    for field in dict.fromkeys(group.field for group in groups):
        own = [group for group in groups if group.field == field]
        small = [group for group in own if not group.shown]
        withheld = WithheldGroups(len(small), sum(group.utterances for group in small))
        found[field] = FieldRates([_rates_in(group, systems, sums) for group in own if group.shown], withheld)
    return found


def _rates_in(group: Group, systems: int, sums: Mapping[tuple[Any, ...], Sums]) -> GroupRates:
    pairs = [
        (sums[group.field, group.name, place, "edits"], sums[group.field, group.name, place, "lengths"])
        for place in range(systems)
    ]
    (edits, lengths), *others = pairs
    return GroupRates(
        group=group.name,
        utterances=group.utterances,
        speakers=group.speakers,
        reference=int(lengths.total),
        rates=[rate_of(*pair) for pair in pairs],
        differences=[difference_of(edits, other[0], lengths, other[1]) for other in others],
    )


def speaker_rates(rows: Sequence[Row], systems: Sequence[Counts]) -> SpeakerRates:
    """Compute how rates spread over speakers, and the speakers with the highest rates in the first system."""
    names, groups, utterances = np.unique(
        np.asarray([row["speaker"] for row in rows]), return_inverse=True, return_counts=True
    )
    edits, lengths = (
        np.stack([np.bincount(groups, getattr(counts, what), len(names)) for counts in systems])
        for what in ("edits", "lengths")
    )  # (systems, speakers)
    rates = edits / np.maximum(lengths, 1)
    spoke = lengths[0] > 0
    many = (utterances >= MIN_UTTERANCES) & spoke
    highest = [place for place in np.argsort(-rates[0], kind="stable") if many[place]][:SPEAKERS_SHOWN]
    quartiles = [0, 0.25, 0.5, 0.75, 1]
    return SpeakerRates(
        speakers=len(names),
        withheld=WithheldSpeakers(int((~many).sum()), int(utterances[~many].sum())),
        spread=[Spread(np.quantile(row[spoke], quartiles).tolist(), float(row[spoke].mean())) for row in rates]
        if spoke.any()
        else [],
        against_first=[AgainstFirst(int((row < rates[0]).sum()), int((row > rates[0]).sum())) for row in rates[1:]],
        highest=[
            OneSpeaker(
                str(names[place]),
                int(utterances[place]),
                int(lengths[0][place]),
                [_alone(counts, groups == place) for counts in systems],
            )
            for place in highest
        ],
    )


def _alone(counts: Counts, members: np.ndarray) -> Interval:
    """The rate of one speaker, with an interval over utterances."""
    size = int(members.sum())
    sums = Resamples("utterance", size, np.arange(size), 0).draw(
        {"edits": counts.edits[members], "lengths": counts.lengths[members]}
    )
    return rate_of(sums["edits"], sums["lengths"])
