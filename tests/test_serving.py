"""The server: held against OpenAI's own client, hostile clients, and a real browser."""

import asyncio
import contextlib
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
import urllib.request
from collections import Counter
from dataclasses import replace
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import openai
import pytest
import soundfile
import torch
from benchmarks import serve_load
from benchmarks.serve_load import Target, form, post
from conftest import attach, speech, write_wav
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import FormData

from asr_lora import transcribe
from asr_lora.audio import ffmpeg as media
from asr_lora.audio.decode import decode_blocks
from asr_lora.cli.verbs import app
from asr_lora.config import AdapterSettings
from asr_lora.decoding.decoding_options import DecodingOptions
from asr_lora.decoding.loading import EngineName
from asr_lora.errors import ConfigError
from asr_lora.language import ForcedPrompt
from asr_lora.model.adapters.files import save_weights
from asr_lora.model.whisper import load_whisper
from asr_lora.serving import http_timeouts as protocol
from asr_lora.serving import served_model, uploads
from asr_lora.serving.access import AccessPolicy
from asr_lora.serving.answers import full_text
from asr_lora.serving.api_errors import ApiError
from asr_lora.serving.limits import Limits, RequestQueue
from asr_lora.serving.request_job import ClientWatch, RequestRunner
from asr_lora.serving.request_options import RequestOptions, read_options
from asr_lora.serving.serve import Server, listen_on, read_key, serve
from asr_lora.serving.served_model import Cancelled, load_served_model
from asr_lora.serving.shared_batches import BatchRequest, BatchScheduler
from asr_lora.transcription import transcribe as transcribe_job
from asr_lora.transcription.longform import Window
from asr_lora.transcription.recognise import SelectedWindow, transcribe_windows

MEGABYTE = 2**20


