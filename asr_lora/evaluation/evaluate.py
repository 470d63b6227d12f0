"""The job: a model and a dataset split -> hypotheses and scores."""

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

from asr_lora.config import Context, Precision
from asr_lora.dataset.reading import Split, read_split
from asr_lora.decoding.decoding_options import DecodingOptions
from asr_lora.decoding.search import decode_split, default_batch_seconds
from asr_lora.errors import ConfigError
from asr_lora.evaluation.report import PERSON, SCORING, read_rows, report_facts
from asr_lora.folders.atomic import read_jsonl, write_jsonl
from asr_lora.folders.dataset_folder import DatasetFolder, DatasetRecord
from asr_lora.folders.digests import fingerprint
from asr_lora.folders.report_folder import ReportFolder
from asr_lora.language import ForcedPrompt, Task
from asr_lora.metrics.hotword_recall import Hotword, read_hotwords
from asr_lora.metrics.normalize import Normaliser, find_normaliser
from asr_lora.model.find_model import NamedModel, find_model, model_identity, training_record, weights_digest
from asr_lora.model.open_model import open_model
from asr_lora.model.whisper import Whisper
from asr_lora.system.processes import ProcessGroup, join_process_group

STAMPED = "basic-1"  # in every fingerprint since reports had one normaliser; hypotheses depend on none


def evaluate(
    model: str,
    dataset: Path,
    *,
    out: Path,
    split: str = "test",
    name: str | None = None,
    language: str | None = None,
    language_token: str | None = None,
    task: Task | None = None,
    context: Context | None = None,
    precision: Precision = Precision.AUTO,
    beams: int = 1,
    normaliser: str = "basic",
    terms: Path | None = None,
) -> ReportFolder:
    """Transcribe a split and score it: report.json and hypotheses.jsonl in `out`.

    Language and task are forced. An interrupted evaluation goes on where it stopped; one with the same model, data
    and settings is not transcribed again, only scored again where another normaliser or terms are asked for. Under
    `accelerate launch` each process transcribes its share.

    Args:
        model: see `asr_lora.model.find_model`.
        name: of the system in comparisons; the model's when not given.
        language: the run's, then the dataset's, when not given.
        language_token: of a related language, where Whisper has none for the language; the run's when not given.
        normaliser: of the scores that lead, see `asr_lora.metrics.normalize`; the others are given beside it.
        terms: file of named terms, one a line, whose recall is wanted.

    Raises:
        ConfigError: unknown language or normaliser; `out` holds the report of another model or split, or something
            else.
        DataError: the model or dataset cannot be used, or has no such split.
    """
    manifest = DatasetFolder(dataset).read()
    found = find_model(model)
    prompt = found.prompt(language, language_token, task, default=manifest.language)
    options = DecodingOptions(beams=beams)
    how = find_normaliser(normaliser, str(prompt.language))
    wanted = read_hotwords(terms, how) if terms else None
    data = read_split(dataset, split)
    digest = manifest.splits[split].sha256
    settings = {"task": task, "context": context, "precision": precision, "beams": beams}
    spoken = {"language": prompt.language, "token": prompt.token}
    stamp = fingerprint(model_identity(found), digest, spoken, settings, options.max_new_tokens, STAMPED)
    folder = ReportFolder(out)
    if folder.reusable(stamp):
        said = {"name": name or model, "training": _training_facts(found)}
        _score_again(folder, data, said, how, wanted)
        return folder
    processes = join_process_group()
    if processes.main:
        _check_free(folder, model, split)

    whisper = open_model(found, prompt, context=context, precision=precision)
    if processes.main:
        folder.manifest.unlink(missing_ok=True)
    hypotheses, seconds, fresh_audio = _transcribe(whisper, data, options, folder, stamp, processes)
    if processes.main:
        rows, facts = report_facts(_rows(data, hypotheses), str(prompt.language), how, wanted)
        write_jsonl(folder.hypotheses, rows)
        folder.write(
            {
                "fingerprint": stamp,
                "system": _system_facts(found, whisper, name or model),
                "dataset": _dataset_facts(dataset, manifest, split, data),
                "decoding": _decoding_facts(prompt, options),
                **facts,
                "processes": processes.size,
                "inference_seconds": round(seconds, 2),
                "rtfx": round(fresh_audio / seconds, 2) if seconds else None,
            }
        )
        for path in folder.partials:
            path.unlink()
    processes.wait()
    return folder


def _dataset_facts(dataset: Path, manifest: DatasetRecord, split: str, data: Split) -> dict[str, Any]:
    return {
        "folder": str(dataset),
        "language": manifest.language,
        "split": split,
        "sha256": manifest.splits[split].sha256,
        "utterances": len(data),
        "seconds": round(sum(data.seconds), 1),
        "speakers": len(set(data.speakers)),
    }


def _decoding_facts(prompt: ForcedPrompt, options: DecodingOptions) -> dict[str, Any]:
    """State what hypotheses depend on besides the model; reports are compared only where it is equal."""
    return {
        "language": prompt.language,
        "language_token": prompt.token,
        "task": prompt.task,
        "beams": options.beams,
        "max_new_tokens": options.max_new_tokens,
        "loops_end": True,  # see decoding.search.EndLoops
    }


