"""The server, as clients that were written for OpenAI's API use it: their libraries, and requests as they send them."""

import asyncio
import http.client
import io
import json
import math
import os
import shutil
import subprocess
import time
from functools import partial
from pathlib import Path

import numpy as np
import openai
import pytest
import soundfile
from conftest import BASE, speech, write_wav
from starlette.datastructures import FormData
from test_serving import client, get, running

from asr_lora.audio.decode import SAMPLE_RATE
from asr_lora.decoding.decoding_options import DecodingOptions
from asr_lora.decoding.loading import EngineName
from asr_lora.errors import ConfigError
from asr_lora.language import Task
from asr_lora.serving import http_timeouts, served_model
from asr_lora.serving.api_errors import ApiError
from asr_lora.serving.request_options import read_options
from asr_lora.serving.served_model import load_served_model
from asr_lora.transcription.longform import SpeechRules, speech_windows


@pytest.fixture(scope="module")
def served(tiny_folder):
    """A server whose model has the name that clients are used to."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(served_model, "DecodingOptions", partial(DecodingOptions, max_new_tokens=10))
        patch.setattr(served_model, "FALLBACK_TEMPERATURES", (0.2,))
        models = load_served_model(str(tiny_folder), {}, names=["whisper-1"], language="it", max_seconds=60, vad=False)
        with running(models) as (port, _):
            yield port


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    return write_wav(tmp_path_factory.mktemp("clips") / "clip.wav", speech(3.0))


@pytest.fixture(scope="module")
def expected(served, clip) -> str:
    """What OpenAI's own client in Python gets."""
    return client(served).audio.transcriptions.create(file=clip, model="whisper-1").text


# Requests as clients write them, byte for byte

Part = tuple[dict[str, str], bytes]


def field(name: str, value: str) -> Part:
    return {"Content-Disposition": f'form-data; name="{name}"'}, value.encode()


def upload(audio: bytes, disposition: str, kind: str | None = None) -> Part:
    heads = {"Content-Disposition": f'form-data; name="file"{disposition}'}
    return heads | ({"Content-Type": kind} if kind else {}), audio


def post(port: int, parts: list[Part], *, path: str = "transcriptions", chunked: bool = False, **headers: str):
    """Status and JSON of a request whose parts have this order and these headers."""
    boundary = "--------------------------014732809153682047731542"
    body = b"".join(
        b"--%s\r\n%s\r\n\r\n%s\r\n"
        % (boundary.encode(), "\r\n".join(f"{name}: {value}" for name, value in heads.items()).encode(), value)
        for heads, value in parts
    )
    body += b"--%s--\r\n" % boundary.encode()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    headers = {"Content-Type": f"multipart/form-data; boundary={boundary}", **headers}
    pieces = iter([body[:1000], body[1000:]]) if chunked else body
    connection.request("POST", f"/v1/audio/{path}", pieces, headers, encode_chunked=chunked)
    answer = connection.getresponse()
    found = answer.status, json.loads(answer.read())
    connection.close()
    return found


SHAPES = {
    # Open WebUI, backend/open_webui/routers/audio.py, with requests: fields first, a file without a type
    "open-webui": lambda audio: [
        field("model", "whisper-1"), field("language", "it"), upload(audio, '; filename="0b5a3c1e.wav"'),
    ],
    "open-webui, with times": lambda audio: [
        field("model", "whisper-1"), field("response_format", "verbose_json"),
        field("timestamp_granularities[]", "segment"), upload(audio, '; filename="0b5a3c1e.wav"'),
    ],
    # LibreChat, api/server/services/Files/Audio/STTService.js, with axios: the file first, in a stream
    "librechat": lambda audio: [
        upload(audio, '; filename="audio.webm"', "audio/webm"), field("model", "whisper-1"), field("language", "it"),
    ],
    # Home Assistant, custom_components/openai_whisper_cloud/stt.py: every field, an empty prompt
    "home-assistant": lambda audio: [
        field("model", "whisper-1"), field("language", "it"), field("temperature", "0"), field("prompt", ""),
        field("response_format", "json"), upload(audio, '; filename="audio.wav"', "audio/wav"),
    ],
    # n8n, nodes/vendors/OpenAi: an item may have no file name
    "n8n": lambda audio: [
        field("model", "whisper-1"), upload(audio, '; filename="voice note (1).ogg"', "audio/ogg; codecs=opus"),
    ],
    "n8n, without a name": lambda audio: [field("model", "whisper-1"), upload(audio, "", "audio/mpeg")],
    "a name in another script": lambda audio: [
        upload(audio, "; filename*=UTF-8''%D0%B7%D0%B0%D0%BF%D0%B8%D1%81%D1%8C.wav"), field("model", "whisper-1"),
    ],
    "every field empty": lambda audio: [
        upload(audio, '; filename=""'), field("model", "whisper-1"),
        *(field(name, "") for name in ("language", "prompt", "response_format", "temperature", "stream", "include[]",
                                       "chunking_strategy", "timestamp_granularities[]", "known_speaker_names[]")),
    ],
    "chunking as JSON": lambda audio: [
        upload(audio, '; filename="a.wav"'), field("model", "whisper-1"),
        field("chunking_strategy", '{"type": "server_vad", "threshold": 0.4, "silence_duration_ms": 500}'),
    ],
}  # fmt: skip


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
@pytest.mark.parametrize("shape", SHAPES)
def test_what_clients_send_is_transcribed(served, clip, expected, shape, chunked):
    status, answer = post(
        served, SHAPES[shape](clip.read_bytes()), chunked=chunked, Accept="application/json, text/plain, */*"
    )
    assert (status, answer.get("text")) == (200, expected), answer


