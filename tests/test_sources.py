"""Sources of every kind: what is read, what is left out and why, what is refused."""

import io
import json
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from asr_lora.dataset.plan import SelectionRules, build_plan
from asr_lora.dataset.plan_database import PlanDatabase
from asr_lora.errors import ConfigError, DataError
from asr_lora.sources.archive import members
from asr_lora.sources.audio_text_pairs import AudioTextPairs
from asr_lora.sources.commonvoice import ReleaseArchive, ReleaseOnDisk, Tables, read_spontaneous
from asr_lora.sources.interface import BadRow, Utterance, WeightedSource, safe_id, sampled_digest
from asr_lora.sources.kaldi import Kaldi, read_kaldi
from asr_lora.sources.open import open_source, open_sources, split_weight
from asr_lora.sources.parquet import HubDataset, ParquetFiles
from asr_lora.sources.speech_manifest import Manifest, read_manifest
from asr_lora.text import TextCleaning, sentence_key

HEADER = ("client_id", "path", "sentence", "up_votes", "down_votes", "age", "gender", "accents", "locale", "segment")
SPOKEN_HEADER = (
    "client_id", "audio_id", "audio_file", "duration_ms", "prompt_id", "prompt", "transcription", "votes", "age",
    "gender", "accents", "variant", "language", "prompt_upvotes", "prompt_reports", "is_edited", "split",
    "char_per_sec", "quality_tags",
)  # fmt: skip


def sound(seed: int, seconds: float = 0.3) -> bytes:
    """A WAV file of noise, unlike that of any other seed."""
    buffer = io.BytesIO()
    samples = np.random.default_rng(seed).normal(0, 0.1, int(seconds * 16_000))
    soundfile.write(buffer, samples, 16_000, format="WAV")
    return buffer.getvalue()


def table(header, rows) -> str:
    lines = ["\t".join(header), *("\t".join(str(row.get(name, "")) for name in header) for row in rows)]
    return "\n".join(lines) + "\n"


def write(folder: Path, files: dict[str, bytes | str]) -> Path:
    for name, body in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body.encode() if isinstance(body, str) else body)
    return folder


def release_files(home: str, splits: dict[str, list[tuple[str, str, str]]], **more) -> dict[str, bytes | str]:
    """Tables of (speaker, clip, sentence) by split, and the clips."""
    files: dict[str, bytes | str] = {}
    for number, (split, rows) in enumerate(splits.items()):
        dicts = [{"client_id": who, "path": f"{clip}.wav", "sentence": text, **more} for who, clip, text in rows]
        files[f"{home}/{split}.tsv"] = table(HEADER, dicts)
        for place, (_, clip, _) in enumerate(rows):
            files[f"{home}/clips/{clip}.wav"] = sound(1000 * number + place)
    return files


SPLITS = {
    "train": [("anna", "a1", "uno"), ("anna", "a2", "due"), ("bea", "b1", "tre")],
    "dev": [("carla", "c1", "quattro")],
    "test": [("dora", "d1", "cinque")],
}


