"""A model as users name one -> a Whisper ready to transcribe, and the facts that a report states of it.

A name is a hub id, a Transformers or CTranslate2 folder, a run or export folder, an adapter folder, or
`pypi:whisper-base`. That
of a run or adapter may end in its strength: `runs/x@0.7` takes seven tenths of the adapter's update.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from asr_lora.config import Context, Precision, Task
from asr_lora.errors import ConfigError, DataError
from asr_lora.folders.atomic import read_jsonl
from asr_lora.folders.digests import folder_bytes
from asr_lora.folders.run_folder import ExportFolder, RunFolder, RunModel, RunRecord
from asr_lora.language import borrowed_token, spoken_language
from asr_lora.model.adapters.files import ADAPTER_CONFIG, adapter_base
from asr_lora.model.adapters.merging import load_merged
from asr_lora.model.adapters.multi_lora import load_adapters
from asr_lora.model.whisper import Whisper, load_whisper, resolve_source
from asr_lora.system.device import compute_dtype, default_device


@dataclass(frozen=True)
class Training:
    """What a run cost and made."""

    method: str
    trainable_parameters: int
    total_parameters: int
    weights_bytes: int
    seconds: float
    peak_memory_bytes: int
    hours_of_speech: float
    epochs: float
    step: int
    dev_wer: float | None
    curve: list[dict[str, float]]  # dev at each evaluation: step, seconds since the run began, wer, cer
    config: dict[str, Any] | None  # as config.yaml has it; None: a run from before it was recorded
    data: dict[str, str]  # SHA-256 of splits and subset; empty: a run from before they were recorded
    made_with: dict[str, Any]  # libraries, commit, machine and time of the training


@dataclass(frozen=True)
class System:
    """A loaded model and where it came from."""

    whisper: Whisper
    base: str
    weights: Path | None  # folder of the adapter or the fine-tuned model
    training: Training | None  # None: untouched, or trained elsewhere
    strength: float | None  # share of the adapter's update; None: no adapter


@dataclass(frozen=True)
class Told:
    """The language that a model is told."""

    language: str  # code of what is spoken
    token: str | None  # code of the language whose token is borrowed; None: it has its own


@dataclass(frozen=True)
class Tuned:
    """What was trained, found and not loaded."""

    base: str
    weights: Path  # folder of the adapter or the fine-tuned model
    adapter: bool  # otherwise every weight was trained
    run: RunRecord | None  # None: trained elsewhere


@dataclass(frozen=True)
class Place:
    """What a name stands for, before anything is loaded."""

    name: str
    run: RunRecord | None
    weights: Path | None  # folder of the adapter or the fine-tuned model
    base: str
    strength: float | None = None  # None: no adapter
    exported: RunModel | None = None  # what an export's manifest says; None: no export

    @property
    def recorded(self) -> RunModel | None:
        """Language, borrowed token, task and context as its run or export records them; None: neither is there."""
        return self.run.model if self.run else self.exported

    @property
    def context(self) -> Context:
        """What the encoder saw in training; all 30 s where nobody says, as Whisper was trained on them."""
        return self.recorded.context if self.recorded else Context.FULL


def open_system(
    name: str | Place,
    *,
    language: str | None = None,
    language_token: str | None = None,
    task: Task | None = None,
    context: Context | None = None,
    precision: Precision = Precision.AUTO,
) -> System:
    """Load a model by any name, or what `locate` found. Language, task and context come from the run unless given.

    An adapter is merged into its base in float32, then brought to the precision asked, so it costs nothing. A model
    that nothing is known of is given the full context, which is what Whisper was trained on.

    Raises:
        ConfigError: no language is given and none is recorded, or it is unknown; a strength without an adapter.
        DataError: the model is not there, the run is unfinished, or the adapter does not fit.
    """
    place = locate(name)
    told, task = require_told(place, language, language_token, task)
    device = default_device()
    dtype = compute_dtype(precision, device)
    if place.weights is not None and place.strength is not None:
        whisper = load_merged(
            place.base, place.weights, told.language, dtype, language_token=told.token, task=task, device=device,
            strength=place.strength,
        )  # fmt: skip
    else:
        source = str(place.weights or place.base)
        whisper = load_whisper(
            source, told.language, language_token=told.token, task=task, dtype=dtype, device=device
        )  # fmt: skip
    whisper = replace(whisper, context=context or place.context, source=place.name)
    return System(whisper, place.base, place.weights, training_of(place), place.strength)


def require_told(
    place: Place, language: str | None = None, token: str | None = None, task: Task | None = None
) -> tuple[Told, Task]:
    """What a model is told: what is given, or else recorded.

    Raises:
        ConfigError: no language is either, or it is unknown.
    """
    told = _told(place, language, token)
    if told is None:
        raise ConfigError(f"{place.name} does not say its language: add --language, for example --language Dutch")
    return told, task or (place.recorded.task if place.recorded else Task.TRANSCRIBE)


@dataclass(frozen=True)
class Voice:
    """Which part of a loaded model transcribes something, and as what language."""

    language: str | None  # code of what is spoken; None: English-only
    told: str | None  # code of the language whose token the model is given
    context: Context
    adapter: str | None = None  # name among several, or `adapters.multi_lora.BASE`; None: the model as it is


def voice_of(whisper: Whisper) -> Voice:
    """The voice of a model that was opened for one language."""
    return Voice(whisper.language, whisper.told_language, whisper.context)


def open_voices(
    base: str,
    adapters: Mapping[str, str],
    *,
    task: Task | None = None,
    context: Context | None = None,
    precision: Precision = Precision.AUTO,
) -> tuple[Whisper, dict[str, Voice]]:
    """Load one base with several runs or adapters on it, each named and perhaps with a strength.

    Args:
        base: what all of them were trained from.
        adapters: names, such as codes of languages, and what they stand for, such as `runs/nl@0.7`.

    Returns:
        The model, and the voice of each name. An adapter of which no run says the language speaks that of its name.

    Raises:
        ConfigError: no adapter, one of another base, or one whose language nobody says.
        DataError: base or adapters are not there, or do not fit.
    """
    places, voices = find_voices(base, adapters, context=context)
    told = next(iter(voices.values())).told
    assert told is not None
    device = default_device()
    whisper = load_whisper(
        base, told, task=task or Task.TRANSCRIBE, dtype=compute_dtype(precision, device), device=device
    )
    folders = {name: (place.weights, place.strength) for name, place in places.items()}
    return load_adapters(whisper, folders), voices  # type: ignore[arg-type]


def find_voices(
    base: str, adapters: Mapping[str, str], *, context: Context | None = None
) -> tuple[dict[str, Place], dict[str, Voice]]:
    """Find the adapters of a base by name, and how each speaks, without loading any; see `open_voices`."""
    own = resolve_source(base)
    places: dict[str, Place] = {}
    voices: dict[str, Voice] = {}
    for name, given in adapters.items():
        place = locate(given)
        if place.weights is None or place.strength is None:
            raise ConfigError(f"--adapter {name}={given}: this is no adapter; name it as MODEL, alone")
        if resolve_source(place.base) != own:
            raise ConfigError(f"--adapter {name}={given} was trained from {place.base}: name that as MODEL, not {base}")
        told = _told(place, None if place.recorded else name, None)
        assert told is not None  # a run says its language, and the name stands for it otherwise
        voices[name] = Voice(told.language, told.token or told.language, context or place.context, name)
        places[name] = place
    return places, voices


def language_to_tell(
    name: str | Place, language: str | None, token: str | None = None, *, otherwise: str | None = None
) -> Told | None:
    """What a model would be told, without loading it: what is given, the run's, or `otherwise`; None: nobody says.

    Raises:
        ConfigError: an unknown language, or one that Whisper has no token for and none is borrowed.
        DataError: the model is not there, or the run is unfinished.
    """
    return _told(locate(name), language, token, otherwise)


def _told(place: Place, language: str | None, token: str | None, otherwise: str | None = None) -> Told | None:
    recorded = place.recorded
    found = language or (recorded.language if recorded else None) or otherwise
    if not found:
        return None
    code = spoken_language(found)
    if token is None and recorded and spoken_language(recorded.language) == code:  # told another, it borrows nothing
        token = recorded.language_token
    return Told(code, borrowed_token(code, token))


def find_tuned(name: str) -> Tuned:
    """Find a run or adapter by name.

    Raises:
        ConfigError: it is named with a strength.
        DataError: it is not there, or is a model of which nobody knows what it was trained from.
    """
    model, strength = split_strength(name)
    if strength is not None:
        raise ConfigError(f"{name}: what was trained is looked at as a whole; name {model}")
    place = locate(name)
    if place.weights is None:
        raise DataError(f"{name} is no run or adapter, so nothing says what it was trained from: name a run folder")
    return Tuned(place.base, place.weights, place.strength is not None, place.run)


def split_strength(name: str) -> tuple[str, float | None]:
    """Part a name such as `runs/x@0.7` into model and strength; a path that exists is a name as it stands.

    Raises:
        ConfigError: what follows the @ is no number from 0 to 1.
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


