"""The job: files or folders -> text, subtitles or JSON."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from tqdm import tqdm

from asr_lora.artifacts import write_text
from asr_lora.audio.decode import readable_suffixes
from asr_lora.audio.features import context_seconds
from asr_lora.config import Context, Precision, Task
from asr_lora.errors import AudioError, ConfigError
from asr_lora.model.system import open_system
from asr_lora.model.whisper import Whisper
from asr_lora.transcription.decode import decode_batch, default_batch_seconds
from asr_lora.transcription.longform import Segment, windows
from asr_lora.transcription.subtitles import FORMATS

WINDOWS_AT_ONCE = 8


@dataclass(frozen=True)
class Transcript:
    """What became of one file."""

    file: Path
    segments: tuple[Segment, ...] = ()
    written: tuple[Path, ...] = ()
    error: str | None = None


def transcribe(
    model: str,
    inputs: Sequence[Path],
    *,
    formats: Sequence[str] = ("txt",),
    out: Path | None = None,
    language: str | None = None,
    language_token: str | None = None,
    task: Task | None = None,
    context: Context | None = None,
    precision: Precision = Precision.AUTO,
    beams: int = 1,
) -> Iterator[Transcript]:
    """Transcribe audio files, and those in folders, one after another, each as its transcript is asked for.

    A file that cannot be read comes back with its `error`; the others are transcribed all the same. Each output is
    written whole or not at all.

    Args:
        formats: of "txt", "srt", "vtt" and "json".
        out: folder for the outputs, one file a format; None writes nothing.
        language_token: of a related language, where Whisper has none for the language; the run's when not given.

    Raises:
        ConfigError: an unknown format or language, or two inputs that would write one file.
        DataError: the model cannot be used.
    """
    unknown = [name for name in formats if name not in FORMATS]
    if unknown:
        raise ConfigError(f"--format: {', '.join(unknown)} is not one of {', '.join(FORMATS)}")
    files = find_audio(inputs)
    if out is not None:
        _distinct(files)
    whisper = open_system(
        model, language=language, language_token=language_token, task=task, context=context, precision=precision
    ).whisper
    return _each(whisper, files, formats, out, beams)


def _each(
    whisper: Whisper, files: Sequence[Path], formats: Sequence[str], out: Path | None, beams: int
) -> Iterator[Transcript]:
    for file in tqdm(files, desc="transcribe", unit="file", disable=len(files) < 2):
        try:
            segments = tuple(transcribe_file(whisper, file, beams=beams))
        except AudioError as error:
            yield Transcript(file, error=str(error))
            continue
        written = []
        for name in formats if out is not None else ():
            assert out is not None
            target = out / f"{file.stem}.{name}"
            write_text(target, FORMATS[name](segments))
            written.append(target)
        yield Transcript(file, segments, tuple(written))


def transcribe_file(whisper: Whisper, source: Path | bytes, *, beams: int = 1) -> Iterator[Segment]:
    """Transcribe one file of any length, window by window; silent windows give no segment.

    Yields:
        Segments in order, each the text of one window.

    Raises:
        AudioError: the file cannot be decoded, or holds no samples.
    """
    seconds = min(context_seconds(30.0, whisper.context), 30.0)
    at_once = max(1, min(WINDOWS_AT_ONCE, int(default_batch_seconds(whisper) / seconds)))
    stretches = windows(source)
    heard = False
    while batch := list(islice(stretches, at_once)):
        heard = True
        loud = [window for window in batch if not window.silent]
        texts = decode_batch(whisper, [window.waveform for window in loud], beams=beams) if loud else []
        for window, text in zip(loud, texts, strict=True):
            if text:
                yield Segment(window.start, window.end, text)
    if not heard:
        raise AudioError("no audio", f"{source if isinstance(source, Path) else 'the audio'} decodes to no samples")


def find_audio(inputs: Sequence[Path]) -> list[Path]:
    """Return the files named, and under each folder those with an extension that libsndfile reads, sorted.

    Raises:
        ConfigError: nothing is named or found.
    """
    known = readable_suffixes()
    files: list[Path] = []
    for place in inputs:
        if place.is_dir():
            found = sorted(path for path in place.rglob("*") if path.suffix.lower() in known and path.is_file())
            if not found:
                raise ConfigError(f"{place} has no audio files that can be read (such as .wav, .flac, .ogg, .mp3)")
            files += found
        else:
            files.append(place)
    if not files:
        raise ConfigError("name at least one audio file or folder")
    return files


def _distinct(files: Sequence[Path]) -> None:
    seen: dict[str, Path] = {}
    for file in files:
        if file.stem in seen:
            raise ConfigError(
                f"{seen[file.stem]} and {file} would write one file: transcribe them to different folders"
            )
        seen[file.stem] = file
