"""Read the form of a transcription request, whose fields are those of OpenAI's API."""

from collections.abc import Collection
from dataclasses import dataclass

from starlette.datastructures import FormData

from asr_lora.serving.api_errors import ApiError, invalid_field

RESPONSE_FORMATS = ("json", "text", "srt", "vtt", "verbose_json")
GRANULARITIES = ("word", "segment")
STREAMED_FORMATS = ("json", "text", "verbose_json")
FIELDS = {
    "file", "model", "language", "prompt", "response_format", "temperature", "stream", "timestamp_granularities[]",
    "timestamp_granularities", "chunking_strategy",
}  # fmt: skip


@dataclass(frozen=True)
class RequestOptions:
    """What a client asks for."""

    model: str
    language: str | None = None  # name or code; None: the model's own language, or the one detected
    prompt: str = ""  # the decoder takes it for the text before the recording
    format: str = "json"
    temperature: float = 0.0  # 0: greedy, and doubtful windows are tried again at higher temperatures
    words: bool = False  # whether the client asks for times of words
    segments: bool = True  # whether the client asks for times of segments
    stream: bool = False

    @property
    def needs_word_times(self) -> bool:
        return self.words or self.format in ("srt", "vtt") or (self.stream and self.format == "verbose_json")


def read_options(form: FormData, models: Collection[str]) -> RequestOptions:
    """Read the fields of a form.

    Raises:
        ApiError: a field is missing, unknown, or has a value that this server cannot use.
    """
    for name in form:
        if name not in FIELDS:
            raise ApiError(400, "unknown_parameter", f"this server has no field {name[:60]!r}", param=name[:60])
    model = _text(form, "model")
    if not model:
        raise invalid_field("model", f"name a model: {', '.join(models)}")
    if model not in models:
        raise ApiError(404, "model_not_found", f"no model {model[:60]!r}; there are {', '.join(models)}", param="model")
    given = [*form.getlist("timestamp_granularities[]"), *form.getlist("timestamp_granularities")]
    for granularity in given:
        if granularity not in GRANULARITIES:
            raise invalid_field("timestamp_granularities[]", "timestamp_granularities[] must be word or segment")
    options = RequestOptions(
        model, _text(form, "language") or None, _text(form, "prompt"), _text(form, "response_format") or "json",
        _temperature(form), "word" in given, "segment" in given or not given, _flag(form, "stream"),
    )  # fmt: skip
    if options.format not in RESPONSE_FORMATS:
        raise invalid_field("response_format", f"response_format must be one of {', '.join(RESPONSE_FORMATS)}")
    if given and options.format != "verbose_json":
        raise invalid_field("timestamp_granularities[]", "timestamp_granularities[] need response_format verbose_json")
    if options.stream and options.format not in STREAMED_FORMATS:
        raise invalid_field("stream", f"only {', '.join(STREAMED_FORMATS)} can be streamed, not {options.format}")
    return options


def _text(form: FormData, name: str) -> str:
    values = form.getlist(name)
    if len(values) > 1 or not all(isinstance(value, str) for value in values):
        raise invalid_field(name, f"{name} must be given once, as text")
    return str(values[0]).strip() if values else ""


def _temperature(form: FormData) -> float:
    given = _text(form, "temperature") or "0"
    try:
        temperature = float(given)
    except ValueError:
        temperature = -1.0
    if not 0 <= temperature <= 1:
        raise invalid_field("temperature", "temperature must be a number from 0 to 1")
    return temperature


def _flag(form: FormData, name: str) -> bool:
    given = _text(form, name).lower() or "false"
    if given not in ("true", "false", "1", "0"):
        raise invalid_field(name, f"{name} must be true or false")
    return given in ("true", "1")
