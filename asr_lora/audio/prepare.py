"""The job: a Common Voice release -> a dataset folder of parquet splits and nested low-data subsets."""

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from asr_lora.artifacts import (
    SPLITS,
    DatasetFolder,
    ReleaseFolder,
    downloads_folder,
    fingerprint,
    replacing,
    sha256_file,
    write_jsonl,
    write_text,
)
from asr_lora.audio.commonvoice import BadRow, Utterance, find_locale, read_table
from asr_lora.audio.dataset import row_schema
from asr_lora.audio.decode import SAMPLE_RATE, SILENCE_PEAK, decode, encode_flac
from asr_lora.audio.diagnosis import diagnose_fresh
from asr_lora.audio.download import dataset_of, fetch
from asr_lora.audio.splits import (
    DEFAULT_SUBSETS,
    NAMED_IDS,
    Clip,
    IdList,
    find_listed,
    nested_subsets,
    read_id_list,
    subset_seconds,
    subset_seed,
    summarise,
)
from asr_lora.errors import AudioError, ConfigError, DataError

MIN_SECONDS = 0.1
MAX_SECONDS = 30.0  # one Whisper window
ROWS_AT_ONCE = 128  # decoded together and written as one row group, which bounds memory whatever the hours


@dataclass(frozen=True)
class Dropped:
    """An utterance that was left out, and why."""

    id: str
    split: str
    reason: str


def prepare(
    source: Path,
    *,
    language: str,
    out: Path,
    locale: str | None = None,
    subsets: Sequence[str] = DEFAULT_SUBSETS,
    seed: int = 0,
    speaker_cap: float | None = None,
    id_lists: Sequence[Path] = (),
) -> DatasetFolder:
    """Decode a release's train, dev and test splits into `out`; an unchanged source is recognised at once.

    Bad clips are left out, counted by reason in dataset.json and listed in dropped.jsonl. Text is kept as it is.

    Args:
        source: an unpacked release, a folder with one inside, or a locale's folder; or `mdc:` and a dataset of Mozilla
            Data Collective, which is downloaded.
        language: name or code of the language, such as "Dutch" or "nl"; by code also one that Whisper does not have.
        locale: the folder's name in the release where it differs from the code, such as "zh-CN".
        subsets: lengths of the nested low-data subsets, such as "1h", or "1h@2" for the hour drawn with seed 2; those
            that train cannot fill are left out.
        seed: of the choice of subsets.
        speaker_cap: seconds, the most that one speaker gives to a subset.
        id_lists: text files of ids, one a line, each to become the subset that it is named for.

    Raises:
        ConfigError: an unknown language, a subset that is no length, an id list that cannot be read; `out` holds
            another language or something else.
        DataError: the release lacks something, or nothing in a split can be used.
    """
    from asr_lora.language import spoken_language

    code = spoken_language(language)
    for name in subsets:
        subset_seconds(name)
    lists = [read_id_list(path) for path in id_lists]
    if dataset := dataset_of(source):
        source = fetch(dataset, downloads_folder())
    home = find_locale(source, locale or code)
    tables = {split: list(read_table(home, split)) for split in SPLITS}
    for split, rows in tables.items():
        if not rows:
            raise DataError(
                f"{home / ReleaseFolder.table(split)} has a header and no rows: take a release that has {split}"
            )
    hashes = {ReleaseFolder.table(split): sha256_file(home / ReleaseFolder.table(split)) for split in SPLITS}
    stamp = fingerprint(
        hashes, _clips_digest(home), code, list(subsets), seed, speaker_cap, lists, MIN_SECONDS, MAX_SECONDS
    )
    folder = DatasetFolder(out)
    if folder.reusable(stamp):
        return folder
    folder.require_ours(_ours(folder))
    if folder.complete and folder.read()["language"] != code:
        raise ConfigError(f"{out} holds a dataset of {folder.read()['language']!r}: name another folder with --out")
    folder.manifest.unlink(missing_ok=True)
    salt = fingerprint(hashes)
    dropped: list[Dropped] = []
    kept: dict[str, list[dict[str, Any]]] = {}
    seen: set[str] = set()
    for split in SPLITS:
        kept[split] = _write_split(folder, split, _usable(tables[split], split, seen, dropped), salt, dropped)
        if not kept[split]:
            reasons = Counter(drop.reason for drop in dropped if drop.split == split)
            listed = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common())
            raise DataError(f"no utterance of {home / ReleaseFolder.table(split)} can be used ({listed})")
    write_jsonl(folder.dropped, [asdict(drop) for drop in dropped])
    diagnose_fresh(folder, code)
    folder.write(
        {
            "fingerprint": stamp,
            "language": code,
            "source": {"name": f"{home.parent.name}/{home.name}", "tables_sha256": hashes},
            "splits": {split: {**summarise(kept[split]), **_file_facts(folder.split(split))} for split in SPLITS},
            **_write_subsets(folder, kept["train"], subsets, seed, speaker_cap, lists),
            "dropped": dict(Counter(drop.reason for drop in dropped).most_common()),
            "shared_between_splits": _shared(kept),
        }
    )
    return folder


