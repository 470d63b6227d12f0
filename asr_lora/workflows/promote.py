"""Before an adapted model is used: the strength that dev chooses, and the gate that it must pass.

Both are scored on dev, never on test, and both call the evaluate job, so their reports are reports like any other:
reused where nothing changed, and repeated by hand with the command that is printed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from asr_lora.config import Precision
from asr_lora.decoding.decoding_options import BEAMS
from asr_lora.errors import ConfigError, Refused
from asr_lora.evaluation.comparison import Comparison, Pair, read_comparison
from asr_lora.evaluation.evaluate import evaluate
from asr_lora.folders.dataset_folder import DatasetFolder
from asr_lora.folders.digests import fingerprint, sha256_file
from asr_lora.folders.measurements import ReportRecord
from asr_lora.folders.report_folder import ReportFolder
from asr_lora.folders.run_folder import RunFolder, RunRecord
from asr_lora.folders.workflow_folder import (
    PromotionFolder,
    PromotionRecord,
    PromotionSide,
    StrengthRecord,
    StrengthSweepFolder,
    StrengthSweepRecord,
    TrialRecord,
)
from asr_lora.language import ForcedPrompt, Task, forced_prompt
from asr_lora.model.find_model import find_model, model_identity, split_strength
from asr_lora.system.locks import owning
from asr_lora.system.progress import Stages
from asr_lora.system.renamed import renamed_keywords

STRENGTHS = (1.0, 0.75, 0.5, 0.25)  # the others are compared with the first, which wins a tie
SPLIT = "dev"
TOLERANCE = 0.01  # largest rise of WER on a regression set, absolute


@dataclass(frozen=True)
class Trial:
    """One dataset on which the previous model and the run are scored."""

    dataset: Path
    prompt: ForcedPrompt
    regression_set: bool  # WER must not rise; otherwise it must fall


@owning(lambda *_, out, **__: StrengthSweepFolder(out), "evaluate")
def sweep_strengths(
    model: str,
    dataset: Path,
    *,
    out: Path,
    language: str | None = None,
    language_token: str | None = None,
    task: Task | None = None,
    precision: Precision = Precision.AUTO,
    beams: int = BEAMS,
) -> StrengthSweepFolder:
    """Score an adapter on dev at several strengths, in its own context, and choose the best one.

    Raises:
        ConfigError: the model has no adapter or is named with a strength; `out` holds something else.
        DataError: the model or dataset cannot be used, or has no dev split.
    """
    if split_strength(model)[1] is not None:
        raise ConfigError(f"{model}: --strength-sweep chooses the strengths, so name {split_strength(model)[0]}")
    find_model(f"{model}@1")  # refuses what has no adapter
    DatasetFolder(dataset).split_file(SPLIT)
    folder = StrengthSweepFolder(out)
    folder.require_ours(folder.ours)
    stages = Stages(len(STRENGTHS))
    given = [*(["--language", language] if language else [])]
    given += ["--language-token", language_token] if language_token else []
    for strength in STRENGTHS:
        name, report = f"{model}@{strength:g}", folder.report(strength)
        stages.begin(*_command(name, dataset, report, given))
        evaluate(
            name, dataset, out=report, split=SPLIT, language=language, language_token=language_token, task=task,
            precision=precision, beams=beams,
        )  # fmt: skip
    folder.write(_sweep_record(model, dataset, read_comparison([folder.report(strength) for strength in STRENGTHS])))
    return folder


def _sweep_record(model: str, dataset: Path, comparison: Comparison) -> StrengthSweepRecord:
    systems, lead = comparison.systems, comparison.lead
    best = min(range(len(systems)), key=lambda place: systems[place].scores.rate(lead))  # the first of equals
    chosen = systems[best].system.name
    against = {pair.b: pair for pair in comparison.pairs if pair.a == systems[0].system.name}
    rows = [
        StrengthRecord(
            strength=strength,
            model=system.system.name,
            wer=system.scores.wer,
            wer_interval=system.scores.wer_interval,
            cer=system.scores.cer,
            cer_interval=system.scores.interval("cer"),
            difference=against[system.system.name].leading if place else None,
            fingerprint=system.fingerprint,
        )
        for place, (strength, system) in enumerate(zip(STRENGTHS, systems, strict=True))
    ]
    return StrengthSweepRecord(
        fingerprint=fingerprint([system.fingerprint for system in systems]),
        model=model,
        dataset=systems[0].dataset.model_copy(update={"folder": str(dataset)}),
        lead=lead,
        strengths=sorted(rows, key=lambda row: row.strength),
        chosen=chosen,
        verdict=_choice(chosen, against.get(chosen), lead),
    )


def _choice(chosen: str, pair: Pair | None, lead: str) -> str:
    """Return a sentence about the chosen strength; `pair` compares it with full strength, None: it is full strength."""
    if pair is None:
        return f"dev chooses {chosen}, the adapter as it was trained: no other strength has a lower {lead.upper()}."
    doubt = ""
    if pair.leading.verdict == "not distinguishable":
        doubt = " It is chosen by its point estimate alone, as the paired interval includes zero."
    return f"dev chooses {chosen}: {pair.sentence}{doubt}"


@renamed_keywords(guards="regression_sets")
@owning(lambda run, **_: _run_folder(run))
def promote(
    run: str,
    *,
    over: str | None = None,
    regression_sets: Sequence[Path] = (),
    tolerance: float = TOLERANCE,
    force: bool = False,
) -> PromotionFolder:
    """Promote a run only if it is better than the previous model on dev, and WER does not rise on any regression set.

    CER decides instead of WER where it leads. On dev, the paired 95 % interval decides. On a regression set, WER may
    rise by no more than `tolerance`, by point estimate: an interval that includes zero does not excuse a loss. Each
    model is scored in its own context, as `evaluate` does. Promotion writes promoted.json into the run; a refusal
    removes it.

    Args:
        run: a run folder, perhaps with a strength, such as `runs/x@0.7`.
        over: the previous model, by any name; by default the run's base model.
        regression_sets: prepared datasets, each with a dev split, beside those in the run's data.regression_sets.
        tolerance: largest rise of WER on a regression set, as a share: 0.01 is one point.
        force: promote in spite of refusals, and record them.

    Raises:
        Refused: the run does not pass; the message has a sentence for each reason.
        ConfigError: the tolerance is no share; the run and the previous model are the same; or Whisper has no token for
            the language of a regression set.
        DataError: the run, a model or a dataset cannot be used.
    """
    if not 0 <= tolerance < 1:
        raise ConfigError(f"--tolerance {tolerance:g}: it is a share of WER, from 0 to below 1; 0.01 is one point")
    place, strength = split_strength(str(run))
    body = RunFolder(Path(place).expanduser()).read()
    before = over or body.model.name
    if model_identity(before) == model_identity(str(run)):
        raise ConfigError(f"{before} and {run} are the same model: name another with --over")
    folder = PromotionFolder(Path(place).expanduser())
    trials = _trials(body, regression_sets)
    stages = Stages(2 * len(trials))
    rows = [_measured(trial, (before, str(run)), tolerance, folder, stages) for trial in trials]
    refusals = [row.sentence for row in rows if not row.passed]
    record = PromotionRecord(
        fingerprint=fingerprint(body.weights_digest, [row.fingerprint for row in rows], tolerance),
        run=str(run),
        over=before,
        weights_digest=body.weights_digest,
        strength=1.0 if strength is None else strength,
        tolerance=tolerance,
        promoted=force or not refusals,
        forced=force and bool(refusals),
        refusals=refusals,
        verdict=_verdict(str(run), before, rows, refusals, force),
        trials=rows,
    )
    if not record.promoted:
        folder.manifest.unlink(missing_ok=True)
        raise Refused(record.verdict, record)
    folder.write(record)
    return folder


def _run_folder(run: str) -> PromotionFolder | None:
    place = Path(split_strength(str(run))[0]).expanduser()
    return PromotionFolder(place) if place.is_dir() else None


def _trials(run: RunRecord, regression_sets: Sequence[Path]) -> list[Trial]:
    """Return the run's own dataset, then each regression set once, after checking that all can be scored."""
    prompt = run.model.prompt
    own = Trial(run.config.data.dataset, prompt, regression_set=False)
    same = {DatasetFolder(own.dataset).read().language, prompt.language}
    found = {Path(path).resolve(): Path(path) for path in (*run.regression_sets, *regression_sets)}
    trials = [own]
    for path in found.values():
        language = DatasetFolder(path).read().language
        if language in same:
            trials.append(Trial(path, prompt, regression_set=True))
            continue
        try:
            trials.append(Trial(path, forced_prompt(language, task=prompt.task), regression_set=True))
        except ConfigError as error:
            raise ConfigError(
                f"regression set {path} is in {language!r}, for which Whisper has no token: take regression sets in "
                "the run's own language or in languages that Whisper has"
            ) from error
    for trial in trials:
        DatasetFolder(trial.dataset).split_file(SPLIT)
    return trials