@pytest.fixture(scope="module", autouse=True)
def _few_tokens():
    """Random weights write until they are stopped, and are never trusted."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (served_model, transcribe_job):
            patch.setattr(module, "DecodingOptions", partial(DecodingOptions, max_new_tokens=10))
            patch.setattr(module, "FALLBACK_TEMPERATURES", (0.2,))
        yield


@pytest.fixture(scope="module")
def tiny(tiny_folder, tmp_path_factory) -> Path:
    """The tiny model, told which of its own heads know when a word is said."""
    folder = shutil.copytree(tiny_folder, tmp_path_factory.mktemp("served") / "tiny")
    settings = json.loads((folder / "generation_config.json").read_text(encoding="utf-8"))
    (folder / "generation_config.json").write_text(json.dumps({**settings, "alignment_heads": [[0, 0], [1, 1]]}))
    return folder


@pytest.fixture(scope="module")
def adapters(tiny, tmp_path_factory) -> dict[str, str]:
    """Two adapters on the tiny model that change what it says."""
    found = {}
    for seed, name in enumerate(("it", "cs")):
        torch.manual_seed(seed)
        whisper = attach(load_whisper(str(tiny), ForcedPrompt(name)), AdapterSettings(rank=4))
        for parameter in whisper.model.parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, std=0.5)
        folder = tmp_path_factory.mktemp("adapters") / name
        save_weights(whisper, folder)
        found[name] = str(folder)
    return found


@pytest.fixture(scope="module")
def models(tiny, adapters):
    return load_served_model(str(tiny), adapters, names=["whisper-1=cs"], language="it", max_seconds=90.0, vad=False)


@contextlib.contextmanager
def running(models, limits: Limits = Limits(upload_bytes=8 * MEGABYTE), key: str | None = None):  # noqa: B008 (frozen)
    """A server in a thread: its port and its runner."""
    runner = RequestRunner(models, limits)
    server = Server(runner, AccessPolicy("127.0.0.1", key))
    with listen_on("127.0.0.1", 0) as listener:
        thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])))
        thread.start()
        try:
            wait_for(lambda: server.started)
            yield listener.getsockname()[1], runner
        finally:
            server.should_exit = True
            thread.join(20)
            assert not thread.is_alive()
            runner.batches.thread.shutdown()


def wait_for(what, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture(scope="module")
def served(models):
    with running(models) as (port, runner):
        yield port, runner


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    """Four seconds of real speech."""
    return write_wav(tmp_path_factory.mktemp("clips") / "clip.wav", speech(4.0))


@pytest.fixture(scope="module")
def target(served, clip) -> Target:
    return Target(served[0], "it", clip.read_bytes())


def client(port: int, key: str = "none", **options) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key=key, max_retries=0, **options)


def send(target: Target, body, **options) -> tuple[int, dict]:
    """Status and error of one request."""
    status, text = asyncio.run(post(target, body, **options))
    return status, json.loads(text.partition(b"\r\n\r\n")[2])


# OpenAI's own client


def test_openais_client_gets_what_transcribe_writes(served, clip, tiny, adapters):
    port, _ = served
    api = client(port).audio.transcriptions
    listed = client(port).models.list()
    assert [(model.id, model.to_dict()["adapter"]) for model in listed] == [
        (tiny.name, False), ("it", True), ("cs", True), ("whisper-1", True),
    ]  # fmt: skip
    greedy, texts = partial(transcribe, engine="torch", beams=1), {}
    for model in ("it", "cs"):
        with clip.open("rb") as file:
            texts[model] = api.create(file=file, model=model).text
        (job,) = greedy(str(tiny), [f"{clip}:{model}"], adapters=adapters, vad=False)
        assert texts[model] == " ".join(segment.text for segment in job.segments)
    (job,) = greedy(str(tiny), [clip], language="it", vad=False, words=False)
    texts["base"] = api.create(file=clip, model=tiny.name).text
    assert texts["base"] == " ".join(segment.text for segment in job.segments)
    assert len(set(texts.values())) == 3  # each adapter, and none, says something else
    assert api.create(file=clip, model="whisper-1").text == texts["cs"]  # another name of the same
    assert api.create(file=clip, model="it").text == texts["it"]  # and nothing of another is left behind


def test_every_response_format(served, clip):
    api = client(served[0]).audio.transcriptions
    whole = api.create(
        file=clip, model="it", response_format="verbose_json", timestamp_granularities=["word", "segment"]
    )
    assert whole.language == "italian"
    assert whole.duration == pytest.approx(4.0)
    assert whole.text == api.create(file=clip, model="it", response_format="text").removesuffix("\n")
    assert [segment.text.strip() for segment in whole.segments]
    assert whole.words
    assert all(0 <= word.start <= word.end <= 4.0 for word in whole.words)
    only = api.create(file=clip, model="it", response_format="verbose_json", timestamp_granularities=["segment"])
    assert only.segments
    assert not only.words
    assert api.create(file=clip, model="it", response_format="vtt").startswith("WEBVTT\n\n00:00:0")
    assert re.match(r"1\n00:00:00,\d{3} --> ", api.create(file=clip, model="it", response_format="srt"))


def test_text_is_streamed_window_by_window(served, tmp_path):
    long = write_wav(tmp_path / "long.wav", speech(60.0))
    api = client(served[0]).audio.transcriptions
    events = list(api.create(file=long, model="it", stream=True, temperature=1.0))
    deltas = [event.delta for event in events if event.type == "transcript.text.delta"]
    assert len(deltas) >= 2
    assert events[-1].type == "transcript.text.done"
    assert "".join(deltas) == events[-1].text


def test_prompt_language_and_temperature_reach_the_decoder(served, clip):
    api = client(served[0]).audio.transcriptions
    plain = api.create(file=clip, model="it").text
    assert api.create(file=clip, model="it", prompt="Buongiorno a tutti.").text != plain
    assert api.create(file=clip, model="it", temperature=1.0).text != plain
    told = api.create(file=clip, model="it", language="de", response_format="verbose_json")
    assert told.language == "german"
    assert told.text != plain


def test_errors_are_those_that_openais_client_knows(served, clip):
    api = client(served[0]).audio.transcriptions
    with pytest.raises(openai.NotFoundError) as unknown:
        api.create(file=clip, model="whisper-9")
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as broken:
        api.create(file=b"no sound", model="it")
    code = "invalid_audio" if shutil.which("ffmpeg") else "unsupported_format"
    assert (broken.value.code, broken.value.param) == (code, "file")
    with pytest.raises(openai.BadRequestError, match="no sound"):
        list(api.create(file=b"no sound".ljust(99), model="it", stream=True, prompt="no sound", language="no sound"))


def test_the_language_of_a_base_without_a_record_is_detected(tiny, clip):
    models = load_served_model(str(tiny), {}, max_seconds=60, vad=False)
    with running(models) as (port, _):
        answer = client(port).audio.transcriptions.create(file=clip, model=tiny.name, response_format="verbose_json")
    assert answer.language
    assert answer.text


# Limits


def test_a_full_queue_refuses_and_a_client_that_leaves_is_stopped(models, tmp_path):
    long = write_wav(tmp_path / "long.wav", speech(85.0)).read_bytes()
    with running(models, Limits(concurrency=1, queue=1)) as (port, runner):
        target = Target(port, "cs", long)
        body = form(long, {"model": "cs", "temperature": "1"})
        with slowly(runner), socket.create_connection(("127.0.0.1", port)) as first:
            first.sendall(request_head(body) + body)
            wait_for(lambda: runner.queue.working == 1)
            with socket.create_connection(("127.0.0.1", port)) as second:
                second.sendall(request_head(body) + body)
                wait_for(lambda: runner.queue.waiting == 1)
                status, text = asyncio.run(post(target, body))
                assert status == 429
                assert int(re.search(rb"retry-after: (\d+)", text)[1]) >= 1
                assert json.loads(text.partition(b"\r\n\r\n")[2])["error"]["code"] == "server_busy"
            wait_for(lambda: runner.queue.waiting == 0)  # who waits may leave, too
        wait_for(lambda: runner.queue.working == 0 and runner.spool.used == 0)
        assert runner.metrics.registry.get_sample_value("asr_lora_errors_total", {"code": "client_gone"}) == 2
        assert client(port).audio.transcriptions.create(file=long[: 44 + 32_000], model="cs").text  # the model is whole


@contextlib.contextmanager
def slowly(runner: RequestRunner, seconds: float = 0.02):
    """Let a model take its time over every token, so that there is time to leave."""
    hook = runner.model.whisper.core.proj_out.register_forward_hook(lambda *_: time.sleep(seconds))
    try:
        yield
    finally:
        hook.remove()


def test_a_request_has_its_time(models, clip):
    with running(models, Limits(timeout=0.2)) as (port, runner), slowly(runner):
        with pytest.raises(openai.InternalServerError) as late:
            client(port).audio.transcriptions.create(file=clip, model="it")
        assert late.value.code == "timeout"
        assert late.value.response.headers["x-should-retry"] == "false"
        wait_for(lambda: runner.queue.working == 0)


def test_requests_take_turns(models, tmp_path):
    """Of two at once the short one is done first, and neither hears the other's adapter."""
    files = {"cs": write_wav(tmp_path / "long.wav", speech(85.0)), "it": write_wav(tmp_path / "short.wav", speech(1.0))}

    async def hear(runner: RequestRunner, name: str, order: list[str]) -> str:
        watch = ClientWatch(asyncio.Event().wait, 600)
        async with contextlib.aclosing(
            runner.transcribe(files[name], RequestOptions(name, temperature=1.0, stream=True), watch)
        ) as pieces:
            text = ""
            async for piece in pieces:
                order.append(name)
                text += full_text(piece.segments)
        watch.close()
        return text

    async def both() -> None:
        runner, order = RequestRunner(models, Limits(concurrency=2)), []
        alone = [await hear(runner, name, []) for name in files]
        assert await asyncio.gather(*(hear(runner, name, order) for name in files)) == alone
        assert all(alone)
        assert order[:5].count("it") == 2  # a window and the end
        assert order[5:].count("cs") >= 1
        runner.batches.thread.shutdown()

    asyncio.run(both())


