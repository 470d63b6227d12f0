"""Datasets of the hub, through the hub's own client and a hub on this machine (`hub.py`)."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from conftest import ROOT
from hub import served
from test_sources import sound

# Runs the command line as often as it is told to; waits between tries are counted and not waited for.
CHILD = """
import contextlib, io, json, sys, time, traceback
from asr_lora.cli.verbs import main

waits = []
time.sleep = waits.append
for line in sys.stdin:
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    sys.argv, code, begun = ["asr-lora", *json.loads(line)], 0, time.monotonic()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
        except BaseException:
            traceback.print_exc()
            code = 99
    waited = sum(waits) + time.monotonic() - begun
    print(json.dumps({"code": code, "err": err.buffer.getvalue().decode(), "waited": waited}), flush=True)
    waits.clear()
"""
CARD = """---
configs:
- config_name: cs_cz
  data_files:
  - {split: train, path: cs_cz/train-*}
  - {split: validation, path: cs_cz/validation-*}
  - {split: test, path: cs_cz/test-*}
- config_name: nl_nl
  data_files:
  - {split: train, path: nl_nl/train-*}
---
"""
SPLITS = {"train": 4, "validation": 2, "test": 2}


def fleurs(split: str, n: int) -> dict[str, Any]:
    return {"id": 7, "num_samples": 4800, "path": f"/a/{n}.wav", "transcription": f"{split} {n}", "gender": n % 3}


def voxpopuli(split: str, n: int) -> dict[str, Any]:
    return {"audio_id": f"2018-{split}-{n}", "normalized_text": f"{split} {n}", "raw_text": "", "speaker_id": f"p{n}",
            "gender": "female", "accent": "None"}  # fmt: skip


def librispeech(split: str, n: int) -> dict[str, Any]:
    return {"transcript": f"{split} {n}", "speaker_id": n, "chapter_id": "9", "id": f"{split}_{n}"}


def common_voice(split: str, n: int) -> dict[str, Any]:
    return {"client_id": f"c{n}", "path": f"common_voice_cs_{n}.mp3", "sentence": f"{split} {n}",
            "gender": "male_masculine", "up_votes": 2}  # fmt: skip


def put(folder: Path, row: Callable[[str, int], dict[str, Any]], splits: dict[str, int] = SPLITS, seconds=0.3) -> None:
    """Write a dataset as `Dataset.push_to_hub` would."""
    import datasets

    datasets.disable_progress_bars()
    for place, (split, count) in enumerate(splits.items()):
        clips = [{"bytes": sound(100 * place + n, seconds), "path": f"{n}.wav"} for n in range(count)]
        table = datasets.Dataset.from_list([{**row(split, n), "audio": clips[n]} for n in range(count)])
        table = table.cast_column("audio", datasets.Audio())
        if row is fleurs:
            table = table.cast_column("gender", datasets.ClassLabel(names=["male", "female", "other"]))
        folder.mkdir(parents=True, exist_ok=True)
        table.to_parquet(folder / f"{split}-00000-of-00001.parquet")


@pytest.fixture(scope="module")
def ask(tmp_path_factory):
    """A function: what `prepare` says to a dataset's name; `ask.hub` is the hub."""
    root, out = tmp_path_factory.mktemp("hub"), tmp_path_factory.mktemp("out")
    put(root / "owner/fleurs-like/cs_cz", fleurs)
    (root / "owner/fleurs-like/README.md").write_text(CARD)
    put(root / "owner/voxpopuli-like/data", voxpopuli)
    put(root / "owner/mls-like/data", librispeech, {**SPLITS, "9_hours": 2})
    put(root / "owner/cv-like/data", common_voice, {**SPLITS, "invalidated": 3})
    put(root / "owner/gated/data", fleurs)
    for name in ("broken", "torn"):
        put(root / f"owner/{name}/data", fleurs, seconds=1.0)
    put(root / "owner/gone/data", fleurs)
    (root / "owner/program").mkdir()
    (root / "owner/program/program.py").write_text("raise SystemExit('it ran')")
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "0",
        "HF_HOME": str(out / "home"),
        "PYTHONPATH": str(ROOT),
        "USE_TORCH": "0",
    }
    environment.pop("HF_TOKEN", None)
    with served(
        root, gated={"owner/gated"}, breaking={"owner/broken/data", "owner/torn/data/test"}, failing={"owner/busy"}
    ) as hub:
        environment["HF_ENDPOINT"] = hub.address
        with subprocess.Popen(
            [sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        ) as child:

            def answer(name: str, *options: str) -> dict[str, Any]:
                folder = out / name.replace(":", "-").replace("/", "-")
                print(json.dumps(["prepare", name, "--language", "cs", "--out", str(folder), *options]),
                      file=child.stdin, flush=True)  # fmt: skip
                return {**json.loads(child.stdout.readline()), "folder": folder}

            answer.hub = hub
            yield answer
            child.stdin.close()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "genders", "speakers", "left_out"), [
    ("hf:owner/fleurs-like:cs_cz", {"male": 2, "female": 1, "": 1}, 0, {}),
    ("hf:owner/voxpopuli-like", {"female": 4}, 4, {}),
    ("hf:owner/mls-like", {"": 4}, 4, {"split is none of train, dev and test": 1}),
    ("hf:owner/cv-like", {"male": 4}, 4, {"split is none of train, dev and test": 1}),
])  # fmt: skip
def test_datasets_as_they_are_on_the_hub(ask, name, genders, speakers, left_out):
    said = ask(name)
    assert said["code"] == 0, said["err"]
    body = json.loads((said["folder"] / "dataset.json").read_text())
    assert {split: facts["utterances"] for split, facts in body["splits"].items()} == {"train": 4, "dev": 2, "test": 2}
    assert body["splits"]["train"]["speakers"] == speakers
    assert body["dropped"] == left_out
    rows = pq.read_table(said["folder"] / "train.parquet").to_pylist()
    assert [row["text"] for row in rows] == [f"train {n}" for n in range(4)]
    assert {gender: sum(row["gender"] == gender for row in rows) for gender in genders} == genders
    assert all(0.29 < row["seconds"] < 0.31 for row in rows)


