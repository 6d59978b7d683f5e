"""Non-transactional files, statement by statement, each noted in the journal.

What can run in a transaction does, together with its row in the journal: it happens exactly once. For the rest the
journal knows which statement was in flight, and the catalogs (`mend`) what became of it. A file that was stopped
anywhere goes on from there; SET and RESET before that place run again.
"""

import hashlib
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace

import asyncpg

from .apply import (
    BUSY,
    ORPHAN_CHECK,
    Busy,
    Job,
    StartOver,
    lost_while,
    notices,
    rolled_back_on_failure,
    see_through,
    server_error,
)
from .check import EXTENSION_UPDATE, OUTSIDE, SETTINGS, TEMPORARY
from .connect import BROKEN, Connection
from .errors import BadConfiguration, HalfDone, HistoryConflict, MigrationFailed
from .history import ROW_REMOVED
from .journal import Entry, Journal
from .lock import IN_SESSION, IN_TRANSACTION, Held
from .mend import Rule, hides_invalid, look_before, rule_for, rule_of, settle, undecided, wait_for_orphan
from .message import excerpt, explain
from .migrations import Source
from .sql import Statement, folded, milliseconds, quote_literal, quote_name, statements
from .watch import Watch

logger = logging.getLogger(__name__)

NOT_IN_TRANSACTION = {"25001", "2D000"}
"""SQLSTATEs of what refuses to run inside a transaction, and of what commits in there."""
HAS_TEMPORARY = "SELECT 1 WHERE pg_catalog.to_regclass({name}) IS NOT NULL"
NO_LIMIT = """
SELECT pg_catalog.set_config('pgslipway.lock_timeout', pg_catalog.current_setting('lock_timeout'), false);
SET lock_timeout = 0;
"""
LIMIT_AGAIN = """
SELECT pg_catalog.set_config('lock_timeout', pg_catalog.current_setting('pgslipway.lock_timeout'), false)
"""


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

    def entry(self, version: int) -> Entry:
        """Return what the journal is to hold of it."""
        text = self.text.replace("\r\n", "\n").replace("\r", "\n")
        checksum = hashlib.sha256(text.encode()).hexdigest()
        return Entry(version=version, step=self.number, checksum=checksum, line=self.line)


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
    if not await held.is_ours():
        raise StartOver("the migration lock was dropped")
    journal = Journal(job.history)
    await journal.create(held.connection)
    entries = [*(await journal.read(held.connection)).get(job.migration.version, ())]
    if entries and entries[-1].statement and not entries[-1].done_at:
        await wait_for_orphan(held.connection, entries[-1].statement, job.config.lock_timeout)
    async with session(held, job):
        try:
            await File(held, job, watch, journal, entries).run()
        except MigrationFailed as error:
            error.state = f"what comes before it in {job.filename} is done and stays; the next run goes on from there"
            raise


