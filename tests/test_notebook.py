"""The notebook in examples/, executed from beginning to end on whisper-base and a few utterances of real speech."""

import re

import nbformat
import pytest
from conftest import ROOT
from nbclient import NotebookClient
from test_promotion import small_release

NOTEBOOK = ROOT / "examples" / "adapt_your_language.ipynb"
pytestmark = pytest.mark.slow


def text_of(cell) -> str:
    """What a cell shows, HTML first."""
    shown = [output.get("data", {}) for output in cell.outputs]
    streams = [output.text for output in cell.outputs if output.output_type == "stream"]
    return "\n".join([data.get("text/html", data.get("text/plain", "")) for data in shown] + streams)


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """The code cells by number, after a run with two steps of training."""
    folder = tmp_path_factory.mktemp("notebook")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    (settings,) = (cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
    changes = {"SOURCE": str(small_release(folder / "release")), "EPOCHS": 4}
    for name, value in changes.items():
        settings.source, count = re.subn(rf"^{name} = .*$", f"{name} = {value!r}", settings.source, flags=re.MULTILINE)
        assert count == 1
    NotebookClient(
        notebook, timeout=600, resources={"metadata": {"path": str(folder)}}, coalesce_streams=True
    ).execute()
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_it_runs_and_shows_tables_progress_and_a_transcript(executed):
    _, _, data, adapt, result, frame, history, transcript = map(text_of, executed)
    assert "<td>train</td><td>2</td>" in data
    assert re.search(r"\[6/6\] asr-lora transcribe", adapt)
    assert re.search(r"train lora: 100%", adapt)
    assert re.search(r"<td>zero-shot</td><td>\d+\.\d%</td>", result)
    assert "<td>lora</td>" in result
    assert "verdict" in frame
    assert "dev_wer" in history
    assert any("image/png" in output.get("data", {}) for output in executed[6].outputs)
    assert "<th>Text</th>" in transcript
    assert "reference: " in transcript


def test_the_committed_notebook_has_the_outputs_of_a_whole_run():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert all(cell.outputs for cell in cells[2:])
    assert not [output for cell in cells for output in cell.outputs if output.output_type == "error"]
    assert "%pip install" in cells[0].source
    assert "<td>lora</td>" in text_of(cells[4])
    assert NOTEBOOK.stat().st_size < 200_000
