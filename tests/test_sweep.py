"""Sweeps over settings: planned whole, run once, compared in pairs; a variant that fails leaves the others alone."""

import json
import shutil

import pytest
import torch
import yaml
from conftest import BASE, ROOT, attach
from hypothesis import given, settings
from hypothesis import strategies as st
from test_adapters import ADAPTERS
from test_cli import invoke
from test_promotion import small_release

from asr_lora import prepare
from asr_lora.config import TARGETS, AdapterSettings, Method, Variant, load_config, load_sweep
from asr_lora.errors import ConfigError
from asr_lora.evaluation.comparison import read_comparison
from asr_lora.folders.run_folder import RunFolder
from asr_lora.folders.workflow_folder import SweepFolder
from asr_lora.language import ForcedPrompt
from asr_lora.model.adapters.attach import adapter_parameters, rank_within
from asr_lora.model.trainable import count_parameters
from asr_lora.model.whisper import load_meta_whisper, load_whisper
from asr_lora.workflows.sweep import plan_sweep

SHIPPED = sorted((ROOT / "configs" / "sweeps").glob("*.yaml"))
Q_AND_V_32 = 1_179_648  # trainable parameters of r=32 on q_proj and v_proj of whisper-base


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    place = tmp_path_factory.mktemp("sweep")
    dev = small_release(place / "release") / "cv-corpus-17.0-2024-03-15" / "it" / "dev.tsv"
    dev.write_text("".join(dev.read_text(encoding="utf-8").splitlines(keepends=True)[:3]), encoding="utf-8")
    return prepare(place / "release", language="it", out=place / "data").root


@pytest.fixture(scope="module")
def tiny(tiny_folder):
    return load_whisper(str(tiny_folder), ForcedPrompt("it"))


@pytest.fixture
def write(tmp_path, tiny_folder, dataset):
    """A function: a sweep's file over a run of two steps of the tiny model."""
    base = {
        "out": "unused",
        "model": {"name": str(tiny_folder), "language": "it"},
        "data": {"dataset": str(dataset), "dev_utterances": 1},
        "adapter": {"rank": 4, "alpha": 8},
        "optimiser": {"warmup_steps": 1},
        "training": {"steps": 2, "batch_seconds": 12, "evaluate_every_steps": 2},
    }
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(base))

    def make(**body):
        path = tmp_path / "sweep.yaml"
        path.write_text(yaml.safe_dump({"base": "base.yaml", **body}))
        return path

    return make


def plans(path, out, *overrides):
    return {plan.variant.name: plan.config for plan in plan_sweep(path, SweepFolder(out), overrides)[0]}


# Planned


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_sweeps_are_planned(path, tmp_path):
    planned = plans(path, tmp_path, f"model.name={BASE}")
    assert len(planned) >= 3
    assert len({config.out for config in planned.values()}) == len(planned)
    assert f"asr-lora sweep configs/sweeps/{path.name} --out" in path.read_text()
    for config in planned.values():
        (tmp_path / "again.yaml").write_text(config.to_yaml())
        assert load_config(tmp_path / "again.yaml") == config


@pytest.mark.parametrize(
    ("name", "ranks"),
    [
        ("weights", {"q,v": 32, "q": 64, "k": 64, "v": 64, "o": 64, "attention": 16, "linear": None}),
        ("halves", {"part=both": 32, "part=encoder": 96, "part=decoder": 48}),
    ],
)
def test_the_budget_of_shipped_sweeps_holds(name, ranks, tmp_path):
    planned = plans(ROOT / "configs" / "sweeps" / f"{name}.yaml", tmp_path, f"model.name={BASE}")
    assert set(planned) == set(ranks)
    meta = load_meta_whisper(BASE, ForcedPrompt("it"))
    for variant, config in planned.items():
        with torch.device("meta"):
            attached = attach(meta, config.adapter, config.method)
        taken = count_parameters(attached.model)[0]
        attached.model.unload()
        assert config.adapter.alpha == 2 * config.adapter.rank
        if ranks[variant]:
            assert (config.adapter.rank, taken) == (ranks[variant], Q_AND_V_32)
        more = config.adapter.model_copy(update={"rank": config.adapter.rank + 1})
        assert taken <= Q_AND_V_32 < adapter_parameters(meta.core, more, config.method)


