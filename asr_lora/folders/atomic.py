"""Write files and folders that are complete or absent: beside their place, then renamed onto it."""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from asr_lora.errors import AsrLoraError, DataError

NAME_BYTES = 255  # of a file's name on most file systems


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a name beside `path` to write to; rename it onto `path` on success, remove it otherwise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = _beside(path, f".{os.getpid()}.tmp")
    try:
        yield draft
        os.replace(draft, path)
    except OSError as error:
        error.filename = error.filename or str(path)  # libraries leave it out
        raise
    finally:
        draft.unlink(missing_ok=True)


@contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder to fill; put it in the place of `folder` on success, remove it otherwise.

    Where `folder` is a symbolic link, the link stays, and the folder that it names is replaced.

    Raises:
        OSError: the folder could not be written; torch's and safetensors' errors about a full disk become this one.
    """
    folder = _resolved(folder)
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))
    draft = _beside(folder, ".tmp")
    _remove(draft)
    draft.mkdir(parents=True)
    try:
        yield draft
        for path in draft.rglob("*"):
            if path.is_file():
                with path.open("rb") as handle:
                    os.fsync(handle.fileno())
        _remove(set_aside(folder))
        if folder.exists():
            folder.rename(set_aside(folder))
        draft.rename(folder)
        _remove(set_aside(folder))
    except (OSError, AsrLoraError):
        raise
    except Exception as error:
        raise OSError(f"{folder} could not be written: {error}") from error
    finally:
        _remove(draft)


def set_aside(folder: Path) -> Path:
    """Return where `replacing_folder` keeps the previous folder between its two renames."""
    folder = _resolved(folder)
    return _beside(folder, ".before")


def _beside(path: Path, ending: str) -> Path:
    """Return a hidden name beside a path, of at most as many bytes as a name may have."""
    name = f".{path.name}{ending}"
    if len(os.fsencode(name)) > NAME_BYTES:
        name = f".{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:32]}{ending}"
    return path.with_name(name)


def _resolved(folder: Path) -> Path:
    """Return the folder that a path names, behind symbolic links.

    Raises:
        OSError: the links lead in a circle.
    """
    try:
        return folder.resolve()
    except RuntimeError as error:  # before Python 3.13
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(folder)) from error


def _remove(folder: Path) -> None:
    """Remove a folder; of a symbolic link, the link alone."""
    if folder.is_symlink():
        folder.unlink()
    shutil.rmtree(folder, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically and durably: afterwards `path` is the old file or the new, never half of one."""
    _write(path, [text])


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write JSON objects as they come, one per line; `path` exists only when all are written."""
    _write(path, (json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def _write(path: Path, pieces: Iterable[str]) -> None:
    with replacing(path) as draft, draft.open("w", encoding="utf-8", errors="surrogateescape") as handle:
        handle.writelines(pieces)
        handle.flush()
        os.fsync(handle.fileno())


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Read one JSON object per line; an incomplete last line, as a killed process leaves it, is ignored.

    Raises:
        DataError: the file is missing, or a line is not a JSON object.
    """
    try:
        lines = path.read_bytes().split(b"\n")[:-1]
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing") from error
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}, line {number}: not JSON ({error})") from error
        if not isinstance(row, dict):
            raise DataError(f"{path}, line {number}: not a JSON object")
        rows.append(row)
    return rows
