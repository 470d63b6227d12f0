"""Check the labels of a prepared dataset: apply the rules, ask a model where one is given, and write the report."""

import json
from collections.abc import Collection, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from tqdm import tqdm

from asr_lora.config import Precision
from asr_lora.dataset.reading import Split, read_split
from asr_lora.errors import ConfigError
from asr_lora.folders.atomic import read_jsonl, write_jsonl, write_text
from asr_lora.folders.dataset_folder import DatasetFolder, LabelReportFolder
from asr_lora.folders.digests import fingerprint
from asr_lora.labels.label_report import LabelReport, make_label_report, require_rules, write_label_report
from asr_lora.labels.model_scores import ModelScore, findings_from_scores
from asr_lora.pages.label_page import AUDIO_BYTES, Sounds, label_view, render_label_page, worst
from asr_lora.system.locks import owning

if TYPE_CHECKING:
    from asr_lora.model.whisper import Whisper

SCORE_VERSION = 1  # raised where ModelScore, or the way to compute it, changes

Scores = dict[tuple[str, str], ModelScore]  # (split, id) -> score


@owning(lambda dataset, **_: DatasetFolder(dataset) if dataset.is_dir() else None)
def check_labels(
    dataset: Path,
    *,
    model: str | None = None,
    language_token: str | None = None,
    precision: Precision = Precision.AUTO,
    without: Collection[str] = (),
    transcripts: bool = True,
    audio: bool = False,
) -> LabelReportFolder:
    """Apply the rules of `asr_lora.labels.rules` to all utterances, and write findings, counts and a page.

    The dataset is not changed. With a model, its scores give further findings; an interrupted check continues.

    Args:
        dataset: folder made by prepare.
        model: a model as in `asr_lora.model.find_model`, best the base model; None applies the rules only.
        language_token: a related language, where Whisper has no token for the language of the dataset.
        precision: precision of the model.
        without: rules that are off.
        transcripts: whether the page shows texts.
        audio: whether the page contains the audio of the most suspicious utterances.

    Returns:
        The folder with the report, inside the dataset's folder.

    Raises:
        ConfigError: a rule is unknown, or the model has no token for the language.
        DataError: the dataset or the model cannot be read.
    """
    require_rules(without)
    if language_token and not model:
        raise ConfigError("--language-token is for a model: add --model, such as --model openai/whisper-small")
    prepared = DatasetFolder(dataset)
    language = prepared.read().language
    splits = {name: read_split(dataset, name) for name in prepared.read().splits}  # checks the sizes of the files first
    report = make_label_report(prepared, language, without=without)
    scores: list[ModelScore] = []
    made_from = {"dataset_digest": prepared.splits_digest()}
    folder = prepared.label_report
    folder.manifest.unlink(missing_ok=True)
    if model:
        decodable = {name: _decodable(split, name, report) for name, split in splits.items()}
        scores = _model_scores(prepared, decodable, model, language_token, precision)
        report = _add_findings(report, scores, without)
        made_from["model"] = model
    sounds = _sounds(splits, worst(report, scores)) if audio else {}
    view = label_view(str(dataset), report, scores, transcripts=transcripts, sounds=sounds, language=language)
    write_text(folder.page, render_label_page(view))
    write_label_report(folder, report, **made_from)
    return folder


doctor = check_labels  # the name of earlier versions


def _decodable(split: Split, name: str, report: LabelReport) -> Split:
    """Leave out the utterances whose audio does not decode."""
    broken = {label.id for label in report.labels if label.split == name and label.sound is None}
    return split.select([index for index, id_ in enumerate(split.ids) if id_ not in broken]) if broken else split


def _add_findings(report: LabelReport, scores: Sequence[ModelScore], without: Collection[str]) -> LabelReport:
    """Add the findings from model scores, and correct "too-many-tokens": a scored text does fit the decoder."""
    scored = {(score.split, score.id) for score in scores}
    kept = [
        replace(finding, detail="counted by the model's tokenizer") if finding.rule == "too-many-tokens" else finding
        for finding in report.findings
        if finding.rule != "too-many-tokens" or (finding.split, finding.id) not in scored
    ]
    more = [finding for finding in findings_from_scores(scores, report.labels) if finding.rule not in without]
    return replace(report, findings=kept + more)


def _model_scores(
    dataset: DatasetFolder,
    splits: dict[str, Split],
    model: str,
    language_token: str | None,
    precision: Precision,
) -> list[ModelScore]:
    """Return the model's scores of all utterances, in the order of the dataset, and store them while it works."""
    from asr_lora.model.find_model import find_model, model_identity
    from asr_lora.model.open_model import open_model

    found = find_model(model)
    prompt = found.prompt(token=language_token, default=dataset.read().language)
    spoken = {"language": prompt.language, "token": prompt.token}
    stamp = fingerprint(model_identity(found), dataset.splits_digest(), spoken, precision, SCORE_VERSION, list(splits))
    stored = dataset.label_report.model_scores(stamp)
    rows = read_jsonl(stored) if stored.is_file() else []
    write_jsonl(stored, rows)  # removes a half-written last line
    scores: Scores = {(row["split"], row["id"]): ModelScore(**row) for row in rows}
    if any((name, id_) not in scores for name, split in splits.items() for id_ in split.ids):
        whisper = open_model(found, prompt, precision=precision)
        with stored.open("a", encoding="utf-8") as file:
            for name, split in splits.items():
                _score_split(whisper, split, name, scores, file)
    return [scores[name, id_] for name, split in splits.items() for id_ in split.ids if (name, id_) in scores]


def _score_split(whisper: "Whisper", split: Split, name: str, scores: Scores, file: TextIO) -> None:
    from asr_lora.evaluation.teacher_forced import score_labels

    done = {id_ for split_name, id_ in scores if split_name == name}
    with tqdm(total=len(split), initial=len(done), desc=f"score {name}", unit="utterance") as bar:
        for batch in score_labels(whisper, split, name, done=done):
            for score in batch:
                scores[score.split, score.id] = score
                file.write(json.dumps(asdict(score), ensure_ascii=False) + "\n")
            file.flush()
            bar.update(sum(score.id not in done for score in batch))


def _sounds(splits: dict[str, Split], wanted: Sequence[tuple[str, str]]) -> Sounds:
    """Return the FLAC of the first wanted utterances, up to the size that the page may have."""
    places = {name: {id_: index for index, id_ in enumerate(split.ids)} for name, split in splits.items()}
    sounds: Sounds = {}
    size = 0
    for name, id_ in wanted:
        if id_ not in places.get(name, {}):
            continue  # prepare left it out
        flac = splits[name].rows[places[name][id_]]["audio"]["bytes"]
        if flac and size + len(flac) <= AUDIO_BYTES:
            sounds[name, id_] = flac
            size += len(flac)
    return sounds
