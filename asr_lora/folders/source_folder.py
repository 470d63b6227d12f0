"""Where speech comes from: archives that were downloaded, and names that others give to their files."""

import os
from pathlib import Path
from typing import Any

from asr_lora.folders.digests import has_bytes
from asr_lora.folders.manifests import Folder


def downloads_folder() -> Path:
    """Where archives that were downloaded are kept: where the platform's own client is told to, or a cache."""
    return Path(os.environ.get("MDC_DOWNLOAD_PATH") or "~/.cache/asr_lora/downloads").expanduser()


class DownloadFolder(Folder[dict[str, Any]]):
    """A dataset's archive as a platform has sent it."""

    kind = "download"
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

    def whole(self, body: dict[str, Any]) -> bool:
        return has_bytes(self.archive(body["file"]), body["bytes"])


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
