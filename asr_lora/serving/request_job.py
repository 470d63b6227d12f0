"""Run transcription requests: each waits in the queue, is transcribed, and is cancelled when its client leaves."""

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, TypeVar

from asr_lora.errors import AudioError
from asr_lora.serving.api_errors import timed_out, undecodable
from asr_lora.serving.limits import Limits, RequestQueue, Spool
from asr_lora.serving.prometheus import ServerMetrics
from asr_lora.serving.request_options import RequestOptions
from asr_lora.serving.served_model import ServedModel
from asr_lora.serving.shared_batches import BatchRequest, BatchScheduler
from asr_lora.serving.uploads import ClientDisconnected, wait_for_disconnect
from asr_lora.system.progress import say
from asr_lora.transcription.segments import Segment, TranscriptPart

UPLOADS_AT_ONCE = 8  # of the largest size: the most that all uploads may take on disk
Result = TypeVar("Result")


class RequestRunner:
    """What all requests share: the model, the queue, the room for uploads, and the metrics."""

    def __init__(self, model: ServedModel, limits: Limits) -> None:
        self.model = model
        self.limits = limits
        self.queue = RequestQueue(limits)
        self.spool = Spool(UPLOADS_AT_ONCE * limits.upload_bytes)
        self.batches = BatchScheduler(model)
        self.metrics = ServerMetrics()
        self.stopping = False
        self.metrics.waiting.set_function(lambda: self.queue.waiting)
        self.metrics.working.set_function(lambda: self.queue.working)
        self.metrics.spooled.set_function(lambda: self.spool.used)

    async def transcribe(
        self, source: Path, options: RequestOptions, watch: "ClientWatch"
    ) -> AsyncGenerator[TranscriptPart]:
        """Wait for a slot, and transcribe a file as long as the client is connected.

        Raises:
            ApiError: the queue is full, the audio cannot be decoded, or the request takes too long.
            ClientDisconnected: the client closed the connection.
        """
        loop = asyncio.get_running_loop()
        async with AsyncExitStack() as stack:
            await watch.result(stack.enter_async_context(self.queue.slot()))
            request = BatchRequest(
                self.model.decoding_options(options), self.model.select(options), threading.Event(), options.task
            )
            steps = self.model.windows(source, request.cancelled, single=options.stream, rules=options.speech_rules)
            decoder = ThreadPoolExecutor(1, thread_name_prefix="decoding")
            stack.callback(decoder.shutdown, wait=False)
            begun, heard = time.monotonic(), False
            try:
                while step := await watch.result(loop.run_in_executor(decoder, next, steps, None)):
                    sound, windows = step
                    segments: list[Segment] = []
                    if windows:
                        segments = await watch.result(asyncio.wrap_future(self.batches.submit(request, windows)))
                    heard = heard or bool(segments)
                    yield TranscriptPart(sound.seconds, segments, sound=sound)
            except AudioError as error:
                raise undecodable(error) from error
            finally:
                request.cancelled.set()  # the model stops at its next token, the decoder at its next block
                await asyncio.shield(loop.run_in_executor(decoder, steps.close))  # before the upload is deleted
            self._count(options.model, sound.seconds, time.monotonic() - begun, watch)
            if not heard:
                self.metrics.empty.labels(options.model).inc()
                say(sound.why_empty())

    def _count(self, model: str, seconds: float, worked: float, watch: "ClientWatch") -> None:
        self.metrics.audio.labels(model).inc(seconds)
        self.metrics.speed.labels(model).observe(seconds / max(worked, 1e-6))
        self.metrics.latency.labels(model).observe(time.monotonic() - watch.begun)


class ClientWatch:
    """Wait for results on behalf of a client, until it leaves or its time is over."""

    def __init__(self, receive: Callable[[], Any], limit_seconds: float) -> None:
        self.disconnected = asyncio.ensure_future(wait_for_disconnect(receive))
        self.limit_seconds = limit_seconds
        self.begun = time.monotonic()

    async def result(self, wanted: "Coroutine[Any, Any, Result] | asyncio.Future[Result]") -> Result:
        """Wait for a result and return it.

        Raises:
            ApiError: the request takes too long.
            ClientDisconnected: the client closed the connection.
        """
        task = asyncio.ensure_future(wanted)
        left = self.begun + self.limit_seconds - time.monotonic()
        try:
            await asyncio.wait({task, self.disconnected}, timeout=max(0.0, left), return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not task.done():
                task.cancel()
        if task.done() and not task.cancelled():
            return task.result()
        raise ClientDisconnected if self.disconnected.done() else timed_out(self.limit_seconds)

    def close(self) -> None:
        self.disconnected.cancel()
