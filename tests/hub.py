"""A hub of datasets on this machine, which speaks as much of the Hugging Face Hub's HTTP as its own client needs.

Datasets are folders, OWNER/NAME, of a folder that is served. What a hub may do wrong is chosen by name.
"""

import contextlib
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import parse_qs, unquote, urlsplit

SHA = "0123456789abcdef0123456789abcdef01234567"
API = re.compile(r"/api/datasets/(?P<name>[^/]+/[^/]+)(?:/(?P<verb>revision|tree|paths-info)/(?P<rest>.+))?")
RESOLVE = re.compile(r"/datasets/(?P<name>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)")
BREAKS_AFTER = 20_000  # bytes of a file, where connections break


@dataclass
class Hub:
    """A hub that is being served."""

    root: Path
    gated: set[str] = field(default_factory=set)  # names whose files are for those who agreed to terms
    breaking: set[str] = field(default_factory=set)  # what files begin with that break off in the middle
    failing: set[str] = field(default_factory=set)  # names of which the server says that it is overloaded
    address: str = ""
    close: Callable[[], None] = lambda: None
    sent: int = 0  # bytes of files


@contextlib.contextmanager
def served(root: Path, **troubles: set[str]) -> Iterator[Hub]:
    """Serve datasets on a free port of this machine."""
    hub = Hub(root, **troubles)
    handler = type("Handler", (Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()

    def close() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    hub.close = close
    try:
        yield hub
    finally:
        close()


class Handler(BaseHTTPRequestHandler):
    """HTTP/1.0: a connection for each request, so that a hub that is closed is gone."""

    hub: Hub

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        self.answer()

    def answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        if match := API.fullmatch(path):
            self.api(match["name"], match["verb"], match["rest"] or "", body)
        elif match := RESOLVE.fullmatch(path):
            self.file(match["name"], match["path"])
        else:
            self.refuse(404, "EntryNotFound", "nothing is here")

    def api(self, name: str, verb: str | None, rest: str, body: str) -> None:
        folder = self.hub.root / name
        if name in self.hub.failing:
            self.refuse(503, "", "overloaded")
        elif not folder.is_dir():  # as the hub does where nobody is logged in
            self.refuse(401, "", "Invalid username or password.")
        elif verb in (None, "revision") and rest in ("", "main", SHA):
            files = [{"rfilename": str(path.relative_to(folder))} for path in files_of(folder)]
            self.json({"_id": "0", "id": name, "sha": SHA, "siblings": files, "private": False, "tags": [],
                       "gated": name in self.hub.gated and "auto", "downloads": 0, "likes": 0})  # fmt: skip
        elif verb == "tree" and rest.partition("/")[0] in ("main", SHA):
            self.tree(folder, rest.partition("/")[2])
        elif verb == "paths-info" and rest in ("main", SHA):
            asked = json.loads(body)["paths"] if body.startswith("{") else parse_qs(body).get("paths", [])
            self.json([entry(folder, folder / path) for path in asked if path and (folder / path).exists()])
        else:
            self.refuse(404, "RevisionNotFound", f"Invalid rev id: {rest}")

    def tree(self, folder: Path, below: str) -> None:
        place = folder / below
        if not place.is_dir():
            self.refuse(404, "EntryNotFound", f"{below} does not exist")
            return
        deep = "recursive=true" in self.path.lower()
        self.json([entry(folder, path) for path in sorted(place.rglob("*") if deep else place.iterdir())])

    def file(self, name: str, path: str) -> None:
        file = self.hub.root / name / path
        if not (self.hub.root / name).is_dir():
            self.refuse(401, "", "Invalid username or password.")
        elif name in self.hub.gated:
            self.refuse(401, "GatedRepo", f"Access to dataset {name} is restricted. Please log in.")
        elif not file.is_file():
            self.refuse(404, "EntryNotFound", "Entry not found")
        else:
            self.send_file(file, breaks=f"{name}/{path}".startswith(tuple(self.hub.breaking)))

    def send_file(self, file: Path, *, breaks: bool) -> None:
        size = file.stat().st_size
        first, last = 0, size - 1
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked:
            first, last = int(asked[1]), min(int(asked[2] or size), size - 1)
        if asked and first > last:
            self.refuse(416, "", "nothing is there")
            return
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(last - first + 1))
        if asked:
            self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        for header, value in {"Accept-Ranges": "bytes", "ETag": f'"{oid(file)}"', "X-Repo-Commit": SHA}.items():
            self.send_header(header, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        with file.open("rb") as handle:
            handle.seek(first)
            left = last - first + 1
            while left and (block := handle.read(min(left, 1 << 16))):
                if breaks and handle.tell() > BREAKS_AFTER and last > first + 8:
                    self.wfile.write(block[: len(block) // 2])
                    return
                self.hub.sent += len(block)
                left -= len(block)
                self.wfile.write(block)

    def json(self, value: object) -> None:
        self.reply(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def refuse(self, status: int, code: str, message: str) -> None:
        self.reply(status, json.dumps({"error": message}).encode(), {"X-Error-Code": code, "X-Error-Message": message})

    def reply(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            if value:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def oid(path: Path) -> str:
    return hashlib.sha1(f"{path}:{path.stat().st_size}".encode()).hexdigest()


def entry(folder: Path, path: Path) -> dict[str, object]:
    name = str(path.relative_to(folder))
    if path.is_dir():
        return {"type": "directory", "oid": oid(path), "size": 0, "path": name}
    return {"type": "file", "oid": oid(path), "size": path.stat().st_size, "path": name}
