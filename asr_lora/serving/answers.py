"""Segments -> what OpenAI's API answers."""

import json
import zlib
from collections.abc import Callable, Sequence
from typing import Any

from asr_lora.language import language_name
from asr_lora.serving.request_options import Wish
from asr_lora.transcription.segments import Segment
from asr_lora.transcription.subtitles import Rules, plain
from asr_lora.transcription.writers import FORMATS

TYPES = {"json": "application/json", "verbose_json": "application/json", "vtt": "text/vtt; charset=utf-8"}
PLAIN = "text/plain; charset=utf-8"
Tokens = Callable[[str], Sequence[int]]


def full_text(segments: Sequence[Segment]) -> str:
    return " ".join(plain(segment.text) for segment in segments)


def answer(wish: Wish, segments: Sequence[Segment], seconds: float, tokens: Tokens) -> tuple[str, str]:
    """The body of an answer and its type."""
    kind = TYPES.get(wish.format, PLAIN)
    if wish.format == "json":
        return _json({"text": full_text(segments), "usage": _usage(seconds)}), kind
    if wish.format == "verbose_json":
        return _json(verbose(wish, segments, seconds, tokens)), kind
    if wish.format == "text":
        return full_text(segments) + "\n", kind
    return "".join(FORMATS[wish.format](segments, Rules())), kind


def verbose(wish: Wish, segments: Sequence[Segment], seconds: float, tokens: Tokens) -> dict[str, Any]:
    """What `verbose_json` has; `tokens` gives those of a text."""
    language = next((segment.language for segment in segments if segment.language), None)
    body = {
        "task": "transcribe",
        "language": language_name(language) if language else "",
        "duration": round(seconds, 3),
        "text": full_text(segments),
        "usage": _usage(seconds),
    }
    if wish.segments:
        body["segments"] = [_segment(number, segment, wish, tokens) for number, segment in enumerate(segments)]
    if wish.words:
        body["words"] = [
            {"word": word.text.strip(), "start": round(word.start, 3), "end": round(word.end, 3)}
            for segment in segments
            for word in segment.words
        ]
    return body


def delta(text: str) -> str:
    """An event: more text."""
    return _event({"type": "transcript.text.delta", "delta": text})


def done(wish: Wish, segments: Sequence[Segment], seconds: float, tokens: Tokens) -> str:
    """The last event; with `verbose_json` all of that is in it, and subtitles."""
    body: dict[str, Any] = {"text": full_text(segments), "usage": _usage(seconds)}
    if wish.format == "verbose_json":
        body = verbose(wish, segments, seconds, tokens)
        body |= {name: "".join(FORMATS[name](segments, Rules())) for name in ("srt", "vtt")}
    return _event({"type": "transcript.text.done", **body})


def failed(error: dict[str, Any]) -> str:
    """An event: what is said of a request that fails when part of its answer is sent."""
    return _event({"type": "error", **error})


def _segment(number: int, segment: Segment, wish: Wish, tokens: Tokens) -> dict[str, Any]:
    raw = segment.text.encode()
    return {
        "id": number,
        "seek": round(100 * segment.start),
        "start": round(segment.start, 3),
        "end": round(segment.end, 3),
        "text": f" {plain(segment.text)}",
        "tokens": list(tokens(segment.text)),
        "temperature": wish.temperature,
        "avg_logprob": segment.log_probability,
        "compression_ratio": len(raw) / len(zlib.compress(raw)),
        "no_speech_prob": segment.no_speech,
    }


def _usage(seconds: float) -> dict[str, Any]:
    return {"type": "duration", "seconds": round(seconds, 3)}


def _json(body: dict[str, Any]) -> str:
    return json.dumps(body, ensure_ascii=False)


def _event(body: dict[str, Any]) -> str:
    return f"data: {_json(body)}\n\n"
