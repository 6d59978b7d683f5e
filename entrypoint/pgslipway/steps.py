"""Non-transactional files, statement by statement, each noted in the journal.

What can run in a transaction does, together with its row in the journal: it happens exactly once. For the rest the
journal knows which statement was in flight, and the catalogs (`mend`) what became of it. A file that was stopped
anywhere goes on from there; SET and RESET before that place run again.
"""

import asyncio
import hashlib
import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import takewhile

import asyncpg

from .apply import BUSY, Busy, Job, lost_while, rolled_back_on_failure, see_through
from .check import EXTENSION_UPDATE, NEEDS_ROLE, OUTSIDE, SETTINGS, TEMPORARY
from .connect import Connection
from .errors import BadConfiguration, HalfDone, HistoryConflict, MigrationFailed, Problem, StartOver
from .history import ROW_REMOVED
from .journal import NOT_BEGUN, Entry, Journal, Progress
from .lock import Held
from .mend import Rule, hides_invalid, look_before, rule_for, rule_of, settle, undecided
from .message import excerpt
from .migrations import Source
from .quote import milliseconds, quote_literal, quote_name
from .session import ALL, LOCKS, RESET, Session
from .sql import Statement, folded, names, statements
from .watch import Watch

logger = logging.getLogger(__name__)

NOT_IN_TRANSACTION = {"25001", "2D000"}
"""SQLSTATEs of what refuses to run inside a transaction, and of what commits in there."""
HAS_TEMPORARY = "SELECT 1 WHERE pg_catalog.to_regclass({name}) IS NOT NULL"
DROPS = re.compile(r"DROP (TABLE|VIEW|SEQUENCE)\b")
ON_COMMIT_DROP = re.compile(r"\bON COMMIT DROP\b")
COMMITS_INSIDE = re.compile(r"(CALL|DO)\b", re.IGNORECASE)
"""What may have committed a part of its work before Postgres refused the rest."""
RESETS = re.compile(r"RESET (ALL|LOCK_TIMEOUT|STANDARD_CONFORMING_STRINGS)\b")


class NotInTransaction(Exception):
    """Postgres refuses to run the statement inside a transaction."""


@dataclass(frozen=True, slots=True)
class Step:
    """A statement of a file, at its place."""

    statement: Statement
    text: str
    line: int
    number: int
    """Counts what is journalled from 1; SET and RESET, which are not, have the number of the step before them."""

    @property
    def is_setting(self) -> bool:
        """Tell whether it changes the session and nothing else."""
        return SETTINGS.match(self.statement.text) is not None

    @property
    def checksum(self) -> str:
        """SHA-256 of the text, with LF line ends, as hexadecimal digits."""
        return hashlib.sha256(self.text.replace("\r\n", "\n").replace("\r", "\n").encode()).hexdigest()

    def entry(self, version: int) -> Entry:
        """Return what the journal is to hold of it."""
        return Entry(version=version, step=self.number, checksum=self.checksum, line=self.line)


def steps(source: Source) -> Iterator[Step]:
    """Yield the statements of a file with their places."""
    line, position, number = 1, 0, 0
    for statement in statements(source):
        line += source[position : statement.start].count(b"\n")
        position = statement.start
        number += SETTINGS.match(statement.text) is None
        yield Step(statement, source[statement.start : statement.end].decode(), line, number)


async def run(held: Held, job: Job, watch: Watch) -> None:
    """Run what is left of a non-transactional file and record the file.

    Raises MigrationFailed, Busy, StartOver, ConnectionLost, HalfDone where only a person can tell what happened,
    Locked where an earlier run is still at it, AccessRefused, HistoryConflict and BadConfiguration.
    """
    session, version = Session(held, job, watch), job.migration.version
    async with lost_while(f"{job.filename}: the next run looks how far it got"):
        if not await held.is_ours():
            raise StartOver("the migration lock was dropped")
        await session.create_journal()
        in_flight = (await session.journal.read(held.connection)).get(version, NOT_BEGUN).in_flight
        async with session.settings():
            file = File(session, job, await session.journal.checksums(held.connection, version), job.migration.read())
            try:
                await file.run(in_flight)
            except MigrationFailed as error:
                error.state = (
                    f"what comes before it in {job.filename} is done and stays; the next run goes on from there"
                )
                raise


async def refuse_what_is_stuck(connection: Connection, journal: Journal, job: Job, progress: Progress) -> None:
    """Raise HalfDone where an unfinished file cannot go on without a person."""
    if job.contents.transactional:
        begun = (
            f"was begun without a transaction, and {progress.done} of its statements are done, so it cannot run as one "
            "transaction now; put `-- no-transaction` back at its top"
        )
        raise HalfDone(Problem(begun, job.filename, joint=" "))
    if progress.in_flight and rule_of(progress.in_flight) is None:
        raise HalfDone(undecided(job.filename, progress.in_flight))
    compare(journal, job, job.migration.read(), await journal.checksums(connection, job.migration.version))


