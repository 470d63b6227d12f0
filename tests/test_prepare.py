"""A release -> a dataset folder: nothing lost, nothing silent."""

import json
import os
import shutil
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import soundfile
from conftest import DEMO, speech, write_wav
from hypothesis import given, settings
from hypothesis import strategies as st

from asr_lora import prepare
from asr_lora.audio.decode import decode, encode_flac
from asr_lora.dataset.reading import read_split
from asr_lora.errors import AudioError, ConfigError, DataError
from asr_lora.folders.atomic import read_jsonl
from asr_lora.folders.dataset_folder import DatasetFolder


def test_the_demo_is_prepared_whole(demo_dataset):
    body = DatasetFolder(demo_dataset).read_json()
    assert body["language"] == "it"
    assert {name: facts["utterances"] for name, facts in body["splits"].items()} == {"train": 59, "dev": 16, "test": 34}
    assert list(body["subsets"]) == ["2min"]
    assert body["dropped"] == {}
    assert all(
        shared == {"speakers": 0, "sentences": 0, "clips": 0} for shared in body["shared_between_splits"].values()
    )
    ids = DatasetFolder(demo_dataset).subset_ids("2min")
    subset = read_split(demo_dataset, "train", subset="2min")
    assert sorted(subset.ids) == sorted(ids)
    assert 100 < sum(subset.seconds) <= 120


def test_text_is_kept_as_spoken_and_cased(demo_dataset):
    table = (DEMO / "cv-corpus-17.0-2024-03-15" / "it" / "test.tsv").read_text(encoding="utf-8").splitlines()[1:]
    assert read_split(demo_dataset, "test").texts == [line.split("\t")[3] for line in table]


def test_audio_is_the_clip_at_16_khz(demo_dataset):
    split = read_split(demo_dataset, "test")
    clip = DEMO / "cv-corpus-17.0-2024-03-15" / "it" / "clips" / f"{split.ids[0]}.mp3"
    waveform, original = split.waveform(0), decode(clip)
    assert waveform.dtype == np.float32
    assert len(waveform) == pytest.approx(split.seconds[0] * 16_000, abs=1)
    assert np.abs(waveform - np.clip(original, -1, 1)).max() < 1 / 32_000  # 16-bit FLAC loses nothing more
    frames = soundfile.info(str(clip))
    assert len(waveform) == pytest.approx(frames.frames * 16_000 / frames.samplerate, abs=2)


def test_datasets_reads_the_folder_without_us(demo_dataset):
    import datasets

    rows = datasets.load_dataset("parquet", data_files=str(demo_dataset / "dev.parquet"), split="train")
    assert isinstance(rows.features["audio"], datasets.Audio)
    assert rows.features["audio"].sampling_rate == 16_000
    assert len(rows) == 16


def test_no_client_id_is_written(demo_dataset, release):
    clients = {line.split("\t")[0] for line in (release / "validated.tsv").read_text().splitlines()[1:]}
    written = b"".join(path.read_bytes() for path in demo_dataset.rglob("*") if path.is_file())
    assert clients
    assert not any(client.encode() in written for client in clients)


def test_bad_clips_are_left_out_counted_and_listed(release, tmp_path):
    lines = (release / "train.tsv").read_text(encoding="utf-8").splitlines()
    rows = [line.split("\t") for line in lines[1:]]
    clips = [release / "clips" / row[1] for row in rows]
    clips[0].unlink()
    clips[1].write_bytes(b"")
    clips[2].write_bytes(b"this is not audio, whatever its name says")
    clips[3].write_bytes(clips[3].read_bytes()[:40])
    soundfile.write(clips[4], np.zeros(32_000, np.float32), 32_000, format="MP3")
    soundfile.write(clips[5], speech(0.05), 16_000, format="WAV")
    soundfile.write(clips[6], speech(31.0), 16_000, format="FLAC")
    rows[7][3] = "   "
    text = "\n".join([lines[0], *("\t".join(row) for row in rows), "\t".join(rows[8]), "cut\tshort"]) + "\n"
    (release / "train.tsv").write_text(text, encoding="utf-8")
    folder = prepare(release, language="it", out=tmp_path / "out")
    refused = "not audio" if shutil.which("ffmpeg") else "no ffmpeg"
    reasons = {
        "missing": [0], "empty file": [1], refused: [2, 3], "silent": [4], "too short": [5], "too long": [6],
        "text is empty": [7], "utterance is listed before": [8],
    }  # fmt: skip
    body = folder.read_json()
    assert body["dropped"] == {**{name: len(places) for name, places in reasons.items()}, "row is cut short": 1}
    listed = {(row["reason"], row["id"]) for row in read_jsonl(folder.dropped)}
    for reason, places in reasons.items():
        for place in places:
            assert (reason, clips[place].stem) in listed
    assert body["splits"]["train"]["utterances"] == 59 - 8


