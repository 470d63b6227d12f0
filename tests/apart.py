"""`asr-lora` in a process of its own, forked from one that has imported everything, so that it begins at once.

It is what a user starts in all but the import of the libraries, which takes longer than most of what is shown of it.
"""

import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp

server = multiprocessing.get_context("forkserver")
server.set_forkserver_preload(
    ["bitsandbytes", "datasets", "asr_lora.cli.verbs", "asr_lora.forecast.check", "asr_lora.training.train"]
)


@dataclass(frozen=True)
class Running:
    """A process that `start` started."""

    process: multiprocessing.process.BaseProcess
    folder: Path  # where it writes what it says

    @property
    def ended(self) -> bool:
        return not self.process.is_alive()

    def send(self, number: signal.Signals) -> None:
        os.kill(self.process.pid, number)

    def wait(self, timeout: float = 300) -> subprocess.CompletedProcess:
        """What a finished process said, and its exit code: as `subprocess.run` tells it."""
        self.process.join(timeout)
        assert self.ended, f"not done in {timeout} s"
        out, err = ((self.folder / name).read_text(encoding="utf-8") for name in ("out", "err"))
        shutil.rmtree(self.folder)
        return subprocess.CompletedProcess(self.process.name, self.process.exitcode, out, err)


def start(*words: object, largest_file: int | None = None, environment: dict[str, str] | None = None) -> Running:
    """Start `asr-lora` with these words; a file may grow to so many bytes, as on a disk that fills."""
    folder = Path(mkdtemp(prefix="asr-lora-apart-"))
    said = [str(word) for word in words]
    process = server.Process(target=_main, args=(said, folder, largest_file, environment or {}), name=" ".join(said))
    process.start()
    return Running(process, folder)


def run(*words: object, **options: object) -> subprocess.CompletedProcess:
    return start(*words, **options).wait()


def _main(words: list[str], folder: Path, largest_file: int | None, environment: dict[str, str]) -> None:
    for descriptor, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT), descriptor)
    os.environ.update(environment)
    if largest_file is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    from asr_lora.cli.verbs import main

    sys.argv = ["asr-lora", *words]
    main()
