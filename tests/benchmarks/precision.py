"""How often bf16 costs words: the same utterances decoded in bf16 and in float32, paired.

    python tests/benchmarks/precision.py pypi:whisper-base cs=data/cs en=data/en es=data/es --utterances 250

Greedy search without fallback, with Whisper's timestamps (as `transcribe`) and without (as `evaluate`), over encoder
outputs of one pass for each precision. Utterances are drawn evenly from test, dev and train. The interval of the
difference is by bootstrap over speakers.
"""

import argparse
import time
from pathlib import Path

import numpy as np

from asr_lora.config import Context, Precision
from asr_lora.dataset.reading import Split, read_split
from asr_lora.decoding.decoding_options import DecodingOptions
from asr_lora.decoding.engine import TorchEngine
from asr_lora.decoding.search import batches_by_length
from asr_lora.language import forced_prompt
from asr_lora.metrics.intervals import difference_of, resamples
from asr_lora.metrics.normalize import basic
from asr_lora.metrics.wer import align_words, count_errors
from asr_lora.model.find_model import find_model, selection_of
from asr_lora.model.open_model import open_model
from asr_lora.transcription.longform import Window
from asr_lora.transcription.recognise import SelectedWindow, decode_windows, encode_windows

WAYS = {"timestamps": DecodingOptions(timestamps=True), "no timestamps": DecodingOptions()}
PRECISIONS = (Precision.FP32, Precision.BF16)


def read_utterances(dataset: Path, count: int) -> list[tuple[np.ndarray, str, str]]:
    """Sound, text and speaker of utterances: all of test, then of dev, then evenly of train."""
    found: list[tuple[np.ndarray, str, str]] = []
    for name in ("test", "dev", "train"):
        split: Split = read_split(dataset, name).evenly(count - len(found))
        found += [(split.waveform(n), split.texts[n], split.speakers[n]) for n in range(len(split))]
    return found


def transcribe(engine: TorchEngine, sounds: list[np.ndarray]) -> tuple[dict[str, list[str]], float]:
    """Texts by the way of decoding, and the CPU seconds of encoding and of one decoding."""
    whisper, texts, spent = engine.whisper, {way: [""] * len(sounds) for way in WAYS}, 0.0
    selection = selection_of(whisper)
    seconds = [len(sound) / 16_000 for sound in sounds]
    cost = [30.0] * len(sounds) if selection.context is Context.FULL else seconds
    for batch in batches_by_length(seconds, cost, batch_seconds=engine.batch_seconds):
        started = time.process_time()
        windows = [SelectedWindow(Window(0.0, sounds[row]), selection) for row in batch]
        encoded = encode_windows(engine, windows)
        spent += time.process_time() - started
        for way, options in WAYS.items():
            started = time.process_time()
            for row, hypothesis in zip(batch, decode_windows(engine, encoded, windows, options), strict=True):
                texts[way][row] = basic(hypothesis.text)
            spent += (time.process_time() - started) / len(WAYS)
    return texts, spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("datasets", nargs="+", metavar="LANGUAGE=DATASET")
    parser.add_argument("--utterances", type=int, default=250)
    parser.add_argument("--context", type=Context)
    given = parser.parse_args()
    print("| language | decoding | utterances | differ | words | WER %, float32 | WER %, bf16 | difference (95 %) |"
          " words that only float32 has right | only bf16 | CPU s, float32 | bf16 |")  # fmt: skip
    print("| --- " * 2 + "| ---: " * 10 + "|")
    for named in given.datasets:
        language, _, dataset = named.partition("=")
        rows = read_utterances(Path(dataset), given.utterances)
        references, speakers = [basic(text) for _, text, _ in rows], [speaker for *_, speaker in rows]
        found = {}
        for precision in PRECISIONS:
            prompt = forced_prompt(language)
            whisper = open_model(find_model(given.model), prompt, precision=precision, context=given.context)
            found[precision] = transcribe(TorchEngine(whisper), [sound for sound, *_ in rows])
        for way in WAYS:
            full, half = (found[precision][0][way] for precision in PRECISIONS)
            aligned = [align_words(references, texts) for texts in (full, half)]
            errors = [[count_errors(one) for one in alignments] for alignments in aligned]
            columns = {n: [one.edits for one in some] for n, some in enumerate(errors)}
            sums = resamples(speakers).draw({**columns, 2: [one.reference for one in errors[0]]})
            edits, words = (sums[0], sums[1]), sums[2]
            cost = difference_of(edits[0], edits[1], words)
            right = [[[step.kind == "equal" for step in one if step.reference is not None] for one in some]
                     for some in aligned]  # fmt: skip
            pairs = [pair for one, two in zip(*right, strict=True) for pair in zip(one, two, strict=True)]
            print(
                f"| {language} | {way} | {len(rows)} | {sum(a != b for a, b in zip(full, half, strict=True))} | "
                f"{len(pairs)} | {100 * edits[0].total / words.total:.2f} | {100 * edits[1].total / words.total:.2f} | "
                f"{100 * cost.value:+.2f} ({100 * cost.low:+.2f} to {100 * cost.high:+.2f}) | "
                f"{sum(a and not b for a, b in pairs)} | {sum(b and not a for a, b in pairs)} | "
                f"{found[PRECISIONS[0]][1]:.0f} | {found[PRECISIONS[1]][1]:.0f} |", flush=True,
            )  # fmt: skip


if __name__ == "__main__":
    main()
