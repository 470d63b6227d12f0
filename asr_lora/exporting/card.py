"""Write a model card: README.md with the hub's metadata, from the records of a run, its export, data and reports.

Every value is picked by name, so that folders of this machine, people and transcripts cannot get into it.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from asr_lora.config import Context, Method
from asr_lora.errors import DataError
from asr_lora.exporting.recipe import Format
from asr_lora.folders.dataset_folder import DatasetRecord
from asr_lora.folders.measurements import ReportRecord
from asr_lora.folders.run_folder import ExportRecord, RunRecord
from asr_lora.model.vocabulary import HUB_ID
from asr_lora.pages.templating import environment, markdown
from asr_lora.text import printable

TASK = "automatic-speech-recognition"
HUB_CODES = {"jw": "jv"}  # where Whisper's language code differs from ISO 639
LIBRARIES = {Format.ADAPTER: "peft", Format.TRANSFORMERS: "transformers", Format.CTRANSLATE2: "ctranslate2"}
RUNS_IN = {
    Format.ADAPTER: "PEFT",
    Format.TRANSFORMERS: "Transformers",
    Format.CTRANSLATE2: "faster-whisper",
    Format.GGML: "whisper.cpp",
}


@dataclass(frozen=True)
class CardSubject:
    """The records that a card is written from."""

    run: RunRecord
    export: ExportRecord
    dataset: DatasetRecord
    reports: Sequence[ReportRecord]
    repository: str | None  # hub id; None: a folder
    licence: str
    data_licence: str | None


def write_card(subject: CardSubject) -> str:
    """Render the card.

    Raises:
        DataError: the hub's library refuses the metadata.
    """
    template = (files("asr_lora.exporting") / "templates" / "card.md.j2").read_text(encoding="utf-8")
    body = environment(autoescape=False).from_string(template).render(**_context(subject))
    text = printable(f"---\n{_metadata(subject).to_yaml()}\n---\n\n{body}")
    try:
        ModelCard(text)
    except ValueError as error:
        raise DataError(f"the model card's metadata is refused ({error})") from error
    return text


def own_report(run: RunRecord, export: ExportRecord, report: ReportRecord) -> bool:
    """Whether a report is of the published model: by the digest of its weights, since folders may have moved."""
    system, training = report.system, report.system.training
    if "strength" in system.model_fields_set and system.strength != export.strength:
        return False
    if system.weights_digest:
        return system.weights_digest == run.weights_digest
    # Reports of earlier versions do not record the digest; what the training took and reached identifies them.
    return training is not None and (training.seconds, training.step, training.dev_wer) == (
        run.train_seconds,
        run.best.step,
        run.best.dev_wer,
    )


def dataset_names(dataset: DatasetRecord) -> list[str]:
    """Return public names of the sources: a release, a dataset of the hub, or a file without its folder."""
    names = []
    for source in dataset.sources:
        name = source.name
        if name.startswith("hf:") and not Path(name.removeprefix("hf:")).is_absolute():
            names.append(name.removeprefix("hf:").partition(":")[0])
        else:
            release = re.search(r"[\w.-]*-corpus-[^/]+", name)
            names.append(release[0] if release else Path(name).name)
    return list(dict.fromkeys(names))


def _metadata(subject: CardSubject) -> ModelCardData:
    export, kind = subject.export, Format(subject.export.format)
    relation = {Format.ADAPTER: "adapter"}.get(kind, "quantized" if export.quantise else "finetune")
    known = HUB_ID.fullmatch(export.base) is not None
    methods = [] if subject.run.method is Method.FULL else ["lora", subject.run.method]
    return ModelCardData(
        language=HUB_CODES.get(export.language, export.language),
        license=subject.licence,
        library_name=LIBRARIES.get(kind),
        pipeline_tag=TASK,
        tags=list(dict.fromkeys([TASK, "whisper", "asr_lora", str(kind), *methods])),
        datasets=dataset_names(subject.dataset),
        metrics=["wer", "cer"],
        base_model=export.base if known else None,
        base_model_relation=relation if known else None,
        model_name=_title(subject),
        eval_results=_results(subject) or None,
    )


def _title(subject: CardSubject) -> str:
    if subject.repository:
        return subject.repository.split("/")[1]
    return f"{subject.export.base.split('/')[-1]}-{subject.export.language}-{subject.run.method}"


def _results(subject: CardSubject) -> list[EvalResult]:
    return [
        EvalResult(
            task_type=TASK,
            task_name="Automatic Speech Recognition",
            dataset_type=_data_name(report, subject.dataset),
            dataset_name=_data_name(report, subject.dataset),
            dataset_config=report.dataset.language,
            dataset_split=report.dataset.split,
            metric_type=rate,
            metric_name=f"{rate.upper()} after {report.normaliser}",
            metric_value=round(100 * report.scores.rate(rate), 2),
        )
        for report in subject.reports
        if own_report(subject.run, subject.export, report)
        for rate in ("wer", "cer")
    ]


def _data_name(report: ReportRecord, dataset: DatasetRecord) -> str:
    """Return the sources if a report is of the run's own dataset, otherwise the last part of its folder."""
    own = report.dataset.sha256 in {split.sha256 for split in dataset.splits.values()}
    return ", ".join(dataset_names(dataset)) if own else Path(report.dataset.folder or "").name


