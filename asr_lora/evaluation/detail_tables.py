"""Tables behind the scores of a comparison: groups, speakers, hallucination, hotwords, normalisers and words."""

from asr_lora.evaluation.comparison import Comparison, WordChanges
from asr_lora.evaluation.score_tables import named, value_and_interval
from asr_lora.metrics.breakdown import FieldRates, GroupRates
from asr_lora.metrics.confusions import ChangedWord, Confusions, WordCount
from asr_lora.pages.comparison_page import WordSection
from asr_lora.pages.tables import DASH, Cell, Number, Table, count, percent

WORDS_SHOWN = 15  # rows of each table of words


def group_table(comparison: Comparison, field: str, rates: FieldRates) -> Table:
    """Make the table of one field that utterances are grouped by, such as gender."""
    names, lead = comparison.names, comparison.lead.upper()
    columns = [field.capitalize(), "Utterances", "Speakers"]
    for name in names:
        columns += [f"{name} {lead} %", f"{name}, interval"]
    for name in names[1:]:
        columns += [f"{name} − {names[0]}", f"{name} − {names[0]}, interval"]
    return Table(f"By {field}", columns, [_group_row(group) for group in rates.groups])


def _group_row(group: GroupRates) -> list[Cell]:
    rates = [cell for rate in group.rates for cell in value_and_interval(rate)]
    changes = [cell for change in group.differences for cell in value_and_interval(change, "+.1f")]
    return [group.group, count(group.utterances), count(group.speakers), *rates, *changes]


def withheld_note(rates: FieldRates) -> str:
    small = rates.withheld
    return f"Withheld: {small.groups} groups, {small.utterances} utterances." if small.groups else ""


def speaker_tables(comparison: Comparison) -> list[Table]:
    """Make the tables of how rates spread over speakers, and of the speakers with the highest rates."""
    speaker, names, rate = comparison.breakdown.speaker, comparison.names, comparison.lead.upper()
    columns = [
        "System", f"Lowest {rate} %", "First quartile", "Median", "Third quartile", "Highest", "Mean over speakers",
        "Speakers better", "Speakers worse",
    ]  # fmt: skip
    changes: list[list[Cell]] = [[DASH, DASH]]
    changes += [[Number(own.lower, "d"), Number(own.higher, "d")] for own in speaker.against_first]
    spread = [
        [name, *map(percent, own.quartiles), percent(own.mean), *counts]
        for name, own, counts in zip(names, speaker.spread, changes, strict=False)
    ]
    columns_of_rates = [head for name in names for head in (f"{name} {rate} %", f"{name}, interval")]
    highest = [
        [row.speaker, count(row.utterances), *(cell for own in row.rates for cell in value_and_interval(own))]
        for row in speaker.highest
    ]
    heads = ["Speaker (pseudonym)", "Utterances", *columns_of_rates]
    return [
        Table(f"Spread over {speaker.speakers} speakers", columns, spread),
        Table(f"Speakers with the highest {rate}", heads, highest),
    ]


def hallucination_table(comparison: Comparison) -> Table:
    unit = comparison.hallucination[0].unit
    columns = [
        "System", f"Inserted {unit}s", "Insertion rate %", "Length ratio", "Much too long", "Repetition loops",
        "Empty hypotheses", "Empty references", "of these with words",
    ]  # fmt: skip
    rows: list[list[Cell]] = [
        [
            name,
            count(own.insertions),
            percent(own.insertion_rate),
            Number(own.length_ratio, ".2f"),
            *map(count, (own.much_too_long, own.loops, own.empty, own.silence.utterances, own.silence.with_words)),
        ]
        for name, own in zip(comparison.names, comparison.hallucination, strict=True)
    ]
    return Table("Signs of hallucination", columns, rows)


