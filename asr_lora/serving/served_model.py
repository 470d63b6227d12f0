"""The model that the server serves: the names by which clients select its adapters, and how a request is decoded."""

import threading
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import islice
from pathlib import Path

from asr_lora.audio.decode import AudioBlocks
from asr_lora.audio.features import FULL_SECONDS
from asr_lora.config import Context, Precision
from asr_lora.decoding.decoding_options import FALLBACK_TEMPERATURES, DecodingOptions
from asr_lora.decoding.loading import EngineName
from asr_lora.errors import ConfigError
from asr_lora.language import Task, forced_prompt, spoken_language
from asr_lora.model.find_model import AdapterSelection, find_model
from asr_lora.model.whisper import MAX_PREVIOUS_TOKENS, Whisper
from asr_lora.serving.api_errors import ApiError, invalid_field
from asr_lora.serving.request_options import RequestOptions
from asr_lora.transcription.longform import SpeechRules, Window
from asr_lora.transcription.segments import SoundFacts
from asr_lora.transcription.transcriber import AUTO, Transcriber, open_transcriber


class Cancelled(Exception):
    """A request was cancelled while it was transcribed."""


@dataclass(frozen=True)
class ServedModel:
    """A loaded model under the names that clients use."""

    transcriber: Transcriber
    names: Sequence[str]  # of the base model, or of the model alone
    max_seconds: float  # longest audio of a request
    aliases: Mapping[str, str] = field(default_factory=dict)  # further names, and the adapters that they stand for

    @property
    def whisper(self) -> Whisper:
        return self.transcriber.engine.whisper

    @property
    def name(self) -> str:
        """The first name of the base model, or of the model alone."""
        return self.names[0]

    @property
    def selections(self) -> Mapping[str, AdapterSelection | None]:
        """The selection of each name; None: the base model in the language that it detects."""
        adapters = self.transcriber.adapters
        further = {alias: adapters[name] for alias, name in self.aliases.items()}
        return {**dict.fromkeys(self.names, self.transcriber.base), **adapters, **further}

    def check(self, options: RequestOptions) -> RequestOptions:
        """Refuse a request that this model cannot fulfil, before it waits in the queue.

        Returns:
            The request with the language and the task that are chosen for it; no language where it is detected.

        Raises:
            ApiError: the model does not know the language or the task, cannot find times of words, or cannot take so
                many keywords.
        """
        selection = self.select(options)
        if options.keywords and (count := len(self.previous_tokens(options))) > MAX_PREVIOUS_TOKENS:
            most = MAX_PREVIOUS_TOKENS
            message = f"keywords and prompt take {count} tokens together, and the model takes {most}: send fewer"
            raise invalid_field("keywords[]", message)
        if options.words and not self.transcriber.has_word_times:
            raise invalid_field(
                "timestamp_granularities[]", "this model cannot find the times of words: ask for segments"
            )
        prompt = selection.prompt if selection else None
        task = options.task or (prompt or self.whisper.prompt).task
        return replace(options, language=prompt.language if prompt else None, task=task)

    def select(self, options: RequestOptions) -> AdapterSelection | None:
        """Select what transcribes a request; None: the base model, in the language that it detects.

        Raises:
            ApiError: Whisper or this model does not know the language or the task.
        """
        if options.task is Task.TRANSLATE and not self._translates:
            raise ApiError(400, "unsupported_model", "this model only transcribes English", param="model")
        selection = self._in_language(options)
        return selection and with_task(selection, options.task)

    @property
    def _translates(self) -> bool:
        settings = self.whisper.core.generation_config
        return self.whisper.prompt.forced_language is not None and Task.TRANSLATE in settings.task_to_id

    def _in_language(self, options: RequestOptions) -> AdapterSelection | None:
        selection = self.selections[options.model]
        if options.language in (None, AUTO) or self.whisper.prompt.forced_language is None:
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
            token_scores=options.token_scores,
            previous=self.previous_tokens(options),
        )  # fmt: skip

    def previous_tokens(self, options: RequestOptions) -> Sequence[int]:
        """Return the tokens that the decoder takes for the text before the recording."""
        return self.whisper.text_tokens(options.previous_text) if options.previous_text else ()

    def token_bytes(self, token: int) -> bytes:
        """Return what a text token stands for, in UTF-8; a character may take several tokens."""
        name = str(self.whisper.tokenizer.convert_ids_to_tokens(token))
        return bytes(map(_byte_of_character().__getitem__, name))

    def windows(
        self, source: Path, cancelled: threading.Event, *, single: bool, rules: SpeechRules | None = None
    ) -> Generator[tuple[SoundFacts, list[Window]]]:
        """Decode a file, and yield as many windows as are transcribed at once.

        Args:
            single: yield one window at a time, for a client that reads the text as it is ready.
            rules: how speech is found, where the client says it.

        Yields:
            What is known of the sound so far and some windows that are not silent; in the end of all, and no window.

        Raises:
            AudioError: the file cannot be decoded, or is longer than `max_seconds`.
            Cancelled: the event was set.
        """

        def check() -> None:
            if cancelled.is_set():
                raise Cancelled

        count = 1 if single else max(1, int(self.transcriber.engine.batch_seconds / FULL_SECONDS))
        recognised = 0.0
        with closing(AudioBlocks(source, max_seconds=self.max_seconds, check=check)) as blocks:
            loud = (window for window in self.transcriber.windows(blocks, rules) if not window.silent)
            while some := list(islice(loud, count)):
                recognised += sum(window.seconds for window in some)
                yield SoundFacts(blocks.seconds, blocks.peak, recognised, self.transcriber.vad), some
        yield SoundFacts(blocks.seconds, blocks.peak, recognised, self.transcriber.vad), []


