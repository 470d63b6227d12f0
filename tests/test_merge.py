"""The mean of runs is exact for every method; it is named with +, or written as a run, or refused with a reason."""

import pytest
import torch
from conftest import DEMO, attach, run_record
from typer.testing import CliRunner

from asr_lora import adapt, evaluate, merge
from asr_lora.cli.verbs import app
from asr_lora.config import AdapterSettings, Method, Precision
from asr_lora.errors import ConfigError
from asr_lora.folders.digests import folder_digest
from asr_lora.folders.run_folder import RunFolder
from asr_lora.language import ForcedPrompt
from asr_lora.model.adapters.files import save_weights
from asr_lora.model.find_model import find_model, model_identity, training_record, weights_digest
from asr_lora.model.open_model import open_model
from asr_lora.model.trainable import train_everything
from asr_lora.model.whisper import load_whisper

KINDS = {  # name: method, settings
    "lora": (Method.LORA, AdapterSettings(rank=4, alpha=8)),
    "linear": (Method.LORA, AdapterSettings(rank=2, alpha=2, targets="linear")),
    "rslora": (Method.RSLORA, AdapterSettings(rank=4, alpha=8)),
    "dora": (Method.DORA, AdapterSettings(rank=4, alpha=8)),
    "full": (Method.FULL, AdapterSettings()),
}


@pytest.fixture(scope="module")
def runs(tiny_folder, tmp_path_factory):
    """A finished run of each kind on the tiny model, whose weights are drawn at random."""
    root = tmp_path_factory.mktemp("merged")
    for seed, (name, (method, settings)) in enumerate(KINDS.items()):
        torch.manual_seed(seed)
        whisper = load_whisper(str(tiny_folder), ForcedPrompt("it"))
        if method is Method.FULL:
            train_everything(whisper, AdapterSettings().part, None)
        else:
            whisper = attach(whisper, settings, method, steps=6)
        with torch.no_grad():
            for value in whisper.model.parameters():
                if value.requires_grad:
                    value.add_(0.05 * torch.randn_like(value))
        folder = RunFolder(root / name)
        weights = folder.weights(method)
        save_weights(whisper, weights)
        adapter = {"rank": settings.rank, "alpha": settings.alpha, "targets": settings.targets}
        config = {"data": {"dataset": "data"}, "adapter": adapter}
        record = run_record(
            tiny_folder, method=method, config=config, train_seconds=10.0, weights_digest=folder_digest(weights)
        )
        folder.write(record)
    return root


def weights(name):
    return dict(open_model(str(name), ForcedPrompt("it"), precision=Precision.FP32).core.state_dict())


def assert_mean(found, parts, base):
    for name, before in base.items():
        expected = before + sum(share * (values[name] - before) for values, share in parts)
        assert torch.allclose(found[name], expected, atol=1e-5), name


@pytest.mark.parametrize("pair", [("lora", "linear"), ("linear", "rslora"), ("lora", "dora"), ("rslora", "full")])
def test_a_mean_of_runs_has_the_mean_of_their_weights(runs, tiny_folder, pair, tmp_path):
    base = weights(tiny_folder)
    each = [weights(runs / name) for name in pair]
    a, b = (str(runs / name) for name in pair)
    assert_mean(weights(f"{a}+{b}"), [(each[0], 0.5), (each[1], 0.5)], base)
    assert_mean(weights(f"{a}@0.7+{b}@0.2"), [(each[0], 0.7), (each[1], 0.2)], base)

    folder = merge([f"{a}@0.7", f"{b}@0.2"], out=tmp_path / "mean")  # and as a run of its own
    assert_mean(weights(folder.root), [(each[0], 0.7), (each[1], 0.2)], base)
    record = folder.read()
    assert record.method == ("full" if {"dora", "full"} & set(pair) else "lora")
    assert [(part.share, part.name) for part in record.merged] == [(0.7, a), (0.2, b)]
    assert record.train_seconds == 20
    assert record.best.dev_wer is None
    assert merge([f"{a}@0.7", f"{b}@0.2"], out=tmp_path / "mean").read().made_with == record.made_with  # not made again


