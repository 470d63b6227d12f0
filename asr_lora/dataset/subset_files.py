"""Choose the subsets of a dataset's train split, and write their lists of ids."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from asr_lora.dataset.reading import split_rows
from asr_lora.dataset.subsets import (
    NAMED_IDS,
    IdList,
    Subsets,
    UtteranceFacts,
    find_listed,
    nested_subsets,
    subset_seed,
)
from asr_lora.dataset.summary import summarise
from asr_lora.folders.atomic import write_text
from asr_lora.folders.dataset_folder import DatasetFolder, SubsetRecord
from asr_lora.folders.digests import file_facts

TrainUtterances = Callable[[], Iterator[UtteranceFacts]]  # a new iterator at each call


@dataclass(frozen=True)
class SubsetRequest:
    """The subsets of train that a user asks for."""

    names: tuple[str, ...]
    seed: int
    speaker_cap: float | None  # seconds
    lists: tuple[IdList, ...]


def choose_subsets(train: TrainUtterances, request: SubsetRequest) -> tuple[Subsets, Subsets]:
    """Draw the subsets of a length, and look up those of a given list of ids."""
    # Each utterance without a speaker counts as a speaker of its own: nothing says that two are of the same.
    utterances = (row._replace(speaker=row.speaker or row.id) for row in train())
    drawn = nested_subsets(utterances, request.names, seed=request.seed, speaker_cap=request.speaker_cap)
    return drawn, find_listed(request.lists, {row.id for row in train()} if request.lists else ())


def write_subsets(
    train: TrainUtterances, folder: DatasetFolder, request: SubsetRequest, drawn: Subsets, given: Subsets
) -> dict[str, object]:
    """Write the lists of ids. Return the keys of the manifest that describe them."""
    subsets: dict[str, SubsetRecord] = {}
    for name, ids in (drawn.ids | given.ids).items():
        write_text(folder.subset(name), "".join(f"{id_}\n" for id_ in ids))
        within = set(ids)
        facts = summarise(row for row in train() if row.id in within)
        if name in drawn.ids:
            facts["seed"] = subset_seed(name, request.seed)
        if missing := given.missing.get(name):
            write_text(folder.missing_ids(name), "".join(f"{id_}\n" for id_ in missing))
            facts |= {"missing": len(missing), "missing_ids": missing[:NAMED_IDS]}
        subsets[name] = SubsetRecord(**facts, **file_facts(folder.subset(name)))
    return {
        "subsets": subsets,
        "subsets_left_out": {name: round(seconds / 3600, 4) for name, seconds in drawn.left_out.items()},
        "speaker_cap_seconds": request.speaker_cap,
    }


def replace_subsets(folder: DatasetFolder, fingerprint: str, request: SubsetRequest) -> None:
    """Choose other subsets of a dataset. If this is interrupted, the dataset has none until the next run."""
    record = folder.read()
    chosen = choose_subsets(lambda: _train_utterances(folder), request)
    remove_subsets(folder)
    folder.write(record.model_copy(update={"fingerprint": None, "subsets": {}, "subsets_left_out": {}}))
    subsets = write_subsets(lambda: _train_utterances(folder), folder, request, *chosen)
    folder.write(record.model_copy(update={"fingerprint": fingerprint, **subsets}))


def _train_utterances(folder: DatasetFolder) -> Iterator[UtteranceFacts]:
    for row in split_rows(folder, "train", ["id", "speaker", "seconds", "gender", "text"]):
        yield UtteranceFacts(row["id"], row["speaker"], row["seconds"], row["gender"], len(row["text"]))


def remove_subsets(folder: DatasetFolder) -> None:
    """Remove the lists of ids that the manifest names."""
    for name in folder.read_json().get("subsets", {}) if folder.complete else ():
        folder.subset(name).unlink(missing_ok=True)
        folder.missing_ids(name).unlink(missing_ok=True)
