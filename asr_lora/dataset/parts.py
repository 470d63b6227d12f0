"""Decode the planned utterances into parts of a fixed number of rows, then join the parts into one file a split.

A part is whole or absent, and the same whenever it is made. So a run that was killed continues after its last part, and
its files are byte for byte those of a run that was not killed.
"""

import hashlib
import os
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain, count, islice

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from tqdm import tqdm

from asr_lora.audio.decode import SAMPLE_RATE, SILENCE_PEAK, decode, encode_flac
from asr_lora.dataset.plan_database import PendingRecordings, PlanDatabase, PlannedUtterance
from asr_lora.dataset.reading import row_schema
from asr_lora.errors import AudioError
from asr_lora.folders.atomic import replacing
from asr_lora.folders.dataset_folder import SPLITS, DatasetFolder
from asr_lora.labels.rules import AudioMeasurements, measure
from asr_lora.sources.interface import Recording, WeightedSource

MIN_SECONDS = 0.1
MAX_SECONDS = 30.0  # one Whisper window
ROWS_AT_ONCE = 32  # of a part in memory
GROUP_ROWS = 128  # in a row group of a split, or fewer: 12 KB about each group are kept until its file ends
GROUP_BYTES = 8_000_000
PART_ROWS = 1024  # utterances in a part, which a killed run loses at most
PART_COLUMNS = {
    "number": pa.int64(),
    "split": pa.string(),
    "reason": pa.string(),
    "note": pa.string(),
}  # in addition to those of a split
PARQUET_OPTIONS = {"compression": "none", "use_dictionary": False}  # FLAC does not compress further


@dataclass(frozen=True)
class DecodedUtterance:
    """The audio of an utterance as FLAC, and its measurements."""

    flac: bytes
    sound: AudioMeasurements
    note: str  # what decoding changed, "" where it changed nothing


Task = tuple[PlannedUtterance, Recording]
Outcome = tuple[PlannedUtterance, DecodedUtterance | AudioError]


def decode_all(plan: PlanDatabase, sources: Sequence[WeightedSource], folder: DatasetFolder) -> None:
    """Decode what earlier runs have not decoded, and write it in parts."""
    schema = _part_schema()
    salt, (parts, utterances) = plan.fact("salt"), _finished_parts(plan, folder)
    cores = len(os.sched_getaffinity(0))
    with (
        ThreadPoolExecutor(cores) as pool,  # libsndfile and soxr release Python's lock while they work
        tqdm(total=plan.count(), initial=utterances, desc="prepare", unit="utterance") as bar,
    ):
        outcomes = _in_order(pool, _tasks(plan, sources), ahead=4 * cores)
        for number in count(parts):
            first = next(outcomes, None)
            if first is None:
                return
            with replacing(folder.part(number)) as draft, pq.ParquetWriter(draft, schema, **PARQUET_OPTIONS) as writer:
                part = chain([first], islice(outcomes, PART_ROWS - 1))
                while rows := [_row(*outcome, salt) for outcome in islice(part, ROWS_AT_ONCE)]:
                    writer.write_table(pa.Table.from_pylist(rows, schema=schema))
                    bar.update(len(rows))


def _finished_parts(plan: PlanDatabase, folder: DatasetFolder) -> tuple[int, int]:
    """Note the utterances of finished parts as taken, and return the numbers of parts and utterances.

    A part that cannot be read is removed, and so are all parts after it.
    """
    utterances = 0
    for number in count():
        try:
            numbers = pq.read_table(folder.part(number), columns=["number"]).column(0).to_pylist()
        except (OSError, pa.ArrowException):
            for later in count(number):
                if not folder.part(later).exists():
                    break
                folder.part(later).unlink()
            return number, utterances
        plan.begin(numbers)
        utterances += len(numbers)
    raise AssertionError("unreachable")


def _tasks(plan: PlanDatabase, sources: Sequence[WeightedSource]) -> Iterator[Task]:
    for number, weighted in enumerate(sources):
        for name, recording in weighted.source.recordings(PendingRecordings(plan.database, number)):
            for utterance in plan.take(number, name):
                yield utterance, recording


def _in_order(pool: ThreadPoolExecutor, tasks: Iterable[Task], ahead: int) -> Iterator[Outcome]:
    """Yield outcomes in the order of the tasks. At most `ahead` of them are in memory."""
    waiting: deque[tuple[PlannedUtterance, Future[DecodedUtterance | AudioError]]] = deque()
    for utterance, recording in tasks:
        waiting.append((utterance, pool.submit(_decode, utterance, recording)))
        if len(waiting) >= ahead:
            done, future = waiting.popleft()
            yield done, future.result()
    for done, future in waiting:
        yield done, future.result()