def test_a_mean_of_adapters_is_compressed_to_a_rank(runs, tmp_path):
    names = [str(runs / "lora"), str(runs / "rslora")]
    exact, small = merge(names, out=tmp_path / "exact"), merge(names, out=tmp_path / "small", rank=3)
    assert (exact.read().config.adapter.rank, exact.read().retained) == (8, 1.0)
    assert small.read().config.adapter.rank == 3
    base, whole, near = weights(exact.read().model.name), weights(exact.root), weights(small.root)
    kept = total = 0.0
    for name in base:
        update = whole[name] - base[name]
        if update.dim() == 2 and update.any():
            singular = torch.linalg.svdvals(update.double())
            missed = (near[name] - whole[name]).double()
            assert float(missed.norm()) == pytest.approx(
                float(singular[3:].norm()), rel=1e-3
            )  # no nearer matrix of rank 3 exists
            kept, total = kept + float(singular[:3].square().sum()), total + float(singular.square().sum())
    assert small.read().retained == pytest.approx(kept / total, rel=1e-3)


def test_a_mean_is_identified_by_its_parts_and_shares(runs):
    a, b = str(runs / "lora"), str(runs / "full")
    names = [f"{a}+{b}", f"{a}@0.4+{b}@0.6", f"{a}+{runs / 'dora'}"]
    assert len({str(model_identity(name)) for name in names}) == len({weights_digest(name) for name in names}) == 3
    assert find_model(names[0]).prompt().language == "it"
    cost = training_record(find_model(names[0]))
    assert (cost.seconds, cost.step, cost.dev_wer) == (20.0, None, None)


def test_a_path_with_a_plus_is_a_path(runs, tmp_path):
    (tmp_path / "a+b").symlink_to(runs / "lora")
    assert not find_model(str(tmp_path / "a+b")).parts


def test_a_mean_that_cannot_be_made_is_refused(runs, tiny_folder, tmp_path):
    a, b = str(runs / "lora"), str(runs / "full")
    for name, says in {
        f"{a}+": "a mean needs two runs or more",
        f"{a}@0.5+{b}": "give every part a share",
        f"{a}@0.8+{b}@0.7": "the shares sum to 1.5",
        f"{a}+{tiny_folder}": "is no run or adapter",
    }.items():
        with pytest.raises(ConfigError, match=says):
            find_model(name)
    with pytest.raises(ConfigError, match="--rank: is for a mean of adapters"):
        merge([a, b], out=tmp_path / "x", rank=4)
    other = RunFolder(tmp_path / "other")
    record = RunFolder(runs / "lora").read()
    other.write(record.model_copy(update={"model": record.model.model_copy(update={"language": "fr"})}))
    (tmp_path / "other" / "adapter").symlink_to(runs / "lora" / "adapter")
    with pytest.raises(ConfigError, match="learnt another language"):
        find_model(f"{a}+{other.root}")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    with pytest.raises(ConfigError, match="holds something else"):
        merge([a, b], out=tmp_path / "full")
    with pytest.raises(ConfigError, match="nowhere is no run or adapter"):
        merge([a, str(tmp_path / "nowhere")], out=tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_the_verb_writes_a_run_that_others_take(runs, demo_dataset, tmp_path):
    done = CliRunner().invoke(
        app, ["merge", str(runs / "lora"), str(runs / "linear"), "--rank", "4", "--out", str(tmp_path / "mean")]
    )
    assert done.exit_code == 0, done.output
    assert "rank 4 holds" in done.output
    assert "asr-lora evaluate" in done.output
    options = {"split": "dev", "precision": Precision.FP32}
    merged = evaluate(str(tmp_path / "mean"), demo_dataset, out=tmp_path / "report", **options).read()
    assert merged.system.training.seconds == 20.0
    exact = f"{runs / 'lora'}+{runs / 'linear'}"
    named = evaluate(exact, demo_dataset, out=tmp_path / "named", **options).read()
    assert named.system.model == exact
    assert named.system.weights_digest == weights_digest(exact)


def test_adapt_merges_seeds(tiny_folder, tmp_path):
    done = adapt(DEMO, language="it", out=tmp_path / "it", model=str(tiny_folder), epochs=0.05, seeds=2)
    mean = RunFolder(done.folder.run("lora-mean"))
    assert done.folder.read().plan["run"] == str(mean.root)
    assert [part.name for part in mean.read().merged] == [str(done.folder.run(n)) for n in ("lora", "lora-seed-1")]
    assert [name for name in ("zero-shot", "lora", "lora-mean") if f"| {name} |" not in done.table] == []
    seeds = [RunFolder(done.folder.run(name)).read().config.training.seed for name in ("lora", "lora-seed-1")]
    assert seeds == [0, 1]
    commands = done.folder.read().commands
    assert any(line.startswith("asr-lora merge") for line in commands)
