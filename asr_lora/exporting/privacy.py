"""Check that files to be published name neither folders of this machine nor speakers."""

import struct
from collections.abc import Iterable, Mapping
from pathlib import Path

from asr_lora.errors import DataError

TEXTS = (".json", ".md", ".txt")
ALLOWED = {
    "README.md", "export.json", "config.json", "generation_config.json", "preprocessor_config.json",
    "processor_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json",
    "vocabulary.json", "merges.txt", "added_tokens.json", "normalizer.json", "adapter_config.json",
    "model.safetensors.index.json",
}  # fmt: skip
VOCABULARY = {"tokenizer.json", "vocab.json", "vocabulary.json", "merges.txt"}  # may hold a token such as "/root"
ALLOWED_WEIGHTS = ("*.safetensors", "model.bin", "ggml-model-*.bin")


def require_publishable(files: Mapping[str, Path | bytes], places: Iterable[Path], speakers: Iterable[str]) -> None:
    """Check that only files of a model are published, and that they name neither folders of this machine nor speakers.

    Args:
        files: what would be published, by name.
        places: folders that the files must not name, neither as given nor resolved.
        speakers: pseudonyms that the files must not contain.

    Raises:
        DataError: a file is no file of a model, or names a folder or a speaker.
    """
    secrets = {str(path) for place in places for path in (place.expanduser(), place.expanduser().resolve())}
    secrets = {place for place in secrets if len(place) > 1}  # not "/"
    people = {speaker for speaker in speakers if speaker}
    for name, content in files.items():
        if name not in ALLOWED and not any(Path(name).match(kind) and "/" not in name for kind in ALLOWED_WEIGHTS):
            raise DataError(f"{name} is no file of a model, so nothing is published: export into an empty folder")
        text = _text_of(name, content)
        for secret in secrets:
            if secret in text and (name not in VOCABULARY or secret.count("/") > 1):
                raise DataError(f"{name} names a folder of this machine ({secret}), so nothing is published")
        for person in people:
            if person in text:
                raise DataError(f"{name} holds the pseudonym of a speaker, so nothing is published")


def _text_of(name: str, content: Path | bytes) -> str:
    """Return the whole of a text file, the header of a safetensors file, and nothing of other weights."""
    if isinstance(content, bytes):
        return content.decode(errors="replace")
    if content.suffix in TEXTS:
        return content.read_text(encoding="utf-8", errors="replace")
    if not name.endswith(".safetensors"):
        return ""
    with content.open("rb") as handle:
        (length,) = struct.unpack("<Q", handle.read(8))
        return handle.read(length).decode(errors="replace")
