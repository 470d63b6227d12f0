"""What a step learns from: planned from seed and step alone, read exactly, grouped without changing a number."""

from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asr_lora.audio.features import FULL_SECONDS, MIN_CONTEXT_SECONDS, context_seconds, frames_of
from asr_lora.config import AugmentationSettings, Context, ExampleSettings
from asr_lora.dataset.reading import read_split
from asr_lora.training.batches import IGNORED, TrainingSet
from asr_lora.training.examples import Example, ScheduleSettings, micro_batches, plain_examples, schedule
from asr_lora.training.tensor_cache import TensorCache

SECONDS = st.lists(st.floats(0.2, 30.0), min_size=1, max_size=80)
SHARES = st.builds(
    ExampleSettings,
    padded=st.sampled_from([0.0, 0.3]),
    timestamps=st.sampled_from([0.0, 0.4]),
    no_speech=st.sampled_from([0.0, 0.2]),
)


def recipe(**changes):
    plain = {"examples": ExampleSettings(padded=0)}
    return ScheduleSettings(**{"batch_seconds": 30.0, "context": Context.TRUE_LENGTH, "seed": 0, **plain, **changes})


def plan(seconds, how, steps=None):
    return list(islice(schedule(seconds, [10] * len(seconds), how), steps))


def epoch(seconds, how):
    """The steps that hold as many examples as there are utterances, which is an epoch of plain ones."""
    steps, seen = [], 0
    for step in schedule(seconds, [10] * len(seconds), how):
        steps.append(step)
        seen += sum(len(example.utterances) for example in step)
        if seen >= len(seconds):
            return steps
    return steps


@given(SECONDS, st.floats(5.0, 120.0), st.sampled_from(list(Context)), SHARES, st.integers(0, 3))
def test_each_epoch_holds_every_utterance_once(seconds, batch_seconds, context, shares, seed):
    how = recipe(batch_seconds=batch_seconds, context=context, examples=shares, seed=seed)
    steps = epoch(seconds, how)
    assert sorted(i for step in steps for example in step for i in example.utterances) == list(range(len(seconds)))
    for step in steps:
        for example in step:
            assert example.seconds <= FULL_SECONDS + 1e-6
            assert min(example.seconds, FULL_SECONDS) <= example.context <= FULL_SECONDS
            assert example.context >= MIN_CONTEXT_SECONDS
            assert example.timestamps or len(example.utterances) <= 1
        # Short tails and padding count towards the size of a step; long tails do not.
        longest = max(context_seconds(example.seconds, context) for example in step)
        assert len(step) == 1 or len(step) * longest <= batch_seconds + 1e-6


@given(SECONDS, st.integers(0, 30), SHARES, st.integers(0, 3))
def test_the_order_can_be_taken_up_anywhere(seconds, done, shares, seed):
    how = recipe(examples=shares, seed=seed, augmentation=AugmentationSettings(speeds=(0.9, 1.0, 1.1)))
    assert (
        list(islice(schedule(seconds, [10] * len(seconds), how), done, done + 5)) == plan(seconds, how, done + 5)[done:]
    )


@given(SECONDS, SHARES, st.floats(3.0, 60.0), st.integers(1, 4))
def test_grouping_changes_no_example(seconds, shares, micro_seconds, world_size):
    for step in plan(seconds, recipe(examples=shares), 4):
        groups = [micro_batches(step, micro_seconds, rank=rank, world_size=world_size) for rank in range(world_size)]
        flat = [example for share in groups for batch in share for example in batch]
        assert sorted(flat, key=lambda example: example.seed) == sorted(step, key=lambda example: example.seed)
        counts = [sum(len(batch) for batch in share) for share in groups]
        assert max(counts) - min(counts) <= 1
        for batch in (batch for share in groups for batch in share):
            assert len({example.context for example in batch}) == 1
            assert len(batch) == 1 or len(batch) * batch[0].context <= micro_seconds + 1e-3


def test_a_step_without_padded_examples_is_one_micro_batch():
    for step in plan([4.0 + 0.01 * n for n in range(200)], recipe(batch_seconds=40.0), 20):
        assert len(micro_batches(step, 40.0)) == 1


