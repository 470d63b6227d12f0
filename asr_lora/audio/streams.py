"""Find the streams that a file holds where its first header does not tell: joined files, and headers without lengths.

Decoders read the first of several joined files and end without an error, and so they do where a header counts less
than there is. So a file is looked at before it is decoded, which takes a few reads of an ordinary one.
"""

import mmap
import os
import re
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice, pairwise
from typing import IO

from asr_lora.audio.flac_frames import MARK, header_with_length, without_length
from asr_lora.audio.mp3_frames import first_frame, mp3_streams, xing_frame, xing_header
from asr_lora.audio.wav_chunks import wav_sound
from asr_lora.errors import AudioError

MOST_STREAMS = 10_000  # in a file
SOME = 65_536  # bytes at the beginning in which the first frame of an MP3 is
TIMED = (b"ftyp", b"\x1aE\xdf\xa3")  # containers whose packets have times, so that ffmpeg finds a place in them exactly
AU = b".snd"
W64 = bytes.fromhex("726966662e91cf11a5d628db04c10000")  # GUID
ASF = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")  # GUID
JOINED = {  # first bytes of a file -> what is there again where another file of the kind was joined to it
    MARK: rb"fLaC[\x00\x80]\x00\x00\x22",
    AU: rb"\.snd\x00\x00[\s\S]{6}\x00\x00\x00[\x01-\x1b]\x00",
    b"caff": rb"caff\x00[\x01\x02]\x00\x00desc",
    b"FORM": rb"FORM[\s\S]{4}AIF[FC]",
    b"#!AMR": rb"#!AMR(-WB)?\n",
    b"FLV\x01": rb"FLV\x01[\x01\x04\x05]\x00\x00\x00\x09\x00{4}",
    W64: re.escape(W64),
    ASF: re.escape(ASF),
    b"\x1aE\xdf\xa3": rb"\x1aE\xdf\xa3[\s\S]{1,60}?(webm|matroska)",
    b"RIFF": rb"RIFF[\s\S]{4}(WAVE|AVI )",
    b"RF64": rb"RF64[\s\S]{4}WAVE",
    b"BW64": rb"BW64[\s\S]{4}WAVE",
}


@dataclass(frozen=True)
class Stream:
    """A stream within a file: some bytes, and before them a header that states its true length."""

    start: int
    end: int
    header: bytes = b""


@dataclass(frozen=True)
class Layout:
    """What a file holds.

    Attributes:
        streams: to decode one after another; none where the file is to be decoded as it is.
        length_stated: whether the header says how long it is, and a decoder does not only estimate it.
        timed: whether ffmpeg finds a place in it exactly.
    """

    streams: tuple[Stream, ...] = ()
    length_stated: bool = True
    timed: bool = False


def layout_of(file: IO[bytes], name: str) -> Layout:
    """Find the streams of a file that is not empty.

    Raises:
        AudioError: it holds too many streams.
    """
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        size, head = len(data), data[:16]
        if head.startswith(b"OggS"):
            return _split(_ogg_starts(data), size, name)
        if head[4:8] == b"ftyp":
            return Layout(_split(_mp4_starts(data, size), size, name).streams, timed=True)
        mark = next((mark for mark in JOINED if head.startswith(mark)), None)
        if mark is not None:
            return _marked(data, size, mark, name)
        start = _after_id3(data)
        if start and data[start : start + 4] == MARK:
            alone = next(_found(data, JOINED[MARK], MARK, start + 1), None) is None
            return Layout(() if alone and not without_length(data[start : start + 42]) else (Stream(start, size),))
        return _mp3(data, start, size)


def _split(starts: Iterable[int], size: int, name: str) -> Layout:
    places = list(islice(starts, MOST_STREAMS + 1))
    if len(places) > MOST_STREAMS:
        raise AudioError("not audio", f"{name} holds more than {MOST_STREAMS} joined files")
    return Layout(tuple(Stream(*place) for place in pairwise([*places, size])) if len(places) > 1 else ())


