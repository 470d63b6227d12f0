"""Read the chunks of a WAV file, to find sound that its header does not count.

A recorder that is killed leaves sizes of zero, or of what was recorded at the last update. Other programs write the
largest number where they do not know the size, or leave out the byte after a chunk of odd size.
"""

import struct
from dataclasses import dataclass

from asr_lora.audio.samples import Content

MOST_CHUNKS = 1000  # before the sound
MOST_BYTES = 2**32 - 1024  # that the 32 bits of a chunk's size can state
TAGS = (b"LIST", b"id3 ", b"ID3", b"TAG", b"bext", b"iXML", b"_PMX")  # what follows sound, perhaps cut short itself


@dataclass(frozen=True)
class WavSound:
    """Where the sound of a WAV file is, and how its header describes it."""

    format: bytes  # content of the chunk "fmt "
    start: int
    end: int
    counted: bool  # whether the header counts all of it, in a way that libsndfile reads
    exact: bool  # whether the header states no more than there is

    def header(self) -> bytes:
        """Make a header that counts all of the sound. libsndfile reads to the end where the sizes do not suffice."""
        count = min(self.end - self.start, MOST_BYTES)
        chunks = b"fmt " + struct.pack("<I", len(self.format)) + self.format + bytes(len(self.format) % 2)
        chunks += b"data" + struct.pack("<I", count)
        return b"RIFF" + struct.pack("<I", min(4 + len(chunks) + count, MOST_BYTES)) + b"WAVE" + chunks


def wav_sound(data: Content, size: int) -> WavSound | None:
    """Find the sound of a file that begins with RIFF, RF64 or BW64; None where the file is no WAV or has no sound."""
    place, layout, sizes64, aligned = 12, b"", 0, True
    for _ in range(MOST_CHUNKS):
        head = data[place : place + 8]
        if len(head) < 8:
            return None
        name, count = head[:4], struct.unpack("<I", head[4:])[0]
        place += 8
        if name == b"data":
            return _sound(data, size, place, sizes64 if count == 2**32 - 1 and sizes64 else count, layout, aligned)
        if name == b"fmt ":
            layout = data[place : place + min(count, 64)]
        elif name == b"ds64":
            sizes64 = struct.unpack("<Q", data[place + 8 : place + 16].ljust(8, b"\0"))[0]
        place += count
        if count % 2:
            padded = _is_name(data[place + 1 : place + 5])
            aligned = aligned and padded
            place += padded
    return None


def _is_name(name: bytes) -> bool:
    return len(name) == 4 and all(32 <= byte < 127 for byte in name)


def _sound(data: Content, size: int, start: int, count: int, layout: bytes, aligned: bool) -> WavSound | None:
    if len(layout) < 16:
        return None
    byte_rate = struct.unpack("<I", layout[8:12])[0]
    end = start + count
    if end >= size:
        return WavSound(
            layout, start, size, aligned and (end == size or (count > 0 and data[:4] == b"RIFF")), end == size
        )
    few = count > 0 and size - end < byte_rate // 10  # 0.1 s
    if few or _is_chunks(data, size, end) or _is_chunks(data, size, end + count % 2):
        return WavSound(layout, start, end, aligned, True)
    return WavSound(layout, start, size, False, False)


def _is_chunks(data: Content, size: int, place: int) -> bool:
    """Return whether what follows the sound are chunks to the end of the file, and no more sound."""
    for number in range(MOST_CHUNKS):
        if size - place < 8:
            return number > 0 or place >= size
        name, count = data[place : place + 4], struct.unpack("<I", data[place + 4 : place + 8])[0]
        if number == 0 and name.startswith(TAGS):
            return True
        if not _is_name(name) or place + 8 + count > size + 1:
            return False
        place += 8 + count + count % 2
    return False