def test_home_assistants_own_integration_and_wyoming_openai(served, clip, expected):
    """Both use OpenAI's client: a tuple of name and bytes; a stream in memory that has a name, and events."""

    class NamedBytes(io.BytesIO):
        name = "recording.wav"

    async def ask() -> None:
        api = openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{served}/v1", api_key="none", max_retries=0)
        answer = await api.audio.transcriptions.create(
            model="whisper-1", file=("a.wav", clip.read_bytes()), response_format="json", language="it", prompt=""
        )
        assert answer.text == expected
        events = await api.audio.transcriptions.create(
            model="whisper-1", file=NamedBytes(clip.read_bytes()), response_format="json", temperature=0, stream=True
        )
        assert "".join([event.delta async for event in events if event.type == "transcript.text.delta"]) == expected

    asyncio.run(ask())


def test_silence_has_a_language_too(served):
    """And no segments, in every format; see suitenumerique/meet#930."""
    memory = io.BytesIO()
    soundfile.write(memory, np.zeros(SAMPLE_RATE), SAMPLE_RATE, format="WAV")
    ask = partial(client(served).audio.transcriptions.create, file=("a.wav", memory.getvalue()), model="whisper-1")
    silent = ask(response_format="verbose_json", language="auto")
    assert (silent.text, silent.segments, silent.duration, silent.language) == ("", [], 1.0, "italian")
    assert ask(response_format="verbose_json", language="nb-NO").language == "norwegian"
    assert [ask(response_format=name) for name in ("text", "srt", "vtt")] == ["\n", "", "WEBVTT\n\n"]
    assert [event.type for event in ask(stream=True)] == ["transcript.text.done"]


def test_a_connection_is_used_again_after_a_pause(served, monkeypatch):
    """Clients that keep connections see them broken otherwise; see Thinline-Dynamic-Solutions/ThinLineRadio#29."""
    monkeypatch.setattr(http_timeouts, "HEADER_SECONDS", 0.2)  # for a new connection, which this is at first
    connection = http.client.HTTPConnection("127.0.0.1", served, timeout=20)
    connection.request("GET", "/v1/models")
    assert connection.getresponse().read()
    time.sleep(6.0)  # uvicorn's own limit is 5 s
    connection.request("GET", "/v1/models")
    assert connection.getresponse().status == 200
    connection.close()


def test_models_are_listed_and_found(served):
    models = client(served).models
    (listed,) = models.list()
    assert models.retrieve("whisper-1") == listed
    assert (listed.id, listed.object) == ("whisper-1", "model")
    with pytest.raises(openai.NotFoundError) as unknown:
        models.retrieve("openai/whisper-large-v2")
    assert (unknown.value.code, unknown.value.param) == ("model_not_found", "model")
    status, text, _ = get(served, "/audio/transcriptions")
    assert status == 404
    assert "/v1/audio/transcriptions" in json.loads(text)["error"]["message"]


