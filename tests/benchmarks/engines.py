"""What transcribes how fast, how well and in how much memory: engines on the same weights, clips and long file.

    pip install openai-whisper
    python tests/benchmarks/engines.py runs/cs data/cs --scratch /tmp/engines --clips 100 --minutes 30

The run is merged and written in each engine's own format. Every engine then has a process of its own, whose peak of
memory is read at its end; it loads, transcribes one clip that does not count, and then all of them. Each is told the
language and otherwise left at its defaults, but for what its name says. The long file is clips one after another with
pauses of 0.3 to 2 s; its errors are laid to the clip whose words they stand at, so that both have an interval.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from asr_lora.config import Context, Precision
from asr_lora.dataset.reading import read_split
from asr_lora.exporting.formats import write_export
from asr_lora.exporting.recipe import find_export_recipe
from asr_lora.folders.atomic import write_text
from asr_lora.folders.run_folder import ExportFolder
from asr_lora.metrics.intervals import difference_of, resamples
from asr_lora.metrics.normalize import basic
from asr_lora.metrics.wer import align_words
from asr_lora.model.find_model import find_model
from asr_lora.model.open_model import open_model
from asr_lora.model.whisper import Whisper

Ears = Callable[[list[str]], list[str]]  # files -> texts
RATE = 16_000


def ours(engine: str, *, beams: int = 1, precision: Precision = Precision.AUTO) -> Callable[[argparse.Namespace], Ears]:
    def load(given: argparse.Namespace) -> Ears:
        from asr_lora.decoding.decoding_options import FALLBACK_TEMPERATURES, DecodingOptions
        from asr_lora.decoding.loading import EngineName
        from asr_lora.transcription.inputs import find_inputs
        from asr_lora.transcription.recordings import transcribe_recordings
        from asr_lora.transcription.routes import make_routes
        from asr_lora.transcription.transcriber import open_transcriber

        loaded = open_transcriber(given.run, engine=EngineName(engine), precision=precision)
        how = DecodingOptions(beams, timestamps=True, fallback=FALLBACK_TEMPERATURES)

        def hear(files: list[str]) -> list[str]:
            texts, entries = [""] * len(files), find_inputs(files, written=False)
            for part in transcribe_recordings(loaded, entries, make_routes([], None, entries), how, sequential=False):
                texts[part.file] += " ".join(["", *(segment.text for segment in part.segments)])
            return texts

        return hear

    return load


def faster_whisper(kind: str, *, batched: bool = False) -> Callable[[argparse.Namespace], Ears]:
    def load(given: argparse.Namespace) -> Ears:
        from faster_whisper import BatchedInferencePipeline, WhisperModel

        folder = str(given.scratch / "ctranslate2")
        model: Any = WhisperModel(folder, device="cpu", compute_type=kind, cpu_threads=given.threads)
        if batched:
            model = BatchedInferencePipeline(model)
        return _each(
            lambda file: model.transcribe(file, language=given.language)[0],
            lambda found: "".join(s.text for s in found),
        )

    return load


def openai_whisper(given: argparse.Namespace) -> Ears:
    from whisper.model import ModelDimensions, Whisper

    body = torch.load(given.scratch / "openai.pt")
    model = Whisper(ModelDimensions(**body["dims"]))
    model.load_state_dict(body["state"], strict=False)  # masks are made, not kept
    model.eval()
    return _each(lambda file: model.transcribe(file, language=given.language, fp16=False), lambda found: found["text"])


def transformers_pipeline(given: argparse.Namespace) -> Ears:
    from transformers import pipeline

    pipe = pipeline(
        "automatic-speech-recognition", str(given.scratch / "transformers"), chunk_length_s=30,
        dtype=torch.float32, device="cpu",
    )  # fmt: skip
    return lambda files: [found["text"] for found in pipe(files, generate_kwargs={"language": given.language})]


def whisper_cpp(given: argparse.Namespace) -> Ears:
    from pywhispercpp.model import Model

    model = Model(
        str(given.scratch / "ggml" / "ggml-model-f16.bin"), redirect_whispercpp_logs_to=None, print_progress=False,
        language=given.language, n_threads=given.threads,
    )  # fmt: skip
    return _each(model.transcribe, lambda found: " ".join(segment.text for segment in found))


def _each(transcribe: Callable[[str], Any], text: Callable[[Any], str]) -> Ears:
    return lambda files: [text(transcribe(file)) for file in files]


ENGINES: dict[str, Callable[[argparse.Namespace], Ears]] = {
    "asr_lora, ctranslate2": ours("ctranslate2"),
    "asr_lora, ctranslate2, 5 beams": ours("ctranslate2", beams=5),
    "asr_lora, torch": ours("torch"),
    "asr_lora, ctranslate2, float32": ours("ctranslate2", precision=Precision.FP32),
    "faster-whisper": faster_whisper("default"),
    "faster-whisper, int8": faster_whisper("int8"),
    "faster-whisper, int8, batched": faster_whisper("int8", batched=True),
    "openai-whisper": openai_whisper,
    "Transformers pipeline": transformers_pipeline,
    "whisper.cpp": whisper_cpp,
}
FORMATS = (("transformers", "float32"), ("ctranslate2", "float32"), ("ggml", "float16"))
NAMES = (  # of Transformers, and of openai/whisper
    ("model.", ""), ("layers.", "blocks."), ("self_attn_layer_norm", "attn_ln"),
    ("encoder_attn_layer_norm", "cross_attn_ln"), ("final_layer_norm", "mlp_ln"),
    ("self_attn", "attn"), ("encoder_attn", "cross_attn"), ("q_proj", "query"),
    ("k_proj", "key"), ("v_proj", "value"), ("out_proj", "out"), ("fc1", "mlp.0"), ("fc2", "mlp.2"),
    ("embed_positions.weight", "positional_embedding"), ("embed_tokens", "token_embedding"),
    ("encoder.layer_norm", "encoder.ln_post"), ("decoder.layer_norm", "decoder.ln"),
)  # fmt: skip


def write_openai(whisper: Whisper, path: Path) -> None:
    """Write a checkpoint of openai/whisper."""
    config, state = whisper.core.config, {}
    for name, value in whisper.core.state_dict().items():
        if name != "proj_out.weight":
            state[reduce(lambda its, pair: its.replace(*pair), NAMES, name)] = value
    dims = {
        "n_mels": config.num_mel_bins, "n_vocab": config.vocab_size, "n_audio_ctx": config.max_source_positions,
        "n_audio_state": config.d_model, "n_audio_head": config.encoder_attention_heads,
        "n_audio_layer": config.encoder_layers, "n_text_ctx": config.max_target_positions,
        "n_text_state": config.d_model, "n_text_head": config.decoder_attention_heads,
        "n_text_layer": config.decoder_layers,
    }  # fmt: skip
    torch.save({"dims": dims, "state": state}, path)


def prepare(given: argparse.Namespace) -> None:
    """Write weights in every format, the clips, and the long file, where they are not there yet."""
    if given.facts.is_file():
        return
    place = find_model(given.run)
    for format_, dtype in FORMATS:
        folder = ExportFolder(given.scratch / format_)
        folder.root.mkdir(parents=True, exist_ok=True)
        whisper = open_model(place, context=Context.FULL, precision=Precision.FP32)
        write_export(place, whisper, find_export_recipe(format_, dtype), folder)
    write_openai(open_model(place, precision=Precision.FP32), given.scratch / "openai.pt")
    chance, sounds, rows = np.random.default_rng(0), [], []
    samples = 0
    for name in given.splits:
        split = read_split(given.dataset, name)
        for place_ in range(len(split)):
            if samples >= given.minutes * 60 * RATE:
                break
            sound, gap = split.waveform(place_), np.zeros(int(chance.uniform(0.3, 2.0) * RATE), np.float32)
            file = given.scratch / f"{len(rows):04}.wav"
            soundfile.write(file, sound, RATE)
            rows.append(
                {
                    "file": str(file),
                    "text": split.texts[place_],
                    "speaker": split.speakers[place_],
                    "seconds": len(sound) / RATE,
                }
            )
            sounds += [sound, gap]
            samples += len(sound) + len(gap)
    soundfile.write(given.scratch / "long.wav", np.concatenate(sounds), RATE)
    facts = {"clips": rows, "seconds": samples / RATE, "language": whisper.language}
    write_text(given.facts, json.dumps(facts))


def work(given: argparse.Namespace) -> None:
    """What a process of its own does: load an engine, and transcribe."""
    torch.set_num_threads(given.threads)
    facts = json.loads(given.facts.read_text())
    given.language = facts["language"]
    files = (
        [str(given.scratch / "long.wav")]
        if given.what == "long"
        else [c["file"] for c in facts["clips"]][: given.clips]
    )
    hear = ENGINES[given.engine](given)
    hear([facts["clips"][-1]["file"]])
    started = time.perf_counter()
    texts = hear(files)
    seconds = time.perf_counter() - started
    (peak,) = (
        line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")
    )
    print("\n" + json.dumps({"texts": texts, "seconds": seconds, "megabytes": int(peak) / 1024}))


def errors_of_clips(references: Sequence[str], text: str) -> list[int]:
    """Edits of one long hypothesis, laid to the clips whose words they stand at."""
    owner = [clip for clip, reference in enumerate(references) for _ in reference.split()]
    edits, word = [0] * len(references), 0
    (steps,) = align_words([" ".join(references)], [text])
    for step in steps:
        edits[owner[min(word, len(owner) - 1)]] += step.kind != "equal"
        word += step.reference is not None
    return edits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--scratch", type=Path, required=True)
    parser.add_argument("--splits", nargs="+", default=["dev", "test"])
    parser.add_argument("--clips", type=int, default=100)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--engines", nargs="+", choices=list(ENGINES), default=list(ENGINES))
    parser.add_argument("--what", nargs="+", choices=["clips", "long"], default=["clips", "long"])
    parser.add_argument("--engine", help=argparse.SUPPRESS)
    given = parser.parse_args()
    given.facts = given.scratch / "facts.json"
    if given.engine:
        given.what = given.what[0]
        work(given)
        return
    given.scratch.mkdir(parents=True, exist_ok=True)
    prepare(given)
    facts = json.loads(given.facts.read_text())
    for what in given.what:
        table(given, what, facts)


def table(given: argparse.Namespace, what: str, facts: dict[str, Any]) -> None:
    clips = facts["clips"] if what == "long" else facts["clips"][: given.clips]
    audio = facts["seconds"] if what == "long" else sum(clip["seconds"] for clip in clips)
    references = [basic(clip["text"]) for clip in clips]
    lengths = [len(reference.split()) for reference in references]
    plan = resamples([clip["speaker"] for clip in clips])
    print(f"\n{what}: {len(clips)} clips, {audio / 60:.1f} min, {sum(lengths)} words, intervals over {plan.unit}s\n")
    print("| engine | WER % | beside the first (95 %) | s | RTFx | times the first's | peak MB |", flush=True)
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |", flush=True)
    first = None
    for engine in given.engines:
        own = [
            sys.executable, __file__, given.run, str(given.dataset), "--scratch", str(given.scratch), "--clips",
            str(given.clips), "--threads", str(given.threads), "--what", what, "--engine", engine,
        ]  # fmt: skip
        ran = subprocess.run(own, capture_output=True, text=True, check=False)
        if ran.returncode:
            print(f"| {engine} | failed: {ran.stderr.strip().splitlines()[-1][:200]} |", flush=True)
            continue
        said = json.loads(ran.stdout.splitlines()[-1])
        heard = [basic(text) for text in said["texts"]]
        if what == "long":
            edits = errors_of_clips(references, heard[0])
        else:
            edits = [sum(s.kind != "equal" for s in steps) for steps in align_words(references, heard)]
        first = first or (edits, said["seconds"])
        sums = plan.draw({"first": first[0], "own": edits, "lengths": lengths})
        apart = difference_of(sums["first"], sums["own"], sums["lengths"])
        interval = f"{100 * apart.value:+.1f} ({100 * apart.low:+.1f} to {100 * apart.high:+.1f})"
        print(
            f"| {engine} | {100 * sum(edits) / sum(lengths):.1f} | {interval} | {said['seconds']:.1f} | "
            f"{audio / said['seconds']:.1f} | {said['seconds'] / first[1]:.2f} | {said['megabytes']:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
