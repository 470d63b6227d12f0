"""What `transcribe` makes of no speech, what hours of speech take, what switching adapters costs, what terms buy.

    python tests/benchmarks/transcribe.py nothing MODEL --language cs
    python tests/benchmarks/transcribe.py windows --hours 1 10
    python tests/benchmarks/transcribe.py long MODEL --language cs --hours 1 2
    python tests/benchmarks/transcribe.py adapters BASE cs=RUN it=RUN
    python tests/benchmarks/transcribe.py terms RUN DATASET --split dev --begin 0 --proceed 2 --spoken 10 --others 20

Speech is data/demo, over and over. Memory is what a fresh process takes at its peak, in MB. Adapters are timed in CPU
time, which another process on the machine does not change.
"""

import argparse
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile

from asr_lora.audio.decode import SAMPLE_RATE, decode
from asr_lora.audio.features import context_frames, context_seconds
from asr_lora.config import Context, Precision
from asr_lora.dataset.reading import read_split
from asr_lora.decoding.decoding_options import FALLBACK_TEMPERATURES, DecodingOptions
from asr_lora.decoding.engine import TorchEngine
from asr_lora.decoding.hotwords import HotwordBoost, hotword_prompt
from asr_lora.decoding.loading import EngineName, open_engine
from asr_lora.decoding.search import batches_by_length, encode_batch
from asr_lora.language import forced_prompt
from asr_lora.metrics.hotword_recall import occurrences
from asr_lora.metrics.normalize import basic, find_normaliser
from asr_lora.metrics.wer import score
from asr_lora.model.adapters.multi_lora import BASE, using_adapters
from asr_lora.model.find_model import find_adapters, find_model, selection_of
from asr_lora.model.open_model import open_adapters, open_model
from asr_lora.model.whisper import evaluating
from asr_lora.transcription.longform import Window, speech_windows, windows
from asr_lora.transcription.recognise import SelectedWindow, decode_windows, encode_windows, transcribe_stream

CLIPS = Path(__file__).resolve().parents[2] / "data" / "demo" / "cv-corpus-17.0-2024-03-15" / "it" / "clips"


