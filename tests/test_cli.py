"""The command line as a user meets it: one clear sentence, the right exit code, never a traceback."""

import json
import os
import signal
import subprocess
import sys
import time

import apart
import pytest
from conftest import BASE, DEMO, speech, write_wav
from typer.testing import CliRunner

from asr_lora.cli.verbs import app


def invoke(*words: object):
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture
def unfinished(tmp_path):
    """A run folder as a killed process leaves it."""
    run = tmp_path / "killed"
    run.mkdir()
    (run / "config.yaml").write_text("out: x\nmodel: {language: it}\ndata: {dataset: d}\ntraining: {steps: 99}\n")
    return run


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["prepare", "{tmp}/nowhere", "--language", "it", "--out", "{tmp}/o"], 3, "nowhere is not there"),
        (["prepare", "{demo}", "--language", "Klingon", "--out", "{tmp}/o"], 2, "Whisper has no 'Klingon'"),
        (["prepare", "{demo}", "--language", "Dutsch", "--out", "{tmp}/o"], 2, "did you mean 'dutch'"),
        (["prepare", "{demo}", "--language", "nl", "--out", "{tmp}/o"], 3, "has no locale 'nl'; it has it"),
        (["prepare", "{demo}", "--language", "it", "--out", "{tmp}/o", "--subsets", "1x"], 2, "such as 10min"),
        (["prepare", "{demo}", "--language", "it"], 2, "Missing option"),
        (["train", "{tmp}/nothing.yaml"], 2, "cannot be read"),
        (["evaluate", "{base}", "{tmp}/nowhere", "--out", "{tmp}/o"], 3, "no dataset at"),
        (["evaluate", "nonsense", "{data}", "--out", "{tmp}/o"], 3, "no model at 'nonsense'"),
        (["evaluate", "{killed}", "{data}", "--out", "{tmp}/o"], 3, "the run is unfinished. Finish it with"),
        (["evaluate", "{base}", "{data}", "--split", "tset", "--out", "{tmp}/o"], 3, "no split 'tset'"),
        (["evaluate", "{base}", "{data}", "--language", "Duch", "--out", "{tmp}/o"], 2, "did you mean 'dutch'"),
        (
            ["evaluate", "{base}", "{data}", "--language", "fy", "--out", "{tmp}/o"],
            2,
            "or --language-token, to a related",
        ),
        (
            ["evaluate", "{base}", "{data}", "--language-token", "fy", "--out", "{tmp}/o"],
            2,
            "language_token: Whisper has",
        ),
        (["evaluate", "{base}@0.5", "{data}", "--out", "{tmp}/o"], 2, "only an adapter has a strength"),
        (["evaluate", "{base}@2", "{data}", "--out", "{tmp}/o"], 2, "a number from 0 to 1 such as"),
        (["transcribe", "{base}@0.5", "{data}/x.wav", "--language", "it"], 2, "only an adapter has a strength"),
        (
            ["adapt", "{demo}", "--language", "fy", "--out", "{tmp}/o"],
            2,
            "Set model.language_token, or --language-token",
        ),
        (["promote", "{tmp}/nowhere"], 3, "no run at"),
        (["promote", "{killed}"], 3, "the run is unfinished. Finish it with"),
        (["compare", "{tmp}/a", "--out", "{tmp}/o"], 2, "two reports or more"),
        (["compare", "{tmp}/a", "{tmp}/b", "--out", "{tmp}/o"], 3, "no report at"),
        (["transcribe", "{base}", "{tmp}/x.wav", "--format", "mp4", "--language", "it"], 2, "mp4 is not one of"),
        (["transcribe", "{base}", "{tmp}/x.wav"], 2, "does not say its language"),
        (
            ["transcribe", "{base}", "{tmp}/x.wav", "--adapter", "cs"],
            2,
            "--adapter cs: write NAME=RUN with a name that no other adapter has",
        ),
        (["transcribe", "{base}", "{tmp}/x.wav", "--adapter", "cs={base}"], 2, "this is no adapter; name it as MODEL"),
        (["transcribe", "{base}", "{tmp}/x.wav", "--route", "cs"], 2, "--route chooses among adapters"),
        (["transcribe", "{base}", "{tmp}/x.wav", "--line-length", "3"], 2, "--line-length must be 8 or more"),
        (["transcribe", "{base}", "{tmp}/x.wav", "--keep-existing"], 2, "need a folder: add --out FOLDER"),
        (
            ["transcribe", "{base}", "{tmp}/x.wav", "--format", "srt", "--format", "txt"],
            2,
            "need a folder: add --out FOLDER",
        ),
        (
            ["adapt", "{demo}", "--language", "it", "--out", "{tmp}/o", "--baselines", "all"],
            2,
            "not one of zero-shot, full",
        ),
        (["demo", "--source", "{tmp}/nowhere"], 2, "there is no folder"),
        (["trian"], 2, "No such command"),
    ],
)
def test_wrong_input_is_one_sentence(tmp_path, demo_dataset, unfinished, words, code, sentence):
    places = {"tmp": tmp_path, "demo": DEMO, "base": BASE, "data": demo_dataset, "killed": unfinished}
    done = invoke(*(word.format(**places) for word in words))
    assert done.exit_code == code
    assert sentence in done.stderr
    assert not (tmp_path / "o").exists()
    if "Usage" not in done.stderr:
        assert done.stderr.count("\n") == 1


def test_prepare_prints_what_there_is(release, tmp_path):
    (release / "clips" / "common_voice_it_00000002.mp3").unlink()
    done = invoke("prepare", release, "--language", "it", "--out", tmp_path / "o")
    assert done.exit_code == 0
    assert "left out       1 missing" in done.stdout
    body = json.loads(invoke("prepare", release, "--language", "it", "--out", tmp_path / "o", "--json").stdout)
    assert body["dropped"] == {"missing": 1}


