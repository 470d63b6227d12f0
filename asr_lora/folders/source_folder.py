"""Where speech comes from: archives that were downloaded, and names that others give to their files."""

import os
from pathlib import Path

from asr_lora.folders.digests import has_bytes
from asr_lora.folders.manifests import Folder, ManifestRecord


def downloads_folder() -> Path:
    """Where archives that were downloaded are kept: where the platform's own client is told to, or a cache."""
    return Path(os.environ.get("MDC_DOWNLOAD_PATH") or "~/.cache/asr_lora/downloads").expanduser()


class DownloadRecord(ManifestRecord):
    """What was downloaded, from where, and on which terms."""

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
        """What has come of an archive so far, as `datacollective` names it."""
        return self.root / f"{name}.part"

    def whole(self, record: DownloadRecord) -> bool:
        return has_bytes(self.archive(record.file), record.bytes)


class ReleaseFolder:
    """Names inside a Common Voice release, which others write and we only read."""

    CLIPS = "clips"
    AUDIOS = "audios"  # of Spontaneous Speech
    SPONTANEOUS = "ss-corpus-*.tsv"

    @staticmethod
    def table(split: str) -> str:
        return f"{split}.tsv"


class KaldiFolder:
    """Names inside a Kaldi data folder."""

    RECORDINGS = "wav.scp"
    TEXT = "text"
    SEGMENTS = "segments"
    SPEAKERS = "utt2spk"
    GENDERS = "spk2gender"
