"""Two processes (gloo) do what one does: the same run, the same report, in one folder each."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import apart
import pytest
import torch
from conftest import ROOT
from safetensors.torch import load_file

from asr_lora import evaluate, train
from asr_lora.folders.atomic import read_jsonl

pytestmark = pytest.mark.slow

LAUNCH = [
    sys.executable, "-m", "accelerate.commands.launch",
    "--config_file", str(ROOT / "configs" / "accelerate" / "two-processes.yaml"), "--main_process_port", "0",
    "-m", "asr_lora",
]  # fmt: skip


def launch(*words):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([*LAUNCH, *map(str, words)], env=environment, stderr=subprocess.PIPE, text=True)


def launch_two(*words):
    """What `launch` starts in the end, without a launcher that imports all anew: processes told who they are."""
    with socket.create_server(("localhost", 0)) as free:
        port = free.getsockname()[1]
    told = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    both = [apart.start(*words, environment={**told, "RANK": rank, "LOCAL_RANK": rank}) for rank in ("0", "1")]
    done = [process.wait() for process in both]
    assert [one.returncode for one in done] == [0, 0], [one.stderr for one in done]
    assert done[1].stdout == ""  # one process speaks
    return json.loads(done[0].stdout)


@pytest.fixture
def settings():
    return dict(
        method="lora", training__steps=6, training__batch_seconds=24, adapter__dropout=0.0, model__precision="fp32",
        data__dev_utterances=5, examples={"padded": 0.1, "no_speech": 0.05},
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

    body = launch_two("train", tmp_path / "config.yaml", "--resume", "--json")
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
    assert body["best"]["dev_wer"] == one.read().best.dev_wer


def test_two_processes_transcribe_every_clip_once(tiny_folder, demo_dataset, tmp_path):
    one = evaluate(str(tiny_folder), demo_dataset, split="dev", language="it", out=tmp_path / "one")
    body = launch_two("evaluate", tiny_folder, demo_dataset, "--split", "dev", "--out", tmp_path / "two", "--json")
    assert body["processes"] == 2
    rows = [{row["id"]: row["hypothesis"] for row in read_jsonl(run / "hypotheses.jsonl")} for run in
            (one.root, tmp_path / "two")]  # fmt: skip
    assert rows[0] == rows[1]
    assert body["scores"] == one.read_json()["scores"]
    assert not list((tmp_path / "two").glob("*partial*"))
