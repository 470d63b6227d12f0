"""Feeds broken inputs to everything that reads what others have written, and counts what becomes of them.

    python tests/benchmarks/fuzz.py --inputs 12000 --out fuzz

Half of the inputs come from byte mutation of good ones, half from hypothesis. Each must be used, left out for a stated
reason, or refused with a sentence (an AsrLoraError); a traceback, a crash of the process, more than ten seconds or more
than two gigabytes is a failure, and the input is saved. Inputs are read in a child process that has a memory limit,
while the parent watches the clock. The same seed gives the same inputs. `TARGETS` is the list of what is read.

Before any of it, every target's good inputs must be used whole: one whose good inputs are refused tests nothing but the
refusal. No row may be lost on the way: rows used and rows left out must add up to the rows that were given.
"""

import argparse
import contextlib
import csv
import gzip
import io
import json
import multiprocessing
import os
import random
import re
import resource
import shutil
import signal
import sys
import tarfile
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from asr_lora.audio.decode import decode
from asr_lora.dataset.prepare import prepare
from asr_lora.dataset.reading import row_schema
from asr_lora.dataset.subsets import read_id_list, subset_seconds, subset_seed
from asr_lora.errors import AsrLoraError, AudioError
from asr_lora.language import spoken_language
from asr_lora.sources.commonvoice import BadRow, read_table
from asr_lora.sources.open import open_source

DEMO = Path(__file__).resolve().parents[2] / "data" / "demo" / "cv-corpus-17.0-2024-03-15" / "it"
MOST_SECONDS = 10.0
START_SECONDS = 60.0  # until the first input is read
MOST_BYTES = 2_000_000_000  # beyond what the process has before the first input
BATCH = 100  # inputs a child reads before the next one is made
SPLICES = (
    b"\t", b"\n", b"\r\n", b'"', b"'", b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"../", b"/etc/passwd", b"nan",
    b"1e400", b"-1", b"9" * 40, b"a" * 5000, b"{", b"}", b"[" * 2000, b"|", b"cat wav |", b"\\", b"\xe2\x80\xae",
    "e\u0301\u200b".encode(), b".mp3",
    b"\x7f\xff\xff\xff", b"\xff\xff\xff\xff", b"\x00\x00\x00\x00",
)  # fmt: skip

Outcome = Counter[str]


@dataclass(frozen=True)
class Target:
    """Something that reads what others have written."""

    good: Callable[[], list[bytes]]  # inputs that are in order, to be mutated
    lay_out: Callable[[bytes, Path], Path]  # an input -> what is named to the reader, within an empty folder
    read: Callable[[Path], Outcome]
    between: bytes = b""  # stands between the cells of a line; nothing where it is no text
    cell: st.SearchStrategy[bytes] | None = None  # what hypothesis puts in place of a cell
    made: Callable[[], st.SearchStrategy[bytes]] | None = None  # inputs that hypothesis makes whole
    share: int = 1  # of the inputs, relative to other targets


def rows(count: int = 6) -> list[list[str]]:
    lines = (DEMO / "train.tsv").read_text(encoding="utf-8").splitlines()
    return [line.split("\t") for line in lines[: count + 1]]


def speech(container: str, subtype: str, rate: int = 16_000, seconds: float = 0.4) -> bytes:
    wave = 0.1 * np.sin(np.arange(int(seconds * rate)) * 0.05).astype(np.float32)
    buffer = io.BytesIO()
    soundfile.write(buffer, wave, rate, format=container, subtype=subtype)
    return buffer.getvalue()


def good_tables() -> list[bytes]:
    written = [as_lines(rows()), as_lines(rows()).replace(b"\n", b"\r\n")]
    old = [[row[0], row[1], row[3], "2", "0", "twenties", "male", "x"] for row in rows()]
    old[0] = ["client_id", "path", "sentence", "up_votes", "down_votes", "age", "gender", "accent"]
    return [*written, as_lines(old)]


def as_lines(table: list[list[str]]) -> bytes:
    return "".join("\t".join(row) + "\n" for row in table).encode()


