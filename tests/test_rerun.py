"""Reports and comparisons: every number follows from the hypotheses, and is made again from them."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from asr_lora import compare
from asr_lora.cli.verbs import app
from asr_lora.errors import ConfigError, DataError
from asr_lora.evaluation.comparison import read_comparison
from asr_lora.evaluation.report import score_report
from asr_lora.evaluation.rerun import rerun
from asr_lora.folders.atomic import read_jsonl, write_jsonl
from asr_lora.folders.measurements import ReportRecord
from asr_lora.folders.report_folder import ComparisonFolder, ReportFolder
from asr_lora.metrics.normalize import find_normaliser

VOCABULARY = {
    "nl": ["de", "kat", "loopt", "Jan", "Smit", "huis", "zegt", "mooi"],
    "zh": ["今", "天", "气", "很", "好", "我", "们", "书"],
}


def report(root: Path, name: str, wrong: float, *, language: str = "nl", seed: int = 0, **changes) -> Path:
    """A report as `evaluate` writes one, of a system that gets a share of words wrong."""
    said, heard = np.random.default_rng(1), np.random.default_rng(seed)
    blank, words = " " if language == "nl" else "", VOCABULARY[language]
    rows = []
    for n in range(60):
        text = [str(word) for word in said.choice(words, 6)]
        other = [str(heard.choice(words)) if heard.random() < wrong else word for word in text]
        rows.append(
            {
                "id": f"clip{n:02}", "speaker": f"s{n % 15}", "gender": ["female", "male"][n % 2], "age": "",
                "accent": "", "domain": "", "seconds": 2.5, "reference": blank.join(text),
                "hypothesis": blank.join(other),
            }
        )  # fmt: skip
    rows, scored = score_report(rows, language, find_normaliser("basic", language))
    folder = ReportFolder(root)
    root.mkdir(parents=True)
    write_jsonl(folder.hypotheses, rows)
    body = {
        "fingerprint": name,
        "system": {
            "name": name, "model": name, "base": "b", "context": "full", "dtype": "bfloat16", "device": "cpu",
            "training": None, "strength": None,
        },
        "dataset": {
            "language": language, "split": "test", "sha256": language * 32, "utterances": 60, "seconds": 150.0,
            "speakers": 15, "folder": "data",
        },
        "decoding": {"language": language, "language_token": None, "task": "transcribe", "beams": 1},
        "rtfx": 20.0,
    }  # fmt: skip
    folder.write(ReportRecord.model_validate({**body, **scored.fields(), **changes}))
    return root


@pytest.fixture
def reports(tmp_path):
    return [report(tmp_path / "a", "untouched", 0.5), report(tmp_path / "b", "lora", 0.2, seed=2)]


def test_a_report_states_all_rates_and_what_is_behind_them(reports):
    body = ReportFolder(reports[0]).read_json()
    scores = body["scores"]
    assert set(scores["normalised"]) == {"none-1", "basic-2", "whisper-2", "leaderboard-2"}
    assert scores["not_scored"] == {}
    assert scores["wer"] == scores["normalised"]["basic-2"]["wer"]
    assert scores["wer_interval"][0] < scores["wer"] < scores["wer_interval"][1]
    assert scores["cer_interval"][0] < scores["cer"] < scores["cer_interval"][1]
    assert scores["wil"] >= scores["mer"] > 0
    assert [group["group"] for group in body["analysis"]["breakdown"]["by"]["gender"]["groups"]] == ["female", "male"]
    assert "from 5 speakers and 20 utterances on" in body["analysis"]["breakdown"]["rule"]
    assert body["analysis"]["words"]["substitutions"]


def test_a_comparison_states_n_test_and_verdict(reports, tmp_path):
    terms = tmp_path / "terms.txt"
    terms.write_text("Jan Smit\n")
    body = compare(reports, out=tmp_path / "out", hotwords=terms).read_json()
    (pair,) = body["pairs"]
    assert (pair["utterances"], pair["speakers"], pair["verdict"]) == (60, 15, "better")
    assert pair["mapsswe"]["verdict"] == "better"
    assert pair["mapsswe"]["segments"] > 30
    assert body["terms"][1]["recall"]["value"] > body["terms"][0]["recall"]["value"]
    assert body["changed_words"][0]["better"]
    female = body["breakdown"]["by"]["gender"]["groups"][0]
    assert len(female["rates"]) == 2
    assert female["differences"][0]["value"] < 0


def test_another_normaliser_needs_no_other_transcription(reports, tmp_path):
    raw = compare(reports, out=tmp_path / "raw", normaliser="none").read_json()
    assert raw["normaliser"] == "none-1"
    for system, path in zip(raw["systems"], reports, strict=True):
        assert system["scores"]["wer"] == ReportFolder(path).read_json()["scores"]["normalised"]["none-1"]["wer"]
    other = report(tmp_path / "c", "c", 0.1, seed=3, normaliser="none-1")
    with pytest.raises(DataError, match=r"differ in normaliser .* or name one with --normaliser"):
        compare([reports[0], other], out=tmp_path / "never")
    assert (
        compare([reports[0], other], out=tmp_path / "named", normaliser="basic").read_json()["normaliser"] == "basic-2"
    )


def test_characters_lead_in_chinese(tmp_path):
    paths = [report(tmp_path / name, name, wrong, language="zh", seed=4) for name, wrong in (("a", 0.5), ("b", 0.1))]
    assert ReportFolder(paths[0]).read_json()["scores"]["lead"] == "cer"
    body = compare(paths, out=tmp_path / "out").read_json()
    assert body["lead"] == "cer"
    assert "points of CER" in body["verdict"]
    assert body["pairs"][0]["mapsswe"]["reference"] > 60  # characters, not utterances


def test_all_is_made_again_and_agrees(reports, tmp_path, monkeypatch):
    terms = tmp_path / "terms.txt"
    terms.write_text("Jan Smit\nhuis\n")
    guards = [report(tmp_path / f"guard-{name}", name, 0.3, language="zh", seed=5) for name in ("untouched", "lora")]
    folder = compare(reports, out=tmp_path / "out", hotwords=terms, regression_sets=guards)
    found = rerun(folder.root)
    assert (found.differences, found.notes) == ((), ())
    assert found.numbers > 500
    for path in (*reports, *guards):
        assert rerun(path).differences == ()
    monkeypatch.chdir(tmp_path)
    near = compare([Path("a"), Path("b")], out=Path("near"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert rerun(tmp_path / near.root).differences == ()
    done = CliRunner().invoke(app, ["compare", "--rerun", str(folder.root)])
    assert (done.exit_code, "and all agree" in done.output) == (0, True)


def test_a_number_that_was_changed_is_found(reports, tmp_path):
    folder = compare(reports, out=tmp_path / "out")
    body = json.loads(folder.manifest.read_text())
    body["pairs"][0]["wer"]["value"] -= 0.01
    body["breakdown"]["by"]["gender"]["groups"].pop()
    folder.manifest.write_text(json.dumps(body))
    differences = rerun(folder.root).differences
    assert len(differences) == 2
    assert any("pairs[0].wer.value is recorded as -0." in sentence for sentence in differences)
    assert any("breakdown.by.gender.groups is recorded as" in sentence for sentence in differences)
    done = CliRunner().invoke(app, ["compare", "--rerun", str(folder.root)])
    assert done.exit_code == 3
    assert "does not agree with its hypotheses in 2 places" in done.output


def test_a_page_or_a_table_that_was_changed_is_found(reports, tmp_path):
    folder = compare(reports, out=tmp_path / "out")
    for path in (folder.page, folder.markdown, folder.csv):
        whole = path.read_bytes()
        path.write_bytes(whole.replace(b"lora", b"lore", 1))
        assert rerun(folder.root).differences == (
            f"{path} has been changed since compare wrote it (its SHA-256 differs)",
        )
        path.unlink()
        assert rerun(folder.root).differences == (f"{path} is missing",)
        path.write_bytes(whole)
    assert rerun(folder.root).differences == ()
    body = json.loads(folder.manifest.read_text())
    del body["files"]
    folder.manifest.write_text(json.dumps(body))
    assert "recorded no digests of page and tables" in rerun(folder.root).notes[0]


def test_a_hypothesis_that_was_changed_is_found(reports, tmp_path):
    folder = compare(reports, out=tmp_path / "out")
    hypotheses = ReportFolder(reports[1]).hypotheses
    rows = read_jsonl(hypotheses)
    rows[3]["hypothesis"] = "heel iets anders"
    write_jsonl(hypotheses, rows)
    differences = rerun(folder.root).differences
    assert any("hypotheses.jsonl: [3].word_edits is recorded" in sentence for sentence in differences)
    assert any("scores.wer is recorded" in sentence for sentence in differences)
    assert any(sentence.startswith(str(folder.root)) for sentence in differences)
    assert any("more values" in sentence for sentence in differences)


def test_what_cannot_be_made_again_is_one_sentence(reports, tmp_path):
    folder = compare(reports, out=tmp_path / "out")
    with pytest.raises(ConfigError, match="holds no report and no comparison"):
        rerun(tmp_path)
    shutil.move(reports[0], tmp_path / "gone")
    with pytest.raises(DataError, match=r"was made from .*a, which is not there"):
        rerun(folder.root)
    for line, sentence in (
        ('{"id": "a", "speaker": "s", "seconds": 1, "reference": "r"}', "line 1: no 'hypothesis'"),
        ("", "holds no utterances"),
        ('{"id": "a", "speaker": "s", "seconds": 1, "reference": "r", "hypothesis": "h"}\n' * 2, "utterance twice"),
    ):
        ReportFolder(reports[1]).hypotheses.write_text(line.rstrip("\n") + "\n" if line else "")
        with pytest.raises(DataError, match=sentence):
            rerun(reports[1])


def test_a_report_of_before_is_understood(reports, tmp_path):
    body = json.loads(ReportFolder(reports[0]).manifest.read_text())
    kept = ("wer", "cer", "raw_wer", "raw_cer", "word_edits", "reference_words", "resampled")
    body["scores"] = {**{key: body["scores"][key] for key in kept}, "wer_interval": [0.1, 0.9]}
    for key in ("scoring", "analysis"):
        del body[key]
    del body["decoding"]["language_token"]
    ReportFolder(reports[0]).manifest.write_text(json.dumps(body))
    rows = [{k: v for k, v in row.items() if k not in ("gender", "age", "accent", "domain")}
            for row in read_jsonl(ReportFolder(reports[0]).hypotheses)]  # fmt: skip
    write_jsonl(ReportFolder(reports[0]).hypotheses, rows)
    found = rerun(reports[0])
    assert found.differences == ()
    assert "drawn by an earlier version" in found.notes[0]
    comparison = compare(reports, out=tmp_path / "out").read_json()
    assert comparison["breakdown"]["not_recorded"] == ["gender", "age", "accent", "domain"]


def test_no_words_without_transcripts(reports, tmp_path):
    terms = tmp_path / "terms.txt"
    terms.write_text("Smit\n")
    folder = compare(reports, out=tmp_path / "out", transcripts=False, hotwords=terms)
    for file in (folder.manifest, folder.page, folder.markdown):
        text = file.read_text(encoding="utf-8")
        assert not any(word in text for word in ("loopt", "huis", "Smit", "mooi"))
    assert folder.read_json()["terms"][0]["recall"]["value"] < 1
    found = rerun(folder.root)
    assert found.differences == ()
    assert "recall of hotwords was not computed again" in found.notes[0]


def test_guards_stand_beside(reports, tmp_path):
    guards = [report(tmp_path / f"guard-{name}", name, 0.3, language="zh", seed=5) for name in ("lora", "untouched")]
    folder = compare(reports, out=tmp_path / "out", regression_sets=guards)
    before = compare(reports, out=tmp_path / "before", guards=guards)  # the keyword of earlier versions
    assert before.read_json()["guards"] == folder.read_json()["guards"]
    (guard,) = folder.read_json()["guards"]
    assert [system["name"] for system in guard["systems"]] == ["untouched", "lora"]
    assert guard["lead"] == "cer"
    assert guard["pairs"][0]["verdict"] == "not distinguishable"
    assert "Regression set zh CER %" in folder.markdown.read_text(encoding="utf-8")
    stranger = report(tmp_path / "stranger", "stranger", 0.3, language="zh")
    with pytest.raises(ConfigError, match="is of stranger, none of the systems compared"):
        read_comparison(reports, regression_sets=[stranger])


def test_seeds_are_combined(reports, tmp_path):
    runs = [report(tmp_path / f"r{seed}", f"lora#{seed}", 0.25, seed=seed) for seed in (6, 7, 8)]
    folder = compare([reports[0], *runs], out=tmp_path / "out")
    (found,) = folder.read_json()["combined"]
    assert (found["name"], found["systems"]) == ("lora", ["lora#6", "lora#7", "lora#8"])
    assert found["wer"]["difference"]["verdict"] == "better"
    assert "lora (mean of 3)" in folder.markdown.read_text(encoding="utf-8")
    with pytest.raises(ConfigError, match=r"such as untouched#2 for another seed"):
        compare([reports[0], reports[0]], out=tmp_path / "out2")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--rerun", "x", "--out", "y"], "--rerun takes the folder alone"),
        (["x", "y"], "say where to write with --out"),
        (["--rerun", "nowhere"], "holds no report and no comparison"),
    ],
)
def test_wrong_usage_is_one_sentence(words, sentence):
    done = CliRunner().invoke(app, ["compare", *words])
    assert done.exit_code == 2
    assert sentence in done.output


def test_committed_comparisons_are_understood_or_refused():
    committed = sorted((Path(__file__).parent.parent / "reports").glob("*/comparison.json"))
    assert committed
    for path in committed:
        assert ComparisonFolder(path.parent).read().verdict
        with pytest.raises(DataError, match=r"was made from .*, which is not there"):
            rerun(path.parent)
