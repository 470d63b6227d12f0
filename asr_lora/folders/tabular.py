"""Show a result as a table: HTML in a notebook, a DataFrame for pandas."""

import html
from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from asr_lora.errors import ConfigError
from asr_lora.text import printable

if TYPE_CHECKING:
    from pandas import DataFrame

MOST_ROWS = 50  # that a notebook shows
DASH = "–"
Row = dict[str, object]


class Column(NamedTuple):
    """A column of a table."""

    name: str  # in pandas
    heading: str  # in a notebook; "": not shown there
    form: str = ""  # of its numbers, as `format` takes it; shares of 1 are shown as percent
    source: str = ""  # keys and places that lead to its value, such as "scores.wer_interval.0"; "": as `name`


def scored_columns(rate: str, source: str = "") -> list[Column]:
    """Columns of an error rate and its 95 % interval; `source` leads to the scores."""
    bounds = [Column(f"{rate}_{name}", heading, ".1%", f"{source}{rate}_interval.{place}")
              for place, (name, heading) in enumerate((("low", "95 % from"), ("high", "to")))]  # fmt: skip
    return [Column(rate, rate.upper(), ".1%", f"{source}{rate}"), *bounds]


def difference_columns(source: str) -> list[Column]:
    """Columns of a paired difference and its 95 % interval; `source` leads to them."""
    names = (
        ("difference", "Difference", "value"),
        ("difference_low", "95 % from", "low"),
        ("difference_high", "to", "high"),
    )
    return [Column(name, heading, "+.1%", f"{source}.{key}") for name, heading, key in names]


class Tabular:
    """A result with a table; a class that has one names its columns and where their values come from."""

    columns: ClassVar[Sequence[Column]] = ()

    def entries(self) -> Iterable[object]:
        """Return the source of each row: a JSON object or a record."""
        raise NotImplementedError

    def caption(self) -> str:
        """Return the result in one sentence."""
        raise NotImplementedError

    def rows(self) -> list[Row]:
        """Return the table, a row each: rates are shares of 1, times seconds, sizes bytes; None where unknown.

        Raises:
            DataError: the result is not complete.
        """
        sources = {column.name: (column.source or column.name).split(".") for column in self.columns}
        return [{name: reduce(_step, path, entry) for name, path in sources.items()} for entry in self.entries()]

    def to_pandas(self) -> "DataFrame":
        """Return the table as a DataFrame; for the units see `rows`.

        Raises:
            ConfigError: pandas is not installed.
            DataError: the result is not complete.
        """
        try:
            import pandas
        except ImportError as error:
            raise ConfigError("to_pandas needs pandas: pip install pandas") from error
        return pandas.DataFrame(self.rows(), columns=[column.name for column in self.columns])

    def _repr_html_(self) -> str:
        rows = self.rows()
        known = {name for row in rows for name, value in row.items() if value is not None}
        shown = [column for column in self.columns if column.heading and column.name in known]
        lines = [_line("th", [column.heading for column in shown])]
        lines += [_line("td", [_cell(row[column.name], column.form) for column in shown]) for row in rows[:MOST_ROWS]]
        more = f"<p>{len(rows) - MOST_ROWS:,} more rows are not shown.</p>" if len(rows) > MOST_ROWS else ""
        return "\n".join([f"<p>{_shown(self.caption())}</p>", "<table>", *lines, "</table>", more])


def _step(value: object, key: str) -> object:
    """Go one step down: into an object by its key, into a list by its place, into a record by its field."""
    if isinstance(value, Mapping):
        return value.get(key)
    if isinstance(value, list | tuple) and key.isdigit():
        return value[int(key)]
    return getattr(value, key, None)


def _shown(text: str) -> str:
    return html.escape(printable(text))


def _line(tag: str, cells: Sequence[str]) -> str:
    return f"<tr>{''.join(f'<{tag}>{_shown(cell)}</{tag}>' for cell in cells)}</tr>"


def _cell(value: object, form: str) -> str:
    if value is None:
        return DASH
    return format(value, form) if isinstance(value, int | float) and not isinstance(value, bool) else str(value)