@pytest.fixture
def sharing(models):
    """The model's thread, and the numbers of windows that its encoder is given at once."""
    shared, sizes = BatchScheduler(models), []
    encoder = models.whisper.core.model.encoder
    hook = encoder.register_forward_hook(lambda _, given, found: sizes.append(len(found[0])))
    yield shared, sizes
    hook.remove()
    shared.thread.shutdown()


def transcribed_at_once(sharing: BatchScheduler, callers: list[BatchRequest], seconds: list[float]) -> list:
    """What callers get who all wait when the model has time for them: texts, or what went wrong."""
    busy = threading.Event()
    sharing.thread.submit(busy.wait)
    answers = [
        sharing.submit(caller, [Window(0.0, speech(length))]) for caller, length in zip(callers, seconds, strict=True)
    ]
    busy.set()
    return [answer.exception(60) or full_text(answer.result()) for answer in answers]


def caller(models, model: str, **options) -> BatchRequest:
    return BatchRequest(DecodingOptions(max_new_tokens=10, **options), models.selections[model], threading.Event())


def test_requests_that_wait_share_a_batch(models, sharing):
    """Of several adapters, with the text that each gets alone."""
    shared, sizes = sharing
    names, lengths = ["it", "cs", models.name, "cs"], [2.0, 3.0, 4.0, 1.5]
    alone = [
        transcribed_at_once(shared, [caller(models, name)], [length])[0]
        for name, length in zip(names, lengths, strict=True)
    ]
    assert len(set(alone)) == 4
    assert transcribed_at_once(shared, [caller(models, name) for name in names], lengths) == alone
    assert sizes == [1, 1, 1, 1, 4]


def test_ctranslate2_serves_too(ctranslate2_folder):
    """A client who leaves is noticed at the end of a batch there, since nothing may look at its tokens."""
    models = load_served_model(
        str(ctranslate2_folder), {}, language="it", max_seconds=90.0, engine=EngineName.CTRANSLATE2
    )
    shared, asked = BatchScheduler(models), caller(models, models.name)
    (text,) = transcribed_at_once(shared, [asked], [4.0])
    (alone,) = transcribe_windows(
        models.transcriber.engine, [SelectedWindow(Window(0.0, speech(4.0)), asked.selection)], asked.options
    )
    assert text == full_text(alone) != ""
    asked.cancelled.set()
    assert isinstance(transcribed_at_once(shared, [asked], [4.0])[0], Cancelled)
    shared.thread.shutdown()


