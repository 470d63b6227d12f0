"""Lock a file or a folder for one process; the lock ends with the process, so it is never stale."""

import errno
import fcntl
import functools
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any, ParamSpec, TypeVar

from asr_lora.errors import ConfigError
from asr_lora.folders.manifests import Folder
from asr_lora.system.progress import say

P = ParamSpec("P")
T = TypeVar("T")
BUSY = "another {job} works on %s{where}: wait until it ends, or name another folder"
UNLOCKABLE = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}  # of file systems without locks
UNWRITABLE = {errno.EACCES, errno.EPERM, errno.EROFS}
_held: set[IO[str]] = set()


def owning(folder_of: Callable[..., Folder[Any] | None], job: str = "") -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Let a job own its folder from its first check to its manifest.

    Args:
        folder_of: returns the folder for the arguments of the job; None: there is none to own.
        job: name of the job; default: the first word of the function's name.
    """

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        @functools.wraps(function)
        def alone_in_folder(*args: P.args, **kwargs: P.kwargs) -> T:
            folder = folder_of(*args, **kwargs)
            if folder is None or int(os.environ.get("RANK", "0")):  # the first of several processes locks for all
                return function(*args, **kwargs)
            with owned(folder, job or function.__name__.partition("_")[0]):
                return function(*args, **kwargs)

        return alone_in_folder

    return decorate


@contextmanager
def owned(folder: Folder[Any], job: str) -> Iterator[None]:
    """Own a folder. It is made where it is absent, and removed again where nothing was written to it.

    Raises:
        ConfigError: another job owns it, on this machine or on another one that shares the disk.
    """
    place = folder.lock.parent
    new = [path for path in (place, *place.parents) if not path.exists()]
    with ExitStack() as stack:
        try:
            stack.enter_context(alone(folder.lock, BUSY % folder.root, job))
        except OSError as error:
            if error.errno not in UNWRITABLE:
                raise
            # Whoever may not write a lock here may not write results either; what is complete can be read.
        try:
            yield
        finally:
            stack.close()
            for path in new:
                with suppress(OSError):
                    path.rmdir()  # fails where something is in it


@contextmanager
def alone(lock: Path, refusal: str, job: str = "job", *, wait: bool = False) -> Iterator[None]:
    """Hold a lock file for this process alone, and remove it at the end.

    Args:
        lock: the file; its folder is made.
        refusal: message of the error; "{job}" and "{where}" in it stand for the job that holds the lock, and for its
            process and machine.
        job: what this process does meanwhile.
        wait: wait for other processes instead of refusing.

    Raises:
        ConfigError: another process holds the lock.
    """
    while (handle := _open(lock, refusal, job, wait)) is None:
        pass
    with handle:
        _held.add(handle)
        try:
            yield
        finally:
            _held.discard(handle)
            with suppress(OSError):
                if _same_file(handle, lock):  # a folder that was replaced may hold the lock of another process
                    lock.unlink()  # while it is held


def _open(lock: Path, refusal: str, job: str, wait: bool) -> IO[str] | None:
    """Take the lock; return None if its former holder has just removed the file."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        try:
            handle = stack.enter_context(lock.open("a", encoding="utf-8"))
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            if not _same_file(handle, lock):
                return None
        except BlockingIOError as error:
            raise ConfigError(_refusal(lock, refusal, job)) from error
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno not in UNLOCKABLE:
                raise
            say(f"warning: {lock.parent} has no locks ({error.strerror}): let no other job write there meanwhile")
        with suppress(OSError):  # the disk may be full
            handle.truncate(0)
            handle.write(f"{job}\nprocess {os.getpid()} on {socket.gethostname()}\n")
            handle.flush()
        stack.pop_all()
        return handle


def _same_file(handle: IO[str], path: Path) -> bool:
    return os.path.samestat(os.fstat(handle.fileno()), path.stat())


def _refusal(lock: Path, refusal: str, job: str) -> str:
    """Name the job, the process and the machine that hold the lock, as they have written into it."""
    with suppress(OSError, ValueError):
        job, where, *_ = lock.read_text(encoding="utf-8").splitlines()
        return refusal.replace("{job}", job).replace("{where}", f" ({where})")
    return refusal.replace("{job}", job).replace("{where}", "")


def _let_go() -> None:
    """Close the locks in a forked process, such as one that loads data: they end with the job's own process."""
    for handle in _held:
        handle.close()
    _held.clear()


os.register_at_fork(after_in_child=_let_go)
