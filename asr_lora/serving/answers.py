"""Write segments as the answers and events of OpenAI's transcription API."""

import json
import math
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from asr_lora.language import Task, language_name
from asr_lora.serving.request_options import RequestOptions
from asr_lora.transcription.segments import Segment
from asr_lora.transcription.subtitles import SubtitleRules, single_line
from asr_lora.transcription.writers import FORMATS

CONTENT_TYPES = {"json": "application/json", "verbose_json": "application/json", "vtt": "text/vtt; charset=utf-8"}
PLAIN = "text/plain; charset=utf-8"
TokenBytes = Callable[[int], bytes]
ENCODER_OUTPUTS = 50  # a second of sound, which `usage` counts as the tokens of the input
Body = dict[str, Any]  # a JSON object


def full_text(segments: Sequence[Segment]) -> str:
    return " ".join(single_line(segment.text) for segment in segments)


def answer(
    options: RequestOptions, segments: Sequence[Segment], seconds: float, token_bytes: TokenBytes
) -> tuple[str, str]:
    """Return the body of an answer and its content type.

    Args:
        seconds: length of the recording.
        token_bytes: returns what a token stands for, in UTF-8.
    """
    if options.format == "json":
        scores = _log_probabilities(options, segments, token_bytes)
        body = _json({"text": full_text(segments), **scores, "usage": _usage(seconds)})
    elif options.format == "verbose_json":
        body = _json(_verbose(options, segments, seconds))
    elif options.format == "text":
        body = full_text(segments) + "\n"
    else:
        body = _subtitles(options.format, segments)
    return body, CONTENT_TYPES.get(options.format, PLAIN)


def delta_event(options: RequestOptions, segments: Sequence[Segment], text: str, token_bytes: TokenBytes) -> str:
    """An event with more text, that of these segments."""
    scores = _log_probabilities(options, segments, token_bytes)
    return _event({"type": "transcript.text.delta", "delta": text, **scores})


def done_event(
    options: RequestOptions, segments: Sequence[Segment], seconds: float, token_bytes: TokenBytes, prompt_tokens: int
) -> str:
    """The last event; with `verbose_json` it holds all of that, and subtitles."""
    body: Body = {"text": full_text(segments), **_log_probabilities(options, segments, token_bytes)}
    if options.format == "verbose_json":
        body = _verbose(options, segments, seconds)
        body |= {name: _subtitles(name, segments) for name in ("srt", "vtt")}
    heard, written = math.ceil(ENCODER_OUTPUTS * seconds), sum(len(segment.tokens) for segment in segments)
    body["usage"] = {  # OpenAI's last event counts tokens, though its other answers count seconds
        "type": "tokens",
        "input_tokens": heard + prompt_tokens,
        "input_token_details": {"audio_tokens": heard, "text_tokens": prompt_tokens},
        "output_tokens": written,
        "total_tokens": heard + prompt_tokens + written,
    }
    return _event({"type": "transcript.text.done", **body})


def error_event(body: Body) -> str:
    """An event that reports an error after part of the answer has been sent."""
    return _event({"type": "error", **body})


def _log_probabilities(options: RequestOptions, segments: Sequence[Segment], token_bytes: TokenBytes) -> Body:
    if not options.token_scores:
        return {}
    return {"logprobs": [each for segment in segments for each in _scored_tokens(segment, token_bytes)]}


def _scored_tokens(segment: Segment, token_bytes: TokenBytes) -> Iterator[Body]:
    for token, score in zip(segment.tokens, segment.token_scores, strict=True):
        raw = token_bytes(token)
        yield {"token": raw.decode(errors="replace"), "logprob": score, "bytes": list(raw)}


def _verbose(options: RequestOptions, segments: Sequence[Segment], seconds: float) -> Body:
    language = next((segment.language for segment in segments if segment.language), options.language)
    if options.task is Task.TRANSLATE:
        language = "en"  # of the text
    body: Body = {
        "task": options.task or Task.TRANSCRIBE,
        "language": language_name(language) if language else "",
        "duration": round(seconds, 3),
        "text": full_text(segments),
        "usage": _usage(seconds),
    }
    if options.segments:
        body["segments"] = [_verbose_segment(number, segment) for number, segment in enumerate(segments)]
    if options.words:
        body["words"] = [
            {"word": word.text.strip(), "start": round(word.start, 3), "end": round(word.end, 3)}
            for segment in segments
            for word in segment.words
        ]
    return body


def _verbose_segment(number: int, segment: Segment) -> Body:
    raw = segment.text.encode()
    return {
        "id": number,
        "seek": round(100 * segment.start),
        "start": round(segment.start, 3),
        "end": round(segment.end, 3),
        "text": f" {single_line(segment.text)}",
        "tokens": list(segment.tokens),
        "temperature": segment.temperature,
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