def _context(subject: CardSubject) -> dict[str, Any]:
    from asr_lora.language import language_name

    run, export, parity = subject.run, subject.export, subject.export.parity
    base, kind, lead = export.base, Format(export.format), parity.lead
    numbers = f"quantised to {export.quantise}" if export.quantise else f"in {export.dtype}"
    return {
        "title": _title(subject),
        "language_name": language_name(export.language).title(),
        "base_link": f"[{base}](https://huggingface.co/{base})" if HUB_ID.fullmatch(base) else markdown(base),
        "method": _method(run),
        "form": {"format": kind, "numbers": numbers, "runs_in": RUNS_IN[kind]},
        "snippet": snippet(export, subject.repository),
        "rows": [_row(subject, report) for report in subject.reports],
        "chosen_by": run.best.chosen_by,
        "parity": {
            "clips": parity.clips, "alike": parity.alike, "engine": export.engine, "lead": lead.upper(),
            "ours": f"{100 * getattr(parity.ours, lead):.1f}", "theirs": f"{100 * getattr(parity.theirs, lead):.1f}",
        },
        "training": _training(subject),
        "hours": f"{run.train.hours:.1f}",
        "true_length": run.model.context is Context.TRUE_LENGTH,
    }  # fmt: skip


def _method(run: RunRecord) -> str:
    return "full fine-tuning" if run.method is Method.FULL else f"{run.method} (a low-rank adapter)"


def _row(subject: CardSubject, report: ReportRecord) -> dict[str, str]:
    scores, system, data = report.scores, report.system, report.dataset
    low, high = scores.wer_interval
    return {
        "system": "this model"
        if own_report(subject.run, subject.export, report)
        else Path(system.name).name.removeprefix("pypi:"),
        "data": f"{_data_name(report, subject.dataset)}, {data.split}",
        "utterances": f"{data.utterances:,}",
        "speakers": f"{data.speakers:,}",
        "wer": f"{100 * scores.wer:.1f}",
        "interval": f"{100 * low:.1f} to {100 * high:.1f}",
        "cer": f"{100 * scores.cer:.1f}",
        "context": "true length" if system.context == "true_length" else "30 s",
        "normaliser": report.normaliser,
    }