def test_a_language_without_a_token_is_prepared_with_a_notice(tmp_path):
    words = ["prepare", DEMO, "--language", "fy", "--locale", "it", "--out", tmp_path / "o", "--json"]
    done = invoke(*words)
    assert done.exit_code == 0
    assert "warning: Whisper has no token for 'fy'" in done.stderr
    assert "set model.language_token or --language-token" in done.stderr
    assert json.loads(done.stdout)["language"] == "fy"


def test_shared_speakers_are_warned_of(release, tmp_path):
    test, train = release / "test.tsv", release / "train.tsv"
    first = train.read_text(encoding="utf-8").splitlines()[1].split("\t")
    lines = test.read_text(encoding="utf-8").splitlines()
    lines[1] = "\t".join([first[0], *lines[1].split("\t")[1:]])
    test.write_text("\n".join(lines) + "\n", encoding="utf-8")
    done = invoke("prepare", release, "--language", "it", "--out", tmp_path / "o")
    assert done.exit_code == 0
    assert "warning: train and test share 1 speakers" in done.stderr


@pytest.mark.slow
def test_transcribe_goes_on_after_a_bad_file(tmp_path):
    (tmp_path / "a.wav").write_bytes(b"no audio")
    write_wav(tmp_path / "b.wav", speech(5.0))
    done = invoke("transcribe", BASE, tmp_path / "a.wav", tmp_path / "b.wav", "--language", "Italian")
    assert done.exit_code == 1
    assert "a.wav cannot be decoded" in done.stderr
    assert "1 of the inputs could not be transcribed or written" in done.stderr
    assert "numero" in done.stdout


@pytest.mark.slow
def test_a_disk_that_fills_is_one_sentence_and_leaves_nothing_half_written(tmp_path):
    """The kernel refuses to let a file grow, as a full disk does."""
    done = apart.run("prepare", DEMO, "--language", "it", "--out", tmp_path / "o", largest_file=300_000)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert "complete results are kept" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "o").exists()


def test_an_interrupted_evaluation_goes_on_where_it_stopped(demo_dataset, tiny_folder, tmp_path):
    out = tmp_path / "report"
    words = ["evaluate", tiny_folder, demo_dataset, "--split", "train", "--language", "it", "--out", out]
    partial = out / "hypotheses.partial-0.jsonl"
    process = apart.start(*words)
    while not process.ended and not (partial.is_file() and partial.read_text().count("\n") >= 2):
        time.sleep(0.02)
    process.send(signal.SIGINT)
    stopped = process.wait()
    assert stopped.returncode == 130, stopped.stderr
    assert "Traceback" not in stopped.stderr
    done = partial.read_text().count("hypothesis")
    assert 0 < done < 59
    partial.write_text(partial.read_text() + '{"id": "half a li')  # what a killed process leaves
    assert invoke(*words).exit_code == 0
    assert not partial.exists()
    rows = [json.loads(line) for line in (out / "hypotheses.jsonl").read_text().splitlines()]
    assert len(rows) == 59
    inner = ("--split", "dev", "--language", "it", "--out", out / "inner")
    assert invoke("evaluate", tiny_folder, demo_dataset, *inner).exit_code == 0


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1", "utf-8", "utf-16"])
def test_a_terminal_of_any_encoding_gets_what_it_can_show(encoding):
    """Messages, results and JSON; what the encoding lacks is escaped as in JSON, control characters everywhere."""
    code = r"""
from asr_lora.cli.printing import print_json
from asr_lora.system.progress import accept_any_text, say, show
accept_any_text()
name = "P\u0159\u00e9\U0001f600\x1b[31m\x9b\u202e\udcff"
say(f"{name}\nerror: nothing")
show(name.replace("\udcff", ""))
print_json({"name": name})
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, env={**os.environ, "PYTHONIOENCODING": encoding}, check=True
    )
    out, err = (text.decode(encoding) for text in (done.stdout, done.stderr))
    shown, _, body = out.partition("\n")
    hidden = r"\u001b[31m\u009b\u202e"
    known = {"utf-8": "Přé😀", "utf-16": "Přé😀", "ascii": r"P\u0159\u00e9\ud83d\ude00"}
    name = known.get(encoding, r"P\u0159é\ud83d\ude00") + hidden
    assert (shown.lstrip("\ufeff"), err.lstrip("\ufeff")) == (name, rf"{name}\udcff error: nothing" + "\n")
    assert json.loads(body)["name"] == "Přé😀\x1b[31m\x9b\u202e\udcff"


@pytest.mark.parametrize(
    "environment",
    [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, {"LC_ALL": "C"}],
)
def test_a_file_with_any_name_is_named_on_any_terminal(environment, tmp_path):
    name = os.fsencode(tmp_path) + "/Příklad \x1b[31m".encode() + b"\xff.yaml"
    for words in ([b"check", name], [b"check", b"--" + name], [b"check", name, name]):
        done = subprocess.run(
            [sys.executable, "-m", "asr_lora", *words],
            capture_output=True,
            env={**os.environ, **environment},
            check=False,
        )
        assert done.returncode == 2
        assert b"Traceback" not in done.stderr
        assert b"\x1b" not in done.stderr
        assert b"klad" in done.stderr


def test_closed_and_broken_outputs_are_no_traceback(tmp_path):
    command = f"{sys.executable} -m asr_lora check {tmp_path}/x.yaml"
    for redirected in (">&-", "2>&-", ">&- 2>&-", "2>&1 | true"):
        done = subprocess.run(["bash", "-c", f"{command} {redirected}"], capture_output=True, text=True, check=False)
        assert "Traceback" not in done.stdout + done.stderr
