"""The matched-pairs test: figures that NIST's sc_stats gives, on its own test and on alignments made here."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr_lora.metrics.mapsswe import matched_pairs, segments
from asr_lora.metrics.wer import Step, align_words

# The alignments of SCTK's own test of sc_stats (src/sclite/testdata, tests 1a and 1b), an operation a letter.
PUBLISHED = {"itmono_8": ["I", "CDSCSSSCCDCII"], "itword_20": ["", "CDSCSSSCCSS"]}


def steps(operations: str) -> list[Step]:
    """An alignment from letters: correct, substituted, deleted, inserted."""
    made = {"C": Step("w", "w"), "S": Step("w", "x"), "D": Step("w", None), "I": Step(None, "x")}
    return [made[letter] for letter in operations]


@pytest.mark.parametrize(("a", "b", "sign"), [("itmono_8", "itword_20", 1), ("itword_20", "itmono_8", -1)])
def test_figures_of_sctk(a, b, sign):
    found = matched_pairs(*([steps(operations) for operations in PUBLISHED[name]] for name in (a, b)))
    errors = {"itmono_8": 9, "itword_20": 7}
    assert (found.segments, found.reference, found.errors_a, found.errors_b) == (3, 13, errors[a], errors[b])
    assert (round(-found.mean, 3), round(found.deviation, 3), round(-found.z, 3)) == (sign * 0.667, 0.577, sign * 2.0)
    assert found.verdict == ("better" if sign > 0 else "worse")


def wandering(seed: int) -> tuple[list[list[Step]], list[list[Step]]]:
    """Alignments of two systems on 40 utterances, the same on every machine."""
    state = seed

    def draw(size: int) -> int:
        nonlocal state
        state = (1_103_515_245 * state + 12_345) % 2**31
        return state // 2**16 % size

    sides: tuple[list[list[Step]], list[list[Step]]] = ([], [])
    for _ in range(40):
        length = draw(15)
        for side, ease in zip(sides, (9, 14), strict=True):
            letters = "".join(("CSDI" + "C" * ease)[draw(4 + ease)] for _ in range(2 * length))
            spoken = [place for place, letter in enumerate(letters) if letter != "I"][:length]
            end = spoken[-1] + 1 if len(spoken) == length and length else 0
            side.append(steps(letters[:end] + "I" * draw(2)) if end else steps("C" * length + "I" * draw(3)))
    return sides


@pytest.mark.parametrize(
    ("seed", "counts", "figures"),
    [
        (1, (73, 291, 78, 80), (-0.027, 1.563, -0.150)),
        (2, (69, 250, 65, 74), (-0.130, 1.236, -0.877)),
        (3, (85, 315, 103, 65), (0.447, 1.367, 3.015)),
    ],
)
def test_figures_of_sc_stats_on_made_up_systems(seed, counts, figures):
    """`wandering(seed)` as SGML through `sc_stats -t mapsswe` 1.3, built from SCTK: its totals, mean, deviation, Z."""
    found = matched_pairs(*wandering(seed))
    assert (found.segments, found.reference, found.errors_a, found.errors_b) == counts
    assert (round(-found.mean, 3), round(found.deviation, 3), round(-found.z, 3)) == figures
    assert found.verdict == ("better" if figures[2] > 1.96 else "not distinguishable")


@given(st.integers(1, 10**6))
@settings(max_examples=30)
def test_every_error_is_in_one_segment(seed):
    for a, b in zip(*wandering(seed), strict=True):
        found = segments(a, b)
        for place, side in enumerate((a, b)):
            assert sum(part[place] for part in found) == sum(step.kind != "equal" for step in side)
        assert all(part.errors_a + part.errors_b > 0 for part in found)


@given(st.integers(1, 10**6))
@settings(max_examples=30)
def test_the_other_way_round_is_the_other_sign(seed):
    a, b = wandering(seed)
    one, other = matched_pairs(a, b), matched_pairs(b, a)
    assert (one.z, one.p, one.segments) == pytest.approx((-other.z, other.p, other.segments))
    assert matched_pairs(a, a).z == 0.0


def test_two_correct_words_part_segments_and_one_does_not():
    assert [part[:2] for part in segments(steps("SCCS"), steps("CCCC"))] == [(1, 0), (1, 0)]
    assert [part[:2] for part in segments(steps("SCSC"), steps("CCCC"))] == [(2, 0)]
    assert [part[:2] for part in segments(steps("SCICS"), steps("CCCC"))] == [(3, 0)]
    assert segments(steps("CCC"), steps("CCC")) == []


def test_nothing_to_tell_and_two_utterances():
    none = matched_pairs([], [])
    assert (none.segments, none.z, none.p, none.verdict) == (0, 0.0, 1.0, "not distinguishable")
    with pytest.raises(ValueError, match="of two utterances"):
        segments(steps("CC"), steps("C"))


def test_words_are_compared_by_their_alignment():
    references = ["een twee drie vier vijf zes"] * 30
    good = align_words(references, references)
    poor = align_words(references, ["een twee x vier vijf zes", "twee drie vier y zes"] * 15)
    found = matched_pairs(poor, good)
    assert (found.verdict, found.segments, found.errors_a, found.errors_b) == ("better", 45, 45, 0)
    assert (found.deviation, found.z) == (0.0, 0.0)  # one error in each: nothing for sc_stats to divide by
    assert found.p == pytest.approx(2 * 0.5**45)
