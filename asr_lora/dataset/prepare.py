"""The job: sources of speech -> a dataset folder of parquet splits and nested low-data subsets.

Rows become a plan on disk; recordings are decoded in the order in which their source gives them and written in parts;
the parts are joined. So memory stays flat whatever the hours, and a run that was killed goes on where it was.
"""

import os
import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path

import pyarrow.parquet as pq

from asr_lora.dataset.leaks import Other, list_leaks
from asr_lora.dataset.parts import MAX_SECONDS, MIN_SECONDS, PART_ROWS, decode_all, join_parts, leave_out
from asr_lora.dataset.plan import SelectionRules, build_plan
from asr_lora.dataset.plan_database import PlanDatabase
from asr_lora.dataset.subset_files import Draws, draw, draw_anew, remove_subsets, write_subsets
from asr_lora.dataset.subsets import DEFAULT_SUBSETS, read_id_list, require_cap, subset_seconds
from asr_lora.dataset.summary import summarise
from asr_lora.errors import ConfigError, DataError
from asr_lora.folders.atomic import write_jsonl, write_text
from asr_lora.folders.dataset_folder import SPLITS, DatasetFolder, DatasetRecord, SourceRecord, SplitRecord
from asr_lora.folders.digests import file_facts, fingerprint
from asr_lora.labels.label_report import report_new_splits, require_droppable, train_findings
from asr_lora.language import spoken_language
from asr_lora.sources.interface import WeightedSource
from asr_lora.sources.open import open_sources
from asr_lora.system.locks import alone
from asr_lora.text import TextCleaning


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
    text_column: str | None = None,
    drop: Sequence[str] = (),
) -> DatasetFolder:
    """Decode train, dev and test of one or several sources into `out`; unchanged sources are recognised at once.

    Bad clips are left out, counted by reason in dataset.json and listed in dropped.jsonl. Text is kept as it is unless
    `text` says otherwise. What was interrupted goes on where it stopped. Where only other subsets are asked for, they
    are drawn from the speech that is there, and those no longer asked for are removed.

    Args:
        source: a Common Voice release (folder or archive), a manifest, a Kaldi folder, parquet files, audio with text
            files, a dataset on the hub as "hf:NAME:CONFIG"; several are mixed, each perhaps with a weight: "talks=0.5".
        language: name or code of the language, such as "Dutch" or "nl"; by code also one that Whisper does not have.
        locale: the folder's name in a release where it differs from the code, such as "zh-CN".
        subsets: lengths of the nested low-data subsets, such as "1h", or "1h@2" for the hour drawn with seed 2; those
            that train cannot fill are left out.
        seed: of every choice: of subsets, of splits made here, of the share that a weight takes.
        speaker_cap: seconds, the most that one speaker gives to a subset.
        id_lists: text files of ids, one a line, each to become the subset that it is named for.
        deltas: delta releases laid over the only source; they go to train, unless speaker or sentence is held out.
        splits_from: "release", or "validated" for splits of our own from all validated clips of a release.
        against: prepared datasets or sources with which nothing should be shared; what is, is counted and listed.
        text: what to do to transcripts.
        keep_marks: whether `[disfluency]` and the like stay in the text of Spontaneous Speech.
        keep_shared_sentences: where splits are made here, whether train keeps sentences of dev and test.
        text_column: where a table has its text, when it is not found by itself.
        drop: rules of `asr_lora.labels.rules`; what they find in train is left out, and nothing of dev and test.

    Raises:
        ConfigError: the language or a rule is unknown, a subset is no length, an id list cannot be read, `out` holds
            something else, or another prepare works there.
        DataError: a source cannot be read, or no utterance of a split can be used.
    """
    dropped = require_droppable(drop)
    code, rules = (
        spoken_language(language),
        SelectionRules(text or TextCleaning(), keep_shared_sentences, seed, dropped),
    )
    for name in subsets:
        subset_seconds(name)
    require_cap(speaker_cap)  # now, and not after hours of decoding
    draws = Draws(tuple(subsets), seed, speaker_cap, tuple(read_id_list(path) for path in id_lists))
    words = [source] if isinstance(source, str | Path) else source
    shares = open_sources(
        words, locale=locale or code, deltas=deltas, splits_from=splits_from, keep_marks=keep_marks,
        text_column=text_column,
    )  # fmt: skip
    others = [Other.open(word, locale or code) for word in against]
    sources = _made_from(shares)
    read = [source.to_json() for source in sources], [other.digest for other in others]
    speech = fingerprint(*read, MIN_SECONDS, MAX_SECONDS, PART_ROWS, code, asdict(replace(rules, seed=0)))
    stamp = fingerprint(speech, asdict(draws))
    facts = DatasetRecord(
        fingerprint=stamp, speech_fingerprint=speech, language=code, sources=sources, text=rules.text.chosen(),
        splits_from=splits_from, marks_kept=keep_marks, drop=list(rules.drop), splits={}, subsets={},
    )  # fmt: skip
    folder = DatasetFolder(out)
    if folder.reusable(stamp):
        return folder
    _require_ours(folder, code)
    with _alone(folder):
        if not folder.reusable(stamp):  # made by another process in the meantime
            _make(folder, shares, others, rules, draws, facts)
    return folder


