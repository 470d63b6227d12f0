"""The job: a loaded model behind OpenAI's API and one page, until it is told to stop."""

import logging
import os
import signal
import socket
from collections.abc import Mapping

import uvicorn

from asr_lora.config import Context, Precision
from asr_lora.decoding.loading import engine_named
from asr_lora.errors import ConfigError
from asr_lora.serving.access import Door, is_loopback
from asr_lora.serving.app import make_app
from asr_lora.serving.http_timeouts import ImpatientProtocol
from asr_lora.serving.limits import Limits
from asr_lora.serving.models import load_models
from asr_lora.serving.request_job import Work
from asr_lora.system.progress import say

GRACE_SECONDS = 30  # that what is under way has to end in, after a signal
CONNECTIONS = 2000


def serve(
    model: str | None = None,
    adapters: Mapping[str, str] | None = None,
    *,
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
    engine: str = "torch",
) -> None:
    """Answer requests until SIGTERM or SIGINT; what is under way then has 30 s to end.

    Args:
        model: the base, or a model of any kind where there are no adapters; that of the first adapter when not given.
        adapters: names, and the runs or adapters on that base that they stand for.
        host: address to listen on; what others can reach needs a key.
        port: 0 takes any that is free.
        key_variable: environment variable with the key that clients must send.
        no_key: whether others may come without one.
        limits: of requests.
        language: what a model without adapters, or the untouched base, is told; as heard when not given.
        engine: "torch", or "ctranslate2".

    Raises:
        ConfigError: nothing to serve, no key where one is needed, or an address that cannot be listened on.
        DataError: model or adapters are not there, or do not fit.
    """
    door = Door(host, read_key(host, key_variable, no_key=no_key))
    with listen_on(host, port) as listener:
        models = load_models(
            model, adapters or {}, language=language, language_token=language_token, context=context,
            precision=precision, most_seconds=limits.seconds, vad=vad, engine=engine_named(engine),
        )  # fmt: skip
        logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # hostile clients could fill the log
        listener.listen()  # who comes now waits for the little that is left to do
        where = f"[{host}]" if ":" in host else host
        say(f"{', '.join(models.selections)} at http://{where}:{listener.getsockname()[1]}")
        Server(Work(models, limits), door).run(sockets=[listener])


def read_key(host: str, variable: str, *, no_key: bool) -> str | None:
    """The key that clients must send, from the environment alone; None: nobody is asked.

    Raises:
        ConfigError: there is none, and others can reach the host.
    """
    key = os.environ.get(variable, "").strip() or None
    if no_key and key:
        raise ConfigError(f"--no-api-key, but {variable} is set: unset it, or leave out --no-api-key")
    if key is None and not no_key and not is_loopback(host):
        raise ConfigError(
            f"--host {host} lets others in, so set a key: export {variable}=$(openssl rand -hex 32); "
            "or say --no-api-key"
        )
    return key


def listen_on(host: str, port: int) -> socket.socket:
    """Take an address before anything is loaded.

    Raises:
        ConfigError: it cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host.strip("[]"), port))
    except OSError as error:
        listener.close()
        raise ConfigError(f"{host}:{port} cannot be listened on ({error.strerror}): give another --port") from error
    return listener


class Server(uvicorn.Server):
    """uvicorn, which is told to stop by signals or `should_exit`."""

    def __init__(self, work: Work, door: Door) -> None:
        self.work = work
        super().__init__(
            uvicorn.Config(
                make_app(work, door),
                http=ImpatientProtocol,
                ws="none",
                lifespan="off",
                access_log=False,
                log_level="error",  # warnings are of broken requests; how many are connected is among the metrics
                server_header=False,
                proxy_headers=False,
                limit_concurrency=CONNECTIONS,
                timeout_graceful_shutdown=GRACE_SECONDS,
            )
        )
        work.metrics.connections.set_function(lambda: len(self.server_state.connections))

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until a signal; it is no failure."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)  # uvicorn raises its signal once more when all is done
        super().run(sockets=sockets)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.work.stopping = True
        await super().shutdown(sockets=sockets)
