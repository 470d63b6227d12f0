"""The structure of the package: which folder imports which, who uses a heavy library, names that stand once."""

import ast
import subprocess
import sys
from collections import defaultdict
from functools import cache
from pathlib import Path

import pytest
from conftest import ROOT

import asr_lora

PACKAGE = ROOT / "asr_lora"
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in PACKAGE.rglob("*.py")
    if path.name != "__main__.py"
}
# From low to high: a folder imports from itself and from what stands before it.
ORDER = (
    "errors", "text", "language", "config", "folders", "system", "audio", "sources", "labels", "dataset", "metrics",
    "model", "decoding", "training", "forecast", "pages", "evaluation", "transcription", "exporting", "serving",
    "workflows", "cli",
)  # fmt: skip
WITHOUT_TORCH = {"errors", "text", "language", "config", "folders", "sources", "labels", "metrics", "pages", "cli"}
JOBS = {home for home in asr_lora._HOMES.values() if home.rpartition(".")[0] != "asr_lora"}
DOORS = {  # library -> modules (or folders of them) that import it
    "peft": {"model.adapters"},
    "bitsandbytes": {"training.optim"},
    "jiwer": {"metrics.wer"},
    "num2words": {"metrics.normalize"},
    "accelerate": {"system.processes"},
    "datasets": {"dataset.reading", "sources.hub_tables"},
    "soundfile": {"audio"},
    "soxr": {"audio"},
    "torchaudio": {"audio"},
    "datacollective": {"sources.download"},
    "requests": {"sources.download"},
    "huggingface_hub": {"sources.hub_tables", "exporting"},
    "ctranslate2": {"model", "decoding"},
    "faster_whisper": {"exporting.other_engines"},
    "pywhispercpp": {"exporting.other_engines"},
    "gguf": {"exporting.ggml"},
    "librosa": {"transcription.longform"},
    "matplotlib": {"pages.charts"},
    "typer": {"cli"},
    "fastapi": {"serving"},
    "starlette": {"serving"},
    "python_multipart": {"serving"},
    "uvicorn": {"serving"},
    "prometheus_client": {"serving"},
    "pydantic": {"config", "folders"},
}
LOOSE_RECORDS = 40  # places of `dict[str, Any]` in the package: what crosses modules has a type


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def imports(path: Path) -> set[str]:
    """What a module imports, also within its functions."""
    found = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def folder(module: str) -> str:
    return module.split(".")[1]


def test_folders_import_in_one_direction():
    assert {folder(name) for name in MODULES if "." in name} == set(ORDER)
    wrong = {
        f"{name} imports {other}"
        for name, path in MODULES.items()
        for other in imports(path) & MODULES.keys()
        if "." in name and "." in other and ORDER.index(folder(other)) > ORDER.index(folder(name))
    }
    assert not wrong


@pytest.mark.parametrize("library", DOORS)
def test_each_heavy_library_has_few_doors(library):
    users = {name for name, path in MODULES.items() if any(i.split(".")[0] == library for i in imports(path))}
    doors = {f"asr_lora.{door}" for door in DOORS[library]}
    assert {user for user in users if not any(f"{user}.".startswith(f"{door}.") for door in doors)} == set()
    assert all(any(f"{user}.".startswith(f"{door}.") for user in users) for door in doors)


def test_only_workflows_and_the_command_line_call_jobs():
    for name, path in MODULES.items():
        if "." in name and folder(name) not in ("workflows", "cli"):
            assert not imports(path) & (JOBS - {name}), name


@pytest.mark.parametrize("room", sorted(WITHOUT_TORCH))
def test_rooms_of_text_and_numbers_import_no_torch(room):
    names = sorted(name for name in MODULES if "." in name and folder(name) == room)
    code = f"import sys; [__import__(n) for n in {names!r}]; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_help_needs_no_torch():
    code = (
        "import sys; sys.argv = ['asr-lora', 'train', '--help']\n"
        "from asr_lora.cli.verbs import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode == 0


@pytest.mark.parametrize("kind", [ast.ClassDef, ast.FunctionDef])
def test_names_stand_once(kind):
    """Two classes, or two public functions, of one name would be taken for each other."""
    places = defaultdict(list)
    for name, path in MODULES.items():
        for node in tree(path).body:
            if isinstance(node, kind) and (kind is ast.ClassDef or not node.name.startswith("_")):
                places[node.name].append(name)
    assert {name: found for name, found in places.items() if len(found) > 1} == {}


def test_no_module_is_the_namesake_or_the_plural_of_another():
    places = defaultdict(list)
    for name, path in MODULES.items():
        if path.name != "__init__.py" or name.count(".") == 1:
            places[name.rpartition(".")[2].removesuffix("s")].append(name)
    assert {name: found for name, found in places.items() if len(found) > 1} == {}


def test_records_that_cross_modules_are_typed():
    assert sum(path.read_text(encoding="utf-8").count("dict[str, Any]") for path in MODULES.values()) < LOOSE_RECORDS


def test_functions_stay_short():
    long = {}
    for name, path in MODULES.items():
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or 0) - node.lineno + 1
                if length > (140 if node.name == "train" else 80):
                    long[f"{name}.{node.name}"] = length
    assert not long


def test_the_api_is_what_is_promised():
    for name in (
        "prepare", "check", "train", "evaluate", "compare", "transcribe", "promote", "sweep_strengths", "adapt",
        "analyze", "sweep_settings", "export", "push", "serve",
    ):  # fmt: skip
        assert callable(getattr(asr_lora, name))
    with pytest.raises(AttributeError):
        asr_lora.nothing  # noqa: B018
