"""Read a split of a prepared dataset. `datasets` maps the file into memory, so that it needs none of its own."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from asr_lora.audio.decode import SAMPLE_RATE, decode
from asr_lora.errors import DataError
from asr_lora.folders.dataset_folder import DatasetFolder

TEXT_COLUMNS = ("id", "text", "speaker", "gender", "age", "accent", "domain")
ROWS_AT_ONCE = 1024
SOUND_COLUMNS = ("peak", "loudness_db", "clipped")  # as in `asr_lora.labels.rules.AudioMeasurements`


def row_schema() -> pa.Schema:
    """Return the schema of a split, with the metadata by which `datasets.load_dataset` finds its audio."""
    from datasets import Audio, Features, Value

    columns = {name: Value("string") for name in TEXT_COLUMNS}
    numbers = {name: Value("float32") for name in SOUND_COLUMNS}
    sound = {"seconds": Value("float32"), **columns, **numbers, "digest": Value("string")}
    return Features({"id": sound.pop("id"), "audio": Audio(SAMPLE_RATE), **sound}).arrow_schema


@dataclass(frozen=True)
class Split:
    """The memory-mapped rows of a split, or of a subset of it."""

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
        """Decode the audio of one utterance: 16 kHz, shape (samples,), float32."""
        return decode(self.rows[index]["audio"]["bytes"])

    def select(self, indices: Sequence[int]) -> "Split":
        return Split(self.rows.select(indices))

    def evenly(self, count: int) -> "Split":
        """Select `count` utterances evenly over the split, or all where it has fewer."""
        if count >= len(self):
            return self
        return self.select([place * len(self) // count for place in range(count)])


def read_split(folder: Path, split: str, *, subset: str = "all") -> Split:
    """Open a split of a prepared dataset, or a subset of train.

    Raises:
        DataError: the dataset is incomplete or damaged, or does not have the split.
        ConfigError: the dataset does not have the subset.
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
        found = [index for index, id_ in enumerate(ids) if id_ in wanted]
        if len(found) != len(wanted):
            lacking = next(iter(wanted - set(ids)), "one id twice")
            raise DataError(
                f"{dataset.subset(subset)} lists {len(wanted):,} utterances and {path} has {len(found):,} of them "
                f"({lacking!r} is not there): run the same prepare again with another --out, and use that dataset"
            )
        rows = rows.select(found)
    return Split(rows)


def split_rows(dataset: DatasetFolder, split: str, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield columns of a split, row by row from its file, with flat memory and without a cache."""
    with pq.ParquetFile(dataset.split_file(split), pre_buffer=False) as table:
        for batch in table.iter_batches(ROWS_AT_ONCE, columns=list(columns)):
            yield from batch.to_pylist()