@pytest.mark.parametrize(("at", "value"), [(24, 0xFFFFFFF0), (24, 1), (22, 1024)])  # rate, rate, channels
def test_a_header_that_promises_too_much_takes_no_memory(at, value, tmp_path):
    path = write_wav(tmp_path / "x.wav", speech(1.0), 16_000)
    content = bytearray(path.read_bytes())
    content[at : at + (4 if at == 24 else 2)] = value.to_bytes(4 if at == 24 else 2, "little")
    with pytest.raises(AudioError, match="cannot be decoded"):
        decode(bytes(content))


def test_a_name_that_no_disk_takes(tmp_path):
    with pytest.raises(AudioError, match="cannot be opened") as refusal:
        decode(tmp_path / ("a" * 5000 + ".mp3"))
    assert refusal.value.reason == "unreadable"


def test_an_unchanged_source_is_recognised_and_a_changed_one_is_not(release, tmp_path):
    first = prepare(release, language="it", out=tmp_path / "out").manifest
    stamp = first.stat().st_mtime_ns
    assert prepare(release, language="Italian", out=tmp_path / "out").manifest.stat().st_mtime_ns == stamp
    text = (release / "dev.tsv").read_text(encoding="utf-8")
    (release / "dev.tsv").write_text(text.rsplit("\n", 2)[0] + "\n", encoding="utf-8")
    assert prepare(release, language="it", out=tmp_path / "out").read().splits["dev"].utterances == 15
    assert first.stat().st_mtime_ns != stamp


def same_dataset(one: Path, other: Path) -> None:
    """Equal byte for byte, but for when they were made."""
    names = [sorted(path.relative_to(root) for path in root.rglob("*") if path.is_file()) for root in (one, other)]
    assert names[0] == names[1]
    for name in names[0]:
        if name.name == "doctor.json":
            continue
        if name.name == "dataset.json":
            bodies = [DatasetFolder(root).read_json() for root in (one, other)]
            assert bodies[0].pop("made_with")
            assert bodies[1].pop("made_with")
            assert bodies[0] == bodies[1]
        else:
            assert (one / name).read_bytes() == (other / name).read_bytes(), name


def test_other_subsets_are_drawn_without_decoding_anything(demo_dataset, tmp_path):
    out = DatasetFolder(Path(shutil.copytree(demo_dataset, tmp_path / "out")))
    given = tmp_path / "given.txt"
    given.write_text("\n".join([*out.subset_ids("2min")[:3], "nobody"]))
    decoded = out.split("train").stat().st_mtime_ns
    wanted = {"language": "it", "subsets": ["1min", "0.5min@3"], "seed": 4, "speaker_cap": 40.0, "id_lists": [given]}
    prepare(DEMO, out=out.root, **wanted)
    assert out.split("train").stat().st_mtime_ns == decoded
    same_dataset(out.root, prepare(DEMO, out=tmp_path / "fresh", **wanted).root)
    (out.root / "subsets" / "mine.txt").write_text("notes")
    prepare(DEMO, language="it", out=out.root)
    assert sorted(path.name for path in (out.root / "subsets").iterdir()) == ["2min.txt", "mine.txt"]
    (out.root / "subsets" / "mine.txt").unlink()
    same_dataset(out.root, demo_dataset)
    assert out.split("train").stat().st_mtime_ns == decoded


def test_a_stop_while_subsets_are_drawn_anew_costs_subsets_and_no_speech(demo_dataset, tmp_path, monkeypatch):
    out = DatasetFolder(Path(shutil.copytree(demo_dataset, tmp_path / "out")))
    decoded = out.split("train").stat().st_mtime_ns
    (tmp_path / "none.txt").write_text("nobody")
    with pytest.raises(DataError, match="none of its 1 ids is in train"):  # before anything is touched
        prepare(DEMO, language="it", out=out.root, id_lists=[tmp_path / "none.txt"])
    same_dataset(out.root, demo_dataset)
    with monkeypatch.context() as patch:
        patch.setattr("asr_lora.dataset.subset_files.summarise", lambda _: 1 / 0)  # after the first list was written
        with pytest.raises(ZeroDivisionError):
            prepare(DEMO, language="it", out=out.root, speaker_cap=15.0)
    assert len(read_split(out.root, "train")) == 59
    with pytest.raises(ConfigError, match="no subset '2min'; it has all"):
        read_split(out.root, "train", subset="2min")
    prepare(DEMO, language="it", out=out.root)
    same_dataset(out.root, demo_dataset)
    assert out.split("train").stat().st_mtime_ns == decoded


