"""Lock a file for one process; the lock ends with the process, so it is never stale."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

from asr_lora.errors import ConfigError


@contextmanager
def alone(lock: Path, refusal: str) -> Iterator[None]:
    """Hold a lock file for this process alone, and remove it at the end.

    Raises:
        ConfigError: another process holds the lock; the message is `refusal`.
    """
    while (handle := _held(lock, refusal)) is None:
        pass
    with handle:
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)  # while it is held


def _held(lock: Path, refusal: str) -> IO[str] | None:
    """Take the lock; return None if its former holder has just removed the file."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        try:
            handle = stack.enter_context(lock.open("a"))
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(handle.fileno()).st_ino != lock.stat().st_ino:
                return None
        except BlockingIOError as error:
            raise ConfigError(refusal) from error
        except FileNotFoundError:
            return None
        stack.pop_all()
        return handle
