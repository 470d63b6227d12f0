"""Results as notebooks and pandas show them: one line, an HTML table, a DataFrame."""

import json
import sys

import pytest
from conftest import ROOT

from asr_lora.config import Method
from asr_lora.errors import ConfigError
from asr_lora.folders import dataset_folder, report_folder, run_folder, workflow_folder
from asr_lora.folders.report_folder import ComparisonFolder, ReportFolder
from asr_lora.folders.run_folder import (
    BestCheckpoint,
    ParameterCount,
    RunData,
    RunFolder,
    RunModel,
    RunRecord,
    RunSettings,
    TrainedOn,
)
from asr_lora.folders.tabular import MOST_ROWS, Tabular
from asr_lora.folders.workflow_folder import AdaptFolder
from asr_lora.forecast.estimate import Forecast, MemoryForecast, ScheduleSummary, TimeForecast
from asr_lora.transcription.segments import Segment
from asr_lora.transcription.transcribe import Transcript
from asr_lora.workflows.adapt import Adaptation

MEASURED = ROOT / "reports" / "cs-1h-whisper-base"  # a comparison of nine systems that is in the repository


def test_a_comparison_is_a_table_of_its_systems():
    folder = ComparisonFolder(MEASURED)
    body = folder.read_json()
    frame = folder.to_pandas().set_index("system")
    assert list(frame.index) == [system["system"]["name"] for system in body["systems"]]
    assert frame.loc["untouched", "wer"] == pytest.approx(0.690, abs=5e-4)
    assert frame.loc["untouched", ["difference", "verdict", "seconds"]].isna().all()
    lora = frame.loc["lora#1"]
    (pair,) = (pair for pair in body["pairs"] if (pair["a"], pair["b"]) == ("untouched", "lora#1"))
    assert (lora["difference"], lora["difference_low"]) == (pair["wer"]["value"], pair["wer"]["low"])
    assert (lora["verdict"], lora["trainable_parameters"]) == ("better", 1_179_648)


def test_a_comparison_in_a_notebook_has_its_verdict_and_no_column_without_a_value():
    folder = ComparisonFolder(MEASURED)
    page = folder._repr_html_()
    assert page.count("<tr>") == 1 + len(folder.rows())
    assert "<th>System</th><th>WER</th><th>95 % from</th>" in page
    assert "<td>69.0%</td>" in page
    assert "1,179,648" in page
    assert repr(folder) == f"ComparisonFolder('{MEASURED}'): {folder.read_json()['verdict']}"


def test_names_of_systems_are_escaped(tmp_path):
    body = json.loads((MEASURED / "comparison.json").read_text())
    body["systems"][0]["system"]["name"] = "<script>alert(1)</script>"
    body["verdict"] = "a < b & c"
    (tmp_path / "comparison.json").write_text(json.dumps(body))
    page = ComparisonFolder(tmp_path)._repr_html_()
    assert "<script>" not in page
    assert "<td>&lt;script&gt;alert(1)&lt;/script&gt;</td>" in page
    assert "a &lt; b &amp; c" in page


def test_a_folder_that_is_not_complete_has_a_readable_repr(tmp_path):
    assert repr(ReportFolder(tmp_path)) == f"ReportFolder('{tmp_path}'): there is no complete report"
    (tmp_path / "report.json").write_text("[]")
    assert repr(ReportFolder(tmp_path)).endswith("there is no complete report")


def test_a_long_table_is_cut_in_a_notebook_but_not_for_pandas(tmp_path):
    rows = [{"step": step, "loss": 2.0, "lr": 1e-3} for step in range(1, 61)] + [{"step": 60, "dev_wer": 0.25}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = RunFolder(tmp_path)
    run.write(
        RunRecord(
            method=Method.LORA, model=RunModel(name="m", language="it"), config=RunSettings(data=RunData(dataset="d")),
            parameters=ParameterCount(trainable=1, total=2), train=TrainedOn(utterances=1, hours=0.1, epochs=1.0),
            best=BestCheckpoint(step=60, dev_wer=0.25), weights_bytes=1, train_seconds=1.0, peak_memory_bytes=1,
        )
    )  # fmt: skip
    page = run._repr_html_()
    assert page.count("<tr>") == 1 + MOST_ROWS
    assert "11 more rows are not shown." in page
    assert "lora, best WER on dev 25.0% at step 60" in page
    assert run.to_pandas()["dev_wer"].dropna().tolist() == [0.25]
    assert run.to_pandas()["learning_rate"].max() == 1e-3


def test_a_transcript_is_a_table_of_its_segments(tmp_path):
    transcript = Transcript(tmp_path / "a.wav", (Segment(0.0, 1.5, "ciao <b>"), Segment(1.5, 2.0, "sì", language="it")))
    frame = transcript.to_pandas()
    assert frame[["start", "end", "text"]].values.tolist() == [[0.0, 1.5, "ciao <b>"], [1.5, 2.0, "sì"]]
    assert "<td>ciao &lt;b&gt;</td><td>–</td>" in transcript._repr_html_()


def test_a_forecast_is_a_table_of_quantities():
    plan = ScheduleSummary(58, 2.0, 100, {"too long": 1}, 0.5, 0.1, 2, 5, 16)
    memory = MemoryForecast(*[10**8] * 7, loading=1, step=2 * 10**9, decoding=1, saving=1)
    frame = Forecast("lora", 10, 1000, plan, memory, TimeForecast(1, 0, 2, 3, 1, 58, 5), 3600.0, ()).to_pandas()
    frame = frame.set_index("quantity")
    assert frame.loc["memory", ["value", "unit", "text"]].tolist() == [2e9, "bytes", "2.00 GB at most"]
    assert frame.loc["time", ["value", "unit"]].tolist() == [133, "s"]
    assert frame.loc["cost", "value"] == pytest.approx(133)
    page = Forecast("lora", 10, 1000, plan, memory, None, None, ())._repr_html_()
    assert "<th>Quantity</th><th>Forecast</th>" in page
    assert "<td>time</td><td>not measured</td>" in page


def test_an_adaptation_shows_the_table_of_its_comparison(tmp_path):
    place = AdaptFolder(tmp_path).comparison
    place.mkdir(parents=True)
    (place / "comparison.json").write_bytes((MEASURED / "comparison.json").read_bytes())
    made = Adaptation(AdaptFolder(tmp_path), "lora is better.", "", Transcript(tmp_path / "a.wav"), "")
    assert made.to_pandas().equals(ComparisonFolder(MEASURED).to_pandas())
    assert repr(made) == f"Adaptation('{tmp_path}'): lora is better."
    assert "lora is better." in made._repr_html_()


def test_without_pandas_the_error_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ConfigError, match="to_pandas needs pandas: pip install pandas"):
        ComparisonFolder(MEASURED).to_pandas()


def test_every_table_has_columns_of_its_own():
    rooms = (dataset_folder, report_folder, run_folder, workflow_folder)
    kinds = [kind for room in rooms for kind in vars(room).values() if isinstance(kind, type)]
    tables = [kind for kind in kinds if issubclass(kind, Tabular) and kind is not Tabular]
    assert len(tables) == 10
    for kind in tables:
        names = [column.name for column in kind.columns]
        assert len(names) == len(set(names)) > 2, kind
