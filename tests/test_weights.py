"""Weights and tokenizers are complete and the model's own, or they are refused: no library's default stands in."""

import json
import shlex
import shutil
import subprocess

import pytest
import torch
from conftest import attach, run_record, speech, write_wav
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from asr_lora.cli.verbs import app
from asr_lora.config import AdapterSettings, OptimiserSettings
from asr_lora.errors import DataError
from asr_lora.folders.digests import folder_digest
from asr_lora.folders.run_folder import RunFolder
from asr_lora.language import ForcedPrompt
from asr_lora.model.adapters.files import save_weights
from asr_lora.model.adapters.merging import copy_adapter, load_adapter, load_merged
from asr_lora.model.adapters.multi_lora import load_adapters
from asr_lora.model.find_model import find_model, model_identity, weights_digest
from asr_lora.model.whisper import load_meta_whisper, load_whisper
from asr_lora.training.checkpoint import Progress, load_checkpoint, save_checkpoint
from asr_lora.training.optim import build_optimiser, build_schedule

IT = ForcedPrompt("it")
CPU = torch.device("cpu")


@pytest.fixture
def folder(tiny_folder, tmp_path):
    """A copy of the tiny model to break."""
    return shutil.copytree(tiny_folder, tmp_path / "model")


@pytest.fixture
def vocabulary(base, tmp_path):
    """vocab.json and merges.txt of whisper-base, as older models have them."""
    place = tmp_path / "vocabulary"
    place.mkdir()
    base.tokenizer.save_vocabulary(str(place))
    return place


def rewrite(path, change):
    weights = change(load_file(path))
    save_file({name: value.clone().contiguous() for name, value in weights.items()}, path, metadata={"format": "pt"})


def edit(path, change):
    body = json.loads(path.read_text())
    change(body)
    path.write_text(json.dumps(body))


# Tokenizers


def english_only(folder, _):
    """The special tokens of an English-only model, which begin one earlier."""
    edit(folder / "tokenizer.json", lambda body: [token.update(id=token["id"] - 1) for token in body["added_tokens"]])
    edit(folder / "tokenizer.json", lambda body: body["model"]["vocab"].popitem())


def of_version_three(folder, _):
    """A vocabulary with Cantonese, which moves every token behind the languages by one."""

    def change(body):
        for token in body["added_tokens"]:
            if token["id"] >= 50358:
                token["id"] += 1
        yue = {**body["added_tokens"][-1], "id": 50358, "content": "<|yue|>", "special": True}
        body["added_tokens"] = sorted([*body["added_tokens"], yue], key=lambda token: token["id"])

    edit(folder / "tokenizer.json", change)


def without_merges(folder, vocabulary):
    shutil.copy(vocabulary / "vocab.json", folder)
    (folder / "tokenizer.json").unlink()


def without_added_tokens(folder, vocabulary):
    (folder / "tokenizer.json").unlink()
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(vocabulary / name, folder)


def with_half_the_merges(folder, _):
    edit(folder / "tokenizer.json", lambda body: body["model"].update(merges=body["model"]["merges"][:25_000]))


def with_too_many_tokens(folder, _):
    edit(
        folder / "tokenizer.json",
        lambda body: body["added_tokens"].append({**body["added_tokens"][-1], "id": 51865, "content": "<|more|>"}),
    )


def cut_short(folder, _):
    text = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(text[:100_000])


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda folder, _: [path.unlink() for path in folder.glob("tokenizer*")], "its folder has none"),
        (lambda folder, _: (folder / "tokenizer.json").unlink(), "<|endoftext|> is token 0"),
        (without_merges, "vocab"),
        (without_added_tokens, "<|startoftranscript|> is missing"),
        (with_half_the_merges, "come apart"),
        (english_only, "<|endoftext|> is token 50256 and the model's is token 50257"),
        (of_version_three, "<|transcribe|> is token 50360 and the model's is token 50359"),
        (with_too_many_tokens, "it has a token 51865 and the model has 51865 tokens"),
        (cut_short, ""),
    ],
)
def test_a_tokenizer_that_is_not_the_models_own_is_refused(folder, vocabulary, damage, says):
    damage(folder, vocabulary)
    for load in (load_whisper, load_meta_whisper):
        with pytest.raises(DataError) as error:
            load(str(folder), IT)
        assert says in str(error.value)
        assert f"hf download openai/whisper-base tokenizer.json tokenizer_config.json --local-dir {folder}" in str(
            error.value
        )


