"""Records of measurements: report.json, comparison.json and analysis.json."""

from collections.abc import Mapping
from typing import Any

from asr_lora.folders.manifests import MadeWith, ManifestRecord, Record

Measured = Mapping[str, Any]  # results that are written for other programs, and read back by `compare --rerun` alone


class Difference(Record):
    """Error rate of B minus A on the same utterances, with its 95 % interval; shares of 1."""

    value: float
    low: float
    high: float
    probability_of_improvement: float | None = None  # share of replicates in which B makes fewer errors than A

    @property
    def verdict(self) -> str:
        """The verdict on B compared with A: "better", "worse" or "not distinguishable"."""
        return "better" if self.high < 0 else "worse" if self.low > 0 else "not distinguishable"


class CurvePoint(Record):
    """Scores on dev at one evaluation during training."""

    step: int
    seconds: float  # since training began
    wer: float
    cer: float


class TrainingRecord(Record):
    """What the run of a system cost, and how it was trained."""

    method: str
    trainable_parameters: int
    total_parameters: int
    weights_bytes: int
    seconds: float
    peak_memory_bytes: int
    hours_of_speech: float
    epochs: float
    step: int | None  # of the best checkpoint on dev
    dev_wer: float | None
    curve: list[CurvePoint] = []
    config: Mapping[str, Any] | None = None  # as config.yaml has it; None: an older run did not record it
    data: dict[str, str] = {}  # SHA-256 of splits and subset; empty: an older run did not record them
    made_with: MadeWith = MadeWith()


class SystemRecord(Record):
    """The model that a report is about."""

    name: str
    model: str
    base: str
    strength: float | None = None  # share of the adapter's update; None: no adapter
    context: str
    engine: str = "torch"  # the engine of older reports, which did not record it
    dtype: str  # as the engine computes: float32, bfloat16, float16 or int8
    device: str
    weights_digest: str | None = None  # of the run, or of the files; None: an older report, or a model of the hub
    training: TrainingRecord | None = None  # None: zero-shot, or trained elsewhere


class ScoredSplit(Record):
    """The split that was scored."""

    folder: str | None = None  # None: an older report did not record it
    language: str
    split: str
    sha256: str
    utterances: int
    seconds: float
    speakers: int


class DecodingRecord(Record):
    """Settings that a hypothesis depends on besides the model; only reports with equal settings are compared."""

    language: str
    language_token: str | None = None  # language whose token is borrowed; None: its own token
    task: str = "transcribe"
    beams: int
    max_new_tokens: int | None = None
    loops_end: bool | None = None  # see decoding.search.EndLoops; None: an older report did not record it


class ScoresRecord(Record):
    """Rates and counts of one system after the report's normaliser; older reports state fewer of them."""

    lead: str = "wer"  # the rate that leads: "wer" or "cer"
    wer: float
    cer: float
    mer: float | None = None  # match error rate
    wil: float | None = None  # word information lost
    substitutions: int | None = None
    insertions: int | None = None
    deletions: int | None = None
    reference_words: int | None = None
    character_edits: int | None = None
    reference_characters: int | None = None
    word_edits: int | None = None
    wer_interval: tuple[float, float]
    cer_interval: tuple[float, float] | None = None
    resampled: str = "speaker"  # unit of the bootstrap: "speaker" or "utterance"
    units: int | None = None
    replicates: int | None = None
    raw_wer: float
    raw_cer: float
    normalised: dict[str, Measured] = {}  # rates after each normaliser, by its label
    not_scored: dict[str, str] = {}  # normalisers that could not be used, and why

    def rate(self, name: str) -> float:
        """The rate called "wer" or "cer"."""
        return self.cer if name == "cer" else self.wer

    def interval(self, name: str) -> tuple[float, float]:
        found = self.cer_interval if name == "cer" else self.wer_interval
        assert found is not None  # scores that are computed now have both
        return found


class ReportRecord(ManifestRecord):
    """report.json: one system on one split."""

    system: SystemRecord
    dataset: ScoredSplit
    decoding: DecodingRecord
    normaliser: str  # label
    scoring: int | None = None  # see evaluation.report.SCORING; None: a version before 2
    scores: ScoresRecord
    analysis: Measured = {}
    processes: int | None = None
    inference_seconds: float | None = None
    rtfx: float | None = None  # seconds of audio per second of inference
    transcribed_with: MadeWith | None = None  # where the report was scored again later


class ComparedSystem(Record):
    system: SystemRecord
    scores: ScoresRecord
    rtfx: float | None = None
    decoding: DecodingRecord


class ComparisonRecord(ManifestRecord):
    """comparison.json: several systems on one split, and every pair of them."""

    reports: list[str]
    guard_reports: list[str] = []  # reports on regression sets
    transcripts: bool = False
    price_per_hour: float | None = None
    commands: list[str] = []
    files: dict[str, dict[str, int | str]] = {}  # page and tables by name; empty: written by an older version
    systems: list[ComparedSystem]
    dataset: ScoredSplit
    normaliser: str
    scoring: int | None = None
    lead: str = "wer"
    bootstrap: Measured = {}
    pairs: list[Measured]
    combined: list[Measured] = []
    contests: list[Measured] | None = None  # None: written by an older version
    breakdown: Measured = {}
    hallucination: list[Measured] = []
    terms: list[Measured] = []  # recall of hotwords
    guards: list[Measured] = []  # regression sets
    verdict: str
    words: list[Measured] = []
    changed_words: list[Measured] = []


class AmplificationRecord(Record):
    """How strong the base is along the first directions of a change; Frobenius norms, see model.spectra."""

    directions: int
    factor: float | None  # norm of the change over that of the base; None: the base has nothing along them
    base: float
    base_own: float
    base_random: float


class MatrixRecord(Record):
    """The change that training made to one matrix."""

    matrix: str
    half: str  # "encoder" or "decoder"; empty: outside the blocks
    layer: int
    projection: str
    shape: tuple[int, int]
    rank: int
    frobenius: float
    relative: float
    moved: float  # norm of the whole change, DoRA's magnitudes included, over that of the matrix
    spectral: float
    effective_rank: float
    stable_rank: float
    singular_values: list[float]
    energy_held: list[float]  # share of the squared norm in the best update of rank 1, 2, 3 and so on
    amplification: list[AmplificationRecord]


class AnalysedRun(Record):
    name: str
    weights: str
    kind: str  # "adapter" or "full"
    method: str | None
    seed: int | None
    trainable_parameters: int | None
    unchanged: list[str]
    energy_outside: float  # share of the squared norm of the change that lies outside these matrices
    matrices: list[MatrixRecord]


class SharedDirections(Record):
    """How much of their first directions two runs share."""

    directions: int
    phi: float
    by_chance: float


class RunPair(Record):
    """Two runs: phi(i, j) of arXiv 2106.09685, section 7.2, as a mean over matrices."""

    a: str
    b: str
    of: str  # "update" or "a", the A matrix of LoRA
    matrices: int
    phi: list[list[float | None]]
    shown: list[SharedDirections]
    by_matrix: list[Measured]


class AnalysisRecord(ManifestRecord):
    """analysis.json: what training changed in the weights of some runs."""

    base: str
    runs: list[AnalysedRun]
    pairs: list[RunPair]