def test_shares_are_what_was_asked():
    seconds = [4.0] * 400
    steps = epoch(seconds, recipe(examples=ExampleSettings(padded=0.25, timestamps=0.2, no_speech=0.05)))
    examples = [example for step in steps for example in step]
    timed = sum(len(example.utterances) for example in examples if example.timestamps)
    assert timed == 80
    assert sum(not example.utterances for example in examples) <= 20
    tails = sum(example.context == FULL_SECONDS and example.seconds < 29 for example in examples)
    assert 0.15 * len(examples) < tails < 0.35 * len(examples)


@pytest.fixture(scope="module")
def split(demo_dataset):
    return read_split(demo_dataset, "train")


def test_features_of_a_step_are_those_of_the_extractor(base, split):
    from transformers import WhisperFeatureExtractor

    data = TrainingSet(split, base)
    step = plan(data.seconds, recipe(), 1)[0]
    for examples in micro_batches(step, 30.0):
        batch = data[examples]
        assert batch.features.shape == (len(examples), 80, frames_of(examples[0].context))
        for example, mel in zip(examples, batch.features, strict=True):
            waveform = split.waveform(example.utterances[0])
            theirs = WhisperFeatureExtractor()(waveform, sampling_rate=16_000, return_tensors="pt").input_features[0]
            assert torch.allclose(mel, theirs[:, : mel.shape[1]], atol=1e-5)


def test_timed_targets_say_when_each_utterance_was_said(base, split):
    data = TrainingSet(split, base, examples=ExampleSettings(timestamps=0.5))
    example = Example((3, 5, 8), sum(data.seconds[i] for i in (3, 5, 8)) + 1.0, 20.0, seed=1, timestamps=True)
    given, answers = data.target(example)
    assert given[:3] == base.prompt_tokens[:3]
    zero = base.tokenizer.convert_tokens_to_ids("<|notimestamps|>") + 1
    times = [(token - zero) * 0.02 for token in given[3:] if token >= zero]
    assert base.tokenizer.decode([token for token in given[3:] if token < zero]) == "".join(
        f" {split.texts[i].strip()}" for i in (3, 5, 8)
    )
    assert given[3] == zero
    assert len(times) == 6
    assert [label for label in answers if label != IGNORED] == [*given[3:], base.end_token]
    waveform = data._waveform(example)
    for index, start, end in zip((3, 5, 8), times[::2], times[1::2], strict=True):
        assert end - start == pytest.approx(data.seconds[index], abs=0.021)
        piece = split.waveform(index)
        place = round(start * 16_000)
        # A timestamp is snapped to 0.02 s, so the sound begins within 320 samples of it.
        found = [np.allclose(waveform[s : s + len(piece)], piece) for s in range(max(0, place - 320), place + 321)]
        assert any(found)


def test_no_speech_is_answered_by_the_no_speech_token_alone(base, split):
    data = TrainingSet(split, base, examples=ExampleSettings(no_speech=0.1))
    given, answers = data.target(Example((), 4.0, 4.5, seed=1))
    assert given == base.prompt_tokens
    assert base.tokenizer.convert_ids_to_tokens(answers[0]) in ("<|nospeech|>", "<|nocaptions|>")
    assert answers[1:] == [IGNORED, IGNORED, base.end_token]
    # Speech must then answer otherwise at that place, or the token would always be said.
    given, answers = data.target(Example((0,), 4.0, 4.5, seed=1))
    assert answers[0] == base.prompt_tokens[1]
    plain = TrainingSet(split, base).target(Example((0,), 4.0, 4.5, seed=1))
    assert plain[1][0] == IGNORED


def test_log_mels_from_the_cache_are_those_computed_to_half_precision(base, split, tmp_path, monkeypatch):
    monkeypatch.setenv("ASR_LORA_CACHE", str(tmp_path))
    data, cached = TrainingSet(split, base), TrainingSet(split, base)
    cached.features_cache = TensorCache(1e9, "test")
    for context in (8.0, 12.0, 30.0):  # the first fills the cache with less than the others want
        example = [Example((0,), data.seconds[0], context, seed=0)]
        want, got = data[example].features, cached[example].features
        assert got.shape == want.shape
        assert torch.allclose(got, want, atol=2e-3)
        assert torch.equal(cached[example].features, got)
    full = TensorCache(10.0, "small")
    full.put("a", torch.zeros(100))
    assert full.get("a") is None
    damaged = cached.features_cache._file(split.ids[0])
    damaged.write_bytes(b"half a file")
    assert torch.allclose(cached[example].features, want, atol=2e-3)