def test_the_published_experiment_is_what_its_configs_say(tmp_path):
    planned = plans(ROOT / "configs" / "sweeps" / "nl-large-v2.yaml", tmp_path)
    for subset in ("1h", "all"):
        for method in ("lora", "full"):
            alone = load_config(ROOT / "configs" / f"nl-large-v2-{subset}-{method}.yaml")
            swept = planned[f"{method} {subset}"]
            same = {"out": alone.out, **({"adapter": alone.adapter} if method == "full" else {})}
            assert swept.model_copy(update=same) == alone
    medium = planned["medium full all"].model_copy(update={"out": planned["full all"].out})
    assert medium.model.name == "openai/whisper-medium"
    assert medium.model_copy(update={"model": planned["full all"].model}) == planned["full all"]


def test_an_empty_table_has_every_row_and_no_figure(tmp_path):
    path = ROOT / "configs" / "sweeps" / "nl-large-v2.yaml"
    done = invoke("sweep", path, "--split", "test", "--empty", "--out", tmp_path / "o")
    assert done.exit_code == 0, done.stderr
    rows = [line.split(" | ") for line in done.stdout.splitlines() if line.startswith("| ")][2:]
    assert [row[0] for row in rows] == [f"| {variant.name}" for variant in load_sweep(path).rows]
    assert {cell.strip(" |") for row in rows for cell in row[4:]} == {"–"}
    committed = (ROOT / "reports" / "nl-large-v2" / "README.md").read_text(encoding="utf-8")
    assert all(" | ".join(row) in committed for row in rows)
    (SweepFolder(tmp_path / "o").run("lora-1h")).mkdir(parents=True)
    done = invoke("sweep", path, "--split", "test", "--empty", "--out", tmp_path / "o")
    assert done.exit_code == 2
    assert "holds something else" in done.stderr


def test_the_ranks_of_the_shipped_sweep_are_scaled_alike(tmp_path):
    planned = plans(ROOT / "configs" / "sweeps" / "rank.yaml", tmp_path)
    assert sorted({config.adapter.rank for config in planned.values()}) == [1, 2, 4, 8, 16, 32, 64]
    assert {config.adapter.alpha / config.adapter.rank for config in planned.values()} == {2}


@settings(deadline=None, max_examples=25)
@given(
    method=st.sampled_from(ADAPTERS),
    rank=st.integers(1, 40),
    targets=st.sampled_from([*TARGETS.values(), ("encoder_attn.k_proj",), ("fc1",)]),
    part=st.sampled_from(["both", "decoder"]),
)
def test_parameters_are_counted_before_the_adapter_is_there(tiny, method, rank, targets, part):
    chosen = AdapterSettings(rank=rank, targets=targets, part=part)
    counted = adapter_parameters(tiny.core, chosen, method)
    assert rank_within(tiny.core, chosen, method, counted) == rank
    attached = attach(tiny, chosen, method)
    assert count_parameters(attached.model)[0] == counted
    attached.model.unload()


def test_a_budget_that_is_too_small_or_more_than_all(tiny_folder):
    core, chosen = load_meta_whisper(str(tiny_folder), ForcedPrompt("it")).core, AdapterSettings()
    with pytest.raises(ConfigError, match="rank 1 takes: give 1,536 or more"):
        rank_within(core, chosen, Method.LORA, 1535)
    assert rank_within(core, chosen, Method.LORA, 1536) == 1
    assert rank_within(core, chosen, Method.LORA, 10**9) == 64  # a matrix of 64 x 64 has no more


def test_variants_and_the_grid(write, tmp_path):
    path = write(
        set={"training.seed": 3, "out": "elsewhere"},
        variants=[{"name": "plain"}, {"name": "full", "set": {"method": "full", "optimiser.learning_rate": 1e-5}}],
        grid={"adapter.rank": [1, 2], "adapter.targets": [["q_proj"], "linear"]},
    )
    planned = plans(path, tmp_path / "o", "adapter.dropout=0.2")
    points = [f"rank={rank} targets={targets}" for rank in (1, 2) for targets in ("q_proj", "linear")]
    assert list(planned) == ["plain", "full", *points]
    assert all(config.training.seed == 3 and config.adapter.dropout == 0.2 for config in planned.values())
    assert planned["full"].method is Method.FULL
    assert planned["plain"].adapter.rank == 4
    assert planned["rank=2 targets=linear"].adapter.targets == TARGETS["linear"]
    assert planned["rank=1 targets=q_proj"].out == tmp_path / "o" / "runs" / "rank=1-targets=q_proj"


