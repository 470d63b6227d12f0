"""Requests at work: each waits in line, is decoded and heard, and is stopped when nobody wants it any longer."""

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from asr_lora.errors import AudioError
from asr_lora.serving.api_errors import unheard
from asr_lora.serving.limits import UPLOADS_AT_ONCE, Limits, Line, Spool, late
from asr_lora.serving.models import Models
from asr_lora.serving.prometheus import Metrics
from asr_lora.serving.request_options import Wish
from asr_lora.serving.shared_batches import Caller, Sharing
from asr_lora.serving.uploads import Gone, wait_until_gone
from asr_lora.transcription.segments import Segment

Result = TypeVar("Result")


@dataclass(frozen=True)
class Piece:
    """What is new of a request."""

    done: float  # seconds of its audio that are decoded
    segments: Sequence[Segment] = ()


class Work:
    """What all requests share."""

    def __init__(self, models: Models, limits: Limits) -> None:
        self.models = models
        self.limits = limits
        self.line = Line(limits)
        self.spool = Spool(UPLOADS_AT_ONCE * limits.upload_bytes)
        self.sharing = Sharing(models)
        self.metrics = Metrics()
        self.stopping = False
        self.metrics.waiting.set_function(lambda: self.line.waiting)
        self.metrics.working.set_function(lambda: self.line.working)
        self.metrics.spooled.set_function(lambda: self.spool.taken)

    async def pieces(self, source: Path, wish: Wish, watch: "Watch") -> AsyncGenerator[Piece]:
        """Transcribe a file, when it is its turn, as far as the client waits for it.

        Raises:
            Refusal: the line is full, the audio cannot be used, or this takes too long.
            Gone: the client went away.
        """
        loop = asyncio.get_running_loop()
        async with AsyncExitStack() as stack:
            await watch.unless_gone(stack.enter_async_context(self.line.turn()))
            caller = Caller(self.models.options(wish), self.models.selection(wish), threading.Event())
            steps = self.models.windows(source, caller.gone, one=wish.stream)
            hand = ThreadPoolExecutor(1, thread_name_prefix="decoding")
            stack.callback(hand.shutdown, wait=False)
            begun, seconds = time.monotonic(), 0.0
            try:
                while step := await watch.unless_gone(loop.run_in_executor(hand, next, steps, None)):
                    seconds, windows = step
                    segments: list[Segment] = []
                    if windows:
                        segments = await watch.unless_gone(asyncio.wrap_future(self.sharing.hear(caller, windows)))
                    yield Piece(seconds, segments)
            except AudioError as error:
                raise unheard(error) from error
            finally:
                caller.gone.set()  # what is under way ends at its next token or block
                await asyncio.shield(loop.run_in_executor(hand, steps.close))  # before its file is let go
            self._count(wish, seconds, time.monotonic() - begun, watch)

    def _count(self, wish: Wish, seconds: float, worked: float, watch: "Watch") -> None:
        self.metrics.audio.labels(wish.model).inc(seconds)
        self.metrics.speed.labels(wish.model).observe(seconds / max(worked, 1e-6))
        self.metrics.latency.labels(wish.model).observe(time.monotonic() - watch.begun)


class Watch:
    """Waits for what a client wants, until it goes away or its time is over."""

    def __init__(self, receive: Callable[[], Any], seconds: float) -> None:
        self.gone = asyncio.ensure_future(wait_until_gone(receive))
        self.seconds = seconds
        self.begun = time.monotonic()

    async def unless_gone(self, wanted: "Coroutine[Any, Any, Result] | asyncio.Future[Result]") -> Result:
        """What is wanted, when it is there.

        Raises:
            Refusal: it takes too long.
            Gone: the client went away.
        """
        task = asyncio.ensure_future(wanted)
        left = self.begun + self.seconds - time.monotonic()
        try:
            await asyncio.wait({task, self.gone}, timeout=max(0.0, left), return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not task.done():
                task.cancel()
        if task.done() and not task.cancelled():
            return task.result()
        raise Gone if self.gone.done() else late(self.seconds)

    def close(self) -> None:
        self.gone.cancel()
