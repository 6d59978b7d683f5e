"""The process: signals first, then the command, and how it ends as an exit code; nothing else ends the process."""

import gc
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import NoReturn

STOP_SECONDS = 4.5
"""Seconds from the first signal to the end, at the latest: a server that went silent answers no cancellation."""

REPORT_SECONDS = 0.3
"""Seconds that the report may take then."""


def note() -> None:
    """Do no more than note the signal: nothing runs yet that could be cancelled, or nothing any more."""


class Stop:
    """The handler of SIGINT and SIGTERM. As PID 1 Python ignores SIGTERM until there is one.

    It raises nothing: an import that is broken off leaves modules with which nothing can be reported.
    """

    def __init__(self) -> None:
        self.signum = 0
        self.action: Callable[[], object] = note
        self.is_overdue = False
        self.report: Callable[[], object] = note
        """Says how it ended where `action` could not end it in time."""

    def __call__(self, signum: int, _: FrameType | None) -> None:
        """Note the signal and cancel what runs; a second signal changes nothing."""
        if not self.signum:
            self.signum = signum
            signal.setitimer(signal.ITIMER_REAL, STOP_SECONDS)
            self.action()

    def overdue(self, _: int, __: FrameType | None) -> None:
        """End the process; without another word where the report does not come to its end: nobody may read the log."""
        if not self.is_overdue:
            self.is_overdue = True
            signal.setitimer(signal.ITIMER_REAL, REPORT_SECONDS)
            self.report()
        os._exit(128 + self.signum)


stop = Stop()
signal.signal(signal.SIGALRM, stop.overdue)
signal.signal(signal.SIGINT, stop)
signal.signal(signal.SIGTERM, stop)


def main() -> NoReturn:
    """Run the command that the arguments and the environment ask for, and leave with its exit code."""
    gc.disable()  # what an import makes stays: looking for garbage in it is a tenth of a start
    from .program import run  # most of a start; a signal that comes meanwhile is noted

    gc.freeze()
    gc.enable()
    leave(run(sys.argv[1:], os.environ, stop))


def leave(code: int) -> NoReturn:
    """End the process at once: what is left to tear down, the kernel does faster."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # closed, or the reader has gone
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
