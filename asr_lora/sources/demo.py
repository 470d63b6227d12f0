"""Find the Italian speech that comes with the package."""

from pathlib import Path

PACKAGE = Path(__file__).parents[1]


def demo_speech() -> Path:
    """Return the folder of the demo's speech: 109 Italian prompts of Carlo Flora (CC-BY-3.0), a Common Voice release.

    An installed package contains it; a checkout has it in data/demo.
    """
    installed = PACKAGE / "demo_speech"
    return installed if installed.is_dir() else PACKAGE.parent / "data" / "demo"