def locate(name: str | Place) -> Place:
    """Find what a name stands for, and read its run; a place that is found already is left as it is.

    Raises:
        ConfigError: a strength where there is no adapter, or that is no number from 0 to 1.
        DataError: the run is unfinished or has lost its weights.
    """
    return name if isinstance(name, Place) else _locate(name)


def _locate(name: str) -> Place:
    model, strength = split_strength(name)
    place = replace(_find(model), name=name)
    if place.weights is not None and (place.weights / ADAPTER_CONFIG).is_file():
        return replace(place, strength=1.0 if strength is None else strength)
    if strength is not None:
        kind = "was fine-tuned in full" if place.weights else "is no adapter"
        raise ConfigError(f"{name}: only an adapter has a strength, and {model} {kind}; name it without @{strength:g}")
    return place


def _find(name: str) -> Place:
    folder = Path(name).expanduser()
    if (folder / RunFolder(folder).config.name).is_file() or RunFolder(folder).complete:
        return _from_run(RunFolder(folder), name)
    run = RunFolder(folder.parent)
    if run.complete and folder.resolve() == run.weights(run.read().method).resolve():
        return _from_run(run, name)  # the weights within a run: the run knows their language and context
    export = ExportFolder(folder)
    exported = RunModel.model_validate({"name": name, **export.read()}) if export.complete else None
    if (folder / ADAPTER_CONFIG).is_file():
        return Place(name, None, folder, adapter_base(folder), exported=exported)
    return Place(name, None, None, name, exported=exported)