def good_sounds() -> list[bytes]:
    kinds = [
        ("WAV", "PCM_16"), ("WAV", "FLOAT"), ("WAV", "IMA_ADPCM"), ("FLAC", "PCM_16"), ("OGG", "VORBIS"),
        ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III"), ("AIFF", "PCM_16"), ("CAF", "ALAC_16"),
        ("AU", "PCM_16"), ("W64", "PCM_16"),
    ]  # fmt: skip
    return [speech(*kind) for kind in kinds] + [speech("MP3", "MPEG_LAYER_III", 32_000)]


def clips_of(table: list[list[str]]) -> list[str]:
    return [row[1] for row in table[1:]]


def tables_and_clips() -> dict[str, bytes]:
    """Files of a small release, in which no clip is in two splits."""
    files: dict[str, bytes] = {}
    for split in ("train", "dev", "test"):
        table = as_lines(rows(6 if split == "train" else 2)).replace(b"common_voice", split.encode())
        files[f"{split}.tsv"] = table
        files |= {f"clips/{line.split(chr(9))[1]}": SOUND for line in table.decode().splitlines()[1:]}
    return files


def packed(files: dict[str, bytes], changes: dict[str, tuple[str, object]] | None = None) -> bytes:
    """Files as an archive that is not compressed; fields of some members' headers are changed."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(f"cv-corpus-25.0-2026-03-09/it/{name}")
            info.size = len(content)
            field, value = (changes or {}).get(name, ("", None))
            if field:
                setattr(info, field, value)
            archive.addfile(info, io.BytesIO(content.ljust(info.size, b"\0")))
    return buffer.getvalue()


def good_archives() -> list[bytes]:
    return [packed(tables_and_clips())]


def packed_or_not() -> list[bytes]:
    """Compressed, every broken bit is noticed; a plain archive tells of broken headers only."""
    return [*good_archives(), gzip.compress(good_archives()[0], 1)]


def made_archives() -> st.SearchStrategy[bytes]:
    """Archives in order, of which some members have another name, kind, size or content."""
    files = tables_and_clips()
    fields = st.one_of(
        st.tuples(st.just("name"), st.text(st.characters(exclude_characters="\0"), max_size=200)),
        st.tuples(st.just("name"), st.sampled_from([f"cv/it/{name}" for name in files] + ["../it/a.mp3", "/it/x", ""])),
        st.tuples(st.just("type"), st.sampled_from([bytes([kind]) for kind in b"0\x0012356xgLKSZ"])),
        st.tuples(st.just("size"), st.integers(0, 20_000)),
        st.tuples(st.just("mtime"), st.integers(-1, 2**40)),
        st.tuples(st.just("pax_headers"), st.dictionaries(st.sampled_from(["path", "size", "x"]), st.text(max_size=9))),
    )  # fmt: skip
    names = st.sampled_from(sorted(files))
    contents = st.dictionaries(names, st.binary(max_size=2000) | st.sampled_from(list(files.values())), max_size=2)
    both = st.tuples(st.permutations(sorted(files)), contents, st.dictionaries(names, fields, max_size=2))
    return both.map(lambda parts: packed({name: {**files, **parts[1]}[name] for name in parts[0]}, parts[2]))


def mended(content: bytes) -> bytes:
    """An archive whose headers' checksums are right again, so that what was done to them is read."""
    mended, place = bytearray(content), 0
    while place + tarfile.BLOCKSIZE <= len(mended):
        header = mended[place : place + tarfile.BLOCKSIZE]
        if not any(header):
            break
        header[148:156] = b" " * 8
        mended[place + 148 : place + 156] = b"%06o\0 " % sum(header)
        try:
            size = int(header[124:135] or b"0", 8)
        except ValueError:
            size = 0
        place += tarfile.BLOCKSIZE + -(-max(size, 0) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
    return bytes(mended)


def good_jsonl() -> list[bytes]:
    nemo = [{"audio_filepath": f"{n}.wav", "duration": 0.4, "text": f"word {n}", "speaker": f"s{n}"} for n in range(6)]
    timed = [
        {"audio": {"path": f"{n}.wav", "start_time": 0, "end_time": 0.3}, "sentence": f"x {n}", "gender": "male"}
        for n in range(6)
    ]
    parts = [
        {"id": f"u{n}", "audio": "0.wav", "offset": n / 20, "duration": 0.1, "text": f"y {n}",
         "split": ("train", "validation", "test")[n % 3]}
        for n in range(6)
    ]  # fmt: skip
    return ["".join(json.dumps(row) + "\n" for row in lines).encode() for lines in (nemo, timed, parts)]


def members_of_json() -> st.SearchStrategy[bytes]:
    names = ["audio", "audio_filepath", "text", "offset", "duration", "speaker", "split", "id", "gender", "age"]
    plain = (
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats()
        | st.text(max_size=9)
        | st.sampled_from(["1.wav", "dev"])
    )
    value = st.recursive(plain, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(
        st.sampled_from(["path", "start_time", "end_time"]), inner, max_size=3), max_leaves=4)  # fmt: skip
    return st.tuples(st.sampled_from(names), value).map(lambda pair: json.dumps(dict([pair]))[1:-1].encode())


def good_csv() -> list[bytes]:
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerows([["path", "text", "speaker"], *([f"{n}.wav", f'word, "{n}"', f"s{n}"] for n in range(6))])
    return [buffer.getvalue().encode()]


def good_kaldi() -> list[bytes]:
    """The four files one after the other, between form feeds."""
    scp = "".join(f"rec{n} {n}.wav\n" for n in range(6))
    text = "".join(f"utt{n} some words {n}\n" for n in range(6))
    segments = "".join(f"utt{n} rec{n} 0.0 0.3\n" for n in range(6))
    speakers = "".join(f"utt{n} spk{n}\n" for n in range(6))
    return ["\f".join([scp, text, segments, speakers]).encode()]


def good_texts() -> list[bytes]:
    """Names and texts of recordings, between form feeds."""
    return ["\f".join(f"talk {n}\nsome words {n}" for n in range(6)).encode()]


def good_cuts() -> list[bytes]:
    """Cuts of lhotse, each with its recording and one supervision."""
    cuts = [
        {"id": f"c{n}", "start": 0.0, "duration": 0.3, "channel": 0, "type": "MonoCut",
         "supervisions": [{"id": f"u{n}", "recording_id": f"r{n}", "start": 0.0, "duration": 0.3, "channel": 0,
                           "text": f"word {n}", "speaker": f"s{n}"}],
         "recording": {"id": f"r{n}", "sources": [{"type": "file", "channels": [0], "source": f"{n}.wav"}],
                       "sampling_rate": 16000, "num_samples": 6400, "duration": 0.4}}
        for n in range(6)
    ]  # fmt: skip
    return ["".join(json.dumps(cut) + "\n" for cut in cuts).encode()]


def good_supervisions() -> list[bytes]:
    """Recordings and supervisions of lhotse, between a form feed."""
    cuts = [json.loads(line) for line in good_cuts()[0].splitlines()]
    parts = [[cut["recording"] for cut in cuts], [cut["supervisions"][0] for cut in cuts]]
    return ["\f".join("".join(json.dumps(row) + "\n" for row in part) for part in parts).encode()]


def good_speechbrain() -> list[bytes]:
    rows = {f"u{n}": {"wav": f"{{data_root}}/{n}.wav", "length": 0.4, "words": f"word {n}"} for n in range(6)}
    return [json.dumps(rows, indent=1).encode(), json.dumps([{"id": k, **row} for k, row in rows.items()]).encode()]


def good_ljspeech() -> list[bytes]:
    return ["".join(f"{n}|Word, no. {n}|word, number {n}\n" for n in range(6)).encode()]


def good_wide() -> list[bytes]:
    """A table as Excel saves it: UTF-16 and semicolons, or line ends of old Macs."""
    lines = ["Path;Text;Speaker", *(f"{n}.wav;word {n};s{n}" for n in range(6))]
    return ["\r\n".join(lines).encode("utf-16"), "\r".join(lines).encode()]


def good_transcripts() -> list[bytes]:
    return ["".join(f"1-2-{n:04} SOME WORDS {n}\n" for n in range(6)).encode()]


def good_arrow() -> list[bytes]:
    """The file of a saved dataset."""
    table, buffer = pa.table(good_columns()), io.BytesIO()
    with pa.ipc.new_stream(buffer, table.schema) as writer:
        writer.write_table(table, max_chunksize=4)
    return [buffer.getvalue()]


def parquet(columns: dict[str, list[object]], compression: str = "none") -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer, compression=compression, use_dictionary=False, write_statistics=False)
    return buffer.getvalue()


