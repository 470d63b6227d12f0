"""Normalisers against the published implementations, and the rates that are counted after them."""

import sys

import jiwer
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from whisper_normalizer.basic import BasicTextNormalizer
from whisper_normalizer.english import EnglishTextNormalizer

from asr_lora.errors import ConfigError
from asr_lora.metrics import normalize
from asr_lora.metrics.normalize import LABELS, characters_lead, find_normaliser, join_compounds
from asr_lora.metrics.wer import Errors, align_words, character_errors, count_errors, score, total

# Text, and what the Open ASR Leaderboard's ml_normalizer made of it (August 2026, num2words 0.5.14).
LEADERBOARD = {
    "hi": [("हिन्दी में 12 बातें (हँसी)", "ह न द म 12 ब त"), ("क्या आप 1,250 रुपये देंगे?", "क य आप 1250 र पय द ग")],
    "th": [("ภาษาไทย ดี 7 วัน", "ภาษาไทย ด เจ็ด ว น"), ("[เสียง] สวัสดีครับ", "สว สด คร บ")],
    "nl": [
        ("Foto's van 's avonds: 10 000 mensen, 3,5 km!", "foto s van s avonds tienduizend mensen drie vijf km"),
        ("e-mail – zo'n 21e keer", "e mail zo n eenentwintige keer"),
    ],
    "de": [
        ("Straße ÜBER 1.000 Bäume", "straße über eintausend bäume"),
        (
            "Die Donau-Dampfschifffahrt (lacht) 1984",
            "die donau dampfschifffahrt eintausendneunhundertvierundachtzig",
        ),
    ],
    "tr": [("İstanbul'da IŞIK 1923'te", "istanbul da ışık bindokuzyüzyirmiüç te")],
    "ar": [("مَرْحَبًا بِكُم، ١٢٣ كتاب", "م ر ح ب ا ب ك م مائة و ثلاثة و عشرون كتاب")],
    "zh": [("我有 3 本书。", "我有 3 本书"), ("今天，天气１２度很好！", "今天 天气12度很好")],
    "it": [("l’utente può 100 €", "l utente può cento")],
    "fr": [("aujourd'hui 71 œufs", "aujourd hui soixante et onze œufs")],
}
TEXTS = [(language, text) for language, pairs in LEADERBOARD.items() for text, _ in pairs]


def word_errors(references: list[str], hypotheses: list[str]) -> list[Errors]:
    return [count_errors(steps) for steps in align_words(references, hypotheses)]


def small(text: str, language: str) -> str:
    """The text with its Turkish capitals in lower case, which Whisper's normaliser takes for English ones."""
    return text.replace("İ", "i").replace("I", "ı") if language == "tr" else text


@pytest.mark.parametrize(("language", "text"), TEXTS)
def test_whisper_is_whispers(language, text):
    assert find_normaliser("whisper", language).clean(text) == BasicTextNormalizer()(small(text, language)).strip()


@pytest.mark.parametrize(
    "text",
    [
        "Mr. Smith's colour won't cost $20 million, twenty one per cent!",
        "It's three [noise], I'm gonna analyse the 2nd of them",
        "",
    ],
)
def test_english_whisper_is_whispers(text):
    assert find_normaliser("whisper", "en").clean(text) == EnglishTextNormalizer()(text).strip()


def test_english_spellings_are_american():
    assert find_normaliser("whisper", "en").clean("The colour of 'twenty one' theatres") == "the color of 21 theaters"


@pytest.mark.parametrize(
    ("language", "text", "expected"),
    [(language, *pair) for language, pairs in LEADERBOARD.items() for pair in pairs],
)
def test_leaderboard_is_the_leaderboards(language, text, expected):
    assert find_normaliser("leaderboard", language).clean(text) == expected


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("hi", "हिन्दी में बातें, क्या आप देंगे?"),
        ("th", "ภาษาไทย ดี! สวัสดีครับ"),
        ("nl", "Goedemorgen: één, twee; drie…"),
        ("de", "Straße ÜBER Bäume!"),
        ("tr", "Çağrı, ağaç? Şeker"),
        ("ar", "مَرْحَبًا بِكُم، كتاب"),
        ("zh", "今天，天气很好！"),
    ],
)
def test_basic_is_whispers_with_the_marks_kept(language, text):
    """Where there are no brackets, hyphens and apostrophes, which it treats in its own way."""
    kept = " ".join(BasicTextNormalizer(preserve_marks=True)(text).split())
    assert find_normaliser("basic", language).clean(text) == kept


def test_none_is_as_written():
    assert find_normaliser("none", "nl").pairs(["Dat\tis  ZO. "], ["dat"]) == (["Dat is ZO."], ["dat"])


