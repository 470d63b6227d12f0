"""Tables of typed cells, and how they are written: numbers keep their value until HTML, Markdown or CSV is made."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from asr_lora.text import printable

FORMULA = tuple("=+-@＝＋－＠")  # beginnings of cells that spreadsheets compute
DASH = "–"  # stands where a number is missing
LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "#": r"\#", "$": r"\$", "%": r"\%", "&": r"\&", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", ",": r"\char44{}", ";": r"\char59{}", '"': r"\char34{}",
}  # fmt: skip


@dataclass(frozen=True)
class Number:
    """A number and its format; a dash where there is none. HTML shows a minus sign instead of a hyphen."""

    value: float | None
    form: str = ".1f"

    def __str__(self) -> str:
        return DASH if self.value is None else f"{self.value:{self.form}}"

    def __html__(self) -> str:
        return str(self).replace("-", "−")


@dataclass(frozen=True)
class Text:
    """Words with numbers in between, such as a sentence or an interval."""

    parts: tuple[str | Number, ...]

    def __str__(self) -> str:
        return "".join(map(str, self.parts))

    def __html__(self) -> str:
        return Markup("").join(map(escape, self.parts))

    def __add__(self, other: "Text") -> "Text":
        return Text((*self.parts, *other.parts))


Cell = str | Number | Text


@dataclass(frozen=True)
class Table:
    """Cells in rows and columns; the first cell of a row names the row."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    words: frozenset[int] = frozenset()  # columns that hold words, not numbers


def text(*parts: str | Number) -> Text:
    return Text(parts)


def percent(share: float | None, form: str = ".1f") -> Number:
    """A share as a number of per cent (or of points, where it is a difference)."""
    return Number(None if share is None else 100 * share, form)


def count(number: int | None) -> Number:
    return Number(number, ",d")


def interval(low: float | None, high: float | None, form: str = ".1f") -> Text:
    """The ends of an interval of shares, in per cent."""
    return text(DASH) if low is None or high is None else text(percent(low, form), " to ", percent(high, form))


def latex_csv(table: Table) -> str:
    """Write names and numbers as CSV for siunitx, pgfplotstable or csvsimple; empty where a value is missing.

    Names are escaped for LaTeX, their commas and quotation marks too, since TeX's readers know no quoted cells. A
    name that a spreadsheet would compute begins with an empty group, which TeX does not print.
    """
    handle = io.StringIO()
    writer = csv.writer(handle, lineterminator="\n")
    writer.writerow(table.columns)
    for row in table.rows:
        writer.writerow([_plain(cell) if isinstance(cell, Number) else _latex(str(cell)) for cell in row])
    return handle.getvalue()


def _plain(number: Number) -> str:
    """A number with six significant figures."""
    value = number.value
    return "" if value is None else str(value) if isinstance(value, int) else f"{value:.6g}"


def _latex(name: str) -> str:
    return spreadsheet_safe("".join(LATEX.get(character, character) for character in one_line(name)), "{}")


def spreadsheet_safe(cell: str, mark: str) -> str:
    """Put a mark before a text that a spreadsheet would take for a formula."""
    shown = one_line(cell)
    return mark + shown if shown.startswith(FORMULA) else shown


def one_line(text: str) -> str:
    return printable(" ".join(text.split()))
