"""Load the Jinja templates of the pages, and the script that every page with sortable tables carries."""

import base64
import hashlib
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined


@cache
def environment(autoescape: bool = True) -> Environment:
    """Return the templates of this folder; `autoescape` is for HTML, Markdown goes without."""
    return Environment(
        loader=PackageLoader("asr_lora.pages", "templates"),
        autoescape=autoescape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


@cache
def page_script() -> tuple[str, str]:
    """Return the script that sorts and filters tables, and its SHA-256 as a content security policy names it."""
    loader = environment().loader
    assert loader is not None
    text = loader.get_source(environment(), "page.js")[0]
    return text, base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
