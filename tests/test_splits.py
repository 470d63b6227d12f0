"""Nested low-data subsets: the same everywhere, within their length, no speaker and no gender favoured."""

import hashlib
import os
import subprocess
import sys
from collections import Counter, defaultdict
from itertools import pairwise

import pytest
from conftest import DEMO
from hypothesis import given, settings
from hypothesis import strategies as st

from asr_lora import prepare
from asr_lora.dataset.subsets import (
    IdList,
    UtteranceFacts,
    find_listed,
    nested_subsets,
    read_id_list,
    subset_seconds,
    subset_seed,
)
from asr_lora.dataset.summary import facts_table, gender_shortfall, subset_notices, summarise
from asr_lora.errors import ConfigError, DataError
from asr_lora.folders.digests import sha256_file

NAMES = ["5min", "10s", "2min", "1h", "2min@7", "10s@7"]
LONGEST = 20.0
CLIP = st.builds(
    UtteranceFacts,
    st.text(min_size=1, max_size=5),
    st.sampled_from(["", *"abcdefgh"]),
    st.floats(0.5, LONGEST),
    st.sampled_from(["", "female", "male", "other"]),
)
CLIPS = st.sampled_from([0, 25, 60]).flatmap(
    lambda few: st.lists(CLIP, min_size=few, max_size=2 * few + 5, unique_by=lambda clip: clip.id)
)
CAPS = st.none() | st.floats(5.0, 90.0)


def seconds_by(clips, chosen, column):
    sums = defaultdict(float)
    for clip in clips:
        if clip.id in chosen:
            sums[getattr(clip, column)] += clip.seconds
    return sums


@given(clips=CLIPS, seed=st.integers(0, 5), cap=CAPS, order=st.randoms(use_true_random=False))
def test_nested_within_length_and_independent_of_order(clips, seed, cap, order):
    subsets = nested_subsets(clips, NAMES, seed=seed, speaker_cap=cap)
    assert sorted([*subsets.ids, *subsets.left_out]) == sorted(NAMES)
    seconds = {clip.id: clip.seconds for clip in clips}
    for drawn in (seed, 7):
        ladder = [ids for name, ids in subsets.ids.items() if subset_seed(name, seed) == drawn]
        for smaller, larger in pairwise(ladder):
            assert larger[: len(smaller)] == smaller
    for name, ids in subsets.ids.items():
        length = sum(seconds[clip] for clip in ids)
        assert subset_seconds(name) - LONGEST < length <= subset_seconds(name) + 1e-6  # a clip more would be too long
        assert len(set(ids)) == len(ids)
    for name, given_seconds in subsets.left_out.items():
        assert given_seconds <= subset_seconds(name) + 1e-3
        if cap is None:
            assert given_seconds == pytest.approx(sum(seconds.values()), abs=1e-3)
    shuffled = list(clips)
    order.shuffle(shuffled)
    assert nested_subsets(shuffled, NAMES[::-1], seed=seed, speaker_cap=cap) == subsets


@pytest.mark.slow
@given(clips=CLIPS, cap=st.floats(5.0, 90.0))
def test_the_cap_holds_and_what_it_leaves_out_could_not_be_filled(clips, cap):
    subsets = nested_subsets(clips, NAMES, speaker_cap=cap)
    for ids in subsets.ids.values():
        heard = seconds_by(clips, set(ids), "speaker")
        heard.pop("", None)
        assert max(heard.values(), default=0) <= cap + 1e-6
    sums = seconds_by(clips, {clip.id for clip in clips}, "speaker")
    unknown = sums.pop("", 0.0)
    for given_seconds in subsets.left_out.values():
        assert given_seconds <= unknown + sum(min(cap, total) for total in sums.values()) + 1e-3
        assert given_seconds >= unknown + sum(min(cap - LONGEST, total) for total in sums.values()) - 1e-3


@given(clips=CLIPS, cap=CAPS)
def test_genders_are_as_even_as_train_allows(clips, cap):
    """Uneven by more than one clip only where the scarcer gender has nothing more to give."""
    subsets = nested_subsets(clips, NAMES, speaker_cap=cap)
    for ids in subsets.ids.values():
        chosen = set(ids)
        genders = seconds_by(clips, chosen, "gender")
        scarce = min(("female", "male"), key=lambda gender: genders[gender])
        if abs(genders["female"] - genders["male"]) <= LONGEST:
            continue
        speakers = seconds_by(clips, chosen, "speaker")
        for speaker in {clip.speaker for clip in clips}:
            waiting = [c.seconds for c in clips if (c.speaker, c.gender) == (speaker, scarce) and c.id not in chosen]
            assert not waiting or (speaker and cap is not None and speakers[speaker] + max(waiting) > cap - 1e-6)


