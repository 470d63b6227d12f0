"""Build model, data and schedule of a run from its config, for `train` and `check`."""

import warnings

import torch

from asr_lora.config import Method, Quantise, RunConfig
from asr_lora.dataset.reading import Split, read_split
from asr_lora.errors import ConfigError, DataError
from asr_lora.folders.dataset_folder import DatasetFolder
from asr_lora.folders.digests import fingerprint
from asr_lora.folders.run_folder import RunFolder
from asr_lora.model.adapters.attach import attach_adapter, require_quantisable
from asr_lora.model.find_model import model_identity
from asr_lora.model.meta_model import keep_the_rest_in_float32
from asr_lora.model.trainable import train_everything
from asr_lora.model.whisper import (
    Whisper,
    keep_layer_norms_in_bf16,
    load_meta_whisper,
    load_whisper,
    resolve_quantise,
)
from asr_lora.system.memory import limit_kept_memory
from asr_lora.system.processes import ProcessGroup
from asr_lora.training.batches import TrainingSet
from asr_lora.training.checkpoint import find_checkpoint, read_progress
from asr_lora.training.examples import ScheduleSettings
from asr_lora.training.learner import Learner, keep_encoder_outputs
from asr_lora.training.tensor_cache import TensorCache


def run_fingerprint(config: RunConfig) -> str:
    """Digest of everything that decides a run's result: settings, data hashes and base, but no paths."""
    elsewhere = {"dataset", "regression_sets", "workers", "cache_gb"}
    settings = config.model_dump(mode="json", exclude={"out": True, "recipe": True, "data": elsewhere})
    # Runs that were begun under the key's earlier name have it in their fingerprints, and must go on.
    settings["examples"]["long_tails"] = settings["examples"].pop("padded")
    earlier = config.adapter.continue_from
    return fingerprint(
        settings, data_hashes(config), model_identity(config.model.name), earlier and model_identity(str(earlier))
    )


def data_hashes(config: RunConfig) -> dict[str, str]:
    """SHA-256 of each split of a run's dataset and of its own subset; other subsets may be added later."""
    manifest = DatasetFolder(config.data.dataset).read()
    used = {name: facts for name, facts in manifest.subsets.items() if name == config.data.subset}
    return {name: facts.sha256 for name, facts in {**manifest.splits, **used}.items()}


def require_place(folder: RunFolder, stamp: str, *, resume: bool) -> None:
    """Check that a run may start or continue in a folder.

    Raises:
        ConfigError: the folder holds another run, other files, or an unfinished run and `resume` is false.
    """
    if folder.complete and folder.read().fingerprint != stamp:
        raise ConfigError(
            f"{folder.root} holds a finished run with other settings or data: name another folder in `out`"
        )
    if found := find_checkpoint(folder.checkpoint):
        if read_progress(found).fingerprint != stamp:
            raise ConfigError(
                f"{folder.root} holds an unfinished run with other settings or data: name another folder in `out`"
            )
        if not resume:
            raise ConfigError(f"{folder.root} holds an unfinished run. Continue it with: {resume_with(folder)}")
    else:
        folder.require_ours(folder.config.is_file() or folder.complete, "in `out`")


def resume_with(folder: RunFolder) -> str:
    return f"asr-lora train {folder.config} --resume"


def load_for_training(config: RunConfig, device: torch.device, dtype: torch.dtype) -> Whisper:
    """Load the base and make trainable what the method trains.

    Trainable weights are kept in float32 and computed in `dtype` under autocast, since bf16 weights lose small updates;
    with `training.bf16_weights` they are kept in bf16 with stochastic rounding. A frozen base is kept in `dtype`.
    """
    quantise = base_quantise(config, device)
    limit_kept_memory(at_once=config.training.bf16_weights)
    whisper = load_whisper(
        config.model.name,
        config.model.prompt,
        context=config.model.context,
        dtype=weights_dtype(config, dtype),
        quantise=quantise,
        device=device,
    )
    if config.training.bf16_weights:
        # Each is replaced by what it is updated to, while the file that it was mapped from would stay in memory.
        for value in whisper.core.parameters():
            value.data = value.data.clone()
    return _made_trainable(whisper, config, quantised=quantise is not Quantise.NONE)


