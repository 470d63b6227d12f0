"""The layouts of speech that people have: each is read whole, and what cannot be read is counted and named."""

import gzip
import json
import shutil
import tarfile
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layouts import LAYOUTS, Said, few, put, put_json_lines, sound
from test_sources import bad, good, planned, splits_of, write

from asr_lora import prepare
from asr_lora.errors import DataError
from asr_lora.folders.dataset_folder import DatasetFolder
from asr_lora.sources.archive import members
from asr_lora.sources.interface import BadRow, Utterance
from asr_lora.sources.open import open_source, open_sources
from asr_lora.sources.speech_manifest import read_manifest


def rows_of(place: Path, **asked) -> list[Utterance | BadRow]:
    return list(open_source(str(place), locale="it", **asked).rows())


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_is_prepared_whole(name, tmp_path):
    said = few(train=8 if name == "ljspeech" else 4)
    dataset = prepare(LAYOUTS[name](tmp_path / "corpus", said), language="it", out=tmp_path / "out", subsets=[])
    record = dataset.read()
    assert record.dropped == {}
    counts = {split: facts.utterances for split, facts in record.splits.items()}
    assert counts == ({"train": 8, "dev": 1, "test": 1} if name == "ljspeech" else {"train": 4, "dev": 1, "test": 1})
    texts = [row["text"] for split in counts for row in pq.read_table(dataset.split(split)).to_pylist()]
    assert sorted(texts) == sorted(each.text for each in said)


NASTY = st.text(
    st.sampled_from([*"aB ,;|\t\n\r\"'\\#{}[]$=", "\x0b", "\x0c", "\x85", "\u2028", "\x1c", "è"]), max_size=12
)


@pytest.mark.parametrize("name", LAYOUTS)
@settings(max_examples=25, deadline=None)
@given(texts=st.lists(NASTY, min_size=3, max_size=8), ids=st.lists(NASTY, min_size=8, max_size=8))
def test_utterances_in_are_utterances_out_and_left_out(name, texts, ids, tmp_path_factory):
    """Whatever stands in texts and ids: each row is used with its own whole text, or is left out for a reason."""
    folder = tmp_path_factory.mktemp("layout")
    free = name not in ("kaldi", "librispeech")  # their ids have no blanks
    said = [
        Said(f"u{n}{ids[n] if free else ''}", f"{text} {n}", ("train", "dev", "test")[n % 3], f"s{n}")
        for n, text in enumerate(texts)
    ]
    try:
        rows = rows_of(LAYOUTS[name](folder / "corpus", said))
    except DataError as error:
        assert name == "ljspeech"
        assert "has no header and" in str(error)  # most of its rows have a pipe in their texts
        return
    assert len(rows) == len(said), bad(rows)
    given_texts = Counter(" ".join(each.text.split()) for each in said)
    assert not Counter(row.text for row in good(rows)) - given_texts
    assert all(row.reason in MISFITS for row in rows if isinstance(row, BadRow)), bad(rows)
    for row in good(rows):
        assert row.id.isprintable()
        assert "/" not in row.id
    shutil.rmtree(folder)


MISFITS = ("row has more fields than the header", "row is cut short")  # a delimiter where the layout has no quoting


def test_a_row_that_does_not_fit_its_header_is_left_out_and_named(tmp_path):
    write(tmp_path, {
        "clips.csv": "path,sentence\n1.mp3,Hello, world\n2.mp3,Yes\n3.mp3,No,\n4.mp3\n",
        "clips.tsv": "path\tsentence\tspeaker\n1.mp3\tHello\tworld\tanna\n2.mp3\tYes\tanna\n",
    })  # fmt: skip
    rows = rows_of(tmp_path / "clips.csv")
    assert [row.text for row in good(rows)] == ["Yes"]
    more = "row has more fields than the header"
    assert bad(rows) == {"clips.csv:2": more, "clips.csv:4": more, "clips.csv:5": "row is cut short"}
    rows = rows_of(tmp_path / "clips.tsv")
    assert [(row.text, row.speaker) for row in good(rows)] == [("Yes", "anna")]
    assert bad(rows) == {"clips.tsv:2": more}


