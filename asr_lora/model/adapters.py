"""Attach, save, load and merge what is trained: an adapter (PEFT), or every weight."""

import copy
import json
import re
import warnings
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from peft import AdaLoraConfig, LoraConfig, PeftConfig, PeftModel, get_peft_model, prepare_model_for_kbit_training
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import WhisperForConditionalGeneration

from asr_lora.artifacts.atomic import write_text
from asr_lora.artifacts.run import RunFolder
from asr_lora.audio.decode import first_line
from asr_lora.config import AdapterSettings, Method, Part, Task
from asr_lora.errors import ConfigError, DataError
from asr_lora.model.cpu import draw_dropout_quickly
from asr_lora.model.targets import HALVES, blocks, target_names, target_pattern
from asr_lora.model.whisper import Whisper, force_language, load_whisper

ADAPTER_CONFIG = "adapter_config.json"  # what makes a folder a PEFT adapter
ADAPTER_WEIGHTS = "adapter_model.safetensors"
NAME = "default"  # PEFT's name of the only adapter
BASE = "__base__"  # PEFT's name of the base among several adapters
PREFIX = "base_model.model."  # PEFT's, before the names of Whisper's own modules
IMPORTANCES = ("ipt", "exp_avg_ipt", "exp_avg_unc")  # what AdaLoRA's allocator remembers of each weight


def attach_adapter(
    whisper: Whisper, settings: AdapterSettings, *, method: Method, steps: int, quantised: bool = False
) -> Whisper:
    """Freeze the base and put an adapter on the target projections, or go on with an earlier adapter.

    Over a bf16 base it computes under autocast only. Only a quantised base is prepared by PEFT, which brings all that
    is not quantised to float32: on another base that would double the memory for nothing. `task_type` stays unset, as
    PEFT's wrapper for sequence-to-sequence models passes arguments that Whisper does not take.

    Args:
        whisper: the base; its layers are wrapped in place.
        settings: what of it is adapted, and how.
        method: anything but `full`.
        steps: optimiser steps of the whole run, over which AdaLoRA lowers its rank.
        quantised: whether the base is kept in 8 or 4 bits.

    Raises:
        ConfigError: the settings do not fit the model, or contradict the adapter to go on from.
        DataError: the adapter to go on from is not there or is damaged.
    """
    names = target_names(whisper.core, settings)
    if quantised:
        require_quantisable(whisper, method, whisper.device)
        prepare_model_for_kbit_training(whisper.core, use_gradient_checkpointing=False)
    if method is Method.PISSA:
        _require_directions(whisper.core, names, settings.rank)
    if settings.continue_from is not None:
        model = _continue(whisper, settings, method, names)
    else:
        model = _begin(whisper, _peft_config(settings, method, steps), method)
    for name, value in model.named_parameters():
        if ".ranknum." in name:
            value.requires_grad_(False)  # a count that AdaLoRA divides by: PEFT lets it train over a bf16 base
    config = model.peft_config[NAME]
    config.base_model_name_or_path = whisper.source
    if not isinstance(config.target_modules, str):
        config.target_modules = sorted(config.target_modules)  # a set is saved in another order by each process
    draw_dropout_quickly(model)
    if whisper.dtype is torch.bfloat16:
        # PEFT would bring every input to the adapter's float32, for autocast to bring it back to bf16 again.
        for layer in _adapted_layers(model).values():
            layer.cast_input_dtype_enabled = False
    return replace(whisper, model=model)


def _begin(whisper: Whisper, config: Any, method: Method) -> Any:
    if method is not Method.PISSA:
        return get_peft_model(whisper.core, config)
    # The principal directions are found by random projection: the same ones whenever a run resumes.
    devices = [whisper.device] if whisper.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(0)
        model = get_peft_model(whisper.core, config)
    for layer in _adapted_layers(model).values():
        for name in ("lora_A", "lora_B"):
            beginning = getattr(layer, name)[NAME].weight.detach().clone()
            layer.register_buffer(f"initial_{name}", beginning, persistent=False)
    return model