@settings(deadline=None)
@given(st.text(min_size=1, max_size=60))
def test_any_name_makes_a_plain_folder(name):
    try:
        variant = Variant(name=name, padded=True)
    except ValueError:
        assert name != name.strip() or "\n" in name
        return
    for slug in variant.slugs:
        assert slug
        assert "/" not in slug
        assert "\0" not in slug
        assert not slug.startswith(".")


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({}, "variants: name two or more, or a grid"),
        ({"variants": [{"name": "a"}]}, "variants: name two or more"),
        ({"grid": {"adapter.rank": []}}, "grid.adapter.rank"),
        ({"variants": [{"name": "a b"}, {"name": "a-b"}]}, "a b, a-b would share a folder"),
        ({"variants": [{"name": "a", "padded": True}, {"name": "a padded"}]}, "a, a padded would share a folder"),
        ({"variants": [{"name": "a", "sett": {}}, {"name": "b"}]}, "variants.0.sett, did you mean set?"),
        ({"variants": [{"name": "a" * 300}, {"name": "b"}]}, "is too long for the name of a folder"),
        ({"varaints": []}, "unknown key varaints, did you mean variants?"),
        ({"variants": [{"name": "a", "zero_shot": True, "budget": 9}, {"name": "b"}]}, "a is zero-shot, so leave out"),
        ({"budget": 9, "variants": [{"name": "a", "set": {"adapter.rank": 2}}, {"name": "b"}]}, "a has a budget"),
        ({"budget": 9, "variants": [{"name": "a"}, {"name": "b"}]}, "variant a: a budget of 9 parameters is less"),
        (
            {"variants": [{"name": "a"}, {"name": "b", "set": {"adapter.rnak": 2}}]},
            "variant b: unknown key adapter.rnak, did you mean rank?",
        ),
        ({"variants": [{"name": "a"}, {"name": "b", "set": {"method.x": 2}}]}, "variant b: method is a value"),
        ({"set": {"training.steps": 0}, "variants": [{"name": "a"}, {"name": "b"}]}, "training.steps"),
        ({"base": "no.yaml", "variants": [{"name": "a"}, {"name": "b"}]}, "no.yaml cannot be read"),
    ],
)
def test_a_wrong_sweep_starts_nothing(write, tmp_path, body, sentence):
    (tmp_path / "base.yaml").write_text(
        (tmp_path / "base.yaml").read_text().replace("out: unused", "method: lora\nout: x")
    )
    done = invoke("sweep", write(**body), "--out", tmp_path / "o")
    assert done.exit_code == 2, done.stderr
    assert sentence in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "o").exists()


def test_splits_and_folders_that_cannot_be_used(write, tmp_path):
    path = write(variants=[{"name": "a"}, {"name": "b"}])
    assert "a sweep is scored on dev" in invoke("sweep", path, "--out", tmp_path / "o", "--split", "train").stderr
    (tmp_path / "theirs" / "runs").mkdir(parents=True)
    (tmp_path / "theirs" / "letter.txt").write_text("dear")
    done = invoke("sweep", path, "--out", tmp_path / "theirs")
    assert done.exit_code == 2
    assert "holds something else" in done.stderr


# Run


def times(folder):
    """When each run and report was finished."""
    found = [*folder.root.glob("runs/*/run.json"), *folder.root.glob("reports/*/*/report.json")]
    return {path: path.stat().st_mtime_ns for path in found}


