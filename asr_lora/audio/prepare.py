"""The job: sources of speech -> a dataset folder of parquet splits and nested low-data subsets.

Rows become a plan on disk; recordings are decoded in the order in which their source gives them and written in parts
of a fixed number of utterances, each whole or not there; the parts are joined. So memory stays flat whatever the hours,
and a run that was killed goes on after its last part and ends byte for byte as one that was not.
"""

import hashlib
import os
import sqlite3
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from itertools import chain, combinations, count, islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from tqdm import tqdm

from asr_lora.artifacts.atomic import replacing, write_jsonl, write_text
from asr_lora.artifacts.dataset import SPLITS, DatasetFolder
from asr_lora.artifacts.digests import fingerprint, sha256_file
from asr_lora.audio.checks import Sound, measure
from asr_lora.audio.dataset import row_schema
from asr_lora.audio.decode import SAMPLE_RATE, SILENCE_PEAK, decode, encode_flac
from asr_lora.audio.diagnosis import diagnose_fresh, found_in_train, require_droppable
from asr_lora.audio.plan import Plan, Planned, Rules, Share, make_plan
from asr_lora.audio.source import Recording, Utterance
from asr_lora.audio.sources import open_shares, open_source
from asr_lora.audio.splits import (
    DEFAULT_SUBSETS,
    NAMED_IDS,
    Clip,
    IdList,
    Subsets,
    find_listed,
    nested_subsets,
    read_id_list,
    require_cap,
    subset_seconds,
    subset_seed,
    summarise,
)
from asr_lora.audio.text import TextRules, sentence_key
from asr_lora.errors import AudioError, ConfigError, DataError
from asr_lora.locks import alone

MIN_SECONDS = 0.1
MAX_SECONDS = 30.0  # one Whisper window
ROWS_AT_ONCE = 32  # of a part in memory
GROUP_ROWS = 128  # in a row group of a split, or fewer: 12 KB about each group are kept until its file ends
GROUP_BYTES = 8_000_000
PART_ROWS = 1024  # utterances in a part: what a killed run loses at most
WORK = {"number": pa.int64(), "split": pa.string(), "reason": pa.string()}  # columns of a part beside a row's own


@dataclass(frozen=True)
class Heard:
    """An utterance, decoded."""

    flac: bytes
    sound: Sound


@dataclass(frozen=True)
class Draws:
    """What subsets of train are wanted."""

    names: tuple[str, ...]
    seed: int
    speaker_cap: float | None  # seconds
    lists: tuple[IdList, ...]


