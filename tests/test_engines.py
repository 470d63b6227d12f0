"""CTranslate2 beside PyTorch: the same model says the same, at the same times, in whatever batch."""

import json
import os
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import DEMO, speech, write_wav
from hypothesis import given, settings
from hypothesis import strategies as st
from test_cli import invoke
from test_listening import adapters  # noqa: F401 (a fixture)

from asr_lora import transcribe
from asr_lora.audio.decode import decode
from asr_lora.config import Context, Precision
from asr_lora.decoding import ctranslate2_engine
from asr_lora.decoding.ctranslate2_engine import open_ctranslate2, open_ctranslate2_adapters
from asr_lora.decoding.decoding_options import DecodingOptions
from asr_lora.decoding.engine import TorchEngine
from asr_lora.decoding.hotwords import hotword_prompt, with_hotwords
from asr_lora.decoding.search import EndLoops, loop_end
from asr_lora.errors import DataError
from asr_lora.language import ForcedPrompt
from asr_lora.model.adapters.multi_lora import BASE as UNTOUCHED
from asr_lora.model.find_model import find_adapters, find_model, selection_of
from asr_lora.model.open_model import open_adapters
from asr_lora.model.whisper import load_meta_whisper, load_whisper
from asr_lora.transcription.longform import Window
from asr_lora.transcription.recognise import SelectedWindow, transcribe_windows
from asr_lora.transcription.transcriber import detect_language

CLIPS = sorted((DEMO / "cv-corpus-17.0-2024-03-15" / "it" / "clips").iterdir())[:2]
TIMED = DecodingOptions(timestamps=True, word_times=True)


@pytest.fixture(scope="module")
def floats(ctranslate2_folder):
    return open_ctranslate2(find_model(str(ctranslate2_folder)), ForcedPrompt("it"), precision=Precision.FP32)


@pytest.fixture(scope="module")
def said(base):
    """Two clips, and both in one window."""
    sounds = [*map(decode, CLIPS), np.concatenate([decode(clip) for clip in CLIPS])]
    return [SelectedWindow(Window(10.0 * n, sound), selection_of(base)) for n, sound in enumerate(sounds)]


@pytest.fixture(scope="module")
def ours(base, said):
    return transcribe_windows(TorchEngine(base), said, TIMED)


def texts(found):
    return [[(segment.text, round(segment.start, 2), round(segment.end, 2)) for segment in some] for some in found]


def test_both_engines_say_the_same_at_the_same_times(base, floats, said, ours):
    stamped = replace(TIMED, word_times=False)  # segments at Whisper's own timestamps, which are equal to the digit
    assert texts(transcribe_windows(floats, said, stamped)) == texts(
        transcribe_windows(TorchEngine(base), said, stamped)
    )
    theirs = transcribe_windows(floats, said, TIMED)  # and at the times of words, which are compared below
    assert sum(map(len, ours)) >= len(said)
    assert [[segment.text for segment in some] for some in theirs] == [[a.text for a in some] for some in ours]
    pairs = [
        (one, other)
        for mine, yours in zip(ours, theirs, strict=True)
        for a, b in zip(mine, yours, strict=True)
        for one, other in zip(a.words, b.words, strict=True)
    ]
    assert all(one.text == other.text for one, other in pairs)
    apart = [abs(one.start - other.start) for one, other in pairs]
    assert np.median(apart) <= 0.02
    assert np.mean(np.array(apart) <= 0.1) > 0.9
    for mine, yours in zip(ours, theirs, strict=True):
        for a, b in zip(mine, yours, strict=True):
            assert b.log_probability == pytest.approx(a.log_probability, abs=0.005)
            assert b.no_speech == pytest.approx(a.no_speech, abs=0.02)


def test_times_where_there_are_no_tokens_and_hardly_any_sound(floats, base):
    windows, prompts = floats.encode([speech(3.0), speech(3.0)], 350, [None] * 2), [base.prompt_tokens] * 2
    tokens = base.text_tokens("pronto")
    for written, seconds in ([[], []], [3.0, 3.0]), ([tokens, []], [3.0, 0.001]), ([tokens, tokens], [0.001, 3.0]):
        found = floats.token_times(windows, prompts, written, seconds)
        ours = TorchEngine(base).token_times(windows, prompts, written, seconds)
        assert [len(times) for times in found] == [len(one) + 1 for one in written] == [len(times) for times in ours]
        assert all(0 <= time <= length + 0.02 for times, length in zip(found, seconds, strict=True) for time in times)


def test_a_batch_changes_nothing_and_neither_does_a_tight_first_try(floats, said, monkeypatch):
    """What is not finished within the tokens of the first try is written anew, to the same text."""
    together = texts(transcribe_windows(floats, said[:2], TIMED))
    monkeypatch.setattr(ctranslate2_engine, "TOKENS", 1)
    monkeypatch.setattr(ctranslate2_engine, "TOKENS_PER_SECOND", 0)
    monkeypatch.setattr(ctranslate2_engine, "ENCODED_SECONDS", 1.0)
    assert texts(transcribe_windows(floats, said[:2], TIMED)) == together