def test_a_seed_that_made_the_splits_is_no_matter_of_subsets(tmp_path):
    rows = [{"audio": f"{n}.wav", "text": f"frase {n}", "speaker": n} for n in range(1, 13)]
    for row in rows:
        write_wav(tmp_path / "in" / row["audio"], speech(0.3))
    (tmp_path / "in" / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = {"language": "it", "out": tmp_path / "out", "subsets": ["1s"]}
    kept = [read_split(prepare(tmp_path / "in", seed=seed, **words).root, "test").ids for seed in range(3)]
    assert kept[0] != kept[1] or kept[0] != kept[2]


def test_equal_sources_give_equal_files(demo_dataset, tmp_path):
    same_dataset(demo_dataset, prepare(DEMO, language="it", out=tmp_path / "two").root)


@pytest.mark.parametrize("split", ["train", "dev", "test"])
def test_a_table_without_rows_or_usable_clips(release, tmp_path, split):
    table = release / f"{split}.tsv"
    header, *rows = table.read_text(encoding="utf-8").splitlines()
    table.write_text(header + "\n", encoding="utf-8")
    with pytest.raises(DataError, match=rf"{split}\.tsv has a header and no rows"):
        prepare(release, language="it", out=tmp_path / "out")
    table.write_text("\n".join([header, rows[0]]) + "\n", encoding="utf-8")
    (release / "clips" / rows[0].split("\t")[1]).unlink()
    with pytest.raises(DataError, match=r"can be used \(.*missing 1\)"):
        prepare(release, language="it", out=tmp_path / "out")
    assert not (tmp_path / "out" / "dataset.json").exists()


def test_a_folder_with_something_else_in_it_is_left_alone(release, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.doc").write_text("years of work")
    with pytest.raises(ConfigError, match="holds something else"):
        prepare(release, language="it", out=tmp_path / "out")
    prepare(release, language="it", out=tmp_path / "mine")
    with pytest.raises(ConfigError, match="holds a dataset of language 'it'"):
        prepare(release, language="nl", out=tmp_path / "mine")
    (tmp_path / "mine" / "train.parquet").unlink()
    assert prepare(release, language="it", out=tmp_path / "mine").split("train").is_file()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.doc"]


def test_an_incomplete_dataset_is_refused(demo_dataset, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(demo_dataset, copy)
    (copy / "test.parquet").write_bytes((copy / "test.parquet").read_bytes()[:-100])
    with pytest.raises(DataError, match=r"test\.parquet is missing or cut short.*asr-lora prepare"):
        read_split(copy, "test")
    with pytest.raises(DataError, match="no split 'tset'; it has train, dev, test"):
        read_split(copy, "tset")
    with pytest.raises(ConfigError, match="no subset '1h'; it has all, 2min"):
        read_split(copy, "train", subset="1h")
    (copy / "dataset.json").unlink()
    with pytest.raises(DataError, match="unfinished"):
        read_split(copy, "dev")
    (copy / "dataset.json").write_text(json.dumps({"kind": "report"}))
    with pytest.raises(DataError, match="does not describe a dataset"):
        read_split(copy, "dev")
    with pytest.raises(DataError, match="no dataset at"):
        read_split(tmp_path / "nowhere", "dev")


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(data=st.binary(max_size=600), place=st.integers(0, 2000), kind=st.sampled_from(["noise", "flac", "mp3"]))
def test_no_bytes_break_the_decoder(data, place, kind):
    clips = sorted((DEMO / "cv-corpus-17.0-2024-03-15" / "it" / "clips").iterdir())
    whole = {"noise": b"", "flac": encode_flac(speech(0.5)), "mp3": clips[0].read_bytes()[:4000]}[kind]
    try:
        with patch.dict(os.environ, PATH=""):  # ffmpeg would take 0.1 s each time
            waveform = decode(whole[:place] + data + whole[place:], max_seconds=30.0)
    except AudioError as error:
        assert error.reason in {
            "empty file", "not audio", "no ffmpeg", "no audio", "too long", "incomplete",
            "impossible format", "not numbers",
        }  # fmt: skip
    else:
        assert waveform.dtype == np.float32
        assert np.isfinite(waveform).all()


@pytest.mark.parametrize("rate", [8_000, 16_000, 32_000, 44_100, 48_000])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG", "MP3"])
def test_every_rate_channel_count_and_format(tmp_path, rate, channels, kind):
    seconds, path = 1.5, tmp_path / f"tone.{kind.lower()}"
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(int(seconds * rate)) / rate)
    soundfile.write(path, np.repeat(tone[:, None], channels, axis=1), rate, format=kind)
    waveform = decode(path)
    assert len(waveform) == pytest.approx(seconds * 16_000, abs=1600)
    spectrum = np.abs(np.fft.rfft(waveform[4000:20_000]))
    assert np.argmax(spectrum) == pytest.approx(440, abs=2)
    assert np.abs(waveform).max() == pytest.approx(0.5, abs=0.1)


def test_a_small_file_that_decodes_to_hours_is_cut_off_while_decoding(tmp_path):
    path = tmp_path / "bomb.flac"
    with soundfile.SoundFile(path, "w", 16_000, 1, format="FLAC") as out:
        for _ in range(60):
            out.write(np.zeros(16_000 * 60, np.float32))  # an hour of silence
    assert path.stat().st_size < 1_000_000
    with pytest.raises(AudioError, match="longer than 30 s"):
        decode(path, max_seconds=30.0)
