"""Settings: every YAML of the repository, and everything that is wrong named at once."""

from pathlib import Path

import pytest
import yaml
from conftest import ROOT

from asr_lora.config import TARGETS, Context, Decay, Method, Quantise, _say_renamed, load_config, load_sweep
from asr_lora.errors import ConfigError
from asr_lora.training.setup import run_fingerprint

CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
GOOD = {
    "out": "runs/x",
    "model": {"language": "nl"},
    "data": {"dataset": "data/nl"},
    "training": {"steps": 100},
}


def write(tmp_path: Path, body: object) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(body if isinstance(body, str) else yaml.safe_dump(body))
    return path


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_of_the_repository(path, tmp_path):
    config = load_config(path)
    assert config.out.name == path.stem
    assert load_config(write(tmp_path, config.to_yaml())) == config


def test_the_published_experiment_is_there():
    found = {path.stem: load_config(path) for path in CONFIGS if path.stem.startswith("nl-large-v2")}
    assert set(found) == {f"nl-large-v2-{subset}-{method}" for subset in ("1h", "all") for method in ("lora", "full")}
    for name, config in found.items():
        assert config.model.name == "openai/whisper-large-v2"
        assert config.optimiser.name == "adam8bit"
        assert config.data.subset in name
        assert config.training.steps == (5000 if "all" in name else 1000)
        if config.method is Method.LORA:
            assert config.model.quantise is Quantise.INT8
            assert (config.adapter.rank, config.adapter.alpha, config.adapter.targets) == (32, 64, ("q_proj", "v_proj"))


def test_defaults_and_overrides(tmp_path):
    config = load_config(write(tmp_path, GOOD), ["adapter.rank=8", "optimiser.learning_rate=5e-4", "method=full"])
    assert (config.adapter.rank, config.optimiser.learning_rate, config.method) == (8, 5e-4, Method.FULL)
    assert config.model.context is Context.TRUE_LENGTH


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"adapter": {"rnk": 8}}, "unknown key adapter.rnk, did you mean rank?"),
        ({"trainning": {}}, "unknown key trainning, did you mean training?"),
        ({"model": {"language": "nl", "quantise": "3bit"}}, "model.quantise: Input should be 'auto', 'none', '8bit'"),
        ({"training": {"steps": -1}}, "training.steps: Input should be greater than 0"),
        ({"training": {}}, "training.steps is missing"),
        ({"data": {}}, "data.dataset is missing"),
        ({"method": "full", "model": {"language": "nl", "quantise": "8bit"}}, "full fine-tuning trains every weight"),
        ({"optimiser": {"warmup_steps": 100}}, "must be fewer than training.steps"),
        ({"training": {"steps": 9, "batch_seconds": float("inf")}}, "training.batch_seconds: Input should be a finite"),
        ({"training": {"steps": 9, "seed": -1}}, "training.seed: Input should be greater than or equal to 0"),
        ({"data": {"dataset": "d", "max_seconds": 45}}, "data.max_seconds: Input should be less than or equal to 30"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, change, sentence):
    with pytest.raises(ConfigError) as error:
        load_config(write(tmp_path, {**GOOD, **change}))
    assert sentence in str(error.value)
    assert str(error.value).startswith(str(tmp_path / "config.yaml"))
    assert "\n" not in str(error.value)


def test_all_that_is_wrong_is_named_at_once(tmp_path):
    with pytest.raises(ConfigError) as error:
        load_config(
            write(tmp_path, {"outt": "x", "model": {}, "data": {"dataset": "d"}, "training": {"steps": "many"}})
        )
    for part in (
        "unknown key outt, did you mean out?",
        "out is missing",
        "model.language is missing",
        "training.steps:",
    ):
        assert part in str(error.value)