def good_columns() -> dict[str, list[object]]:
    audio = [{"bytes": SPOKEN, "path": f"{n}.wav"} for n in range(6)]
    names = [f"u{n}" for n in range(6)]
    return {"id": names, "audio": audio, "text": [f"word {n}" for n in range(6)], "speaker_id": list(range(6))}


def good_parquet() -> list[bytes]:
    return [parquet(good_columns()), parquet({**good_columns(), "audio": [SOUND] * 6}, "snappy")]


def made_parquet() -> st.SearchStrategy[bytes]:
    """Tables in order, of which some columns hold values of another kind."""
    name = st.none() | st.text(max_size=9)
    kinds = [name, st.integers(-(2**63), 2**63 - 1), st.floats(), st.booleans(), st.binary(max_size=9), st.datetimes()]
    kinds += [st.lists(name, max_size=2), st.fixed_dictionaries({"bytes": st.binary(max_size=99), "path": name})]
    column = st.one_of(*(st.lists(st.none() | kind, min_size=6, max_size=6) for kind in kinds))
    unchecked = st.lists(st.binary(max_size=3), min_size=6, max_size=6)  # as text, which nobody has checked
    column |= unchecked.map(lambda values: pa.array(values, pa.binary()).view(pa.string()))
    names = ["id", "audio", "text", "speaker_id", "gender", "age", "accent", "domain", "x"]
    changes = st.dictionaries(st.sampled_from(names), column, max_size=2)
    return changes.map(lambda changed: parquet({**good_columns(), **changed}))


