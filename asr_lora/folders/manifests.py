"""Read and write the manifest of a folder. It is written last and atomically: a folder that has one is complete."""

import json
import os
import platform
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar, cast

from pydantic import BaseModel, ConfigDict, ValidationError

from asr_lora.errors import ConfigError, DataError, first_line
from asr_lora.folders.atomic import write_text

SCHEMA_VERSION = 1
MAX_DEPTH = 50
LIBRARIES = (
    "asr_lora",
    "torch",
    "torchaudio",
    "transformers",
    "peft",
    "accelerate",
    "bitsandbytes",
    "datasets",
    "jiwer",
    "num2words",
)


class Record(BaseModel):
    """Part of a manifest. Keys that this version does not know are kept, and written again."""

    model_config = ConfigDict(frozen=True, extra="allow", protected_namespaces=())

    def __getitem__(self, key: str) -> Any:
        """Return a value of the JSON by its key, as programs read manifests before they had types."""
        return self.to_json()[key]

    def to_json(self) -> dict[str, Any]:
        """Return what JSON holds of the record: the keys that were given or read, without defaults."""
        return self.model_dump(mode="json", exclude_unset=True)


class MadeWith(Record):
    """The software, the machine and the time (UTC) of a manifest."""

    libraries: dict[str, str] = {}
    commit: str | None = None
    machine: str = ""
    time: str = ""


class ManifestRecord(Record):
    """The fields of every manifest; `Folder.write` adds kind, schema version and provenance."""

    kind: str = ""
    schema_version: int = 0
    fingerprint: str | None = None  # digest of everything that the folder was made from
    made_with: MadeWith = MadeWith()


R = TypeVar("R", bound=ManifestRecord)


@dataclass(frozen=True)
class Folder(Generic[R]):
    """A folder of one kind with a manifest, whose presence means that the folder is complete."""

    root: Path
    kind: ClassVar[str]
    manifest_name: ClassVar[str]
    remedy: ClassVar[str]
    record: ClassVar[type[ManifestRecord]]
    schema: ClassVar[int] = SCHEMA_VERSION

    def __repr__(self) -> str:
        try:
            says = self.caption()
        except (DataError, LookupError, TypeError, ValueError):  # a manifest that something else wrote
            says = f"there is no complete {self.kind}"
        return f"{type(self).__name__}({str(self.root)!r}): {says}"

    def caption(self) -> str:
        """Return what the folder holds in one sentence.

        Raises:
            DataError: the folder is not complete.
        """
        return str(self.read_json().get("verdict", f"a complete {self.kind}"))

    @property
    def manifest(self) -> Path:
        return self.root / self.manifest_name

    @property
    def lock(self) -> Path:
        """The lock of the job that works on the folder; a job that was killed leaves the file, which is then free."""
        return self.root / ".lock"

    @property
    def complete(self) -> bool:
        return self.manifest.is_file()

    def read(self) -> R:
        """Return the manifest.

        Raises:
            DataError: the folder is missing, incomplete, unreadable, of another kind or of another schema, or a key
                of its manifest is missing or has a value of another type.
        """
        body = self.read_json()
        if body.get("schema_version") != self.schema:
            found = body.get("schema_version")
            raise DataError(f"{self.manifest} has schema {found!r}, this version reads {self.schema}. {self.remedy}")
        return self.parse(body)

    def read_json(self) -> dict[str, Any]:
        """Return the manifest as JSON, whatever its schema.

        Raises:
            DataError: the folder is missing, incomplete, unreadable or of another kind.
        """
        if not self.root.is_dir():
            raise DataError(f"no {self.kind} at {self.root}: {self.remedy}")
        if not self.complete:
            raise DataError(f"{self.root} has no {self.manifest_name}: the {self.kind} is unfinished. {self.remedy}")
        try:
            body = json.loads(self.manifest.read_text(encoding="utf-8"))
            if _is_deep(body):
                raise RecursionError
        except (OSError, ValueError, RecursionError) as error:
            raise DataError(f"{self.manifest} cannot be read ({first_line(error)}). {self.remedy}") from error
        if not isinstance(body, dict) or body.get("kind") != self.kind:
            raise DataError(f"{self.manifest} does not describe a {self.kind}. {self.remedy}")
        return body

    def parse(self, body: Mapping[str, object]) -> R:
        """Make a record of the manifest's JSON.

        Raises:
            DataError: a key is missing or has a value of another type.
        """
        try:
            return cast(R, self.record.model_validate(body))
        except ValidationError as error:
            fault = error.errors()[0]
            key, missing = ".".join(map(str, fault["loc"])), fault["type"] == "missing"
            wrong = f"has no {key}" if missing else f"cannot be used ({key}: {fault['msg']})"
            raise DataError(f"{self.manifest} {wrong}. {self.remedy}") from error

    def write(self, record: R) -> None:
        """Write the manifest: the record with kind, schema version, library versions, commit and time added."""
        facts = record.model_dump(mode="json", exclude_unset=True, exclude={"kind", "schema_version", "made_with"})
        stamp = {"kind": self.kind, "schema_version": self.schema, **facts, "made_with": provenance()}
        write_text(self.manifest, json.dumps(stamp, indent=2, ensure_ascii=False) + "\n")

    def reusable(self, fingerprint: str) -> bool:
        """Whether the folder is complete, has its files, and was made from the inputs that `fingerprint` identifies."""
        if not self.complete:
            return False
        body = self.read_json()
        same = body.get("schema_version") == self.schema and body.get("fingerprint") == fingerprint
        return same and self.whole(self.parse(body))

    def whole(self, _: R) -> bool:
        """Whether the files that the manifest names exist."""
        return True

    def require_ours(self, ours: bool, option: str = "with --out") -> None:
        """Check that writing here overwrites no files of another kind.

        Raises:
            ConfigError: the folder is not empty, and `ours` is false.
        """
        if not ours and self.root.is_dir() and any(path != self.lock for path in self.root.iterdir()):
            raise ConfigError(f"{self.root} holds something else: name an empty or new folder {option}")


def _is_deep(body: object) -> bool:
    """Whether JSON is nested more deeply than any manifest, and than pydantic writes it again."""
    level = [body]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for value in level
            if isinstance(value, dict | list)
            for inner in (value.values() if isinstance(value, dict) else value)
        ]
    return bool(level)


def provenance() -> dict[str, object]:
    """Library versions, git commit where there is one, machine and time (UTC)."""
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    return {"libraries": dict(_library_versions()), "commit": git_commit(), "machine": machine, "time": now}


@cache
def _library_versions() -> dict[str, str]:
    """Versions of the libraries that are installed; looked up once, since each takes some milliseconds."""
    versions = {}
    for name in LIBRARIES:
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


def git_commit() -> str | None:
    """Commit of the checkout this package runs from; None when it was installed without one."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, timeout=5, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
