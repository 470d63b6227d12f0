"""What `check` says beforehand is what `train` then does."""

import json
import re
import shutil

import apart
import pytest
import torch
from conftest import BASE, ROOT, attach, changed
from typer.testing import CliRunner

from asr_lora import check, load_config
from asr_lora.cli.verbs import app
from asr_lora.config import Method, Quantise
from asr_lora.errors import ConfigError, DataError
from asr_lora.folders.atomic import read_jsonl
from asr_lora.folders.dataset_folder import DatasetFolder
from asr_lora.forecast.estimate import (
    Forecast,
    MemoryForecast,
    ModelSize,
    ScheduleSummary,
    TimeForecast,
    evaluations,
    kept_bytes,
    largest,
    mean_step_seconds,
    representative,
    step_work,
    table,
)
from asr_lora.forecast.footprint import Meter, _saved_bytes, decoding_footprint, step_footprint
from asr_lora.language import ForcedPrompt
from asr_lora.model.adapters.adalora import extra_state
from asr_lora.model.meta_model import weights_bytes
from asr_lora.model.trainable import count_parameters
from asr_lora.system.device import compute_dtype
from asr_lora.system.processes import ProcessGroup
from asr_lora.training.examples import Example, padding
from asr_lora.training.optim import build_optimiser, optimiser_bytes
from asr_lora.training.setup import load_for_training, load_meta_for_training, load_training_set, make_learner

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
ALONE = ProcessGroup(0, 1, CPU)


@pytest.fixture
def base_config(demo_dataset, tmp_path):
    """A function: settings of a run of whisper-base on the demo."""

    def make(**changes):
        body = {
            "out": tmp_path / "run",
            "model": {"name": BASE, "language": "it"},
            "data": {"dataset": demo_dataset, "dev_utterances": 4},
            "optimiser": {"warmup_steps": 1},
            "training": {"steps": 4, "batch_seconds": 30, "evaluate_every_steps": 2},
        }
        return changed(body, changes)

    return make


def both(config):
    """Learners of a meta model and of the real model."""
    dtype = compute_dtype(config.model.precision, CPU)
    return (
        make_learner(config, make(config, CPU, dtype), ALONE, dtype)
        for make in (load_meta_for_training, load_for_training)
    )


def tensors_in(value):
    if isinstance(value, torch.Tensor):
        return [value]
    values = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else []
    return [tensor for inner in values for tensor in tensors_in(inner)]


def bytes_of(tensors):
    return sum({tensor.untyped_storage().data_ptr(): tensor.nbytes for tensor in tensors}.values())


@pytest.mark.parametrize("method", list(Method))
@pytest.mark.parametrize("optimiser", ["adam8bit", "adamw"])
def test_weights_gradients_and_optimiser_are_the_real_ones(base_config, method, optimiser):
    config = base_config(method=method, optimiser__name=optimiser)
    meta, real = both(config)
    assert count_parameters(meta.whisper.model) == count_parameters(real.whisper.model)
    everything = [*real.whisper.model.parameters(), *real.whisper.model.buffers()]
    assert weights_bytes(meta.whisper.model, Quantise.NONE) == bytes_of(everything)
    for value in real.parameters:
        value.grad = torch.ones_like(value)
    gradients = bytes_of([value.grad for value in real.parameters])
    assert sum(value.nbytes for value in meta.parameters) == gradients
    built = build_optimiser(real.whisper.model, config.optimiser)
    built.step()
    assert optimiser_bytes(meta.whisper.model, config.optimiser) == bytes_of(tensors_in(dict(built.state)))


@pytest.mark.parametrize("quantise", ["8bit", "4bit"])
def test_weights_of_a_quantised_base(base_config, quantise):
    config = base_config(model__quantise=quantise)
    meta, real = both(config)
    kept = bytes_of([*real.whisper.model.parameters(), *real.whisper.model.buffers()])
    for value in real.whisper.model.parameters():
        kept += bytes_of([value.SCB] if getattr(value, "SCB", None) is not None else [])
        kept += bytes_of([value.quant_state.absmax] if getattr(value, "quant_state", None) is not None else [])
    assert weights_bytes(meta.whisper.model, Quantise(quantise)) == pytest.approx(kept, rel=0.01)
    assert count_parameters(meta.whisper.model) == count_parameters(real.whisper.model)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"method": "full"},
        {"method": "adalora"},
        {"method": "dora"},
        {"training__gradient_checkpointing": True},
        {"adapter__part": "decoder"},
    ],
)
def test_a_step_takes_what_was_said(base_config, changes):
    """The same bytes saved, and the same most at once, as of real tensors."""
    config = base_config(**changes)
    meta, real = both(config)
    data = load_training_set(config, meta.whisper)
    examples = [Example((index,), data.seconds[index], context=5.0, seed=0) for index in range(2)]
    said = step_footprint(meta, data, examples, 40.0, encoded=False, accumulates=False)
    real.whisper.model.train()
    real.checkpoint(5.0, 40.0)
    batch = data[examples]
    weights = [*real.whisper.model.parameters(), *real.whisper.model.buffers()]
    assert said.activations == pytest.approx(_saved_bytes(lambda: real.loss(batch), weights), rel=0.01)
    meter = Meter(weights)
    with meter:
        real.loss(batch).backward()
    assert said.peak == pytest.approx(meter.peak, rel=0.01)
    assert said.peak > said.activations > 0


