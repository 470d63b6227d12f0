"""kill -9 at any moment: what is resumed ends as if it had never been stopped, bit for bit."""

import json
import random
import signal
import time
from pathlib import Path

import apart
import pytest
from conftest import write_wav

from asr_lora import train
from asr_lora.folders.atomic import read_jsonl

pytestmark = pytest.mark.slow

KILLS = 10


def kill_again_and_again(file: Path, metrics: Path, kills: int) -> None:
    """Begin or resume a run and kill it, so many times, and let it end then."""
    chance = random.Random(7)

    def losses() -> int:
        return metrics.read_bytes().count(b"loss") if metrics.exists() else 0

    for kill in range(kills):
        # At a random moment after the loop took one more step than before, or of what comes before the loop.
        process = apart.start("train", file, "--resume")
        wanted, patience = losses() + chance.randrange(1, 4), time.monotonic() + chance.uniform(0.05, 20.0)
        while losses() < wanted and time.monotonic() < patience and not process.ended:
            time.sleep(0.002)
        time.sleep(chance.uniform(0.0, 0.1))
        assert not process.ended, f"the run ended by itself after {kill} kills"
        process.send(signal.SIGKILL)
        assert process.wait().returncode == -signal.SIGKILL
    done = apart.run("train", file, "--resume")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_run_killed_ten_times_is_the_run_never_killed(run_config, tmp_path, method):
    kills = KILLS if method == "lora" else 5
    write_wav(tmp_path / "noise" / "hum.wav", [0.01 * random.Random(0).gauss(0, 1) for _ in range(16_000)])
    settings = dict(
        method=method, training__steps=3 * kills + 4, training__batch_seconds=20, training__evaluate_every_steps=10,
        training__checkpoint_every_steps=1, training__average_last=2, adapter__dropout=0.3,
        examples={"padded": 0.1, "timestamps": 0.2, "no_speech": 0.1},
        augmentation={"speeds": [0.9, 1.0, 1.1], "gain_db": 6, "noise": str(tmp_path / "noise"), "time_masks": 1},
    )  # fmt: skip
    whole = train(run_config(out=tmp_path / "whole", **settings))
    config = run_config(out=tmp_path / "killed", **settings)
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    kill_again_and_again(tmp_path / "config.yaml", config.out / "metrics.jsonl", kills)

    def facts(run: Path):
        numbers = ("step", "epoch", "loss", "lr", "grad_norm", "padding", "dev_wer", "dev_cer", "dev_raw_wer")
        rows = [{key: row[key] for key in numbers if key in row} for row in read_jsonl(run / "metrics.jsonl")]
        body = json.loads((run / "run.json").read_text())
        return rows, body["best"], body["weights_digest"], body["train"]

    assert facts(config.out) == facts(whole.root)
    assert not [path.name for path in config.out.iterdir() if path.name in ("checkpoint", "snapshots")]
