"""Transcribe files of any length with a loaded model, short files together in shared batches."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial

from tqdm import tqdm

from asr_lora.audio.decode import AudioBlocks
from asr_lora.decoding.decoding_options import DecodingOptions
from asr_lora.errors import AudioError
from asr_lora.system.progress import say
from asr_lora.transcription.inputs import Input, open_input
from asr_lora.transcription.recognise import SelectedWindow, transcribe_stream
from asr_lora.transcription.routes import Routes
from asr_lora.transcription.segments import SoundFacts, TranscriptPart
from asr_lora.transcription.sequential import transcribe_in_sequence
from asr_lora.transcription.transcriber import Transcriber


def transcribe_recordings(
    transcriber: Transcriber, entries: Sequence[Input], routes: Routes, options: DecodingOptions, *, sequential: bool
) -> Iterator[TranscriptPart]:
    """Transcribe files in their order; the last part of each file has all of its seconds.

    A file that cannot be decoded ends with a part that holds the error, and the next file follows.
    """
    if sequential:
        yield from _in_sequence(transcriber, entries, routes, options)
        return
    for part, segments in transcribe_stream(transcriber.engine, _windows(transcriber, entries, routes), options):
        yield replace(part, segments=segments)


def _windows(
    transcriber: Transcriber, entries: Sequence[Input], routes: Routes
) -> Iterator[tuple[TranscriptPart, SelectedWindow | None]]:
    for number, entry in enumerate(entries):
        selection, recognised = None, 0.0
        try:
            with open_input(entry) as file, closing(AudioBlocks(file, name=str(entry.file))) as blocks:
                for window in transcriber.windows(blocks):
                    selection = selection or routes.select(transcriber, entry, window)
                    recognised += window.seconds
                    yield TranscriptPart(window.end, file=number), SelectedWindow(window, selection)
                sound = SoundFacts(blocks.seconds, blocks.peak, recognised, transcriber.vad)
                end = TranscriptPart(blocks.seconds, file=number, sound=sound)
                _say_changes(blocks)
        except AudioError as error:
            end = TranscriptPart(0.0, file=number, error=error)
        yield end, None


def _say_changes(blocks: AudioBlocks) -> None:
    with tqdm.external_write_mode():
        for change in blocks.notices:
            say(f"note: {blocks.name}: {change}")


def _in_sequence(
    transcriber: Transcriber, entries: Sequence[Input], routes: Routes, options: DecodingOptions
) -> Iterator[TranscriptPart]:
    for number, entry in enumerate(entries):
        try:
            with open_input(entry) as file, closing(AudioBlocks(file, name=str(entry.file))) as blocks:
                select = partial(routes.select, transcriber, entry)
                for part in transcribe_in_sequence(transcriber.engine, blocks, options, select):
                    yield replace(part, file=number)
                sound = SoundFacts(blocks.seconds, blocks.peak, blocks.seconds, vad=False)
                end = TranscriptPart(blocks.seconds, file=number, sound=sound)
                _say_changes(blocks)
        except AudioError as error:
            end = TranscriptPart(0.0, file=number, error=error)
        yield end
