"""Reports: reused when nothing changed, never when something did, and never at another's cost."""

import json
import shutil

import pytest
from conftest import DEMO, run_record

from asr_lora import compare, evaluate, prepare, train
from asr_lora.config import Context, Precision
from asr_lora.errors import ConfigError, DataError
from asr_lora.folders.atomic import read_jsonl, write_jsonl
from asr_lora.folders.report_folder import ReportFolder
from asr_lora.folders.run_folder import RunFolder
from asr_lora.language import ForcedPrompt, forced_prompt
from asr_lora.model.adapters.files import save_weights
from asr_lora.model.find_model import find_model, weights_digest
from asr_lora.model.open_model import open_model
from asr_lora.model.whisper import load_whisper


@pytest.fixture(scope="module")
def frisian(tmp_path_factory):
    """data/demo, prepared as though it were in a language that Whisper has no token for."""
    return prepare(DEMO, language="fy", locale="it", out=tmp_path_factory.mktemp("prepared") / "fy").root


@pytest.fixture
def dev(demo_dataset, tiny_folder, tmp_path):
    """A function: evaluate the tiny model on dev."""

    def run(model=str(tiny_folder), out=tmp_path / "report", **options) -> ReportFolder:
        return evaluate(model, demo_dataset, split="dev", out=out, **options)

    return run


def test_a_report_is_whole(dev, demo_dataset, tiny_folder):
    body = dev().read_json()
    rows = read_jsonl(dev().hypotheses)
    assert len(rows) == body["dataset"]["utterances"] == 16
    assert body["decoding"] == {
        "language": "it", "language_token": None, "task": "transcribe", "beams": 5, "max_new_tokens": 224,
        "loops_end": True,
    }  # fmt: skip
    assert body["scores"]["wer"] == sum(row["word_edits"] for row in rows) / sum(row["reference_words"] for row in rows)
    assert body["system"]["context"] == "full"
    assert body["system"]["weights_digest"] == weights_digest(str(tiny_folder))
    assert body["rtfx"] > 0
    engine = {key: body["system"][key] for key in ("engine", "dtype", "device")}  # of a machine without a GPU
    assert engine == {"engine": "ctranslate2", "dtype": "float32", "device": "cpu"}


def test_the_engines_make_the_same_hypotheses(dev, tmp_path):
    """In float32 each writes what the other does, so the faster one may score."""
    rows = [
        [row["hypothesis"] for row in read_jsonl(dev(engine=engine, precision=Precision.FP32).hypotheses)]
        for engine in ("torch", "ctranslate2")
    ]
    assert rows[0] == rows[1]


def test_a_report_is_reused_and_renamed(dev):
    before = dev().hypotheses.stat().st_mtime_ns
    assert dev(name="untouched").read_json()["system"]["name"] == "untouched"
    assert dev(name="untouched").hypotheses.stat().st_mtime_ns == before
    assert dev(beams=2).hypotheses.stat().st_mtime_ns != before


def test_another_normaliser_or_terms_score_again_and_transcribe_nothing(dev, tmp_path, monkeypatch):
    whole = dev()
    before, hypotheses = whole.read_json(), [row["hypothesis"] for row in read_jsonl(whole.hypotheses)]
    monkeypatch.setattr("asr_lora.evaluation.evaluate.open_engine", None)  # a model that is opened fails the test
    raw = dev(normaliser="none").read_json()
    assert (raw["normaliser"], raw["scores"]["wer"]) == ("none-1", before["scores"]["raw_wer"])
    assert raw["transcribed_with"] == before["made_with"]
    assert [row["hypothesis"] for row in read_jsonl(whole.hypotheses)] == hypotheses
    terms = tmp_path / "terms.txt"
    terms.write_text(f"{read_jsonl(whole.hypotheses)[0]['reference'].split()[0]}\n")
    listed = dev(hotwords=terms).read_json()
    assert listed["analysis"]["terms"]["spoken"] >= 1
    assert dev().read_json()["scores"] == before["scores"]
    with pytest.raises(ConfigError, match="there is no normaliser 'fancy'"):
        dev(normaliser="fancy")


def test_a_report_of_an_earlier_version_is_scored_again(dev, monkeypatch):
    whole = dev()
    body = whole.read_json()
    old = {key: value for key, value in body.items() if key not in ("scoring", "analysis")}
    whole.manifest.write_text(json.dumps(old))
    rows = read_jsonl(whole.hypotheses)
    write_jsonl(whole.hypotheses, [{key: row[key] for key in row if key != "gender"} for row in rows])
    monkeypatch.setattr("asr_lora.evaluation.evaluate.open_engine", None)
    assert dev().read_json()["analysis"] == body["analysis"]
    assert read_jsonl(whole.hypotheses) == rows


def test_lost_hypotheses_are_made_again(dev):
    dev().hypotheses.unlink()
    assert dev().hypotheses.is_file()


