"""What lies between a window and its segments: trust, times of words, adapters, hotwords; audio through ffmpeg."""

import io
import shutil
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from itertools import pairwise
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from conftest import DEMO, attach, speech, write_wav
from hypothesis import given, settings
from hypothesis import strategies as st

from asr_lora.audio.decode import AudioBlocks, decode, decode_blocks
from asr_lora.config import AdapterSettings, Context
from asr_lora.decoding import fallback
from asr_lora.decoding.decoding_options import FALLBACK_TEMPERATURES, DecodingOptions
from asr_lora.decoding.engine import EncodedWindows, TorchEngine
from asr_lora.decoding.fallback import recognise_windows
from asr_lora.decoding.hotwords import HotwordBoost
from asr_lora.decoding.hypothesis import Hypothesis
from asr_lora.decoding.search import encode_batch, search
from asr_lora.decoding.word_times import path_times, split_words
from asr_lora.errors import AudioError, ConfigError
from asr_lora.language import ForcedPrompt
from asr_lora.metrics.normalize import basic
from asr_lora.model.adapters.files import save_weights
from asr_lora.model.adapters.multi_lora import BASE as UNTOUCHED
from asr_lora.model.adapters.multi_lora import load_adapters, using_adapters
from asr_lora.model.find_model import AdapterSelection, selection_of
from asr_lora.model.whisper import evaluating, load_whisper
from asr_lora.transcription.inputs import find_inputs, open_input
from asr_lora.transcription.longform import Window
from asr_lora.transcription.recognise import SelectedWindow, shorten_pauses, transcribe_windows
from asr_lora.transcription.routes import FOLDER, LANGUAGE, make_routes
from asr_lora.transcription.sequential import transcribe_in_sequence
from asr_lora.transcription.transcriber import Transcriber

CLIPS = sorted((DEMO / "cv-corpus-17.0-2024-03-15" / "it" / "clips").iterdir())


@pytest.fixture(scope="module")
def tiny(tiny_folder):
    return load_whisper(str(tiny_folder), ForcedPrompt("it"))


@pytest.fixture(scope="module")
def states(tiny):
    with evaluating(tiny.model):
        return encode_batch(tiny, [speech(2.0), speech(2.5)[::-1].copy(), speech(1.0) * 0.1], 300)


# Trust.


@pytest.mark.parametrize("beams", [1, 2])
def test_confidence_is_the_mean_log_probability_of_what_was_written(tiny, states, beams):
    """Held against one forward pass over the finished text, without any processor."""
    prompts = torch.tensor([tiny.prompt_tokens] * 3)
    settings_ = tiny.core.generation_config
    kept = settings_.suppress_tokens, settings_.begin_suppress_tokens
    settings_.suppress_tokens = settings_.begin_suppress_tokens = None
    try:
        written = search(tiny, states, prompts, DecodingOptions(beams=beams, max_new_tokens=6), confidence=True)
    finally:
        settings_.suppress_tokens, settings_.begin_suppress_tokens = kept
    for row, (tokens, mean) in enumerate(zip(written.tokens, written.log_probabilities, strict=True)):
        full = [*tokens, tiny.end_token] if len(tokens) < 6 else tokens
        with torch.inference_mode():
            given_ = torch.tensor([[*tiny.prompt_tokens, *full]])
            logits = tiny.core(encoder_outputs=(states[row : row + 1],), decoder_input_ids=given_).logits[0].float()
        chances = logits.log_softmax(-1)[len(tiny.prompt_tokens) - 1 : -1]
        assert mean == pytest.approx(float(chances[range(len(full)), full].mean()), abs=1e-3)


def test_what_cannot_be_trusted_is_tried_again_and_alike_every_time(tiny, states):
    """Random weights are never sure, so every temperature is tried; draws are repeated, and batches change none."""
    prompts, engine = [tiny.prompt_tokens] * 3, TorchEngine(tiny)
    before = torch.random.get_rng_state()
    windows = EncodedWindows(states, [None] * 3)
    options = DecodingOptions(fallback=FALLBACK_TEMPERATURES, max_new_tokens=8)
    one, two = (recognise_windows(engine, windows, prompts, options) for _ in range(2))
    assert one == two
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(not h.trusted for h in one)
    greedy = recognise_windows(engine, windows, prompts, replace(options, fallback=()))
    assert all(new.log_probability >= old.log_probability for new, old in zip(one, greedy, strict=True))


