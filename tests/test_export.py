"""Runs in other engines' formats, each run by that engine, and published; whisper-base with an adapter, real speech."""

import base64
import hashlib
import json
import re
import shutil
import socket
import struct
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import BASE, speech, write_wav
from gguf import GGMLQuantizationType
from gguf.quants import dequantize
from huggingface_hub import ModelCard
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from test_cli import invoke
from test_promotion import save_run, small_release
from transformers import GenerationConfig, WhisperProcessor

from asr_lora import export, prepare, push
from asr_lora.dataset.reading import read_split
from asr_lora.errors import ConfigError, DataError
from asr_lora.evaluation.report import score_report
from asr_lora.exporting.ggml import ggml_name, write_ggml
from asr_lora.exporting.parity import parity
from asr_lora.exporting.recipe import Packing
from asr_lora.folders.dataset_folder import DatasetFolder
from asr_lora.folders.digests import sha256_file
from asr_lora.folders.measurements import ReportRecord
from asr_lora.folders.report_folder import ReportFolder
from asr_lora.folders.run_folder import ExportFolder, RunFolder, RunRecord
from asr_lora.language import ForcedPrompt
from asr_lora.metrics.normalize import find_normaliser
from asr_lora.model.adapters.merging import copy_adapter
from asr_lora.model.ctranslate2_import import import_packaged
from asr_lora.model.whisper import load_whisper

pytestmark = pytest.mark.slow

