"""Files of any length -> text with times."""

import json
import re
import tracemalloc
from itertools import pairwise

import numpy as np
import pytest
import soundfile
import torch
from conftest import BASE, DEMO, speech, write_wav
from hypothesis import given, settings
from hypothesis import strategies as st

from asr_lora import transcribe
from asr_lora.audio.decode import decode, decode_blocks
from asr_lora.audio.vad import CHUNK, SpeechDetector, load_silero
from asr_lora.config import Context
from asr_lora.dataset.reading import read_split
from asr_lora.decoding.engine import TorchEngine, decode_split
from asr_lora.decoding.search import GREEDY, EndLoops, batches_by_length
from asr_lora.errors import ConfigError
from asr_lora.language import ForcedPrompt
from asr_lora.metrics.normalize import basic
from asr_lora.transcription.longform import WINDOW_SECONDS, SpeechSpans, quietest_sample, speech_windows, windows
from asr_lora.transcription.writers import FORMATS

CLIPS = DEMO / "cv-corpus-17.0-2024-03-15" / "it" / "clips"


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(seconds=st.lists(st.floats(0.2, 12.0), min_size=1, max_size=8), window=st.floats(2.0, 28.0))
def test_windows_hold_every_sample_once(tmp_path_factory, seconds, window):
    pieces = [
        speech(length) * level for length, level in zip(seconds, [1.0, 0.0, 0.3, 1.0, 0.0, 0.5, 1.0, 0.1], strict=False)
    ]
    path = write_wav(tmp_path_factory.mktemp("long") / "a.wav", np.concatenate(pieces))
    whole = decode(path)
    found = list(windows(decode_blocks(path), window_seconds=window))
    assert np.array_equal(np.concatenate([piece.waveform for piece in found]), whole)
    assert found[0].start == 0.0
    for one, two in pairwise(found):
        assert two.start == pytest.approx(one.end, abs=1e-6)
    assert all(len(piece.waveform) <= window * 16_000 for piece in found)


def test_cuts_fall_in_pauses():
    waveform = np.concatenate([speech(10.0), np.zeros(16_000, np.float32), speech(9.0)])
    cut = quietest_sample(waveform, 8 * 16_000) / 16_000
    assert 10.0 < cut < 11.0