def compare(journal: Journal, job: Job, source: Source, done: Sequence[str]) -> None:
    """Raise HalfDone unless the statements with the checksums `done` are still the first ones of the file."""
    way_out = (
        f"its first {len(done)} are done. Put their text back as it was; or undo by hand what they did, and have the "
        f"file start anew with: {journal.clear(job.migration.version)}"
    )
    number = 0
    for step in takewhile(lambda step: step.number <= len(done), steps(source)):
        number = step.number
        if not step.is_setting and step.checksum != done[number - 1]:
            message = f"this was edited after it was done; {way_out}"
            raise HalfDone(excerpt(job.filename, source, step.statement.start, message))
    if number < len(done):
        raise HalfDone(Problem(f"has {number} statements now, but {way_out}", job.filename, joint=" "))


@dataclass(frozen=True, slots=True)
class File:
    """A non-transactional file that is being run."""

    session: Session
    job: Job
    done: list[str]
    """The checksums of its statements that earlier runs have done."""
    source: Source

    async def run(self, in_flight: Entry | None) -> None:
        """Go on where earlier runs stopped, to the end."""
        if in_flight and await self.settle_in_flight(in_flight):
            self.done.append(in_flight.checksum)
        compare(self.session.journal, self.job, self.source, self.done)
        await self.find_temporary()
        for step in steps(self.source):
            if step.is_setting:
                await self.set(step)
            elif step.number > len(self.done):
                await self.perform(step)
        await self.record()

    async def set(self, step: Step) -> None:
        """Send a SET or RESET; what it resets keeps our own setting, not the server's."""
        await self.session.send(step.statement, step.line, self.source, f"{self.job.filename} is not done")
        if RESETS.match(step.statement.text):
            await self.session.connection.execute(self.session.defaults)

    # --- what earlier runs did --------------------------------------------------------------------------------------

    async def settle_in_flight(self, entry: Entry) -> bool:
        """Find out what became of the statement that an earlier run had in flight. Raises HalfDone."""
        rule = rule_of(entry)
        if rule is None:
            raise HalfDone(undecided(self.job.filename, entry))
        took_effect = await self.settle(rule, entry, ALL)
        what = "took effect" if took_effect else "did not take effect, and is repeated"
        logger.info("%s: what an earlier run had in flight here %s", self.session.place(entry), what)
        return took_effect

    async def settle(self, rule: Rule, entry: Entry, lifted: str) -> bool:
        """Mend what `entry` left half done and journal what became of it; tell whether it took effect."""
        session = self.session
        async with session.refusals(entry, f"{session.place(entry)} is half done; the next run goes on with it"):
            took_effect = await settle(session.connection, rule, entry, partial(session.mend, entry, lifted))
        await session.write(session.journal.finish(entry) if took_effect else session.journal.remove(entry))
        return took_effect

    async def find_temporary(self) -> None:
        """Raise HalfDone where what is left of the file follows on temporary tables that are gone."""
        made: dict[str, Step] = {}
        last = 0
        for step in steps(self.source):
            last = step.number
            if last <= len(self.done):
                note_temporary(step, made)
        for name, step in made.items() if len(self.done) < last else ():
            if await self.session.connection.execute(HAS_TEMPORARY.format(name=quote_literal(name))) != "SELECT 1":
                message = (
                    "this made something temporary, which is gone with the session of an earlier run; use a plain "
                    "table: undo by hand what the file did, and have it start anew with: "
                    + self.session.journal.clear(self.job.migration.version)
                )
                raise HalfDone(excerpt(self.job.filename, self.source, step.statement.start, message))

    # --- what is left to do -----------------------------------------------------------------------------------------

    async def perform(self, step: Step) -> None:
        """Run a statement and journal it, in a transaction where Postgres lets it."""
        if step.number == 1 and EXTENSION_UPDATE.match(step.statement.text):
            await self.update_extension(step)
            return
        if not OUTSIDE.match(step.statement.text):
            with suppress(NotInTransaction):
                await self.perform_inside(step)
                return
        await self.perform_outside(step)

    async def perform_inside(self, step: Step) -> None:
        """Run a statement in one transaction with its row in the journal. Raises NotInTransaction."""
        session, entry = self.session, step.entry(self.job.migration.version)
        async with rolled_back_on_failure(session.connection, session.place(entry)):
            await session.add(f"{session.begin} {session.journal.add(entry, session.held.condition, is_done=True)}")
            try:
                await session.send(step.statement, step.line, self.source, f"{session.place(entry)} was not committed")
            except MigrationFailed as error:
                if getattr(error.__cause__, "sqlstate", "") in NOT_IN_TRANSACTION:
                    raise NotInTransaction from error
                raise
            await session.commit(entry)

    async def perform_outside(self, step: Step) -> None:
        """Run a statement on its own, in flight in the journal meanwhile."""
        session, rule = self.session, rule_for(step.statement)
        if session.held.is_pooled and self.job.history.role:
            raise BadConfiguration(excerpt(self.job.filename, self.source, step.statement.start, NEEDS_ROLE))
        entry = replace(step.entry(self.job.migration.version), statement=step.text)
        unknown = f"{session.place(entry)} may be half done; the next run looks, and goes on from there"
        async with session.refusals(entry, unknown):
            name, before = await look_before(session.connection, rule, step.text)
        entry = replace(entry, object=name, before=before)
        await session.add(session.journal.add(entry, session.held.condition, is_done=False))
        try:
            async with session.unlimited(LOCKS) if rule and rule.may_wait else nullcontext():
                await session.send(step.statement, step.line, self.source, unknown)
        except (MigrationFailed, Busy) as error:
            if not await self.took_effect(rule, entry, error):
                raise
            return
        except asyncio.CancelledError:
            logger.warning("%s: cancelled; the next run looks what became of it", session.place(entry))
            raise
        async with session.refusals(entry, unknown):
            is_invalid = await hides_invalid(session.connection, rule, entry)
        if is_invalid:
            await session.write(session.journal.remove(entry))
            invalid = (
                f"the index {name} exists but is invalid: left by a build that did not end, or being built; drop it "
                "with DROP INDEX CONCURRENTLY and run again"
            )
            raise MigrationFailed(Problem(invalid, self.job.filename, entry.line))
        await session.write(session.journal.finish(entry))

    async def took_effect(self, rule: Rule | None, entry: Entry, error: MigrationFailed | Busy) -> bool:
        """Tell what a statement that Postgres refused left behind, and mend it: it is not in flight any more.

        Raises HalfDone for what may have committed a part before: it must not be repeated unasked.
        """
        session = self.session
        if rule is None and COMMITS_INSIDE.match(entry.statement or ""):
            busy = [Problem(str(error), self.job.filename, entry.line)]
            causes = error.problems if isinstance(error, MigrationFailed) else busy
            raise HalfDone(*causes, undecided(self.job.filename, entry)) from error
        if rule is None:
            await session.write(session.journal.remove(entry))
            return False
        try:
            return await self.settle(rule, entry, LOCKS)
        except (MigrationFailed, Busy) as second:
            logger.warning("%s: what it left is not mended yet, the next run goes on: %s", session.place(entry), second)
            return False

    async def update_extension(self, step: Step) -> None:
        """Update an extension as the first command of a session of its own, while this one keeps the lock.

        TimescaleDB takes it nowhere else. Raises StartOver once it is done: this session may have loaded the old one.
        """
        session = self.session
        if session.held.another is None:
            needs = "needs a second connection, which run_migrations does not open; use the image, or the command line"
            raise BadConfiguration(Problem(needs, self.job.filename, step.line, joint=" "))
        entry = replace(step.entry(self.job.migration.version), statement=step.text)
        connection = await session.held.another(session.startup)
        try:
            await session.add(session.journal.add(entry, session.held.condition, is_done=False))
            unknown = f"{session.place(entry)} may be done; the next run repeats it"
            await session.send(step.statement, step.line, self.source, unknown, connection)
        except (MigrationFailed, Busy):
            await session.write(session.journal.remove(entry))
            raise
        finally:
            connection.terminate()
        await session.write(session.journal.finish(entry))
        raise StartOver(f"{session.place(entry)} updated an extension, which the sessions before it cannot use")

    async def record(self) -> None:
        """Record the file as applied, take its rows out of the journal, and give the session back."""
        filename, history, session = self.job.filename, self.job.history, self.session
        command = f"""
            BEGIN;
            {history.set_role}
            SET LOCAL lock_timeout = {milliseconds(self.job.config.ddl_lock_timeout)};
            {session.journal.clear(self.job.migration.version)};
            {history.record(self.job.migration, self.job.contents.minimum_version, "true")};
            {history.verify(self.job.migration)};
            DISCARD TEMP;
            {"" if session.held.is_pooled else f"{RESET};"}
            COMMIT"""
        unknown = f"{filename} was done and is perhaps not recorded; the next run does that"
        try:
            async with lost_while(unknown), rolled_back_on_failure(session.connection, f"the record of {filename}"):
                await see_through(session.connection.execute(command), unknown)
        except asyncpg.UniqueViolationError as error:
            raise StartOver(f"{filename} was applied by another runner") from error
        except BUSY as error:
            raise Busy("somebody has locked the history", recording=True) from error
        except asyncpg.PostgresError as error:
            doing = f"{filename} is done, and the next run records it; now it could not be recorded"
            if ROW_REMOVED in str(error):
                raise HistoryConflict(f"{doing}: a trigger on {history.name} lets no row in; remove it") from error
            raise history.failure(error, doing) from error


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