def test_gradients_of_an_earlier_micro_batch_are_there_already(base_config):
    config = base_config(method="full")
    meta, _ = both(config)
    data = load_training_set(config, meta.whisper)
    examples = [Example((0,), data.seconds[0], context=5.0, seed=0)]
    first, later = (
        step_footprint(meta, data, examples, 40.0, encoded=False, accumulates=accumulates).peak
        for accumulates in (False, True)
    )
    assert later > first
    assert decoding_footprint(meta, 8, 10.0, 224) > decoding_footprint(meta, 4, 10.0, 224) > 0


def run(*words):
    done = apart.run(*words)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("changes", [{}, {"method": "full", "optimiser__learning_rate": 1e-5}])
def test_a_real_run_is_as_it_was_foretold(base_config, changes, tmp_path):
    config = base_config(**changes, training__steps=2, training__evaluate_every_steps=1, data__dev_utterances=2)
    file = tmp_path / "config.yaml"
    file.write_text(config.to_yaml())
    said = run("check", file, "--json", "--price-per-hour", "0.5")
    assert not config.out.exists()
    did = run("train", file, "--json")
    assert said["memory"]["peak"] == pytest.approx(did["peak_memory_bytes"], rel=0.2)
    assert {name: said[name] for name in ("trainable", "total")} == did["parameters"]
    assert (said["plan"]["steps"], said["plan"]["epochs"]) == (did["train"]["steps"], did["train"]["epochs"])
    assert (said["plan"]["utterances"], said["plan"]["hours"]) == (did["train"]["utterances"], did["train"]["hours"])
    rows = read_jsonl(config.out / "metrics.jsonl")
    paddings = [row["padding"] for row in rows if "loss" in row]
    assert said["plan"]["padding"] == pytest.approx(sum(paddings) / len(paddings), abs=0.03)
    assert said["plan"]["evaluations"] == sum("dev_wer" in row for row in rows)
    assert said["time"]["step"] > 0
    assert said["time"]["evaluation"] > 0
    assert said["cost"] == pytest.approx(said["time"]["total"] / 3600 * 0.5)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"method": "full"}, "learning_rate=0.001 is high for full"),
        ({"optimiser__learning_rate": 5e-5}, "very low for an adapter"),
        ({"optimiser__learning_rate": 2e-2}, "high for an adapter"),
        ({"method": "adalora"}, "adalora learns slowly"),
        ({"optimiser__warmup_steps": 3}, "warmup_steps=3 is more than a third of 6 steps: set it to 1"),
        ({"training__steps": 2}, "some utterances are never used"),
        ({"training__steps": 400}, "is memorised"),
        ({"model__quantise": "8bit"}, "on a CPU a quantised base costs more"),
        ({"model__context": "full"}, "times the encoder's work"),
        ({"model__context": "full", "examples__padded": 0.1}, "examples.padded has no effect"),
        ({"training__gradient_checkpointing": True}, "gradient_checkpointing=false"),
        ({"training__batch_seconds": 4}, "less than the longest utterance's context"),
        ({"training__micro_batch_seconds": 99}, "has no effect"),
        ({"training__evaluate_every_steps": 20}, "dev is scored once"),
        ({"training__early_stopping": 5}, "can never stop a run of 2 evaluations"),
        ({"training__average_last": 3}, "more than the 2 evaluations"),
        ({"adapter__part": "decoder", "training__steps": 30}, "runs on every utterance again"),
        ({"data__cache_gb": 1, "augmentation__speeds": [0.9, 1.1]}, "has no effect with augmentation.speeds"),
        (
            {"data__cache_gb": 1, "augmentation__speeds": [0.9, 1.1], "adapter__part": "decoder"},
            "outputs of a frozen encoder cannot be kept",
        ),
        ({"adapter__alpha": 500}, "scales the update of rank 32 by 15.6"),
        ({"adapter__rank": 100, "adapter__alpha": 100}, "more than the model's width of 64"),
    ],
)
def test_each_trap_is_warned_of(run_config, changes, sentence):
    said = check(run_config(**changes), probe=False)
    assert any(sentence in warning for warning in said.warnings), said.warnings
    assert all(re.search(r"[:;] (set|lower|raise|begin|give|prepare)", warning) for warning in said.warnings)