def test_probabilities_of_speech_are_those_of_the_package():
    silero_vad = pytest.importorskip("silero_vad")
    noise = np.random.default_rng(0).normal(0, 0.01, 16_000).astype(np.float32)
    sound = np.concatenate([speech(3.0), noise, speech(1.01)])
    detector = SpeechDetector(load_silero())
    ours = np.concatenate([*(detector.probabilities(block) for block in np.array_split(sound, 7)), detector.finish()])
    threads = torch.get_num_threads()
    model = silero_vad.load_silero_vad()
    torch.set_num_threads(threads)
    chunks = np.pad(sound, (0, -len(sound) % CHUNK)).reshape(-1, CHUNK)
    with torch.inference_mode():
        theirs = [model(torch.from_numpy(chunk), 16_000).item() for chunk in chunks]
    assert np.allclose(ours, theirs, atol=1e-4)
    assert (ours > 0.5).mean() > 0.5


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 1500), st.floats(0, 1)), max_size=8), st.integers(1, 400))
def test_stretches_of_speech_are_apart_and_never_too_long(runs, size):
    chances = np.concatenate([np.full(length, chance) for length, chance in runs] or [np.zeros(0)])
    longest = 26 * 16_000
    spans = SpeechSpans(longest)
    pieces = [chances[place : place + size] for place in range(0, len(chances), size)]
    found = [span for piece in pieces for span in spans.add(piece)] + spans.add(np.zeros(0), last=True)
    assert all(0 < end - start <= longest for start, end in found)
    assert all(one[1] <= two[0] for one, two in pairwise(found))
    covered = np.zeros(len(chances), bool)
    for start, end in found:
        covered[start // CHUNK : end // CHUNK] = True
    assert np.sum(~covered[chances >= 0.5]) <= 3 * len(runs)  # but for clicks


def test_quiet_speech_is_found_as_loud_speech_is(tmp_path):
    """All quiet; loud, then quiet; quiet with clicks; on an offset; in 16 bits. Noise is no speech at any level."""

    def heard(sound: np.ndarray, start: float = 0.0) -> float:
        blocks = np.split(sound.astype(np.float32), range(100_000, len(sound), 100_000))
        return sum(min(one.seconds, max(0.0, one.end - start)) for one in speech_windows(blocks) if not one.silent)

    loud = speech(20.0)
    whole = heard(loud)
    quiet, clicks = loud * 10 ** (-54 / 20), np.zeros(len(loud))
    clicks[::40_000] = 0.9
    for sound in (quiet, quiet / 3, quiet + clicks, quiet + 0.2, np.round(quiet * 32_768) / 32_768):
        assert heard(sound) > 0.95 * whole
    assert heard(np.concatenate([loud, quiet]), start=20.0) > 0.9 * whole
    noise = np.random.default_rng(0).normal(0, 0.1, 20 * 16_000)
    assert [heard(noise * level) for level in (1.0, 0.03, 0.001, 0.0)] == [0.0] * 4


def test_windows_of_speech_leave_out_noise_and_long_pauses():
    noise = np.random.default_rng(0).normal(0, 0.01, 10 * 16_000).astype(np.float32)
    sound = np.concatenate([noise, speech(40.0), noise, speech(5.0)])
    found = list(speech_windows(np.split(sound, range(100_000, len(sound), 100_000))))
    assert list(speech_windows([noise * 10])) == []
    assert all(one.end <= two.start + 1e-9 for one, two in pairwise(found))
    for window in found:
        start = round(window.start * 16_000)
        assert np.array_equal(window.waveform, sound[start : start + len(window.waveform)])
        assert 0.1 < window.seconds <= WINDOW_SECONDS
    heard = sum(window.seconds for window in found)
    assert 38.0 < heard < 50.0
    assert not any(window.start < 9.5 or 51.0 < window.start < 59.0 for window in found)


@pytest.mark.slow
def test_memory_is_bounded_whatever_the_length(tmp_path):
    path = tmp_path / "hour.flac"
    with soundfile.SoundFile(path, "w", 16_000, 1, format="FLAC") as out:
        for _ in range(120):
            out.write(speech(30.0))
    list(windows([speech(60.0)]))
    tracemalloc.start()
    total = sum(len(piece.waveform) for piece in windows(decode_blocks(path)))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert total == 3600 * 16_000
    assert peak < 40e6  # the hour is 230 MB


@given(
    st.lists(st.floats(0.1, 30.0), max_size=60).map(lambda cost: [float(value) for value in cost]),
    st.floats(5.0, 500.0),
)
def test_batches_hold_every_clip_once_and_stay_within_bounds(seconds, limit):
    batches = list(batches_by_length(seconds, seconds, batch_seconds=limit))
    assert sorted(index for batch in batches for index in batch) == list(range(len(seconds)))
    for batch in batches:
        longest = max(seconds[index] for index in batch)
        assert len(batch) == 1 or len(batch) * longest <= limit + 1e-9
        assert min(seconds[index] for index in batch) >= longest / 2


def test_batches_change_no_text(base, demo_dataset):
    """Texts of a batch equal those of clips decoded alone: padding to 30 s is all that Whisper sees either way."""
    split = read_split(demo_dataset, "test").select(range(3))
    engine = TorchEngine(base)
    together = dict(zip(*next(decode_split(engine, split, GREEDY)), strict=True))
    alone = {}
    for index in range(len(split)):
        ((_, (text,)),) = decode_split(engine, split.select([index]), GREEDY)
        alone[index] = text
    assert together == alone


def test_real_speech_to_every_format(base, tmp_path):
    """The same clips in four containers and rates; the words are those of the reference, about."""
    clips = sorted(CLIPS.iterdir())[:3]
    folder = tmp_path / "audio" / "inner"
    write_wav(folder / "one.wav", decode(clips[0]))
    soundfile.write(folder / "two.ogg", decode(clips[1]), 16_000, format="OGG", subtype="VORBIS")
    soundfile.write(folder / "three.flac", np.repeat(decode(clips[2])[:, None], 2, axis=1), 16_000)
    (folder / "notes.docx").write_text("not audio")
    (folder / "photo.raw").write_bytes(b"a camera's")
    formats = ["txt", "srt", "vtt", "tsv", "json"]
    done = list(transcribe(BASE, [tmp_path / "audio"], formats=formats, out=tmp_path / "o", language="it"))
    assert [transcript.file.name for transcript in done] == ["one.wav", "three.flac", "two.ogg"]
    assert all(transcript.error is None for transcript in done)
    texts = {path.name: path.read_text(encoding="utf-8") for path in (tmp_path / "o" / "inner").iterdir()}
    assert len(texts) == 15
    assert "digitare il proprio numero" in basic(texts["one.txt"])
    body = json.loads(texts["one.json"])
    assert body["text"].split() == texts["one.txt"].split()
    seconds = soundfile.info(folder / "one.wav").duration
    assert 0 <= body["segments"][0]["start"] < body["segments"][-1]["end"] <= seconds + 0.01
    words = [word for segment in body["segments"] for word in segment["words"]]
    assert "".join(word["text"] for word in words).split() == body["text"].split()
    times = [word[edge] for word in words for edge in ("start", "end")]
    assert times == sorted(times)
    assert " ".join(body["text"].split()[:3]) in texts["one.srt"]
    assert texts["one.vtt"].startswith("WEBVTT\n\n00:00:0")


@pytest.mark.parametrize("sequential", [False, True])
def test_a_file_longer_than_a_window(base, tmp_path, sequential):
    clips = sorted(CLIPS.iterdir())[::8][: 10 if sequential else 14]
    pause = np.zeros(12_000, np.float32)
    long = np.concatenate([part for clip in clips for part in (decode(clip), pause)])
    assert len(long) > (1.2 if sequential else 1.4) * WINDOW_SECONDS * 16_000
    path = write_wav(tmp_path / "long.wav", long)
    (done,) = transcribe(BASE, [path], language="it", sequential=sequential, words=True)
    assert len(done.segments) >= 2
    for segment in done.segments:  # as faster-whisper's tests have it
        assert (segment.start, segment.end) == (segment.words[0].start, segment.words[-1].end)
        assert all(one.start <= one.end <= two.start for one, two in pairwise(segment.words))
    times = [(segment.start, segment.end) for segment in done.segments]
    assert times == sorted(times)
    assert all(one[1] <= two[0] + 1e-6 for one, two in pairwise(times))
    assert times[-1][1] <= len(long) / 16_000 + 1e-6
    table = (CLIPS.parent / "validated.tsv").read_text(encoding="utf-8").splitlines()[1:]
    references = {row.split("\t")[1]: row.split("\t")[3] for row in table}
    spoken = {word for clip in clips for word in basic(references[clip.name]).split()}
    heard = set(basic(" ".join(segment.text for segment in done.segments)).split())
    assert len(spoken & heard) > 0.7 * len(spoken)


def test_speech_that_repeats_itself_is_not_replaced_by_chance(base, tmp_path):
    """Prompts that end in the same words compress as well as a loop does; what is drawn hot is another text."""
    clips = [part for clip in sorted(CLIPS.iterdir())[:5] for part in (decode(clip), np.zeros(8_000, np.float32))]
    path = write_wav(tmp_path / "prompts.wav", np.concatenate(clips))
    (done,) = transcribe(BASE, [path], language="it")
    (plain,) = transcribe(BASE, [path], language="it", fallback=False)
    kept, said = (set(basic(" ".join(segment.text for segment in one.segments)).split()) for one in (done, plain))
    assert "cancelletto" in said
    assert len(kept & said) > 0.8 * len(said)


def test_each_format_is_rendered_once(tiny_folder, tmp_path, monkeypatch):
    rendered, echoed = [], []

    def counted(name, write):
        return lambda segments, rules: (rendered.append(name), write(segments, rules))[1]

    for name, write in list(FORMATS.items()):
        monkeypatch.setitem(FORMATS, name, counted(name, write))
    path, out = write_wav(tmp_path / "a.wav", speech(1.0)), tmp_path / "out"
    options = {"language": "it", "formats": list(FORMATS), "vad": False, "fallback": False}
    (done,) = transcribe(str(tiny_folder), [path], out=out, echo=echoed.append, **options)
    assert rendered == list(FORMATS)
    assert "".join(echoed) == (out / "a.txt").read_text(encoding="utf-8") != ""
    assert [file.name for file in done.written] == [f"a.{name}" for name in FORMATS]


def test_silence_gives_no_text_and_bad_files_are_named(base, tmp_path):
    silent = write_wav(tmp_path / "silent.wav", np.zeros(48_000, np.float32))
    (tmp_path / "bad.wav").write_bytes(b"RIFF but nothing more")
    (tmp_path / "empty.wav").write_bytes(b"")
    inputs = [tmp_path / "bad.wav", silent, tmp_path / "empty.wav", tmp_path / "absent.wav"]
    done = list(transcribe(BASE, inputs, language="it", out=tmp_path / "out"))
    assert [transcript.error is None for transcript in done] == [False, True, False, False]
    assert done[1].segments == ()
    assert [re.search(r"cannot be decoded|is empty|does not exist", str(t.error)) is None for t in done] == [
        False, True, False, False,
    ]  # fmt: skip
    assert [path.name for path in (tmp_path / "out").glob("[!.]*")] == ["silent.txt"]
    assert done[1].notice == f"{silent}: no text: 3.0 s of silence; check which channel or microphone was recorded"
    noise = np.random.default_rng(0).normal(0, 0.01, 48_000).astype(np.float32)
    (empty,) = transcribe(BASE, [write_wav(tmp_path / "noise.wav", noise)], language="it")
    assert re.search(r"noise\.wav: no text in 3\.0 s, peak -2\d dB, speech in 0 % of it; try --no-vad", empty.notice)


def test_outputs_lie_below_the_folder_and_replace_nothing_but_our_own(tiny_folder, tmp_path):
    def run(*inputs, **options):
        plain = {"language": "it", "vad": False, "fallback": False, "engine": "torch", "beams": 1}
        return list(transcribe(str(tiny_folder), inputs, out=out, **plain, **options))

    recordings, out = tmp_path / "recordings", tmp_path / "out"
    long = "ü" * 123 + "abcde.wav"  # 255 bytes: .txt fits, .json does not
    names = ["..wav", "...wav", ".. .wav", "con.wav", "a b\n.wav", long]
    sound = write_wav(tmp_path / "sound.wav", speech(1.0))
    recordings.mkdir()
    for name in names:
        (recordings / name).write_bytes(sound.read_bytes())
    (tmp_path / "out.txt").write_text("mine")
    done = run(recordings, formats=["txt", "json"])
    texts = {"..wav.txt", "...wav.txt", ".. .txt", "con.txt", "a b\n.txt", long[:-4] + ".txt"}
    assert {path.name for path in out.rglob("*.txt")} == texts
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "out.txt", "recordings", "sound.wav"]
    assert (tmp_path / "out.txt").read_text() == "mine"
    assert not list(out.glob(".*.tmp"))
    (failed,) = (one for one in done if one.error)
    assert re.search(r"\.json cannot be written \(File name too long\)", failed.error)
    assert [path.suffix for path in failed.written] == [".txt"]

    con, named = recordings / "con.wav", recordings / "..wav"
    assert [one.error for one in run(con, named)] == [None, None]  # an earlier run's are replaced
    (out / "con.txt").write_text("corrected by hand")
    refused, other = run(con, named)
    assert "con.txt: a file that no earlier transcription wrote is there" in refused.error
    assert other.written == (out / "..wav.txt",)
    assert (out / "con.txt").read_text() == "corrected by hand"
    assert run(con, keep_existing=True)[0].kept
    assert run(con, overwrite=True)[0].written == (out / "con.txt",)
    assert (out / "con.txt").read_text() != "corrected by hand"
    (out / "...wav.txt").unlink()
    (out / "...wav.txt").symlink_to(tmp_path / "out.txt")
    assert run(recordings / "...wav")[0].error
    assert (tmp_path / "out.txt").read_text() == "mine"


