"""What training changed, held against plain NumPy on the formed update, and against updates whose answer is known."""

import csv
import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import BASE, attach, run_record
from hypothesis import given, settings
from hypothesis import strategies as st
from test_adapters import ADAPTERS, train
from test_cli import invoke
from test_rerun import report

from asr_lora import analyze, compare
from asr_lora.config import AdapterSettings, Method
from asr_lora.errors import ConfigError, DataError
from asr_lora.folders.report_folder import AnalysisFolder
from asr_lora.folders.run_folder import RunFolder
from asr_lora.language import ForcedPrompt
from asr_lora.model.adapters.files import save_weights
from asr_lora.model.adapters.merging import load_adapter, merge_adapter
from asr_lora.model.adapters.updates import updates
from asr_lora.model.spectra import (
    amplifications,
    effective_rank,
    energy_held,
    similarity,
    similarity_by_chance,
    spectrum_of_matrix,
    spectrum_of_product,
    stable_rank,
)
from asr_lora.model.whisper import load_whisper
from asr_lora.workflows.analyze import measure_changes

QUERY = "model.encoder.layers.0.self_attn.q_proj"


def random(rows, columns, seed=0):
    return torch.randn(rows, columns, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def orthonormal(rows, columns, seed=0):
    return torch.linalg.qr(random(rows, columns, seed)).Q


# The arithmetic


@settings(deadline=None, max_examples=60)
@given(
    rows=st.integers(1, 30),
    columns=st.integers(1, 30),
    rank=st.integers(1, 40),
    scale=st.floats(1e-6, 1e6),
    seed=st.integers(0, 99),
)
def test_the_spectrum_of_a_product_is_that_of_the_formed_matrix(rows, columns, rank, scale, seed):
    b, a = random(rows, rank, seed) * scale, random(rank, columns, seed + 1)
    formed = (b @ a).numpy()
    _, values, vt = np.linalg.svd(formed, full_matrices=False)
    found = spectrum_of_product(b, a)
    assert len(found.values) == min(rows, columns, rank)
    assert np.allclose(found.values, values[: len(found.values)], rtol=1e-9, atol=1e-9 * values[0])
    assert found.norm == pytest.approx(np.linalg.norm(formed), rel=1e-9)
    assert found.rank == np.linalg.matrix_rank(formed) == found.left.shape[1] == found.right.shape[1]
    assert np.allclose(found.left.T @ found.left, np.eye(found.rank), atol=1e-9)
    rebuilt = (found.left * found.values[: found.rank]) @ found.right.T
    assert np.allclose(rebuilt, formed, atol=1e-9 * values[0])
    whole = spectrum_of_matrix(b @ a)
    assert np.allclose(whole.values, values, atol=1e-9 * values[0])
    overlap = np.abs(np.sum(found.right.numpy() * vt.T[:, : found.rank], axis=0))
    apart = np.diff(values[: found.rank], append=0, prepend=np.inf)
    sure = np.minimum(-apart[:-1], -apart[1:]) > 1e-4 * values[0]  # a direction is its own where values lie apart
    assert np.allclose(overlap[sure], 1, atol=1e-6)


def test_a_planted_update_of_rank_two_is_found():
    left, right = orthonormal(40, 2), orthonormal(30, 2, 1)
    padded_b = torch.cat([3.0 * left[:, :1], 4.0 * left[:, 1:], torch.zeros(40, 6)], dim=1)
    padded_a = torch.cat([right.T, random(6, 30, 2)])
    for spectrum in (spectrum_of_product(padded_b, padded_a), spectrum_of_matrix(padded_b @ padded_a)):
        assert spectrum.rank == 2
        assert np.allclose(spectrum.values[:2], [4, 3])
        assert spectrum.norm == pytest.approx(5)
        assert stable_rank(spectrum.values) == pytest.approx(25 / 16)
        expected = math.exp(-(4 / 7 * math.log(4 / 7) + 3 / 7 * math.log(3 / 7)))
        assert effective_rank(spectrum.values) == pytest.approx(expected)
        assert np.allclose(energy_held(spectrum.values)[:2], [16 / 25, 1])
        assert np.allclose(np.abs(spectrum.right[:, 0]), np.abs(right[:, 1]))
        assert np.allclose(similarity(spectrum.right, right)[1, 1], 1)


@pytest.mark.parametrize("values", [torch.zeros(0), torch.zeros(3)])
def test_nothing_has_no_rank(values):
    assert effective_rank(values) == stable_rank(values) == 0
    assert not energy_held(values).any()
    none = spectrum_of_product(torch.zeros(4, len(values)), torch.ones(len(values), 5))
    assert none.rank == 0
    assert none.left.shape == (4, 0)
    assert none.right.shape == (5, 0)
    assert amplifications(random(4, 5), torch.ones(4), none) == []


@settings(deadline=None)
@given(st.integers(1, 20), st.floats(1e-3, 1e3))
def test_equal_values_have_their_number_as_rank(count, value):
    values = torch.full((count,), value, dtype=torch.float64)
    assert effective_rank(values) == pytest.approx(count)
    assert stable_rank(values) == pytest.approx(count)


def test_similarity_is_what_the_paper_writes():
    first, second = orthonormal(50, 6), orthonormal(50, 4, 1)
    table = similarity(first, second).numpy()
    for i in range(1, 7):
        for j in range(1, 5):
            product = first[:, :i].numpy().T @ second[:, :j].numpy()
            assert table[i - 1, j - 1] == pytest.approx(np.linalg.norm(product) ** 2 / min(i, j))
    assert np.allclose(np.diag(similarity(first, first)), 1)
    inside = similarity(first, first[:, :2] @ orthonormal(2, 2, 3))
    assert np.allclose(inside[1:, 1], 1)
    assert np.allclose(similarity(first[:, :3], first[:, 3:]), 0)


def test_similarity_by_chance_is_what_random_directions_share():
    drawn = [similarity(orthonormal(60, 8, 2 * n), orthonormal(60, 20, 2 * n + 1))[7, 19] for n in range(300)]
    assert np.mean(drawn) == pytest.approx(similarity_by_chance(8, 20, 60), rel=0.02)


def test_amplification_is_what_the_paper_writes():
    weight, b, a = random(40, 30), random(40, 6, 1), random(6, 30, 2)
    own = np.linalg.svd(weight.numpy(), compute_uv=False)
    u, values, vt = np.linalg.svd((b @ a).numpy())
    found = amplifications(weight, torch.from_numpy(own), spectrum_of_product(b, a))
    assert [each.directions for each in found] == [1, 4, 6]
    for each in found:
        k = each.directions
        along = np.linalg.norm(u[:, :k].T @ weight.numpy() @ vt[:k].T)
        assert each.base == pytest.approx(along)
        assert each.factor == pytest.approx(np.linalg.norm(values[:k]) / along)
        assert each.base_own == pytest.approx(np.linalg.norm(own[:k]))
    assert found[-1].change == pytest.approx(np.linalg.norm((b @ a).numpy()))


def test_amplification_of_directions_that_the_base_has_and_lacks():
    left, right = orthonormal(20, 4), orthonormal(15, 4, 1)
    weight = left[:, :2] * torch.tensor([10.0, 5.0], dtype=torch.float64) @ right[:, :2].T
    own = torch.linalg.svdvals(weight)
    there = amplifications(weight, own, spectrum_of_matrix(2.0 * left[:, :1] @ right[:, :1].T))
    assert there[0].factor == pytest.approx(0.2)
    assert there[0].base_own == pytest.approx(10)
    elsewhere = amplifications(weight, own, spectrum_of_matrix(2.0 * left[:, 2:3] @ right[:, 2:3].T))
    assert elsewhere[0].factor is None or elsewhere[0].factor > 1e9
    expected = [
        amplifications(random(64, 48, n), torch.ones(48), spectrum_of_matrix(random(64, 48))) for n in range(20)
    ]
    squares = [each[-2].base_random ** 2 for each in expected]  # 16 directions, each pair of variance 1
    assert np.mean(squares) == pytest.approx(16 * 16, rel=0.1)


# Adapters of every method


@pytest.fixture(scope="module", params=ADAPTERS)
def adapter(request, tiny_folder, tmp_path_factory):
    """An adapter of some steps on the tiny model, as a run saves it: (method, folder)."""
    torch.manual_seed(0)
    whisper = attach(
        load_whisper(str(tiny_folder), ForcedPrompt("it")),
        AdapterSettings(rank=4, alpha=8, dropout=0.0),
        request.param,
        steps=14,
    )
    train(whisper, 14, rate=3e-2 if request.param is Method.ADALORA else 3e-3)
    folder = tmp_path_factory.mktemp(request.param) / "adapter"
    save_weights(whisper, folder)
    return request.param, folder


def test_updates_are_what_merging_adds(adapter, tiny_folder):
    method, folder = adapter
    whisper = load_adapter(load_whisper(str(tiny_folder), ForcedPrompt("it")), folder)
    found = updates(whisper)
    before = {name: weight.clone() for name, (weight, _) in found.items()}
    merged = merge_adapter(whisper).core
    for name, (_, update) in found.items():
        after = before[name].double() + update.b.double() @ update.a.double()
        if method is Method.DORA:
            after *= (update.magnitudes / after.norm(dim=1))[:, None]
        else:
            assert update.magnitudes is None
        difference = merged.get_submodule(name).weight.detach() - before[name]
        assert torch.allclose(after - before[name], difference.double(), atol=1e-6)
        assert difference.abs().max() > 1e-4 or not update.a.numel()


def test_an_adapter_is_described_as_numpy_does(adapter, tiny_folder):
    method, folder = adapter
    (run,) = measure_changes([str(folder)]).to_json()["runs"]
    whisper = load_adapter(load_whisper(str(tiny_folder), ForcedPrompt("it")), folder)
    found = updates(whisper)
    assert [*run["unchanged"], *(matrix["matrix"] for matrix in run["matrices"])]
    assert {*run["unchanged"], *(matrix["matrix"] for matrix in run["matrices"])} == set(found)
    for matrix in run["matrices"]:
        weight, update = found[matrix["matrix"]]
        weight, change = weight.double().numpy(), (update.b.double() @ update.a.double()).numpy()
        u, values, vt = np.linalg.svd(change)
        rank = np.linalg.matrix_rank(change, tol=values[0] * 64 * np.finfo(float).eps)
        shares = values[:rank] / values.sum()
        assert matrix["rank"] == rank <= {Method.PISSA: 8, Method.ADALORA: 6}.get(method, 4)
        assert matrix["singular_values"][:rank] == pytest.approx(values[:rank], rel=1e-4)
        assert matrix["relative"] == pytest.approx(np.linalg.norm(change) / np.linalg.norm(weight), rel=1e-4)
        assert matrix["effective_rank"] == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-3)
        assert matrix["stable_rank"] == pytest.approx((values**2).sum() / values[0] ** 2, rel=1e-4)
        last = matrix["amplification"][-1]
        along = np.linalg.norm(u[:, :rank].T @ weight @ vt[:rank].T)
        assert last["factor"] == pytest.approx(np.linalg.norm(change) / along, rel=1e-3)
        if method is not Method.DORA:
            assert matrix["moved"] == matrix["relative"]
    if method is Method.DORA:
        merged = merge_adapter(whisper).core
        before = load_whisper(str(tiny_folder), ForcedPrompt("it")).core
        for matrix in run["matrices"]:
            ours, theirs = (model.get_submodule(matrix["matrix"]).weight.detach() for model in (before, merged))
            assert matrix["moved"] == pytest.approx(float((theirs - ours).norm() / ours.norm()), rel=1e-3)