@pytest.mark.parametrize(("name", "sentence"), [
    ("hf:owner/nothing", "the hub has no hf:owner/nothing, or it is private"),
    ("hf:owner/gated", "accept its terms at {hub}/datasets/owner/gated, then log in with: hf auth login"),
    ("hf:owner/fleurs-like:xx_xx", "cs_cz, nl_nl. Name one of them, such as hf:owner/fleurs-like:cs_cz"),
    ("hf:owner/fleurs-like", "cs_cz, nl_nl. Name one of them, such as hf:owner/fleurs-like:cs_cz"),
    ("hf:owner/program", "which is not run. The hub may have its data as parquet: hf download owner/program"),
    ("hf:owner/broken", "check the name and the connection, and run the same command again"),
    ("hf:owner/torn", "split test cannot be read to its end"),
    ("hf:owner/busy", "503 Service Unavailable"),
    ("hf:a/b/c", "cannot be opened"),
])  # fmt: skip
def test_what_a_hub_refuses_is_one_sentence(ask, name, sentence):
    said = ask(name)
    assert said["code"] == 3
    assert sentence.format(hub=ask.hub.address) in said["err"]
    assert "Traceback" not in said["err"]
    assert sum("error: " in line for line in said["err"].splitlines()) == 1
    assert said["waited"] < 60
    assert not said["folder"].exists()


def test_what_was_torn_off_goes_on(ask):
    ask.hub.breaking.clear()
    assert ask("hf:owner/torn")["code"] == 0


def test_a_hub_that_is_gone_is_one_sentence(ask):
    """The last test here: the hub goes."""
    ask.hub.close()
    said = ask("hf:owner/gone")
    assert (said["code"], said["waited"] < 60) == (3, True)
    assert "check the name and the connection" in said["err"]
