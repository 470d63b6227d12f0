"""A prepared dataset -> findings about its labels, on disk beside it. Without a model."""

import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from asr_lora.audio.decode import SAMPLE_RATE, decode
from asr_lora.errors import AudioError, ConfigError, DataError
from asr_lora.folders.atomic import read_jsonl, write_jsonl
from asr_lora.folders.dataset_folder import SPLITS, DatasetFolder, LabelReportFolder, LabelReportRecord
from asr_lora.labels.rules import (
    LEAKED,
    MODEL_RULES,
    NO_LABEL,
    RULES,
    Finding,
    Label,
    Sound,
    find,
    finding,
    measure,
    norms_of,
    sentences_of_many,
)
from asr_lora.labels.scripts import script_of, scripts_of

MEASURED = ("seconds", "peak", "loudness_db", "clipped", "digest")  # columns of what prepare measured
ROWS_AT_ONCE = 128  # decoded together, where it did not
MOST_FRESH = 200_000  # utterances that `prepare` checks the labels of: some 250 h, within a gigabyte


@dataclass(frozen=True)
class LabelReport:
    """What the rules found in a dataset."""

    labels: list[Label]
    findings: list[Finding]  # of the rules that were on
    left_out: dict[str, int]  # by prepare: reason -> how many
    without: tuple[str, ...]  # rules that were off
    facts: dict[str, Any]

    @property
    def counts(self) -> dict[str, int]:
        """Rule -> how many utterances, in the order of the rules; those that found something."""
        counts = Counter(found.rule for found in self.findings)
        return {rule: counts[rule] for rule in RULES if counts[rule]}

    @property
    def suspicious(self) -> int:
        """How many utterances of the splits have a label that something was found in."""
        return len({(found.split, found.id) for found in self.findings if found.rule not in NO_LABEL})

    @property
    def leaked(self) -> int:
        """How many utterances of dev and test share something with another split."""
        return len({(found.split, found.id) for found in self.findings if found.rule in LEAKED.values()})

    def examples(self) -> dict[str, Finding]:
        """Rule -> one finding."""
        return {found.rule: found for found in reversed(self.findings)}


def report_labels(dataset: DatasetFolder, language: str, *, without: Collection[str] = ()) -> LabelReport:
    """Apply the rules to a dataset's splits, whose manifest need not be written yet.

    Args:
        dataset: its splits, and the lists of what was left out and of what leaks.
        language: its code.
        without: names of rules that are off.

    Raises:
        ConfigError: no such rule.
        DataError: a split or a list cannot be read.
    """
    require_rules(without)
    labels = [label for split in SPLITS for label in _labels(dataset, split)]
    scripts = scripts_of(language, (label.text for label in labels))
    dropped = read_jsonl(dataset.dropped) if dataset.dropped.is_file() else []
    found = [
        *(Finding("left-out", str(row["split"]), str(row["id"]), str(row["reason"])) for row in dropped),
        *find(labels, scripts),
        *_leaks(dataset, labels),
    ]
    return LabelReport(
        labels=labels,
        findings=[each for each in found if each.rule not in without],
        left_out=dict(Counter(str(row["reason"]) for row in dropped).most_common()),
        without=tuple(rule for rule in RULES if rule in without),
        facts=_facts(labels, scripts),
    )


def _leaks(dataset: DatasetFolder, labels: Iterable[Label]) -> Iterator[Finding]:
    """What dev and test share with the splits before them, as `prepare` has listed it; of each kind the first."""
    if not dataset.leaks.is_file():
        raise DataError(f"{dataset.leaks} is missing. {dataset.remedy}")
    leaks: dict[tuple[str, str], dict[str, str]] = {}
    for row in read_jsonl(dataset.leaks):
        if "of" not in row:  # else it is in another dataset
            where = leaks.setdefault((row["split"], row["id"]), {})
            where.setdefault(LEAKED[row["shares"]], f"also in {row['with']}, {row['example']}")
    for label in labels:
        for rule, detail in leaks.get((label.split, label.id), {}).items():
            yield finding(rule, label, detail)