def as_table(content: bytes, folder: Path) -> Path:
    (folder / "clips").mkdir()
    (folder / "train.tsv").write_bytes(content)
    return folder


def as_release(content: bytes, folder: Path) -> Path:
    """A release whose train table is the input; dev and test are in order."""
    as_table(content, folder)
    for split in ("dev", "test"):
        (folder / f"{split}.tsv").write_bytes(as_lines(rows(1)).replace(b"common_voice", split.encode()))
    for name in clips_of(rows()):
        (folder / "clips" / name).write_bytes(SOUND)
        for split in ("dev", "test"):
            (folder / "clips" / name.replace("common_voice", split)).write_bytes(SOUND)
    return folder


def as_clip(content: bytes, folder: Path) -> Path:
    """A release in which the first clip of train is the input."""
    as_release(as_lines(rows()), folder)
    (folder / "clips" / clips_of(rows())[0]).write_bytes(content)
    return folder


def as_file(suffix: str, *, pack: bool = False, name: str = "input") -> Callable[[bytes, Path], Path]:
    def lay_out(content: bytes, folder: Path) -> Path:
        put_sounds(folder)
        path = folder / f"{name}{suffix}"
        path.write_bytes(gzip.compress(mended(content), 1) if pack else content)
        return path

    return lay_out


def put_sounds(folder: Path) -> None:
    """Six recordings for manifests to name."""
    for number in range(6):
        (folder / f"{number}.wav").write_bytes(SPOKEN)


def as_kaldi(content: bytes, folder: Path) -> Path:
    put_sounds(folder)
    for name, part in zip(("wav.scp", "text", "segments", "utt2spk"), content.split(b"\f", 3), strict=False):
        (folder / name).write_bytes(part)
    return folder


def as_supervisions(content: bytes, folder: Path) -> Path:
    put_sounds(folder)
    recordings, _, supervisions = content.partition(b"\f")
    (folder / "recordings.jsonl").write_bytes(recordings)
    (folder / "supervisions.jsonl").write_bytes(supervisions)
    return folder