def test_which_hypotheses_are_trusted():
    def said(text="buongiorno a tutti", log_probability=-0.3, no_speech=0.1):
        return Hypothesis((1,), text, log_probability, no_speech, 0.0)

    assert said().trusted
    assert not said(log_probability=-1.1).trusted
    assert not said(text="sì, sì, sì, " * 20).trusted
    assert said(log_probability=-1.1, no_speech=0.7).silence
    assert not said(no_speech=0.9).silence  # sure of its words
    looping, unsure, lost = said(text="no " * 80), said(log_probability=-1.2), said(log_probability=-2.0)
    assert fallback._chosen([looping, unsure, lost]) is unsure
    again = said(text="prego digitare il numero, seguito dal tasto cancelletto. " * 3)  # as prompts do
    assert again.repeats
    assert fallback._chosen([again, unsure, lost]) is again
    assert fallback._chosen([said(log_probability=-1.5, no_speech=0.9)]).text == ""


# Times.


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 12), st.integers(1, 40), st.integers(0, 10**6))
def test_paths_are_those_of_transformers(rows, frames, seed):
    from transformers.models.whisper.generation_whisper import _dynamic_time_warping

    gain = np.random.default_rng(seed).normal(size=(rows, frames))
    rows_, frames_ = _dynamic_time_warping(-gain)
    jumps = np.pad(np.diff(rows_), (1, 0), constant_values=1).astype(bool)
    assert np.array_equal(path_times(gain), frames_[jumps] * 0.02)


def test_words_are_found_where_clips_were_joined(base):
    """Two clips with a second of silence between them: as many words end before it as the first clip has alone."""
    one, two, pause = decode(CLIPS[0]), decode(CLIPS[1]), np.zeros(16_000, np.float32)
    said = [
        SelectedWindow(Window(100.0, np.concatenate([one, pause, two])), selection_of(base)),
        SelectedWindow(Window(0.0, one), selection_of(base)),
    ]
    options = DecodingOptions(timestamps=True, word_times=True)
    joined, alone = transcribe_windows(TorchEngine(base), said, options)
    for segment in (*joined, *alone):
        assert segment.text == "".join(word.text for word in segment.words).strip()
        assert (segment.start, segment.end) == (segment.words[0].start, segment.words[-1].end)
    words = [word for segment in joined for word in segment.words]
    times = [time for word in words for time in (word.start, word.end)]
    assert times == sorted(times)
    edge = 100.0 + len(one) / 16_000
    first = " ".join(word.text for word in words if (word.start + word.end) / 2 < edge + 0.5)
    assert basic(first)[:60] == basic(" ".join(segment.text for segment in alone))[:60]
    assert not any(word.start < edge - 0.3 and word.end > edge + 1.3 for word in words)
    assert abs(len(first.split()) - sum(len(segment.words) for segment in alone)) <= 3


def test_pauses_between_sentences_are_no_part_of_words():
    """The rule of openai/whisper, timing.py: at most twice the median, which is 0.7 s at most."""
    texts = [" Uno", " due.", " Tre", " quattro", "?»", " Cinque"]
    edges = np.array([10.0, 10.4, 12.0, 12.4, 12.8, 15.0, 15.2])
    times = shorten_pauses(texts, edges)
    assert times[:, 0].tolist() == edges[:-1].tolist()
    assert times[:, 1].tolist() == pytest.approx([10.4, 11.2, 12.4, 12.8, 13.6, 15.2])
    assert shorten_pauses([" Sì.", " No"], np.array([0.0, 0.4, 5.4]))[1].tolist() == pytest.approx([4.0, 5.4])
    assert shorten_pauses([" no"], np.array([1.0, 1.0])).tolist() == [[1.0, 1.0]]
    assert shorten_pauses([], np.array([0.0])).shape == (0, 2)


def test_words_of_scripts_without_blanks_are_characters(base):
    tokens = base.tokenizer.encode("今日は、いい天気。", add_special_tokens=False)
    found = split_words(base, tokens, "ja")
    assert "".join(text for text, _ in found) == "今日は、いい天気。"
    assert sum(count for _, count in found) == len(tokens)
    assert all(sum(sign.isalnum() for sign in text) >= 1 for text, _ in found)
    tokens = base.text_tokens("L'altro giorno, «forse» 🙂 no!")
    assert [text for text, _ in split_words(base, tokens, "it")] == [" L'altro", " giorno,", " «forse»", " 🙂", " no!"]


def test_the_sequential_way_ends_whatever_the_model_writes(tiny):
    options = DecodingOptions(max_new_tokens=30)
    sound = [speech(30.0), speech(30.0), speech(7.0)]
    done = list(transcribe_in_sequence(TorchEngine(tiny), sound, options, lambda _: selection_of(tiny)))
    assert done[-1].seconds == pytest.approx(67.0)
    assert all(one.seconds < two.seconds for one, two in pairwise(done))