def test_eight_bits_say_nearly_the_same(ctranslate2_folder, said, ours):
    engine = open_ctranslate2(find_model(str(ctranslate2_folder)), ForcedPrompt("it"))
    assert engine.models[None].compute_type.startswith("int8")
    theirs = transcribe_windows(engine, said, replace(TIMED, word_times=False))
    mine, yours = (" ".join(s.text for some in found for s in some).split() for found in (ours, theirs))
    assert sum(a != b for a, b in zip(mine, yours, strict=False)) + abs(len(mine) - len(yours)) <= 0.2 * len(mine)


def test_it_hears_languages(floats, base, said):
    assert detect_language(floats, said[0].window, base=False) == "it"
    assert detect_language(TorchEngine(base), said[0].window, base=False) == "it"


def test_adapters_are_merged_and_share_batches(tiny_folder, adapters, tmp_path, monkeypatch):  # noqa: F811
    """One at a strength, another and the base in one batch, held against PyTorch, where they lie side by side."""
    monkeypatch.setenv("ASR_LORA_CACHE", str(tmp_path))
    named = {"cs": f"{adapters['cs']}@0.5", "it": str(adapters["it"])}
    several = find_adapters(str(tiny_folder), named)
    assert {name: (one.prompt, one.adapter) for name, one in several.selections.items()} == {
        name: (ForcedPrompt(name), name) for name in named
    }
    whisper = open_adapters(several, Precision.FP32)
    engine = open_ctranslate2_adapters(several, Precision.FP32)
    assert set(engine.models) == {"cs", "it", UNTOUCHED}
    rows, sounds = ["cs", UNTOUCHED, "it", "cs"], [speech(seconds) for seconds in (2.0, 2.5, 1.5, 3.0)]
    ours, theirs = (some.encode(sounds, 320, rows) for some in (TorchEngine(whisper), engine))
    assert torch.allclose(ours.outputs, theirs.outputs, atol=1e-3)
    other = engine.encode(sounds[:1], 320, ["it"])
    assert (ours.outputs[0] - other.outputs[0]).abs().max() > 0.1  # another adapter, another output
    prompts = [whisper.prompt_tokens] * 4
    found = engine.search(theirs, prompts, DecodingOptions(max_new_tokens=8))
    assert [len(one.tokens) for one in found] == [8] * 4
    times = [path.stat().st_mtime_ns for path in tmp_path.rglob("model.bin")]
    open_ctranslate2_adapters(several, Precision.FP32)
    assert [path.stat().st_mtime_ns for path in tmp_path.rglob("model.bin")] == times  # converted once
    assert len(times) == 3


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 2), max_size=40), st.integers(0, 7), st.integers(1, 8))
def test_loops_end_where_they_would_have(start, first, period):
    """Cut off afterwards is ended on the way."""
    tokens = (start + [first + n % period for n in range(80)])[:80]
    processor = EndLoops(prompt_tokens=0, end_token=99)
    ended = next(
        (
            count for count in range(1, len(tokens) + 1)
            if processor(torch.tensor([tokens[:count]]), torch.zeros(1, 100))[0, 0] == -torch.inf
        ),
        None,
    )  # fmt: skip
    assert loop_end(tokens) == ended


def test_settings_alone_are_those_of_the_whole_import(ctranslate2_folder):
    meta, whole = (make(str(ctranslate2_folder), ForcedPrompt("it")) for make in (load_meta_whisper, load_whisper))
    assert meta.core.device.type == "meta"
    assert meta.core.generation_config.to_dict() == whole.core.generation_config.to_dict()
    mine, yours = (
        {
            key: value
            for key, value in model.core.config.to_dict().items()
            if key not in ("dtype", "architectures", "_name_or_path")
        }
        for model in (meta, whole)
    )
    assert mine == yours


def test_the_command_line_takes_an_engine(ctranslate2_folder, tmp_path):
    sound = write_wav(tmp_path / "a.wav", decode(CLIPS[0]))
    found = invoke(
        "transcribe", ctranslate2_folder, sound, "--engine", "ctranslate2", "--language", "it", "--format", "json",
        "--words", "--out", tmp_path,
    )  # fmt: skip
    assert found.exit_code == 0, found.stderr
    (segment, *_) = json.loads((tmp_path / "a.json").read_text())["segments"]
    assert segment["words"]
    assert segment["language"] == "it"