def test_unlike_requests_share_no_batch(models, sharing):
    shared, sizes = sharing
    unlike = [{}, {"previous": (440, 441)}, {"word_times": True}, {"beams": 2}]
    callers = [caller(models, "it", **options) for options in unlike]
    callers += [
        replace(caller(models, "it"), options=DecodingOptions(temperature=0.5, max_new_tokens=10)) for _ in range(2)
    ]
    callers += [caller(models, "cs")]
    assert all(isinstance(text, str) for text in transcribed_at_once(shared, callers, [1.0] * 7))
    assert sizes == [2, 1, 1, 1, 1, 1]  # the first and the last; what is drawn is heard alone


def test_who_leaves_a_batch_leaves_the_others_theirs(models, sharing):
    shared, sizes = sharing
    callers = [caller(models, "it"), caller(models, "cs"), caller(models, "it")]
    tokens = []

    def leave(*_) -> None:
        tokens.append(len(sizes))
        if len(tokens) == 4:
            callers[1].cancelled.set()

    hook = models.whisper.core.proj_out.register_forward_hook(leave)
    found = transcribed_at_once(shared, callers, [2.0, 2.0, 3.0])
    hook.remove()
    assert isinstance(found[1], Cancelled)
    assert sizes == [3, 2]
    assert tokens.count(1) == 4  # stopped at the next token
    assert [found[0], found[2]] == transcribed_at_once(shared, [callers[0], callers[2]], [2.0, 3.0])


def test_an_error_of_one_request_is_no_others(models, sharing):
    shared, _ = sharing
    broken = caller(models, "it")
    broken.selection = replace(broken.selection, adapter="nobody")
    found = transcribed_at_once(shared, [caller(models, "it"), broken, caller(models, "cs")], [2.0, 2.0, 2.0])
    assert isinstance(found[1], Exception)
    assert not isinstance(found[1], Cancelled)
    assert all(isinstance(text, str) and text for text in (found[0], found[2]))


def test_first_come_first_served():
    async def all_of_them() -> list[int]:
        queue, order = RequestQueue(Limits(concurrency=1, queue=3)), []

        async def one(number: int) -> None:
            async with queue.slot():
                await asyncio.sleep(0)
                order.append(number)

        done = await asyncio.gather(*map(one, range(6)), return_exceptions=True)
        assert [getattr(error, "status", None) for error in done] == [None] * 4 + [429] * 2
        assert (queue.waiting, queue.working) == (0, 0)
        return order

    assert asyncio.run(all_of_them()) == [0, 1, 2, 3]


# What only ffmpeg reads

needs_ffmpeg = pytest.mark.skipif(not shutil.which("ffmpeg"), reason="the ffmpeg program is not installed")


def encoded(path: Path, *given: object) -> Path:
    """A file made by ffmpeg from what is given, with a sound as it is."""
    subprocess.run(["ffmpeg", "-v", "error", *map(str, given), f"file:{path}"], check=True)
    return path


@needs_ffmpeg
@pytest.mark.parametrize("ending", ["m4a", "webm"])
def test_what_phones_record_is_heard(served, clip, tmp_path, ending):
    made = encoded(tmp_path / f"voice.{ending}", "-i", clip)
    plain = tmp_path / "plain.wav"
    soundfile.write(plain, np.concatenate(list(decode_blocks(made))), 16_000, subtype="FLOAT")
    api = client(served[0]).audio.transcriptions
    answer = api.create(file=made, model="it", response_format="verbose_json")
    assert answer.duration == pytest.approx(4.0, abs=0.2)
    assert answer.text == api.create(file=plain, model="it").text


class Watched(BaseHTTPRequestHandler):
    """A server in the machine's network that nobody outside may reach."""

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        self.send_error(404)

    def log_message(self, *_: object) -> None:
        pass


