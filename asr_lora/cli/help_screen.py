"""Lay out the help screen of a verb: options in named sections, then examples."""

import re
from typing import Any

import typer
from typer.core import TyperCommand

# Earlier names of options. They still work, and the help screen does not show them.
EARLIER_NAMES = ("--terms", "--guard", "--without", "--clips", "--no-resume", "--no-force")


def option(text: str, *names: str, section: str | None = None, **settings: Any) -> Any:
    """An option that the help screen shows in a section; without `section` it stands first, under Options."""
    return typer.Option(*names, help=text, rich_help_panel=section, **settings)


class SectionedCommand(TyperCommand):
    """A verb whose help screen is plain text that stays readable at 80 columns and in a pipe."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            if record := parameter.get_help_record(ctx):
                default = "Arguments" if parameter.param_type_name == "argument" else "Options"
                title = getattr(parameter, "rich_help_panel", None) or default
                names = re.sub(rf"(, | / |/)({'|'.join(EARLIER_NAMES)})\b", "", record[0])
                sections.setdefault(title, []).append((names, record[1]))
        for title, rows in sections.items():
            with formatter.section(title):
                formatter.write_dl(rows)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002
        with formatter.section("Examples"):
            for line in (self.epilog or "").splitlines():
                formatter.write(f"  {line}\n")