def test_a_frozen_encoder_is_heard_from_the_cache_as_it_would_be_run(base, split, tmp_path, monkeypatch):
    from asr_lora.system.processes import ProcessGroup
    from asr_lora.training.learner import Learner, keep_encoder_outputs

    monkeypatch.setenv("ASR_LORA_CACHE", str(tmp_path))
    data = TrainingSet(split.select(range(6)), base)
    learner = Learner(base, ProcessGroup(0, 1, torch.device("cpu")), torch.float32)
    how = recipe(own_context=True)
    step = plan(data.seconds, how, 1)[0]
    run = [float(learner.loss(data[examples]).detach()) for examples in micro_batches(step, 30.0)]
    data.encoder_cache = TensorCache(1e9, "states")
    keep_encoder_outputs(data, learner, batch_seconds=30.0)
    batches = [data[examples] for examples in micro_batches(step, 30.0)]
    assert all(batch.features is None for batch in batches)
    heard = [float(learner.loss(batch).detach()) for batch in batches]
    assert heard == pytest.approx(run, rel=1e-4)
    assert {example.context for example in plain_examples(data.seconds)} >= {example.context for example in step}


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**63 - 1), st.sampled_from([0.9, 1.0, 1.1]), st.floats(0.0, 20.0))
def test_augmentation_follows_from_its_seed(seed, speed, gain):
    from asr_lora.audio.augment import augment_waveform

    waveform = (0.1 * np.sin(np.arange(16_000) * 0.1)).astype(np.float32)
    how = AugmentationSettings(gain_db=gain)
    one, two = (augment_waveform(waveform, speed, how, seed) for _ in range(2))
    assert np.array_equal(one, two)
    assert len(one) == pytest.approx(16_000 / speed, abs=2)
    assert one.dtype == np.float32
    assert np.abs(one).max() <= 1.0


def test_noise_is_added_at_the_ratio_asked():
    import random

    from asr_lora.audio.augment import add_noise

    generator = np.random.default_rng(0)
    speech = generator.standard_normal(48_000).astype(np.float32)
    noise = 0.01 * generator.standard_normal(16_000).astype(np.float32)
    mixed = add_noise(speech, noise, 10.0, random.Random(0))
    added = mixed - speech
    assert 10 * np.log10(np.mean(speech**2) / np.mean(added**2)) == pytest.approx(10.0, abs=0.2)


def test_rooms_and_noise_come_from_the_users_folders(tmp_path, base, split):
    from conftest import write_wav

    from asr_lora.audio.augment import augment_waveform
    from asr_lora.errors import ConfigError

    room = np.zeros(8000, dtype=np.float32)
    room[100], room[1700] = 0.9, 0.5
    write_wav(tmp_path / "rooms" / "hall.wav", room)
    write_wav(tmp_path / "noise" / "street.wav", np.random.default_rng(0).normal(0, 0.1, 16_000))
    waveform = split.waveform(0)
    for how in (AugmentationSettings(reverb=tmp_path / "rooms"), AugmentationSettings(noise=tmp_path / "noise")):
        changed = augment_waveform(waveform, 1.0, how, 3)
        assert changed.shape == waveform.shape
        assert not np.allclose(changed, waveform)
        # What was said is still there.
        assert np.corrcoef(changed, waveform)[0, 1] > 0.7
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"augmentation.noise: .* holds no audio"):
        augment_waveform(waveform, 1.0, AugmentationSettings(noise=tmp_path / "empty"), 3)


def test_masks_cover_sound_only_and_are_as_many_as_asked():
    from asr_lora.audio.augment import mask_features

    features = torch.randn(80, 1000)
    masked = mask_features(features, 600, AugmentationSettings(time_masks=2, frequency_masks=2), seed=5)
    assert torch.equal(masked[:, 600:], features[:, 600:])
    assert not torch.equal(masked[:, :600], features[:, :600])
    assert torch.equal(masked, mask_features(features, 600, AugmentationSettings(time_masks=2, frequency_masks=2), 5))
    changed = (masked != features).float()
    assert changed[:, :600].all(dim=0).sum() <= 2 * 30  # two masks of up to 5 % of 600 frames
    assert mask_features(features, 600, AugmentationSettings(), seed=5) is features