def test_speakers_shared_with_dev_are_warned_of(run_config, demo_dataset, tmp_path):
    copy = tmp_path / "data"
    shutil.copytree(demo_dataset, copy)
    manifest = DatasetFolder(copy).manifest
    body = json.loads(manifest.read_text())
    body["shared_between_splits"]["train and dev"]["speakers"] = 7
    manifest.write_text(json.dumps(body))
    assert any("share 7 speakers" in text for text in check(run_config(data__dataset=copy), probe=False).warnings)


def test_too_little_memory_is_warned_of_and_not_tried(run_config, monkeypatch):
    monkeypatch.setattr("asr_lora.forecast.check.available_memory_bytes", lambda _: 10**6)
    said = check(run_config())
    assert said.time is None
    assert "0.0 GB are available, so it was not timed" in said.warnings[0]


def test_a_dev_split_that_takes_most_of_the_time_is_warned_of(run_config):
    said = check(
        run_config(
            training__steps=8, training__evaluate_every_steps=1, data__dev_utterances=16, training__batch_seconds=4
        )
    )
    assert said.time.dev_share > 0.5
    assert any("decoding dev takes" in warning for warning in said.warnings)


def test_a_run_folder_that_train_would_refuse(run_config):
    from asr_lora import train

    config = run_config(training__steps=2)
    train(config)
    assert check(config, probe=False).warnings == check(run_config(training__steps=2, out="x"), probe=False).warnings
    other = check(run_config(training__steps=3), probe=False)
    assert "train would refuse: " in other.warnings[0]
    assert "other settings or data: name another folder" in other.warnings[0]


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("cs-*.yaml")), ids=lambda path: path.stem)
def test_the_configs_here_walk_into_no_trap(path, demo_dataset, tmp_path):
    """As they are, but for the data: of 3 minutes, where an hour takes 400 steps."""
    smaller = [f"data.dataset={demo_dataset}", "data.subset=all", "training.steps=40", "optimiser.warmup_steps=4"]
    places = [f"model.name={BASE}", f"out={tmp_path / 'run'}", "training.evaluate_every_steps=20"]
    said = check(load_config(path, [*smaller, *places]), probe=False)
    expected = ["on a CPU a quantised base costs more"] if "8bit" in path.stem else []
    assert len(said.warnings) == len(expected), said.warnings
    assert all(part in warning for part, warning in zip(expected, said.warnings, strict=True))