@pytest.mark.parametrize(
    ("reference", "hypothesis", "expected"),
    [
        ("de haus tür geht auf", "de haustür geht auf", ("de haustür geht auf", "de haustür geht auf")),
        ("haustür", "haus tür", ("haustür", "haustür")),
        ("haus tor", "haustür", ("haus tor", "haustür")),
        ("", "a b", ("", "a b")),
    ],
)
def test_compounds_are_joined_where_blanks_alone_differ(reference, hypothesis, expected):
    assert join_compounds(reference, hypothesis) == expected


WORDS = st.lists(st.sampled_from(["haus", "tür", "haustür", "t", "ü", "r"]), max_size=8).map(" ".join)


@given(WORDS, WORDS)
def test_joining_compounds_moves_blanks_only_and_never_adds_errors(reference, hypothesis):
    said, heard = join_compounds(reference, hypothesis)
    assert said.replace(" ", "") == reference.replace(" ", "")
    assert heard.replace(" ", "") == hypothesis.replace(" ", "")
    before, after = (word_errors([one], [other])[0].edits for one, other in ((reference, hypothesis), (said, heard)))
    assert after <= before


def test_a_normaliser_that_does_not_fit_is_one_sentence(monkeypatch):
    with pytest.raises(ConfigError, match="there is no normaliser 'fancy'; there are none, basic, whisper"):
        find_normaliser("fancy", "nl")
    with pytest.raises(ConfigError, match="'basic-0' is not of this version, which has none-1, basic-2"):
        find_normaliser("basic-0", "nl")
    with pytest.raises(ConfigError, match="take whisper"):
        find_normaliser("leaderboard", "en")
    assert [find_normaliser(label, "nl").label for label in LABELS.values()] == list(LABELS.values())
    for cached in (normalize._number_words, normalize._whisper):
        cached.cache_clear()
    for package in ("num2words", "whisper_normalizer"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=r"needs the package num2words: pip install 'asr_lora\[scores\]'"):
        find_normaliser("leaderboard", "nl")
    with pytest.raises(ConfigError, match=r"list of English spellings: pip install"):
        find_normaliser("whisper", "en")
    assert find_normaliser("whisper", "nl").clean("Ja!") == "ja"


@pytest.mark.parametrize(
    ("text", "led"),
    [
        ("今天天气很好", True),
        ("今日はいい天気ですね", True),
        ("ภาษาไทย ดี", True),
        ("ພາສາລາວ", True),
        ("ភាសាខ្មែរ", True),
        ("မြန်မာ", True),
        ("हिन्दी में", False),
        ("한국어는 띄어쓰기를 한다", False),
        ("Goedemorgen", False),
        ("مرحبا", False),
        ("", False),
    ],
)
def test_characters_lead_where_words_are_not_parted(text, led):
    assert characters_lead([text]) is led


@settings(deadline=None)
@given(st.lists(st.tuples(WORDS.filter(bool), WORDS), min_size=1, max_size=8))
def test_all_rates_are_jiwers(pairs):
    references, hypotheses = [list(side) for side in zip(*pairs, strict=True)]
    rates = score(references, hypotheses, find_normaliser("none", "de")).rates
    words = jiwer.process_words(references, hypotheses)
    assert (rates.wer, rates.mer, rates.wil) == pytest.approx((words.wer, words.mer, words.wil))
    assert rates.cer == pytest.approx(jiwer.cer(references, hypotheses))
    assert (rates.substitutions, rates.insertions, rates.deletions) == (
        words.substitutions, words.insertions, words.deletions,
    )  # fmt: skip


@settings(deadline=None)
@given(st.lists(st.tuples(st.text(max_size=12), st.text(max_size=12)), max_size=6))
def test_no_text_divides_by_zero_and_every_insertion_counts(pairs):
    references, hypotheses = [[pair[side] for pair in pairs] for side in (0, 1)]
    for name in ("none", "basic"):
        scored = score(references, hypotheses, find_normaliser(name, "nl"))
        rates = scored.rates
        assert 0 <= rates.mer <= 1
        assert 0 <= rates.wil <= 1
        for said, heard, steps in zip(scored.references, scored.hypotheses, scored.alignments, strict=True):
            assert [step.reference for step in steps if step.reference is not None] == said.split()
            assert [step.hypothesis for step in steps if step.hypothesis is not None] == heard.split()
        silent = [heard for said, heard in zip(scored.references, scored.hypotheses, strict=True) if not said.split()]
        assert rates.insertions >= sum(len(heard.split()) for heard in silent)


def test_words_on_silence_are_insertions():
    assert total(word_errors(["", "een twee"], ["drie vier", "een twee"])).rate == 1.0
    assert total(word_errors([""], ["drie vier"])).match_rate == 1.0
    assert total(word_errors([""], ["drie vier"])).information_lost == 1.0
    assert total(word_errors(["een"], [""])).information_lost == 1.0
    assert total(character_errors([""], [""])).information_lost == 0.0
    with pytest.raises(ValueError, match="2 reference and 1 hypothesis"):
        align_words(["", ""], [""])
