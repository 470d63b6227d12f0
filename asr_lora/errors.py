"""What can go wrong, each with the exit code the command line gives it.

A message says what is wrong, where, and the command that mends it: it is printed as it stands, without a traceback.
"""

from typing import Any


class AsrLoraError(Exception):
    """Root of every error this package raises on purpose."""

    exit_code = 1


class ConfigError(AsrLoraError):
    """Wrong usage or configuration: nothing was started."""

    exit_code = 2


class DataError(AsrLoraError):
    """The data, the model or an earlier stage's folder cannot be used."""

    exit_code = 3


class AudioError(DataError):
    """One clip cannot be decoded; `reason` is the short name it is counted under."""

    def __init__(self, reason: str, message: str = "") -> None:
        super().__init__(message or reason)
        self.reason = reason


class Refused(AsrLoraError):
    """A model did not pass the gate; `facts` are what was measured, as they would have been written."""

    def __init__(self, message: str, facts: dict[str, Any]) -> None:
        super().__init__(message)
        self.facts = facts


class Incomplete(AsrLoraError):
    """Some of many jobs failed, each named in the message; `table` shows the others, if there are any."""

    def __init__(self, message: str, table: str = "") -> None:
        super().__init__(message)
        self.table = table


class Interrupted(AsrLoraError):
    """Stopped by a signal after everything was saved."""

    exit_code = 130


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether memory did not suffice: of a GPU, or of a CPU whose limit the system enforces."""
    return type(error).__name__ in ("OutOfMemoryError", "MemoryError") or "can't allocate memory" in str(error)


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, or its class name, for use inside a sentence."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
