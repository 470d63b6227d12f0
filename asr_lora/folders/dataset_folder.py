"""The folder that `prepare` makes, and the label report in it."""

from collections.abc import Iterable
from pathlib import Path

from asr_lora.errors import ConfigError, DataError
from asr_lora.folders.digests import fingerprint, has_bytes
from asr_lora.folders.manifests import Folder, ManifestRecord, Record
from asr_lora.folders.tabular import Column, Tabular

SPLITS = ("train", "dev", "test")
FROM_TRAIN = "Take it from train by speaker, with the same prepare and --held-out-from-train"
WITHOUT = {  # split that a dataset may lack -> what cannot be done then, and how to get it
    "dev": f"Without it there is no training, export or promotion, which choose and check by dev. {FROM_TRAIN}",
    "test": f"Without it nothing can be evaluated on test. {FROM_TRAIN}",
}


class SourceRecord(Record):
    """One source of a dataset's speech."""

    name: str
    digest: str = ""
    family: int = 1  # a release and its deltas are one family, which prefixes ids where there are several
    weight: float = 1.0  # share of the source that is used


class SplitRecord(Record):
    """How much speech a split or subset holds, and its file."""

    utterances: int
    hours: float
    speakers: int = 0
    seconds_by_gender: dict[str, float] = {}
    seconds_of_most_heard_speaker: float = 0.0
    characters: int = 0
    characters_per_second: float = 0.0
    bytes: int
    sha256: str


class SubsetRecord(SplitRecord):
    """A subset of train; its file is a list of ids."""

    seed: int | None = None  # None: the ids were given
    missing: int = 0  # given ids that train does not have
    missing_ids: list[str] = []  # the first of them


class Overlap(Record):
    """How much two splits share, in numbers of speakers, sentences and recordings."""

    speakers: int = 0
    sentences: int = 0
    clips: int = 0


class DatasetRecord(ManifestRecord):
    """The sources, settings and contents of a prepared dataset."""

    speech_fingerprint: str | None = None  # digest of all that the splits were made from; subsets do not change it
    language: str
    sources: list[SourceRecord] = []
    text: list[str] = []  # rules that were applied to transcripts
    splits_from: str = "release"
    marks_kept: bool = False
    drop: list[str] = []  # rules of the label check whose findings were left out of train
    speech_seed: int | None = None  # None: no seed decided which utterances are in a split
    notes: list[str] = []
    splits: dict[str, SplitRecord]
    subsets: dict[str, SubsetRecord]
    subsets_left_out: dict[str, float] = {}  # hours that train could fill
    speaker_cap_seconds: float | None = None
    dropped: dict[str, int] = {}  # utterances by reason
    shared_between_splits: dict[str, Overlap] = {}
    shared_with_others: dict[str, dict[str, Overlap]] = {}


