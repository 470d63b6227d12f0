"""Segments -> txt, srt, vtt or json."""

import json
from collections.abc import Callable, Sequence

from asr_lora.transcription.longform import Segment


def to_txt(segments: Sequence[Segment]) -> str:
    return "".join(f"{segment.text}\n" for segment in segments)


def to_srt(segments: Sequence[Segment]) -> str:
    """SubRip: numbered from 1, comma before the milliseconds."""
    cues = [
        f"{number}\n{clock(segment.start, ',')} --> {clock(segment.end, ',')}\n{segment.text}\n"
        for number, segment in enumerate(segments, 1)
    ]
    return "\n".join(cues)


def to_vtt(segments: Sequence[Segment]) -> str:
    """WebVTT (W3C): point before the milliseconds; &, < and > escaped, so that no text can end a cue or open a tag."""
    cues = [
        f"{clock(segment.start, '.')} --> {clock(segment.end, '.')}\n{_escaped(segment.text)}\n" for segment in segments
    ]
    return "\n".join(["WEBVTT\n", *cues])


def to_json(segments: Sequence[Segment]) -> str:
    rows = [{"start": round(s.start, 3), "end": round(s.end, 3), "text": s.text} for s in segments]
    body = {"text": " ".join(segment.text for segment in segments), "segments": rows}
    return json.dumps(body, ensure_ascii=False, indent=2) + "\n"


FORMATS: dict[str, Callable[[Sequence[Segment]], str]] = {"txt": to_txt, "srt": to_srt, "vtt": to_vtt, "json": to_json}


def clock(seconds: float, point: str) -> str:
    """Seconds as hours:minutes:seconds and milliseconds."""
    milliseconds = round(seconds * 1000)
    hours, rest = divmod(milliseconds, 3_600_000)
    minutes, rest = divmod(rest, 60_000)
    return f"{hours:02d}:{minutes:02d}:{rest // 1000:02d}{point}{rest % 1000:03d}"


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
