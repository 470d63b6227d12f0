"""Open files of columns, parquet and Arrow, and read them in batches whose bytes are bounded, not only their rows."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from asr_lora.errors import DataError
from asr_lora.sources.archive import FREE_BYTES, MAX_GROWTH

ROWS_AT_ONCE = 32  # read from a file together
BYTES_AT_ONCE = 256 << 20  # of the values that are read together, or one row
STATE, DICTIONARY = "state.json", "dataset_dict.json"  # of `save_to_disk`


class ColumnFile(Protocol):
    """An open file of columns."""

    @property
    def schema(self) -> pa.Schema:
        """Names and types of the columns."""

    def batches(self, columns: list[str]) -> Iterator[pa.RecordBatch]:
        """Yield the columns in batches of few rows and bytes."""


@dataclass(frozen=True)
class ParquetColumns:
    """An open parquet file."""

    path: Path
    file: pq.ParquetFile

    @property
    def schema(self) -> pa.Schema:
        return self.file.schema_arrow

    def batches(self, columns: list[str]) -> Iterator[pa.RecordBatch]:
        """Yield the columns in batches.

        Raises:
            DataError: the file is damaged, or expands to far more than speech does.
        """
        for group in range(self.file.num_row_groups):
            facts = self.file.metadata.row_group(group)
            chunks = [facts.column(number) for number in range(facts.num_columns)]
            sizes = [chunk for chunk in chunks if chunk.path_in_schema.split(".")[0] in columns]
            total = sum(chunk.total_uncompressed_size for chunk in sizes)
            if total > max(FREE_BYTES, MAX_GROWTH * sum(chunk.total_compressed_size for chunk in sizes)):
                raise DataError(f"{self.path} expands to {total >> 20} MB, as no speech does: refused")
            # A value may stand in its column chunk once and be referred to by every row.
            largest = max((chunk.total_uncompressed_size for chunk in sizes), default=0)
            at_once = max(1, min(ROWS_AT_ONCE, BYTES_AT_ONCE // max(1, largest)))
            yield from self.file.iter_batches(at_once, row_groups=[group], columns=columns)


@dataclass(frozen=True)
class ArrowColumns:
    """An open Arrow stream, as `Dataset.save_to_disk` writes it. It is mapped into memory and needs none of its own."""

    path: Path
    file: pa.RecordBatchReader

    @property
    def schema(self) -> pa.Schema:
        return self.file.schema

    def batches(self, columns: list[str]) -> Iterator[pa.RecordBatch]:
        """Yield the columns in batches.

        Raises:
            ArrowInvalid: a batch is damaged; `open_columns` makes a DataError of it.
            DataError: a batch is larger than the file, so the file is packed, as `datasets` packs none.
        """
        most = max(FREE_BYTES, 2 * self.path.stat().st_size)
        for batch in self.file:
            chosen = batch.select(columns)
            chosen.validate(full=True)  # Arrow follows offsets out of the file else
            if batch.nbytes > most:
                raise DataError(f"{self.path} expands to more than {most >> 20} MB, as no speech does: refused")
            for place in range(0, len(chosen), ROWS_AT_ONCE):
                yield chosen.slice(place, ROWS_AT_ONCE)


@contextmanager
def open_columns(path: Path) -> Iterator[ColumnFile]:
    """Open a parquet or Arrow file; a damaged one is a DataError while it is opened and read."""
    kind = "Arrow" if path.suffix == ".arrow" else "parquet"
    opened = False
    try:
        if kind == "Arrow":
            with pa.memory_map(str(path)) as source:
                reader = pa.ipc.open_stream(source)
                opened = True
                yield ArrowColumns(path, reader)
        else:
            with pq.ParquetFile(path, memory_map=True, pre_buffer=False) as file:
                opened = True
                yield ParquetColumns(path, file)
    except (OSError, pa.ArrowException) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        what = "is damaged" if opened else f"is no {kind} file"
        raise DataError(f"{path} {what} ({reason}): make or download it again") from error


def saved_datasets(place: Path) -> list[tuple[str, Path]]:
    """Return split names and files of what `save_to_disk` of `datasets` wrote into a folder; none for other folders.

    Raises:
        DataError: a record of the folder cannot be read, or names files that are not all of the dataset.
    """
    if (place / DICTIONARY).is_file():
        names = _record(place / DICTIONARY).get("splits")
        if not isinstance(names, list) or not all(isinstance(name, str) and name.isprintable() for name in names):
            raise DataError(f"{place / DICTIONARY} lists no splits: save the dataset again")
        folders = [(name, place / Path(name).name) for name in names]
    elif (place / STATE).is_file():
        folders = [("", place)]
    else:
        return []
    found = []
    for name, folder in folders:
        state = _record(folder / STATE)
        if state.get("_indices_data_files"):
            raise DataError(f"{folder} was saved with a selection of rows by an old version of datasets: save it again")
        listed = state.get("_data_files")
        named = [each.get("filename") for each in listed if isinstance(each, dict)] if isinstance(listed, list) else []
        files = [file for file in named if isinstance(file, str)]
        if not files or len(files) < len(named):
            raise DataError(f"{folder / STATE} lists no data files: save the dataset again")
        found += [(name, folder / Path(file).name) for file in files]
    return found


def _record(path: Path) -> dict[str, object]:
    try:
        record = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read ({error}): save the dataset again") from error
    return record if isinstance(record, dict) else {}
