"""Write a merged Whisper as the file that whisper.cpp loads.

The layout is that of whisper.cpp's models/convert-h5-to-ggml.py (MIT) and of what its `quantize` writes: sizes, mel
filters, the vocabulary's bytes, then each tensor with its name. All numbers are little-endian, shapes reversed.
"""

import struct
from pathlib import Path
from typing import BinaryIO

import numpy as np
from transformers import WhisperFeatureExtractor, WhisperTokenizer

from asr_lora.errors import ConfigError, DataError
from asr_lora.exporting.recipe import Packing
from asr_lora.model.whisper import Whisper

MAGIC = 0x67676D6C  # "ggml"
FLOAT32, FLOAT16 = 0, 1  # types of tensors
MOSTLY = {None: 1, Packing.Q8_0: 2007, Packing.Q5_0: 2008}  # types of files: GGML_FTYPE_MOSTLY_*, 1000 x its version 2
BLOCK = 32  # weights that share a scale
LAYER_PARTS = {
    "self_attn.q_proj": "attn.query",
    "self_attn.k_proj": "attn.key",
    "self_attn.v_proj": "attn.value",
    "self_attn.out_proj": "attn.out",
    "self_attn_layer_norm": "attn_ln",
    "encoder_attn.q_proj": "cross_attn.query",
    "encoder_attn.k_proj": "cross_attn.key",
    "encoder_attn.v_proj": "cross_attn.value",
    "encoder_attn.out_proj": "cross_attn.out",
    "encoder_attn_layer_norm": "cross_attn_ln",
    "fc1": "mlp.0",
    "fc2": "mlp.2",
    "final_layer_norm": "mlp_ln",
}
OTHER_PARTS = {
    "encoder.embed_positions.weight": "encoder.positional_embedding",
    "decoder.embed_positions.weight": "decoder.positional_embedding",
    "encoder.layer_norm": "encoder.ln_post",
    "decoder.layer_norm": "decoder.ln",
    "decoder.embed_tokens": "decoder.token_embedding",
}
TIED = "proj_out.weight"  # the same matrix as the token embedding, so it is not written


def write_ggml(whisper: Whisper, path: Path, packing: Packing | None = None) -> None:
    """Write a model in float16; `packing` quantises its matrices.

    Raises:
        ConfigError: the `gguf` package, which quantises, is not installed.
        DataError: the format cannot hold this model.
    """
    config = whisper.core.config
    if packing and config.d_model % BLOCK:
        raise DataError(f"a width of {config.d_model} cannot be cut into blocks of {BLOCK}: leave out --quantise")
    with path.open("wb") as out:
        _numbers(out, MAGIC, config.vocab_size)
        _numbers(out, config.max_source_positions, config.d_model)
        _numbers(out, config.encoder_attention_heads, config.encoder_layers)
        _numbers(out, config.max_target_positions, config.d_model)
        _numbers(out, config.decoder_attention_heads, config.decoder_layers)
        _numbers(out, config.num_mel_bins, MOSTLY[packing])
        filters = WhisperFeatureExtractor(feature_size=config.num_mel_bins).mel_filters.T  # (mel, 201)
        _numbers(out, *filters.shape)
        out.write(filters.astype("<f4").tobytes())
        words = vocabulary(whisper.tokenizer, config.eos_token_id)
        _numbers(out, len(words))
        for word in words:
            _numbers(out, len(word))
            out.write(word)
        for name, value in whisper.core.state_dict().items():
            if name != TIED:
                _write_tensor(out, ggml_name(name), value.detach().float().cpu().numpy(), packing)


def _numbers(out: BinaryIO, *values: int) -> None:
    out.write(struct.pack(f"<{len(values)}i", *values))


def _write_tensor(out: BinaryIO, name: str, value: np.ndarray, packing: Packing | None) -> None:
    if name in ("encoder.conv1.bias", "encoder.conv2.bias"):
        value = value[:, None]  # added to (channels, frames) as it is
    kind, data = _packed(name, value, packing)
    label = name.encode()
    _numbers(out, value.ndim, len(label), kind, *reversed(value.shape))
    out.write(label)
    out.write(data.tobytes())


def _packed(name: str, value: np.ndarray, packing: Packing | None) -> tuple[int, np.ndarray]:
    """Return type and numbers of a tensor as whisper.cpp expects them; vectors and positions are always float32."""
    if value.ndim == 1 or value.shape[1] == 1 or name.endswith("positional_embedding"):
        return FLOAT32, value.astype("<f4")
    if packing is None or value.ndim > 2:
        return FLOAT16, value.astype("<f2")
    try:
        from gguf import GGMLQuantizationType
        from gguf.quants import quantize
    except ImportError as error:
        raise ConfigError(f"--quantise {packing} needs the export extra: pip install 'asr_lora[export]'") from error
    kind = GGMLQuantizationType[packing.name]
    return int(kind), quantize(value, kind)


def ggml_name(name: str) -> str:
    """Return the name in whisper.cpp of a tensor of Transformers' Whisper.

    Raises:
        DataError: whisper.cpp has no such tensor.
    """
    plain = name.removeprefix("model.")
    if plain in OTHER_PARTS:
        return OTHER_PARTS[plain]
    stem, _, last = plain.rpartition(".")
    side, _, rest = stem.partition(".layers.")
    number, _, part = rest.partition(".")
    if part in LAYER_PARTS:
        return f"{side}.blocks.{number}.{LAYER_PARTS[part]}.{last}"
    if stem in OTHER_PARTS:
        return f"{OTHER_PARTS[stem]}.{last}"
    if stem in ("encoder.conv1", "encoder.conv2"):
        return plain
    raise DataError(f"whisper.cpp has no tensor for {name}: export another format")


def vocabulary(tokenizer: WhisperTokenizer, end: int) -> list[bytes]:
    """Return the bytes of every token before the end token, in order; whisper.cpp adds the special tokens itself.

    Raises:
        DataError: token ids are missing, or a token has a letter that stands for no byte.
    """
    tokens = {number: token for token, number in tokenizer.get_vocab().items() if number < end}
    letters = _bytes_of_letters()
    try:
        return [bytes(letters[letter] for letter in tokens[number]) for number in range(end)]
    except KeyError as error:
        raise DataError(f"the tokenizer is not Whisper's own ({error}): export another format") from error


def _bytes_of_letters() -> dict[str, int]:
    """Return GPT-2's byte alphabet: printable bytes stand for themselves, the others for the letters from 256 on."""
    visible = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {chr(byte): byte for byte in visible} | {chr(256 + place): byte for place, byte in enumerate(hidden)}
