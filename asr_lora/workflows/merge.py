"""Write the mean of several runs as a run of its own, which every other job takes."""

from collections.abc import Sequence
from pathlib import Path

import torch

from asr_lora.config import Method
from asr_lora.errors import ConfigError
from asr_lora.folders.atomic import replacing_folder
from asr_lora.folders.digests import fingerprint, folder_bytes, folder_digest
from asr_lora.folders.run_folder import BestCheckpoint, MergedRun, RunFolder, RunRecord, TrainedOn
from asr_lora.model.adapters.averaging import can_be_stacked, load_sum, save_stacked
from asr_lora.model.adapters.files import save_weights
from asr_lora.model.find_model import find_mean, model_identity
from asr_lora.model.open_model import weighted_models
from asr_lora.model.whisper import load_whisper
from asr_lora.system.locks import owning


@owning(lambda *_, out, **__: RunFolder(out))
def merge(runs: Sequence[str], *, out: Path, rank: int | None = None) -> RunFolder:
    """Average finished runs of one base, each with equal weight or with the share that its name ends in.

    The mean of adapters is an adapter whose rank is the sum of theirs, which is exact, unless a rank is given. Where
    a run was fine-tuned in full, or is a DoRA, the mean is a whole model. Runs of other seeds or settings make fewer
    errors together than the best of them alone, at the cost of one model (model soups, arXiv 2203.05482).

    Args:
        runs: run folders, such as `runs/a`, or `runs/a@0.6` for a share of 0.6.
        out: folder of the mean. It holds a run: `evaluate`, `transcribe`, `export` and the others take it.
        rank: the adapter of the mean is compressed to this rank by SVD.

    Raises:
        ConfigError: bases, languages or contexts differ, the shares do not fit, `rank` is given for a whole model, or
            `out` holds something else.
        DataError: a run is unfinished, damaged or no run.
    """
    mean = find_mean(runs)
    records = [part.model.run for part in mean.parts]
    if any(record is None for record in records):
        raise ConfigError(f"{mean.name}: an adapter without its run.json has no part in a merged run: name run folders")
    known = [record for record in records if record is not None]
    parts = weighted_models(mean)
    method = Method.LORA if can_be_stacked(parts) else Method.FULL
    if rank is not None and (method is Method.FULL or rank < 1):
        raise ConfigError("--rank: is for a mean of adapters, at least 1; a whole model or a DoRA among them has none")
    folder, stamp = RunFolder(out), fingerprint("mean", model_identity(mean), rank)
    if folder.reusable(stamp):
        return folder
    folder.require_ours(folder.complete and bool(folder.read().merged))
    out.mkdir(parents=True, exist_ok=True)
    retained, prompt = None, mean.prompt()
    with replacing_folder(folder.weights(method)) as draft:
        if method is Method.LORA:
            rank, retained = save_stacked(load_whisper(mean.base, prompt, dtype=torch.float32), parts, draft, rank)
        else:
            save_weights(load_sum(mean.base, parts, prompt, torch.float32, device=torch.device("cpu")), draft)
    weights = folder.weights(method)
    merged = [
        MergedRun(name=part.model.name, share=part.share, weights_digest=record.weights_digest)
        for part, record in zip(mean.parts, known, strict=True)
    ]
    folder.write(_record(known, method, rank).model_copy(update={
        "fingerprint": stamp, "weights_bytes": folder_bytes(weights), "weights_digest": folder_digest(weights),
        "merged": merged, "retained": retained,
    }))  # fmt: skip
    return folder


def _record(records: Sequence[RunRecord], method: Method, rank: int | None) -> RunRecord:
    """Return the first run's record with the cost of all, and no dev score: no evaluation chose the mean."""
    first = records[0]
    adapter = first.config.adapter
    if adapter is not None and rank is not None:
        adapter = adapter.model_copy(update={"rank": rank, "alpha": float(rank)})
    return first.model_copy(
        update={
            "method": method,
            "config": first.config.model_copy(update={"method": method, "adapter": adapter}),
            "train": TrainedOn(
                utterances=first.train.utterances,
                hours=first.train.hours,
                epochs=round(sum(record.train.epochs for record in records), 3),
                steps=sum(record.train.steps or 0 for record in records),
            ),
            "best": BestCheckpoint(step=0, dev_wer=None),
            "train_seconds": round(sum(record.train_seconds for record in records), 1),
            "peak_memory_bytes": max(record.peak_memory_bytes for record in records),
        }
    )