def as_transcripts(content: bytes, folder: Path) -> Path:
    chapter = folder / "1" / "2"
    chapter.mkdir(parents=True)
    for number in range(6):
        (chapter / f"1-2-{number:04}.wav").write_bytes(SPOKEN)
    (chapter / "1-2.trans.txt").write_bytes(content)
    return folder


def as_saved(content: bytes, folder: Path) -> Path:
    (folder / "data-00000-of-00001.arrow").write_bytes(content)
    (folder / "state.json").write_text('{"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}')
    return folder


def as_texts(content: bytes, folder: Path) -> Path:
    for part in content.split(b"\f"):
        name, _, text = part.partition(b"\n")
        name = os.fsencode(folder) + b"/" + name[:100].replace(b"/", b"_").replace(b"\0", b"_")
        Path(os.fsdecode(name + b".wav")).write_bytes(SPOKEN)
        Path(os.fsdecode(name + b".txt")).write_bytes(text)
    return folder


def read_rows(locale: Path) -> Outcome:
    outcome: Outcome = Counter()
    for row in read_table(locale, "train"):
        outcome[f"left out: {row.reason}" if isinstance(row, BadRow) else "used"] += 1
    require_all(outcome, lines_of(locale / "train.tsv") - 1)
    return outcome


def lines_of(path: Path) -> int:
    """Lines with anything in them, in UTF-8, or in UTF-16 or UTF-32 by its mark; old Macs end them otherwise."""
    content = path.read_bytes()
    for mark, encoding in ((b"\xff\xfe\0\0", "utf-32"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16")):
        if content.startswith(mark):
            content = content.decode(encoding, "replace").encode("utf-8", "replace")
            break
    end = b"\r" if b"\r" in content and b"\n" not in content else b"\n"
    return sum(bool(line.strip()) for line in content.split(end))


def require_all(outcome: Outcome, given: int) -> None:
    assert outcome.total() == given, f"{given} rows were given, and only {dict(outcome)} is said of them"


def read_sound(path: Path) -> Outcome:
    decode(path.read_bytes(), max_seconds=30.0)
    return Counter(used=1)


def read_ids(path: Path) -> Outcome:
    return Counter(used=len(read_id_list(path).ids))


def read_name(path: Path) -> Outcome:
    name = path.read_bytes().decode("utf-8", "replace")
    assert subset_seconds(name) > 0
    assert subset_seed(name) >= 0
    return Counter(used=1)


def prepared(source: Path) -> Outcome:
    """The whole job, through the one door that every kind of source has."""
    out = source.parent / "prepared"
    body = prepare(source, language="it", out=out).read()
    shutil.rmtree(out)
    used = sum(split.utterances for split in body.splits.values())
    outcome = Counter(used=used, **{f"left out: {reason}": count for reason, count in body.dropped.items()})
    require_all(outcome, rows_given(source))
    return outcome


def rows_given(source: Path) -> int:
    """Rows of a source: counted without this package where that is simple."""
    chapter = source / "1" / "2"
    counts = {
        source.name in ("input.jsonl", "pipes.csv"): lambda: lines_of(source),
        source.suffix == ".json": lambda: len(json.loads(source.read_bytes().decode("utf-8-sig"))),
        source.suffix == ".parquet": lambda: int(pq.read_metadata(source).num_rows),
        (source / "state.json").is_file(): lambda: arrow_rows(source / "data-00000-of-00001.arrow"),
        (source / "supervisions.jsonl").is_file(): lambda: lines_of(source / "supervisions.jsonl"),
        (source / "text").is_file(): lambda: listed_once(
            source / "text", source / ("segments" if (source / "segments").is_file() else "wav.scp")
        ),
        chapter.is_dir(): lambda: listed_once(chapter / "1-2.trans.txt", chapter),
    }
    return counts.get(True, lambda: sum(1 for _ in open_source(str(source), locale="it").rows()))()


def arrow_rows(path: Path) -> int:
    with pa.memory_map(str(path)) as file:
        return sum(len(batch) for batch in pa.ipc.open_stream(file))


def listed_once(texts: Path, recordings: Path) -> int:
    """Rows of texts, and recordings that have none: those of a list, or of a folder."""
    text = first_words(texts)
    names = [path.stem for path in recordings.glob("*.wav")] if recordings.is_dir() else first_words(recordings)
    return len(text) + len(set(names) - set(text))


def first_words(path: Path) -> list[str]:
    lines = path.read_bytes().decode(errors="replace").split("\n") if path.is_file() else []
    return [re.split("[ \t]", line.removeprefix("\ufeff").strip())[0] for line in lines if line.strip()]


WORDS = st.text(max_size=20).map(lambda text: text.encode("utf-8", "replace")) | st.sampled_from(SPLICES)
SOUND, SPOKEN = speech("MP3", "MPEG_LAYER_III"), speech("WAV", "PCM_16")
TARGETS = {
    "table": Target(good_tables, as_table, read_rows, b"\t", share=6),
    "audio": Target(good_sounds, as_file(".audio"), read_sound, share=8),
    "id list": Target(lambda: [b"common_voice_it_1\ncommon_voice_it_2\n"], as_file(".txt"), read_ids, b"_"),
    "subset name": Target(lambda: [b"10min", b"1h@2", b"0.5h"], as_file(".name"), read_name, b"@"),
    "release": Target(good_tables, as_release, prepared, b"\t", share=2),
    "clip in a release": Target(good_sounds, as_clip, prepared, share=2),
    "archive, packed after": Target(good_archives, as_file(".tar.gz", pack=True), prepared, made=made_archives),
    "archive, as it is": Target(packed_or_not, as_file(".tar"), prepared),
    "JSONL": Target(good_jsonl, as_file(".jsonl"), prepared, b", ", members_of_json()),
    "CSV": Target(good_csv, as_file(".csv"), prepared, b","),
    "Kaldi": Target(good_kaldi, as_kaldi, prepared, b" "),
    "lhotse cuts": Target(good_cuts, as_file(".jsonl", name="cuts"), prepared, b", ", members_of_json()),
    "lhotse supervisions": Target(good_supervisions, as_supervisions, prepared, b", ", members_of_json()),
    "SpeechBrain": Target(good_speechbrain, as_file(".json"), prepared, b", ", members_of_json()),
    "LJSpeech": Target(good_ljspeech, as_file(".csv", name="pipes"), prepared, b"|"),
    "table of Excel": Target(good_wide, as_file(".csv"), prepared, b";"),
    "LibriSpeech": Target(good_transcripts, as_transcripts, prepared, b" "),
    "saved dataset": Target(good_arrow, as_saved, prepared),
    "audio with texts": Target(good_texts, as_texts, prepared, b" "),
    "parquet": Target(good_parquet, as_file(".parquet"), prepared, made=made_parquet),
}


def mutated(good: list[bytes], chance: random.Random) -> bytes:
    """A good input with one to eight things done to it, mostly few and small, so that much of it can still be read."""
    content = bytearray(chance.choice(good))
    for _ in range(chance.choice((1, 1, 1, 2, 2, 3, 5, 8))):
        here = chance.randrange(len(content) + 1)
        most = max(1, len(content) // 4)
        there = min(len(content), here + chance.randint(1, min(most, 1 << chance.randrange(most.bit_length()))))
        match chance.randrange(12):
            case 0 | 1:
                content[here : here + 1] = bytes([chance.randrange(256)])
            case 2 | 3:
                if here < len(content):
                    content[here] ^= 1 << chance.randrange(8)
            case 4 | 5:
                del content[here:there]
            case 6:
                content[here:here] = content[here:there]
            case 7 | 8:
                content[here:here] = chance.choice(SPLICES)
            case 9:
                splice = chance.choice(SPLICES)
                content[here : here + len(splice)] = splice
            case 10:
                del content[here:]
            case _:
                other = chance.choice(good)
                content[here:] = other[chance.randrange(len(other) + 1) :]
    return bytes(content)


def cells(target: Target) -> st.SearchStrategy[bytes]:
    """A good input in which some cells are another's or anything, and lines are moved, said again or anything."""
    inputs = [[line.split(target.between) for line in content.split(b"\n")] for content in target.good()]
    known = sorted({cell for lines in inputs for line in lines for cell in line})
    cell = (target.cell or WORDS) | st.sampled_from(known)
    place = st.integers(0, 1000)
    edits = st.lists(st.tuples(place, place, cell), max_size=4)
    loose = st.lists(st.tuples(place, st.lists(cell, max_size=8) | place), max_size=2)

    def edited(parts: tuple[list[list[bytes]], list, list]) -> bytes:
        lines = [list(line) for line in parts[0]]
        for row, column, value in parts[1]:
            line = lines[row % len(lines)]
            line[column % len(line)] = value
        for row, line in parts[2]:
            lines.insert(row % len(lines), line if isinstance(line, list) else lines[line % len(lines)])
        return b"\n".join(target.between.join(line) for line in lines)

    return st.tuples(st.sampled_from(inputs), edits, loose).map(edited)


def generated(target: Target, number: int, count: int, feed: Callable[[bytes], None]) -> None:
    """Feed what hypothesis makes: mostly inputs that are changed where it hurts, some that are anything."""
    good = target.good()
    cut = st.tuples(st.sampled_from(good), st.integers(0, 400), st.binary(max_size=2000))
    header = cut.map(lambda parts: parts[0][: parts[1]] + parts[2])  # it promises what does not follow
    made = st.one_of(st.sampled_from(good), st.binary(max_size=4000))
    if target.made or target.between:
        changed = target.made() if target.made else cells(target)
        made = st.one_of(changed, changed, changed, changed, made)
    else:
        made |= header

    @seed(number)
    @settings(max_examples=count, database=None, deadline=None, phases=[Phase.generate],
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(made)
    def each(content: bytes) -> None:
        feed(content)

    each()


def read_batch(name: str, batch: int, count: int, start: int, box: Path) -> None:
    """In a child process: read a batch of inputs, and keep what is being read on disk for the parent."""
    target = TARGETS[name]
    limit = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + MOST_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # progress bars, and what decoders in C complain of
    outcomes: Outcome = Counter()
    done = 0

    def feed(content: bytes) -> None:
        nonlocal done
        done += 1
        if done <= start:
            return
        (box / "input").write_bytes(content)
        (box / "done").write_text(str(done))
        try:
            outcomes.update(one(target, content, box))
        except BaseException:  # noqa: BLE001 (whatever it is, it is a failure; hypothesis would try to shrink it)
            (box / "traceback").write_text(traceback.format_exc())
            os._exit(1)
        (box / "outcomes.tmp").write_text(json.dumps(outcomes))
        (box / "outcomes.tmp").replace(box / "outcomes")  # whole, whenever this process is killed

    if batch % 2:
        generated(target, batch, count, feed)
    else:
        good = target.good()
        for place in range(count):
            feed(mutated(good, random.Random(f"{name}:{batch}:{place}")))


def one(target: Target, content: bytes, box: Path) -> Outcome:
    """Read one input."""
    folder = Path(tempfile.mkdtemp(dir=box))
    source = folder / "source"
    source.mkdir()
    outcome: Outcome = Counter(inputs=1)
    try:
        read = target.read(target.lay_out(content, source))
        outcome.update({"used": 1, **{f"rows {kind}": count for kind, count in read.items()}})
    except AsrLoraError as error:
        assert str(error).strip(), "refused without a sentence"
        outcome[f"refused: {error.reason if isinstance(error, AudioError) else type(error).__name__}"] += 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return outcome


def watch(name: str, batch: int, count: int, out: Path) -> tuple[Outcome, list[str]]:
    """Have a batch read by as many children as it takes; save each input that made one fail."""
    total: Outcome = Counter()
    failures: list[str] = []
    start = 0
    while start < count:
        with tempfile.TemporaryDirectory() as folder:
            box = Path(folder)
            child = multiprocessing.get_context("fork").Process(
                target=read_batch, args=(name, batch, count, start, box)
            )
            child.start()
            reason = supervised(child, box)
            total.update(json.loads((box / "outcomes").read_text()) if (box / "outcomes").is_file() else {})
            if not reason:
                break
            start = int((box / "done").read_text()) if (box / "done").is_file() else count
            failures.append(f"{name}, batch {batch}, input {start}: {reason}")
            saved = out / f"{name.replace(' ', '-').replace(',', '')}-{batch}-{start}"
            out.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):
                shutil.copyfile(box / "input", saved)
                shutil.copyfile(box / "traceback", saved.with_name(saved.name + ".txt"))
    return total, failures


def supervised(child: multiprocessing.process.BaseProcess, box: Path) -> str:
    """Wait for a child; say what was wrong with it, or nothing."""
    progress, since = "", time.monotonic()
    while child.is_alive():
        child.join(0.1)
        with contextlib.suppress(FileNotFoundError):
            now = (box / "done").read_text()
            if now != progress:
                progress, since = now, time.monotonic()
        if time.monotonic() - since > (MOST_SECONDS if progress else START_SECONDS):
            child.kill()
            child.join()
            return f"took more than {MOST_SECONDS:g} s"
    if child.exitcode == 0:
        return ""
    if (box / "traceback").is_file():
        return (box / "traceback").read_text().strip().splitlines()[-1]
    code = child.exitcode or 0
    return f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"


def require_good(names: Iterable[str] = ()) -> None:
    """See that every target uses all of its good inputs.

    Raises:
        RuntimeError: one is refused, or something of it is left out.
    """
    for name in names or TARGETS:
        for number, content in enumerate(TARGETS[name].good()):
            with tempfile.TemporaryDirectory() as folder:
                found = one(TARGETS[name], content, Path(folder))
            if not found["rows used"] or found.total() != 2 + found["rows used"]:  # one input, one used
                raise RuntimeError(f"{name}: good input {number} is not used whole: {dict(found)}")


def batches(inputs: int, first: int, only: list[str] | None) -> Iterator[tuple[str, int, int]]:
    """Share the inputs among the targets, half of each by mutation (even batches), half by hypothesis (odd ones)."""
    chosen = {name: target for name, target in TARGETS.items() if not only or name in only}
    for name, target in chosen.items():
        many = max(2, round(inputs * target.share / sum(each.share for each in chosen.values())))
        size = min(BATCH, -(-many // 2))
        for number in range(-(-many // size)):
            yield name, first + number, size


def fuzz(
    inputs: int, out: Path, *, first: int = 0, only: list[str] | None = None
) -> tuple[dict[str, Outcome], list[str]]:
    """Read so many inputs; return outcomes by target, and the failures."""
    row_schema()  # with spoken_language: imports that every child would else do for itself
    spoken_language("it")
    outcomes: dict[str, Outcome] = {}
    failures: list[str] = []
    for name, batch, size in batches(inputs, first, only):
        found, failed = watch(name, batch, size, out)
        outcomes.setdefault(name, Counter()).update(found)
        failures += failed
        for failure in failed:
            print(failure, file=sys.stderr, flush=True)
    return outcomes, failures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=12_000)
    parser.add_argument(
        "--first", type=int, default=0, help="batch to begin with: another, other inputs (an even number)"
    )
    parser.add_argument("--only", nargs="+", choices=list(TARGETS))
    parser.add_argument("--out", type=Path, default=Path("fuzz"), help="inputs that failed go here")
    options = parser.parse_args()
    require_good(options.only or ())
    begun = time.monotonic()
    outcomes, failures = fuzz(options.inputs, options.out, first=options.first, only=options.only)
    total = sum(found["inputs"] for found in outcomes.values())
    for name, found in outcomes.items():
        print(f"{name}: " + ", ".join(f"{kind} {count:,}" for kind, count in sorted(found.items())))
    print(f"{total:,} inputs in {time.monotonic() - begun:.0f} s, {len(failures)} failures")
    for failure in failures:
        print(failure)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
