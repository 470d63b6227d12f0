"""Adapt Whisper to a language or a domain, and measure the gain.

The verbs of the command line are functions here: `prepare`, `check`, `train`, `evaluate`, `compare`, `transcribe`,
`serve`, `promote`, `merge`, `export`, `push`, `adapt`, `analyze`; `sweep` is `sweep_settings`, and `check_labels` is
`check` of a dataset. Each is imported when it is first used, so that importing the package costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what editors and mypy read; at run time `__getattr__` imports the same
    from asr_lora.config import load_config
    from asr_lora.dataset.prepare import prepare
    from asr_lora.evaluation.compare import compare
    from asr_lora.evaluation.evaluate import evaluate
    from asr_lora.exporting.export import export
    from asr_lora.forecast.check import check
    from asr_lora.serving.serve import serve
    from asr_lora.sources.demo import demo_speech
    from asr_lora.training.train import train
    from asr_lora.transcription.transcribe import transcribe
    from asr_lora.workflows.adapt import adapt
    from asr_lora.workflows.analyze import analyze
    from asr_lora.workflows.check_labels import check_labels, doctor
    from asr_lora.workflows.merge import merge
    from asr_lora.workflows.promote import promote, sweep_strengths
    from asr_lora.workflows.publish import push
    from asr_lora.workflows.sweep import sweep_settings

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
    "merge": "asr_lora.workflows.merge",
    "promote": "asr_lora.workflows.promote",
    "sweep_strengths": "asr_lora.workflows.promote",
    "export": "asr_lora.exporting.export",
    "push": "asr_lora.workflows.publish",
    "adapt": "asr_lora.workflows.adapt",
    "serve": "asr_lora.serving.serve",
    "analyze": "asr_lora.workflows.analyze",
    "sweep_settings": "asr_lora.workflows.sweep",
    "load_config": "asr_lora.config",
    "demo_speech": "asr_lora.sources.demo",
}
__all__ = [
    "__version__", "adapt", "analyze", "check", "check_labels", "compare", "demo_speech", "doctor", "evaluate",
    "export", "load_config", "merge", "prepare", "promote", "push", "serve", "sweep_settings", "sweep_strengths",
    "train", "transcribe",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'asr_lora' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
