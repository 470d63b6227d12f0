"""Print progress: messages, and the stages of a workflow with the command that repeats each of them."""

import shlex
import sys


class Stages:
    """Number the stages of a workflow and record their commands."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.commands: list[str] = []

    def begin(self, *words: object) -> None:
        command = shlex.join(["asr-lora", *map(str, words)])
        self.commands.append(command)
        say(f"[{len(self.commands)}/{self.total}] {command}")


def say(message: str) -> None:
    """Print a message to standard error; results go to standard output."""
    print(message, file=sys.stderr, flush=True)