def test_the_tokenizer_of_the_base_that_the_config_names_is_offered(folder, tiny_folder):
    for path in folder.glob("tokenizer*"):
        path.unlink()
    edit(folder / "config.json", lambda body: body.update(_name_or_path="openai/whisper-small"))
    with pytest.raises(DataError, match=r"hf download openai/whisper-small tokenizer\.json"):
        load_whisper(str(folder), IT)
    edit(folder / "config.json", lambda body: body.update(_name_or_path=str(tiny_folder)))
    with pytest.raises(DataError) as error:
        load_whisper(str(folder), IT)
    command = str(error.value).partition("into its folder: ")[2]
    subprocess.run(shlex.split(command), check=True)
    load_whisper(str(folder), IT)


def test_every_verb_refuses_a_model_without_a_tokenizer(folder, demo_dataset, run_config, tmp_path):
    for path in folder.glob("tokenizer*"):
        path.unlink()
    config = tmp_path / "run.yaml"
    config.write_text(run_config(model__name=str(folder)).to_yaml())
    clip = write_wav(tmp_path / "clip.wav", speech(1.0))
    for command in (
        ["transcribe", folder, clip, "--language", "it"],
        ["evaluate", folder, demo_dataset, "--out", tmp_path / "report"],
        ["check", config],
        ["train", config],
    ):
        done = CliRunner().invoke(app, list(map(str, command)))
        assert done.exit_code == DataError.exit_code, done.output
        assert "has no tokenizer of its own" in done.output


def test_a_ctranslate2_folder_with_another_tokenizer_is_refused(ctranslate2_folder, tmp_path):
    copy = shutil.copytree(ctranslate2_folder, tmp_path / "ct2")
    of_version_three(copy, None)
    with pytest.raises(DataError, match=r"its token 50358 is <\|yue\|> and vocabulary\.json has <\|translate\|>"):
        load_meta_whisper(str(copy), IT)
    (copy / "vocabulary.json").unlink()
    with pytest.raises(DataError, match=r"<\|notimestamps\|> is token 50364 and the model's is token 50363"):
        load_meta_whisper(str(copy), IT)


# Whole models

LAYER, EMBEDDING = "model.encoder.layers.1.fc1.weight", "model.decoder.embed_tokens.weight"


def openai_name(name):
    """The name of a weight in openai/whisper, whisper/model.py."""
    for ours, theirs in (
        ("model.", ""), (".layers.", ".blocks."), (".self_attn_layer_norm", ".attn_ln"),
        (".encoder_attn_layer_norm", ".cross_attn_ln"), (".self_attn.", ".attn."), (".encoder_attn.", ".cross_attn."),
        ("q_proj", "query"), ("k_proj", "key"), ("v_proj", "value"), ("out_proj", "out"), ("fc1", "mlp.0"),
        ("fc2", "mlp.2"), ("final_layer_norm", "mlp_ln"), ("encoder.layer_norm", "encoder.ln_post"),
        ("decoder.layer_norm", "decoder.ln"), ("embed_positions.weight", "positional_embedding"),
        ("embed_tokens", "token_embedding"),
    ):  # fmt: skip
        name = name.replace(ours, theirs)
    return name


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda weights: {name: value for name, value in weights.items() if name != LAYER}, f"lack {LAYER}"),
        (lambda weights: {**weights, "model.adapter.weight": torch.zeros(2)}, "unknown model.adapter.weight"),
        (lambda weights: {**weights, LAYER: torch.zeros(100, 64)}, f"{LAYER} has shape [100, 64] and needs [128, 64]"),
        (
            lambda weights: {**weights, "model.decoder.embed_tokens.weight": torch.zeros(51864, 64)},
            "has shape [51864, ",
        ),
        (lambda weights: {f"student.{name}": value for name, value in weights.items()}, "unknown student.model."),
        (lambda weights: {**weights, f"module.{LAYER}": weights[LAYER]}, "are the same weight"),
    ],
)
def test_a_whole_model_with_other_weights_is_refused(folder, change, says):
    rewrite(folder / "model.safetensors", change)
    with pytest.raises(DataError) as error:
        load_whisper(str(folder), IT)
    assert says in str(error.value)


