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
    "asr_lora.dataset.prepare",
    "asr_lora.workflows.check_labels",
    "asr_lora.workflows.analyze",
    "asr_lora.forecast.check",
    "asr_lora.training.train",
    "asr_lora.exporting.export",
    "asr_lora.evaluation.evaluate",
    "asr_lora.evaluation.compare",
    "asr_lora.transcription.transcribe",
    "asr_lora.serving.serve",
}
ORCHESTRATORS = {
    "asr_lora.workflows.adapt",
    "asr_lora.workflows.promote",
    "asr_lora.workflows.publish",
    "asr_lora.workflows.sweep",
    "asr_lora.cli.printing",
    "asr_lora.cli.verbs",
}
PURE = {
    "asr_lora.config",
    "asr_lora.folders.atomic",
    "asr_lora.folders.dataset_folder",
    "asr_lora.folders.digests",
    "asr_lora.folders.manifests",
    "asr_lora.folders.measurements",
    "asr_lora.folders.report_folder",
    "asr_lora.folders.run_folder",
    "asr_lora.folders.source_folder",
    "asr_lora.folders.tabular",
    "asr_lora.folders.workflow_folder",
    "asr_lora.errors",
    "asr_lora.language",
    "asr_lora.system.cache",
    "asr_lora.system.locks",
    "asr_lora.system.progress",
    "asr_lora.system.renamed",
    "asr_lora.dataset.subsets",
    "asr_lora.dataset.summary",
    "asr_lora.sources.archive",
    "asr_lora.sources.commonvoice",
    "asr_lora.sources.download",
    "asr_lora.labels.scripts",
    "asr_lora.labels.text_rules",
    "asr_lora.labels.rules",
    "asr_lora.labels.label_report",
    "asr_lora.labels.model_scores",
    "asr_lora.pages.label_page",
    "asr_lora.sources.lines",
    "asr_lora.sources.columns",
    "asr_lora.sources.audio_text_pairs",
    "asr_lora.sources.kaldi",
    "asr_lora.sources.speech_manifest",
    "asr_lora.sources.parquet",
    "asr_lora.dataset.plan_database",
    "asr_lora.dataset.plan",
    "asr_lora.dataset.leaks",
    "asr_lora.dataset.subset_files",
    "asr_lora.sources.hub_tables",
    "asr_lora.sources.interface",
    "asr_lora.sources.open",
    "asr_lora.text",
    "asr_lora.metrics.normalize",
    "asr_lora.metrics.wer",
    "asr_lora.metrics.intervals",
    "asr_lora.pages.charts",
    "asr_lora.pages.comparison_page",
    "asr_lora.pages.tables",
    "asr_lora.pages.templating",
    "asr_lora.pages.analysis_page",
    "asr_lora.evaluation.comparison",
    "asr_lora.evaluation.comparison_charts",
    "asr_lora.evaluation.comparison_record",
    "asr_lora.evaluation.comparison_view",
    "asr_lora.evaluation.detail_tables",
    "asr_lora.evaluation.score_tables",
    "asr_lora.evaluation.shown_utterances",
    "asr_lora.metrics.mapsswe",
    "asr_lora.metrics.combine",
    "asr_lora.metrics.breakdown",
    "asr_lora.metrics.confusions",
    "asr_lora.metrics.hallucination",
    "asr_lora.metrics.hotword_recall",
    "asr_lora.evaluation.report",
    "asr_lora.evaluation.rerun",
    "asr_lora.evaluation.compare",
    "asr_lora.audio.ffmpeg",
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
    "asr_lora.serving.access",
    "asr_lora.serving.limits",
    "asr_lora.serving.prometheus",
    "asr_lora.serving.http_timeouts",
    "asr_lora.serving.api_errors",
    "asr_lora.serving.uploads",
    "asr_lora.serving.request_options",
}
DOORS = {
    "peft": {
        f"asr_lora.model.adapters.{part}"
        for part in ("adalora", "attach", "continuation", "files", "multi_lora", "pissa", "wrapper")
    },
    "bitsandbytes": {"asr_lora.training.optim"},
    "jiwer": {"asr_lora.metrics.wer"},
    "num2words": {"asr_lora.metrics.normalize"},
    "accelerate": {"asr_lora.system.processes"},
    "datasets": {"asr_lora.dataset.reading", "asr_lora.sources.hub_tables"},
    "soundfile": {"asr_lora.audio.decode", "asr_lora.audio.ffmpeg"},
    "soxr": {"asr_lora.audio.decode", "asr_lora.audio.augment"},
    "torchaudio": {"asr_lora.audio.augment"},
    "datacollective": {"asr_lora.sources.download"},
    "requests": {"asr_lora.sources.download"},
    "huggingface_hub": {"asr_lora.sources.hub_tables", "asr_lora.exporting.card", "asr_lora.exporting.hub"},
    "ctranslate2": {"asr_lora.model.ctranslate2_export", "asr_lora.decoding.ctranslate2_engine"},
    "faster_whisper": {"asr_lora.exporting.other_engines"},
    "pywhispercpp": {"asr_lora.exporting.other_engines"},
    "gguf": {"asr_lora.exporting.ggml"},
    "librosa": {"asr_lora.transcription.longform"},
    "matplotlib": {"asr_lora.pages.charts"},
    "typer": {"asr_lora.cli.help_screen", "asr_lora.cli.options", "asr_lora.cli.verbs"},
    "fastapi": {"asr_lora.serving.app", "asr_lora.serving.uploads"},
    "starlette": {"asr_lora.serving.app", "asr_lora.serving.uploads", "asr_lora.serving.request_options"},
    "python_multipart": {"asr_lora.serving.uploads"},
    "uvicorn": {"asr_lora.serving.serve", "asr_lora.serving.http_timeouts"},
    "prometheus_client": {"asr_lora.serving.prometheus"},
    "pandas": {"asr_lora.folders.tabular"},
    "pydantic": {"asr_lora.config", "asr_lora.folders.manifests"},
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
        "from asr_lora.cli.verbs import main\n"
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
        "prepare", "check", "check_labels", "doctor",
        "train", "evaluate", "compare", "transcribe", "promote", "sweep_strengths", "adapt",
        "analyze", "sweep_settings", "export", "push",
        "analyze", "sweep_settings", "serve",
    ):  # fmt: skip
        assert callable(getattr(asr_lora, name))
    with pytest.raises(AttributeError):
        asr_lora.nothing  # noqa: B018
