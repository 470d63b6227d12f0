"""Normaliser, error counts, intervals, comparison and page."""

import re
from html.parser import HTMLParser
from pathlib import Path

import jiwer
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr_lora import compare
from asr_lora.errors import ConfigError, DataError
from asr_lora.folders.atomic import write_jsonl
from asr_lora.folders.measurements import ReportRecord
from asr_lora.folders.report_folder import ReportFolder
from asr_lora.metrics.intervals import difference_of, rate_of, resamples
from asr_lora.metrics.normalize import NORMALISER, basic, find_normaliser
from asr_lora.metrics.wer import Errors, align, align_words, character_errors, count_errors, score, total

WORDS = st.lists(st.sampled_from(["een", "twee", "drie", "vier"]), max_size=8).map(" ".join)


def word_errors(references: list[str], hypotheses: list[str]) -> list[Errors]:
    return [count_errors(steps) for steps in align_words(references, hypotheses)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Goedemorgen, Els!", "goedemorgen els"),
        ("foto’s en foto's", "foto's en foto's"),
        ("'s avonds 'nee'", "s avonds nee"),
        ("l’utente (potrà) partecipare…", "l'utente potrà partecipare"),
        ("e-mail – nu", "e mail nu"),
        ("हिन्दी में", "हिन्दी में"),
        ("ภาษาไทย ดี", "ภาษาไทย ดี"),
        ("Cafe\u0301", "caf\u00e9"),
        ("می‌خواهم", "میخواهم"),
        ("Straße ÜBER", "straße über"),
        ("100 €", "100"),
        ("", ""),
        ("...", ""),
    ],
)
def test_basic_normaliser(text, expected):
    assert basic(text) == expected


@given(st.text(max_size=60))
def test_normalising_twice_changes_nothing(text):
    once = basic(text)
    assert basic(once) == once
    assert once == " ".join(once.split())


@settings(deadline=None)
@given(st.lists(st.tuples(WORDS.filter(bool), WORDS), min_size=1, max_size=8))
def test_pooled_counts_are_jiwers(pairs):
    references, hypotheses = [list(side) for side in zip(*pairs, strict=True)]
    assert total(word_errors(references, hypotheses)).rate == pytest.approx(jiwer.wer(references, hypotheses))
    assert total(character_errors(references, hypotheses)).rate == pytest.approx(jiwer.cer(references, hypotheses))


def test_empty_references_are_defined():
    assert word_errors([""], ["drie kleine woorden"]) == [Errors(insertions=3)]
    assert word_errors([""], [""]) == [Errors()]
    assert Errors().rate == 0.0
    assert Errors(insertions=3).rate == 1.0
    pooled = total(word_errors(["", "een twee"], ["hallo", "een twee"]))
    assert (pooled.edits, pooled.reference, pooled.rate) == (1, 2, 0.5)


def test_raw_and_normalised_scores():
    clean, raw = (score(["Dat is zo."], ["dat is zo"], find_normaliser(name, "nl")).rates for name in ("basic", "none"))
    assert (clean.wer, clean.cer) == (0.0, 0.0)
    assert raw.wer == pytest.approx(2 / 3)
    assert raw.cer == pytest.approx(2 / 10)


def test_interval_agrees_with_a_plain_bootstrap():
    generator = np.random.default_rng(1)
    speakers = [str(n) for n in generator.integers(0, 40, 400)]
    lengths = generator.integers(1, 15, 400)
    edits = generator.binomial(lengths, 0.2)
    sums = resamples(speakers).draw({"edits": edits, "lengths": lengths})
    interval = rate_of(sums["edits"], sums["lengths"])
    names, rates = sorted(set(speakers)), []
    members = {name: [i for i, speaker in enumerate(speakers) if speaker == name] for name in names}
    for _ in range(2000):
        drawn = [i for name in generator.choice(names, len(names)) for i in members[name]]
        rates.append(edits[drawn].sum() / lengths[drawn].sum())
    low, high = np.quantile(rates, [0.025, 0.975])
    assert interval.value == edits.sum() / lengths.sum()
    assert interval.low == pytest.approx(low, abs=0.004)
    assert interval.high == pytest.approx(high, abs=0.004)


def test_paired_interval_is_narrower_than_two_apart_and_covers():
    generator = np.random.default_rng(2)
    lengths = generator.integers(3, 15, 300)
    hard = generator.random(300)  # what makes an utterance hard is hard for both systems
    a = generator.binomial(lengths, 0.5 * hard)
    b = np.maximum(0, a - generator.binomial(1, 0.4, 300))
    sums = resamples([str(n) for n in range(300)]).draw({"a": a, "b": b, "lengths": lengths})
    difference = difference_of(sums["a"], sums["b"], sums["lengths"])
    apart = rate_of(sums["a"], sums["lengths"])
    assert difference.low < difference.value < difference.high < 0
    assert difference.high - difference.low < apart.high - apart.low
    assert difference.verdict == "better"
    assert difference.probability_of_improvement == 1.0
    same = difference_of(sums["a"], sums["a"], sums["lengths"])
    assert (same.value, same.low, same.high, same.verdict) == (0.0, 0.0, 0.0, "not distinguishable")
    assert same.probability_of_improvement == 0.5
    worse = difference_of(sums["b"], sums["a"], sums["lengths"])
    assert worse.verdict == "worse"
    assert (worse.low, worse.high) == pytest.approx((-difference.high, -difference.low))


