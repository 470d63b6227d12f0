"""Publish a run as a model with a card, in a folder or on the hub."""

import json
import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from asr_lora.dataset.reading import read_split
from asr_lora.errors import ConfigError, DataError
from asr_lora.exporting.card import CardSubject, own_report, write_card
from asr_lora.exporting.export import export, export_dataset
from asr_lora.exporting.hub import require_token, upload
from asr_lora.exporting.privacy import require_publishable
from asr_lora.folders.atomic import replacing_folder
from asr_lora.folders.dataset_folder import DatasetFolder
from asr_lora.folders.digests import sha256_file
from asr_lora.folders.report_folder import ReportFolder
from asr_lora.folders.run_folder import CARD, ExportFolder, ExportRecord, RunFolder
from asr_lora.model.find_model import NamedModel, find_model
from asr_lora.system.locks import owning
from asr_lora.system.progress import say

REPOSITORY = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
PUBLISHED = ("kind", "schema_version", "fingerprint", "model", "base", "strength", "language", "language_token",
             "task", "format", "dtype", "quantise", "files", "dataset", "reference", "engine", "parity")  # fmt: skip


@dataclass(frozen=True)
class Published:
    """What was published, and where."""

    place: str  # the commit's address, or the folder
    files: list[str]
    measured: bool  # whether the card has a report of the model


@owning(lambda *_, to, **__: None if _repository(to) else ExportFolder(Path(to).expanduser()))
def push(
    run: str,
    *,
    to: str,
    exported: Path | None = None,
    private: bool = False,
    reports: Sequence[Path] = (),
    dataset: Path | None = None,
    licence: str | None = None,
    data_licence: str | None = None,
) -> Published:
    """Publish a run: the files of an export, its parity check, and a card written from its records.

    Only files that the export lists and that are unchanged since are published, and only if they name neither folders
    of this machine nor speakers.

    Args:
        run: a run folder, perhaps with a strength.
        to: `owner/name` on the hub, or a folder: one that exists, or whose name begins with a dot, ~ or a slash.
        exported: folder made by `export` of this run; default: the adapter, or the whole model after full fine-tuning,
            is exported now.
        private: whether a new repository on the hub is private.
        reports: folders made by `evaluate`, for the table of the card.
        dataset: the run's own dataset, if it has moved.
        licence: licence of the model; default apache-2.0 if the base is openai/whisper on the hub, else "unknown".
        data_licence: licence of the speech, for the card.

    Raises:
        Refused: the export is made now and does not pass its parity check.
        ConfigError: HF_TOKEN is not set; `to` is neither a repository nor a folder, or holds something else; or none
            of the reports is of the run.
        DataError: run, export, reports or dataset cannot be used, or a file must not be published.
        AsrLoraError: the hub refuses the upload.
    """
    repository = _repository(to)
    if repository:
        require_token()
    elif private:
        raise ConfigError(f"--private is for a repository on the hub, and {to} is a folder: leave it out")
    else:
        ExportFolder(Path(to).expanduser()).require_ours(ExportFolder(Path(to).expanduser()).complete, "with --to")
    place = find_model(run)
    if place.run is None:
        raise ConfigError(f"{run} is no run, so nothing says what it was trained on: name a run folder")
    home = export_dataset(place, dataset)
    body = DatasetFolder(home).read()
    read = [ReportFolder(folder).read() for folder in reports]
    folder = _exported(place, exported, home)
    facts = folder.read()
    if read and not any(own_report(place.run, facts, report) for report in read):
        raise ConfigError(
            f"none of the reports is of {run}: make one with asr-lora evaluate {run} DATASET --out FOLDER"
        )
    for path, report in zip(reports, read, strict=True):
        if not report.system.weights_digest and own_report(place.run, facts, report):
            say(f"note: {path} records no digest of its weights; its training time, step and dev scores match {run}")
    card = write_card(
        CardSubject(place.run, facts, body, read, repository, licence or _licence(facts.base), data_licence)
    )
    files: dict[str, Path | bytes] = {file.name: folder.root / file.name for file in facts.files}
    files |= {CARD: card.encode(), folder.manifest_name: _proof(facts)}
    speakers = {speaker for split in body.splits for speaker in read_split(home, split).speakers}
    own = (folder.root, home, Path(run), *reports, Path.home(), Path.cwd(), Path(tempfile.gettempdir()))
    require_publishable(files, own, speakers)
    where = upload(files, repository, private=private) if repository else _copy(files, Path(to).expanduser())
    return Published(where, list(files), bool(read))


def _repository(to: str) -> str | None:
    """Return `to` if it is a hub id; None if it is a folder."""
    if Path(to).expanduser().is_dir() or to.startswith((".", "~", "/")):
        return None
    if not REPOSITORY.fullmatch(to):
        raise ConfigError(f"--to {to}: name owner/name on the hub, or a folder such as ./{to}")
    return to


def _exported(place: NamedModel, exported: Path | None, dataset: Path) -> ExportFolder:
    """Return the given export after checking it, or one that is made now."""
    assert place.run is not None
    assert place.weights is not None
    if exported is None:
        kind = "transformers" if place.strength is None else "adapter"
        return export(place, format=kind, out=RunFolder(place.weights.parent).export(kind), dataset=dataset)
    folder = ExportFolder(exported)
    facts = folder.read()
    if (facts.weights_digest, facts.strength) != (place.run.weights_digest, place.strength):
        raise ConfigError(
            f"{exported} is no export of {place.name}: make one with asr-lora export {place.name} --out FOLDER"
        )
    for file in facts.files:
        path = folder.root / file.name
        if not path.is_file() or sha256_file(path) != file.sha256:
            raise DataError(f"{path} has changed since its parity check (its SHA-256 differs). {folder.remedy}")
    return folder


def _licence(base: str) -> str:
    return "apache-2.0" if base.startswith("openai/whisper") else "unknown"


def _proof(facts: ExportRecord) -> bytes:
    """Return export.json as it is published: without the machine and its folders."""
    body = facts.to_json()
    kept = {key: body[key] for key in PUBLISHED}
    return (json.dumps(kept, indent=2, ensure_ascii=False) + "\n").encode()


def _copy(files: dict[str, Path | bytes], folder: Path) -> str:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with replacing_folder(folder) as draft:
        for name, content in files.items():
            if isinstance(content, bytes):
                (draft / name).write_bytes(content)
            else:
                shutil.copyfile(content, draft / name)
    return str(folder)
