"""Train a model with the settings of one YAML file; the loop reads from top to bottom."""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import chain, islice, tee

import torch
from tqdm import tqdm

from asr_lora.config import RunConfig
from asr_lora.dataset.reading import Split
from asr_lora.decoding.engine import TorchEngine, decode_split
from asr_lora.decoding.search import GREEDY
from asr_lora.errors import DataError, Interrupted
from asr_lora.folders.atomic import replacing_folder, write_text
from asr_lora.folders.digests import folder_bytes, folder_digest
from asr_lora.folders.run_folder import (
    BestCheckpoint,
    ParameterCount,
    RunFolder,
    RunModel,
    RunRecord,
    RunSettings,
    TrainedOn,
)
from asr_lora.metrics.normalize import find_normaliser, leading_rate
from asr_lora.metrics.wer import Rates, score
from asr_lora.model.adapters.adalora import allocate_rank
from asr_lora.model.adapters.files import save_weights
from asr_lora.model.trainable import count_parameters, require_gradients
from asr_lora.system.device import compute_dtype
from asr_lora.system.locks import owning
from asr_lora.system.memory import peak_memory_bytes, reset_peak_memory, return_freed_memory
from asr_lora.system.processes import ProcessGroup, join_process_group
from asr_lora.system.progress import say
from asr_lora.training.batches import Batch, TrainingSet, load_batches
from asr_lora.training.checkpoint import (
    Progress,
    average_snapshots,
    find_checkpoint,
    keep_snapshot,
    load_checkpoint,
    remove_checkpoint,
    save_checkpoint,
)
from asr_lora.training.examples import Example, ScheduleSettings, micro_batches, padding
from asr_lora.training.learner import Learner
from asr_lora.training.optim import build_optimiser, build_schedule
from asr_lora.training.setup import (
    data_hashes,
    dev_split,
    load_for_training,
    load_training_set,
    make_learner,
    make_schedule_settings,
    open_caches,
    require_place,
    resume_with,
    run_fingerprint,
)
from asr_lora.training.stopping import Stop, stop_signals
from asr_lora.training.training_log import TrainingLog

TRIM_STEPS = 5  # steps between two calls that return freed memory to the system


