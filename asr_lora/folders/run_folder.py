"""The folder that `train` makes, and the folders of exports."""

from collections.abc import Iterable
from pathlib import Path

from asr_lora.config import Context, Method
from asr_lora.folders.atomic import read_jsonl
from asr_lora.folders.digests import file_facts, folder_digest
from asr_lora.folders.manifests import Folder, ManifestRecord, Record
from asr_lora.folders.tabular import Column, Tabular
from asr_lora.language import ForcedPrompt, Task, forced_prompt

CARD = "README.md"  # of a published model


class RunModel(Record):
    """The base model of a run and the decoder prompt that it was trained with."""

    name: str  # hub id, folder, or pypi:whisper-base
    language: str  # code of the spoken language
    language_token: str | None = None  # code of the language whose token is borrowed
    task: Task = Task.TRANSCRIBE
    context: Context = Context.FULL

    @property
    def prompt(self) -> ForcedPrompt:
        """The language and task that the decoder was forced to."""
        return forced_prompt(self.language, self.language_token, self.task)


class RunData(Record):
    dataset: Path
    subset: str = "all"
    max_seconds: float = 30.0
    dev_utterances: int = 0
    guards: tuple[Path, ...] = ()  # the name of regression_sets in older configs
    regression_sets: tuple[Path, ...] = ()


class RunAdapter(Record):
    rank: int
    alpha: float
    dropout: float = 0.0
    targets: tuple[str, ...]


class RunOptimiser(Record):
    name: str
    learning_rate: float


class RunTraining(Record):
    steps: int = 0
    seed: int = 0


class RunSettings(Record):
    """The config of a run, as in `config.yaml`; only the settings that other stages need are checked."""

    out: Path | None = None
    method: Method | None = None
    model: Record | None = None
    data: RunData
    adapter: RunAdapter | None = None
    optimiser: RunOptimiser | None = None
    examples: Record | None = None
    augmentation: Record | None = None
    training: RunTraining = RunTraining()


class ParameterCount(Record):
    trainable: int
    total: int


class TrainedOn(Record):
    """How much speech a run was trained on, and for how long."""

    utterances: int
    hours: float
    epochs: float
    steps: int | None = None  # None: an older run, which did not record it
    micro_batch_seconds: float | None = None
    left_out: dict[str, list[str]] = {}  # ids of utterances by reason


class BestCheckpoint(Record):
    step: int
    dev_wer: float | None
    dev_cer: float | None = None
    averaged: bool = False
    lead: str = "wer"  # the rate on dev that chose it, or "cer" where most words are written without blanks between

    @property
    def dev_rate(self) -> float | None:
        """The rate on dev that chose it, as a share of 1."""
        return self.dev_cer if self.lead == "cer" else self.dev_wer

    @property
    def chosen_by(self) -> str:
        """The rate that chose it, and its value."""
        return f"{self.lead.upper()} {'–' if self.dev_rate is None else f'{100 * self.dev_rate:.1f} %'}"


class MergedRun(Record):
    """One of the runs whose mean a run is."""

    name: str
    share: float
    weights_digest: str | None = None


class RunRecord(ManifestRecord):
    """The record of a finished run, or of the mean of several, whose config is that of the first."""

    method: Method
    model: RunModel
    config: RunSettings
    data: dict[str, str] = {}  # SHA-256 of the splits and the subset
    device: str = ""
    dtype: str = ""
    parameters: ParameterCount
    processes: dict[str, int] = {}  # how many, and the bytes of gradients that each sends a step
    train: TrainedOn
    best: BestCheckpoint
    weights_bytes: int
    weights_digest: str | None = None
    train_seconds: float  # of a mean: of all its runs together, as the epochs and steps are
    peak_memory_bytes: int
    merged: list[MergedRun] = []  # empty: the run was trained
    retained: float | None = None  # share of the summed updates' squared norm that the rank of a mean holds

    @property
    def regression_sets(self) -> tuple[Path, ...]:
        """Datasets on which, by the config, WER must not rise."""
        return (*self.config.data.guards, *self.config.data.regression_sets)


