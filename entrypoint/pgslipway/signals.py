"""SIGINT and SIGTERM: noted before anything else runs, and obeyed within seconds whatever the server does."""

import posix

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Callable
    from types import FrameType
else:
    import _signal as signal  # the public module makes enumerations of these numbers, a fifth of such a start

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

    def __call__(self, signum: int, _: "FrameType | None") -> None:
        """Note the signal and cancel the running command; a second signal changes nothing."""
        if not self.signum:
            self.signum = signum
            signal.setitimer(signal.ITIMER_REAL, STOP_SECONDS)
            self.action()

    def overdue(self, _: int, __: "FrameType | None") -> None:
        """End the process; without another word where the report does not come to its end: nobody may read the log."""
        if not self.is_overdue:
            self.is_overdue = True
            signal.setitimer(signal.ITIMER_REAL, REPORT_SECONDS)
            self.report()
        posix._exit(128 + self.signum)


def install() -> Stop:
    """Handle SIGINT and SIGTERM from now on; return the handler."""
    stop = Stop()
    signal.signal(signal.SIGALRM, stop.overdue)
    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    return stop
