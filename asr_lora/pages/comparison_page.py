"""Draw the view of a comparison as one self-contained HTML page, and its main table as Markdown."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from asr_lora.folders.measurements import DecodingRecord, ScoredSplit
from asr_lora.metrics.wer import Step
from asr_lora.pages.charts import Figure
from asr_lora.pages.tables import DASH, Cell, Table, Text
from asr_lora.pages.templating import page_script, render


@dataclass(frozen=True)
class AlignedLine:
    """One line of an alignment, a cell for each column; None where only other lines have something."""

    name: str
    edits: int | None  # None: the reference
    cells: Sequence[Step | None]


@dataclass(frozen=True)
class ShownUtterance:
    """An utterance on the page. Systems are counted from 1, the first being the one that others are compared with."""

    id: str
    seconds: float
    reference: str  # as written
    edits: float  # mean over systems
    change: int  # edits of the system that differs most from the first, minus those of the first
    better: Sequence[int]  # systems that make fewer errors than the first
    worse: Sequence[int]
    kinds: Sequence[str]  # of errors that any system makes: "sub", "ins", "del"
    blocks: Sequence[
        Sequence[AlignedLine]
    ]  # the reference with its hypotheses; one block for each normalised reference
    direction: str  # "ltr" or "rtl"


@dataclass(frozen=True)
class GroupSection:
    """Rates by one field, such as gender."""

    table: Table
    note: str  # on groups that are withheld; may be empty
    figure: Figure | None


@dataclass(frozen=True)
class WordSection:
    """Tables of words under one title."""

    title: str
    tables: Sequence[Table]


@dataclass(frozen=True)
class ComparisonView:
    """Everything that the page, the Markdown table and the CSV table show of a comparison."""

    names: Sequence[str]
    lead: str  # "WER" or "CER"
    dataset: ScoredSplit
    decoding: DecodingRecord
    normaliser: str
    unit: str  # of the bootstrap: "speaker" or "utterance"
    units: int
    price_per_hour: float | None
    verdict: Text
    scores: Table
    numbers: Table  # the same in plain numbers, for CSV
    rate_figure: Figure
    figures: Sequence[Figure]  # of training, and more
    pairs: Sequence[Table]  # the first is shown, the others are folded
    sentences: Sequence[Text]  # a verdict for each pair
    combined: Table | None  # several seeds or subsets
    contests: Table | None
    regression_sets: Sequence[Table]
    groups: Sequence[GroupSection]
    groups_note: str
    behind: Sequence[Table]  # speakers, hallucination, normalisers
    hotwords: Sequence[Table]  # the first is shown, the others are folded
    words: Sequence[WordSection]  # empty: without transcripts
    utterances: Sequence[ShownUtterance]  # empty: without transcripts
    sounds: Mapping[str, bytes]  # FLAC of some of these utterances, by id
    making: Table
    commands: Sequence[str]
    configs: Sequence[tuple[str, str]]  # name of a run, and its settings as YAML
    libraries: Mapping[str, str]

    @property
    def audio(self) -> Mapping[str, str]:
        """The sounds in base64."""
        return {key: base64.b64encode(flac).decode() for key, flac in self.sounds.items()}

    @property
    def sound_bytes(self) -> int:
        return sum(map(len, self.sounds.values()))


def render_page(view: ComparisonView) -> str:
    return render("page.html.j2", view=view, script=page_script())


def render_markdown(view: ComparisonView) -> str:
    """Render verdict and main table."""
    return render("table.md.j2", view=view)


def render_empty(title: str, rows: Sequence[tuple[str, str, str, str]], command: str) -> tuple[str, str]:
    """Render page and Markdown of a sweep that has not been run: its systems, and no numbers.

    Args:
        title: of the page.
        rows: name, base model, method and training data of each system.
        command: the command that runs the sweep and fills the table.
    """
    columns = [
        "System", "Base model", "Method", "Trained on", "WER %", "95 % interval", "CER %", "Difference",
        "its 95 % interval", "Trainable parameters", "Checkpoint MB", "Training min", "Peak memory GB", "RTFx",
    ]  # fmt: skip
    cells: list[list[Cell]] = [[*row, *[DASH] * (len(columns) - len(row))] for row in rows]
    table = Table("Scores, not measured yet", columns, cells, frozenset({1, 2, 3}))
    context = {"title": title, "table": table, "command": command, "script": page_script()}
    return render("empty.html.j2", **context), render("empty.md.j2", **context)