def test_speakers_are_heard_equally():
    clips = [
        UtteranceFacts(f"{who}{n}", who, 4.0) for who, many in (("a", 500), ("b", 40), ("c", 40)) for n in range(many)
    ]
    (ids,) = nested_subsets(clips, ["7min"]).ids.values()
    assert Counter(clip[0] for clip in ids) == {"a": 35, "b": 35, "c": 35}


def test_women_and_men_are_heard_equally_and_unlabelled_speech_keeps_its_share():
    genders = {"f": "female", "m": "male", "u": ""}
    many = {"f": 100, "m": 700, "u": 200}
    clips = [UtteranceFacts(f"{who}{n}", f"{who}{n % 10}", 4.0, genders[who]) for who in many for n in range(many[who])]
    (ids,) = nested_subsets(clips, ["10min"]).ids.values()
    assert Counter(clip[0] for clip in ids) == {"f": 60, "m": 60, "u": 30}
    (ids,) = nested_subsets(clips, ["30min"]).ids.values()  # more than there is of women: men fill it
    heard = Counter(clip[0] for clip in ids)
    assert heard["f"] == 100
    assert heard["m"] + heard["u"] == 350
    facts = summarise(clip._replace(characters=50) for clip in clips if clip.id in set(ids))
    scarce, shortfall = gender_shortfall(facts["seconds_by_gender"])
    assert (scarce, shortfall) == ("female", 4.0 * (heard["m"] - 100) / 2)


def test_a_speaker_whose_label_changes_is_one_speaker():
    clips = [UtteranceFacts(f"{n}", "one", 10.0, ("female", "")[n % 2]) for n in range(20)]
    clips += [UtteranceFacts(f"x{n}", f"other{n}", 10.0, "female") for n in range(30)]
    (ids,) = nested_subsets(clips, ["2min"], speaker_cap=20.0).ids.values()
    assert sum(1 for clip in ids if not clip.startswith("x")) <= 2


def test_a_length_that_the_cap_cannot_fill_is_left_out():
    clips = [UtteranceFacts(f"{n}", f"s{n % 3}", 5.0) for n in range(300)]
    subsets = nested_subsets(clips, ["1min", "10min"], speaker_cap=60.0)
    assert list(subsets.ids) == ["1min"]
    assert subsets.left_out == {"10min": 180.0}
    with pytest.raises(ConfigError, match="write the most seconds of one speaker"):
        nested_subsets(clips, ["1min"], speaker_cap=0.0)


def test_other_seed_other_choice():
    clips = [UtteranceFacts(str(n), str(n % 7), 3.0) for n in range(300)]
    subsets = nested_subsets(clips, ["2min", "2min@0", "2min@1"]).ids
    assert subsets["2min"] == subsets["2min@0"] != subsets["2min@1"]
    assert nested_subsets(clips, ["2min"], seed=1).ids["2min"] == subsets["2min@1"]


def test_the_same_in_any_process():
    code = (
        "from asr_lora.dataset.subsets import *;"
        "genders = ('female', 'male', '');"
        "clips = [UtteranceFacts(f'c{i}', f's{i % 9}', 2.0 + i % 5, genders[i % 3]) for i in range(400)];"
        "print(nested_subsets(clips, ['2min', '10min', '10min@4'], seed=3, speaker_cap=100).ids)"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("0", "1", "42")
    }
    assert len(outputs) == 1


def test_the_choice_of_today_is_that_of_tomorrow():
    """Published id lists depend on it: a change here is a change of every published subset."""
    clips = [
        UtteranceFacts(f"clip_{n}", f"speaker_{n % 11}", 2.0 + n % 7, ("female", "male", "")[n % 3]) for n in range(400)
    ]
    subsets = nested_subsets(clips, ["1min", "1min@1"]).ids
    digests = {name: hashlib.sha256("\n".join(ids).encode()).hexdigest()[:16] for name, ids in subsets.items()}
    assert digests == {"1min": "633c1646fca27230", "1min@1": "1b0f8291496f3477"}


@pytest.mark.parametrize("name", ["1", "h", "1 h", "-1h", "0min", "1hour", "", "1h@", "1h@-1", "1h@x", "١h", "1e3s"])
def test_names_that_are_no_length(name):
    with pytest.raises(ConfigError, match="write a length such as"):
        subset_seconds(name)


@given(name=st.text() | st.from_regex(r"[0-9.]+(s|min|h)(@[0-9]+)?", fullmatch=True))
@settings(max_examples=200)
def test_any_name_is_a_length_or_refused(name):
    try:
        assert subset_seconds(name) > 0
        assert subset_seed(name) >= 0
    except ConfigError as error:
        assert repr(name) in str(error)


