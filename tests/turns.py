"""What tests that run side by side, in the workers of pytest-xdist, leave to one another.

The locks are the kernel's, on folders and files of the repository: they are gone with the process that holds them.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from containers import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold the lock of a file or a folder, which stays as it is; it blocks until nobody else does."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@dataclass(frozen=True, slots=True)
class Room:
    """Where tests are together, or one is alone."""

    inside: Path
    gate: Path

    @contextmanager
    def entered(self, *, alone: bool) -> Iterator[None]:
        """Be there with others, or wait until they are gone and keep them out.

        Who waits to be alone stands in the gate, and those who come later wait behind: so it will be its turn.
        """
        descriptor = os.open(self.inside, os.O_RDONLY)
        try:
            with held(self.gate):
                fcntl.flock(descriptor, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
            yield
        finally:
            fcntl.flock(descriptor, fcntl.LOCK_UN)  # not only closed: a process that a test has forked may have it too
            os.close(descriptor)


MACHINE = Room(inside=ROOT / "tests", gate=ROOT / "tests" / "setup")
