"""Apply the label rules to a prepared dataset, and write the label report in its folder. No model is needed."""

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
from asr_lora.folders.dataset_folder import DatasetFolder, LabelReportFolder, LabelReportRecord
from asr_lora.labels.rules import (
    LEAKED,
    MODEL_RULES,
    NO_LABEL,
    RULES,
    AudioMeasurements,
    Finding,
    Label,
    Norms,
    apply_rules,
    count_reread_sentences,
    measure,
    norms_of,
)
from asr_lora.labels.scripts import script_of, scripts_of

MEASURED = ("seconds", "peak", "loudness_db", "clipped", "digest")  # columns that prepare writes
ROWS_AT_ONCE = 128  # rows read, and decoded where the columns are missing, together
MAX_AT_PREPARE = 200_000  # utterances of which prepare checks the labels: about 250 h, in less than a gigabyte


@dataclass(frozen=True)
class LabelFacts:
    """Facts about all labels of a dataset that are no fault of a single label."""

    norms: Norms | None
    scripts_expected: list[str]
    texts_by_script: dict[str, int]  # script of most letters -> texts, most texts first
    sentences_of_several_readings: int


@dataclass(frozen=True)
class LabelReport:
    """The labels of a dataset and the findings about them."""

    labels: list[Label]
    findings: list[Finding]  # of the rules that were on
    left_out: dict[str, int]  # reason -> utterances that prepare left out
    without: tuple[str, ...]  # rules that were off
    facts: LabelFacts

    @property
    def counts(self) -> dict[str, int]:
        """Rule -> number of findings, in the order of RULES; rules that found nothing are not in it."""
        counts = Counter(finding.rule for finding in self.findings)
        return {rule: counts[rule] for rule in RULES if counts[rule]}

    @property
    def suspicious(self) -> int:
        """Number of utterances whose label has a finding."""
        return len({(finding.split, finding.id) for finding in self.findings if finding.rule not in NO_LABEL})

    @property
    def leaked(self) -> int:
        """Number of utterances of dev and test that share something with another split."""
        return len({(finding.split, finding.id) for finding in self.findings if finding.rule in LEAKED.values()})

    def examples(self) -> dict[str, Finding]:
        """Rule -> its first finding."""
        return {finding.rule: finding for finding in reversed(self.findings)}


def make_label_report(dataset: DatasetFolder, language: str, *, without: Collection[str] = ()) -> LabelReport:
    """Apply the rules to all splits of a dataset. Its manifest may still be missing.

    Args:
        dataset: a folder with splits, dropped.jsonl and leaks.jsonl.
        language: code of the language.
        without: rules that are off.

    Raises:
        ConfigError: `without` names an unknown rule.
        DataError: a split or a list cannot be read.
    """
    require_rules(without)
    labels = [label for split in dataset.splits_there() for label in _labels(dataset, split)]
    scripts = scripts_of(language, (label.text for label in labels))
    dropped = read_jsonl(dataset.dropped) if dataset.dropped.is_file() else []
    findings = [
        *(Finding("left-out", str(row["split"]), str(row["id"]), str(row["reason"])) for row in dropped),
        *apply_rules(labels, scripts),
        *_leaks(dataset, labels),
    ]
    return LabelReport(
        labels=labels,
        findings=[finding for finding in findings if finding.rule not in without],
        left_out=dict(Counter(str(row["reason"]) for row in dropped).most_common()),
        without=tuple(rule for rule in RULES if rule in without),
        facts=_facts(labels, scripts),
    )


def _leaks(dataset: DatasetFolder, labels: Iterable[Label]) -> Iterator[Finding]:
    """Yield what dev and test share with earlier splits, from leaks.jsonl: the first leak of each kind."""
    if not dataset.leaks.is_file():
        raise DataError(f"{dataset.leaks} is missing. {dataset.remedy}")
    leaks: dict[tuple[str, str], dict[str, str]] = {}
    for row in read_jsonl(dataset.leaks):
        if "of" not in row:  # else the leak is to another dataset
            of_utterance = leaks.setdefault((row["split"], row["id"]), {})
            of_utterance.setdefault(LEAKED[row["shares"]], f"also in {row['with']}: {row['example']}")
    for label in labels:
        for rule, detail in leaks.get((label.split, label.id), {}).items():
            yield label.finding(rule, detail)


