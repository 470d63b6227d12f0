"""One run in every format, each tried in its own engine on the same clips: the table of reports/export-parity.

    python tests/benchmarks/export_parity.py runs/cs data/cs --clips 50 --scratch /tmp/exports

What ours hears is found once. faster-whisper is also given clips as they are, which it pads in its own way.
"""

import argparse
import time
from pathlib import Path

import numpy as np

from asr_lora.config import Context, Precision
from asr_lora.dataset.reading import read_split
from asr_lora.exporting.export import SPLIT, _transcribe
from asr_lora.exporting.formats import write_export
from asr_lora.exporting.other_engines import open_export, require_engine
from asr_lora.exporting.parity import parity
from asr_lora.exporting.recipe import Format, find_export_recipe
from asr_lora.folders.atomic import read_jsonl, write_jsonl
from asr_lora.folders.run_folder import ExportFolder
from asr_lora.model.find_model import find_model
from asr_lora.model.open_model import open_model

RECIPES = (
    ("adapter", None, None),
    ("transformers", "float16", None),
    ("ctranslate2", "float32", None),
    ("ctranslate2", "float16", "int8"),
    ("ggml", "float16", None),
    ("ggml", "float16", "q8_0"),
    ("ggml", "float16", "q5_0"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--clips", type=int, default=50)
    parser.add_argument("--scratch", type=Path, required=True)
    options = parser.parse_args()
    split = read_split(options.dataset, SPLIT).evenly(options.clips)
    place = find_model(options.run)
    whisper = open_model(place, context=Context.FULL, precision=Precision.FP32)
    kept = options.scratch / "ours.jsonl"
    if not kept.is_file():
        started = time.perf_counter()
        write_jsonl(kept, [{"text": text} for text in _transcribe(whisper, split)])
        print(f"ours: {time.perf_counter() - started:.0f} s", flush=True)
    ours = [row["text"] for row in read_jsonl(kept)]
    print("| format | engine | MB | WER % | CER % | drift | alike | words apart % | s |", flush=True)
    for recipe in (find_export_recipe(*words) for words in RECIPES):
        name = "-".join(filter(None, (recipe.format, recipe.dtype, recipe.quantise)))
        folder = ExportFolder(options.scratch / name)
        folder.root.mkdir(parents=True, exist_ok=True)
        exported = open_model(place, context=Context.FULL, precision=Precision.FP32)
        weights = write_export(place, exported, recipe, folder)
        transcribe = open_export(recipe, weights, place.base, whisper)
        started = time.perf_counter()
        heard = [transcribe(split.waveform(index)) for index in range(len(split))]
        seconds = time.perf_counter() - started
        found = parity(split.texts, ours, heard, whisper.language or "en", 0.005)
        size = sum(path.stat().st_size for path in folder.files) / 1e6
        print(
            f"| {name} | {require_engine(recipe.format)} | {size:.1f} | {100 * found.theirs.wer:.2f} | "
            f"{100 * found.theirs.cer:.2f} | {100 * found.drift:+.2f} | {found.alike} | {100 * found.apart:.2f} | "
            f"{seconds:.0f} |",
            flush=True,
        )
        write_jsonl(options.scratch / f"{name}.jsonl", [{"text": text} for text in heard])
        if recipe.format is Format.CTRANSLATE2 and recipe.quantise is None:
            _print_as_it_is(weights, whisper.language or "en", split, ours)
    print(f"| asr_lora | float32, 30 s | | {100 * found.ours.wer:.2f} | {100 * found.ours.cer:.2f} | | | | |")


def _print_as_it_is(weights: Path, language: str, split, ours: list[str]) -> None:
    """faster-whisper as its documentation runs it, greedily: clips as short as they are."""
    from faster_whisper import WhisperModel

    model = WhisperModel(str(weights), device="cpu", local_files_only=True)
    heard = []
    for index in range(len(split)):
        segments, _ = model.transcribe(
            np.asarray(split.waveform(index)), language=language, beam_size=1, temperature=0.0, without_timestamps=True
        )
        heard.append("".join(segment.text for segment in segments))
    found = parity(split.texts, ours, heard, language, 0.005)
    print(f"| its own padding | | | {100 * found.theirs.wer:.2f} | {100 * found.theirs.cer:.2f} | "
          f"{100 * found.drift:+.2f} | {found.alike} | {100 * found.apart:.2f} | |", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
