"""Write a few utterances in every layout of speech that `prepare` reads, as the tool of its name writes them."""

import csv
import gzip
import io
import json
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile


@dataclass(frozen=True)
class Said:
    """An utterance as somebody has it."""

    id: str
    text: str
    split: str  # train, dev or test
    speaker: str = ""

    @property
    def line(self) -> str:
        """Its text as a tool writes it where a line ends a row."""
        return self.text.replace("\n", " ").replace("\r", " ")


def few(train: int = 4, held: int = 1) -> list[Said]:
    """Utterances of three speakers, one for each split."""
    counts = {"train": train, "dev": held, "test": held}
    return [
        Said(f"{number}{split[0]}-7-{place:04}", f"le parole, {split} {place}", split, f"{number}{split[0]}")
        for number, (split, count) in enumerate(counts.items(), 1)
        for place in range(count)
    ]


def sound(seed: int, seconds: float = 0.3, container: str = "WAV") -> bytes:
    """Noise that is unlike that of any other seed."""
    buffer = io.BytesIO()
    soundfile.write(buffer, np.random.default_rng(seed).normal(0, 0.1, int(seconds * 16_000)), 16_000, format=container)
    return buffer.getvalue()


def put(path: Path, content: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def put_json_lines(path: Path, rows: list[dict]) -> None:
    body = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    put(path, gzip.compress(body) if path.suffix == ".gz" else body)


def put_csv(path: Path, header: list[str], rows: list[list[str]], **dialect: object) -> None:
    buffer = io.StringIO(newline="")
    csv.writer(buffer, **dialect).writerows([header, *rows])
    put(path, buffer.getvalue())


def by_split(said: list[Said]) -> dict[str, list[tuple[int, Said]]]:
    """The utterances of each split, with their numbers."""
    found = defaultdict(list)
    for number, each in enumerate(said):
        found[each.split].append((number, each))
    return found


def put_sounds(folder: Path, said: list[Said], name: str = "{}.wav") -> None:
    for number, _ in enumerate(said):
        put(folder / name.format(number), sound(number))


def nemo(home: Path, said: list[Said]) -> Path:
    """NVIDIA NeMo: a JSON object a line."""
    put_sounds(home, said)
    for split, rows in by_split(said).items():
        put_json_lines(home / f"{split}_manifest.json", [
            {"audio_filepath": f"{n}.wav", "duration": 0.3, "text": each.text, "id": each.id, "speaker": each.speaker}
            for n, each in rows
        ])  # fmt: skip
    return home


def audiofolder_csv(home: Path, said: list[Said]) -> Path:
    """Hugging Face audiofolder: one metadata.csv, whose file names begin with the folder of the split."""
    folders = {"train": "train", "dev": "validation", "test": "test"}
    rows = [[f"{folders[each.split]}/{n}.wav", each.text, each.speaker] for n, each in enumerate(said)]
    for name, (n, _) in zip(rows, enumerate(said), strict=True):
        put(home / name[0], sound(n))
    put_csv(home / "metadata.csv", ["file_name", "transcription", "speaker_id"], rows)
    return home


def audiofolder_jsonl(home: Path, said: list[Said]) -> Path:
    """Hugging Face audiofolder: a metadata.jsonl in the folder of each split, and the same names in all of them."""
    for split, rows in by_split(said).items():
        folder = home / {"dev": "validation"}.get(split, split)
        listed = [{"file_name": f"{place}.wav", "text": each.text} for place, (_, each) in enumerate(rows)]
        for place, (number, _) in enumerate(rows):
            put(folder / f"{place}.wav", sound(number))
        put_json_lines(folder / "metadata.jsonl", listed)
    return home


def saved_to_disk(home: Path, said: list[Said]) -> Path:
    """`DatasetDict.save_to_disk` itself."""
    from datasets import Audio, Dataset, DatasetDict

    splits = {}
    for split, rows in by_split(said).items():
        columns = {
            "audio": [{"bytes": sound(n), "path": f"{n}.wav"} for n, _ in rows],
            "sentence": [each.text for _, each in rows],
            "client_id": [each.speaker for _, each in rows],
        }
        splits[{"dev": "validation"}.get(split, split)] = Dataset.from_dict(columns).cast_column(
            "audio", Audio(decode=False)
        )
    DatasetDict(splits).save_to_disk(str(home))
    return home


def _recording(home: Path, number: int) -> dict:
    """A recording as lhotse describes it, with the path of wherever lhotse ran: the folder above the manifests."""
    source = {"type": "file", "channels": [0], "source": f"corpus/{number}.wav"}
    return {"id": f"rec-{number}", "sources": [source], "sampling_rate": 16000, "num_samples": 4800, "duration": 0.3,
            "channel_ids": [0]}  # fmt: skip


def _supervision(number: int, each: Said) -> dict:
    return {"id": each.id, "recording_id": f"rec-{number}", "start": 0.0, "duration": 0.3, "channel": 0,
            "text": each.text, "language": "Italian", "speaker": each.speaker}  # fmt: skip


def lhotse_supervisions(home: Path, said: list[Said]) -> Path:
    """`lhotse prepare`: recordings and supervisions of each part, packed."""
    put_sounds(home / "corpus", said)
    for split, rows in by_split(said).items():
        name = f"librispeech_{{}}_{split}-clean.jsonl.gz"
        put_json_lines(home / "manifests" / name.format("recordings"), [_recording(home, n) for n, _ in rows])
        put_json_lines(home / "manifests" / name.format("supervisions"), [_supervision(n, each) for n, each in rows])
    return home / "manifests"


def lhotse_cuts(home: Path, said: list[Said]) -> Path:
    """`CutSet.to_file`: a cut a line, each with its recording and its supervisions, whose times start from the cut."""
    put_sounds(home / "corpus", said)
    for split, rows in by_split(said).items():
        cuts = [
            {"id": f"{each.id}-0", "start": 0.1, "duration": 0.2, "channel": 0,
             "supervisions": [{**_supervision(n, each), "duration": 0.2}], "recording": _recording(home, n),
             "type": "MonoCut"}
            for n, each in rows
        ]  # fmt: skip
        put_json_lines(home / "manifests" / f"cuts_{split}.jsonl", cuts)
    return home / "manifests"


def speechbrain_csv(home: Path, said: list[Said]) -> Path:
    """SpeechBrain's prepare scripts: ID, duration, wav, spk_id, wrd; the folder of the corpus is a variable."""
    put_sounds(home / "clips", said)
    for split, rows in by_split(said).items():
        lines = [[each.id, "0.3", f"$data_root/clips/{n}.wav", each.speaker, each.text] for n, each in rows]
        put_csv(home / f"{split}.csv", ["ID", "duration", "wav", "spk_id", "wrd"], lines)
    return home


def speechbrain_json(home: Path, said: list[Said]) -> Path:
    """SpeechBrain's prepare scripts: one object, of an object for each utterance by its id."""
    put_sounds(home / "clips", said)
    for split, rows in by_split(said).items():
        listed = {
            each.id: {"wav": f"{{data_root}}/clips/{n}.wav", "length": 0.3, "words": each.text, "spk_id": each.speaker}
            for n, each in rows
        }
        put(home / f"{split}.json", json.dumps(listed, indent=2))
    return home


def librispeech(home: Path, said: list[Said]) -> Path:
    """LibriSpeech: SPLIT-clean/SPEAKER/CHAPTER with FLAC files and a file of their texts."""
    texts = defaultdict(str)
    for number, each in enumerate(said):
        folder = home / f"{each.split}-clean" / each.speaker / "7"
        put(folder / f"{each.id}.flac", sound(number, container="FLAC"))
        texts[folder / f"{each.speaker}-7.trans.txt"] += f"{each.id} {each.line}\n"
    for path, text in texts.items():
        put(path, text)
    put(home / "SPEAKERS.TXT", ";ID  |SEX| SUBSET | MINUTES | NAME\n1t   | F | train-clean | 25.03 | Kristin\n")
    return home


def ljspeech(home: Path, said: list[Said]) -> Path:
    """LJSpeech: id, text and normalised text between pipes, without a header; no splits."""
    put_sounds(home / "wavs", said, "LJ001-{:04}.wav")
    lines = [f"LJ001-{n:04}|{each.line}|{each.line.lower()}\n" for n, each in enumerate(said)]
    put(home / "metadata.csv", "".join(lines))
    return home


def coqui(home: Path, said: list[Said]) -> Path:
    """The importers of DeepSpeech and Coqui STT."""
    put_sounds(home, said)
    for split, rows in by_split(said).items():
        lines = [[f"{n}.wav", "9644", each.text] for n, each in rows]
        put_csv(home / f"{split}.csv", ["wav_filename", "wav_filesize", "transcript"], lines)
    return home


def kaldi(home: Path, said: list[Said]) -> Path:
    """Kaldi's data folders of LibriSpeech, of which a split has several."""
    for number, each in enumerate(said):
        part = {"train": ("train_clean_100", "train_other_500")}.get(each.split, (f"{each.split}_clean",))
        folder = home / part[number % len(part)]
        put(folder / f"{number}.wav", sound(number))
        for name, value in (("wav.scp", f"{number}.wav"), ("text", each.line), ("utt2spk", each.speaker or each.id)):
            with (folder / name).open("a", encoding="utf-8", newline="") as file:
                file.write(f"{each.id} {value}\n")
    return home


def tsv(home: Path, said: list[Said]) -> Path:
    """A table between tabs without quoting, with its splits in a column."""
    put_sounds(home, said)
    lines = [f"{n}.wav\t{each.line}\t{each.split}\n" for n, each in enumerate(said)]
    return put(home / "speech.tsv", "path\tsentence\tsplit\n" + "".join(lines))


def excel(home: Path, said: list[Said]) -> Path:
    """What Excel makes where commas are decimal signs: UTF-16, semicolons, blanks in the header, Windows' paths."""
    put_sounds(home / "clips", said)
    buffer = io.StringIO(newline="")
    rows = [[f"clips\\{n}.wav", each.text, each.split] for n, each in enumerate(said)]
    csv.writer(buffer, delimiter=";").writerows([[" Path ", "Text", " Split"], *rows])
    return put(home / "speech.csv", buffer.getvalue().encode("utf-16"))


LAYOUTS: dict[str, Callable[[Path, list[Said]], Path]] = {
    make.__name__: make
    for make in (
        nemo,
        audiofolder_csv,
        audiofolder_jsonl,
        saved_to_disk,
        lhotse_supervisions,
        lhotse_cuts,
        speechbrain_csv,
        speechbrain_json,
        librispeech,
        ljspeech,
        coqui,
        kaldi,
        tsv,
        excel,
    )
}
