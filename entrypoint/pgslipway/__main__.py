"""The process: signals first, then the command, and how it ends as an exit code; nothing else ends the process."""

import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import NoReturn


def interrupt() -> None:
    """Stop what runs outside the event loop."""
    raise KeyboardInterrupt


class Stop:
    """The handler of SIGINT and SIGTERM. As PID 1 Python ignores SIGTERM until there is one."""

    def __init__(self) -> None:
        self.signum = 0
        self.action: Callable[[], object] = interrupt

    def __call__(self, signum: int, _: FrameType | None) -> None:
        """Note the signal and stop what runs; a second signal changes nothing."""
        if not self.signum:
            self.signum = signum
            self.action()


stop = Stop()
signal.signal(signal.SIGINT, stop)
signal.signal(signal.SIGTERM, stop)


def main() -> NoReturn:
    """Run the command that the arguments and the environment ask for, and leave with its exit code."""
    try:
        from .program import run  # the imports are most of a start: a signal may come while they run

        code = run(sys.argv[1:], os.environ, stop)
    except KeyboardInterrupt:
        from .program import report_early_stop

        code = report_early_stop(os.environ, stop.signum)
    leave(code)


def leave(code: int) -> NoReturn:
    """End the process at once: what is left to tear down, the kernel does faster."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # closed, or the reader has gone
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
