"""The engine under `prepare`: every source through the command line, kill -9, two at once, leaks, flat memory."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import apart
import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
from conftest import speech, write_wav
from test_sources import KALDI, SPLITS, crowd, pack, release_files, sound, write
from typer.testing import CliRunner

from asr_lora import prepare
from asr_lora.audio.decode import decode
from asr_lora.cli.verbs import app
from asr_lora.dataset.reading import read_split
from asr_lora.errors import AudioError, ConfigError, DataError
from asr_lora.folders.atomic import read_jsonl
from asr_lora.folders.dataset_folder import DatasetFolder
from asr_lora.labels.rules import LEAKED, measure


def run(*words: object, code: int = 0):
    done = CliRunner().invoke(app, ["prepare", *map(str, words), "--language", "it"])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    assert done.exit_code == code, done.stderr
    return done


def body(folder: Path) -> dict:
    return DatasetFolder(folder).read_json()


def rows_of(folder: Path, split: str) -> dict[str, dict]:
    return {row["id"]: row for row in pq.read_table(DatasetFolder(folder).split(split)).to_pylist()}


def texts(folder: Path) -> dict[str, list[str]]:
    return {split: sorted(read_split(folder, split).texts) for split in ("train", "dev", "test")}


WORDS = {"train": ["due", "tre", "uno"], "dev": ["quattro"], "test": ["cinque"]}


def test_an_archive_and_its_folder_give_the_same_rows(tmp_path):
    files = release_files("cv-corpus-25.0/it", SPLITS)
    write(tmp_path / "open", files)
    run(tmp_path / "open", "--out", tmp_path / "a")
    run(pack(tmp_path / "cv.tar.gz", dict(sorted(files.items()))), "--out", tmp_path / "b")
    for split in ("train", "dev", "test"):
        assert rows_of(tmp_path / "a", split) == rows_of(tmp_path / "b", split)
    assert texts(tmp_path / "b") == WORDS
    assert body(tmp_path / "b")["sources"][0]["name"] == "cv.tar.gz"
    assert str(tmp_path) not in (tmp_path / "b" / "dataset.json").read_text()
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == [
        "dataset.json", "dev.parquet", "dropped.jsonl", "leaks.jsonl", "subsets", "test.parquet", "train.parquet",
    ] or not (tmp_path / "b" / "subsets").exists()  # fmt: skip


def test_what_decoding_showed_is_in_the_rows(tmp_path):
    write(tmp_path / "cv", release_files("cv-corpus-25.0/it", SPLITS))
    run(tmp_path / "cv", "--out", tmp_path / "a")
    row = rows_of(tmp_path / "a", "train")["a1"]
    shown = measure(decode(tmp_path / "cv/cv-corpus-25.0/it/clips/a1.wav"), 16_000)
    assert row["digest"] == shown.digest
    assert row["peak"] == pytest.approx(shown.peak, abs=1e-4)
    assert row["loudness_db"] == pytest.approx(shown.loudness_db, abs=0.01)
    assert row["clipped"] == 0


def test_a_truncated_archive_is_one_sentence_and_leaves_nothing(tmp_path):
    archive = pack(tmp_path / "cv.tar.gz", release_files("cv/it", SPLITS))
    archive.write_bytes(archive.read_bytes()[:-2000])
    done = run(archive, "--out", tmp_path / "o", code=3)
    assert done.stderr.count("\n") == 1
    assert "cv.tar.gz is truncated or damaged" in done.stderr
    assert not (tmp_path / "o").exists()


def test_a_manifest_with_offsets(tmp_path):
    waveform = speech(6.0)
    soundfile.write(tmp_path / "long.flac", waveform, 16_000)
    rows = [
        {"audio_filepath": "long.flac", "text": f"frase {n}", "offset": n, "duration": 1.0, "split": split}
        for n, split in enumerate(["train", "train", "train", "dev", "test"])
    ]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run(tmp_path / "m.jsonl", "--out", tmp_path / "o")
    split = read_split(tmp_path / "o", "train")
    assert split.texts == ["frase 0", "frase 1", "frase 2"]
    for n in range(3):
        assert np.abs(split.waveform(n) - waveform[16_000 * n : 16_000 * (n + 1)]).max() < 1e-4
    assert split.ids[1] == "long-1.000"
    # What is cut out of other formats and rates is the same stretch.
    soundfile.write(tmp_path / "long.mp3", np.repeat(waveform, 2), 32_000, format="MP3")
    stretch = decode(tmp_path / "long.mp3", start=2.0, seconds=1.5)
    whole = decode(tmp_path / "long.mp3")[32_000:56_000]
    assert len(stretch) == pytest.approx(24_000, abs=2)
    assert np.corrcoef(stretch[200:-200], whole[200:-200])[0, 1] > 0.99
    assert decode(tmp_path / "long.flac", start=5.5, seconds=0.55).shape == (8_000,)
    with pytest.raises(AudioError, match=r"ends 0\.50 s after 5\.50 s, and 9\.00 s of it are listed"):
        decode(tmp_path / "long.flac", start=5.5, seconds=9)


def test_csv_kaldi_folder_and_parquet_through_the_command_line(tmp_path):
    clips = {f"{name}.wav": sound(n) for n, name in enumerate("abcde")}
    listed = list(zip("abcde", ["train", "train", "train", "dev", "test"], ["uno", "due", "tre", "quattro", "cinque"],
                      strict=True))  # fmt: skip
    lines = ["path,text,split", *(f"{name}.wav,{text},{split}" for name, split, text in listed)]
    write(tmp_path / "csv", {**clips, "list.csv": "\n".join(lines) + "\n"})
    for name, split, text in listed:
        write(tmp_path / "txt" / split, {f"{name}.wav": clips[f"{name}.wav"], f"{name}.txt": text})
        for file, value in (("wav.scp", f"{name}.wav"), ("text", text), ("utt2spk", f"speaker-{name}")):
            path = tmp_path / "kaldi" / split / file
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a") as handle:
                handle.write(f"{name} {value}\n")
        write(tmp_path / "kaldi" / split, {f"{name}.wav": clips[f"{name}.wav"]})
    for kind in ("csv", "txt", "kaldi"):
        run(tmp_path / kind, "--out", tmp_path / f"from-{kind}")
        assert texts(tmp_path / f"from-{kind}") == WORDS
    run(tmp_path / "from-kaldi", "--out", tmp_path / "again")  # a prepared dataset is a source, too
    assert texts(tmp_path / "again") == WORDS
    assert set(rows_of(tmp_path / "again", "train")) == {"a", "b", "c"}
    assert {row["speaker"] for row in rows_of(tmp_path / "from-csv", "train").values()} == {""}
    assert len({row["speaker"] for row in rows_of(tmp_path / "again", "train").values()}) == 3


def test_a_kaldi_command_is_refused_by_the_command_line(tmp_path):
    write(tmp_path / "k", {**KALDI, "wav.scp": f"u1 touch {tmp_path}/ran |\n"})
    assert "commands are not run" in run(tmp_path / "k", "--out", tmp_path / "o", code=3).stderr
    assert not (tmp_path / "ran").exists()


def test_splits_made_here_and_text_rules_are_recorded(tmp_path):
    rows = [(who, clip, f"Frase, {clip}!") for who, clip, _ in crowd({f"s{n}": 2 for n in range(12)})]
    write(tmp_path / "cv", release_files("cv/it", {"validated": rows}))
    done = run(tmp_path / "cv", "--from", "validated", "--lower-case", "--strip-punctuation", "--out", tmp_path / "o")
    assert "the source has no splits: prepare made them by speaker" in done.stderr
    facts = body(tmp_path / "o")
    assert facts["text"] == ["lower_case", "strip_punctuation"]
    assert facts["splits_from"] == "validated"
    assert {name: part["utterances"] for name, part in facts["splits"].items()} == {"train": 20, "dev": 2, "test": 2}
    assert all(row["text"].startswith("frase s") for row in rows_of(tmp_path / "o", "train").values())
    total = sum(part["characters"] for part in facts["splits"].values())
    assert total == sum(len(text) for split in texts(tmp_path / "o").values() for text in split)
    assert "characters/s" in done.stdout


def test_mixed_sources(tmp_path):
    write(tmp_path / "cv", release_files("cv/it", SPLITS))
    rows = [{"audio": f"{n}.wav", "text": f"altra {n}", "speaker": "anna", "split": "train"} for n in range(4)]
    write(tmp_path / "more", {f"{n}.wav": sound(500 + n) for n in range(4)})
    (tmp_path / "more" / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run(tmp_path / "cv", f"{tmp_path / 'more'}=0.5", "--out", tmp_path / "o")
    train = rows_of(tmp_path / "o", "train")
    assert {"s1-a1", "s1-a2", "s1-b1"} < set(train)
    assert sum(clip.startswith("s2-") for clip in train) == 2
    annas = {row["speaker"] for clip, row in train.items() if clip.startswith(("s1-a", "s2-"))}
    assert len(annas) == 2
    facts = body(tmp_path / "o")
    assert facts["dropped"] == {"not in the share asked for": 2}
    assert [source["weight"] for source in facts["sources"]] == [1.0, 0.5]


def test_leaks_between_splits_and_against_others(tmp_path):
    leaky = {
        "train": [("anna", "a1", "uno"), ("bea", "b1", "Quattro!"), ("fay", "f1", "sei")],
        "dev": [("carla", "c1", "quattro")],
        "test": [("anna", "d1", "cinque"), ("dora", "d2", "sette")],
    }
    files = release_files("cv-25/it", leaky)
    files["cv-25/it/clips/d2.wav"] = files["cv-25/it/clips/f1.wav"]
    write(tmp_path / "cv", files)
    done = run(tmp_path / "cv", "--out", tmp_path / "o")
    assert body(tmp_path / "o")["shared_between_splits"] == {
        "train and dev": {"speakers": 0, "sentences": 1, "clips": 0},
        "train and test": {"speakers": 1, "sentences": 0, "clips": 1},
        "dev and test": {"speakers": 0, "sentences": 0, "clips": 0},
    }
    assert {(row["id"], row["shares"], row["example"]) for row in read_jsonl(tmp_path / "o" / "leaks.jsonl")} == {
        ("c1", "sentence", "b1"), ("d1", "speaker", "a1"), ("d2", "clip", "f1"),
    }  # fmt: skip
    assert "train and test share 1 speakers" in done.stderr
    assert "train and dev share 1 sentences" in done.stderr
    assert "leaked-" not in done.stderr  # each is said once
    found = read_jsonl(DatasetFolder(tmp_path / "o").label_report.findings)
    assert {
        (row["rule"], row["id"], row["text"]): row["detail"] for row in found if row["rule"] in LEAKED.values()
    } == {
        ("leaked-sentence", "c1", "quattro"): "also in train: b1",
        ("leaked-speaker", "d1", "cinque"): "also in train: a1",
        ("leaked-audio", "d2", "sette"): "also in train: f1",
    }
    checked = CliRunner().invoke(app, ["check", str(tmp_path / "o")])
    assert "3 utterances of dev and test share something with another split" in checked.stderr

    new = {"train": [("dora", "x1", "nuova")], "dev": [("eva", "x2", "Sette.")], "test": [("gaia", "x3", "altra")]}
    files = release_files("cv-26/it", new)
    files["cv-26/it/clips/x3.wav"] = (tmp_path / "cv/cv-25/it/clips/a1.wav").read_bytes()
    for number, name in enumerate(("x1", "x2")):
        files[f"cv-26/it/clips/{name}.wav"] = sound(900 + number)
    write(tmp_path / "new", files)
    run(tmp_path / "new", "--against", tmp_path / "cv", "--against", tmp_path / "o", "--out", tmp_path / "n")
    found = body(tmp_path / "n")["shared_with_others"]
    assert found["cv-25/it"] == {
        "train and its test": {"speakers": 1, "sentences": 0, "clips": 0},  # client_id is the same person
        "dev and its test": {"speakers": 0, "sentences": 1, "clips": 0},
    }
    assert found["o"] == {  # pseudonyms cannot be compared, sounds can
        "dev and its test": {"speakers": 0, "sentences": 1, "clips": 0},
        "test and its train": {"speakers": 0, "sentences": 0, "clips": 1},
    }
    assert {row["of"] for row in read_jsonl(tmp_path / "n" / "leaks.jsonl")} == {"cv-25/it", "o"}


def test_an_older_dataset_is_made_anew(tmp_path):
    write(tmp_path / "cv", release_files("cv/it", SPLITS))
    run(tmp_path / "cv", "--out", tmp_path / "o")
    manifest = tmp_path / "o" / "dataset.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "schema_version": 1}))
    with pytest.raises(DataError, match=r"has schema 1, this version reads 2\. Make it with: asr-lora prepare"):
        read_split(tmp_path / "o", "dev")
    run(tmp_path / "cv", "--out", tmp_path / "o")
    assert body(tmp_path / "o")["schema_version"] == 2


# Killed, and two at once ---------------------------------------------------------------------------------------------

FORKER = """
import os, random, signal, sys, time
from pathlib import Path
import datasets, pyarrow.parquet
import asr_lora.dataset.parts as made
import asr_lora.dataset.prepare as job
from asr_lora.folders.dataset_folder import DatasetFolder
import asr_lora.language, transformers.models.whisper.tokenization_whisper
made.PART_ROWS, made.ROWS_AT_ONCE, made.GROUP_ROWS = 8, 4, 8
source, whole, out, kills, chance = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), 7, random.Random(7)