def _measured(
    trial: Trial, models: tuple[str, str], tolerance: float, folder: PromotionFolder, stages: Stages
) -> TrialRecord:
    """Score both models on one dataset, and compare them."""
    reports = [folder.report(model, trial.dataset) for model in models]
    for model, report in zip(models, reports, strict=True):
        stages.begin(*_command(model, trial.dataset, report, trial.prompt.options))
        evaluate(
            model, trial.dataset, out=report, split=SPLIT, language=trial.prompt.language,
            language_token=trial.prompt.token, task=trial.prompt.task,
        )  # fmt: skip
    comparison = read_comparison(reports)
    (pair,) = comparison.pairs
    passed = pair.leading.value <= tolerance if trial.regression_set else pair.leading.verdict == "better"
    sides = [_side(system, report, folder) for system, report in zip(comparison.systems, reports, strict=True)]
    return TrialRecord(
        fingerprint=fingerprint([side.fingerprint for side in sides]),
        dataset=str(trial.dataset),
        split=SPLIT,
        guard=trial.regression_set,
        language=trial.prompt.language,
        language_token=trial.prompt.token,
        utterances=comparison.systems[0].dataset.utterances,
        lead=pair.lead,
        before=sides[0],
        after=sides[1],
        difference=pair.leading,
        verdict=pair.leading.verdict,
        passed=passed,
        sentence=_sentence(trial, pair, passed, tolerance),
    )


