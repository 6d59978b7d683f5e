"""Starts the delay proxy as a process of its own and asks it for its counts."""

from __future__ import annotations

import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

from bench.peer import BENCH

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, slots=True)
class Far:
    """A server's port as seen from afar."""

    port: int
    _questions: IO[str]
    _answers: IO[str]

    def counted(self) -> tuple[int, int]:
        """Connections and answered round trips since the last time."""
        self._questions.write("\n")
        self._questions.flush()
        connections, round_trips = self._answers.readline().split()
        return int(connections), int(round_trips)


@contextmanager
def far(port: int, milliseconds: float) -> Iterator[Far]:
    """A proxy to this port with so much added round-trip time."""
    command = [sys.executable, "-I", str(BENCH / "delay.py"), str(port), str(milliseconds)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as proxy:
        assert proxy.stdin
        assert proxy.stdout
        yield Far(int(proxy.stdout.readline()), proxy.stdin, proxy.stdout)
        proxy.stdin.close()
