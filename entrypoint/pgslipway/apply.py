"""Transactional files: three messages each, with the history row first.

1. BEGIN, the role, the timeouts and the history row. Its primary key makes a second runner wait and then fail.
2. The file, as it is.
3. The deferred constraints, session state put back, COMMIT. Put back inside the transaction, because behind a
   pooler the server connection belongs to somebody else the moment it commits.

The third message of a file and the first of the next travel together. Killed anywhere, a file is applied and recorded,
or neither.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import TypeVar

import asyncpg

from .check import Contents
from .config import Config
from .connect import APPLICATION_NAME, BROKEN, Connection, describe, root
from .errors import ConnectionLost, HistoryConflict, MigrationFailed, StartOver
from .history import ROW_REMOVED, TRANSACTION_ENDED, History
from .lock import IN_TRANSACTION, Held
from .message import explain
from .migrations import LARGE, Migration, Source
from .quote import milliseconds
from .sql import statements, text_start
from .watch import Watch

Answer = TypeVar("Answer")
logger = logging.getLogger(__name__)

POOLED_STATE = "DEALLOCATE ALL; SELECT pg_catalog.pg_advisory_unlock_all();"
"""What else a file may have left in the session; our own lock is on another connection there."""
POOLED_NAME = f"SET application_name = '{APPLICATION_NAME}';"
"""A pooler takes over what RESET ALL makes of it; the watch and those who wait for us know us by it."""
STOP_TIMEOUT = 4.0
"""Seconds that a rollback or the answer to COMMIT may take once we are to stop."""
ORPHAN_CHECK = "2s"
"""How often the server looks whether we are still there while it works (client_connection_check_interval)."""
LOST = {"57P01", "57P02", "57P03", "25P03", "57P05"}
"""SQLSTATEs with which a server takes the connection away, besides class 08."""
RECORDED = "INSERT 0 1"
"""The tag that says that a history row was written."""
BUSY = (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError)
"""What passes when whoever uses the tables is done."""


class Busy(Exception):
    """A lock was not to be had, or a deadlock was broken up; the file was rolled back and may be tried again."""

    def __init__(self, cause: str, *, recording: bool, place: str = "") -> None:
        super().__init__(cause)
        self.place = place
        """File and line, in a file that keeps what stands before it."""
        self.recording = recording
        """It was our own row: another runner is applying the same file."""
        self.blocker = ""
        """What was waited for and who held it, where that was seen."""

    def __str__(self) -> str:
        """Return the cause, and who was in the way."""
        return f"{super().__str__()} while {self.blocker}" if self.blocker else super().__str__()


@dataclass(frozen=True, slots=True)
class Job:
    """A pending migration with all that is needed to apply it."""

    migration: Migration
    contents: Contents
    history: History
    config: Config

    @property
    def filename(self) -> str:
        """The migration's filename."""
        return self.migration.filename


async def apply(held: Held, job: Job, watch: Watch, following: Job | None = None) -> None:
    """Apply one transactional file and record it; with its last message, begin the one that is `following`.

    Raises MigrationFailed, Busy, StartOver, ConnectionLost, AccessRefused, HistoryConflict, DatabaseUnavailable;
    after each of them nothing of the file is left, but after ConnectionLost, where the history tells.
    """
    connection = held.connection
    async with rolled_back_on_failure(connection, job.filename):
        await asyncio.sleep(0)  # we may be cancelled since the last file was committed
        if not connection.is_in_transaction():
            await record(held, job, watch)
        with notices(connection, job.filename):
            with watch.over(job.filename):
                await send(connection, job)
            await commit(held, job, begin(held, following, watch) if following else "")


async def record(held: Held, job: Job, watch: Watch) -> None:
    """Begin the transaction and write the history row."""
    try:
        async with lost_while(f"{job.filename} was not applied"):
            tag = await held.connection.execute(begin(held, job, watch))
    except asyncpg.UniqueViolationError as error:
        raise StartOver(f"{job.filename} was applied by another runner") from error
    except (*BUSY, asyncpg.QueryCanceledError) as error:
        raise Busy("another runner is applying it", recording=True) from error
    except asyncpg.PostgresError as error:
        raise job.history.failure(error, f"{job.filename} could not be recorded") from error
    if tag != RECORDED:
        if await held.is_ours():
            raise HistoryConflict(
                f"{job.filename} could not be recorded: a trigger or a row-level security policy on "
                f"{job.history.name} lets no row in; remove it"
            )
        raise StartOver("the migration lock was dropped")


def begin(held: Held, job: Job, watch: Watch) -> str:
    """Return the SQL that begins the transaction of a file and writes its row; RECORDED is its tag if it did."""
    return f"""
        BEGIN ISOLATION LEVEL READ COMMITTED;
        {job.history.set_role}
        {IN_TRANSACTION}
        SET LOCAL client_connection_check_interval = '{ORPHAN_CHECK}';
        SET LOCAL standard_conforming_strings = on;
        {watch.lock_timeout(job.config.ddl_lock_timeout, "LOCAL")}
        SET LOCAL statement_timeout = {milliseconds(job.config.statement_timeout)};
        {job.history.record(job.migration, job.contents.minimum_version, held.condition)}"""


async def send(connection: Connection, job: Job) -> None:
    """Send the text of the file: at once, or statement by statement where it is large."""
    source = job.migration.read()
    for start, text in parts(source, job.contents):
        try:
            async with lost_while(f"{job.filename} was not committed"):
                await connection.execute(text)
        except BUSY as error:
            raise Busy(str(error), recording=False) from error
        except asyncpg.PostgresError as error:
            raise MigrationFailed(explain(server_error(error), job.filename, source, start, text)) from error