@dataclass(slots=True)
class File:
    """A non-transactional file that is being run."""

    held: Held
    job: Job
    watch: Watch
    journal: Journal
    entries: list[Entry]
    """What earlier runs did of it; the last one may be in flight."""
    source: Source = field(init=False)

    @property
    def connection(self) -> Connection:
        """The connection to work on."""
        return self.held.connection

    async def run(self) -> None:
        """Go on where earlier runs stopped, to the end."""
        self.source = self.job.migration.read()
        await self.settle_in_flight()
        number = 0
        for step in steps(self.source):
            number = step.number
            if step.is_setting:
                await self.send(step)
            elif number <= len(self.entries):
                await self.compare(step, self.entries[number - 1])
            else:
                await self.perform(step)
        if number < len(self.entries):
            raise HalfDone(f"{self.job.filename} has {number} statements now, but {self.way_out}")
        await self.record()

    # --- what earlier runs did --------------------------------------------------------------------------------------

    async def settle_in_flight(self) -> None:
        """Find out what became of the statement that an earlier run had in flight. Raises HalfDone."""
        if not self.entries or self.entries[-1].done_at:
            return
        entry = self.entries[-1]
        rule = rule_of(entry)
        if rule is None:
            raise HalfDone(undecided(self.job.filename, entry))
        took_effect = await self.settle(rule, entry)
        what = "took effect" if took_effect else "did not take effect, and is repeated"
        logger.info("%s: what an earlier run had in flight here %s", self.place(entry), what)
        if not took_effect:
            self.entries.pop()

    async def settle(self, rule: Rule, entry: Entry) -> bool:
        """Mend what `entry` left half done and journal what became of it; tell whether it took effect."""

        async def mend(sql: str) -> None:
            logger.info("%s: half done; running %s", self.place(entry), sql)
            with self.watch.over(self.place(entry)):
                await self.connection.execute(sql)

        try:
            async with lost_while(f"{self.place(entry)} is half done; the next run goes on with it"):
                took_effect = await settle(self.connection, rule, entry, mend)
        except BUSY as error:
            raise Busy(str(error), recording=False) from error
        except asyncpg.PostgresError as error:
            raise MigrationFailed(explain(error, self.place(entry))) from error
        await self.write(self.journal.finish(entry) if took_effect else self.journal.remove(entry))
        return took_effect

    async def compare(self, step: Step, entry: Entry) -> None:
        """Raise HalfDone unless what was done is still what the file says, and still there."""
        reason = ""
        if step.entry(entry.version).checksum != entry.checksum:
            reason = "this was edited after it was done"
        elif match := TEMPORARY.match(step.statement.text):
            name = f"pg_temp.{quote_name(folded(step.statement.words[match[0].count(' ')]))}"
            if await self.connection.execute(HAS_TEMPORARY.format(name=quote_literal(name))) != "SELECT 1":
                reason = "what this made is temporary and gone with the session of an earlier run; use a plain table"
        if reason:
            message = f"{reason}; {self.way_out}"
            raise HalfDone(excerpt(self.job.filename, self.source, step.statement.start, message))

    @property
    def way_out(self) -> str:
        """What to do where the file cannot go on after what was done of it."""
        return (
            f"its first {len(self.entries)} are done, the last one at line {self.entries[-1].line}. Put their text "
            "back as it was; or undo by hand what they did, and have the file start anew with: "
            + self.journal.clear(self.job.migration.version)
        )

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
        entry = step.entry(self.job.migration.version)
        settings = local_settings(self.job) if self.held.is_pooled else ""
        async with rolled_back_on_failure(self.connection, self.place(entry)):
            row = self.journal.add(entry, self.held.condition, is_done=True)
            await self.add(f"BEGIN ISOLATION LEVEL READ COMMITTED; {settings} {row}")
            try:
                await self.send(step)
            except MigrationFailed as error:
                if getattr(error.__cause__, "sqlstate", "") in NOT_IN_TRANSACTION:
                    raise NotInTransaction from error
                raise
            await self.commit(entry)

    async def commit(self, entry: Entry) -> None:
        """Commit a statement with its row. Raises Busy, MigrationFailed, ConnectionLost."""
        unknown = f"{self.place(entry)} is either done and journalled or neither; the next run will tell"
        try:
            async with lost_while(unknown):
                await see_through(self.connection.execute("COMMIT"), unknown)
        except BUSY as error:
            raise Busy(str(error), recording=False) from error
        except asyncpg.PostgresError as error:
            raise MigrationFailed(explain(error, self.place(entry))) from error

    async def perform_outside(self, step: Step) -> None:
        """Run a statement on its own, in flight in the journal meanwhile."""
        if self.held.is_pooled and self.job.history.role:
            raise BadConfiguration(
                f"{self.job.filename}:{step.line} runs outside a transaction, where MIGRATE_ROLE cannot be set without "
                "a session of our own; connect to Postgres directly, or set MIGRATE_LOCK=session"
            )
        rule = rule_for(step.statement)
        name, before = await look_before(self.connection, step.statement)
        entry = replace(step.entry(self.job.migration.version), statement=step.text, object=name, before=before)
        may_wait = not self.held.is_pooled and (rule is None or rule.may_wait)
        row = self.journal.add(entry, self.held.condition, is_done=False)
        await self.add(f"{NO_LIMIT if may_wait else ''} {row}")
        try:
            await self.send(step)
        except (MigrationFailed, Busy):  # Postgres refused it, so it is not in flight
            await (self.settle(rule, entry) if rule else self.write(self.journal.remove(entry)))
            raise
        if await hides_invalid(self.connection, rule, entry):
            await self.write(self.journal.remove(entry))
            raise MigrationFailed(
                f"{self.place(entry)}: the index {name} exists but is invalid, left by a build that did not end; "
                "drop it with DROP INDEX CONCURRENTLY and run again"
            )
        await self.write(f"{self.journal.finish(entry)}; {LIMIT_AGAIN if may_wait else ''}")

    async def update_extension(self, step: Step) -> None:
        """Update an extension as the first command of a session of its own, while this one keeps the lock.

        TimescaleDB takes it nowhere else. Raises StartOver once it is done: this session may have loaded the old one.
        """
        if self.held.another is None:
            raise BadConfiguration(
                f"{self.job.filename}:{step.line} needs a second connection, which run_migrations does not open; use "
                "the image, or the command line"
            )
        entry = replace(step.entry(self.job.migration.version), statement=step.text)
        await self.add(self.journal.add(entry, self.held.condition, is_done=False))
        connection = await self.held.another(self.job.history.role)
        try:
            await self.send(step, connection)
        except (MigrationFailed, Busy):
            await self.write(self.journal.remove(entry))
            raise
        finally:
            connection.terminate()
        await self.write(self.journal.finish(entry))
        raise StartOver(f"{self.place(entry)} updated an extension, which the sessions before it cannot use")

    async def record(self) -> None:
        """Record the file as applied, and take its rows out of the journal."""
        filename, history = self.job.filename, self.job.history
        command = f"""
            BEGIN;
            {history.set_role}
            SET LOCAL lock_timeout = 0;
            {self.journal.clear(self.job.migration.version)};
            {history.record(self.job.migration, self.job.contents.minimum_version, "true")};
            {history.verify(self.job.migration)};
            DISCARD TEMP;
            COMMIT"""
        unknown = f"{filename} was done and is perhaps not recorded; the next run does that"
        try:
            async with lost_while(unknown), rolled_back_on_failure(self.connection, filename):
                await see_through(self.connection.execute(command), unknown)
        except asyncpg.UniqueViolationError as error:
            raise StartOver(f"{filename} was applied by another runner") from error
        except asyncpg.PostgresError as error:
            doing = f"{filename} is done, and the next run records it; now it could not be recorded"
            if ROW_REMOVED in str(error):
                raise HistoryConflict(f"{doing}: a trigger on {history.name} lets no row in; remove it") from error
            raise history.failure(error, doing) from error

    # --- what is sent -----------------------------------------------------------------------------------------------

    def place(self, entry: Entry) -> str:
        """Return file and line of a statement."""
        return f"{self.job.filename}:{entry.line}"

    async def send(self, step: Step, connection: Connection | None = None) -> None:
        """Send a statement. Raises Busy, MigrationFailed, ConnectionLost."""
        place = f"{self.job.filename}:{step.line}"
        connection = connection or self.connection
        try:
            with notices(connection, self.job.filename), self.watch.over(place):
                async with lost_while(f"{place} may be half done; the next run looks, and goes on from there"):
                    await connection.execute(step.text)
        except BUSY as error:
            raise Busy(f"line {step.line}: {error}", recording=False) from error
        except asyncpg.PostgresError as error:
            start = step.statement.start
            message = explain(server_error(error), self.job.filename, self.source, start, step.text, place)
            raise MigrationFailed(message) from error

    async def add(self, sql: str) -> None:
        """Send SQL whose last command adds a row to the journal. Raises StartOver where the lock was dropped."""
        if await self.write(sql) != "INSERT 0 1":
            raise StartOver("the migration lock was dropped")

    async def write(self, sql: str) -> str:
        """Send SQL that changes the journal; return its tag. Raises Busy, StartOver and what refuses the journal."""
        try:
            async with lost_while(f"{self.job.filename}: the next run looks how far it got"):
                return await self.connection.execute(sql)
        except asyncpg.UniqueViolationError as error:
            raise StartOver(f"{self.job.filename} is being run by another runner") from error
        except (*BUSY, asyncpg.QueryCanceledError) as error:
            raise Busy("another runner is at it", recording=True) from error
        except asyncpg.PostgresError as error:
            raise self.job.history.failure(error, f"{self.job.filename} could not be journalled") from error


