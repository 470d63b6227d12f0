"""The job `transcribe`: files of any length to text, subtitles or JSON."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Never

from tqdm import tqdm

from asr_lora.audio.decode import media_seconds
from asr_lora.config import Context, Precision
from asr_lora.decoding.decoding_options import BEAMS, FALLBACK_TEMPERATURES, DecodingOptions
from asr_lora.decoding.hotwords import hotword_boost
from asr_lora.decoding.loading import EngineName, engine_named
from asr_lora.errors import AudioError, ConfigError
from asr_lora.folders.atomic import write_text
from asr_lora.folders.tabular import Column, Tabular
from asr_lora.language import Task
from asr_lora.system.renamed import renamed_keywords
from asr_lora.transcription.inputs import Input, find_inputs
from asr_lora.transcription.recordings import transcribe_recordings
from asr_lora.transcription.routes import make_routes
from asr_lora.transcription.segments import Segment, TranscriptPart
from asr_lora.transcription.subtitles import SubtitleRules
from asr_lora.transcription.transcriber import open_transcriber
from asr_lora.transcription.writers import FORMATS, SUBTITLE_FORMATS


@dataclass(frozen=True)
class Transcript(Tabular):
    """The result for one file."""

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
    kept: bool = False  # all outputs existed already, and the file was not transcribed

    def entries(self) -> Iterable[object]:
        return self.segments

    def caption(self) -> str:
        return self.error or str(self.file)


@renamed_keywords(terms="hotwords")
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
    beams: int = BEAMS,
    vad: bool = True,
    timestamps: bool = True,
    words: bool | None = None,
    sequential: bool = False,
    fallback: bool = True,
    hotwords: Path | None = None,
    engine: str | None = None,
    rules: SubtitleRules = SubtitleRules(),  # noqa: B008 (frozen)
    keep_existing: bool = False,
    echo: Callable[[str], None] | None = None,
) -> Iterator[Transcript]:
    """Transcribe audio files one after another, each when the iterator reaches it.

    A file that cannot be decoded is returned with its `error` and the segments before it; the other files are
    transcribed all the same. Each output is written whole or not at all.

    Args:
        inputs: files, folders, patterns, or "-" for standard input.
        formats: of "txt", "srt", "vtt", "tsv" and "json"; they are written to the folder `out`, if one is given.
        language: name or code; "auto" detects it in each file; None takes the run's, and so for `language_token`.
        adapters: names, and the runs or adapters on the base `model` that they stand for.
        route: which adapter transcribes a file: "language", "folder", or a name; see `asr_lora.transcription.routes`.
        vad: transcribe only speech, as silero detects it; otherwise everything, cut at quiet moments.
        timestamps: cut segments at Whisper's timestamps; otherwise a segment is a whole window.
        words: find the times of words; None finds them for subtitles alone.
        sequential: transcribe as openai/whisper does, 30 s at a time after the text before, without `vad`.
        fallback: decode doubtful windows again at higher temperatures.
        hotwords: file of names and terms, one per line, that are made more probable.
        engine: "torch", or "ctranslate2", for which the model is converted once and kept in the cache; by default
            CTranslate2 on a CPU, unless there are hotwords or several adapters, and else PyTorch.
        keep_existing: skip files whose outputs all exist.
        echo: receives the first format piece by piece, as soon as each is ready.

    Raises:
        ConfigError: an option is unknown or contradicts another, or two inputs would write the same file.
        DataError: the model cannot be used, or the hotwords cannot be read.
    """
    runner = engine_named(engine, precision, needs_torch=bool(hotwords or adapters))
    _require_compatible(formats, adapters, language or language_token, route, hotwords, runner)
    found = find_inputs(inputs, written=out is not None, routes=tuple(adapters or ()))
    if echo is not None and out is None and len(found) > 1 and formats[0] != "txt":
        raise ConfigError(f"{formats[0]} of several files needs a folder: add --out FOLDER")
    outputs = _Outputs(formats, out, rules, echo)
    fresh = [entry for entry in found if not (keep_existing and outputs.exist(entry))]
    kept = [Transcript(entry.file, written=outputs.paths(entry), kept=True) for entry in found if entry not in fresh]
    if not fresh:
        return iter(kept)
    routes = make_routes(tuple(adapters or ()), route, fresh)
    transcriber = open_transcriber(
        model, adapters, language=language, language_token=language_token, task=task, context=context,
        precision=precision, vad=vad, engine=runner,
    )  # fmt: skip
    if words is None:
        words = bool(SUBTITLE_FORMATS & set(formats)) and transcriber.has_word_times
    options = DecodingOptions(
        beams, timestamps=timestamps, word_times=words, fallback=FALLBACK_TEMPERATURES if fallback else (),
        processors=[hotword_boost(transcriber.engine.whisper, hotwords)] if hotwords else (),
    )  # fmt: skip
    parts = transcribe_recordings(transcriber, fresh, routes, options, sequential=sequential)
    return _transcripts(outputs, fresh, kept, parts)


def _require_compatible(
    formats: Sequence[str],
    adapters: Mapping[str, str] | None,
    language: str | None,
    route: str | None,
    hotwords: Path | None,
    engine: EngineName,
) -> None:
    """Refuse options that contradict each other, before anything is loaded."""
    unknown = [name for name in formats if name not in FORMATS]
    if unknown:
        raise ConfigError(f"--format: {', '.join(unknown)} is not one of {', '.join(FORMATS)}")
    if adapters and language:
        raise ConfigError("each adapter knows its language: leave out --language and --language-token")
    if route and not adapters:
        raise ConfigError("--route chooses among adapters: name them with --adapter NAME=RUN")
    if hotwords and engine is EngineName.CTRANSLATE2:
        raise ConfigError("--hotwords changes scores of tokens, which CTranslate2 does not allow: take --engine torch")


@dataclass(frozen=True)
class _Outputs:
    """Where transcripts are written, and in which formats."""

    formats: Sequence[str]
    out: Path | None
    rules: SubtitleRules
    echo: Callable[[str], None] | None

    def paths(self, entry: Input) -> tuple[Path, ...]:
        if self.out is None:
            return ()
        place = self.out / entry.name
        return tuple(place.with_name(f"{place.name}.{name}") for name in self.formats)

    def exist(self, entry: Input) -> bool:
        return bool(self.paths(entry)) and all(path.is_file() for path in self.paths(entry))

    def render_first(self, segments: Iterable[Segment]) -> str:
        """Render the first format as segments arrive, and give each piece to `echo`."""
        pieces = []
        for piece in FORMATS[self.formats[0]](segments, self.rules):
            pieces.append(piece)
            if self.echo is not None:
                with tqdm.external_write_mode():
                    self.echo(piece)
        return "".join(pieces)

    def write(self, entry: Input, first: str, segments: Sequence[Segment]) -> tuple[Path, ...]:
        """Write the first format, which is rendered already, and render and write the others."""
        for name, path in zip(self.formats, self.paths(entry), strict=False):
            text = first if name == self.formats[0] else "".join(FORMATS[name](segments, self.rules))
            write_text(path, text)
        return self.paths(entry)


def _transcripts(
    outputs: _Outputs, entries: Sequence[Input], kept: Iterable[Transcript], parts: Iterable[TranscriptPart]
) -> Iterator[Transcript]:
    yield from kept
    seconds = [None if entry.stdin else media_seconds(entry.file) for entry in entries]
    known = [length for length in seconds if length is not None]
    total = round(sum(known)) if len(known) == len(seconds) else None
    with tqdm(total=total, desc="transcribe", unit=" s", disable=None) as bar:
        for number, own in groupby(parts, key=lambda part: part.file):
            file = _FileProgress(before=round(bar.n))
            first = outputs.render_first(file.segments(own, bar))
            entry, segments = entries[number], tuple(file.kept)
            if file.error:
                yield Transcript(entry.file, segments, error=str(file.error))
            else:
                yield Transcript(entry.file, segments, outputs.write(entry, first, segments))


@dataclass
class _FileProgress:
    """The segments of one file so far."""

    before: int  # seconds that the progress bar showed when the file began
    kept: list[Segment] = field(default_factory=list)
    error: AudioError | None = None

    def segments(self, parts: Iterable[TranscriptPart], bar: "tqdm[Never]") -> Iterator[Segment]:
        for part in parts:
            bar.update(self.before + round(part.seconds) - bar.n)
            self.kept += part.segments
            self.error = part.error
            yield from part.segments
