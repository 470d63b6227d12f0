"""The job: one YAML -> a run folder. The loop reads from top to bottom."""

import json
import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import set_seed
from torch.utils.data import DataLoader
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from asr_lora.artifacts import (
    DatasetFolder,
    RunFolder,
    fingerprint,
    folder_bytes,
    folder_digest,
    read_jsonl,
    replacing_folder,
    write_jsonl,
    write_text,
)
from asr_lora.audio.dataset import Split, read_split
from asr_lora.config import Method, RunConfig
from asr_lora.errors import ConfigError, DataError, Interrupted
from asr_lora.model.adapters import attach_lora, count_parameters, require_gradients, save_weights, train_everything
from asr_lora.model.system import system_digest
from asr_lora.model.whisper import Whisper, compute_dtype, default_device, load_whisper
from asr_lora.scoring.wer import Scores, corpus_scores
from asr_lora.training.batches import IGNORED, Batch, Collator, TrainingSet, schedule_batches
from asr_lora.training.checkpoint import (
    Progress,
    find_checkpoint,
    load_checkpoint,
    read_progress,
    remove_checkpoint,
    save_checkpoint,
)
from asr_lora.training.memory import peak_memory_bytes, reset_peak_memory
from asr_lora.training.optim import build_optimiser, build_schedule
from asr_lora.transcription.decode import decode_split, default_batch_seconds


def train(config: RunConfig, *, resume: bool = False) -> RunFolder:  # noqa: PLR0915 (the loop, top to bottom)
    """Train a LoRA adapter or every weight, and keep the best by dev WER.

    Every number in `metrics.jsonl` and TensorBoard is of one optimiser step; dev WER comes from real decoding, in the
    context that the model is trained with. SIGINT and SIGTERM save a checkpoint first. A finished run with the same
    settings and data is left as it is.

    Raises:
        ConfigError: the settings do not fit the model, or the run folder holds another run.
        DataError: the dataset or model cannot be used, or the loss is no longer a number.
        Interrupted: stopped by a signal, everything saved.
    """
    folder = RunFolder(config.out)
    stamp = run_fingerprint(config)
    if folder.reusable(stamp):
        return folder
    _open_folder(folder, config, stamp, resume)

    settings = config.training
    set_seed(settings.seed)
    device = default_device()
    dtype = compute_dtype(config.model.precision, device)
    AcceleratorState._reset_state()  # accelerate keeps one precision a process; each run states its own
    accelerator = Accelerator(mixed_precision="bf16" if dtype is torch.bfloat16 else "no", cpu=device.type == "cpu")
    reset_peak_memory(device)
    whisper = load_for_training(config, accelerator.device, dtype)
    trainable, total = count_parameters(whisper.model)
    data = TrainingSet(
        read_split(config.data.dataset, "train", subset=config.data.subset),
        whisper,
        max_seconds=config.data.max_seconds,
    )
    if not len(data):
        raise DataError(f"{config.data.dataset}: no train utterance can be learnt from ({_counts(data.left_out)})")
    dev = _dev_split(config)
    optimiser = build_optimiser(whisper.model, config.optimiser)
    schedule = build_schedule(optimiser, config.optimiser, settings.steps)
    model, optimiser = accelerator.prepare(whisper.model, optimiser)
    progress = Progress(fingerprint=stamp)
    if found := find_checkpoint(folder.checkpoint):
        progress = load_checkpoint(found, whisper.model, optimiser, schedule)
    saved = progress
    started = time.perf_counter() - progress.train_seconds

    with (
        closing(Metrics(folder, progress)) as metrics,
        stop_signals() as stop,
        tqdm(total=settings.steps, initial=progress.step, desc=f"train {config.method}") as bar,
    ):
        steps = _steps(data, whisper, config, progress.step)
        while True:
            # First what is due after the last step: a run that was stopped while it scored dev scores it on resuming.
            step = progress.step
            last = step == settings.steps
            if step > progress.scored_step and (step % settings.evaluate_every_steps == 0 or last):
                scores = _score_dev(accelerator, whisper, dev, stop)
                if scores is not None:
                    metrics.write(step=step, dev_wer=scores.wer, dev_cer=scores.cer, dev_raw_wer=scores.raw_wer)
                    progress = _keep_best(folder, config, whisper, progress, scores)
            due = stop.requested or last or step % settings.checkpoint_every_steps == 0
            if due and progress != saved:
                progress = replace(progress, train_seconds=time.perf_counter() - started)
                save_checkpoint(folder.checkpoint, whisper.model, optimiser, schedule, progress)
                saved = progress
            if stop.requested:
                raise Interrupted(f"stopped after step {step} of {settings.steps}. Go on with: {_resume_with(folder)}")
            if last:
                break

            step += 1
            begun = time.perf_counter()
            batches = next(steps)
            waited = time.perf_counter() - begun
            whisper.model.train()
            loss = _accumulate(accelerator, model, batches)
            if step == 1:
                require_gradients(whisper.model)
            norm = float(accelerator.clip_grad_norm_(model.parameters(), config.optimiser.clip_norm))
            if not (math.isfinite(loss) and math.isfinite(norm)):
                ids = ", ".join(clip for batch in batches for clip in batch.ids)
                raise DataError(
                    f"step {step}: loss {loss}, gradient norm {norm}, nothing was learnt from it; clips: {ids}"
                )
            optimiser.step()
            optimiser.zero_grad()
            rate = float(schedule.get_last_lr()[0])
            schedule.step()

            speech = sum(batch.speech_seconds for batch in batches)
            progress = replace(
                progress,
                step=step,
                utterances=progress.utterances + sum(len(batch.ids) for batch in batches),
                train_seconds=time.perf_counter() - started,
                peak_memory_bytes=max(progress.peak_memory_bytes, peak_memory_bytes(accelerator.device)),
            )
            took = time.perf_counter() - begun
            metrics.write(
                step=step,
                epoch=round(progress.utterances / len(data), 4),
                loss=loss,
                lr=rate,
                grad_norm=norm,
                audio_seconds_per_second=speech / took,
                data_wait=waited / took,
                padding=sum(batch.padding_share for batch in batches) / len(batches),
                peak_memory=progress.peak_memory_bytes,
            )
            bar.set_postfix(loss=f"{loss:.3f}", dev_wer=_percent(progress.best_dev_wer), refresh=False)
            bar.update()

    weights = folder.weights(config.method)
    folder.write(
        {
            "fingerprint": stamp,
            "method": config.method,
            "model": {**config.model.model_dump(mode="json"), "language": whisper.language or "en"},
            "config": config.model_dump(mode="json"),
            "device": accelerator.device.type,
            "dtype": str(dtype).removeprefix("torch."),
            "parameters": {"trainable": trainable, "total": total},
            "train": {
                "utterances": len(data),
                "hours": round(sum(data.seconds) / 3600, 4),
                "epochs": round(progress.utterances / len(data), 3),
                "left_out": data.left_out,
            },
            "best": {"step": progress.best_step, "dev_wer": progress.best_dev_wer, "dev_cer": progress.best_dev_cer},
            "weights_bytes": folder_bytes(weights),
            "weights_digest": folder_digest(weights),
            "train_seconds": round(progress.train_seconds, 1),
            "peak_memory_bytes": progress.peak_memory_bytes,
        }
    )
    remove_checkpoint(folder.checkpoint)
    return folder


