"""metrics.jsonl and TensorBoard: one row a step, one more for each dev evaluation."""

import json

from torch.utils.tensorboard import SummaryWriter

from asr_lora.folders.atomic import read_jsonl, write_jsonl
from asr_lora.folders.run_folder import RunFolder
from asr_lora.training.checkpoint import Progress


class Metrics:
    """Writes rows as they come, after cutting the file back to where the run resumes from."""

    def __init__(self, folder: RunFolder, progress: Progress) -> None:
        if folder.metrics.is_file():
            rows = read_jsonl(folder.metrics)
            write_jsonl(folder.metrics, [row for row in rows if row["step"] <= progress.reached("dev_wer" in row)])
        self.file = folder.metrics.open("a", encoding="utf-8")
        self.board = SummaryWriter(str(folder.tensorboard), purge_step=progress.step + 1)

    def write(self, *, step: int, **values: float) -> None:
        self.file.write(json.dumps({"step": step, **values}) + "\n")
        self.file.flush()
        for name, value in values.items():
            self.board.add_scalar(name, value, step)

    def close(self) -> None:
        self.file.close()
        self.board.close()


class Silent:
    """In the place of `Metrics` in every process but the first."""

    def write(self, *, step: int, **values: float) -> None:
        """Write nothing."""

    def close(self) -> None:
        """There is nothing to close."""
