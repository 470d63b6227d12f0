"""A loaded model and how it transcribes: opened once, given any number of files."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from asr_lora.audio.decode import SAMPLE_RATE
from asr_lora.audio.ffmpeg import media_blocks
from asr_lora.config import Context, Precision
from asr_lora.decoding.decoding_options import FALLBACK_TEMPERATURES, DecodingOptions
from asr_lora.decoding.engine import Engine
from asr_lora.decoding.hotwords import hotword_boost
from asr_lora.decoding.loading import EngineName, open_adapter_engine, open_engine
from asr_lora.decoding.word_times import alignment_heads
from asr_lora.errors import AudioError, ConfigError
from asr_lora.language import Task
from asr_lora.model.find_model import find_adapters, find_model, selection_of
from asr_lora.transcription.inputs import Input, opened
from asr_lora.transcription.longform import speech_windows, windows
from asr_lora.transcription.recognise import Said, listen
from asr_lora.transcription.routes import LANGUAGE, Routes
from asr_lora.transcription.segments import Segment
from asr_lora.transcription.sequential import transcribe_in_sequence

AUTO = "auto"  # for a language: what Whisper hears


@dataclass(frozen=True)
class Heard:
    """What is new of a file."""

    number: int  # of the file
    done: float  # seconds of it
    segments: Sequence[Segment] = ()
    error: AudioError | None = None


@dataclass(frozen=True)
class Transcriber:
    """What `transcribe`, or a server, holds while files come and go."""

    engine: Engine
    routes: Routes
    options: DecodingOptions
    vad: bool = True
    sequential: bool = False

    def segments(self, file: Path, *, route: str | None = None) -> Iterator[Segment]:
        """Transcribe one file of any length, its segments as they are ready.

        Args:
            route: name of the selection that transcribes it; as the routes say when not given.

        Raises:
            AudioError: the file cannot be decoded.
        """
        for news in self.heard([Input(file, Path(file.stem), route)]):
            if news.error:
                raise news.error
            yield from news.segments

    def heard(self, entries: Sequence[Input]) -> Iterator[Heard]:
        """Transcribe files in their order, those that are short together; the last news of each has all of its seconds.

        A file that cannot be decoded is an error among the news, and the others go on.
        """
        if self.sequential:
            yield from self._in_sequence(entries)
            return
        for news, segments in listen(self.engine, self._windows(entries), self.options):
            yield replace(news, segments=segments)

    def _windows(self, entries: Sequence[Input]) -> Iterator[tuple[Heard, Said | None]]:
        for number, entry in enumerate(entries):
            try:
                with opened(entry) as file:
                    blocks, selection = _Counted(entry, media_blocks(file)), None
                    for window in (speech_windows if self.vad else windows)(blocks):
                        selection = selection or self.routes.choose(self.engine, entry, window)
                        yield Heard(number, window.end), Said(window, selection)
                    end = Heard(number, blocks.seconds)
            except AudioError as error:
                end = Heard(number, 0.0, error=error)
            yield end, None

    def _in_sequence(self, entries: Sequence[Input]) -> Iterator[Heard]:
        for number, entry in enumerate(entries):
            end = Heard(number, 0.0)
            try:
                with opened(entry) as file:
                    blocks = _Counted(entry, media_blocks(file))
                    choose = partial(self.routes.choose, self.engine, entry)
                    for done, segments in transcribe_in_sequence(self.engine, blocks, self.options, choose):
                        end = Heard(number, done)
                        yield replace(end, segments=segments)
            except AudioError as error:
                end = Heard(number, 0.0, error=error)
            yield end


def open_transcriber(
    model: str,
    *,
    language: str | None = None,
    language_token: str | None = None,
    task: Task | None = None,
    context: Context | None = None,
    precision: Precision = Precision.AUTO,
    adapters: Mapping[str, str] | None = None,
    route: str | None = None,
    beams: int = 1,
    vad: bool = True,
    timestamps: bool = True,
    words: bool | None = None,
    subtitles: bool = False,
    sequential: bool = False,
    fallback: bool = True,
    terms: Path | None = None,
    engine: EngineName = EngineName.TORCH,
) -> Transcriber:
    """Load what transcribes; see `asr_lora.transcription.transcribe` for the arguments.

    Args:
        subtitles: whether the times of words are wanted where nobody said, and the model can tell them.

    Raises:
        ConfigError: settings that contradict each other, or an unknown language.
        DataError: the model cannot be used, or the terms cannot be read.
    """
    if adapters and (language or language_token):
        raise ConfigError("each adapter knows its language: leave out --language and --language-token")
    if route and not adapters:
        raise ConfigError("--route chooses among adapters: name them with --adapter NAME=RUN")
    if terms and engine is EngineName.CTRANSLATE2:
        raise ConfigError("--terms changes scores of tokens, for which CTranslate2 has no place: take --engine torch")
    if adapters:
        several = find_adapters(model, adapters, task=task, context=context)
        runner, selections = open_adapter_engine(engine, several, precision), several.selections
        only = next(iter(selections)) if len(selections) == 1 else LANGUAGE
        routes = Routes(selections, route or only, context or Context.FULL)
    else:
        auto = language == AUTO
        found = find_model(model)
        prompt = found.prompt("en" if auto else language, language_token, task)
        runner = open_engine(engine, found, prompt, context=context, precision=precision)
        alone = {} if auto else {model: selection_of(runner.whisper)}
        routes = Routes(alone, LANGUAGE if auto else model, runner.whisper.context)
    if words is None:
        words = subtitles and bool(alignment_heads(runner.whisper))
    options = DecodingOptions(
        beams=beams, fallback=FALLBACK_TEMPERATURES if fallback else (), timestamps=timestamps, word_times=words,
        processors=[hotword_boost(runner.whisper, terms)] if terms else [],
    )  # fmt: skip
    return Transcriber(runner, routes, options, vad, sequential)


class _Counted:
    """Blocks of a file, and how many seconds there were.

    Raises:
        AudioError: there were none.
    """

    def __init__(self, entry: Input, blocks: Iterable[np.ndarray]) -> None:
        self.entry = entry
        self.blocks = blocks
        self.seconds = 0.0

    def __iter__(self) -> Iterator[np.ndarray]:
        for block in self.blocks:
            self.seconds += len(block) / SAMPLE_RATE
            yield block
        if not self.seconds:
            raise AudioError("no audio", f"{self.entry.file} decodes to no samples")
