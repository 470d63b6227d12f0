"""Walk the frames of an MP3 file, to find streams that were joined and how long each of them is.

Decoders trust the Xing header in a stream's first frame, and without one the bit rate of that frame. So they end where
the first of several joined streams ends, or where a stream of constant rate would end.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

from asr_lora.audio.samples import Content

FEWEST = 4  # frames in a row, about 0.1 s, that are no chance
MAX_GAP = 1024  # bytes that are no frames, which mpg123 passes over
RATES = (44_100, 48_000, 32_000)  # Hz, of MPEG 1; halves and quarters in MPEG 2 and 2.5
BIT_RATES = {  # (MPEG 1, layer) -> kbit/s of the indices from 1, as in ISO 11172-3, 2.4.2.3, and ISO 13818-3, 2.4.2.3
    (True, 1): tuple(range(32, 449, 32)),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}


class Frame(NamedTuple):
    """What the four bytes at the beginning of a frame say."""

    kind: tuple[int, int, bool]  # layer, sample rate and whether it is mono: equal in all frames of a stream
    bytes: int
    bit_rate: int  # kbit/s


@dataclass
class Mp3Stream:
    """Frames that one encoder wrote."""

    start: int  # offset of its first frame
    kind: tuple[int, int, bool]
    stated: int | None  # frames that its Xing header states
    end: int = 0
    frames: int = 0  # with sound
    bit_rates: set[int] = field(default_factory=set)

    @property
    def constant(self) -> bool:
        return len(self.bit_rates) < 2


@lru_cache(maxsize=4096)
def _frame(header: bytes) -> Frame | None:
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE0 != 0xE0:
        return None
    version, layer = header[1] >> 3 & 3, 4 - (header[1] >> 1 & 3)
    index, rate_index, padding = header[2] >> 4, header[2] >> 2 & 3, header[2] >> 1 & 1
    if version == 1 or layer == 4 or index in (0, 15) or rate_index == 3:
        return None
    first = version == 3
    rate = RATES[rate_index] // {3: 1, 2: 2, 0: 4}[version]
    bit_rate = BIT_RATES[first, layer][index - 1]
    if layer == 1:
        length = (12_000 * bit_rate // rate + padding) * 4
    else:
        length = (144_000 if first or layer == 2 else 72_000) * bit_rate // rate + padding
    return Frame((layer, rate, header[3] >> 6 == 3), length, bit_rate)


def frame_at(data: Content, place: int) -> Frame | None:
    """Read the header of the frame at a place; None where there is none."""
    return _frame(data[place : place + 4])


def xing_header(data: Content, place: int) -> tuple[int | None, int | None, bool] | None:
    """Return frames and bytes that a Xing or VBRI header states, and whether libsndfile reads it; None without one."""
    head = data[place : place + 64]
    if head[36:40] == b"VBRI":
        size, frames = struct.unpack(">II", head[46:54]) if len(head) >= 54 else (0, 0)
        return frames or None, size or None, False
    at = _xing_place(head)
    if head[at : at + 4] not in (b"Xing", b"Info"):
        return None
    flags, one, two = struct.unpack(">III", head[at + 4 : at + 16])
    frames = one if flags & 1 else None
    size = (two if flags & 1 else one) if flags & 2 else None
    return frames or None, size or None, True


def _xing_place(header: bytes | bytearray) -> int:
    """Return where a Xing header is in a frame: after the frame's header and its side information."""
    mono, first = header[3] >> 6 == 3, header[1] >> 3 & 3 == 3
    return 4 + ((17 if mono else 32) if first else (9 if mono else 17))


def first_frame(data: Content, place: int, end: int) -> int | None:
    """Return where the next few frames in a row begin, or None."""
    while (place := data.find(b"\xff", place, end)) >= 0:
        if _in_a_row(data, place, end):
            return place
        place += 1
    return None


def _in_a_row(data: Content, place: int, end: int) -> bool:
    kind = None
    for _ in range(FEWEST):
        frame = frame_at(data, place)
        if frame is None or frame.kind != (kind or frame.kind) or place + frame.bytes > end:
            return False
        kind, place = frame.kind, place + frame.bytes
    return True


def mp3_streams(data: Content, place: int, end: int) -> list[Mp3Stream]:
    """Find the streams between two offsets; a stream of fewer than `FEWEST` frames is none."""
    return [stream for stream in _streams(data, place, end) if stream.frames >= FEWEST]


def _streams(data: Content, place: int, end: int) -> Iterator[Mp3Stream]:
    stream: Mp3Stream | None = None
    while place + 4 <= end:
        frame = frame_at(data, place)
        if frame is None or (stream is None and not _in_a_row(data, place, end)):
            found = first_frame(data, place, end)
            if found is None:
                break
            if stream is not None and found - place > MAX_GAP:
                yield stream
                stream = None
            place = found
            continue
        header = xing_header(data, place)
        if stream is None or header or frame.kind != stream.kind or stream.frames == stream.stated:
            if stream is not None:
                yield stream
            stated = header[0] if header and header[2] else None
            stream = Mp3Stream(place, frame.kind, stated)
            if header and stated is None:
                stream.start = place + frame.bytes  # without a header of which libsndfile makes nothing but silence
        if not header:
            stream.frames += 1
            stream.bit_rates.add(frame.bit_rate)
        place += frame.bytes
        stream.end = min(place, end)
    if stream is not None:
        yield stream


def xing_frame(data: Content, stream: Mp3Stream) -> bytes:
    """Make a frame with a Xing header that states the frames of a stream that has no such header."""
    header = bytearray(data[stream.start : stream.start + 4])
    header[1] |= 1  # no checksum
    header[2] = header[2] & 0x0D | 0x90  # 128 kbit/s in MPEG 1, 80 in MPEG 2: room for the header; no padding
    frame = _frame(bytes(header))
    assert frame is not None
    at = _xing_place(header)
    size = frame.bytes + stream.end - stream.start
    body = bytes(header).ljust(at, b"\0") + b"Xing" + struct.pack(">III", 3, stream.frames, size)
    return body.ljust(frame.bytes, b"\0")
