"""The house stays in order: arrows go one way, and each heavy library has few doors."""

import ast
import subprocess
import sys
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from conftest import ROOT

PACKAGE = ROOT / "asr_lora"
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in PACKAGE.rglob("*.py")
}
JOBS = {
    "asr_lora.audio.prepare",
    "asr_lora.audio.doctor",
    "asr_lora.analysis",
    "asr_lora.training.check",
    "asr_lora.training.train",
    "asr_lora.exporting.export",
    "asr_lora.scoring.evaluate",
    "asr_lora.scoring.compare",
    "asr_lora.transcription.transcribe",
    "asr_lora.serving.serve",
}
ORCHESTRATORS = {
    "asr_lora.adaptation",
    "asr_lora.promotion",
    "asr_lora.publishing",
    "asr_lora.sweep",
    "asr_lora.printing",
    "asr_lora.cli",
}
PURE = {
    "asr_lora.config",
    "asr_lora.artifacts.atomic",
    "asr_lora.artifacts.dataset",
    "asr_lora.artifacts.digests",
    "asr_lora.artifacts.manifests",
    "asr_lora.artifacts.report",
    "asr_lora.artifacts.run",
    "asr_lora.artifacts.sources",
    "asr_lora.artifacts.workflows",
    "asr_lora.errors",
    "asr_lora.locks",
    "asr_lora.stages",
    "asr_lora.audio.subsets",
    "asr_lora.audio.summary",
    "asr_lora.audio.archive",
    "asr_lora.audio.commonvoice",
    "asr_lora.audio.download",
    "asr_lora.audio.scripts",
    "asr_lora.audio.texts",
    "asr_lora.audio.checks",
    "asr_lora.audio.diagnosis",
    "asr_lora.audio.opinions",
    "asr_lora.scoring.doctor_page",
    "asr_lora.audio.lines",
    "asr_lora.audio.columns",
    "asr_lora.audio.beside",
    "asr_lora.audio.kaldi",
    "asr_lora.audio.manifest",
    "asr_lora.audio.parquet",
    "asr_lora.audio.plan",
    "asr_lora.audio.planning",
    "asr_lora.audio.leaks",
    "asr_lora.audio.subset_files",
    "asr_lora.audio.source",
    "asr_lora.audio.sources",
    "asr_lora.audio.text",
    "asr_lora.scoring.normalize",
    "asr_lora.scoring.wer",
    "asr_lora.scoring.intervals",
    "asr_lora.scoring.charts",
    "asr_lora.scoring.page",
    "asr_lora.scoring.tables",
    "asr_lora.scoring.details",
    "asr_lora.scoring.figures",
    "asr_lora.scoring.utterances",
    "asr_lora.scoring.analysis_page",
    "asr_lora.scoring.comparison",
    "asr_lora.scoring.mapsswe",
    "asr_lora.scoring.combine",
    "asr_lora.scoring.breakdown",
    "asr_lora.scoring.confusions",
    "asr_lora.scoring.hallucination",
    "asr_lora.scoring.terms",
    "asr_lora.scoring.report",
    "asr_lora.scoring.rerun",
    "asr_lora.scoring.compare",
    "asr_lora.audio.media",
    "asr_lora.transcription.inputs",
    "asr_lora.transcription.segments",
    "asr_lora.exporting.recipe",
    "asr_lora.exporting.parity",
    "asr_lora.exporting.card",
    "asr_lora.exporting.hub",
    "asr_lora.exporting.privacy",
    "asr_lora.transcription.subtitles",
    "asr_lora.transcription.writers",
    "asr_lora.serving.answers",
    "asr_lora.serving.door",
    "asr_lora.serving.limits",
    "asr_lora.serving.metrics",
    "asr_lora.serving.protocol",
    "asr_lora.serving.refusals",
    "asr_lora.serving.uploads",
    "asr_lora.serving.wishes",
}
DOORS = {
    "peft": {
        f"asr_lora.model.adapters.{part}"
        for part in ("adalora", "attach", "continuation", "files", "multi_lora", "pissa", "wrapper")
    },
    "bitsandbytes": {"asr_lora.training.optim"},
    "jiwer": {"asr_lora.scoring.wer"},
    "num2words": {"asr_lora.scoring.normalize"},
    "accelerate": {"asr_lora.processes"},
    "datasets": {"asr_lora.audio.dataset"},
    "soundfile": {"asr_lora.audio.decode", "asr_lora.audio.media"},
    "soxr": {"asr_lora.audio.decode", "asr_lora.audio.augment"},
    "torchaudio": {"asr_lora.audio.augment"},
    "datacollective": {"asr_lora.audio.download"},
    "requests": {"asr_lora.audio.download"},
    "huggingface_hub": {"asr_lora.audio.dataset", "asr_lora.exporting.card", "asr_lora.exporting.hub"},
    "ctranslate2": {"asr_lora.exporting.formats", "asr_lora.transcription.ctranslate2_engine"},
    "faster_whisper": {"asr_lora.exporting.engines"},
    "pywhispercpp": {"asr_lora.exporting.engines"},
    "gguf": {"asr_lora.exporting.ggml"},
    "librosa": {"asr_lora.transcription.longform"},
    "matplotlib": {"asr_lora.scoring.charts"},
    "typer": {"asr_lora.cli", "asr_lora.options"},
    "fastapi": {"asr_lora.serving.app", "asr_lora.serving.uploads"},
    "starlette": {"asr_lora.serving.app", "asr_lora.serving.uploads", "asr_lora.serving.wishes"},
    "python_multipart": {"asr_lora.serving.uploads"},
    "uvicorn": {"asr_lora.serving.serve", "asr_lora.serving.protocol"},
    "prometheus_client": {"asr_lora.serving.metrics"},
    "pydantic": {"asr_lora.config"},
}


@cache
def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


@pytest.mark.parametrize("library", DOORS)
def test_each_heavy_library_has_few_doors(library):
    users = {name for name, path in MODULES.items() if any(i.split(".")[0] == library for i in imports(path))}
    assert users == DOORS[library]


def test_no_job_imports_a_job():
    for name in MODULES.keys() - ORCHESTRATORS - {"asr_lora", "asr_lora.__main__"}:
        assert not imports(MODULES[name]) & (JOBS | ORCHESTRATORS), name


def test_arrows_go_one_way():
    """Also those that are drawn within functions."""
    arrows = {name: imports(path) & (MODULES.keys() - {name}) for name, path in MODULES.items()}
    TopologicalSorter(arrows).prepare()  # or a CycleError that names the circle


def test_pure_parts_import_no_torch():
    code = f"import sys; [__import__(n) for n in {sorted(PURE)!r}]; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_help_needs_no_torch():
    code = (
        "import sys; sys.argv = ['asr-lora', 'train', '--help']\n"
        "from asr_lora.cli import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode == 0


def test_functions_stay_short():
    long = {}
    for name, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or 0) - node.lineno + 1
                if length > (140 if node.name == "train" else 80):
                    long[f"{name}.{node.name}"] = length
    assert not long


def test_the_api_is_what_is_promised():
    import asr_lora

    for name in (
        "prepare", "check", "train", "evaluate", "compare", "transcribe", "promote", "sweep_strengths", "adapt",
        "analyze", "sweep_settings", "export", "push",
        "analyze", "sweep_settings", "serve",
    ):  # fmt: skip
        assert callable(getattr(asr_lora, name))
    with pytest.raises(AttributeError):
        asr_lora.nothing  # noqa: B018