@needs_ffmpeg
def test_a_playlist_of_files_and_addresses_is_not_read(target, tmp_path):
    secret = write_wav(tmp_path / "secret.wav", speech(1.0))
    with HTTPServer(("127.0.0.1", 0), Watched) as inside:
        inside.asked = []
        threading.Thread(target=inside.serve_forever, args=(0.1,), daemon=True).start()
        address = f"http://127.0.0.1:{inside.server_port}/x.wav"
        m3u8 = "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{}\n#EXT-X-ENDLIST\n"
        trap = tmp_path / "trap.m3u8"
        trap.write_text(m3u8.format(address))
        trusting = ["ffmpeg", "-v", "quiet", "-protocol_whitelist", "file,http,tcp", "-i", trap, "-f", "null", "-"]
        subprocess.run(trusting, check=False)
        assert inside.asked  # ffmpeg that trusts it walks into it
        inside.asked.clear()
        for body in (
            *(m3u8.format(place) for place in (f"file://{secret}", address, f"concat:{secret}|{secret}")),
            *(f"ffconcat version 1.0\nfile '{place}'\n" for place in (secret, f"subfile,,:{secret}")),
            f'<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><BaseURL>{address}</BaseURL></MPD>',
            f"v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=audio {inside.server_port} RTP/AVP 0\n",
        ):
            status, found = send(target, form(body.encode(), {"model": "it"}, "a.m4a"))
            assert (status, found["error"]["code"], found["error"]["param"]) == (400, "invalid_audio", "file")
            assert str(tmp_path) not in found["error"]["message"]
        inside.shutdown()
    assert inside.asked == []


@needs_ffmpeg
def test_an_hour_in_a_small_file_is_cut_off(target, tmp_path):
    source = ["-f", "lavfi", "-i", "anullsrc=r=8000:cl=mono", "-t", 3600, "-c:a", "flac"]
    bomb = encoded(tmp_path / "bomb.mka", *source).read_bytes()
    assert len(bomb) < MEGABYTE
    status, found = send(target, form(bomb, {"model": "it"}, "a.webm"))
    assert (status, found["error"]["code"]) == (400, "audio_too_long")
    assert not children()


def children() -> list[Path]:
    """Programs that this process has started, dead ones that nobody waited for included."""
    numbers, found = [], []
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):  # gone meanwhile
            numbers += (task / "children").read_text().split()
    for child in (Path("/proc", number) for number in numbers):
        with contextlib.suppress(OSError):
            found += [child] if (child / "comm").read_text().strip() in ("ffmpeg", "sleep") else []
    return found


def bounded(child: Path) -> bool:
    limits = (child / "limits").read_text()
    return all(
        re.search(rf"Max {what} +{most} ", limits) for what, most in (("address space", 2**31), ("cpu time", 3600))
    )


def test_an_ffmpeg_that_hangs_is_ended(models, tmp_path, monkeypatch):
    """When the time is up, when its client leaves, and when it has said nothing for long."""
    (tmp_path / "ffmpeg").write_text("#!/bin/sh\nexec /bin/sleep 600\n")
    (tmp_path / "ffmpeg").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    body = form(b"\0\0\0\x20ftypM4A " + bytes(200), {"model": "it"})
    with running(models, Limits(timeout=0.5)) as (port, runner):
        assert send(Target(port, "it", b""), body)[1]["error"]["code"] == "timeout"
        wait_for(lambda: not children() and runner.queue.working == 0)
    with running(models) as (port, runner):
        with socket.create_connection(("127.0.0.1", port)) as leaving:
            leaving.sendall(request_head(body) + body)
            wait_for(lambda: any(map(bounded, children())))
        wait_for(lambda: not children() and runner.queue.working == 0)
        monkeypatch.setattr(media, "MAX_IDLE_POLLS", 2)
        assert send(Target(port, "it", b""), body)[1]["error"]["code"] == "invalid_audio"
        assert not children()
        monkeypatch.setenv("PATH", "")
        status, found = send(Target(port, "it", b""), body)
    assert (status, found["error"]["code"], found["error"]["param"]) == (400, "unsupported_format", "file")
    assert found["error"]["message"].endswith("cannot read: send WAV, FLAC, OGG, Opus or MP3")


# Hostile clients


def test_hostile_clients_and_many(models, clip, monkeypatch):
    """All of tests/benchmarks/serve_load.py in small: nothing falls over, and nothing stays behind."""
    monkeypatch.setattr(protocol, "HEADER_SECONDS", 2.0)  # later than the other clock, whose answer is to be read
    monkeypatch.setattr(uploads, "STALL_SECONDS", 0.5)
    before = deleted_files()
    with running(models, Limits(upload_bytes=MEGABYTE, queue=8), key="correct-horse") as (port, runner):
        target = Target(port, "it", clip.read_bytes(), "correct-horse")
        found = asyncio.run(serve_load.attack(serve_load.hostile(target, MEGABYTE, models.max_seconds, 0.05)))
        expected = {
            "huge, and says so": {413}, "huge, in chunks": {413}, "slow head": {0}, "slow body": {408},
            "broken form": {200, 400, 408}, "bomb": {400}, "wrong type": {200, 400, 415}, "wrong fields": {400, 404},
            "names of paths": {200, 400}, "wrong key": {401, 400}, "wrong host": {421, 400}, "wrong origin": {403},
            "wrong address": {404},
        }  # fmt: skip
        for kind, counts in found.items():
            assert set(counts) <= expected[kind] | {429}, (kind, counts)
        assert found["names of paths"][200] or found["names of paths"][429]
        answers = asyncio.run(serve_load.load(target, 40))
        assert set(Counter(status for status, _ in answers)) == {200, 429}
        wait_for(lambda: runner.spool.used == 0 and runner.queue.working == 0)
        assert deleted_files() <= before