def test_a_language_that_borrows_a_token(frisian, tiny_folder, tmp_path):
    def score(out: str, **options) -> ReportFolder:
        return evaluate(str(tiny_folder), frisian, split="dev", out=tmp_path / out, name=out, **options)

    with pytest.raises(ConfigError, match=r"Whisper has no 'fy'.* or --language-token, to a related language"):
        score("none")
    dutch = score("nl", language_token="Dutch")
    body = dutch.read_json()
    assert (body["decoding"]["language"], body["decoding"]["language_token"]) == ("fy", "nl")
    assert body["dataset"]["language"] == "fy"
    written = dutch.hypotheses.stat().st_mtime_ns
    assert score("nl", language_token="nl").hypotheses.stat().st_mtime_ns == written
    score("beside", language_token="nl")
    compare([tmp_path / "nl", tmp_path / "beside"], out=tmp_path / "page")
    for file in ("index.html", "table.md"):
        assert "decoded with the language token of nl" in (tmp_path / "page" / file).read_text(encoding="utf-8")
    score("it", language_token="it")
    with pytest.raises(DataError, match="differ in decoding"):
        compare([tmp_path / "nl", tmp_path / "it"], out=tmp_path / "compared")


def test_a_run_knows_the_token_it_borrowed(frisian, tiny_folder, tmp_path):
    run = RunFolder(tmp_path / "run")
    save_weights(load_whisper(str(tiny_folder), forced_prompt("fy", "nl")), run.weights("full"))
    model = {"name": str(tiny_folder), "language": "fy", "language_token": "Dutch", "context": "full"}
    run.write(run_record(tiny_folder, method="full", model=model))
    assert find_model(str(run.root)).prompt() == ForcedPrompt("fy", "nl")
    assert find_model(str(run.root)).prompt("fy-NL", "de") == ForcedPrompt("fy", "de")
    assert find_model(str(run.root)).prompt("it") == ForcedPrompt("it")  # another language borrows nothing
    assert open_model(str(run.root)).prompt.forced_language == "nl"
    body = evaluate(str(run.root), frisian, split="dev", out=tmp_path / "report").read_json()
    assert body["decoding"]["language_token"] == "nl"


def test_the_report_of_another_model_or_split_is_left_alone(dev, demo_dataset, tiny_folder, tmp_path):
    report = dev()
    before = report.manifest.read_bytes()
    other = tmp_path / "other"
    shutil.copytree(tiny_folder, other)
    (other / "notes.txt").write_text("trained a little longer")
    with pytest.raises(ConfigError, match=r"holds the report of .* on dev: name another"):
        dev(model=str(other))
    with pytest.raises(ConfigError, match="holds the report"):
        evaluate(str(tiny_folder), demo_dataset, split="test", out=report.root)
    with pytest.raises(DataError, match="no model at"):
        dev(model="typo", out=tmp_path / "new")
    assert report.manifest.read_bytes() == before
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.html").write_text("mine")
    with pytest.raises(ConfigError, match="holds something else"):
        dev(out=tmp_path / "docs")


@pytest.mark.parametrize("tail", [b"", b'{"id": "half a li', '{"id": "è'.encode()[:-1]])
def test_an_evaluation_stopped_at_any_byte_goes_on(dev, tmp_path, tail):
    whole = dev()
    stamp, rows = whole.read_json()["fingerprint"], read_jsonl(whole.hypotheses)
    for done in (0, 5):
        out = ReportFolder(tmp_path / f"stopped{done}")
        out.root.mkdir()
        lines = [{"fingerprint": stamp}, *({"id": row["id"], "hypothesis": "as before"} for row in rows[:done])]
        out.partial(0).write_bytes(b"".join(json.dumps(line).encode() + b"\n" for line in lines) + tail)
        found = read_jsonl(dev(out=out.root).hypotheses)
        assert [row["hypothesis"] for row in found] == ["as before"] * done + [row["hypothesis"] for row in rows[done:]]


def test_a_run_its_weights_and_a_copy_of_them(run_config, demo_dataset, tmp_path):
    run = train(run_config(training__steps=2)).root
    assert open_model(str(run)).context is Context.TRUE_LENGTH
    assert open_model(str(run / "adapter")).context is Context.TRUE_LENGTH
    shutil.copytree(run / "adapter", run / "adapter-old")
    with pytest.raises(ConfigError, match="does not say its language"):
        open_model(str(run / "adapter-old"))
    copy = open_model(str(run / "adapter-old"), ForcedPrompt("it"))
    assert find_model(str(run / "adapter-old")).weights == run / "adapter-old"
    assert copy.context is Context.FULL
    shutil.rmtree(run / "adapter")
    with pytest.raises(DataError, match="lost its weights"):
        open_model(str(run))
    assert (train(run_config(training__steps=2), resume=True).root / "adapter").is_dir()  # made again, as it said


def test_the_weights_of_full_fine_tuning_know_their_context(run_config):
    run = train(run_config(method="full", training__steps=2)).root
    assert open_model(str(run / "model")).context is Context.TRUE_LENGTH


@pytest.mark.parametrize(
    ("file", "body"),
    [
        ("model.safetensors", b"cut"),
        ("config.json", b"[]"),
        ("config.json", b'{"model_type": "whisper", "d_model": "x"}'),
        ("tokenizer.json", b"{"),
        ("tokenizer.json", b"[]"),
    ],
)
def test_a_broken_model_folder_is_one_sentence(tiny_folder, tmp_path, file, body):
    copy = tmp_path / "broken"
    shutil.copytree(tiny_folder, copy)
    (copy / file).write_bytes(body)
    with pytest.raises(DataError, match="broken"):
        open_model(str(copy), ForcedPrompt("it"))


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b"not json"])
def test_a_broken_adapter_folder_is_one_sentence(tmp_path, body):
    (tmp_path / "adapter_config.json").write_bytes(body)
    with pytest.raises(DataError, match="is not an adapter folder"):
        open_model(str(tmp_path), ForcedPrompt("it"))
