"""Compute the loss and the gradient of a whole optimiser step."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from tqdm import tqdm

from asr_lora.errors import ran_out_of_memory
from asr_lora.folders.digests import fingerprint
from asr_lora.model.adapters.adalora import regularisation
from asr_lora.model.whisper import Whisper
from asr_lora.system.processes import ProcessGroup
from asr_lora.training.batches import IGNORED, Batch, TrainingSet
from asr_lora.training.examples import micro_batches, plain_examples


@dataclass(frozen=True)
class Learner:
    """A model in training, and the settings of every pass through it."""

    whisper: Whisper
    processes: ProcessGroup
    dtype: torch.dtype  # number format of the computation
    label_smoothing: float = 0.0
    always_checkpoint: bool = False  # compute activations twice instead of keeping them

    @property
    def parameters(self) -> list[torch.nn.Parameter]:
        return [value for value in self.whisper.model.parameters() if value.requires_grad]

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.processes.device.type, torch.bfloat16, enabled=self.dtype is torch.bfloat16)

    def gradients(
        self, batches: Sequence[Batch], *, tokens: int, seed: int, step: int, micro_batch_seconds: float = math.inf
    ) -> float | None:
        """Run forward and backward over all micro-batches of a step; return the loss, or None if memory ran out.

        Each micro-batch is weighted by its tokens, in every process, so 8 batches of 1 give the loss and gradient of 1
        batch of 8. Dropout follows from seed, step and rank, so a resumed run draws the same.

        Args:
            batches: the micro-batches of this process.
            tokens: target tokens of the whole step, in all processes.
            seed: seed of the run.
            step: number of the step, from 1.
            micro_batch_seconds: activations of a longer example, such as a padded one, are computed twice, not kept.
        """
        torch.manual_seed(int(fingerprint(seed, step, self.processes.rank), 16) % 2**63)
        self.whisper.model.train()
        loss = 0.0
        failed = False
        try:
            for batch in batches:
                self.checkpoint(batch.context_seconds, micro_batch_seconds)
                part = self.loss(batch) / tokens
                part.backward()  # type: ignore[no-untyped-call]
                loss += float(part.detach())
            extra = regularisation(self.whisper) if self.processes.main else None
            if extra is not None:
                extra.backward()  # type: ignore[no-untyped-call]
        except (RuntimeError, MemoryError) as error:
            if not ran_out_of_memory(error):
                raise
            failed = True
        if self.processes.any(failed):
            self.whisper.model.zero_grad(set_to_none=True)
            return None
        self.processes.sum_gradients(self.parameters)
        return self.processes.sum(loss)

    def checkpoint(self, context_seconds: float, micro_batch_seconds: float) -> None:
        """Switch gradient checkpointing on for a context longer than a micro-batch, and off otherwise."""
        wanted = self.always_checkpoint or context_seconds > micro_batch_seconds
        core = self.whisper.core
        now = core.model.encoder.layers[0].gradient_checkpointing
        if wanted and not now:
            # The reentrant kind leaves an encoder's adapter without gradients when its input has none.
            core.gradient_checkpointing_enable({"use_reentrant": False})
        elif now and not wanted:
            core.gradient_checkpointing_disable()

    def loss(self, batch: Batch) -> torch.Tensor:
        """Cross-entropy, summed (not averaged) over the target tokens of a batch; a scalar."""
        device = self.processes.device
        sound = (
            {"encoder_outputs": (batch.encoder_outputs.to(device),)}
            if batch.encoder_outputs is not None
            else {"input_features": batch.features.to(device)}  # type: ignore[union-attr]
        )
        with self.autocast():
            logits = self.whisper.model(
                **sound, decoder_input_ids=batch.decoder_inputs.to(device), use_cache=False
            ).logits  # (batch, tokens, vocabulary)
        labels = batch.labels.to(device)
        return torch.nn.functional.cross_entropy(
            logits.flatten(0, 1).float(),
            labels.flatten(),
            ignore_index=IGNORED,
            reduction="sum",
            label_smoothing=self.label_smoothing,
        )


def keep_encoder_outputs(data: TrainingSet, learner: Learner, *, batch_seconds: float) -> None:
    """Run a frozen encoder over each utterance once, and keep its outputs on disk."""
    assert data.encoder_cache is not None
    batches = micro_batches(
        plain_examples(data.seconds), batch_seconds, rank=learner.processes.rank, world_size=learner.processes.size
    )
    with torch.inference_mode(), learner.autocast():
        for examples in tqdm(batches, desc="encode", leave=False, disable=not learner.processes.main):
            if data.cached_encoder_outputs(examples) is None:
                outputs = learner.whisper.encode(data.features(examples))  # (batch, frames / 2, width)
                for example, output in zip(examples, outputs, strict=True):
                    data.encoder_cache.put(data.encoder_key(example), output)
    learner.processes.wait()
