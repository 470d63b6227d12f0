"""What the verbs print: results to standard output, messages to standard error."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asr_lora.dataset.summary import facts_table, subset_notices
from asr_lora.folders.dataset_folder import DatasetFolder, DatasetRecord, LabelReportFolder
from asr_lora.folders.manifests import Record
from asr_lora.folders.report_folder import ComparisonFolder, ReportFolder
from asr_lora.folders.workflow_folder import PromotionRecord, StrengthSweepFolder
from asr_lora.system.progress import say, show, without_bytes

if TYPE_CHECKING:
    from asr_lora.evaluation.rerun import Rerun
    from asr_lora.workflows.adapt import Adaptation


def print_dataset(folder: DatasetFolder, body: DatasetRecord) -> None:
    for notice in body.notes:
        say(f"note: {notice}")
    show(facts_table(body))
    for sentence in subset_notices(body):
        say(f"warning: {sentence}")
    for reason, count in body.dropped.items():
        show(f"left out {count:7,} {reason} (listed in {folder.dropped})")
    pairs = list(body.shared_between_splits.items())
    for other, found in body.shared_with_others.items():
        pairs += [(f"{pair.replace(' its ', f' {other} ')}", shared) for pair, shared in found.items()]
    for pair, shared in pairs:
        if shared.speakers:
            say(f"warning: {pair} share {shared.speakers} speakers, so scores will look better than they are")
        if shared.sentences or shared.clips:
            both = f"{shared.sentences} sentences and {shared.clips} recordings"
            say(f"warning: {pair} share {both} (listed in {folder.leaks})")
    _warn_of_labels(folder)
    show(folder.root)


def _warn_of_labels(folder: DatasetFolder) -> None:
    if not folder.label_report.complete:
        say(f"note: prepare does not check the labels of so many utterances; run: asr-lora check {folder.root}")
        return
    from asr_lora.labels.rules import NO_LABEL

    body = folder.label_report.read()
    if body.suspicious:
        rules = ", ".join(f"{rule} {count:,}" for rule, count in body.counts.items() if rule not in NO_LABEL)
        share = f"{body.suspicious:,} of {body.utterances:,}"
        see = f"see them with: asr-lora check {folder.root}"
        say(f"warning: {share} utterances have suspicious labels ({rules}); {see}")


def print_rerun(folder: Path, found: "Rerun", as_json: bool) -> None:
    if as_json:
        print_json({"numbers": found.numbers, "differences": found.differences, "notes": found.notes})
    for sentence in (*(f"note: {note}" for note in found.notes), *found.differences):
        say(sentence)
    if not found.differences and not as_json:
        show(f"{folder}: {found.numbers:,} values were computed again from the hypotheses, and all agree")


def print_adaptation(done: "Adaptation", as_json: bool) -> None:
    if as_json:
        print_json(done.folder.read())
        return
    show(done.table)
    show(f"{done.sample.file.name}, held out, by the adapted model: {' '.join(s.text for s in done.sample.segments)}")
    show(f"{'reference:':>{len(done.sample.file.name)}} {done.sample_reference}")
    show(f"page:      {ComparisonFolder(done.folder.comparison).page}")
    show(f"adapter:   {done.folder.read().plan.get('run', done.folder.run('lora'))}")
    show(f"configs:   {done.folder.config('lora').parent}")
    show(f"commands:  {done.folder.manifest}")


def print_report(folder: ReportFolder, as_json: bool) -> None:
    report = folder.read()
    if as_json:
        print_json(report)
        return
    scores, data = report.scores, report.dataset
    lead, other = ("cer", "wer") if scores.lead == "cer" else ("wer", "cer")
    raw = {"wer": scores.raw_wer, "cer": scores.raw_cer}
    low, high = (100 * value for value in scores.interval(lead))
    show(
        f"{report.system.name}: {lead.upper()} {100 * scores.rate(lead):.1f} % "
        f"(95 % interval {low:.1f} to {high:.1f}), {other.upper()} {100 * scores.rate(other):.1f} % after "
        f"{report.normaliser}; unnormalised {100 * raw[lead]:.1f} and {100 * raw[other]:.1f} %; "
        f"on {data.utterances} utterances of {data.split}, RTFx {report.rtfx}"
    )
    if hotwords := report.analysis.get("terms"):
        counts = f"{hotwords['found']} of {hotwords['spoken']} spoken ones are recognised"
        show(f"hotwords: {counts}, {hotwords['heard']} are in the hypotheses in all")
    show(folder.root)


def print_label_report(folder: LabelReportFolder, as_json: bool) -> None:
    body = folder.read()
    if as_json:
        print_json(body)
        return
    if body.counts:
        width = max(map(len, body.counts))
        show(f"{'rule':{width}} utterances  for example")
        for rule, count in body.counts.items():
            example = body.examples[rule]
            show(f"{rule:{width}} {count:10,}  {example['id']}: {example['detail']}")
    if body.suspicious:
        share = f"{body.suspicious:,} of {body.utterances:,} utterances"
        say(f"warning: {share} are suspicious; none was left out because of it")
    else:
        show(f"nothing suspicious in {body.utterances:,} utterances")
    if body.leaked:
        say(f"warning: {body.leaked:,} utterances of dev and test share something with another split")
    for path in (folder.findings, folder.page):
        show(path)


def print_sweep(folder: StrengthSweepFolder, as_json: bool) -> None:
    body = folder.read()
    if as_json:
        print_json(body)
        return
    lead, other = ("cer", "wer") if body.lead == "cer" else ("wer", "cer")
    show(f"strength   {lead.upper()} %  95 % interval   {other.upper()} %")
    for row in body.strengths:
        low, high = (100 * value for value in row.interval(lead))
        rates = {"wer": 100 * row.wer, "cer": 100 * row.cer}
        show(f"{row.strength:8.2f} {rates[lead]:7.1f} {low:6.1f} to {high:5.1f} {rates[other]:7.1f}")
    show(body.verdict)
    show(body.chosen)


def print_promotion(body: PromotionRecord, as_json: bool) -> None:
    """Print what was measured, whether the run passed or not."""
    if as_json:
        print_json(body)
        return
    width = max(len(row.dataset) for row in body.trials)
    show(f"{'dataset':{width}} {'kind':14} rate  before %  after %  {'difference, 95 %':25} verdict")
    for row in body.trials:
        before, after = (100 * side.rate(row.lead) for side in (row.before, row.after))
        change, low, high = (100 * value for value in (row.difference.value, row.difference.low, row.difference.high))
        interval = f"{change:+.1f} ({low:+.1f} to {high:+.1f})"
        kind, outcome = "regression set" if row.guard else "dev", "passes" if row.passed else "refused"
        scored = f"{row.lead.upper()} {before:10.1f} {after:8.1f}"
        show(f"{row.dataset:{width}} {kind:14} {scored}  {interval:25} {row.verdict}: {outcome}")


def print_comparison(folder: ComparisonFolder, as_json: bool) -> None:
    if as_json:
        print_json(folder.read())
        return
    show(folder.markdown.read_text(encoding="utf-8"))
    show(folder.page)


def print_json(body: Record | dict[str, Any]) -> None:
    facts = body.to_json() if isinstance(body, Record) else body
    show(without_bytes(json.dumps(facts, ensure_ascii=False, indent=2)))
