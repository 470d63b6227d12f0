"""The server's addresses: OpenAI's API for transcriptions, health, metrics, and one page."""

import asyncio
import sys
import time
import traceback
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing, suppress
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from asr_lora.serving.access import HEADERS, Door
from asr_lora.serving.answers import answer, delta, done, failed, full_text
from asr_lora.serving.api_errors import Refusal
from asr_lora.serving.request_job import Piece, Watch, Work
from asr_lora.serving.request_options import Wish, read_wish
from asr_lora.serving.uploads import Gone, audio_of, receive_form
from asr_lora.serving.web_page import load_page
from asr_lora.transcription.segments import Segment

LINGER_SECONDS = 2.0  # that the rest of a refused request is read and thrown away
BROKEN = Refusal(500, "server_error", "something went wrong on the server, whose log says what")


def make_app(work: Work, door: Door) -> FastAPI:
    """Build the server around a loaded model."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(Entrance, work=work, door=door)
    app.add_exception_handler(HTTPException, _no_such_address)
    _add_transcriptions(app, work)
    _add_state(app, work)
    for path, (kind, body) in load_page(work.models, key=door.key is not None).items():
        app.add_api_route(path, _constant(body, kind), methods=["GET"])
    return app


def _add_transcriptions(app: FastAPI, work: Work) -> None:
    created = int(time.time())

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        rows = [
            {
                "id": name,
                "object": "model",
                "created": created,
                "owned_by": "asr_lora",
                "language": selection.prompt.language if selection else None,
                "adapter": name != work.models.base,
            }
            for name, selection in work.models.selections.items()
        ]
        return {"object": "list", "data": rows}

    @app.post("/v1/audio/transcriptions")
    async def transcriptions(request: Request) -> Response:
        work.line.require_room()
        async with AsyncExitStack() as stack:
            form = await stack.enter_async_context(receive_form(request, work.limits, work.spool))
            wish = read_wish(form, work.models.selections)
            work.models.require_possible(wish)
            watch = Watch(request.receive, work.limits.timeout)
            stack.callback(watch.close)
            pieces = await stack.enter_async_context(aclosing(work.pieces(audio_of(form), wish, watch)))
            if wish.stream:
                first = await anext(pieces)  # what cannot be heard is said before an answer begins
                return Streamed(_events(work, wish, first, pieces), stack.pop_all())
            found = [piece async for piece in pieces]
            segments = [segment for piece in found for segment in piece.segments]
            body, kind = answer(wish, segments, found[-1].done, work.models.whisper.text_tokens)
            return Response(body, media_type=kind)


async def _events(work: Work, wish: Wish, first: Piece, rest: AsyncIterator[Piece]) -> AsyncIterator[str]:
    """Server-sent events: text as it is heard, and all of it at the end."""
    segments: list[Segment] = []
    piece = first
    try:
        while True:
            text = full_text(piece.segments)
            if text:
                yield delta(f" {text}" if segments else text)
            segments += piece.segments
            following = await anext(rest, None)
            if following is None:
                break
            piece = following
        yield done(wish, segments, piece.done, work.models.whisper.text_tokens)
    except Refusal as refusal:
        work.metrics.errors.labels(refusal.code).inc()
        yield failed(refusal.body())


class Streamed(Response):
    """An answer that is sent as it is made; what it was made of is let go afterwards, whatever happens."""

    def __init__(self, events: AsyncIterator[str], stack: AsyncExitStack) -> None:
        super().__init__(media_type="text/event-stream")
        del self.headers["content-length"]
        self.events = events
        self.stack = stack

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        async with self.stack:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            async for event in self.events:
                await send({"type": "http.response.body", "body": event.encode(), "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})


def _add_state(app: FastAPI, work: Work) -> None:
    @app.get("/health/live")
    async def live() -> dict[str, bool]:
        return {"live": True}

    @app.get("/health")
    @app.get("/health/ready")
    async def ready() -> JSONResponse:
        return JSONResponse({"live": True, "ready": not work.stopping}, 503 if work.stopping else 200)

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(work.metrics.text(), media_type=work.metrics.type)


def _constant(body: bytes, kind: str) -> Any:
    async def page() -> Response:
        return Response(body, media_type=kind)

    return page


async def _no_such_address(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    return _refusing(Refusal(error.status_code, "no_such_address", "this server has no such address or method"))


def _refusing(refusal: Refusal) -> JSONResponse:
    return JSONResponse(refusal.body(), refusal.status, refusal.headers)


class Entrance:
    """Around all addresses: the door, headers, counts, and an answer for whatever goes wrong."""

    def __init__(self, app: Any, *, work: Work, door: Door) -> None:
        self.app = app
        self.work = work
        self.door = door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun = ended = False

        async def receiving() -> Any:
            nonlocal ended
            message = await receive()
            ended = not message.get("more_body")
            return message

        async def sending(message: Any) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                message["headers"] = [*message["headers"], *_headers()]
                route = getattr(scope.get("route"), "path", "none")
                self.work.metrics.requests.labels(route, str(message["status"])).inc()
            await send(message)

        refusal = None
        try:
            self.door.admit({key.decode("latin-1"): value.decode("latin-1") for key, value in scope["headers"]},
                            scope["path"])  # fmt: skip
            await self.app(scope, receiving, sending)
        except Refusal as error:
            refusal = error
        except Gone:
            self.work.metrics.errors.labels("client_gone").inc()
        except Exception:  # noqa: BLE001 (nothing may reach the client)
            traceback.print_exc(file=sys.stderr)
            refusal = BROKEN
        if refusal is not None:
            self.work.metrics.errors.labels(refusal.code).inc()
            if not begun:
                # Closing on what is still being sent would take the answer away before it is read.
                with suppress(TimeoutError):
                    async with asyncio.timeout(LINGER_SECONDS):
                        while not ended:
                            await receiving()
                await _refusing(refusal)(scope, receive, sending)


def _headers() -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