def report_new_splits(dataset: DatasetFolder, language: str) -> None:
    """Replace the label report of a dataset whose splits were just written.

    The rules hold all labels in memory, so a very large dataset gets none: `asr-lora check` writes it.
    """
    folder = dataset.label_report
    for path in (folder.manifest, folder.page, *folder.all_model_scores):
        path.unlink(missing_ok=True)
    if sum(pq.read_metadata(dataset.split(split)).num_rows for split in dataset.splits_there()) <= MAX_AT_PREPARE:
        write_label_report(folder, make_label_report(dataset, language))


def write_label_report(folder: LabelReportFolder, report: LabelReport, **made_from: str) -> None:
    """Write findings.jsonl, then the manifest with the counts.

    Args:
        made_from: further keys of the manifest, such as model and dataset_digest.
    """
    write_jsonl(folder.findings, [asdict(finding) for finding in report.findings])
    body = {
        "utterances": len(report.labels),
        "suspicious": report.suspicious,
        "leaked": report.leaked,
        "counts": report.counts,
        "examples": {rule: asdict(example) for rule, example in report.examples().items()},
        "left_out": report.left_out,
        "without": list(report.without),
        **asdict(report.facts),
        **made_from,
    }
    folder.write(LabelReportRecord.model_validate(body))


def require_rules(names: Iterable[str], option: str = "--without", known: Collection[str] = tuple(RULES)) -> None:
    """Check that all names are names of known rules.

    Raises:
        ConfigError: one is not; the message names the nearest rule.
    """
    for name in names:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f", did you mean {near[0]}?" if near else "."
            raise ConfigError(f"{option}: there is no rule {name!r}{hint} The rules are {', '.join(known)}")


def require_droppable(names: Collection[str]) -> tuple[str, ...]:
    """Check that all rules can find something in train without a model, and return them in the order of RULES.

    Raises:
        ConfigError: one of them is unknown, needs a model, or finds nothing in train.
    """
    droppable = [rule for rule in RULES if rule not in NO_LABEL and rule not in MODEL_RULES]
    if unusable := [name for name in names if name in RULES and name not in droppable]:
        why = "needs a model" if unusable[0] in MODEL_RULES else "finds no fault of a label in train"
        raise ConfigError(f"--drop {unusable[0]}: this rule {why}. The rules for --drop are {', '.join(droppable)}")
    require_rules(names, "--drop", droppable)
    return tuple(rule for rule in RULES if rule in names)


def train_findings(dataset: DatasetFolder, language: str, rules: Collection[str]) -> dict[str, str]:
    """Apply rules to the drafts of the splits. Return id -> first rule that finds something, for train only."""
    labels = [label for split in dataset.splits_there(draft=True) for label in _labels(dataset, split, draft=True)]
    first: dict[str, str] = {}
    for finding in apply_rules(labels, scripts_of(language, (label.text for label in labels))):
        if finding.split == "train" and finding.rule in rules:
            first.setdefault(finding.id, finding.rule)
    return first


def _facts(labels: Sequence[Label], scripts: frozenset[str]) -> LabelFacts:
    by_script: Counter[str] = Counter()
    for label in labels:
        if letters := Counter(script for char in label.text if (script := script_of(char))):
            by_script[letters.most_common(1)[0][0]] += 1
    return LabelFacts(
        norms=norms_of(labels),
        scripts_expected=sorted(scripts),
        texts_by_script=dict(by_script.most_common()),
        sentences_of_several_readings=count_reread_sentences(labels),
    )


def _labels(dataset: DatasetFolder, split: str, *, draft: bool = False) -> Iterator[Label]:
    path = dataset.draft(split) if draft else dataset.split(split)
    try:
        with pq.ParquetFile(path) as file:
            measured = set(MEASURED) <= set(file.schema_arrow.names)
            columns = ["id", "text", "speaker", *(MEASURED if measured else ["audio"])]
            for batch in file.iter_batches(ROWS_AT_ONCE, columns=columns):
                rows = batch.to_pylist()
                for row, sound in zip(rows, _measurements(rows, measured), strict=True):
                    yield Label(row["id"], split, row["text"] or "", row["speaker"] or "", sound)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path} cannot be read ({error}). {dataset.remedy}") from error


def _measurements(rows: list[dict[str, Any]], measured: bool) -> list[AudioMeasurements | None]:
    """Return the measurements that prepare wrote; those of a dataset without them are made here."""
    if measured:
        return [AudioMeasurements(**{name: row[name] for name in MEASURED}) for row in rows]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(_measure_flac, (row["audio"]["bytes"] for row in rows)))


def _measure_flac(flac: bytes | None) -> AudioMeasurements | None:
    try:
        return measure(decode(flac or b""), SAMPLE_RATE)
    except AudioError:
        return None
