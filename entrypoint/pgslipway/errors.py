"""The failures that pgslipway expects, each with the exit code that an orchestrator acts on.

0 is success, 10-19 can heal by trying again, 20-29 need a person:

    SlipwayError
    ├── DatabaseUnavailable   10  Postgres did not answer a query within the wait timeout
    ├── Locked                11  another runner kept the migration lock past the lock timeout
    ├── TableBusy             12  a file could not get its table locks within its retries
    ├── ConnectionLost        13  the connection broke mid-run
    ├── NotYet                14  the schema is not there yet
    ├── TargetsToRetry        15  of many targets some failed, for reasons that can heal
    ├── BadConfiguration      20  a setting is missing or malformed
    ├── BadMigrations         21  a name, an encoding or a statement that can never work
    ├── AccessRefused         22  password, database, TLS or a privilege on the history
    ├── HistoryConflict       23  an applied file was edited or is gone, or a foreign table
    ├── MigrationFailed       24  Postgres refused a statement
    ├── HalfDone              25  a non-transactional file stopped where only a person can tell
    ├── TargetsToMend         26  of many targets some failed, one at least for a reason that needs a person
    └── Stopped        130, 143  SIGINT, SIGTERM

What steers a run; the first leaves it only where it comes again and again, and the rest never:

    LayoutsMeet, a BadMigrations: the plain layout, where the history has its filenames
    FilesChanged, a BadMigrations: read the folder, connect, lock and plan anew
    StartOver: connect, lock, read the history and plan anew
        NewSession: the same file again, on a new session
    Busy: the tables of a file, or its history row, are in use; the same file again
    Unplaced: a MigrationFailed without a place; the same file in three messages, or once more to find the line
    NotInTransaction: the same statement outside a transaction
    Undivided: the file becomes a BadMigrations

No heavy import here, as in every module that a start with nothing to do shares with the rest.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import ClassVar

SIGNALS = {2: "SIGINT", 15: "SIGTERM"}
UP_TO_DATE = 0
INTERNAL_ERROR = 70
OVERDUE = (
    ", without waiting any longer for the server's answer; what was not committed is rolled back there, and the next "
    "run looks how far this one got"
)


class Problem:
    """One thing that is wrong, and its place where that is in a file; `str` puts it into words."""

    __slots__ = ("file", "joint", "line", "target", "text")

    def __init__(self, text: str, file: str = "", line: int = 0, *, joint: str = ": ") -> None:
        """Take the text, the filename, the line (from 1; 0 for none), and the joint between place and text."""
        self.text = text
        self.file = file
        self.line = line
        self.joint = joint
        self.target = ""
        """The target that it is about, of many."""

    @property
    def place(self) -> str:
        """The file and the line, as far as they are known."""
        return f"{self.file}:{self.line}" if self.line else self.file

    def __str__(self) -> str:
        """Return the target, the place and the text."""
        target = f"{self.target}: " if self.target else ""
        return f"{target}{self.place}{self.joint}{self.text}" if self.file else f"{target}{self.text}"

    __repr__ = __str__


class SlipwayError(Exception):
    """A failure that was foreseen; its text is for the operator, complete and without a secret."""

    exit_code: int
    result: "ClassVar[str]"

    state = ""
    """What became of the file that ran, once that is known; it follows the last problem."""

    def __init_subclass__(cls, *, exit_code: int | None = None, result: str) -> None:
        cls.result = result
        if exit_code is not None:
            cls.exit_code = exit_code

    def __init__(self, *problems: "Problem | str") -> None:
        """Take everything that is wrong; a plain text has no place in a file."""
        super().__init__(*problems)

    @property
    def problems(self) -> "list[Problem]":
        """Everything that is wrong, each with its place."""
        found = [problem if isinstance(problem, Problem) else Problem(problem) for problem in self.args]
        if self.state:
            last = found.pop()
            found.append(Problem(f"{last.text}\n{self.state}", last.file, last.line, joint=last.joint))
        return found

    def __str__(self) -> str:
        """Return all problems, a line or more for each."""
        return "\n".join(map(str, self.problems))


class DatabaseUnavailable(SlipwayError, exit_code=10, result="database unavailable"):
    """Postgres did not answer a query within the wait timeout."""


class NoPlace(DatabaseUnavailable, result="database unavailable"):
    """The server had no place for one more connection, or a pooler none for the second one that a run needs there."""


class Locked(SlipwayError, exit_code=11, result="locked"):
    """Another runner kept the migration lock past the lock timeout."""


class TableBusy(SlipwayError, exit_code=12, result="table busy"):
    """A file could not get its table locks within its retries; it was rolled back."""


class ConnectionLost(SlipwayError, exit_code=13, result="connection lost"):
    """The connection broke mid-run; the history says what was applied."""


class NotYet(SlipwayError, exit_code=14, result="not yet"):
    """The schema is not there yet, or something is pending."""


class NoDatabase(NotYet, result="not yet"):
    """The database is not there yet: another run creates it."""


class TargetsToRetry(SlipwayError, exit_code=15, result="targets to retry"):
    """Of many targets some failed, for different reasons, all of which can heal."""


class BadConfiguration(SlipwayError, exit_code=20, result="bad configuration"):
    """A setting is missing or malformed."""


class BadMigrations(SlipwayError, exit_code=21, result="bad migration files"):
    """A name, an encoding or a statement that can never work."""


def bad_file(name: str, text: str, line: int = 0) -> BadMigrations:
    """Return the failure about a file that cannot be used."""
    return BadMigrations(Problem(text, name if name.isprintable() else ascii(name), line))


class LayoutsMeet(BadMigrations, result="bad migration files"):
    """The files of two layouts are in one folder."""

    def __init__(self, problem: str, layouts: "Iterable[str]") -> None:
        super().__init__(problem)
        self.layouts = {*layouts}


class FilesChanged(BadMigrations, result="bad migration files"):
    """A file is no longer the one that was discovered: a mounted ConfigMap changes while a run waits."""


class AccessRefused(SlipwayError, exit_code=22, result="access refused"):
    """Wrong password, no such database, TLS refused, no privilege on the history."""


class HistoryConflict(SlipwayError, exit_code=23, result="history conflict"):
    """An applied file was edited or is gone, or the history table belongs to another tool."""


class MigrationFailed(SlipwayError, exit_code=24, result="migration failed"):
    """Postgres refused a statement; the file was rolled back, earlier ones are kept."""


class Unplaced(MigrationFailed, result="migration failed"):
    """Postgres refused a message with a piece of a file, and gave no place in the piece.

    It is the file's failure only if our own SQL was not in that message.
    """


class HalfDone(SlipwayError, exit_code=25, result="half done"):
    """A non-transactional file stopped where only a person can tell what happened."""


class TargetsToMend(SlipwayError, exit_code=26, result="targets to mend"):
    """Of many targets some failed, for different reasons, one of which at least needs a person."""


class Stopped(SlipwayError, result="stopped"):
    """A signal ended the run: the running file was cancelled and rolled back."""

    def __init__(self, signum: int, *, overdue: bool = False) -> None:
        """Take the signal, and whether the server's answer is not awaited any longer."""
        super().__init__(f"stopped by {SIGNALS[signum]}{OVERDUE if overdue else ''}")
        self.exit_code = 128 + signum


class StartOver(Exception):
    """The ground has shifted: connect, lock, read the history and plan anew."""


class NewSession(StartOver):
    """The same file is tried again, on a new session; MIGRATE_DDL_RETRY bounds it."""


class Busy(Exception):
    """A lock was not to be had, or a deadlock was broken up; the file was rolled back and may be tried again."""

    def __init__(self, cause: str, *, line: int = 0, blocker: str = "", recording: bool = False) -> None:
        super().__init__(f"{cause} while {blocker}" if blocker else cause)
        self.line = line
        """The statement's line, in a file that keeps the statements before it; else 0."""
        self.blocker = blocker
        """The lock that was waited for and its holders, where they were seen."""
        self.recording = recording
        """The busy table is the history: another runner is applying the same file."""


class NotInTransaction(Exception):
    """Postgres refuses to run the statement inside a transaction."""


class Undivided(Exception):
    """A file's markers do not tell its up part."""

    def __init__(self, text: str, line: int = 0) -> None:
        super().__init__(text)
        self.line = line