def test_a_quotation_mark_does_not_take_in_rows(tmp_path):
    put(tmp_path / "a.csv", 'path,text\n1.wav,"Hello\n2.wav,Bye\n3.wav,Ciao"\n')
    with pytest.raises(DataError, match=r"lines 2 to 4: a quotation mark takes in whole rows"):
        rows_of(tmp_path / "a.csv")
    put(tmp_path / "b.csv", 'path,text\n1.wav,"Hello,\nmy friend, at 3.30"\n')
    assert [row.text for row in rows_of(tmp_path / "b.csv")] == ["Hello, my friend, at 3.30"]


@pytest.mark.parametrize(("encoding", "end"), [
    ("utf-8", "\r"), ("utf-8-sig", "\r\n"), ("utf-16", "\n"), ("utf-16-le", "\r\n"), ("utf-16-be", "\r"),
    ("utf-32", "\n"),
])  # fmt: skip
@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl", ".csv.gz"])
def test_encodings_and_line_ends(encoding, end, ending, tmp_path):
    lines = ["Path , TEXT", "clips\\1.wav,perché sì", "clips\\2.wav,due"]
    if ending == ".jsonl":
        lines = [json.dumps({"path": f"clips/{n}.wav", "text": text}, ensure_ascii=False) for n, text in
                 ((1, "perché sì"), (2, "due"))]  # fmt: skip
    body = (end.join(lines) + end).replace(",", "\t" if ending == ".tsv" else ",").encode(encoding)
    put(tmp_path / f"m{ending}", gzip.compress(body) if ending.endswith(".gz") else body)
    rows = rows_of(tmp_path / f"m{ending}")
    assert [(row.recording, row.text) for row in rows] == [("clips/1.wav", "perché sì"), ("clips/2.wav", "due")]


def test_a_refusal_shows_what_was_seen(tmp_path):
    write(tmp_path, {
        "a.csv": "voice,words_of_it\nx.wav,uno\n", "b.jsonl": '{"audio": "x.wav", "script": "uno"}\n',
        "c.csv": "clip\0,\x1b[31mtext\n".encode("utf-16"), "d.csv": "audio,text,text\nx.wav,uno,due\n",
        "e.csv": "x.wav,uno\n", "folder/a.wav": sound(1), "folder/b.wav": sound(2), "folder/notes.docx": "x",
        "g.json": '{\n"a": {"wav": "x.wav", "words": "x"}, "a": {"wav": "y.wav", "words": "y"}}',
    })  # fmt: skip
    for name, sentence in (
        ("a.csv", r"has no column of audio \(audio_filepath, .*\); it has voice, words_of_it"),
        ("b.jsonl", r"has no column of text \(text, .*\); it has audio, script\. Name its column with --text-column"),
        ("c.csv", "has no column of audio"), ("d.csv", "has the column text twice"),
        ("e.csv", "its first line.* has no column of audio .*; it has x.wav, uno"),
        ("folder", r"It holds 2 \*\.wav, 1 \*\.docx\. SOURCE is a Common Voice release"),
        ("g.json", "a key stands twice"),
    ):  # fmt: skip
        with pytest.raises(DataError, match=sentence) as caught:
            rows_of(tmp_path / name)
        assert str(caught.value).isprintable()
    parquet = tmp_path / "x.parquet"
    pq.write_table(pa.table({"audio": [b"x"], "script": ["uno"]}), parquet)
    with pytest.raises(DataError, match=r"has no column of text .*it has audio, script"):
        rows_of(parquet)
    assert [row.text for row in rows_of(parquet, text_column="Script")] == ["uno"]


def test_files_of_macos_are_skipped_and_counted(tmp_path):
    mac = b"\0\x05\x16\x07\0\2\0\0Mac OS X" + bytes(100)
    write(tmp_path, {
        "m/train.csv": "path,text\n1.wav,uno\n", "m/._train.csv": mac, "p/a.wav": sound(1), "p/a.txt": "uno",
        "p/._a.wav": mac, "p/sub/._a.txt": mac, "k/wav.scp": "u u.wav\n", "k/text": "u uno\n", "k/._text": mac,
    })  # fmt: skip
    pq.write_table(pa.table({"audio": [b"x"], "text": ["uno"]}), put(tmp_path / "t/x.parquet", ""))
    put(tmp_path / "t/._x.parquet", mac)
    for folder, names in (("m", ["._train.csv"]), ("p", ["._a.wav", "sub/._a.txt"]), ("k", ["._text"]),
                          ("t", ["._x.parquet"])):  # fmt: skip
        rows = rows_of(tmp_path / folder)
        assert [row.text for row in good(rows)] == ["uno"]
        assert bad(rows) == dict.fromkeys(names, "a file of macOS, which holds no speech")


