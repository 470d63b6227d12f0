"""Write segments as txt, srt, vtt, tsv or json, piece by piece as they arrive."""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from typing import Any

from asr_lora.transcription.segments import Segment
from asr_lora.transcription.subtitles import Cue, SubtitleRules, make_cues, single_line

Writer = Callable[[Iterable[Segment], SubtitleRules], Iterator[str]]


def write_txt(segments: Iterable[Segment], _: SubtitleRules) -> Iterator[str]:
    """One line per segment."""
    return (f"{single_line(segment.text)}\n" for segment in segments)


def write_srt(segments: Iterable[Segment], rules: SubtitleRules) -> Iterator[str]:
    """SubRip: numbered from 1, with a comma before the milliseconds. The format has no way to escape text."""
    for number, cue in enumerate(make_cues(segments, rules), 1):
        yield f"{number}\n{_cue_times(cue, ',')}\n{cue.text}\n\n"


def write_vtt(segments: Iterable[Segment], rules: SubtitleRules) -> Iterator[str]:
    """WebVTT (W3C): a point before the milliseconds; &, < and > are escaped, so text cannot end a cue or open a tag."""
    yield "WEBVTT\n\n"
    for cue in make_cues(segments, rules):
        yield f"{_cue_times(cue, '.')}\n{_escape(cue.text)}\n\n"


def write_tsv(segments: Iterable[Segment], _: SubtitleRules) -> Iterator[str]:
    """Start and end in milliseconds, and text, as in openai/whisper."""
    yield "start\tend\ttext\n"
    for segment in segments:
        yield f"{round(1000 * segment.start)}\t{round(1000 * segment.end)}\t{single_line(segment.text)}\n"


def write_json(segments: Iterable[Segment], _: SubtitleRules) -> Iterator[str]:
    """One object with every field of every segment, after the last segment."""
    rows = [_json_row(segment) for segment in segments]
    body = {"text": " ".join(row["text"] for row in rows), "segments": rows}
    yield json.dumps(body, ensure_ascii=False, indent=2) + "\n"


FORMATS: dict[str, Writer] = {
    "txt": write_txt, "srt": write_srt, "vtt": write_vtt, "tsv": write_tsv, "json": write_json,
}  # fmt: skip
SUBTITLE_FORMATS = {"srt", "vtt"}  # times of words make their cues better


def _json_row(segment: Segment) -> dict[str, Any]:
    """The fields of a segment that are known, with times in seconds to the millisecond."""
    known = {key: value for key, value in asdict(segment).items() if value not in (None, ())}
    for row in (known, *known.get("words", ())):
        row |= {key: round(row[key], 3) for key in ("start", "end", "log_probability", "no_speech") if key in row}
    return known


def _cue_times(cue: Cue, point: str) -> str:
    return f"{_clock(cue.start, point)} --> {_clock(cue.end, point)}"


def _clock(seconds: float, point: str) -> str:
    """Seconds as hours:minutes:seconds and milliseconds."""
    minutes, milliseconds = divmod(round(seconds * 1000), 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{milliseconds // 1000:02d}{point}{milliseconds % 1000:03d}"


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
