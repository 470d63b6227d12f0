"""Connect the processes of one job: one, or several under `accelerate launch`."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from asr_lora.system.device import default_device


@dataclass(frozen=True)
class ProcessGroup:
    """The processes of one job, seen from one of them. With one process every method is the identity."""

    rank: int
    size: int
    device: torch.device

    @property
    def main(self) -> bool:
        """Whether this process writes the files and shows the progress."""
        return self.rank == 0

    def wait(self) -> None:
        if self.size > 1:
            torch.distributed.barrier()

    def gather(self, items: Sequence[Any]) -> list[Any]:
        """Concatenate the lists of all processes, in the order of their ranks."""
        if self.size == 1:
            return list(items)
        from accelerate.utils import gather_object

        return list(gather_object(list(items)))

    def any(self, flag: bool) -> bool:
        """Return whether the flag is set in any process; all processes get the same answer."""
        return (self.size == 1 and flag) or (self.size > 1 and self.sum(float(flag)) > 0)

    def sum(self, value: float) -> float:
        if self.size == 1:
            return value
        total = torch.tensor(value, dtype=torch.float64, device=self.device)
        torch.distributed.all_reduce(total)
        return float(total)

    def sum_gradients(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        """Sum the gradients of all processes in place; nothing else of the model is ever sent.

        It is called once per step, so that processes may have different numbers of micro-batches.
        """
        if self.size == 1:
            return
        gradients = [value.grad if value.grad is not None else torch.zeros_like(value) for value in parameters]
        flat = torch.cat([gradient.flatten().float() for gradient in gradients])
        torch.distributed.all_reduce(flat)
        pieces = torch.split(flat, [value.numel() for value in parameters])
        for value, piece in zip(parameters, pieces, strict=True):
            value.grad = piece.view_as(value).to(value.dtype)


def join_process_group() -> ProcessGroup:
    """Join the processes that `accelerate launch` (or torchrun) started, or be the only one."""
    device = default_device()
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return ProcessGroup(0, 1, device)
    from accelerate import PartialState

    state = PartialState(cpu=device.type == "cpu")
    return ProcessGroup(state.process_index, state.num_processes, torch.device(state.device))
