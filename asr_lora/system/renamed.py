"""Accept keyword arguments of public functions by the names that they had in earlier versions."""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


def renamed_keywords(**new_names: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorate a function so that it takes keywords by their old names too; each old name maps to the new one."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            return function(*args, **{new_names.get(name, name): value for name, value in kwargs.items()})  # type: ignore[arg-type]

        return call

    return decorate
