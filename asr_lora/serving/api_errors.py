"""Errors in the form of OpenAI's API. Their messages hold no path, no file name and no traceback."""

from asr_lora.audio.ffmpeg import media_names
from asr_lora.errors import AudioError

AUDIO_ERRORS = {  # AudioError.reason -> code and message
    "empty file": ("empty_file", "the file is empty: {send}"),
    "no audio": ("no_audio", "the file decodes to no samples"),
    "incomplete": ("incomplete_audio", "the file is damaged, or its end is missing: send all of it"),
    "too long": ("audio_too_long", "the audio is longer than this server accepts"),
    "no ffmpeg": ("unsupported_format", "the file is not audio, or in a format that this server cannot read: {send}"),
}
INVALID_AUDIO = ("invalid_audio", "the file is not audio that this server can read: {send}")


class ApiError(Exception):
    """A request that gets an error instead of a transcript."""

    def __init__(
        self, status: int, code: str, message: str, *, param: str | None = None, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.param = param
        self.headers = headers or {}

    def body(self) -> dict[str, dict[str, str | None]]:
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        kind = "rate_limit_error" if self.status == 429 else kind
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}


def invalid_field(name: str, message: str) -> ApiError:
    """A form field has a value that this server cannot use."""
    return ApiError(400, "invalid_value", message, param=name)


def missing_field(name: str, message: str) -> ApiError:
    """A form lacks a field that every request needs."""
    return ApiError(400, "missing_required_parameter", message, param=name)


def server_busy(message: str, retry_seconds: float) -> ApiError:
    """The server has too much to do; the client may try again after some seconds."""
    return ApiError(429, "server_busy", message, headers={"Retry-After": str(max(1, round(retry_seconds)))})


def timed_out(limit_seconds: float) -> ApiError:
    """A request took too long; the same request again would take as long, so clients are told not to retry."""
    return ApiError(
        503, "timeout", f"the request took longer than {limit_seconds:g} s: send less audio at once",
        headers={"x-should-retry": "false"},
    )  # fmt: skip


def undecodable(error: AudioError) -> ApiError:
    """Audio cannot be decoded. The message is not that of `error`, which names the file on this machine."""
    code, message = AUDIO_ERRORS.get(error.reason, INVALID_AUDIO)
    *most, last = media_names()
    return ApiError(400, code, message.format(send=f"send {', '.join(most)} or {last}"), param="file")