def _from_run(run: RunFolder, name: str) -> Place:
    body = run.read()
    weights = run.weights(body.method)
    if not weights.is_dir():
        raise DataError(f"{name} has lost its weights ({weights}): train it again")
    return Place(name, body, weights, body.model.name)


def training_of(place: Place) -> Training | None:
    """What is recorded of the training of a place's weights; None where there was none, or elsewhere."""
    run, weights = place.run, place.weights
    if run is None or weights is None:
        return None
    return Training(
        method=run.method,
        trainable_parameters=run.parameters.trainable,
        total_parameters=run.parameters.total,
        weights_bytes=folder_bytes(weights),
        seconds=run.train_seconds,
        peak_memory_bytes=run.peak_memory_bytes,
        hours_of_speech=run.train.hours,
        epochs=run.train.epochs,
        step=run.best.step,
        dev_wer=run.best.dev_wer,
        curve=_curve(RunFolder(weights.parent), run),
        config=run.config.to_json(),
        data=run.data,
        made_with=run.made_with.to_json(),
    )


def _curve(folder: RunFolder, run: RunRecord) -> list[dict[str, float]]:
    """Dev at each evaluation; a run that did not record when it was is thought to have gone at one pace."""
    rows = read_jsonl(folder.metrics) if folder.metrics.is_file() else []
    pace = run.train_seconds / rows[-1]["step"] if rows else 0.0
    return [
        {
            "step": row["step"],
            "seconds": round(row.get("seconds", pace * row["step"]), 1),
            "wer": row["dev_wer"],
            "cer": row["dev_cer"],
        }
        for row in rows
        if "dev_wer" in row and "dev_cer" in row
    ]


def system_digest(name: str | Place) -> object:
    """What changes when the model does: digest of its run's weights, or sizes and times of its files; its strength."""
    place = locate(name)
    digest = _files_digest(place)
    return digest if place.strength in (None, 1) else (digest, place.strength)


def _files_digest(place: Place) -> object:
    if place.run is not None:
        return place.run.weights_digest, place.run.model.context
    folder = place.weights or Path(place.base).expanduser()
    if not folder.is_dir():
        return place.base
    return sorted((path.name, path.stat().st_size, int(path.stat().st_mtime)) for path in folder.iterdir())
