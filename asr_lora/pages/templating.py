"""Load the Jinja templates of the pages, and the script that every page with sortable tables carries."""

import base64
import hashlib
import re
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined

from asr_lora.text import printable

ENTITIES = {"<": "&lt;", ">": "&gt;", "&": "&amp;"}  # not every reader of Markdown knows \< as CommonMark does
# Characters that mean something in Markdown wherever they stand; an underscore only where it begins or ends a word.
MARKDOWN = re.compile(r"[\\|<>`*\[\]~]|&(?=#?\w+;)|(?<![^\W_])_|_(?![^\W_])")


@cache
def environment(autoescape: bool = True) -> Environment:
    """Return the templates of this folder; `autoescape` is for HTML, Markdown has the filters `md` and `md_line`."""
    made = Environment(
        loader=PackageLoader("asr_lora.pages", "templates"),
        autoescape=autoescape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"md": markdown, "md_line": markdown_line}
    return made


def render(template: str, **context: object) -> str:
    """Fill a template of a page (`.html.j2`) or of Markdown (`.md.j2`); hidden characters are shown escaped."""
    return printable(environment(autoescape=".html." in template).get_template(template).render(**context))


def markdown(value: object) -> str:
    """Escape words for a line or a cell of Markdown, on one line."""
    return MARKDOWN.sub(lambda found: ENTITIES.get(found[0], f"\\{found[0]}"), " ".join(str(value).split()))


def markdown_line(value: object) -> str:
    """Escape words that begin a line of Markdown."""
    return re.sub(r"^(\d*)([#+=.)-])", r"\1\\\2", markdown(value))


@cache
def page_script() -> tuple[str, str]:
    """Return the script that sorts and filters tables, and its SHA-256 as a content security policy names it."""
    loader = environment().loader
    assert loader is not None
    text = loader.get_source(environment(), "page.js")[0]
    return text, base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
