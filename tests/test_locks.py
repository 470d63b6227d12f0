"""One job works in a folder at a time; a lock ends with its process, and what is refused changes nothing."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
import time

import apart
import pytest
from conftest import DEMO
from test_rerun import report

from asr_lora import analyze, check_labels, compare, evaluate, export, promote, train
from asr_lora.errors import AsrLoraError, ConfigError
from asr_lora.folders.atomic import replacing_folder
from asr_lora.folders.dataset_folder import DatasetFolder
from asr_lora.folders.report_folder import ReportFolder
from asr_lora.folders.run_folder import RunFolder
from asr_lora.folders.workflow_folder import SweepFolder
from asr_lora.system.locks import alone, owned
from asr_lora.workflows.adapt import adapt
from asr_lora.workflows.merge import merge
from asr_lora.workflows.promote import sweep_strengths
from asr_lora.workflows.publish import push
from asr_lora.workflows.sweep import sweep_settings, write_empty

JOBS = {
    "adapt": lambda out, _: adapt(DEMO, language="it", out=out),
    "train": lambda out, config: train(config(out=out)),
    "evaluate": lambda out, _: evaluate("model", out / "data", out=out),
    "strength sweep": lambda out, _: sweep_strengths("model", out / "data", out=out),
    "compare": lambda out, _: compare([], out=out),
    "promote": lambda out, _: promote(f"{out}@0.5"),
    "sweep": lambda out, _: sweep_settings(out / "x.yaml", out=out),
    "empty sweep": lambda out, _: write_empty(out / "x.yaml", out=out),
    "analyze": lambda out, _: analyze([], out=out),
    "export": lambda out, _: export("run", format="ggml", out=out),
    "merge": lambda out, _: merge(["a", "b"], out=out),
    "push": lambda out, _: push("run", to=str(out)),
}


@pytest.mark.parametrize("job", JOBS)
def test_a_second_job_in_a_folder_is_refused_at_once(job, run_config, tmp_path):
    with owned(RunFolder(tmp_path / "o"), "train"):
        sentence = rf"another train works on .*/o \(process {os.getpid()} on .+\): wait until it ends, or name another"
        with pytest.raises(ConfigError, match=sentence):
            JOBS[job](tmp_path / "o", run_config)
        assert [path.name for path in (tmp_path / "o").iterdir()] == [".lock"]
    assert not (tmp_path / "o").exists()


def test_labels_are_not_checked_while_their_dataset_is_prepared(demo_dataset):
    with owned(DatasetFolder(demo_dataset), "prepare"), pytest.raises(ConfigError, match="another prepare works on"):
        check_labels(demo_dataset)
    assert not DatasetFolder(demo_dataset).work.exists()


@pytest.mark.slow
def test_of_two_evaluations_one_is_refused_and_a_killed_one_is_not_in_the_way(demo_dataset, tiny_folder, tmp_path):
    words = ["evaluate", tiny_folder, demo_dataset, "--split", "dev", "--out", tmp_path / "o"]
    first = apart.start(*words)
    patience = time.monotonic() + 60
    while not (tmp_path / "o" / ".lock").exists() and time.monotonic() < patience:
        time.sleep(0.005)
    second = apart.run(*words)
    assert second.returncode == 2, second.stderr
    assert f"another evaluate works on {tmp_path}/o (process {first.process.pid} on " in second.stderr
    first.send(signal.SIGKILL)
    first.wait()
    assert ReportFolder(tmp_path / "o").lock.exists()
    assert evaluate(str(tiny_folder), demo_dataset, split="dev", out=tmp_path / "o").complete
    assert not ReportFolder(tmp_path / "o").lock.exists()


def test_a_comparison_of_two_at_once_is_of_one_of_them(tmp_path):
    paths = [report(tmp_path / name, name, wrong) for name, wrong in (("a", 0.5), ("b", 0.2), ("c", 0.1))]
    both = [apart.start("compare", *some, "--out", tmp_path / "o") for some in (paths[:2], paths[1:])]
    done = [process.wait() for process in both]
    assert {one.returncode for one in done} <= {0, 2}
    assert 0 in {one.returncode for one in done}, done
    checked = apart.run("compare", "--rerun", tmp_path / "o")
    assert checked.returncode == 0, checked.stderr


def test_a_job_that_fails_leaves_no_folder(tmp_path):
    for job in ("evaluate", "compare", "analyze", "export", "sweep"):
        with pytest.raises(AsrLoraError):
            JOBS[job](tmp_path / "new" / "o", None)
    assert not (tmp_path / "new").exists()


def test_what_a_killed_process_left_is_no_other_file(tmp_path):
    (tmp_path / ".lock").write_text("train\nprocess 1 on elsewhere\n")
    with pytest.raises(ConfigError, match="needs two reports or more"):
        compare([], out=tmp_path)
    folder = SweepFolder(tmp_path)
    with owned(folder, "sweep"):
        assert folder.ours
        folder.require_ours(False)


def test_loaders_of_data_that_outlive_their_job_hold_no_lock(tmp_path):
    code = (
        "import os, sys, time\nfrom pathlib import Path\nfrom asr_lora.system.locks import alone\n"
        "with alone(Path(sys.argv[1]), 'busy'):\n"
        "    if os.fork() == 0:\n        time.sleep(30)\n"
        "    print('held', flush=True)\n    os._exit(1)\n"
    )
    job = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "lock")], stdout=subprocess.PIPE, text=True)
    assert job.stdout.readline() == "held\n"
    assert job.wait() == 1
    begun = time.monotonic()
    with alone(tmp_path / "lock", "busy", wait=True):  # for the moment until the other process lets go
        assert time.monotonic() - begun < 10


def test_a_disk_without_locks_is_named_and_used(tmp_path, monkeypatch, capsys):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with owned(RunFolder(tmp_path / "o"), "train"):
        (tmp_path / "o" / "x").touch()
    assert "has no locks (No locks available): let no other job write there meanwhile" in capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_report_that_may_only_be_read_is_read(tmp_path):
    tmp_path.chmod(0o555)
    with owned(RunFolder(tmp_path), "train"):
        pass
    tmp_path.chmod(0o755)


def test_the_lock_of_a_folder_that_took_the_place_of_another_is_left_alone(tmp_path):
    folder = RunFolder(tmp_path / "o")
    with owned(folder, "export"):
        with replacing_folder(folder.root) as draft:
            (draft / "x").touch()
        assert not folder.lock.exists()
        with owned(folder, "train"):
            assert folder.lock.exists()
            inode = folder.lock.stat().st_ino
    assert (folder.root / "x").exists()
    assert inode
    assert not folder.lock.exists()


def test_a_folder_behind_a_link_is_replaced_and_the_link_stays(tmp_path):
    (tmp_path / "disk" / "o").mkdir(parents=True)
    (tmp_path / "disk" / "o" / "old").touch()
    (tmp_path / "o").symlink_to("disk/o")
    (tmp_path / "new").symlink_to(tmp_path / "disk" / "n")
    (tmp_path / "circle").symlink_to("circle")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("kept")
    (tmp_path / "disk" / ".o.tmp").symlink_to(tmp_path / "mine")
    (tmp_path / "disk" / ".o.before").symlink_to(tmp_path / "mine")
    for name in ("o", "new"):
        with replacing_folder(tmp_path / name) as draft:
            (draft / "x").touch()
        assert (tmp_path / name).is_symlink()
        assert [path.name for path in (tmp_path / name).iterdir()] == ["x"]
    assert sorted(path.name for path in (tmp_path / "disk").iterdir()) == ["n", "o"]
    for name in ("circle", "mine/file"):
        with pytest.raises(OSError, match=name), replacing_folder(tmp_path / name):
            pass
    assert (tmp_path / "mine" / "file").read_text() == "kept"