def deleted_files() -> set[str]:
    """Files without a name that this process has open."""
    found = set()
    for path in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            found.add(os.readlink(path))
    return {name for name in found if name.endswith("(deleted)")}


@given(
    st.dictionaries(
        st.sampled_from(["model", "language", "prompt", "response_format", "temperature", "stream", "beams"])
        | st.text(max_size=20),
        st.sampled_from(["it", "json", "srt", "0", "1", "true", "nan", "-1"]) | st.text(max_size=20),
    )
)
def test_any_form_gives_options_or_an_error(fields):
    try:
        options = read_options(FormData(fields), ["it", "cs"])
    except ApiError as error:
        assert 400 <= error.status < 500
        assert json.dumps(error.body())
    else:
        assert options.model in ("it", "cs")
        assert 0 <= options.temperature <= 1


@given(st.dictionaries(st.sampled_from(["host", "origin", "authorization", "sec-fetch-site"]), st.text()), st.text())
def test_no_header_passes_without_the_key(headers, key):
    if headers.get("authorization") == "Bearer right":
        headers["authorization"] = key
    with pytest.raises(ApiError):
        AccessPolicy("127.0.0.1", "right").check(headers, "/v1/models")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "localhost:8000"}, None),
        ({"host": "127.0.0.1"}, None),
        ({"host": "[::1]:8000"}, None),
        ({"host": "evil.example"}, 421),
        ({"host": "localhost.evil.example"}, 421),
        ({}, 421),
        ({"host": "localhost:8000", "origin": "http://localhost:8000"}, None),
        ({"host": "localhost:8000", "origin": "http://localhost:9000"}, 403),
        ({"host": "localhost:8000", "origin": "null"}, 403),
        ({"host": "localhost:8000", "sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}, 403),
        ({"host": "localhost:8000", "sec-fetch-site": "same-origin"}, None),
    ],
)
def test_only_this_machines_own_pages_come_in_on_loopback(headers, status):
    try:
        AccessPolicy("127.0.0.1").check(headers, "/v1/models")
    except ApiError as error:
        assert error.status == status
    else:
        assert status is None


@pytest.mark.parametrize("site", ["cross-site", "same-site", "same-origin", None])
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "GET", "HEAD"])
def test_only_reading_may_navigate(method, site):
    """A link of another site may open the page; a form there may not be sent here."""
    headers = {"host": "localhost:8000", "sec-fetch-mode": "navigate", **({"sec-fetch-site": site} if site else {})}
    if method in ("GET", "HEAD"):
        AccessPolicy("127.0.0.1").check(headers, "/", method)
        return
    with pytest.raises(ApiError, match="answers no pages of other sites"):
        AccessPolicy("127.0.0.1").check(headers, "/v1/audio/transcriptions", method)


def test_the_form_of_another_site_is_not_answered(served, clip):
    port, _ = served
    browser = {"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Site": "cross-site", "Origin": "http://evil.example"}
    for headers, status in (
        ({}, 200),  # what clients of the API send
        (browser, 403),
        ({**browser, "Origin": "null"}, 403),
        ({**browser, "Sec-Fetch-Mode": "no-cors"}, 403),
        ({"Origin": "http://evil.example"}, 403),  # of a browser that sends no Sec-Fetch headers
        ({"Origin": "null"}, 403),
    ):
        body = form(clip.read_bytes(), {"model": "it"})
        assert asyncio.run(post(Target(port, "it", b""), body, headers=headers))[0] == status


def test_a_key_is_asked_for(models, clip):
    with running(models, key="right") as (port, _):
        for key in ("wrong", "righ", "rightright", "RIGHT"):
            with pytest.raises(openai.AuthenticationError):
                client(port, key).models.list()
        assert client(port, "right").audio.transcriptions.create(file=clip, model="it").text
        for path, status in (("/", 200), ("/health", 200), ("/metrics", 401)):
            assert get(port, path)[0] == status


def get(port: int, path: str) -> tuple[int, str, dict]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=20) as answer:
            return answer.status, answer.read().decode(), dict(answer.headers)
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(), dict(error.headers)