@owning(lambda config, **_: RunFolder(config.out))
def train(config: RunConfig, *, resume: bool = False) -> RunFolder:  # noqa: PLR0912, PLR0915 (the loop, top to bottom)
    """Train an adapter or every weight, and keep the best by WER on dev, or by CER where that leads.

    Every number in `metrics.jsonl` and TensorBoard belongs to one optimiser step; dev WER comes from real decoding, in
    the context that the model is trained with. SIGINT, SIGTERM and SIGUSR1 save a checkpoint first. Under
    `accelerate launch` each process takes its share of every step. A finished run with the same settings and data is
    not trained again.

    Raises:
        ConfigError: the settings do not fit the model, or the run folder holds another run.
        DataError: the dataset or model cannot be used, or loss or gradient is not finite.
        Interrupted: a signal stopped the run; everything is saved.
    """
    folder = RunFolder(config.out)
    stamp = run_fingerprint(config)
    if folder.reusable(stamp):
        return folder
    processes = join_process_group()
    if processes.main:
        _open_folder(folder, config, stamp, resume)
    processes.wait()

    settings = config.training
    dtype = compute_dtype(config.model.precision, processes.device)
    reset_peak_memory(processes.device)
    torch.manual_seed(settings.seed)
    whisper = load_for_training(config, processes.device, dtype)
    learner = make_learner(config, whisper, processes, dtype)
    data = load_training_set(config, whisper)
    dev = dev_split(config)
    sampling = make_schedule_settings(config, whisper)
    optimiser = build_optimiser(whisper.model, config.optimiser)
    rates = build_schedule(optimiser, config.optimiser, settings.steps)
    progress = Progress(stamp, micro_batch_seconds=settings.initial_micro_batch_seconds)
    if found := find_checkpoint(folder.checkpoint):
        progress = load_checkpoint(found, whisper, optimiser, rates)
    progress = replace(progress, lead=leading_rate(dev.texts))
    open_caches(config, data, sampling, learner)
    saved = progress
    started = time.perf_counter() - progress.train_seconds

    with (
        closing(TrainingLog(folder, progress, enabled=processes.main)) as log,
        stop_signals() as stop,
        tqdm(
            total=settings.steps, initial=progress.step, desc=f"train {config.method}", disable=not processes.main
        ) as bar,
    ):
        steps = _steps(data, sampling, processes, progress, config)
        while True:
            # First what is due after the last step: a run that was stopped while it scored dev scores it on resuming.
            step = progress.step
            last = step == settings.steps
            if step > progress.scored_step and (step % settings.evaluate_every_steps == 0 or last):
                scored = _score_dev(learner, dev, stop)
                if scored is not None:
                    clean, raw = scored
                    log.write(
                        step=step, dev_wer=clean.wer, dev_cer=clean.cer, dev_raw_wer=raw.wer,
                        seconds=time.perf_counter() - started,
                    )  # fmt: skip
                    progress = _keep_best(folder, config, learner, progress, clean)
            last = last or 0 < settings.early_stopping <= progress.without_better
            if last and settings.average_last > 1 and not progress.averaged:
                progress = _try_average(folder, config, learner, progress, dev, stop)
            stopping = processes.any(stop.requested)
            due = stopping or last or step % settings.checkpoint_every_steps == 0
            if due and progress != saved:
                progress = replace(progress, train_seconds=time.perf_counter() - started)
                if processes.main:
                    save_checkpoint(folder.checkpoint, whisper, optimiser, rates, progress)
                saved = progress
            if stopping:
                raise Interrupted(
                    f"stopped after step {step} of {settings.steps}. Continue with: {resume_with(folder)}"
                )
            if last:
                break

            step += 1
            begun = time.perf_counter()
            examples, batches = next(steps)
            waited = time.perf_counter() - begun
            tokens = sum(data.target_tokens(example) for example in examples)
            loss = learner.gradients(
                batches, tokens=tokens, seed=settings.seed, step=step, micro_batch_seconds=progress.micro_batch_seconds
            )
            if loss is None:
                progress = _halved(progress, examples, config)
                steps = _steps(data, sampling, processes, progress, config)
                continue
            if step == 1:
                require_gradients(whisper.model)
            norm = float(torch.nn.utils.clip_grad_norm_(learner.parameters, config.optimiser.clip_norm))
            if not (math.isfinite(loss) and math.isfinite(norm)):
                ids = ", ".join(clip for example in examples for clip in data.ids(example))
                raise DataError(
                    f"step {step}: loss {loss}, gradient norm {norm}; the step was not taken; utterances: {ids}"
                )
            optimiser.step()
            allocate_rank(whisper, step)
            optimiser.zero_grad()
            rate = float(rates.get_last_lr()[0])
            rates.step()

            progress = replace(
                progress,
                step=step,
                utterances=progress.utterances + sum(len(example.utterances) for example in examples),
                train_seconds=time.perf_counter() - started,
                peak_memory_bytes=max(progress.peak_memory_bytes, peak_memory_bytes(processes.device)),
            )
            took, speech = time.perf_counter() - begun, sum(example.seconds for example in examples)
            log.write(
                step=step,
                epoch=round(progress.utterances / len(data), 4),
                loss=loss,
                lr=rate,
                grad_norm=norm,
                audio_seconds_per_second=speech / took,
                data_wait=waited / took,
                padding=padding([examples]),
                peak_memory=progress.peak_memory_bytes,
            )
            if step % TRIM_STEPS == 0:
                return_freed_memory()
            bar.set_postfix(
                {"loss": f"{loss:.3f}", f"dev_{progress.lead}": _percent(progress.best_rate)}, refresh=False
            )
            bar.update()

    if processes.main:
        _write_manifest(folder, config, data, progress, learner)
        remove_checkpoint(folder)
    processes.wait()
    return_freed_memory()  # what comes next in this process begins small
    return folder


def _steps(
    data: TrainingSet, sampling: ScheduleSettings, processes: ProcessGroup, progress: Progress, config: RunConfig
) -> Iterator[tuple[list[Example], list[Batch]]]:
    """Yield the examples of each remaining step, and this process's micro-batches of them."""
    ahead, planned = tee(islice(data.schedule(sampling), progress.step, config.training.steps))

    def share(step: list[Example]) -> list[list[Example]]:
        return micro_batches(step, progress.micro_batch_seconds, rank=processes.rank, world_size=processes.size)

    # The loader's workers read ahead of the loop, hence the second iterator over the same plan.
    order = chain.from_iterable(share(step) for step in ahead)
    batches = iter(load_batches(data, order, workers=config.data.workers))
    for step in planned:
        yield step, list(islice(batches, len(share(step))))


def _halved(progress: Progress, examples: Sequence[Example], config: RunConfig) -> Progress:
    """Halve the micro-batches; a step still has the same examples.

    Raises:
        torch.OutOfMemoryError: memory does not suffice for one example.
    """
    before, longest = progress.micro_batch_seconds, max(example.context for example in examples)
    if max(len(batch) for batch in micro_batches(examples, before)) == 1:
        raise torch.OutOfMemoryError(f"not enough memory for one example of {longest:g} s")
    after = before / 2
    say(
        f"not enough memory for {before:g} s of audio at once: {after:g} s from here on; a step still learns from "
        f"{config.training.batch_seconds:g} s (training.micro_batch_seconds={after:g} begins so)"
    )
    return replace(progress, micro_batch_seconds=after)