def test_a_handful_of_speakers_is_resampled_by_utterance():
    assert resamples(["a", "b"] * 50).unit == "utterance"
    assert resamples([str(n % 10) for n in range(50)]).unit == "speaker"
    with pytest.raises(ValueError, match="needs utterances"):
        resamples([])


def test_sixteen_thousand_utterances_are_quick():
    import time

    generator = np.random.default_rng(0)
    lengths = generator.integers(1, 15, 16_000).tolist()
    plan = resamples([str(n) for n in range(16_000)])  # every one of another speaker, which is the most work

    def seconds() -> float:
        started = time.process_time()
        sums = plan.draw({"edits": lengths, "lengths": lengths})
        rate_of(sums["edits"], sums["lengths"])
        return time.process_time() - started

    assert min(seconds() for _ in range(3)) < 2  # the fastest, since other work on the machine takes from the others


def report(folder: Path, name: str, edits: list[int], **changes) -> Path:
    """A report folder as an earlier version wrote one; `edits` says how many words each hypothesis leaves out."""
    words = ["een", "twee", "b", "drie", "b", "vier", "vijf"]
    rows = [
        {
            "id": f"clip{n}", "speaker": f"s{n % 12}", "seconds": 3.0, "reference": "een twee <b>drie</b> vier & vijf",
            "hypothesis": " ".join(words[: len(words) - count]), "word_edits": count,
            "reference_words": 7, "character_edits": count, "reference_characters": 20,
        }
        for n, count in enumerate(edits)
    ]  # fmt: skip
    found = ReportFolder(folder)
    folder.mkdir(parents=True)
    write_jsonl(found.hypotheses, rows)
    wer = sum(edits) / (7 * len(edits))
    body = {
        "fingerprint": name,
        "system": {
            "name": name, "model": name, "base": "b", "context": "true_length", "dtype": "bfloat16", "device": "cpu",
            "training": None,
        },
        "dataset": {
            "language": "nl", "split": "test", "sha256": "0" * 64, "utterances": len(edits), "seconds": 90.0,
            "speakers": 12,
        },
        "decoding": {"language": "nl", "task": "transcribe", "beams": 1, "max_new_tokens": 224},
        "normaliser": NORMALISER,
        "scores": {
            "wer": wer, "cer": wer, "raw_wer": wer, "raw_cer": wer, "wer_interval": [wer / 2, wer * 2],
            "resampled": "speaker",
        },
        "rtfx": 20.0,
    }  # fmt: skip
    found.write(ReportRecord.model_validate({**body, **changes}))
    return folder


def test_comparison_and_its_page(tmp_path):
    one = report(tmp_path / "one", "untouched", [5, 4, 5] * 10)
    two = report(tmp_path / "two", "lora", [0, 4, 1] * 10)
    three = report(tmp_path / "three", "full <script>alert(1)</script>", [1, 4, 0] * 10)
    folder = compare([one, two, three], out=tmp_path / "out")
    body = folder.read_json()
    assert [pair["verdict"] for pair in body["pairs"]] == ["better", "better", "not distinguishable"]
    assert body["pairs"][0]["wer"]["value"] == pytest.approx((50 - 140) / 210)
    assert body["verdict"].startswith("lora is better than untouched by 42.9 points of WER (95 % interval -")
    assert "The next best, full <script>alert(1)</script>, is not distinguishable from it (" in body["verdict"]
    page = folder.page.read_text(encoding="utf-8")
    Checked().feed(page)
    assert page.count("<script") == 1  # its own
    assert "&lt;b&gt;drie&lt;/b&gt;" in page
    assert not re.search(r"""(?:src|href)=["'](?!data:|#)""", page), "the page must not ask the network"
    assert "<svg" in page
    assert "| lora | 23.8 |" in folder.markdown.read_text(encoding="utf-8")
    quiet = compare([one, two], out=tmp_path / "quiet", transcripts=False)
    assert "drie" not in quiet.page.read_text(encoding="utf-8")


class Checked(HTMLParser):
    """Fails on a tag that is closed out of turn."""

    VOID = frozenset({"meta", "link", "br", "path", "use", "rect", "input"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag, attrs):
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag


def test_reports_that_cannot_be_compared(tmp_path):
    one = report(tmp_path / "one", "a", [1] * 12)
    with pytest.raises(ConfigError, match="two reports or more"):
        compare([one], out=tmp_path / "out")
    with pytest.raises(ConfigError, match="one name"):
        compare([one, one], out=tmp_path / "out")
    with pytest.raises(DataError, match="not of the same utterances"):
        compare([one, report(tmp_path / "two", "b", [1] * 11)], out=tmp_path / "out")
    with pytest.raises(DataError, match="differ in normaliser"):
        compare([one, report(tmp_path / "three", "c", [1] * 12, normaliser="other-1")], out=tmp_path / "out")
    other = report(tmp_path / "four", "d", [1] * 12, decoding={"language": "nl", "beams": 5})
    with pytest.raises(DataError, match="differ in decoding"):
        compare([one, other], out=tmp_path / "out")
    with pytest.raises(DataError, match=r"no report at .*asr-lora evaluate"):
        compare([one, tmp_path / "nowhere"], out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@given(WORDS, WORDS)
def test_alignment_holds_every_word(reference, hypothesis):
    words = align(reference, hypothesis)
    assert [word.text for word in words if word.kind != "del"] == hypothesis.split()
    edits = sum(word.kind != "equal" for word in words)
    assert edits == word_errors([reference], [hypothesis])[0].edits