def test_lengths():
    names = ("10s", "10min", "1h", "0.5h", "0.5h@12")
    assert [subset_seconds(name) for name in names] == [10.0, 600.0, 3600.0, 1800.0, 1800.0]
    assert [subset_seed(name, 3) for name in names] == [3, 3, 3, 3, 12]


def test_id_lists(tmp_path):
    path = tmp_path / "mls-1h.txt"
    path.write_text("\ufeff# from the paper\na\n\nclips/b.mp3\nb  # again\r\nnowhere\n", encoding="utf-8")
    listed = read_id_list(path)
    assert listed == IdList("mls-1h", ("a", "clips/b.mp3", "b", "nowhere"))
    found = find_listed([listed], {"a", "b", "c"})
    assert found.ids == {"mls-1h": ["a", "b"]}
    assert found.missing == {"mls-1h": ["nowhere"]}
    with pytest.raises(DataError, match="none of its 4 ids is in train, such as 'a'"):
        find_listed([listed], {"c"})
    with pytest.raises(ConfigError, match="two id lists"):
        find_listed([listed, listed], {"a"})


@pytest.mark.parametrize(("name", "content", "sentence"), [
    ("1h.txt", b"a", "a subset cannot be called"),
    ("all.txt", b"a", "a subset cannot be called"),
    ("my list.txt", b"a", "a subset cannot be called"),
    ("x.txt", b"\xff\xfe", "cannot be read as a list"),
    ("y.txt", b"# nothing\n", "has no ids"),
    ("gone.txt", None, "cannot be read as a list"),
])  # fmt: skip
def test_id_lists_that_are_none(tmp_path, name, content, sentence):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=sentence):
        read_id_list(path)


@given(content=st.binary(max_size=200))
def test_any_id_list_is_read_or_refused(content, tmp_path_factory):
    path = tmp_path_factory.mktemp("lists") / "x.txt"
    path.write_bytes(content)
    try:
        assert all(clip.strip() for clip in read_id_list(path).ids)
    except ConfigError as error:
        assert str(path) in str(error)


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """The demo with a seeded subset, and another's list of one known, one known by its clip, one unknown id."""
    folder = tmp_path_factory.mktemp("published")
    rows = (DEMO / "cv-corpus-17.0-2024-03-15" / "it" / "train.tsv").read_text(encoding="utf-8").splitlines()[1:3]
    one, two = (row.split("\t")[1] for row in rows)
    (folder / "theirs.txt").write_text(f"{two}\n{one.removesuffix('.mp3')}\ncommon_voice_it_0\n")
    made = prepare(
        DEMO, language="it", out=folder / "out", subsets=["1min", "1min@5", "190s", "1h"], speaker_cap=5.0,
        id_lists=[folder / "theirs.txt"],
    )  # fmt: skip
    return made, folder, [two.removesuffix(".mp3"), one.removesuffix(".mp3")]


def test_what_prepare_says_of_subsets(published):
    folder, _, theirs = published
    body = folder.read_json()
    assert body["subsets"]["1min@5"]["seed"] == 5
    assert body["subsets"]["1min"]["seed"] == 0
    assert folder.subset_ids("theirs") == theirs
    assert body["subsets"]["theirs"]["missing"] == 1
    assert folder.missing_ids("theirs").read_text() == "common_voice_it_0\n"
    assert body["speaker_cap_seconds"] == 5.0
    assert set(body["subsets_left_out"]) == {"190s", "1h"}
    for name, facts in body["subsets"].items():
        assert facts["sha256"] == sha256_file(folder.subset(name))
        assert facts["characters_per_second"] == pytest.approx(facts["characters"] / facts["hours"] / 3600, rel=0.02)
        if name != "theirs":
            assert facts["seconds_of_most_heard_speaker"] <= 5.0
    table = facts_table(folder.read())
    assert all(name in table for name in ("train", "dev", "test", "1min@5", "theirs"))
    notices = " ".join(subset_notices(folder.read()))
    assert "1 ids of its list are not in train (common_voice_it_0)" in notices
    assert "subset 190s was not made: with at most 5 s of each speaker, train has only" in notices
    assert "(train is too short for the subsets 1h)" in table


def test_others_get_the_same_subset_from_the_published_list(published, tmp_path):
    folder, _, _ = published
    listed = tmp_path / "published.txt"
    listed.write_bytes(folder.subset("1min").read_bytes())
    again = prepare(DEMO, language="it", out=tmp_path / "again", subsets=[], id_lists=[listed]).read().subsets
    assert list(again) == ["published"]
    assert again["published"].sha256 == folder.read().subsets["1min"].sha256


def test_facts_of_nothing():
    facts = summarise([])
    assert (facts["utterances"], facts["hours"], facts["characters_per_second"]) == (0, 0.0, 0.0)
