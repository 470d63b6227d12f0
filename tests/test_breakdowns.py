"""What lies behind a score: groups of speakers, words, signs of hallucination, hotwords, several seeds."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr_lora.errors import ConfigError, DataError
from asr_lora.metrics.breakdown import (
    AgainstFirst,
    Counts,
    WithheldGroups,
    WithheldSpeakers,
    find_groups,
    group_columns,
    group_rates,
    speaker_rates,
)
from asr_lora.metrics.combine import combine, families
from asr_lora.metrics.confusions import ChangedWord, Substitution, WordCount, WrongWord, changed_words, confusions
from asr_lora.metrics.hallucination import SilentUtterances, hallucination_signs, loops
from asr_lora.metrics.hotword_recall import count_hotwords, occurrences, read_hotwords
from asr_lora.metrics.intervals import _weights, rate_of, resamples
from asr_lora.metrics.normalize import find_normaliser
from asr_lora.metrics.wer import align_words, score

BASIC = find_normaliser("basic", "nl")


def rows(count: int, **fields) -> list[dict]:
    """Rows of hypotheses; a field is a value, or a function of the row's number."""
    made = {"speaker": lambda n: f"s{n % 12}", "seconds": 3.0, "gender": "", "age": "", "accent": "", "domain": ""}
    return [
        {"id": f"c{n}", **{key: value(n) if callable(value) else value for key, value in {**made, **fields}.items()}}
        for n in range(count)
    ]


def facts_of(found: list[dict], *systems: Counts) -> dict:
    groups = find_groups(found)
    sums = resamples([row["speaker"] for row in found]).draw(group_columns(groups, systems))
    return group_rates(groups, len(systems), sums)


def test_groups_hold_what_their_utterances_say():
    found = rows(60, gender=lambda n: ["female", "male"][n % 2], domain=lambda n: "news,finance" if n < 30 else "")
    edits, better = np.arange(60) % 3, np.zeros(60, int)
    facts = facts_of(found, Counts(edits, np.full(60, 4)), Counts(better, np.full(60, 4)))
    female, male = facts["gender"].groups
    assert (female.group, female.utterances, female.speakers, female.reference) == ("female", 30, 6, 120)
    assert female.rates[0].value == pytest.approx(edits[::2].sum() / 120)
    assert male.rates[0].low < male.rates[0].value < male.rates[0].high
    assert male.differences[0].value == pytest.approx(-edits[1::2].sum() / 120)
    assert male.differences[0].probability_of_improvement > 0.99
    assert [group.group for group in facts["domain"].groups] == ["news", "finance", "not stated"]
    assert [group.utterances for group in facts["domain"].groups] == [30, 30, 30]
    assert [group.group for group in facts["duration"].groups] == ["2 to 4 s"]


def test_an_interval_of_a_group_is_that_of_its_speakers_alone():
    generator = np.random.default_rng(0)
    found = rows(2000, speaker=lambda n: f"s{n % 100}", gender=lambda n: ["female", "male"][n % 2])
    lengths, edits = np.full(2000, 10), generator.binomial(10, 0.3, 2000)
    (female, _) = facts_of(found, Counts(edits, lengths))["gender"].groups
    plan = resamples([row["speaker"] for row in found[::2]])
    sums = plan.draw({"edits": edits[::2], "lengths": lengths[::2]})
    alone = rate_of(sums["edits"], sums["lengths"])
    assert female.rates[0].value == alone.value
    assert female.rates[0].low == pytest.approx(alone.low, abs=0.003)
    assert female.rates[0].high == pytest.approx(alone.high, abs=0.003)


def test_small_groups_are_withheld_and_counted():
    found = rows(
        100,
        speaker=lambda n: f"s{n % 4}" if n < 40 else f"t{n % 20}",
        accent=lambda n: "rare" if n < 40 else "common",  # 40 utterances, but four people
        seconds=lambda n: 25.0 if n < 19 else 1.0,
    )
    facts = facts_of(found, Counts(np.ones(100, int), np.full(100, 5)))
    assert [group.group for group in facts["accent"].groups] == ["common"]
    assert facts["accent"].withheld == WithheldGroups(1, 40)
    assert [group.group for group in facts["duration"].groups] == ["0 to 2 s"]
    assert facts["duration"].withheld == WithheldGroups(1, 19)


