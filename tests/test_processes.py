"""Two processes (gloo) do what one does: the same run, the same report, in one folder each."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from conftest import ROOT
from safetensors.torch import load_file

from asr_lora import evaluate, train
from asr_lora.artifacts.atomic import read_jsonl

LAUNCH = [
    sys.executable, "-m", "accelerate.commands.launch",
    "--config_file", str(ROOT / "configs" / "accelerate" / "two-processes.yaml"), "--main_process_port", "0",
    "-m", "asr_lora",
]  # fmt: skip


def launch(*words, **options):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*LAUNCH, *map(str, words)], env=environment,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options,
    )  # fmt: skip


@pytest.fixture
def settings():
    return dict(
        method="lora", training__steps=6, training__batch_seconds=24, adapter__dropout=0.0, model__precision="fp32",
        data__dev_utterances=5, examples={"long_tails": 0.1, "no_speech": 0.05},
    )  # fmt: skip


def test_two_processes_train_what_one_trains_also_when_stopped(run_config, settings, tmp_path):
    one = train(run_config(out=tmp_path / "one", **settings))
    config = run_config(out=tmp_path / "two", **settings)
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    process = launch("train", tmp_path / "config.yaml")
    metrics = tmp_path / "two" / "metrics.jsonl"
    while process.poll() is None and not (metrics.is_file() and metrics.read_text().count("loss") >= 2):
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)  # the launcher passes it on
    process.communicate(timeout=120)
    assert process.returncode != 0
    resumed = launch("train", tmp_path / "config.yaml", "--resume", "--json")
    output, errors = resumed.communicate(timeout=300)
    assert resumed.returncode == 0, errors

    body = json.loads(output)  # one process speaks
    assert body["processes"] == {"count": 2, "gradient_bytes_a_step": 4 * body["parameters"]["trainable"]}
    rows = [[row for row in read_jsonl(path) if "loss" in row] for path in (one.metrics, metrics)]
    assert [row["step"] for row in rows[1]] == list(range(1, 7))
    for mine, theirs in zip(*rows, strict=True):
        assert theirs["loss"] == pytest.approx(mine["loss"], rel=1e-4)
        assert theirs["grad_norm"] == pytest.approx(mine["grad_norm"], rel=1e-3)
        assert theirs["epoch"] == mine["epoch"]
    weights = [load_file(run / "adapter" / "adapter_model.safetensors") for run in (one.root, config.out)]
    for name, value in weights[0].items():
        assert torch.allclose(value, weights[1][name], atol=2e-4), name
    assert body["best"]["dev_wer"] == one.read()["best"]["dev_wer"]


def test_two_processes_transcribe_every_clip_once(tiny_folder, demo_dataset, tmp_path):
    one = evaluate(str(tiny_folder), demo_dataset, split="dev", language="it", out=tmp_path / "one")
    process = launch("evaluate", tiny_folder, demo_dataset, "--split", "dev", "--out", tmp_path / "two", "--json")
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    body = json.loads(output)
    assert body["processes"] == 2
    rows = [{row["id"]: row["hypothesis"] for row in read_jsonl(run / "hypotheses.jsonl")} for run in
            (one.root, tmp_path / "two")]  # fmt: skip
    assert rows[0] == rows[1]
    assert body["scores"] == one.read()["scores"]
    assert not list((tmp_path / "two").glob("*partial*"))
