"""What a server lets itself be asked at once: bytes on disk, requests that wait, and who works."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from asr_lora.serving.api_errors import Refusal, busy

UPLOADS_AT_ONCE = 8  # of the largest size: so much is on disk at most
STALL_SECONDS = 10.0  # without a byte, after which an upload is given up
SLOWEST = 8_000  # bytes a second that an upload must make, after its first seconds; speech in Opus takes half
LONGEST_RETRY = 60.0  # seconds that a client is asked to wait at most


@dataclass(frozen=True)
class Limits:
    """What one request may take, and how many there may be."""

    upload_bytes: int = 200 * 2**20
    seconds: float = 7200.0  # of audio
    concurrency: int = 8  # requests at work: they take turns at the model, and share its batches
    queue: int = 16  # requests that wait beyond these
    timeout: float = 600.0  # seconds from the end of the upload to the answer


class Spool:
    """Bytes of uploads that are here at once, in memory or on disk."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.taken = 0

    def take(self, count: int) -> None:
        """Take room for bytes.

        Raises:
            Refusal: there is none left.
        """
        if self.taken + count > self.most:
            raise busy("other uploads have taken all the room there is: try again", 5)
        self.taken += count


class Line:
    """Who works, and who waits: first come, first served."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.free = asyncio.Semaphore(limits.concurrency)
        self.waiting = 0
        self.working = 0
        self.usual = 1.0  # seconds that a request works, of late

    def require_room(self) -> None:
        """Refuse who would wait behind a full line, best before anything is sent.

        Raises:
            Refusal: the line is full.
        """
        if self.free.locked() and self.waiting >= self.limits.queue:
            seconds = self.usual * (self.waiting + 1) / self.limits.concurrency
            raise busy(f"{self.waiting} requests are waiting already: try again", min(seconds, LONGEST_RETRY))

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for a turn, and work.

        Raises:
            Refusal: the line is full.
        """
        self.require_room()
        self.waiting += 1
        try:
            await self.free.acquire()
        finally:
            self.waiting -= 1
        self.working += 1
        begun = time.monotonic()
        try:
            yield
        finally:
            self.usual += 0.2 * (time.monotonic() - begun - self.usual)
            self.working -= 1
            self.free.release()


def late(seconds: float) -> Refusal:
    """A request that took too long; a client's own second try would take as long."""
    return Refusal(
        503, "timeout", f"this took longer than {seconds:g} s: send less audio at once",
        headers={"x-should-retry": "false"},
    )  # fmt: skip
