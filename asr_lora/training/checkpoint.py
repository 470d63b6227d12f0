"""Save and load the checkpoint that a run resumes from; an incomplete checkpoint is never read."""

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from asr_lora.errors import DataError, first_line
from asr_lora.folders.atomic import replacing, replacing_folder, set_aside
from asr_lora.folders.run_folder import RunFolder
from asr_lora.model.adapters.adalora import extra_state, load_extra_state
from asr_lora.model.trainable import trainable_state
from asr_lora.model.whisper import Whisper


@dataclass(frozen=True)
class Progress:
    """The position of a run. Data order and random numbers follow from seed and step, so they need no state."""

    fingerprint: str = ""  # digest of the settings, data and base that the run began with
    step: int = 0
    utterances: int = 0  # trained on so far, repetitions counted
    train_seconds: float = 0.0  # wall time in the loop, dev scoring included
    peak_memory_bytes: int = 0
    micro_batch_seconds: float = 0.0  # the present value, which is halved where memory runs out
    scored_step: int = 0  # last step after which dev was scored
    without_better: int = 0  # dev evaluations since the best one
    averaged: bool = False  # the average of the last weights was scored
    average_is_best: bool = False
    best_step: int = 0
    best_dev_wer: float | None = None
    best_dev_cer: float | None = None
    lead: str = "wer"  # the rate on dev that decides which checkpoint is the best, or "cer"

    @property
    def best_rate(self) -> float | None:
        """The leading rate on dev of the best checkpoint."""
        return self.best_dev_cer if self.lead == "cer" else self.best_dev_wer

    def reached(self, scoring: bool) -> int:
        """The last step whose row is in the log: of training, or of scoring dev."""
        return self.scored_step if scoring else self.step


def save_checkpoint(
    folder: Path, whisper: Whisper, optimiser: torch.optim.Optimizer, schedule: Any, progress: Progress
) -> None:
    """Write weights, optimiser, schedule and progress; the earlier checkpoint stays until the new one is complete."""
    with replacing_folder(folder) as draft:
        save_file(_weights(whisper.model), draft / "weights.safetensors")
        save_file(extra_state(whisper), draft / "adapter.safetensors")
        torch.save({"optimiser": optimiser.state_dict(), "schedule": schedule.state_dict()}, draft / "optimiser.pt")
        (draft / "progress.json").write_text(json.dumps(asdict(progress)))


def load_checkpoint(folder: Path, whisper: Whisper, optimiser: torch.optim.Optimizer, schedule: Any) -> Progress:
    """Restore model, optimiser and schedule from a checkpoint.

    Raises:
        DataError: the checkpoint is damaged, or belongs to another model.
    """
    try:
        weights = load_file(folder / "weights.safetensors")
        state = torch.load(folder / "optimiser.pt", weights_only=True)
        load_extra_state(whisper, load_file(folder / "adapter.safetensors"))
        _set_weights(whisper.model, weights)
        optimiser.load_state_dict(state["optimiser"])
        schedule.load_state_dict(state["schedule"])
    except Exception as error:  # torch, safetensors and pickle each raise their own kinds
        raise _damaged(folder, error) from error
    return read_progress(folder)


def read_progress(folder: Path) -> Progress:
    """Read the position of a run from its checkpoint.

    Raises:
        DataError: the checkpoint is damaged.
    """
    try:
        return Progress(**json.loads((folder / "progress.json").read_text()))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise _damaged(folder, error) from error


def _damaged(folder: Path, error: Exception) -> DataError:
    return DataError(f"{folder} cannot be read ({first_line(error)}): remove it to start this run again")


def find_checkpoint(folder: Path) -> Path | None:
    """Return the newest complete checkpoint: `folder`, or the earlier one after a crash between two renames."""
    for candidate in (folder, set_aside(folder)):
        if candidate.is_dir():
            return candidate
    return None


def remove_checkpoint(run: RunFolder) -> None:
    """Remove the files that only an unfinished run needs."""
    for place in (run.checkpoint, set_aside(run.checkpoint), run.snapshots):
        shutil.rmtree(place.resolve(), ignore_errors=True)  # a symbolic link may lead to a larger disk


def keep_snapshot(run: RunFolder, model: nn.Module, step: int, *, most: int) -> None:
    """Save the trainable weights of this step; of all steps the last `most` are kept."""
    run.snapshots.mkdir(exist_ok=True)
    with replacing(run.snapshot(step)) as draft:
        save_file(_weights(model), draft)
    for path in sorted(path for path in run.snapshots.iterdir() if path > run.snapshot(step)):
        path.unlink()  # left from before a crash, later than the step that the run resumed from
    for path in sorted(run.snapshots.iterdir())[:-most]:
        path.unlink()


def average_snapshots(run: RunFolder, model: nn.Module) -> None:
    """Replace the model's trainable weights by the mean of the saved snapshots."""
    kept = sorted(run.snapshots.iterdir())
    mean: dict[str, torch.Tensor] = {}
    for path in kept:
        try:
            snapshot = _fitting(load_file(path), model)
        except Exception as error:  # safetensors raises its own kinds
            raise DataError(f"{path} cannot be read ({first_line(error)}): remove it to average the others") from error
        for name, value in snapshot.items():
            mean[name] = mean.get(name, torch.zeros_like(value)) + value / len(kept)
    _set_weights(model, mean)


def _weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().contiguous() for name, value in trainable_state(model).items()}


def _set_weights(model: nn.Module, weights: dict[str, torch.Tensor]) -> None:
    own = trainable_state(model)
    with torch.no_grad():
        for name, value in _fitting(weights, model).items():
            own[name].copy_(value)


def _fitting(weights: dict[str, torch.Tensor], model: nn.Module) -> dict[str, torch.Tensor]:
    """Return weights that are exactly those that the model trains; `copy_` alone would spread a smaller tensor.

    Raises:
        ValueError: they are those of another model or adapter.
    """
    wanted = {name: list(value.shape) for name, value in trainable_state(model).items()}
    found = {name: list(value.shape) for name, value in weights.items()}
    faults = [
        *(f"{name} is missing" for name in wanted.keys() - found.keys()),
        *(f"{name} is unknown" for name in found.keys() - wanted.keys()),
        *(
            f"{name} has shape {found[name]} and needs {shape}"
            for name, shape in wanted.items()
            if found.get(name, shape) != shape
        ),
    ]
    if faults:
        raise ValueError(f"its weights belong to another model or adapter: {faults[0]}")
    return weights
