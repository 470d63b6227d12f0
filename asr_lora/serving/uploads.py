"""A form as it arrives: counted byte by byte, on disk without a name, and gone when the request is."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import Request
from python_multipart.exceptions import FormParserError
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException

from asr_lora.serving.api_errors import Refusal, invalid
from asr_lora.serving.limits import SLOWEST, STALL_SECONDS, Limits, Spool

FIELDS = 32  # of a form, besides its file
FIELD_BYTES = 64 * 1024
OVERHEAD = 1024 * 1024  # bytes of a request beside its file


class Gone(Exception):
    """The client went away."""


class Intake:
    """An ASGI `receive` that gives up on bodies that are too large, too slow, or too many at once."""

    def __init__(self, request: Request, limits: Limits, spool: Spool) -> None:
        self.request = request
        self.most = limits.upload_bytes + OVERHEAD
        self.spool = spool
        self.taken = 0
        self.begun = time.monotonic()

    def require_small(self) -> None:
        """Refuse what says itself that it is too large.

        Raises:
            Refusal: it does.
        """
        said = self.request.headers.get("content-length", "")
        if said.isascii() and said.isdigit() and int(said[:20]) > self.most:
            raise self._too_large()

    async def __call__(self) -> Any:
        patience = min(STALL_SECONDS, self.begun + STALL_SECONDS + self.taken / SLOWEST - time.monotonic())
        try:
            message = await asyncio.wait_for(self.request.receive(), patience)
        except TimeoutError:
            raise Refusal(408, "upload_too_slow", "the upload is too slow, or stopped", param="file") from None
        if message["type"] == "http.disconnect":
            raise Gone
        arrived = len(message.get("body", b""))
        if self.taken + arrived > self.most:
            raise self._too_large()
        self.spool.take(arrived)
        self.taken += arrived
        return message

    def _too_large(self) -> Refusal:
        most = (self.most - OVERHEAD) / 2**20
        return Refusal(413, "file_too_large", f"the file is larger than {most:g} MB, which this server takes at most")


@asynccontextmanager
async def receive_form(request: Request, limits: Limits, spool: Spool) -> AsyncIterator[FormData]:
    """Receive a multipart form with one file, which has no name on disk and is gone at the end, whatever happens.

    Raises:
        Refusal: it is too large, too slow or no such form.
        Gone: the client went away.
    """
    intake = Intake(request, limits, spool)
    try:
        intake.require_small()
        if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
            raise Refusal(415, "invalid_content_type", "send multipart/form-data, with the audio as `file`")
        try:
            form = await Request(request.scope, intake).form(max_files=1, max_fields=FIELDS, max_part_size=FIELD_BYTES)
        except (HTTPException, FormParserError, UnicodeError) as error:
            raise Refusal(400, "invalid_form", "the form cannot be read: send one file and short fields") from error
        try:
            yield form
        finally:
            await form.close()
    finally:
        spool.taken -= intake.taken


def audio_of(form: FormData) -> Path:
    """The file of a form, as a path that the system gives what is open; its name plays no part.

    Raises:
        Refusal: there is none.
    """
    upload = form.get("file")
    if not isinstance(upload, UploadFile):
        raise invalid("file", "send the audio as `file`")
    spooled: Any = upload.file
    spooled.rollover()  # small ones are in memory until now
    spooled.flush()
    spooled.seek(0)
    return Path(f"/dev/fd/{spooled.fileno()}")


async def wait_until_gone(receive: Callable[[], Any]) -> None:
    """Return when the client has gone away."""
    while (await receive())["type"] != "http.disconnect":
        pass