def _system_facts(model: NamedModel, whisper: Whisper, name: str) -> dict[str, Any]:
    return {
        "name": name,
        "model": model.name,
        "base": model.base,
        "weights_digest": weights_digest(model),
        "strength": model.strength,
        "context": whisper.context,
        "dtype": str(whisper.dtype).removeprefix("torch."),
        "device": whisper.device.type,
        "training": _training_facts(model),
    }


def _training_facts(model: NamedModel) -> dict[str, Any] | None:
    training = training_record(model)
    return asdict(training) if training else None


def _score_again(
    folder: ReportFolder, data: Split, said: dict[str, Any], normaliser: Normaliser, terms: list[Hotword] | None
) -> None:
    """Bring what a report says of its system, and its scores, to what is asked; its hypotheses stay as they are."""
    body = folder.read()
    body = {**body, "transcribed_with": body.get("transcribed_with", body["made_with"])}
    system = body["system"] | said
    before = {key: body.get(key) for key in ("normaliser", "scoring")}
    listed = [row["term"] for row in body.get("analysis", {}).get("terms", {}).get("each", ())]
    same = before == {"normaliser": normaliser.label, "scoring": SCORING}
    if same and listed == [term.written for term in terms or ()]:
        if body["system"] != system:
            folder.write({**body, "system": system})
        return
    found = {row["id"]: row["hypothesis"] for row in read_rows(folder)}
    hypotheses = [found[clip] for clip in data.ids]
    rows, facts = report_facts(_rows(data, hypotheses), body["decoding"]["language"], normaliser, terms)
    write_jsonl(folder.hypotheses, rows)
    folder.write({**body, "system": system, **facts})


def _check_free(folder: ReportFolder, model: str, split: str) -> None:
    """Refuse a folder with something else in it; an earlier report of the same model and split may be replaced."""
    if folder.complete:
        before = folder.read()
        other = before["system"]["model"], before["dataset"]["split"]
        if other != (model, split):
            raise ConfigError(f"{folder.root} holds the report of {other[0]} on {other[1]}: name another with --out")
        return
    folder.require_ours(bool(folder.partials) or folder.hypotheses.is_file())


def _transcribe(
    whisper: Whisper, data: Split, options: DecodingOptions, folder: ReportFolder, stamp: str, processes: ProcessGroup
) -> tuple[list[str], float, float]:
    """Return hypotheses in the order of `data`, seconds of inference, and seconds of audio that these took.

    Each process transcribes its share and keeps it in a file of its own, which any number of processes goes on from.
    """
    done = _kept(folder, stamp, processes)
    rest = data.select([index for index, clip in enumerate(data.ids) if clip not in done])
    batches = decode_split(
        whisper,
        rest,
        options,
        batch_seconds=default_batch_seconds(whisper),
        rank=processes.rank,
        world_size=processes.size,
    )
    seconds, audio = 0.0, 0.0
    fresh: list[tuple[str, str]] = []
    with (
        folder.partial(processes.rank).open("a", encoding="utf-8") as partial,
        tqdm(total=len(data), initial=len(done), desc="transcribe", unit="clip", disable=not processes.main) as bar,
    ):
        if partial.tell() == 0:
            partial.write(json.dumps({"fingerprint": stamp}) + "\n")
        started = time.perf_counter()
        for indices, texts in batches:
            seconds += time.perf_counter() - started
            audio += sum(rest.seconds[index] for index in indices)
            for index, text in zip(indices, texts, strict=True):
                fresh.append((rest.ids[index], text))
                partial.write(json.dumps({"id": rest.ids[index], "hypothesis": text}, ensure_ascii=False) + "\n")
            partial.flush()
            bar.update(len(indices))
            started = time.perf_counter()
    done |= dict(processes.gather(fresh))
    return [done[clip] for clip in data.ids], max(processes.gather([seconds])), processes.sum(audio)


def _kept(folder: ReportFolder, stamp: str, processes: ProcessGroup) -> dict[str, str]:
    """Hypotheses of an interrupted evaluation of the same model, data and settings; a half-written line is ignored."""
    if processes.main:
        folder.root.mkdir(parents=True, exist_ok=True)
        for path in folder.partials:
            rows = read_jsonl(path)
            if rows and rows[0].get("fingerprint") == stamp:
                write_jsonl(path, rows)  # without a half-written last line
            else:
                path.unlink()
    processes.wait()
    kept = {row["id"]: row["hypothesis"] for path in folder.partials for row in read_jsonl(path)[1:]}
    processes.wait()  # before anybody writes on, so that all share out the same rest
    return kept


def _rows(data: Split, hypotheses: list[str]) -> list[dict[str, Any]]:
    """What is known of every utterance before it is scored, in the order of `data`."""
    person = {field: list(data.rows[field]) for field in PERSON if field in data.rows.column_names}
    return [
        {
            "id": clip,
            "speaker": speaker,
            **{field: values[place] for field, values in person.items()},
            "seconds": round(seconds, 3),
            "reference": reference,
            "hypothesis": hypothesis,
        }
        for place, (clip, speaker, seconds, reference, hypothesis) in enumerate(
            zip(data.ids, data.speakers, data.seconds, data.texts, hypotheses, strict=True)
        )
    ]
