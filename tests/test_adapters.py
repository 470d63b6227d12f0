"""Every method learns, is saved as plain PEFT, loads, merges and goes on; parts and layers are exactly those asked."""

import json
import re

import pytest
import torch
from conftest import BASE, attach, run_record, speech
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import WhisperForConditionalGeneration

from asr_lora.audio.features import log_mel
from asr_lora.config import AdapterSettings, Method, Optimiser, OptimiserSettings, Part, Quantise
from asr_lora.errors import ConfigError, DataError
from asr_lora.folders.run_folder import RunFolder
from asr_lora.language import ForcedPrompt
from asr_lora.model.adapters.adalora import allocate_rank, extra_state, load_extra_state, regularisation
from asr_lora.model.adapters.files import save_weights
from asr_lora.model.adapters.merging import load_adapter, load_merged, merge_adapter
from asr_lora.model.adapters.saved_adapter import adapter_base
from asr_lora.model.trainable import count_parameters, require_gradients, train_everything, trainable_state
from asr_lora.model.whisper import load_whisper, run_at_any_length
from asr_lora.training.optim import build_optimiser, build_schedule

CPU = torch.device("cpu")
TEXT = "Prego, digitare la password seguita dal tasto cancelletto."
ADAPTERS = [method for method in Method if method is not Method.FULL]


def inputs(whisper):
    """One clip and its reference, as the model takes them; the labels that the decoder should give."""
    target = torch.tensor([[*whisper.prompt_tokens, *whisper.text_tokens(TEXT), whisper.end_token]])
    features = log_mel(speech(2.0), whisper.mel_bins, 300)[None].to(whisper.dtype)
    return {"input_features": features, "decoder_input_ids": target[:, :-1]}, target[:, 1:]


def logits(whisper, model=None):
    with torch.inference_mode():
        return (model or whisper.model).eval()(**inputs(whisper)[0]).logits


def loss_of(whisper):
    arguments, labels = inputs(whisper)
    with torch.autocast("cpu", torch.bfloat16, enabled=whisper.dtype is torch.bfloat16):
        out = whisper.model(**arguments).logits
    return torch.nn.functional.cross_entropy(out.float().flatten(0, 1), labels.flatten())


def train(whisper, steps, *, begin=0, rate=3e-3, optimiser=None):
    """Some steps as a run makes them; the losses, and the optimiser to go on with."""
    optimiser = optimiser or torch.optim.AdamW(trainable_state(whisper.model).values(), lr=rate, weight_decay=0.0)
    whisper.model.train()
    losses = []
    for step in range(begin + 1, begin + steps + 1):
        loss = loss_of(whisper)
        term = regularisation(whisper)
        (loss if term is None else loss + term).backward()
        if step == 1:
            require_gradients(whisper.model)
        optimiser.step()
        allocate_rank(whisper, step)
        optimiser.zero_grad()
        losses.append(float(loss.detach()))
    return losses, optimiser


@pytest.fixture
def tiny(tiny_folder):
    return load_whisper(str(tiny_folder), ForcedPrompt("it"))


@pytest.fixture(scope="module", params=ADAPTERS)
def trained(request, base, tmp_path_factory):
    """whisper-base after six steps of one method, and the adapter it saved: (method, losses, logits, folder)."""
    torch.manual_seed(0)
    settings = AdapterSettings(rank=8, alpha=16, dropout=0.0)
    whisper = attach(load_whisper(BASE, ForcedPrompt("it")), settings, request.param, steps=6)
    begun = logits(whisper)
    assert torch.allclose(begun, logits(base), atol=1e-3)  # every method begins at the base
    # AdaLoRA's A and B both begin small and E at zero, so that it is slow to begin.
    losses, _ = train(whisper, 6, rate=3e-2 if request.param is Method.ADALORA else 3e-3)
    folder = tmp_path_factory.mktemp(request.param) / "adapter"
    save_weights(whisper, folder)
    return request.param, losses, logits(whisper), folder


def test_loss_falls_and_what_is_saved_is_what_was_trained(trained, base):
    method, losses, after, folder = trained
    assert losses[-1] < 0.8 * losses[0], method
    assert (after - logits(base)).abs().max() > 0.5
    loaded = load_adapter(load_whisper(BASE, ForcedPrompt("it")), folder)
    assert torch.allclose(logits(loaded), after, atol=2e-3)
    assert not any(value.requires_grad for value in loaded.model.parameters())


