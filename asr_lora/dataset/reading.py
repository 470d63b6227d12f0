"""Read a prepared split: `datasets` maps it into memory, so hours of speech cost no memory. Read a hub dataset, too."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from asr_lora.audio.decode import SAMPLE_RATE, decode
from asr_lora.errors import DataError, first_line
from asr_lora.folders.dataset_folder import DatasetFolder
from asr_lora.folders.digests import folder_digest

TEXT_COLUMNS = ("id", "text", "speaker", "gender", "age", "accent", "domain")
ROWS_AT_ONCE = 1024
HUB_TRIES, HUB_PAUSE, HUB_SECONDS = 1, 1, 10.0  # beyond those of the client below; after each; for one answer
SOUND_COLUMNS = ("peak", "loudness_db", "clipped")  # what decoding showed, as in checks.Sound


def row_schema() -> pa.Schema:
    """Schema of a split, with the note that makes `datasets.load_dataset("parquet", ...)` see audio in it."""
    from datasets import Audio, Features, Value

    columns = {name: Value("string") for name in TEXT_COLUMNS}
    numbers = {name: Value("float32") for name in SOUND_COLUMNS}
    sound = {"seconds": Value("float32"), **columns, **numbers, "digest": Value("string")}
    return Features({"id": sound.pop("id"), "audio": Audio(SAMPLE_RATE), **sound}).arrow_schema


@dataclass(frozen=True)
class Split:
    """A split, or a subset of it, in memory-mapped rows."""

    rows: Any  # datasets.Dataset

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def ids(self) -> list[str]:
        return list(self.rows["id"])

    @cached_property
    def texts(self) -> list[str]:
        return list(self.rows["text"])

    @cached_property
    def seconds(self) -> list[float]:
        return list(self.rows["seconds"])

    @cached_property
    def speakers(self) -> list[str]:
        return list(self.rows["speaker"])

    def waveform(self, index: int) -> np.ndarray:
        """Decode one utterance: samples, shape (samples,), float32, 16 kHz."""
        return decode(self.rows[index]["audio"]["bytes"])

    def select(self, indices: Sequence[int]) -> "Split":
        return Split(self.rows.select(indices))

    def evenly(self, count: int) -> "Split":
        """So many utterances evenly over the split; all where it has fewer."""
        if count >= len(self):
            return self
        return self.select([place * len(self) // count for place in range(count)])


def read_split(folder: Path, split: str, *, subset: str = "all") -> Split:
    """Open a split of a prepared dataset, or a low-data subset of train.

    Raises:
        DataError: the dataset is incomplete, damaged, or has no such split.
        ConfigError: there is no such subset.
    """
    import datasets

    dataset = DatasetFolder(folder)
    path = dataset.split_file(split)
    wanted = None if subset == "all" else set(dataset.subset_ids(subset))
    shown = not datasets.utils.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        rows = datasets.load_dataset("parquet", data_files=str(path), split="train")
    except (OSError, pa.ArrowException, datasets.exceptions.DatasetsError) as error:
        raise DataError(f"{path} cannot be read ({error}). {dataset.remedy}") from error
    finally:
        if shown:
            datasets.enable_progress_bars()
    rows = rows.cast_column("audio", datasets.Audio(decode=False))
    if wanted is not None:
        ids = rows["id"]
        rows = rows.select([index for index, clip in enumerate(ids) if clip in wanted])
    return Split(rows)


def split_rows(dataset: DatasetFolder, split: str, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Some columns of a split, row by row, straight from its file: memory stays flat, and nothing is cached."""
    with pq.ParquetFile(dataset.split_file(split), pre_buffer=False) as table:
        for batch in table.iter_batches(ROWS_AT_ONCE, columns=list(columns)):
            yield from batch.to_pylist()


@dataclass(frozen=True)
class HubTable:
    """A split of a dataset on the hub, as a stream."""

    split: str  # as it is called there
    audio: str  # name of its column of audio
    stream: Any  # datasets.IterableDataset

    def rows(self, *, audio: bool) -> Iterator[dict[str, Any]]:
        """Its rows, with the audio not decoded or without it; classes, such as gender, by their names.

        Raises:
            DataError: the hub does not answer, or what it has cannot be read.
        """
        import datasets

        kept = self.stream.cast_column(self.audio, datasets.Audio(decode=False))
        kept = kept.select_columns([self.audio]) if audio else kept.remove_columns([self.audio])
        classes = {name: kind for name, kind in self.stream.features.items() if isinstance(kind, datasets.ClassLabel)}
        try:
            for row in kept:
                yield {name: _named(classes.get(name), value) for name, value in row.items()}
        except _hub_errors() as error:
            raise DataError(
                f"split {self.split} cannot be read to its end ({first_line(error)}): run the same command again, and "
                "it goes on where this stopped"
            ) from error


