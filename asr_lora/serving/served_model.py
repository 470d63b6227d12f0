"""The model that the server serves: the names by which clients select its adapters, and how a request is decoded."""

import threading
from collections.abc import Generator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from asr_lora.audio.decode import AudioBlocks
from asr_lora.audio.features import FULL_SECONDS
from asr_lora.config import Context, Precision
from asr_lora.decoding.decoding_options import FALLBACK_TEMPERATURES, DecodingOptions
from asr_lora.decoding.loading import EngineName
from asr_lora.errors import ConfigError
from asr_lora.language import forced_prompt, spoken_language
from asr_lora.model.find_model import AdapterSelection, find_model
from asr_lora.model.whisper import Whisper
from asr_lora.serving.api_errors import invalid_field
from asr_lora.serving.request_options import RequestOptions
from asr_lora.transcription.longform import Window
from asr_lora.transcription.transcriber import AUTO, Transcriber, open_transcriber


class Cancelled(Exception):
    """A request was cancelled while it was transcribed."""


@dataclass(frozen=True)
class ServedModel:
    """A loaded model under the names that clients use."""

    transcriber: Transcriber
    name: str  # of the base model, or of the model alone
    max_seconds: float  # longest audio of a request

    @property
    def whisper(self) -> Whisper:
        return self.transcriber.engine.whisper

    @property
    def selections(self) -> Mapping[str, AdapterSelection | None]:
        """The selection of each name; None: the base model in the language that it detects."""
        return {self.name: self.transcriber.base, **self.transcriber.adapters}

    def check(self, options: RequestOptions) -> None:
        """Refuse a request that this model cannot fulfil, before it waits in the queue.

        Raises:
            ApiError: the model does not know the language, or cannot find times of words.
        """
        self.select(options)
        if options.words and not self.transcriber.has_word_times:
            raise invalid_field(
                "timestamp_granularities[]", "this model cannot find the times of words: ask for segments"
            )

    def select(self, options: RequestOptions) -> AdapterSelection | None:
        """Select what transcribes a request; None: the base model, in the language that it detects.

        Raises:
            ApiError: Whisper or this model does not know the language.
        """
        selection = self.selections[options.model]
        if options.language is None or self.whisper.prompt.forced_language is None:
            return selection
        try:
            code = spoken_language(options.language)
            if selection is not None and code == selection.prompt.language:
                return selection
            forced_prompt(code)
        except ConfigError:
            raise invalid_field(
                "language", f"Whisper does not know the language {options.language[:40]!r}: give a code such as nl"
            ) from None
        if f"<|{code}|>" not in self.whisper.core.generation_config.lang_to_id:
            raise invalid_field("language", f"this model does not know the language {code!r}")
        if selection is None:
            return self.transcriber.select_base(code)
        return replace(selection, prompt=replace(selection.prompt, language=code, token=None))

    def decoding_options(self, options: RequestOptions) -> DecodingOptions:
        """How the windows of a request are decoded."""
        return DecodingOptions(
            temperature=options.temperature, fallback=() if options.temperature else FALLBACK_TEMPERATURES,
            timestamps=True, word_times=options.needs_word_times and self.transcriber.has_word_times,
            previous=self.whisper.text_tokens(options.prompt) if options.prompt else (),
        )  # fmt: skip

    def windows(
        self, source: Path, cancelled: threading.Event, *, single: bool
    ) -> Generator[tuple[float, list[Window]]]:
        """Decode a file, and yield as many windows as are transcribed at once.

        Args:
            single: yield one window at a time, for a client that reads the text as it is ready.

        Yields:
            Seconds decoded so far and some windows that are not silent; in the end all seconds, and no window.

        Raises:
            AudioError: the file cannot be decoded, or is longer than `max_seconds`.
            Cancelled: the event was set.
        """

        def check() -> None:
            if cancelled.is_set():
                raise Cancelled

        count = 1 if single else max(1, int(self.transcriber.engine.batch_seconds / FULL_SECONDS))
        with closing(AudioBlocks(source, max_seconds=self.max_seconds, check=check)) as blocks:
            loud = (window for window in self.transcriber.windows(blocks) if not window.silent)
            while some := list(islice(loud, count)):
                yield blocks.seconds, some
        yield blocks.seconds, []


def load_served_model(
    model: str | None,
    adapters: Mapping[str, str],
    *,
    language: str | None = None,
    language_token: str | None = None,
    context: Context | None = None,
    precision: Precision = Precision.AUTO,
    max_seconds: float,
    vad: bool = True,
    engine: EngineName = EngineName.TORCH,
) -> ServedModel:
    """Load a model of any kind, or a base model once with its adapters.

    Args:
        model: the base model of the adapters, or a model alone; the base of the first adapter when not given.
        adapters: names, and the runs or adapters that they stand for.
        language: of a model alone, or of the base model; detected in each recording when not given or recorded.

    Raises:
        ConfigError: neither a model nor an adapter is given, an adapter has the name of the base, or a language is
            unknown.
        DataError: a model or an adapter is not there, or an adapter does not fit.
    """
    if model is None and not adapters:
        raise ConfigError("name a model, or an adapter such as --adapter nl=runs/nl")
    source = model or find_model(next(iter(adapters.values()))).base
    name = public_name(source)
    if name in adapters:
        raise ConfigError(f"--adapter {name}: this is the name of the base; give the adapter another")
    if language is None and not adapters and find_model(source).recorded is None:
        language = AUTO
    transcriber = open_transcriber(
        source, adapters, language=language, language_token=language_token, context=context, precision=precision,
        vad=vad, engine=engine,
    )  # fmt: skip
    return ServedModel(transcriber, name, max_seconds)


def public_name(source: str) -> str:
    """The name by which clients call a model: a hub id, or the last part of a folder, since paths are not shown."""
    path = Path(source.rpartition("@")[0] or source).expanduser()
    return path.resolve().name if path.exists() else source