def test_durations_come_in_order_and_what_is_not_recorded_is_no_group():
    found = [{"speaker": "s", "seconds": seconds} for seconds in (30, 1, 12, 3, 7, 5)]
    groups = find_groups(found)
    assert {group.field for group in groups} == {"duration"}
    assert [group.name for group in groups] == [
        "0 to 2 s", "2 to 4 s", "4 to 6 s", "6 to 10 s", "10 to 20 s", "20 s and more",
    ]  # fmt: skip


def test_speakers_spread_and_the_hardest_ones():
    found = rows(90, speaker=lambda n: "hard" if n < 30 else "easy" if n < 60 else f"rare{n}")
    edits = np.where(np.arange(90) < 30, 3, 1)
    edits[0] = 0
    facts = speaker_rates(found, [Counts(edits, np.full(90, 6)), Counts(np.ones(90, int), np.full(90, 6))])
    assert facts.speakers == 32
    assert facts.withheld == WithheldSpeakers(30, 30)
    assert [row.speaker for row in facts.highest] == ["hard", "easy"]
    hard = facts.highest[0].rates[0]
    assert hard.value == pytest.approx(87 / 180)
    assert hard.low < hard.value < hard.high
    assert facts.against_first == [AgainstFirst(1, 0)]
    assert facts.spread[0].quartiles[0] == pytest.approx(1 / 6)


