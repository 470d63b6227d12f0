"""Errors that this package raises on purpose, each with its exit code on the command line.

A message says what is wrong, where, and the command that mends it; it is printed without a traceback.
"""

from pickle import UnpicklingError
from typing import Any


class AsrLoraError(Exception):
    """Base class of every error that this package raises on purpose."""

    exit_code = 1


class ConfigError(AsrLoraError):
    """The usage or configuration is wrong; nothing was started."""

    exit_code = 2


class DataError(AsrLoraError):
    """The data, the model or an earlier stage's folder cannot be used."""

    exit_code = 3


class AudioError(DataError):
    """A recording cannot be decoded; `reason` is the short name under which it is counted."""

    def __init__(self, reason: str, message: str = "") -> None:
        super().__init__(message or reason)
        self.reason = reason


class Refused(AsrLoraError):
    """A model was not promoted or exported; `facts` are the measurements that would have been written."""

    def __init__(self, message: str, facts: Any) -> None:
        super().__init__(message)
        self.facts = facts


class Incomplete(AsrLoraError):
    """Some jobs of many failed, each named in the message; `table` shows the others."""

    def __init__(self, message: str, table: str = "") -> None:
        super().__init__(message)
        self.table = table


class Interrupted(AsrLoraError):
    """A signal stopped the job after everything was saved."""

    exit_code = 130


def ran_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that the memory of a GPU or CPU did not suffice."""
    return type(error).__name__ in ("OutOfMemoryError", "MemoryError") or "can't allocate memory" in str(error)


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, or its class name, for use inside a sentence.

    A line that ends in a colon takes the next one with it. torch's advice to load a refused pickle anyway is left out.
    """
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, UnpicklingError):
        return "it is a pickle that is damaged, or holds more than tensors and could run any program"
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return (f"{lines[0]} {lines[1].strip()}" if lines[0].endswith(":") and lines[1:] else lines[0]).rstrip(".")
