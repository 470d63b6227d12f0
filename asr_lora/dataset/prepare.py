"""Prepare speech sources: write a dataset folder of parquet splits and nested low-data subsets.

The rows of the sources become a plan on disk. The recordings are decoded in the order in which their source gives them
and written in parts, and the parts are joined. So memory stays flat, and a run that was killed continues.
"""

import os
import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

import pyarrow.parquet as pq

from asr_lora.dataset.leaks import OtherDataset, list_leaks
from asr_lora.dataset.parts import MAX_SECONDS, MIN_SECONDS, PART_ROWS, decode_all, join_parts, leave_out
from asr_lora.dataset.plan import SelectionRules, build_plan
from asr_lora.dataset.plan_database import PlanDatabase
from asr_lora.dataset.subset_files import (
    SubsetRequest,
    choose_subsets,
    remove_subsets,
    replace_subsets,
    write_subsets,
)
from asr_lora.dataset.subsets import DEFAULT_SUBSETS, read_id_list, require_cap, subset_seconds
from asr_lora.dataset.summary import summarise
from asr_lora.errors import ConfigError, DataError
from asr_lora.folders.atomic import write_jsonl, write_text
from asr_lora.folders.dataset_folder import SPLITS, WITHOUT, DatasetFolder, DatasetRecord, SourceRecord, SplitRecord
from asr_lora.folders.digests import file_facts, fingerprint
from asr_lora.labels.label_report import report_new_splits, require_droppable, train_findings
from asr_lora.language import spoken_language
from asr_lora.sources.interface import WeightedSource
from asr_lora.sources.open import open_sources
from asr_lora.system.locks import BUSY, alone
from asr_lora.text import TextCleaning

PLAN_VERSION = 4  # an unfinished run of another version starts anew


def prepare(
    source: Path | str | Sequence[Path | str],
    *,
    language: str,
    out: Path,
    locale: str | None = None,
    subsets: Sequence[str] = DEFAULT_SUBSETS,
    seed: int = 0,
    speaker_cap: float | None = None,
    id_lists: Sequence[Path] = (),
    deltas: Sequence[Path] = (),
    splits_from: str = "release",
    against: Sequence[Path | str] = (),
    text: TextCleaning | None = None,
    keep_marks: bool = False,
    keep_shared_sentences: bool = False,
    held_out_from_train: bool = False,
    text_column: str | None = None,
    drop: Sequence[str] = (),
) -> DatasetFolder:
    """Decode train, dev and test of one or several sources into `out`. Nothing is done where the dataset is up to date.

    Unusable utterances are left out, counted by reason in dataset.json and listed in dropped.jsonl. Texts stay as they
    are unless `text` changes them. An interrupted run continues. Where only the subsets differ, only they are replaced.

    Args:
        source: a Common Voice release (folder or archive), a manifest, a Kaldi folder or whatever docs/guides/data.md
            lists; or several of these, each perhaps with a weight as in "talks=0.5".
        language: name or code such as "Dutch" or "nl"; a language that Whisper does not have by its code.
        locale: folder of the language in a release, where its name is not the code, such as "zh-CN".
        subsets: lengths of nested subsets, such as "1h", or "1h@2" for another seed; those that train cannot fill are
            left out.
        seed: seed of all random choices: subsets, splits made by prepare, and the share that a weight takes.
        speaker_cap: most seconds of one speaker in a subset.
        id_lists: text files of ids, one a line; each becomes the subset that it is named for.
        deltas: delta releases over the only source; they go to train, unless their speaker or sentence is held out.
        splits_from: "release", or "validated" to make splits of all validated clips of a release.
        against: prepared datasets or sources; what the dataset shares with them is counted and listed.
        text: changes of the texts.
        keep_marks: whether marks such as `[disfluency]` stay in the texts of Spontaneous Speech.
        keep_shared_sentences: whether train keeps sentences of dev and test, where prepare makes the splits.
        held_out_from_train: whether dev and test are taken from train, by speaker, where the sources lack them.
        text_column: column of the text in a table, where it has an unusual name.
        drop: rules of `asr_lora.labels.rules`; train is left without the utterances in which they find something.

    Raises:
        ConfigError: the language or a rule is unknown, a subset is no length, an id list cannot be read, `out` holds
            something else, or another prepare works there.
        DataError: a source cannot be read, or no utterance of a split can be used.
    """
    code = spoken_language(language)
    chosen = require_droppable(drop)
    rules = SelectionRules(text or TextCleaning(), keep_shared_sentences, held_out_from_train, seed, chosen, code)
    for name in subsets:
        subset_seconds(name)
    require_cap(speaker_cap)  # now, and not after hours of decoding
    request = SubsetRequest(tuple(subsets), seed, speaker_cap, tuple(read_id_list(path) for path in id_lists))
    sources = open_sources(
        [source] if isinstance(source, str | Path) else source,
        locale=locale or code, deltas=deltas, splits_from=splits_from, keep_marks=keep_marks, text_column=text_column,
    )  # fmt: skip
    others = [OtherDataset.open(name, locale or code) for name in against]
    records = [_source_record(each) for each in sources]
    digests = [each.to_json() for each in records], [other.digest for other in others]
    speech = fingerprint(*digests, MIN_SECONDS, MAX_SECONDS, PART_ROWS, code, rules.asked())
    stamp = fingerprint(speech, asdict(request))
    record = DatasetRecord(
        fingerprint=stamp, speech_fingerprint=speech, language=code, sources=records, text=rules.text.chosen(),
        splits_from=splits_from, marks_kept=keep_marks, drop=list(rules.drop), splits={}, subsets={},
    )  # fmt: skip
    folder = DatasetFolder(out)
    if folder.reusable(stamp):
        return folder
    with _alone(folder):
        _require_ours(folder, code)
        if not folder.reusable(stamp):  # another process may have made it in the meantime
            _make(folder, sources, others, rules, request, record)
    return folder


