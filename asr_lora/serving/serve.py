"""The job: serve OpenAI's transcription API and one web page until a signal arrives."""

import logging
import os
import signal
import socket
from collections.abc import Mapping, Sequence

import uvicorn

from asr_lora.config import Context, Precision
from asr_lora.decoding.loading import engine_named
from asr_lora.errors import ConfigError
from asr_lora.serving.access import AccessPolicy, is_loopback
from asr_lora.serving.app import make_app
from asr_lora.serving.http_timeouts import KEEP_ALIVE_SECONDS, TimeoutProtocol
from asr_lora.serving.limits import Limits
from asr_lora.serving.request_job import RequestRunner
from asr_lora.serving.served_model import load_served_model
from asr_lora.system.progress import say

GRACE_SECONDS = 30  # after a signal, running requests have this long to finish
MAX_CONNECTIONS = 2000


def serve(
    model: str | None = None,
    adapters: Mapping[str, str] | None = None,
    *,
    names: Sequence[str] = (),
    host: str = "127.0.0.1",
    port: int = 8000,
    key_variable: str = "ASR_LORA_API_KEY",
    no_key: bool = False,
    limits: Limits = Limits(),  # noqa: B008 (frozen)
    language: str | None = None,
    language_token: str | None = None,
    context: Context | None = None,
    precision: Precision = Precision.AUTO,
    vad: bool = True,
    engine: str | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT arrives; running requests then have 30 s to finish.

    Args:
        model: the base model of the adapters, or a model alone; the base of the first adapter when not given.
        adapters: names, and the runs or adapters on the base model that they stand for.
        names: of the base model or the model alone, instead of its own, such as "whisper-1"; "NAME=ADAPTER" is one more
            name of an adapter.
        host: address to listen on; an address that other machines can reach needs a key.
        port: 0 takes any free port.
        key_variable: environment variable with the API key that clients must send.
        no_key: let clients on other machines in without a key.
        limits: of requests.
        language: of a model alone, or of the base model; detected in each recording when not given or recorded.
        engine: "torch" or "ctranslate2"; by default CTranslate2 on a CPU, unless there are several adapters.

    Raises:
        ConfigError: neither model nor adapter is given, two models have one name, a key is missing, or the address
            cannot be used.
        DataError: the model or an adapter is not there, or does not fit.
    """
    access = AccessPolicy(host, read_key(host, key_variable, no_key=no_key))
    with listen_on(host, port) as listener:
        served = load_served_model(
            model, adapters or {}, names=names, language=language, language_token=language_token, context=context,
            precision=precision, max_seconds=limits.seconds, vad=vad,
            engine=engine_named(engine, precision, needs_torch=bool(adapters)),
        )  # fmt: skip
        logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # broken requests could fill the log
        listener.listen()  # a client that connects now is answered as soon as the server has started
        where = f"[{host}]" if ":" in host else host
        say(f"{', '.join(served.selections)} at http://{where}:{listener.getsockname()[1]}")
        Server(RequestRunner(served, limits), access).run(sockets=[listener])


def read_key(host: str, variable: str, *, no_key: bool) -> str | None:
    """Read the API key that clients must send from the environment; None: clients need no key.

    Raises:
        ConfigError: no key is set although other machines can reach the host, or a key is set and `no_key` too.
    """
    key = os.environ.get(variable, "").strip() or None
    if no_key and key:
        raise ConfigError(f"--no-api-key, but {variable} is set: unset it, or leave out --no-api-key")
    if key is None and not no_key and not is_loopback(host):
        raise ConfigError(
            f"other machines can reach --host {host}, so set a key: export {variable}=$(openssl rand -hex 32); "
            "or give --no-api-key"
        )
    return key


def listen_on(host: str, port: int) -> socket.socket:
    """Reserve an address before the model is loaded.

    Raises:
        ConfigError: the address cannot be used.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host.strip("[]"), port))
    except OSError as error:
        listener.close()
        raise ConfigError(f"cannot listen on {host}:{port} ({error.strerror}): give another --port") from error
    return listener


class Server(uvicorn.Server):
    """uvicorn with this application; a signal or `should_exit` stops it."""

    def __init__(self, runner: RequestRunner, access: AccessPolicy) -> None:
        self.runner = runner
        super().__init__(
            uvicorn.Config(
                make_app(runner, access),
                http=TimeoutProtocol,
                ws="none",
                lifespan="off",
                access_log=False,
                log_level="error",  # uvicorn's warnings are about broken requests
                server_header=False,
                proxy_headers=False,
                limit_concurrency=MAX_CONNECTIONS,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=GRACE_SECONDS,
            )
        )
        runner.metrics.connections.set_function(lambda: len(self.server_state.connections))

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until a signal arrives, and return normally."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)  # uvicorn raises the signal again at its end
        super().run(sockets=sockets)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.runner.stopping = True
        await super().shutdown(sockets=sockets)