# Runs


def save_run(root, whisper, method, base, seed=0):
    run = RunFolder(root)
    root.mkdir(parents=True)
    save_weights(whisper, run.weights(method))
    config = {"data": {"dataset": "data"}, "training": {"seed": seed}}
    run.write(run_record(base, method=method, config=config))
    return str(root)


@pytest.fixture(scope="module")
def full_run(tiny_folder, tmp_path_factory):
    """Full fine-tuning that added an update of rank 2 to one matrix, noise to another, and 1 to a bias."""
    whisper = load_whisper(str(tiny_folder), ForcedPrompt("it"))
    layers = whisper.core.model.encoder.layers
    with torch.no_grad():
        planted = orthonormal(64, 2) * torch.tensor([2.0, 1.0]) @ orthonormal(64, 2, 1).T
        layers[0].self_attn.q_proj.weight += planted.float()
        layers[1].fc1.weight += 0.01 * random(128, 64).float()
        layers[1].fc1.bias[0] += 3.0
    return save_run(tmp_path_factory.mktemp("runs") / "full", whisper, "full", tiny_folder)


def lora_run(tiny_folder, root, rank, seed):
    torch.manual_seed(seed)
    whisper = attach(
        load_whisper(str(tiny_folder), ForcedPrompt("it")), AdapterSettings(rank=rank, alpha=2 * rank, dropout=0.0)
    )
    train(whisper, 4)
    return save_run(root, whisper, "lora", tiny_folder, seed)