def test_a_folder_that_cannot_be_written_to_is_refused_at_once(tiny_folder, tmp_path):
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ConfigError, match="cannot be made"):
            transcribe(str(tiny_folder), [write_wav(tmp_path / "a.wav", speech(1.0))], out=out, language="it")


def test_a_name_that_is_too_long_is_one_bad_input(tiny_folder, tmp_path):
    good = write_wav(tmp_path / "a.wav", speech(1.0))
    long = tmp_path / ("a" * 300 + ".wav")
    done = list(transcribe(str(tiny_folder), [long, good], language="it", vad=False, fallback=False, beams=1))
    assert [one.error is None for one in done] == [False, True]


def test_inputs_that_cannot_be_transcribed(tmp_path):
    with pytest.raises(ConfigError, match="mp4 is not one of"):
        list(transcribe(BASE, [tmp_path], formats=["mp4"], language="it"))
    with pytest.raises(ConfigError, match="no audio files"):
        list(transcribe(BASE, [tmp_path], language="it"))
    write_wav(tmp_path / "a" / "x.wav", speech(1.0))
    write_wav(tmp_path / "b" / "x.flac", speech(1.0))
    with pytest.raises(ConfigError, match="would write one file"):
        list(transcribe(BASE, [tmp_path / "a", tmp_path / "b"], language="it", out=tmp_path / "out"))
    with pytest.raises(ConfigError, match="no file matches"):
        list(transcribe(BASE, [tmp_path / "*.mp3"], language="it"))
    with pytest.raises(ConfigError, match="srt of several files needs a folder"):
        list(transcribe(BASE, [tmp_path], formats=["srt"], language="it", echo=print))
    with pytest.raises(ConfigError, match="does not say its language"):
        list(transcribe(BASE, [tmp_path / "a"]))


