"""Load the tokenizer of a Whisper, and check that it is the one that the model was trained with.

Transformers makes an empty tokenizer where files are missing. With it a model writes nothing and learns from nothing.
"""

import json
import re
import shlex
from pathlib import Path

from transformers import GenerationConfig, WhisperConfig, WhisperTokenizer

from asr_lora.errors import DataError, first_line
from asr_lora.folders.digests import fingerprint, sha256_file

# The files that transformers builds a tokenizer from, in its present and earlier versions.
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "normalizer.json", "added_tokens.json",
    "special_tokens_map.json",
)  # fmt: skip
SUFFICIENT = ("tokenizer.json", "tokenizer_config.json")
# openai's models by the size of their vocabulary, and the token that forbids timestamps in it.
PUBLISHED = {
    51864: ("openai/whisper-base.en", 50362),
    51865: ("openai/whisper-base", 50363),
    51866: ("openai/whisper-large-v3", 50364),
}
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
SAMPLE = " The information: Ďábelské ódy, 12 %. 今日は, привет, हिन्दी, سلام!"
PROBES = 1000  # entries of the vocabulary that must become themselves again
SHARE = 0.995  # of them: a few entries, such as "'RE", no text becomes
_TOKENIZERS: dict[str, WhisperTokenizer] = {}  # built by this process, by digest of their files; never changed


def load_tokenizer(
    path: str, source: str, config: WhisperConfig, generation: GenerationConfig | None
) -> WhisperTokenizer:
    """Load the tokenizer of a folder or hub id; equal files are read once, since building one takes half a second.

    Args:
        path: folder or hub id.
        source: the name that the user gave the model.
        config: of the model.
        generation: generation settings of the model; None: it has none.

    Raises:
        DataError: files are missing or damaged, or the tokenizer is that of another model.
    """
    files = [file for name in TOKENIZER_FILES if (file := Path(path) / name).is_file()]
    digest = fingerprint([(file.name, sha256_file(file)) for file in files]) if files else path
    fault = None if files or not Path(path).is_dir() else "its folder has none"
    try:
        if not fault and digest not in _TOKENIZERS:
            _TOKENIZERS[digest] = WhisperTokenizer.from_pretrained(path)
    except Exception as error:  # noqa: BLE001 (transformers and tokenizers each raise their own kinds)
        fault = first_line(error)
    fault = fault or tokenizer_fault(_TOKENIZERS[digest], config, generation)
    if fault:
        raise no_tokenizer(source, Path(path), config.vocab_size, fault)
    return _TOKENIZERS[digest]


def tokenizer_fault(
    tokenizer: WhisperTokenizer, config: WhisperConfig, generation: GenerationConfig | None
) -> str | None:
    """Return why a tokenizer cannot be the model's, or None: its special tokens fit, and texts survive it."""
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    for token, number in _expected_tokens(config, generation).items():
        if token not in vocabulary or vocabulary[token] != number:
            return f"its {token} is {_number(vocabulary.get(token))} and the model's is token {number}"
    largest = max(vocabulary.values())
    if largest >= config.vocab_size:
        return f"it has a token {largest} and the model has {config.vocab_size} tokens"
    tokens = tokenizer.encode(SAMPLE, add_special_tokens=False)
    if tokenizer.decode(tokens, clean_up_tokenization_spaces=False).strip() != SAMPLE.strip():
        return "a text does not survive it"
    numbers = range(0, config.eos_token_id, max(1, config.eos_token_id // PROBES))
    words = [tokenizer.decode([number], clean_up_tokenization_spaces=False) for number in numbers]
    whole = [(number, word) for number, word in zip(numbers, words, strict=True) if word and "\ufffd" not in word]
    kept = sum(tokenizer.encode(word, add_special_tokens=False) == [number] for number, word in whole)
    return None if kept >= SHARE * len(whole) else f"{len(whole) - kept} of {len(whole)} of its words come apart"


def _expected_tokens(config: WhisperConfig, generation: GenerationConfig | None) -> dict[str, int]:
    """Return the special tokens that the model's settings name, with their numbers."""
    expected = {"<|endoftext|>": config.eos_token_id, "<|startoftranscript|>": config.decoder_start_token_id}
    expected |= getattr(generation, "lang_to_id", None) or {}
    for task, number in (getattr(generation, "task_to_id", None) or {}).items():
        expected[f"<|{task}|>"] = number
    if number := getattr(generation, "no_timestamps_token_id", None):
        expected["<|notimestamps|>"] = number
    if config.vocab_size in PUBLISHED:
        expected["<|notimestamps|>"] = PUBLISHED[config.vocab_size][1]
    return expected


def _number(number: int | None) -> str:
    return "missing" if number is None else f"token {number}"


def no_tokenizer(source: str, folder: Path, vocabulary: int, fault: str) -> DataError:
    """Return the error that a model has no tokenizer of its own, with the command that copies one.

    Args:
        source: the name that the user gave the model.
        folder: where it is; a hub id, if it is no folder.
        vocabulary: number of tokens that the model has.
        fault: what is wrong with the tokenizer.
    """
    says = f"model {source!r} has no tokenizer of its own ({fault})"
    if not folder.is_dir():
        return DataError(f"{says}: name another model")
    base = _base_of(folder) or PUBLISHED.get(vocabulary, ("BASE", 0))[0]
    place = shlex.quote(str(folder))
    command = f"hf download {base} {' '.join(SUFFICIENT)} --local-dir {place}"
    if Path(base).is_dir():
        command = f"cp {' '.join(shlex.quote(str(Path(base) / name)) for name in SUFFICIENT)} {place}"
    files = " and ".join(SUFFICIENT)
    return DataError(f"{says}: copy {files} of the model that it was trained from into its folder: {command}")


def _base_of(folder: Path) -> str:
    """Return the hub id or folder that a model's config names as what it was trained from; "" where it names none."""
    try:
        base = str(json.loads((folder / "config.json").read_text(encoding="utf-8")).get("_name_or_path") or "")
    except (OSError, ValueError, AttributeError, RecursionError):
        return ""
    if Path(base).is_dir():
        return "" if Path(base).resolve() == folder.resolve() else base
    return base if HUB_ID.fullmatch(base) else ""
