"""The job: a prepared dataset -> what is suspicious about its labels, before a GPU hour is spent on them."""

import json
from collections.abc import Collection, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from asr_lora.config import Precision
from asr_lora.dataset.reading import Split, read_split
from asr_lora.errors import ConfigError
from asr_lora.folders.atomic import read_jsonl, write_jsonl, write_text
from asr_lora.folders.dataset_folder import SPLITS, DatasetFolder, LabelReportFolder
from asr_lora.folders.digests import fingerprint
from asr_lora.labels.label_report import LabelReport, report_labels, require_rules, write_label_report
from asr_lora.labels.model_scores import ModelScore, judged
from asr_lora.pages.label_page import AUDIO_BYTES, Sounds, label_view, render_label_page, worst

if TYPE_CHECKING:
    from asr_lora.model.whisper import Whisper

OPINION_VERSION = 1  # of what an opinion holds


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
    """Apply the rules of `asr_lora.labels.rules` to every utterance: findings.jsonl, doctor.json and a page.

    Nothing is changed or left out of the dataset. With a model, labels are also suspected by what it thinks of them;
    interrupted, the same call goes on where it stopped.

    Args:
        dataset: folder made by prepare.
        model: best an untouched one; see `asr_lora.model.find_model`. None: rules only.
        language_token: of a related language, where Whisper has none for the language.
        precision: what the model computes in.
        without: names of rules that are off.
        transcripts: whether the page shows texts.
        audio: whether the page carries the sound of the worst utterances.

    Raises:
        ConfigError: no such rule, or the model cannot be told the language.
        DataError: the dataset or model cannot be used.
    """
    require_rules(without)
    if language_token and not model:
        raise ConfigError("--language-token is told to a model: add --model, such as --model openai/whisper-small")
    place = DatasetFolder(dataset)
    manifest = place.read()
    data = {split: read_split(dataset, split) for split in SPLITS}  # checks sizes first
    label_report = report_labels(place, manifest.language, without=without)
    thought: list[ModelScore] = []
    more = {"dataset_digest": place.splits_digest()}
    folder = place.label_report
    folder.manifest.unlink(missing_ok=True)
    if model:
        readable = {split: _readable(data[split], split, label_report) for split in data}
        thought = _opinions(place, readable, model, language_token, precision)
        label_report = _with_opinions(label_report, thought, without)
        more["model"] = model
    sounds = _sounds(data, worst(label_report, thought)) if audio else {}
    view = label_view(str(dataset), label_report, thought, transcripts=transcripts, sounds=sounds)
    write_text(folder.page, render_label_page(view))
    write_label_report(folder, label_report, **more)
    return folder


doctor = check_labels  # the name of earlier versions


def _readable(data: Split, split: str, label_report: LabelReport) -> Split:
    """What can be heard of a split."""
    unreadable = {label.id for label in label_report.labels if label.split == split and label.sound is None}
    return data.select([index for index, clip in enumerate(data.ids) if clip not in unreadable]) if unreadable else data


def _with_opinions(label_report: LabelReport, thought: Sequence[ModelScore], without: Collection[str]) -> LabelReport:
    """Add what follows from opinions; the model's tokenizer has also counted tokens, which bytes only bound."""
    known = {(opinion.split, opinion.id) for opinion in thought}
    kept = [
        replace(finding, detail="counted by the model's tokenizer") if finding.rule == "too-many-tokens" else finding
        for finding in label_report.findings
        if finding.rule != "too-many-tokens" or (finding.split, finding.id) not in known
    ]
    more = [finding for finding in judged(thought, label_report.labels) if finding.rule not in without]
    return replace(label_report, findings=kept + more)


def _opinions(
    dataset: DatasetFolder,
    data: dict[str, Split],
    model: str,
    language_token: str | None,
    precision: Precision,
) -> list[ModelScore]:
    """What a model thinks of every utterance, in the order of the dataset; kept on disk as it goes."""
    from asr_lora.model.find_model import find_model, model_identity
    from asr_lora.model.open_model import open_model

    found = find_model(model)
    prompt = found.prompt(token=language_token, default=dataset.read().language)
    spoken = {"language": prompt.language, "token": prompt.token}
    stamp = fingerprint(model_identity(found), dataset.splits_digest(), spoken, precision, OPINION_VERSION, list(data))
    kept = dataset.label_report.model_scores(stamp)
    rows = read_jsonl(kept) if kept.is_file() else []
    write_jsonl(kept, rows)  # without a half-written last line
    thought = {(row["split"], row["id"]): ModelScore(**row) for row in rows}
    if any((name, clip) not in thought for name, split in data.items() for clip in split.ids):
        whisper = open_model(found, prompt, precision=precision)
        with kept.open("a", encoding="utf-8") as handle:
            for name, split in data.items():
                _ask(whisper, split, name, thought, handle)
    return [thought[name, clip] for name, split in data.items() for clip in split.ids if (name, clip) in thought]


def _ask(whisper: "Whisper", split: Split, name: str, thought: dict[tuple[str, str], ModelScore], handle: Any) -> None:
    from asr_lora.evaluation.teacher_forced import score_labels

    done = {clip for asked, clip in thought if asked == name}
    with tqdm(total=len(split), initial=len(done), desc=f"ask about {name}", unit="clip") as bar:
        for batch in score_labels(whisper, split, name, done=done):
            for opinion in batch:
                thought[opinion.split, opinion.id] = opinion
                handle.write(json.dumps(asdict(opinion), ensure_ascii=False) + "\n")
            handle.flush()
            bar.update(sum(opinion.id not in done for opinion in batch))


def _sounds(data: dict[str, Split], wanted: Sequence[tuple[str, str]]) -> Sounds:
    """FLAC of the first utterances of a list, as many as the page may carry."""
    places = {name: {clip: index for index, clip in enumerate(split.ids)} for name, split in data.items()}
    sounds: Sounds = {}
    size = 0
    for name, clip in wanted:
        if clip not in places.get(name, {}):
            continue  # left out by prepare
        flac = data[name].rows[places[name][clip]]["audio"]["bytes"]
        if flac and size + len(flac) <= AUDIO_BYTES:
            sounds[name, clip] = flac
            size += len(flac)
    return sounds
