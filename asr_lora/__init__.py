"""Adapt Whisper to a language or a domain, and show what that bought.

The verbs of the command line are functions here: `prepare`, `check`, `train`, `evaluate`, `compare`, `transcribe`,
`serve`, `promote`, `export`, `push`, `adapt`, `analyze`; `sweep` is `sweep_settings`, and `check_labels` is `check` of
a dataset. Each is imported when first used, so that importing the package costs nothing.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "prepare": "asr_lora.dataset.prepare",
    "check": "asr_lora.forecast.check",
    "check_labels": "asr_lora.workflows.check_labels",
    "doctor": "asr_lora.workflows.check_labels",
    "train": "asr_lora.training.train",
    "evaluate": "asr_lora.evaluation.evaluate",
    "compare": "asr_lora.evaluation.compare",
    "transcribe": "asr_lora.transcription.transcribe",
    "promote": "asr_lora.workflows.promote",
    "sweep_strengths": "asr_lora.workflows.promote",
    "export": "asr_lora.exporting.export",
    "push": "asr_lora.workflows.publish",
    "adapt": "asr_lora.workflows.adapt",
    "serve": "asr_lora.serving.serve",
    "analyze": "asr_lora.workflows.analyze",
    "sweep_settings": "asr_lora.workflows.sweep",
    "load_config": "asr_lora.config",
}
__all__ = [*_HOMES, "__version__"]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'asr_lora' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
