"""The page of the server: its text, code and style, read once."""

from importlib.resources import files

from asr_lora.audio.ffmpeg import SUFFIXES, media_names, media_suffixes
from asr_lora.pages.templating import environment
from asr_lora.serving.models import Models

KINDS = {".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8"}


def load_page(models: Models, *, key: bool) -> dict[str, tuple[str, bytes]]:
    """What is served beside the API: address -> type and bytes.

    Args:
        models: the model that it asks.
        key: whether visitors need one.
    """
    folder = files("asr_lora.serving") / "page"
    html = environment().from_string((folder / "page.html.j2").read_text(encoding="utf-8"))
    look = environment(autoescape=False).get_template("style.css.j2").render()
    bodies = {
        "/page.js": (folder / "page.js").read_text(encoding="utf-8"),
        "/recorder.js": (folder / "recorder.js").read_text(encoding="utf-8"),
        "/page.css": look + (folder / "page.css").read_text(encoding="utf-8"),
    }
    found = {name: (KINDS[name[name.rindex(".") :]], body.encode()) for name, body in bodies.items()}
    adapters = {
        name: selection.prompt.language if selection else None
        for name, selection in models.selections.items()
        if name != models.base
    }
    accept = sorted(media_suffixes() & (SUFFIXES | {".wav", ".flac", ".ogg", ".opus", ".mp3"}))
    rendered = html.render(
        base=models.base, adapters=adapters, key=key, seconds=int(models.most_seconds), formats=media_names(),
        accept=accept,
    )  # fmt: skip
    return {"/": ("text/html; charset=utf-8", rendered.encode()), **found}