@pytest.mark.parametrize(
    "name",
    [
        lambda name: f"module.{name}",
        lambda name: f"_orig_mod.{name}",
        lambda name: f"base_model.model.{name}",
        lambda name: f"_fsdp_wrapped_module.{name.replace('layers.0', 'layers.0._checkpoint_wrapped_module')}",
        openai_name,
    ],
)
def test_a_whole_model_under_other_names_is_renamed_with_one_line(folder, tiny_folder, name, capsys):
    rewrite(folder / "model.safetensors", lambda weights: {name(old): value for old, value in weights.items()})
    found, right = (load_whisper(str(place), IT).core for place in (folder, tiny_folder))
    assert capsys.readouterr().err.count("weights are named otherwise; ") == 1
    for key, value in right.state_dict().items():
        assert torch.equal(found.state_dict()[key], value), key
    assert found.generation_config.lang_to_id == right.generation_config.lang_to_id


def test_a_missing_shard_and_a_pickle_that_is_more_than_tensors(folder):
    model = load_whisper(str(folder), IT).core
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="1MB")
    shard = sorted(folder.glob("model-*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(DataError, match=shard.name):
        load_whisper(str(folder), IT)
    for path in folder.glob("model*.safetensors*"):
        path.unlink()
    torch.save({**weights, "more": Program()}, folder / "pytorch_model.bin")
    with pytest.raises(DataError, match="it is a pickle that") as error:
        load_whisper(str(folder), IT)
    assert "weights_only" not in str(error.value)


class Program:
    def __reduce__(self):
        return print, ("a refused pickle has run",)


# Adapters


@pytest.fixture(scope="module")
def adapter(tiny_folder, tmp_path_factory):
    """A folder with a LoRA whose B is not zero, and the base with it merged."""
    folder = tmp_path_factory.mktemp("adapters") / "lora"
    save_weights(adapted(load_whisper(str(tiny_folder), IT)), folder)
    return folder


def adapted(whisper, **settings):
    torch.manual_seed(1)
    whisper = attach(whisper, AdapterSettings(**{"rank": 2, "alpha": 4, **settings}))
    for name, value in whisper.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(value.data, std=0.1)
    return whisper


def merged(source, folder):
    return load_merged(str(source), folder, IT, torch.float32, device=CPU).core.state_dict()


def with_weights(adapter, tmp_path, change, **settings):
    copy = shutil.copytree(adapter, tmp_path / "changed")
    rewrite(copy / "adapter_model.safetensors", change)
    edit(copy / "adapter_config.json", lambda body: body.update(settings))
    return copy


PEFT = "base_model.model.model."


@pytest.mark.parametrize(
    "name",
    [
        lambda name: name.replace("base_model.model.model.", "base_model.model."),
        lambda name: name.removeprefix("base_model.model."),
        lambda name: name.removeprefix(PEFT),
        lambda name: f"module.{name}",
        lambda name: f"_orig_mod.{name}",
        lambda name: name.replace("base_model.model.", "base_model.model._orig_mod."),
        lambda name: name.replace(".weight", ".default.weight"),
        lambda name: name.replace(".weight", ""),
        lambda name: f"base_model.model.{openai_name(name.removeprefix('base_model.model.'))}",
    ],
)
def test_an_adapter_under_other_names_is_renamed_with_one_line(adapter, tiny_folder, tmp_path, name, capsys):
    changed = with_weights(adapter, tmp_path, lambda weights: {name(old): value for old, value in weights.items()})
    right, found = merged(tiny_folder, adapter), merged(tiny_folder, changed)
    assert capsys.readouterr().err.count("weights are named otherwise; ") == 1
    assert all(torch.equal(found[key], value) for key, value in right.items())
    copy_adapter(changed, tmp_path / "published", "openai/whisper-base")
    published = load_file(tmp_path / "published" / "adapter_model.safetensors")
    assert published.keys() == load_file(adapter / "adapter_model.safetensors").keys()


FIRST = f"{PEFT}decoder.layers.0.encoder_attn.q_proj.lora_A.weight"


@pytest.mark.parametrize(
    ("change", "settings", "says"),
    [
        (lambda w: {f"student.{name}": value for name, value in w.items()}, {}, "the unknown student."),
        (lambda w: {name: value for name, value in w.items() if name != FIRST}, {}, f"lack {FIRST}"),
        (lambda w: {**w, FIRST.replace("layers.0", "layers.9"): w[FIRST]}, {}, "the unknown"),
        (lambda w: {**w, FIRST.replace("lora_A", "lora_C"): w[FIRST]}, {}, "the unknown"),
        (lambda w: {**w, f"module.{FIRST}": w[FIRST]}, {}, "are the same weight"),
        (lambda w: w, {"r": 4}, "size mismatch"),
        (lambda w: w, {"r": None}, "does not say r"),
        (lambda w: w, {"lora_alpha": None}, "does not say lora_alpha"),
        (lambda w: w, {"target_modules": ["q_proj"]}, "the unknown"),
        (lambda w: w, {"target_modules": ["query"]}, "query"),
        (lambda w: w, {"target_modules": ["q_proj", "v_proj", "fc1"]}, "lack"),
        (lambda w: w, {"use_dora": True}, "lack"),
        (lambda w: w, {"peft_type": "IA3"}, "an adapter of type IA3"),
        (lambda w: w, {"use_something_new": True}, "pip install --upgrade peft"),
        (lambda w: w, {"alpha_pattern": {"no_such_layer": 8}}, "no_such_layer"),
    ],
)
def test_an_adapter_with_other_weights_or_settings_is_refused(adapter, tiny_folder, tmp_path, change, settings, says):
    changed = with_weights(adapter, tmp_path, change, **settings)
    with pytest.raises(DataError) as error:
        merged(tiny_folder, changed)
    assert says in str(error.value)
    with pytest.raises(DataError):
        load_adapters(load_whisper(str(tiny_folder), IT), {"it": (adapter, 1.0), "nl": (changed, 1.0)})


def test_an_earlier_adapter_under_other_names_goes_on_and_an_incomplete_one_does_not(adapter, tiny_folder, tmp_path):
    changed = with_weights(adapter, tmp_path, lambda w: {name.removeprefix(PEFT): value for name, value in w.items()})
    settings = AdapterSettings(rank=2, alpha=4, continue_from=changed)
    whisper = attach(load_whisper(str(tiny_folder), IT), settings)
    right = load_adapter(load_whisper(str(tiny_folder), IT), adapter)
    own, theirs = dict(whisper.model.named_parameters()), dict(right.model.named_parameters())
    assert all(torch.equal(own[name], value) for name, value in theirs.items())
    rewrite(changed / "adapter_model.safetensors", lambda w: dict(list(w.items())[1:]))
    with pytest.raises(DataError, match="its weights lack"):
        attach(load_whisper(str(tiny_folder), IT), settings)


def test_an_adapter_of_older_peft_is_read_and_a_pickled_program_is_not(adapter, tiny_folder, tmp_path):
    copy = shutil.copytree(adapter, tmp_path / "older")
    weights = load_file(copy / "adapter_model.safetensors")
    (copy / "adapter_model.safetensors").unlink()
    torch.save(weights, copy / "adapter_model.bin")
    right, found = merged(tiny_folder, adapter), merged(tiny_folder, copy)
    assert all(torch.equal(found[key], value) for key, value in right.items())
    torch.save({**weights, "more": Program()}, copy / "adapter_model.bin")
    with pytest.raises(DataError, match="could run any program") as error:
        merged(tiny_folder, copy)
    assert "weights_only" not in str(error.value)


def test_deep_settings_are_one_sentence(adapter, folder, tmp_path):
    deep = "[" * 100_000
    copy = shutil.copytree(adapter, tmp_path / "deep")
    (copy / "adapter_config.json").write_text(deep)
    with pytest.raises(DataError, match="nested too deeply"):
        find_model(str(copy))
    (folder / "config.json").write_text(deep)
    with pytest.raises(DataError, match="nested too deeply"):
        load_whisper(str(folder), IT)


# Runs


def test_a_run_with_other_weights_than_it_trained_is_refused(adapter, tiny_folder, demo_dataset, tmp_path):
    run = RunFolder(tmp_path / "run")
    shutil.copytree(adapter, run.weights("lora"))
    record = run_record(tiny_folder, weights_digest=folder_digest(run.weights("lora")))
    run.write(record)
    (run.weights("lora") / ".DS_Store").write_text("of another system")
    assert find_model(str(run.root)).run
    assert find_model(str(run.weights("lora"))).run
    save_weights(adapted(load_whisper(str(tiny_folder), IT), rank=4), run.weights("lora"))
    with pytest.raises(DataError, match=r"holds other weights .* or name .*adapter itself"):
        find_model(str(run.root))
    for command in (
        ["evaluate", run.root, demo_dataset, "--out", tmp_path / "report"],
        ["export", run.root, "--format", "adapter", "--dataset", demo_dataset, "--out", tmp_path / "export"],
    ):
        done = CliRunner().invoke(app, list(map(str, command)))
        assert done.exit_code == DataError.exit_code, done.output
        assert "holds other weights" in done.output
    named = find_model(str(run.weights("lora")))
    assert (named.run, named.base, named.strength) == (None, str(tiny_folder), 1.0)


def test_older_runs_without_a_digest_are_told_apart(adapter, tiny_folder, tmp_path):
    places = []
    for rank in (2, 4):
        run = RunFolder(tmp_path / f"run{rank}")
        save_weights(adapted(load_whisper(str(tiny_folder), IT), rank=rank), run.weights("lora"))
        run.write(run_record(tiny_folder))
        places.append(str(run.root))
    assert model_identity(places[0]) != model_identity(places[1])
    assert weights_digest(places[0]) != weights_digest(places[1])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda w: {name: value[:1] if "lora_A" in name else value for name, value in w.items()}, "has shape [1, 64]"),
        (lambda w: dict(list(w.items())[1:]), "is missing"),
        (lambda w: {**w, "more": torch.zeros(1)}, "more is unknown"),
    ],
)
def test_a_checkpoint_of_other_weights_is_refused(tiny_folder, tmp_path, change, says):
    whisper = adapted(load_whisper(str(tiny_folder), IT))
    optimiser = build_optimiser(whisper.model, OptimiserSettings())
    schedule = build_schedule(optimiser, OptimiserSettings(), 10)
    save_checkpoint(tmp_path / "checkpoint", whisper, optimiser, schedule, Progress())
    load_checkpoint(tmp_path / "checkpoint", whisper, optimiser, schedule)
    rewrite(tmp_path / "checkpoint" / "weights.safetensors", change)
    with pytest.raises(DataError) as error:
        load_checkpoint(tmp_path / "checkpoint", whisper, optimiser, schedule)
    assert says in str(error.value)
    torch.save({"optimiser": Program()}, tmp_path / "checkpoint" / "optimiser.pt")
    with pytest.raises(DataError, match="could run any program") as error:
        load_checkpoint(tmp_path / "checkpoint", whisper, optimiser, schedule)
    assert "weights_only" not in str(error.value)
