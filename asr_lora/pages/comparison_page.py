"""A comparison -> one self-contained HTML page, and its table as Markdown and as CSV."""

import base64
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from asr_lora.evaluation.comparison import Comparison
from asr_lora.pages.details import (
    changed_tables,
    group_tables,
    hallucination_table,
    normaliser_table,
    speaker_tables,
    term_tables,
    word_tables,
)
from asr_lora.pages.figures import Figure, group_figure, learning_figures, rate_figure, training_figures
from asr_lora.pages.tables import (
    Table,
    combined_table,
    empty_table,
    guard_tables,
    making_table,
    pair_table,
    score_table,
)
from asr_lora.pages.templating import environment, page_script
from asr_lora.pages.utterances import shown_utterances

WORDS_SHOWN = 15  # rows of each table of words
PAIRS_OPEN = 12  # pairs that are shown without being asked for
PRECISIONS = {"bfloat16": "bf16", "float32": "fp32"}


def render_page(
    comparison: Comparison,
    facts: Mapping[str, Any],
    *,
    commands: Sequence[str] = (),
    price_per_hour: float | None = None,
    sounds: Mapping[str, bytes] | None = None,
    figures: Sequence[Figure] = (),
) -> str:
    """Render the page.

    Args:
        comparison: what is compared.
        facts: of it, from `comparison_facts`; where these have no words of anybody, the page has none.
        commands: that made the comparison, and that check it.
        price_per_hour: of the machine that trained, for the costs.
        sounds: FLAC of some of the utterances that are shown.
        figures: more charts.
    """
    words = "words" in facts
    return environment().get_template("page.html.j2").render(
        **_context(comparison, price_per_hour),
        script=page_script(),
        rate_figure=rate_figure(comparison),
        figures=[*learning_figures(comparison), *training_figures(comparison), *figures],
        pairs=_pairs(comparison),
        contests=comparison.contests and pair_table(comparison, comparison.contests, "Means beside each other"),
        sentences=[(f"{pair.b} against {pair.a}", pair.sentence) for pair in comparison.pairs],
        groups=[
            (table, note, group_figure(comparison, body))
            for (table, note), body in zip(group_tables(comparison), comparison.breakdown["by"].values(), strict=True)
        ],
        breakdown=comparison.breakdown,
        behind=[table for table in (*speaker_tables(comparison), hallucination_table(comparison, facts)) if table.rows],
        terms=term_tables(comparison, facts),
        guards=guard_tables(comparison),
        combined=combined_table(comparison) if comparison.combined else None,
        normalisers=normaliser_table(comparison),
        words=word_tables(facts, comparison.names, WORDS_SHOWN),
        changed=changed_tables(facts, WORDS_SHOWN),
        utterances=shown_utterances(comparison) if words else [],
        sounds={clip: base64.b64encode(flac).decode() for clip, flac in (sounds or {}).items()},
        sound_bytes=sum(map(len, (sounds or {}).values())),
        making=making_table(comparison),
        commands=[*_run_commands(comparison), *commands],
        configs=_configs(comparison),
        libraries=comparison.systems[0]["made_with"]["libraries"],
    )  # fmt: skip


def render_markdown(comparison: Comparison, *, price_per_hour: float | None = None) -> str:
    """Render verdict and table as Markdown."""
    template = environment(autoescape=False).get_template("table.md.j2")
    return template.render(**_context(comparison, price_per_hour))


def render_empty(title: str, rows: Sequence[tuple[str, str, str, str]], command: str) -> tuple[str, str]:
    """Page and Markdown of systems that nobody has trained yet: their names, and no figure.

    Args:
        title: of the page.
        rows: name, base, method and speech of each system.
        command: what fills the table.
    """
    context = {"title": title, "table": empty_table(rows), "command": command, "script": page_script()}
    page, text = environment(), environment(autoescape=False)
    return page.get_template("empty.html.j2").render(**context), text.get_template("empty.md.j2").render(**context)


def _context(comparison: Comparison, price_per_hour: float | None) -> dict[str, Any]:
    systems = comparison.systems
    return {
        "verdict": comparison.verdict,
        "table": score_table(comparison, price_per_hour),
        "price": price_per_hour,
        "names": comparison.names,
        "systems": systems,
        "dataset": systems[0]["dataset"],
        "decoding": systems[0]["decoding"],
        "normaliser": systems[0]["normaliser"],
        "lead": comparison.lead.upper(),
        "unit": comparison.unit,
        "units": comparison.units,
    }


def _pairs(comparison: Comparison) -> list[Table]:
    """Pairs with the first system, and then the others, which may be many."""
    first = comparison.names[0]
    sides = [[pair for pair in comparison.pairs if (pair.a == first) is with_first] for with_first in (True, False)]
    if len(comparison.pairs) <= PAIRS_OPEN:
        sides = [comparison.pairs]
    captions = ("Each pair" if len(sides) == 1 else f"Each system against {first}", "All other pairs")
    return [pair_table(comparison, side, caption) for side, caption in zip(sides, captions, strict=False) if side]


def _run_commands(comparison: Comparison) -> list[str]:
    """What trains and scores every system again, from what its report says of it."""
    commands = []
    for system in comparison.systems:
        facts, told, dataset = system["system"], system["decoding"], system["dataset"]
        if facts["training"]:
            run = re.sub(r"@[\d.]+$", "", facts["model"])
            commands.append(["train", f"{run}/config.yaml"])
        options = {
            "--split": dataset["split"], "--name": facts["name"], "--language": told["language"],
            "--language-token": told.get("language_token"), "--task": told["task"], "--context": facts["context"],
            "--precision": PRECISIONS.get(facts["dtype"]), "--beams": told["beams"],
            "--normaliser": system["normaliser"].rpartition("-")[0], "--out": f"reports/{facts['name']}",
        }  # fmt: skip
        words = ["evaluate", facts["model"], dataset.get("folder", "DATASET")]
        words += [str(word) for option, value in options.items() if value is not None for word in (option, value)]
        commands.append(words)
    return list(dict.fromkeys(shlex.join(["asr-lora", *words]) for words in commands))


def _configs(comparison: Comparison) -> list[tuple[str, str]]:
    """Name and settings of every run whose report has them."""
    configs = [(system["system"]["training"] or {}).get("config") for system in comparison.systems]
    return [
        (name, yaml.safe_dump(config, sort_keys=False, allow_unicode=True))
        for name, config in zip(comparison.names, configs, strict=True)
        if config
    ]
