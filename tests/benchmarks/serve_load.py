"""Many clients at once, and hostile ones, against `asr-lora serve`: what is answered, how fast, in how much memory.

python tests/benchmarks/serve_load.py pypi:whisper-base --adapter cs=runs/cs --clip clip.wav --clients 200
"""

import argparse
import asyncio
import io
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

BOUNDARY = "xxBOUNDARYxx"
CLOSED = 0  # a connection that was closed without an answer
PATIENCE = 900.0  # seconds for an answer


@dataclass(frozen=True)
class Target:
    """A server, and what it is asked."""

    port: int
    model: str
    clip: bytes
    key: str | None = None

    @property
    def authorization(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"} if self.key else {}


def form(audio: bytes, fields: dict[str, str], filename: str = "clip.wav") -> bytes:
    """A multipart form with one file."""
    parts = [
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in fields.items()
    ]
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="{filename}"\r\n\r\n'
    return b"".join([*parts, head.encode("utf-8", "surrogatepass"), audio, f"\r\n--{BOUNDARY}--\r\n".encode()])


async def post(
    target: Target,
    body: bytes | Iterable[bytes],
    *,
    headers: dict[str, str] | None = None,
    kind: str = f"multipart/form-data; boundary={BOUNDARY}",
    length: int | None = None,
    pause: float = 0.0,
    path: str = "/v1/audio/transcriptions",
) -> tuple[int, bytes]:
    """Send a request, in pieces with pauses, and return the status (0: closed without one) and what was answered."""
    pieces = [body] if isinstance(body, bytes) else body
    if length is None and isinstance(body, bytes):
        length = len(body)
    given = {"Host": f"127.0.0.1:{target.port}", "Content-Type": kind, "Connection": "close", **target.authorization}
    given |= {"Content-Length": str(length)} if length is not None else {"Transfer-Encoding": "chunked"}
    head = "".join(f"{name}: {value}\r\n" for name, value in (given | (headers or {})).items())
    reader, writer = await asyncio.open_connection("127.0.0.1", target.port)
    arrived: list[bytes] = []  # kept, should the connection break while more is sent

    async def read() -> None:
        while data := await reader.read(65536):
            arrived.append(data)

    answer = asyncio.ensure_future(read())
    try:
        writer.write(f"POST {path} HTTP/1.1\r\n{head}\r\n".encode())
        for piece in pieces:
            writer.write(piece if length is not None else b"%x\r\n%s\r\n" % (len(piece), piece))
            await writer.drain()
            if pause:
                await asyncio.sleep(pause)
            if answer.done():
                break
        if length is None and not answer.done():
            writer.write(b"0\r\n\r\n")
    except (ConnectionError, BrokenPipeError):
        pass
    with suppress(ConnectionError):
        await asyncio.wait_for(answer, PATIENCE)
    writer.close()
    text = b"".join(arrived)
    status = re.match(rb"HTTP/1\.1 (\d+)", text)
    return (int(status[1]) if status else CLOSED), text


def silence_bomb(seconds: float) -> bytes:
    """FLAC of silence: a few bytes a second."""
    memory = io.BytesIO()
    with soundfile.SoundFile(memory, "w", 16_000, 1, "PCM_16", format="FLAC") as file:
        for _ in range(int(seconds // 60) + 1):
            file.write(np.zeros(16_000 * 60, np.int16))
    return memory.getvalue()


def hostile(target: Target, upload_bytes: int, seconds: float, slow: float) -> dict[str, list[Callable[[], Awaitable]]]:
    """Attacks by kind, each a function that makes one; `slow` seconds lie between two bytes of the slow ones."""
    fields = {"model": target.model}
    noise = random.Random(0)
    whole = form(target.clip, fields)
    bomb = silence_bomb(1.5 * seconds)

    def send(body, **options):
        return lambda: post(target, body, **options)

    async def slow_head() -> tuple[int, bytes]:
        reader, writer = await asyncio.open_connection("127.0.0.1", target.port)
        for letter in b"POST /v1/audio/transcriptions HTTP/1.1\r\nX-Slow: " + b"a" * 10_000:
            try:
                writer.write(bytes([letter]))
                await writer.drain()
                if await asyncio.wait_for(reader.read(1), slow) == b"":
                    break
            except TimeoutError:
                continue
            except ConnectionError:
                break
        writer.close()
        return CLOSED, b""

    block = bytes(65536)
    begin = form(b"", fields).removesuffix(f"\r\n--{BOUNDARY}--\r\n".encode())
    names = ["../../../../etc/passwd", "/dev/sda", "C:\\con", "a" * 3000, "%00.wav", "x\u202egnp.wav", "\x01\x7f", ".."]
    part = f"--{BOUNDARY}\r\nContent-Disposition: form-data; name="
    return {
        "huge, and says so": [send(b"", length=10**12)] * 5,
        "huge, in chunks": [send((begin, *([block] * (2 * upload_bytes // len(block) + 40))))] * 3,
        "slow head": [slow_head] * 20,
        "slow body": [lambda: post(target, (begin, *[b"x"] * 9000), length=10_000, pause=slow)] * 20,
        "broken form": [
            send(whole[: len(whole) // 2]), send(whole, kind="multipart/form-data"), send(b""),
            send(noise.randbytes(5000)), send(form(b"1", {"prompt": "x" * 10**6, **fields})),
            send(whole.replace(b"form-data", b"attachment")), send(f"--{BOUNDARY}\r\n".encode() * 5000),
            send((part + "x\r\n\r\n1\r\n").encode() * 5000), send((part + "a" * 10**6).encode()),
            send(f"--{BOUNDARY}\r\nA: ".encode() + b"b" * 10**6), send(whole.replace(b"name=", b"nome=")),
            send(whole, kind=f"multipart/form-data; boundary={'x' * 70000}"),
            send(whole, kind=f"multipart/form-data; boundary={BOUNDARY}; charset=utf-16"),
        ],
        "bomb": [send(form(bomb, fields, "bomb.flac"))] * 2,
        "wrong type": [
            *(send(form(data, fields)) for data in (
                b"", b"hello", b"PK\x03\x04" + noise.randbytes(999), b"\x89PNG\r\n\x1a\n" + bytes(99),
                noise.randbytes(9999), b"\x1aE\xdf\xa3" + bytes(99), b"RIFF\xff\xff\xff\xffWAVEfmt ", target.clip[:50],
                b"fLaC" + bytes(99), b"#EXTM3U\nfile:///etc/passwd\n", b"OggS" + noise.randbytes(500),
                b"ID3" + noise.randbytes(3000),
            )),
            send(b'{"model": "x"}', kind="application/json"),
            send(b"model=x", kind="application/x-www-form-urlencoded"),
        ],
        "wrong fields": [
            *(send(form(target.clip, {**fields, name: value})) for name, value in (
                ("response_format", "exe"), ("temperature", "nan"), ("temperature", "1e999"), ("stream", "maybe"),
                ("language", "../nl"), ("timestamp_granularities[]", "year"), ("beams", "99"), ("model", "\x00"),
            )),
            send(form(target.clip, {"model": "../../etc"})), send(form(target.clip, {})),
        ],
        "names of paths": [send(form(target.clip, fields, name)) for name in names],
        "wrong key": [
            send(whole, headers={"Authorization": value})
            for value in ("", "Bearer", "Bearer x", "Basic eDp5", "Bearer \u00ff", "Bearer " + "k" * 8000, "k" * 10**5)
        ],
        "wrong host": [send(whole, headers={"Host": host}) for host in ("evil.example", "", "127.0.0.1.evil", "[")],
        "wrong origin": [send(whole, headers={"Origin": "http://evil.example"})],
        "wrong address": [send(b"", path=path) for path in ("/../../etc/passwd", "/v1/%2e%2e/x", "/page.js/..", "/d")],
    }  # fmt: skip


async def attack(attacks: dict[str, list[Callable[[], Awaitable]]]) -> dict[str, Counter[int]]:
    """Make all attacks at once; statuses by kind."""
    kinds = [(kind, one) for kind, several in attacks.items() for one in several]
    answers = await asyncio.gather(*(one() for _, one in kinds))
    found: dict[str, Counter[int]] = {kind: Counter() for kind in attacks}
    for (kind, _), (status, text) in zip(kinds, answers, strict=True):
        found[kind][status] += 1
        leaked = re.search(rb"/tmp|/dev/fd|/proc|Traceback|site-packages|/home", text.partition(b"\r\n\r\n")[2])
        assert not leaked, (kind, leaked)
    return found


async def load(target: Target, clients: int, clips: Sequence[bytes] = ()) -> list[tuple[int, float]]:
    """So many clients at once, with the clips in turn; status and seconds of each."""
    bodies = [form(clip, {"model": target.model}) for clip in clips or [target.clip]]

    async def one(number: int) -> tuple[int, float]:
        begun = time.monotonic()
        status, _ = await post(target, bodies[number % len(bodies)])
        return status, time.monotonic() - begun

    return await asyncio.gather(*map(one, range(clients)))


# The real thing, in a process of its own


@asynccontextmanager
async def served(arguments: argparse.Namespace, **options: object) -> AsyncIterator[tuple[Target, int]]:
    """A server in a process of its own, and the process's id."""
    words = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    command = [sys.executable, "-m", "asr_lora", "serve", arguments.model, "--port", "0", *words]
    for adapter in arguments.adapter:
        command += ["--adapter", adapter]
    key = "correct-horse"
    environment = {**os.environ, "ASR_LORA_API_KEY": key}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stderr is not None
        line = next(line for line in process.stderr if " at http://" in line)
        port = int(line.rpartition(":")[2])
        yield Target(port, arguments.adapter[0].partition("=")[0], arguments.clip[0].read_bytes(), key), process.pid
        process.send_signal(signal.SIGTERM)
        rest = process.stderr.read()
        print(f"exit code {process.wait()}; on standard error: {len(rest.splitlines())} lines", rest[-2000:])


def memory(pid: int, what: str = "VmHWM") -> float:
    """Megabytes of a process: at its peak, or VmRSS now."""
    return int(re.search(rf"{what}:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1]) / 1024


def cpu_seconds(pid: int) -> float:
    """That a process has computed: unlike the time on the wall, free of what else the machine does."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


def statuses(counts: Counter[int]) -> str:
    return ", ".join(f"{status or 'closed'}: {count}" for status, count in sorted(counts.items()))


async def main(arguments: argparse.Namespace) -> None:
    for queue in {16, arguments.clients} if arguments.clients else ():
        async with served(arguments, queue=queue, timeout=3600, concurrency=arguments.concurrency) as (target, pid):
            await load(target, 1)
            before = memory(pid)
            begun, computed = time.monotonic(), cpu_seconds(pid)
            answers = await load(target, arguments.clients, [clip.read_bytes() for clip in arguments.clip])
            wall, computed = time.monotonic() - begun, cpu_seconds(pid) - computed
            times = sorted(seconds for status, seconds in answers if status == 200)
            refused = sorted(seconds for status, seconds in answers if status == 429)
            found = statuses(Counter(status for status, _ in answers))
            print(f"| {arguments.clients} clients, queue {queue} | {found} | {wall:.1f} | {computed:.1f} "
                  f"| {times[len(times) // 2]:.1f} | {times[-1]:.1f} | {refused[-1] if refused else 0:.2f} "
                  f"| {before:.0f} | {memory(pid):.0f} |", flush=True)  # fmt: skip
    if arguments.no_attacks:
        return
    async with served(arguments, max_upload_mb=20) as (target, pid):
        await load(target, 1)
        before = memory(pid)
        for kind, several in hostile(target, 20 * 2**20, 7200, 1.0).items():
            found = await attack({kind: several})
            print(f"| {kind} | {len(several)} | {statuses(found[kind])} | {memory(pid):.0f} |", flush=True)
        after = await load(target, 1)
        print(f"memory {before:.0f} -> peak {memory(pid):.0f} MB; then: {statuses(Counter(s for s, _ in after))}; "
              f"open files {len(os.listdir(f'/proc/{pid}/fd'))}")  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--adapter", action="append", required=True)
    parser.add_argument("--clip", type=Path, action="append", required=True, help="several: in turn")
    parser.add_argument("--clients", type=int, default=200, help="0: hostile ones alone")
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--no-attacks", action="store_true")
    asyncio.run(main(parser.parse_args()))
