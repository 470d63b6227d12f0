"""Read the rows of tables: JSON lines, JSON documents, CSV, TSV, and the pipe tables of LJSpeech."""

import csv
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import chain, islice
from pathlib import Path
from typing import Any

from asr_lora.errors import DataError
from asr_lora.sources.columns import AUDIO_COLUMNS, TEXT_COLUMNS, Row, plain_name, require_columns, shown_names
from asr_lora.sources.lines import file_lines

JSON_ENDINGS = (".jsonl", ".json", ".ndjson")
ENDINGS = (*JSON_ENDINGS, ".csv", ".tsv")
DELIMITERS = {".csv": ",\t;|", ".tsv": "\t,;|", ".txt": "|\t,;"}  # tried in this order on the header
MAX_DOCUMENT_BYTES = 64 << 20  # of a JSON document, which is read into memory
RECORDING_NAME = re.compile(r"[^.]\.[A-Za-z0-9]{2,5}\"?$")
SHOWN_COLUMNS = 50
PEEKED_LINES = 20  # of a pipe table, which show what its columns are

PlacedRow = tuple[str, Row | str]
"""The place of a row, such as train.csv:17, and the row, or the reason why there is none."""


def ending_of(path: Path) -> str:
    """Return the ending of a table's name in lower case, without the .gz of a packed one."""
    plain = path.name.lower().removesuffix(".gz")
    return f".{plain.rpartition('.')[2]}" if "." in plain.lstrip(".") else ""


def table_rows(path: Path, text_column: str | None = None) -> Iterator[PlacedRow]:
    """Yield the rows of a table, with the names of its columns in lower case.

    Raises:
        DataError: the file cannot be read, or has no column of audio or of text. The message shows what it has.
    """
    if ending_of(path) in JSON_ENDINGS:
        return _json_rows(path, text_column)
    return _delimited_rows(path, text_column)


def looks_like_manifest(path: Path) -> bool:
    """Whether the first row of a table has a column of audio."""
    with suppress(DataError):
        for _, row in islice(table_rows(path), 1):
            return not isinstance(row, dict) or bool(set(AUDIO_COLUMNS) & row.keys())
    return False


def json_values(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield the values of a JSON file with their places: one a line, or those of one list or object.

    Of an object that holds objects alone, such as SpeechBrain's, each becomes a value with its key as "id". A line that
    is no JSON becomes the reason, a string.

    Raises:
        DataError: the file is one document that is too large or is no JSON.
    """
    lines = ((number, line) for number, line in file_lines(path) if line.strip())
    number, start = next(lines, (1, b""))
    if (opened := start.lstrip(b"\xef\xbb\xbf \t").rstrip()).startswith(b"[") or opened == b"{":
        yield from _document_values(path, chain([start], (line for _, line in lines)))
        return
    for place, line in chain([(number, start)] if start else [], lines):
        try:
            value = parse_json(line)
        except UnicodeDecodeError:
            yield f"{path.name}:{place}", "row is not UTF-8"
        except KeyError:
            yield f"{path.name}:{place}", "row has a field twice"
        except (ValueError, RecursionError):
            yield f"{path.name}:{place}", "row is not JSON"
        else:
            if place == number and _holds_objects(value):
                yield from ((f"{path.name}:{name}", {"id": name, **row}) for name, row in value.items())
            else:
                yield f"{path.name}:{place}", value if isinstance(value, dict) else "row is not JSON"


def parse_json(line: bytes) -> Any:
    """Return the value of a JSON text.

    Raises:
        ValueError, RecursionError: it is no JSON.
        KeyError: an object has a key twice, of which a parser would keep one.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        row = dict(pairs)
        if len(row) != len(pairs):
            raise KeyError("a key stands twice")
        return row

    return json.loads(line.decode("utf-8-sig"), object_pairs_hook=unique)


def _document_values(path: Path, lines: Iterator[bytes]) -> Iterator[tuple[str, Any]]:
    body = bytearray()
    for line in lines:
        body += line
        if len(body) > MAX_DOCUMENT_BYTES:
            raise DataError(
                f"{path} is one JSON document of more than {MAX_DOCUMENT_BYTES >> 20} MB: write one object a line, for "
                "example with: jq -c '.[]'"
            )
    try:
        document = parse_json(bytes(body))
    except (KeyError, ValueError, RecursionError) as error:
        raise DataError(f"{path} is no JSON ({str(error)[:200]}): make it again, or write one object a line") from error
    if isinstance(document, dict) and not _holds_objects(document):
        document = [document]  # one row, written over several lines
    rows = document if isinstance(document, list) else ({"id": name, **row} for name, row in document.items())
    for number, row in enumerate(rows, 1):
        yield f"{path.name}:{number}", row if isinstance(row, dict) else "row is not JSON"


def _holds_objects(value: Any) -> bool:
    return isinstance(value, dict) and bool(value) and all(isinstance(inner, dict) for inner in value.values())


def _json_rows(path: Path, text_column: str | None) -> Iterator[PlacedRow]:
    known = {*AUDIO_COLUMNS, *TEXT_COLUMNS, plain_name(text_column)}
    columns: dict[str, None] = {}
    found = False
    for place, value in json_values(path):
        if not isinstance(value, dict):
            yield place, value
            continue
        row = {plain_name(name): inner for name, inner in value.items()}
        columns |= dict.fromkeys(name for name in row if name in known or len(columns) < SHOWN_COLUMNS)
        found = True
        yield place, row if len(row) == len(value) else "row has a field twice"
    if found:  # that no row has the column is clear at the end only
        require_columns(path, columns, text_column)


def _delimited_rows(path: Path, text_column: str | None) -> Iterator[PlacedRow]:
    lines = (line.decode("utf-8-sig", errors="replace") for _, line in file_lines(path))
    start = next((line for line in lines if line.strip()), "")
    if not start:
        raise DataError(f"{path} is empty: write a header and rows")
    delimiter, header = _header(path, start)
    if not set(AUDIO_COLUMNS) & set(header):
        if start.count("|"):
            yield from _pipe_rows(path, chain([start], lines), text_column)
            return
        require_columns(f"{path} (its first line)", header, text_column)
    require_columns(path, header, text_column)
    if delimiter == "|" or (delimiter == "\t" and ending_of(path) == ".tsv"):
        reader = csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_NONE)
    else:  # strict, since a quotation mark that is never closed would take in the rest of the file
        reader = csv.reader(lines, delimiter=delimiter, strict=True, skipinitialspace=True)
    begun = 1
    try:
        for values in reader:
            if values:
                _require_no_swallowed_row(path, header, values, delimiter, (begun + 1, reader.line_num + 1))
                yield f"{path.name}:{reader.line_num + 1}", _row(header, values)
            begun = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num + 1}: {error}. Correct the quotation marks") from error