def test_kaldi_folders_of_one_split_join(tmp_path):
    names = [
        "train_clean_100",
        "train_clean_360",
        "train_other_500",
        "dev_clean",
        "dev_other",
        "test_clean",
        "test_other",
    ]
    for number, name in enumerate(names):
        lines = range(number * 10, number * 10 + 2)
        write(tmp_path / "a", {f"{name}/wav.scp": "".join(f"u{n} {n}.wav\n" for n in lines),
                               f"{name}/text": "".join(f"u{n} testo {n}\n" for n in lines)})  # fmt: skip
    rows = good(rows_of(tmp_path / "a"))
    assert Counter(row.split for row in rows) == {"train": 6, "dev": 4, "test": 4}
    assert {row.recording for row in rows} >= {"train_other_500/21.wav", "dev_other/40.wav"}
    for number, name in enumerate(["train_nodev", "train_dev", "test", "local_lm"]):
        write(tmp_path / "espnet", {f"{name}/wav.scp": f"u{number} x.wav\n", f"{name}/text": f"u{number} uno\n"})
    rows = rows_of(tmp_path / "espnet")
    assert {row.id: row.split for row in good(rows)} == {"u0": "train", "u1": "dev", "u2": "test"}
    assert bad(rows) == {"u3": "split is none of train, dev and test"}


def test_manifests_of_one_split_join_and_others_are_counted(tmp_path):
    for number, name in enumerate(
        ["train_clean_100.json", "train_clean_360.json", "dev.json", "test.json", "other.json"]
    ):
        put_json_lines(tmp_path / name, [{"audio_filepath": f"{number}.wav", "text": "uno"}])
    put(tmp_path / "dataset_info.json", '{"features": {}}')
    rows = rows_of(tmp_path)
    assert {row.id: row.split for row in good(rows)} == {"0": "train", "1": "train", "2": "dev", "3": "test"}
    assert bad(rows) == {"4": "split is none of train, dev and test"}


def test_lhotse_rows_that_no_file_holds_alone(tmp_path):
    recording = {"id": "r", "sources": [{"type": "file", "channels": [0, 1], "source": "r.wav"}], "sampling_rate": 8000}
    cut = {"id": "c", "start": 1.0, "duration": 4.0, "channel": 0, "type": "MonoCut", "recording": recording}
    said = {"id": "s1", "recording_id": "r", "start": 0.5, "duration": 2.0, "channel": 0, "text": "uno"}
    one = {**recording, "sources": [{"type": "file", "channels": [0], "source": "r.wav"}]}
    put_json_lines(tmp_path / "cuts.jsonl.gz", [
        {**cut, "recording": one, "supervisions": [said, {**said, "id": "s2", "start": 2.5, "duration": 1.0}]},
        {**cut, "supervisions": [said]},
        {**cut, "supervisions": []},
        {**cut, "recording": {**one, "transforms": [{"name": "Speed"}]}, "supervisions": [said]},
        {**cut, "recording": {**one, "sources": [{"type": "command", "channels": [0], "source": "x |"}]},
         "supervisions": [said]},
        {"id": "m", "type": "MixedCut", "tracks": []},
    ])  # fmt: skip
    rows = rows_of(tmp_path / "cuts.jsonl.gz")
    assert [(row.id, row.start, row.seconds) for row in good(rows)] == [("s1", 1.5, 2.0), ("s2", 3.5, 1.0)]
    assert list(bad(rows).values()) == [
        "one of several channels of a file", "row has no text", "the recording is changed when it is read",
        "the recording is no file", "the cut is mixed of several",
    ]  # fmt: skip


