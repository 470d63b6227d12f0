"""Continue the training of an earlier adapter, after checking that it is what the settings say."""

import re
from pathlib import Path
from typing import Any

from peft import AdaLoraConfig

from asr_lora.config import AdapterSettings, Method, Part
from asr_lora.errors import ConfigError
from asr_lora.folders.run_folder import RunFolder
from asr_lora.model.adapters.files import load_peft
from asr_lora.model.adapters.saved_adapter import ADAPTER_CONFIG, adapter_base, adapter_config
from asr_lora.model.adapters.wrapper import adapted_layers
from asr_lora.model.targets import target_names
from asr_lora.model.weight_names import PREFIX
from asr_lora.model.whisper import Whisper


def continue_adapter(whisper: Whisper, settings: AdapterSettings, method: Method, names: list[str]) -> Any:
    """Load an earlier adapter to train it further: with its own rank and scale, and this run's dropout."""
    folder = _earlier_adapter(settings.continue_from, whisper.source)  # type: ignore[arg-type]
    config: Any = adapter_config(folder)
    _require_same_settings(folder, config, settings, method)
    config.lora_dropout = settings.dropout
    model = load_peft(whisper.core, folder, whisper.source, trainable=True, config=config)
    _require_same_layers(whisper, folder, [name.removeprefix(PREFIX) for name in adapted_layers(model)], names)
    if method is Method.ADALORA:
        model.base_model.rankallocator = None  # the ranks are allocated already, and the layers cut to them
        for value in model.parameters():
            if not value.numel():
                value.requires_grad_(False)  # a layer without any rank left has nothing to train
    return model


def _earlier_adapter(path: Path, source: str) -> Path:
    """Return the adapter folder of a run or folder, after checking that it has the same base."""
    folder = path.expanduser()
    run = RunFolder(folder)
    if run.config.is_file() or run.complete:
        folder = run.weights(run.read().method)
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
    part = Part(halves[0]) if len(set(halves)) == 1 else Part.BOTH
    first, last = min(map(int, numbers)), max(map(int, numbers))
    targets = sorted({path.rpartition(".")[2] for path in paths})
    chosen = AdapterSettings(part=part, layers=(first, last), targets=tuple(targets))
    if set(target_names(whisper.core, chosen)) != set(theirs):
        targets = sorted(set(paths))  # such as self_attn.q_proj without encoder_attn.q_proj
    raise ConfigError(
        f"adapter.continue_from: {folder} adapts other layers; set adapter.part={part} adapter.layers=[{first},{last}] "
        f"adapter.targets=[{','.join(targets)}]"
    )
