"""A model as users name one -> a Whisper ready to transcribe, and the facts that a report states of it.

A name is a hub id, a Transformers or CTranslate2 folder, a run folder, an adapter folder, or `pypi:whisper-base`.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from asr_lora.artifacts import RunFolder, folder_bytes
from asr_lora.config import Context, Precision, Task
from asr_lora.errors import ConfigError, DataError
from asr_lora.language import whisper_language
from asr_lora.model.adapters import ADAPTER_CONFIG, adapter_base, load_merged
from asr_lora.model.whisper import Whisper, compute_dtype, default_device, load_whisper


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


@dataclass(frozen=True)
class System:
    """A loaded model and where it came from."""

    whisper: Whisper
    base: str
    weights: Path | None  # folder of the adapter or the fine-tuned model
    training: Training | None  # None: untouched, or trained elsewhere


def open_system(
    name: str,
    *,
    language: str | None = None,
    task: Task | None = None,
    context: Context | None = None,
    precision: Precision = Precision.AUTO,
) -> System:
    """Load a model by any name. Language, task and context come from the run unless they are given.

    An adapter is merged into its base in float32, then brought to the precision asked, so it costs nothing. A model
    that nothing is known of is given the full context, which is what Whisper was trained on.

    Raises:
        ConfigError: no language is given and none is recorded, or it is unknown.
        DataError: the model is not there, the run is unfinished, or the adapter does not fit.
    """
    run, weights, base = _locate(name)
    recorded = run["model"] if run else {}
    language = language or recorded.get("language")
    if not language:
        raise ConfigError(f"{name} does not say its language: add --language, for example --language Dutch")
    task = task or Task(recorded.get("task", Task.TRANSCRIBE))
    context = context or Context(recorded.get("context", Context.FULL))
    device = default_device()
    dtype = compute_dtype(precision, device)
    if weights is not None and (weights / ADAPTER_CONFIG).is_file():
        whisper = load_merged(base, weights, language, dtype, task=task, device=device)
    else:
        whisper = load_whisper(str(weights or base), language, task=task, dtype=dtype, device=device)
    whisper = replace(whisper, context=context, source=name)
    return System(whisper, base, weights, _training(run, weights))


def system_language(name: str, language: str | None, otherwise: str | None = None) -> str | None:
    """Whisper's code of the language that a model would be told, without loading it; None when nobody says.

    Raises:
        ConfigError: an unknown language.
        DataError: the model is not there, or the run is unfinished.
    """
    run, _, _ = _locate(name)
    found = language or (run["model"]["language"] if run else None) or otherwise
    return whisper_language(found) if found else None


def _locate(name: str) -> tuple[dict[str, Any] | None, Path | None, str]:
    """Return (run.json or None, folder of the weights or None, name of the base)."""
    folder = Path(name).expanduser()
    if (folder / RunFolder(folder).config.name).is_file() or RunFolder(folder).complete:
        return _from_run(RunFolder(folder), name)
    run = RunFolder(folder.parent)
    if run.complete and folder.resolve() == run.weights(run.read()["method"]).resolve():
        return _from_run(run, name)  # the weights within a run: the run knows their language and context
    if (folder / ADAPTER_CONFIG).is_file():
        return None, folder, adapter_base(folder)
    return None, None, name


def _from_run(run: RunFolder, name: str) -> tuple[dict[str, Any], Path, str]:
    body = run.read()
    weights = run.weights(body["method"])
    if not weights.is_dir():
        raise DataError(f"{name} has lost its weights ({weights}): train it again")
    return body, weights, body["model"]["name"]


def _training(run: dict[str, Any] | None, weights: Path | None) -> Training | None:
    if run is None or weights is None:
        return None
    return Training(
        method=run["method"],
        trainable_parameters=run["parameters"]["trainable"],
        total_parameters=run["parameters"]["total"],
        weights_bytes=folder_bytes(weights),
        seconds=run["train_seconds"],
        peak_memory_bytes=run["peak_memory_bytes"],
        hours_of_speech=run["train"]["hours"],
        epochs=run["train"]["epochs"],
        step=run["best"]["step"],
        dev_wer=run["best"]["dev_wer"],
    )


def system_digest(name: str) -> object:
    """What changes when the model does: the digest of its run's weights, or the sizes and times of its files."""
    run, weights, base = _locate(name)
    if run is not None:
        return run["weights_digest"], run["model"]["context"]
    folder = weights or Path(base).expanduser()
    if not folder.is_dir():
        return base
    return sorted((path.name, path.stat().st_size, int(path.stat().st_mtime)) for path in folder.iterdir())