def test_pipe_tables_and_their_speakers(tmp_path):
    put(tmp_path / "piper.csv", "a|anna|ciao a tutti\nb|bea|buona sera\nc|anna|a|b\n")
    rows = list(read_manifest(tmp_path / "piper.csv"))
    assert [(row.text, row.speaker) for row in good(rows)] == [("ciao a tutti", "anna"), ("buona sera", "bea")]
    assert bad(rows) == {"piper.csv:3": "row has more fields than the header"}
    put(tmp_path / "lj.csv", 'LJ1|il 5 "maggio|il cinque "maggio\n')
    assert [row.text for row in rows_of(tmp_path / "lj.csv")] == ['il 5 "maggio']
    assert [row.text for row in rows_of(tmp_path / "lj.csv", text_column="normalized_text")] == ['il cinque "maggio']


def test_a_saved_dataset_is_what_its_record_lists(tmp_path):
    from datasets import Audio, Dataset

    rows = {"audio": [{"bytes": sound(n), "path": None} for n in range(3)], "text": ["uno", "due", "tre"]}
    home = tmp_path / "saved"
    Dataset.from_dict(rows).cast_column("audio", Audio(decode=False)).save_to_disk(str(home), num_shards=2)
    shutil.copy(next(home.glob("data-*.arrow")), home / "cache-123.arrow")  # of a map, which is no part of the dataset
    source = open_source(str(home), locale="it")
    assert [row.text for row in source.rows()] == ["uno", "due", "tre"]
    assert dict(source.recordings({"1:0"})) == {"1:0": sound(2)}
    (home / "state.json").write_text("{")
    with pytest.raises(DataError, match="save the dataset again"):
        rows_of(home)


def corpus(folder: Path, speakers: dict[str, int], **splits: list[str]) -> Path:
    for split, names in splits.items():
        put_json_lines(folder / f"{split}.jsonl", [
            {"audio_filepath": f"{who}{n}.wav", "text": f"{who} {n}", "speaker": who}
            for who in names for n in range(speakers[who])
        ])  # fmt: skip
        for who in names:
            for n in range(speakers[who]):
                put(folder / f"{who}{n}.wav", sound(n + 100 * ord(who)))
    return folder


def test_a_dataset_may_lack_dev(tmp_path):
    place = corpus(tmp_path / "c", dict.fromkeys("abcdefgh", 2), train=list("abcdefg"), test=["h"])
    dataset = prepare(place, language="it", out=tmp_path / "out", subsets=[])
    record = dataset.read()
    assert {split: facts.utterances for split, facts in record.splits.items()} == {"train": 14, "test": 2}
    (note,) = record.notes
    assert "no dev. Without it there is no training" in note
    assert "--held-out-from-train" in note
    with pytest.raises(DataError, match=r"has no split 'dev'; it has train, test\. Without it there is no training"):
        dataset.split_file("dev")
    assert DatasetFolder(tmp_path / "out").reusable(record.fingerprint)
    whole = prepare(place, language="it", out=tmp_path / "out", subsets=[], held_out_from_train=True)
    assert {split: facts.utterances for split, facts in whole.read().splits.items()} == {
        "train": 12,
        "dev": 2,
        "test": 2,
    }
    assert whole.read().notes == ["the source has no dev: prepare took it from train by speaker"]
    assert whole.read().shared_between_splits["train and dev"].speakers == 0
    prepare(place, language="it", out=tmp_path / "out", subsets=[])
    assert not dataset.split("dev").exists()


def test_a_source_of_one_split_gets_all_three(tmp_path):
    place = corpus(tmp_path / "c", dict.fromkeys("abcdefghij", 1), train=list("abcdefghij"))
    plan = planned(tmp_path, *open_sources([str(place)], locale="it"))
    assert Counter(splits_of(plan).values()) == {"train": 8, "dev": 1, "test": 1}
    assert plan.fact("notes") == ["the source has only train: prepare made all three by speaker"]


