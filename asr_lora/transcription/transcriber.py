"""A loaded model with its adapters: what the job `transcribe` and the server both hold."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from asr_lora.audio.features import FULL_FRAMES
from asr_lora.config import Context, Precision
from asr_lora.decoding.engine import Engine
from asr_lora.decoding.loading import EngineName, open_adapter_engine, open_engine
from asr_lora.decoding.word_times import alignment_heads
from asr_lora.language import Task, forced_prompt
from asr_lora.model.adapters.multi_lora import BASE
from asr_lora.model.find_model import AdapterSelection, find_adapters, find_model, selection_of
from asr_lora.transcription.longform import SpeechRules, Window, speech_windows, windows

AUTO = "auto"  # as a language: the one that Whisper detects in each recording


@dataclass(frozen=True)
class Transcriber:
    """A loaded model, how its adapters are selected, and how recordings are cut into windows."""

    engine: Engine
    adapters: Mapping[str, AdapterSelection]  # by the names that the user gave them; empty: a model alone
    base: AdapterSelection | None  # the base model, or the model alone; None: the language is detected
    context: Context  # of the base model
    vad: bool = True  # whether only speech is transcribed

    @property
    def has_word_times(self) -> bool:
        """Whether the model's settings name alignment heads, by which times of words are found."""
        return bool(alignment_heads(self.engine.whisper))

    def windows(self, blocks: Iterable[np.ndarray], rules: SpeechRules | None = None) -> Iterator[Window]:
        """Cut a recording into windows; see `asr_lora.transcription.longform`.

        Args:
            rules: find speech by these, also where only whole recordings are transcribed.
        """
        if rules is not None:
            return speech_windows(blocks, rules=rules)
        return (speech_windows if self.vad else windows)(blocks)

    def select_base(self, language: str | None) -> AdapterSelection:
        """Select the base model and force a language, given as Whisper's code; None: an English-only model."""
        prompt = replace(self.engine.whisper.prompt, language=language, token=None)
        return AdapterSelection(prompt, self.context, BASE if self.adapters else None)

    def detect(self, window: Window) -> AdapterSelection:
        """Select the base model, in the language that it detects in a window."""
        return self.select_base(detect_language(self.engine, window, base=bool(self.adapters)))


def open_transcriber(
    model: str,
    adapters: Mapping[str, str] | None = None,
    *,
    language: str | None = None,
    language_token: str | None = None,
    task: Task | None = None,
    context: Context | None = None,
    precision: Precision = Precision.AUTO,
    vad: bool = True,
    engine: EngineName = EngineName.TORCH,
) -> Transcriber:
    """Load a model by any name, or a base model with several adapters.

    Args:
        adapters: names, and the runs or adapters on the base `model` that they stand for.
        language: of the model, or of the base model beneath adapters: a name or code, or `AUTO`. When not given, it is
            the recorded language of a model alone, and `AUTO` for a base model beneath adapters.
        language_token: language whose token is borrowed, where Whisper has none for `language`.

    Raises:
        ConfigError: a language is unknown, or none is given or recorded.
        DataError: the model or an adapter cannot be used.
    """
    if adapters:
        several = find_adapters(model, adapters, task=task, context=context)
        runner = open_adapter_engine(engine, several, precision)
        base = None
        context = context or Context.FULL
        if language not in (None, AUTO):
            base = AdapterSelection(forced_prompt(language, language_token, task), context, BASE)
        return Transcriber(runner, several.selections, base, context, vad)
    named = find_model(model)
    prompt = named.prompt("en" if language == AUTO else language, language_token, task)
    runner = open_engine(engine, named, prompt, context=context, precision=precision)
    selection = selection_of(runner.whisper)
    detects = language == AUTO and selection.prompt.forced_language is not None
    return Transcriber(runner, {}, None if detects else selection, selection.context, vad)


def detect_language(engine: Engine, window: Window, *, base: bool) -> str | None:
    """Return the code of the most probable language of a window, as Whisper detects it; None: an English-only model.

    Args:
        base: whether the base model beneath adapters is asked.
    """
    whisper = engine.whisper
    if whisper.prompt.forced_language is None or not getattr(whisper.core.generation_config, "lang_to_id", None):
        return None
    return engine.detect_languages(engine.encode([window.waveform], FULL_FRAMES, [BASE if base else None]))[0]
