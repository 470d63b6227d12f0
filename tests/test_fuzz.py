"""Some hundred broken inputs, each used, left out or refused in words; `benchmarks/fuzz.py` reads as many as asked."""

import faulthandler

import pytest
from benchmarks import fuzz


def test_good_inputs_are_used_whole():
    fuzz.require_good(
        [
            "archive, packed after",
            "archive, as it is",
            "JSONL",
            "CSV",
            "Kaldi",
            "audio with texts",
            "parquet",
            "lhotse cuts",
            "lhotse supervisions",
            "SpeechBrain",
            "LJSpeech",
            "table of Excel",
            "LibriSpeech",
            "saved dataset",
        ]
    )


def test_a_target_that_tests_nothing_is_noticed(monkeypatch):
    monkeypatch.setitem(fuzz.TARGETS, "bad", fuzz.Target(lambda: [b"10 min"], fuzz.as_file(".name"), fuzz.read_name))
    with pytest.raises(RuntimeError, match="bad: good input 0 is not used whole"):
        fuzz.require_good(["bad"])


@pytest.mark.slow
def test_no_input_ends_in_a_traceback(tmp_path):
    outcomes, failures = fuzz.fuzz(200, tmp_path / "failures", first=1_000_000)
    assert failures == []
    assert set(outcomes) == set(fuzz.TARGETS)
    assert sum(found["inputs"] for found in outcomes.values()) >= 200
    assert all(found["used"] for name, found in outcomes.items() if name in ("table", "audio", "id list"))


@pytest.mark.parametrize(("deed", "reason"), [
    (lambda _: 1 // 0, "ZeroDivisionError"),
    (lambda _: "x" * 10**10, "MemoryError"),
    (lambda _: fuzz.time.sleep(60), "more than 0.5 s"),
    (lambda _: (faulthandler.disable(), fuzz.os.abort()), "SIGABRT"),
])  # fmt: skip
def test_what_should_not_happen_is_noticed(deed, reason, tmp_path, monkeypatch):
    if "0.5" in reason:
        monkeypatch.setattr(fuzz, "MOST_SECONDS", 0.5)
    monkeypatch.setitem(fuzz.TARGETS, "bad", fuzz.Target(lambda: [b"x"], fuzz.as_file(".x"), deed))
    _, failures = fuzz.fuzz(2, tmp_path / "failures", only=["bad"])
    assert len(failures) == 2
    assert all(reason in failure for failure in failures)
    assert len([path for path in (tmp_path / "failures").iterdir() if path.suffix != ".txt"]) == 2
