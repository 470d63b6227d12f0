"""What a form asks for, by the names of OpenAI's API."""

from collections.abc import Collection
from dataclasses import dataclass

from starlette.datastructures import FormData

from asr_lora.serving.api_errors import Refusal, invalid

FORMATS = ("json", "text", "srt", "vtt", "verbose_json")
GRANULARITIES = ("word", "segment")
STREAMED = ("json", "text", "verbose_json")
FIELDS = {
    "file", "model", "language", "prompt", "response_format", "temperature", "stream", "timestamp_granularities[]",
    "timestamp_granularities", "chunking_strategy",
}  # fmt: skip


@dataclass(frozen=True)
class Wish:
    """What is asked of one file."""

    model: str
    language: str | None = None  # name or code; None: the model's own, or as heard
    prompt: str = ""  # text that the decoder takes for what was said before
    format: str = "json"
    temperature: float = 0.0  # 0: what cannot be trusted is tried again at higher ones
    words: bool = False  # whether their times are asked for
    segments: bool = True  # whether theirs are
    stream: bool = False

    @property
    def timed(self) -> bool:
        """Whether the times of words are needed."""
        return self.words or self.format in ("srt", "vtt") or (self.stream and self.format == "verbose_json")


def read_wish(form: FormData, models: Collection[str]) -> Wish:
    """Read the fields of a form.

    Raises:
        Refusal: a field is missing, unknown, or says what cannot be done.
    """
    for name in form:
        if name not in FIELDS:
            raise Refusal(400, "unknown_parameter", f"this server knows no field {name[:60]!r}", param=name[:60])
    model = _text(form, "model")
    if not model:
        raise invalid("model", f"name a model: {', '.join(models)}")
    if model not in models:
        raise Refusal(404, "model_not_found", f"no model {model[:60]!r}; there are {', '.join(models)}", param="model")
    given = [*form.getlist("timestamp_granularities[]"), *form.getlist("timestamp_granularities")]
    for granularity in given:
        if granularity not in GRANULARITIES:
            raise invalid("timestamp_granularities[]", "timestamp_granularities[] are word and segment")
    wish = Wish(
        model, _text(form, "language") or None, _text(form, "prompt"), _text(form, "response_format") or "json",
        _temperature(form), "word" in given, "segment" in given or not given, _flag(form, "stream"),
    )  # fmt: skip
    if wish.format not in FORMATS:
        raise invalid("response_format", f"response_format is one of {', '.join(FORMATS)}")
    if given and wish.format != "verbose_json":
        raise invalid("timestamp_granularities[]", "timestamp_granularities[] need response_format verbose_json")
    if wish.stream and wish.format not in STREAMED:
        raise invalid("stream", f"what is streamed is one of {', '.join(STREAMED)}, not {wish.format}")
    return wish


def _text(form: FormData, name: str) -> str:
    values = form.getlist(name)
    if len(values) > 1 or not all(isinstance(value, str) for value in values):
        raise invalid(name, f"{name} is one text")
    return str(values[0]).strip() if values else ""


def _temperature(form: FormData) -> float:
    given = _text(form, "temperature") or "0"
    try:
        temperature = float(given)
    except ValueError:
        temperature = -1.0
    if not 0 <= temperature <= 1:
        raise invalid("temperature", "temperature is a number from 0 to 1")
    return temperature


def _flag(form: FormData, name: str) -> bool:
    given = _text(form, name).lower() or "false"
    if given not in ("true", "false", "1", "0"):
        raise invalid(name, f"{name} is true or false")
    return given in ("true", "1")
