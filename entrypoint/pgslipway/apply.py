"""Transactional files: three parts each, with the history row first.

1. BEGIN, the role, the timeouts and the history row. Its primary key makes a second runner wait and then fail.
2. The file, as it is.
3. The deferred constraints, session state put back, COMMIT. Put back inside the transaction, because behind a
   pooler the server connection belongs to somebody else the moment it commits.

A part is a message of its own where it has to be told whose a failure is: in the first file of a run, in one that is
large, and in one that is tried again. In the others one message has them all, which is one round trip instead of three.
Killed anywhere, a file is applied and recorded, or neither.
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
from .errors import ConnectionLost, HistoryConflict, MigrationFailed, Problem, StartOver
from .history import ROW_REMOVED, TRANSACTION_ENDED, History
from .lock import IN_TRANSACTION, Held
from .message import explain
from .migrations import Migration, Source
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
STILL_OURS = "SELECT 1"
"""The tag that says that a file was committed and did not drop the lock."""
BUSY = (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError)
"""What passes when whoever uses the tables is done."""


class Busy(Exception):
    """A lock was not to be had, or a deadlock was broken up; the file was rolled back and may be tried again."""

    def __init__(self, cause: str, *, recording: bool, line: int = 0) -> None:
        super().__init__(cause)
        self.line = line
        """Its line, in a file that keeps what stands before it; else 0."""
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

    @property
    def unknown(self) -> str:
        """What is known of the file when the answer to its COMMIT is lost."""
        return f"{self.filename} is either applied and recorded or neither; the next run will tell"

    def failure(
        self, error: asyncpg.PostgresError, source: Source = b"", start: int = 0, text: str | None = None
    ) -> Problem:
        """Say why a message that was to commit the file failed; about `text`, if given, as `explain` does."""
        if TRANSACTION_ENDED in str(error):
            return Problem(
                f"{TRANSACTION_ENDED}, so a part of it is committed and it counts as applied: look at the schema, mend "
                "it by hand, and take BEGIN, COMMIT and ROLLBACK out of the file",
                self.filename,
            )
        if ROW_REMOVED in str(error):
            return Problem(f"{ROW_REMOVED}, {self.history.name}; a file must leave the history alone", self.filename)
        return explain(server_error(error), self.filename, source, start, text)


class NothingRan(Exception):
    """A syntax error, with which Postgres refuses a whole message; it is told better of the file alone."""


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
        await record(held, job, watch)
        with notices(connection, job.filename):
            with watch.over(job.filename):
                await send(connection, job)
            return await commit(held, job)


async def send_at_once(held: Held, job: Job, watch: Watch) -> bool:
    """Apply a file in one message; True if the lock is still ours then. Raises NothingRan, and what `apply` does."""
    source = job.migration.read()
    start, text = next(parts(source, job.contents), (0, ""))
    before = f"-- {job.filename}\n{begin(job, watch, 'true')};\n"
    message = f"{before}{text}\n;{finish(held, job)}"
    try:
        with notices(held.connection, job.filename), watch.over(job.filename):
            async with lost_while(job.unknown):
                return await held.connection.execute(message) == STILL_OURS
    except asyncio.CancelledError:
        if not await was_committed(held, job):
            raise
        cancel_again()
        return False
    except BUSY as error:
        raise Busy(str(error), recording=False) from error
    except asyncpg.PostgresError as error:
        if isinstance(error, asyncpg.PostgresSyntaxError) and not held.connection.is_in_transaction():
            raise NothingRan from error
        if isinstance(error, asyncpg.UniqueViolationError) and job.history.is_about(error):
            raise StartOver(f"{job.filename} was applied by another runner") from error
        is_in_file = len(before) < int(error.position or 0) <= len(before) + len(text)
        failure = job.failure(error, source, start - len(before.encode()), message if is_in_file else None)
        raise MigrationFailed(failure) from error


async def was_committed(held: Held, job: Job) -> bool:
    """Tell whether a file was committed whose message was cancelled; log that it was not, or that nobody knows."""
    try:
        await held.connection.execute("ROLLBACK", timeout=STOP_TIMEOUT)
        look = f"{job.history.set_role} {job.history.has(job.migration)}"
        if await held.connection.execute(look, timeout=STOP_TIMEOUT) != "SELECT 0":
            return True
        logger.warning("%s: cancelled and rolled back", job.filename)
    except BROKEN:
        logger.warning("the server did not answer in time: %s", job.unknown)
    return False


async def record(held: Held, job: Job, watch: Watch) -> None:
    """Begin the transaction and write the history row."""
    try:
        async with lost_while(f"{job.filename} was not applied"):
            tag = await held.connection.execute(begin(job, watch, held.condition))
    except asyncpg.UniqueViolationError as error:
        raise StartOver(f"{job.filename} was applied by another runner") from error
    except (*BUSY, asyncpg.QueryCanceledError) as error:
        raise Busy("another runner is applying it", recording=True) from error
    except asyncpg.PostgresError as error:
        raise job.history.failure(error, f"{job.filename} could not be recorded") from error
    if tag != RECORDED:
        if await held.is_ours():
            cause = f"a trigger or a row-level security policy on {job.history.name} lets no row in; remove it"
            raise HistoryConflict(Problem(f"could not be recorded: {cause}", job.filename, joint=" "))
        raise StartOver("the migration lock was dropped")


def begin(job: Job, watch: Watch, condition: str) -> str:
    """Return the SQL that begins the transaction of a file and, on a condition, writes its row; its tag is RECORDED."""
    return f"""
        BEGIN ISOLATION LEVEL READ COMMITTED;
        {job.history.set_role}
        {IN_TRANSACTION}
        SET LOCAL client_connection_check_interval = '{ORPHAN_CHECK}';
        SET LOCAL standard_conforming_strings = on;
        {watch.lock_timeout(job.config.ddl_lock_timeout, "LOCAL")}
        SET LOCAL statement_timeout = {milliseconds(job.config.statement_timeout)};
        {job.history.record(job.migration, job.contents.minimum_version, condition)}"""


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


async def commit(held: Held, job: Job) -> bool:
    """Fire the deferred constraints, put session state back and commit; True if the lock is still ours then.

    Once COMMIT is sent its answer is awaited, also when we are cancelled meanwhile.
    """
    try:
        async with lost_while(job.unknown):
            return await see_through(held.connection.execute(finish(held, job)), job.unknown) == STILL_OURS
    except BUSY as error:
        raise Busy(str(error), recording=False) from error
    except asyncpg.PostgresError as error:
        raise MigrationFailed(job.failure(error)) from error


def finish(held: Held, job: Job) -> str:
    """Return the SQL that ends the transaction of a file; its tag is STILL_OURS if the lock is."""
    return f"""
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
        COMMIT;
        SELECT 1 WHERE {held.condition}"""


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
        cancel_again()
        return task.result()


def cancel_again() -> None:
    """Have the cancellation that was caught come again, at the next await."""
    if current := asyncio.current_task():
        current.uncancel()
        current.cancel()


@asynccontextmanager
async def rolled_back_on_failure(connection: Connection, filename: str) -> AsyncIterator[None]:
    """Roll back before any failure goes on, a cancellation included."""
    try:
        yield
    except BaseException as error:
        in_transaction = not connection.is_closed() and connection.is_in_transaction()
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
