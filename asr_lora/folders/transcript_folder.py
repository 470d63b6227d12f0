"""The folder of transcripts, with a list of what was written to it, so that nothing else is ever replaced."""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from asr_lora.errors import ConfigError, DataError
from asr_lora.folders.atomic import write_text

WRITTEN = ".transcripts.jsonl"  # a line for each text: the file's name below the folder, and the SHA-256 of the text


class TranscriptFolder:
    """A folder below which transcripts are written.

    A file that is there already is replaced if its content is what an earlier command wrote to it, which the folder's
    list of digests shows. Any other file stays: a user's own, or a transcript that was corrected by hand.
    """

    def __init__(self, root: Path, *, overwrite: bool = False) -> None:
        """Make the folder.

        Args:
            overwrite: whether files that no earlier command wrote are replaced too.

        Raises:
            ConfigError: the folder cannot be made or written to.
        """
        self.root = root
        self.overwrite = overwrite
        try:
            root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"{root} cannot be made ({error.strerror}): name another folder with --out") from error
        if not os.access(root, os.W_OK | os.X_OK):
            raise ConfigError(f"{root} cannot be written to: name another folder with --out")
        self.digests = self._read()

    def place(self, name: Path, ending: str) -> Path:
        """Return the path of a transcript.

        Args:
            name: path below this folder, without ending.

        Raises:
            ConfigError: the path would not be below this folder.
        """
        if name.is_absolute() or not name.name or ".." in name.parts:
            raise ConfigError(f"{str(name)!r} is no name for a transcript: rename the recording")
        return self.root / name.parent / f"{name.name}.{ending}"

    def foreign(self, path: Path) -> bool:
        """Whether something is at a path that no earlier command wrote."""
        if self.overwrite or not os.path.lexists(path):
            return False
        try:
            return not path.is_file() or _digest(path.read_bytes()) not in self.digests.get(self._key(path), ())
        except OSError:
            return True

    def write(self, texts: Mapping[Path, str]) -> tuple[list[Path], list[str]]:
        """Write files, each whole or not at all. Return those that were written, and a sentence for each other one."""
        done, faults = [], []
        for path, text in texts.items():
            if self.foreign(path):
                faults.append(refusal([path]))
                continue
            try:
                self._list(path, text)  # before the file, so that a file whose writer was killed is known
                write_text(path, text)
                done.append(path)
            except OSError as error:
                faults.append(f"{path} cannot be written ({error.strerror or error})")
        return done, faults

    def _key(self, path: Path) -> str:
        return os.path.relpath(path, self.root)

    def _list(self, path: Path, text: str) -> None:
        key, digest = self._key(path), _digest(text.encode("utf-8", "surrogateescape"))
        if digest in self.digests.get(key, ()):
            return
        with (self.root / WRITTEN).open("a", encoding="ascii") as file:
            file.write(json.dumps({"file": key, "sha256": digest}) + "\n")
        self.digests.setdefault(key, set()).add(digest)

    def _read(self) -> dict[str, set[str]]:
        try:
            lines = (self.root / WRITTEN).read_text(encoding="ascii", errors="replace").split("\n")
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise DataError(f"{self.root / WRITTEN} cannot be read ({error.strerror})") from error
        found: dict[str, set[str]] = {}
        for line in lines:
            try:
                row = json.loads(line)
                found.setdefault(str(row["file"]), set()).add(str(row["sha256"]))
            except (ValueError, RecursionError, LookupError, TypeError):
                continue  # a line that a killed process left half: its file is then not known as ours
        return found


def refusal(paths: Iterable[Path]) -> str:
    """Say that files are there which no earlier command wrote."""
    names = " and ".join(map(str, paths))
    return f"{names}: a file that no earlier transcription wrote is there; name another --out, or add --overwrite"


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
