"""Read tables that contain audio: parquet files, such as those of prepared datasets, and datasets on the hub."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from asr_lora.errors import AudioError, DataError
from asr_lora.folders.digests import fingerprint
from asr_lora.sources.columns import ID_COLUMNS, Row, find_text, first, split_of, utterance_of
from asr_lora.sources.hub_tables import HubTable, hub_revision, hub_splits
from asr_lora.sources.interface import (
    SPLIT_HERE,
    BadRow,
    Recording,
    Utterance,
    WantedRecordings,
    safe_id,
    sampled_digest,
)

ROWS_AT_ONCE = 32  # read from a file together
OTHER = "other"  # a split that is none of train, dev and test, in a source that has these
NO_SPLIT = "split is none of train, dev and test"


@dataclass(frozen=True)
class ParquetFiles:
    """Parquet files with a column of audio, whose names tell their splits."""

    home: Path
    files: tuple[tuple[str, Path], ...]  # split and file
    text_column: str | None = None

    @property
    def name(self) -> str:
        return self.home.name

    @property
    def speaker_namespace(self) -> str:
        return self.digest()

    def digest(self) -> str:
        return fingerprint([(split, sampled_digest(path)) for split, path in self.files], self.text_column)

    def rows(self) -> Iterator[Utterance | BadRow]:
        for number, (split, path) in enumerate(self.files):
            if split == OTHER:
                yield BadRow(path.name, NO_SPLIT)
                continue
            with _open(path) as table:
                audio = _audio_column(path, table.schema_arrow)
                names = [name for name in table.schema_arrow.names if name != audio]
                rows = (row for batch in _batches(path, table, names) for row in _dicts(batch))
                for place, row in enumerate(rows):
                    id_ = f"{path.stem}-{place:08}"
                    if row is None:
                        yield BadRow(id_, "row cannot be read", split)
                    else:
                        yield _utterance(row, id_, f"{number}:{place}", split, self.text_column)

    def recordings(self, wanted: WantedRecordings) -> Iterator[tuple[str, Recording]]:
        for number, (split, path) in enumerate(self.files):
            if split == OTHER:
                continue
            with _open(path) as table:
                batches = _batches(path, table, [_audio_column(path, table.schema_arrow)])
                for place, value in enumerate(value for batch in batches for value in batch.column(0)):
                    name = f"{number}:{place}"
                    if name in wanted:
                        yield name, _stored(value, self.home)


@dataclass(frozen=True)
class HubDataset:
    """A dataset of the Hugging Face hub, read as a stream."""

    repository: str
    config: str | None = None
    text_column: str | None = None

    @property
    def name(self) -> str:
        return f"hf:{self.repository}" + (f":{self.config}" if self.config else "")

    @property
    def speaker_namespace(self) -> str:
        return self.name

    def digest(self) -> str:
        return fingerprint(self.name, hub_revision(self.repository), self.text_column)

    def rows(self) -> Iterator[Utterance | BadRow]:
        for split, table in self._tables():
            if split == OTHER:
                yield BadRow(table.split, NO_SPLIT)
                continue
            for place, row in enumerate(table.rows(audio=False)):
                yield _utterance(row, f"{table.split}-{place:08}", f"{table.split}:{place}", split, self.text_column)

    def recordings(self, wanted: WantedRecordings) -> Iterator[tuple[str, Recording]]:
        for split, table in self._tables():
            for place, row in enumerate(table.rows(audio=True) if split != OTHER else ()):
                name = f"{table.split}:{place}"
                if name in wanted:
                    yield name, _recording(row[table.audio], Path())

    def _tables(self) -> Iterator[tuple[str, HubTable]]:
        tables = hub_splits(self.repository, self.config)
        yield from zip(_splits([split_of(table.split) for table in tables]), tables, strict=True)


def find_parquet(place: Path, text_column: str | None) -> ParquetFiles | None:
    """Find a parquet file at a path, or parquet files in a folder and its subfolders."""
    if place.is_file():
        return ParquetFiles(place, ((SPLIT_HERE, place),), text_column) if place.suffix == ".parquet" else None
    found = sorted(place.glob("*.parquet")) or sorted(place.glob("*/*.parquet"))
    if not found:
        return None
    splits = _splits([split_of(path.name) or split_of(str(path.parent.relative_to(place))) for path in found])
    return ParquetFiles(place, tuple(zip(splits, found, strict=True)), text_column)


def _splits(named: list[str]) -> list[str]:
    """Return the splits of files by those in their names. Where all are the same, `prepare` makes the splits."""
    if len(set(named)) == 1:
        return [SPLIT_HERE] * len(named)
    return [split or OTHER for split in named]


def _utterance(
    row: Mapping[str, Any], fallback: str, recording: str, split: str, text_column: str | None
) -> Utterance | BadRow:
    """Make an utterance of a row without its audio."""
    text, given = find_text(row, text_column), first(row, ID_COLUMNS)
    if text is None:
        return BadRow(fallback, "row has no text", split)
    name = safe_id(given) if isinstance(given, str) and given else fallback  # ids that are numbers are often not unique
    return utterance_of(row, name=name, recording=recording, text=text, split=split)


def _recording(value: Any, home: Path) -> Recording:
    """Return the audio of a row: bytes, or a path that starts from `home`."""
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes):
        return value
    return home / value if isinstance(value, str) else AudioError("missing", "the row holds no audio")


def _stored(value: pa.Scalar, home: Path) -> Recording:
    try:
        return _recording(value.as_py(), home)
    except UnicodeDecodeError as error:
        return AudioError("missing", f"the name of a recording is not UTF-8 ({error})")


def _dicts(batch: pa.RecordBatch) -> Iterator[Row | None]:
    """Yield the rows, or None for a row with invalid UTF-8 or an invalid time, which Arrow does not check."""
    try:
        yield from batch.to_pylist()
    except (ValueError, OverflowError):
        for place in range(len(batch)):
            try:
                yield batch.slice(place, 1).to_pylist()[0]
            except (ValueError, OverflowError):
                yield None


def _open(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path, memory_map=True, pre_buffer=False)
    except (OSError, pa.ArrowException) as error:
        raise DataError(
            f"{path} is no parquet file ({str(error).splitlines()[0]}): make or download it again"
        ) from error


def _batches(path: Path, table: pq.ParquetFile, columns: list[str]) -> Iterator[pa.RecordBatch]:
    try:
        yield from table.iter_batches(ROWS_AT_ONCE, columns=columns)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path} is damaged ({str(error).splitlines()[0]}): make or download it again") from error


def _audio_column(path: Path, schema: pa.Schema) -> str:
    kinds = {field.name: field.type for field in schema}
    for name, kind in kinds.items():
        if pa.types.is_struct(kind) and {"bytes", "path"} & {part.name for part in kind}:
            return str(name)
    for name in ("audio", "wav", "bytes"):
        if name in kinds and (pa.types.is_binary(kinds[name]) or pa.types.is_large_binary(kinds[name])):
            return name
    raise DataError(f"{path} has no column of audio; it has {', '.join(kinds)[:200]}. Name another file")