def test_keys_by_their_earlier_names(tmp_path, capsys, monkeypatch):
    _say_renamed.cache_clear()
    old = {**GOOD, "data": {"dataset": "data/nl", "guards": ["data/de"]}, "examples": {"long_tails": 0.2}}
    new = {**GOOD, "data": {"dataset": "data/nl", "regression_sets": ["data/de"]}, "examples": {"padded": 0.2}}
    config = load_config(write(tmp_path, old))
    assert capsys.readouterr().err.splitlines() == [
        "data.guards is now called data.regression_sets",
        "examples.long_tails is now called examples.padded",
    ]
    assert config == load_config(write(tmp_path, new))
    assert load_config(write(tmp_path, new), ["examples.long_tails=0.1"]).examples.padded == 0.1
    assert load_config(write(tmp_path, old), ["examples.padded=0.1"]).examples.padded == 0.1
    assert load_config(write(tmp_path, new), ["examples={long_tails: 0.1}"]).examples.padded == 0.1
    assert "long_tails" not in config.to_yaml()
    with pytest.raises(ConfigError, match=r"unknown key examples\.long_tails"):
        load_config(write(tmp_path, {**new, "examples": {"padded": 0.1, "long_tails": 0.2}}))

    # What runs of the version before have in their run.json and checkpoints.
    monkeypatch.setattr("asr_lora.training.setup.data_hashes", lambda _: {"train": "aa", "dev": "bb"})
    monkeypatch.setattr("asr_lora.training.setup.model_identity", lambda _: "cc")
    examples = {"long_tails": 0.1, "timestamps": 0.2}
    assert run_fingerprint(load_config(write(tmp_path, GOOD))) == "ff4245a07246812a"
    assert run_fingerprint(load_config(write(tmp_path, {**old, "examples": examples}))) == "689bf7f57d3249d6"

    variants = [{"name": "a", "untouched": True}, {"name": "b", "set": {"examples.long_tails": 0}}]
    sweep = load_sweep(write(tmp_path, {"base": "base.yaml", "variants": variants}))
    assert [variant.zero_shot for variant in sweep.variants] == [True, False]
    assert capsys.readouterr().err == "untouched is now called zero_shot\n"


def test_norwegian_is_not_false(tmp_path):
    path = write(tmp_path, yaml.safe_dump(GOOD).replace("language: nl", "language: no"))
    assert load_config(path).model.language == "no"
    assert load_config(write(tmp_path, GOOD), ["model.language=no"]).model.language == "no"


@pytest.mark.parametrize("body", ["out: 2024-13-01", "", "- a\n- b\n", "just text", "a: [1", "\x00\x01"])
def test_files_that_are_no_config(tmp_path, body):
    with pytest.raises(ConfigError, match="is not"):
        load_config(write(tmp_path, body))


@pytest.mark.parametrize(
    ("recipe", "method", "expected"),
    [
        ("standard", "lora", (TARGETS["linear"], 5e-4, Decay.COSINE, 0.3, 0.1)),
        ("standard", "full", (TARGETS["q,v"], 2e-5, Decay.COSINE, 0.3, 0.1)),
        ("published", "dora", (TARGETS["q,v"], 1e-3, Decay.LINEAR, 0.0, 0.0)),
        ("published", "full", (TARGETS["q,v"], 1e-5, Decay.LINEAR, 0.0, 0.0)),
    ],
)
def test_a_recipe_fills_in_what_is_not_set(tmp_path, recipe, method, expected):
    config = load_config(write(tmp_path, {**GOOD, "recipe": recipe, "method": method}))
    found = config.adapter.targets, config.optimiser.learning_rate, config.optimiser.decay
    assert (*found, config.examples.timestamps, config.training.label_smoothing) == expected
    own = load_config(write(tmp_path, {**GOOD, "recipe": recipe, "optimiser": {"learning_rate": 7e-4}}))
    assert (own.optimiser.learning_rate, own.adapter.targets) == (
        7e-4,
        TARGETS["linear" if recipe == "standard" else "q,v"],
    )
    again = load_config(write(tmp_path, yaml.safe_load(own.to_yaml())))  # a run's config.yaml says all of it
    assert again == own
    with pytest.raises(ConfigError, match="recipe"):
        load_config(write(tmp_path, {**GOOD, "recipe": "best"}))


@pytest.mark.parametrize("override", ["rank", "=3", "adapter..rank=3", "out.x=1", "adapter.rank=[", "adapter.rnk=1"])
def test_overrides_that_are_wrong(tmp_path, override):
    with pytest.raises(ConfigError):
        load_config(write(tmp_path, GOOD), [override])


def test_no_such_file(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path / "nothing.yaml")