def _make(
    folder: DatasetFolder,
    shares: Sequence[WeightedSource],
    others: Sequence[Other],
    rules: SelectionRules,
    draws: Draws,
    facts: DatasetRecord,
) -> None:
    """Draw other subsets from the speech that is there, or else decode all that is not decoded yet."""
    speech = str(facts.speech_fingerprint)
    if folder.has_speech(speech, rules.seed):
        draw_anew(folder, str(facts.fingerprint), draws)
        return
    with closing(_open_plan(folder, shares, rules, fingerprint(speech, rules.seed))) as plan:
        decode_all(plan, shares, folder)
        join_parts(plan, folder)
        leave_out(plan, folder, train_findings(folder, facts.language, rules.drop) if rules.drop else {})
        _finish(plan, folder, facts, shares, others, draws)


def _made_from(shares: Sequence[WeightedSource]) -> list[SourceRecord]:
    return [
        SourceRecord(name=share.source.name, digest=share.source.digest(), family=share.family + 1, weight=share.weight)
        for share in shares
    ]


def _require_ours(folder: DatasetFolder, language: str) -> None:
    """Check that nothing but a dataset of the same language would be written over."""
    folder.require_ours(folder.ours)
    if folder.complete and (before := folder.read_json().get("language")) != language:
        raise ConfigError(f"{folder.root} holds a dataset of {before!r}: name another folder with --out")


@contextmanager
def _alone(folder: DatasetFolder) -> Iterator[None]:
    """Hold the work folder for this process alone, by a lock that dies with it; tidy up what is of no more use.

    Raises:
        ConfigError: another process holds it.
        OSError: the disk did not do what was asked of it.
    """
    new, done = not folder.root.exists(), False
    busy = f"another prepare is at work on {folder.root}: wait until it ends, or name another --out"
    try:
        with alone(folder.lock, busy):
            try:
                yield
                done = True
            except sqlite3.Error as error:
                raise OSError(f"{folder.work} cannot be written ({error})") from error
            finally:
                if done or not folder.part(0).is_file():  # else the next run goes on from here
                    _discard(folder)
    finally:
        for place in (folder.work, *([folder.root] if new else [])):
            with suppress(OSError):
                place.rmdir()  # where nothing is left in it


def _discard(folder: DatasetFolder) -> None:
    for path in folder.work.iterdir():
        if path != folder.lock:
            path.unlink()


def _open_plan(
    folder: DatasetFolder, shares: Sequence[WeightedSource], rules: SelectionRules, stamp: str
) -> PlanDatabase:
    """Go on with the plan that is there where it was made for the same, else make it anew."""
    if not folder.stamp.is_file() or folder.stamp.read_text(encoding="utf-8") != stamp:
        _discard(folder)
        write_text(folder.stamp, stamp)
    if not folder.plan.is_file():
        build_plan(folder.plan, shares, rules)
    return PlanDatabase(folder.plan, folder.scratch)


def _finish(
    plan: PlanDatabase,
    folder: DatasetFolder,
    facts: DatasetRecord,
    shares: Sequence[WeightedSource],
    others: Sequence[Other],
    draws: Draws,
) -> None:
    """Check that no split is empty, put the files in place, and write the manifest last."""
    reasons: dict[str, Counter[str]] = {split: Counter() for split in (*SPLITS, "")}
    for drop in plan.dropped():
        reasons[drop["split"]][drop["reason"]] += 1
    for split in SPLITS:
        if pq.read_metadata(folder.draft(split)).num_rows == 0:
            listed = ", ".join(f"{reason} {number}" for reason, number in reasons[split].most_common())
            names = ", ".join(share.source.name for share in shares)
            raise DataError(
                f"no utterance of {split} in {names} can be used ({listed}): mend that in the source. Where recordings "
                "are missing: they are looked for from the folder of the table that names them"
            )
    drawn = draw(lambda: plan.kept("train"), draws)
    remove_subsets(folder)
    folder.manifest.unlink(missing_ok=True)
    for split in SPLITS:
        os.replace(folder.draft(split), folder.split(split))
    write_jsonl(folder.dropped, plan.dropped())
    leaks = list_leaks(plan, folder, others)
    report_new_splits(folder, facts.language)
    splits = {split: SplitRecord(**summarise(plan.kept(split)), **file_facts(folder.split(split))) for split in SPLITS}
    made = {
        "speech_seed": plan.fact("seed"),
        "notes": plan.fact("notes"),
        "splits": splits,
        **write_subsets(lambda: plan.kept("train"), folder, draws, *drawn),
        "dropped": dict(sum(reasons.values(), Counter()).most_common()),
        **leaks,
    }
    folder.write(facts.model_copy(update=made))
