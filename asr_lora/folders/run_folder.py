"""The folder that `train` makes, and what is exported and published of it."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from asr_lora.folders.atomic import read_jsonl
from asr_lora.folders.digests import file_facts
from asr_lora.folders.manifests import Folder
from asr_lora.folders.tabular import Column, Tabular

CARD = "README.md"  # of a published model


class RunFolder(Folder, Tabular):
    """A run of training: its config, its metrics and the best weights."""

    kind = "run"
    manifest_name = "run.json"
    remedy = "Finish it with: asr-lora train CONFIG --resume"
    columns = (
        Column("step", "Step", ","),
        Column("loss", "Loss", ".3f"),
        Column("learning_rate", "Learning rate", ".2e", "lr"),
        Column("dev_wer", "WER on dev", ".1%"),
        Column("dev_cer", "CER on dev", ".1%"),
        Column("seconds", "Seconds", ",.0f"),
    )

    def entries(self) -> Iterable[object]:
        """Return what was measured at each step, and at each evaluation on dev."""
        return read_jsonl(self.metrics)

    def caption(self) -> str:
        body = self.read()
        best = body["best"]
        return f"{body['method']}, best WER on dev {best['dev_wer']:.1%} at step {best['step']}"

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


class ExportFolder(Folder, Tabular):
    """A run in the format of another engine, and the proof that it hears the same there."""

    kind = "export"
    manifest_name = "export.json"
    remedy = "Make it with: asr-lora export RUN --format FORMAT --out FOLDER"
    columns = (
        Column("engine", "Engine"),
        Column("clips", "Utterances", ","),
        Column("wer", "WER", ".1%", "rates.wer"),
        Column("cer", "CER", ".1%", "rates.cer"),
    )

    def entries(self) -> Iterable[object]:
        """Return what each of the two engines of the parity check scored."""
        body = self.read()
        found = body["parity"]
        for engine, side in ((body["reference"], "ours"), (body["engine"], "theirs")):
            yield {"engine": engine, "clips": found["clips"], "rates": found[side]}

    def caption(self) -> str:
        body = self.read()
        found = body["parity"]
        drift = f"{found['lead'].upper()} differs by {100 * found['drift']:+.2f} points"
        return f"{body['format']} for {body['engine']}; {drift} on {found['clips']} utterances"

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