def test_merged_equals_unmerged_and_plain_peft_reads_it(trained, base):
    _, _, after, folder = trained
    merged = load_merged(BASE, folder, ForcedPrompt("it"), torch.float32, device=CPU)
    assert not any("lora" in name for name, _ in merged.core.named_parameters())
    assert torch.allclose(logits(merged), after, atol=3e-3)
    assert adapter_base(folder) == BASE
    plain = load_whisper(BASE, ForcedPrompt("it")).core  # the Transformers model itself
    theirs = PeftModel.from_pretrained(plain, folder)
    assert torch.allclose(logits(base, theirs), after, atol=2e-3)


def test_strength_is_the_line_from_the_base_to_the_adapter(trained, base):
    method, _, _, folder = trained
    state = {}
    for strength in (0.0, 0.5, 1.0):
        model = load_merged(BASE, folder, ForcedPrompt("it"), torch.float32, device=CPU, strength=strength)
        state[strength] = model.core.state_dict()
    begin = base.core.state_dict()
    assert all(torch.equal(state[0.0][name], value) for name, value in begin.items())
    full = merge_adapter(load_adapter(load_whisper(BASE, ForcedPrompt("it")), folder)).core.state_dict()
    assert all(torch.equal(state[1.0][name], value) for name, value in full.items())
    changed = [name for name, value in begin.items() if not torch.equal(full[name], value)]
    assert changed
    assert all(re.search(r"(q|v)_proj\.weight", name) for name in changed)
    for name in changed:
        assert torch.allclose(state[0.5][name], (begin[name] + full[name]) / 2, atol=1e-6)
    if method is Method.DORA:
        with pytest.raises(ConfigError, match="unless it is merged"):
            load_adapter(load_whisper(BASE, ForcedPrompt("it")), folder, strength=0.5)
    else:
        half = load_merged(BASE, folder, ForcedPrompt("it"), torch.float32, device=CPU, strength=0.5)
        unmerged = load_adapter(load_whisper(BASE, ForcedPrompt("it")), folder, strength=0.5)
        assert torch.allclose(logits(half), logits(unmerged), atol=3e-3)
        assert torch.equal(
            logits(load_adapter(load_whisper(BASE, ForcedPrompt("it")), folder, strength=0.0)), logits(base)
        )
    with pytest.raises(ConfigError, match="from 0"):
        load_adapter(load_whisper(BASE, ForcedPrompt("it")), folder, strength=1.5)


def test_going_on_begins_where_the_earlier_adapter_ended(trained):
    method, _, after, folder = trained
    # A saved PiSSA is a plain LoRA of twice the rank.
    method, rank, alpha = (Method.LORA, 16, 32) if method is Method.PISSA else (method, 8, 16)
    settings = AdapterSettings(rank=rank, alpha=alpha, dropout=0.0, continue_from=folder)
    whisper = attach(load_whisper(BASE, ForcedPrompt("it")), settings, method, steps=4)
    assert torch.allclose(logits(whisper), after, atol=2e-3)
    trainable = trainable_state(whisper.model)
    assert trainable
    assert all("lora_" in name for name in trainable)
    losses, _ = train(whisper, 4, rate=1e-3)
    assert losses[-1] < losses[0]
    save_weights(whisper, folder.parent / "again")
    again = load_adapter(load_whisper(BASE, ForcedPrompt("it")), folder.parent / "again")
    assert torch.allclose(logits(again), logits(whisper), atol=2e-3)


def test_methods_are_what_they_are_called(tiny):
    found = {}
    for method in ADAPTERS:
        whisper = attach(
            load_whisper(tiny.source, ForcedPrompt("it")), AdapterSettings(rank=4, alpha=8), method, steps=10
        )
        layer = whisper.core.model.encoder.layers[0].self_attn.q_proj
        found[method] = (layer.scaling["default"], set(dict(layer.named_parameters())))
    assert found[Method.LORA][0] == found[Method.DORA][0] == found[Method.PISSA][0] == 2
    assert found[Method.RSLORA][0] == 4  # alpha / sqrt(rank)
    assert found[Method.LORA][1] == found[Method.RSLORA][1] == found[Method.PISSA][1]
    assert found[Method.DORA][1] - found[Method.LORA][1] == {"lora_magnitude_vector.default.weight"}
    assert "lora_E.default" in found[Method.ADALORA][1]


