"""Read datasets of the Hugging Face hub as streams, so that only what is read is downloaded."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asr_lora.errors import DataError, first_line
from asr_lora.folders.digests import folder_digest
from asr_lora.sources.columns import Row

HUB_TRIES, HUB_PAUSE, HUB_SECONDS = 1, 1, 10.0  # further tries; pause before each and limit of one answer, in seconds


@dataclass(frozen=True)
class HubTable:
    """A split of a dataset on the hub, as a stream."""

    split: str  # its name on the hub
    audio: str  # name of the column of audio
    stream: Any  # datasets.IterableDataset

    def rows(self, *, audio: bool) -> Iterator[Row]:
        """Yield the rows: only the encoded audio, or everything else. Classes such as gender become their names.

        Raises:
            DataError: the hub does not answer, or its files cannot be read.
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
                "it continues"
            ) from error


def _named(classes: Any, value: Any) -> Any:
    """Return the name of a class by its number; any other value as it is."""
    return classes.names[value] if classes and isinstance(value, int) and 0 <= value < len(classes.names) else value


def hub_splits(repository: str, config: str | None) -> list[HubTable]:
    """Open the splits of a dataset on the hub. Nothing is downloaded yet, and no code of the dataset is run.

    Raises:
        DataError: the dataset does not exist, needs a login, is a program, or has no audio; or the hub does not answer.
    """
    import datasets

    # The defaults of `datasets`, twenty tries of up to 30 s, mean ten minutes of waiting for a hub that is down.
    datasets.config.STREAMING_READ_MAX_RETRIES = datasets.config.STREAMING_OPEN_MAX_RETRIES = HUB_TRIES
    datasets.config.STREAMING_READ_SERVER_UNAVAILABLE_RETRY_INTERVAL = HUB_PAUSE
    datasets.config.STREAMING_READ_RATE_LIMIT_RETRY_INTERVAL = HUB_PAUSE
    datasets.config.STREAMING_READ_RETRY_INTERVAL = datasets.config.STREAMING_OPEN_RETRY_INTERVAL = HUB_PAUSE
    try:
        splits = datasets.load_dataset(repository, config, streaming=True)
    except _hub_errors() as error:
        raise DataError(_hub_message(repository, error)) from error
    tables = []
    for split, stream in splits.items():
        features = stream.features or {}
        audio = next((name for name, kind in features.items() if isinstance(kind, datasets.Audio)), None)
        if audio is None:
            raise DataError(f"hf:{repository} has no column of audio in {split}; it has {', '.join(features)[:200]}")
        tables.append(HubTable(str(split), audio, stream))
    return tables


def hub_revision(repository: str) -> str:
    """Return the commit of a dataset on the hub, or the digest of the files where it is a local folder.

    Raises:
        DataError: the dataset does not exist, or the hub does not answer.
    """
    if Path(repository).is_dir():
        return folder_digest(Path(repository))
    from huggingface_hub import HfApi

    try:
        return str(HfApi().dataset_info(repository, timeout=HUB_SECONDS).sha)
    except _hub_errors() as error:
        raise DataError(_hub_message(repository, error)) from error


def _hub_errors() -> tuple[type[Exception], ...]:
    import datasets
    from huggingface_hub.errors import HfHubHTTPError

    # The bases of HfHubHTTPError are the errors of the HTTP library, which depends on the version.
    return (ValueError, RuntimeError, TypeError, datasets.exceptions.DatasetsError, *HfHubHTTPError.__bases__)


def _hub_message(repository: str, error: Exception) -> str:
    """Say what is wrong with a dataset on the hub, and how to correct it. Only the texts of errors tell the causes."""
    from huggingface_hub.constants import ENDPOINT

    name, said, whole = f"hf:{repository}", first_line(error), f"{type(error).__name__}: {error}"
    response = getattr(error, "response", None)
    if "gated" in whole.lower():
        page = f"{ENDPOINT}/datasets/{repository}"
        return f"{name} is gated: accept its terms at {page}, then log in with: hf auth login"
    if "NotFound" in type(error).__name__ or getattr(response, "status_code", None) in (401, 403, 404):
        return (
            f"the hub has no {name}, or it is private: look the name up at {ENDPOINT}/datasets, or log in with: "
            "hf auth login"
        )
    if "BuilderConfig" in whole or "Config name is missing" in whole:
        there = re.findall(r"'([^']+)'", whole.partition("[")[2].partition("]")[0])
        return (
            f"{name} has several configurations: {', '.join(there)[:400]}. Name one of them, such as "
            f"{name}:{(there or ['NAME'])[0]}"
        )
    if "script" in whole:
        return (
            f"{name} is a program, which is not run. The hub may have its data as parquet: hf download "
            f"{repository} --repo-type dataset --revision refs/convert/parquet --local-dir DIR, then prepare DIR/CONFIG"
        )
    if "OfflineMode" in whole or "offline mode" in whole:
        return f"{name} cannot be opened, since HF_HUB_OFFLINE is set: unset HF_HUB_OFFLINE"
    return (
        f"{name} cannot be opened ({said}): check the name and the connection, and run the same command again; or "
        "download its parquet files and name their folder"
    )