def _decode(utterance: PlannedUtterance, recording: Recording) -> DecodedUtterance | AudioError:
    """Decode, measure and encode an utterance, or return the error for which it is left out."""
    if isinstance(recording, AudioError):
        return recording
    notices: list[str] = []
    try:
        waveform = decode(
            recording, max_seconds=MAX_SECONDS, start=utterance.start, seconds=utterance.seconds, notice=notices.append
        )
    except AudioError as error:
        return error
    except OSError as error:
        return AudioError("cannot be read", f"{utterance.id}: {error}")
    sound = measure(waveform, SAMPLE_RATE)
    if sound.seconds < MIN_SECONDS:
        return AudioError("too short", f"{utterance.id} lasts {sound.seconds:.3f} s")
    if sound.peak < SILENCE_PEAK:
        return AudioError("silent", f"{utterance.id} is silent")
    return DecodedUtterance(encode_flac(waveform), sound, "; ".join(dict.fromkeys(notices)))


def _part_schema() -> pa.Schema:
    schema = row_schema()
    for name, kind in PART_COLUMNS.items():
        schema = schema.append(pa.field(name, kind))
    return schema


def _row(utterance: PlannedUtterance, decoded: DecodedUtterance | AudioError, salt: str) -> dict[str, object]:
    part_columns = {"number": utterance.number, "split": utterance.split}
    if isinstance(decoded, AudioError):
        return {**part_columns, "reason": decoded.reason}
    pseudonym = hashlib.sha256(f"{salt}:{utterance.person}".encode()).hexdigest()[:16] if utterance.speaker else ""
    sound = decoded.sound
    return {
        **part_columns,
        "id": utterance.id,
        "audio": {"bytes": decoded.flac, "path": f"{utterance.id}.flac"},
        "seconds": round(sound.seconds, 4),
        "text": utterance.text,
        "speaker": pseudonym,
        "gender": utterance.gender,
        "age": utterance.age,
        "accent": utterance.accent,
        "domain": utterance.domain,
        "peak": round(sound.peak, 5),
        "loudness_db": round(sound.loudness_db, 2),
        "clipped": round(sound.clipped, 6),
        "digest": sound.digest,
        "note": decoded.note or None,
    }


def join_parts(plan: PlanDatabase, folder: DatasetFolder) -> list[str]:
    """Join the parts into one draft a split, and note the outcome of each utterance in the plan.

    Returns:
        What decoding changed in the recordings, each with the number of utterances.
    """
    changes: Counter[str] = Counter()
    schema = row_schema()
    with ExitStack() as stack:
        writers = {
            split: stack.enter_context(pq.ParquetWriter(folder.draft(split), schema, **PARQUET_OPTIONS))
            for split in SPLITS
        }
        waiting: dict[str, list[pa.Table]] = {split: [] for split in SPLITS}
        for batch in _part_batches(folder):
            columns = (batch.column(name).to_pylist() for name in ("number", "reason", "seconds", "digest", "speaker"))
            plan.note_outcomes(zip(*columns, strict=True))
            changes.update(pc.drop_null(batch.column("note")).to_pylist())
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
    plan.collect_kept()
    return [f"in {number} utterances {change}" for change, number in sorted(changes.items())]


def _part_batches(folder: DatasetFolder) -> Iterator[pa.Table]:
    for number in count():
        if not folder.part(number).is_file():
            return
        with pq.ParquetFile(folder.part(number), pre_buffer=False) as part:
            for batch in part.iter_batches(ROWS_AT_ONCE):
                yield pa.Table.from_batches([batch])


def leave_out(plan: PlanDatabase, folder: DatasetFolder, reasons: Mapping[str, str]) -> None:
    """Remove utterances from the draft of train: id -> reason."""
    if not reasons:
        return
    plan.leave_out(reasons)
    unwanted, schema = pa.array(list(reasons), pa.string()), row_schema()
    with (
        pq.ParquetFile(folder.draft("train"), pre_buffer=False) as before,
        replacing(folder.draft("train")) as draft,
        pq.ParquetWriter(draft, schema, **PARQUET_OPTIONS) as after,
    ):
        for batch in before.iter_batches(ROWS_AT_ONCE):
            rows = pa.Table.from_batches([batch]).cast(schema)
            if len(rows := rows.filter(pc.invert(pc.is_in(rows.column("id"), value_set=unwanted)))):
                after.write_table(rows)