@pytest.mark.parametrize("method", ADAPTERS)
def test_methods_learn_in_bf16_with_checkpointing(tiny_folder, method):
    whisper = load_whisper(str(tiny_folder), ForcedPrompt("it"), dtype=torch.bfloat16)
    before = logits(whisper).float()
    whisper.core.gradient_checkpointing_enable({"use_reentrant": False})
    whisper = attach(whisper, AdapterSettings(rank=4, alpha=8, dropout=0.0), method, steps=8)
    assert all(
        value.dtype == (torch.float32 if re.search("lora_|ranknum", name) else torch.bfloat16)
        for name, value in whisper.model.named_parameters()
    )
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.allclose(logits(whisper).float(), before, atol=0.05)
    losses, _ = train(whisper, 8, rate=1e-2)
    assert losses[-1] < losses[0]


# AdaLoRA


def adalora(tiny, steps, rank=4):
    torch.manual_seed(0)
    return attach(tiny, AdapterSettings(rank=rank, alpha=8, dropout=0.1), Method.ADALORA, steps=steps)


def kept_ranks(whisper):
    return [int((value != 0).sum()) for name, value in whisper.model.named_parameters() if ".lora_E." in name]


def test_adalora_allocates_its_rank_among_the_layers(tiny, tmp_path):
    whisper = adalora(tiny, 20)
    train(whisper, 20)
    ranks = kept_ranks(whisper)
    assert len(ranks) == 12  # q and v of two encoder layers, and of two attentions in two decoder layers
    assert sum(ranks) == 4 * 12  # the budget, of 6 * 12 at the beginning
    assert len(set(ranks)) > 1  # and not the same everywhere
    save_weights(whisper, tmp_path / "adapter")
    weights = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert sum(len(value) for name, value in weights.items() if "lora_E" in name) == 48  # what is dropped is not saved
    going_on = AdapterSettings(rank=4, alpha=8, dropout=0.0, continue_from=tmp_path / "adapter")
    again = attach(load_whisper(tiny.source, ForcedPrompt("it")), going_on, Method.ADALORA, steps=5)
    train(again, 5)
    assert sorted(kept_ranks(again)) == sorted(ranks)


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 101, 1000])
def test_adalora_schedule_holds_for_every_length(tiny, steps):
    whisper = adalora(tiny, steps)
    config = whisper.model.peft_config["default"]
    allocator = whisper.model.base_model.rankallocator
    budgets = [allocator.budget_schedule(step)[0] for step in range(1, steps + 1)]
    assert budgets == sorted(budgets, reverse=True)
    assert steps == 1 or budgets[-1] == 48
    assert steps == 1 or config.total_step - config.tfinal <= steps
    if steps < 10:
        train(whisper, steps)
        assert steps == 1 or sum(kept_ranks(whisper)) == 48


def test_adalora_saves_what_it_is_between_two_allocations(tiny, tmp_path):
    whisper = adalora(tiny, 400)  # allocates at every fourth step, begins at the fortieth
    train(whisper, 47)
    assert min(kept_ranks(whisper)) == 6  # what the 44th step zeroed has come back
    pattern = whisper.model.peft_config["default"].rank_pattern
    assert not all(all(kept) for kept in pattern.values())
    save_weights(whisper, tmp_path / "adapter")
    assert whisper.model.peft_config["default"].rank_pattern == pattern
    loaded = load_adapter(load_whisper(tiny.source, ForcedPrompt("it")), tmp_path / "adapter")
    assert torch.allclose(logits(loaded), logits(whisper), atol=1e-5)


@pytest.mark.parametrize("stop", [3, 9, 15, 18])  # before, during and after allocation: it ends at step 14
def test_adalora_resumes_bit_by_bit(tiny, tmp_path, stop):
    whole = adalora(load_whisper(tiny.source, ForcedPrompt("it")), 20)
    _, optimiser = train(whole, stop)
    save_file(extra_state(whole), tmp_path / "extra.safetensors")
    weights = {name: value.detach().clone() for name, value in trainable_state(whole.model).items()}
    kept = {"optimiser": optimiser.state_dict(), "random": torch.get_rng_state()}
    torch.save(kept, tmp_path / "kept.pt")
    last, _ = train(whole, 20 - stop, begin=stop, optimiser=optimiser)

    resumed = attach(tiny, AdapterSettings(rank=4, alpha=8, dropout=0.1), Method.ADALORA, steps=20)
    load_extra_state(resumed, load_file(tmp_path / "extra.safetensors"))
    with torch.no_grad():
        for name, value in trainable_state(resumed.model).items():
            value.copy_(weights[name])
    optimiser = torch.optim.AdamW(trainable_state(resumed.model).values())
    kept = torch.load(tmp_path / "kept.pt")
    optimiser.load_state_dict(kept["optimiser"])
    torch.set_rng_state(kept["random"])
    assert train(resumed, 20 - stop, begin=stop, optimiser=optimiser)[0] == last
    theirs = trainable_state(resumed.model)
    assert all(torch.equal(value, theirs[name]) for name, value in trainable_state(whole.model).items())


