"""Load the server's web page: its HTML, scripts and style, which are read once."""

from importlib.resources import files

from asr_lora.audio.ffmpeg import SUFFIXES, media_names, media_suffixes
from asr_lora.pages.templating import environment
from asr_lora.serving.served_model import ServedModel

CONTENT_TYPES = {".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8"}


def load_page(model: ServedModel, *, key: bool) -> dict[str, tuple[str, bytes]]:
    """Return what is served besides the API: address -> content type and bytes.

    Args:
        model: the model that the page offers.
        key: whether visitors need an API key.
    """
    folder = files("asr_lora.serving") / "page"
    html = environment().from_string((folder / "page.html.j2").read_text(encoding="utf-8"))
    style = environment(autoescape=False).get_template("style.css.j2").render()
    bodies = {
        "/page.js": (folder / "page.js").read_text(encoding="utf-8"),
        "/recorder.js": (folder / "recorder.js").read_text(encoding="utf-8"),
        "/page.css": style + (folder / "page.css").read_text(encoding="utf-8"),
    }
    found = {name: (CONTENT_TYPES[name[name.rindex(".") :]], body.encode()) for name, body in bodies.items()}
    adapters = {name: selection.prompt.language for name, selection in model.transcriber.adapters.items()}
    accept = sorted(media_suffixes() & (SUFFIXES | {".wav", ".flac", ".ogg", ".opus", ".mp3"}))
    rendered = html.render(
        base=model.name, adapters=adapters, key=key, seconds=int(model.max_seconds), formats=media_names(),
        accept=accept,
    )  # fmt: skip
    return {"/": ("text/html; charset=utf-8", rendered.encode()), **found}
