"""Mozilla Data Collective as it really answers, on a local server: whole, or one sentence and nothing lost."""

import hashlib
import json
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from asr_lora.cli.verbs import app
from asr_lora.errors import AsrLoraError, ConfigError, DataError
from asr_lora.folders.source_folder import DownloadFolder
from asr_lora.sources import download
from asr_lora.sources.download import fetch, mdc_dataset
from asr_lora.system.locks import alone

KEY = "key-that-nobody-may-see"
CONTENT = os.urandom(300_000)
PIECE = 1 << 16  # what the client writes at once
NAME = "cv-corpus-25.0-2026-03-09-nl.tar.gz"


class Platform(ThreadingHTTPServer):
    """Answers as the API does; `files` says what each request for the file gets, the last one for all that follow."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answers)
        self.address = f"http://127.0.0.1:{self.server_address[1]}"
        self.details_status = self.session_status = 200
        self.details = {
            "id": "nl25", "name": "Common Voice 25.0 Dutch", "licenseAbbreviation": "CC0-1.0", "filename": NAME,
            "checksum": hashlib.sha256(CONTENT).hexdigest(), "sizeBytes": len(CONTENT),
            "restrictions": "Do not try to find out\nwho speaks.", "organization": {"name": "Common Voice"},
        }  # fmt: skip
        self.session = {"sizeBytes": len(CONTENT), "checksum": self.details["checksum"]}
        self.files = ["whole"]
        self.content = CONTENT
        self.requests = []
        self.gate = threading.Event()


class Answers(BaseHTTPRequestHandler):
    server: Platform

    def do_GET(self):
        self.server.requests.append(("GET", self.path, dict(self.headers)))
        if self.path.startswith("/api/datasets/"):
            self.answer(self.server.details_status, self.server.details)
        else:
            self.file(self.server.files.pop(0) if len(self.server.files) > 1 else self.server.files[0])

    def do_POST(self):
        self.server.requests.append(("POST", self.path, dict(self.headers)))
        if self.headers.get("Authorization") != f"Bearer {KEY}":
            self.answer(401, {"message": "Unauthorized"})
        else:
            url = {"downloadUrl": f"{self.server.address}/files/{NAME}?signature=secret"}
            self.answer(self.server.session_status, {**url, **self.server.session})

    def answer(self, status, body):
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        if status == 429:
            self.send_header("Retry-After", "17")
        self.end_headers()
        self.wfile.write(content)

    def file(self, manner):
        if isinstance(manner, int):
            self.answer(manner, {"message": "no"})
            return
        begin = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))
        if manner == "ignores ranges":
            begin = 0
        rest = self.server.content[begin:]
        if begin and not rest:
            self.answer(416, {"message": "beyond its end"})
            return
        self.send_response(206 if begin else 200)
        if manner != "ends early, unsaid":
            self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        if manner == "waits":
            self.server.gate.wait(10)
        if manner in ("whole", "ignores ranges", "waits"):
            self.wfile.write(rest)
            return
        self.wfile.write(rest[: PIECE if manner != "breaks at once" else 0])
        self.wfile.flush()
        if manner == "stalls":
            time.sleep(2.0)
        self.close_connection = True

    def log_message(self, *_):
        pass


@pytest.fixture
def platform(monkeypatch):
    import datacollective.download

    server = Platform()
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    monkeypatch.setenv("MDC_API_KEY", KEY)
    monkeypatch.setenv("MDC_API_URL", f"{server.address}/api")
    monkeypatch.setattr(datacollective.download, "HTTP_TIMEOUT", (1, 0.5))  # it waits a minute
    monkeypatch.setattr(download, "PAUSES", (0.0, 0.0, 0.0))
    yield server
    server.shutdown()
    server.server_close()


def downloads(server):
    return [headers.get("Range") for method, path, headers in server.requests if path.startswith("/files/")]


def test_whole_checked_and_not_asked_for_again(platform, tmp_path, capfd):
    archive = fetch("nl25", tmp_path)
    assert archive == tmp_path / "nl25" / NAME
    assert archive.read_bytes() == CONTENT
    body = DownloadFolder(tmp_path / "nl25").read_json()
    assert body["sha256"] == platform.details["checksum"]
    assert body["checked"] is True
    assert body["terms"]["licenseAbbreviation"] == "CC0-1.0"
    asked = len(platform.requests)
    platform.details_status = 500
    assert fetch("nl25", tmp_path) == archive
    assert len(platform.requests) == asked
    out, err = capfd.readouterr()
    assert out == ""
    assert err.index("CC0-1.0") < err.index("Do not try to find out who speaks.") < err.index("download:")
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert KEY not in err
    assert KEY.encode() not in written
    assert b"signature=secret" not in written
    assert [headers.get("Authorization") for method, _, headers in platform.requests if method == "GET"] == [
        None,
        None,
        None,
    ]


def test_of_two_at_once_one_wins_and_the_other_says_so(platform, tmp_path):
    platform.files = ["waits"]
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(fetch, "nl25", tmp_path)
        while not downloads(platform) and not first.done():
            time.sleep(0.01)
        with pytest.raises(ConfigError, match="mdc:nl25 is being downloaded by another process: wait until it ends"):
            fetch("nl25", tmp_path)
        platform.gate.set()
        assert first.result().read_bytes() == CONTENT
    assert fetch("nl25", tmp_path) == first.result()
    assert sorted(path.name for path in (tmp_path / "nl25").iterdir()) == [NAME, "download.json"]


def test_what_goes_wrong_under_a_lock_is_told_and_the_lock_is_free(tmp_path):
    lock = tmp_path / "new" / "lock"
    for _ in range(2):
        with pytest.raises(FileNotFoundError, match="a clip"), alone(lock, "busy"):
            raise FileNotFoundError("a clip")
    with alone(lock, "busy"), pytest.raises(ConfigError, match="busy"), alone(lock, "busy"):
        pass
    assert not lock.exists()


@pytest.mark.parametrize("manner", ["truncated", "stalls", 503])
def test_goes_on_after_a_broken_connection(platform, tmp_path, manner, capfd):
    platform.files = [manner, manner, "whole"]
    assert fetch("nl25", tmp_path).read_bytes() == CONTENT
    begins = [None, f"bytes={PIECE}-", f"bytes={2 * PIECE}-"] if manner != 503 else [None, None, None]
    assert downloads(platform) == begins
    assert "the download continues" in capfd.readouterr().err


def test_a_later_call_goes_on_where_the_last_one_gave_up(platform, tmp_path):
    platform.files = ["truncated", "breaks at once"]
    with pytest.raises(DataError, match=r"broke 4 times in a row; 0\.1 MB are kept\. Run the same command again"):
        fetch("nl25", tmp_path)
    assert not DownloadFolder(tmp_path / "nl25").complete
    platform.requests.clear()
    platform.files = ["whole"]
    assert fetch("nl25", tmp_path).read_bytes() == CONTENT
    assert downloads(platform) == [f"bytes={PIECE}-"]


def test_stopped_after_the_last_byte(platform, tmp_path):
    (tmp_path / "nl25").mkdir()
    (tmp_path / "nl25" / f"{NAME}.part").write_bytes(CONTENT)
    assert fetch("nl25", tmp_path).read_bytes() == CONTENT
    assert downloads(platform) == []


@pytest.mark.parametrize("left", [CONTENT[::-1], CONTENT + b"more"])
def test_a_remainder_that_is_none(platform, tmp_path, left):
    (tmp_path / "nl25").mkdir()
    (tmp_path / "nl25" / f"{NAME}.part").write_bytes(left)
    (tmp_path / "nl25" / f"{NAME}.checksum").write_text(platform.details["checksum"])
    assert fetch("nl25", tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("manner", ["other bytes", "ends early, unsaid", "ignores ranges"])
def test_what_is_not_as_promised_is_removed(platform, tmp_path, manner):
    if manner == "other bytes":
        platform.content = CONTENT[::-1]
    else:
        platform.files = ["truncated", "ignores ranges"] if manner == "ignores ranges" else [manner]
    with pytest.raises(DataError, match=r"but the platform states [0-9a-f]{64}\. The file was removed: run"):
        fetch("nl25", tmp_path)
    assert not list(tmp_path.rglob(NAME))
    platform.content, platform.files = CONTENT, ["whole"]
    assert fetch("nl25", tmp_path).read_bytes() == CONTENT


def test_no_checksum_is_said(platform, tmp_path, capfd):
    platform.details["checksum"] = platform.session["checksum"] = "d41d8cd9-12"
    fetch("nl25", tmp_path)
    assert "states no SHA-256" in capfd.readouterr().err
    assert DownloadFolder(tmp_path / "nl25").read().checked is False


@pytest.mark.parametrize(("status", "kind", "sentence"), [
    (401, ConfigError, "does not accept the key in MDC_API_KEY: make a new one"),
    (402, DataError, "has a price"),
    (403, DataError, "accept the terms"),
    (404, DataError, "there is no such dataset"),
    (410, DataError, "was removed from the platform"),
    (418, DataError, r"gives no access \(418\)"),
    (429, DataError, "run the same command again in 17 s"),
    (500, DataError, r"the platform has an error \(500\): run the same command again later"),
    (503, DataError, r"the platform has an error \(503\)"),
])  # fmt: skip
@pytest.mark.parametrize("place", ["details_status", "session_status", "files"])
def test_refusals(platform, tmp_path, place, status, kind, sentence):
    setattr(platform, place, [status] if place == "files" else status)
    if place == "files" and status >= 500:
        sentence = "broke 4 times in a row"
    with pytest.raises(kind, match=sentence) as refusal:
        fetch("nl25", tmp_path)
    assert KEY not in str(refusal.value)
    assert "secret" not in str(refusal.value)
    assert not list(tmp_path.rglob("download.json"))


@pytest.mark.parametrize("answer", [
    b"<html>maintenance</html>", b"", [], {}, {"id": "nl25"}, {"id": "nl25", "filename": "../../out.tar.gz"},
    {"id": "nl25", "filename": "/etc/passwd"}, {"id": "nl25", "filename": ".bashrc"}, {"id": 5, "filename": {}},
])  # fmt: skip
def test_details_that_are_none(platform, tmp_path, answer):
    platform.details = answer
    with pytest.raises(DataError, match=r"has an unknown form|no usable file name"):
        fetch("nl25", tmp_path / "in")
    assert not list(tmp_path.rglob("*.tar.gz"))


@pytest.mark.parametrize("answer", [{"sizeBytes": None}, {"sizeBytes": -1}, {"downloadUrl": ""}, {"checksum": 5}])
def test_a_session_that_is_none(platform, tmp_path, answer):
    platform.session |= answer
    with pytest.raises(DataError, match="has an unknown form") as refusal:
        fetch("nl25", tmp_path)
    assert "secret" not in str(refusal.value)


def test_nobody_listens(tmp_path, monkeypatch):
    monkeypatch.setenv("MDC_API_KEY", KEY)
    monkeypatch.setenv("MDC_API_URL", "http://127.0.0.1:9/api")
    with pytest.raises(DataError, match=r"cannot be reached \(ConnectionError\): check the network"):
        fetch("nl25", tmp_path)


def test_no_space(platform, tmp_path):
    platform.details["sizeBytes"] = 10**18
    with pytest.raises(ConfigError, match="free space there"):
        fetch("nl25", tmp_path)
    assert downloads(platform) == []


def test_a_key_in_a_file_is_not_read_and_an_open_line_is_not_used(tmp_path, monkeypatch):
    (tmp_path / ".env").write_text(f"MDC_API_KEY={KEY}\nMDC_API_URL=http://thief.example/api\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MDC_API_KEY", raising=False)
    monkeypatch.delenv("MDC_API_URL", raising=False)
    with pytest.raises(ConfigError, match=r"MDC_API_KEY is not set: make a key at https://\S+, then: export"):
        fetch("nl25", tmp_path)
    monkeypatch.setenv("MDC_API_KEY", KEY)
    monkeypatch.setenv("MDC_API_URL", "http://thief.example/api")
    with pytest.raises(ConfigError, match="must begin with https"):
        fetch("nl25", tmp_path)


def test_without_the_client(tmp_path, monkeypatch):
    import sys

    monkeypatch.setenv("MDC_API_KEY", KEY)
    monkeypatch.setitem(sys.modules, "datacollective", None)  # what Python does where it is not installed
    with pytest.raises(ConfigError, match=r"pip install 'asr_lora\[mdc\]'"):
        fetch("nl25", tmp_path)


@given(name=st.text())
def test_any_name_is_refused_or_a_dataset_of(name):
    if name.isascii() and name.replace("-", "").replace("_", "").isalnum():
        return
    with pytest.raises(AsrLoraError, match="write the id or slug"):
        fetch(name, None)


def test_which_sources_are_downloads():
    assert mdc_dataset("mdc:nl25") == "nl25"
    assert mdc_dataset("cv-corpus/mdc:nl25") is None


def test_on_the_command_line(tmp_path, monkeypatch):
    monkeypatch.delenv("MDC_API_KEY", raising=False)
    words = ["prepare", "mdc:nl25", "--language", "nl", "--out", str(tmp_path / "nl")]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 2
    assert "MDC_API_KEY is not set" in done.stderr