def _named(classes: Any, value: Any) -> Any:
    """A value, or the name of the class that it is a number of."""
    return classes.names[value] if classes and isinstance(value, int) and 0 <= value < len(classes.names) else value


def hub_splits(repository: str, config: str | None) -> list[HubTable]:
    """Open a dataset on the hub that is plain data: nothing is downloaded but what is read.

    Raises:
        DataError: there is none, the machine is offline, or it has no audio.
    """
    import datasets

    # Twenty tries of up to half a minute each would be a wait of ten minutes for a hub that is gone.
    datasets.config.STREAMING_READ_MAX_RETRIES = datasets.config.STREAMING_OPEN_MAX_RETRIES = HUB_TRIES
    datasets.config.STREAMING_READ_SERVER_UNAVAILABLE_RETRY_INTERVAL = HUB_PAUSE
    datasets.config.STREAMING_READ_RATE_LIMIT_RETRY_INTERVAL = HUB_PAUSE
    datasets.config.STREAMING_READ_RETRY_INTERVAL = datasets.config.STREAMING_OPEN_RETRY_INTERVAL = HUB_PAUSE
    try:
        splits = datasets.load_dataset(repository, config, streaming=True)
    except _hub_errors() as error:
        raise DataError(_hub_sentence(repository, error)) from error
    tables = []
    for split, stream in splits.items():
        features = stream.features or {}
        audio = next((name for name, kind in features.items() if isinstance(kind, datasets.Audio)), None)
        if audio is None:
            raise DataError(f"hf:{repository} has no column of audio in {split}; it has {', '.join(features)[:200]}")
        tables.append(HubTable(str(split), audio, stream))
    return tables


def hub_revision(repository: str) -> str:
    """The commit that a dataset on the hub is at; the digest of its files where it is a folder of this machine.

    Raises:
        DataError: there is none, or the machine is offline.
    """
    if Path(repository).is_dir():
        return folder_digest(Path(repository))
    from huggingface_hub import HfApi

    try:
        return str(HfApi().dataset_info(repository, timeout=HUB_SECONDS).sha)
    except _hub_errors() as error:
        raise DataError(_hub_sentence(repository, error)) from error


def _hub_errors() -> tuple[type[Exception], ...]:
    import datasets
    from huggingface_hub.errors import HfHubHTTPError

    # The last are those of the HTTP library, whichever it is.
    return (ValueError, RuntimeError, TypeError, datasets.exceptions.DatasetsError, *HfHubHTTPError.__bases__)


def _hub_sentence(repository: str, error: Exception) -> str:
    """What is wrong with a dataset on the hub, and the command that mends it; the hub's libraries tell it by words."""
    from huggingface_hub.constants import ENDPOINT

    name, said, whole = f"hf:{repository}", first_line(error), f"{type(error).__name__}: {error}"
    response = getattr(error, "response", None)
    if "gated" in whole.lower():
        page = f"{ENDPOINT}/datasets/{repository}"
        return f"{name} is for those who agreed to its terms: agree to them at {page}, then log in with: hf auth login"
    if "NotFound" in type(error).__name__ or getattr(response, "status_code", None) in (401, 403, 404):
        return (
            f"the hub has no {name}, or not for you: look the name up at {ENDPOINT}/datasets, or, where it is private, "
            "log in with: hf auth login"
        )
    if "BuilderConfig" in whole or "Config name is missing" in whole:
        there = re.findall(r"'([^']+)'", whole.partition("[")[2].partition("]")[0])
        return (
            f"{name} has to be told which of its configurations is wanted, by a name that it has: "
            f"{', '.join(there)[:400]}. Write such as {name}:{(there or ['NAME'])[0]}"
        )
    if "script" in whole:
        return (
            f"{name} is a program that loads data, and none is run. The hub may have its data as parquet: hf download "
            f"{repository} --repo-type dataset --revision refs/convert/parquet --local-dir DIR, then prepare DIR/CONFIG"
        )
    if "OfflineMode" in whole or "offline mode" in whole:
        return f"{name} cannot be opened, as HF_HUB_OFFLINE is set: unset HF_HUB_OFFLINE"
    return (
        f"{name} cannot be opened ({said}): check the name and the connection and run this again, or download its "
        "parquet files and name their folder"
    )
