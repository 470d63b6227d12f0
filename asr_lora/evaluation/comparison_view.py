"""Make the view of a comparison: every table, sentence and chart that the page and the tables show."""

import re
import shlex
from collections.abc import Mapping, Sequence

import yaml

from asr_lora.evaluation.comparison import Comparison
from asr_lora.evaluation.comparison_charts import group_figure, learning_figures, rate_figure, training_figures
from asr_lora.evaluation.detail_tables import (
    group_table,
    hallucination_table,
    hotword_tables,
    normaliser_table,
    speaker_tables,
    withheld_note,
    word_sections,
)
from asr_lora.evaluation.score_tables import (
    combined_table,
    making_table,
    named,
    number_table,
    pair_table,
    regression_table,
    score_table,
)
from asr_lora.evaluation.shown_utterances import shown_utterances
from asr_lora.pages.charts import Figure
from asr_lora.pages.comparison_page import ComparisonView, GroupSection
from asr_lora.pages.tables import Table

PAIRS_OPEN = 12  # pairs that are shown unfolded
PRECISIONS = {"bfloat16": "bf16", "float32": "fp32"}


def comparison_view(
    comparison: Comparison,
    *,
    commands: Sequence[str] = (),
    price_per_hour: float | None = None,
    sounds: Mapping[str, bytes] | None = None,
    figures: Sequence[Figure] = (),
) -> ComparisonView:
    """Make the view of a comparison; it shows words only where the comparison has transcripts.

    Args:
        comparison: the systems and their results.
        commands: commands that make and check the comparison, shown after those of the systems.
        price_per_hour: price of the machine that trained, for the costs.
        sounds: FLAC of some of the utterances that are shown, by id.
        figures: more charts for the section on training.
    """
    first = comparison.systems[0]
    breakdown = comparison.breakdown
    unknown = f" Not recorded: {', '.join(breakdown.not_recorded)}." if breakdown.not_recorded else ""
    behind = [*speaker_tables(comparison), hallucination_table(comparison), normaliser_table(comparison)]
    contests = comparison.contests
    return ComparisonView(
        names=comparison.names,
        lead=comparison.lead.upper(),
        dataset=first.dataset,
        decoding=first.decoding,
        normaliser=first.normaliser,
        unit=comparison.unit,
        units=comparison.units,
        price_per_hour=price_per_hour,
        verdict=comparison.verdict,
        scores=score_table(comparison, price_per_hour),
        numbers=number_table(comparison, price_per_hour),
        rate_figure=rate_figure(comparison),
        figures=[*learning_figures(comparison), *training_figures(comparison), *figures],
        pairs=_pairs(comparison),
        sentences=[pair.sentence for pair in comparison.pairs],
        combined=combined_table(comparison) if comparison.combined else None,
        contests=pair_table(comparison, contests, "Means against each other") if contests else None,
        regression_sets=[regression_table(own) for own in comparison.regression_sets],
        groups=[
            GroupSection(
                group_table(comparison, field, rates), withheld_note(rates), group_figure(comparison, field, rates)
            )
            for field, rates in breakdown.by.items()
        ],
        groups_note=breakdown.rule + unknown,
        behind=[table for table in behind if table.rows],
        hotwords=hotword_tables(comparison),
        words=word_sections(comparison),
        utterances=shown_utterances(comparison) if comparison.transcripts else [],
        sounds=sounds or {},
        making=making_table(comparison),
        commands=[*_run_commands(comparison), *commands],
        configs=_configs(comparison),
        libraries=first.made_with.libraries,
    )


def _pairs(comparison: Comparison) -> list[Table]:
    """Make the table of pairs with the first system, and that of the others, which may be many."""
    first = comparison.names[0]
    if len(comparison.pairs) <= PAIRS_OPEN:
        return [pair_table(comparison, comparison.pairs, "Each pair")]
    sides = [[pair for pair in comparison.pairs if (pair.a == first) is with_first] for with_first in (True, False)]
    captions = (f"Each system against {first}", "All other pairs")
    return [pair_table(comparison, side, caption) for side, caption in zip(sides, captions, strict=True)]


def _run_commands(comparison: Comparison) -> list[str]:
    """Return the commands that train and score every system again, from what its report states."""
    commands = []
    for report in comparison.systems:
        system, decoding, dataset = report.system, report.decoding, report.dataset
        if system.training:
            run = re.sub(r"@[\d.]+$", "", system.model)
            commands.append(["train", f"{run}/config.yaml"])
        options = {
            "--split": dataset.split, "--name": system.name, "--language": decoding.language,
            "--language-token": decoding.language_token, "--task": decoding.task, "--context": system.context,
            "--engine": system.engine, "--precision": PRECISIONS.get(system.dtype), "--beams": decoding.beams,
            "--normaliser": report.normaliser.rpartition("-")[0], "--out": f"reports/{system.name}",
        }  # fmt: skip
        words = ["evaluate", system.model, dataset.folder or "DATASET"]
        words += [str(word) for option, value in options.items() if value is not None for word in (option, value)]
        commands.append(words)
    return list(dict.fromkeys(shlex.join(["asr-lora", *words]) for words in commands))


def _configs(comparison: Comparison) -> list[tuple[str, str]]:
    """Return name and settings of every run whose report has them."""
    trained = [(name, report.system.training) for name, report in named(comparison)]
    return [
        (name, yaml.safe_dump(training.config, sort_keys=False, allow_unicode=True))
        for name, training in trained
        if training and training.config
    ]
