"""Bound what the server does at once: bytes of uploads, requests that wait, and requests that are transcribed."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from asr_lora.serving.api_errors import server_busy

LONGEST_RETRY = 60.0  # seconds, the most that Retry-After asks a client to wait


@dataclass(frozen=True)
class Limits:
    """Limits of one request, and how many requests the server accepts."""

    upload_bytes: int = 200 * 2**20
    seconds: float = 7200.0  # longest audio in one upload
    concurrency: int = 8  # requests transcribed at once: they take turns at the model and share its batches
    queue: int = 16  # requests that may wait besides these
    timeout: float = 600.0  # seconds from the end of the upload to the answer


class Spool:
    """Count the bytes of all uploads that are held at once, in memory or on disk."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.used = 0

    def reserve(self, count: int) -> None:
        """Reserve room for bytes.

        Raises:
            ApiError: there is not enough room left.
        """
        if self.used + count > self.max_bytes:
            raise server_busy("other uploads have taken all the room there is: try again", 5)
        self.used += count


class RequestQueue:
    """Requests that are transcribed and requests that wait: first come, first served."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.slots = asyncio.Semaphore(limits.concurrency)
        self.waiting = 0
        self.working = 0
        self.average_seconds = 1.0  # moving average of the time that a request takes

    def require_room(self) -> None:
        """Refuse a request that would wait behind a full queue, best before its upload.

        Raises:
            ApiError: the queue is full.
        """
        if self.slots.locked() and self.waiting >= self.limits.queue:
            seconds = self.average_seconds * (self.waiting + 1) / self.limits.concurrency
            raise server_busy(f"{self.waiting} requests are waiting already: try again", min(seconds, LONGEST_RETRY))

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Wait for a slot, and hold it within the context.

        Raises:
            ApiError: the queue is full.
        """
        self.require_room()
        self.waiting += 1
        try:
            await self.slots.acquire()
        finally:
            self.waiting -= 1
        self.working += 1
        begun = time.monotonic()
        try:
            yield
        finally:
            self.average_seconds += 0.2 * (time.monotonic() - begun - self.average_seconds)
            self.working -= 1
            self.slots.release()
