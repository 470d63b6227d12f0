"""Adapt Whisper to a language or a domain, and show what that bought.

The verbs of the command line are functions here: `prepare`, `check`, `train`, `evaluate`, `compare`, `transcribe`,
`serve`, `promote`, `export`, `push`, `adapt`, `analyze`; `sweep` is `sweep_settings`, and `doctor` is `check` of a
dataset. Each is imported when first used, so that importing the package costs nothing.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "prepare": "asr_lora.audio.prepare",
    "check": "asr_lora.training.check",
    "doctor": "asr_lora.audio.doctor",
    "train": "asr_lora.training.train",
    "evaluate": "asr_lora.scoring.evaluate",
    "compare": "asr_lora.scoring.compare",
    "transcribe": "asr_lora.transcription.transcribe",
    "promote": "asr_lora.promotion",
    "sweep_strengths": "asr_lora.promotion",
    "export": "asr_lora.exporting.export",
    "push": "asr_lora.publishing",
    "adapt": "asr_lora.adaptation",
    "serve": "asr_lora.serving.serve",
    "analyze": "asr_lora.analysis",
    "sweep_settings": "asr_lora.sweep",
    "load_config": "asr_lora.config",
}
__all__ = [*_HOMES, "__version__"]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'asr_lora' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
