"""Receive uploads: bytes are counted as they arrive, and the file has no name on disk and is deleted at the end."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from asr_lora.serving.api_errors import ApiError, missing_field
from asr_lora.serving.limits import Limits, Spool

MAX_FIELDS = 256  # of a form, besides its file: each keyword is one
MAX_FIELD_BYTES = 64 * 1024
OVERHEAD = 1024 * 1024  # bytes that a request may have besides its file
STALL_SECONDS = 10.0  # an upload that sends no byte for this long is ended
SLOWEST = 8_000  # bytes per second that an upload must reach after `STALL_SECONDS`; speech in Opus needs half of it


class ClientDisconnected(Exception):
    """The client closed the connection."""


class UploadReceiver:
    """An ASGI `receive` that ends uploads that are too large or too slow, or that exceed the room for all uploads."""

    def __init__(self, request: Request, limits: Limits, spool: Spool) -> None:
        self.request = request
        self.max_bytes = limits.upload_bytes + OVERHEAD
        self.spool = spool
        self.received = 0
        self.begun = time.monotonic()

    def check_content_length(self) -> None:
        """Refuse an upload whose header already says that it is too large.

        Raises:
            ApiError: Content-Length is larger than the limit.
        """
        length = self.request.headers.get("content-length", "")
        if length.isascii() and length.isdigit() and int(length[:20]) > self.max_bytes:
            raise self._too_large()

    async def __call__(self) -> Any:
        patience = min(STALL_SECONDS, self.begun + STALL_SECONDS + self.received / SLOWEST - time.monotonic())
        try:
            message = await asyncio.wait_for(self.request.receive(), patience)
        except TimeoutError:
            raise ApiError(408, "upload_too_slow", "the upload is too slow, or has stopped", param="file") from None
        if message["type"] == "http.disconnect":
            raise ClientDisconnected
        count = len(message.get("body", b""))
        if self.received + count > self.max_bytes:
            raise self._too_large()
        self.spool.reserve(count)
        self.received += count
        return message

    def _too_large(self) -> ApiError:
        megabytes = (self.max_bytes - OVERHEAD) / 2**20
        return ApiError(413, "file_too_large", f"the file is larger than the {megabytes:g} MB that this server accepts")


class FormReader(MultiPartParser):
    """Read a multipart form whose `file` may have no file name, as n8n sends it: it would be taken for text."""

    def on_headers_finished(self) -> None:
        part = self._current_part
        options = parse_options_header(part.content_disposition)[1]
        if options.get(b"name") == b"file" and b"filename" not in options and part.content_disposition:
            part.content_disposition += b'; filename="audio"'
        super().on_headers_finished()


@asynccontextmanager
async def receive_form(request: Request, limits: Limits, spool: Spool) -> AsyncIterator[FormData]:
    """Receive a multipart form with one file. The file has no name on disk and is deleted when the context ends.

    Raises:
        ApiError: the upload is too large, too slow or not a multipart form.
        ClientDisconnected: the client closed the connection.
    """
    receiver = UploadReceiver(request, limits, spool)
    try:
        receiver.check_content_length()
        if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
            raise ApiError(415, "invalid_content_type", "send multipart/form-data, with the audio as `file`")
        try:
            async with aclosing(Request(request.scope, receiver).stream()) as stream:
                form = await FormReader(
                    request.headers, stream, max_files=1, max_fields=MAX_FIELDS, max_part_size=MAX_FIELD_BYTES
                ).parse()
        except (MultiPartException, FormParserError, UnicodeError) as error:
            raise ApiError(
                400, "invalid_form", f"the form cannot be read: send one file and at most {MAX_FIELDS} fields, each of "
                f"{MAX_FIELD_BYTES // 1024} kB at most",
            ) from error  # fmt: skip
        try:
            yield form
        finally:
            await form.close()
    finally:
        spool.used -= receiver.received


def audio_path(form: FormData) -> Path:
    """The uploaded file, as the path that the system gives to an open file; the name that the client sent is not used.

    Raises:
        ApiError: the form has no file.
    """
    upload = form.get("file")
    if not isinstance(upload, UploadFile):
        raise missing_field("file", "send the audio as `file`")
    spooled: Any = upload.file
    spooled.rollover()  # small files are in memory until now
    spooled.flush()
    spooled.seek(0)
    return Path(f"/dev/fd/{spooled.fileno()}")


async def wait_for_disconnect(receive: Callable[[], Any]) -> None:
    """Return when the client has closed the connection."""
    while (await receive())["type"] != "http.disconnect":
        pass