def _peft_config(settings: AdapterSettings, method: Method, steps: int) -> Any:
    """The adapter as PEFT describes it. PiSSA takes its directions by a fast SVD of 16 rounds (arXiv 2404.02948)."""
    common: dict[str, Any] = {
        "lora_alpha": settings.alpha,
        "lora_dropout": settings.dropout,
        "target_modules": target_pattern(settings),
        "bias": "none",
    }
    if method is Method.ADALORA:
        begin = _first_rank(settings.rank)
        return AdaLoraConfig(init_r=begin, target_r=settings.rank, **_rank_schedule(steps), **common)
    return LoraConfig(
        r=settings.rank,
        use_rslora=method is Method.RSLORA,
        use_dora=method is Method.DORA,
        init_lora_weights="pissa_niter_16" if method is Method.PISSA else True,
        **common,
    )


def _first_rank(rank: int) -> int:
    """What AdaLoRA begins with: 1.5 times the final rank (arXiv 2303.10512, 3.3)."""
    return max(rank + 1, round(1.5 * rank))


def _rank_schedule(steps: int) -> dict[str, int]:
    """Full rank for a tenth of the steps, then lowered a hundred times; the last 3 tenths learn at the final rank.

    Importance must have been seen once before the last allocation, so a run of one step never reaches it.
    """
    return {
        "total_step": max(2, steps),
        "tinit": steps // 10,
        "tfinal": steps * 3 // 10,
        "deltaT": max(1, steps // 100),
    }


def require_quantisable(whisper: Whisper, method: Method, device: torch.device) -> None:
    """Check that a method can train over the quantised base.

    Raises:
        ConfigError: it cannot.
    """
    if method is Method.PISSA:
        raise ConfigError(
            "method: pissa moves the base's principal directions out of its weights, which 8 or 4 bits cannot follow; "
            "set model.quantise=none, or another method"
        )
    if method is Method.DORA and device.type == "cpu" and getattr(whisper.core, "is_loaded_in_8bit", False):
        # PEFT reads the norms of W anew at each forward, and on a CPU that loses the scales of the 8 bits.
        raise ConfigError("method: dora cannot train over 8-bit weights on a CPU; set model.quantise=none or 4bit")


def _require_directions(core: Any, names: list[str], rank: int) -> None:
    smallest = min(min(core.get_submodule(name).weight.shape) for name in names)
    if rank > smallest:
        raise ConfigError(
            f"adapter.rank: pissa begins at {rank} directions of each target, and the smallest has {smallest}; "
            f"set adapter.rank={smallest} or less"
        )


def train_everything(whisper: Whisper, part: Part = Part.BOTH, layers: tuple[int, int] | None = None) -> Whisper:
    """Make every weight of a part trainable but the encoder's fixed sinusoids; of some layers, those blocks alone.

    The output projection is the decoder's embedding, so it trains with the decoder.

    Raises:
        ConfigError: a half has no layer in the range.
    """
    core = whisper.core
    chosen = list(blocks(core, part, layers).values())
    core.requires_grad_(False)
    for module in chosen if layers else [getattr(core.model, half) for half in HALVES[part]]:
        module.requires_grad_(True)
    if not layers and "decoder" in HALVES[part]:
        core.proj_out.requires_grad_(True)  # the same weight, unless a model was saved untied
    core.model.encoder.embed_positions.requires_grad_(False)
    return whisper


# Going on from an earlier adapter.


def _continue(whisper: Whisper, settings: AdapterSettings, method: Method, names: list[str]) -> Any:
    """Load an earlier adapter to train on. Its rank and scale hold; dropout is this run's."""
    folder = _earlier_adapter(settings.continue_from, whisper.source)  # type: ignore[arg-type]
    try:
        config = PeftConfig.from_pretrained(str(folder))
    except Exception as error:  # PEFT and huggingface_hub each raise their own kinds
        raise DataError(f"{folder} is not an adapter folder ({first_line(error)})") from error
    _require_same_settings(folder, config, settings, method)
    config.lora_dropout = settings.dropout
    model = _load_peft(whisper.core, folder, whisper.source, is_trainable=True, config=config)
    _require_same_layers(whisper, folder, [name.removeprefix(PREFIX) for name in _adapted_layers(model)], names)
    if method is Method.ADALORA:
        model.base_model.rankallocator = None  # its ranks are allocated, and their layers cut to them
        for value in model.parameters():
            if not value.numel():
                value.requires_grad_(False)  # a layer that was left without any has nothing to train
    return model


def _earlier_adapter(path: Path, source: str) -> Path:
    """The adapter folder that a run or folder stands for, checked to be of the same base."""
    folder = path.expanduser()
    run = RunFolder(folder)
    if run.config.is_file() or run.complete:
        folder = run.weights(run.read()["method"])
    whole = (folder / "config.json").is_file() and not (folder / ADAPTER_CONFIG).is_file()
    if whole or folder == run.weights(Method.FULL):
        raise ConfigError(
            f"adapter.continue_from: {path} trained every weight and has no adapter; set model.name={folder} "
            "and leave continue_from out"
        )
    base = adapter_base(folder)
    if base != source and not (Path(base).is_dir() and Path(base).resolve() == Path(source).expanduser().resolve()):
        raise ConfigError(f"adapter.continue_from: {path} adapts {base}, not {source}; set model.name={base}")
    return folder


def _require_same_settings(folder: Path, config: Any, settings: AdapterSettings, method: Method) -> None:
    if not isinstance(config, LoraConfig):
        raise ConfigError(f"adapter.continue_from: {folder} is an adapter of another kind than LoRA; name a LoRA")
    adalora = isinstance(config, AdaLoraConfig)
    variant = Method.DORA if config.use_dora else Method.RSLORA if config.use_rslora else Method.LORA
    theirs = {
        "method": (Method.ADALORA if adalora else variant, method),
        "adapter.rank": (config.target_r if adalora else config.r, settings.rank),
        "adapter.alpha": (config.lora_alpha, settings.alpha),
    }
    wrong = [f"{key}={earlier}" for key, (earlier, ours) in theirs.items() if earlier != ours]
    if wrong:
        raise ConfigError(f"adapter.continue_from: {folder} was made with other settings; set {' '.join(wrong)}")


def _require_same_layers(whisper: Whisper, folder: Path, theirs: list[str], ours: list[str]) -> None:
    if set(theirs) == set(ours):
        return
    places = [re.fullmatch(r"model\.(encoder|decoder)\.layers\.(\d+)\.(.+)", name) for name in theirs]
    if not all(places):
        odd = theirs[places.index(None)]
        raise ConfigError(f"adapter.continue_from: {folder} adapts {odd}, which cannot be trained here; name another")
    halves, numbers, paths = zip(*(place.groups() for place in places if place), strict=True)
    found: dict[str, Any] = {
        "part": halves[0] if len(set(halves)) == 1 else Part.BOTH,
        "layers": (min(map(int, numbers)), max(map(int, numbers))),
        "targets": tuple(sorted({path.rpartition(".")[2] for path in paths})),
    }
    if set(target_names(whisper.core, AdapterSettings(**found))) != set(theirs):
        found["targets"] = tuple(sorted(set(paths)))  # such as self_attn.q_proj without encoder_attn.q_proj
    wanted = (
        f"adapter.{key}=" + (f"[{','.join(map(str, v))}]" if key != "part" else str(v)) for key, v in found.items()
    )
    raise ConfigError(f"adapter.continue_from: {folder} adapts other layers; set {' '.join(wanted)}")


# What training needs to know.


def trainable_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """The weights that training changes, by name, still the model's own tensors."""
    return {name: value for name, value in model.named_parameters() if value.requires_grad}


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """Return (trainable, all) parameters; the all of a LoRA model include its adapter, quantised ones are unpacked."""
    trainable = sum(value.numel() for value in model.parameters() if value.requires_grad)
    total = 0
    for value in model.parameters():
        packed = value.__class__.__name__ == "Params4bit"  # two weights a byte
        total += value.numel() * (2 * value.element_size() if packed else 1)
    return trainable, total


def adapter_parameters(core: Any, settings: AdapterSettings, method: Method) -> int:
    """Trainable parameters of an adapter that is not attached yet; of AdaLoRA those that it begins with.

    Raises:
        ConfigError: the settings do not fit the model.
    """
    layers = [core.get_submodule(name) for name in target_names(core, settings)]
    sides: int = sum(layer.in_features + layer.out_features for layer in layers)
    if method is Method.ADALORA:
        return _first_rank(settings.rank) * (sides + len(layers))
    magnitudes: int = sum(layer.out_features for layer in layers) if method is Method.DORA else 0
    return settings.rank * sides + magnitudes


def rank_within(core: Any, settings: AdapterSettings, method: Method, budget: int) -> int:
    """The highest rank whose trainable parameters are within a budget, and that a target's shape allows.

    Raises:
        ConfigError: even rank 1 takes more, or the settings do not fit the model.
    """

    def taken(rank: int) -> int:
        return adapter_parameters(core, settings.model_copy(update={"rank": rank}), method)

    most = min(min(core.get_submodule(name).weight.shape) for name in target_names(core, settings))
    rank = bisect_right(range(1, most + 1), budget, key=taken)
    if not rank:
        raise ConfigError(f"a budget of {budget:,} parameters is less than rank 1 takes: give {taken(1):,} or more")
    return rank


def require_gradients(model: nn.Module) -> None:
    """Check after the first backward pass that every adapter learns.

    With reentrant gradient checkpointing an encoder's adapter silently gets none.

    Raises:
        DataError: a trainable weight has no gradient.
    """
    dead = [name for name, value in model.named_parameters() if value.requires_grad and value.grad is None]
    if dead:
        raise DataError(f"{len(dead)} trainable weights get no gradient, first {dead[0]}: check adapter.targets")


def _adapted_layers(model: nn.Module) -> dict[str, Any]:
    """The layers that carry an adapter, by name."""
    return {name: module for name, module in model.named_modules() if hasattr(module, "lora_A")}


# AdaLoRA (arXiv 2303.10512): the update is B diag(E) A, and the least important of E are set to zero.


def allocate_rank(whisper: Whisper, step: int) -> None:
    """Tell AdaLoRA that an optimiser step is done, counted from 1: it weighs importances and zeroes what it drops.

    It reads weights and gradients, so it comes after `optimiser.step()` and before `zero_grad()`. Without it the rank
    is never allocated and no error says so. Nothing happens with other methods.
    """
    if _allocator(whisper.model) is not None:
        whisper.model.base_model.update_and_allocate(step)  # type: ignore[operator, union-attr]


def regularisation(whisper: Whisper) -> torch.Tensor | None:
    """The term that keeps AdaLoRA's A and B orthogonal, to be added to the loss once a step; None with other methods.

    PEFT adds it to a loss that the model computes itself, and then only if its inner model is called.

    Returns:
        Mean over all A and B of the Frobenius norm of (A A^T - 1) or (B^T B - 1), weighted: a scalar.
    """
    if not isinstance(whisper.model, PeftModel) or not isinstance(whisper.model.peft_config[NAME], AdaLoraConfig):
        return None
    norms = []
    for layer in _adapted_layers(whisper.model).values():
        a, b = layer.lora_A[NAME], layer.lora_B[NAME]  # (rank, in), (out, rank)
        norms += [torch.linalg.matrix_norm(gram - torch.eye(len(gram)).to(gram)) for gram in (a @ a.T, b.T @ b)]
    weight: float = whisper.model.peft_config[NAME].orth_reg_weight
    return weight * torch.stack(norms).mean()


def extra_state(whisper: Whisper) -> dict[str, torch.Tensor]:
    """What AdaLoRA's allocator remembers: importances of each weight, and which ranks are kept; else empty.

    PEFT masks the ranks that it drops and resizes nothing while training, so with this and the weights a resumed run
    is the same bit by bit.
    """
    allocator = _allocator(whisper.model)
    if allocator is None:
        return {}
    kept = _peft(whisper).peft_config[NAME].rank_pattern or {}
    state = {f"{kind}/{name}": value for kind in IMPORTANCES for name, value in getattr(allocator, kind).items()}
    return state | {f"kept/{name}": torch.tensor(flags) for name, flags in kept.items()}


def extra_bytes(whisper: Whisper) -> int:
    """Bytes of what AdaLoRA's allocator remembers once it has seen a step; 0 with other methods."""
    if _allocator(whisper.model) is None:
        return 0
    values = trainable_state(whisper.model).items()
    return len(IMPORTANCES) * sum(value.numel() * value.element_size() for name, value in values if "lora_" in name)


def load_extra_state(whisper: Whisper, state: dict[str, torch.Tensor]) -> None:
    """Give AdaLoRA's allocator back what `extra_state` took from it; nothing with other methods."""
    allocator = _allocator(whisper.model)
    if allocator is None:
        return
    memory: dict[str, dict[str, Any]] = {kind: {} for kind in (*IMPORTANCES, "kept")}
    for key, value in state.items():
        kind, _, name = key.partition("/")
        memory[kind][name] = value.tolist() if kind == "kept" else value.to(whisper.device)
    _peft(whisper).peft_config[NAME].rank_pattern = memory.pop("kept") or None
    for kind, values in memory.items():
        setattr(allocator, kind, values)


def _allocator(model: nn.Module) -> Any:
    """AdaLoRA's while it trains, else None."""
    return getattr(model.base_model, "rankallocator", None) if isinstance(model, PeftModel) else None


def _peft(whisper: Whisper) -> Any:
    assert isinstance(whisper.model, PeftModel)
    return whisper.model


# On disk, and into the base.


def save_weights(whisper: Whisper, folder: Path) -> None:
    """Save a plain PEFT adapter, or a whole Transformers model with tokenizer and generation settings."""
    if isinstance(whisper.model, PeftModel):
        _save_adapter(whisper.model, folder)
        return
    from transformers import WhisperFeatureExtractor

    force_language(whisper)
    whisper.core.save_pretrained(folder)
    whisper.tokenizer.save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=whisper.mel_bins).save_pretrained(folder)


