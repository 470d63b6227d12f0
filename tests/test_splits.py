"""Nested low-data subsets: the same everywhere, within their length, no speaker favoured."""

import os
import subprocess
import sys
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr_lora.audio.splits import nested_subsets, subset_seconds
from asr_lora.errors import ConfigError

CLIPS = st.lists(
    st.tuples(st.integers(0, 10_000), st.sampled_from("abcdefgh"), st.floats(0.5, 20.0)),
    max_size=120, unique_by=lambda clip: clip[0],
).map(lambda clips: [(str(clip), speaker, seconds) for clip, speaker, seconds in clips])  # fmt: skip


@given(clips=CLIPS, seed=st.integers(0, 5), order=st.randoms(use_true_random=False))
def test_nested_within_length_and_independent_of_order(clips, seed, order):
    names = ["5min", "10s", "2min", "1h"]
    subsets = nested_subsets(clips, names, seed=seed)
    total, seconds = sum(clip[2] for clip in clips), {clip[0]: clip[2] for clip in clips}
    assert list(subsets) == [name for name in ("10s", "2min", "5min", "1h") if subset_seconds(name) < total]
    ladder = list(subsets.values())
    for smaller, larger in pairwise(ladder):
        assert larger[: len(smaller)] == smaller
    for name, ids in subsets.items():
        length = sum(seconds[clip] for clip in ids)
        assert length <= subset_seconds(name) + 1e-6
        assert length > subset_seconds(name) - 20.0  # a clip more would be too long
        assert len(set(ids)) == len(ids)
    shuffled = list(clips)
    order.shuffle(shuffled)
    assert nested_subsets(shuffled, names, seed=seed) == subsets


def test_speakers_are_heard_equally():
    clips = [
        (f"{speaker}{n}", speaker, 4.0) for speaker, many in (("a", 500), ("b", 40), ("c", 40)) for n in range(many)
    ]
    (ids,) = nested_subsets(clips, ["7min"]).values()
    assert Counter(clip[0] for clip in ids) == {"a": 35, "b": 35, "c": 35}


def test_other_seed_other_choice():
    clips = [(str(n), str(n % 7), 3.0) for n in range(300)]
    assert nested_subsets(clips, ["2min"], seed=0) != nested_subsets(clips, ["2min"], seed=1)


def test_the_same_in_any_process():
    code = (
        "from asr_lora.audio.splits import nested_subsets as n;"
        "print(n([(f'c{i}', f's{i % 9}', 2.0 + i % 5) for i in range(400)], ['2min', '10min'], seed=3))"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("0", "1", "42")
    }
    assert len(outputs) == 1


@pytest.mark.parametrize("name", ["1", "h", "1 h", "-1h", "0min", "1hour", ""])
def test_names_that_are_no_length(name):
    with pytest.raises(ConfigError, match="write a length such as"):
        subset_seconds(name)


def test_lengths():
    assert [subset_seconds(name) for name in ("10s", "10min", "1h", "0.5h")] == [10.0, 600.0, 3600.0, 1800.0]
