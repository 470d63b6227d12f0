"""Every help text is a sentence that a stranger understands, and earlier names of options still work."""

import re
import resource
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from asr_lora.cli import verbs
from asr_lora.cli.help_screen import EARLIER_NAMES
from asr_lora.config import RunConfig, Section, SweepConfig, Variant

PROGRAM = get_command(verbs.app)
VERBS = PROGRAM.commands
TEXTS = {
    "asr-lora": PROGRAM.help,
    **{f"{verb}": command.help for verb, command in VERBS.items()},
    **{
        f"{verb} {parameter.name}": parameter.help
        for verb, command in {"": PROGRAM, **VERBS}.items()
        for parameter in command.params
    },
}


def sections(root):
    """A section of settings and all sections in it."""
    inner = [field.annotation for field in root.model_fields.values()]
    return [root, *(one for one in inner if isinstance(one, type) and issubclass(one, Section))]


@pytest.mark.parametrize("place", TEXTS)
def test_each_text_is_a_sentence(place):
    text = " ".join((TEXTS[place] or "").split())
    assert len(text.split()) >= 4
    assert len(text) <= 200
    assert text.endswith(".")
    assert text[0].isupper()
    assert not re.match(r"(Of|How|What|Which)\b", text)


def test_each_setting_has_a_description():
    for section in (*sections(RunConfig), SweepConfig, Variant):
        assert section.__doc__
        assert section.__doc__ != Section.__doc__
        for name, field in section.model_fields.items():
            if field.annotation not in sections(RunConfig):
                description = field.description or ""
                assert len(description.split()) >= 3, name
                assert description.endswith("."), name


@pytest.mark.parametrize("verb", VERBS)
def test_screens_are_readable_at_80_columns(verb):
    screen = CliRunner().invoke(verbs.app, [verb, "-h"], env={"COLUMNS": "80"}).stdout
    assert max(map(len, screen.splitlines())) <= 80
    assert "\x1b" not in screen
    assert f"asr-lora {verb} " in screen.partition("Examples:\n")[2]
    assert not set(EARLIER_NAMES) & set(re.findall(r"--[\w-]+", screen))
    first = re.search(r"\nOptions:\n(.*?)\n\n", screen, re.DOTALL)
    assert len(re.findall(r"^  -", first[1], re.MULTILINE)) <= 9


@pytest.mark.parametrize("verb", VERBS)
def test_examples_are_commands(verb):
    for example in VERBS[verb].epilog.splitlines():
        program, name, *words = shlex.split(example)
        assert (program, name) == ("asr-lora", verb)
        VERBS[verb].make_context(verb, words)  # raises where an argument or option is wrong


def test_what_comes_first():
    assert list(VERBS)[:2] == ["adapt", "transcribe"]


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        (["transcribe", "m", "a.wav", "--terms", "t.txt"], "hotwords", Path("t.txt")),
        (["evaluate", "m", "d", "--out", "o", "--terms", "t.txt"], "hotwords", Path("t.txt")),
        (["compare", "a", "b", "--terms", "t.txt"], "hotwords", Path("t.txt")),
        (["compare", "a", "b", "--guard", "c"], "regression_sets", ["c"]),
        (["promote", "r", "--guard", "c"], "regression_sets", ["c"]),
        (["check", "d", "--without", "too-fast"], "without", ["too-fast"]),
        (["export", "r", "--out", "o", "--format", "ggml", "--clips", "7"], "utterances", 7),
        (["train", "c.yaml", "--no-resume"], "resume", False),
        (["promote", "r", "--no-force"], "force", False),
    ],
)
def test_earlier_names_still_work(words, name, value):
    verb, *rest = words
    found = VERBS[verb].make_context(verb, rest).params[name]
    assert (list(map(str, found)) if isinstance(value, list) else type(value)(found)) == value
    current = next(each for each in VERBS[verb].params if each.name == name).opts[0]
    assert current not in EARLIER_NAMES


def test_help_is_quick_and_needs_no_torch():
    code = (
        "import sys; sys.argv = ['asr-lora', '--help']\n"
        "from asr_lora.cli.verbs import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    begun = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode == 0
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - begun < 2
