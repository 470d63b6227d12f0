"""The job: transcribe a split with a model, and score the hypotheses."""

import json
import time
from pathlib import Path

from tqdm import tqdm

from asr_lora.config import Context, Precision
from asr_lora.dataset.reading import Split, read_split
from asr_lora.decoding.decoding_options import BEAMS, DecodingOptions
from asr_lora.decoding.engine import Engine, decode_split
from asr_lora.decoding.loading import EngineName, computed_in, engine_named, open_engine
from asr_lora.errors import ConfigError
from asr_lora.evaluation.report import SCORING, Row, read_rows, score_report
from asr_lora.folders.atomic import read_jsonl, write_jsonl
from asr_lora.folders.dataset_folder import DatasetFolder
from asr_lora.folders.digests import fingerprint
from asr_lora.folders.measurements import DecodingRecord, ReportRecord, ScoredSplit, SystemRecord
from asr_lora.folders.report_folder import ReportFolder
from asr_lora.language import ForcedPrompt, Task
from asr_lora.metrics.breakdown import RECORDED
from asr_lora.metrics.hotword_recall import Hotword, read_hotwords
from asr_lora.metrics.normalize import Normaliser, find_normaliser
from asr_lora.model.find_model import NamedModel, find_model, model_identity, training_record, weights_digest
from asr_lora.system.device import default_device
from asr_lora.system.locks import owning
from asr_lora.system.processes import ProcessGroup, join_process_group
from asr_lora.system.renamed import renamed_keywords

STAMPED = "basic-1"  # in every fingerprint since reports had one normaliser; hypotheses depend on none


@renamed_keywords(terms="hotwords")
@owning(lambda *_, out, **__: ReportFolder(out))
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
    beams: int = BEAMS,
    engine: str | None = None,
    normaliser: str = "basic",
    hotwords: Path | None = None,
) -> ReportFolder:
    """Transcribe a split and score it: write report.json and hypotheses.jsonl to `out`.

    Language and task are forced. An interrupted evaluation continues where it stopped; one with the same model, data
    and settings is not transcribed again, only scored again where another normaliser or hotwords are asked for. Under
    `accelerate launch` each process transcribes its share.

    Args:
        model: any name that `asr_lora.model.find_model` knows.
        dataset: a prepared dataset.
        out: folder for the report.
        split: the split to score.
        name: name of the system in comparisons; by default the model's.
        language: by default that of the run, or else that of the dataset.
        language_token: a related language, where Whisper has no token for the language; the run's when not given.
        task: by default that of the run.
        context: by default that of the run.
        precision: number format of the computation.
        beams: width of the beam search; 1 is greedy search, which is faster and makes more errors.
        engine: "torch" or "ctranslate2"; default: see `asr_lora.decoding.loading.engine_named`.
        normaliser: normaliser of the main scores, see `asr_lora.metrics.normalize`; the report has the others' too.
        hotwords: file of names and words, one per line, whose recall is computed.

    Raises:
        ConfigError: the language or normaliser is unknown; `out` holds another report, or other files.
        DataError: the model or dataset cannot be used, or the dataset has no such split.
    """
    manifest, found = DatasetFolder(dataset).read(), find_model(model)
    prompt = found.prompt(language, language_token, task, default=manifest.language)
    options, folder = DecodingOptions(beams=beams), ReportFolder(out)
    how = find_normaliser(normaliser, str(prompt.language))
    wanted, data = read_hotwords(hotwords, how) if hotwords else [], read_split(dataset, split)
    digest, processes = manifest.splits[split].sha256, join_process_group()
    runner = engine_named(engine, precision, needs_torch=processes.size > 1)
    precision = computed_in(engine, precision, runner)
    stamp = _fingerprint(found, digest, prompt, task, context, precision, options, runner)
    if folder.reusable(stamp):
        if processes.main:
            _score_again(folder, data, _changeable_facts(found, name or model), how, wanted)
        return folder
    if processes.main:
        _check_free(folder, model, split)
    loaded = open_engine(runner, found, prompt, context=context, precision=precision)
    if processes.main:
        folder.manifest.unlink(missing_ok=True)
    hypotheses, seconds, fresh_audio = _transcribe(loaded, data, options, folder, stamp, processes)
    if processes.main:
        rows, scored = score_report(_rows(data, hypotheses), str(prompt.language), how, wanted)
        write_jsonl(folder.hypotheses, rows)
        folder.write(
            ReportRecord(
                fingerprint=stamp,
                system=_system_record(found, loaded, name or model),
                dataset=_split_record(dataset, manifest.language, split, digest, data),
                decoding=_decoding_record(prompt, options),
                **scored.fields(),
                processes=processes.size,
                inference_seconds=round(seconds, 2),
                rtfx=round(fresh_audio / seconds, 2) if seconds else None,
            )
        )
        folder.remove_partials()
    processes.wait()
    return folder