# Adapters.


@pytest.fixture(scope="module")
def adapters(tiny_folder, tmp_path_factory):
    """Two adapters of the tiny model that change what it says, as folders."""
    made = {}
    for name in ("cs", "it"):
        whisper = attach(
            load_whisper(str(tiny_folder), ForcedPrompt(name)), AdapterSettings(rank=4, targets=["q_proj", "v_proj"])
        )
        torch.manual_seed(len(made))
        with torch.no_grad():
            for key, value in whisper.model.named_parameters():
                if "lora_" in key:
                    value.normal_(0, 0.5)
        made[name] = tmp_path_factory.mktemp("adapters") / name
        save_weights(whisper, made[name])
    return made


def test_adapters_in_one_batch_are_as_alone_and_merged(tiny_folder, adapters, states):
    from asr_lora.model.adapters.merging import load_merged

    base = load_whisper(str(tiny_folder), ForcedPrompt("it"))
    features = torch.randn(4, base.mel_bins, 300, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        untouched = base.encode(features)
    strengths = {"cs": 1.0, "it": 0.5}
    several = load_adapters(base, {name: (folder, strengths[name]) for name, folder in adapters.items()})
    rows = ["cs", "it", UNTOUCHED, "cs"]
    with evaluating(several.model), using_adapters(several, rows):
        mixed = several.encode(features)
    assert torch.allclose(mixed[2], untouched[2], atol=1e-6)
    with evaluating(several.model), using_adapters(several, [UNTOUCHED] * 4):
        assert torch.allclose(several.encode(features), untouched, atol=1e-6)
    for name, folder in adapters.items():
        merged = load_merged(
            str(tiny_folder), folder, ForcedPrompt("it"), torch.float32, device=torch.device("cpu"),
            strength=strengths[name],
        )  # fmt: skip
        with evaluating(merged.model):
            alone = merged.encode(features)
        picked = [place for place, row in enumerate(rows) if row == name]
        assert torch.allclose(mixed[picked], alone[picked], atol=1e-4)
        assert not torch.allclose(alone, untouched, atol=1e-2)


def test_windows_of_several_adapters_share_a_batch(tiny_folder, adapters):
    several = load_adapters(
        load_whisper(str(tiny_folder), ForcedPrompt("it")), {n: (f, 1.0) for n, f in adapters.items()}
    )
    several.core.generation_config.alignment_heads = [[0, 0], [1, 1]]
    selections = [AdapterSelection(ForcedPrompt(name), Context.TRUE_LENGTH, name) for name in ("cs", "it")]
    said = [SelectedWindow(Window(0.0, speech(2.0)), selection) for selection in selections]
    options = DecodingOptions(beams=2, max_new_tokens=12, timestamps=True, word_times=True)
    engine = TorchEngine(several)
    together = transcribe_windows(engine, said, options)
    alone = [transcribe_windows(engine, [one], options)[0] for one in said]
    assert [[s.text for s in found] for found in together] == [[s.text for s in found] for found in alone]
    assert {s.adapter for s in together[0]} == {"cs"}
    assert {s.language for s in together[1]} == {"it"}


def test_files_find_their_routes(tmp_path):
    selections = {name: AdapterSelection(ForcedPrompt(name), Context.FULL, name) for name in ("cs", "it")}
    for place in ("cs/a.wav", "it/deep/b.wav", "other/c.wav"):
        write_wav(tmp_path / place, speech(0.5))
    inside = find_inputs([tmp_path / "cs", tmp_path / "it"], written=True, routes=selections)
    transcriber = Transcriber(None, selections, None, Context.FULL)
    routes = make_routes(selections, FOLDER, inside)
    assert [routes.select(transcriber, entry, None).adapter for entry in inside] == ["cs", "it"]
    (named,) = find_inputs([f"{tmp_path}/other/c.wav:it"], written=True, routes=selections)
    assert make_routes(selections, LANGUAGE, [named]).select(transcriber, named, None).adapter == "it"
    (other,) = find_inputs([tmp_path / "other"], written=True)
    assert make_routes(["it"], None, [other]).select(transcriber, other, None).adapter == "it"  # there is no other
    with pytest.raises(ConfigError, match=r"c\.wav is in no folder named cs or it"):
        make_routes(selections, FOLDER, [other])
    with pytest.raises(ConfigError, match="--route nl: give language, folder, or one of cs, it"):
        make_routes(selections, "nl", [])


def test_whisper_detects_which_language_is_spoken(base):
    window = Window(0.0, decode(CLIPS[0]))
    (entry,) = find_inputs([CLIPS[0]], written=False)
    transcriber = Transcriber(TorchEngine(base), {}, None, Context.FULL)
    assert make_routes([], None, [entry]).select(transcriber, entry, window).prompt.language == "it"


# Hotwords.


@given(
    st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=4), min_size=1, max_size=4), st.lists(st.integers(0, 9))
)
def test_what_continues_a_hotword_is_raised_and_nothing_else(hotwords, written):
    raised = HotwordBoost(hotwords, begin=1.0, proceed=10.0)(torch.tensor([[99, *written]]), torch.zeros(1, 100))[0]
    for token in range(100):
        begins = any(term[0] == token for term in hotwords)
        prefixes = {
            tuple(term[:n]) for term in hotwords for n in range(1, len(term))
            if term[n] == token and written[-n:] == term[:n] and len(written) >= n
        }  # fmt: skip
        assert raised[token] == begins * 1.0 + 10.0 * len(prefixes)


