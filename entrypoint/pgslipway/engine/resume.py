"""Where a file without a transaction goes on: its steps, the ones that are done, and whether it can go on at all."""

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile

from ..dial import Connection
from ..errors import BadMigrations, HalfDone, Problem
from ..files import Source
from ..quote import quote_literal, quote_name
from .check import SETTINGS, TEMPORARY
from .filled import has_variable, line_ends, written_part
from .journal import Entry, Journal, Progress
from .message import Sent, excerpt
from .recovery import rule_of, undecided
from .sending import Job
from .sql import Statement, folded, names, statements
from .variables import RUNS_OUTSIDE

HAS_TEMPORARY = "SELECT 1 WHERE pg_catalog.to_regclass({name}) IS NOT NULL"
DROPS = re.compile(r"DROP (TABLE|VIEW|SEQUENCE)\b")
ON_COMMIT_DROP = re.compile(r"\bON COMMIT DROP\b")


@dataclass(frozen=True, slots=True)
class Step:
    """A statement of a file, at its place."""

    statement: Statement
    sent: Sent
    line: int
    number: int
    """Counts the journalled ones from 1; SET and RESET, which are not, have the number of the step before them."""

    @property
    def text(self) -> str:
        """The statement's text."""
        return self.sent.text

    @property
    def is_setting(self) -> bool:
        """Tell whether it changes the session and nothing else."""
        return SETTINGS.match(self.statement.text) is not None

    @property
    def written(self) -> bytes:
        """The statement as it stands in the file."""
        return written_part(self.sent.source, self.statement.start, self.statement.end)

    @property
    def checksum(self) -> str:
        """SHA-256 of the text as it was written, with LF line ends, as hexadecimal digits."""
        return hashlib.sha256(self.written.replace(b"\r\n", b"\n").replace(b"\r", b"\n")).hexdigest()

    def entry(self, version: int) -> Entry:
        """Return its row for the journal."""
        return Entry(version=version, step=self.number, checksum=self.checksum, line=self.line)


def steps(source: Source) -> Iterator[Step]:
    """Yield the statements of a file with their places."""
    line, position, number = 1, 0, 0
    for statement in statements(source):
        line += line_ends(source, position, statement.start)
        position = statement.start
        number += SETTINGS.match(statement.text) is None
        sent = Sent(source, statement.start, source[statement.start : statement.end].decode())
        yield Step(statement, sent, line, number)


async def refuse_what_is_stuck(connection: Connection, journal: Journal, job: Job, progress: Progress) -> None:
    """Raise HalfDone where an unfinished file cannot go on without a person."""
    if job.contents.transactional:
        begun = (
            f"was begun without a transaction, and {progress.done} of its statements are done, so it cannot run as one "
            "transaction now; put `-- no-transaction` back at its top"
        )
        raise HalfDone(Problem(begun, job.filename, joint=" "))
    if progress.in_flight and rule_of(progress.in_flight) is None:
        raise HalfDone(undecided(job.migration, progress.in_flight))
    refuse_edited(job, job.migration.read(), await journal.checksums(connection, job.migration.version))


def refuse_values(job: Job, step: Step) -> None:
    """Raise BadMigrations for a statement with values, whose text would go into the journal."""
    source, start = step.sent.source, step.statement.start
    if has_variable(source, start, step.statement.end):
        raise BadMigrations(excerpt(job.filename, source, start, RUNS_OUTSIDE))


def restart(job: Job) -> str:
    """Return the command that has a file begin anew."""
    return f"pgslipway resolve {job.migration.text} --restart"


def refuse_edited(job: Job, source: Source, done: Sequence[str]) -> None:
    """Raise HalfDone unless the statements with the checksums `done` are still the first ones of the file."""
    way_out = (
        f"its first {len(done)} are done. Put their text back as it was; or undo by hand what they did, and have the "
        f"file start anew with: {restart(job)}"
    )
    number = 0
    for step in takewhile(lambda step: step.number <= len(done), steps(source)):
        number = step.number
        if not step.is_setting and step.checksum != done[number - 1]:
            message = f"this was edited after it was done; {way_out}"
            raise HalfDone(excerpt(job.filename, source, step.statement.start, message))
    if number < len(done):
        raise HalfDone(Problem(f"has {number} statements now, but {way_out}", job.filename, joint=" "))


async def refuse_lost_temporary(connection: Connection, job: Job, source: Source, done: Sequence[str]) -> None:
    """Raise HalfDone where the rest of the file follows on temporary tables that are gone."""
    made: dict[str, Step] = {}
    last = 0
    for step in steps(source):
        last = step.number
        if last <= len(done):
            note_temporary(step, made)
    for name, step in made.items() if len(done) < last else ():
        if await connection.execute(HAS_TEMPORARY.format(name=quote_literal(name))) != "SELECT 1":
            message = (
                "this made something temporary, which is gone with the session of an earlier run; use a plain "
                f"table: undo by hand what the file did, and have it start anew with: {restart(job)}"
            )
            raise HalfDone(excerpt(job.filename, source, step.statement.start, message))


def note_temporary(step: Step, made: dict[str, Step]) -> None:
    """Keep in `made` which temporary tables there are after `step`."""
    match = TEMPORARY.match(step.statement.text)
    if match and not ON_COMMIT_DROP.search(step.statement.text):
        first = match[0].count(" ")
        parts = next(parts for place, parts in names(step.text.encode()) if place >= first)
        made[f"pg_temp.{quote_name(folded(parts[-1]))}"] = step
    elif DROPS.match(step.statement.text):
        for _, parts in names(step.text.encode()):
            made.pop(f"pg_temp.{quote_name(folded(parts[-1]))}", None)
