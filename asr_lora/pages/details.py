"""A comparison -> tables of what lies behind its scores: groups, speakers, hallucination, terms and words."""

from collections.abc import Sequence

from asr_lora.evaluation.comparison import Comparison
from asr_lora.pages.tables import DASH, Facts, Table, named, number, percent, with_interval

KEPT_RIGHT = ("spoken", "right_before", "right_after")


def group_tables(comparison: Comparison) -> list[tuple[Table, str]]:
    """A table for each field that utterances are grouped by, and what of it is withheld."""
    names, tables = comparison.names, []
    for field, body in comparison.breakdown["by"].items():
        columns = [field.capitalize(), "Utterances", "Speakers"]
        for name in names:
            columns += [f"{name} {comparison.lead.upper()} %", f"{name}, interval"]
        for name in names[1:]:
            columns += [f"{name} − {names[0]}", f"{name} − {names[0]}, interval"]
        rows = [_group_row(group) for group in body["groups"]]
        withheld = body["withheld"]
        note = (
            f"Withheld: {withheld['groups']} groups, {withheld['utterances']} utterances." if withheld["groups"] else ""
        )
        tables.append((Table(f"By {field}", columns, rows), note))
    return tables


def _group_row(group: Facts) -> list[str]:
    cells = [group["group"], f"{group['utterances']:,}", f"{group['speakers']:,}"]
    for rate in group["rates"]:
        cells += with_interval(rate)
    for change in group["differences"]:
        cells += with_interval(change, "+.1f")
    return cells


def speaker_tables(comparison: Comparison) -> list[Table]:
    """How rates spread over speakers, and the speakers with the highest."""
    speaker, names, rate = comparison.breakdown["speaker"], comparison.names, comparison.lead.upper()
    columns = [
        "System", f"Lowest {rate} %", "First quarter", "Median", "Third quarter", "Highest", "Mean over speakers",
        "Speakers better", "Speakers worse",
    ]  # fmt: skip
    beside = [[DASH, DASH], *([str(own["lower"]), str(own["higher"])] for own in speaker["against_first"])]
    spread = [
        [name, *map(percent, own["quartiles"]), percent(own["mean"]), *counts]
        for name, own, counts in zip(names, speaker["spread"], beside, strict=False)
    ]
    tables = [Table(f"Spread over {speaker['speakers']} speakers", columns, spread)]
    if speaker["highest"]:
        columns = ["Speaker (pseudonym)", "Utterances"]
        for name in names:
            columns += [f"{name} {rate} %", f"{name}, interval"]
        highest = []
        for row in speaker["highest"]:
            cells = [cell for own in row["rates"] for cell in with_interval(own)]
            highest.append([row["speaker"], f"{row['utterances']:,}", *cells])
        tables.append(Table(f"Speakers with the highest {rate}", columns, highest))
    return tables


def hallucination_table(comparison: Comparison, facts: Facts) -> Table:
    unit = facts["hallucination"][0]["unit"]
    columns = [
        "System", f"Inserted {unit}s", f"of {unit}s spoken %", "Length ratio", "Much too long", "Loops", "Empty",
        "Silent utterances", "answered with words",
    ]  # fmt: skip
    rows = []
    for name, own in zip(comparison.names, facts["hallucination"], strict=True):
        counts = [own[key] for key in ("much_too_long", "loops", "empty")]
        counts += [own["silence"][key] for key in ("utterances", "with_words")]
        ratios = [percent(own["insertion_rate"]), number(own["length_ratio"], 1, ".2f")]
        rows.append([name, f"{own['insertions']:,}", *ratios, *(f"{count:,}" for count in counts)])
    return Table("Signs of hallucination", columns, rows)


def term_tables(comparison: Comparison, facts: Facts) -> list[Table]:
    """Recall of named terms, and each term by system."""
    if not facts["terms"]:
        return []
    columns = ["System", "Terms", "Spoken", "Found", "Recall %", "95 % interval", "Heard in all", "Precision %"]
    rows = []
    for name, own in zip(comparison.names, facts["terms"], strict=True):
        counts = [f"{own[key]:,}" for key in ("terms", "spoken", "found")]
        recall = with_interval(own["recall"]) if own["recall"] else [DASH, DASH]
        rows.append([name, *counts, *recall, f"{own['heard']:,}", percent(own["precision"])])
    tables = [Table("Named terms", columns, rows)]
    if "each" in facts["terms"][0]:
        each = zip(*(own["each"] for own in facts["terms"]), strict=True)
        found = [[of[0]["term"], str(of[0]["spoken"]), *(str(one["found"]) for one in of)] for of in each]
        columns = ["Term", "Spoken", *(f"found by {name}" for name in comparison.names)]
        tables.append(Table("Each term", columns, found))
    return tables


def normaliser_table(comparison: Comparison) -> Table | None:
    """The leading rate after every normaliser, where the reports have it."""
    found = {name: system["scores"].get("normalised", {}) for name, system in named(comparison)}
    labels = list(dict.fromkeys(label for own in found.values() for label in own))
    if not labels:
        return None
    rows = [
        [name, *(percent(own.get(label, {}).get(comparison.lead)) for label in labels)] for name, own in found.items()
    ]
    return Table(f"{comparison.lead.upper()} % after every normaliser", ["System", *labels], rows)


def word_tables(facts: Facts, names: Sequence[str], shown: int) -> list[tuple[str, list[Table]]]:
    """Of each system its most frequent errors; nothing without transcripts."""
    found = []
    for name, own in zip(names, facts.get("words", ()), strict=False):
        swapped = [[row["reference"], row["hypothesis"], str(row["count"])] for row in own["substitutions"][:shown]]
        added, missing = (
            [[row["word"], str(row["count"])] for row in own[key][:shown]] for key in ("insertions", "deletions")
        )
        wrong = [
            [row["word"], str(row["spoken"]), str(row["wrong"]), ", ".join(map(_heard, row["heard_as"]))]
            for row in own["words"][:shown]
        ]
        tables = [
            Table("Words taken for others", ["Said", "Heard", "Times"], swapped, frozenset({1})),
            Table("Added words", ["Word", "Times"], added),
            Table("Missing words", ["Word", "Times"], missing),
            Table("Words that are most often wrong", ["Word", "Spoken", "Wrong", "Heard as"], wrong, frozenset({3})),
        ]
        found.append((name, tables))
    return found


def _heard(facts: Facts) -> str:
    return f"{facts['word'] or '(nothing)'} {facts['count']}"


def changed_tables(facts: Facts, shown: int) -> list[tuple[str, list[Table]]]:
    """Of each system after the first, the words that it has right more often and less often."""
    found = []
    columns = ["Word", "Spoken", "Right before", "Right after"]
    for own in facts.get("changed_words", ()):
        tables = []
        for side, title in (("better", "right more often"), ("worse", "right less often")):
            count = own[f"words_{side}"]
            rows = [[row["word"], *(str(row[key]) for key in KEPT_RIGHT)] for row in own[side][:shown]]
            first = f", the first {shown}" if count > shown else ""
            tables.append(Table(f"{count:,} words {title}{first}", columns, rows))
        found.append((f"{own['b']} against {own['a']}", tables))
    return found