def start(folder):
    child = os.fork()
    if child == 0:
        sys.stderr = open(os.devnull, "w")
        job.prepare(source, language="it", out=folder, subsets=["10s"])
        os._exit(0)
    return child

status = os.waitpid(start(whole), 0)[1]
killed = []
parts = lambda: len(list((out / ".prepare").glob("part-*")))
while status == 0 and len(killed) < kills:
    child, begun, patience = start(out), parts(), time.monotonic() + 20
    while parts() <= begun and time.monotonic() < patience and not (out / "dataset.json").exists():
        time.sleep(0.001)
    time.sleep(chance.uniform(0.0, 0.01))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    killed.append(parts())
    if (out / "dataset.json").exists():
        break
print(json := killed, os.waitpid(start(out), 0)[1])
"""


@pytest.mark.slow
@pytest.mark.parametrize("packed", [False, True])
def test_a_run_killed_again_and_again_ends_byte_for_byte_as_one_never_killed(tmp_path, packed):
    rows = {split: [(f"{split}{n % 9}", f"{split}-{n}", f"frase {split} {n}") for n in range(size)]
            for split, size in (("train", 100), ("dev", 20), ("test", 20))}  # fmt: skip
    files = release_files("cv/it", rows)
    for number in range(0, 100, 9):
        files[f"cv/it/clips/train-{number}.wav"] = b"no audio"
    write_wav(tmp_path / "x.wav", np.zeros(10))
    source = pack(tmp_path / "cv.tar.gz", files) if packed else write(tmp_path / "cv", files)
    done = subprocess.run(
        [sys.executable, "-c", FORKER, str(source), str(tmp_path / "whole"), str(tmp_path / "killed")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    killed, _, status = done.stdout.rstrip().rpartition(" ")
    assert status == "0", done.stdout + done.stderr
    assert len(set(json.loads(killed))) >= 4, killed  # it was killed with different parts done
    names = sorted(path.relative_to(tmp_path / "whole") for path in (tmp_path / "whole").rglob("*") if path.is_file())
    manifests = [name for name in names if name.name in ("dataset.json", "doctor.json")]
    assert (len(names), len(manifests)) == (9, 2)
    for name in set(names) - set(manifests):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    for name in manifests:
        facts = [json.loads((tmp_path / side / name).read_text()) for side in ("whole", "killed")]
        for fact in facts:
            fact.pop("made_with")
        assert facts[0] == facts[1]
    facts = [json.loads((tmp_path / "whole" / "dataset.json").read_text())]
    assert facts[0]["dropped"] == {"not audio" if shutil.which("ffmpeg") else "no ffmpeg": 12}
    assert not (tmp_path / "killed" / ".prepare").exists()


def test_two_at_once(tmp_path):
    rows = {split: [("a", f"{split}-{n}", f"frase {split} {n}") for n in range(30)] for split in SPLITS}
    source = write(tmp_path / "cv", release_files("cv/it", rows))
    words = ["prepare", source, "--language", "it", "--out", tmp_path / "o"]
    both = [process.wait() for process in [apart.start(*words) for _ in range(2)]]
    errors = [done.stderr for done in both]
    codes = sorted(done.returncode for done in both)
    assert codes in ([0, 0], [0, 2]), errors  # the second may have come when the first was done
    if codes == [0, 2]:
        assert any("another prepare works on" in error for error in errors)
    assert body(tmp_path / "o")["splits"]["train"]["utterances"] == 30


def test_the_lock_is_held_while_it_works_and_dies_with_its_process(tmp_path):
    source = write(tmp_path / "cv", release_files("cv/it", SPLITS))
    code = (
        "import fcntl, os, sys, time\n"
        f"os.makedirs({str(tmp_path / 'o' / '.prepare')!r})\n"
        f"handle = open({str(tmp_path / 'o' / '.prepare' / 'lock')!r}, 'a')\n"
        "fcntl.flock(handle, fcntl.LOCK_EX)\nprint('held', flush=True)\ntime.sleep(60)\n"
    )
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(ConfigError, match="another prepare works on"):
        prepare(source, language="it", out=tmp_path / "o")
    holder.kill()
    holder.wait()
    assert prepare(source, language="it", out=tmp_path / "o").complete


def interrupt(monkeypatch, source: Path, folder: DatasetFolder) -> None:
    """Decode all, and stop before anything is joined."""

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("asr_lora.dataset.prepare.join_parts", stop)
        with pytest.raises(KeyboardInterrupt):
            prepare(source, language="it", out=folder.root)


def test_what_was_interrupted_is_thrown_away_when_the_source_has_changed(tmp_path, monkeypatch):
    monkeypatch.setattr("asr_lora.dataset.parts.PART_ROWS", 2)
    source = write(tmp_path / "cv", release_files("cv/it", SPLITS))
    folder = DatasetFolder(tmp_path / "o")

    interrupt(monkeypatch, source, folder)
    assert folder.part(2).is_file()
    part = folder.part(1)
    part.write_bytes(part.read_bytes()[:100])  # as a power cut may leave it
    write(source, {"cv/it/clips/a1.wav": sound(77, 0.5)})
    assert prepare(source, language="it", out=folder.root).complete
    assert rows_of(folder.root, "train")["a1"]["seconds"] == 0.5


def test_a_part_that_cannot_be_read_is_made_again(tmp_path, monkeypatch):
    monkeypatch.setattr("asr_lora.dataset.parts.PART_ROWS", 2)
    source = write(tmp_path / "cv", release_files("cv/it", SPLITS))
    whole, folder = prepare(source, language="it", out=tmp_path / "w"), DatasetFolder(tmp_path / "o")

    interrupt(monkeypatch, source, folder)
    folder.part(1).write_bytes(folder.part(1).read_bytes()[:100])
    prepare(source, language="it", out=folder.root)
    for split in SPLITS:
        assert folder.split(split).read_bytes() == whole.split(split).read_bytes()


@pytest.mark.slow
def test_memory_stays_flat(tmp_path):
    """The longest clips there may be, in numbers that would not fit: the peak does not grow with them."""
    long = speech(29.9)
    buffer = tmp_path / "long.flac"
    soundfile.write(buffer, long, 16_000)
    clips = tmp_path / "cv" / "it" / "clips"
    clips.mkdir(parents=True)
    peaks = []
    for size in (32, 64):
        for split in SPLITS:
            rows = [{"client_id": "a", "path": f"{split}{n}.flac", "sentence": f"{split} {n}"} for n in range(size)]
            for row in rows:
                if not (clips / row["path"]).exists():
                    os.link(buffer, clips / row["path"])
            lines = ["client_id\tpath\tsentence", *("\t".join(row.values()) for row in rows)]
            (tmp_path / "cv" / "it" / f"{split}.tsv").write_text("\n".join(lines) + "\n")
            if split != "train":
                size = 2  # noqa: PLW2901
        code = (
            "from pathlib import Path\nfrom asr_lora import prepare\n"
            f"prepare({str(tmp_path / 'cv')!r}, language='it', out=Path({str(tmp_path / f'o{len(peaks)}')!r}))\n"
            "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout) >> 10)
    assert max(peaks) < 1000, peaks  # MB, of which the libraries take much
    assert peaks[1] - peaks[0] < 100, peaks
    assert Counter(read_split(tmp_path / "o1", "train").seconds).most_common(1)[0][1] == 64


# What `adapt` asks of it ---------------------------------------------------------------------------------------------


def test_adapt_takes_what_prepare_takes_and_says_the_command_that_repeats_it(tmp_path):
    """The model is not there, so that it ends after its first stage."""
    write(tmp_path / "my cv", release_files("cv/it", SPLITS))
    more = [{"audio": f"{n}.wav", "text": f"Altra, {n}!", "speaker": f"m{n}", "split": "train"} for n in range(4)]
    write(tmp_path / "more", {f"{n}.wav": sound(500 + n) for n in range(4)})
    (tmp_path / "more" / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in more))
    write(tmp_path / "delta", release_files("cv-delta/it", {"validated": [("eva", "e1", "Sei & <b>sette</b>")]}))
    (tmp_path / "mine.txt").write_text("a1\n")
    plain = [tmp_path / "my cv", "--delta", tmp_path / "delta", "--ids", tmp_path / "mine.txt", "--drop", "markup"]
    mixed = [tmp_path / "my cv", f"{tmp_path / 'more'}=0.5", "--against", tmp_path / "more", "--strip-punctuation",
             "--lower-case", "--seed", "3", "--subsets", "", "--hours", "0.0002"]  # fmt: skip
    for place, words in enumerate((plain, mixed)):
        out = tmp_path / f"o{place}"
        asked = ["adapt", *words, "--language", "it", "--model", tmp_path / "nothing", "--out", out]
        done = CliRunner().invoke(app, [str(word) for word in asked])
        assert done.exit_code in (2, 3), done.stderr
        command = next(line.partition("] ")[2] for line in done.stderr.splitlines() if line.startswith("[1/"))
        program, *said = shlex.split(command)
        assert (program, said[0]) == ("asr-lora", "prepare")
        made = DatasetFolder(out / "data").manifest.read_text()
        assert CliRunner().invoke(app, said).exit_code == 0
        assert DatasetFolder(out / "data").manifest.read_text() == made  # it is what was asked for
    assert body(tmp_path / "o0" / "data")["dropped"] == {"markup": 1}
    assert list(body(tmp_path / "o0" / "data")["subsets"]) == ["mine"]
    facts = body(tmp_path / "o1" / "data")
    assert facts["text"] == ["lower_case", "strip_punctuation"]
    assert facts["dropped"] == {"not in the share asked for": 2}
    assert list(facts["subsets"]) == ["0.0002h"]
    assert facts["shared_with_others"]
