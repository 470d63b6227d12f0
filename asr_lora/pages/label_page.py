"""Show what is suspicious about the labels of a dataset: one self-contained HTML page, with audio where asked."""

import base64
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from asr_lora.labels.label_report import LabelFacts, LabelReport
from asr_lora.labels.model_scores import ModelScore, suspicion
from asr_lora.labels.rules import MODEL_RULES, RULES, Finding, Label
from asr_lora.metrics.normalize import basic
from asr_lora.metrics.wer import MarkedWord, align
from asr_lora.pages.charts import Figure, Histogram
from asr_lora.pages.templating import render

WORST_SHOWN = 40
AUDIO_BYTES = 3_200_000  # of FLAC in a page, a third more as base64: 5 MB in all, charts and text included
SPARE = frozenset({"left-out", "leaked-sentence", "leaked-speaker", "reread"})  # listening does not help with these

Sounds = dict[tuple[str, str], bytes]  # (split, id) -> FLAC


def worst(label_report: LabelReport, scores: Sequence[ModelScore]) -> list[tuple[str, str]]:
    """Return (split, id) of the utterances to listen to first: most findings, then most suspicious model scores.

    Without a model, rules on sound come before those on text, as they stand in RULES.
    """
    rules: dict[tuple[str, str], list[int]] = defaultdict(list)
    places = {rule: place for place, rule in enumerate(RULES)}
    for finding in label_report.findings:
        if finding.rule not in SPARE:
            rules[finding.split, finding.id].append(places[finding.rule])
    doubts = {(score.split, score.id): suspicion(score) for score in scores}
    return sorted(rules, key=lambda key: (-len(rules[key]), -doubts.get(key, 0.0), min(rules[key]), key))[:WORST_SHOWN]


@dataclass(frozen=True)
class RuleRow:
    """One rule that found something."""

    rule: str
    meaning: str
    utterances: int
    example: Finding


@dataclass(frozen=True)
class SuspiciousUtterance:
    """An utterance whose label may be wrong."""

    split: str
    id: str
    text: str
    seconds: float
    findings: Sequence[Finding]
    words: Sequence[MarkedWord]  # the label aligned with the hypothesis of the model; empty: no model scored it
    audio: str  # data URL; empty: no audio


@dataclass(frozen=True)
class LabelView:
    """Everything that the page shows about the labels of a dataset."""

    name: str  # of the dataset
    utterances: int
    hours: float
    suspicious: int
    rules: Sequence[RuleRow]
    silent_rules: Sequence[str]  # those that found nothing
    without: Sequence[str]  # those that were switched off
    left_out: Mapping[str, int]  # utterances that `prepare` left out, by reason
    facts: LabelFacts
    asked: int  # utterances that a model scored
    charts: Sequence[Figure]
    worst: Sequence[SuspiciousUtterance]
    transcripts: bool


def label_view(
    name: str,
    label_report: LabelReport,
    scores: Sequence[ModelScore],
    *,
    transcripts: bool,
    sounds: Mapping[tuple[str, str], bytes],
    language: str = "",
) -> LabelView:
    """Make the view of what is suspicious about the labels of a dataset.

    Args:
        name: name of the dataset.
        label_report: the labels and the findings of the rules.
        scores: model scores of the labels; empty: no model scored them.
        transcripts: whether texts, and findings that quote them, are shown.
        sounds: FLAC of some utterances.
        language: code of the language of the dataset.
    """
    found: dict[tuple[str, str], list[Finding]] = defaultdict(list)
    for finding in label_report.findings:
        found[finding.split, finding.id].append(finding)
    examples = label_report.examples()
    labels = {(label.split, label.id): label for label in label_report.labels}
    score_of = {(score.split, score.id): score for score in scores}
    active = [rule for rule in RULES if rule not in label_report.without and (scores or rule not in MODEL_RULES)]
    return LabelView(
        name=name,
        utterances=len(label_report.labels),
        hours=sum(label.sound.seconds for label in label_report.labels if label.sound) / 3600,
        suspicious=label_report.suspicious,
        rules=[RuleRow(rule, RULES[rule], total, examples[rule]) for rule, total in label_report.counts.items()],
        silent_rules=[rule for rule in active if rule not in label_report.counts],
        without=label_report.without,
        left_out=label_report.left_out,
        facts=label_report.facts,
        asked=len(scores),
        charts=_charts(label_report.labels),
        worst=[
            _suspicious(labels[key], found[key], score_of.get(key), sounds.get(key), language)
            for key in worst(label_report, scores)
        ],
        transcripts=transcripts,
    )


def render_label_page(view: LabelView) -> str:
    return render("doctor.html.j2", view=view)


def _suspicious(
    label: Label, findings: list[Finding], score: ModelScore | None, flac: bytes | None, language: str
) -> SuspiciousUtterance:
    return SuspiciousUtterance(
        split=label.split,
        id=label.id,
        text=label.text,
        seconds=label.sound.seconds if label.sound else 0.0,
        findings=findings,
        words=align(basic(label.text, language), basic(score.hypothesis, language)) if score else [],
        audio=f"data:audio/flac;base64,{base64.b64encode(flac).decode()}" if flac else "",
    )


def _charts(labels: Sequence[Label]) -> list[Figure]:
    measured = [(label, label.sound) for label in labels if label.sound and label.sound.seconds]
    if not measured:
        return []
    values = {
        "Length": ("seconds", [sound.seconds for _, sound in measured]),
        "Pace": ("letters a second", [label.letters / sound.seconds for label, sound in measured]),
        "Loudness": ("dB of full scale", [sound.loudness_db for _, sound in measured]),
    }
    charts = [Figure(title, Histogram(data, measure, "utterances")) for title, (measure, data) in values.items()]
    if speakers := Counter(label.speaker for label in labels if label.speaker):
        plot = Histogram(list(speakers.values()), "utterances of a speaker", "speakers")
        charts.append(Figure("Speakers", plot))
    return charts