@pytest.fixture(scope="module")
def lora_runs(tiny_folder, tmp_path_factory):
    place = tmp_path_factory.mktemp("runs")
    return [lora_run(tiny_folder, place / f"r{rank}-{seed}", rank, seed) for rank, seed in ((8, 0), (2, 0), (8, 1))]


def test_full_fine_tuning_is_the_difference_from_the_base(full_run):
    (run,) = measure_changes([full_run]).to_json()["runs"]
    matrices = {matrix["matrix"]: matrix for matrix in run["matrices"]}
    assert set(matrices) == {QUERY, "model.encoder.layers.1.fc1"}
    assert len(run["unchanged"]) == 2 * 6 + 2 * 10 - 2
    planted = matrices[QUERY]
    assert planted["singular_values"][:2] == pytest.approx([2, 1], rel=1e-5)
    assert planted["stable_rank"] == pytest.approx(1.25, rel=1e-5)
    assert planted["energy_held"][:2] == pytest.approx([0.8, 1.0], rel=1e-5)
    assert planted["effective_rank"] == pytest.approx(1.89, abs=0.01)
    noise = matrices["model.encoder.layers.1.fc1"]
    assert noise["shape"] == [128, 64]
    assert noise["effective_rank"] > 50
    inside = sum(matrix["frobenius"] ** 2 for matrix in matrices.values())
    assert run["energy_outside"] == pytest.approx(9 / (9 + inside), rel=1e-4)


