"""Compute digests and sizes of files, which show whether a file has changed."""

import hashlib
import json
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
    """A digest of all files under a folder, by name and content."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return fingerprint([(str(path.relative_to(folder)), sha256_file(path)) for path in files])


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
