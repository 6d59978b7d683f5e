"""Transactional files: three parts each, with the history row first.

1. BEGIN, the role, the timeouts and the history row. Its primary key makes a second runner wait and then fail.
2. The file, as it is.
3. The deferred constraints, session state put back, COMMIT. Put back inside the transaction, because behind a
   pooler the server connection belongs to somebody else the moment it commits.

A part is a message of its own where a failure has to be told as the file's or ours: in the first file of a run, in a
large one, and in one that is tried again. In the others one message has them all, one round trip instead of three.
Killed anywhere, a file is applied and recorded, or neither.
"""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import suppress

import asyncpg

from ..connect import Connection
from ..driver_errors import BROKEN
from ..errors import HistoryConflict, MigrationFailed, NothingRan, Problem, StartOver
from ..files import Source
from .check import Contents
from .lock import Held
from .message import Sent
from .sending import (
    POOLED_NAME,
    POOLED_STATE,
    STOP_TIMEOUT,
    Job,
    cancel_again,
    file_sql,
    notices,
    own_sql,
    rolled_back_on_failure,
    see_through,
    settings_sql,
)
from .sql import statements, text_start
from .watch import Watch

logger = logging.getLogger(__name__)

RECORDED = "INSERT 0 1"
"""The tag that says that a history row was written."""
STILL_OURS = "SELECT 1"
"""The tag that says that a file was committed and did not drop the lock."""


async def apply(held: Held, job: Job, watch: Watch, *, at_once: bool) -> bool:
    """Apply one transactional file and record it, in one message if it may go `at_once`.

    Returns whether the lock was still ours in the end, so that the next one may. Raises MigrationFailed, Busy,
    StartOver, ConnectionLost, AccessRefused, HistoryConflict, DatabaseUnavailable; after each of them nothing of the
    file is left, but after ConnectionLost, where the history tells.
    """
    connection = held.connection
    async with rolled_back_on_failure(connection, job.filename):
        await asyncio.sleep(0)  # we may be cancelled since the last file was committed
        # Postgres reads a message before it runs any of it, so also before we could set how strings are read.
        if at_once and connection.get_settings().standard_conforming_strings == "on":
            with suppress(NothingRan):
                return await send_at_once(held, job, watch)
        await begin(held, job, watch)
        with notices(connection, job.filename):
            with watch.over(job.filename):
                await send(connection, job, watch)
            return await commit(held, job, watch)


def if_lost(job: Job) -> str:
    """Return the state of the file when the answer to its COMMIT is lost."""
    return f"{job.filename} is either applied and recorded or neither; the next run will tell"


async def send_at_once(held: Held, job: Job, watch: Watch) -> bool:
    """Apply a file in one message; True if the lock is still ours then. Raises as `apply` does, and NothingRan."""
    source = job.migration.read()
    start, text = next(parts(source, job.contents), (0, ""))
    before = f"-- {job.filename}\n{begin_sql(job, watch, 'true')};\n"
    try:
        with notices(held.connection, job.filename), watch.over(job.filename):
            async with file_sql(job, watch, if_lost(job), sent=Sent(source, start, text, len(before))):
                # The row first, so that a second runner waits on its key; COMMIT last, so that a failure anywhere
                # in the message leaves nothing of it.
                return await held.connection.execute(f"{before}{text}\n;{finish_sql(held, job)}") == STILL_OURS
    except asyncio.CancelledError:
        if not await was_committed(held, job):
            raise
        cancel_again()
        return False
    except MigrationFailed as failed:
        error = failed.__cause__
        if isinstance(error, asyncpg.PostgresSyntaxError) and not held.connection.is_in_transaction():
            raise NothingRan from error
        if isinstance(error, asyncpg.UniqueViolationError) and job.history.is_about(error):
            raise StartOver(f"{job.filename} was applied by another runner") from error
        raise


