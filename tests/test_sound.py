"""What a person hears in a file, the package hears: joined and unfinished files, floats, channels, stretches, pipes."""

import io
import json
import os
import shutil
import socket
import struct
import subprocess
import tracemalloc

import numpy as np
import pytest
import soundfile
from conftest import DEMO, speech, write_wav

from asr_lora import prepare
from asr_lora.audio.decode import AudioBlocks, decode, decode_blocks, encode_flac
from asr_lora.audio.flac_frames import header_with_length
from asr_lora.audio.mp3_frames import mp3_streams
from asr_lora.audio.samples import ONE_SIDED, SCALED, full_scale
from asr_lora.audio.streams import layout_of
from asr_lora.errors import AudioError, DataError
from asr_lora.folders.atomic import read_jsonl
from asr_lora.transcription.inputs import find_inputs, open_input

needs_ffmpeg = pytest.mark.skipif(not shutil.which("ffmpeg"), reason="the ffmpeg program is not installed")
MOST = 2**32 - 1


def encoded(waveform: np.ndarray, kind: str, rate: int = 16_000, **options) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, waveform, rate, format=kind, **options)
    return buffer.getvalue()


def wav(data: bytes, size: int, riff: int | None = None, *, head=b"RIFF", before=b"", after=b"") -> bytes:
    """A WAV of 16 bits at 16 kHz, with the sizes that the header is to state."""
    form = struct.pack("<HHIIHH", 1, 1, 16_000, 32_000, 2, 16)
    body = b"WAVE" + before + b"fmt " + struct.pack("<I", 16) + form + b"data" + struct.pack("<I", size) + data + after
    return head + struct.pack("<I", len(body) if riff is None else riff) + body


def without_header_frame(mp3: bytes) -> bytes:
    """An MP3 without the Xing header, as a stream from a radio or a recorder is."""
    (stream,) = mp3_streams(mp3, 0, len(mp3))
    assert stream.stated
    return mp3[mp3.index(b"\xff", 200) :] if not stream.start else mp3


# Joined files.


@pytest.mark.parametrize("rate", [16_000, 24_000])
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("MP3", {}), ("MP3", {"bitrate_mode": "VARIABLE"}), ("OGG", {}), ("OGG", {"subtype": "OPUS"}), ("FLAC", {}),
        ("WAV", {}), ("AIFF", {}), ("AU", {}), ("CAF", {}), ("W64", {}),
    ],
)  # fmt: skip
def test_all_of_a_joined_file_is_read(kind, options, rate, monkeypatch):
    """Also where the second part has another rate, and without ffmpeg."""
    monkeypatch.setenv("PATH", "")
    one, two = speech(2.0), np.stack([speech(3.0)[::-1]] * 2, axis=1)
    parts = encoded(one, kind, **options), encoded(two, kind, rate, **options)
    whole = decode(b"".join(parts))
    alone = [decode(part) for part in parts]
    assert abs(len(whole) - sum(map(len, alone))) < 1600
    assert np.array_equal(whole[: len(alone[0])], alone[0])
    assert np.array_equal(whole[-len(alone[1]) :], alone[1])
    stretch = decode(b"".join(parts), start=1.5, seconds=1.0)
    assert np.array_equal(stretch, whole[24_000:40_000])


def test_tags_and_pictures_are_no_second_stream():
    """ID3, APE and pictures may stand before, between and after, and an ordinary file is decoded as it is."""
    sound = speech(2.0)
    mp3 = encoded(sound, "MP3", bitrate_mode="VARIABLE")
    picture = b"\xff\xd8\xff\xe0" + np.random.default_rng(0).bytes(200_000)
    size = len(picture)
    id3 = b"ID3\x03\0\0" + bytes(size >> shift & 0x7F for shift in (21, 14, 7, 0)) + picture
    ape = b"APETAGEX" + struct.pack("<IIIQ", 2000, size, 1, 0) + picture
    plain = decode(mp3)
    for tagged in (id3 + mp3, mp3 + ape, mp3 + b"TAG" + bytes(125), id3 + mp3 + id3 + ape):
        assert np.array_equal(decode(tagged), plain)
    assert len(decode(mp3 + id3 + mp3 + ape)) == 2 * len(plain)