def test_openais_client_in_node(served, clip, expected, tmp_path):
    """Every shape in which npm's client sends a file, and nested fields; skipped where it is not installed."""
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("there is no node: apt-get install nodejs npm")
    root = subprocess.run(["npm", "root", "--global"], capture_output=True, text=True, check=True).stdout.strip()
    if not Path(root, "openai").is_dir():
        pytest.skip("there is no client: npm install --global openai")
    script = tmp_path / "client.js"
    script.write_text("""
const fs = require("fs"), openai = require("openai"), [url, path] = process.argv.slice(2);
(async () => {
  const client = new openai.OpenAI({ baseURL: url, apiKey: "none", maxRetries: 0 });
  const base = () => ({ file: fs.createReadStream(path), model: "whisper-1" });
  const ask = (more) => client.audio.transcriptions.create({ ...base(), ...more });
  const found = { model: (await client.models.retrieve("whisper-1")).id };
  found.models = (await client.models.list()).data.map((model) => model.id);
  found.stream = (await ask({})).text;
  found.file = (await ask({ file: await openai.toFile(fs.readFileSync(path), "vóz.wav") })).text;
  found.verbose = await ask({ response_format: "verbose_json", timestamp_granularities: ["segment"] });
  found.nested = (await ask({ chunking_strategy: { type: "server_vad", threshold: 0.4 }, languages: ["it"] })).text;
  found.scored = await ask({ include: ["logprobs"] });
  found.events = [];
  for await (const event of await ask({ stream: true })) found.events.push(event);
  found.translation = (await client.audio.translations.create(base())).text;
  const refused = (error) => [error.status, error.code, error.param];
  found.error = await ask({ response_format: "diarized_json" }).catch(refused);
  console.log(JSON.stringify(found));
})();
""")
    done = subprocess.run(
        ["node", script, f"http://127.0.0.1:{served}/v1", clip], env={**os.environ, "NODE_PATH": root},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["model"], found["models"]) == ("whisper-1", ["whisper-1"])
    for way in ("stream", "file", "nested"):
        assert found[way] == expected
    for way in ("verbose", "scored"):
        assert found[way]["text"] == expected
        assert found[way]["usage"] == {"type": "duration", "seconds": 3.0}
    assert found["scored"]["logprobs"]
    deltas = [event["delta"] for event in found["events"] if event["type"] == "transcript.text.delta"]
    assert "".join(deltas) == found["events"][-1]["text"] == expected
    assert found["translation"] not in ("", expected)
    assert found["error"] == [400, "unsupported_value", "response_format"]


