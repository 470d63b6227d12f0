"""What splits and subsets hold, in numbers: hours, speakers, genders, pace; and what a user should know of it."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from asr_lora.dataset.subsets import BALANCED, NAMED_IDS, TICKS, UNLABELLED, subset_seconds
from asr_lora.folders.dataset_folder import DatasetRecord, SplitRecord

UNEVEN = 0.05  # of the labelled speech: a shortfall of one gender beyond this is worth a sentence
DOMINANT = 0.2  # of a subset's speech: one voice beyond this is, too


def summarise(utterances: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Say in numbers what some utterances are: hours, speakers, genders, pace.

    Args:
        utterances: each with seconds, speaker (a pseudonym, "" where not known), gender, characters (of its text).
    """
    ticks_of_gender: dict[str, int] = defaultdict(int)
    ticks_of_speaker: dict[str, int] = defaultdict(int)
    count = characters = 0
    for row in utterances:
        ticks = round(row["seconds"] * TICKS)
        ticks_of_gender[row["gender"] or UNLABELLED] += ticks
        if row["speaker"]:
            ticks_of_speaker[row["speaker"]] += ticks
        characters += row["characters"]
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
    """The gender heard less of the two, and by how many seconds it misses half of what is labelled."""
    labelled = {gender: seconds_by_gender.get(gender, 0.0) for gender in BALANCED}
    scarce = min(BALANCED, key=lambda gender: labelled[gender])
    return scarce, sum(labelled.values()) / 2 - labelled[scarce]


def facts_table(manifest: DatasetRecord) -> str:
    """Lay out a dataset's splits and subsets as text, one a line."""
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
        lines.append(f"(train is too short for {', '.join(short)})")
    return "\n".join(lines)


def _too_long_for_train(manifest: DatasetRecord) -> list[str]:
    """Lengths that were left out, whatever the cap."""
    have = manifest.splits["train"].hours
    return [name for name in manifest.subsets_left_out if subset_seconds(name) >= 3600 * have]


def subset_notices(manifest: DatasetRecord) -> list[str]:
    """What a user should know of a dataset's subsets: lengths left out, missing ids, uneven genders, one voice."""
    notices = []
    for name, hours in manifest.subsets_left_out.items():
        if name not in _too_long_for_train(manifest):
            given = f"{60 * hours:.1f} min with at most {manifest.speaker_cap_seconds:g} s of each speaker"
            notices.append(f"no subset {name}: train gives {given}; raise --speaker-cap or ask for less")
    for name, facts in manifest.subsets.items():
        if facts.missing:
            listed = ", ".join(facts.missing_ids)
            more = ", ..." if facts.missing > NAMED_IDS else ""
            notices.append(f"subset {name}: {facts.missing:,} ids of the list are not in train ({listed}{more})")
        scarce, shortfall = gender_shortfall(facts.seconds_by_gender)
        labelled = sum(facts.seconds_by_gender.get(gender, 0.0) for gender in BALANCED)
        if shortfall > UNEVEN * labelled:
            notices.append(
                f"subset {name}: {scarce} speech misses half of what is labelled by {shortfall / 60:.1f} min, "
                "as train has no more"
            )
        loudest = facts.seconds_of_most_heard_speaker
        if facts.speakers > 1 and loudest > DOMINANT * 3600 * facts.hours:
            share = 100 * loudest / (3600 * facts.hours)
            notices.append(f"subset {name}: one voice fills {share:.0f} % of it; --speaker-cap SECONDS limits that")
    return notices