def test_health_metrics_and_headers(served, clip, capsys):
    port, _ = served
    client(port).audio.transcriptions.create(file=clip, model="it")
    silence = io.BytesIO()
    soundfile.write(silence, np.zeros(16_000), 16_000, format="WAV")
    assert client(port).audio.transcriptions.create(file=("a.wav", silence.getvalue()), model="it").text == ""
    assert "no text: 1.0 s of silence" in capsys.readouterr().err
    assert json.loads(get(port, "/health/ready")[1]) == {"live": True, "ready": True}
    _, text, headers = get(port, "/metrics")
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert float(values['asr_lora_requests_total{route="/v1/audio/transcriptions",status="200"}']) >= 1
    assert float(values['asr_lora_audio_seconds_total{model="it"}']) >= 4
    assert float(values['asr_lora_empty_transcripts_total{model="it"}']) >= 1
    assert float(values['asr_lora_request_seconds_count{model="it"}']) >= 1
    assert float(values['asr_lora_rtfx_sum{model="it"}']) > 0
    assert float(values["asr_lora_queue_length"]) == 0
    assert float(values["asr_lora_connections"]) >= 1
    assert headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'")
    assert "access-control-allow-origin" not in headers
    assert "server" not in headers


# The command


def test_others_are_let_in_with_a_key_only(monkeypatch):
    monkeypatch.delenv("ASR_LORA_API_KEY", raising=False)
    for host in ("0.0.0.0", "::", "192.168.0.1", "example.org"):
        with pytest.raises(ConfigError, match="set a key"):
            serve("no-model", host=host)  # refused before anything is loaded
        assert read_key(host, "ASR_LORA_API_KEY", no_key=True) is None
    for host in ("127.0.0.1", "127.1.2.3", "::1", "localhost"):
        assert read_key(host, "ASR_LORA_API_KEY", no_key=False) is None
    monkeypatch.setenv("ASR_LORA_API_KEY", "k")
    assert read_key("0.0.0.0", "ASR_LORA_API_KEY", no_key=False) == "k"
    with pytest.raises(ConfigError, match="leave out --no-api-key"):
        read_key("0.0.0.0", "ASR_LORA_API_KEY", no_key=True)


def test_what_cannot_be_served_is_said(adapters, tiny):
    with pytest.raises(ConfigError, match="name a model"):
        serve()
    with pytest.raises(ConfigError, match="name of the base"):
        serve(adapters={tiny.name: adapters["it"]}, port=0)
    with listen_on("127.0.0.1", 0) as taken:
        taken.listen()
        with pytest.raises(ConfigError, match="give another --port"):
            serve(str(tiny), port=taken.getsockname()[1])


def test_sigterm_lets_what_is_under_way_end(adapters, monkeypatch, capsys, caplog):
    """The command, in this process, which it spares ten seconds of imports."""
    monkeypatch.setattr(served_model, "DecodingOptions", partial(DecodingOptions, max_new_tokens=100))
    heard, over = bytearray(), threading.Event()
    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGTERM, signal.SIGINT)}
    visitor = threading.Thread(target=_visit, args=(capsys, heard, over))
    visitor.start()
    try:
        with pytest.raises(SystemExit) as done:
            app(["serve", "--adapter", f"it={adapters['it']}", "--port", "0", "--no-vad"])
    finally:
        over.set()
        visitor.join()
        for number, handler in before.items():
            signal.signal(number, handler)
    assert done.value.code == 0
    assert heard.partition(b"SIGTERM")[0].count(b"text.done") == 0
    assert heard.partition(b"SIGTERM")[2].count(b"text.done") == 1
    assert capsys.readouterr().err == ""  # of broken requests neither
    assert caplog.records == []


def _visit(capsys, heard: bytearray, over: threading.Event) -> None:
    """Wait for a server, send it what is broken, and end it while it transcribes."""
    try:
        said = ""
        while " at http://" not in said and not over.wait(0.05):
            said += capsys.readouterr().err
        port = int(said.rpartition(":")[2])
        for broken in (form(b"x", {})[:-9], b"x" * 99):
            assert send(Target(port, "it", b""), broken)[0] == 400
        with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
            connection.sendall(b"no HTTP\r\n\r\n")
            assert b"400 Bad Request" in connection.recv(65536)
        memory = io.BytesIO()
        soundfile.write(memory, speech(31.0), 16_000, format="WAV")
        body = form(memory.getvalue(), {"model": "it", "stream": "true", "temperature": "1"})
        with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
            connection.sendall(request_head(body) + body)
            while b"text.delta" not in heard:
                heard += connection.recv(65536)
            heard += b"SIGTERM"
            os.kill(os.getpid(), signal.SIGTERM)
            while more := connection.recv(65536):
                heard += more
    finally:
        while not over.wait(5.0):  # should anything above have failed
            os.kill(os.getpid(), signal.SIGTERM)


