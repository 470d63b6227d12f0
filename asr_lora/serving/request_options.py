"""Read the form of a transcription or translation request, whose fields are those of OpenAI's API."""

import json
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import FormData

from asr_lora.language import Task
from asr_lora.serving.api_errors import ApiError, invalid_field, missing_field
from asr_lora.transcription.longform import SpeechRules

RESPONSE_FORMATS = ("json", "text", "srt", "verbose_json", "vtt")
GRANULARITIES = ("word", "segment")
STREAMED_FORMATS = ("json", "text", "verbose_json")
TEXTS = {"model", "language", "prompt", "response_format", "temperature", "stream", "chunking_strategy"}
LISTS = {  # fields that clients may repeat; OpenAI's clients write them with [], some others without or as [0], [1]
    "timestamp_granularities", "include", "keywords", "languages", "known_speaker_names", "known_speaker_references",
}  # fmt: skip
FIELD = re.compile(r"(\w+)(?:\[(\w*)\])?")  # name, name[], name[0] of a list, or chunking_strategy[type] of an object
CHUNKING = {  # name in OpenAI's API -> our rule, the largest value, and how many of its units are ours
    "threshold": ("begins", 1, 1), "silence_duration_ms": ("pause", 10_000, 1000),
    "prefix_padding_ms": ("margin", 5_000, 1000),
}  # fmt: skip


@dataclass(frozen=True)
class RequestOptions:
    """What a client asks for."""

    model: str
    language: str | None = None  # name or code; None: the model's own language, or the one detected
    prompt: str = ""  # the decoder takes it for the text before the recording
    keywords: tuple[str, ...] = ()  # likely words, put before the prompt
    format: str = "json"
    temperature: float = 0.0  # 0: greedy, and doubtful windows are tried again at higher temperatures
    words: bool = False  # whether the client asks for times of words
    segments: bool = True  # whether the client asks for times of segments
    stream: bool = False
    task: Task | None = None  # None: the model's own task
    token_scores: bool = False  # whether the client asks for the log-probability of each token
    speech_rules: SpeechRules | None = None  # None: the server's own way to find speech

    @property
    def previous_text(self) -> str:
        """What the decoder takes for the text before the recording, as OpenAI's guide names likely words to Whisper."""
        return " ".join(filter(None, [", ".join(self.keywords), self.prompt]))

    @property
    def needs_word_times(self) -> bool:
        return self.words or self.format in ("srt", "vtt") or (self.stream and self.format == "verbose_json")


class _Fields:
    """The fields of a form under their plain names."""

    def __init__(self, form: FormData) -> None:
        self.texts: dict[str, str] = {}
        self.lists: dict[str, list[str]] = {name: [] for name in LISTS}
        self.chunking: dict[str, Any] = {}
        for given, value in form.multi_items():
            if given == "file":
                continue
            match = FIELD.fullmatch(given)
            name, key = (match[1], match[2]) if match else ("", None)
            if not isinstance(value, str):
                raise invalid_field(given[:60], f"{given[:60]} must be text, not a file")
            if name in LISTS and (not key or key.isdecimal()):
                self.lists[name] += [value.strip()] if value.strip() else []
            elif name == "chunking_strategy" and key:
                self.chunking[key] = value.strip()
            elif name in TEXTS and key is None:
                if name in self.texts:
                    raise invalid_field(name, f"{name} must be given once")
                self.texts[name] = value.strip()
            else:
                raise ApiError(400, "unknown_parameter", f"this server has no field {given[:60]!r}", param=given[:60])

    def text(self, name: str) -> str:
        return self.texts.get(name, "")