def _source_record(each: WeightedSource) -> SourceRecord:
    return SourceRecord(name=each.source.name, digest=each.source.digest(), family=each.corpus + 1, weight=each.weight)


def _make(
    folder: DatasetFolder,
    sources: Sequence[WeightedSource],
    others: Sequence[OtherDataset],
    rules: SelectionRules,
    request: SubsetRequest,
    record: DatasetRecord,
) -> None:
    """Replace the subsets where the splits are up to date; else decode what is not decoded yet."""
    speech = str(record.speech_fingerprint)
    if folder.has_speech(speech, rules.seed):
        replace_subsets(folder, str(record.fingerprint), request)
        return
    with closing(_open_plan(folder, sources, rules, fingerprint(speech, rules.seed, PLAN_VERSION))) as plan:
        decode_all(plan, sources, folder)
        changes = join_parts(plan, folder)
        leave_out(plan, folder, train_findings(folder, record.language, rules.drop) if rules.drop else {})
        _finish(plan, folder, record.model_copy(update={"notes": changes}), sources, others, request)


def _require_ours(folder: DatasetFolder, language: str) -> None:
    """Check that `folder` is new or holds a dataset of the same language.

    Raises:
        ConfigError: it holds something else.
    """
    folder.require_ours(folder.ours)
    if folder.complete and (before := folder.read_json().get("language")) != language:
        raise ConfigError(f"{folder.root} holds a dataset of language {before!r}: name another folder with --out")


@contextmanager
def _alone(folder: DatasetFolder) -> Iterator[None]:
    """Lock the work folder for this process, and remove what is not needed afterwards. A killed process frees the lock.

    Raises:
        ConfigError: another process holds the lock.
        OSError: the databases cannot be written, for example because the disk is full.
    """
    new, done = not folder.root.exists(), False
    try:
        with alone(folder.lock, BUSY % folder.root, "prepare"):
            try:
                yield
                done = True
            except sqlite3.Error as error:
                raise OSError(f"{folder.work} cannot be written ({error})") from error
            finally:
                if done or not folder.part(0).is_file():  # else the next run continues
                    _discard(folder)
    finally:
        for place in (folder.work, *([folder.root] if new else [])):
            with suppress(OSError):
                place.rmdir()  # fails where something is left in it


def _discard(folder: DatasetFolder) -> None:
    for path in folder.work.iterdir():
        if path != folder.lock:
            path.unlink()


def _open_plan(
    folder: DatasetFolder, sources: Sequence[WeightedSource], rules: SelectionRules, stamp: str
) -> PlanDatabase:
    """Open the plan of an interrupted run where it was made for the same `stamp`; else build a new one."""
    if not folder.stamp.is_file() or folder.stamp.read_text(encoding="utf-8") != stamp:
        _discard(folder)
        write_text(folder.stamp, stamp)
    if not folder.plan.is_file():
        build_plan(folder.plan, sources, rules)
    return PlanDatabase(folder.plan, folder.scratch)


def _finish(
    plan: PlanDatabase,
    folder: DatasetFolder,
    record: DatasetRecord,
    sources: Sequence[WeightedSource],
    others: Sequence[OtherDataset],
    request: SubsetRequest,
) -> None:
    """Check that no split is empty, move the files into place, and write the manifest last."""
    reasons: dict[str, Counter[str]] = {split: Counter() for split in (*SPLITS, "")}
    for row in plan.dropped():
        reasons[row["split"]][row["reason"]] += 1
    there = [split for split in SPLITS if split not in plan.fact("lacking")]
    for split in there:
        if pq.read_metadata(folder.draft(split)).num_rows == 0:
            listed = ", ".join(f"{reason} {number}" for reason, number in reasons[split].most_common())
            names = ", ".join(each.source.name for each in sources)
            raise DataError(
                f"no utterance of {split} in {names} can be used ({listed}): correct the source. Paths of recordings "
                "start from the folder of the table that names them"
            )
    chosen = choose_subsets(lambda: plan.kept("train"), request)
    remove_subsets(folder)
    folder.manifest.unlink(missing_ok=True)
    for split in SPLITS:
        if split in there:
            os.replace(folder.draft(split), folder.split(split))
        else:
            folder.split(split).unlink(missing_ok=True)  # of another dataset
    write_jsonl(folder.dropped, plan.dropped())
    leaks = list_leaks(plan, folder, others)
    report_new_splits(folder, record.language)
    splits = {split: SplitRecord(**summarise(plan.kept(split)), **file_facts(folder.split(split))) for split in there}
    made = {
        "speech_seed": plan.fact("seed"),
        "notes": [
            *plan.fact("notes"),
            *record.notes,
            *(f"the source has no {split}. {WITHOUT[split]}" for split in plan.fact("lacking")),
        ],
        "splits": splits,
        **write_subsets(lambda: plan.kept("train"), folder, request, *chosen),
        "dropped": dict(sum(reasons.values(), Counter()).most_common()),
        **leaks,
    }
    folder.write(record.model_copy(update=made))
