"""Read trees of LibriSpeech: recordings beside a file NAME.trans.txt with a line for each, its id and its text."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from asr_lora.audio.decode import readable_suffixes
from asr_lora.folders.digests import fingerprint, sha256_file
from asr_lora.sources.audio_text_pairs import walk
from asr_lora.sources.columns import split_of_folders
from asr_lora.sources.interface import (
    GENDERS,
    BadRow,
    SourceAtPath,
    Utterance,
    files_digest,
    macos_files,
    safe_id,
)
from asr_lora.sources.lines import file_lines

TRANSCRIPTS = ".trans.txt"
SPEAKERS = "SPEAKERS.TXT"  # id | sex | subset | minutes | name


@dataclass(frozen=True)
class LibriSpeech(SourceAtPath):
    """A tree of folders SPLIT/SPEAKER/CHAPTER, each with recordings and a file of their texts."""

    def digest(self) -> str:
        files = [(str(path.relative_to(self.home)), path) for path in walk(self.home)]
        texts = [(name, sha256_file(path)) for name, path in files if name.endswith(TRANSCRIPTS)]
        return fingerprint("librispeech", texts, files_digest((name, path.stat().st_size) for name, path in files))

    def rows(self) -> Iterator[Utterance | BadRow]:
        suffixes = readable_suffixes()
        folder, recordings = self.home, dict[str, Path]()  # of this folder, by their stems
        transcripts: list[Path] = []
        for path in walk(self.home):
            if path.parent != folder:
                yield from self._of_folder(transcripts, recordings)
                folder, recordings, transcripts = path.parent, {}, []
            if path.name.endswith(TRANSCRIPTS):
                transcripts.append(path)
            elif path.suffix.lower() in suffixes:
                recordings[path.stem] = path
        yield from self._of_folder(transcripts, recordings)
        yield from macos_files(self.home)

    def _of_folder(self, transcripts: list[Path], recordings: dict[str, Path]) -> Iterator[Utterance | BadRow]:
        spoken: set[str] = set()
        for path in transcripts:
            place = path.relative_to(self.home)
            split = split_of_folders(place.parts[:-1])
            for number, line in file_lines(path):
                if not line.strip():
                    continue
                try:
                    key, _, text = line.decode("utf-8-sig").strip().partition(" ")
                except UnicodeDecodeError:
                    spoken.add(line.split(maxsplit=1)[0].decode("utf-8-sig", errors="replace"))
                    yield BadRow(f"{place}:{number}", "row is not UTF-8", split)
                    continue
                if key not in recordings:
                    yield BadRow(f"{place}:{number}", "no audio beside the text", split)
                    continue
                spoken.add(key)
                speaker = key.partition("-")[0] if key.count("-") >= 2 else path.parent.parent.name
                yield Utterance(
                    id=safe_id(key), recording=str(recordings[key].relative_to(self.home)), speaker=speaker,
                    text=" ".join(text.split()), split=split, gender=self._genders.get(speaker, ""),
                )  # fmt: skip
        for key in sorted(recordings.keys() - spoken):
            place = recordings[key].relative_to(self.home)
            yield BadRow(str(place), "no text beside the audio", split_of_folders(place.parts[:-1]))

    @cached_property
    def _genders(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for path in (self.home / SPEAKERS, self.home.parent / SPEAKERS):
            for _, line in file_lines(path) if path.is_file() else ():
                fields = [field.strip().lower() for field in line.decode("utf-8", errors="replace").split("|")]
                if len(fields) > 1 and fields[1] in GENDERS:
                    found[fields[0]] = GENDERS[fields[1]]
        return found


def holds_librispeech(folder: Path) -> bool:
    """Whether a folder or one below it has a file of transcripts as LibriSpeech names them."""
    return any(path.name.endswith(TRANSCRIPTS) for path in walk(folder))