def test_runs_are_held_against_each_other(lora_runs, full_run):
    body = measure_changes([*lora_runs, full_run]).to_json()
    assert [run["seed"] for run in body["runs"]] == [0, 0, 1, 0]
    pairs = {(pair["a"], pair["b"], pair["of"]): pair for pair in body["pairs"]}
    assert len(pairs) == 3 * 2 + 3
    two = pairs["r8-0", "r2-0", "a"]
    assert two["matrices"] == 12
    assert (len(two["phi"]), len(two["phi"][0])) == (8, 2)
    assert two["shown"][-1]["by_chance"] == pytest.approx(2 / 64)
    first, second = (
        updates(load_adapter(load_whisper(body["base"], ForcedPrompt("it")), RunFolder(path).weights("lora")))
        for path in map(Path, lora_runs[:2])
    )
    for of in ("a", "update"):
        values = []
        for name in first:
            sides = []
            for found, k in ((first, 8), (second, 2)):
                update = found[name][1]
                matrix = update.a if of == "a" else update.b.double() @ update.a.double()
                sides.append(np.linalg.svd(matrix.double().numpy())[2][:k])
            values.append(np.linalg.norm(sides[0] @ sides[1].T) ** 2 / 2)
        assert pairs["r8-0", "r2-0", of]["phi"][7][1] == pytest.approx(np.mean(values), rel=1e-3)
    of_full = pairs["r8-0", "full", "update"]
    assert [row["matrix"] for row in of_full["by_matrix"]] == [QUERY]