def test_adalora_regularisation_is_what_peft_adds(tiny):
    whisper = adalora(tiny, 10)
    arguments, labels = inputs(whisper)
    whisper.model.eval()
    added = whisper.model.base_model(**arguments, labels=labels).loss - whisper.core(**arguments, labels=labels).loss
    assert regularisation(whisper).item() == pytest.approx(added.item(), rel=1e-4)
    lora = attach(load_whisper(tiny.source, ForcedPrompt("it")), AdapterSettings(rank=4))
    assert regularisation(lora) is None
    assert extra_state(lora) == {}
    allocate_rank(lora, 1)
    load_extra_state(lora, {})


# PiSSA


def test_pissa_begins_at_the_principal_directions_and_resumes_from_the_same(tiny):
    settings = AdapterSettings(rank=4, alpha=8)
    base = load_whisper(tiny.source, ForcedPrompt("it")).core.model.encoder.layers[0].self_attn.q_proj.weight.detach()
    layers = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        whisper = attach(load_whisper(tiny.source, ForcedPrompt("it")), settings, Method.PISSA)
        layers.append(whisper.core.model.encoder.layers[0].self_attn.q_proj)
    first, second = layers
    assert torch.equal(first.base_layer.weight, second.base_layer.weight)
    assert torch.equal(first.lora_A["default"].weight, second.lora_A["default"].weight)
    taken = torch.linalg.svdvals(base)[:4]
    found = torch.linalg.svdvals(2 * first.lora_B["default"].weight @ first.lora_A["default"].weight)[:4]
    assert torch.allclose(found, taken, rtol=1e-2)  # of a random matrix, the hardest kind
    assert torch.linalg.matrix_norm(first.base_layer.weight) < 0.95 * torch.linalg.matrix_norm(base)


def test_pissa_is_saved_as_plain_lora_of_twice_the_rank(tiny, tmp_path):
    whisper = attach(tiny, AdapterSettings(rank=4, alpha=8), Method.PISSA)
    train(whisper, 2)
    save_weights(whisper, tmp_path / "adapter")
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["init_lora_weights"]) == (8, 16, True)
    assert whisper.model.peft_config["default"].r == 4


def test_pissa_is_refused_where_it_cannot_be(tiny):
    with pytest.raises(ConfigError, match=r"model\.quantise=none"):
        attach(tiny, AdapterSettings(rank=4), Method.PISSA, quantised=True)
    with pytest.raises(ConfigError, match=r"adapter\.rank=64"):
        attach(tiny, AdapterSettings(rank=65), Method.PISSA)


@pytest.mark.parametrize("method", [Method.DORA, Method.ADALORA, Method.RSLORA])
@pytest.mark.parametrize("quantise", [Quantise.INT8, Quantise.NF4])
def test_methods_learn_on_a_quantised_base(tiny_folder, method, quantise, tmp_path):
    whisper = load_whisper(str(tiny_folder), ForcedPrompt("it"), quantise=quantise)
    if (method, quantise) == (Method.DORA, Quantise.INT8):
        with pytest.raises(ConfigError, match=r"model\.quantise=none or 4bit"):
            attach(whisper, AdapterSettings(rank=4), method, quantised=True)
        return
    whisper = attach(whisper, AdapterSettings(rank=4), method, steps=8, quantised=True)
    losses, _ = train(whisper, 8)
    assert losses[-1] < losses[0]
    save_weights(whisper, tmp_path / "adapter")
    load_adapter(load_whisper(str(tiny_folder), ForcedPrompt("it")), tmp_path / "adapter")
    with pytest.raises(ConfigError, match="8- or 4-bit"):
        merge_adapter(whisper)


# Targets, parts, layers


