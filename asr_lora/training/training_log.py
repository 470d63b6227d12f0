"""Write metrics.jsonl and TensorBoard: one row for each step, and one more for each dev evaluation."""

import json

from torch.utils.tensorboard import SummaryWriter

from asr_lora.folders.atomic import read_jsonl, write_jsonl
from asr_lora.folders.run_folder import RunFolder
from asr_lora.training.checkpoint import Progress


class TrainingLog:
    """Appends rows to the files of a run, after cutting them back to the step that the run resumes from.

    Only one process of a group may write, so it does nothing where `enabled` is false.
    """

    def __init__(self, folder: RunFolder, progress: Progress, *, enabled: bool) -> None:
        self.enabled = enabled
        if not enabled:
            return
        if folder.metrics.is_file():
            rows = read_jsonl(folder.metrics)
            write_jsonl(folder.metrics, [row for row in rows if row["step"] <= progress.reached("dev_wer" in row)])
        self.file = folder.metrics.open("a", encoding="utf-8")
        self.board = SummaryWriter(str(folder.tensorboard), purge_step=progress.step + 1)

    def write(self, *, step: int, **values: float) -> None:
        if not self.enabled:
            return
        self.file.write(json.dumps({"step": step, **values}) + "\n")
        self.file.flush()
        for name, value in values.items():
            self.board.add_scalar(name, value, step)

    def close(self) -> None:
        if self.enabled:
            self.file.close()
            self.board.close()
