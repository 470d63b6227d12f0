"""Segments -> cues and files that others read back."""

import csv
import io
import json
from html import unescape
from itertools import pairwise

import pytest
import srt
import webvtt
from hypothesis import given, settings
from hypothesis import strategies as st

from asr_lora.errors import ConfigError
from asr_lora.transcription.segments import Segment, Word
from asr_lora.transcription.subtitles import Cue, SubtitleRules, display_width, make_cues, single_line
from asr_lora.transcription.writers import FORMATS

WILD = st.one_of(
    st.text(max_size=40),
    st.sampled_from([
        "-->", "a --> b", "00:00:01,000 --> 00:00:02,000", "<b>fett</b>", "</v>", "&amp; &lt;", "NOTE x", "STYLE", "1",
        "WEBVTT", "שלום עולם", "مرحبا, كيف حالك؟", "🙂👩‍👩‍👧", "{\\an8}", "a\n\nb", "a\r\nb", "\x00\x0b\x1c\u2028", "…",
        "日本語の文章です。", "é" * 90,
    ]),
)  # fmt: skip
TEXTS = st.lists(WILD, min_size=1, max_size=6).map(" ".join)


@st.composite
def segments(draw, words=None):
    """Segments in order, as files have them: they may touch, and their words may be of no length."""
    found, now = [], 0.0
    for text in draw(st.lists(TEXTS, max_size=5)):
        now += draw(st.sampled_from([0.0, 0.05, 0.5, 3.0, 4000.0]))
        end = now + draw(st.sampled_from([0.0, 0.3, 1.0, 6.0, 28.0]))
        timed = draw(st.booleans()) if words is None else words
        spoken = []
        if timed and single_line(text):
            parts = [f" {part}" for part in single_line(text).split(" ")]
            edges = sorted(draw(st.lists(st.floats(now, end), min_size=2 * len(parts), max_size=2 * len(parts))))
            spoken = [Word(edges[2 * n], edges[2 * n + 1], part) for n, part in enumerate(parts)]
        found.append(Segment(now, end, text, words=tuple(spoken)))
        now = end
    return found


def letters(text: str) -> str:
    return "".join(single_line(text).split())


@settings(max_examples=60, deadline=None)
@given(segments(), st.builds(SubtitleRules, line_length=st.integers(8, 60), lines=st.integers(1, 3)))
def test_cues_keep_their_rules_and_every_letter(found, rules):
    made = list(make_cues(found, rules))
    assert letters("".join(cue.text for cue in made)) == letters("".join(segment.text for segment in found))
    for cue in made:
        assert 0 < cue.end - cue.start <= rules.longest + 1e-9
        assert 1 <= len(cue.lines) <= rules.lines
        assert all(display_width(line) <= rules.line_length for line in cue.lines)
        assert cue.text.strip() == cue.text != ""
    for one, two in pairwise(made):
        assert two.start - one.end >= rules.gap - 0.0015  # whole milliseconds


def test_a_long_sentence_is_cut_where_it_is_read_best():
    text = "Už mi začíná být jedno, co si o mně šéf pomyslí. A ty to víš taky, protože jsi tam byl celou dobu se mnou."
    made = list(make_cues([Segment(10.0, 20.0, text)]))
    assert made == [
        Cue(10.0, pytest.approx(14.6, abs=0.3), ("Už mi začíná být jedno,", "co si o mně šéf pomyslí.")),
        Cue(pytest.approx(14.6, abs=0.3), 20.0, ("A ty to víš taky, protože jsi", "tam byl celou dobu se mnou.")),
    ]


def test_words_say_where_a_cue_begins_and_ends():
    spoken = (
        *(Word(n, n + 0.5, f" slovo{n}") for n in range(4)),
        *(Word(20 + n, 20.5 + n, f" slovo{n}") for n in range(4)),
    )
    text = "".join(word.text for word in spoken).strip()
    one, two = make_cues([Segment(0.0, 28.0, text, words=spoken)])
    assert (one.start, one.end, two.start, two.end) == (0.0, 3.5, 20.0, 23.5)


def test_short_cues_are_joined_or_stay_as_long_as_they_can():
    hurried = [Segment(0.0, 0.3, "Ano."), Segment(0.3, 0.6, "Ne."), Segment(5.0, 5.2, "Možná.")]
    joined, alone = make_cues(hurried)
    assert (joined.text, joined.end) == ("Ano. Ne.", 1.0)
    assert (alone.start, alone.end) == (5.0, 6.0)


def test_wide_characters_count_twice_and_need_no_blanks():
    made = list(make_cues([Segment(0.0, 6.0, "これは日本語の字幕です。" * 4)]))
    assert all(len(line) <= 21 for cue in made for line in cue.lines)
    assert "".join("".join(cue.lines) for cue in made) == "これは日本語の字幕です。" * 4


@settings(max_examples=60, deadline=None)
@given(segments())
def test_srt_reads_back(found):
    wanted = list(make_cues(found))
    read = list(srt.parse("".join(FORMATS["srt"](found, SubtitleRules()))))
    assert [(s.start.total_seconds(), s.end.total_seconds(), s.content) for s in read] == [
        (cue.start, cue.end, cue.text) for cue in wanted
    ]


@settings(max_examples=60, deadline=None)
@given(segments())
def test_vtt_reads_back(found):
    text = "".join(FORMATS["vtt"](found, SubtitleRules()))
    read = webvtt.from_string(text)
    assert [(c.start_in_seconds, unescape(c.raw_text)) for c in read] == [
        (int(cue.start), cue.text) for cue in make_cues(found)
    ]
    assert text.count("-->") == len(read)


@settings(max_examples=60, deadline=None)
@given(segments())
def test_tsv_and_json_read_back(found):
    rows = list(
        csv.reader(io.StringIO("".join(FORMATS["tsv"](found, SubtitleRules()))), delimiter="\t", quoting=csv.QUOTE_NONE)
    )
    assert rows[0] == ["start", "end", "text"]
    assert rows[1:] == [[str(round(1000 * s.start)), str(round(1000 * s.end)), single_line(s.text)] for s in found]
    body = json.loads("".join(FORMATS["json"](found, SubtitleRules())))
    assert [(s["start"], s["end"], s["text"]) for s in body["segments"]] == [
        (round(s.start, 3), round(s.end, 3), s.text) for s in found
    ]
    assert [[word["text"] for word in s.get("words", [])] for s in body["segments"]] == [
        [word.text for word in s.words] for s in found
    ]
    assert "".join(FORMATS["txt"](found, SubtitleRules())).count("\n") == len(found)


def test_cues_come_as_soon_as_the_next_is_known():
    def arriving():
        for number in range(3):
            yield Segment(10.0 * number, 10.0 * number + 2, f"Věta {number}.")
            seen.append(number)

    seen: list[int] = []
    first = next(FORMATS["srt"](arriving(), SubtitleRules()))
    assert "Věta 0." in first
    assert seen == [0]


def test_rules_that_cannot_be_kept_are_refused():
    with pytest.raises(ConfigError, match="--line-length must be 8"):
        SubtitleRules(line_length=3)
