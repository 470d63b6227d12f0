"""Train, evaluate and compare many variants of one config.

Every variant is a run with a config of its own, which `train` takes. Finished runs are not run again, and a variant
that fails does not stop the others.
"""

import copy
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from asr_lora.config import (
    Context,
    Method,
    Quantise,
    RunConfig,
    Variant,
    check_config,
    lay_over,
    load_sweep,
    read_settings,
)
from asr_lora.errors import AsrLoraError, ConfigError, Incomplete, Interrupted, ran_out_of_memory
from asr_lora.evaluation.comparison import Comparison, read_comparison
from asr_lora.evaluation.comparison_view import comparison_view
from asr_lora.evaluation.evaluate import evaluate
from asr_lora.folders.atomic import write_text
from asr_lora.folders.dataset_folder import DatasetFolder
from asr_lora.folders.digests import fingerprint
from asr_lora.folders.run_folder import RunFolder
from asr_lora.folders.workflow_folder import SweepFolder, SweepRecord, VariantScores
from asr_lora.model.adapters.attach import rank_within
from asr_lora.model.whisper import Whisper, load_meta_whisper
from asr_lora.pages.comparison_page import render_empty, render_markdown, render_page
from asr_lora.pages.tables import latex_csv
from asr_lora.system.locks import owning
from asr_lora.system.progress import Stages, say
from asr_lora.training.setup import run_fingerprint
from asr_lora.training.train import train

SPLITS = ("dev", "test")  # dev selects the variant, and is scored before test is read


@dataclass(frozen=True)
class PlannedVariant:
    """A variant with its complete config."""

    variant: Variant
    config: RunConfig  # the base's config, if nothing is trained

    @property
    def slug(self) -> str:
        return self.variant.slugs[0]

    @property
    def rows(self) -> list[tuple[str, str, Context | None]]:
        """Return folder, name and context of each report; a context of None is the model's own."""
        name = self.variant.name
        return list(zip(self.variant.slugs, (name, f"{name} padded"), (None, Context.FULL), strict=False))


@owning(lambda *_, out, **__: SweepFolder(out))
def sweep_settings(path: Path, *, out: Path, overrides: Sequence[str] | None = None, split: str = "dev") -> SweepFolder:
    """Train and score every variant of a sweep, and compare each with the first.

    All are scored on the dataset of the base config. Test is read only on request, after dev, and selects nothing.

    Args:
        path: YAML file such as those in configs/sweeps.
        out: folder for configs, runs, reports and tables; finished runs and reports in it are reused.
        overrides: `section.key=value` settings that replace those of the base in every variant.
        split: "dev", or "test" for dev and then test.

    Raises:
        ConfigError: the sweep or a variant is invalid, and nothing was started; or `out` holds something else.
        DataError: the dataset cannot be used.
        Incomplete: variants failed; the message names each, and the tables show the others.
        Interrupted: a signal stopped it, and everything is saved.
    """
    if split not in SPLITS:
        raise ConfigError(f"--split {split}: a sweep is scored on dev, or on dev and then test")
    folder = SweepFolder(out)
    planned, base = plan_sweep(path, folder, overrides)
    splits = SPLITS[: SPLITS.index(split) + 1]
    for name in splits:
        DatasetFolder(base.data.dataset).split_file(name)
    folder.require_ours(folder.ours)
    folder.manifest.unlink(missing_ok=True)
    for plan in planned:
        if not plan.variant.zero_shot:
            write_text(folder.config(plan.slug), plan.config.to_yaml())
    stages = Stages(sum((not plan.variant.zero_shot) + len(splits) * len(plan.rows) for plan in planned))
    failed: dict[str, str] = {}
    for plan in planned:
        try:
            _run(plan, base, folder, splits, stages)
        except Interrupted:
            raise
        except (AsrLoraError, RuntimeError, MemoryError, OSError) as error:
            failed[plan.variant.name] = _reason(error)
            say(f"{plan.variant.name} failed: {failed[plan.variant.name]}")
    done = [plan for plan in planned if plan.variant.name not in failed]
    if len(done) < 2:
        raise Incomplete(f"{_named(failed, len(planned))} There is nothing to compare yet.")
    again = [_command(path, split, folder, overrides)]
    comparisons = {name: _compare(done, folder, name, again) for name in splits}
    if failed:
        table = folder.markdown(split).read_text(encoding="utf-8")
        raise Incomplete(f"{_named(failed, len(planned))} The others are in {folder.page(split)}.", table)
    folder.write(_record(path, planned, comparisons))
    return folder