TrainRows = Callable[[], Iterator[dict[str, Any]]]  # what subsets are drawn from, as often as it is asked for
Task = tuple[Planned, Recording]
Outcome = tuple[Planned, Heard | AudioError]


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
    text: TextRules | None = None,
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
        drop: rules of `asr_lora.audio.checks`; what they find in train is left out, and nothing of dev and test.

    Raises:
        ConfigError: an unknown language or rule, a subset that is no length, an id list that cannot be read; `out`
            holds another language or something else; another prepare is at work there.
        DataError: a source lacks something, or nothing in a split can be used.
    """
    from asr_lora.language import spoken_language

    dropped = require_droppable(drop)
    code, rules = spoken_language(language), Rules(text or TextRules(), keep_shared_sentences, seed, dropped)
    for name in subsets:
        subset_seconds(name)
    require_cap(speaker_cap)  # now, and not after hours of decoding
    draws = Draws(tuple(subsets), seed, speaker_cap, tuple(read_id_list(path) for path in id_lists))
    words = [source] if isinstance(source, str | Path) else source
    shares = open_shares(
        words, locale=locale or code, deltas=deltas, splits_from=splits_from, keep_marks=keep_marks,
        text_column=text_column,
    )  # fmt: skip
    others = [Other.open(word, locale or code) for word in against]
    made_from = _made_from(shares)
    read = made_from, [other.digest for other in others], MIN_SECONDS, MAX_SECONDS, PART_ROWS
    speech = fingerprint(*read, code, asdict(replace(rules, seed=0)))
    stamp = fingerprint(speech, asdict(draws))
    facts = {
        "fingerprint": stamp, "speech_fingerprint": speech, "language": code, "sources": made_from,
        "text": rules.text.chosen(), "splits_from": splits_from, "marks_kept": keep_marks, "drop": rules.drop,
    }  # fmt: skip
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
    shares: Sequence[Share],
    others: Sequence["Other"],
    rules: Rules,
    draws: Draws,
    facts: dict[str, Any],
) -> None:
    """Draw other subsets from the speech that is there, or else decode all that is not decoded yet."""
    speech = facts["speech_fingerprint"]
    if folder.has_speech(speech, rules.seed):
        _draw_anew(folder, facts["fingerprint"], draws)
        return
    with closing(_open_plan(folder, shares, rules, fingerprint(speech, rules.seed))) as plan:
        _decode_all(plan, shares, folder)
        _join(plan, folder)
        _drop(plan, folder, found_in_train(folder, facts["language"], rules.drop) if rules.drop else {})
        _finish(plan, folder, facts, shares, others, draws)


def _made_from(shares: Sequence[Share]) -> list[dict[str, Any]]:
    return [
        {
            "name": share.source.name,
            "digest": share.source.digest(),
            "family": share.family + 1,  # a release and its deltas; of several, the prefix of ids tells it
            "weight": share.weight,
        }
        for share in shares
    ]


def _require_ours(folder: DatasetFolder, language: str) -> None:
    """Check that nothing but a dataset of the same language would be written over."""
    folder.require_ours(_ours(folder))
    if folder.complete and (before := folder.read_any().get("language")) != language:
        raise ConfigError(f"{folder.root} holds a dataset of {before!r}: name another folder with --out")


def _ours(folder: DatasetFolder) -> bool:
    """Whether a folder holds nothing but a dataset of ours, complete or interrupted."""
    if not folder.root.is_dir():
        return True
    names = {path.name for path in folder.root.iterdir() if not path.name.startswith(".")}
    known = {folder.split(split).name for split in SPLITS} | {"subsets", folder.manifest_name}
    return names <= known | {folder.dropped.name, folder.leaks.name, folder.diagnosis.root.name}


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


def _open_plan(folder: DatasetFolder, shares: Sequence[Share], rules: Rules, stamp: str) -> Plan:
    """Go on with the plan that is there where it was made for the same, else make it anew."""
    if not folder.stamp.is_file() or folder.stamp.read_text(encoding="utf-8") != stamp:
        _discard(folder)
        write_text(folder.stamp, stamp)
    if not folder.plan.is_file():
        make_plan(folder.plan, shares, rules)
    return Plan(folder.plan, folder.scratch)


def _decode_all(plan: Plan, shares: Sequence[Share], folder: DatasetFolder) -> None:
    """Decode what is not decoded yet, in parts of a fixed number of utterances."""
    schema = _part_schema()
    salt, begun = plan.fact("salt"), _finished_parts(plan, folder)
    cores = len(os.sched_getaffinity(0))
    with (
        ThreadPoolExecutor(cores) as pool,  # libsndfile and soxr leave Python free while they work
        tqdm(total=plan.count(), initial=begun.utterances, desc="prepare", unit="clip") as bar,
    ):
        outcomes = _in_order(pool, _tasks(plan, shares), ahead=4 * cores)
        for number in count(begun.parts):
            first = next(outcomes, None)
            if first is None:
                return
            with replacing(folder.part(number)) as draft, pq.ParquetWriter(draft, schema, **PLAIN) as writer:
                part = chain([first], islice(outcomes, PART_ROWS - 1))
                while rows := [_row(*outcome, salt) for outcome in islice(part, ROWS_AT_ONCE)]:
                    writer.write_table(pa.Table.from_pylist(rows, schema=schema))
                    bar.update(len(rows))


PLAIN: dict[str, Any] = {"compression": "none", "use_dictionary": False}  # FLAC does not shrink further


@dataclass(frozen=True)
class Begun:
    parts: int
    utterances: int


def _finished_parts(plan: Plan, folder: DatasetFolder) -> Begun:
    """Note what earlier runs did; a part that cannot be read is made again, and so are those after it."""
    utterances = 0
    for number in count():
        path = folder.part(number)
        try:
            numbers = pq.read_table(path, columns=["number"]).column(0).to_pylist()
        except (OSError, pa.ArrowException):
            for later in count(number):
                if not folder.part(later).exists():
                    break
                folder.part(later).unlink()
            return Begun(number, utterances)
        plan.begin(numbers)
        utterances += len(numbers)
    raise AssertionError("unreachable")


def _tasks(plan: Plan, shares: Sequence[Share]) -> Iterator[Task]:
    for number, share in enumerate(shares):
        for clip, recording in share.source.recordings(plan.wanted(number)):
            for utterance in plan.take(number, clip):
                yield utterance, recording


def _in_order(pool: ThreadPoolExecutor, tasks: Iterable[Task], ahead: int) -> Iterator[Outcome]:
    """Outcomes in the order of the tasks, of which never more than `ahead` are in memory."""
    waiting: deque[tuple[Planned, Future[Heard | AudioError]]] = deque()
    for utterance, recording in tasks:
        waiting.append((utterance, pool.submit(_hear, utterance, recording)))
        if len(waiting) >= ahead:
            done, future = waiting.popleft()
            yield done, future.result()
    for done, future in waiting:
        yield done, future.result()


def _hear(utterance: Planned, recording: Recording) -> Heard | AudioError:
    """Decode, measure and encode an utterance; an AudioError says what is wrong with it."""
    if isinstance(recording, AudioError):
        return recording
    try:
        waveform = decode(recording, max_seconds=MAX_SECONDS, start=utterance.start, seconds=utterance.seconds)
    except AudioError as error:
        return error
    except OSError as error:
        return AudioError("cannot be read", f"{utterance.id}: {error}")
    sound = measure(waveform, SAMPLE_RATE)
    if sound.seconds < MIN_SECONDS:
        return AudioError("too short", f"{utterance.id} lasts {sound.seconds:.3f} s")
    if sound.peak < SILENCE_PEAK:
        return AudioError("silent", f"{utterance.id} is silent")
    return Heard(encode_flac(waveform), sound)


def _part_schema() -> pa.Schema:
    schema = row_schema()
    for name, kind in WORK.items():
        schema = schema.append(pa.field(name, kind))
    return schema


def _row(utterance: Planned, heard: Heard | AudioError, salt: str) -> dict[str, Any]:
    work = {"number": utterance.number, "split": utterance.split}
    if isinstance(heard, AudioError):
        return {**work, "reason": heard.reason}
    pseudonym = hashlib.sha256(f"{salt}:{utterance.person}".encode()).hexdigest()[:16] if utterance.speaker else ""
    return {
        **work,
        "id": utterance.id,
        "audio": {"bytes": heard.flac, "path": f"{utterance.id}.flac"},
        "seconds": round(heard.sound.seconds, 4),
        "text": utterance.text,
        "speaker": pseudonym,
        "gender": utterance.gender,
        "age": utterance.age,
        "accent": utterance.accent,
        "domain": utterance.domain,
        "peak": round(heard.sound.peak, 5),
        "loudness_db": round(heard.sound.loudness_db, 2),
        "clipped": round(heard.sound.clipped, 6),
        "digest": heard.sound.digest,
    }


def _join(plan: Plan, folder: DatasetFolder) -> None:
    """Join the parts to one file a split, and note in the plan what became of each utterance."""
    schema = row_schema()
    with ExitStack() as stack:
        writers = {
            split: stack.enter_context(pq.ParquetWriter(folder.draft(split), schema, **PLAIN)) for split in SPLITS
        }
        waiting: dict[str, list[pa.Table]] = {split: [] for split in SPLITS}
        for batch in _part_batches(folder):
            columns = (batch.column(name).to_pylist() for name in ("number", "reason", "seconds", "digest", "speaker"))
            plan.hear(zip(*columns, strict=True))
            good = batch.filter(pc.is_null(batch.column("reason")))
            for split in SPLITS:
                rows = good.filter(pc.equal(good.column("split"), split)).select(schema.names)
                if len(rows):  # a split may wait through all of another
                    waiting[split].append(rows.cast(schema))
                group = waiting[split]
                if sum(map(len, group)) >= GROUP_ROWS or sum(rows.nbytes for rows in group) >= GROUP_BYTES:
                    writers[split].write_table(pa.concat_tables(group).combine_chunks())
                    group.clear()
        for split, group in waiting.items():
            if group:
                writers[split].write_table(pa.concat_tables(group).combine_chunks())
    plan.settle()


def _part_batches(folder: DatasetFolder) -> Iterator[pa.Table]:
    for number in count():
        path = folder.part(number)
        if not path.is_file():
            return
        with pq.ParquetFile(path, pre_buffer=False) as part:
            for batch in part.iter_batches(ROWS_AT_ONCE):
                yield pa.Table.from_batches([batch])


def _drop(plan: Plan, folder: DatasetFolder, reasons: Mapping[str, str]) -> None:
    """Take utterances out of the draft of train: id -> why."""
    if not reasons:
        return
    plan.leave_out(reasons)
    unwanted, schema = pa.array(list(reasons), pa.string()), row_schema()
    with (
        pq.ParquetFile(folder.draft("train"), pre_buffer=False) as before,
        replacing(folder.draft("train")) as draft,
        pq.ParquetWriter(draft, schema, **PLAIN) as after,
    ):
        for batch in before.iter_batches(ROWS_AT_ONCE):
            rows = pa.Table.from_batches([batch]).cast(schema)
            if len(rows := rows.filter(pc.invert(pc.is_in(rows.column("id"), value_set=unwanted)))):
                after.write_table(rows)


def _finish(
    plan: Plan,
    folder: DatasetFolder,
    facts: dict[str, Any],
    shares: Sequence[Share],
    others: Sequence["Other"],
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
    drawn = _draw(lambda: plan.kept("train"), draws)
    _remove_subsets(folder)
    folder.manifest.unlink(missing_ok=True)
    for split in SPLITS:
        os.replace(folder.draft(split), folder.split(split))
    write_jsonl(folder.dropped, plan.dropped())
    shared = Leaks(f"{one} and {other}" for one, other in combinations(SPLITS, 2))
    against = {other.name: Leaks() for other in others}
    lists = [shared.counted("{with} and {split}", plan.leaks())]
    for other in others:
        lists.append(against[other.name].counted("{split} and its {with}", _shared_with(plan, other)))
    write_jsonl(folder.leaks, chain.from_iterable(lists))
    diagnose_fresh(folder, facts["language"])
    folder.write(
        {
            **facts,
            "speech_seed": plan.fact("seed"),  # None: no seed decided what is in a split
            "notes": plan.fact("notes"),
            "splits": {split: {**summarise(plan.kept(split)), **_file_facts(folder.split(split))} for split in SPLITS},
            **_write_subsets(lambda: plan.kept("train"), folder, draws, *drawn),
            "dropped": dict(sum(reasons.values(), Counter()).most_common()),
            "shared_between_splits": shared.facts(),
            "shared_with_others": {name: leaks.facts() for name, leaks in against.items()},
        }
    )  # fmt: skip


def _draw_anew(folder: DatasetFolder, stamp: str, draws: Draws) -> None:
    """Draw other subsets from a train split that stays as it is; interrupted, there are none until the next time."""
    body = folder.read()
    drawn = _draw(lambda: _train_rows(folder), draws)
    _remove_subsets(folder)
    folder.write({**body, "fingerprint": None, "subsets": {}, "subsets_left_out": {}})
    subsets = _write_subsets(lambda: _train_rows(folder), folder, draws, *drawn)
    folder.write({**body, "fingerprint": stamp, **subsets})


def _train_rows(folder: DatasetFolder) -> Iterator[dict[str, Any]]:
    """What `Plan.kept` says of train, from its file."""
    with pq.ParquetFile(folder.split_file("train"), pre_buffer=False) as table:
        for batch in table.iter_batches(PART_ROWS, columns=["id", "speaker", "seconds", "gender", "text"]):
            for row in batch.to_pylist():
                yield {**row, "characters": len(row["text"])}


def _remove_subsets(folder: DatasetFolder) -> None:
    """Remove the lists of ids that the manifest speaks of: those are ours."""
    for name in folder.read_any().get("subsets", {}) if folder.complete else ():
        folder.subset(name).unlink(missing_ok=True)
        folder.missing_ids(name).unlink(missing_ok=True)


def _draw(rows: TrainRows, draws: Draws) -> tuple[Subsets, Subsets]:
    """Draw the subsets, and look up those that others have chosen."""
    # Speakers who are not known count one by one: nothing says that any two are the same.
    clips = (Clip(row["id"], row["speaker"] or row["id"], row["seconds"], row["gender"]) for row in rows())
    drawn = nested_subsets(clips, draws.names, seed=draws.seed, speaker_cap=draws.speaker_cap)
    return drawn, find_listed(draws.lists, {row["id"] for row in rows()} if draws.lists else ())


def _write_subsets(
    rows: TrainRows, folder: DatasetFolder, draws: Draws, drawn: Subsets, given: Subsets
) -> dict[str, Any]:
    """Write the subsets' lists of ids, and say what each holds."""
    facts: dict[str, dict[str, Any]] = {}
    for name, ids in (drawn.ids | given.ids).items():
        write_text(folder.subset(name), "".join(f"{clip}\n" for clip in ids))
        within = set(ids)
        summary = summarise(row for row in rows() if row["id"] in within)
        facts[name] = {**summary, **_file_facts(folder.subset(name))}
        if name in drawn.ids:
            facts[name]["seed"] = subset_seed(name, draws.seed)
        if missing := given.missing.get(name):
            write_text(folder.missing_ids(name), "".join(f"{clip}\n" for clip in missing))
            facts[name] |= {"missing": len(missing), "missing_ids": missing[:NAMED_IDS]}
    return {
        "subsets": facts,
        "subsets_left_out": {name: round(seconds / 3600, 4) for name, seconds in drawn.left_out.items()},
        "speaker_cap_seconds": draws.speaker_cap,
    }


