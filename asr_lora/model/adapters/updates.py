"""Extract the update that an adapter adds to each matrix of its base."""

from dataclasses import dataclass

import torch
from torch import nn

from asr_lora.errors import DataError
from asr_lora.model.adapters.wrapper import ONLY, adapted_layers
from asr_lora.model.weight_names import PREFIX
from asr_lora.model.whisper import Whisper


@dataclass(frozen=True)
class Update:
    """The update B A of a matrix, with every scale multiplied into B."""

    b: torch.Tensor  # (out, rank)
    a: torch.Tensor  # (rank, in)
    magnitudes: torch.Tensor | None  # (out,), DoRA's norm of each row of the sum; None: no DoRA


def updates(whisper: Whisper) -> dict[str, tuple[torch.Tensor, Update]]:
    """Return the base's weight (out, in) and the update of each adapted matrix, by name.

    For PiSSA the update is the saved one: the change since the start, of twice the rank.

    Raises:
        DataError: the adapter changes something other than a linear layer.
    """
    found = {}
    for name, layer in adapted_layers(whisper.model).items():
        if ONLY not in layer.lora_A or layer.get_base_layer().weight.dim() != 2:
            raise DataError(f"the adapter changes {name.removeprefix(PREFIX)}, which is no linear layer: name another")
        a, b, scale = layer.lora_A[ONLY], layer.lora_B[ONLY], layer.scaling[ONLY]
        if isinstance(a, nn.Linear):
            a, b = a.weight, b.weight
        else:  # AdaLoRA keeps plain matrices, and scales by the number of ranks left
            b, scale = b * layer.lora_E[ONLY].T, scale / (layer.ranknum[ONLY] + 1e-5)
        magnitudes = getattr(layer, "lora_magnitude_vector", {})
        known = magnitudes[ONLY].weight.detach() if ONLY in magnitudes else None
        update = Update((b * scale).detach(), a.detach(), known)
        found[name.removeprefix(PREFIX)] = (layer.get_base_layer().weight.detach(), update)
    return found