def test_hotwords_are_found_from_their_first_token_by_both_engines(base, ctranslate2_folder, tmp_path):
    """Both write `a sterisco`, `circuoi ti` and `Inoltre` for these words."""
    spoken = {"00000122": "asterisco", "00000009": "circuiti", "00000017": "Inoltro"}
    clips = [clip for clip in sorted(CLIPS[0].parent.iterdir()) if clip.stem.rpartition("_")[2] in spoken]
    (tmp_path / "names.txt").write_text("\n".join([*spoken.values(), "ComfyUI", "Trastevere"]))
    options = {"language": "it", "beams": 1, "fallback": False, "precision": Precision.FP32}

    def heard(engine, **more):
        found = transcribe(str(ctranslate2_folder), clips, engine=engine, **options, **more)
        return " ".join(segment.text for one in found for segment in one.segments)

    assert not any(word in heard("ctranslate2") for word in spoken.values())
    for engine in ("torch", "ctranslate2"):
        text = heard(engine, hotwords=tmp_path / "names.txt")
        assert sum(word in text for word in spoken.values()) >= 2, text
        assert "ComfyUI" not in text
        assert "Trastevere" not in text
    tokens, fit = hotword_prompt(base, [f"parola{number}" for number in range(300)])
    assert 20 < fit < 100
    assert len(tokens) <= 223
    assert hotword_prompt(base, ["Trastevere"])[1] == 1
    (tmp_path / "long.txt").write_text("\n".join(f"parola{number}" for number in range(300)))
    boosted = with_hotwords(DecodingOptions(), TorchEngine(base), tmp_path / "long.txt")
    assert (len(boosted.previous), len(boosted.processors)) == (0, 1)


def test_what_ctranslate2_cannot_do_is_said(ctranslate2_folder, tmp_path):
    sound = write_wav(tmp_path / "a.wav", speech(1.0))
    (tmp_path / "long.txt").write_text("\n".join(f"parola{number}" for number in range(300)))
    refused = {
        ("--engine", "ctranslate2", "--hotwords", tmp_path / "long.txt"): "hotwords fit .* prompt: take --engine torch",
        ("--engine", "ctranslate2", "--precision", "bf16"): "--precision bf16: CTranslate2 computes in int8",
        ("--engine", "faster"): "--engine: faster is not one of torch, ctranslate2",
    }
    for options, sentence in refused.items():
        found = invoke("transcribe", ctranslate2_folder, sound, "--language", "it", *options)
        assert found.exit_code == 2
        assert re.search(sentence, found.stderr), found.stderr


def test_a_damaged_folder_is_refused(ctranslate2_folder, tmp_path):
    for path in ctranslate2_folder.iterdir():
        if path.name != "model.bin":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "model.bin").write_bytes((ctranslate2_folder / "model.bin").read_bytes()[:1_000_000])
    with pytest.raises(DataError, match="not a whole CTranslate2"):
        open_ctranslate2(find_model(str(tmp_path)), ForcedPrompt("it"))


def test_an_export_knows_its_language_and_context(tmp_path):
    from asr_lora.folders.run_folder import ExportFolder, ExportRecord

    rates, told = {"wer": 0.1, "cer": 0.1}, {"language": "cs", "language_token": None, "task": "transcribe"}
    parity = {
        "clips": 1, "normaliser": "basic-1", "lead": "wer", "ours": rates, "theirs": rates, "drift": 0, "tolerance": 0,
        "alike": 1, "apart": 0, "passed": True,
    }  # fmt: skip
    body = {
        "model": "x", "base": "y", **told, "context": "true_length", "format": "ctranslate2", "files": [],
        "dataset": {"sha256": "0", "split": "dev", "seconds": 1}, "reference": "a", "engine": "b", "parity": parity,
    }  # fmt: skip
    ExportFolder(tmp_path).write(ExportRecord.model_validate(body))
    place = find_model(str(tmp_path))
    assert (place.recorded.language, place.context) == ("cs", Context.TRUE_LENGTH)


@pytest.mark.parametrize(
    ("computes", "key"),
    [("int8", "6affd94889110d4e"), ("float16", "01b5a8c66f86efe9"), ("float32", "4fa3885e402cb10d")],
)
def test_models_that_earlier_versions_converted_are_found_in_the_cache(computes, key, monkeypatch):
    monkeypatch.setattr(ctranslate2_engine, "model_identity", lambda _: "cc")
    monkeypatch.setattr(ctranslate2_engine.metadata, "version", lambda _: "4.6.0")
    assert ctranslate2_engine._cache_key(None, ctranslate2_engine.STORED[computes]) == key


def test_the_cache_forgets_what_was_used_longest_ago(tmp_path, monkeypatch):
    monkeypatch.setattr(ctranslate2_engine, "MOST_CACHED_BYTES", 25)
    for age, name in enumerate(["newest", "middle", "oldest"]):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.bin").write_bytes(b"x" * 10)
        os.utime(tmp_path / name, (1000 - age, 1000 - age))
    ctranslate2_engine._forget_oldest(tmp_path, keep=tmp_path / "oldest")  # just made, whatever its time says
    assert sorted(path.name for path in tmp_path.iterdir()) == ["newest", "oldest"]
