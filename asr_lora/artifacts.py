"""The only place where names of files on disk are written: dataset, run and report folders.

Every folder has one manifest, written last and atomically: *manifest there = complete*.
"""

import hashlib
import json
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar

from asr_lora.errors import AsrLoraError, ConfigError, DataError

SCHEMA_VERSION = 1
SPLITS = ("train", "dev", "test")
CARD = "README.md"  # of a published model
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


@dataclass(frozen=True)
class Folder:
    """A folder of one kind; `manifest` is the file whose presence means that the folder is complete."""

    root: Path
    kind: ClassVar[str]
    manifest_name: ClassVar[str]
    remedy: ClassVar[str]
    schema: ClassVar[int] = SCHEMA_VERSION

    @property
    def manifest(self) -> Path:
        return self.root / self.manifest_name

    @property
    def complete(self) -> bool:
        return self.manifest.is_file()

    def read(self) -> dict[str, Any]:
        """Return the manifest.

        Raises:
            DataError: the folder is missing, incomplete, unreadable, of another kind or of another schema.
        """
        body = self.read_any()
        if body.get("schema_version") != self.schema:
            found = body.get("schema_version")
            raise DataError(f"{self.manifest} has schema {found!r}, this version reads {self.schema}. {self.remedy}")
        return body

    def read_any(self) -> dict[str, Any]:
        """Return the manifest, whatever its schema.

        Raises:
            DataError: the folder is missing, incomplete, unreadable or of another kind.
        """
        if not self.root.is_dir():
            raise DataError(f"no {self.kind} at {self.root}: {self.remedy}")
        if not self.complete:
            raise DataError(f"{self.root} has no {self.manifest_name}: the {self.kind} is unfinished. {self.remedy}")
        try:
            body = json.loads(self.manifest.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(f"{self.manifest} cannot be read ({error}). {self.remedy}") from error
        if not isinstance(body, dict) or body.get("kind") != self.kind:
            raise DataError(f"{self.manifest} does not describe a {self.kind}. {self.remedy}")
        return body

    def write(self, body: dict[str, Any]) -> None:
        """Write the manifest: `body` with kind, schema version, library versions, commit and time added."""
        stamp = {"kind": self.kind, "schema_version": self.schema, **body, "made_with": provenance()}
        write_text(self.manifest, json.dumps(stamp, indent=2, ensure_ascii=False) + "\n")

    def reusable(self, fingerprint: str) -> bool:
        """Whether the folder is complete, has lost nothing, and was made from exactly what `fingerprint` stands for."""
        if not self.complete:
            return False
        body = self.read_any()
        same = body.get("schema_version") == self.schema and body.get("fingerprint") == fingerprint
        return same and self.whole(body)

    def whole(self, _: dict[str, Any]) -> bool:
        """Whether the files that the manifest speaks of are there."""
        return True

    def require_ours(self, ours: bool, option: str = "with --out") -> None:
        """Check that nothing of somebody else's would be written over.

        Raises:
            ConfigError: the folder holds something and it is not `ours`.
        """
        if not ours and self.root.is_dir() and any(self.root.iterdir()):
            raise ConfigError(f"{self.root} holds something else: name an empty or new folder {option}")


class DatasetFolder(Folder):
    kind = "dataset"
    manifest_name = "dataset.json"
    remedy = "Make it with: asr-lora prepare SOURCE --language LANGUAGE --out FOLDER"
    schema = 2  # 2: rows say what decoding showed

    def split(self, name: str) -> Path:
        return self.root / f"{name}.parquet"

    def subset(self, name: str) -> Path:
        return self.root / "subsets" / f"{name}.txt"

    def missing_ids(self, name: str) -> Path:
        """Ids of a given list that train lacks; not there when it has them all."""
        return self.root / "subsets" / f"{name}.missing.txt"

    @property
    def dropped(self) -> Path:
        return self.root / "dropped.jsonl"

    @property
    def diagnosis(self) -> "DiagnosisFolder":
        return DiagnosisFolder(self.root / "doctor")

    @property
    def leaks(self) -> Path:
        """Utterances that share speaker, sentence or sound with another split or dataset."""
        return self.root / "leaks.jsonl"

    @property
    def work(self) -> Path:
        """What an unfinished `prepare` keeps, so that it goes on where it stopped."""
        return self.root / ".prepare"

    @property
    def lock(self) -> Path:
        return self.work / "lock"

    @property
    def stamp(self) -> Path:
        """The fingerprint of what the work folder is for."""
        return self.work / "stamp"

    @property
    def plan(self) -> Path:
        return self.work / "plan.sqlite"

    @property
    def scratch(self) -> Path:
        return self.work / "scratch.sqlite"

    def part(self, number: int) -> Path:
        return self.work / f"part-{number:06}.parquet"

    def draft(self, split: str) -> Path:
        """A split that is being joined from the parts."""
        return self.work / f"{split}.parquet"

    def whole(self, body: dict[str, Any]) -> bool:
        subsets = {self.subset(name): facts for name, facts in body["subsets"].items()}
        return self._has_splits(body) and all(_has_bytes(path, facts["bytes"]) for path, facts in subsets.items())

    def _has_splits(self, body: dict[str, Any]) -> bool:
        splits = {self.split(name): facts for name, facts in body["splits"].items()}
        listed = self.dropped.is_file() and self.leaks.is_file()
        return listed and all(_has_bytes(path, facts["bytes"]) for path, facts in splits.items())

    def has_speech(self, stamp: str, seed: int) -> bool:
        """Whether the splits are whole, whatever the subsets, and made of what `stamp` stands for.

        Args:
            seed: must be the one that they were made with, where a seed decided anything.
        """
        if not self.complete:
            return False
        body = self.read_any()
        made = body.get("schema_version"), body.get("speech_fingerprint"), body.get("speech_seed")
        return made in ((self.schema, stamp, seed), (self.schema, stamp, None)) and self._has_splits(body)

    def splits_digest(self) -> str:
        """A digest of all splits, which no subset changes."""
        return fingerprint({name: facts["sha256"] for name, facts in self.read()["splits"].items()})

    def split_file(self, name: str) -> Path:
        """Return the parquet file of a split, with its size checked against the manifest.

        Raises:
            DataError: the dataset is incomplete, or has no such split.
        """
        splits = self.read()["splits"]
        path = self.split(name)
        if name not in splits:
            raise DataError(f"{self.root} has no split {name!r}; it has {', '.join(splits)}")
        if not _has_bytes(path, splits[name]["bytes"]):
            raise DataError(f"{path} is missing or cut short. {self.remedy}")
        return path

    def subset_ids(self, name: str) -> list[str]:
        """Return the ids of a low-data subset of train.

        Raises:
            ConfigError: there is no such subset.
        """
        if name not in self.read()["subsets"] or not self.subset(name).is_file():
            known = ["all", *self.read()["subsets"]]
            raise ConfigError(f"data.subset: {self.root} has no subset {name!r}; it has {', '.join(known)}")
        return self.subset(name).read_text(encoding="utf-8").splitlines()


class DownloadFolder(Folder):
    """A dataset's archive as a platform has sent it."""

    kind = "download"
    manifest_name = "download.json"
    remedy = "Remove the folder and run the same command again"

    def archive(self, name: str) -> Path:
        return self.root / name

    @property
    def lock(self) -> Path:
        return self.root / ".lock"

    def part(self, name: str) -> Path:
        """What has come of an archive so far, as `datacollective` names it."""
        return self.root / f"{name}.part"

    def whole(self, body: dict[str, Any]) -> bool:
        return _has_bytes(self.archive(body["file"]), body["bytes"])


class DiagnosisFolder(Folder):
    """What is suspicious about a dataset's labels; `root` lies within the dataset's."""

    kind = "diagnosis"
    manifest_name = "doctor.json"
    remedy = "Make it with: asr-lora check DATASET"

    @property
    def findings(self) -> Path:
        return self.root / "findings.jsonl"

    @property
    def page(self) -> Path:
        return self.root / "index.html"

    def opinions(self, stamp: str) -> Path:
        """What a model thinks of each utterance, kept while it goes through them, so that it goes on after a stop."""
        return self.root / f"opinions-{stamp}.jsonl"

    @property
    def all_opinions(self) -> list[Path]:
        return sorted(self.root.glob("opinions-*.jsonl"))


class RunFolder(Folder):
    kind = "run"
    manifest_name = "run.json"
    remedy = "Finish it with: asr-lora train CONFIG --resume"

    @property
    def config(self) -> Path:
        return self.root / "config.yaml"

    @property
    def metrics(self) -> Path:
        return self.root / "metrics.jsonl"

    @property
    def tensorboard(self) -> Path:
        return self.root / "tensorboard"

    @property
    def checkpoint(self) -> Path:
        return self.root / "checkpoint"

    @property
    def snapshots(self) -> Path:
        """Weights of the last evaluations, for averaging."""
        return self.root / "snapshots"

    def snapshot(self, step: int) -> Path:
        return self.snapshots / f"{step:09}.safetensors"

    def weights(self, method: str) -> Path:
        """The best weights by dev WER: a PEFT adapter, or a whole model after full fine-tuning."""
        return self.root / ("model" if method == "full" else "adapter")

    def export(self, format: str) -> Path:  # noqa: A002
        """Where `push` keeps what it exports by itself."""
        return self.root / "export" / format

    def whole(self, body: dict[str, Any]) -> bool:
        return self.weights(body["method"]).is_dir()


class ReportFolder(Folder):
    kind = "report"
    manifest_name = "report.json"
    remedy = "Make it with: asr-lora evaluate MODEL DATASET --out FOLDER"

    @property
    def hypotheses(self) -> Path:
        return self.root / "hypotheses.jsonl"

    def whole(self, _: dict[str, Any]) -> bool:
        return self.hypotheses.is_file()

    def partial(self, rank: int) -> Path:
        """What a process has transcribed so far, so that an interrupted evaluation goes on where it stopped."""
        return self.root / f"hypotheses.partial-{rank}.jsonl"

    @property
    def partials(self) -> list[Path]:
        return sorted(self.root.glob("hypotheses.partial-*.jsonl"))


class ComparisonFolder(Folder):
    kind = "comparison"
    manifest_name = "comparison.json"
    remedy = "Make it with: asr-lora compare REPORT REPORT --out FOLDER"

    @property
    def page(self) -> Path:
        return self.root / "index.html"

    @property
    def markdown(self) -> Path:
        return self.root / "table.md"

    @property
    def csv(self) -> Path:
        return self.root / "table.csv"


class SweepFolder(Folder):
    """Reports of one adapter at several strengths."""

    kind = "strength sweep"
    manifest_name = "sweep.json"
    remedy = "Make it with: asr-lora evaluate RUN DATASET --strength-sweep --out FOLDER"

    def report(self, strength: float) -> Path:
        return self.root / f"strength-{strength:g}"

    @property
    def ours(self) -> bool:
        """Whether it holds nothing but a sweep, complete or interrupted."""
        names = {path.name for path in self.root.iterdir()} if self.root.is_dir() else set()
        return all(name == self.manifest_name or name.startswith("strength-") for name in names)


class AnalysisFolder(Folder):
    """What training changed in the weights of some runs."""

    kind = "analysis"
    manifest_name = "analysis.json"
    remedy = "Make it with: asr-lora analyze RUN --out FOLDER"

    @property
    def page(self) -> Path:
        return self.root / "index.html"

    @property
    def markdown(self) -> Path:
        return self.root / "table.md"

    @property
    def matrices(self) -> Path:
        return self.root / "matrices.csv"

    def whole(self, _: dict[str, Any]) -> bool:
        return all(path.is_file() for path in (self.page, self.markdown, self.matrices))


class VariantsFolder(Folder):
    """Runs of one sweep over settings, their reports, and a table for each split that they were scored on."""

    kind = "sweep"
    manifest_name = "variants.json"
    remedy = "Finish it with: asr-lora sweep FILE --out FOLDER"

    def config(self, name: str) -> Path:
        return self.root / "configs" / f"{name}.yaml"

    def run(self, name: str) -> Path:
        return self.root / "runs" / name

    def report(self, name: str, split: str) -> Path:
        return self.root / "reports" / split / name

    def page(self, split: str) -> Path:
        return self.root / f"{split}.html"

    def markdown(self, split: str) -> Path:
        return self.root / f"{split}.md"

    def csv(self, split: str) -> Path:
        return self.root / f"{split}.csv"

    @property
    def ours(self) -> bool:
        """Whether it holds nothing but a sweep, complete or not."""
        tables = {path.name for split in SPLITS for path in (self.page(split), self.markdown(split), self.csv(split))}
        known = {"configs", "runs", "reports", self.manifest_name, *tables}
        return self.root.is_dir() and {path.name for path in self.root.iterdir()} <= known


class PromotionFolder(Folder):
    """What a run's folder says of its promotion; `root` is the run's."""

    kind = "promotion"
    manifest_name = "promoted.json"
    remedy = "Make it with: asr-lora promote RUN"

    def report(self, model: str, dataset: Path) -> Path:
        """Where the report of a model on a dataset's dev split is kept, so that another's is not in its way."""
        return self.root / "promotion" / f"{dataset.resolve().name}-{fingerprint(model, dataset.resolve())[:8]}"


class ExportFolder(Folder):
    """A run in the format of another engine, and the proof that it hears the same there."""

    kind = "export"
    manifest_name = "export.json"
    remedy = "Make it with: asr-lora export RUN --format FORMAT --out FOLDER"

    def ggml(self, packing: str) -> Path:
        """The one file that whisper.cpp loads, named as its own models are."""
        return self.root / f"ggml-model-{packing}.bin"

    @property
    def files(self) -> list[Path]:
        """What was exported, without the manifest."""
        return sorted(path for path in self.root.rglob("*") if path.is_file() and path != self.manifest)

    def listed(self) -> list[dict[str, Any]]:
        """Name, size and SHA-256 of each file."""
        return [
            {"name": str(path.relative_to(self.root)), "bytes": path.stat().st_size, "sha256": sha256_file(path)}
            for path in self.files
        ]

    def whole(self, body: dict[str, Any]) -> bool:
        return all((self.root / file["name"]).is_file() for file in body["files"])


class AdaptFolder(Folder):
    """Everything that one `asr-lora adapt` makes."""

    kind = "adaptation"
    manifest_name = "adapt.json"
    remedy = "Make it with: asr-lora adapt SOURCE --language LANGUAGE --out FOLDER"

    @property
    def dataset(self) -> Path:
        return self.root / "data"

    @property
    def transcripts(self) -> Path:
        return self.root / "transcripts"

    @property
    def comparison(self) -> Path:
        return self.root / "reports" / "comparison"

    def config(self, method: str) -> Path:
        return self.root / "configs" / f"{method}.yaml"

    def run(self, method: str) -> Path:
        return self.root / "runs" / method

    def report(self, system: str) -> Path:
        return self.root / "reports" / system


def _has_bytes(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def downloads_folder() -> Path:
    """Where archives that were downloaded are kept: where the platform's own client is told to, or a cache."""
    return Path(os.environ.get("MDC_DOWNLOAD_PATH") or "~/.cache/asr_lora/downloads").expanduser()


class ReleaseFolder:
    """Names inside a Common Voice release, which others write and we only read."""

    CLIPS = "clips"
    AUDIOS = "audios"  # of Spontaneous Speech
    SPONTANEOUS = "ss-corpus-*.tsv"

    @staticmethod
    def table(split: str) -> str:
        return f"{split}.tsv"


class KaldiFolder:
    """Names inside a Kaldi data folder."""

    RECORDINGS = "wav.scp"
    TEXT = "text"
    SEGMENTS = "segments"
    SPEAKERS = "utt2spk"
    GENDERS = "spk2gender"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a name beside `path` to write to; rename it onto `path` on success, remove it otherwise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
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

    Raises:
        OSError: it could not be written, whatever kind of error torch or safetensors make of a full disk.
    """
    draft = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        yield draft
        for path in draft.rglob("*"):
            if path.is_file():
                with path.open("rb") as handle:
                    os.fsync(handle.fileno())
        shutil.rmtree(set_aside(folder), ignore_errors=True)
        if folder.exists():
            folder.rename(set_aside(folder))
        draft.rename(folder)
        shutil.rmtree(set_aside(folder), ignore_errors=True)
    except (OSError, AsrLoraError):
        raise
    except Exception as error:
        raise OSError(f"{folder} could not be written: {error}") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def set_aside(folder: Path) -> Path:
    """Where `replacing_folder` keeps the folder before, for the moment between its two renames."""
    return folder.with_name(f".{folder.name}.before")


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically and durably: afterwards `path` is the old file or the new, never half of one."""
    with replacing(path) as draft, draft.open("w", encoding="utf-8", errors="surrogateescape") as handle:
        handle.write(text)
        handle.flush()
        os.fsync(handle.fileno())


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write one JSON object a line, atomically."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def stream_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write one JSON object a line as they come, however many; `path` is there when all of them are."""
    with replacing(path) as draft, draft.open("w", encoding="utf-8", errors="surrogateescape") as handle:
        for row in rows:
            handle.write(json.dumps(row, ensure_ascii=False) + "\n")
        handle.flush()
        os.fsync(handle.fileno())


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Read one JSON object a line; what follows the last line's end, as a killed process leaves it, is ignored.

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
        except ValueError as error:
            raise DataError(f"{path}, line {number}: not JSON ({error})") from error
        if not isinstance(row, dict):
            raise DataError(f"{path}, line {number}: not a JSON object")
        rows.append(row)
    return rows


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


def provenance() -> dict[str, Any]:
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
    here = Path(__file__).resolve().parent
    if not (here.parent / ".git").exists():
        return None
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, timeout=5, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
