"""Folders of jobs that call other jobs: sweeps over strengths and settings, promotions and adaptations."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from asr_lora.folders.dataset_folder import SPLITS
from asr_lora.folders.digests import fingerprint
from asr_lora.folders.manifests import Folder, ManifestRecord, Record
from asr_lora.folders.measurements import Difference, ScoredSplit
from asr_lora.folders.tabular import Column, Tabular, difference_columns, scored_columns

ZERO_SHOT = "zero-shot"  # name of the base model in reports of `adapt`


class StrengthRecord(Record):
    """Scores of an adapter at one strength."""

    strength: float
    model: str
    wer: float
    wer_interval: tuple[float, float]
    cer: float
    cer_interval: tuple[float, float] | None = None  # None: an earlier version, which did not record it
    difference: Difference | None  # from full strength; None: it is full strength
    fingerprint: str | None = None

    def interval(self, name: str) -> tuple[float, float]:
        return self.cer_interval or self.wer_interval if name == "cer" else self.wer_interval


class StrengthSweepRecord(ManifestRecord):
    """Scores of an adapter at several strengths, and the strength with the lowest rate on dev."""

    model: str
    dataset: ScoredSplit
    lead: str = "wer"  # the rate that chooses, or "cer"
    strengths: list[StrengthRecord]
    chosen: str
    verdict: str


class StrengthSweepFolder(Folder[StrengthSweepRecord], Tabular):
    """Reports of one adapter at several strengths."""

    kind = "strength sweep"
    record = StrengthSweepRecord
    manifest_name = "sweep.json"
    remedy = "Make it with: asr-lora evaluate RUN DATASET --strength-sweep --out FOLDER"
    columns = (
        Column("strength", "Strength", ".2f"),
        *scored_columns("wer"),
        Column("cer", "CER", ".1%"),
        *difference_columns("difference"),
    )

    def entries(self) -> Iterable[object]:
        return self.read().strengths

    def report(self, strength: float) -> Path:
        return self.root / f"strength-{strength:g}"

    @property
    def ours(self) -> bool:
        """Whether the folder holds only a sweep, complete or interrupted."""
        names = {path.name for path in self.root.iterdir()} if self.root.is_dir() else set()
        ours = {self.manifest_name, self.lock.name}
        return all(name in ours or name.startswith("strength-") for name in names)


class VariantScores(Record):
    """The row of a variant in the table of a split."""

    name: str
    wer: float
    wer_interval: tuple[float, float]
    cer: float
    difference: Difference | None  # from the first variant; None: it is the first
    verdict: str | None
    trainable_parameters: int | None
    seconds: float | None
    hours_of_speech: float | None
    fingerprint: str | None = None


class SweepRecord(ManifestRecord):
    """The variants of a sweep, their scores on each split, and the variant with the lowest leading rate on dev."""

    sweep: str  # YAML file
    variants: list[Mapping[str, Any]]  # name, settings, run folder and whole config of each
    splits: dict[str, list[VariantScores]]
    chosen_by_dev: str


class SweepFolder(Folder[SweepRecord], Tabular):
    """Runs of one sweep over settings, their reports, and a table for each split that they were scored on."""

    kind = "sweep"
    record = SweepRecord
    manifest_name = "variants.json"
    remedy = "Finish it with: asr-lora sweep FILE --out FOLDER"
    columns = (
        Column("split", "Split"),
        Column("variant", "Variant", source="scores.name"),
        *scored_columns("wer", "scores."),
        Column("cer", "CER", ".1%", "scores.cer"),
        *difference_columns("scores.difference"),
        Column("verdict", "Verdict", source="scores.verdict"),
        Column("trainable_parameters", "Trainable parameters", ",", "scores.trainable_parameters"),
        Column("seconds", "Training, s", ",.0f", "scores.seconds"),
        Column("hours_of_speech", "Hours of speech", ".2f", "scores.hours_of_speech"),
    )

    def entries(self) -> Iterable[object]:
        return [{"split": split, "scores": row} for split, rows in self.read().splits.items() for row in rows]

    def caption(self) -> str:
        record = self.read()
        return f"{len(record.variants)} variants; dev chooses {record.chosen_by_dev}"

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
        """Whether the folder holds only a sweep, complete or not."""
        tables = {path.name for split in SPLITS for path in (self.page(split), self.markdown(split), self.csv(split))}
        known = {"configs", "runs", "reports", self.manifest_name, self.lock.name, *tables}
        return self.root.is_dir() and {path.name for path in self.root.iterdir()} <= known


class PromotionSide(Record):
    """Scores of one model on the dataset of a trial."""

    model: str
    context: str
    wer: float
    wer_interval: tuple[float, float]
    cer: float
    report: str  # folder, relative to the run's
    fingerprint: str | None = None
    hypotheses_sha256: str = ""

    def rate(self, name: str) -> float:
        return self.cer if name == "cer" else self.wer


class TrialRecord(Record):
    """Scores of the previous model and of the run on one dataset."""

    fingerprint: str = ""
    dataset: str
    split: str
    guard: bool  # a regression set, which must not get worse; otherwise the dataset that must get better
    language: str | None = None
    language_token: str | None = None
    utterances: int
    lead: str = "wer"  # the rate that decides, or "cer"
    before: PromotionSide
    after: PromotionSide
    difference: Difference
    verdict: str
    passed: bool
    sentence: str


class PromotionRecord(ManifestRecord):
    """Whether a run may replace the previous model, and the measurements that decide it."""

    run: str
    over: str  # the previous model
    weights_digest: str | None = None
    strength: float
    tolerance: float
    promoted: bool
    forced: bool
    refusals: list[str]
    verdict: str
    trials: list[TrialRecord]


class PromotionFolder(Folder[PromotionRecord], Tabular):
    """The manifest of a promotion and its reports; `root` is the folder of the run."""

    kind = "promotion"
    record = PromotionRecord
    manifest_name = "promoted.json"
    remedy = "Make it with: asr-lora promote RUN"
    columns = (
        Column("dataset", "Dataset"),
        Column("regression_set", "Regression set", source="guard"),
        Column("wer_before", "WER before", ".1%", "before.wer"),
        Column("wer_after", "WER after", ".1%", "after.wer"),
        Column("cer_before", "CER before", ".1%", "before.cer"),
        Column("cer_after", "CER after", ".1%", "after.cer"),
        *difference_columns("difference"),
        Column("verdict", "Verdict"),
        Column("passed", "Passed"),
    )

    def entries(self) -> Iterable[object]:
        return self.read().trials

    def report(self, model: str, dataset: Path) -> Path:
        """Return the folder of the report of a model on the dev split of a dataset."""
        return self.root / "promotion" / f"{dataset.resolve().name}-{fingerprint(model, dataset.resolve())[:8]}"


class AdaptRecord(ManifestRecord):
    """The settings that `adapt` chose, the commands of its stages, and the verdict of its comparison."""

    plan: Mapping[str, Any]  # model, subset, steps, and the reasons for them
    commands: list[str]
    verdict: str


class AdaptFolder(Folder[AdaptRecord]):
    """Everything that one `asr-lora adapt` makes."""

    kind = "adaptation"
    record = AdaptRecord
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