def _fingerprint(
    model: NamedModel,
    digest: str,
    prompt: ForcedPrompt,
    task: Task | None,
    context: Context | None,
    precision: Precision,
    options: DecodingOptions,
    engine: EngineName,
) -> str:
    """Digest of everything that hypotheses depend on."""
    asked: dict[str, object] = {"task": task, "context": context, "precision": precision, "beams": options.beams}
    if engine is not EngineName.TORCH:  # the only engine of earlier versions
        asked["engine"] = engine
    spoken = {"language": prompt.language, "token": prompt.token}
    return fingerprint(model_identity(model), digest, spoken, asked, options.max_new_tokens, STAMPED)


def _changeable_facts(model: NamedModel, name: str) -> dict[str, object]:
    """Facts of the system that may differ while its hypotheses stay the same."""
    facts: dict[str, object] = {"name": name, "training": training_record(model)}
    if model.run:  # other digests would have to be computed from all weights again
        facts["weights_digest"] = weights_digest(model)
    return facts


def _split_record(dataset: Path, language: str, split: str, digest: str, data: Split) -> ScoredSplit:
    return ScoredSplit(
        folder=str(dataset),
        language=language,
        split=split,
        sha256=digest,
        utterances=len(data),
        seconds=round(sum(data.seconds), 1),
        speakers=len(set(data.speakers)),
    )


def _decoding_record(prompt: ForcedPrompt, options: DecodingOptions) -> DecodingRecord:
    return DecodingRecord(
        language=str(prompt.language),
        language_token=prompt.token,
        task=prompt.task,
        beams=options.beams,
        max_new_tokens=options.max_new_tokens,
        loops_end=True,
    )


def _system_record(model: NamedModel, engine: Engine, name: str) -> SystemRecord:
    return SystemRecord(
        name=name,
        model=model.name,
        base=model.base,
        weights_digest=weights_digest(model),
        strength=model.strength,
        context=engine.whisper.context,
        engine=engine.name,
        dtype=engine.dtype,
        device=default_device().type,
        training=training_record(model),
    )


def _score_again(
    folder: ReportFolder, data: Split, facts: dict[str, object], normaliser: Normaliser, hotwords: list[Hotword]
) -> None:
    """Bring name, training and scores of a report up to date; its hypotheses stay as they are.

    Args:
        facts: fields of the system that may have changed.
    """
    report = folder.read()
    report = report.model_copy(update={"transcribed_with": report.transcribed_with or report.made_with})
    changed = report.model_copy(update={"system": report.system.model_copy(update=facts)})
    before = (report.analysis.get("terms") or {}).get("each", ())
    same_hotwords = [row["term"] for row in before] == [one.written for one in hotwords]
    if (report.normaliser, report.scoring) == (normaliser.label, SCORING) and same_hotwords:
        if changed.system != report.system:
            folder.write(changed)
        return
    found = {row["id"]: row["hypothesis"] for row in read_rows(folder)}
    hypotheses = [found[key] for key in data.ids]
    rows, scored = score_report(_rows(data, hypotheses), report.decoding.language, normaliser, hotwords)
    write_jsonl(folder.hypotheses, rows)
    folder.write(changed.model_copy(update=scored.fields()))


def _check_free(folder: ReportFolder, model: str, split: str) -> None:
    """Refuse a folder that holds other files; an earlier report of the same model and split may be replaced."""
    if folder.complete:
        before = folder.read()
        other = before.system.model, before.dataset.split
        if other != (model, split):
            raise ConfigError(f"{folder.root} holds the report of {other[0]} on {other[1]}: name another with --out")
        return
    folder.require_ours(bool(folder.partials) or folder.hypotheses.is_file())


def _transcribe(
    engine: Engine, data: Split, options: DecodingOptions, folder: ReportFolder, stamp: str, processes: ProcessGroup
) -> tuple[list[str], float, float]:
    """Return hypotheses in the order of `data`, seconds of inference, and the seconds of audio transcribed in them.

    Each process transcribes its share and keeps it in a file of its own, from which any number of processes continues.
    """
    done = _kept(folder, stamp, processes)
    rest = data.select([index for index, key in enumerate(data.ids) if key not in done])
    batches = decode_split(engine, rest, options, rank=processes.rank, world_size=processes.size)
    seconds, audio = 0.0, 0.0
    fresh: list[tuple[str, str]] = []
    with (
        folder.partial(processes.rank).open("a", encoding="utf-8") as partial,
        tqdm(
            total=len(data), initial=len(done), desc="transcribe", unit="utterance", disable=not processes.main
        ) as bar,
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
    return [done[key] for key in data.ids], max(processes.gather([seconds])), processes.sum(audio)


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
    processes.wait()  # before any process writes, so that all divide the same remaining utterances
    return kept


def _rows(data: Split, hypotheses: list[str]) -> list[Row]:
    """Return the facts of every utterance before it is scored, in the order of `data`."""
    person = {field: list(data.rows[field]) for field in RECORDED if field in data.rows.column_names}
    return [
        {
            "id": key,
            "speaker": speaker,
            **{field: values[place] for field, values in person.items()},
            "seconds": round(seconds, 3),
            "reference": reference,
            "hypothesis": hypothesis,
        }
        for place, (key, speaker, seconds, reference, hypothesis) in enumerate(
            zip(data.ids, data.speakers, data.seconds, data.texts, hypotheses, strict=True)
        )
    ]
