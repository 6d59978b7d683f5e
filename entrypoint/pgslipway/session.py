"""The session that a non-transactional file runs in: our settings and role, what is sent, the journal's writes."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import asyncpg

from .apply import (
    BUSY,
    ORPHAN_CHECK,
    POOLED_NAME,
    POOLED_STATE,
    Busy,
    Job,
    lost_while,
    notices,
    see_through,
    server_error,
)
from .connect import BROKEN, Connection
from .errors import MigrationFailed, StartOver
from .journal import Entry, Journal
from .lock import IN_SESSION, IN_TRANSACTION, Held
from .message import explain
from .migrations import Source
from .quote import milliseconds, quote_name
from .sql import Statement
from .watch import Watch

logger = logging.getLogger(__name__)

RESET = "RESET SESSION AUTHORIZATION; RESET ALL"
LIFT = """
SELECT pg_catalog.set_config('pgslipway.' || name, setting, false), pg_catalog.set_config(name, '0', false)
  FROM pg_catalog.pg_settings WHERE name IN ({names})
"""
PUT_BACK = """
SELECT pg_catalog.set_config(name, pg_catalog.current_setting('pgslipway.' || name), false)
  FROM pg_catalog.pg_settings WHERE name IN ({names})
"""
LOCKS, ALL = "'lock_timeout'", "'lock_timeout', 'statement_timeout'"
"""The time-outs that may be lifted together."""
CLEAN = f"CLOSE ALL; UNLISTEN *; {POOLED_STATE} RESET ALL; {POOLED_NAME}"
"""What a statement may have left in a session that is not ours."""


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
        """Give the session our settings and the role; after a failure take them back, else `record` has done so.

        Behind a pooler they would stay with a server connection that others use next, so there each transaction takes
        them for itself, and what runs outside has the server's defaults.
        """
        if not self.held.is_pooled:
            role = f"SET ROLE {quote_name(self.job.history.role)};" if self.job.history.role else ""
            await self.connection.execute(f"{self.defaults} {role}")
        try:
            yield
        except BaseException:
            with suppress(*BROKEN):  # what went wrong before says more
                if not self.held.is_pooled:
                    await self.connection.execute(RESET)
            raise

    @property
    def defaults(self) -> str:
        """SQL for our settings, as long as the session lasts."""
        return f"{IN_SESSION} {self.timeouts('SESSION')}"

    @asynccontextmanager
    async def unlimited(self, names: str) -> AsyncIterator[None]:
        """Lift time-outs during the block, where the session is ours."""
        if self.held.is_pooled:
            yield
            return
        await self.connection.execute(LIFT.format(names=names))
        try:
            yield
        finally:
            with suppress(*BROKEN):
                await self.connection.execute(PUT_BACK.format(names=names))

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
            {self.watch.lock_timeout(self.job.config.ddl_lock_timeout, scope)}
            SET {scope} statement_timeout = {milliseconds(self.job.config.statement_timeout)};"""

    def place(self, entry: Entry) -> str:
        """Return file and line of a statement."""
        return f"{self.job.filename}:{entry.line}"

    @property
    def startup(self) -> dict[str, str]:
        """Our settings for a session that may not run a command before it is used."""
        config = self.job.config
        return {
            "client_connection_check_interval": ORPHAN_CHECK,
            "lock_timeout": str(milliseconds(config.ddl_lock_timeout)),
            "statement_timeout": str(milliseconds(config.statement_timeout)),
        } | ({"role": self.job.history.role} if self.job.history.role else {})

    async def send(
        self, statement: Statement, line: int, source: Source, unknown: str, connection: Connection | None = None
    ) -> None:
        """Send a statement of the file; `unknown` says what is known of it when the connection breaks meanwhile.

        Raises Busy, MigrationFailed, ConnectionLost.
        """
        place = f"{self.job.filename}:{line}"
        connection = connection or self.connection
        text = source[statement.start : statement.end].decode()
        try:
            with notices(connection, self.job.filename), self.watch.over(place):
                async with lost_while(unknown):
                    await connection.execute(text)
        except BUSY as error:
            raise Busy(str(error), recording=False, line=line) from error
        except asyncpg.PostgresError as error:
            problem = explain(server_error(error), self.job.filename, source, statement.start, text, line)
            raise MigrationFailed(problem) from error

    async def mend(self, entry: Entry, lifted: str, sql: str) -> None:
        """Send SQL that mends what a statement left half done, with such time-outs lifted."""
        logger.info("%s: half done; running %s", self.place(entry), sql)
        async with self.unlimited(lifted):
            with self.watch.over(self.place(entry)):
                await self.connection.execute(sql)

    async def commit(self, entry: Entry) -> None:
        """Commit a statement with its row. Raises Busy, MigrationFailed, ConnectionLost."""
        unknown = f"{self.place(entry)} is either done and journalled or neither; the next run will tell"
        async with self.refusals(entry, unknown):
            await see_through(self.connection.execute(f"{CLEAN if self.held.is_pooled else ''} COMMIT"), unknown)

    @asynccontextmanager
    async def refusals(self, entry: Entry, unknown: str) -> AsyncIterator[None]:
        """Translate what Postgres refuses in the block, where it says no place in the file."""
        try:
            async with lost_while(unknown):
                yield
        except BUSY as error:
            raise Busy(str(error), recording=False, line=entry.line) from error
        except asyncpg.PostgresError as error:
            raise MigrationFailed(explain(error, self.job.filename, line=entry.line)) from error

    async def add(self, sql: str) -> None:
        """Send SQL whose last command adds a row to the journal. Raises StartOver where the lock was dropped."""
        if await self.write(sql) != "INSERT 0 1":
            raise StartOver("the migration lock was dropped")

    async def write(self, sql: str) -> str:
        """Send SQL that changes the journal, see it through, return its tag. Raises Busy, StartOver, SlipwayError."""
        filename = self.job.filename
        unknown = f"{filename}: the next run looks how far it got"
        try:
            async with lost_while(unknown):
                return await see_through(self.connection.execute(sql), unknown)
        except asyncpg.UniqueViolationError as error:
            raise StartOver(f"{filename} is being run by another runner") from error
        except (*BUSY, asyncpg.QueryCanceledError) as error:
            raise Busy("another runner is at it", recording=True) from error
        except asyncpg.PostgresError as error:
            raise self.job.history.failure(error, f"{filename} could not be journalled") from error