def sounds(seconds: int) -> dict[str, np.ndarray]:
    """What is no speech, each (samples,), 16 kHz."""
    chance, count = np.random.default_rng(0), seconds * SAMPLE_RATE
    time_ = np.arange(count) / SAMPLE_RATE
    white = chance.normal(size=count)
    spectrum = np.fft.rfft(white)
    pink = np.fft.irfft(spectrum / np.sqrt(np.maximum(np.arange(len(spectrum)), 1)), count)
    notes = 220 * 2 ** (chance.choice([0, 2, 4, 5, 7, 9, 11, 12], size=(count // 4000 + 1, 3)) / 12)
    pitch = np.repeat(notes, 4000, axis=0)[:count]
    envelope = np.exp(-5 * (np.arange(count) % 4000) / 4000)
    phase = 2 * np.pi * np.cumsum(pitch, axis=0) / SAMPLE_RATE
    music = sum((np.sin(k * phase) / k).sum(axis=1) for k in (1, 2, 3)) * envelope
    drums = white * np.exp(-30 * (time_ % 0.5))
    hum = sum(np.sin(2 * np.pi * 50 * k * time_) / k for k in (1, 2, 3, 5))
    made = {
        "silence": np.zeros(count), "faint noise": 0.002 * white, "white noise": 0.1 * white,
        "pink noise": 0.3 * pink / pink.std(),
        "mains hum": 0.1 * hum, "music": 0.1 * music, "drums": 0.3 * drums,
    }  # fmt: skip
    return {name: np.clip(sound, -1, 1).astype(np.float32) for name, sound in made.items()}


def nothing(options: argparse.Namespace) -> None:
    """Words a minute where nobody speaks, by what is done against them."""
    whisper = open_model(options.model, options.language and forced_prompt(options.language))
    selection = selection_of(whisper)
    ways = {
        "bare": (windows, DecodingOptions()),
        "fallback": (windows, DecodingOptions(timestamps=True, fallback=FALLBACK_TEMPERATURES)),
        "fallback and VAD": (speech_windows, DecodingOptions(timestamps=True, fallback=FALLBACK_TEMPERATURES)),
    }
    print("| sound | " + " | ".join(ways) + " |")
    print("| --- |" + " ---: |" * len(ways))
    for name, sound in sounds(options.seconds).items():
        row = []
        for cut, how in ways.values():
            stream = ((None, SelectedWindow(window, selection)) for window in cut(np.array_split(sound, 4)))
            text = " ".join(s.text for _, found in transcribe_stream(TorchEngine(whisper), stream, how) for s in found)
            row.append(f"{len(text.split()) * 60 / options.seconds:.0f}")
        print(f"| {name} | " + " | ".join(row) + " |", flush=True)


def speech_blocks(hours: float) -> Iterator[np.ndarray]:
    clips = [np.concatenate([decode(clip), np.zeros(SAMPLE_RATE // 2, np.float32)]) for clip in sorted(CLIPS.iterdir())]
    left, number = hours * 3600, 0
    while left > 0:
        block = np.concatenate([clips[(number + k) % len(clips)] for k in range(6)])
        yield block
        left, number = left - len(block) / SAMPLE_RATE, number + 6


def peak() -> float:
    """Megabytes at most; the kernel's ru_maxrss would begin with those of the parent."""
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024


def windowing(options: argparse.Namespace) -> None:
    """Everything before the model: finding speech and cutting it, each length in a fresh process."""
    if options.one:
        started, count = time.perf_counter(), 0
        for _ in speech_windows(speech_blocks(options.one)):
            count += 1
        print(f"| {options.one:g} | {count} | {peak():.0f} | {time.perf_counter() - started:.0f} |", flush=True)
        return
    print("| hours | windows | peak MB | seconds |\n| ---: | ---: | ---: | ---: |", flush=True)
    for hours in options.hours:
        subprocess.run([sys.executable, __file__, "windows", "--one", str(hours)], check=True)


def long(options: argparse.Namespace) -> None:
    """Whole files through the command line, each in a fresh process."""
    print("| hours | peak MB | seconds | times real time |\n| ---: | ---: | ---: | ---: |")
    for hours in options.hours:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "long.flac"
            with soundfile.SoundFile(path, "w", SAMPLE_RATE, 1, format="FLAC") as file:
                for block in speech_blocks(hours):
                    file.write(block)
            code = (
                "import sys\nfrom asr_lora.cli.verbs import main\ntry: main()\nexcept SystemExit: pass\n"
                "lines = open('/proc/self/status').read().splitlines()\n"
                "print(*[int(line.split()[1]) / 1024 for line in lines if 'VmHWM' in line], file=sys.stderr)"
            )
            arguments = ["transcribe", options.model, str(path), "--format", "srt", "--out", folder]
            arguments += ["--language", options.language] if options.language else []
            arguments += ["--engine", options.engine] + ([] if options.fallback else ["--no-fallback"])
            started = time.perf_counter()
            done = subprocess.run([sys.executable, "-c", code, *arguments], check=True, capture_output=True, text=True)
            seconds = time.perf_counter() - started
            took = float(done.stderr.strip().splitlines()[-1])
            print(f"| {hours:g} | {took:.0f} | {seconds:.0f} | {hours * 3600 / seconds:.1f} |", flush=True)


def adapters(options: argparse.Namespace) -> None:
    """Milliseconds to load a base, to put adapters on it, and to go from one to another; what a mixed batch costs."""
    named = dict(text.split("=", 1) for text in options.adapters)
    started = time.process_time()
    whisper = open_adapters(find_adapters(options.model, named))
    print(f"base and {len(named)} adapters: {time.process_time() - started:.1f} s")
    names = list(named)
    started = time.process_time()
    for _ in range(20):
        for name in names:
            with using_adapters(whisper, [name]):
                pass
    print(f"switch: {1000 * (time.process_time() - started) / 20 / len(names):.1f} ms")
    clips = [decode(clip) for clip in sorted(CLIPS.iterdir())[:4]]
    frames = context_frames(max(map(len, clips)) / SAMPLE_RATE, Context.TRUE_LENGTH)
    mixed = [names[n % len(names)] for n in range(4)]
    for label, rows in {"base alone": [BASE] * 4, "one": names[:1] * 4, "mixed": mixed}.items():
        times = []
        for _ in range(5):
            started = time.process_time()
            with evaluating(whisper.model), using_adapters(whisper, rows):
                encode_batch(whisper, clips, frames)
            times.append(time.process_time() - started)
        print(f"encoder, 4 clips, {label}: {1000 * min(times):.0f} ms")


def glossary(dataset: Path, split: str, spoken: int, others: int) -> list[str]:
    """Rare words of a split, and twice or more as many that are only elsewhere: what a user's list is like."""
    rare: dict[str, Counter[str]] = {}
    for name in ("train", "dev", "test"):
        for text in read_split(dataset, name).texts:
            for written in text.split():
                word = re.sub(r"^\W+|\W+$", "", written)
                if len(word) >= 5 and word.isalpha():
                    rare.setdefault(basic(word), Counter()).update([name, f" {word}"])
    known = sorted(word for word, seen in rare.items() if seen["train"] + seen["dev"] + seen["test"] <= 3)
    chance = random.Random(0)
    mine = chance.sample([word for word in known if rare[word][split]], spoken)
    rest = chance.sample([word for word in known if not rare[word][split]], others)
    chosen = [rare[word] for word in (*sorted(mine), *sorted(rest))]
    return [max((form for form in seen if form[0] == " "), key=seen.__getitem__).strip() for seen in chosen]


def terms(options: argparse.Namespace) -> None:
    """WER, and recall of terms, by how they are made likelier: by the prompt, by a boost, by both."""
    named = find_model(options.model)
    prompt = named.prompt(options.language) if options.language else named.prompt()
    engine = open_engine(EngineName(options.engine), named, prompt, precision=options.precision)
    data = read_split(options.dataset, options.split)
    listed = glossary(options.dataset, options.split, options.spoken, options.others)
    random.Random(0).shuffle(listed)
    clean, references = [basic(term) for term in listed], [basic(text) for text in data.texts]
    given, fit = hotword_prompt(engine.whisper, listed)
    print(f"{len(listed)} terms, {fit} of them in the prompt of {len(given)} tokens")
    boosts = [f"boost {begin:g} {proceed:g}" for begin in options.begin for proceed in options.proceed]
    both = [f"prompt, {kind}" for kind in boosts] + [
        f"prompt, the others {kind}" for kind in boosts if fit < len(listed)
    ]
    ways = ["none", "prompt", *boosts, *both]
    cost = [context_seconds(seconds, engine.whisper.context) for seconds in data.seconds]
    found: dict[str, dict[int, str]] = {way: {} for way in ways}
    for batch in batches_by_length(data.seconds, cost, batch_seconds=engine.batch_seconds):
        windows = [SelectedWindow(Window(0.0, data.waveform(n)), selection_of(engine.whisper)) for n in batch]
        encoded = encode_windows(engine, windows)
        for way in ways:
            if "boost" in way and not engine.takes_processors:
                continue
            begin, proceed = map(float, way.split()[-2:]) if "boost" in way else (0.0, 0.0)
            tokens = [engine.whisper.text_tokens(term) for term in listed[fit if "the others" in way else 0 :]]
            how = DecodingOptions(
                options.beams, timestamps=True, previous=given if "prompt" in way else (),
                processors=[HotwordBoost(tokens, begin=begin, proceed=proceed)] if "boost" in way else (),
            )  # fmt: skip
            heard = decode_windows(engine, encoded, windows, how)
            found[way] |= {n: basic(one.text) for n, one in zip(batch, heard, strict=True)}
    print("| way | WER % | spoken | found | elsewhere |\n| --- | ---: | ---: | ---: | ---: |")
    for way in (way for way in ways if found[way]):
        heard = [found[way][n] for n in range(len(data))]
        wrong = score(references, heard, find_normaliser("basic", "en")).rates.wer
        spoken, said = (
            np.array([[occurrences(text, term, characters=False) for term in clean] for text in texts])
            for texts in (references, heard)
        )
        right = np.minimum(spoken, said).sum()
        print(f"| {way} | {100 * wrong:.2f} | {spoken.sum()} | {right} | {said.sum() - right} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    jobs = parser.add_subparsers(required=True)
    job = jobs.add_parser("nothing")
    job.set_defaults(job=nothing)
    job.add_argument("model")
    job.add_argument("--language")
    job.add_argument("--seconds", type=int, default=120)
    job = jobs.add_parser("windows")
    job.set_defaults(job=windowing)
    job.add_argument("--hours", type=float, nargs="+", default=[1, 10])
    job.add_argument("--one", type=float)
    job = jobs.add_parser("long")
    job.set_defaults(job=long)
    job.add_argument("model")
    job.add_argument("--language")
    job.add_argument("--hours", type=float, nargs="+", default=[1, 2])
    job.add_argument("--engine", default="torch")
    job.add_argument("--fallback", action=argparse.BooleanOptionalAction, default=True)
    job = jobs.add_parser("adapters")
    job.set_defaults(job=adapters)
    job.add_argument("model")
    job.add_argument("adapters", nargs="+")
    job = jobs.add_parser("terms")
    job.set_defaults(job=terms)
    job.add_argument("model")
    job.add_argument("dataset", type=Path)
    job.add_argument("--split", default="dev")
    job.add_argument("--language", help="of a model that records none")
    job.add_argument("--engine", default="torch")
    job.add_argument("--precision", type=Precision, default=Precision.FP32)
    job.add_argument("--beams", type=int, default=1)
    job.add_argument("--spoken", type=int, default=100, help="terms that are spoken in the split")
    job.add_argument("--others", type=int, default=400, help="terms that are spoken elsewhere only")
    job.add_argument("--begin", type=float, nargs="+", default=[0.0])
    job.add_argument("--proceed", type=float, nargs="+", default=[2.0])
    options = parser.parse_args()
    options.job(options)


if __name__ == "__main__":
    main()