@asynccontextmanager
async def session(held: Held, job: Job) -> AsyncIterator[None]:
    """Give the session our settings and the role, and take them back.

    Behind a pooler they would stay with a server connection that others use next, so there each transaction takes
    them for itself, and what runs outside has the server's defaults.
    """
    if held.is_pooled:
        yield
        return
    role = f"SET ROLE {quote_name(job.history.role)};" if job.history.role else ""
    await held.connection.execute(f"{IN_SESSION} {timeouts(job, 'SESSION')} {role}")
    try:
        yield
    finally:
        with suppress(*BROKEN):  # what went wrong before says more
            await held.connection.execute("RESET SESSION AUTHORIZATION; RESET ALL")


def local_settings(job: Job) -> str:
    """Return the SQL that gives a transaction our settings and the role."""
    return f"{job.history.set_role} {IN_TRANSACTION} {timeouts(job, 'LOCAL')}"


def timeouts(job: Job, scope: str) -> str:
    """Return the SQL for the settings of whatever a file sends, for the SESSION or the transaction (LOCAL)."""
    return f"""
        SET {scope} client_connection_check_interval = '{ORPHAN_CHECK}';
        SET {scope} standard_conforming_strings = on;
        SET {scope} lock_timeout = {milliseconds(job.config.ddl_lock_timeout)};
        SET {scope} statement_timeout = {milliseconds(job.config.statement_timeout)};"""
