"""The wheel and the sdist: what they contain, and that an installed wheel needs no checkout and has its types."""

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from conftest import DEMO, ROOT

SNIPPET = """
import asr_lora
reveal_type(asr_lora.prepare)
reveal_type(asr_lora.compare)
reveal_type(asr_lora.transcribe)
"""


@pytest.fixture(scope="module")
def wheel(dist) -> zipfile.ZipFile:
    (path,) = dist.glob("*.whl")
    return zipfile.ZipFile(path)


def run(installed: Path, folder: Path, *words: str) -> str:
    """Run a program of the virtual environment in a folder; nothing on its path is in this checkout."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [installed / "bin" / words[0], *words[1:]]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_contains_every_file_of_the_package(wheel):
    names = set(wheel.namelist())
    listed = subprocess.run(["git", "ls-files", "asr_lora"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("no git checkout")
    assert set(listed.stdout.split()) <= names
    assert {"asr_lora/py.typed", "asr_lora/pages/templates/page.html.j2", "asr_lora/serving/page/page.js"} <= names
    assert not [name for name in names if re.search(r"__pycache__|(^|/)tests/", name)]


def test_the_wheel_contains_the_demo_speech_with_its_attribution_and_licence(wheel):
    speech = {str(path.relative_to(DEMO)): path for path in DEMO.rglob("*") if path.is_file()}
    assert len(speech) == 109 + 6
    for name, path in speech.items():
        assert wheel.read(f"asr_lora/demo_speech/{name}") == path.read_bytes()
    (information,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    folder = information.removesuffix("METADATA")
    assert wheel.read(f"{folder}licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()
    assert b"CC-BY-3.0" in wheel.read(f"{folder}licenses/data/demo/ATTRIBUTION.md")
    assert "License-Expression: Apache-2.0 AND CC-BY-3.0" in wheel.read(information).decode()
    assert Path(wheel.filename).stat().st_size < 5e6


def test_the_sdist_builds_the_wheel_that_a_checkout_builds(dist, tmp_path):
    """`dist` has the wheel that was built from the sdist."""
    command = [sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", tmp_path, ROOT]
    subprocess.run(command, check=True, capture_output=True)
    (direct,), (through_sdist,) = tmp_path.glob("*.whl"), dist.glob("*.whl")
    assert direct.read_bytes() == through_sdist.read_bytes()
    with tarfile.open(next(dist.glob("*.tar.gz"))) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    assert {"LICENSE", "README.md", "pyproject.toml", "data/demo/ATTRIBUTION.md", "tests/conftest.py"} <= names


def test_an_installed_wheel_does_not_need_the_checkout(installed, tmp_path):
    code = "import asr_lora; print(asr_lora.__file__, asr_lora.demo_speech())"
    for place in run(installed, tmp_path, "python", "-c", code).split():
        assert Path(place).is_relative_to(installed)
    assert run(installed, tmp_path, "asr-lora", "--version") == "0.1.0\n"
    assert not list(tmp_path.iterdir())


def test_an_installed_wheel_has_types(installed, tmp_path):
    (tmp_path / "snippet.py").write_text(SNIPPET)
    (tmp_path / "mypy.ini").write_text("[mypy]\nfollow_imports = skip\n[mypy-asr_lora.*]\nfollow_imports = normal\n")
    command = ["-m", "mypy", "--strict", "--python-executable", str(installed / "bin" / "python"), "snippet.py"]
    said = run(installed, tmp_path, "python", *command)
    prepare, compare, transcribe = re.findall(r'Revealed type is "(.*)"', said)
    assert "language: str, out: pathlib.Path" in prepare
    assert prepare.endswith("-> asr_lora.folders.dataset_folder.DatasetFolder")
    assert compare.endswith("-> asr_lora.folders.report_folder.ComparisonFolder")
    assert transcribe.endswith("-> typing.Iterator[asr_lora.transcription.transcribe.Transcript]")