def adapted(whisper):
    return {name.removesuffix(".lora_A") for name, _ in whisper.core.named_modules() if name.endswith(".lora_A")}


ENCODER_1 = {f"model.encoder.layers.1.{name}" for name in ("self_attn.k_proj", "fc2")}
DECODER_1 = {f"model.decoder.layers.1.{name}" for name in ("self_attn.k_proj", "encoder_attn.k_proj", "fc2")}
DECODER_0 = {name.replace("layers.1", "layers.0") for name in DECODER_1}


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ({"part": "encoder", "layers": (1, 1)}, ENCODER_1),
        ({"layers": (1, 1)}, ENCODER_1 | DECODER_1),
        ({"part": "decoder"}, DECODER_0 | DECODER_1),
        ({"part": "decoder", "targets": ("encoder_attn.k_proj",), "layers": (0, 0)},
         {"model.decoder.layers.0.encoder_attn.k_proj"}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("method", [Method.LORA, Method.ADALORA])
def test_exactly_the_layers_asked_for_are_adapted(tiny, tmp_path, chosen, expected, method):
    settings = AdapterSettings(**{"rank": 4, "targets": ("k_proj", "fc2"), **chosen})
    whisper = attach(tiny, settings, method)
    assert adapted(whisper) == expected
    train(whisper, 1)
    save_weights(whisper, tmp_path / "adapter")
    model = WhisperForConditionalGeneration.from_pretrained(tiny.source)
    run_at_any_length(model)
    theirs = PeftModel.from_pretrained(model, tmp_path / "adapter")
    assert torch.allclose(logits(whisper, theirs), logits(whisper), atol=1e-5)


def test_the_saved_description_is_the_same_every_time(tiny, tmp_path):
    whisper = attach(tiny, AdapterSettings(rank=4, targets=("v_proj", "fc1", "k_proj")))
    save_weights(whisper, tmp_path / "adapter")
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["target_modules"] == ["fc1", "k_proj", "v_proj"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"targets": ("q_proj", "qq_proj")}, r"called 'qq_proj'; .* fc1, fc2, k_proj, out_proj, q_proj, v_proj"),
        ({"targets": ("encoder_attn.q_proj",), "part": "encoder"}, "called 'encoder_attn"),
        ({"targets": ("proj_out",)}, "called 'proj_out'"),
        ({"layers": (2, 3)}, "the encoder has layers 0 to 1, not 2 to 3"),
        ({"layers": (0, 2), "part": "decoder"}, "the decoder has layers 0 to 1"),
    ],
)
def test_layers_that_are_not_there(tiny, settings, message):
    with pytest.raises(ConfigError, match=message):
        attach(tiny, AdapterSettings(rank=4, **settings))


def test_full_fine_tuning_of_a_part(tiny):
    whole = set(trainable_state(train_everything(tiny).core))
    everything = {name for name, _ in tiny.core.named_parameters()}
    assert everything - whole == {"model.encoder.embed_positions.weight"}
    encoder = set(trainable_state(train_everything(tiny, Part.ENCODER).core))
    decoder = set(trainable_state(train_everything(tiny, Part.DECODER).core))
    assert encoder | decoder == whole
    assert not encoder & decoder
    assert all(name.startswith("model.encoder.") for name in encoder)
    assert "model.decoder.embed_tokens.weight" in decoder
    top = set(trainable_state(train_everything(tiny, Part.BOTH, (1, 1)).core))
    assert top == {name for name in whole if ".layers.1." in name}
    losses, _ = train(tiny, 3)
    assert losses[-1] < losses[0]


# Going on from an earlier adapter


@pytest.fixture
def earlier(tiny, tmp_path):
    """A run folder with an adapter of the decoder."""
    settings = AdapterSettings(rank=4, alpha=8, part="decoder")
    whisper = attach(load_whisper(tiny.source, ForcedPrompt("it")), settings)
    run = RunFolder(tmp_path / "run")
    run.root.mkdir()
    train(whisper, 3)
    save_weights(whisper, run.weights("lora"))
    run.write(run_record(tiny.source))
    return run, logits(whisper)


def test_a_run_is_gone_on_from_by_its_folder(tiny, earlier):
    run, after = earlier
    settings = AdapterSettings(rank=4, alpha=8, part="decoder", dropout=0.3, continue_from=run.root)
    whisper = attach(tiny, settings)
    assert torch.equal(logits(whisper), after)
    assert whisper.core.model.decoder.layers[0].self_attn.q_proj.lora_dropout["default"].p == 0.3


