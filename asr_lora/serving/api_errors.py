"""Why a request is not answered, in the shape of OpenAI's errors: no path, no file name, no traceback."""

from typing import Any

from asr_lora.audio.ffmpeg import media_names
from asr_lora.errors import AudioError

UNHEARD = {  # why audio cannot be used -> code and sentence
    "empty file": ("empty_file", "the file is empty: {send}"),
    "no audio": ("no_audio", "the file decodes to no samples"),
    "too long": ("audio_too_long", "the audio is longer than this server takes"),
    "no ffmpeg": ("unsupported_format", "the file is no audio, or of a format that this server does not read: {send}"),
}
NO_AUDIO = ("invalid_audio", "the file is no audio that can be read: {send}")


class Refusal(Exception):
    """An answer other than a transcript."""

    def __init__(
        self, status: int, code: str, message: str, *, param: str | None = None, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.param = param
        self.headers = headers or {}

    def body(self) -> dict[str, Any]:
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        kind = {401: "authentication_error", 429: "rate_limit_error"}.get(self.status, kind)
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}


def invalid(param: str, message: str) -> Refusal:
    """A field of the form that cannot be used."""
    return Refusal(400, "invalid_value", message, param=param)


def busy(message: str, seconds: float) -> Refusal:
    """Too much to do just now; try again after some seconds."""
    return Refusal(429, "server_busy", message, headers={"Retry-After": str(max(1, round(seconds)))})


def unheard(error: AudioError) -> Refusal:
    """Audio that cannot be decoded. The error's own words name the file on this machine."""
    code, message = UNHEARD.get(error.reason, NO_AUDIO)
    *most, last = media_names()
    return Refusal(400, code, message.format(send=f"send {', '.join(most)} or {last}"), param="file")
