"""The server's routes: OpenAI's transcription API, health, metrics, and one web page."""

import asyncio
import sys
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing, suppress
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from asr_lora.language import Task
from asr_lora.serving.access import HEADERS, AccessPolicy
from asr_lora.serving.answers import answer, delta_event, done_event, error_event, full_text
from asr_lora.serving.api_errors import ApiError
from asr_lora.serving.request_job import ClientWatch, RequestRunner
from asr_lora.serving.request_options import RequestOptions, read_options, unknown_model
from asr_lora.serving.uploads import ClientDisconnected, audio_path, receive_form
from asr_lora.serving.web_page import load_page
from asr_lora.transcription.segments import Segment, TranscriptPart

RAW_HEADERS = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
LINGER_SECONDS = 2.0  # how long the rest of a refused request is read and thrown away
SERVER_ERROR = ApiError(500, "server_error", "the request failed because of an error on the server; see its log")


def make_app(runner: RequestRunner, access: AccessPolicy) -> FastAPI:
    """Build the server around a loaded model."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(RequestMiddleware, runner=runner, access=access)
    app.add_exception_handler(HTTPException, _no_such_address)
    _add_transcriptions(app, runner)
    _add_monitoring(app, runner)
    for path, (kind, body) in load_page(runner.model, key=access.key is not None).items():
        app.add_api_route(path, _constant(body, kind), methods=["GET"])
    return app


def _add_transcriptions(app: FastAPI, runner: RequestRunner) -> None:
    created = int(time.time())

    models = {
        name: {
            "id": name,
            "object": "model",
            "created": created,
            "owned_by": "asr_lora",
            "language": selection.prompt.language if selection else None,
            "adapter": name not in runner.model.names,
        }
        for name, selection in runner.model.selections.items()
    }

    @app.get("/v1/models")
    async def list_models() -> JSONResponse:
        return JSONResponse({"object": "list", "data": [*models.values()]})

    @app.get("/v1/models/{name:path}")
    async def retrieve_model(name: str) -> JSONResponse:
        if name not in models:
            raise unknown_model(name, models)
        return JSONResponse(models[name])

    @app.post("/v1/audio/transcriptions")
    async def transcriptions(request: Request) -> Response:
        return await recognise(request, None)

    @app.post("/v1/audio/translations")
    async def translations(request: Request) -> Response:
        return await recognise(request, Task.TRANSLATE)

    async def recognise(request: Request, task: Task | None) -> Response:
        runner.queue.require_room()
        async with AsyncExitStack() as stack:
            form = await stack.enter_async_context(receive_form(request, runner.limits, runner.spool))
            options = read_options(form, runner.model.selections, task)
            options = runner.model.check(options)
            watch = ClientWatch(request.receive, runner.limits.timeout)
            stack.callback(watch.close)
            parts = await stack.enter_async_context(aclosing(runner.transcribe(audio_path(form), options, watch)))
            if options.stream:
                first = await anext(parts)  # audio that cannot be decoded is an HTTP error, before the answer begins
                return EventStream(_events(runner, options, first, parts), stack.pop_all())
            found = [part async for part in parts]
            segments = [segment for part in found for segment in part.segments]
            body, kind = answer(options, segments, found[-1].seconds, runner.model.token_bytes)
            return Response(body, media_type=kind)


async def _events(
    runner: RequestRunner, options: RequestOptions, first: TranscriptPart, rest: AsyncIterator[TranscriptPart]
) -> AsyncIterator[str]:
    """Server-sent events: the text of each window as it is ready, and the whole transcript at the end."""
    segments: list[Segment] = []
    part = first
    try:
        while True:
            text = full_text(part.segments)
            if text:
                yield delta_event(options, part.segments, f" {text}" if segments else text, runner.model.token_bytes)
            segments += part.segments
            following = await anext(rest, None)
            if following is None:
                break
            part = following
        prompt_tokens = len(runner.model.previous_tokens(options))
        yield done_event(options, segments, part.seconds, runner.model.token_bytes, prompt_tokens)
    except ApiError as error:
        runner.metrics.errors.labels(error.code).inc()
        yield error_event(error.body())


class EventStream(Response):
    """An answer that is sent event by event; its resources are released afterwards, also after an error."""

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


def _add_monitoring(app: FastAPI, runner: RequestRunner) -> None:
    @app.get("/health/live")
    async def live() -> dict[str, bool]:
        return {"live": True}

    @app.get("/health")
    @app.get("/health/ready")
    async def ready() -> JSONResponse:
        return JSONResponse({"live": True, "ready": not runner.stopping}, 503 if runner.stopping else 200)

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(runner.metrics.text(), media_type=runner.metrics.content_type)


def _constant(body: bytes, kind: str) -> Callable[[], Awaitable[Response]]:
    async def page() -> Response:
        return Response(body, media_type=kind)

    return page


async def _no_such_address(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    message = "this server has no such address or method: POST /v1/audio/transcriptions or translations, GET /v1/models"
    return _error_answer(ApiError(error.status_code, "no_such_address", message))


def _error_answer(error: ApiError) -> JSONResponse:
    return JSONResponse(error.body(), error.status, error.headers)


class RequestMiddleware:
    """Around all routes: check access, add headers, count requests and errors, and answer every exception."""

    def __init__(self, app: ASGIApp, *, runner: RequestRunner, access: AccessPolicy) -> None:
        self.app = app
        self.runner = runner
        self.access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        answer_begun = request_ended = False

        async def receive_message() -> Message:
            nonlocal request_ended
            message = await receive()
            request_ended = not message.get("more_body")
            return message

        async def send_message(message: Any) -> None:
            nonlocal answer_begun
            if message["type"] == "http.response.start":
                answer_begun = True
                message["headers"] = [*message["headers"], *RAW_HEADERS]
                route = getattr(scope.get("route"), "path", "none")
                self.runner.metrics.requests.labels(route, str(message["status"])).inc()
            await send(message)

        failure = None
        try:
            headers = {key.decode("latin-1"): value.decode("latin-1") for key, value in scope["headers"]}
            self.access.check(headers, scope["path"], scope["method"])
            await self.app(scope, receive_message, send_message)
        except ApiError as error:
            failure = error
        except ClientDisconnected:
            self.runner.metrics.errors.labels("client_gone").inc()
        except Exception:  # noqa: BLE001 (the client must see no traceback)
            traceback.print_exc(file=sys.stderr)
            failure = SERVER_ERROR
        if failure is None:
            return
        self.runner.metrics.errors.labels(failure.code).inc()
        if not answer_begun:
            # Closing while the client still sends would reset the connection before the client reads the answer.
            with suppress(TimeoutError):
                async with asyncio.timeout(LINGER_SECONDS):
                    while not request_ended:
                        await receive_message()
            await _error_answer(failure)(scope, receive, send_message)