def test_the_header_of_an_mp3_may_be_wrong_or_missing(monkeypatch):
    monkeypatch.setenv("PATH", "")
    sound = np.concatenate([np.zeros(32_000, np.float32), speech(6.0)])  # begins with the least bit rate
    whole = encoded(sound, "MP3", bitrate_mode="VARIABLE", compression_level=0.1)
    bare = without_header_frame(whole)
    assert len(bare) < len(whole)
    expected = len(decode(whole))
    assert len(decode(bare)) == pytest.approx(expected, abs=2500)
    for joined in (whole + bare, bare + whole):
        assert len(decode(joined)) == pytest.approx(2 * expected, abs=2500)


@needs_ffmpeg
@pytest.mark.parametrize("ending", ["m4a", "webm", "aac"])
def test_joined_files_that_need_ffmpeg(ending, tmp_path):
    source = write_wav(tmp_path / "a.wav", speech(2.0))
    subprocess.run(["ffmpeg", "-v", "error", "-i", source, tmp_path / f"a.{ending}"], check=True)
    part = (tmp_path / f"a.{ending}").read_bytes()
    (tmp_path / f"joined.{ending}").write_bytes(part * 2)
    assert sum(map(len, AudioBlocks(tmp_path / f"joined.{ending}"))) == pytest.approx(64_000, abs=4000)


# Headers that were never finished.


def test_a_recording_whose_header_was_never_finished_is_read_to_its_end(monkeypatch):
    monkeypatch.setenv("PATH", "")
    sound = speech(3.0)
    data = (sound * 32_767).astype("<i2").tobytes()
    tag = b"LIST" + struct.pack("<I", 26) + b"INFOISFT" + struct.pack("<I", 14) + b"Lavf59.27.100\0"
    odd = b"LIST" + struct.pack("<I", 5) + b"INFOx"
    ds64 = b"ds64" + struct.pack("<IQQQI", 28, 0, 0, 0, 0)
    full = decode(wav(data, len(data)))
    for name, content in {
        "zero": wav(data, 0, 0), "only data is zero": wav(data, 0), "largest": wav(data, MOST, MOST),
        "larger": wav(data, 2 * len(data)), "updated once": wav(data, 32_000, 32_036),
        "tag before": wav(data, 0, before=tag),
        "tag after": wav(data, len(data), after=tag), "odd chunk without its pad": wav(data, len(data), before=odd),
        "RF64": wav(data, MOST, MOST, head=b"RF64", before=ds64), "BW64": wav(data, 0, 0, head=b"BW64", before=ds64),
    }.items():  # fmt: skip
        assert np.array_equal(decode(content), full), name
    for joined in (wav(data, 0, 0) * 2, wav(data, MOST, MOST) * 2, wav(data, len(data), after=tag) * 2):
        assert np.array_equal(decode(joined), np.tile(full, 2))
    law = encoded(sound, "AU", subtype="ULAW")
    assert np.array_equal(decode(law[:8] + bytes(4) + law[12:]), decode(law))
    with pytest.raises(AudioError, match="decodes to no samples"):
        decode(wav(b"", 0, after=tag))


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("seconds", [1.0, 31.0])
def test_a_flac_from_a_pipe_states_no_length(seconds, channels, monkeypatch):
    monkeypatch.setenv("PATH", "")
    flac = encoded(np.stack([speech(seconds)] * channels, axis=1), "FLAC")
    piped = flac[:21] + bytes([flac[21] & 0xF0]) + bytes(4) + flac[26:]
    assert header_with_length(piped, len(piped)) == flac[:26]
    assert np.array_equal(decode(piped), decode(flac))
    assert len(decode(piped * 2)) == 2 * len(decode(flac))
    assert np.array_equal(np.concatenate(list(decode_blocks(piped, start=0.5))), decode(flac)[8000:])


