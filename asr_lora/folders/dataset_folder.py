"""The folder that `prepare` makes, and within it what the label doctor found."""

from pathlib import Path
from typing import Any

from asr_lora.errors import ConfigError, DataError
from asr_lora.folders.digests import fingerprint, has_bytes
from asr_lora.folders.manifests import Folder

SPLITS = ("train", "dev", "test")


class DatasetFolder(Folder[dict[str, Any]]):
    kind = "dataset"
    manifest_name = "dataset.json"
    remedy = "Make it with: asr-lora prepare SOURCE --language LANGUAGE --out FOLDER"
    schema = 2  # 2: rows say what decoding showed

    def split(self, name: str) -> Path:
        return self.root / f"{name}.parquet"

    def subset(self, name: str) -> Path:
        return self.root / "subsets" / f"{name}.txt"

    def missing_ids(self, name: str) -> Path:
        """Ids of a given list that train lacks; not there when it has them all."""
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
        """What an unfinished `prepare` keeps, so that it goes on where it stopped."""
        return self.root / ".prepare"

    @property
    def lock(self) -> Path:
        return self.work / "lock"

    @property
    def stamp(self) -> Path:
        """The fingerprint of what the work folder is for."""
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
        """Whether it holds nothing but a dataset, complete or interrupted."""
        names = {path.name for path in self.root.iterdir()} if self.root.is_dir() else set()
        known = {self.split(split).name for split in SPLITS} | {"subsets", self.manifest_name}
        known |= {self.dropped.name, self.leaks.name, self.label_report.root.name}
        return all(name in known or name.startswith(".") for name in names)

    def whole(self, body: dict[str, Any]) -> bool:
        subsets = {self.subset(name): facts for name, facts in body["subsets"].items()}
        return self._has_splits(body) and all(has_bytes(path, facts["bytes"]) for path, facts in subsets.items())

    def _has_splits(self, body: dict[str, Any]) -> bool:
        splits = {self.split(name): facts for name, facts in body["splits"].items()}
        listed = self.dropped.is_file() and self.leaks.is_file()
        return listed and all(has_bytes(path, facts["bytes"]) for path, facts in splits.items())

    def has_speech(self, stamp: str, seed: int) -> bool:
        """Whether the splits are whole, whatever the subsets, and made of what `stamp` stands for.

        Args:
            seed: must be the one that they were made with, where a seed decided anything.
        """
        if not self.complete:
            return False
        body = self.read_json()
        made = body.get("schema_version"), body.get("speech_fingerprint"), body.get("speech_seed")
        return made in ((self.schema, stamp, seed), (self.schema, stamp, None)) and self._has_splits(body)

    def splits_digest(self) -> str:
        """A digest of all splits, which no subset changes."""
        return fingerprint({name: facts["sha256"] for name, facts in self.read()["splits"].items()})

    def split_file(self, name: str) -> Path:
        """Return the parquet file of a split, with its size checked against the manifest.

        Raises:
            DataError: the dataset is incomplete, or has no such split.
        """
        splits = self.read()["splits"]
        path = self.split(name)
        if name not in splits:
            raise DataError(f"{self.root} has no split {name!r}; it has {', '.join(splits)}")
        if not has_bytes(path, splits[name]["bytes"]):
            raise DataError(f"{path} is missing or cut short. {self.remedy}")
        return path

    def subset_ids(self, name: str) -> list[str]:
        """Return the ids of a low-data subset of train.

        Raises:
            ConfigError: there is no such subset.
        """
        if name not in self.read()["subsets"] or not self.subset(name).is_file():
            known = ["all", *self.read()["subsets"]]
            raise ConfigError(f"data.subset: {self.root} has no subset {name!r}; it has {', '.join(known)}")
        return self.subset(name).read_text(encoding="utf-8").splitlines()


class LabelReportFolder(Folder[dict[str, Any]]):
    """What is suspicious about a dataset's labels; `root` lies within the dataset's."""

    kind = "diagnosis"
    manifest_name = "doctor.json"
    remedy = "Make it with: asr-lora check DATASET"

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