def test_a_failed_variant_is_named_and_the_rest_goes_on(write, tmp_path):
    rows = [
        {"name": "first"},
        {"name": "none", "set": {"data.subset": "10h"}},
        {"name": "seed", "set": {"training.seed": 1}},
    ]
    folder = SweepFolder(tmp_path / "o")
    done = invoke("sweep", write(variants=rows), "--out", folder.root)
    assert done.exit_code == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: 1 of 3 variants failed: none (data.subset: ")
    assert str(folder.page("dev")) in last
    assert "| first |" in done.stdout
    assert "| seed |" in done.stdout
    assert "none" not in done.stdout
    assert not folder.complete
    before = times(folder)
    assert len(before) == 4

    rows[1] = {"name": "none", "set": {"adapter.rank": 2}}
    done = invoke("sweep", write(variants=rows), "--out", folder.root)
    assert done.exit_code == 0, done.stderr
    after = times(folder)
    assert len(after) == 6
    assert {path: after[path] for path in before} == before  # what was finished is not run again
    body = folder.read_json()
    assert [row["name"] for row in body["splits"]["dev"]] == ["first", "none", "seed"]
    assert body["variants"][1]["config"]["adapter"]["rank"] == 2

    rows[2] = {"name": "seed", "set": {"training.seed": 2}}
    done = invoke("sweep", write(variants=rows), "--out", folder.root)
    assert done.exit_code == 1
    assert "seed holds a run with other settings or data: rename the variant, or remove that" in done.stderr
    assert times(folder) == after


def test_all_fail(write, tmp_path):
    path = write(set={"data.subset": "10h"}, variants=[{"name": "a"}, {"name": "b"}])
    done = invoke("sweep", path, "--out", tmp_path / "o")
    assert done.exit_code == 1
    assert "2 of 2 variants failed: a, b (data.subset: " in done.stderr  # a reason that they share is said once
    assert done.stderr.endswith("There is nothing to compare yet.\n")
    assert not done.stdout


def test_test_is_read_when_asked_for_and_chooses_nothing(write, tmp_path):
    folder = SweepFolder(tmp_path / "o")
    path = write(variants=[{"name": "one", "padded": True}, {"name": "two", "set": {"optimiser.learning_rate": 0.1}}])
    done = invoke("sweep", path, "--out", folder.root, "--json")
    assert done.exit_code == 0, done.stderr
    assert not (folder.root / "reports" / "test").exists()
    assert list(json.loads(done.stdout)["splits"]) == ["dev"]
    before = times(folder)
    body = json.loads(invoke("sweep", path, "--out", folder.root, "--split", "test", "--json").stdout)
    assert {path: when for path, when in times(folder).items() if path in before} == before
    assert list(body["splits"]) == ["dev", "test"]
    for split, rows in body["splits"].items():
        assert [row["name"] for row in rows] == ["one", "one padded", "two"]
        comparison = read_comparison([folder.report(slug, split) for slug in ("one", "one-padded", "two")])
        for row, system in zip(rows, comparison.systems, strict=True):
            assert row["wer"] == system.scores.wer
            assert row["wer_interval"] == list(system.scores.wer_interval)
        pairs = {pair.b: pair.wer for pair in comparison.pairs if pair.a == "one"}
        assert rows[0]["difference"] is None
        for row in rows[1:]:
            assert row["difference"] == pairs[row["name"]].to_json()
            assert row["difference"]["value"] == pytest.approx(row["wer"] - rows[0]["wer"])
            assert row["verdict"] == pairs[row["name"]].verdict
        assert rows[0]["trainable_parameters"] == 12 * 4 * 128
        assert folder.page(split).is_file()
    assert body["chosen_by_dev"] == min(body["splits"]["dev"], key=lambda row: row["wer"])["name"]
    contexts = [json.loads((folder.report(slug, "dev") / "report.json").read_text()) for slug in ("one", "one-padded")]
    assert [report["system"]["context"] for report in contexts] == ["true_length", "full"]
    training = contexts[0]["system"]["training"]
    assert [row["step"] for row in training["curve"]] == [2]
    assert 0 < training["curve"][0]["seconds"] <= training["seconds"]
    assert training["config"]["training"]["steps"] == 2
    assert "asr-lora sweep" in folder.page("dev").read_text(encoding="utf-8")
    assert load_config(folder.config("one")).out == folder.run("one")


def test_whisper_base_untouched_and_adapted(write, dataset, tmp_path):
    path = write(
        set={"data.dev_utterances": 2, "training.steps": 3, "training.evaluate_every_steps": 3},
        variants=[{"name": "untouched", "zero_shot": True}, {"name": "lora"}],
    )
    done = invoke("sweep", path, "--out", tmp_path / "o", "--set", f"model.name={BASE}")
    assert done.exit_code == 0, done.stderr
    body = SweepFolder(tmp_path / "o").read_json()
    untouched, lora = body["splits"]["dev"]
    assert untouched["trainable_parameters"] is None
    assert lora["trainable_parameters"] == 36 * 4 * 1024
    assert lora["seconds"] > 0
    assert untouched["wer"] < 0.5
    assert body["variants"][0]["run"] is None
    assert not RunFolder(tmp_path / "o" / "runs" / "untouched").root.exists()
    assert f"dev chooses {body['chosen_by_dev']}" in done.stdout
    assert "[1/3] asr-lora evaluate" in done.stderr
    shutil.rmtree(tmp_path / "o")


def test_a_sweep_is_read_from_its_own_folder():
    sweep = load_sweep(ROOT / "configs" / "sweeps" / "rank.yaml")
    assert sweep.base.resolve() == ROOT / "configs" / "cs-base-1h-lora.yaml"