async def was_committed(held: Held, job: Job) -> bool:
    """Tell whether a file was committed whose message was cancelled; log that it was not, or that nobody knows."""
    try:
        await held.connection.execute("ROLLBACK", timeout=STOP_TIMEOUT)
        look = f"{job.history.set_role_sql} {job.history.row_sql(job.migration)}"
        if await held.connection.execute(look, timeout=STOP_TIMEOUT) != "SELECT 0":
            return True
        logger.warning("%s: cancelled and rolled back", job.filename)
    except BROKEN:
        logger.warning("the server did not answer in time: %s", if_lost(job))
    return False


async def begin(held: Held, job: Job, watch: Watch) -> None:
    """Begin the transaction and write the history row."""
    async with own_sql(
        job.history,
        f"{job.filename} could not be recorded",
        f"{job.filename} was not applied",
        rival=f"{job.filename} was applied by another runner",
        busy="another runner is applying it",
    ):
        tag = await held.connection.execute(begin_sql(job, watch, held.condition))
    if tag != RECORDED:
        if await held.is_ours():
            cause = f"a trigger or a row-level security policy on {job.history.name} lets no row in; remove it"
            raise HistoryConflict(Problem(f"could not be recorded: {cause}", job.filename, joint=" "))
        raise StartOver("the migration lock was dropped")


def begin_sql(job: Job, watch: Watch, condition: str) -> str:
    """Return the SQL that begins the transaction of a file and, on a condition, writes its row; its tag is RECORDED."""
    return f"""
        BEGIN ISOLATION LEVEL READ COMMITTED;
        {job.history.set_role_sql}
        {settings_sql(job.config, watch, "LOCAL")}
        {job.history.record_sql(job.migration, job.contents.minimum_version, condition)}"""


async def send(connection: Connection, job: Job, watch: Watch) -> None:
    """Send the text of the file: at once, or statement by statement where it is large."""
    source = job.migration.read()
    for start, text in parts(source, job.contents):
        async with file_sql(job, watch, f"{job.filename} was not committed", sent=Sent(source, start, text)):
            await connection.execute(text)


def parts(source: Source, contents: Contents) -> Iterator[tuple[int, str]]:
    """Yield (first byte, text) of each piece of a file to send; nothing where it has no statement.

    BEGIN and COMMIT around the file are left out: as blanks in a small file, so that positions stay true.
    """
    if not contents.count:
        return
    if contents.is_large:
        for statement in statements(source):
            if statement not in contents.wrapper:
                yield statement.start, source[statement.start : statement.end].decode()
        return
    text = bytearray(source)
    for statement in contents.wrapper:
        text[statement.start : statement.end] = b" " * (statement.end - statement.start)
    start = text_start(source)
    yield start, text[start:].decode()


async def commit(held: Held, job: Job, watch: Watch) -> bool:
    """Fire the deferred constraints, put session state back and commit; True if the lock is still ours then.

    Once COMMIT is sent its answer is awaited, also when we are cancelled meanwhile.
    """
    async with file_sql(job, watch, if_lost(job)):
        return await see_through(held.connection.execute(finish_sql(held, job)), if_lost(job)) == STILL_OURS


def finish_sql(held: Held, job: Job) -> str:
    """Return the SQL that ends the transaction of a file; its tag is STILL_OURS if the lock is.

    The row is checked after the deferred constraints, whose triggers are the file's last chance to touch it, and as
    the role that wrote it; only then the session is put back.
    """
    return f"""
        SET CONSTRAINTS ALL IMMEDIATE;
        RESET SESSION AUTHORIZATION;
        {job.history.set_role_sql}
        {job.history.verify_sql(job.migration)};
        CLOSE ALL;
        UNLISTEN *;
        {"" if held.is_direct else POOLED_STATE}
        RESET ALL;
        {"" if held.is_direct else POOLED_NAME}
        DISCARD TEMP;
        COMMIT;
        SELECT 1 WHERE {held.condition}"""