class DatasetFolder(Folder[DatasetRecord], Tabular):
    """A prepared dataset: a parquet file for each split, and lists of ids for the subsets of train."""

    kind = "dataset"
    record = DatasetRecord
    manifest_name = "dataset.json"
    remedy = "Make it with: asr-lora prepare SOURCE --language LANGUAGE --out FOLDER"
    schema = 2  # 2: rows hold measurements of the audio
    columns = (
        Column("name", "Split or subset"),
        Column("utterances", "Utterances", ",", "facts.utterances"),
        Column("hours", "Hours", ".3f", "facts.hours"),
        Column("speakers", "Speakers", ",", "facts.speakers"),
        Column("characters_per_second", "Characters per second", ".1f", "facts.characters_per_second"),
    )

    def entries(self) -> Iterable[object]:
        record = self.read()
        return [{"name": name, "facts": facts} for name, facts in [*record.splits.items(), *record.subsets.items()]]

    def caption(self) -> str:
        record = self.read()
        hours = ", ".join(f"{split.hours:.2f} h of {name}" for name, split in record.splits.items())
        return f"speech in {record.language}: {hours}"

    def split(self, name: str) -> Path:
        return self.root / f"{name}.parquet"

    def splits_there(self, *, draft: bool = False) -> tuple[str, ...]:
        """Return the splits that have a file: all, or without dev or test where the source has none."""
        return tuple(split for split in SPLITS if (self.draft(split) if draft else self.split(split)).is_file())

    def subset(self, name: str) -> Path:
        return self.root / "subsets" / f"{name}.txt"

    def missing_ids(self, name: str) -> Path:
        """Ids of a given list that train lacks; absent when train has them all."""
        return self.root / "subsets" / f"{name}.missing.txt"

    @property
    def dropped(self) -> Path:
        return self.root / "dropped.jsonl"

    @property
    def label_report(self) -> "LabelReportFolder":
        return LabelReportFolder(self.root / "doctor")

    @property
    def leaks(self) -> Path:
        """Utterances that share speaker, sentence or sound with another split or dataset."""
        return self.root / "leaks.jsonl"

    @property
    def work(self) -> Path:
        """The work folder of an unfinished `prepare`, from which it continues."""
        return self.root / ".prepare"

    @property
    def lock(self) -> Path:
        return self.work / "lock"

    @property
    def stamp(self) -> Path:
        """The fingerprint of the dataset that the work folder is for."""
        return self.work / "stamp"

    @property
    def plan(self) -> Path:
        return self.work / "plan.sqlite"

    @property
    def scratch(self) -> Path:
        return self.work / "scratch.sqlite"

    def part(self, number: int) -> Path:
        return self.work / f"part-{number:06}.parquet"

    def draft(self, split: str) -> Path:
        """A split that is being joined from the parts."""
        return self.work / f"{split}.parquet"

    @property
    def ours(self) -> bool:
        """Whether the folder holds only a dataset, complete or interrupted."""
        names = {path.name for path in self.root.iterdir()} if self.root.is_dir() else set()
        known = {self.split(split).name for split in SPLITS} | {"subsets", self.manifest_name}
        known |= {self.dropped.name, self.leaks.name, self.label_report.root.name}
        return all(name in known or name.startswith(".") for name in names)

    def whole(self, record: DatasetRecord) -> bool:
        subsets = all(has_bytes(self.subset(name), subset.bytes) for name, subset in record.subsets.items())
        return subsets and self._has_splits(record)

    def _has_splits(self, record: DatasetRecord) -> bool:
        listed = self.dropped.is_file() and self.leaks.is_file()
        return listed and all(has_bytes(self.split(name), split.bytes) for name, split in record.splits.items())

    def has_speech(self, stamp: str, seed: int) -> bool:
        """Whether the splits are complete and made from the inputs that `stamp` identifies; subsets do not count.

        Args:
            seed: the seed that they must have been made with, where a seed decided anything.
        """
        if not self.complete:
            return False
        body = self.read_json()
        made = body.get("schema_version"), body.get("speech_fingerprint"), body.get("speech_seed")
        same = made in ((self.schema, stamp, seed), (self.schema, stamp, None))
        return same and self._has_splits(self.parse(body))

    def splits_digest(self) -> str:
        """A digest of all splits, which no subset changes."""
        return fingerprint({name: split.sha256 for name, split in self.read().splits.items()})

    def split_file(self, name: str) -> Path:
        """Return the parquet file of a split, with its size checked against the manifest.

        Raises:
            DataError: the dataset is incomplete, or has no such split.
        """
        splits = self.read().splits
        path = self.split(name)
        if name not in splits:
            raise DataError(
                f"{self.root} has no split {name!r}; it has {', '.join(splits)}. {WITHOUT.get(name, '')}".strip()
            )
        if not has_bytes(path, splits[name].bytes):
            raise DataError(f"{path} is missing or cut short. {self.remedy}")
        return path

    def subset_ids(self, name: str) -> list[str]:
        """Return the ids of a low-data subset of train.

        Raises:
            ConfigError: there is no such subset.
        """
        subsets = self.read().subsets
        if name not in subsets or not self.subset(name).is_file():
            known = ["all", *subsets]
            raise ConfigError(f"data.subset: {self.root} has no subset {name!r}; it has {', '.join(known)}")
        listed = self.subset(name).read_bytes().decode("utf-8").split("\n")  # other line ends may stand within an id
        return [id_ for id_ in listed if id_]


class LabelReportRecord(ManifestRecord):
    """How many labels of a dataset are suspicious, by rule."""

    utterances: int
    suspicious: int
    leaked: int = 0  # utterances of dev and test that share something with another split
    counts: dict[str, int]  # utterances by rule
    examples: dict[str, dict[str, str]]  # the first finding of each rule, see labels.rules.Finding
    left_out: dict[str, int] = {}  # utterances that `prepare` left out, by reason
    without: list[str] = []  # rules that were off
    dataset_digest: str | None = None
    model: str | None = None  # None: no model scored the labels


class LabelReportFolder(Folder[LabelReportRecord], Tabular):
    """The label report of a dataset; `root` lies in the dataset's folder."""

    kind = "diagnosis"
    record = LabelReportRecord
    manifest_name = "doctor.json"
    remedy = "Make it with: asr-lora check DATASET"
    columns = (
        Column("rule", "Rule"),
        Column("utterances", "Utterances", ","),
        Column("example", "For example", source="example.id"),
        Column("detail", "", source="example.detail"),
    )

    def entries(self) -> Iterable[object]:
        record = self.read()
        return [{"rule": r, "utterances": n, "example": record.examples[r]} for r, n in record.counts.items()]

    def caption(self) -> str:
        record = self.read()
        return f"{record.suspicious:,} of {record.utterances:,} utterances have suspicious labels"

    @property
    def findings(self) -> Path:
        return self.root / "findings.jsonl"

    @property
    def page(self) -> Path:
        return self.root / "index.html"

    def model_scores(self, stamp: str) -> Path:
        """Model scores of each utterance, written while the model works, so that an interrupted check continues."""
        return self.root / f"opinions-{stamp}.jsonl"

    @property
    def all_model_scores(self) -> list[Path]:
        return sorted(self.root.glob("opinions-*.jsonl"))
