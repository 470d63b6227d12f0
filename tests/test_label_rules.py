"""Rules on texts, sounds and datasets: each finds its fault, and no honest text in any script is a fault."""

import unicodedata
from dataclasses import replace

import numpy as np
import pytest
from conftest import speech
from hypothesis import given, settings
from hypothesis import strategies as st

from asr_lora.labels.rules import RULES, AudioMeasurements, Label, apply_rules, measure, norms_of
from asr_lora.labels.scripts import scripts_of
from asr_lora.labels.text_rules import TEXT_RULES

HONEST = {
    "nl": ["Foto's van 's ochtends, zo'n één à twee meter.", "De café’s in de Alpen: ‘mooi’!", "coördinatie, reünie"],
    "de": ["Die Größe „Spaß“ – Äpfel, Öl, Übung; ß!", "Macht das Spaß…", "Ich sagte: „Ja, ja, ja.“"],
    "cs": ["Příliš žluťoučký kůň úpěl ďábelské ódy.", "’Existují bohové? aneb buďte v klidu“"],
    "sv": ["”Å”, sade han.", "Räksmörgås är gott…"],
    "fr": ["L'été, « voilà » l'œuvre où ça s'arrête…", "Aujourd’hui à Noël"],
    "es": ["¿Qué tal, señor? ¡Bien!"],
    "pt": ["Não, amanhã à noite; João não vê"],
    "pl": ["Zażółć gęślą jaźń"],
    "ca": ["El col·legi de l'hivern"],
    "tr": ["İstanbul'da ığdır"],
    "ro": ["Știința și țara"],
    "hu": ["Árvíztűrő tükörfúrógép"],
    "vi": ["Tiếng Việt rất đẹp, phải không?", "Đường phố Nguyễn Huệ"],
    "haw": ["ʻOkina aloha"],
    "ru": ["Привет, как дела? Ёлка", "IT-специалист купил Wi-Fi и iPhone"],
    "uk": ["Рівне — це місто. Їжак з'їв сіль", "Об’єднання"],
    "mn": ["Монгол хэл"],
    "sr": ["Добар дан, како сте?", "Dobar dan, kako ste?"],
    "uz": ["Oʻzbekiston", "Ўзбекистон"],
    "kk": ["Қайырлы таң", "Qaıyrly tań"],
    "pa": ["ਸਤ ਸ੍ਰੀ ਅਕਾਲ", "ست سری اکال"],
    "el": ["Καλημέρα, τι κάνεις;", "ΐ ΰ ά"],
    "he": ["שָׁלוֹם עוֹלָם", "צה״ל"],
    "yi": ["ייִדיש איז אַ שפּראַך"],
    "ar": ["السَّلامُ عَلَيْكُم، كيف حالك؟", "مُحَمَّدٌ رَسُولُ اللهِ"],
    "fa": ["می‌خواهم بروم"],
    "ur": ["آپ کیسے ہیں؟"],
    "hi": ["हिन्दी में, क्या आप ज़रूर आएँगे?", "धीरे धीरे वह बड़ा हुआ।", "कृ‍ष्ण"],
    "mr": ["मराठी भाषा"],
    "bn": ["আমি বাংলায় গান গাই"],
    "ta": ["வணக்கம் எப்படி இருக்கிறீர்கள்"],
    "ml": ["മലയാളം ഭാഷ"],
    "th": ["สวัสดีครับ ผมชื่อสมชาย", "น้ำใจต่าง ๆ มากมาย"],
    "lo": ["ສະບາຍດີ"],
    "km": ["សួស្តី\u200bពិភពលោក"],
    "my": ["မင်္ဂလာပါ"],
    "si": ["ආයුබෝවන්"],
    "bo": ["བཀྲ་ཤིས་བདེ་ལེགས།"],
    "am": ["ሰላም፡ እንዴት፡ ነህ።"],
    "ka": ["გამარჯობა"],
    "hy": ["Բարեւ ձեզ"],
    "zh": ["你好，世界！", "二〇二〇年", "我穿了一件T恤，去KTV。", "中國人民銀行"],
    "ja": ["カラオケへ行きましょう。", "ラーメンとＣＤ～", "人々のテーブル"],
    "ko": ["안녕하세요, 대한민국 大韓民國"],
}
FAULTY = [
    ("no-words", "de", "…!"),
    ("no-words", "hi", ""),
    ("too-many-tokens", "de", "lang " * 90),
    ("too-many-tokens", "hi", "हिन्दी " * 24),
    ("wrong-script", "cs", "Прзилиш жлутоучки"),
    ("wrong-script", "ru", "Privet, kak dela?"),
    ("wrong-script", "cs", "Подожди, крастный свет.Počkej, na semaforu svítí červená."),
    ("wrong-script", "hi", "hindi mein baat karo"),
    ("wrong-script", "zh", "ni hao shi jie"),
    ("wrong-script", "it", "la lettera α"),
    ("mixed-letters", "ru", "Привeт"),
    ("mixed-letters", "it", "cаsa"),
    ("digits", "it", "premere 4"),
    ("digits", "th", "๑๒๓ คน"),
    ("digits", "ar", "٣ كتب"),
    ("digits", "de", "Heinrich Ⅳ"),
    ("symbols", "de", "das kostet fünf €"),
    ("symbols", "en", "rock & roll"),
    ("symbols", "ja", "百％です"),
    ("symbols", "en", "fifty % off"),
    ("markup", "it", "a [@]"),
    ("markup", "de", "<b>fett</b>"),
    ("markup", "en", "rock &amp; roll"),
    ("markup", "en", "see https://example.org/x"),
    ("markup", "en", "hello <|endoftext|>"),
    ("brackets", "it", "MGCP (in inglese)"),
    ("brackets", "zh", "他走了（笑）"),
    ("quotes", "en", 'he said ""yes"" twice'),
    ("quotes", "it", '"Ciao'),
    ("normal-form", "cs", unicodedata.normalize("NFD", "Příliš")),
    ("normal-form", "vi", unicodedata.normalize("NFD", "Tiếng Việt")),
    ("normal-form", "ko", unicodedata.normalize("NFD", "안녕")),
    ("normal-form", "hi", "वह ािहिन्दी"),
    ("mojibake", "cs", "Příliš".encode().decode("latin-1")),
    ("mojibake", "fr", "c’est".encode().decode("cp1252")),
    ("mojibake", "es", "señor".encode().decode("cp1252")),
    ("mojibake", "cs", "žluťoučký".encode().decode("cp1250", errors="replace")),
    ("mojibake", "ru", "Привет".encode().decode("cp1251", errors="replace")),
    ("mojibake", "ru", "Привет".encode().decode("cp1252", errors="ignore")),
    ("mojibake", "ja", "こんにちは".encode().decode("latin-1")),
    ("mojibake", "de", "Gr\ufffdße"),
    ("mojibake", "en", "bell\x07"),
    ("repeated", "en", "no no no no"),
    ("repeated", "en", "the cat sat on the cat sat on it"),
    ("repeated", "de", "Guten Morgen guten Morgen"),
    ("repeated", "zh", "我们今天去公园我们今天去公园"),
]