ASKED = {
    "adapter": {},
    "transformers": {},
    "ctranslate2": {"quantise": "int8", "tolerance": 0.9},  # rounding may cost a word, and here one clip is all
    "ggml": {"quantise": "q5_0", "tolerance": 0.9},
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("exporting")


@pytest.fixture(scope="module")
def dataset(place):
    return prepare(small_release(place / "release"), language="it", out=place / "data").root


@pytest.fixture(scope="module")
def run(place, dataset):
    """A run whose adapter is small noise, with all that `train` writes down and a card speaks of."""
    folder = RunFolder(save_run(place / "my-run", dataset, 0.003, context="true_length"))
    body = folder.read_json()
    body["config"] |= {
        "adapter": {"rank": 4, "alpha": 8.0, "targets": ["q_proj", "v_proj"], "continue_from": str(place / "secret")},
        "optimiser": {"name": "adam8bit", "learning_rate": 0.001},
    }
    body["train"] |= {"utterances": 103, "steps": 20}
    folder.write(RunRecord.model_validate(body))
    return folder.root


@pytest.fixture(scope="module")
def exports(place, run):
    """A function: the run in a format, made once."""

    def make(kind):
        return export(str(run), format=kind, out=place / kind, utterances=1, **{"tolerance": 0.0, **ASKED[kind]})

    return make


@pytest.fixture(scope="module")
def report(place, run, dataset):
    """A report of the run on test, scored as `evaluate` does, its hypotheses written by hand."""
    manifest, split, body = DatasetFolder(dataset).read(), read_split(dataset, "test"), RunFolder(run).read_json()
    rows = [
        {"id": clip, "speaker": who, "seconds": 1.0, "reference": text, "hypothesis": f"{text} eh"}
        for clip, who, text in zip(split.ids, split.speakers, split.texts, strict=True)
    ]
    training = {
        "method": "lora", "trainable_parameters": 1, "total_parameters": 2, "weights_bytes": 1, "peak_memory_bytes": 1,
        "hours_of_speech": 0.1, "epochs": 1.0, "seconds": body["train_seconds"],
        **{key: body["best"][key] for key in ("step", "dev_wer")},
    }  # fmt: skip
    folder = ReportFolder(place / "report")
    record = ReportRecord.model_validate(
        {
            "fingerprint": "by hand",
            "system": {
                "name": str(run), "model": str(run), "base": BASE, "strength": 1.0, "context": "true_length",
                "dtype": "float32", "device": "cpu", "training": training,
            },
            "dataset": {
                "folder": str(dataset), "language": "it", "split": "test", "utterances": len(split), "speakers": 2,
                "seconds": float(len(split)), "sha256": manifest.splits["test"].sha256,
            },
            "decoding": {"language": "it", "beams": 1},
            **score_report(rows, "it", find_normaliser("basic", "it"))[1].fields(),
        }
    )  # fmt: skip
    folder.write(record)
    return folder.root


# Formats, each in its engine


@pytest.mark.parametrize("kind", ASKED)
def test_an_export_is_heard_alike_in_its_own_engine(kind, exports, place):
    folder = exports(kind)
    record = folder.read()
    assert record.parity.passed
    assert record.parity.theirs.wer <= record.parity.ours.wer + record.parity.tolerance
    assert {file.name: file.sha256 for file in record.files} == {
        str(path.relative_to(folder.root)): sha256_file(path) for path in folder.files
    }
    assert not [path for path in place.iterdir() if path.name.startswith(".")]  # no drafts, no merged copies
    before = folder.manifest.stat().st_mtime_ns
    assert exports(kind).manifest.stat().st_mtime_ns == before  # nothing is made again


def test_transformers_loads_all_that_it_needs(exports, base):
    folder = exports("transformers").root
    settings = GenerationConfig.from_pretrained(folder)
    assert (settings.language, settings.task, settings.forced_decoder_ids) == ("it", "transcribe", None)
    for name in ("suppress_tokens", "begin_suppress_tokens", "alignment_heads", "lang_to_id", "no_timestamps_token_id"):
        assert getattr(settings, name) == getattr(base.core.generation_config, name)
    processor = WhisperProcessor.from_pretrained(folder)
    assert processor(np.zeros(16_000), sampling_rate=16_000).input_features[0].shape == (80, 3000)
    assert processor.tokenizer.decode(base.tokenizer.encode("perché no", add_special_tokens=False)) == "perché no"
    assert {value.dtype for value in load_file(folder / "model.safetensors").values()} == {torch.float16}


def test_faster_whisper_finds_the_settings_of_the_model(exports, base):
    folder, settings = exports("ctranslate2").root, base.core.generation_config
    config = json.loads((folder / "config.json").read_text())
    assert config["alignment_heads"] == settings.alignment_heads
    assert config["lang_ids"] == sorted(settings.lang_to_id.values())
    assert config["suppress_ids"] == settings.suppress_tokens
    assert len(json.loads((folder / "vocabulary.json").read_text())) == base.core.config.vocab_size


def test_an_adapter_names_its_base_as_others_know_it(exports, run):
    folder = exports("adapter").root
    ours, theirs = (load_file(root / "adapter_model.safetensors") for root in (RunFolder(run).weights("lora"), folder))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    settings = json.loads((folder / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == "openai/whisper-base"
    assert sorted(path.name for path in folder.iterdir()) == [
        "adapter_config.json", "adapter_model.safetensors", "export.json",
    ]  # fmt: skip


def test_an_adapter_at_half_strength_has_half_of_its_update(run, tmp_path):
    weights = RunFolder(run).weights("lora")
    copy_adapter(weights, tmp_path, "openai/whisper-base", 0.5)
    ours, theirs = (load_file(root / "adapter_model.safetensors") for root in (weights, tmp_path))
    for name, value in ours.items():
        assert torch.equal(theirs[name], value * 0.5 if ".lora_B." in name else value)
    settings = json.loads((weights / "adapter_config.json").read_text())
    dora = tmp_path / "dora"
    shutil.copytree(weights, dora)
    (dora / "adapter_config.json").write_text(json.dumps({**settings, "use_dora": True}))
    with pytest.raises(ConfigError, match="DoRA"):
        copy_adapter(dora, tmp_path, "openai/whisper-base", 0.5)


def test_what_another_engine_hears_otherwise_is_refused(tiny_folder, dataset, tmp_path, monkeypatch):
    monkeypatch.setattr("asr_lora.exporting.other_engines.MAX_NEW_TOKENS", 2)  # an engine that breaks off
    out = tmp_path / "broken"
    asked = {"--format": "transformers", "--dataset": dataset, "--clips": 1, "--out": out}
    done = invoke("export", tiny_folder, *(word for pair in asked.items() for word in pair))
    assert done.exit_code == 1
    assert "is not exported: in transformers" in done.stderr
    assert "more than the 0.50 tolerated" in done.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["--format", "onnx"], 2, "--format onnx: take one of transformers, ctranslate2, ggml, adapter"),
        (["--format", "ggml", "--quantise", "int8"], 2, "ggml takes q8_0 or q5_0"),
        (["--format", "transformers", "--quantise", "int8"], 2, "transformers takes none"),
        (["--format", "adapter", "--dtype", "float16"], 2, "in the numbers that it was trained in"),
        (["--format", "ggml", "--dtype", "float32"], 2, "from float16 only"),
        (["--format", "ctranslate2", "--dtype", "bf16"], 2, "--dtype bf16: take one of float16, float32"),
        (["--format", "ggml", "--tolerance", "2"], 2, "a share of WER"),
        (["--format", "ggml", "--dataset", "{place}/nowhere"], 3, "no dataset at"),
        (["--format", "ggml", "--out", "{place}/data"], 2, "holds something else"),
    ],
)
def test_what_does_not_go_together_is_said(words, code, sentence, run, place):
    out = [] if "--out" in words else ["--out", place / "never"]
    done = invoke("export", run, *(word.format(place=place) for word in words), *out)
    assert done.exit_code == code
    assert sentence in done.stderr
    assert not (place / "never").exists()