def parts(source: Source, contents: Contents) -> Iterator[tuple[int, str]]:
    """Yield (first byte, text) of what is to be sent of a file; nothing where it has no statement.

    BEGIN and COMMIT around the file are left out: as blanks in a small file, so that positions stay true.
    """
    if not contents.count:
        return
    if len(source) > LARGE:
        for statement in statements(source):
            if statement not in contents.wrapper:
                yield statement.start, source[statement.start : statement.end].decode()
        return
    text = bytearray(source)
    for statement in contents.wrapper:
        text[statement.start : statement.end] = b" " * (statement.end - statement.start)
    start = text_start(source)
    yield start, text[start:].decode()


async def commit(held: Held, job: Job, begin_next: str) -> None:
    """Fire the deferred constraints, put session state back, commit, and begin the next file where there is one.

    Once COMMIT is sent its answer is awaited, also when we are cancelled meanwhile.
    """
    finish = f"""
        SET CONSTRAINTS ALL IMMEDIATE;
        RESET SESSION AUTHORIZATION;
        {job.history.set_role}
        {job.history.verify(job.migration)};
        CLOSE ALL;
        UNLISTEN *;
        {POOLED_STATE if held.is_pooled else ""}
        RESET ALL;
        {POOLED_NAME if held.is_pooled else ""}
        DISCARD TEMP;
        COMMIT"""
    unknown = f"{job.filename} is either applied and recorded or neither; the next run will tell"
    try:
        async with lost_while(unknown):
            await see_through(commit_and_begin(held.connection, job, finish, begin_next), unknown)
    except BUSY as error:
        raise Busy(str(error), recording=False) from error
    except asyncpg.PostgresError as error:
        raise MigrationFailed(commit_failure(error, job)) from error


async def commit_and_begin(connection: Connection, job: Job, finish: str, begin_next: str) -> None:
    """Finish a file and begin the next, if any; where only that fails, it is left to be begun by its own first message.

    Raises what the server said about the file itself, in a transaction: the history tells whose failure it was.
    """
    try:
        if await connection.execute(f"{finish}; {begin_next}") == RECORDED or not begin_next:
            return
    except asyncpg.PostgresError as error:
        if not begin_next or TRANSACTION_ENDED in str(error) or is_lost(error):
            raise
        await connection.execute("ROLLBACK AND CHAIN")
        if await connection.execute(f"{job.history.set_role} {job.history.has(job.migration)}") == "SELECT 0":
            raise
    await connection.execute("ROLLBACK")


def commit_failure(error: asyncpg.PostgresError, job: Job) -> str:
    """Say why the last message failed; the text that an error's position counts in is ours, not the file's."""
    if TRANSACTION_ENDED in str(error):
        return (
            f"{job.filename}: {TRANSACTION_ENDED}, so a part of it is committed and it counts as applied: look at the "
            "schema, mend it by hand, and take BEGIN, COMMIT and ROLLBACK out of the file"
        )
    if ROW_REMOVED in str(error):
        return f"{job.filename}: {ROW_REMOVED}, {job.history.name}; a file must leave the history alone"
    return explain(server_error(error), job.filename)


async def see_through(work: Awaitable[Answer], unknown: str) -> Answer:
    """Await `work` even if we are cancelled meanwhile, for STOP_TIMEOUT; the cancellation follows afterwards.

    Logs `unknown` where the answer does not come in that time.
    """
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task}, timeout=STOP_TIMEOUT)
        if not task.done():
            logger.warning("the server did not answer in time: %s", unknown)
        if not task.done() or task.exception():
            raise
        if current := asyncio.current_task():
            current.uncancel()
            current.cancel()
        return task.result()


@asynccontextmanager
async def rolled_back_on_failure(connection: Connection, filename: str) -> AsyncIterator[None]:
    """Roll back before any failure goes on, a cancellation included."""
    try:
        yield
    except BaseException as error:
        in_transaction = connection.is_in_transaction()
        with suppress(*BROKEN):
            await connection.execute("ROLLBACK", timeout=STOP_TIMEOUT)
            if in_transaction and isinstance(error, MigrationFailed):
                error.state = f"{filename} was rolled back"
            elif in_transaction and isinstance(error, asyncio.CancelledError):
                logger.warning("%s: cancelled and rolled back", filename)
        raise


@asynccontextmanager
async def lost_while(state: str) -> AsyncIterator[None]:
    """Translate a broken connection into ConnectionLost, which says what is known then: `state`."""
    try:
        yield
    except BROKEN as error:
        if is_lost(error):
            raise ConnectionLost(f"connection lost: {describe(error)}; {state}") from error
        raise


def is_lost(error: BaseException) -> bool:
    """Tell whether `error` means that the connection is gone, and not that a statement was refused."""
    error = root(error)
    if isinstance(error, asyncpg.PostgresError):
        return (error.sqlstate or "").startswith("08") or error.sqlstate in LOST
    return True


def server_error(error: asyncpg.PostgresError) -> asyncpg.PostgresError:
    """Return what the server said: it may have closed the connection over it, which hides it in the cause."""
    return cause if isinstance(cause := root(error), asyncpg.PostgresError) else error


@contextmanager
def notices(connection: Connection, filename: str) -> Iterator[None]:
    """Log what the file's statements tell the client meanwhile."""

    def log(_: object, notice: asyncpg.PostgresLogMessage) -> None:
        level = logging.WARNING if notice.severity_en == "WARNING" else logging.INFO
        logger.log(level, "%s: %s: %s", filename, (notice.severity_en or "").lower(), notice.message)

    connection.add_log_listener(log)
    try:
        yield
    finally:
        if not connection.is_closed():
            connection.remove_log_listener(log)
