"""The work of a function, counted: a busy machine changes nothing about it."""

from __future__ import annotations

import posix
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


def steps(function: Callable[[], object]) -> int:
    """How many instructions of Python it takes."""
    count = 0

    def trace(frame: Any, event: str, _: object) -> Any:
        nonlocal count
        frame.f_trace_opcodes = True
        count += event == "opcode"
        return trace

    sys.settrace(trace)
    try:
        function()
    finally:
        sys.settrace(None)
    return count


class Calls:
    """The module posix, with a count of the calls of each function."""

    def __init__(self) -> None:
        self.counted: Counter[str] = Counter()

    def __getattr__(self, name: str) -> Any:
        found = getattr(posix, name)
        if not callable(found):
            return found

        def call(*args: Any) -> Any:
            self.counted[name] += 1
            return found(*args)

        return call