def request_head(body: bytes) -> bytes:
    """What comes before a form, for those who leave in the middle of things."""
    return (
        b"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n"
        b"Content-Type: multipart/form-data; boundary=%s\r\n\r\n"
    ) % (len(body), serve_load.BOUNDARY.encode())


# The page, in a real browser


@pytest.fixture(scope="module")
def chromium(clip):
    """A browser whose microphone hears the clip."""
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        names = ("chromium", "chromium-browser", "google-chrome")
        found = next(filter(None, map(shutil.which, names)), playwright.chromium.executable_path)
        if not Path(found).exists():
            pytest.skip("there is no Chromium: apt-get install chromium, or playwright install chromium")
        running = playwright.chromium.launch(
            executable_path=found,
            args=["--no-sandbox", "--disable-gpu", "--mute-audio", "--use-fake-ui-for-media-stream",
                  "--use-fake-device-for-media-stream", f"--use-file-for-fake-audio-capture={clip}"],
        )  # fmt: skip
        yield running
        running.close()


@pytest.fixture
def page(chromium, served):
    context = chromium.new_context(viewport={"width": 400, "height": 800}, permissions=["microphone"])
    opened, said = context.new_page(), []
    opened.on("console", lambda message: said.append(message.text))  # a error is no fault of the page
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.goto(f"http://localhost:{served[0]}/")
    yield opened
    assert not [text for text in said if "status of 400" not in text]
    context.close()


def shows(page, text: str) -> None:
    wait_for(lambda: page.locator("#status").text_content() == text, 60.0)


def test_the_page_shows_both_texts_and_where_they_differ(page, clip, served, tiny, tmp_path):
    assert page.locator("#start").is_disabled()
    accepted = page.locator("#file").get_attribute("accept").split(",")
    assert {"audio/*", ".wav", ".flac"} <= set(accepted)
    assert (".m4a" in accepted) == (".webm" in accepted) == bool(shutil.which("ffmpeg"))
    page.set_input_files("#file", shutil.copy(clip, tmp_path / "Interview 3.5 (Žižkov).wav"))
    page.select_option("#adapter", "cs")
    page.click("#start")
    shows(page, "Done.")
    api = client(served[0]).audio.transcriptions
    for panel, model in (("base", tiny.name), ("adapted", "cs")):
        text = " ".join(page.locator(f"#{panel} .transcript").text_content().split())
        assert text == " ".join(api.create(file=clip, model=model, language="cs").text.split())
        assert page.locator(f"#{panel} .transcript").locator("mark, ins, del").count()
    assert not page.locator("#base ins, #adapted del").count()
    with page.expect_download() as download:
        page.click("#adapted [data-format=srt]")
    assert download.value.suggested_filename == "Interview 3.5 (Žižkov).cs.srt"
    download.value.save_as(tmp_path / "adapted.srt")
    expected = api.create(file=clip, model="cs", response_format="srt")
    assert (tmp_path / "adapted.srt").read_text(encoding="utf-8") == expected
    assert page.evaluate("document.documentElement.scrollWidth") <= 400


def test_the_page_records_and_what_it_records_is_heard(page):
    page.click("#record")
    wait_for(lambda: re.fullmatch(r"[1-9]\d* s", page.locator("#clock").text_content()))
    page.click("#record")
    page.wait_for_selector("#player:not([hidden])")
    assert re.fullmatch(r"Recorded [1-9][\d.]* s\.", page.locator("#status").text_content())
    header = page.evaluate("audio.arrayBuffer().then((b) => [...new Uint8Array(b.slice(0, 44))])")
    assert bytes(header[:4]) == b"RIFF"
    assert int.from_bytes(bytes(header[24:28]), "little") == 16_000
    loudest = page.evaluate("audio.arrayBuffer().then((b) => Math.max(...new Int16Array(b.slice(44))))")
    assert loudest > 0.1 * 32768 * np.abs(speech(4.0)).max()
    page.click("#start")
    shows(page, "Done.")
    assert page.locator("#adapted .transcript").text_content().strip()


def test_the_page_says_what_went_wrong_and_can_be_stopped(page, served, tmp_path):
    (tmp_path / "no.wav").write_bytes(b"no sound")
    page.set_input_files("#file", tmp_path / "no.wav")
    page.click("#start")
    page.wait_for_selector("#status.bad")
    assert "the file is not audio" in page.locator("#status").text_content()
    page.set_input_files("#file", write_wav(tmp_path / "long.wav", speech(80.0)))
    with slowly(served[1]):
        page.click("#start")
        wait_for(lambda: served[1].queue.working == 1)
        page.click("#stop")
        shows(page, "Stopped.")
        wait_for(lambda: served[1].queue.working == 0)


def test_the_page_is_accessible(page):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    found = axe.Axe().run(page).response["violations"]
    assert not [(violation["id"], violation["nodes"][0]["html"]) for violation in found]