class RunFolder(Folder[RunRecord], Tabular):
    """A run of training: its config, its metrics and the best weights."""

    kind = "run"
    record = RunRecord
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
        record = self.read()
        if record.merged:
            return f"the mean of {len(record.merged)} runs, as {record.method}"
        best = record.best
        rate = "" if best.dev_rate is None else f", best {best.lead.upper()} on dev {best.dev_rate:.1%}"
        return f"{record.method}{rate} at step {best.step}"

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
        """The best weights by the leading rate on dev: a PEFT adapter, or a whole model after full fine-tuning."""
        return self.root / ("model" if method == "full" else "adapter")

    def has_own_weights(self, record: RunRecord) -> bool:
        """Whether the weights are those that the run trained; an older run did not record their digest."""
        return record.weights_digest in (None, folder_digest(self.weights(record.method)))

    def export(self, format: str) -> Path:  # noqa: A002
        """Folder of an export that `push` makes itself."""
        return self.root / "export" / format

    def whole(self, record: RunRecord) -> bool:
        return self.weights(record.method).is_dir()


class ExportedFile(Record):
    name: str  # within the folder
    bytes: int
    sha256: str


class ErrorRates(Record):
    """Error rates as shares of 1."""

    wer: float
    cer: float


class ParityRecord(Record):
    """How far the transcripts of two engines differ on the same utterances; all rates are shares of 1."""

    clips: int
    normaliser: str
    lead: str  # "cer" where most of the words are written without spaces between them, else "wer"
    ours: ErrorRates
    theirs: ErrorRates
    drift: float  # theirs less ours, in the leading rate
    tolerance: float
    alike: int  # utterances whose words are the same in both transcripts
    apart: float  # WER of their transcripts against ours
    passed: bool


class ExportRecord(ManifestRecord):
    """The record of an export: its run, its engine, and how the engine's transcripts compare with ours."""

    model: str  # name of the run, without its folder
    weights_digest: str | None = None  # None: weights that no run describes, or a published export
    base: str
    strength: float | None = None  # share of the adapter's update; None: no adapter
    language: str
    language_token: str | None = None
    task: Task = Task.TRANSCRIBE
    context: Context = Context.FULL
    format: str
    dtype: str | None = None  # None: the adapter's own
    quantise: str | None = None
    files: list[ExportedFile]
    dataset: dict[str, str | float]  # of the parity check: SHA-256 and name of the split, and seconds of audio
    reference: str  # our engine, in words
    engine: str  # the packages that run the format, with their versions
    parity: ParityRecord

    @property
    def run_model(self) -> RunModel:
        return RunModel(
            name=self.base,
            language=self.language,
            language_token=self.language_token,
            task=self.task,
            context=self.context,
        )


class ExportFolder(Folder[ExportRecord], Tabular):
    """A model in the format of another engine, and the parity check of that engine with ours."""

    kind = "export"
    record = ExportRecord
    manifest_name = "export.json"
    remedy = "Make it with: asr-lora export RUN --format FORMAT --out FOLDER"
    columns = (
        Column("engine", "Engine"),
        Column("clips", "Utterances", ","),
        Column("wer", "WER", ".1%", "rates.wer"),
        Column("cer", "CER", ".1%", "rates.cer"),
    )

    def entries(self) -> Iterable[object]:
        """Return the scores of both engines of the parity check."""
        record = self.read()
        for engine, rates in ((record.reference, record.parity.ours), (record.engine, record.parity.theirs)):
            yield {"engine": engine, "clips": record.parity.clips, "rates": rates}

    def caption(self) -> str:
        record, found = self.read(), self.read().parity
        drift = f"{found.lead.upper()} differs by {100 * found.drift:+.2f} points"
        return f"{record.format} for {record.engine}; {drift} on {found.clips} utterances"

    def ggml(self, packing: str) -> Path:
        """The one file that whisper.cpp loads, named as its own models are."""
        return self.root / f"ggml-model-{packing}.bin"

    @property
    def files(self) -> list[Path]:
        """Files of the export, without the manifest."""
        return sorted(path for path in self.root.rglob("*") if path.is_file() and path != self.manifest)

    def listed(self) -> list[ExportedFile]:
        """Return name, size and SHA-256 of each file."""
        return [ExportedFile(name=str(path.relative_to(self.root)), **file_facts(path)) for path in self.files]

    def whole(self, record: ExportRecord) -> bool:
        return all((self.root / file.name).is_file() for file in record.files)
