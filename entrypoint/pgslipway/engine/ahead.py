"""Our own work that waits until the server has some: the line about the last file, and the message of the next one.

So it takes no time of its own, where many small files are applied.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from ..errors import FilesChanged
from .message import Sent
from .sending import Job


@dataclass(slots=True)
class Message:
    """All of a file in one message."""

    job: Job
    sent: Sent
    sql: str


@dataclass(slots=True)
class Ahead:
    """Between the files of a run: what is still to be said about the last one, and what is known of the next one."""

    following: Job | None = None
    message: Message | None = None
    line: Callable[[], None] | None = None

    def say(self) -> None:
        """Log the line about the last file, unless that was done: before anything about the next one is said."""
        line, self.line = self.line, None
        if line:
            line()

    close = say
    """At the end of the files, however they end."""

    def take(self, job: Job) -> Message | None:
        """Return the message of this file, if it was made."""
        message, self.message = self.message, None
        return message if message and message.job is job else None

    def begin(self, make: Callable[[Job], Message]) -> None:
        """Do all of it, once what is sent now is on its way: before its answer is looked at."""
        asyncio.get_running_loop().call_soon(self.work, make)

    def work(self, make: Callable[[Job], Message]) -> None:
        """Log the line, and make the next message: where that cannot be done, its turn will tell."""
        self.say()
        job = self.following
        if job and job.contents.transactional and not job.contents.is_large:
            with suppress(FilesChanged):
                self.message = make(job)