@cache
def _byte_of_character() -> dict[str, int]:
    """Return the bytes that the characters of a byte-level tokenizer's tokens stand for."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    return {character: byte for byte, character in bytes_to_unicode().items()}


def with_task(selection: AdapterSelection, task: Task | None) -> AdapterSelection:
    """Select the same with another task; None: its own."""
    return selection if task is None else replace(selection, prompt=replace(selection.prompt, task=task))


def load_served_model(
    model: str | None,
    adapters: Mapping[str, str],
    *,
    names: Sequence[str] = (),
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
        names: of the base model or the model alone, instead of its own, or NAME=ADAPTER: one more of an adapter.
        language: of a model alone, or of the base model; detected in each recording when not given or recorded.

    Raises:
        ConfigError: neither a model nor an adapter is given, two models have one name, a name stands for no adapter,
            or a language is unknown.
        DataError: a model or an adapter is not there, or an adapter does not fit.
    """
    if model is None and not adapters:
        raise ConfigError("name a model, or an adapter such as --adapter nl=runs/nl")
    source = model or find_model(next(iter(adapters.values()))).base
    base_names, aliases = _model_names(names, adapters, public_name(source))
    if language is None and not adapters and find_model(source).recorded is None:
        language = AUTO
    transcriber = open_transcriber(
        source, adapters, language=language, language_token=language_token, context=context, precision=precision,
        vad=vad, engine=engine,
    )  # fmt: skip
    return ServedModel(transcriber, base_names, max_seconds, aliases)


def _model_names(
    names: Sequence[str], adapters: Mapping[str, str], default: str
) -> tuple[Sequence[str], Mapping[str, str]]:
    """Read `--model-name`: the names of the base, and further names of adapters.

    Raises:
        ConfigError: two models have one name, or a name stands for no adapter.
    """
    pairs = [(alias.strip(), adapter.strip() if sign else None) for alias, sign, adapter in
             (name.partition("=") for name in names)]  # fmt: skip
    base_names = [name for name, adapter in pairs if adapter is None] or [default]
    aliases = {name: adapter for name, adapter in pairs if adapter is not None}
    for name, adapter in aliases.items():
        if adapter not in adapters:
            raise ConfigError(f"--model-name {name}={adapter}: there is no --adapter {adapter}=RUN")
    for name in adapters:
        if name in base_names:
            raise ConfigError(f"--adapter {name}: this is the name of the base; give the adapter another")
    every = [name for name, _ in pairs] + list(adapters)
    for name in every:
        if not name or every.count(name) > 1:
            raise ConfigError(f"--model-name {name}: give each model a name of its own")
    return base_names, aliases


def public_name(source: str) -> str:
    """The name by which clients call a model: a hub id, or the last part of a folder, since paths are not shown."""
    path = Path(source.rpartition("@")[0] or source).expanduser()
    return path.resolve().name if path.exists() else source
