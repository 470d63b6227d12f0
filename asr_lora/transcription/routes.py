"""Route each file to an adapter: one for all, that of the file's folder, or that of the language that is detected."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from asr_lora.errors import ConfigError
from asr_lora.model.find_model import AdapterSelection
from asr_lora.transcription.inputs import Input
from asr_lora.transcription.longform import Window
from asr_lora.transcription.transcriber import Transcriber

LANGUAGE, FOLDER = "language", "folder"


@dataclass(frozen=True)
class Routes:
    """How files are routed to adapters."""

    adapters: Collection[str]  # their names; empty: a model alone
    by: str  # LANGUAGE, FOLDER, or the name of an adapter

    def select(self, transcriber: Transcriber, entry: Input, window: Window) -> AdapterSelection:
        """Select what transcribes a file; `window` is its first one with speech, in which a language may be detected.

        A language that no adapter has is transcribed by the base model.
        """
        if name := self.named(entry):
            return transcriber.adapters[name]
        if transcriber.base is not None:
            return transcriber.base
        detected = transcriber.detect(window)
        for selection in transcriber.adapters.values():
            if detected.prompt.language in (selection.prompt.language, selection.prompt.forced_language):
                return selection
        return detected

    def named(self, entry: Input) -> str | None:
        """The adapter that a file is routed to by name or folder; None: its language decides."""
        if entry.route is not None:
            return entry.route
        if self.by == FOLDER:
            return next((part for part in reversed(entry.file.absolute().parts[:-1]) if part in self.adapters), None)
        return self.by if self.by in self.adapters else None


def make_routes(adapters: Collection[str], by: str | None, entries: Sequence[Input]) -> Routes:
    """Make the routes, and check that every file can be routed, before anything is loaded.

    Args:
        adapters: their names.
        by: LANGUAGE, FOLDER, or a name; None is the only adapter, or LANGUAGE.

    Raises:
        ConfigError: there is no such route, or a file lies in no folder that is named like an adapter.
    """
    routes = Routes(adapters, by or (next(iter(adapters)) if len(adapters) == 1 else LANGUAGE))
    if routes.by not in (LANGUAGE, FOLDER, *adapters):
        raise ConfigError(f"--route {by}: give {LANGUAGE}, {FOLDER}, or one of {', '.join(adapters)}")
    for entry in entries if by == FOLDER else ():
        if routes.named(entry) is None:
            names = " or ".join(adapters)
            raise ConfigError(f"{entry.file} is in no folder named {names}: move it, or add :NAME to it")
    return routes
