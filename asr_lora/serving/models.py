"""One base in memory with all its adapters: which selection a request is heard by, and the windows of its audio."""

import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np

from asr_lora.audio.decode import SAMPLE_RATE
from asr_lora.audio.features import FULL_SECONDS
from asr_lora.audio.ffmpeg import media_blocks
from asr_lora.config import Context, Precision
from asr_lora.decoding.decoding_options import FALLBACK_TEMPERATURES, DecodingOptions
from asr_lora.decoding.engine import Engine
from asr_lora.decoding.loading import EngineName, open_adapter_engine, open_engine
from asr_lora.decoding.word_times import alignment_heads
from asr_lora.errors import AudioError, ConfigError
from asr_lora.language import ForcedPrompt, forced_prompt, spoken_language
from asr_lora.model.adapters.multi_lora import BASE
from asr_lora.model.find_model import AdapterSelection, find_adapters, find_model, selection_of
from asr_lora.model.whisper import Whisper
from asr_lora.serving.api_errors import invalid
from asr_lora.serving.request_options import Wish
from asr_lora.transcription.longform import Window, speech_windows, windows
from asr_lora.transcription.routes import detect_language


class Stopped(Exception):
    """Nobody wants the rest."""


@dataclass(frozen=True)
class Models:
    """A loaded model, and the names by which clients call what it can be."""

    engine: Engine
    selections: Mapping[str, AdapterSelection | None]  # of each name; None: what Whisper hears is what it is told
    base: str  # name of the untouched model, or of the only one
    most_seconds: float  # of audio
    vad: bool = True

    @property
    def whisper(self) -> Whisper:
        """Its prompts, tokens and settings."""
        return self.engine.whisper

    @property
    def adapted(self) -> bool:
        """Whether there are adapters on the base."""
        return len(self.selections) > 1

    def require_possible(self, wish: Wish) -> None:
        """Refuse what this model cannot do, before anyone waits.

        Raises:
            Refusal: it cannot be told the language, or cannot say when words are said.
        """
        self.selection(wish)
        if wish.words and not alignment_heads(self.whisper):
            raise invalid("timestamp_granularities[]", "this model does not know when words are said: ask for segments")

    def selection(self, wish: Wish) -> AdapterSelection | None:
        """The selection for a request; None: what is heard decides.

        Raises:
            Refusal: the model cannot be told the language.
        """
        own = self.selections[wish.model]
        if wish.language is None or self.whisper.prompt.forced_language is None:
            return own
        try:
            code = spoken_language(wish.language)
            if own is not None and code == own.prompt.language:
                return own
            prompt = forced_prompt(code, task=self.whisper.prompt.task)
        except ConfigError:
            raise invalid(
                "language", f"Whisper cannot be told {wish.language[:40]!r}: give a code such as nl"
            ) from None
        if f"<|{code}|>" not in self.whisper.core.generation_config.lang_to_id:
            raise invalid("language", f"this model cannot be told {code!r}")
        return replace(own, prompt=prompt) if own else self._base_selection(prompt)

    def options(self, wish: Wish) -> DecodingOptions:
        """How the windows of a request are transcribed."""
        return DecodingOptions(
            timestamps=True, word_times=wish.timed and bool(alignment_heads(self.whisper)),
            temperature=wish.temperature,
            fallback=() if wish.temperature else FALLBACK_TEMPERATURES,
            previous=self.whisper.text_tokens(wish.prompt) if wish.prompt else (),
        )  # fmt: skip

    def windows(self, source: Path, gone: threading.Event, *, one: bool) -> Generator[tuple[float, list[Window]]]:
        """Decode a file: the windows that are transcribed at once, one alone for a client that reads along.

        Yields:
            Seconds that are decoded and some windows with sound; in the end all seconds and none.

        Raises:
            AudioError: it cannot be decoded, or is longer than is taken here.
            Stopped: nobody wants the rest.
        """

        def look() -> None:
            if gone.is_set():
                raise Stopped

        most = 1 if one else max(1, int(self.engine.batch_seconds / FULL_SECONDS))
        with closing(media_blocks(source, look=look)) as decoded:  # and with them the file, which errors keep open
            blocks = _Counted(decoded, self.most_seconds, look)
            found = (window for window in (speech_windows if self.vad else windows)(blocks) if not window.silent)
            while some := list(islice(found, most)):
                yield blocks.seconds, some
        if not blocks.seconds:
            raise AudioError("no audio")
        yield blocks.seconds, []

    def detected_selection(self, window: Window) -> AdapterSelection:
        """The untouched model, told the language that it hears."""
        language = detect_language(self.engine, window, base=self.adapted)
        return self._base_selection(replace(self.whisper.prompt, language=language, token=None))

    def _base_selection(self, prompt: ForcedPrompt) -> AdapterSelection:
        return AdapterSelection(prompt, self.whisper.context, BASE if self.adapted else None)


class _Counted:
    """Blocks of a file as they are decoded: counted, and not more than is taken here.

    Raises:
        AudioError: there is more.
    """

    def __init__(self, blocks: Iterable[np.ndarray], most: float, look: Callable[[], None]) -> None:
        self.blocks = blocks
        self.most = most
        self.look = look
        self.seconds = 0.0

    def __iter__(self) -> Iterator[np.ndarray]:
        for block in self.blocks:
            self.look()
            self.seconds += len(block) / SAMPLE_RATE
            if self.seconds > self.most:
                raise AudioError("too long")
            yield block


def load_models(
    model: str | None,
    adapters: Mapping[str, str],
    *,
    language: str | None = None,
    language_token: str | None = None,
    context: Context | None = None,
    precision: Precision = Precision.AUTO,
    most_seconds: float,
    vad: bool = True,
    engine: EngineName = EngineName.TORCH,
) -> Models:
    """Load a base once, with its adapters.

    Args:
        model: the base, or a model of any kind where there are no adapters; that of the first adapter when not given.
        adapters: names, and the runs or adapters that they stand for.
        language: what a model without adapters, or the untouched base, is told; as heard when not given.

    Raises:
        ConfigError: neither model nor adapter, a name that is taken, or what `find_adapters` refuses.
        DataError: something is not there, or does not fit.
    """
    if model is None and not adapters:
        raise ConfigError("name a model, or an adapter such as --adapter nl=runs/nl")
    source = model or find_model(next(iter(adapters.values()))).base
    name = public_name(source)
    if name in adapters:
        raise ConfigError(f"--adapter {name}: this is the name of the base; give the adapter another")
    known: AdapterSelection | None = None
    if adapters:
        several = find_adapters(source, adapters, context=context)
        runner = open_adapter_engine(engine, several, precision)
        if language:
            known = AdapterSelection(forced_prompt(language, language_token), context or Context.FULL, BASE)
        return Models(runner, {name: known, **several.selections}, name, most_seconds, vad)
    found = find_model(source)
    prompt = found.prompt(language, language_token, default="en")
    runner = open_engine(engine, found, prompt, context=context, precision=precision)
    sure = language or found.recorded or runner.whisper.prompt.forced_language is None
    known = selection_of(runner.whisper) if sure else None
    return Models(runner, {name: known}, name, most_seconds, vad)


def public_name(source: str) -> str:
    """What clients call a model: a hub id as it stands, a folder by its last part: paths stay here."""
    path = Path(source.rpartition("@")[0] or source).expanduser()
    return path.resolve().name if path.exists() else source