def test_what_has_no_adapter_has_none_to_export(dataset, tmp_path):
    with pytest.raises(ConfigError, match="has no adapter: take"):
        export(BASE, format="adapter", dataset=dataset, out=tmp_path / "x")


words = st.lists(st.sampled_from(["uno", "due", "tre"]), min_size=1, max_size=6).map(" ".join)


@settings(deadline=None, max_examples=25)
@given(clips=st.lists(st.tuples(words, words, words), min_size=1, max_size=5), tolerance=st.floats(0, 0.5))
def test_parity_counts_drift_in_both_directions(clips, tolerance):
    said, ours, theirs = (list(column) for column in zip(*clips, strict=True))
    found, turned = (parity(said, *pair, "it", tolerance) for pair in ((ours, theirs), (theirs, ours)))
    assert found.drift == -turned.drift
    assert found.passed == turned.passed == (abs(found.theirs.wer - found.ours.wer) <= tolerance + 1e-9)
    assert found.alike == sum(a == b for a, b in zip(ours, theirs, strict=True))
    same = parity(said, ours, ours, "it", 0.0)
    assert same.passed
    assert (same.apart, same.drift, same.alike) == (0, 0, len(said))


# The file of whisper.cpp


def read_ggml(path: Path):
    """Sizes, vocabulary and tensors of a file, read as whisper.cpp's loader does."""
    data, at = path.read_bytes(), 0

    def numbers(count):
        nonlocal at
        at += 4 * count
        return struct.unpack_from(f"<{count}i", data, at - 4 * count)

    def take(count):
        nonlocal at
        at += count
        return data[at - count : at]

    header = numbers(12)
    mels, bins = numbers(2)
    filters = np.frombuffer(take(4 * mels * bins), np.float32).reshape(mels, bins)
    tokens = [take(numbers(1)[0]) for _ in range(numbers(1)[0])]
    tensors = {}
    while at < len(data):
        rank, length, kind = numbers(3)
        shape = numbers(rank)[::-1]
        name, kind = take(length).decode(), GGMLQuantizationType(kind)
        if kind in (GGMLQuantizationType.F32, GGMLQuantizationType.F16):
            raw = np.frombuffer(take(int(np.prod(shape)) * (4 if kind == 0 else 2)), f"<f{4 if kind == 0 else 2}")
        else:
            block = {GGMLQuantizationType.Q8_0: 34, GGMLQuantizationType.Q5_0: 22}[kind]
            packed = np.frombuffer(take(int(np.prod(shape)) // 32 * block), np.uint8)
            raw = dequantize(packed.reshape(shape[0], -1), kind)
        tensors[name] = (kind, raw.reshape(shape))
    return header, filters, tokens, tensors


@pytest.mark.parametrize(
    ("packing", "kind", "coarseness"),  # half a step of 127 to each side; a whole one of 16 where the sign is the other
    [(None, 1, 0.0), (Packing.Q8_0, 2007, 1 / 254), (Packing.Q5_0, 2008, 1 / 16)],
)
def test_the_file_of_whisper_cpp_holds_every_weight(packing, kind, coarseness, tiny_folder, tmp_path):
    whisper = load_whisper(str(tiny_folder), ForcedPrompt("it"))
    write_ggml(whisper, tmp_path / "x.bin", packing)
    header, filters, tokens, tensors = read_ggml(tmp_path / "x.bin")
    assert header == (0x67676D6C, 51865, 1500, 64, 2, 2, 448, 64, 2, 2, 80, kind)
    assert filters.shape == (80, 201)
    assert len(tokens) == 50257
    assert b"".join(tokens[token] for token in whisper.text_tokens("perché no")).decode() == " perché no"
    state = whisper.core.state_dict()
    del state["proj_out.weight"]
    assert len(tensors) == len(state)
    for name, value in state.items():
        stored, read = tensors[ggml_name(name)]
        expected = value.numpy().reshape(read.shape)
        assert np.abs(read - expected).max() <= np.abs(expected).max() * (coarseness + 2**-11)
        if packing and value.dim() == 2 and "positional" not in ggml_name(name):
            assert stored.name == packing.name
        if value.dim() == 1:
            assert stored is GGMLQuantizationType.F32


def test_every_tensor_has_a_name_of_its_own(base):
    names = [ggml_name(name) for name in base.core.state_dict() if name != "proj_out.weight"]
    assert len(set(names)) == len(names)
    assert {"encoder.blocks.5.attn.key.weight", "decoder.blocks.0.cross_attn.out.bias"} < set(names)
    with pytest.raises(DataError, match="no tensor for"):
        ggml_name("model.encoder.adapter.weight")


# Publishing


@pytest.fixture
def kept_from_hub(monkeypatch):
    monkeypatch.delenv("HF_TOKEN", raising=False)


def snippet_of(folder: Path) -> str:
    (found,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    return found


@pytest.mark.parametrize("kind", ASKED)
def test_the_card_of_each_format_has_a_snippet_that_runs(kind, exports, run, tmp_path, monkeypatch, capsys):
    exported, out = exports(kind), tmp_path / "published"
    done = push(str(run), to=str(out), exported=exported.root)
    assert sorted(done.files) == sorted(path.name for path in out.iterdir())
    write_wav(out / "speech.wav", speech())
    (out / "openai").mkdir()
    (out / "openai" / "whisper-base").symlink_to(import_packaged())  # stands in the place of the hub
    monkeypatch.chdir(out)
    exec(compile(snippet_of(out), "README.md", "exec"), {})
    assert len(capsys.readouterr().out.split()) >= 3


def test_the_card_says_what_was_measured(exports, run, report, tmp_path):
    push(str(run), to=str(tmp_path / "x"), exported=exports("adapter").root, reports=[report], data_licence="CC-BY-3.0")
    text = (tmp_path / "x" / "README.md").read_text(encoding="utf-8")
    body = ReportFolder(report).read_json()
    data = ModelCard(text).data
    assert (data.language, data.license, data.base_model, data.library_name) == (
        "it", "apache-2.0", "openai/whisper-base", "peft",
    )  # fmt: skip
    assert data.base_model_relation == "adapter"
    assert {"automatic-speech-recognition", "whisper", "lora"} <= set(data.tags)
    assert data.datasets == ["cv-corpus-17.0-2024-03-15"]
    measured = {result.metric_type: result for result in data.eval_results}
    assert measured["wer"].metric_value == round(100 * body["scores"]["wer"], 2)
    assert (measured["wer"].dataset_split, measured["wer"].dataset_name) == ("test", "cv-corpus-17.0-2024-03-15")
    low, high = (100 * value for value in body["scores"]["wer_interval"])
    assert f"{100 * body['scores']['wer']:.1f} | {low:.1f} to {high:.1f}" in text
    for word in ("| this model |", "CC-BY-3.0", "rank 4, alpha 8, on q_proj, v_proj", "0.10 hours, 103", "Italian"):
        assert word in text


def test_nothing_of_people_or_of_this_machine_is_published(exports, run, report, dataset, place, tmp_path):
    out = tmp_path / "published"
    push(str(run), to=str(out), exported=exports("transformers").root, reports=[report])
    splits = [read_split(dataset, name) for name in ("train", "dev", "test")]
    never = {str(place), str(tmp_path), str(Path.home()), *(clip for split in splits for clip in split.ids)}
    never |= {speaker for split in splits for speaker in split.speakers} | {t for split in splits for t in split.texts}
    never |= {socket.gethostname()} if len(socket.gethostname()) > 5 else set()
    for path in out.iterdir():
        content = path.read_bytes()
        assert not [word for word in never if len(word) > 1 and word.encode() in content], path.name


def test_what_must_not_be_published_stops_all(exports, run, dataset, place, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(exports("adapter").root, copy)
    folder, config = ExportFolder(copy), copy / "adapter_config.json"
    clean = config.read_text()

    def published(sentence):
        folder.write(folder.read().model_copy(update={"files": folder.listed()}))
        with pytest.raises(DataError, match=sentence):
            push(str(run), to=str(tmp_path / "x"), exported=copy)
        assert not (tmp_path / "x").exists()

    config.write_text(clean.replace("openai/whisper-base", str(place / "my-run")))
    published("adapter_config.json names a folder of this machine")
    config.write_text(clean.replace("openai/whisper-base", read_split(dataset, "train").speakers[0]))
    published("adapter_config.json holds the pseudonym of a speaker")
    config.write_text(clean)
    (copy / "notes.txt").write_text("x")
    published("notes.txt is no file of a model")
    (copy / "notes.txt").unlink()
    weights = load_file(copy / "adapter_model.safetensors")
    save_file(weights, copy / "adapter_model.safetensors", metadata={"made": str(place / "my-run")})
    published("adapter_model.safetensors names a folder")


def test_only_what_was_proven_is_published(exports, run, report, dataset, place, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(exports("adapter").root, copy)
    (copy / "adapter_config.json").write_text("{}")
    with pytest.raises(DataError, match="has changed since its parity check"):
        push(str(run), to=str(tmp_path / "x"), exported=copy)
    other = save_run(place / "other", dataset, 0.5)
    with pytest.raises(ConfigError, match="is no export of"):
        push(str(other), to=str(tmp_path / "x"), exported=exports("adapter").root)
    body = ReportFolder(report).read_json()
    foreign = ReportRecord.model_validate({**body, "system": {**body["system"], "training": None}})
    ReportFolder(tmp_path / "foreign").write(foreign)
    with pytest.raises(ConfigError, match="none of the reports is of"):
        push(str(run), to=str(tmp_path / "x"), exported=exports("adapter").root, reports=[tmp_path / "foreign"])
    with pytest.raises(ConfigError, match="holds something else"):
        push(str(run), to=str(place), exported=exports("adapter").root)
    assert not (tmp_path / "x").exists()


def test_a_report_is_of_the_run_whose_weights_it_names(exports, run, report, tmp_path, capsys):
    export, body = exports("adapter"), ReportFolder(report).read_json()
    said = {"to": str(tmp_path / "x"), "exported": export.root, "reports": [tmp_path / "report"]}

    def put(**system):
        (tmp_path / "report").mkdir(exist_ok=True)
        changed = {**body, "system": {**body["system"], **system}}
        ReportFolder(tmp_path / "report").manifest.write_text(json.dumps(changed))

    put(weights_digest=RunFolder(run).read().weights_digest, training={**body["system"]["training"], "seconds": 99.0})
    assert push(str(run), **said).measured
    assert "records no digest" not in capsys.readouterr().err
    put(weights_digest="of other weights")  # that took as long, and reached as much
    with pytest.raises(ConfigError, match="none of the reports is of"):
        push(str(run), **said)
    put()  # as earlier versions wrote it
    assert push(str(run), **said).measured
    assert capsys.readouterr().err.count("records no digest of its weights") == 1


class Hub(ThreadingHTTPServer):
    """A hub of models as its real client speaks to it: create, look, announce, commit."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), HubAnswers)
        self.address = f"http://127.0.0.1:{self.server_address[1]}"
        self.token, self.repositories, self.objects = "hf_secretsecret", {}, {}

    def handle_error(self, request, client_address):
        """A client that breaks off is no error of the hub's, and nothing to be printed among what is tested."""


class HubAnswers(BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self):
        name = self.path.removeprefix("/api/models/")
        if name in self.server.repositories:
            return self.answer(200, {"id": name, "private": self.server.repositories[name]["private"]})
        return self.answer(404, {"error": "Repository not found"})

    def do_POST(self):
        content = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Authorization") != f"Bearer {self.server.token}":
            return self.answer(401, {"error": "Invalid credentials"})
        if self.path == "/api/validate-yaml":
            whole = ModelCard(json.loads(content)["content"]).data.to_dict()
            missing = {"language", "license", "base_model", "tags", "datasets"} - whole.keys()
            errors = [{"message": f"{name} is missing"} for name in missing]
            return self.answer(400 if errors else 200, {"errors": errors, "warnings": []})
        if self.path == "/api/repos/create":
            asked = json.loads(content)
            name = f"{asked['organization']}/{asked['name']}"
            known = name in self.server.repositories
            self.server.repositories.setdefault(name, {"private": asked.get("visibility") == "private", "files": {}})
            return self.answer(409 if known else 200, {"url": f"{self.server.address}/{name}"})
        name, _, verb = self.path.removeprefix("/api/models/").rpartition("/")[0].rpartition("/")
        if verb == "preupload":
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(content)["files"]
            ]
            return self.answer(200, {"files": files})
        for line in map(json.loads, content.splitlines()):
            if line["key"] == "file":
                self.server.repositories[name]["files"][line["value"]["path"]] = base64.b64decode(
                    line["value"]["content"]
                )
        return self.answer(
            200, {"success": True, "commitOid": "0" * 40, "commitUrl": f"{self.server.address}/{name}/commit/0"}
        )

    def answer(self, status, body):
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        if status == 401:
            self.send_header("X-Error-Message", "Invalid credentials in Authorization header")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(monkeypatch):
    server = Hub()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", server.address)
    monkeypatch.setenv("HF_TOKEN", server.token)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    yield server
    server.shutdown()


def test_a_run_is_published_on_the_hub(hub, exports, run, report, monkeypatch):
    given = {"--to": "anna/italian", "--export": exports("adapter").root, "--report": report}
    command = ["push", run, *(word for pair in given.items() for word in pair), "--private"]
    done = invoke(*command)
    assert done.exit_code == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"{hub.address}/anna/italian/commit/0"
    there = hub.repositories["anna/italian"]
    assert there["private"]
    proof = json.loads(there["files"]["export.json"])
    assert {file["name"]: file["sha256"] for file in proof["files"]} == {
        name: hashlib.sha256(content).hexdigest()
        for name, content in there["files"].items()
        if name not in ("README.md", "export.json")
    }
    assert 'from_pretrained(model, "anna/italian")' in there["files"]["README.md"].decode()
    assert "machine" not in proof
    assert "made_with" not in proof

    assert invoke(*command).exit_code == 0  # again
    there["private"] = False
    done = invoke(*command)
    assert (done.exit_code, "exists and is public" in done.stderr) == (2, True)
    monkeypatch.setenv("HF_TOKEN", "hf_wrongwrong")
    done = invoke(*command)
    assert done.exit_code == 1
    assert "could not be published" in done.stderr
    assert "hf_" not in done.stderr + done.stdout
    monkeypatch.delenv("HF_TOKEN")
    done = invoke(*command)
    assert (done.exit_code, "export HF_TOKEN=" in done.stderr) == (2, True)


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["--to", "noslash"], 2, "name owner/name on the hub, or a folder such as ./noslash"),
        (["--to", "./x", "--private"], 2, "for a repository on the hub"),
        (["--to", "./x", "--export", "./nowhere"], 3, "no export at"),
        (["--to", "./x", "--report", "./nowhere"], 3, "no report at"),
    ],
)
def test_what_cannot_be_published_is_said(words, code, sentence, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = invoke("push", run, *words)
    assert done.exit_code == code
    assert sentence in done.stderr
    assert not list(tmp_path.iterdir())