@owning(lambda *_, out, **__: SweepFolder(out), "sweep")
def write_empty(path: Path, *, out: Path, overrides: Sequence[str] | None = None, split: str = "dev") -> SweepFolder:
    """Write the table and the page of a sweep that has not been run: its rows without results. Nothing is trained.

    Raises:
        ConfigError: the sweep or a variant is invalid; `out` holds something else, or runs of this sweep.
        DataError: a budget is given, and the model whose shapes it needs is not found.
    """
    folder = SweepFolder(out)
    planned, _ = plan_sweep(path, folder, overrides)
    begun = any(folder.config(plan.slug).exists() or folder.run(plan.slug).exists() for plan in planned)
    folder.require_ours(folder.ours and not begun)
    rows = [row for plan in planned for row in _described(plan)]
    page, text = render_empty(path.stem, rows, _command(path, split, folder, overrides))
    write_text(folder.markdown(split), text)
    write_text(folder.page(split), page)
    return folder


def _command(path: Path, split: str, folder: SweepFolder, overrides: Sequence[str] | None) -> str:
    changes = [word for override in overrides or () for word in ("--set", override)]
    return shlex.join(["asr-lora", "sweep", str(path), *changes, "--split", split, "--out", str(folder.root)])


def _described(plan: PlannedVariant) -> list[tuple[str, str, str, str]]:
    """Return name, base model, method and training data for each row of a variant."""
    config, zero_shot = plan.config, plan.variant.zero_shot
    method = "none" if zero_shot else config.method.value
    if not zero_shot and config.model.quantise in (Quantise.INT8, Quantise.NF4):
        method += f", {config.model.quantise} base"
    speech = "nothing" if zero_shot else f"{config.data.subset}, {config.training.steps:,} steps"
    return [(name, config.model.name, method, speech) for _, name, _ in plan.rows]


def plan_sweep(
    path: Path, folder: SweepFolder, overrides: Sequence[str] | None = None
) -> tuple[list[PlannedVariant], RunConfig]:
    """Return the checked config of every variant, and that of the base.

    Raises:
        ConfigError: the sweep, its base or a variant is invalid; or a budget is too small.
        DataError: a budget is given, and the model whose shapes it needs is not found.
    """
    settings = load_sweep(path)
    body = read_settings(settings.base, overrides)
    for key, value in settings.set.items():
        lay_over(body, key, value, f"{path}: set.{key}")
    base = check_config(body, f"{path}, base {settings.base}")
    planned: list[PlannedVariant] = []
    meta_models: dict[str, Whisper] = {}
    for variant in settings.rows:
        place, own = f"{path}, variant {variant.name}", copy.deepcopy(body)
        for key, value in variant.set.items():
            lay_over(own, key, value, place)
        config = check_config({**own, "out": folder.run(variant.slugs[0])}, place)
        budget = variant.budget or settings.budget
        if budget and not variant.zero_shot and config.method is not Method.FULL:
            name = config.model.name
            meta_models[name] = meta_models.get(name) or load_meta_whisper(name, config.model.prompt)
            config = _within(config, budget, meta_models[name], place)
        planned.append(PlannedVariant(variant, config))
    return planned, base


def _within(config: RunConfig, budget: int, whisper: Whisper, place: str) -> RunConfig:
    """Return the config with the highest rank within the budget; alpha / rank, the scale of the update, stays."""
    try:
        rank = rank_within(whisper.core, config.adapter, config.method, budget)
    except ConfigError as error:
        raise ConfigError(f"{place}: {error}") from error
    changes = {"rank": rank, "alpha": config.adapter.alpha * rank / config.adapter.rank}
    return config.model_copy(update={"adapter": config.adapter.model_copy(update=changes)})