def _side(system: ReportRecord, report: Path, folder: PromotionFolder) -> PromotionSide:
    return PromotionSide(
        model=system.system.model,
        context=system.system.context,
        wer=system.scores.wer,
        wer_interval=system.scores.wer_interval,
        cer=system.scores.cer,
        report=str(report.relative_to(folder.root)),
        fingerprint=system.fingerprint,
        hypotheses_sha256=sha256_file(ReportFolder(report).hypotheses),
    )


def _sentence(trial: Trial, pair: Pair, passed: bool, tolerance: float) -> str:
    if not trial.regression_set:
        return f"On dev of {trial.dataset}, {pair.sentence}"
    change = f"{100 * pair.leading.value:+.1f} points of {pair.lead.upper()}"
    interval = f"95 % interval {100 * pair.leading.low:+.1f} to {100 * pair.leading.high:+.1f}"
    kept = "within" if passed else "more than"
    return (
        f"Regression set {trial.dataset} changes by {change} ({interval}), {kept} the {100 * tolerance:.1f} tolerated."
    )


def _verdict(run: str, before: str, rows: list[TrialRecord], refusals: list[str], force: bool) -> str:
    if refusals and force:
        return f"{run} is promoted over {before} by force, against: {' '.join(refusals)}"
    if refusals:
        return f"{run} is not promoted over {before}: {' '.join(refusals)} With --force it is promoted anyway."
    reasons = " ".join(row.sentence for row in rows)
    unchecked = "" if len(rows) > 1 else " No regression set was named."
    return f"{run} is promoted over {before}: {reasons}{unchecked}"


def _command(model: str, dataset: Path, report: Path, language: Sequence[str]) -> list[object]:
    """Return the command that repeats an evaluation; `language` holds its options of language and token."""
    return ["evaluate", model, dataset, "--split", SPLIT, *language, "--out", report]