@needs_ffmpeg
def test_ffmpeg_goes_on_where_libsndfile_fails_and_what_is_lost_is_an_error(tmp_path):
    """A FLAC that is damaged after the first block, and files that end before their headers say."""
    flac = bytearray(encode_flac(speech(65.0)))
    flac[-4000] ^= 0xFF
    blocks, came = decode_blocks(bytes(flac)), 0
    try:
        for block in blocks:
            came += len(block)
    except AudioError as error:
        assert error.reason == "incomplete"
    assert came == pytest.approx(65 * 16_000, abs=8000)
    mp3 = encoded(speech(4.0), "MP3")
    for cut in (bytes(flac[: len(flac) // 2]), mp3[: len(mp3) // 2]):
        with pytest.raises(AudioError, match=r"of the .* s that its header states") as error:
            decode(cut)
        assert error.value.reason == "incomplete"


# Levels and channels.


@pytest.mark.parametrize("kind", ["WAV", "W64", "AIFF", "CAF"])
def test_floats_above_full_scale_are_scaled_and_reported(kind):
    sound = 0.7 * speech(2.0) / np.abs(speech(2.0)).max()
    plain = decode(encoded(sound, kind, subtype="FLOAT"))
    integers = np.round(sound * 32_767)
    for loud, expected in {
        1.0: sound, 2.0: sound * 2.0 / (0.7 * 2.0), 32_768.0: sound, 2.0**31: sound,
    }.items():  # fmt: skip
        noticed: list[str] = []
        found = decode(encoded(sound * loud, kind, subtype="DOUBLE"), notice=noticed.append)
        np.testing.assert_allclose(found, expected, atol=1e-4)
        assert noticed == [SCALED] * (loud > 1)
    np.testing.assert_allclose(decode(encoded(integers, kind, subtype="FLOAT")), sound, atol=1e-3)
    assert np.abs(plain).max() == pytest.approx(0.7)
    peaks = ((1.0, True), (5.0, True), (5.0, False), (40_000.0, False), (2.0**23, True))
    assert [full_scale(*peak) for peak in peaks] == [1.0, 32_768.0, 5.0, 40_000.0, 2.0**23]
    with pytest.raises(AudioError, match="not finite numbers"):
        decode(encoded(np.append(sound, np.nan), kind, subtype="FLOAT"))


def test_channels_are_averaged_unless_that_would_lose_them():
    one, other = speech(4.0), np.roll(speech(4.0), 20_000)[::-1]
    noise = 0.01 * np.random.default_rng(0).standard_normal(len(one)).astype(np.float32)

    def mixed(*channels: np.ndarray) -> tuple[np.ndarray, list[str]]:
        noticed: list[str] = []
        found = decode(encoded(np.stack(channels, axis=1), "WAV", subtype="FLOAT"), notice=noticed.append)
        return found, noticed

    for kept in ((one, one), (one, other), (one, 0.03 * other), (one, other, noise)):  # two people; unequal; ordinary
        found, noticed = mixed(*kept)
        assert np.array_equal(found, np.stack(kept, axis=1).mean(axis=1))
        assert not noticed
    for channels, expected in (
        ((one, -one), one), ((-0.5 * one, one), one), ((one + noise, -one), one + noise), ((one, 0 * one), one),
        ((0 * one, 0 * one + 0.5, one), one), ((one, -one, other, other), (one + 2 * other) / 3),
    ):  # fmt: skip
        found, noticed = mixed(*channels)
        np.testing.assert_allclose(np.abs(found), np.abs(expected), atol=1e-5)
        assert noticed == [ONE_SIDED]
    silent = mixed(0 * one, 0 * one)[0]
    assert not silent.any()


@needs_ffmpeg
def test_channels_that_cancel_also_through_ffmpeg(tmp_path):
    source = tmp_path / "a.wav"
    soundfile.write(source, np.stack([speech(2.0), -speech(2.0)], axis=1), 16_000)
    subprocess.run(["ffmpeg", "-v", "error", "-i", source, "-c:a", "alac", tmp_path / "a.m4a"], check=True)
    np.testing.assert_allclose(decode(tmp_path / "a.m4a"), decode(source), atol=1e-6)
    whole = decode(tmp_path / "a.m4a")
    assert np.array_equal(decode(tmp_path / "a.m4a", start=0.5, seconds=1.0), whole[8000:24_000])


def test_memory_does_not_grow_with_rate_and_channels():
    many = encoded(np.zeros((384_000 * 5, 8), np.int16), "FLAC", 384_000)
    assert len(many) < 100_000
    tracemalloc.start()
    assert sum(map(len, decode_blocks(many))) == 5 * 16_000
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 40e6  # 61 MB at once, and 370 MB of 30 s


# Stretches, and what is no file.


def test_a_stretch_past_the_end_of_its_recording_is_left_out_and_counted(tmp_path):
    """Rows of 0.05 s too much are kept; what decoding changed is noted."""
    talk = np.stack([speech(6.0), -speech(6.0)], axis=1)
    soundfile.write(tmp_path / "talk.wav", talk, 16_000)
    rows = [(0.0, 2.0), (4.0, 2.05), (4.0, 2.5), (7.0, 1.0), (1.0, 2.0), (2.0, 3.0)]
    lines = [
        {"id": str(number), "audio_filepath": "talk.wav", "offset": start, "duration": seconds, "text": "sette parole",
         "split": ("train", "train", "train", "train", "dev", "test")[number]}
        for number, (start, seconds) in enumerate(rows)
    ]  # fmt: skip
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, lines)))
    folder = prepare(tmp_path / "m.jsonl", language="it", out=tmp_path / "out")
    dropped = {row["id"]: row["reason"] for row in read_jsonl(folder.dropped)}
    assert dropped == {"2": "stretch ends past its recording", "3": "no audio"}
    body = folder.read()
    assert body.splits["train"].utterances == 2
    assert f"in 4 utterances {ONE_SIDED}" in body.notes