@pytest.mark.parametrize("units", [10, 26, 60, 3000])
def test_draws_are_multinomial(units):
    """Every row sums to the number of units; counts have the mean, spread and covariance of draws with replacement."""
    drawn = np.concatenate(list(_weights(units, 7))).astype(np.int16)
    assert drawn.shape == (10_000, units)
    assert (drawn.sum(axis=1) == units).all()
    assert drawn.var() == pytest.approx(1 - 1 / units, rel=0.02)
    assert (drawn == 0).mean() == pytest.approx((1 - 1 / units) ** units, rel=0.02)
    first = drawn[:, : units // 2].sum(axis=1)
    assert first.mean() == pytest.approx(units // 2, rel=0.02)
    assert first.var() == pytest.approx((units // 2) * (1 - (units // 2) / units), rel=0.06)


def test_equal_counts_are_in_the_order_of_earlier_reports():
    found = confusions(align_words(["acustico all'arrivo", "anno"], ["", "anno e l'ora"]))
    assert [row.word for row in found.deletions] == ["all'arrivo", "acustico"]
    assert [row.word for row in found.insertions] == ["l'ora", "e"]


def test_confusions_and_what_changed():
    references = ["de kat zit op de mat", "de kat slaapt"]
    before = align_words(references, ["de kar zit de mat", "de kar slaapt nu"])
    after = align_words(references, ["de kat zit op te mat", "de kat slaapt"])
    found = confusions(before)
    assert found.substitutions == [Substitution("kat", "kar", 2)]
    assert found.insertions == [WordCount("nu", 1)]
    assert found.deletions == [WordCount("op", 1)]
    assert found.words[0] == WrongWord("kat", 2, 2, [WordCount("kar", 2)])
    changed = changed_words(before, after)
    assert [(row.word, row.right_before, row.right_after) for row in changed.better] == [
        ("kat", 0, 2),
        ("op", 0, 1),
    ]
    assert changed.worse == [ChangedWord("de", 3, 3, 2)]


WORDS = st.lists(st.sampled_from(["een", "twee", "drie"]), max_size=6).map(" ".join)


@settings(deadline=None)
@given(st.lists(st.tuples(WORDS, WORDS), max_size=6))
def test_confusions_add_up_to_the_errors(pairs):
    references, hypotheses = [[pair[side] for pair in pairs] for side in (0, 1)]
    scored = score(references, hypotheses, BASIC)
    found = confusions(scored.alignments, shown=100)
    for kind in ("substitutions", "insertions", "deletions"):
        assert sum(row.count for row in getattr(found, kind)) == getattr(scored.rates, kind)
    assert sum(row.wrong for row in found.words) == scored.rates.substitutions + scored.rates.deletions


@pytest.mark.parametrize(
    ("text", "looped"),
    [
        ("nee nee", False),
        ("nee nee nee", True),
        ("ja en nee ja en nee ja en nee", True),
        ("ja en nee ja en nee ja en", False),
        ("a b c d e f g h " * 3, True),
        ("a b c d e f g h i " * 3, False),
        ("", False),
    ],
)
def test_loops(text, looped):
    assert loops(text.split()) is looped


def test_hallucination_is_measured():
    scored = score(
        ["", "...", "ja hoor", "nee nee nee", "kat"],
        ["dank voor het kijken", "", "ja ja ja ja ja ja ja hoor", "nee nee nee", ""],
        BASIC,
    )
    found = hallucination_signs(scored)
    assert found.silence == SilentUtterances(2, 1, 4)
    assert (found.loops, found.much_too_long, found.empty) == (1, 1, 1)
    assert found.insertion_rate == pytest.approx(10 / 6)
    assert found.length_ratio == pytest.approx(15 / 6)
    assert hallucination_signs(score([""], ["ja"], BASIC)).insertion_rate is None


def test_hotwords_are_counted_where_they_are_spoken(tmp_path):
    file = tmp_path / "terms.txt"
    file.write_text("# names\nJan Smit\n\nDen Haag\njan smit\nUtrecht\n", encoding="utf-8-sig")
    hotwords = read_hotwords(file, BASIC)
    assert [one.written for one in hotwords] == ["Jan Smit", "Den Haag", "Utrecht"]
    scored = score(
        ["Jan Smit en Jan Smit in Den Haag", "naar den haag", "hij heet jan"],
        ["jan smit en jan smid in den haag", "naar den hag", "hij heet jan smit"],
        BASIC,
    )
    counts = count_hotwords(hotwords, scored, characters=False)
    assert counts.spoken.sum(axis=1).tolist() == [2, 2, 0]
    assert counts.transcribed.sum(axis=1).tolist() == [2, 1, 0]
    assert counts.found.sum(axis=1).tolist() == [1, 1, 0]
    assert occurrences("今天 天气很好", "天天气", characters=True) == 1
    for text, sentence in (
        ("", "holds no hotwords"),
        ("Jan\n...\n", "line 2: the normaliser basic-2 leaves nothing of '...'"),
    ):
        file.write_text(text)
        with pytest.raises(ConfigError, match=sentence):
            read_hotwords(file, BASIC)
    file.write_bytes(b"\xff\xfe\xff")
    with pytest.raises(DataError, match="cannot be read"):
        read_hotwords(file, BASIC)
    with pytest.raises(DataError, match="cannot be read"):
        read_hotwords(tmp_path / "nowhere", BASIC)


def test_seeds_combine_to_mean_and_spread():
    names = ["untouched", "lora#1", "lora#2", "lora#3", "full#1"]
    assert families(names) == {"lora": [1, 2, 3]}
    lengths, columns = np.full(50, 10), {}
    for place, edits in enumerate((4, 2, 3, 1, 2)):
        for rate in ("wer", "cer"):
            columns[rate, place, "edits"], columns[rate, place, "lengths"] = np.full(50, edits), lengths
    (found,) = combine(names, resamples([str(n % 25) for n in range(50)]).draw(columns))
    assert found.systems == ["lora#1", "lora#2", "lora#3"]
    assert found.wer.mean == pytest.approx(0.2)
    assert found.wer.sd == pytest.approx(0.1)
    assert (found.wer.lowest, found.wer.highest) == (0.1, 0.3)
    assert found.wer.difference.value == pytest.approx(-0.2)
    assert found.wer.difference.verdict == "better"
