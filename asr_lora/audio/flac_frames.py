"""Count the samples of a FLAC file whose header does not, as where it was written to a pipe (RFC 9639, section 9)."""

from typing import NamedTuple

from asr_lora.audio.samples import Content

MARK = b"fLaC"
MOST_TAIL = 4 << 20  # bytes at the end that are searched: two frames of the largest size that encoders write
MOST_STEP = 100  # damaged frames in a row


class FlacFrame(NamedTuple):
    """What the header of a frame says."""

    variable: bool  # whether frames have different sizes, so that the number is that of the first sample
    number: int
    samples: int


def without_length(data: Content) -> bool:
    """Return whether the header of a FLAC file states no number of samples."""
    return data[4] & 0x7F == 0 and data[21] & 0x0F == 0 and data[22:26] == bytes(4)


def header_with_length(data: Content, end: int) -> bytes | None:
    """Return the first 26 bytes of a FLAC file, with the number of samples that its last frame gives; None without one.

    A chance match is no frame: the numbers of frames go up one by one, or a little more where some are damaged.
    """
    before: FlacFrame | None = None
    last: FlacFrame | None = None
    block = int.from_bytes(data[8:10])  # samples of a frame where all are equal
    tail = max(42, end - MOST_TAIL)
    place = tail - 1
    while (place := data.find(b"\xff", place + 1, end)) >= 0:
        frame = _frame_header(data[place : place + 18])
        if frame is None:
            continue
        step = MOST_STEP * (65_535 if frame.variable else 1)
        follows = before is not None and 0 < frame.number - before.number <= step
        if follows or (frame.number == 0 and tail == 42 and last is None):
            last = frame
        if follows or last is None or frame.number == 0:
            before = frame
    if last is None:
        return None
    total = last.number * (1 if last.variable else block) + last.samples
    return data[:21] + bytes([data[21] & 0xF0 | total >> 32 & 0x0F]) + (total & 0xFFFFFFFF).to_bytes(4)


def _frame_header(head: bytes) -> FlacFrame | None:
    """Read a frame's header where one is; None where the bytes are none, by their checksum."""
    if len(head) < 6 or head[1] & 0xFE != 0xF8 or head[3] & 1 or head[3] >> 4 > 10:
        return None
    size_code, rate_code = head[2] >> 4, head[2] & 15
    if size_code == 0 or rate_code == 15:
        return None
    more = 0  # bytes that follow the first one of the number, as in UTF-8
    while head[4] << more & 0x80:
        more += 1
    more = max(0, more - 1)
    number = head[4] & (0x7F if not more else 0x3F >> more)
    for byte in head[5 : 5 + more]:
        number = number << 6 | byte & 0x3F
    place = 5 + more
    if size_code in (6, 7):
        width = size_code - 5
        samples = int.from_bytes(head[place : place + width]) + 1
        place += width
    else:
        samples = 192 if size_code == 1 else 576 << size_code - 2 if size_code < 6 else 256 << size_code - 8
    place += {12: 1, 13: 2, 14: 2}.get(rate_code, 0)
    if place >= len(head) or _crc8(head[:place]) != head[place]:
        return None
    return FlacFrame(bool(head[1] & 1), number, samples)


def _crc8(data: bytes) -> int:
    value = 0
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = (value << 1 ^ 0x07 if value & 0x80 else value << 1) & 0xFF
    return value
