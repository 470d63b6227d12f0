"""Write segments as the answers and events of OpenAI's transcription API."""

import json
import zlib
from collections.abc import Callable, Sequence
from typing import Any

from asr_lora.language import language_name
from asr_lora.serving.request_options import RequestOptions
from asr_lora.transcription.segments import Segment
from asr_lora.transcription.subtitles import SubtitleRules, single_line
from asr_lora.transcription.writers import FORMATS

CONTENT_TYPES = {"json": "application/json", "verbose_json": "application/json", "vtt": "text/vtt; charset=utf-8"}
PLAIN = "text/plain; charset=utf-8"
Tokenise = Callable[[str], Sequence[int]]
Body = dict[str, Any]  # a JSON object


def full_text(segments: Sequence[Segment]) -> str:
    return " ".join(single_line(segment.text) for segment in segments)


def answer(options: RequestOptions, segments: Sequence[Segment], seconds: float, tokenise: Tokenise) -> tuple[str, str]:
    """Return the body of an answer and its content type.

    Args:
        seconds: length of the recording.
        tokenise: returns the tokens of a text, which `verbose_json` lists.
    """
    if options.format == "json":
        body = _json({"text": full_text(segments), "usage": _usage(seconds)})
    elif options.format == "verbose_json":
        body = _json(_verbose(options, segments, seconds, tokenise))
    elif options.format == "text":
        body = full_text(segments) + "\n"
    else:
        body = _subtitles(options.format, segments)
    return body, CONTENT_TYPES.get(options.format, PLAIN)


def delta_event(text: str) -> str:
    """An event with more text."""
    return _event({"type": "transcript.text.delta", "delta": text})


def done_event(options: RequestOptions, segments: Sequence[Segment], seconds: float, tokenise: Tokenise) -> str:
    """The last event; with `verbose_json` it holds all of that, and subtitles."""
    body: Body = {"text": full_text(segments), "usage": _usage(seconds)}
    if options.format == "verbose_json":
        body = _verbose(options, segments, seconds, tokenise)
        body |= {name: _subtitles(name, segments) for name in ("srt", "vtt")}
    return _event({"type": "transcript.text.done", **body})


def error_event(body: Body) -> str:
    """An event that reports an error after part of the answer has been sent."""
    return _event({"type": "error", **body})


def _verbose(options: RequestOptions, segments: Sequence[Segment], seconds: float, tokenise: Tokenise) -> Body:
    language = next((segment.language for segment in segments if segment.language), None)
    body: Body = {
        "task": "transcribe",
        "language": language_name(language) if language else "",
        "duration": round(seconds, 3),
        "text": full_text(segments),
        "usage": _usage(seconds),
    }
    if options.segments:
        body["segments"] = [
            _verbose_segment(number, segment, options, tokenise) for number, segment in enumerate(segments)
        ]
    if options.words:
        body["words"] = [
            {"word": word.text.strip(), "start": round(word.start, 3), "end": round(word.end, 3)}
            for segment in segments
            for word in segment.words
        ]
    return body


def _verbose_segment(number: int, segment: Segment, options: RequestOptions, tokenise: Tokenise) -> Body:
    raw = segment.text.encode()
    return {
        "id": number,
        "seek": round(100 * segment.start),
        "start": round(segment.start, 3),
        "end": round(segment.end, 3),
        "text": f" {single_line(segment.text)}",
        "tokens": list(tokenise(segment.text)),
        "temperature": options.temperature,
        "avg_logprob": segment.log_probability,
        "compression_ratio": len(raw) / len(zlib.compress(raw)),
        "no_speech_prob": segment.no_speech,
    }


def _usage(seconds: float) -> Body:
    return {"type": "duration", "seconds": round(seconds, 3)}


def _subtitles(name: str, segments: Sequence[Segment]) -> str:
    return "".join(FORMATS[name](segments, SubtitleRules()))


def _json(body: Body) -> str:
    return json.dumps(body, ensure_ascii=False)


def _event(body: Body) -> str:
    return f"data: {_json(body)}\n\n"
