"""Predict the memory of a step and of decoding by running both over tensors without contents.

Torch's FakeTensorMode runs the model's own code, kernels chosen and autocast applied, without memory and almost
without time; what would be allocated and freed is counted as it goes.
"""

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers.modeling_outputs import BaseModelOutput

from asr_lora.audio.features import frames_of
from asr_lora.model.meta_model import fill_with_fakes
from asr_lora.model.whisper import evaluating
from asr_lora.training.batches import Batch, TrainingSet
from asr_lora.training.examples import Example
from asr_lora.training.learner import Learner


@dataclass(frozen=True)
class StepFootprint:
    """Bytes of one micro-batch's forward and backward, weights not counted."""

    activations: int  # saved by the forward for the backward
    peak: int  # most at once, gradients included


class Meter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of live storages, and their peak."""

    def __init__(self, uncounted: Sequence[torch.Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.peak = 0
        self._seen: dict[int, Any] = {}
        for tensor in uncounted:
            self._watch(tensor.untyped_storage(), 0)

    def add(self, tensors: Sequence[torch.Tensor]) -> None:
        """Count tensors that exist already."""
        for tensor in tensors:
            self._watch(tensor.untyped_storage(), tensor.untyped_storage().nbytes())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self.add([leaf])
        return result

    def _watch(self, storage: torch.UntypedStorage, size: int) -> None:
        key = storage._cdata
        if key in self._seen:
            return
        self.live += size
        self.peak = max(self.peak, self.live)

        def free(_: Any) -> None:
            self.live -= size
            self._seen.pop(key, None)

        self._seen[key] = weakref.ref(storage, free)


def step_footprint(
    learner: Learner,
    data: TrainingSet,
    examples: Sequence[Example],
    micro_batch_seconds: float,
    *,
    encoded: bool,
    accumulates: bool,
) -> StepFootprint:
    """Run a micro-batch forward and backward over a model without contents, and count its memory.

    Args:
        learner: its model is on the meta device, and gets fake tensors.
        data: the training set, of which tokens are read but no audio.
        examples: the examples of the micro-batch.
        micro_batch_seconds: a longer example is computed with checkpointing.
        encoded: whether the encoder's outputs come from a cache.
        accumulates: whether there are gradients of an earlier micro-batch.
    """
    model = learner.whisper.model.train()
    learner.checkpoint(examples[0].context, micro_batch_seconds)
    with _faked(learner) as mode, mode:
        batch = _batch(learner, data, examples, encoded)
        activations = _saved_bytes(lambda: learner.loss(batch), list(model.parameters()))
        if accumulates:
            learner.loss(batch).backward()  # type: ignore[no-untyped-call]
        meter = Meter([*model.parameters(), *model.buffers()])
        with meter:
            meter.add([value.grad for value in learner.parameters if value.grad is not None])
            learner.loss(batch).backward()  # type: ignore[no-untyped-call]
        model.zero_grad(set_to_none=True)
    return StepFootprint(activations, meter.peak)


def decoding_footprint(learner: Learner, rows: int, context: float, new_tokens: int) -> int:
    """Peak bytes while a batch is decoded greedily, weights not counted.

    Args:
        learner: its model is on the meta device, and gets fake tensors.
        rows: utterances in the batch.
        context: seconds that the encoder sees.
        new_tokens: most new tokens of an utterance.
    """
    whisper = learner.whisper
    prompt = len(whisper.prompt_tokens)
    with _faked(learner) as mode, mode, evaluating(whisper.model), learner.autocast():
        features = torch.zeros(rows, whisper.mel_bins, frames_of(context))
        meter = Meter([*whisper.model.parameters(), *whisper.model.buffers()])
        with meter:
            encoded = whisper.encode(features)  # (rows, frames / 2, width)
            encoding = meter.peak
            meter.peak = meter.live
            given = torch.zeros(rows, prompt, dtype=torch.long, device=encoded.device)
            kept = whisper.core(
                encoder_outputs=BaseModelOutput(last_hidden_state=encoded), decoder_input_ids=given, use_cache=True
            ).past_key_values.self_attention_cache
            remembered = sum(int(value.nbytes) for layer in kept.layers for value in (layer.keys, layer.values))
    return max(encoding, meter.peak + remembered // prompt * new_tokens)


@contextmanager
def _faked(learner: Learner) -> Iterator[FakeTensorMode]:
    mode = FakeTensorMode()
    fill_with_fakes(learner.whisper.model, mode, learner.processes.device)
    yield mode


def _batch(learner: Learner, data: TrainingSet, examples: Sequence[Example], encoded: bool) -> Batch:
    rows, frames = len(examples), frames_of(examples[0].context)
    tokens = torch.zeros(rows, max(len(data.target(example)[0]) for example in examples), dtype=torch.long)
    if encoded:
        width = int(learner.whisper.core.config.d_model)
        return Batch(None, torch.zeros(rows, frames // 2, width, dtype=learner.dtype), tokens, tokens)
    return Batch(torch.zeros(rows, data.mel_bins, frames), None, tokens, tokens)


def _saved_bytes(forward: Callable[[], torch.Tensor], weights: Sequence[torch.Tensor]) -> int:
    """Bytes of the unique storages that a forward saves for its backward, weights left out."""
    known = {value.untyped_storage()._cdata for value in weights}
    saved: dict[int, torch.UntypedStorage] = {}  # kept until counted, so that no address comes twice

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in known:
            saved[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss = forward()
    total = sum(storage.nbytes() for storage in saved.values())
    del loss
    return total
