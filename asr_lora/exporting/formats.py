"""Write a model in the format of another engine."""

from pathlib import Path

from asr_lora.errors import ConfigError
from asr_lora.exporting.ggml import write_ggml
from asr_lora.exporting.recipe import Dtype, ExportRecipe, Format
from asr_lora.folders.run_folder import ExportFolder
from asr_lora.model.adapters.files import save_weights
from asr_lora.model.adapters.merging import copy_adapter
from asr_lora.model.ctranslate2_export import write_ctranslate2
from asr_lora.model.ctranslate2_import import PACKAGED
from asr_lora.model.find_model import NamedModel
from asr_lora.model.vocabulary import HUB_ID
from asr_lora.model.whisper import Whisper


def public_base(base: str) -> str:
    """Return the hub id of a base model, or the last part of its path if it is a folder of this machine."""
    if base == PACKAGED:
        return "openai/whisper-base"
    return base if HUB_ID.fullmatch(base) and not Path(base).exists() else Path(base).name


def write_export(place: NamedModel, whisper: Whisper, recipe: ExportRecipe, folder: ExportFolder) -> Path:
    """Write a merged float32 model, or its adapter; return the path that an engine loads: the folder, or its one file.

    A float16 export converts `whisper` itself to float16.

    Raises:
        ConfigError: a package is not installed, or the model has no adapter to export.
        DataError: the format cannot hold this model.
    """
    if recipe.format is Format.ADAPTER:
        if place.weights is None or place.strength is None:
            raise ConfigError(f"{place.name} has no adapter: take --format transformers, ctranslate2 or ggml")
        copy_adapter(place.weights, folder.root, public_base(place.base), place.strength)
        return folder.root
    if recipe.format is Format.GGML:
        path = folder.ggml(recipe.quantise or "f16")
        write_ggml(whisper, path, recipe.quantise)
        return path
    if recipe.format is Format.CTRANSLATE2:
        stored = f"{recipe.quantise}_{recipe.dtype}" if recipe.quantise else str(recipe.dtype)
        write_ctranslate2(whisper, folder.root, stored)
        return folder.root
    if recipe.dtype is Dtype.FLOAT16:
        whisper.core.half()
    save_weights(whisper, folder.root)
    whisper.tokenizer.save_vocabulary(str(folder.root))  # vocab.json and merges.txt serve older versions
    return folder.root