def test_without_a_probe_the_small_files_of_a_model_are_enough(run_config, tiny_folder, tmp_path, monkeypatch):
    folder = tmp_path / "small"
    shutil.copytree(tiny_folder, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    monkeypatch.setattr("asr_lora.training.setup.load_whisper", lambda *_, **__: pytest.fail("weights were loaded"))
    said = check(run_config(model__name=str(folder)), probe=False)
    assert said.time is None
    assert said.cost is None
    assert said.memory.peak > said.memory.other > 0
    assert "not measured" in table(said)


@pytest.mark.parametrize(
    ("changes", "error", "sentence"),
    [
        ({"data__dataset": "nowhere"}, DataError, "no dataset at nowhere"),
        ({"data__subset": "5h"}, ConfigError, "has no subset '5h'"),
        ({"model__language": "Klingon"}, ConfigError, "Whisper has no 'Klingon'"),
        ({"model__name": "nonsense"}, DataError, "no model at 'nonsense'"),
        ({"model__name": "openai/whisper-nonsense"}, DataError, "cannot be loaded"),
        ({"adapter__targets": ["v_prj"]}, ConfigError, "no linear layer in these layers is called 'v_prj'"),
        ({"method": "pissa", "model__quantise": "8bit"}, ConfigError, "set model.quantise=none, or another method"),
        ({"method": "dora", "model__quantise": "8bit"}, ConfigError, "dora cannot train over 8-bit weights on a CPU"),
        ({"method": "pissa", "adapter__rank": 500}, ConfigError, "the smallest has 64"),
        ({"adapter__continue_from": "nowhere"}, DataError, "not an adapter folder"),
    ],
)
def test_what_train_refuses_is_refused_with_the_same_sentence(run_config, changes, error, sentence):
    from asr_lora import train

    for job in (train, lambda config: check(config, probe=False)):
        with pytest.raises(error, match=re.escape(sentence)):
            job(run_config(**changes))


def test_an_english_only_model_is_refused_without_its_weights(run_config, tiny_folder, tmp_path):
    folder = tmp_path / "english"
    shutil.copytree(tiny_folder, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    settings = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps(settings | {"is_multilingual": False}))
    with pytest.raises(ConfigError, match="is English-only and cannot be forced to 'it'"):
        check(run_config(model__name=str(folder)), probe=False)
    (folder / "generation_config.json").unlink()
    with pytest.raises(DataError, match=r"copy generation_config\.json beside it"):
        check(run_config(model__name=str(folder)), probe=False)


def test_a_run_that_goes_on_from_an_adapter_and_one_with_kept_outputs(run_config, tiny_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("ASR_LORA_CACHE", str(tmp_path / "cache"))
    said = check(run_config(adapter__part="decoder", data__cache_gb=1))
    assert said.time.encode > 0
    assert "encoding once" in table(said)
    assert not (tmp_path / "cache").exists()
    from asr_lora.config import AdapterSettings
    from asr_lora.model.adapters.files import save_weights
    from asr_lora.model.whisper import load_whisper

    earlier = attach(load_whisper(str(tiny_folder), ForcedPrompt("it")), AdapterSettings())
    save_weights(earlier, tmp_path / "adapter")
    again = check(run_config(adapter__continue_from=str(tmp_path / "adapter")), probe=False)
    assert again.trainable == check(run_config(), probe=False).trainable


def test_adalora_remembers_importances(base_config):
    from asr_lora.model.adapters.adalora import allocate_rank, extra_bytes

    config = base_config(method="adalora", training__steps=100)
    meta, real = both(config)
    for value in real.parameters:
        value.grad = torch.ones_like(value)
    allocate_rank(real.whisper, 30)
    state = extra_state(real.whisper)
    assert extra_bytes(meta.whisper) == sum(value.nbytes for key, value in state.items() if "kept/" not in key)


def test_the_command_prints_a_table_and_warns(run_config, tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text(run_config().to_yaml())
    words = ["check", str(file), "--set", "training.evaluate_every_steps=20", "--price-per-hour", "2"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.stderr
    assert {"parameters", "steps", "memory", "time", "cost"} <= {line.split()[0] for line in done.stdout.splitlines()}
    assert "warning: training.evaluate_every_steps=20" in done.stderr
    wrong = CliRunner().invoke(app, [*words, "--set", "data.dataset=nowhere"])
    assert wrong.exit_code == 3
    assert "no dataset at nowhere" in wrong.stderr


# Arithmetic.


def test_evaluations_are_counted_as_the_loop_makes_them():
    assert [evaluations(6, 3, 0), evaluations(7, 3, 0), evaluations(2, 9, 0), evaluations(6, 3, 2)] == [2, 3, 1, 3]


def test_probed_steps_stand_for_the_schedule():
    work = [float(value) for value in (5, 1, 9, 3, 7)]
    assert [work[place] for place in representative(work, 3)] == [5, 1, 9]
    assert representative([4.0], 1) == [0]
    assert mean_step_seconds([2.0, 4.0], [10.0, 20.0], 30.0) == pytest.approx(6.0)


def test_the_largest_micro_batches_are_those_of_most_audio_and_most_text():
    long, wordy, short = (Example((n,), seconds, seconds, 0) for n, seconds in enumerate((9.0, 3.0, 1.0)))
    assert largest([[long], [wordy], [short]], [[5], [90], [4]], 10.0) == [[long], [wordy]]
    assert padding([[Example((0,), 3.0, 4.0, 0)]]) == pytest.approx(0.25)
    size = ModelSize(width=2, encoder_layers=1, decoder_layers=1, vocabulary=10)
    assert step_work([long], [0], size) == 9 * 50 * (14 * 4 + 2 * 9 * 50 * 2)
    assert step_work([long], [0], size, micro_batch_seconds=8.0) == pytest.approx(4 / 3 * step_work([long], [0], size))
    assert step_work([long], [1], size, encoded=True) == 9 * 50 * 2 * 4 + 14 * 4 + 20


def test_what_is_kept_grows_ever_more_slowly():
    grown = [kept_bytes(10**8, steps) for steps in (0, 10, 20, 30)]
    assert grown[0] == 0
    assert grown[1] - grown[0] > grown[2] - grown[1] > grown[3] - grown[2] > 0


def test_cost_is_time_and_price():
    plan = ScheduleSummary(10, 1.0, 5, {"longer than 30 s": 1}, 1.0, 0.1, 1, 2, 4)
    memory = MemoryForecast(1, 2, 3, 4, 5, 6, 7, loading=8, step=20, decoding=30, saving=9)
    time = TimeForecast(load=60.0, encode=0.0, step=100.0, evaluation=770.0, final=0.0, steps=10, evaluations=2)
    said = Forecast("lora", 1, 10, plan, memory, time, 2.0, ())
    assert memory.peak == 30
    assert memory.fits
    assert time.total == 2600
    assert said.cost == pytest.approx(2600 / 3600 * 2)
    assert said.to_dict()["memory"]["peak"] == 30
    assert "1: longer than 30 s" in table(said)
