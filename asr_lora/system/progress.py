"""What an orchestrator says while it works: each stage, and the command that repeats it by hand."""

import shlex
import sys


class Stages:
    """Says which stage runs, out of how many, and the command that repeats it."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.commands: list[str] = []

    def begin(self, *words: object) -> None:
        command = shlex.join(["asr-lora", *map(str, words)])
        self.commands.append(command)
        say(f"[{len(self.commands)}/{self.total}] {command}")


def say(message: str) -> None:
    """Progress goes to standard error, results to standard output."""
    print(message, file=sys.stderr, flush=True)
