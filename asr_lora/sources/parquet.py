"""Read tables that contain audio: parquet files, what `datasets` saved to disk, and datasets on the hub."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from asr_lora.errors import AudioError, DataError
from asr_lora.folders.digests import fingerprint
from asr_lora.sources.archive import MAX_RECORDING_BYTES
from asr_lora.sources.column_files import open_columns, saved_datasets
from asr_lora.sources.columns import (
    AUDIO_COLUMNS,
    ID_COLUMNS,
    UTTERANCE_COLUMNS,
    Row,
    find_text,
    first,
    plain_name,
    require_columns,
    shown_names,
    split_of,
    splits_of_files,
    utterance_of,
)
from asr_lora.sources.hub_tables import HubTable, hub_revision, hub_splits
from asr_lora.sources.interface import (
    NO_SPLIT,
    OTHER,
    SPLIT_HERE,
    BadRow,
    Recording,
    SourceAtPath,
    Utterance,
    WantedRecordings,
    macos_files,
    safe_id,
    sampled_digest,
)

ENDINGS = (".parquet", ".arrow")
MAX_TEXT_BYTES = 1 << 20  # of a row without its audio, as of a line of a table


@dataclass(frozen=True)
class ParquetFiles(SourceAtPath):
    """Parquet files with a column of audio, whose names tell their splits."""

    files: tuple[tuple[str, Path], ...]  # split and file
    text_column: str | None = None

    def digest(self) -> str:
        return fingerprint([(split, sampled_digest(path)) for split, path in self.files], self.text_column)

    def rows(self) -> Iterator[Utterance | BadRow]:
        names_once = len({path.stem for _, path in self.files}) == len(self.files)
        for number, (split, path) in enumerate(self.files):
            stem = safe_id(path.stem if names_once else str(path.relative_to(self.home).with_suffix("")))
            if split == OTHER:
                yield BadRow(path.name if names_once else str(path.relative_to(self.home)), NO_SPLIT)
                continue
            with open_columns(path) as table:
                audio = _audio_column(path, table.schema)
                require_columns(path, table.schema.names, self.text_column, audio=False)
                known = {*UTTERANCE_COLUMNS, plain_name(self.text_column)}
                names = [field.name for field in table.schema if plain_name(field.name) in known and _is_plain(field)]
                names = [name for name in names if name != audio]
                rows = (row for batch in table.batches(names) for row in _dicts(batch))
                for place, row in enumerate(rows):
                    id_ = f"{stem}-{place:08}"
                    if isinstance(row, str):
                        yield BadRow(id_, row, split)
                    else:
                        yield _utterance(row, id_, f"{number}:{place}", split, self.text_column)
        yield from macos_files(self.home)

    def recordings(self, wanted: WantedRecordings) -> Iterator[tuple[str, Recording]]:
        home = self.home if self.home.is_dir() else self.home.parent
        for number, (split, path) in enumerate(self.files):
            if split == OTHER:
                continue
            with open_columns(path) as table:
                audio = _audio_column(path, table.schema)
                folder = path.parent if pa.types.is_string(table.schema.field(audio).type) else home
                cells = (batch.slice(row, 1) for batch in table.batches([audio]) for row in range(len(batch)))
                for place, cell in enumerate(cells):
                    name = f"{number}:{place}"
                    if name in wanted:
                        yield name, _stored(cell, folder)


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
    """Find a parquet or Arrow file at a path, or such files in a folder and its subfolders."""
    if place.is_file():
        return ParquetFiles(place, ((SPLIT_HERE, place),), text_column) if place.suffix in ENDINGS else None
    if saved := saved_datasets(place):
        splits = splits_of_files([split_of(name) for name, _ in saved])
        return ParquetFiles(
            place, tuple((split, path) for split, (_, path) in zip(splits, saved, strict=True)), text_column
        )
    found = _parquet_files(place, "*") or _parquet_files(place, "*/*")
    if not found:
        return None
    splits = _splits([split_of(path.name) or split_of(str(path.parent.relative_to(place))) for path in found])
    return ParquetFiles(place, tuple(zip(splits, found, strict=True)), text_column)


def _parquet_files(place: Path, level: str) -> list[Path]:
    return sorted(path for path in place.glob(f"{level}.parquet") if path.name[0] != ".")


def _splits(named: list[str]) -> list[str]:
    """Return the splits of files by those in their names. Where all are the same, `prepare` makes the splits."""
    if len(set(named)) == 1:
        return [SPLIT_HERE] * len(named)
    return [split or OTHER for split in named]


def _utterance(
    row: Mapping[str, Any], fallback: str, recording: str, split: str, text_column: str | None
) -> Utterance | BadRow:
    """Make an utterance of a row without its audio."""
    row = {plain_name(name): value for name, value in row.items()}
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


def _stored(cell: pa.RecordBatch, home: Path) -> Recording:
    if cell.nbytes > MAX_RECORDING_BYTES:
        return AudioError("file is too large", f"a recording has {cell.nbytes} bytes")
    try:
        return _recording(cell.column(0)[0].as_py(), home)
    except UnicodeDecodeError as error:
        return AudioError("missing", f"the name of a recording is not UTF-8 ({error})")


def _dicts(batch: pa.RecordBatch) -> Iterator[Row | str]:
    """Yield the rows, or the reason why there is none. Arrow checks neither UTF-8 nor times."""
    for place in range(len(batch)):
        row = batch.slice(place, 1)
        if row.get_total_buffer_size() > MAX_TEXT_BYTES and row.nbytes > MAX_TEXT_BYTES:
            yield "text is too long for one utterance"
            continue
        try:
            yield row.to_pylist()[0]
        except (ValueError, OverflowError):
            yield "row cannot be read"


def _is_plain(field: pa.Field) -> bool:
    """Whether a column may tell something of an utterance: text, a number or a truth value."""
    kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
    return not (pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _audio_column(path: Path, schema: pa.Schema) -> str:
    kinds = {field.name: field.type for field in schema}
    for name, kind in kinds.items():
        if pa.types.is_struct(kind) and {"bytes", "path"} & {part.name for part in kind}:
            return str(name)
    for name in ("audio", "wav", "bytes"):
        if name in kinds and (pa.types.is_binary(kinds[name]) or pa.types.is_large_binary(kinds[name])):
            return name
    for name in AUDIO_COLUMNS:  # the paths of recordings, as in the metadata.parquet of an audiofolder
        if name in kinds and pa.types.is_string(kinds[name]):
            return name
    raise DataError(f"{path} has no column of audio; it has {shown_names(kinds)}. Name another file")
