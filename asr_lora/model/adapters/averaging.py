"""Add the updates of several trained models of one base, each at its share: the mean of runs, without training."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig
from safetensors.torch import save_file

from asr_lora.errors import DataError
from asr_lora.language import ForcedPrompt
from asr_lora.model.adapters.merging import load_adapter, load_merged
from asr_lora.model.adapters.saved_adapter import ADAPTER_WEIGHTS, adapter_settings
from asr_lora.model.adapters.updates import updates
from asr_lora.model.adapters.wrapper import peft_model
from asr_lora.model.weight_names import PREFIX
from asr_lora.model.whisper import Whisper, force_prompt, load_whisper


@dataclass(frozen=True)
class WeightedModel:
    """The weights of one trained model, and its share of the sum."""

    folder: Path
    is_adapter: bool
    share: float


@dataclass(frozen=True)
class LowRankUpdate:
    """The update B A of one matrix."""

    b: torch.Tensor  # (out, rank)
    a: torch.Tensor  # (rank, in)

    def recompressed(self, rank: int) -> tuple["LowRankUpdate", float, float]:
        """Return the nearest update of a rank, and the squared norms of it and of the whole update.

        The singular values of B A are those of a matrix of rank by rank, so no (out, in) matrix is decomposed.
        """
        q_b, r_b = torch.linalg.qr(self.b)
        q_a, r_a = torch.linalg.qr(self.a.T)
        u, s, v = torch.linalg.svd(r_b @ r_a.T)
        root = s[:rank].sqrt()
        nearest = LowRankUpdate(q_b @ (u[:, :rank] * root), (root[:, None] * v[:rank]) @ q_a.T)
        return nearest, float(s[:rank].square().sum()), float(s.square().sum())


def load_sum(
    base: str, parts: Sequence[WeightedModel], prompt: ForcedPrompt, dtype: torch.dtype, *, device: torch.device
) -> Whisper:
    """Load a base in float32 and add to it the update of each part times its share; shares that sum to 1 give the mean.

    For models of whole weights this is the weighted mean of their weights (model soups, arXiv 2203.05482). For
    adapters it is the mean of the products B A, which no mean of the factors B and A is.

    Raises:
        DataError: a part is damaged, or does not fit the base.
    """
    whisper = load_whisper(base, prompt, dtype=torch.float32)
    low_rank = stacked_updates(whisper, [part for part in parts if _is_plain(part)])
    whole = [part for part in parts if not _is_plain(part)]
    weights = dict(whisper.core.named_parameters())
    with torch.no_grad():
        for weight in weights.values() if whole else ():
            weight.mul_(1 - sum(part.share for part in whole))
        for part in whole:
            for name, value in _weights(base, part, prompt):
                if name not in weights or weights[name].shape != value.shape:
                    raise DataError(f"{part.folder} does not fit {base}: {name} has another shape or is not in it")
                weights[name].add_(value, alpha=part.share)
        for name, update in low_rank.items():
            weights[f"{name}.weight"].addmm_(update.b, update.a)
    whisper.core.to(device, dtype)
    force_prompt(whisper)
    return whisper


def stacked_updates(whisper: Whisper, parts: Sequence[WeightedModel]) -> dict[str, LowRankUpdate]:
    """Return the sum of the updates of plain adapters for each matrix, exactly, with the ranks added up.

    Args:
        whisper: their base; it is as it was afterwards.

    Raises:
        DataError: an adapter is damaged, or does not fit the base.
    """
    found: dict[str, list[LowRankUpdate]] = {}
    for part in parts:
        adapted = load_adapter(whisper, part.folder)
        for name, (_, update) in updates(adapted).items():
            found.setdefault(name, []).append(LowRankUpdate(update.b.float() * part.share, update.a.float()))
        peft_model(adapted).unload()
    return {
        name: LowRankUpdate(torch.cat([piece.b for piece in pieces], dim=1), torch.cat([piece.a for piece in pieces]))
        for name, pieces in found.items()
    }


def save_stacked(whisper: Whisper, parts: Sequence[WeightedModel], folder: Path, rank: int | None) -> tuple[int, float]:
    """Save the sum of the updates of plain adapters as one LoRA that PEFT loads.

    Args:
        whisper: their base.
        rank: each matrix's update becomes the nearest of this rank (by SVD); None keeps the exact sum.

    Returns:
        The rank, and the share of the updates' squared norm that it holds; 1 where nothing was left out.
    """
    summed = stacked_updates(whisper, parts)
    full = max(update.a.shape[0] for update in summed.values())
    rank, kept, whole = min(rank or full, full), 0.0, 0.0
    weights = {}
    for name, exact in summed.items():
        update = exact
        if rank < full:
            update, near, all_of_it = exact.recompressed(min(rank, *exact.b.shape, exact.a.shape[1]))
            kept, whole = kept + near, whole + all_of_it
        missing = rank - update.a.shape[0]  # of a matrix that only some of the adapters change
        a = torch.nn.functional.pad(update.a, (0, 0, 0, missing))
        b = torch.nn.functional.pad(update.b, (0, missing))
        weights[f"{PREFIX}{name}.lora_A.weight"] = a.contiguous().cpu()
        weights[f"{PREFIX}{name}.lora_B.weight"] = b.contiguous().cpu()
    folder.mkdir(parents=True, exist_ok=True)
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=sorted(_target_modules(whisper, summed)), bias="none")
    config.base_model_name_or_path, config.inference_mode = whisper.source, True
    config.save_pretrained(str(folder))
    save_file(weights, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    return rank, kept / whole if whole else 1.0


def can_be_stacked(parts: Sequence[WeightedModel]) -> bool:
    """Whether the sum of the parts is a LoRA: none was fine-tuned in full, is a DoRA, or changes biases."""
    return all(_is_plain(part) for part in parts)


def _target_modules(whisper: Whisper, names: dict[str, LowRankUpdate]) -> set[str]:
    """Return the short names of the changed projections where all of that name are changed, else the full names."""
    short = {name.rpartition(".")[2] for name in names}
    linear = [name for name, module in whisper.core.named_modules() if isinstance(module, torch.nn.Linear)]
    return short if all(name in names for name in linear if name.rpartition(".")[2] in short) else set(names)


def _is_plain(part: WeightedModel) -> bool:
    if not part.is_adapter:
        return False
    settings = adapter_settings(part.folder)
    return not (settings.get("use_dora") or settings.get("modules_to_save") or settings.get("bias", "none") != "none")


def _weights(base: str, part: WeightedModel, prompt: ForcedPrompt) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the weights of one model: fine-tuned in full, or an adapter merged into its base."""
    if part.is_adapter:
        other = load_merged(base, part.folder, prompt, torch.float32, device=torch.device("cpu"))
    else:
        other = load_whisper(str(part.folder), prompt, dtype=torch.float32)
    yield from other.core.named_parameters()
