"""Folders of what several jobs make together: sweeps over strengths and settings, a promotion, an adaptation."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from asr_lora.folders.dataset_folder import SPLITS
from asr_lora.folders.digests import fingerprint
from asr_lora.folders.manifests import Folder
from asr_lora.folders.tabular import Column, Tabular, difference_columns, rate_columns

ZERO_SHOT = "zero-shot"  # name of the base model in reports of `adapt`


class StrengthSweepFolder(Folder[dict[str, Any]], Tabular):
    """Reports of one adapter at several strengths."""

    kind = "strength sweep"
    manifest_name = "sweep.json"
    remedy = "Make it with: asr-lora evaluate RUN DATASET --strength-sweep --out FOLDER"
    columns = (
        Column("strength", "Strength", ".2f"),
        *rate_columns("wer"),
        Column("cer", "CER", ".1%"),
        *difference_columns("difference"),
    )

    def entries(self) -> Iterable[object]:
        return list(self.read_json()["strengths"])

    def report(self, strength: float) -> Path:
        return self.root / f"strength-{strength:g}"

    @property
    def ours(self) -> bool:
        """Whether it holds nothing but a sweep, complete or interrupted."""
        names = {path.name for path in self.root.iterdir()} if self.root.is_dir() else set()
        return all(name == self.manifest_name or name.startswith("strength-") for name in names)


class SweepFolder(Folder[dict[str, Any]], Tabular):
    """Runs of one sweep over settings, their reports, and a table for each split that they were scored on."""

    kind = "sweep"
    manifest_name = "variants.json"
    remedy = "Finish it with: asr-lora sweep FILE --out FOLDER"
    columns = (
        Column("split", "Split"),
        Column("variant", "Variant", source="scores.name"),
        *rate_columns("wer", "scores."),
        Column("cer", "CER", ".1%", "scores.cer"),
        *difference_columns("scores.difference"),
        Column("verdict", "Verdict", source="scores.verdict"),
        Column("trainable_parameters", "Trainable parameters", ",", "scores.trainable_parameters"),
        Column("seconds", "Training, s", ",.0f", "scores.seconds"),
        Column("hours_of_speech", "Hours of speech", ".2f", "scores.hours_of_speech"),
    )

    def entries(self) -> Iterable[object]:
        return [{"split": split, "scores": row} for split, rows in self.read_json()["splits"].items() for row in rows]

    def caption(self) -> str:
        body = self.read_json()
        return f"{len(body['variants'])} variants; dev chooses {body['chosen_by_dev']}"

    def config(self, name: str) -> Path:
        return self.root / "configs" / f"{name}.yaml"

    def run(self, name: str) -> Path:
        return self.root / "runs" / name

    def report(self, name: str, split: str) -> Path:
        return self.root / "reports" / split / name

    def page(self, split: str) -> Path:
        return self.root / f"{split}.html"

    def markdown(self, split: str) -> Path:
        return self.root / f"{split}.md"

    def csv(self, split: str) -> Path:
        return self.root / f"{split}.csv"

    @property
    def ours(self) -> bool:
        """Whether it holds nothing but a sweep, complete or not."""
        tables = {path.name for split in SPLITS for path in (self.page(split), self.markdown(split), self.csv(split))}
        known = {"configs", "runs", "reports", self.manifest_name, *tables}
        return self.root.is_dir() and {path.name for path in self.root.iterdir()} <= known


class PromotionFolder(Folder[dict[str, Any]], Tabular):
    """What a run's folder says of its promotion; `root` is the run's."""

    kind = "promotion"
    manifest_name = "promoted.json"
    remedy = "Make it with: asr-lora promote RUN"
    columns = (
        Column("dataset", "Dataset"),
        Column("regression_set", "Regression set", source="guard"),
        Column("wer_before", "WER before", ".1%", "before.wer"),
        Column("wer_after", "WER after", ".1%", "after.wer"),
        *difference_columns("difference"),
        Column("verdict", "Verdict"),
        Column("passed", "Passed"),
    )

    def entries(self) -> Iterable[object]:
        return list(self.read_json()["trials"])

    def report(self, model: str, dataset: Path) -> Path:
        """Where the report of a model on a dataset's dev split is kept, so that another's is not in its way."""
        return self.root / "promotion" / f"{dataset.resolve().name}-{fingerprint(model, dataset.resolve())[:8]}"


class AdaptFolder(Folder[dict[str, Any]]):
    """Everything that one `asr-lora adapt` makes."""

    kind = "adaptation"
    manifest_name = "adapt.json"
    remedy = "Make it with: asr-lora adapt SOURCE --language LANGUAGE --out FOLDER"

    @property
    def dataset(self) -> Path:
        return self.root / "data"

    @property
    def transcripts(self) -> Path:
        return self.root / "transcripts"

    @property
    def comparison(self) -> Path:
        return self.root / "reports" / "comparison"

    def config(self, method: str) -> Path:
        return self.root / "configs" / f"{method}.yaml"

    def run(self, method: str) -> Path:
        return self.root / "runs" / method

    def report(self, system: str) -> Path:
        earlier = self.root / "reports" / "untouched"  # the folder of the zero-shot report in earlier versions
        return earlier if system == ZERO_SHOT and earlier.is_dir() else self.root / "reports" / system