def _file_facts(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": sha256_file(path)}


class Leaks:
    """Counts what leaks between pairs of splits, while it is listed."""

    def __init__(self, pairs: Iterable[str] = ()) -> None:
        # What is shared is told apart by the one utterance of the other side that stands for it.
        self.found: dict[str, dict[str, set[str]]] = {pair: self._none() for pair in pairs}

    def counted(self, pair: str, leaks: Iterable[dict[str, str]]) -> Iterator[dict[str, str]]:
        """Pass leaks on; `pair` says what a pair is called, with the names of a leak's parts in braces."""
        for leak in leaks:
            self.found.setdefault(pair.format(**leak), self._none())[f"{leak['shares']}s"].add(leak["example"])
            yield leak

    def facts(self) -> dict[str, dict[str, int]]:
        return {pair: {kind: len(shared) for kind, shared in kinds.items()} for pair, kinds in self.found.items()}

    @staticmethod
    def _none() -> dict[str, set[str]]:
        return {"speakers": set(), "sentences": set(), "clips": set()}


@dataclass(frozen=True)
class Other:
    """A dataset or source with which nothing should be shared."""

    name: str
    digest: str
    rows: Callable[[], Iterator[tuple[str, str, int, str | None, str | None]]]  # as `Plan.compare` takes them

    @classmethod
    def open(cls, word: Path | str, locale: str) -> "Other":
        prepared = DatasetFolder(Path(word))
        if prepared.complete:
            return cls(prepared.root.resolve().name, prepared.splits_digest(), lambda: _prepared_rows(prepared))
        source = open_source(str(word), locale=locale)
        return cls(source.name, source.digest(), lambda: _source_rows(source.rows(), source.people))


def _prepared_rows(folder: DatasetFolder) -> Iterator[tuple[str, str, int, str | None, str | None]]:
    for split in SPLITS:
        with pq.ParquetFile(folder.split_file(split), pre_buffer=False) as table:
            for batch in table.iter_batches(ROWS_AT_ONCE, columns=["id", "text", "digest"]):
                for row in batch.to_pylist():
                    yield split, row["id"], sentence_key(row["text"]), None, row["digest"]


def _source_rows(rows: Iterable[Any], people: str) -> Iterator[tuple[str, str, int, str | None, str | None]]:
    for row in rows:
        if isinstance(row, Utterance) and row.text:
            person = f"{people}:{row.speaker}" if row.speaker else None
            yield row.split or "all", row.id, sentence_key(row.text), person, None


def _shared_with(plan: Plan, other: Other) -> Iterator[dict[str, str]]:
    for leak in plan.compare(other.rows()):
        yield {**leak, "of": other.name}
