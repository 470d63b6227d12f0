"""What is suspicious about a dataset's labels -> one self-contained HTML page, some of it to listen to."""

import base64
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from asr_lora.labels.label_report import LabelReport
from asr_lora.labels.model_scores import ModelScore, doubt
from asr_lora.labels.rules import MODEL_RULES, RULES, Finding, Label
from asr_lora.metrics.normalize import basic
from asr_lora.metrics.wer import align
from asr_lora.pages.charts import histogram
from asr_lora.pages.templating import environment

WORST_SHOWN = 40
AUDIO_BYTES = 3_200_000  # of FLAC in a page, a third more as base64: 5 MB in all, charts and text included
SPARE = frozenset({"left-out", "leaked-sentence", "leaked-speaker", "reread"})  # listening to it tells nothing

Sounds = dict[tuple[str, str], bytes]  # (split, id) -> FLAC


def worst(label_report: LabelReport, thought: Sequence[ModelScore]) -> list[tuple[str, str]]:
    """(split, id) of the utterances most worth listening to: most rules first, then what the model doubts most.

    Without a model, rules on sound come before those on text, as they stand in RULES.
    """
    rules: dict[tuple[str, str], list[int]] = defaultdict(list)
    places = {rule: place for place, rule in enumerate(RULES)}
    for finding in label_report.findings:
        if finding.rule not in SPARE:
            rules[finding.split, finding.id].append(places[finding.rule])
    doubts = {(opinion.split, opinion.id): doubt(opinion) for opinion in thought}
    return sorted(rules, key=lambda key: (-len(rules[key]), -doubts.get(key, 0.0), min(rules[key]), key))[:WORST_SHOWN]


def render_label_page(
    name: str,
    label_report: LabelReport,
    thought: Sequence[ModelScore],
    *,
    transcripts: bool,
    sounds: Mapping[tuple[str, str], bytes],
) -> str:
    """Render the page.

    Args:
        name: of the dataset.
        label_report: what the rules found.
        thought: what a model thinks of the labels; empty: none was asked.
        transcripts: whether texts are shown; without, neither is what a rule saw of one.
        sounds: FLAC of some utterances.
    """
    found: dict[tuple[str, str], list[Finding]] = defaultdict(list)
    for finding in label_report.findings:
        found[finding.split, finding.id].append(finding)
    examples = label_report.examples()
    labels = {(label.split, label.id): label for label in label_report.labels}
    opinions = {(opinion.split, opinion.id): opinion for opinion in thought}
    return environment().get_template("doctor.html.j2").render(
        name=name,
        utterances=len(label_report.labels),
        hours=sum(label.sound.seconds for label in label_report.labels if label.sound) / 3600,
        suspicious=label_report.suspicious,
        rules=[(rule, RULES[rule], count, examples[rule]) for rule, count in label_report.counts.items()],
        silent_rules=[
            rule
            for rule in RULES
            if rule not in {*label_report.counts, *label_report.without} and (thought or rule not in MODEL_RULES)
        ],
        without=label_report.without,
        left_out=label_report.left_out,
        facts=label_report.facts,
        asked=len(thought),
        charts=_charts(label_report.labels),
        worst=[
            _shown(key, labels[key], found[key], opinions.get(key), sounds.get(key))
            for key in worst(label_report, thought)
        ],
        transcripts=transcripts,
    )  # fmt: skip


def _shown(
    key: tuple[str, str], label: Label, findings: list[Finding], opinion: ModelScore | None, flac: bytes | None
) -> dict[str, Any]:
    return {
        "split": key[0],
        "id": key[1],
        "text": label.text,
        "seconds": label.sound.seconds if label.sound else 0.0,
        "findings": findings,
        "opinion": opinion,
        "words": align(basic(label.text), basic(opinion.hypothesis)) if opinion else [],
        "audio": f"data:audio/flac;base64,{base64.b64encode(flac).decode()}" if flac else "",
    }


def _charts(labels: Sequence[Label]) -> list[tuple[str, str]]:
    """Title and SVG of what there is to draw."""
    heard = [(label, label.sound) for label in labels if label.sound and label.sound.seconds]
    if not heard:
        return []
    pace = [label.letters / sound.seconds for label, sound in heard]
    speakers = Counter(label.speaker for label in labels if label.speaker)
    charts = [
        ("Length", histogram([sound.seconds for _, sound in heard], "seconds", "utterances")),
        ("Pace", histogram(pace, "letters a second", "utterances")),
        ("Loudness", histogram([sound.loudness_db for _, sound in heard], "dB of full scale", "utterances")),
    ]
    if speakers:
        charts.append(("Speakers", histogram(list(speakers.values()), "utterances of a speaker", "speakers")))
    return charts