@pytest.mark.parametrize(
    ("changes", "method", "message"),
    [
        ({"rank": 8}, "lora", r"set adapter\.rank=4$"),
        ({"alpha": 16}, "rslora", r"set method=lora adapter\.alpha=8\.0$"),
        (
            {"part": "both"},
            "lora",
            r"adapter\.part=decoder adapter\.layers=\[0,1\] adapter\.targets=\[q_proj,v_proj\]$",
        ),
        ({"targets": "linear"}, "lora", r"adapter\.targets=\[q_proj,v_proj\]"),
        ({"continue_from": "/no/such/folder"}, "lora", None),
    ],
)
def test_settings_that_contradict_the_earlier_adapter(tiny, earlier, changes, method, message):
    ours = {"rank": 4, "alpha": 8, "part": "decoder", "continue_from": earlier[0].weights("lora")}
    error = DataError if message is None else ConfigError
    with pytest.raises(error, match=message or "not an adapter folder"):
        attach(tiny, AdapterSettings(**{**ours, **changes}), method)


def test_an_earlier_run_of_another_base_or_of_every_weight(base, tiny, earlier):
    run, _ = earlier
    settings = AdapterSettings(rank=4, alpha=8, part="decoder", continue_from=run.root)
    with pytest.raises(ConfigError, match=f"set model.name={re.escape(tiny.source)}"):
        attach(load_whisper(BASE, ForcedPrompt("it")), settings)
    run.write(run_record(tiny.source, method="full"))
    with pytest.raises(ConfigError, match=f"set model.name={re.escape(str(run.weights('full')))}"):
        attach(tiny, settings)


def test_the_settings_that_are_named_are_the_ones_that_go_on(tiny, tmp_path):
    ours = {"rank": 4, "layers": (1, 1), "targets": ("encoder_attn.q_proj", "fc1"), "part": "decoder"}
    save_weights(attach(load_whisper(tiny.source, ForcedPrompt("it")), AdapterSettings(**ours)), tmp_path / "adapter")
    with pytest.raises(ConfigError) as error:
        attach(tiny, AdapterSettings(rank=4, continue_from=tmp_path / "adapter"))
    assert str(error.value).endswith(
        "set adapter.part=decoder adapter.layers=[1,1] adapter.targets=[encoder_attn.q_proj,fc1]"
    )
    whisper = load_whisper(tiny.source, ForcedPrompt("it"))
    assert len(adapted(attach(whisper, AdapterSettings(**ours, continue_from=tmp_path / "adapter")))) == 2


# LoRA+


@pytest.mark.parametrize("name", list(Optimiser))
@pytest.mark.parametrize("method", [Method.LORA, Method.ADALORA, Method.DORA])
def test_lora_plus_trains_b_faster(tiny, name, method):
    whisper = attach(tiny, AdapterSettings(rank=4), method)
    settings = OptimiserSettings(name=name, learning_rate=1e-3, plus_ratio=16, warmup_steps=1)
    optimiser = build_optimiser(whisper.model, settings)
    schedule = build_schedule(optimiser, settings, 10)
    names = {value: key for key, value in whisper.model.named_parameters()}
    rates = {names[value]: group["lr"] for group in optimiser.param_groups for value in group["params"]}
    assert set(rates) == set(trainable_state(whisper.model))
    assert all(rate == (8e-3 if re.search("lora_(B|E)", key) else 5e-4) for key, rate in rates.items())  # warming up
    assert schedule.get_last_lr()[0] == 5e-4
    even = build_optimiser(whisper.model, settings.model_copy(update={"plus_ratio": 1.0}))
    assert {group["lr"] for group in even.param_groups} == {1e-3}


def test_trainable_parameters_of_each_method(tiny):
    sizes = {}
    for method in ADAPTERS:
        whisper = attach(load_whisper(tiny.source, ForcedPrompt("it")), AdapterSettings(rank=4), method)
        sizes[method] = count_parameters(whisper.model)[0]
    layers = 12  # 64 by 64 each
    assert sizes[Method.LORA] == sizes[Method.RSLORA] == sizes[Method.PISSA] == layers * 4 * 128
    assert sizes[Method.DORA] == layers * (4 * 128 + 64)
    assert sizes[Method.ADALORA] == layers * 6 * (128 + 1)
