"""Read datasets of the Hugging Face hub as streams: only what is read is downloaded."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asr_lora.errors import DataError, first_line
from asr_lora.folders.digests import folder_digest

HUB_TRIES, HUB_PAUSE, HUB_SECONDS = 1, 1, 10.0  # beyond those of the client below; after each; for one answer


@dataclass(frozen=True)
class HubTable:
    """A split of a dataset on the hub, as a stream."""

    split: str  # as it is called there
    audio: str  # name of its column of audio
    stream: Any  # datasets.IterableDataset

    def rows(self, *, audio: bool) -> Iterator[dict[str, Any]]:
        """Its rows, with the audio not decoded or without it; classes, such as gender, by their names.

        Raises:
            DataError: the hub does not answer, or what it has cannot be read.
        """
        import datasets

        kept = self.stream.cast_column(self.audio, datasets.Audio(decode=False))
        kept = kept.select_columns([self.audio]) if audio else kept.remove_columns([self.audio])
        classes = {name: kind for name, kind in self.stream.features.items() if isinstance(kind, datasets.ClassLabel)}
        try:
            for row in kept:
                yield {name: _named(classes.get(name), value) for name, value in row.items()}
        except _hub_errors() as error:
            raise DataError(
                f"split {self.split} cannot be read to its end ({first_line(error)}): run the same command again, and "
                "it goes on where this stopped"
            ) from error


def _named(classes: Any, value: Any) -> Any:
    """A value, or the name of the class that it is a number of."""
    return classes.names[value] if classes and isinstance(value, int) and 0 <= value < len(classes.names) else value


def hub_splits(repository: str, config: str | None) -> list[HubTable]:
    """Open a dataset on the hub that is plain data: nothing is downloaded but what is read.

    Raises:
        DataError: there is none, the machine is offline, or it has no audio.
    """
    import datasets

    # Twenty tries of up to half a minute each would be a wait of ten minutes for a hub that is gone.
    datasets.config.STREAMING_READ_MAX_RETRIES = datasets.config.STREAMING_OPEN_MAX_RETRIES = HUB_TRIES
    datasets.config.STREAMING_READ_SERVER_UNAVAILABLE_RETRY_INTERVAL = HUB_PAUSE
    datasets.config.STREAMING_READ_RATE_LIMIT_RETRY_INTERVAL = HUB_PAUSE
    datasets.config.STREAMING_READ_RETRY_INTERVAL = datasets.config.STREAMING_OPEN_RETRY_INTERVAL = HUB_PAUSE
    try:
        splits = datasets.load_dataset(repository, config, streaming=True)
    except _hub_errors() as error:
        raise DataError(_hub_sentence(repository, error)) from error
    tables = []
    for split, stream in splits.items():
        features = stream.features or {}
        audio = next((name for name, kind in features.items() if isinstance(kind, datasets.Audio)), None)
        if audio is None:
            raise DataError(f"hf:{repository} has no column of audio in {split}; it has {', '.join(features)[:200]}")
        tables.append(HubTable(str(split), audio, stream))
    return tables


def hub_revision(repository: str) -> str:
    """The commit that a dataset on the hub is at; the digest of its files where it is a folder of this machine.

    Raises:
        DataError: there is none, or the machine is offline.
    """
    if Path(repository).is_dir():
        return folder_digest(Path(repository))
    from huggingface_hub import HfApi

    try:
        return str(HfApi().dataset_info(repository, timeout=HUB_SECONDS).sha)
    except _hub_errors() as error:
        raise DataError(_hub_sentence(repository, error)) from error


def _hub_errors() -> tuple[type[Exception], ...]:
    import datasets
    from huggingface_hub.errors import HfHubHTTPError

    # The last are those of the HTTP library, whichever it is.
    return (ValueError, RuntimeError, TypeError, datasets.exceptions.DatasetsError, *HfHubHTTPError.__bases__)


def _hub_sentence(repository: str, error: Exception) -> str:
    """What is wrong with a dataset on the hub, and the command that mends it; the hub's libraries tell it by words."""
    from huggingface_hub.constants import ENDPOINT

    name, said, whole = f"hf:{repository}", first_line(error), f"{type(error).__name__}: {error}"
    response = getattr(error, "response", None)
    if "gated" in whole.lower():
        page = f"{ENDPOINT}/datasets/{repository}"
        return f"{name} is for those who agreed to its terms: agree to them at {page}, then log in with: hf auth login"
    if "NotFound" in type(error).__name__ or getattr(response, "status_code", None) in (401, 403, 404):
        return (
            f"the hub has no {name}, or not for you: look the name up at {ENDPOINT}/datasets, or, where it is private, "
            "log in with: hf auth login"
        )
    if "BuilderConfig" in whole or "Config name is missing" in whole:
        there = re.findall(r"'([^']+)'", whole.partition("[")[2].partition("]")[0])
        return (
            f"{name} has to be told which of its configurations is wanted, by a name that it has: "
            f"{', '.join(there)[:400]}. Write such as {name}:{(there or ['NAME'])[0]}"
        )
    if "script" in whole:
        return (
            f"{name} is a program that loads data, and none is run. The hub may have its data as parquet: hf download "
            f"{repository} --repo-type dataset --revision refs/convert/parquet --local-dir DIR, then prepare DIR/CONFIG"
        )
    if "OfflineMode" in whole or "offline mode" in whole:
        return f"{name} cannot be opened, as HF_HUB_OFFLINE is set: unset HF_HUB_OFFLINE"
    return (
        f"{name} cannot be opened ({said}): check the name and the connection and run this again, or download its "
        "parquet files and name their folder"
    )