def load_meta_for_training(config: RunConfig, device: torch.device, dtype: torch.dtype) -> Whisper:
    """The same model without weights, on the meta device; of a quantised base, before it is packed."""
    quantise = base_quantise(config, device)
    whisper = load_meta_whisper(
        config.model.name,
        config.model.prompt,
        context=config.model.context,
        dtype=weights_dtype(config, dtype),
    )
    if quantise is not Quantise.NONE:
        whisper.core.is_loaded_in_8bit = quantise is Quantise.INT8
        require_quantisable(whisper, config.method, device)
        keep_the_rest_in_float32(whisper.core)
    with torch.device("meta"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*non-meta parameter in the checkpoint to a meta")  # as it should
        return _made_trainable(whisper, config)


def weights_dtype(config: RunConfig, dtype: torch.dtype) -> torch.dtype:
    """Number format of the model's weights; an adapter's own are always float32."""
    if config.method is not Method.FULL:
        return dtype
    return torch.bfloat16 if config.training.bf16_weights else torch.float32


def base_quantise(config: RunConfig, device: torch.device) -> Quantise:
    """Quantisation of the base of a run, with `auto` resolved."""
    if config.method is Method.FULL:
        return Quantise.NONE
    return resolve_quantise(config.model.quantise, config.model.name, device)


def _made_trainable(whisper: Whisper, config: RunConfig, *, quantised: bool = False) -> Whisper:
    keep_layer_norms_in_bf16(whisper.core)
    if config.method is Method.FULL:
        return train_everything(whisper, config.adapter.part, config.adapter.layers)
    return attach_adapter(
        whisper, config.adapter, method=config.method, steps=config.training.steps, quantised=quantised
    )


def make_learner(config: RunConfig, whisper: Whisper, processes: ProcessGroup, dtype: torch.dtype) -> Learner:
    """A model made trainable, or its meta model, with what the run's settings say of every pass through it."""
    return Learner(whisper, processes, dtype, config.training.label_smoothing, config.training.gradient_checkpointing)


def load_training_set(config: RunConfig, whisper: Whisper) -> TrainingSet:
    """Open the train split or its subset.

    Raises:
        DataError: the split cannot be used, or every utterance is left out.
    """
    data = TrainingSet(
        read_split(config.data.dataset, "train", subset=config.data.subset),
        whisper,
        max_seconds=config.data.max_seconds,
        examples=config.examples,
        augmentation=config.augmentation,
    )
    if not len(data):
        raise DataError(f"{config.data.dataset}: no train utterance is usable ({_counts(data.left_out)})")
    return data


def make_schedule_settings(config: RunConfig, whisper: Whisper) -> ScheduleSettings:
    """Settings of the schedule; with a frozen encoder each utterance has a context of its own."""
    return ScheduleSettings(
        batch_seconds=config.training.batch_seconds,
        context=config.model.context,
        seed=config.training.seed,
        examples=config.examples,
        augmentation=config.augmentation,
        own_context=encoder_is_frozen(whisper),
    )


def encoder_is_frozen(whisper: Whisper) -> bool:
    return not any(value.requires_grad for value in whisper.core.model.encoder.parameters())


def open_caches(config: RunConfig, data: TrainingSet, settings: ScheduleSettings, learner: Learner) -> None:
    """Open the cache of log-mels, or of the outputs of a frozen encoder, which are computed here."""
    if not config.data.cache_gb:
        return
    source = (DatasetFolder(config.data.dataset).read().splits["train"].sha256, data.mel_bins)
    limit, processes = config.data.cache_gb * 1e9, learner.processes
    if keeps_encoder_outputs(config, data, settings):
        base = (model_identity(config.model.name), str(learner.dtype))
        data.encoder_cache = TensorCache(limit, "encoder", source, base, writers=processes.size)
        keep_encoder_outputs(data, learner, batch_seconds=config.training.batch_seconds)
    else:
        data.features_cache = TensorCache(
            limit, "log-mel", source, writers=processes.size * max(1, config.data.workers)
        )


def keeps_encoder_outputs(config: RunConfig, data: TrainingSet, settings: ScheduleSettings) -> bool:
    """Whether the outputs of a frozen encoder are cached; augmentation of the sound rules that out."""
    return config.data.cache_gb > 0 and settings.own_context and not data.changes_sound and not data.masks


def dev_split(config: RunConfig) -> Split:
    """Return the dev utterances that each evaluation decodes, spread evenly over the split."""
    dev = read_split(config.data.dataset, "dev")
    return dev.evenly(config.data.dev_utterances or len(dev))


def _counts(left_out: dict[str, list[str]]) -> str:
    return ", ".join(f"{reason} {len(ids)}" for reason, ids in left_out.items()) or "the split is empty"