def hotword_tables(comparison: Comparison) -> list[Table]:
    """Make the table of hotword recall, and with transcripts that of each hotword by system."""
    if not comparison.hotwords:
        return []
    columns = [
        "System", "Hotwords", "Spoken", "Recognised", "Recall %", "95 % interval", "In all hypotheses", "Precision %",
    ]  # fmt: skip
    rows: list[list[Cell]] = []
    for name, own in zip(comparison.names, comparison.hotwords, strict=True):
        recall = value_and_interval(own.recall) if own.recall else [DASH, DASH]
        counts = map(count, (own.terms, own.spoken, own.found))
        rows.append([name, *counts, *recall, count(own.heard), percent(own.precision)])
    tables = [Table("Hotwords", columns, rows)]
    if first := comparison.hotwords[0].each:
        found = [[count(one.found) for one in own.each or ()] for own in comparison.hotwords]
        each: list[list[Cell]] = [
            [one.term, count(one.spoken), *counts] for one, counts in zip(first, zip(*found, strict=True), strict=True)
        ]
        heads = ["Hotword", "Spoken", *(f"recognised by {name}" for name in comparison.names)]
        tables.append(Table("Each hotword", heads, each))
    return tables


def normaliser_table(comparison: Comparison) -> Table:
    """Make the table of the leading rate after every normaliser; it has no rows where the reports do not state it."""
    found = {name: system.scores.normalised for name, system in named(comparison)}
    labels = list(dict.fromkeys(label for own in found.values() for label in own))
    rows: list[list[Cell]] = [
        [name, *(percent(own.get(label, {}).get(comparison.lead)) for label in labels)] for name, own in found.items()
    ]
    return Table(f"{comparison.lead.upper()} % after every normaliser", ["System", *labels], rows if labels else [])


def word_sections(comparison: Comparison) -> list[WordSection]:
    """Return the words that changed between systems, and the errors of each system; nothing without transcripts."""
    changed = [_changed_section(own) for own in comparison.changed]
    return changed + [
        WordSection(f"Errors of {name}", _error_tables(own))
        for name, own in zip(comparison.names, comparison.words, strict=False)
    ]


def _error_tables(own: Confusions) -> list[Table]:
    substituted: list[list[Cell]] = [
        [row.reference, row.hypothesis, count(row.count)] for row in own.substitutions[:WORDS_SHOWN]
    ]
    wrong: list[list[Cell]] = [
        [
            row.word,
            count(row.spoken),
            count(row.wrong),
            ", ".join(f"{one.word or '(nothing)'} {one.count}" for one in row.heard_as),
        ]
        for row in own.words[:WORDS_SHOWN]
    ]
    return [
        Table("Substitutions", ["Reference", "Hypothesis", "Count"], substituted, frozenset({1})),
        Table("Insertions", ["Word", "Count"], _word_counts(own.insertions)),
        Table("Deletions", ["Word", "Count"], _word_counts(own.deletions)),
        Table("Words with the most errors", ["Word", "Spoken", "Wrong", "Transcribed as"], wrong, frozenset({3})),
    ]


def _word_counts(words: list[WordCount]) -> list[list[Cell]]:
    return [[row.word or "", count(row.count)] for row in words[:WORDS_SHOWN]]


def _changed_section(own: WordChanges) -> WordSection:
    words = own.words
    tables = [
        _changed_table(words.better, words.words_better, "right more often"),
        _changed_table(words.worse, words.words_worse, "right less often"),
    ]
    return WordSection(f"What changed: {own.b} against {own.a}", tables)


def _changed_table(words: list[ChangedWord], total: int, title: str) -> Table:
    rows: list[list[Cell]] = [
        [row.word, count(row.spoken), count(row.right_before), count(row.right_after)] for row in words[:WORDS_SHOWN]
    ]
    first = f", the first {WORDS_SHOWN}" if total > WORDS_SHOWN else ""
    return Table(f"{total:,} words {title}{first}", ["Word", "Spoken", "Right before", "Right after"], rows)
