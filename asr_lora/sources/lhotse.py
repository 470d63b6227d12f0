"""Read manifests of lhotse: cuts, or supervisions with their recordings (.jsonl or .json, packed by gzip or not)."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from asr_lora.errors import DataError
from asr_lora.folders.digests import fingerprint, sha256_file
from asr_lora.sources.columns import Row, as_seconds, split_of, splits_of_files, utterance_of
from asr_lora.sources.interface import (
    NO_SPLIT,
    OTHER,
    SPLIT_HERE,
    BadRow,
    Recording,
    SourceAtPath,
    Utterance,
    WantedRecordings,
    macos_files,
    safe_id,
)
from asr_lora.sources.table_rows import JSON_ENDINGS, ending_of, json_values

CUTS, SUPERVISIONS, RECORDINGS = "cuts", "supervisions", "recordings"
PARENTS = 4  # folders above the manifests in which their relative paths may start: lhotse writes them from where it ran


@dataclass(frozen=True)
class LhotseManifests(SourceAtPath):
    """Manifests of lhotse.

    Attributes:
        files: split, kind (cuts or supervisions) and file.
        recordings_files: manifests of recordings, to which the supervisions refer.
        unread: files of cuts beside supervisions, which hold the same speech.
    """

    files: tuple[tuple[str, str, Path], ...]
    recordings_files: tuple[Path, ...] = ()
    unread: tuple[Path, ...] = ()

    def digest(self) -> str:
        listed = [(split, sha256_file(path)) for split, _, path in self.files]
        return fingerprint("lhotse", listed, [sha256_file(path) for path in self.recordings_files])

    def rows(self) -> Iterator[Utterance | BadRow]:
        recordings = self._recordings()
        for split, kind, path in self.files:
            for place, value in json_values(path):
                if split == OTHER:
                    yield BadRow(place, NO_SPLIT)
                elif not isinstance(value, dict):
                    yield BadRow(place, value, split)
                elif kind == CUTS:
                    yield from self._of_cut(place, value, split)
                else:
                    yield self._utterance(place, value, recordings.get(str(value.get("recording_id"))), 0.0, split)
        for path in self.unread:
            yield BadRow(path.name, "cuts are not read where there are supervisions")
        yield from macos_files(self.home)

    def recordings(self, wanted: WantedRecordings) -> Iterator[tuple[str, Recording]]:
        for recording in wanted:
            yield recording, self._find(recording)

    def _recordings(self) -> dict[str, Row]:
        """Return the recordings by their ids."""
        found: dict[str, Row] = {}
        for path in self.recordings_files:
            for place, value in json_values(path):
                if not isinstance(value, dict):
                    raise DataError(f"{path} ({place}): {value}. Make the manifest again")
                if found.setdefault(str(value.get("id")), value) != value:
                    raise DataError(
                        f"{path} ({place}): recording {value.get('id')!r} is listed before with other values"
                    )
        return found

    def _of_cut(self, place: str, cut: Row, split: str) -> Iterator[Utterance | BadRow]:
        """Yield the supervisions of a cut, whose times start from the cut."""
        supervisions = cut.get("supervisions")
        if cut.get("type", "MonoCut") == "MixedCut" or "tracks" in cut:
            yield BadRow(place, "the cut is mixed of several", split)
        elif not isinstance(supervisions, list) or not supervisions:
            yield BadRow(place, "row has no text", split)
        else:
            recording, start = cut.get("recording"), cut.get("start", 0.0)
            for number, supervision in enumerate(supervisions, 1):
                where = place if len(supervisions) == 1 else f"{place}, supervision {number}"
                if isinstance(supervision, dict):
                    yield self._utterance(where, supervision, recording, start, split)
                else:
                    yield BadRow(where, "row is not JSON", split)

    def _utterance(
        self, place: str, supervision: Mapping[str, Any], recording: object, offset: object, split: str
    ) -> Utterance | BadRow:
        text = supervision.get("text")
        if not isinstance(text, str):
            return BadRow(place, "row has no text", split)
        name = _file_of(recording, supervision.get("channel", 0))
        if isinstance(name, BadRow):
            return BadRow(place, name.reason, split)
        try:
            start = as_seconds(float(supervision["start"]) + as_seconds(offset), least=-1e-3)
            seconds = as_seconds(supervision["duration"], least=1e-6)
        except (KeyError, TypeError, ValueError, OverflowError):
            return BadRow(place, "times are not in order", split)
        return utterance_of(
            supervision, name=safe_id(str(supervision.get("id") or place)), recording=name, text=text, split=split,
            start=max(0.0, start), seconds=seconds,
        )  # fmt: skip

    def _find(self, name: str) -> Path:
        """Return the path of a recording. A relative one starts from a folder above the manifests."""
        folder = self.home if self.home.is_dir() else self.home.parent
        places = [folder, *islice(folder.resolve().parents, PARENTS)]
        return next((place / name for place in places if _is_file(place / name)), folder / name)


def _file_of(recording: object, channel: object) -> str | BadRow:
    """Return the file of a recording that holds a channel alone, or the reason why there is none."""
    if not isinstance(recording, dict) or not isinstance(recording.get("sources"), list):
        return BadRow("", "no recording is listed")
    if recording.get("transforms"):  # speed, volume or noise, which lhotse applies when it reads
        return BadRow("", "the recording is changed when it is read")
    wanted = channel if isinstance(channel, list) else [channel]
    for source in recording["sources"]:
        if isinstance(source, dict) and isinstance(source.get("source"), str):
            channels = source.get("channels", [0])
            if not isinstance(channels, list) or not set(map(str, wanted)) & set(map(str, channels)):
                continue
            if source.get("type", "file") != "file":
                return BadRow("", "the recording is no file")
            if len(channels) > len(wanted):
                return BadRow("", "one of several channels of a file")
            return str(source["source"])
    return BadRow("", "no recording is listed")


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def find_lhotse(place: Path) -> LhotseManifests | None:
    """Find manifests of lhotse at a path, beside it (recordings for a file of supervisions), or in a folder."""
    kinds = {path: kind for path in _json_files(place if place.is_dir() else place.parent) if (kind := _kind(path))}
    if place.is_file():
        if (kind := kinds.get(place)) is None or kind == RECORDINGS:
            return None
        return LhotseManifests(place, ((SPLIT_HERE, kind, place),), _of_kind(kinds, RECORDINGS) if kind != CUTS else ())
    supervisions, cuts = _of_kind(kinds, SUPERVISIONS), _of_kind(kinds, CUTS)
    chosen = supervisions or cuts
    if not chosen:
        return None
    kind = SUPERVISIONS if supervisions else CUTS
    splits = splits_of_files([split_of(path.name) for path in chosen])
    files = tuple((split, kind, path) for split, path in zip(splits, chosen, strict=True))
    if not supervisions:
        return LhotseManifests(place, files)
    return LhotseManifests(place, files, _of_kind(kinds, RECORDINGS), cuts)


def _json_files(folder: Path) -> list[Path]:
    return sorted(
        path for path in folder.iterdir()
        if path.name[0] != "." and ending_of(path) in JSON_ENDINGS and path.is_file()
    )  # fmt: skip


def _kind(path: Path) -> str | None:
    """Tell the kind of a manifest by its first row; None: it is none of lhotse."""
    try:
        first = next((value for _, value in json_values(path) if isinstance(value, dict)), {})
    except DataError:
        return None
    if "supervisions" in first or "tracks" in first:
        return CUTS
    if {"recording_id", "start", "duration"} <= first.keys():
        return SUPERVISIONS
    return RECORDINGS if {"sources", "sampling_rate"} <= first.keys() else None


def _of_kind(kinds: Mapping[Path, str], kind: str) -> tuple[Path, ...]:
    return tuple(path for path, found in kinds.items() if found == kind)