def test_a_pipe_a_socket_or_a_device_is_not_waited_for(tmp_path, monkeypatch):
    home = tmp_path / "home"
    (home / "train").mkdir(parents=True)
    os.mkfifo(home / "pipe.wav")
    os.mkfifo(home / "text.txt")
    write_wav(home / "text.wav", speech(1.0))
    for place in (home / "pipe.wav", home / "s.wav", home / "zero.wav"):
        if place.name == "s.wav":
            monkeypatch.chdir(home)
            with socket.socket(socket.AF_UNIX) as end:
                end.bind("s.wav")
        elif place.name == "zero.wav":
            place.symlink_to("/dev/zero")
        with pytest.raises(AudioError, match="is a pipe, a socket or a device") as error:
            list(AudioBlocks(place))
        assert error.value.reason == "not a file"
    with pytest.raises(AudioError, match="is a folder"):
        decode(home)
    (home / "pipe.txt").write_text("ciao")
    for split in ("train", "dev", "test"):
        (home / split).mkdir(exist_ok=True)
        for number in range(2):
            clip = sorted((DEMO / "cv-corpus-17.0-2024-03-15" / "it" / "clips").iterdir())[number]
            shutil.copyfile(clip, home / split / f"{split}{number}.mp3")
            (home / split / f"{split}{number}.txt").write_text(f"{split} {number}")
    folder = prepare(home, language="it", out=tmp_path / "out")
    reasons = sorted(row["reason"] for row in read_jsonl(folder.dropped))
    assert "no text beside the audio" in reasons
    os.mkfifo(tmp_path / "train.parquet")
    for source in (home / "pipe.wav", tmp_path / "train.parquet"):
        with pytest.raises(DataError, match="is a pipe, a socket or a device"):
            prepare(source, language="it", out=tmp_path / "none")
    with pytest.raises(DataError, match="is no file"):
        prepare(tmp_path, language="it", out=tmp_path / "none")
    (stdin,) = find_inputs(["-"], written=True)
    with open("/dev/zero") as zeros:
        monkeypatch.setattr("sys.stdin", zeros)
        with pytest.raises(AudioError, match="terminal or a device"), open_input(stdin):
            pass


def test_an_ordinary_file_is_decoded_as_it_is(tmp_path):
    clips = sorted((DEMO / "cv-corpus-17.0-2024-03-15" / "it" / "clips").iterdir())
    for clip in clips:
        with clip.open("rb") as file:
            assert not layout_of(file, clip.name).streams
