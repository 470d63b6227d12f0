"""Compute digests and sizes of files, which show whether a file has changed."""

import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import TypedDict


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def fingerprint(*parts: object) -> str:
    """A short digest of settings and input hashes; equal digests mean that a stage need not run again."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def folder_digest(folder: Path) -> str:
    """A digest of all files under a folder, by name and content; hidden files, such as .DS_Store, do not count.

    A file that this process has read before is read again only if its size or its time changed.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    facts = [(path, path.stat()) for path in files]
    return fingerprint(
        [(str(path.relative_to(folder)), _sha256_of(path, fact.st_size, fact.st_mtime_ns)) for path, fact in facts]
    )


@lru_cache(maxsize=256)
def _sha256_of(path: Path, _size: int, _time: int) -> str:
    return sha256_file(path)


def folder_bytes(folder: Path) -> int:
    """Size of all files under a folder, in bytes."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


class FileFacts(TypedDict):
    """Size and digest of a file, which a manifest records to show later whether the file has changed."""

    bytes: int
    sha256: str


def file_facts(path: Path) -> FileFacts:
    """Return size and SHA-256 of a file."""
    return {"bytes": path.stat().st_size, "sha256": sha256_file(path)}


def has_bytes(path: Path, size: int) -> bool:
    """Whether the file exists and has its full size."""
    return path.is_file() and path.stat().st_size == size
