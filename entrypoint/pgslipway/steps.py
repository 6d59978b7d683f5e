"""Non-transactional files: what Postgres refuses inside a transaction, sent on its own and recorded afterwards."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from .apply import ORPHAN_CHECK, Job, StartOver, lost_while, notices, parts, refusal, rolled_back_on_failure
from .connect import Connection
from .errors import BadConfiguration, MigrationFailed
from .lock import Held
from .message import explain
from .sql import milliseconds, quote_name

LEFTOVER = (
    "it ran outside a transaction, so what it did before it failed stays; "
    "a concurrent index build leaves an invalid index: drop it before the next run"
)


async def run(held: Held, job: Job) -> None:
    """Run the statement of a non-transactional file and record the file.

    Raises MigrationFailed, StartOver, ConnectionLost, and BadConfiguration where a pooler stands in the way.
    """
    connection = held.connection
    if await connection.execute(f"SELECT 1 WHERE {held.condition}") != "SELECT 1":
        raise StartOver("the migration lock was dropped")
    async with session(held, job):
        for start, text in parts(source := job.migration.read(), job.contents):
            try:
                with notices(connection, job.filename):
                    async with lost_while(f"{job.filename} may have been done and is not recorded; {LEFTOVER}"):
                        await connection.execute(text)
            except asyncpg.PostgresError as error:
                message = explain(refusal(error), job.filename, source, start, text)
                raise MigrationFailed(f"{message}\n{job.filename} is not applied; {LEFTOVER}") from error
    await record(connection, job)


async def record(connection: Connection, job: Job) -> None:
    """Record the file as applied."""
    row = job.history.record(job.migration, job.contents.minimum_version, "true")
    async with (
        lost_while(f"{job.filename} was done, but is perhaps not recorded"),
        rolled_back_on_failure(connection, job.filename),
    ):
        await connection.execute(f"BEGIN; {job.history.set_role} {row}; COMMIT")


@asynccontextmanager
async def session(held: Held, job: Job) -> AsyncIterator[None]:
    """Give the session our settings and the role, as SET LOCAL cannot outside a transaction, and take them back.

    A lock time-out would leave an invalid index, so there is none. Behind a pooler the settings would stay
    with a server connection that others use next, so there only the defaults are to be had.
    """
    if held.is_pooled:
        if job.history.role:
            raise BadConfiguration(
                f"{job.filename} runs outside a transaction, where MIGRATE_ROLE cannot be set behind a pooler; "
                "connect to Postgres directly"
            )
        yield
        return
    role = f"SET ROLE {quote_name(job.history.role)};" if job.history.role else ""
    await held.connection.execute(f"""
        SET client_connection_check_interval = '{ORPHAN_CHECK}';
        SET lock_timeout = 0;
        SET statement_timeout = {milliseconds(job.config.statement_timeout)};
        {role}""")
    try:
        yield
    finally:
        if not held.connection.is_closed():
            await held.connection.execute("RESET SESSION AUTHORIZATION; RESET ALL")
