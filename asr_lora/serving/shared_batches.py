"""Run the one model in a thread, and let requests that wait share its batches."""

import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import torch

from asr_lora.audio.features import context_seconds
from asr_lora.config import Context
from asr_lora.decoding.decoding_options import DecodingOptions, Processor
from asr_lora.language import Task
from asr_lora.model.find_model import AdapterSelection
from asr_lora.serving.served_model import Cancelled, ServedModel, with_task
from asr_lora.transcription.longform import Window
from asr_lora.transcription.recognise import SelectedWindow, transcribe_stream
from asr_lora.transcription.segments import Segment


@dataclass(eq=False)
class BatchRequest:
    """A request, and its windows that are to be transcribed now."""

    options: DecodingOptions
    selection: AdapterSelection | None  # None: until its language has been detected
    cancelled: threading.Event
    task: Task | None = None  # None: that of the selection
    windows: Sequence[Window] = ()
    answer: "Future[list[Segment]]" = field(default_factory=Future)

    def seconds(self, context: Context) -> float:
        """Seconds of input that the encoder gets."""
        return sum(context_seconds(window.seconds, context) for window in self.windows)


class BatchScheduler:
    """Requests wait while a batch runs; then the first one runs, with all others that may share its batch."""

    def __init__(self, model: ServedModel) -> None:
        self.transcriber = model.transcriber
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self.waiting: deque[BatchRequest] = deque()

    def submit(self, request: BatchRequest, windows: Sequence[Window]) -> "Future[list[Segment]]":
        """Transcribe windows; the answer fails with `Cancelled` when the request is cancelled."""
        request.windows, request.answer = windows, Future()
        request.answer.set_running_or_notify_cancel()  # a request is cancelled by its event alone
        self.waiting.append(request)
        self.thread.submit(lambda: self._run(self._next_batch()))
        return request.answer

    def _next_batch(self) -> list[BatchRequest]:
        """Take the requests that run next; none where an earlier batch has taken them all."""
        batch: list[BatchRequest] = []
        later: list[BatchRequest] = []
        room = self.transcriber.engine.batch_seconds
        for _ in range(len(self.waiting)):
            request = self.waiting.popleft()
            seconds = request.seconds(self._context(request))
            if not batch or (seconds <= room and self._may_share(batch[0], request)):
                room -= seconds
                batch.append(request)
            else:
                later.append(request)
        self.waiting.extendleft(reversed(later))
        return batch

    def _may_share(self, first: BatchRequest, other: BatchRequest) -> bool:
        """Whether two requests have the same options; samples also depend on the rest of the batch, so never those."""
        sampled = first.options.temperature > 0
        return not sampled and first.options == other.options and self._context(first) is self._context(other)

    def _context(self, request: BatchRequest) -> Context:
        return request.selection.context if request.selection else self.transcriber.context

    def _run(self, batch: Sequence[BatchRequest]) -> None:
        """Transcribe a batch. A request that is cancelled ends it at the next token, and the others begin again."""
        cancelled = [request for request in batch if request.cancelled.is_set()]
        for request in cancelled:
            request.answer.set_exception(Cancelled())
        batch = [request for request in batch if request not in cancelled]
        if not batch:
            return

        def check(_: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            if any(request.cancelled.is_set() for request in batch):
                raise Cancelled
            return scores

        try:
            found = self._segments(batch, check)
        except Cancelled:
            self._run(batch)
        except Exception as error:  # noqa: BLE001 (the answer holds it)
            if len(batch) == 1:
                batch[0].answer.set_exception(error)
                return
            for request in batch:  # each alone, so that one request's error does not fail the others
                self._run([request])
        else:
            for request, segments in zip(batch, found, strict=True):
                request.answer.set_result(segments)

    def _segments(self, batch: Sequence[BatchRequest], check: Processor) -> list[list[Segment]]:
        windows: list[tuple[int, SelectedWindow]] = []
        for number, request in enumerate(batch):
            if request.selection is None:
                request.selection = with_task(self.transcriber.detect(request.windows[0]), request.task)
            windows += [(number, SelectedWindow(window, request.selection)) for window in request.windows]
        found: list[list[Segment]] = [[] for _ in batch]
        options, engine = batch[0].options, self.transcriber.engine
        if engine.takes_processors:  # otherwise a cancellation is noticed at the end of the batch
            options = replace(options, processors=(check,))
        for number, segments in transcribe_stream(engine, windows, options):
            found[number] += segments
        return found