def _score_dev(learner: Learner, dev: Split, stop: Stop) -> tuple[Rates, Rates] | None:
    """Decode dev, each process its share; return its rates after the basic normaliser and as written.

    They are counted as `evaluate` counts them. None: a signal comes first.
    """
    processes, whisper = learner.processes, learner.whisper
    decoded: list[tuple[int, str]] = []
    with learner.autocast(), tqdm(total=len(dev), desc="dev", leave=False, disable=not processes.main) as bar:
        share = decode_split(TorchEngine(whisper), dev, GREEDY, rank=processes.rank, world_size=processes.size)
        for indices, texts in share:
            decoded += zip(indices, texts, strict=True)
            bar.update(len(indices))
            if stop.requested:
                break
    if processes.any(stop.requested):
        return None
    found = dict(processes.gather(decoded))
    hypotheses = [found[index] for index in range(len(dev))]
    language = whisper.prompt.language or "en"
    clean, raw = (score(dev.texts, hypotheses, find_normaliser(name, language)).rates for name in ("basic", "none"))
    return clean, raw


def _keep_best(folder: RunFolder, config: RunConfig, learner: Learner, progress: Progress, rates: Rates) -> Progress:
    """Save the weights if the leading rate on dev is the lowest so far, and a snapshot if `average_last` is set."""
    if config.training.average_last and learner.processes.main and progress.scored_step < progress.step:
        keep_snapshot(folder, learner.whisper.model, progress.step, most=config.training.average_last)
    progress = replace(progress, scored_step=progress.step)
    if progress.best_rate is not None and getattr(rates, progress.lead) >= progress.best_rate:
        return replace(progress, without_better=progress.without_better + 1)
    if learner.processes.main:
        with replacing_folder(folder.weights(config.method)) as draft:
            save_weights(learner.whisper, draft)
    return replace(progress, best_step=progress.step, best_dev_wer=rates.wer, best_dev_cer=rates.cer, without_better=0)


def _try_average(
    folder: RunFolder, config: RunConfig, learner: Learner, progress: Progress, dev: Split, stop: Stop
) -> Progress:
    """Score the average of the last evaluations' weights (arXiv 1803.05407), and keep it if it is the best."""
    learner.processes.wait()  # until the last snapshot is written
    average_snapshots(folder, learner.whisper.model)
    scored = _score_dev(learner, dev, stop)
    if scored is None:
        return progress
    kept = _keep_best(folder, config, learner, progress, scored[0])
    return replace(kept, averaged=True, average_is_best=kept.best_rate != progress.best_rate)


def _open_folder(folder: RunFolder, config: RunConfig, stamp: str, resume: bool) -> None:
    """Write config.yaml; refuse a folder that holds another run, or an unfinished one without `resume`."""
    require_place(folder, stamp, resume=resume)
    folder.manifest.unlink(missing_ok=True)  # the weights of that finished run are gone
    folder.root.mkdir(parents=True, exist_ok=True)
    write_text(folder.config, config.to_yaml())


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}%"


def _write_manifest(
    folder: RunFolder, config: RunConfig, data: TrainingSet, progress: Progress, learner: Learner
) -> None:
    weights, whisper = folder.weights(config.method), learner.whisper
    trainable, total = count_parameters(whisper.model)
    settings = {**config.model.model_dump(mode="json"), "language": whisper.prompt.language or "en"}
    folder.write(
        RunRecord(
            fingerprint=progress.fingerprint,
            method=config.method,
            model=RunModel.model_validate(settings),
            config=RunSettings.model_validate(config.model_dump(mode="json")),
            data=data_hashes(config),
            device=learner.processes.device.type,
            dtype=str(learner.dtype).removeprefix("torch."),
            parameters=ParameterCount(trainable=trainable, total=total),
            processes={
                "count": learner.processes.size,
                "gradient_bytes_a_step": 4 * trainable if learner.processes.size > 1 else 0,
            },
            train=TrainedOn(
                utterances=len(data),
                hours=round(sum(data.seconds) / 3600, 4),
                epochs=round(progress.utterances / len(data), 3),
                steps=progress.step,
                micro_batch_seconds=progress.micro_batch_seconds,
                left_out=data.left_out,
            ),
            best=BestCheckpoint(
                step=progress.best_step,
                dev_wer=progress.best_dev_wer,
                dev_cer=progress.best_dev_cer,
                averaged=progress.average_is_best,
                lead=progress.lead,
            ),
            weights_bytes=folder_bytes(weights),
            weights_digest=folder_digest(weights),
            train_seconds=round(progress.train_seconds, 1),
            peak_memory_bytes=progress.peak_memory_bytes,
        )
    )