def test_context_of_an_unknown_model_is_full(base):
    assert base.context is Context.FULL


def test_a_loop_ends_alone_and_nothing_else_does():
    prompt, end, vocabulary = [1, 2, 3, 4], 0, 50

    def ended(*rows: list[int]) -> list[bool]:
        scores = EndLoops(len(prompt), end)(
            torch.tensor([prompt + row for row in rows]), torch.zeros(len(rows), vocabulary)
        )
        return [bool(row[end] == 0.0 and torch.isinf(row[1:]).all()) for row in scores]

    for period in range(1, 9):
        pattern = list(range(10, 10 + period))
        repeats = max(5, -(-15 // period))
        assert ended([9] * 7 + pattern * repeats, list(range(7 + period * repeats))) == [True, False]
        assert ended(pattern * (repeats - 1)) == [False]
    assert ended([5] * 14 + [6]) == [False]
    assert ended([]) == [False]


def test_a_model_that_only_repeats_is_cut_short(tiny_folder, monkeypatch):
    from asr_lora.decoding import search as decode
    from asr_lora.model.whisper import load_whisper

    whisper = load_whisper(str(tiny_folder), ForcedPrompt("it"))
    (ended,) = decode.decode_batch(whisper, [speech(2.0)])
    monkeypatch.setattr(decode, "LOOPS", [])
    (endless,) = decode.decode_batch(whisper, [speech(2.0)])
    assert len(ended) < len(endless) / 3
    assert endless.startswith(ended)
