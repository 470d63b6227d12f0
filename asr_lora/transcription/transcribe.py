"""The job: files of any length -> text, subtitles or JSON."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from tqdm import tqdm

from asr_lora.audio.ffmpeg import media_seconds
from asr_lora.config import Context, Precision
from asr_lora.decoding.loading import engine_named
from asr_lora.errors import AudioError, ConfigError
from asr_lora.folders.atomic import write_text
from asr_lora.folders.tabular import Column, Tabular
from asr_lora.language import Task
from asr_lora.transcription.inputs import Input, find_inputs
from asr_lora.transcription.segments import Segment
from asr_lora.transcription.subtitles import Rules
from asr_lora.transcription.transcriber import Heard, open_transcriber
from asr_lora.transcription.writers import FORMATS, TIMED


@dataclass(frozen=True)
class Transcript(Tabular):
    """What became of one file."""

    columns = (
        Column("start", "From, s", ".2f"),
        Column("end", "To, s", ".2f"),
        Column("text", "Text"),
        Column("language", "Language"),
        Column("adapter", "Adapter"),
        Column("log_probability", "", ".3f"),
        Column("no_speech", "", ".3f"),
    )

    file: Path
    segments: tuple[Segment, ...] = ()
    written: tuple[Path, ...] = ()
    error: str | None = None
    kept: bool = False  # it was written before, and nothing was done

    def entries(self) -> Iterable[object]:
        return self.segments

    def caption(self) -> str:
        return self.error or str(self.file)


def transcribe(
    model: str,
    inputs: Sequence[str | Path],
    *,
    formats: Sequence[str] = ("txt",),
    out: Path | None = None,
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
    sequential: bool = False,
    fallback: bool = True,
    terms: Path | None = None,
    engine: str = "torch",
    rules: Rules = Rules(),  # noqa: B008 (frozen)
    keep_existing: bool = False,
    echo: Callable[[str], None] | None = None,
) -> Iterator[Transcript]:
    """Transcribe audio files, and those in folders, one after another, each as its transcript is asked for.

    A file that cannot be read comes back with its `error`, and what was heard before it; the others are transcribed all
    the same. Each output is written whole or not at all.

    Args:
        inputs: files, folders, patterns, or "-" for standard input.
        language: name or code; the run's when not given, and "auto" is what Whisper hears in each file.
        formats: of "txt", "srt", "vtt", "tsv" and "json".
        out: folder for the outputs, one file a format; None writes nothing.
        language_token: of a related language, where Whisper has none for the language; the run's when not given.
        adapters: names, and the runs or adapters on the base `model` that they stand for.
        route: which of these transcribes a file: "language", "folder", or a name; see `asr_lora.transcription.routes`.
        vad: whether only speech is transcribed, as silero finds it; otherwise all is, cut at quiet moments.
        timestamps: whether segments follow Whisper's own timestamps; otherwise one is what lies between two cuts.
        words: whether the times of words are found; for subtitles alone when not given.
        sequential: Whisper's own way through a file, without `vad`: 30 s at a time, each told what came before.
        fallback: whether doubtful windows are tried again at higher temperatures.
        terms: file of names and terms, one a line, that are made likelier.
        engine: "torch", or "ctranslate2", for which the model is converted once and kept in the cache.
        rules: of subtitles.
        keep_existing: whether files whose outputs are all there are left as they are.
        echo: is given the first format piece by piece, as it is ready.

    Raises:
        ConfigError: an unknown format or language, or two inputs that would write one file.
        DataError: the model cannot be used.
    """
    unknown = [name for name in formats if name not in FORMATS]
    if unknown:
        raise ConfigError(f"--format: {', '.join(unknown)} is not one of {', '.join(FORMATS)}")
    found = find_inputs(inputs, written=out is not None, routes=tuple(adapters or ()))
    if echo is not None and out is None and len(found) > 1 and formats[0] != "txt":
        raise ConfigError(f"{formats[0]} of several files needs a folder: add --out FOLDER")
    made = _Outputs(formats, out, rules, echo)
    done = {entry for entry in found if keep_existing and made.there(entry)}
    fresh = [entry for entry in found if entry not in done]
    kept = [Transcript(entry.file, written=made.paths(entry), kept=True) for entry in found if entry in done]
    if not fresh:
        return iter(kept)
    transcriber = open_transcriber(
        model, language=language, language_token=language_token, task=task, context=context, precision=precision,
        adapters=adapters, route=route, beams=beams, vad=vad, timestamps=timestamps, words=words,
        subtitles=bool(TIMED & set(formats)), sequential=sequential, fallback=fallback, terms=terms,
        engine=engine_named(engine),
    )  # fmt: skip
    transcriber.routes.check(fresh)
    return _each(made, fresh, kept, transcriber.heard(fresh))


@dataclass(frozen=True)
class _Outputs:
    """Where transcripts go."""

    formats: Sequence[str]
    out: Path | None
    rules: Rules
    echo: Callable[[str], None] | None

    def paths(self, entry: Input) -> tuple[Path, ...]:
        if self.out is None:
            return ()
        place = self.out / entry.name
        return tuple(place.with_name(f"{place.name}.{name}") for name in self.formats)

    def there(self, entry: Input) -> bool:
        return bool(self.paths(entry)) and all(path.is_file() for path in self.paths(entry))

    def write(self, entry: Input, segments: Sequence[Segment]) -> tuple[Path, ...]:
        for name, path in zip(self.formats, self.paths(entry), strict=False):
            write_text(path, "".join(FORMATS[name](segments, self.rules)))
        return self.paths(entry)

    def say(self, segments: Iterable[Segment]) -> None:
        """Give the first format to whoever listens, as segments come."""
        for piece in FORMATS[self.formats[0]](segments, self.rules):
            if self.echo is not None:
                with tqdm.external_write_mode():
                    self.echo(piece)


def _each(
    made: _Outputs, entries: Sequence[Input], kept: Iterable[Transcript], heard: Iterable[Heard]
) -> Iterator[Transcript]:
    yield from kept
    seconds = [None if entry.stdin else media_seconds(entry.file) for entry in entries]
    known = [length for length in seconds if length is not None]
    total = sum(known) if len(known) == len(seconds) else None
    with tqdm(total=total and round(total), desc="transcribe", unit=" s", disable=None) as bar:
        for number, news in groupby(heard, key=lambda piece: piece.number):
            file = _File(before=round(bar.n))
            made.say(file.segments(news, bar))
            if file.error:
                yield Transcript(entries[number].file, tuple(file.kept), error=str(file.error))
            else:
                written = made.write(entries[number], file.kept)
                yield Transcript(entries[number].file, tuple(file.kept), written)


@dataclass
class _File:
    """What has come of a file so far."""

    before: int  # seconds that the progress bar had shown
    kept: list[Segment] = field(default_factory=list)
    error: AudioError | None = None

    def segments(self, news: Iterable[Heard], bar: Any) -> Iterator[Segment]:
        for piece in news:
            bar.update(self.before + round(piece.done) - bar.n)
            self.kept += piece.segments
            self.error = piece.error
            yield from piece.segments