def pack(path: Path, files: dict[str, bytes | str], mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as tar:
        for name, body in files.items():
            data = body.encode() if isinstance(body, str) else body
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def good(rows) -> list[Utterance]:
    return [row for row in rows if isinstance(row, Utterance)]


def bad(rows) -> dict[str, str]:
    return {row.id: row.reason for row in rows if isinstance(row, BadRow)}


def planned(tmp_path: Path, *found: WeightedSource, **rules):
    path = tmp_path / f"plan-{len(list(tmp_path.glob('plan-*')))}.sqlite"
    build_plan(path, found, SelectionRules(**rules))
    return PlanDatabase(path, path.with_suffix(".scratch"))


def splits_of(plan: PlanDatabase) -> dict[str, str]:
    return dict(plan.database.execute("SELECT id, split FROM utterance WHERE reason IS NULL ORDER BY id").fetchall())


# Archives ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "mode"), [("cv.tar.gz", "w:gz"), ("cv.tgz", "w:gz"), ("x.tar", "w")])
@pytest.mark.parametrize("clips_first", [True, False])
def test_an_archive_is_the_folder_it_was_made_of(tmp_path, name, mode, clips_first):
    files = release_files("cv-corpus-25.0-2026-03-09/it", SPLITS)
    files = dict(sorted(files.items(), reverse=not clips_first))
    folder = open_source(str(write(tmp_path / "open", files)), locale="it")
    packed = open_source(str(pack(tmp_path / name, files, mode)), locale="it")
    assert isinstance(folder, ReleaseOnDisk)
    assert isinstance(packed, ReleaseArchive)
    assert folder.name == "cv-corpus-25.0-2026-03-09/it"
    assert {row.id: row for row in packed.rows()} == {row.id: row for row in folder.rows()}
    wanted = ["a1.wav", "d1.wav", "zzz.wav"]
    clips = dict(packed.recordings(wanted))
    assert clips == {clip: files[f"cv-corpus-25.0-2026-03-09/it/clips/{clip}"] for clip in wanted[:2]}
    assert dict(folder.recordings(wanted))["a1.wav"].read_bytes() == clips["a1.wav"]


def test_the_locale_in_an_archive_is_found_whatever_its_name(tmp_path):
    files = release_files("./cv-corpus-1/zh-CN", SPLITS) | release_files("./cv-corpus-1/it", SPLITS)
    archive = pack(tmp_path / "download(3).tar.gz", files)
    assert len(good(ReleaseArchive(archive, "ZH-cn").rows())) == 5
    with pytest.raises(DataError, match=r"has no locale 'fr'; it has it, zh-CN\. Name one with --locale"):
        list(ReleaseArchive(archive, "fr").rows())
    twice = pack(tmp_path / "two.tar", release_files("cv-1/it", SPLITS) | release_files("cv-2/it", SPLITS), "w")
    with pytest.raises(DataError, match="more than once"):
        list(ReleaseArchive(twice, "it").rows())
    with pytest.raises(DataError, match="no Common Voice release"):
        list(ReleaseArchive(pack(tmp_path / "photos.tar", {"a/b.jpg": "x"}, "w"), "it").rows())
    lacking = {name: body for name, body in release_files("cv/it", SPLITS).items() if "dev.tsv" not in name}
    with pytest.raises(DataError, match=r"dev\.tsv is missing"):
        list(ReleaseArchive(pack(tmp_path / "lacking.tgz", lacking), "it").rows())


@pytest.mark.parametrize(
    ("kind", "name", "sentence"),
    [
        (tarfile.SYMTYPE, "cv/it/clips/link.mp3", "a link or a device"),
        (tarfile.LNKTYPE, "cv/it/clips/link.mp3", "a link or a device"),
        (tarfile.CHRTYPE, "cv/it/clips/null", "a link or a device"),
        (tarfile.FIFOTYPE, "cv/it/clips/pipe", "a link or a device"),
        (tarfile.REGTYPE, "../../etc/cron.d/x", "a path outside the archive"),
        (tarfile.REGTYPE, "/etc/passwd", "a path outside the archive"),
        (tarfile.REGTYPE, "cv/it/clips/../../../x", "a path outside the archive"),
    ],
)
def test_an_archive_that_means_harm_is_refused(tmp_path, kind, name, sentence):
    archive = tmp_path / "cv.tar"
    with tarfile.open(archive, "w") as tar:
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, "/etc/passwd"
        tar.addfile(info)
    with pytest.raises(DataError, match=f"{sentence}.*refused"):
        list(members(archive))


def test_a_bomb_is_cut_off_while_it_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr("asr_lora.sources.archive.FREE_BYTES", 1 << 20)
    archive = pack(tmp_path / "bomb.tar.gz", {"cv/it/clips/a.mp3": b"\0" * (64 << 20)})
    assert archive.stat().st_size < 100_000
    with pytest.raises(DataError, match="expands to more than"):
        list(members(archive))


def test_every_truncation_of_an_archive_is_one_sentence(tmp_path):
    for name, mode in (("cv.tar", "w"), ("cv.tar.gz", "w:gz")):
        whole = pack(tmp_path / name, release_files("cv/it", SPLITS), mode).read_bytes()
        # What follows the mark of the end in a plain archive is padding.
        end = len(whole) if mode == "w:gz" else len(whole.rstrip(b"\0")) // 512 * 512
        for length in range(0, end, 211):
            cut = tmp_path / f"cut-{name}"
            cut.write_bytes(whole[:length])
            source = ReleaseArchive(cut, "it")
            with pytest.raises(DataError, match=r"truncated or damaged"):
                list(source.rows())


@settings(max_examples=150, deadline=None)
@given(data=st.binary(min_size=1, max_size=40), place=st.integers(0, 10_239), packed=st.booleans())
def test_no_damage_breaks_the_reader_of_archives(tmp_path_factory, data, place, packed):
    folder = tmp_path_factory.mktemp("damage")
    whole = pack(folder / "cv.tar", release_files("cv/it", SPLITS), "w:gz" if packed else "w").read_bytes()
    place %= len(whole)
    (folder / "cv.tar").write_bytes(whole[:place] + data + whole[place + len(data) :])
    source = ReleaseArchive(folder / "cv.tar", "it")
    try:
        rows = list(source.rows())
        clips = list(source.recordings([row.recording for row in good(rows)]))
    except DataError as error:
        assert str(folder) in str(error)
    else:
        assert all(isinstance(clip, str) and isinstance(body, bytes) for clip, body in clips)


# Deltas, validated, Spontaneous Speech -------------------------------------------------------------------------------


def test_a_delta_goes_to_train_unless_speaker_or_sentence_is_held_out(tmp_path):
    base = write(tmp_path / "base", release_files("cv-corpus-24.0/it", SPLITS))
    added = {"validated": [
        ("carla", "n1", "sei"), ("eva", "n2", "Quattro!"), ("anna", "n3", "sette"), ("eva", "n4", "otto"),
        ("anna", "a1", "uno"),
    ]}  # fmt: skip
    delta = pack(tmp_path / "delta.tar.gz", release_files("cv-corpus-25.0-delta-2026-03-09/it", added))
    plan = planned(tmp_path, *open_sources([str(base)], locale="it", deltas=[delta]))
    assert splits_of(plan) == {"a1": "train", "a2": "train", "b1": "train", "c1": "dev", "d1": "test", "n3": "train",
                               "n4": "train"}  # fmt: skip
    assert [(row["id"], row["reason"]) for row in plan.dropped() if row["reason"] != "missing"] == [
        ("n1", "speaker is in dev or test"), ("n2", "sentence is in dev or test"), ("a1", "utterance is listed before"),
    ]  # fmt: skip
    with pytest.raises(DataError, match="prepare BASE --delta DELTA"):
        list(open_source(str(delta), locale="it").rows())
    with pytest.raises(ConfigError, match="--delta needs exactly one SOURCE, a Common Voice release"):
        open_sources([str(base), str(base)], locale="it", deltas=[delta])


def crowd(sizes: dict[str, int]) -> list[tuple[str, str, str]]:
    return [(who, f"{who}-{n}", f"frase {who} {n}") for who, size in sizes.items() for n in range(size)]


def test_splits_made_here_are_by_speaker_by_rule_and_the_same_everywhere(tmp_path):
    sizes = {f"modest{n}": 1 + n % 3 for n in range(60)} | {"prolific": 80, "other prolific": 60}
    rows = crowd(sizes)
    folder = write(tmp_path / "one", release_files("cv/it", {"validated": rows}))
    shuffled = sorted(rows, key=lambda row: sentence_key(row[1]))
    again = write(tmp_path / "two", release_files("cv/it", {"validated": shuffled}))
    first, second, seeded = (
        splits_of(planned(tmp_path, *open_sources([str(place)], locale="it", splits_from="validated"), seed=seed))
        for place, seed in ((folder, 0), (again, 0), (folder, 1))
    )
    assert first == second != seeded
    for splits in (first, seeded):
        count = Counter(splits.values())
        assert 25 <= count["dev"] <= 29  # a tenth of 259, and at most one modest speaker more
        assert 25 <= count["test"] <= 29
        where = {who: {split for clip, split in splits.items() if clip.startswith(f"{who}-")} for who in sizes}
        assert all(len(found) == 1 for found in where.values())
        assert where["prolific"] == where["other prolific"] == {"train"}


def test_the_splits_made_here_do_not_change(tmp_path):
    """Pinned: a dataset that is made again, by any version and on any machine, has the splits that it had."""
    rows = crowd({f"s{n}": 2 for n in range(12)})
    folder = write(tmp_path / "cv", release_files("cv/it", {"validated": rows}))
    plan = planned(tmp_path, *open_sources([str(folder)], locale="it", splits_from="validated"))
    held = {split: sorted({clip.split("-")[0] for clip, name in splits_of(plan).items() if name == split})
            for split in ("dev", "test")}  # fmt: skip
    assert held == PINNED


PINNED: dict[str, list[str]] = {"dev": ["s0"], "test": ["s11"]}


def test_sentences_of_dev_and_test_are_kept_out_of_train(tmp_path):
    rows = [(who, f"{who}-{n}", f"frase {n}" if n else "Sempre la stessa.") for who in "abcdefgh" for n in range(2)]
    folder = write(tmp_path / "cv", release_files("cv/it", {"validated": rows}))
    found = open_sources([str(folder)], locale="it", splits_from="validated")
    with pytest.raises(DataError, match=r"no utterance for train .*sentence is in dev or test"):
        planned(tmp_path, *found)
    assert Counter(splits_of(planned(tmp_path, *found, keep_shared_sentences=True)).values())["train"] > 4


def test_few_speakers_and_none(tmp_path):
    for name, speakers, note in (("few", ["a", "b"], "fewer than three speakers"), ("none", [""], "without a speaker")):
        rows = [{"audio": f"{n}.wav", "text": f"frase {n}", "speaker": speakers[n % len(speakers)]} for n in range(30)]
        path = write(tmp_path, {f"{name}.jsonl": "".join(json.dumps(row) + "\n" for row in rows)}) / f"{name}.jsonl"
        plan = planned(tmp_path, *open_sources([path], locale="it"))
        assert Counter(splits_of(plan).values()) == {"train": 24, "dev": 3, "test": 3}
        assert note in plan.fact("notes")[0]


def spoken_files(home: str, rows) -> dict[str, bytes | str]:
    dicts = [{"client_id": who, "audio_file": f"{clip}.mp3", "transcription": text, "split": split}
             for who, clip, text, split in rows]  # fmt: skip
    files: dict[str, bytes | str] = {f"{home}/ss-corpus-it.tsv": table(SPOKEN_HEADER, dicts)}
    return files | {f"{home}/audios/{clip}.mp3": sound(n) for n, (_, clip, _, _) in enumerate(rows)}


SPOKEN = [
    ("a", "1", "allora [disfluency] io  direi", "train"),
    ("b", "2", "[laugh]", "train"),
    ("c", "3", "e poi", "dev"),
    ("d", "4", "basta", "test"),
    ("e", "5", "non so", "unassigned"),
]


@pytest.mark.parametrize("packed", [True, False])
def test_spontaneous_speech(tmp_path, packed):
    files = spoken_files("sps-corpus-1.0-2025-09-05-it", SPOKEN)
    place = pack(tmp_path / "sps.tar.gz", files) if packed else write(tmp_path / "sps", files)
    source = open_source(str(place), locale="it")
    rows = list(source.rows())
    assert [(row.id, row.text, row.split) for row in good(rows)] == [
        ("1", "allora io direi", "train"), ("2", "", "train"), ("3", "e poi", "dev"), ("4", "basta", "test"),
    ]  # fmt: skip
    assert bad(rows) == {"5": "in no split"}
    assert [clip for clip, _ in source.recordings(["1.mp3", "4.mp3"])] == ["1.mp3", "4.mp3"]
    kept = open_source(str(place), locale="it", tables=Tables(keep_marks=True))
    assert good(kept.rows())[0].text == "allora [disfluency] io direi"
    assert kept.digest() != source.digest()
    validated = open_source(str(place), locale="it", tables=Tables.of("validated"))
    assert {row.split for row in good(validated.rows())} == {""}
    assert len(good(validated.rows())) == 5


def test_a_spontaneous_table_of_another_kind(tmp_path):
    path = write(tmp_path, {"ss-corpus-it.tsv": "a\tb\n"}) / "ss-corpus-it.tsv"
    with pytest.raises(DataError, match="has no column client_id, audio_file, transcription"):
        list(read_spontaneous(path))


# Manifests -----------------------------------------------------------------------------------------------------------


def test_nemo_and_whisper_manifests(tmp_path):
    rows = [
        {"audio_filepath": "a.wav", "duration": 3.1, "text": "uno"},
        {"audio_filepath": "sub/b.wav", "duration": 1.5, "offset": 2.0, "text": "due", "speaker": 7},
        {"audio": {"path": "c.wav", "start_time": 1.0, "end_time": 2.5}, "sentence": "tre", "gender": "Male"},
        {"audio": {"path": "c.wav"}, "sentence": "quattro", "split": "validation"},
        {"audio_filepath": str(tmp_path.parent / "d.wav"), "text": "cinque", "split": "test"},
        {"audio_filepath": "e.wav"},
        {"text": "sei"},
        {"audio_filepath": "f.wav", "text": "sette", "offset": 2, "duration": -1},
        {"audio": {"path": "g.wav", "start_time": 3, "end_time": 2}, "text": "otto"},
        {"audio_filepath": "h.wav", "text": "nove", "split": "holdout"},
        ["no object"],
    ]
    path = tmp_path / "m.jsonl"
    path.write_bytes("".join(json.dumps(row) + "\n" for row in rows).encode() + b"{half\n\xff\xfe\n")
    found = list(read_manifest(path))
    first, second, third, fourth, fifth = good(found)
    assert (first.id, first.recording, first.start, first.seconds) == ("a", "a.wav", 0.0, None)
    assert (second.id, second.start, second.seconds, second.speaker) == ("sub_b-2.000", 2.0, 1.5, "7")
    assert (third.start, third.seconds, third.gender) == (1.0, 1.5, "male")
    assert (fourth.split, fifth.split) == ("dev", "test")
    assert str(tmp_path.parent) not in fifth.id
    assert bad(found) == {
        "m.jsonl:6": "row has no text", "m.jsonl:7": "row names no audio", "m.jsonl:8": "times are not in order",
        "m.jsonl:9": "times are not in order", "m.jsonl:10": "in no split", "m.jsonl:11": "row is not JSON",
        "m.jsonl:12": "row is not JSON", "m.jsonl:13": "row is not UTF-8",
    }  # fmt: skip
    for body, sentence in (("[{}]", "no column of audio"), ('[{"audio": "a.wav"', "is no JSON")):
        (tmp_path / "list.json").write_text(body)
        with pytest.raises(DataError, match=sentence):
            list(read_manifest(tmp_path / "list.json"))


def test_tables_with_a_header(tmp_path):
    files = {
        "m.csv": '\ufefffile_name,transcription,speaker_id\na.wav,"sì, ""certo""",s1\nb.wav\nc.wav,"a\nb",s2\n',
        "m.tsv": 'path\tsentence\na.wav\t"Kom\nb.wav\tdue\n',
        "open.csv": 'path,text\na.wav,"mai chiuso\nb.wav,due\n',
        "other.csv": "x,y\n1,2\n",
        "empty.tsv": "",
    }
    write(tmp_path, files)
    rows = list(read_manifest(tmp_path / "m.csv"))
    assert [(row.recording, row.text, row.speaker) for row in good(rows)] == [
        ("a.wav", 'sì, "certo"', "s1"), ("c.wav", "a b", "s2"),
    ]  # fmt: skip
    assert bad(rows) == {"m.csv:3": "row is cut short"}
    assert [row.text for row in read_manifest(tmp_path / "m.tsv")] == ['"Kom', "due"]
    for name, sentence in (
        ("open.csv", "Correct the quotation marks"), ("other.csv", "no column of audio"), ("empty.tsv", "is empty"),
    ):  # fmt: skip
        with pytest.raises(DataError, match=sentence):
            list(read_manifest(tmp_path / name))
    chosen = list(read_manifest(tmp_path / "m.csv", text_column="speaker_id"))
    assert [row.text for row in good(chosen)] == ["s1", "s2"]


@settings(max_examples=300, deadline=None)
@given(body=st.binary(max_size=400), name=st.sampled_from(["m.jsonl", "m.csv", "m.tsv"]), header=st.booleans())
def test_no_manifest_breaks_the_reader(tmp_path_factory, body, name, header):
    path = tmp_path_factory.mktemp("m") / name
    first = {"m.jsonl": b"", "m.csv": b"path,text,offset,duration\n", "m.tsv": b"path\ttext\n"}[name]
    path.write_bytes((first if header else b"") + body)
    check_rows(path)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(
        ["path", "start_time", "end_time", "x"]), inner, max_size=3),
    max_leaves=5,
)  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(rows=st.lists(st.dictionaries(st.sampled_from(
    ["audio", "audio_filepath", "text", "sentence", "offset", "duration", "speaker", "split", "gender", "id"]
), VALUES, max_size=8), max_size=4))  # fmt: skip
def test_no_json_breaks_the_reader_or_the_plan(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("m")
    path = folder / "m.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    check_rows(path)
    try:
        planned(folder, WeightedSource(Manifest(path, (("", path),)), 0)).close()
    except DataError as error:
        assert "no utterance for" in str(error) or "has no column of" in str(error)


def check_rows(path: Path) -> None:
    try:
        rows = list(read_manifest(path))
    except DataError as error:
        assert str(path) in str(error)
        return
    for row in good(rows):
        assert row.start >= 0
        assert row.seconds is None or row.seconds > 0
        assert "/" not in row.id
        assert not row.id.startswith(".")


def test_a_folder_of_audio_beside_text(tmp_path):
    write(tmp_path, {
        "a.wav": sound(1), "a.txt": "uno\n", "sub/b.flac": sound(2), "sub/b.txt": "\ufeffdue  due", "c.wav": sound(3),
        "d.txt": "sei", "e.wav": sound(4), "e.txt": b"\xff", ".hidden/x.wav": sound(5), ".hidden/x.txt": "no",
        "notes.pdf": "x",
    })  # fmt: skip
    source = open_source(str(tmp_path), locale="it")
    assert isinstance(source, AudioTextPairs)
    rows = list(source.rows())
    assert [(row.id, row.text, row.recording) for row in good(rows)] == [
        ("a", "uno", "a.wav"), ("sub_b", "due due", "sub/b.flac"),
    ]  # fmt: skip
    assert bad(rows) == {
        "c.wav": "no text beside the audio", "d.txt": "no audio beside the text", "e.wav": "text is not UTF-8",
    }  # fmt: skip
    before = source.digest()
    (tmp_path / "a.txt").write_text("tre\n")
    assert source.digest() != before


KALDI = {
    "wav.scp": "rec1 r/1.wav\nrec2 /abs/2.wav\n",
    "text": "u1 uno due\nu2 tre\nu3 quattro\nu4 cinque\nu5 sei\n",
    "segments": "u1 rec1 0.0 1.5\nu2 rec1 1.5 -1\nu3 rec9 0 1\nu4 rec2 2 1\nu6 rec1 3 4\n",
    "utt2spk": "u1 anna\nu2 bea\n",
    "spk2gender": "anna f\nbea m\n",
}


def test_kaldi(tmp_path):
    folder = write(tmp_path / "train", KALDI)
    rows = list(read_kaldi(folder))
    assert [(row.id, row.recording, row.start, row.seconds, row.speaker, row.gender) for row in good(rows)] == [
        ("u1", "r/1.wav", 0.0, 1.5, "anna", "female"), ("u2", "r/1.wav", 1.5, None, "bea", "male"),
    ]  # fmt: skip
    assert bad(rows) == {
        "u3": "not in wav.scp", "u4": "times are not in order", "u5": "not in segments", "u6": "no text",
    }  # fmt: skip
    write(tmp_path / "dev", {"wav.scp": "x x.wav\n", "text": "x\tciao a tutti\n"})
    source = open_source(str(tmp_path), locale="it")
    assert isinstance(source, Kaldi)
    assert {(row.split, row.recording) for row in good(source.rows())} == {
        ("train", "train/r/1.wav"),
        ("dev", "dev/x.wav"),
    }
    assert dict(source.recordings(["train/r/1.wav"])) == {"train/r/1.wav": tmp_path / "train/r/1.wav"}


def test_no_line_of_a_kaldi_folder_is_lost(tmp_path):
    files = {"wav.scp": "u1 1.wav\nu1 1.wav\n", "text": "u1 uno\nu1 due\n"}
    folder = write(tmp_path, files)
    rows = list(read_kaldi(folder))
    assert [row.text for row in good(rows)] == ["uno"]
    assert bad(rows) == {"u1": "utterance is listed before"}
    write(tmp_path, {"wav.scp": "u1 1.wav\nu1 2.wav\n"})
    with pytest.raises(DataError, match=r"line 2: u1 has another value in an earlier line\. Keep one of the two lines"):
        list(read_kaldi(folder))


def test_a_kaldi_command_is_refused_and_never_run(tmp_path):
    ran = tmp_path / "ran"
    write(tmp_path, {"wav.scp": f"u1 touch {ran} |\n", "text": "u1 uno\n"})
    with pytest.raises(DataError, match=r"line 1: commands are not run\. Write the audio to a file"):
        list(open_source(str(tmp_path), locale="it").rows())
    assert not ran.exists()
    (tmp_path / "text").unlink()
    with pytest.raises(DataError, match="text is missing"):
        list(read_kaldi(tmp_path))


# Tables that hold audio ----------------------------------------------------------------------------------------------


def parquet(path: Path, rows: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def audio_rows(split: str, count: int) -> list[dict]:
    return [
        {"audio": {"bytes": sound(n), "path": f"{n}.wav"}, "transcription": f"{split} {n}", "speaker_id": n}
        for n in range(count)
    ]


def test_parquet_files(tmp_path):
    for split, count in (("train", 40), ("validation", 2), ("test", 2)):
        parquet(tmp_path / "data" / f"{split}-00000-of-00001.parquet", audio_rows(split, count))
    source = open_source(str(tmp_path), locale="it")
    assert isinstance(source, ParquetFiles)
    rows = good(source.rows())
    assert Counter(row.split for row in rows) == {"train": 40, "dev": 2, "test": 2}
    wanted = [row.recording for row in rows if row.text in ("train 33", "validation 1")]
    assert sorted(body for _, body in source.recordings(wanted)) == sorted([sound(33), sound(1)])
    single = open_source(str(tmp_path / "data" / "test-00000-of-00001.parquet"), locale="it")
    assert {row.split for row in good(single.rows())} == {""}
    broken = write(tmp_path, {"x.parquet": "no parquet"}) / "x.parquet"
    with pytest.raises(DataError, match="is no parquet file"):
        list(open_source(str(broken), locale="it").rows())
    mute = parquet(tmp_path / "mute.parquet", [{"text": "x"}])
    with pytest.raises(DataError, match="has no column of audio; it has text"):
        list(open_source(str(mute), locale="it").rows())


def test_a_mirror_of_common_voice_keeps_what_is_known_of_its_speakers(tmp_path):
    facts = {"client_id": "anna", "path": "a.mp3", "sentence": "uno", "age": "thirties", "gender": "female_feminine",
             "accents": "Toscana", "sentence_domain": "healthcare"}  # fmt: skip
    rows = [{**facts, "audio": {"bytes": sound(1), "path": "a.mp3"}}]
    (table,) = good(open_source(str(parquet(tmp_path / "x.parquet", rows)), locale="it").rows())
    write(tmp_path, {"x.jsonl": json.dumps({**facts, "audio": "a.mp3"}) + "\n"})
    (listed,) = good(open_source(str(tmp_path / "x.jsonl"), locale="it").rows())
    for row in (table, listed):
        assert (row.speaker, row.age, row.gender) == ("anna", "thirties", "female")
        assert (row.accent, row.domain) == ("Toscana", "healthcare")


def test_a_speaker_whose_number_is_zero_is_known(tmp_path):
    path = parquet(tmp_path / "x.parquet", audio_rows("train", 2))
    assert [row.speaker for row in good(open_source(str(path), locale="it").rows())] == ["0", "1"]


def test_what_parquet_files_hold_beside_their_splits_and_beside_utf8(tmp_path):
    for split, count in (("train", 3), ("test", 1), ("invalidated", 5)):
        parquet(tmp_path / f"{split}.parquet", audio_rows(split, count))
    table = pq.read_table(tmp_path / "train.parquet")
    texts = pa.array([b"uno", b"\xff", b"tre"]).view(pa.string())
    pq.write_table(table.set_column(1, "transcription", texts), tmp_path / "train.parquet")
    source = open_source(str(tmp_path), locale="it")
    rows = list(source.rows())
    assert [(row.text, row.speaker, row.split) for row in good(rows)] == [
        ("test 0", "0", "test"), ("uno", "0", "train"), ("tre", "2", "train"),
    ]  # fmt: skip
    assert bad(rows) == {
        "invalidated.parquet": "split is none of train, dev and test", "train-00000001": "row cannot be read",
    }  # fmt: skip
    assert len(list(source.recordings({row.recording for row in good(rows)}))) == 3


def test_a_hub_dataset_as_a_stream(tmp_path):
    """A folder in the hub's layout goes through the same code as the hub."""
    from datasets import Audio, Dataset

    for split, count in (("train", 3), ("validation", 2), ("test", 1)):
        rows = Dataset.from_list(audio_rows(split, count)).cast_column("audio", Audio(decode=False))
        rows.to_parquet(str(tmp_path / "data" / f"{split}-00000-of-00001.parquet"))
    source = open_source(f"hf:{tmp_path}", locale="it")
    assert isinstance(source, HubDataset)
    rows = good(source.rows())
    assert [(row.split, row.text) for row in rows] == [
        ("train", "train 0"), ("train", "train 1"), ("train", "train 2"), ("dev", "validation 0"),
        ("dev", "validation 1"), ("test", "test 0"),
    ]  # fmt: skip
    assert dict(source.recordings([rows[2].recording])) == {rows[2].recording: sound(2)}
    assert source.digest() == open_source(f"hf:{tmp_path}", locale="it").digest()


def test_a_hub_that_does_not_answer_is_one_sentence():
    with pytest.raises(DataError, match=r"hf:nobody/nothing cannot be opened, .*: unset HF_HUB_OFFLINE"):
        open_source("hf:nobody/nothing", locale="it").digest()
    with pytest.raises(DataError, match=r"cannot be opened"):
        list(open_source("hf:nobody/nothing:it", locale="it").rows())


# All of them ---------------------------------------------------------------------------------------------------------


def test_weights_and_several_sources(tmp_path):
    for name, count in (("one", 40), ("two", 60)):
        rows = [{"audio": f"{n}.wav", "text": f"{name} {n}", "speaker": f"s{n % 10}",
                 "split": "train" if n % 10 > 1 else ("dev", "test")[n % 10]} for n in range(count)]  # fmt: skip
        write(tmp_path, {f"{name}.jsonl": "".join(json.dumps(row) + "\n" for row in rows)})
    found = open_sources([f"{tmp_path / 'one.jsonl'}", f"{tmp_path / 'two.jsonl'}=0.25"], locale="it")
    plan = planned(tmp_path, *found)
    splits = splits_of(plan)
    assert Counter((clip[:3], split) for clip, split in splits.items()) == {
        ("s1-", "train"): 32, ("s1-", "dev"): 4, ("s1-", "test"): 4,
        ("s2-", "train"): 12, ("s2-", "dev"): 6, ("s2-", "test"): 6,
    }  # fmt: skip
    half = planned(tmp_path, *open_sources([f"{tmp_path / 'two.jsonl'}=0.5"], locale="it"))
    # A smaller share lies within a larger one.
    more = {clip for clip, split in splits_of(half).items() if split == "train"}
    assert len(more) == 24
    people = plan.database.execute("SELECT COUNT(DISTINCT person) FROM utterance").fetchone()
    assert people == (20,)  # s0 of one is not s0 of the other


def test_weights_that_are_none(tmp_path):
    assert split_weight("talks=0.5") == ("talks", 0.5)
    assert split_weight("a=b") == ("a=b", 1.0)
    (tmp_path / "x=0.5").mkdir()
    assert split_weight(f"{tmp_path}/x=0.5") == (f"{tmp_path}/x=0.5", 1.0)
    with pytest.raises(ConfigError, match="would store utterances twice"):
        split_weight("talks=2")
    for word in ("talks=0", "talks=-1", "talks=nan"):
        with pytest.raises(ConfigError, match="above 0 and at most 1"):
            split_weight(word)


def test_what_is_no_source(tmp_path):
    write(tmp_path, {"a.pdf": "x", "empty/.keep": "", "broken/clips/a.mp3": "x"} | release_files("cv/it", SPLITS))
    for word in ("hf:", "hf:/:it"):
        with pytest.raises(ConfigError, match="names no dataset: write hf:OWNER/NAME"):
            open_source(word, locale="it")
    with pytest.raises(ConfigError, match="--text-column x is for manifests"):
        open_sources([str(tmp_path / "cv")], locale="it", text_column="x")
    for name, sentence in (
        ("nowhere", "is not there"), ("a.pdf", "no folder and no .tar.gz"), ("empty", "SOURCE is a Common Voice"),
        ("broken", "train.tsv is missing"), ("cv/it/train.tsv", "one table of a Common Voice release"),
    ):  # fmt: skip
        with pytest.raises(DataError, match=sentence):
            list(open_source(str(tmp_path / name), locale="it").rows())


def test_digests_tell_files_apart(tmp_path):
    one = tmp_path / "one"
    one.write_bytes(bytes(10_000_000))
    before = sampled_digest(one)
    assert sampled_digest(one) == before
    for place in (0, 9_999_999):
        body = bytearray(10_000_000)
        body[place] = 1
        one.write_bytes(body)
        assert sampled_digest(one) != before
    one.write_bytes(bytes(9_999_999))
    assert sampled_digest(one) != before


@given(st.text(max_size=300), st.text(max_size=300))
def test_ids_can_be_names_of_files(one, other):
    name = safe_id(one)
    assert "/" not in name
    assert "\0" not in name
    assert len(name) < 120
    if one != other and "/" not in one + other:
        assert name != safe_id(other)


# Text ----------------------------------------------------------------------------------------------------------------


def test_text_is_changed_only_as_asked():
    text = "L’altro ieri — dice “sì”, al 50 % di B&B:  e\u0301 vero… ‘foto’s’ baby-foon हिन्दी में।"
    assert TextCleaning().apply(text) == " ".join(text.split())
    assert TextCleaning(lower_case=True).apply("ÀB İ") == "àb i̇"
    assert TextCleaning(nfc=True).apply("e\u0301") == "é"
    assert TextCleaning(apostrophes=True).apply("L’altro ʼs") == "L'altro 's"
    stripped = TextCleaning(strip_punctuation=True).apply(text)
    assert stripped == "L’altro ieri dice sì al 50 % di B&B e\u0301 vero foto’s baby-foon हिन्दी में"
    assert TextCleaning(True, False, True).chosen() == ["lower_case", "nfc"]


@given(st.text(max_size=60))
def test_rules_are_done_once(text):
    rules = TextCleaning(lower_case=False, strip_punctuation=True, nfc=True, apostrophes=True)
    assert rules.apply(rules.apply(text)) == rules.apply(text)
    assert sentence_key(text) == sentence_key(text)


def test_sentences_are_equal_but_for_form():
    assert sentence_key("Goedemorgen, Els!") == sentence_key("  goedemorgen els")
    assert sentence_key("caffe\u0301") == sentence_key("CAFFÉ")
    assert sentence_key("می\u200cخواهم") == sentence_key("میخواهم")
    assert len({sentence_key(text) for text in ("uno", "due", "हिन्दी", "हिन्द", "", "!", "?")}) == 7