def _training(subject: CardSubject) -> list[tuple[str, str]]:
    run, dataset = subject.run, subject.dataset
    train, adapter, optimiser = run.train, run.config.adapter, run.config.optimiser
    facts = {
        "data": ", ".join(dataset_names(dataset)),
        "licence of the data": subject.data_licence or "not recorded",
        "speech": f"{train.hours:.2f} hours, {train.utterances:,} utterances of train",
        "base model": subject.export.base,
        "method": _method(run),
        "trainable parameters": f"{run.parameters.trainable:,} of {run.parameters.total:,}",
        "steps": f"{train.steps or run.best.step:,} ({train.epochs:.1f} epochs), checkpoint of step {run.best.step:,}",
    }
    if adapter and run.method is not Method.FULL:
        facts["adapter"] = f"rank {adapter.rank}, alpha {adapter.alpha:g}, on {', '.join(adapter.targets)}"
    if optimiser:
        facts["optimiser"] = f"{optimiser.name}, learning rate {optimiser.learning_rate:g}"
    strength = subject.export.strength
    if strength not in (None, 1):
        facts["strength"] = f"{strength:g} of the adapter's update"
    if token := subject.export.language_token:
        facts["language token"] = f"that of {token}, since Whisper has none for {subject.export.language}"
    return list(facts.items())


def snippet(export: ExportRecord, repository: str | None) -> str:
    """Return Python code that transcribes speech.wav with the published model; a test runs it."""
    kind = Format(export.format)
    language = export.language_token or export.language
    task = export.task
    if kind is Format.ADAPTER:
        return (
            "import soundfile\n"
            "from peft import PeftModel\n"
            "from transformers import WhisperForConditionalGeneration, WhisperProcessor\n\n"
            f"base = {json.dumps(export.base)}\n"
            "processor = WhisperProcessor.from_pretrained(base)\n"
            'model = WhisperForConditionalGeneration.from_pretrained(base, dtype="float32")\n'
            f'model = PeftModel.from_pretrained(model, "{repository or "."}")\n'
            'speech, rate = soundfile.read("speech.wav")  # mono, 16 kHz, up to 30 s\n'
            'features = processor(speech, sampling_rate=rate, return_tensors="pt").input_features\n'
            f'tokens = model.generate(input_features=features, language="{language}", task="{task}")\n'
            "print(processor.batch_decode(tokens, skip_special_tokens=True)[0])\n"
        )
    if kind is Format.TRANSFORMERS:
        return (
            "import soundfile\n"
            "from transformers import pipeline\n\n"
            '# On a GPU: dtype="float16", device=0\n'
            f'recognise = pipeline("{TASK}", model="{repository or "."}", dtype="float32")\n'
            'speech, rate = soundfile.read("speech.wav")  # mono\n'
            'print(recognise({"raw": speech, "sampling_rate": rate})["text"])\n'
        )
    if kind is Format.CTRANSLATE2:
        return (
            "import numpy\n"
            "import soundfile\n"
            "from faster_whisper import WhisperModel\n\n"
            f'model = WhisperModel("{repository or "."}")\n'
            'speech, rate = soundfile.read("speech.wav", dtype="float32")  # mono, 16 kHz\n'
            "# Pad with silence to 30 s, as Whisper was trained; faster-whisper alone pads with zero log-mels.\n"
            "speech = numpy.pad(speech, (0, max(0, 30 * rate - len(speech))))\n"
            f'segments, _ = model.transcribe(speech, language="{language}", task="{task}", beam_size=1)\n'
            'print("".join(segment.text for segment in segments))\n'
        )
    (file,) = (file.name for file in export.files)
    place = f'hf_hub_download("{repository}", "{file}")' if repository else f'"{file}"'
    return (
        ("from huggingface_hub import hf_hub_download\n" if repository else "")
        + "from pywhispercpp.model import Model\n\n"
        + f'model = Model({place}, language="{language}", translate={task == "translate"})\n'
        + 'print("".join(segment.text for segment in model.transcribe("speech.wav")))  # mono, 16 kHz\n'
    )