def rules_found(text: str, language: str) -> dict[str, str]:
    return {rule: detail for rule, look in TEXT_RULES.items() if (detail := look(text, scripts_of(language)))}


def label(place: int, *, split="train", text="ein Satz von üblicher Länge", speaker="", **sound) -> Label:
    heard = AudioMeasurements(seconds=2.0, peak=0.5, loudness_db=-20.0, clipped=0.0, digest=f"d{place}")
    return Label(f"clip{place}", split, f"{text}", speaker or f"s{place}", replace(heard, **sound))


def usual(count=40) -> list[Label]:
    words = ["eins", "zwei", "drei", "vier", "fünf", "sechs", "sieben", "acht", "neun", "zehn", "elf", "zwölf"]
    texts = [" ".join([words[place % 12], words[place // 12], *words[: 3 + place % 7]]) for place in range(count)]
    return [
        label(place, text=text, seconds=0.5 + sum(map(str.isalpha, text)) / (14 + place % 3))
        for place, text in enumerate(texts)
    ]


def found(labels, language="de") -> dict[str, set[str]]:
    rules: dict[str, set[str]] = {}
    for finding in apply_rules(labels, scripts_of(language)):
        assert finding.rule in RULES
        rules.setdefault(finding.rule, set()).add(finding.id)
    return rules


@pytest.mark.parametrize(("language", "text"), [(code, text) for code, texts in HONEST.items() for text in texts])
def test_an_honest_text_is_not_suspicious(language, text):
    assert rules_found(text, language) == {}


@pytest.mark.parametrize(("rule", "language", "text"), FAULTY)
def test_a_faulty_text_is_found_by_its_rule(rule, language, text):
    assert rule in rules_found(text, language)


def test_every_rule_on_texts_is_described_and_tried():
    assert set(TEXT_RULES) <= set(RULES)
    assert {rule for rule, _, _ in FAULTY} == set(TEXT_RULES)


@given(text=st.text(max_size=300), language=st.sampled_from(["de", "ru", "zh", "hi", "xx"]))
@settings(max_examples=300, deadline=None)
def test_no_text_is_too_wild(text, language):
    once = rules_found(text, language)
    assert once == rules_found(text, language)
    assert all(isinstance(detail, str) for detail in once.values())


@given(text=st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Co"]), min_size=4, max_size=60))
@settings(max_examples=200, deadline=None)
def test_a_text_within_the_bound_has_no_more_tokens(base, text):
    if not TEXT_RULES["too-many-tokens"](text, frozenset()):
        assert len(base.prompt_tokens) + len(base.text_tokens(text)) + 1 <= 448


def test_the_bound_on_tokens_is_not_far_off(base):
    text = "ꙮ" * 147  # a letter that Whisper has no token for: three bytes, three tokens
    assert len(base.prompt_tokens) + len(base.text_tokens(text)) + 1 == pytest.approx(448, abs=3)
    assert not TEXT_RULES["too-many-tokens"](text, frozenset())
    assert TEXT_RULES["too-many-tokens"](text + "ꙮ", frozenset())


def test_every_language_of_whisper_has_a_script():
    from transformers.models.whisper.tokenization_whisper import LANGUAGES

    assert [code for code in LANGUAGES if not scripts_of(code)] == []


def test_scripts_of_another_language_are_those_of_its_texts():
    assert scripts_of("chv", ["Чӑваш чӗлхи", "Шупашкар хули", "ҫулталӑк пуҫламӑшӗ", "DVD"]) == {"Cyrillic"}
    assert scripts_of("chv") == frozenset()


def test_usual_utterances_are_not_suspicious():
    assert found(usual()) == {}


def test_sound_that_is_unlike_the_others_is_found():
    odd = [
        replace(label(100), sound=None),
        label(101, peak=1e-4, loudness_db=-90.0, text="eins zwei drei vier fünf sechs"),
        label(102, loudness_db=-55.0, text="zwei zwei drei vier fünf sechs"),
        label(103, clipped=0.02, text="drei zwei drei vier fünf sechs"),
        label(104, seconds=0.5, text="ein langer Satz, der in einer halben Sekunde nicht gesagt werden kann"),
        label(105, seconds=12.0, text="kurz"),
    ]
    assert found([*usual(), *odd]) == {
        "unreadable": {"clip100"},
        "silent": {"clip101"},
        "quiet": {"clip102"},
        "clipped": {"clip103"},
        "too-fast": {"clip104"},
        "too-slow": {"clip105"},
    }


def test_few_utterances_are_judged_by_absolute_bounds_alone():
    few = [label(1, seconds=0.3), label(2, seconds=2.1, text="noch einer"), label(3, seconds=30.0, text="hm")]
    assert norms_of(few) is None
    assert found(few) == {"too-fast": {"clip1"}, "too-slow": {"clip3"}}


def test_pace_allows_for_the_silence_around_a_word():
    """A word alone takes longer for each letter than a sentence, in every corpus."""
    norms = norms_of(usual())
    assert norms is not None
    assert norms.lead == pytest.approx(0.5, abs=0.2)
    assert norms.expected_seconds(45) == pytest.approx(0.5 + 45 / 15, rel=0.1)
    assert "too-slow" not in found([*usual(), label(99, text="ja", seconds=0.7)])


def test_duplicates_and_second_readings_are_told_apart():
    labels = [
        label(1, text="Der erste Satz.", speaker="a"),
        label(2, text="Der zweite Satz.", speaker="a", digest="d1"),
        label(3, text="der erste Satz", speaker="a"),
        label(4, text="Der erste Satz.", speaker="b"),  # another reader of the same prompt
        label(5, text="Ein dritter Satz.", speaker="c", split="dev"),
    ]
    assert found(labels) == {"duplicate-audio": {"clip2"}, "reread": {"clip3"}}
    details = {finding.rule: finding.detail for finding in apply_rules(labels, frozenset())}
    assert details["duplicate-audio"] == "same samples as clip1, whose text is Der erste Satz."


def test_speakers_that_are_not_known_are_not_one_speaker():
    labels = [
        replace(label(1, text="Der erste Satz."), speaker=""),
        replace(label(2, text="Der erste Satz."), speaker=""),
        replace(label(3, text="Ein anderer Satz.", split="dev"), speaker=""),
    ]
    assert found(labels) == {}


def test_what_is_measured_of_real_speech():
    waveform = speech()
    sound = measure(waveform, 16_000)
    assert sound.seconds == len(waveform) / 16_000
    assert sound.clipped < 1e-3
    assert -40 < sound.loudness_db < -5
    assert measure(np.clip(waveform * 20, -1, 1), 16_000).clipped > 0.01
    assert measure(waveform / 10, 16_000).loudness_db == pytest.approx(sound.loudness_db - 20, abs=0.1)
    assert measure(np.zeros(0, np.float32), 16_000).loudness_db == -120
