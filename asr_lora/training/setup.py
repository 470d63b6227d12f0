"""A config -> what a run works with. `train` and `check` both begin here."""

import torch

from asr_lora.artifacts import DatasetFolder, fingerprint
from asr_lora.audio.dataset import Split, read_split
from asr_lora.config import Method, Quantise, RunConfig
from asr_lora.errors import DataError
from asr_lora.model.adapters import attach_adapter, train_everything
from asr_lora.model.system import system_digest
from asr_lora.model.whisper import Whisper, keep_layer_norms_in_bf16, load_whisper, resolve_quantise
from asr_lora.training.batches import TrainingSet
from asr_lora.training.cache import TensorCache
from asr_lora.training.examples import Recipe
from asr_lora.training.learner import Learner, keep_encoder_outputs


def run_fingerprint(config: RunConfig) -> str:
    """Digest of what decides a run's result: its settings, wherever it is kept, its data's hashes and its base."""
    manifest = DatasetFolder(config.data.dataset).read()
    files = {name: manifest[part][name]["sha256"] for part in ("splits", "subsets") for name in manifest[part]}
    elsewhere = {"dataset", "guards", "workers", "cache_gb"}
    settings = config.model_dump(mode="json", exclude={"out": True, "data": elsewhere})
    earlier = config.adapter.continue_from
    return fingerprint(settings, files, system_digest(config.model.name), earlier and system_digest(str(earlier)))


def load_for_training(config: RunConfig, device: torch.device, dtype: torch.dtype) -> Whisper:
    """Load the base and make trainable what the method trains.

    What trains is kept in float32 and computed in `dtype` under autocast, since bf16 weights swallow small updates;
    with `training.bf16_weights` it is kept in bf16 and rounded by chance. A frozen base is kept in `dtype`.
    """
    frozen = config.method is not Method.FULL
    quantise = resolve_quantise(config.model.quantise, config.model.name, device) if frozen else Quantise.NONE
    whisper = load_whisper(
        config.model.name,
        config.model.language,
        language_token=config.model.language_token,
        task=config.model.task,
        context=config.model.context,
        dtype=dtype if frozen else torch.bfloat16 if config.training.bf16_weights else torch.float32,
        quantise=quantise,
        device=device,
    )
    keep_layer_norms_in_bf16(whisper.core)
    if not frozen:
        return train_everything(whisper, config.adapter.part, config.adapter.layers)
    return attach_adapter(
        whisper,
        config.adapter,
        method=config.method,
        steps=config.training.steps,
        quantised=quantise is not Quantise.NONE,
    )


def load_training_set(config: RunConfig, whisper: Whisper) -> TrainingSet:
    """Open the train split or its subset.

    Raises:
        DataError: it cannot be used, or nothing in it can be learnt from.
    """
    data = TrainingSet(
        read_split(config.data.dataset, "train", subset=config.data.subset),
        whisper,
        max_seconds=config.data.max_seconds,
        examples=config.examples,
        augmentation=config.augmentation,
    )
    if not len(data):
        raise DataError(f"{config.data.dataset}: no train utterance can be learnt from ({_counts(data.left_out)})")
    return data


def make_recipe(config: RunConfig, whisper: Whisper) -> Recipe:
    """How the run's examples are made; a frozen encoder hears each utterance in a context of its own."""
    return Recipe(
        batch_seconds=config.training.batch_seconds,
        context=config.model.context,
        seed=config.training.seed,
        examples=config.examples,
        augmentation=config.augmentation,
        own_context=_encoder_is_frozen(whisper),
    )


def _encoder_is_frozen(whisper: Whisper) -> bool:
    return not any(value.requires_grad for value in whisper.core.model.encoder.parameters())


def open_caches(config: RunConfig, data: TrainingSet, recipe: Recipe, learner: Learner) -> None:
    """Keep log-mels between epochs and runs; or the outputs of an encoder that does not train, computed here once."""
    if not config.data.cache_gb:
        return
    source = (DatasetFolder(config.data.dataset).read()["splits"]["train"]["sha256"], data.mel_bins)
    limit, team = config.data.cache_gb * 1e9, learner.team
    if recipe.own_context and not data.changes_sound and not data.masks:
        base = (system_digest(config.model.name), str(learner.dtype))
        data.states_cache = TensorCache(limit, "encoder", source, base, writers=team.size)
        keep_encoder_outputs(data, learner, batch_seconds=config.training.batch_seconds)
    else:
        data.features_cache = TensorCache(limit, "log-mel", source, writers=team.size * max(1, config.data.workers))


def dev_split(config: RunConfig) -> Split:
    """The dev utterances that are decoded at each evaluation, evenly over the split."""
    dev = read_split(config.data.dataset, "dev")
    wanted = config.data.dev_utterances
    if not wanted or wanted >= len(dev):
        return dev
    return dev.select([place * len(dev) // wanted for place in range(wanted)])


def _counts(left_out: dict[str, list[str]]) -> str:
    return ", ".join(f"{reason} {len(ids)}" for reason, ids in left_out.items()) or "the split is empty"
