"""The folder that `train` makes, and what is exported and published of it."""

from pathlib import Path
from typing import Any

from asr_lora.folders.digests import file_facts
from asr_lora.folders.manifests import Folder

CARD = "README.md"  # of a published model


class RunFolder(Folder):
    kind = "run"
    manifest_name = "run.json"
    remedy = "Finish it with: asr-lora train CONFIG --resume"

    @property
    def config(self) -> Path:
        return self.root / "config.yaml"

    @property
    def metrics(self) -> Path:
        return self.root / "metrics.jsonl"

    @property
    def tensorboard(self) -> Path:
        return self.root / "tensorboard"

    @property
    def checkpoint(self) -> Path:
        return self.root / "checkpoint"

    @property
    def snapshots(self) -> Path:
        """Weights of the last evaluations, for averaging."""
        return self.root / "snapshots"

    def snapshot(self, step: int) -> Path:
        return self.snapshots / f"{step:09}.safetensors"

    def weights(self, method: str) -> Path:
        """The best weights by dev WER: a PEFT adapter, or a whole model after full fine-tuning."""
        return self.root / ("model" if method == "full" else "adapter")

    def export(self, format: str) -> Path:  # noqa: A002
        """Where `push` keeps what it exports by itself."""
        return self.root / "export" / format

    def whole(self, body: dict[str, Any]) -> bool:
        return self.weights(body["method"]).is_dir()


class ExportFolder(Folder):
    """A run in the format of another engine, and the proof that it hears the same there."""

    kind = "export"
    manifest_name = "export.json"
    remedy = "Make it with: asr-lora export RUN --format FORMAT --out FOLDER"

    def ggml(self, packing: str) -> Path:
        """The one file that whisper.cpp loads, named as its own models are."""
        return self.root / f"ggml-model-{packing}.bin"

    @property
    def files(self) -> list[Path]:
        """What was exported, without the manifest."""
        return sorted(path for path in self.root.rglob("*") if path.is_file() and path != self.manifest)

    def listed(self) -> list[dict[str, Any]]:
        """Name, size and SHA-256 of each file."""
        return [{"name": str(path.relative_to(self.root)), **file_facts(path)} for path in self.files]

    def whole(self, body: dict[str, Any]) -> bool:
        return all((self.root / file["name"]).is_file() for file in body["files"])