def run_fingerprint(config: RunConfig) -> str:
    """Digest of what decides a run's result: its settings, wherever it is kept, its data's hashes and its base."""
    manifest = DatasetFolder(config.data.dataset).read()
    files = {name: manifest[part][name]["sha256"] for part in ("splits", "subsets") for name in manifest[part]}
    settings = config.model_dump(mode="json", exclude={"out": True, "data": {"dataset": True}})
    return fingerprint(settings, files, system_digest(config.model.name))


def load_for_training(config: RunConfig, device: torch.device, dtype: torch.dtype) -> Whisper:
    """Load the base and make trainable what the method trains.

    What trains is kept in float32 and computed in `dtype` under autocast, since bf16 weights swallow small updates. A
    frozen base is kept in `dtype`.
    """
    frozen = config.method is Method.LORA
    whisper = load_whisper(
        config.model.name,
        config.model.language,
        task=config.model.task,
        context=config.model.context,
        dtype=dtype if frozen else torch.float32,
        quantise=config.model.quantise,
        device=device,
    )
    if config.training.gradient_checkpointing:
        # The reentrant kind leaves an encoder's adapter without gradients when its input has none.
        whisper.core.gradient_checkpointing_enable({"use_reentrant": False})
    if frozen:
        return attach_lora(whisper, config.adapter, quantise=config.model.quantise)
    return train_everything(whisper)


def batch_loss(model: torch.nn.Module, batch: Batch, device: torch.device) -> torch.Tensor:
    """Cross-entropy summed (not averaged) over the target tokens of a batch: a scalar."""
    logits = model(
        input_features=batch.features.to(device), decoder_input_ids=batch.decoder_inputs.to(device), use_cache=False
    ).logits  # (batch, tokens, vocabulary)
    labels = batch.labels.to(device)
    return torch.nn.functional.cross_entropy(
        logits.flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORED, reduction="sum"
    )


def _accumulate(accelerator: Accelerator, model: torch.nn.Module, batches: list[Batch]) -> float:
    """Backward through all micro-batches of a step; return the loss, the mean over all of their target tokens.

    Each micro-batch counts by its tokens, so 8 batches of 1 give the loss and gradient of 1 batch of 8.
    """
    tokens = sum(batch.target_tokens for batch in batches)
    mean = 0.0
    for batch in batches:
        loss = batch_loss(model, batch, accelerator.device) / tokens
        accelerator.backward(loss)
        mean += float(loss.detach())
    return mean


