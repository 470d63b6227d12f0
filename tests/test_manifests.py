"""Manifests are typed records: what is written, what older versions wrote, and what does not fit."""

import json
import re

import pytest
from conftest import run_record

from asr_lora.errors import DataError
from asr_lora.folders.dataset_folder import SPLITS, DatasetFolder
from asr_lora.folders.manifests import provenance
from asr_lora.folders.run_folder import RunFolder, RunRecord
from asr_lora.folders.workflow_folder import ZERO_SHOT, AdaptFolder


@pytest.fixture
def run(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.root.mkdir()
    return folder


def put(folder, **body):
    folder.manifest.write_text(json.dumps({"kind": folder.kind, "schema_version": folder.schema, **body}))


def test_a_manifest_is_written_with_its_kind_and_origin(run):
    run.write(run_record("base", "nl"))
    body = json.loads(run.manifest.read_text())
    assert list(body)[:3] == ["kind", "schema_version", "fingerprint"]
    assert list(body)[-1] == "made_with"
    assert body["made_with"]["libraries"] == provenance()["libraries"]
    assert body["train"] == {"utterances": 1, "hours": 0.1, "epochs": 1.0}  # what nobody stated is not written
    assert run.read().to_json() == body
    assert run.read()["train"]["hours"] == 0.1  # as programs read it before manifests had types


def test_a_manifest_of_another_version_keeps_what_this_one_does_not_know(run):
    old = run_record("base", "nl").to_json()
    put(run, **old, invented={"later": [1, 2]})
    record = run.read()
    assert (record.train.steps, record.best.averaged, record.data) == (None, False, {})
    assert record.model.context == "full"
    run.write(record)
    assert run.read_json()["invented"] == {"later": [1, 2]}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"train": {"hours": 1}}, "has no train.utterances"),
        ({"method": "magic"}, "cannot be used (method: "),
        ({"best": {"step": "many", "dev_wer": 0.1}}, "cannot be used (best.step: "),
        ({"parameters": None}, "cannot be used (parameters: "),
    ],
)
def test_what_does_not_fit_is_named_by_file_and_key(run, changes, said):
    put(run, **{**run_record("base").to_json(), **changes})
    with pytest.raises(DataError, match=re.escape(f"{run.manifest} {said}")) as caught:
        run.read()
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith(run.remedy)


def test_json_that_is_nested_too_deeply_is_named(run):
    run.manifest.write_text("[" * 200_000)
    with pytest.raises(DataError, match=r"run\.json cannot be read"):
        run.read()


def test_a_run_names_its_regression_sets_by_either_key(run):
    for key in ("guards", "regression_sets"):
        record = run_record("base", config={"data": {"dataset": "data", key: ["de", "fr"]}})
        run.write(record)
        assert [str(path) for path in run.read().regression_sets] == ["de", "fr"]
    assert isinstance(run.read(), RunRecord)


def test_a_dataset_of_another_version_is_read(tmp_path):
    folder = DatasetFolder(tmp_path / "data")
    folder.root.mkdir()
    split = {"utterances": 2, "hours": 0.1, "bytes": 3, "sha256": "0"}
    put(folder, language="nl", splits=dict.fromkeys(SPLITS, split), subsets={"1h": {**split, "seed": 0}})
    record = folder.read()
    assert (record.splits["dev"].speakers, record.subsets["1h"].seed, record.sources) == (0, 0, [])
    folder.write(record)
    assert folder.read_json()["splits"]["dev"] == split
    put(folder, language="nl", splits={"dev": {"utterances": 2}}, subsets={})
    with pytest.raises(DataError, match=r"dataset\.json has no splits\.dev\.hours\. Make it with"):
        folder.read()


def test_an_adaptation_of_an_earlier_version_keeps_its_report_of_the_base_model(tmp_path):
    folder = AdaptFolder(tmp_path)
    assert folder.report(ZERO_SHOT) == tmp_path / "reports" / "zero-shot"
    (tmp_path / "reports" / "untouched").mkdir(parents=True)
    assert folder.report(ZERO_SHOT) == tmp_path / "reports" / "untouched"
    assert folder.report("lora") == tmp_path / "reports" / "lora"
