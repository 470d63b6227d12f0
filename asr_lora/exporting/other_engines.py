"""Run an export in the engine that it is for: greedy decoding, 30 s of context, no timestamps."""

import os
from collections.abc import Callable
from importlib import metadata, util
from pathlib import Path

import numpy as np
import torch

from asr_lora.audio.decode import SAMPLE_RATE
from asr_lora.audio.features import FULL_SECONDS
from asr_lora.decoding.decoding_options import MAX_NEW_TOKENS
from asr_lora.errors import ConfigError
from asr_lora.exporting.recipe import ExportRecipe, Format
from asr_lora.language import Task
from asr_lora.model.adapters.files import load_adapted
from asr_lora.model.whisper import Whisper, resolve_source
from asr_lora.system.device import default_device

Transcriber = Callable[[np.ndarray], str]  # samples (samples,), float32, 16 kHz -> text
PACKAGES = {
    Format.TRANSFORMERS: ("transformers",),
    Format.CTRANSLATE2: ("faster-whisper", "ctranslate2"),
    Format.GGML: ("pywhispercpp",),
    Format.ADAPTER: ("transformers", "peft"),
}


def require_engine(format: Format) -> str:  # noqa: A002
    """Return names and versions of the packages that run a format.

    Raises:
        ConfigError: a package is not installed.
    """
    for name in PACKAGES[format]:
        if util.find_spec(name.replace("-", "_")) is None:
            raise ConfigError(f"--format {format} needs the export extra: pip install 'asr_lora[export]'")
    return ", ".join(f"{name} {metadata.version(name)}" for name in PACKAGES[format])


def open_export(recipe: ExportRecipe, weights: Path, base: str, whisper: Whisper) -> Transcriber:
    """Load an export in its engine, and return a function that transcribes an utterance.

    Args:
        recipe: the recipe of the export.
        weights: its folder, or its file for a format of one file.
        base: the model that an adapter is applied to.
        whisper: the model that was exported; its prompt gives language and task.
    """
    if recipe.format is Format.GGML:
        return _whisper_cpp(weights, whisper)
    if recipe.format is Format.CTRANSLATE2:
        return _faster_whisper(weights, whisper, "int8" if recipe.quantise else "float32")
    return _transformers(weights, resolve_source(base) if recipe.format is Format.ADAPTER else None, whisper)


def _transformers(weights: Path, base: str | None, whisper: Whisper) -> Transcriber:
    """Use Transformers' `generate`; the generation settings of a whole model already force language and task."""
    from transformers import WhisperForConditionalGeneration, WhisperProcessor

    forced: dict[str, str] = {}
    if base is None:
        model = WhisperForConditionalGeneration.from_pretrained(weights, dtype=torch.float32)
    else:
        model = load_adapted(base, weights)
        if whisper.prompt.forced_language:
            forced = {"language": whisper.prompt.forced_language, "task": whisper.prompt.task}
    device = default_device()
    model.to(device).eval()
    processor = WhisperProcessor.from_pretrained(base or weights)

    def transcribe(waveform: np.ndarray) -> str:
        features = processor(waveform, sampling_rate=SAMPLE_RATE, return_tensors="pt").input_features.to(device)
        with torch.inference_mode():
            tokens = model.generate(
                input_features=features, max_new_tokens=MAX_NEW_TOKENS, num_beams=1, do_sample=False, **forced
            )
        return str(processor.batch_decode(tokens, skip_special_tokens=True)[0])

    return transcribe


def _faster_whisper(weights: Path, whisper: Whisper, computes_in: str) -> Transcriber:
    from faster_whisper import WhisperModel

    model = WhisperModel(str(weights), device="cpu", compute_type=computes_in, local_files_only=True)

    def transcribe(waveform: np.ndarray) -> str:
        # Left to itself it fills up the log-mel with zeros, which are no silence: Whisper's own code pads the sound.
        padded = np.pad(waveform, (0, max(0, int(FULL_SECONDS * SAMPLE_RATE) - len(waveform))))
        # At most 224 tokens, as ours: half of its max_length, whatever max_new_tokens says beneath that.
        segments, _ = model.transcribe(
            padded, language=whisper.prompt.forced_language or "en", task=whisper.prompt.task, beam_size=1,
            temperature=0.0, without_timestamps=True, condition_on_previous_text=False,
            no_speech_threshold=None, log_prob_threshold=None, compression_ratio_threshold=None,
        )  # fmt: skip
        return "".join(segment.text for segment in segments)

    return transcribe


def _whisper_cpp(weights: Path, whisper: Whisper) -> Transcriber:
    from pywhispercpp.model import Model

    model = Model(
        str(weights), redirect_whispercpp_logs_to=None, print_progress=False,
        language=whisper.prompt.forced_language or "en", translate=whisper.prompt.task is Task.TRANSLATE,
        no_timestamps=True, single_segment=True, greedy={"best_of": 1}, temperature_inc=0.0, no_speech_thold=1.0,
        suppress_nst=True, max_tokens=MAX_NEW_TOKENS,
        n_threads=len(os.sched_getaffinity(0)),  # more would wait for each other
    )  # fmt: skip

    def transcribe(waveform: np.ndarray) -> str:
        return "".join(segment.text for segment in model.transcribe(waveform))

    return transcribe