def _run(plan: PlannedVariant, base: RunConfig, folder: SweepFolder, splits: Sequence[str], stages: Stages) -> None:
    """Train and score a variant, unless that is done."""
    config, dataset, prompt = plan.config, base.data.dataset, plan.config.model.prompt
    model = config.model.name if plan.variant.zero_shot else str(config.out)
    if not plan.variant.zero_shot:
        run = RunFolder(config.out)
        if run.complete and run.read().fingerprint != run_fingerprint(config):
            raise ConfigError(f"{run.root} holds a run with other settings or data: rename the variant, or remove that")
        stages.begin("train", folder.config(plan.slug), "--resume")
        train(config, resume=True)
    for split in splits:
        for slug, name, context in plan.rows:
            report = folder.report(slug, split)
            words = [
                *prompt.options,
                "--task",
                prompt.task,
                *(["--context", context] if context else []),
                "--name",
                name,
            ]
            stages.begin("evaluate", model, dataset, "--split", split, *words, "--out", report)
            evaluate(
                model, dataset, out=report, split=split, name=name, language=prompt.language,
                language_token=prompt.token, task=prompt.task, context=context,
            )  # fmt: skip


def _compare(done: Sequence[PlannedVariant], folder: SweepFolder, split: str, commands: Sequence[str]) -> Comparison:
    """Compare the finished variants with the first, and write the table and the page of a split."""
    reports = [folder.report(slug, split) for plan in done for slug, _, _ in plan.rows]
    comparison = read_comparison(reports)
    view = comparison_view(comparison, commands=commands)
    write_text(folder.markdown(split), render_markdown(view))
    write_text(folder.csv(split), latex_csv(view.numbers))
    write_text(folder.page(split), render_page(view))
    return comparison


def _record(path: Path, planned: Sequence[PlannedVariant], comparisons: dict[str, Comparison]) -> SweepRecord:
    dev = comparisons["dev"]
    best = min(dev.systems, key=lambda system: system.scores.rate(dev.lead))  # the first of equals
    return SweepRecord(
        fingerprint=fingerprint([system.fingerprint for of in comparisons.values() for system in of.systems]),
        sweep=str(path),
        variants=[
            {
                "name": plan.variant.name,
                "set": plan.variant.set,
                "untouched": plan.variant.zero_shot,
                "run": None if plan.variant.zero_shot else str(plan.config.out),
                "config": None if plan.variant.zero_shot else plan.config.model_dump(mode="json"),
            }
            for plan in planned
        ],
        splits={split: _rows(comparison) for split, comparison in comparisons.items()},
        chosen_by_dev=best.system.name,
    )


def _rows(comparison: Comparison) -> list[VariantScores]:
    against = {pair.b: pair for pair in comparison.pairs if pair.a == comparison.names[0]}
    rows = []
    for report in comparison.systems:
        scores, training, pair = report.scores, report.system.training, against.get(report.system.name)
        rows.append(
            VariantScores(
                name=report.system.name,
                wer=scores.wer,
                wer_interval=scores.wer_interval,
                cer=scores.cer,
                difference=pair.leading if pair else None,
                verdict=pair.verdict if pair else None,
                trainable_parameters=training.trainable_parameters if training else None,
                seconds=training.seconds if training else None,
                hours_of_speech=training.hours_of_speech if training else None,
                fingerprint=report.fingerprint,
            )
        )
    return rows


def _reason(error: BaseException) -> str:
    if ran_out_of_memory(error):
        return "there is not enough memory: lower training.batch_seconds or training.micro_batch_seconds"
    return " ".join(str(error).split()) or type(error).__name__


def _named(failed: dict[str, str], total: int) -> str:
    by_reason: dict[str, list[str]] = {}
    for name, reason in failed.items():
        by_reason.setdefault(reason.rstrip("."), []).append(name)
    each = "; ".join(f"{', '.join(names)} ({reason})" for reason, names in by_reason.items())
    return f"{len(failed)} of {total} variants failed: {each}. Run the same command again to try them again."
