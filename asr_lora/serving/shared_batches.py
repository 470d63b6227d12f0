"""The one model, and all who want windows heard: those of several requests share a batch."""

import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import torch

from asr_lora.audio.features import context_seconds
from asr_lora.config import Context
from asr_lora.decoding.decoding_options import DecodingOptions, Processor
from asr_lora.model.find_model import AdapterSelection
from asr_lora.serving.models import Models, Stopped
from asr_lora.transcription.longform import Window
from asr_lora.transcription.recognise import Said, listen
from asr_lora.transcription.segments import Segment


@dataclass(eq=False)
class Caller:
    """A request, and the windows that it wants heard now."""

    options: DecodingOptions
    selection: AdapterSelection | None  # None: until its language is heard
    gone: threading.Event  # set when nobody wants the rest
    windows: Sequence[Window] = ()
    answer: "Future[list[Segment]]" = field(default_factory=Future)

    def seconds(self, context: Context) -> float:
        """That the encoder sees."""
        return sum(context_seconds(window.seconds, context) for window in self.windows)


class Sharing:
    """Callers wait while a batch is heard; then the first is heard, with all others that may share its batch."""

    def __init__(self, models: Models) -> None:
        self.models = models
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self.waiting: deque[Caller] = deque()

    def hear(self, caller: Caller, windows: Sequence[Window]) -> "Future[list[Segment]]":
        """Have windows heard; the answer fails with `Stopped` when the caller has gone."""
        caller.windows, caller.answer = windows, Future()
        caller.answer.set_running_or_notify_cancel()  # who gives up says so by `gone` alone
        self.waiting.append(caller)
        self.thread.submit(lambda: self._hear(self._take()))
        return caller.answer

    def _take(self) -> list[Caller]:
        """Whoever is heard next; empty where a batch before has taken all."""
        batch: list[Caller] = []
        later: list[Caller] = []
        room = self.models.engine.batch_seconds
        for _ in range(len(self.waiting)):
            caller = self.waiting.popleft()
            seconds = caller.seconds(self._context(caller))
            if not batch or (seconds <= room and self._may_share(batch[0], caller)):
                room -= seconds
                batch.append(caller)
            else:
                later.append(caller)
        self.waiting.extendleft(reversed(later))
        return batch

    def _may_share(self, first: Caller, other: Caller) -> bool:
        """Whether two are heard alike; not where all is drawn by chance, which depends on who shares the batch."""
        drawn = first.options.temperature > 0
        return not drawn and first.options == other.options and self._context(first) is self._context(other)

    def _context(self, caller: Caller) -> Context:
        return caller.selection.context if caller.selection else self.models.whisper.context

    def _hear(self, batch: Sequence[Caller]) -> None:
        """Hear windows. Who goes away meanwhile ends the batch at its next token, and the others begin again."""
        gone = [caller for caller in batch if caller.gone.is_set()]
        for caller in gone:
            caller.answer.set_exception(Stopped())
        batch = [caller for caller in batch if caller not in gone]
        if not batch:
            return

        def look(_: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            if any(caller.gone.is_set() for caller in batch):
                raise Stopped
            return scores

        try:
            found = self._segments(batch, look)
        except Stopped:
            self._hear(batch)
        except Exception as error:  # noqa: BLE001 (the answer has it)
            if len(batch) == 1:
                batch[0].answer.set_exception(error)
                return
            for caller in batch:  # so that an error of one is no other's
                self._hear([caller])
        else:
            for caller, segments in zip(batch, found, strict=True):
                caller.answer.set_result(segments)

    def _segments(self, batch: Sequence[Caller], look: Processor) -> list[list[Segment]]:
        said: list[tuple[int, Said]] = []
        for number, caller in enumerate(batch):
            caller.selection = caller.selection or self.models.detected_selection(caller.windows[0])
            said += [(number, Said(window, caller.selection)) for window in caller.windows]
        found: list[list[Segment]] = [[] for _ in batch]
        options, engine = batch[0].options, self.models.engine
        if engine.takes_processors:  # otherwise who goes away is noticed at the end of the batch
            options = replace(options, processors=(look,))
        for number, segments in listen(engine, said, options):
            found[number] += segments
        return found
