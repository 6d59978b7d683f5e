"""The session that a non-transactional file runs in: our settings and role, what is sent, the journal's writes."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import asyncpg

from .apply import BUSY, ORPHAN_CHECK, Busy, Job, StartOver, lost_while, notices, see_through, server_error
from .connect import BROKEN, Connection
from .errors import MigrationFailed
from .journal import Entry, Journal
from .lock import IN_SESSION, IN_TRANSACTION, Held
from .message import explain
from .migrations import Source
from .sql import Statement, milliseconds, quote_name
from .watch import Watch

logger = logging.getLogger(__name__)

NO_LIMIT = """
SELECT pg_catalog.set_config('pgslipway.lock_timeout', pg_catalog.current_setting('lock_timeout'), false);
SET lock_timeout = 0;
"""
LIMIT_AGAIN = """
SELECT pg_catalog.set_config('lock_timeout', pg_catalog.current_setting('pgslipway.lock_timeout'), false)
"""


@dataclass(frozen=True, slots=True)
class Session:
    """A session for one non-transactional file."""

    held: Held
    job: Job
    watch: Watch

    @property
    def connection(self) -> Connection:
        """The connection to work on."""
        return self.held.connection

    @property
    def journal(self) -> Journal:
        """The journal."""
        return Journal(self.job.history)

    async def create_journal(self) -> None:
        """Make the journal's table unless it is there. Raises AccessRefused, StartOver."""
        try:
            await self.journal.create(self.connection)
        except (asyncpg.UniqueViolationError, asyncpg.DuplicateTableError) as error:
            raise StartOver(f"somebody else made the journal: {error}") from error

    @asynccontextmanager
    async def settings(self) -> AsyncIterator[None]:
        """Give the session our settings and the role, and take them back.

        Behind a pooler they would stay with a server connection that others use next, so there each transaction takes
        them for itself, and what runs outside has the server's defaults.
        """
        if self.held.is_pooled:
            yield
            return
        role = f"SET ROLE {quote_name(self.job.history.role)};" if self.job.history.role else ""
        await self.connection.execute(f"{IN_SESSION} {self.timeouts('SESSION')} {role}")
        try:
            yield
        finally:
            with suppress(*BROKEN):  # what went wrong before says more
                await self.connection.execute("RESET SESSION AUTHORIZATION; RESET ALL")

    @property
    def begin(self) -> str:
        """SQL that begins a transaction, with our settings and the role where the session does not have them."""
        local = f"{self.job.history.set_role} {IN_TRANSACTION} {self.timeouts('LOCAL')}" if self.held.is_pooled else ""
        return f"BEGIN ISOLATION LEVEL READ COMMITTED; {local}"

    def timeouts(self, scope: str) -> str:
        """Return the SQL for the settings of whatever a file sends, for the SESSION or the transaction (LOCAL)."""
        return f"""
            SET {scope} client_connection_check_interval = '{ORPHAN_CHECK}';
            SET {scope} standard_conforming_strings = on;
            SET {scope} lock_timeout = {milliseconds(self.job.config.ddl_lock_timeout)};
            SET {scope} statement_timeout = {milliseconds(self.job.config.statement_timeout)};"""

    def place(self, entry: Entry) -> str:
        """Return file and line of a statement."""
        return f"{self.job.filename}:{entry.line}"

    async def send(self, statement: Statement, line: int, source: Source, connection: Connection | None = None) -> None:
        """Send a statement of the file, over another connection if there is one. Raises Busy, MigrationFailed."""
        place = f"{self.job.filename}:{line}"
        connection = connection or self.connection
        text = source[statement.start : statement.end].decode()
        try:
            with notices(connection, self.job.filename), self.watch.over(place):
                async with lost_while(f"{place} may be half done; the next run looks, and goes on from there"):
                    await connection.execute(text)
        except BUSY as error:
            raise Busy(f"line {line}: {error}", recording=False) from error
        except asyncpg.PostgresError as error:
            message = explain(server_error(error), self.job.filename, source, statement.start, text, place)
            raise MigrationFailed(message) from error

    async def mend(self, entry: Entry, sql: str) -> None:
        """Send SQL that mends what a statement left half done."""
        logger.info("%s: half done; running %s", self.place(entry), sql)
        with self.watch.over(self.place(entry)):
            await self.connection.execute(sql)

    async def commit(self, entry: Entry) -> None:
        """Commit a statement with its row. Raises Busy, MigrationFailed, ConnectionLost."""
        unknown = f"{self.place(entry)} is either done and journalled or neither; the next run will tell"
        async with self.refusals(entry, unknown):
            await see_through(self.connection.execute("COMMIT"), unknown)

    @asynccontextmanager
    async def refusals(self, entry: Entry, unknown: str) -> AsyncIterator[None]:
        """Translate what Postgres refuses in the block, where it says no place in the file."""
        try:
            async with lost_while(unknown):
                yield
        except BUSY as error:
            raise Busy(str(error), recording=False) from error
        except asyncpg.PostgresError as error:
            raise MigrationFailed(explain(error, self.place(entry))) from error

    async def add(self, sql: str) -> None:
        """Send SQL whose last command adds a row to the journal. Raises StartOver where the lock was dropped."""
        if await self.write(sql) != "INSERT 0 1":
            raise StartOver("the migration lock was dropped")

    async def write(self, sql: str) -> str:
        """Send SQL that changes the journal; return its tag. Raises Busy, StartOver and what refuses the journal."""
        filename = self.job.filename
        try:
            return await self.connection.execute(sql)
        except asyncpg.UniqueViolationError as error:
            raise StartOver(f"{filename} is being run by another runner") from error
        except (*BUSY, asyncpg.QueryCanceledError) as error:
            raise Busy("another runner is at it", recording=True) from error
        except asyncpg.PostgresError as error:
            raise self.job.history.failure(error, f"{filename} could not be journalled") from error
