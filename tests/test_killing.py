"""kill -9 at any moment: what is resumed ends as if it had never been stopped, bit for bit."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import write_wav

from asr_lora import train
from asr_lora.artifacts.atomic import read_jsonl

KILLS = 10
# Forks of a process that has imported everything and started no thread: a real process to kill, ready at once.
FORKER = """
import os, sys, random, signal, time
from pathlib import Path
import bitsandbytes, datasets, numpy, peft, transformers.models.whisper.modeling_whisper
import asr_lora.scoring.wer, asr_lora.training.train as job
from asr_lora.config import load_config
config, kills, chance = load_config(Path(sys.argv[1])), int(sys.argv[2]), random.Random(int(sys.argv[3]))
killed = []
while True:
    child = os.fork()
    if child == 0:
        sys.stderr = open(os.devnull, "w")
        job.train(config, resume=True)
        os._exit(0)
    if len(killed) == kills:
        print(killed, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        break
    # At a random moment after the loop took one more step than before, or of what comes before the loop.
    metrics = config.out / "metrics.jsonl"
    rows = lambda: metrics.read_bytes().count(b"loss") if metrics.exists() else 0
    begun, patience = rows(), time.monotonic() + chance.uniform(0.05, 20.0)
    wanted = begun + chance.randrange(1, 4)
    while rows() < wanted and time.monotonic() < patience and not os.waitpid(child, os.WNOHANG)[0]:
        time.sleep(0.002)
    time.sleep(chance.uniform(0.0, 0.1))
    try:
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
    except (ProcessLookupError, ChildProcessError):
        sys.exit(f"the run ended by itself after {len(killed)} kills")
    killed.append(rows())
"""


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_run_killed_ten_times_is_the_run_never_killed(run_config, tmp_path, method):
    kills = KILLS if method == "lora" else 5
    write_wav(tmp_path / "noise" / "hum.wav", [0.01 * random.Random(0).gauss(0, 1) for _ in range(16_000)])
    settings = dict(
        method=method, training__steps=3 * kills + 4, training__batch_seconds=20, training__evaluate_every_steps=10,
        training__checkpoint_every_steps=1, training__average_last=2, adapter__dropout=0.3,
        examples={"long_tails": 0.1, "timestamps": 0.2, "no_speech": 0.1},
        augmentation={"speeds": [0.9, 1.0, 1.1], "gain_db": 6, "noise": str(tmp_path / "noise"), "time_masks": 1},
    )  # fmt: skip
    whole = train(run_config(out=tmp_path / "whole", **settings))
    config = run_config(out=tmp_path / "killed", **settings)
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    done = subprocess.run(
        [sys.executable, "-c", FORKER, str(tmp_path / "config.yaml"), str(kills), "7"],
        env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().endswith(" 0"), done.stdout + done.stderr

    def facts(run: Path):
        numbers = ("step", "epoch", "loss", "lr", "grad_norm", "padding", "dev_wer", "dev_cer", "dev_raw_wer")
        rows = [{key: row[key] for key in numbers if key in row} for row in read_jsonl(run / "metrics.jsonl")]
        body = json.loads((run / "run.json").read_text())
        return rows, body["best"], body["weights_digest"], body["train"]

    assert facts(config.out) == facts(whole.root)
    assert not [path.name for path in config.out.iterdir() if path.name in ("checkpoint", "snapshots")]