def report_new_splits(dataset: DatasetFolder, language: str) -> None:
    """Write the findings about splits that were just written, and remove what was found in those before.

    Rules see all labels at once, so those of a very large dataset are left to `asr-lora check`.
    """
    folder = dataset.label_report
    for path in (folder.manifest, folder.page, *folder.all_model_scores):
        path.unlink(missing_ok=True)
    if sum(pq.read_metadata(dataset.split(split)).num_rows for split in SPLITS) <= MOST_FRESH:
        write_label_report(folder, report_labels(dataset, language))


def write_label_report(folder: LabelReportFolder, label_report: LabelReport, **more: object) -> None:
    """Write findings.jsonl, then doctor.json with the counts and `more` facts."""
    write_jsonl(folder.findings, [asdict(found) for found in label_report.findings])
    body = {
        "utterances": len(label_report.labels),
        "suspicious": label_report.suspicious,
        "leaked": label_report.leaked,
        "counts": label_report.counts,
        "examples": {rule: asdict(example) for rule, example in label_report.examples().items()},
        "left_out": label_report.left_out,
        "without": list(label_report.without),
        **label_report.facts,
        **more,
    }
    folder.write(LabelReportRecord.model_validate(body))


def require_rules(names: Iterable[str], option: str = "--without", known: Collection[str] = tuple(RULES)) -> None:
    """Check that there are such rules.

    Raises:
        ConfigError: there are not.
    """
    for name in names:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            meant = f"did you mean {near[0]}? There" if near else "there"
            raise ConfigError(f"{option}: no rule {name!r}; {meant} are {', '.join(known)}")


def require_droppable(names: Collection[str]) -> tuple[str, ...]:
    """Check that there are such rules, and that they find something in train without a model; order them.

    Raises:
        ConfigError: there are not, or they do not.
    """
    if held_out := [name for name in names if name in NO_LABEL or name in MODEL_RULES]:
        raise ConfigError(f"--drop {held_out[0]}: this rule finds nothing in train by itself ({RULES[held_out[0]]})")
    require_rules(names, "--drop", [rule for rule in RULES if rule not in NO_LABEL and rule not in MODEL_RULES])
    return tuple(rule for rule in RULES if rule in names)


def train_findings(dataset: DatasetFolder, language: str, rules: Collection[str]) -> dict[str, str]:
    """What rules find in train while its splits are drafts: id -> the first of the rules that finds it."""
    labels = [label for split in SPLITS for label in _labels(dataset, split, draft=True)]
    found = find(labels, scripts_of(language, (label.text for label in labels)))
    first: dict[str, str] = {}
    for each in found:
        if each.split == "train" and each.rule in rules:
            first.setdefault(each.id, each.rule)
    return first


def _facts(labels: Sequence[Label], scripts: frozenset[str]) -> dict[str, Any]:
    """What is no fault of any one utterance, and still worth knowing."""
    norms = norms_of(labels)
    written = Counter(
        Counter(script for char in label.text if (script := script_of(char))).most_common(1)[0][0]
        for label in labels
        if any(script_of(char) for char in label.text)
    )
    return {
        "norms": asdict(norms) if norms else None,
        "scripts_expected": sorted(scripts),
        "texts_by_script": dict(written.most_common()),
        "sentences_of_several_readings": sentences_of_many(labels),
    }


def _labels(dataset: DatasetFolder, split: str, *, draft: bool = False) -> Iterator[Label]:
    path = dataset.draft(split) if draft else dataset.split(split)
    wanted = ["id", "text", "speaker"]
    try:
        with pq.ParquetFile(path) as file:
            measured = set(MEASURED) <= set(file.schema_arrow.names)
            for rows in file.iter_batches(ROWS_AT_ONCE, columns=[*wanted, *(MEASURED if measured else ["audio"])]):
                listed = rows.to_pylist()
                for row, sound in zip(listed, _sounds(listed, measured), strict=True):
                    yield Label(row["id"], split, row["text"] or "", row["speaker"] or "", sound)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path} cannot be read ({error}). {dataset.remedy}") from error


def _sounds(rows: list[dict[str, Any]], measured: bool) -> list[Sound | None]:
    if measured:
        return [Sound(**{name: row[name] for name in MEASURED}) for row in rows]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(_measured, (row["audio"]["bytes"] for row in rows)))


def _measured(flac: bytes) -> Sound | None:
    try:
        return measure(decode(flac or b""), SAMPLE_RATE)
    except AudioError:
        return None
