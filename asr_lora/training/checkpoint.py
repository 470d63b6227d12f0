"""Resume state of a run: written beside and renamed, so that an unfinished one is never read."""

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from asr_lora.artifacts import replacing_folder, set_aside
from asr_lora.audio.decode import first_line
from asr_lora.errors import DataError
from asr_lora.model.adapters import trainable_state


@dataclass(frozen=True)
class Progress:
    """Where a run is. The order of the data follows from seed and step, so it needs no state of its own."""

    fingerprint: str = ""  # of the settings, data and base that the run began with
    step: int = 0
    utterances: int = 0  # seen so far, repeats counted
    train_seconds: float = 0.0  # wall time in the loop, dev scoring included
    peak_memory_bytes: int = 0
    scored_step: int = 0  # the last step after which dev was scored
    best_step: int = 0
    best_dev_wer: float | None = None
    best_dev_cer: float | None = None

    def reached(self, scoring: bool) -> int:
        """The last step that is done, or that dev was scored after."""
        return self.scored_step if scoring else self.step


def save_checkpoint(
    folder: Path, model: nn.Module, optimiser: torch.optim.Optimizer, schedule: Any, progress: Progress
) -> None:
    """Write weights, optimiser, schedule, random states and progress; the checkpoint before stays until then."""
    with replacing_folder(folder) as draft:
        weights = {name: value.detach().contiguous() for name, value in trainable_state(model).items()}
        save_file(weights, draft / "weights.safetensors")
        torch.save({"optimiser": optimiser.state_dict(), "schedule": schedule.state_dict()}, draft / "optimiser.pt")
        torch.save(_random_states(), draft / "random.pt")
        (draft / "progress.json").write_text(json.dumps(asdict(progress)))


def load_checkpoint(folder: Path, model: nn.Module, optimiser: torch.optim.Optimizer, schedule: Any) -> Progress:
    """Bring model, optimiser, schedule and random states to where a checkpoint was written.

    Raises:
        DataError: the checkpoint is damaged or of another model.
    """
    try:
        weights = load_file(folder / "weights.safetensors")
        state = torch.load(folder / "optimiser.pt", weights_only=True)
        randoms = torch.load(folder / "random.pt", weights_only=True)
        wanted = trainable_state(model)
        if weights.keys() != wanted.keys():
            raise ValueError("its weights are those of another model or adapter")
        with torch.no_grad():
            for name, value in wanted.items():
                value.copy_(weights[name])
        optimiser.load_state_dict(state["optimiser"])
        schedule.load_state_dict(state["schedule"])
        _set_random_states(randoms)
    except Exception as error:  # torch, safetensors and pickle each raise their own kinds
        raise _damaged(folder, error) from error
    return read_progress(folder)


def read_progress(folder: Path) -> Progress:
    """Where a checkpoint's run is.

    Raises:
        DataError: the checkpoint is damaged.
    """
    try:
        return Progress(**json.loads((folder / "progress.json").read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise _damaged(folder, error) from error


def _damaged(folder: Path, error: Exception) -> DataError:
    return DataError(f"{folder} cannot be read ({first_line(error)}): remove it to start this run anew")


def find_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint: `folder`, or the one before it if a crash came between two renames."""
    for candidate in (folder, set_aside(folder)):
        if candidate.is_dir():
            return candidate
    return None


def remove_checkpoint(folder: Path) -> None:
    for place in (folder, set_aside(folder)):
        shutil.rmtree(place, ignore_errors=True)


def _random_states() -> dict[str, Any]:
    cuda = torch.cuda.get_rng_state() if torch.cuda.is_available() else None
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def _set_random_states(states: dict[str, Any]) -> None:
    torch.set_rng_state(states["cpu"])
    if states["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
