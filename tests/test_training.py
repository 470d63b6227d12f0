"""The loop: exact, resumable, honest about what it cannot learn from."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from itertools import pairwise

import apart
import pytest
import torch
from conftest import DEMO
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn

from asr_lora import prepare, train
from asr_lora.config import Decay, Optimiser, OptimiserSettings
from asr_lora.errors import ConfigError, DataError
from asr_lora.folders.atomic import read_jsonl, replacing_folder
from asr_lora.training.checkpoint import find_checkpoint
from asr_lora.training.optim import build_optimiser, share_of_peak, stochastic_bf16
from asr_lora.training.setup import run_fingerprint


@given(st.integers(0, 50), st.integers(51, 500), st.sampled_from(list(Decay)))
def test_learning_rate_warms_up_and_decays(warmup, steps, decay):
    share = share_of_peak(warmup, steps, decay)
    rates = [share(step) for step in range(steps)]
    assert all(0.0 < rate <= 1.0 for rate in rates)
    assert all(one < two for one, two in pairwise(rates[:warmup]))
    assert rates[warmup] == 1.0
    assert share(steps) == pytest.approx(1.0 if decay is Decay.NONE else 0.0, abs=1e-9)


def test_eight_bit_adam_keeps_embeddings_in_32_bits():
    model = nn.ModuleDict({"embed": nn.Embedding(200, 64), "linear": nn.Linear(128, 128), "norm": nn.LayerNorm(64)})
    optimiser = build_optimiser(model, OptimiserSettings(weight_decay=0.1))
    for value in model.parameters():
        value.grad = torch.ones_like(value)
    optimiser.step()
    kinds = {name: optimiser.state[value]["state1"].dtype for name, value in model.named_parameters()}
    assert kinds["linear.weight"] == torch.uint8
    assert kinds["embed.weight"] == torch.float32
    assert kinds["norm.weight"] == torch.float32  # under 4096 elements
    decays = {id(value): group["weight_decay"] for group in optimiser.param_groups for value in group["params"]}
    assert decays[id(model["linear"].weight)] == 0.1
    assert decays[id(model["linear"].bias)] == 0.0
    assert isinstance(build_optimiser(model, OptimiserSettings(name=Optimiser.ADAMW)), torch.optim.AdamW)


def test_rounding_by_chance_is_right_on_average():
    values = torch.full((200_000,), 1.0 + 2**-10)  # an eighth of the way between two bf16 numbers
    rounded = stochastic_bf16(values, torch.Generator().manual_seed(0)).float()
    assert set(rounded.tolist()) == {1.0, 1.0 + 2**-7}
    assert rounded.mean().item() == pytest.approx(values[0].item(), abs=1e-4)
    exact = torch.tensor([1.0, -2.5, 0.0, 3e-5]).bfloat16().float()
    assert torch.equal(stochastic_bf16(exact, torch.Generator().manual_seed(1)).float(), exact)


def test_small_updates_reach_bf16_weights():
    """A step of a thousandth of the weight, which rounding to the nearest would swallow each time."""
    weights = []
    for dtype in (torch.float32, torch.bfloat16):
        torch.manual_seed(0)
        model = nn.Linear(128, 128, bias=False).to(dtype)
        model.weight.data.fill_(1.0)
        optimiser = build_optimiser(model, OptimiserSettings(learning_rate=1e-3))
        for _ in range(50):
            model.weight.grad = torch.ones_like(model.weight)
            optimiser.step()
        weights.append(model.weight.detach().float().mean().item())
    assert weights[0] == pytest.approx(0.95, abs=2e-3)
    assert weights[1] == pytest.approx(weights[0], abs=2e-3)


def test_a_run_that_gets_no_better_stops_early(run_config):
    folder = train(
        run_config(
            training__steps=40,
            training__evaluate_every_steps=2,
            training__early_stopping=3,
            optimiser__learning_rate=1e-12,
        )
    )
    body = folder.read()
    assert body.best.step == 2
    assert body.train.steps == 8
    assert [row["step"] for row in read_jsonl(folder.metrics) if "dev_wer" in row] == [2, 4, 6, 8]


def test_a_run_in_bf16_weights_and_one_with_a_frozen_encoder(run_config, tmp_path, monkeypatch):
    monkeypatch.setenv("ASR_LORA_CACHE", str(tmp_path / "cache"))
    small = train(
        run_config(out=tmp_path / "bf16", method="full", training__bf16_weights=True, model__precision="bf16")
    )
    weights = load_file(small.weights("full") / "model.safetensors")
    assert {value.dtype for value in weights.values()} == {torch.bfloat16}
    decoder = {"adapter__part": "decoder", "training__steps": 12, "adapter__dropout": 0.0, "model__precision": "fp32"}
    cached, plain = (
        train(run_config(out=tmp_path / name, data__cache_gb=size, **decoder))
        for name, size in (("cached", 1.0), ("plain", 0.0))
    )
    losses = [[row["loss"] for row in read_jsonl(run.metrics) if "loss" in row] for run in (cached, plain)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert list((tmp_path / "cache").rglob("*.safetensors"))


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_run_learns_and_says_what_it_did(run_config, method):
    folder = train(run_config(method=method, training__steps=24, training__evaluate_every_steps=12,
                              optimiser__learning_rate=3e-3))  # fmt: skip
    body = folder.read()
    rows = read_jsonl(folder.metrics)
    steps = [row for row in rows if "loss" in row]
    assert [row["step"] for row in steps] == list(range(1, 25))
    assert steps[-1]["loss"] < steps[0]["loss"]
    assert [row["step"] for row in rows if "dev_wer" in row] == [12, 24]
    assert set(steps[0]) == {
        "step", "epoch", "loss", "lr", "grad_norm", "audio_seconds_per_second", "data_wait", "padding", "peak_memory",
    }  # fmt: skip
    assert all(0 <= row["padding"] < 1 and 0 <= row["data_wait"] < 1 for row in steps)
    assert body.best.dev_wer == min(row["dev_wer"] for row in rows if "dev_wer" in row)
    assert body.model.context == "true_length"
    assert body.train.left_out == {}
    assert folder.weights(method).is_dir()
    assert any(path.name.startswith("events.") for path in folder.tensorboard.iterdir())
    assert find_checkpoint(folder.checkpoint) is None
    again = folder.manifest.stat().st_mtime_ns
    assert train(run_config(method=method, training__steps=24, training__evaluate_every_steps=12,
                            optimiser__learning_rate=3e-3)).manifest.stat().st_mtime_ns == again  # fmt: skip
    with pytest.raises(ConfigError, match="holds a finished run with other settings"):
        train(run_config(method=method))


@pytest.mark.parametrize("quantise", ["8bit", "4bit"])
def test_a_run_over_a_quantised_base(run_config, quantise, demo_dataset):
    from asr_lora import evaluate

    folder = train(run_config(model__quantise=quantise, training__steps=2))
    assert folder.read_json()["model"]["quantise"] == quantise
    report = evaluate(str(folder.root), demo_dataset, split="dev", out=folder.root.parent / "report")
    assert report.read_json()["system"]["training"]["method"] == "lora"


def test_same_seed_same_adapter(run_config, tmp_path):
    one, two, other = (
        train(run_config(out=tmp_path / name, training__seed=seed, training__steps=3))
        for name, seed in (("one", 0), ("two", 0), ("other", 1))
    )
    weights = [(run.weights("lora") / "adapter_model.safetensors").read_bytes() for run in (one, two, other)]
    assert weights[0] == weights[1] != weights[2]


def test_interrupted_in_another_process_and_resumed_it_ends_as_if_never_stopped(run_config, tmp_path):
    settings = {"training__steps": 12, "training__checkpoint_every_steps": 5, "adapter__dropout": 0.3}
    whole = train(run_config(out=tmp_path / "whole", **settings))
    config = run_config(out=tmp_path / "stopped", **settings)
    file = tmp_path / "config.yaml"
    file.write_text(config.to_yaml())
    metrics = tmp_path / "stopped" / "metrics.jsonl"

    process = apart.start("train", file)
    while not process.ended and not (metrics.is_file() and metrics.read_text().count("loss") >= 4):
        time.sleep(0.05)
    process.send(signal.SIGINT)
    stopped = process.wait()
    assert stopped.returncode == 130, stopped.stderr
    assert "Traceback" not in stopped.stderr
    assert "of 12. Continue with: asr-lora train" in stopped.stderr
    refused = apart.run("train", file)
    assert refused.returncode == 2
    assert "unfinished run. Continue it with: asr-lora train" in refused.stderr
    # A crash that leaves no time for anything, between two checkpoints.
    process = apart.start("train", file, "--resume")
    while not process.ended and metrics.read_text().count("loss") < 8:
        time.sleep(0.02)
    process.send(signal.SIGKILL)
    process.wait()
    done = apart.run("train", file, "--resume", "--json")
    assert done.returncode == 0, done.stderr

    body = json.loads(done.stdout)
    assert body["best"] == whole.read_json()["best"]
    numbers = ("step", "epoch", "loss", "lr", "grad_norm", "padding", "dev_wer", "dev_cer")
    picked = [
        [{name: row[name] for name in numbers if name in row} for row in read_jsonl(path)]
        for path in (whole.metrics, metrics)
    ]
    assert picked[0] == picked[1]
    resumed = tmp_path / "stopped" / "adapter" / "adapter_model.safetensors"
    assert resumed.read_bytes() == (whole.weights("lora") / "adapter_model.safetensors").read_bytes()


def test_a_loss_that_is_no_number_stops_before_the_step(run_config):
    with pytest.raises(DataError, match=r"step \d: loss .*the step was not taken; utterances: common_voice_it_"):
        train(run_config(method="full", optimiser__learning_rate=1e30, training__steps=8, model__precision="fp32"))


def test_a_run_in_the_wrong_place(run_config, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.doc").write_text("years of work")
    with pytest.raises(ConfigError, match="holds something else"):
        train(run_config())


def test_no_dataset(run_config, tmp_path):
    with pytest.raises(DataError, match=r"no dataset at .*asr-lora prepare"):
        train(run_config(data__dataset=tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match="no subset '9h'; it has all, 2min"):
        train(run_config(data__subset="9h"))


def stopped_run(config, tmp_path):
    """A run that a signal stopped after a few steps, in another process."""
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    process = apart.start("train", tmp_path / "config.yaml")
    metrics = config.out / "metrics.jsonl"
    while not process.ended and not (metrics.is_file() and "loss" in metrics.read_text()):
        time.sleep(0.05)
    process.send(signal.SIGTERM)
    assert process.wait().returncode == 130
    return find_checkpoint(config.out / "checkpoint")


def test_an_unfinished_run_does_not_go_on_with_other_data_or_a_damaged_checkpoint(run_config, release, tmp_path):
    from asr_lora import prepare

    data = prepare(release, language="it", out=tmp_path / "data").root
    config = run_config(training__steps=200, data__dataset=data)
    checkpoint = stopped_run(config, tmp_path)
    with pytest.raises(ConfigError, match="other settings or data"):
        train(run_config(training__steps=201, data__dataset=data), resume=True)
    table = (release / "train.tsv").read_text(encoding="utf-8")
    (release / "train.tsv").write_text(table.rsplit("\n", 2)[0] + "\n", encoding="utf-8")
    prepare(release, language="it", out=data)
    with pytest.raises(ConfigError, match="other settings or data"):
        train(config, resume=True)
    (release / "train.tsv").write_text(table, encoding="utf-8")
    prepare(release, language="it", out=data)
    for name in ("weights.safetensors", "optimiser.pt", "adapter.safetensors"):
        whole = (checkpoint / name).read_bytes()
        for body in (b"", whole[: len(whole) // 2]):
            (checkpoint / name).write_bytes(body)
            with pytest.raises(DataError, match="remove it to start this run anew"):
                train(config, resume=True)
        (checkpoint / name).write_bytes(whole)


@pytest.mark.parametrize("limit", [300_000, 3_000_000])
def test_a_disk_that_fills_while_training_is_one_sentence(run_config, tmp_path, limit):
    """The kernel refuses to let a file grow, as a full disk does; what was saved before stays."""
    config = run_config(method="full")
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    done = apart.run("train", tmp_path / "config.yaml", largest_file=limit)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert "could not be written" in done.stderr or "File too large" in done.stderr
    assert not [path for path in config.out.iterdir() if path.name.startswith(".")]


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path):
    with replacing_folder(tmp_path / "x") as draft:
        (draft / "one").write_text("1")
    with suppress(OSError), replacing_folder(tmp_path / "x") as draft:
        (draft / "two").write_text("2")
        raise OSError("the disk is full")
    assert [path.name for path in tmp_path.rglob("*")] == ["x", "one"]
    # A crash between the two renames leaves the one before, which is found.
    (tmp_path / "x").rename(tmp_path / ".x.before")
    assert find_checkpoint(tmp_path / "x") == tmp_path / ".x.before"


OUT_OF_MEMORY = """
import os, resource, sys
import torch
import asr_lora.training.train as job
from asr_lora.cli.verbs import main
config, real = sys.argv[1], job.build_schedule
torch.set_num_threads(1)
for limit, out in zip(sys.argv[2::2], sys.argv[3::2]):
    def build_schedule(*words):
        # When all is loaded, the system is told to give this process little more.
        used = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmSize")) * 1024
        resource.setrlimit(resource.RLIMIT_AS, (used + int(limit), resource.RLIM_INFINITY))
        return real(*words)
    child = os.fork()
    if child == 0:
        job.build_schedule = build_schedule
        sys.argv = ["asr-lora", "train", config, "--set", "out=" + out]
        main()
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_where_memory_does_not_suffice_micro_batches_shrink_and_the_step_stays(run_config, tmp_path):
    """The system refuses memory in the middle of a step: half as much at once is tried, and so on."""
    settings = dict(
        method="full", training__steps=2, training__batch_seconds=480, data__subset="all", model__precision="fp32"
    )
    whole = train(run_config(out=tmp_path / "whole", **settings))
    (tmp_path / "config.yaml").write_text(run_config(**settings).to_yaml())
    hopeless, short = tmp_path / "hopeless", tmp_path / "short"
    done = subprocess.run(
        [sys.executable, "-c", OUT_OF_MEMORY, tmp_path / "config.yaml", "20000000", hopeless, "700000000", short],
        env={**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.split()[0] == "1"
    assert "there is not enough memory" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout.split()[-1] == "0", done.stderr
    assert "not enough memory for 480 s of audio at once: 240 s from here on" in done.stderr
    body = json.loads((short / "run.json").read_text())
    assert body["train"]["micro_batch_seconds"] <= 240
    losses = [[row["loss"] for row in read_jsonl(run / "metrics.jsonl") if "loss" in row] for run in
              (whole.root, short)]  # fmt: skip
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


def test_a_run_knows_its_own_subset_and_no_other(demo_dataset, run_config, tmp_path):
    out = shutil.copytree(demo_dataset, tmp_path / "data")
    config = run_config(data__dataset=out)
    before = run_fingerprint(config)
    prepare(DEMO, language="it", out=out, subsets=["2min", "1min"])
    assert run_fingerprint(config) == before
    prepare(DEMO, language="it", out=out, seed=1)
    assert run_fingerprint(config) != before