def _write_subsets(
    folder: DatasetFolder,
    train: list[dict[str, Any]],
    names: Sequence[str],
    seed: int,
    speaker_cap: float | None,
    lists: Sequence[IdList],
) -> dict[str, Any]:
    """Choose subsets and write their ids; return what the manifest says of them."""
    by_id = {row["id"]: row for row in train}
    clips = (Clip(row["id"], row["speaker"], row["seconds"], row["gender"]) for row in train)
    drawn = nested_subsets(clips, names, seed=seed, speaker_cap=speaker_cap)
    given = find_listed(lists, by_id)
    facts: dict[str, dict[str, Any]] = {}
    for name, ids in (drawn.ids | given.ids).items():
        write_text(folder.subset(name), "".join(f"{clip}\n" for clip in ids))
        facts[name] = {**summarise(by_id[clip] for clip in ids), **_file_facts(folder.subset(name))}
        if name in drawn.ids:
            facts[name]["seed"] = subset_seed(name, seed)
        if missing := given.missing.get(name):
            write_text(folder.missing_ids(name), "".join(f"{clip}\n" for clip in missing))
            facts[name] |= {"missing": len(missing), "missing_ids": missing[:NAMED_IDS]}
    return {
        "subsets": facts,
        "subsets_left_out": {name: round(seconds / 3600, 4) for name, seconds in drawn.left_out.items()},
        "speaker_cap_seconds": speaker_cap,
    }


def _ours(folder: DatasetFolder) -> bool:
    """Whether a folder holds nothing but a dataset of ours, complete or interrupted."""
    if not folder.root.is_dir():
        return True
    names = {path.name for path in folder.root.iterdir() if not path.name.startswith(".")}
    known = {folder.split(split).name for split in SPLITS} | {folder.dropped.name, "subsets", folder.manifest_name}
    known.add(folder.diagnosis.root.name)
    return names <= known


def _clips_digest(home: Path) -> str:
    with os.scandir(home / ReleaseFolder.CLIPS) as entries:
        names = sorted(f"{entry.name}:{entry.stat().st_size}" for entry in entries)
    return fingerprint(names)


def _file_facts(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": sha256_file(path)}


def _usable(rows: Iterable[Utterance | BadRow], split: str, seen: set[str], dropped: list[Dropped]) -> list[Utterance]:
    usable = []
    for row in rows:
        reason = row.reason if isinstance(row, BadRow) else "text is empty" if not row.text else ""
        if not reason and row.id in seen:
            reason = "clip is listed before"
        if reason or isinstance(row, BadRow):
            dropped.append(Dropped(row.id, split, reason))
        else:
            seen.add(row.id)
            usable.append(row)
    return usable


def _write_split(
    folder: DatasetFolder, split: str, utterances: list[Utterance], salt: str, dropped: list[Dropped]
) -> list[dict[str, Any]]:
    """Decode and write one split; return its rows without the audio."""
    kept: list[dict[str, Any]] = []
    schema = row_schema()
    with (
        replacing(folder.split(split)) as draft,
        pq.ParquetWriter(draft, schema, compression="none") as writer,  # FLAC does not shrink further
        ThreadPoolExecutor(os.cpu_count()) as pool,  # libsndfile and soxr leave Python free while they work
        tqdm(total=len(utterances), desc=f"prepare {split}", unit="clip") as bar,
    ):
        for start in range(0, len(utterances), ROWS_AT_ONCE):
            group, rows = utterances[start : start + ROWS_AT_ONCE], []
            for utterance, audio in zip(group, pool.map(_audio, group), strict=True):
                if isinstance(audio, AudioError):
                    dropped.append(Dropped(utterance.id, split, audio.reason))
                else:
                    rows.append(_row(utterance, *audio, salt))
            bar.update(len(group))
            if rows:
                writer.write_table(pa.Table.from_pylist(rows, schema=schema))
            for row in rows:
                del row["audio"]
                kept.append({**row, "characters": len(row["text"])})
    return kept


def _audio(utterance: Utterance) -> tuple[bytes, float] | AudioError:
    """Return FLAC bytes and seconds of a clip, or what is wrong with it."""
    try:
        waveform = decode(utterance.clip, max_seconds=MAX_SECONDS)
    except AudioError as error:
        return error
    seconds = len(waveform) / SAMPLE_RATE
    if seconds < MIN_SECONDS:
        return AudioError("too short", f"{utterance.clip} lasts {seconds:.3f} s")
    if float(np.abs(waveform).max()) < SILENCE_PEAK:
        return AudioError("silent", f"{utterance.clip} is silent")
    return encode_flac(waveform), round(seconds, 4)


def _row(utterance: Utterance, flac: bytes, seconds: float, salt: str) -> dict[str, Any]:
    return {
        "id": utterance.id,
        "audio": {"bytes": flac, "path": f"{utterance.id}.flac"},
        "seconds": seconds,
        "text": utterance.text,
        "speaker": hashlib.sha256(f"{salt}:{utterance.speaker}".encode()).hexdigest()[:16],
        "gender": utterance.gender,
        "age": utterance.age,
        "accent": utterance.accent,
        "domain": utterance.domain,
    }


def _shared(kept: dict[str, list[dict[str, Any]]]) -> dict[str, dict[str, int]]:
    """Speakers and sentences that test or dev shares with another split: each makes a score look better than it is."""

    def both(one: str, other: str, column: str) -> int:
        return len({row[column] for row in kept[one]} & {row[column] for row in kept[other]})

    return {
        f"{one} and {other}": {"speakers": both(one, other, "speaker"), "sentences": both(one, other, "text")}
        for one, other in combinations(SPLITS, 2)
    }
