"""The job `transcribe`: files of any length to text, subtitles or JSON."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Never

from tqdm import tqdm

from asr_lora.audio.decode import media_seconds
from asr_lora.config import Context, Precision
from asr_lora.decoding.decoding_options import BEAMS, FALLBACK_TEMPERATURES, DecodingOptions
from asr_lora.decoding.hotwords import with_hotwords
from asr_lora.decoding.loading import computed_in, engine_named
from asr_lora.errors import AudioError, ConfigError
from asr_lora.folders.tabular import Column, Tabular
from asr_lora.folders.transcript_folder import TranscriptFolder, refusal
from asr_lora.language import Task
from asr_lora.system.renamed import renamed_keywords
from asr_lora.transcription.inputs import Input, find_inputs
from asr_lora.transcription.recordings import transcribe_recordings
from asr_lora.transcription.routes import make_routes
from asr_lora.transcription.segments import Segment, SoundFacts, TranscriptPart
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
    notice: str | None = None  # why there is no text, and what to try

    def entries(self) -> Iterable[object]:
        return self.segments

    def caption(self) -> str:
        return self.error or self.notice or str(self.file)


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
    overwrite: bool = False,
    echo: Callable[[str], None] | None = None,
) -> Iterator[Transcript]:
    """Transcribe audio files one after another, each when the iterator reaches it.

    A file that cannot be decoded, or whose outputs cannot be written, is returned with its `error` and the segments
    before it; the other files are transcribed all the same. Each output is written whole or not at all.

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
        overwrite: replace files in `out` that no earlier transcription wrote, too.
        echo: receives the first format piece by piece, as soon as each is ready.

    Raises:
        ConfigError: an option is unknown or contradicts another, two inputs would write the same file, or `out` cannot
            be written to.
        DataError: the model cannot be used, or the hotwords cannot be read.
    """
    runner = engine_named(engine, precision, needs_torch=bool(hotwords or adapters))
    _require_compatible(formats, adapters, language or language_token, route)
    found = find_inputs(inputs, written=out is not None, routes=tuple(adapters or ()))
    if echo is not None and out is None and len(found) > 1 and formats[0] != "txt":
        raise ConfigError(f"{formats[0]} of several files needs a folder: add --out FOLDER")
    outputs = _Outputs(formats, TranscriptFolder(out, overwrite=overwrite) if out else None, rules, echo)
    fresh, kept = outputs.divide(found, keep_existing=keep_existing)
    if not fresh:
        return iter(kept)
    routes = make_routes(tuple(adapters or ()), route, fresh)
    transcriber = open_transcriber(
        model, adapters, language=language, language_token=language_token, task=task, context=context,
        precision=computed_in(engine, precision, runner), vad=vad, engine=runner,
    )  # fmt: skip
    if words is None:
        words = bool(SUBTITLE_FORMATS & set(formats)) and transcriber.has_word_times
    options = DecodingOptions(
        beams, timestamps=timestamps, word_times=words, fallback=FALLBACK_TEMPERATURES if fallback else (),
    )  # fmt: skip
    if hotwords:
        options = with_hotwords(options, transcriber.engine, hotwords)
    parts = transcribe_recordings(transcriber, fresh, routes, options, sequential=sequential)
    return _transcripts(outputs, fresh, kept, parts)


def _require_compatible(
    formats: Sequence[str],
    adapters: Mapping[str, str] | None,
    language: str | None,
    route: str | None,
) -> None:
    """Refuse options that contradict each other, before anything is loaded."""
    unknown = [name for name in formats if name not in FORMATS]
    if unknown:
        raise ConfigError(f"--format: {', '.join(unknown)} is not one of {', '.join(FORMATS)}")
    if adapters and language:
        raise ConfigError("each adapter knows its language: leave out --language and --language-token")
    if route and not adapters:
        raise ConfigError("--route chooses among adapters: name them with --adapter NAME=RUN")


@dataclass(frozen=True)
class _Outputs:
    """Where transcripts are written, and in which formats."""

    formats: Sequence[str]
    out: TranscriptFolder | None
    rules: SubtitleRules
    echo: Callable[[str], None] | None

    def paths(self, entry: Input) -> tuple[Path, ...]:
        return tuple(self.out.place(entry.name, name) for name in self.formats) if self.out else ()

    def divide(self, entries: Iterable[Input], *, keep_existing: bool) -> tuple[list[Input], list[Transcript]]:
        """Return the files to transcribe, and results for those whose outputs are kept, or are not ours to replace."""
        fresh, done = [], []
        for entry in entries:
            paths = self.paths(entry)
            foreign = [path for path in paths if self.out and self.out.foreign(path)]
            if keep_existing and paths and all(map(os.path.isfile, paths)):
                done.append(Transcript(entry.file, written=paths, kept=True))
            elif foreign:
                done.append(Transcript(entry.file, error=f"{entry.file} was left out: {refusal(foreign)}"))
            else:
                fresh.append(entry)
        return fresh, done

    def render_first(self, segments: Iterable[Segment]) -> str:
        """Render the first format as segments arrive, and give each piece to `echo`."""
        pieces = []
        for piece in FORMATS[self.formats[0]](segments, self.rules):
            pieces.append(piece)
            if self.echo is not None:
                with tqdm.external_write_mode():
                    self.echo(piece)
        return "".join(pieces)

    def write(self, entry: Input, first: str, segments: Sequence[Segment]) -> tuple[tuple[Path, ...], str | None]:
        """Write the first format, which is rendered already, and render and write the others.

        Returns:
            The files that were written, and why the others could not be.
        """
        if self.out is None:
            return (), None
        texts = {
            path: first if name == self.formats[0] else "".join(FORMATS[name](segments, self.rules))
            for name, path in zip(self.formats, self.paths(entry), strict=True)
        }
        done, faults = self.out.write(texts)
        return tuple(done), "; ".join(faults) or None


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
                continue
            written, fault = outputs.write(entry, first, segments)
            notice = f"{entry.file}: {file.sound.why_empty()}" if file.sound and not segments else None
            yield Transcript(entry.file, segments, written, fault, notice=notice)


@dataclass
class _FileProgress:
    """The segments of one file so far."""

    before: int  # seconds that the progress bar showed when the file began
    kept: list[Segment] = field(default_factory=list)
    error: AudioError | None = None
    sound: SoundFacts | None = None

    def segments(self, parts: Iterable[TranscriptPart], bar: "tqdm[Never]") -> Iterator[Segment]:
        for part in parts:
            bar.update(self.before + round(part.seconds) - bar.n)
            self.kept += part.segments
            self.error, self.sound = part.error, part.sound
            yield from part.segments