# Inputs.

needs_ffmpeg = pytest.mark.skipif(not shutil.which("ffmpeg"), reason="the ffmpeg program is not installed")


def test_blocks_count_their_seconds_up_to_a_limit(tmp_path):
    path = write_wav(tmp_path / "a.wav", speech(65.0))
    with closing(AudioBlocks(path)) as blocks:
        assert blocks.seconds == 0.0
        assert sum(map(len, blocks)) == 65 * 16_000
        assert blocks.seconds == pytest.approx(65.0)
    limited = AudioBlocks(path, name="talk.wav", max_seconds=40.0)
    with pytest.raises(AudioError, match=r"talk\.wav is longer than 40 s") as error:
        list(limited)
    assert (error.value.reason, limited.seconds) == ("too long", pytest.approx(60.0))
    with pytest.raises(AudioError, match="decodes to no samples"):
        list(AudioBlocks(write_wav(tmp_path / "none.wav", speech(0.0))))
    with pytest.raises(InterruptedError):
        list(AudioBlocks(path, check=Mock(side_effect=InterruptedError)))


@needs_ffmpeg
@pytest.mark.parametrize("ending", ["m4a", "mp4", "webm"])
def test_what_libsndfile_does_not_read_goes_through_ffmpeg(tmp_path, ending):
    original = speech(3.0)
    source, made = write_wav(tmp_path / "a.wav", original), tmp_path / f"-b:c.{ending}"
    subprocess.run(["ffmpeg", "-v", "error", "-i", source, f"file:{made}"], check=True)
    found = np.concatenate(list(decode_blocks(made)))
    assert abs(len(found) - len(original)) < 1600
    shift = max(
        range(-1600, 1600, 8), key=lambda n: float(np.dot(np.roll(found, n)[2000:40_000], original[2000:40_000]))
    )
    assert np.corrcoef(np.roll(found, shift)[2000:40_000], original[2000:40_000])[0, 1] > 0.8


@needs_ffmpeg
def test_a_playlist_cannot_name_other_files(tmp_path):
    secret = write_wav(tmp_path / "secret.wav", speech(1.0))
    for name, body in {
        "a.m3u8": f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile://{secret}\n#EXT-X-ENDLIST\n",
        "b.mp4": f"ffconcat version 1.0\nfile {secret}\n",
    }.items():
        (tmp_path / name).write_text(body)
        with pytest.raises(AudioError, match="cannot be decoded"):
            list(decode_blocks(tmp_path / name))


def test_without_ffmpeg_one_sentence_says_what_is_missing(tmp_path, monkeypatch):
    (tmp_path / "a.m4a").write_bytes(b"\0\0\0\x20ftypM4A " + bytes(200))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(AudioError, match=r"a\.m4a cannot be decoded .*need the ffmpeg program: apt install ffmpeg"):
        list(decode_blocks(tmp_path / "a.m4a"))


def test_patterns_folders_and_standard_input(tmp_path, monkeypatch):
    for place in ("x/1.wav", "x/y/1.wav", "x/2.flac"):
        write_wav(tmp_path / place, speech(0.2))
    found = find_inputs([tmp_path / "x"], written=True)
    assert [str(entry.name) for entry in found] == ["1", "2", "y/1"]
    assert len(find_inputs([tmp_path / "x" / "*.wav", tmp_path / "x" / "1.wav"], written=True)) == 1
    (stdin,) = find_inputs(["-"], written=True)
    sound = (tmp_path / "x" / "1.wav").read_bytes()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(sound)))
    with open_input(stdin) as file:
        assert file.read_bytes() == sound
    assert not file.exists()
    with pytest.raises(AudioError, match="standard input is empty"), open_input(stdin):
        pass
