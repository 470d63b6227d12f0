"""Folders of downloaded archives, and the file names of Common Voice and Kaldi."""

import os
from pathlib import Path

from asr_lora.folders.digests import has_bytes
from asr_lora.folders.manifests import Folder, ManifestRecord


def downloads_folder() -> Path:
    """Return the folder of downloaded archives: the one that is set for the platform's own client, or a cache."""
    return Path(os.environ.get("MDC_DOWNLOAD_PATH") or "~/.cache/asr_lora/downloads").expanduser()


class DownloadRecord(ManifestRecord):
    """The record of a download: its source, its file and its terms."""

    dataset: str  # id or slug on the platform
    file: str
    bytes: int
    sha256: str
    checked: bool = False  # whether the platform states this SHA-256
    terms: dict[str, str] = {}
    page: str = ""


class DownloadFolder(Folder[DownloadRecord]):
    """A dataset's archive as a platform has sent it."""

    kind = "download"
    record = DownloadRecord
    manifest_name = "download.json"
    remedy = "Remove the folder and run the same command again"

    def archive(self, name: str) -> Path:
        return self.root / name

    @property
    def lock(self) -> Path:
        return self.root / ".lock"

    def part(self, name: str) -> Path:
        """The part of an archive that has arrived, under the name that `datacollective` gives it."""
        return self.root / f"{name}.part"

    def whole(self, record: DownloadRecord) -> bool:
        return has_bytes(self.archive(record.file), record.bytes)


class ReleaseFolder:
    """Names of files and folders in a Common Voice release."""

    CLIPS = "clips"
    AUDIOS = "audios"  # of Spontaneous Speech
    SPONTANEOUS = "ss-corpus-*.tsv"

    @staticmethod
    def table(split: str) -> str:
        return f"{split}.tsv"


class KaldiFolder:
    """Names of files in a Kaldi data folder."""

    RECORDINGS = "wav.scp"
    TEXT = "text"
    SEGMENTS = "segments"
    SPEAKERS = "utt2spk"
    GENDERS = "spk2gender"
