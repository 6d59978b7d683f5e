"""The process: signals first, a glance, else the program; and its exit code, since nothing else ends the process."""

import gc
import posix
import sys
from time import monotonic

from .signals import install
from .system import environment

stop = install()
started = monotonic()

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


def main() -> "NoReturn":
    """Run the command that the arguments and the environment ask for, and leave with its exit code."""
    have_streams()
    gc.disable()  # the imported modules stay: looking for garbage in them is a tenth of a start
    from .glance import glance  # a signal that comes meanwhile is noted

    code, waited = glance(sys.argv[1:], environment(), stop, started)
    if code is None:
        from .program import run_command  # most of a start with something to do

        gc.freeze()
        gc.enable()
        code = run_command(sys.argv[1:], environment(), stop, started, waited)
    leave(code)


def have_streams() -> None:
    """Open what was closed before the start: the next file or connection would take its number, and get the log."""
    for number, name in ((0, "stdin"), (1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(posix.open("/dev/null", posix.O_RDWR), "r" if number == 0 else "w"))  # noqa: SIM115


def leave(code: int) -> "NoReturn":
    """End the process at once: the kernel tears down faster than the interpreter."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):  # closed, or the reader has gone
            continue
    posix._exit(code)


if __name__ == "__main__":
    main()
