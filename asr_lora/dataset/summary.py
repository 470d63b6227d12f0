"""Summarise splits and subsets (hours, speakers, genders, characters a second), and warn of uneven ones."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from asr_lora.dataset.subsets import BALANCED, NAMED_IDS, TICKS, UNLABELLED, UtteranceFacts, subset_seconds
from asr_lora.folders.dataset_folder import DatasetRecord, SplitRecord

UNEVEN = 0.05  # share of the labelled speech: a larger shortfall of one gender is worth a warning
DOMINANT = 0.2  # share of a subset: a speaker with more is worth a warning


def summarise(utterances: Iterable[UtteranceFacts]) -> dict[str, Any]:
    """Return the keys of a `SplitRecord` that describe utterances."""
    ticks_of_gender: dict[str, int] = defaultdict(int)
    ticks_of_speaker: dict[str, int] = defaultdict(int)
    count = characters = 0
    for row in utterances:
        ticks = round(row.seconds * TICKS)
        ticks_of_gender[row.gender or UNLABELLED] += ticks
        if row.speaker:
            ticks_of_speaker[row.speaker] += ticks
        characters += row.characters
        count += 1
    seconds = sum(ticks_of_gender.values()) / TICKS
    return {
        "utterances": count,
        "hours": round(seconds / 3600, 4),
        "speakers": len(ticks_of_speaker),
        "seconds_by_gender": {name: round(ticks / TICKS, 1) for name, ticks in sorted(ticks_of_gender.items())},
        "seconds_of_most_heard_speaker": round(max(ticks_of_speaker.values(), default=0) / TICKS, 1),
        "characters": characters,
        "characters_per_second": round(characters / seconds, 2) if seconds else 0.0,
    }


def gender_shortfall(seconds_by_gender: Mapping[str, float]) -> tuple[str, float]:
    """Return the gender with less speech, and how many seconds it has less than half of the labelled speech."""
    labelled = {gender: seconds_by_gender.get(gender, 0.0) for gender in BALANCED}
    scarce = min(BALANCED, key=lambda gender: labelled[gender])
    return scarce, sum(labelled.values()) / 2 - labelled[scarce]


def facts_table(manifest: DatasetRecord) -> str:
    """Return a text table of the splits and subsets of a dataset, one a line."""
    rows: dict[str, SplitRecord] = {**manifest.splits, **manifest.subsets}
    width = max(10, *map(len, rows))
    lines = [f"{'':{width}} utterances    hours  speakers  women %  men %  unlabelled %  characters/s"]
    for name, facts in rows.items():
        total = max(sum(facts.seconds_by_gender.values()), 1e-9)
        women, men = (100 * facts.seconds_by_gender.get(gender, 0.0) / total for gender in BALANCED)
        lines.append(
            f"{name:{width}} {facts.utterances:10,} {facts.hours:8.3f} {facts.speakers:9,} {women:8.0f} "
            f"{men:6.0f} {100 - women - men:13.0f} {facts.characters_per_second:13.1f}"
        )
    if short := _too_long_for_train(manifest):
        lines.append(f"(train is too short for the subsets {', '.join(short)})")
    return "\n".join(lines)


def _too_long_for_train(manifest: DatasetRecord) -> list[str]:
    """Subsets that are longer than train, whatever the speaker cap."""
    have = manifest.splits["train"].hours
    return [name for name in manifest.subsets_left_out if subset_seconds(name) >= 3600 * have]


def subset_notices(manifest: DatasetRecord) -> list[str]:
    """Return warnings about subsets: left out, with missing ids, with uneven genders, with a dominant speaker."""
    notices = []
    for name, hours in manifest.subsets_left_out.items():
        if name not in _too_long_for_train(manifest):
            notices.append(
                f"subset {name} was not made: with at most {manifest.speaker_cap_seconds:g} s of each speaker, train "
                f"has only {60 * hours:.1f} min. Raise --speaker-cap, or ask for a shorter subset"
            )
    for name, facts in manifest.subsets.items():
        if facts.missing:
            listed = ", ".join(facts.missing_ids)
            more = ", ..." if facts.missing > NAMED_IDS else ""
            notices.append(f"subset {name}: {facts.missing:,} ids of its list are not in train ({listed}{more})")
        scarce, shortfall = gender_shortfall(facts.seconds_by_gender)
        labelled = sum(facts.seconds_by_gender.get(gender, 0.0) for gender in BALANCED)
        if shortfall > UNEVEN * labelled:
            notices.append(
                f"subset {name}: {scarce} speech is {shortfall / 60:.1f} min short of half of the labelled speech, "
                "since train has no more"
            )
        longest = facts.seconds_of_most_heard_speaker
        if facts.speakers > 1 and longest > DOMINANT * 3600 * facts.hours:
            share = 100 * longest / (3600 * facts.hours)
            notices.append(f"subset {name}: one speaker has {share:.0f} % of it. Limit that with --speaker-cap SECONDS")
    return notices