def test_page_tables_and_csv_say_the_same(lora_runs, full_run, tmp_path):
    copy = shutil.copytree(lora_runs[0], tmp_path / "<b>$x_1$ & \\1")
    runs = [lora_runs[0], full_run, copy]
    done = invoke("analyze", *runs, "--out", tmp_path / "o")
    assert done.exit_code == 0, done.stderr
    folder = AnalysisFolder(tmp_path / "o")
    body, page = folder.read_json(), folder.page.read_text(encoding="utf-8")
    assert str(folder.page) in done.stdout
    assert folder.markdown.read_text(encoding="utf-8") in done.stdout
    rows = list(csv.DictReader(folder.matrices.read_text(encoding="utf-8").splitlines()))
    listed = [matrix for run in body["runs"] for matrix in run["matrices"]]
    assert len(rows) == len(listed) == 12 + 2 + 12
    for row, matrix in zip(rows, listed, strict=True):
        for key in ("matrix", "relative", "moved", "spectral", "effective_rank", "stable_rank", "rank"):
            assert row[key] == str(matrix[key])
        assert float(row["amplification"]) == matrix["amplification"][-1]["factor"]
        assert (row["rows"], row["columns"]) == tuple(map(str, matrix["shape"]))
    assert page.count("<svg") == 2 + 3 * 3 + len(body["pairs"])
    assert not re.search(r"<script|<link (?!rel=.icon. href=.data:)|(src|href)=.(?!data:|#)", page)  # self-contained
    for word in ("r8-0", "encoder self_attn.q_proj", "rank 4 would hold", "A is initialised at random"):
        assert word in page
    assert "<b>$x" not in page
    assert "&lt;b&gt;$x_1$ &amp; \\1" in page
    compared = compare(
        [report(tmp_path / name, name, 0.3, seed=seed) for seed, name in enumerate("ab")],
        out=tmp_path / "c", analysis=folder.root,
    )  # fmt: skip
    assert compared.page.read_text(encoding="utf-8").count("<figcaption>How fast singular values fall") == 1
    same = [pair for pair in body["pairs"] if "full" not in (pair["a"], pair["b"])]
    assert [pair["of"] for pair in same] == ["update", "a"]
    assert all(row["phi"] == pytest.approx(1, rel=1e-4) for pair in same for row in pair["shown"])
    stamp = folder.manifest.stat().st_mtime_ns
    again = json.loads(invoke("analyze", *runs, "--out", tmp_path / "o", "--json").stdout)
    assert again == body
    assert folder.manifest.stat().st_mtime_ns == stamp  # the same weights are not analysed again


def test_what_cannot_be_analysed_is_one_sentence(lora_runs, full_run, tiny_folder, tmp_path):
    with pytest.raises(ConfigError, match="each of them once"):
        analyze([full_run, full_run], out=tmp_path / "o")
    with pytest.raises(ConfigError, match=r"only whole adapters are analysed; name .*r8-0$"):
        analyze([f"{lora_runs[0]}@0.5"], out=tmp_path / "o")
    with pytest.raises(DataError, match="no run or adapter"):
        analyze([BASE], out=tmp_path / "o")
    nothing = save_run(tmp_path / "nothing", load_whisper(str(tiny_folder), ForcedPrompt("it")), "full", tiny_folder)
    with pytest.raises(DataError, match="no linear layer differs"):
        analyze([nothing], out=tmp_path / "o")
    other = RunFolder(tmp_path / "other")
    other.weights("full").mkdir(parents=True)
    other.write(run_record(BASE, method="full"))
    with pytest.raises(ConfigError, match="of one base at a time"):
        analyze([full_run, str(other.root)], out=tmp_path / "o")
    wrong = save_run(tmp_path / "wrong", load_whisper(str(tiny_folder), ForcedPrompt("it")), "full", BASE)
    with pytest.raises(DataError, match="have different shapes"):
        analyze([wrong], out=tmp_path / "o")
    assert not (tmp_path / "o").exists()
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "letter.txt").write_text("dear")
    with pytest.raises(ConfigError, match="holds something else"):
        analyze([full_run], out=tmp_path / "theirs")
    done = invoke("analyze", tmp_path / "nowhere", "--out", tmp_path / "o")
    assert done.exit_code == 3
    assert done.stderr.count("\n") == 1