def _marked(data: mmap.mmap, size: int, mark: bytes, name: str) -> Layout:
    """Look for a second file of the kind, and in a single WAV or FLAC for the true length."""
    after = 1
    sound = wav_sound(data, size) if mark in (b"RIFF", b"RF64", b"BW64") and data[8:12] == b"WAVE" else None
    if sound is not None:
        if sound.counted and sound.exact and size - sound.end < 44:  # an ordinary file: nothing is searched
            return Layout()
        after = sound.end if sound.exact else sound.start
    split = _split(chain([0], _found(data, JOINED[mark], mark, after)), size, name)
    if split.streams:
        return split
    if sound is not None and not sound.counted:
        return Layout((Stream(sound.start, sound.end, sound.header()),))
    if mark == AU and 0 < size - int.from_bytes(data[4:8]) > int.from_bytes(data[8:12]):
        return Layout((Stream(12, size, data[:8] + b"\xff" * 4),))  # the size of the sound is not known
    if mark == MARK and size > 42 and without_length(data[:42]):
        header = header_with_length(data, size)
        return Layout((Stream(len(header), size, header),)) if header else Layout()
    return Layout(timed=mark in TIMED)


def _found(data: mmap.mmap, pattern: bytes, mark: bytes, place: int) -> Iterator[int]:
    match = re.compile(pattern).match
    while (place := data.find(mark, place)) >= 0:
        if match(data, place):
            yield place
        place += 1


def _ogg_starts(data: mmap.mmap) -> Iterator[int]:
    """Yield where groups of first pages begin; the streams of one group are played together."""
    group_end = -1
    place = 0
    while (place := data.find(b"OggS\x00", place)) >= 0:
        head = data[place : place + 27]
        if len(head) == 27 and head[5] & 0xFE == 2 and head[6:14] == bytes(8) and head[18:22] == bytes(4):
            if place != group_end:
                yield place
            group_end = place + 27 + head[26] + sum(data[place + 27 : place + 27 + head[26]])
        place += 27


def _mp4_starts(data: mmap.mmap, size: int) -> Iterator[int]:
    """Yield where a box "ftyp" begins after a whole movie."""
    place, seen = 0, {b"moov", b"mdat"}
    while place + 8 <= size:
        length, name = struct.unpack(">I4s", data[place : place + 8])
        if length == 1:
            length = struct.unpack(">Q", data[place + 8 : place + 16].ljust(8, b"\0"))[0]
        if name == b"ftyp" and {b"moov", b"mdat"} <= seen:
            yield place
            seen = set()
        seen.add(name)
        if length < 8:  # 0: to the end of the file
            return
        place += length


def _after_id3(data: mmap.mmap) -> int:
    """Where the sound begins after the ID3v2 tags at the beginning."""
    place = 0
    while (head := data[place : place + 10])[:3] == b"ID3" and len(head) == 10:
        length = 0
        for byte in head[6:]:
            length = length << 7 | byte & 0x7F
        place += 10 + length + (10 if head[5] & 0x10 else 0)
    return place


def _mp3(data: mmap.mmap, place: int, size: int) -> Layout:
    """Walk the frames where the Xing header does not account for the whole file, or where there is none."""
    found = first_frame(data, place, min(size, place + SOME))
    if found is None or (place == 0 and found):  # another container, of which perhaps a part looks like frames
        return Layout(length_stated=False)
    place = found
    header = xing_header(data, place)
    if header is not None and None not in header[:2] and header[2]:
        rest = place + (header[1] or 0)
        if size - rest < 256 or first_frame(data, rest, size) is None:
            return Layout()
    streams = mp3_streams(data, place, size)
    if len(streams) == 1 and streams[0].stated:
        return Layout()
    if len(streams) < 2 and all(stream.constant for stream in streams):
        return Layout(length_stated=False)
    parts = (Stream(each.start, each.end, b"" if each.stated else xing_frame(data, each)) for each in streams)
    return Layout(tuple(parts))


def copy_stream(file: IO[bytes], stream: Stream, out: IO[bytes]) -> Iterator[None]:
    """Copy a stream to a file of its own; yields after each megabyte, so that the caller can stop."""
    out.write(stream.header)
    place = stream.start
    while place < stream.end and (piece := os.pread(file.fileno(), min(1 << 20, stream.end - place), place)):
        out.write(piece)
        place += len(piece)
        yield
    out.flush()