def _row(header: Sequence[str], values: Sequence[str]) -> Row | str:
    if any("\ufffd" in value for value in values):
        return "row is not UTF-8"
    if len(values) < len(header):
        return "row is cut short"
    if len(values) > len(header):  # a text with the delimiter in it would be cut, and its rest be another column
        return "row has more fields than the header"
    return dict(zip(header, values, strict=True))


def _header(path: Path, line: str) -> tuple[str, list[str]]:
    """Return the delimiter under which the first line names audio, else the usual one, and the columns."""
    tried = {}
    for delimiter in DELIMITERS.get(ending_of(path), ","):
        with suppress(csv.Error):
            fields = next(csv.reader([line], delimiter=delimiter, skipinitialspace=True), [])
            tried[delimiter] = [plain_name(name.strip("\0")) for name in fields]
            if set(AUDIO_COLUMNS) & set(tried[delimiter]):
                return delimiter, tried[delimiter]
    return next(iter(tried.items()), (",", [line]))


def _require_no_swallowed_row(
    path: Path, header: Sequence[str], values: Sequence[str], delimiter: str, span: tuple[int, int]
) -> None:
    """Check that a quoted cell over several lines holds no rows, which an unpaired quotation mark would take in.

    Raises:
        DataError: one of its lines looks like a row.
    """
    place = next(number for number, name in enumerate(header) if name in AUDIO_COLUMNS)
    for value in values:
        for line in value.split("\n")[1:]:
            fields = line.split(delimiter)
            if len(fields) >= len(header) and RECORDING_NAME.search(fields[place].strip()):
                raise DataError(
                    f"{path}, lines {span[0]} to {span[1]}: a quotation mark takes in whole rows. Correct the "
                    "quotation marks"
                )


def _pipe_rows(path: Path, lines: Iterator[str], text_column: str | None) -> Iterator[PlacedRow]:
    """Read LJSpeech's table and its relatives, which have no header and no quoting.

    Two columns are recording and text. Of three, the second is the speaker where it never has a blank and the third has
    (Piper, VITS); else it is the text as it was read, and the third the same in full words (LJSpeech).
    """
    first = [line.rstrip("\r\n").split("|") for line in islice(lines, PEEKED_LINES)]
    width = Counter(map(len, first)).most_common(1)[0][0]
    if width not in (2, 3):
        raise DataError(
            f"{path} has no header and {width} columns ({shown_names(first[0])}): write a header, such as audio|text"
        )
    full = [row for row in first if len(row) == 3]
    speaker = (
        bool(full) and all(" " not in row[1].strip() for row in full) and any(" " in row[2].strip() for row in full)
    )
    header = ["audio", "text", "normalized_text"][:width] if not speaker else ["audio", "speaker", "text"]
    require_columns(f"{path}, a table without a header,", header, text_column)
    for number, values in enumerate(chain(first, (line.rstrip("\r\n").split("|") for line in lines)), 1):
        if len(values) > 1 or values[0].strip():
            yield f"{path.name}:{number}", _row(header, values)
