"""The session that a file without a transaction runs in: settings and role, sending, the journal's writes."""

import logging
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass

from ..dial import Connection
from ..driver_errors import BROKEN
from ..errors import HistoryConflict, Problem, StartOver
from ..quote import quote_name
from .journal import Entry, Journal
from .leftovers import CLEAN, drop_prepared_sql, have_it_read_as_sent
from .lock import Held
from .lock_sql import KEEP
from .message import Sent
from .sending import Job, file_sql, notices, own_sql, see_through, sendable, settings, settings_sql
from .watch import Watch

logger = logging.getLogger(__name__)

RESET = f"RESET SESSION AUTHORIZATION; RESET ALL; {KEEP}"
# Sets time-outs to 0 and keeps their values in settings of our own, for PUT_BACK.
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


@dataclass(frozen=True, slots=True)
class StepsSession:
    """A session for one file without a transaction."""

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

    @property
    def startup(self) -> dict[str, str]:
        """Our settings for a session that may not run a command before it is used."""
        role = {"role": self.job.history.role} if self.job.history.role else {}
        return settings(self.job.config) | role

    @property
    def begin_sql(self) -> str:
        """SQL that begins a transaction, with our settings and the role where the session does not have them."""
        local = f"{self.job.history.set_role_sql} {settings_sql(self.job.config, 'LOCAL', self.watch)};"
        return f"BEGIN ISOLATION LEVEL READ COMMITTED; {'' if self.held.is_direct else local}"

    @asynccontextmanager
    async def settings(self) -> AsyncIterator[None]:
        """Give the session our settings and the role; after a failure take them back, else the file's record does.

        Behind a pooler they would stay with a server connection that others use next, so there each transaction takes
        them for itself, and a statement outside a transaction has the server's defaults.
        """
        await have_it_read_as_sent(self.held)
        if self.held.is_direct:
            role = f"SET ROLE {quote_name(self.job.history.role)};" if self.job.history.role else ""
            settings = settings_sql(self.job.config, "SESSION", self.watch)
            await self.connection.execute(f"{drop_prepared_sql(self.held)} {settings}; {role}")
        try:
            yield
        except BaseException:
            with suppress(*BROKEN):  # the first failure says more
                if self.held.is_direct:
                    await self.connection.execute(RESET)
            raise

    @asynccontextmanager
    async def unlimited(self, names: str) -> AsyncIterator[None]:
        """Lift time-outs during the block, where the session is ours."""
        if not self.held.is_direct:
            yield
            return
        await self.connection.execute(LIFT.format(names=names))
        try:
            yield
        finally:
            with suppress(*BROKEN):
                await self.connection.execute(PUT_BACK.format(names=names))

    def place(self, entry: Entry) -> str:
        """Return file and line of a statement."""
        return f"{self.job.filename}:{entry.line}"

    async def send(self, sent: Sent, line: int, if_lost: str, connection: Connection | None = None) -> None:
        """Send a statement of the file. Raises Busy, MigrationFailed, ConnectionLost."""
        connection = connection or self.connection
        with notices(connection, self.job), self.watch.over(f"{self.job.filename}:{line}"):
            async with file_sql(self.job, self.watch, if_lost, sent=sent, line=line):
                await connection.execute(sendable(connection, sent.text))
                if connection is self.connection:
                    await have_it_read_as_sent(self.held)

    async def mend(self, entry: Entry, lifted: str, sql: str) -> None:
        """Send SQL that mends a half-done statement, with such time-outs lifted."""
        logger.info("%s: half done; running %s", self.place(entry), sql)
        async with self.unlimited(lifted):
            with self.watch.over(self.place(entry)):
                await self.connection.execute(sql)

    async def commit(self, entry: Entry) -> None:
        """Commit a statement with its row. Raises Busy, MigrationFailed, ConnectionLost."""
        if_lost = f"{self.place(entry)} is either done and journalled or neither; the next run will tell"
        clean = "" if self.held.is_direct else CLEAN
        async with self.refusals(entry, if_lost):
            await see_through(self.connection.execute(f"{clean} COMMIT"), if_lost)

    def refusals(self, entry: Entry, if_lost: str) -> AbstractAsyncContextManager[None]:
        """Translate refusals in the block, of SQL that has no place in the file but its statement's line."""
        return file_sql(self.job, self.watch, if_lost, line=entry.line)

    async def add(self, sql: str) -> None:
        """Send SQL whose last command adds a row to the journal.

        Raises StartOver where the lock was dropped, HistoryConflict where something else keeps the row out.
        """
        if await self.write(sql) == "INSERT 0 1":
            return
        if await self.held.is_ours():
            cause = f"a trigger or a rule on {self.journal.name} lets no row in; remove it"
            raise HistoryConflict(Problem(f"could not be journalled: {cause}", self.job.filename, joint=" "))
        raise StartOver("the migration lock was dropped")

    async def write(self, sql: str) -> str:
        """Send SQL that changes the journal, see it through, return its tag. Raises Busy, StartOver, SlipwayError."""
        filename = self.job.filename
        if_lost = f"{filename}: the next run looks how far it got"
        doing, rival = f"{filename} could not be journalled", f"{filename} is being run by another runner"
        async with own_sql(
            self.job.history, doing, if_lost, rival=rival, busy="another runner is at it", mask=self.job.mask
        ):
            return await see_through(self.connection.execute(sql), if_lost)