# What OpenAI's API says of each field


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"model": ""}, "missing_required_parameter", "model"),
        ({"model": "whisper-9"}, "model_not_found", "model"),
        ({"response_format": "diarized_json"}, "unsupported_value", "response_format"),
        ({"response_format": "xml"}, "invalid_value", "response_format"),
        ({"known_speaker_names[]": "agent"}, "unsupported_parameter", "known_speaker_names"),
        ({"known_speaker_references[]": "data:,a"}, "unsupported_parameter", "known_speaker_references"),
        ({"languages[0]": "it", "languages[1]": "cs"}, "unsupported_value", "languages[]"),
        ({"include[]": "text"}, "invalid_value", "include[]"),
        ({"include[]": "logprobs", "response_format": "verbose_json"}, "invalid_value", "include[]"),
        ({"temperature": "hot"}, "invalid_value", "temperature"),
        ({"temperature": "1.5"}, "invalid_value", "temperature"),
        ({"stream": "yes"}, "invalid_value", "stream"),
        ({"timestamp_granularities[]": "word"}, "invalid_value", "timestamp_granularities[]"),
        ({"model[]": "whisper-1"}, "unknown_parameter", "model[]"),
        ({"seed": "1"}, "unknown_parameter", "seed"),
        *(
            ({"chunking_strategy": given}, "invalid_value", "chunking_strategy")
            for given in ("vad", "{}", "[]", "1", '{"type": "server_vad", "threshold": 2}', "[" * 100_000,
                          '{"type": "server_vad", "threshold": NaN}', '{"type": "server_vad", "prefix_padding_ms": -1}')
        ),
        ({"chunking_strategy[type]": "semantic_vad"}, "invalid_value", "chunking_strategy"),
        ({"chunking_strategy[eagerness]": "1"}, "invalid_value", "chunking_strategy"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_refused_by_name(fields, code, param):
    with pytest.raises(ApiError) as refused:
        read_options(FormData({"model": "whisper-1", **fields}), ["whisper-1"])
    assert (refused.value.code, refused.value.param) == (code, param)


def test_every_spelling_of_a_field_means_the_same():
    def read(**fields):
        form = FormData([("model", "m"), *((name, value) for name, values in fields.items() for value in values)])
        return read_options(form, ["m"], Task.TRANSLATE)

    for name in ("keywords", "keywords[]"):
        options = read(**{name: ["ComfyUI", "Brno"], "prompt": ["Dobrý den."]})
        assert (options.previous_text, options.task) == ("ComfyUI, Brno Dobrý den.", Task.TRANSLATE)
    assert read(**{"keywords[0]": ["ComfyUI"], "keywords[1]": ["Brno"]}).previous_text == "ComfyUI, Brno"
    rules = SpeechRules(begins=0.4, pause=0.5, margin=0.3)
    given = {"type": "server_vad", "threshold": "0.4", "silence_duration_ms": "500", "prefix_padding_ms": "300"}
    assert read(chunking_strategy=[json.dumps(given)]).speech_rules == rules
    assert read(**{f"chunking_strategy[{name}]": [value] for name, value in given.items()}).speech_rules == rules
    assert read(chunking_strategy=["auto"]).speech_rules is None
    assert read(languages=["cs"]).language == "cs"


def test_chunking_finds_speech_as_the_client_says():
    sound = speech(3.0)

    def starts_and_ends(**rules) -> list[tuple[float, float]]:
        return [(window.start, window.end) for window in speech_windows([sound], rules=SpeechRules(**rules))]

    (usual,) = starts_and_ends()
    assert starts_and_ends(begins=0.5, pause=0.32, margin=0.2) == [usual]
    assert starts_and_ends(begins=1.0) == []
    (early,) = starts_and_ends(margin=0.0)
    assert early[0] == pytest.approx(usual[0] + min(0.2, early[0]), abs=0.001)


def test_names_of_models(tiny_folder):
    for names, adapters, message in (
        (["a=b"], {}, "there is no --adapter b"),
        (["it"], {"it": "x"}, "give the adapter another"),
        (["it=cs"], {"it": "x", "cs": "y"}, "a name of its own"),
        (["a", "a"], {}, "a name of its own"),
        ([""], {}, "a name of its own"),
    ):
        with pytest.raises(ConfigError, match=message):
            load_served_model(str(tiny_folder), adapters, names=names, max_seconds=1)
    base, aliases = served_model._model_names(["whisper-1=it", "b", "c"], {"it": "x"}, "own")
    assert (base, aliases) == (["b", "c"], {"whisper-1": "it"})
    assert served_model._model_names(["whisper-1=it"], {"it": "x"}, "own")[0] == ["own"]


# What real weights write


@pytest.fixture(scope="module", params=list(EngineName))
def real(request):
    models = load_served_model(BASE, {}, names=["whisper-1"], language="it", max_seconds=60, engine=request.param)
    with running(models) as (port, runner):
        yield client(port).audio, runner.model


def test_a_translation_is_english(real, clip):
    api, _ = real
    italian = api.transcriptions.create(file=clip, model="whisper-1").text
    english = api.translations.create(file=clip, model="whisper-1", response_format="verbose_json", temperature=0)
    assert english.language == "english"
    assert english.to_dict()["task"] == "translate"
    assert english.duration == pytest.approx(3.0)
    words = {word.strip(".,").lower() for word in english.text.split()}
    assert words & {"the", "of", "and", "to", "is", "a"}, english.text
    assert english.text != italian


def test_log_probabilities_are_those_of_the_tokens(real, clip):
    """Their bytes are the text, and their mean is near that of the whole hypothesis, which counts its times too."""
    api, model = real
    answer = api.transcriptions.create(file=clip, model="whisper-1", include=["logprobs"])
    assert bytes(int(byte) for each in answer.logprobs for byte in each.bytes).decode().strip() == answer.text
    assert "".join(each.token for each in answer.logprobs).strip() == answer.text
    assert all(each.logprob <= 0 for each in answer.logprobs)
    whole = api.transcriptions.create(file=clip, model="whisper-1", response_format="verbose_json")
    mean = sum(each.logprob for each in answer.logprobs) / len(answer.logprobs)
    assert mean == pytest.approx(whole.segments[0].avg_logprob, abs=0.3)
    assert [len(whole.segments[0].tokens), whole.segments[0].temperature] == [len(answer.logprobs), 0.0]
    events = list(api.transcriptions.create(file=clip, model="whisper-1", include=["logprobs"], stream=True))
    deltas = [each for event in events if event.type == "transcript.text.delta" for each in event.logprobs]
    assert [each.logprob for each in deltas] == pytest.approx([each.logprob for each in answer.logprobs], abs=1e-3)
    assert len(events[-1].logprobs) == len(deltas)
    usage = events[-1].usage
    assert (usage.type, usage.output_tokens) == ("tokens", len(deltas))
    assert usage.input_token_details.audio_tokens == math.ceil(50 * 3.0)
    assert model.token_bytes(model.whisper.text_tokens("é")[0]).startswith(b" ")
