"""Segments -> txt, srt, vtt, tsv or json, piece by piece as they come."""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from typing import Any

from asr_lora.transcription.segments import Segment
from asr_lora.transcription.subtitles import Cue, Rules, cues, plain

Writer = Callable[[Iterable[Segment], Rules], Iterator[str]]


def write_txt(segments: Iterable[Segment], _: Rules) -> Iterator[str]:
    """A line a segment."""
    return (f"{plain(segment.text)}\n" for segment in segments)


def write_srt(segments: Iterable[Segment], rules: Rules) -> Iterator[str]:
    """SubRip: numbered from 1, comma before the milliseconds, nothing escaped, for there is no way to."""
    for number, cue in enumerate(cues(segments, rules), 1):
        yield f"{number}\n{_times(cue, ',')}\n{cue.text}\n\n"


def write_vtt(segments: Iterable[Segment], rules: Rules) -> Iterator[str]:
    """WebVTT (W3C): point before the milliseconds; &, < and > escaped, so that no text can end a cue or open a tag."""
    yield "WEBVTT\n\n"
    for cue in cues(segments, rules):
        yield f"{_times(cue, '.')}\n{_escaped(cue.text)}\n\n"


def write_tsv(segments: Iterable[Segment], _: Rules) -> Iterator[str]:
    """Start and end in milliseconds, and text, as openai/whisper writes them."""
    yield "start\tend\ttext\n"
    for segment in segments:
        yield f"{round(1000 * segment.start)}\t{round(1000 * segment.end)}\t{plain(segment.text)}\n"


def write_json(segments: Iterable[Segment], _: Rules) -> Iterator[str]:
    """All that is known, in one object, when the last segment is there."""
    rows = [_row(segment) for segment in segments]
    body = {"text": " ".join(row["text"] for row in rows), "segments": rows}
    yield json.dumps(body, ensure_ascii=False, indent=2) + "\n"


FORMATS: dict[str, Writer] = {
    "txt": write_txt, "srt": write_srt, "vtt": write_vtt, "tsv": write_tsv, "json": write_json,
}  # fmt: skip
TIMED = {"srt", "vtt"}  # where the times of words make better cues


def clock(seconds: float, point: str) -> str:
    """Seconds as hours:minutes:seconds and milliseconds."""
    milliseconds = round(seconds * 1000)
    hours, rest = divmod(milliseconds, 3_600_000)
    minutes, rest = divmod(rest, 60_000)
    return f"{hours:02d}:{minutes:02d}:{rest // 1000:02d}{point}{rest % 1000:03d}"


def _row(segment: Segment) -> dict[str, Any]:
    """What is known of a segment, times to the millisecond."""
    known = {key: value for key, value in asdict(segment).items() if value not in (None, ())}
    for row in (known, *known.get("words", ())):
        row |= {key: round(row[key], 3) for key in ("start", "end", "log_probability", "no_speech") if key in row}
    return known


def _times(cue: Cue, point: str) -> str:
    return f"{clock(cue.start, point)} --> {clock(cue.end, point)}"


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
