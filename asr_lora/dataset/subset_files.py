"""The subsets of a dataset's train split: drawn or looked up, written as lists of ids, and said what each holds."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from asr_lora.dataset.reading import split_rows
from asr_lora.dataset.subsets import (
    NAMED_IDS,
    IdList,
    SubsetCandidate,
    Subsets,
    find_listed,
    nested_subsets,
    subset_seed,
)
from asr_lora.dataset.summary import summarise
from asr_lora.folders.atomic import write_text
from asr_lora.folders.dataset_folder import DatasetFolder, SubsetRecord
from asr_lora.folders.digests import file_facts

TrainRows = Callable[[], Iterator[dict[str, Any]]]  # what subsets are drawn from, as often as it is asked for


@dataclass(frozen=True)
class Draws:
    """What subsets of train are wanted."""

    names: tuple[str, ...]
    seed: int
    speaker_cap: float | None  # seconds
    lists: tuple[IdList, ...]


def draw(rows: TrainRows, draws: Draws) -> tuple[Subsets, Subsets]:
    """Draw the subsets, and look up those that others have chosen."""
    # Speakers who are not known count one by one: nothing says that any two are the same.
    clips = (SubsetCandidate(row["id"], row["speaker"] or row["id"], row["seconds"], row["gender"]) for row in rows())
    drawn = nested_subsets(clips, draws.names, seed=draws.seed, speaker_cap=draws.speaker_cap)
    return drawn, find_listed(draws.lists, {row["id"] for row in rows()} if draws.lists else ())


def write_subsets(
    rows: TrainRows, folder: DatasetFolder, draws: Draws, drawn: Subsets, given: Subsets
) -> dict[str, object]:
    """Write the subsets' lists of ids, and say what each holds."""
    subsets: dict[str, SubsetRecord] = {}
    for name, ids in (drawn.ids | given.ids).items():
        write_text(folder.subset(name), "".join(f"{clip}\n" for clip in ids))
        within = set(ids)
        facts = summarise(row for row in rows() if row["id"] in within)
        if name in drawn.ids:
            facts["seed"] = subset_seed(name, draws.seed)
        if missing := given.missing.get(name):
            write_text(folder.missing_ids(name), "".join(f"{clip}\n" for clip in missing))
            facts |= {"missing": len(missing), "missing_ids": missing[:NAMED_IDS]}
        subsets[name] = SubsetRecord(**facts, **file_facts(folder.subset(name)))
    return {
        "subsets": subsets,
        "subsets_left_out": {name: round(seconds / 3600, 4) for name, seconds in drawn.left_out.items()},
        "speaker_cap_seconds": draws.speaker_cap,
    }


def draw_anew(folder: DatasetFolder, stamp: str, draws: Draws) -> None:
    """Draw other subsets from a train split that stays as it is; interrupted, there are none until the next time."""
    body = folder.read()
    drawn = draw(lambda: _train_rows(folder), draws)
    remove_subsets(folder)
    folder.write(body.model_copy(update={"fingerprint": None, "subsets": {}, "subsets_left_out": {}}))
    subsets = write_subsets(lambda: _train_rows(folder), folder, draws, *drawn)
    folder.write(body.model_copy(update={"fingerprint": stamp, **subsets}))


def _train_rows(folder: DatasetFolder) -> Iterator[dict[str, Any]]:
    """What `PlanDatabase.kept` says of train, from its file."""
    for row in split_rows(folder, "train", ["id", "speaker", "seconds", "gender", "text"]):
        yield {**row, "characters": len(row["text"])}


def remove_subsets(folder: DatasetFolder) -> None:
    """Remove the lists of ids that the manifest speaks of: those are ours."""
    for name in folder.read_json().get("subsets", {}) if folder.complete else ():
        folder.subset(name).unlink(missing_ok=True)
        folder.missing_ids(name).unlink(missing_ok=True)