def _steps(data: TrainingSet, whisper: Whisper, config: RunConfig, done: int) -> Iterator[list[Batch]]:
    """Yield the micro-batches of each optimiser step after the first `done`."""
    training = config.training
    order = schedule_batches(
        data.seconds, batch_seconds=training.batch_seconds, context=config.model.context, seed=training.seed
    )
    remaining = islice(order, done * training.accumulation, training.steps * training.accumulation)
    collate = Collator(whisper.mel_bins, config.model.context, len(whisper.prompt))
    # The order knows its place, so nothing of the loader needs saving; its seed is drawn from a generator of its own,
    # or a resumed run would draw once more from the one that dropout uses.
    loader = DataLoader(
        data,
        batch_sampler=list(remaining),
        collate_fn=collate,
        num_workers=config.data.workers,
        generator=torch.Generator(),
    )
    batches = iter(loader)
    while step := list(islice(batches, training.accumulation)):
        yield step


def _dev_split(config: RunConfig) -> Split:
    dev = read_split(config.data.dataset, "dev")
    wanted = config.data.dev_utterances
    if not wanted or wanted >= len(dev):
        return dev
    return dev.select([place * len(dev) // wanted for place in range(wanted)])  # evenly over the split


def _score_dev(accelerator: Accelerator, whisper: Whisper, dev: Split, stop: "Stop") -> Scores | None:
    """Decode dev and score it; None when a signal comes first."""
    hypotheses = [""] * len(dev)
    with accelerator.autocast(), tqdm(total=len(dev), desc="dev", leave=False) as bar:
        for indices, texts in decode_split(whisper, dev, batch_seconds=default_batch_seconds(whisper)):
            for index, text in zip(indices, texts, strict=True):
                hypotheses[index] = text
            bar.update(len(indices))
            if stop.requested:
                return None
    return corpus_scores(dev.texts, hypotheses)


def _keep_best(folder: RunFolder, config: RunConfig, whisper: Whisper, progress: Progress, scores: Scores) -> Progress:
    progress = replace(progress, scored_step=progress.step)
    if progress.best_dev_wer is not None and scores.wer >= progress.best_dev_wer:
        return progress
    with replacing_folder(folder.weights(config.method)) as draft:
        save_weights(whisper, draft)
    return replace(progress, best_step=progress.step, best_dev_wer=scores.wer, best_dev_cer=scores.cer)


def _open_folder(folder: RunFolder, config: RunConfig, stamp: str, resume: bool) -> None:
    """Write config.yaml first; refuse a folder that holds another run, or an unfinished one without `resume`."""
    if folder.complete:
        if folder.read().get("fingerprint") != stamp:
            raise ConfigError(
                f"{folder.root} holds a finished run with other settings or data: name another folder in `out`"
            )
        folder.manifest.unlink()  # it has lost its weights
    if found := find_checkpoint(folder.checkpoint):
        if read_progress(found).fingerprint != stamp:
            raise ConfigError(
                f"{folder.root} holds an unfinished run with other settings or data: name another folder in `out`"
            )
        if not resume:
            raise ConfigError(f"{folder.root} holds an unfinished run. Go on with: {_resume_with(folder)}")
    else:
        folder.require_ours(folder.config.is_file(), "in `out`")
    folder.root.mkdir(parents=True, exist_ok=True)
    write_text(folder.config, config.to_yaml())


def _resume_with(folder: RunFolder) -> str:
    return f"asr-lora train {folder.config} --resume"


def _counts(left_out: dict[str, list[str]]) -> str:
    return ", ".join(f"{reason} {len(ids)}" for reason, ids in left_out.items()) or "the split is empty"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}%"


class Metrics:
    """metrics.jsonl and TensorBoard, cut back to where a run resumes from."""

    def __init__(self, folder: RunFolder, progress: Progress) -> None:
        if folder.metrics.is_file():
            rows = read_jsonl(folder.metrics)
            write_jsonl(folder.metrics, [row for row in rows if row["step"] <= progress.reached("dev_wer" in row)])
        self.file = folder.metrics.open("a", encoding="utf-8")
        self.board = SummaryWriter(str(folder.tensorboard), purge_step=progress.step + 1)

    def write(self, *, step: int, **values: float) -> None:
        self.file.write(json.dumps({"step": step, **values}) + "\n")
        self.file.flush()
        for name, value in values.items():
            self.board.add_scalar(name, value, step)

    def close(self) -> None:
        self.file.close()
        self.board.close()


@dataclass
class Stop:
    requested: bool = False


@contextmanager
def stop_signals() -> Iterator[Stop]:
    """Turn the first SIGINT or SIGTERM into a request that the loop honours; a second SIGINT breaks off at once."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # only the main thread may handle signals
        return

    def request(number: int, _: Any) -> None:
        if stop.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.requested = True

    before = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