def _save_adapter(model: Any, folder: Path) -> None:
    """Save what works on the untouched base."""
    config = model.peft_config[NAME]
    if str(config.init_lora_weights).startswith("pissa"):
        _save_pissa(model, folder)
        return
    kept = config.rank_pattern
    if _allocator(model) is not None and kept is not None:
        # Between two allocations PEFT's own pattern names ranks that have come back since: what is zero now counts.
        weights = model.base_model.model.named_parameters()
        config.rank_pattern = {name: (value != 0).flatten().tolist() for name, value in weights if ".lora_E." in name}
    with _quiet_about_ranks():
        # The base is named as the user names it; PEFT's own look-up of embeddings would ask a hub.
        model.save_pretrained(folder, save_embedding_layers=False)
    config.rank_pattern = kept  # which saving renames


@contextmanager
def _quiet_about_ranks() -> Iterator[None]:
    """Silence PEFT where it takes AdaLoRA's pattern of ranks, and layers that are left without any, for faults."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*rank_pattern keys did not match")
        warnings.filterwarnings("ignore", message=".*LoRA tensor.* have invalid shape")
        yield


def _save_pissa(model: Any, folder: Path) -> None:
    """Save the change of the weights since the beginning, s(BA - B0 A0), as a LoRA of twice the rank.

    The base in memory lacks s B0 A0 (arXiv 2404.02948, appendix on conversion to LoRA), the base on disk does not.
    """
    weights = {}
    for name, layer in _adapted_layers(model).items():
        a, b = layer.lora_A[NAME].weight.detach(), layer.lora_B[NAME].weight.detach()  # (rank, in), (out, rank)
        weights[f"{name}.lora_A.weight"] = torch.cat([a, layer.initial_lora_A]).cpu()
        weights[f"{name}.lora_B.weight"] = torch.cat([b, -layer.initial_lora_B], dim=1).cpu()
    config = copy.copy(model.peft_config[NAME])
    config.r, config.lora_alpha = 2 * config.r, 2 * config.lora_alpha
    config.init_lora_weights, config.inference_mode = True, True
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(str(folder))
    save_file(weights, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})


def adapter_base(folder: Path) -> str:
    """Return the name of the base model that an adapter folder was trained on.

    Raises:
        DataError: not an adapter folder.
    """
    try:
        return str(json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))["base_model_name_or_path"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder} is not an adapter folder ({first_line(error)})") from error


def copy_adapter(folder: Path, out: Path, base: str, strength: float = 1.0) -> None:
    """Copy an adapter for others: weights and settings alone, the base named as they know it, at a strength.

    Raises:
        ConfigError: DoRA at another strength than 1, which is no DoRA.
        DataError: not an adapter folder, or damaged.
    """
    _require_strength(strength)
    try:
        settings = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
        weights = load_file(folder / ADAPTER_WEIGHTS)
    except Exception as error:  # safetensors raises its own kinds
        raise DataError(f"{folder} is not an adapter folder ({first_line(error)})") from error
    if strength != 1:
        if settings.get("use_dora"):
            raise ConfigError(f"{folder} is a DoRA, which has no strength but 1 unless it is merged: export it merged")
        weights = {name: value * strength if ".lora_B" in name else value for name, value in weights.items()}
    alpha = settings.get("lora_alpha")
    if isinstance(alpha, float) and alpha.is_integer():
        settings["lora_alpha"] = int(alpha)  # as PEFT has it, and vLLM after it
    settings |= {"base_model_name_or_path": base, "revision": None}
    write_text(out / ADAPTER_CONFIG, json.dumps(settings, indent=2) + "\n")
    save_file(weights, out / ADAPTER_WEIGHTS, metadata={"format": "pt"})


def load_adapter(whisper: Whisper, folder: Path, strength: float = 1.0) -> Whisper:
    """Put a saved adapter on a loaded base, for inference; of `strength` 0 it is the base, of 1 the whole adapter.

    Raises:
        ConfigError: DoRA at another strength than 1, which only `load_merged` can give.
        DataError: the adapter does not fit the base, or is damaged.
    """
    _require_strength(strength)
    model = _load_peft(whisper.core, folder, whisper.source)
    if strength != 1 and model.peft_config[NAME].use_dora:
        # Its magnitudes stay when the update is scaled, so that 0 would not be the base.
        raise ConfigError(f"{folder} is a DoRA, which has no strength but 1 unless it is merged: merge it")
    for layer in _adapted_layers(model).values():
        layer.scaling[NAME] *= strength
    return replace(whisper, model=model.eval())


def load_adapters(whisper: Whisper, adapters: Mapping[str, tuple[Path, float]]) -> Whisper:
    """Put several saved adapters on one loaded base, each under a name and at a strength; see `speaking`.

    Raises:
        ConfigError: one is no plain LoRA: PEFT computes no others side by side.
        DataError: one does not fit the base, or is damaged.
    """
    model: Any = None
    for name, (folder, strength) in adapters.items():
        _require_strength(strength)
        if model is None:
            model = _load_peft(whisper.core, folder, whisper.source, adapter_name=name)
        else:
            _load_peft_beside(model, folder, name, whisper.source)
        config = model.peft_config[name]
        if type(config) is not LoraConfig or config.use_dora:
            raise ConfigError(f"{folder} is no plain LoRA, so it is not loaded beside others: name it alone, as MODEL")
        for layer in _adapted_layers(model).values():
            if name in layer.scaling:
                layer.scaling[name] *= strength
    return replace(whisper, model=model.eval())


@contextmanager
def speaking(whisper: Whisper, names: Sequence[str | None]) -> Iterator[None]:
    """Let each row of a batch be computed by the adapter of that name, or the `BASE`; None: the model as it is.

    Raises:
        ValueError: some rows have a name and some have none.
    """
    if not any(names):
        yield
        return
    if not all(names):
        raise ValueError("every row of a batch needs an adapter, or none")
    if all(name == BASE for name in names):
        with _peft(whisper).disable_adapter():
            yield
        return
    failure: BaseException | None = None
    with _peft(whisper).base_model._enable_peft_forward_hooks(adapter_names=list(names)):
        try:
            yield
        except BaseException as error:  # noqa: BLE001 (raised again: PEFT leaves its hooks where an exception passes)
            failure = error
    if failure is not None:
        raise failure


def _load_peft_beside(model: Any, folder: Path, name: str, source: str) -> None:
    try:
        model.load_adapter(str(folder), adapter_name=name)
    except Exception as error:  # PEFT, safetensors and torch each raise their own kinds
        raise DataError(f"{folder} cannot be put on {source} ({first_line(error)})") from error


def _load_peft(core: Any, folder: Path, source: str, **options: Any) -> Any:
    try:
        with _quiet_about_ranks():
            return PeftModel.from_pretrained(core, str(folder), **options)
    except Exception as error:  # PEFT, safetensors and torch each raise their own kinds
        raise DataError(f"{folder} cannot be put on {source} ({first_line(error)})") from error


def load_adapted(base: str, folder: Path) -> Any:
    """Load a base and put a saved adapter on it, as plain Transformers and PEFT do: what an export is tried with.

    Raises:
        DataError: the adapter does not fit the base, or is damaged.
    """
    core = WhisperForConditionalGeneration.from_pretrained(base, dtype=torch.float32)
    return _load_peft(core, folder, base)


def merge_adapter(whisper: Whisper, strength: float = 1.0) -> Whisper:
    """Fold a loaded adapter into the base's weights: same logits, no cost at inference.

    W + strength (W' - W), with W' = W + BA alpha / rank for LoRA: between the two lies a line for every method, and
    both of its ends are exact (weights between a model and its fine-tuned self: arXiv 2109.01903).

    Raises:
        ConfigError: the base is quantised; merging there would round the update away.
    """
    _require_strength(strength)
    if getattr(whisper.core, "is_quantized", False):
        raise ConfigError("an adapter is not merged into 8- or 4-bit weights: load the base in full precision first")
    model = _peft(whisper)
    with torch.no_grad():
        for layer in _adapted_layers(model).values():
            weight = layer.get_base_layer().weight
            before = weight.data
            layer.merge(safe_merge=True)  # into a copy
            weight.data = torch.lerp(before, weight.data, strength)
    core = model.unload()
    merged = replace(whisper, model=core, core=core)
    force_language(merged)
    return merged


def _require_strength(strength: float) -> None:
    if not 0 <= strength <= 1:
        raise ConfigError(f"strength {strength:g}: give a number from 0, the untouched base, to 1, the whole adapter")


def load_merged(
    base: str,
    folder: Path,
    language: str,
    dtype: torch.dtype,
    *,
    language_token: str | None = None,
    task: Task,
    device: torch.device,
    strength: float = 1.0,
) -> Whisper:
    """Load a base in full precision and fold an adapter into it; the usual way to run an adapted model.

    Raises:
        ConfigError: the strength is not from 0 to 1.
        DataError: base or adapter are not there, or do not fit.
    """
    _require_strength(strength)
    whisper = load_whisper(base, language, language_token=language_token, task=task, dtype=torch.float32)
    merged = merge_adapter(load_adapter(whisper, folder), strength)
    merged.core.to(device, dtype)
    return merged


# What an adapter says.


@dataclass(frozen=True)
class Update:
    """What an adapter adds to a matrix: B A, with every scale folded into B."""

    b: torch.Tensor  # (out, rank)
    a: torch.Tensor  # (rank, in)
    magnitudes: torch.Tensor | None  # (out,) of DoRA, which gives each row of the sum this norm; None: no DoRA


def updates(whisper: Whisper) -> dict[str, tuple[torch.Tensor, Update]]:
    """The base's weight (out, in) and the update of each adapted matrix of a loaded adapter, by name.

    Of PiSSA it is what is saved: the change since the beginning, of twice the rank.

    Raises:
        DataError: something else than a linear layer is adapted.
    """
    found = {}
    for name, layer in _adapted_layers(whisper.model).items():
        if NAME not in layer.lora_A or layer.get_base_layer().weight.dim() != 2:
            raise DataError(f"the adapter changes {name.removeprefix(PREFIX)}, which is no linear layer: name another")
        a, b, scale = layer.lora_A[NAME], layer.lora_B[NAME], layer.scaling[NAME]
        if isinstance(a, nn.Linear):
            a, b = a.weight, b.weight
        else:  # AdaLoRA keeps plain matrices, and scales by the ranks that are left
            b, scale = b * layer.lora_E[NAME].T, scale / (layer.ranknum[NAME] + 1e-5)
        magnitudes = getattr(layer, "lora_magnitude_vector", {})
        known = magnitudes[NAME].weight.detach() if NAME in magnitudes else None
        update = Update((b * scale).detach(), a.detach(), known)
        found[name.removeprefix(PREFIX)] = (layer.get_base_layer().weight.detach(), update)
    return found
