"""Rules of languages: Turkish letters, scripts without blanks, and the rate that chooses a checkpoint."""

from dataclasses import replace

import pytest
from conftest import DEMO
from test_rerun import report

from asr_lora import prepare
from asr_lora.dataset.reading import read_split
from asr_lora.evaluation.comparison import read_comparison
from asr_lora.folders.run_folder import RunFolder
from asr_lora.language import spoken_language
from asr_lora.metrics.normalize import find_normaliser
from asr_lora.metrics.wer import score
from asr_lora.text import TextCleaning, sentence_key
from asr_lora.training import train as training
from asr_lora.workflows.sweep import _record

CLIPS = sorted((DEMO / "cv-corpus-17.0-2024-03-15" / "it" / "clips").iterdir())


def manifest(folder, texts, splits=("train", "dev", "test")):
    """A table of real clips under other texts, once for each split."""
    folder.mkdir()
    for number, split in enumerate(splits):
        clips = CLIPS[number * len(texts) :]
        rows = [f"{clip}\t{text}\ts{number}" for clip, text in zip(clips, texts, strict=False)]
        (folder / f"{split}.tsv").write_text("\n".join(["path\tsentence\tclient_id", *rows]) + "\n")
    return folder


# Turkish and its kin


@pytest.mark.parametrize("language", ["tr", "az"])
@pytest.mark.parametrize("name", ["basic", "whisper", "leaderboard"])
@pytest.mark.parametrize("capitals", ["IŞIK söndü", "İSTANBUL", "I\u0307zmir'de ILIK"])
def test_turkish_capitals_are_the_letters_they_stand_for(language, name, capitals):
    small = TextCleaning(lower_case=True).apply(capitals, language)
    scored = score([capitals], [small], find_normaliser(name, language))
    assert (scored.rates.wer, scored.rates.cer) == (0, 0)
    assert "\u0307" not in scored.references[0]


def test_other_languages_keep_their_own_small_letters():
    assert TextCleaning(lower_case=True).apply("ISTANBUL", "de") == "istanbul"
    assert TextCleaning(lower_case=True).apply("IŞIK İZ", "tr") == "ışık iz"
    assert find_normaliser("basic", "en").clean("I AM") == "i am"
    assert len({sentence_key(text) for text in ("IŞIK söndü", "ışık söndü.", "Işık SÖNDÜ")}) == 1


def test_prepare_lowers_turkish_labels_and_knows_them_from_earlier_ones(tmp_path):
    source = manifest(tmp_path / "source", ["İstanbul IRMAK", "IŞIK"])
    how = {"text": TextCleaning(lower_case=True), "subsets": []}
    found = {language: prepare(source, language=language, out=tmp_path / language, **how) for language in ("tr", "de")}
    assert list(read_split(found["tr"].root, "train").texts) == ["istanbul ırmak", "ışık"]
    assert list(read_split(found["de"].root, "train").texts) == ["i̇stanbul irmak", "işik"]


# Scripts without blanks


@pytest.mark.parametrize("name", ["basic", "whisper", "leaderboard"])
@pytest.mark.parametrize(
    ("language", "reference", "hypothesis"),
    [
        ("zh", "你好，世界。", "你好世界"),
        ("ja", "はい、そうです。", "はいそうです"),
        ("th", "สวัสดี ครับ", "สวัสดีครับ"),
        ("yue", "我用 iPhone 手機", "我用iPhone手機"),
        ("zh", "３ 月", "3月"),
        ("my", "မင်္ဂလာပါ။ နေကောင်းလား", "မင်္ဂလာပါနေကောင်းလား"),
        ("zh", "ＡＢＣ", "ABC"),
        ("ja", "ｶﾀｶﾅ ですｶﾞ", "カタカナですガ"),
    ],
)
def test_a_perfect_hypothesis_has_no_character_errors(name, language, reference, hypothesis):
    assert score([reference], [hypothesis], find_normaliser(name, language)).rates.cer == 0


def test_blanks_between_words_count_where_a_script_has_them():
    for reference, hypothesis in (
        ("guten tag", "gutentag"),
        ("띄어 쓰기", "띄어쓰기"),
        ("我 用 good day", "我用goodday"),
    ):
        assert score([reference], [hypothesis], find_normaliser("basic", "de")).rates.cer > 0


# The rate that leads chooses

CHINESE = ["你好，世界", "今天天气很好", "我们去北京"]
# WER is the lowest after step 2, and CER after step 3.
SCORES = [(0.9, 0.5), (0.8, 0.6), (0.95, 0.4), (1.0, 0.7), (1.0, 0.7), (1.0, 0.7)]


@pytest.fixture
def scored_dev(monkeypatch):
    """Scores of dev, one evaluation after the other."""
    rates = score(["a"], ["b"], find_normaliser("none", "en")).rates
    steps = iter([(replace(rates, wer=wer, cer=cer), rates) for wer, cer in SCORES])
    monkeypatch.setattr(training, "_score_dev", lambda *_: next(steps))


@pytest.mark.parametrize(("language", "texts", "best"), [("zh", CHINESE, 3), ("it", ["uno", "due", "tre"], 2)])
def test_checkpoints_and_early_stopping_go_by_the_rate_that_leads(
    run_config, tmp_path, scored_dev, language, texts, best
):
    source = manifest(tmp_path / "source", texts)
    dataset = prepare(source, language=spoken_language(language), out=tmp_path / "data", subsets=[]).root
    config = run_config(
        model__language=language, data__dataset=dataset, data__subset="all", data__dev_utterances=0,
        training__steps=8, training__evaluate_every_steps=1, training__early_stopping=2, training__average_last=2,
    )  # fmt: skip
    folder = training.train(config)
    body = folder.read()
    rate = ("CER", 0.4) if language == "zh" else ("WER", 0.8)
    assert (body.best.step, body.best.lead.upper(), body.best.dev_rate) == (best, *rate)
    assert not body.best.averaged
    assert body.train.steps == best + 2
    assert f"best {rate[0]} on dev {rate[1]:.1%} at step {best}" in folder.caption()
    assert body.best.chosen_by == f"{rate[0]} {100 * rate[1]:.1f} %"


def test_runs_of_earlier_versions_were_chosen_by_wer(tmp_path):
    from conftest import run_record

    run = RunFolder(tmp_path)
    run.write(run_record("base"))
    assert run.read().best.chosen_by == "WER 10.0 %"


def test_a_sweep_in_a_script_without_blanks_chooses_by_cer(tmp_path):
    reports = [
        report(tmp_path / name, name, wrong, language="zh", seed=seed)
        for seed, (name, wrong) in enumerate((("a", 0.3), ("b", 0.1), ("c", 0.5)))
    ]
    comparison = read_comparison(reports)
    for system, wer in zip(comparison.systems, (0.1, 0.9, 0.5), strict=True):
        object.__setattr__(system.scores, "wer", wer)
    record = _record(tmp_path / "sweep.yaml", [], {"dev": comparison})
    assert record.chosen_by_dev == "b"
    rows = {row.name: row for row in record.splits["dev"]}
    assert rows["b"].difference == next(pair.cer for pair in comparison.pairs if pair.b == "b")
