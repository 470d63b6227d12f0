"""Which selection transcribes a file: one for all, that of its folder, or that of the language that Whisper hears."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from asr_lora.audio.features import FULL_FRAMES
from asr_lora.config import Context
from asr_lora.decoding.engine import Engine
from asr_lora.errors import ConfigError
from asr_lora.model.adapters.multi_lora import BASE
from asr_lora.model.find_model import AdapterSelection
from asr_lora.transcription.inputs import Input
from asr_lora.transcription.longform import Window

LANGUAGE, FOLDER = "language", "folder"


@dataclass(frozen=True)
class Routes:
    """Voices by name, and how one is chosen."""

    selections: Mapping[str, AdapterSelection]
    by: str  # LANGUAGE, FOLDER, or a name
    context: Context = Context.FULL  # of a language that no selection speaks

    def check(self, entries: Sequence[Input]) -> None:
        """Refuse what cannot be routed, before anything is transcribed.

        Raises:
            ConfigError: no such route, or a file in no folder of a route's name.
        """
        if self.by not in (LANGUAGE, FOLDER, *self.selections):
            raise ConfigError(f"--route {self.by}: give {LANGUAGE}, {FOLDER}, or one of {', '.join(self.selections)}")
        for entry in entries if self.by == FOLDER else ():
            if self._named(entry) is None:
                raise ConfigError(
                    f"{entry.file} is in no folder named {' or '.join(self.selections)}: move it, or add :NAME to it"
                )

    def choose(self, engine: Engine, entry: Input, window: Window) -> AdapterSelection:
        """The selection for a file, whose first window with speech may have to be listened to."""
        if name := self._named(entry):
            return self.selections[name]
        language = detect_language(engine, window, base=bool(self.selections))
        for selection in self.selections.values():
            if language in (selection.prompt.language, selection.prompt.forced_language):
                return selection
        prompt = replace(engine.whisper.prompt, language=language, token=None)
        return AdapterSelection(prompt, self.context, BASE if self.selections else None)

    def _named(self, entry: Input) -> str | None:
        if entry.route is not None:
            return entry.route
        if self.by == FOLDER:
            return next((part for part in reversed(entry.file.absolute().parts[:-1]) if part in self.selections), None)
        return self.by if self.by in self.selections else None


def detect_language(engine: Engine, window: Window, *, base: bool) -> str | None:
    """The code of the likeliest language of a window, as Whisper was trained to tell; None: an English-only model.

    Args:
        base: whether the untouched base is asked, beneath adapters.
    """
    whisper = engine.whisper
    if whisper.prompt.forced_language is None or not getattr(whisper.core.generation_config, "lang_to_id", None):
        return None
    return engine.detect_languages(engine.encode([window.waveform], FULL_FRAMES, [BASE if base else None]))[0]
