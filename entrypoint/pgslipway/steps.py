"""Non-transactional files: what Postgres refuses inside a transaction, sent on its own and recorded afterwards."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import asyncpg

from .apply import (
    ORPHAN_CHECK,
    Job,
    StartOver,
    lost_while,
    notices,
    parts,
    rolled_back_on_failure,
    see_through,
    server_error,
)
from .connect import BROKEN, Connection
from .errors import AccessRefused, BadConfiguration, HalfDone, MigrationFailed
from .lock import Held
from .message import explain
from .migrations import Source
from .sql import milliseconds, quote_literal, quote_name

logger = logging.getLogger(__name__)

INVALID = """
SELECT FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
 WHERE c.relname = {index} AND i.indrelid = pg_catalog.to_regclass({table}) AND NOT i.indisvalid
"""
MAY_RECORD = "SELECT 1 WHERE pg_catalog.has_table_privilege({table}, 'INSERT')"

LEFTOVER = (
    "it ran outside a transaction, so what it did before it failed stays; "
    "a concurrent index build leaves an invalid index: drop it before the next run"
)


async def run(held: Held, job: Job) -> None:
    """Run the statement of a non-transactional file and record the file.

    Raises MigrationFailed, StartOver, ConnectionLost, HalfDone where it ran but could not be recorded, AccessRefused,
    and BadConfiguration where a pooler stands in the way.
    """
    connection = held.connection
    if not await held.is_ours():
        raise StartOver("the migration lock was dropped")
    source = job.migration.read()
    async with session(held, job):
        if await connection.execute(MAY_RECORD.format(table=quote_literal(job.history.name))) != "SELECT 1":
            raise AccessRefused(f"{job.filename} was not run: recording it needs INSERT on {job.history.name}")
        for start, text in parts(source, job.contents):
            await send(connection, job, source, start, text)
    await record(connection, job)


async def send(connection: Connection, job: Job, source: Source, start: int, text: str) -> None:
    """Send the statement, and see that no invalid index hides behind its success."""
    try:
        with notices(connection, job.filename):
            async with lost_while(f"{job.filename} may have been done and is not recorded; {LEFTOVER}"):
                await connection.execute(text)
                invalid = [
                    index
                    for index, table in job.contents.concurrent_indexes
                    if await is_invalid(connection, index, table)
                ]
    except asyncpg.PostgresError as error:
        message = explain(server_error(error), job.filename, source, start, text)
        raise MigrationFailed(f"{message}\n{job.filename} is not applied; {LEFTOVER}") from error
    except asyncio.CancelledError:
        logger.warning("%s: cancelled; %s", job.filename, LEFTOVER)
        raise
    if invalid:
        raise MigrationFailed(
            f"{job.filename}: the index {', '.join(invalid)} exists but is invalid, left by a build that "
            "did not end; drop it with DROP INDEX CONCURRENTLY and run again"
        )


async def is_invalid(connection: Connection, index: str, table: str) -> bool:
    """Tell whether the table has an invalid index of this name."""
    query = INVALID.format(index=quote_literal(index), table=quote_literal(table))
    return await connection.execute(query) != "SELECT 0"


async def record(connection: Connection, job: Job) -> None:
    """Record the file as applied. Raises HalfDone where that fails, with what to do."""
    row = job.history.record(job.migration, job.contents.minimum_version, "true").strip()
    unknown = f"{job.filename} was done, but is perhaps not recorded"
    try:
        async with lost_while(unknown), rolled_back_on_failure(connection, job.filename):
            verified = f"{row}; {job.history.verify(job.migration)}"  # a trigger may let no row in
            command = f"BEGIN; {job.history.set_role} SET LOCAL lock_timeout = 0; {verified}; COMMIT"
            await see_through(connection.execute(command), unknown)
    except asyncpg.PostgresError as error:
        raise HalfDone(
            f"{job.filename} was done but could not be recorded: {error}; before the next run, do it by hand:\n{row}"
        ) from error


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
        SET standard_conforming_strings = on;
        SET lock_timeout = 0;
        SET statement_timeout = {milliseconds(job.config.statement_timeout)};
        {role}""")
    try:
        yield
    finally:
        with suppress(*BROKEN):  # what went wrong before says more
            await held.connection.execute("RESET SESSION AUTHORIZATION; RESET ALL")