def test_ids_cannot_end_a_line(tmp_path):
    """Line ends of other systems within a name would make two ids of one where ids are listed."""
    header = "client_id\tpath\tsentence\n"
    rows = "".join(f"s{n}\tclip{end}{n}.wav\tfrase {n}\n" for n, end in enumerate("\x0b\x85\x1c\u2028"))
    names = [f"clip{end}{n}.wav" for n, end in enumerate("\x0b\x85\x1c\u2028")]
    home = tmp_path / "cv" / "it"
    write(
        home,
        {"train.tsv": header + rows, "dev.tsv": header + "d\td.wav\tdev\n", "test.tsv": header + "t\tt.wav\ttest\n"},
    )
    for number, name in enumerate([*names, "d.wav", "t.wav"]):
        put(home / "clips" / name, sound(number))
    dataset = prepare(tmp_path / "cv", language="it", out=tmp_path / "out", subsets=["1s"])
    from asr_lora.dataset.reading import read_split

    assert len(read_split(dataset.root, "train")) == 4
    listed = dataset.subset_ids("1s")
    assert len(read_split(dataset.root, "train", subset="1s")) == len(listed) == dataset.read().subsets["1s"].utterances
    body = dataset.subset("1s").read_text(encoding="utf-8")
    dataset.subset("1s").write_text(body.replace(listed[0], "x" * len(listed[0])), encoding="utf-8")
    with pytest.raises(DataError, match=r"lists .* utterances and .* has .* of them \('x+' is not there\)"):
        read_split(dataset.root, "train", subset="1s")


def test_parquet_is_read_in_few_bytes(tmp_path, monkeypatch):
    """One value of some MB, to which every row of a file of some KB refers."""
    size, path = 5 << 20, tmp_path / "bomb.parquet"
    monkeypatch.setattr("asr_lora.sources.parquet.MAX_RECORDING_BYTES", 4 << 20)
    monkeypatch.setattr("asr_lora.sources.column_files.BYTES_AT_ONCE", 8 << 20)
    audio = pa.DictionaryArray.from_arrays(pa.array([0] * 64, pa.int32()), pa.array([bytes(size)]))
    pq.write_table(pa.table({"audio": audio, "text": ["uno"] * 64}), path, compression="zstd", store_schema=False)
    assert path.stat().st_size < 20_000
    source = open_source(str(path), locale="it")
    wanted, before = {row.recording for row in source.rows()}, pa.total_allocated_bytes()
    for _, recording in source.recordings(wanted):
        assert recording.reason == "file is too large"
        assert pa.total_allocated_bytes() - before < 10 * size


def test_parquet_that_expands_as_no_speech_does_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("asr_lora.sources.column_files.FREE_BYTES", 1 << 20)
    path = tmp_path / "bomb.parquet"
    table = pa.table({"audio": [bytes(4 << 20)], "text": ["uno"]})
    pq.write_table(table, path, compression="zstd", use_dictionary=False)
    source = open_source(str(path), locale="it")
    with pytest.raises(DataError, match="expands to 4 MB, as no speech does: refused"):
        list(source.recordings({"0:0"}))


@pytest.mark.parametrize(("headers", "sentence"), [
    ({f"key{number}": "value" for number in range(101)}, "a header has 101 keys"),
    ({"key": "value" * 60_000}, "truncated or damaged"),
])  # fmt: skip
def test_an_archive_with_a_header_of_many_keys_is_refused(tmp_path, headers, sentence):
    path = tmp_path / "cv.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT, pax_headers=headers) as archive:
        archive.addfile(tarfile.TarInfo("cv/it/clips/a.mp3"))
    with pytest.raises(DataError, match=sentence):
        list(members(path))


def test_a_damaged_arrow_file_is_one_sentence(tmp_path):
    """Arrow does not look at offsets by itself: it would follow them out of the file, which ends the process."""
    path = tmp_path / "x.arrow"
    table = pa.table({"audio": [sound(1), sound(2)], "text": ["uno", "due"]})
    with pa.ipc.new_stream(path, table.schema) as writer:
        writer.write_table(table)
    whole = path.read_bytes()
    assert [row.text for row in rows_of(path)] == ["uno", "due"]
    place = whole.index(b"unodue") - 64  # the offsets of the texts
    place = whole.index(b"\0\0\0\0\3\0\0\0\6\0\0\0", place)
    path.write_bytes(whole[: place + 4] + b"\xff\xff\xff\x7f" + whole[place + 8 :])
    with pytest.raises(DataError, match="is damaged"):
        rows_of(path)