def read_options(form: FormData, models: Collection[str], task: Task | None = None) -> RequestOptions:
    """Read the fields of a form; empty fields count as absent.

    Args:
        task: what the client asks for by its address; None: the model's own task.

    Raises:
        ApiError: a field is missing or unknown, or has a value that this server cannot use.
    """
    fields = _Fields(form)
    model = fields.text("model")
    if not model:
        raise missing_field("model", f"name a model: {', '.join(models)}")
    if model not in models:
        raise unknown_model(model, models)
    granularities = _choices(fields, "timestamp_granularities", GRANULARITIES)
    options = RequestOptions(
        model, _language(fields), fields.text("prompt"), tuple(fields.lists["keywords"]),
        fields.text("response_format") or "json", _temperature(fields), "word" in granularities,
        "segment" in granularities or not granularities, _stream(fields), task,
        bool(_choices(fields, "include", ("logprobs",))), _speech_rules(fields),
    )  # fmt: skip
    _check_format(options, bool(granularities))
    for name in ("known_speaker_names", "known_speaker_references"):
        if fields.lists[name]:
            raise ApiError(
                400, "unsupported_parameter", f"{name}: this server does not tell speakers apart", param=name
            )
    return options


def unknown_model(name: str, models: Collection[str]) -> ApiError:
    """A request names a model that this server does not have."""
    return ApiError(404, "model_not_found", f"no model {name[:60]!r}; there are {', '.join(models)}", param="model")


def _check_format(options: RequestOptions, granularities: bool) -> None:
    if options.format == "diarized_json":
        message = f"response_format diarized_json: this server does not tell speakers apart; use {RESPONSE_FORMATS[0]}"
        raise ApiError(400, "unsupported_value", message, param="response_format")
    if options.format not in RESPONSE_FORMATS:
        raise invalid_field("response_format", f"response_format must be one of {', '.join(RESPONSE_FORMATS)}")
    if granularities and options.format != "verbose_json":
        raise invalid_field("timestamp_granularities[]", "timestamp_granularities[] need response_format verbose_json")
    if options.token_scores and options.format != "json":
        raise invalid_field("include[]", "include[] logprobs need response_format json")
    if options.stream and options.format not in STREAMED_FORMATS:
        raise invalid_field("stream", f"only {', '.join(STREAMED_FORMATS)} can be streamed, not {options.format}")


def _choices(fields: _Fields, name: str, allowed: Collection[str]) -> list[str]:
    given = fields.lists[name]
    if not set(given) <= set(allowed):
        raise invalid_field(f"{name}[]", f"{name}[] must be {' or '.join(allowed)}")
    return given


def _language(fields: _Fields) -> str | None:
    languages = fields.lists["languages"]
    if len(languages) > 1 or (languages and fields.text("language")):
        raise ApiError(400, "unsupported_value", "languages: this server takes one language", param="languages[]")
    return fields.text("language") or next(iter(languages), None)


def _temperature(fields: _Fields) -> float:
    try:
        temperature = float(fields.text("temperature") or "0")
    except ValueError:
        temperature = -1.0
    if not 0 <= temperature <= 1:
        raise invalid_field("temperature", "temperature must be a number from 0 to 1")
    return temperature


def _stream(fields: _Fields) -> bool:
    given = fields.text("stream").lower() or "false"
    if given not in ("true", "false", "1", "0"):
        raise invalid_field("stream", "stream must be true or false")
    return given in ("true", "1")


def _speech_rules(fields: _Fields) -> SpeechRules | None:
    """Read `chunking_strategy`: auto, or an object of type server_vad, as JSON or as fields chunking_strategy[type]."""
    name = "chunking_strategy"
    given: Any = fields.text(name)
    if given in ("", "auto") and not fields.chunking:
        return None
    try:
        found = {**(json.loads(given) if given else {}), **fields.chunking}
        kind = found.pop("type", None)
        values = {key: float(value) for key, value in found.items()}
        right = all(0 <= value <= CHUNKING[key][1] for key, value in values.items())
    except (TypeError, ValueError, KeyError, OverflowError, RecursionError):
        kind, right = None, False
    if kind != "server_vad" or not right:
        limits = ", ".join(f"{key} (0 to {most})" for key, (_, most, _) in CHUNKING.items())
        raise invalid_field(name, f"{name} must be auto, or an object of type server_vad with {limits}")
    return SpeechRules(**{CHUNKING[key][0]: value / CHUNKING[key][2] for key, value in values.items()})
