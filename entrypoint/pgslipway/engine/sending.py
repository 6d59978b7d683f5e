"""Shared by all senders of a file's SQL: the file, its settings, and the meaning of every failure."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from contextvars import copy_context
from dataclasses import dataclass
from typing import TypeVar

import asyncpg

from ..config import Config
from ..dial import Connection
from ..driver_errors import BROKEN, BUSY, describe, root, verdict
from ..errors import BadConfiguration, Busy, ConnectionLost, MigrationFailed, Problem, StartOver, TableBusy, Unplaced
from ..history import UNREADABLE, History
from ..migrations import Migration
from ..quote import milliseconds
from .contents import Contents
from .findings import TRANSACTION_ENDED, failure_of, finding_in
from .lock_sql import LIFTED, set_sql
from .masks import masked
from .message import Sent, explain
from .sql import plain_comments
from .watch import Watch

Answer = TypeVar("Answer")
logger = logging.getLogger(__name__)

STOP_TIMEOUT = 4.0
"""Seconds that a rollback or the answer to COMMIT may take once we are to stop."""
ORPHAN_CHECK = "2s"
"""How often the server looks whether we are still there while it works (client_connection_check_interval)."""
LOST = {"57P01", "57P02", "57P03", "25P03", "57P05"}
"""SQLSTATEs with which a server takes the connection away, besides class 08."""
ANY_TEXT = {"UTF8", "SQL_ASCII"}
"""The encodings of databases that take every text that is UTF-8."""
NO_FILE = "no file was being applied"
HALF_COMMITTED = (
    "so a part of it is committed and it counts as applied: look at the schema, mend it by hand, and take BEGIN, "
    "COMMIT and ROLLBACK out of the file"
)
LEAVE_ALONE = "a file must leave it alone"


@dataclass(frozen=True, slots=True)
class Job:
    """A pending migration with all that is needed to apply it."""

    migration: Migration
    contents: Contents
    history: History
    config: Config
    undoes: bool = False
    """It is the down part of an applied migration, whose row it removes."""
    forgets: bool = False
    """It removes the rows of all repeatable files, too."""

    @property
    def filename(self) -> str:
        """The migration's filename."""
        return self.migration.filename

    @property
    def repeats(self) -> bool:
        """Tell whether it is a repeatable file, whose history is that of the texts."""
        return self.migration.repeats

    def mask(self, text: str) -> str:
        """Return a text with the name of its variable for each value in it."""
        return masked(self.config.variables.known, text)

    def failure(self, error: asyncpg.PostgresError, sent: Sent | None, line: int, encoding: str) -> MigrationFailed:
        """Return why the server refused SQL of the file, or its commit where there is neither `sent` nor `line`."""
        finding = finding_in(error)
        if finding == TRANSACTION_ENDED:
            return MigrationFailed(Problem(f"{finding}, {HALF_COMMITTED}", self.filename))
        problem = explain(server_error(error), self.filename, sent, line, encoding, self.config.variables.known)
        if sent and not problem.line:
            if self.contents.is_large:
                first, last = sent.lines
                problem.line, problem.text = first, f"{problem.text}\none of the statements in lines {first} to {last}"
            return Unplaced(problem)
        is_at_commit = not problem.line
        name = self.history.name
        if finding:
            problem.text = f"{finding}, {name}; {LEAVE_ALONE}"
        elif is_at_commit and isinstance(error, UNREADABLE) and error.position:  # in our own SQL, not in a trigger
            problem.text = (
                f"this file dropped or changed the history table, {name}: {self.mask(str(error))}; {LEAVE_ALONE}"
            )
        elif is_at_commit:
            problem.text = f"at COMMIT: {problem.text}"
        elif f'"{self.history.table}"' in str(error):
            problem.text += f"\nhint: {name} is pgslipway's history table; {LEAVE_ALONE}, or set MIGRATE_TABLE"
        return MigrationFailed(problem)


def settings(config: Config) -> dict[str, str]:
    """Return our settings for whatever a file sends; the schema of a target alone is searched."""
    return {
        **({"search_path": config.search_path} if config.search_path else {}),
        "client_connection_check_interval": ORPHAN_CHECK,
        "standard_conforming_strings": "on",
        "lock_timeout": str(milliseconds(config.ddl_lock_timeout)),
        "statement_timeout": str(milliseconds(config.statement_timeout)),
    }


def settings_sql(config: Config, scope: str, watch: Watch | None = None) -> str:
    """Return SQL for our settings, for the SESSION or the transaction (LOCAL); the watch has seen an earlier try."""
    longer = watch.lock_timeout_sql(config.ddl_lock_timeout, scope) if watch else ""
    if scope == "LOCAL":  # for each file, so in one query
        ours = set_sql({**LIFTED, **settings(config)}, scope)
    else:
        each = [f"{name} = '{value}'" for name, value in settings(config).items() if name != "search_path"]
        each += [f"search_path = {config.search_path}"] if config.search_path else []  # names, and no text
        ours = "; ".join([set_sql(LIFTED, scope), *(f"SET {scope} {one}" for one in each)])
    return f"{ours}; {longer}" if longer else ours


def sendable(connection: Connection, text: str) -> str:
    """Return `text` as it can be sent: a comment may have what the database's encoding has not.

    Its length stays, so that places do.
    """
    if text.isascii() or connection.get_settings().server_encoding in ANY_TEXT:
        return text
    return plain_comments(text)


@asynccontextmanager
async def file_sql(
    job: Job, watch: Watch, if_lost: str, *, sent: Sent | None = None, line: int = 0
) -> AsyncIterator[None]:
    """Translate the failures of a file's SQL in the block.

    Raises Busy, MigrationFailed with the place as far as `sent` or `line` tells it (else Unplaced), and ConnectionLost
    with `if_lost`, the state of the file then.
    """
    try:
        async with lost_while(if_lost, job.mask):
            yield
    except BUSY as error:
        raise watch.busy(error, line) from error
    except asyncpg.PostgresError as error:
        encoding = watch.held.connection.get_settings().server_encoding
        raise job.failure(error, sent, line, encoding) from error
    except LookupError as error:  # the driver has no codec of that name
        raise MigrationFailed(
            Problem(f"the client_encoding was changed: {job.mask(str(error))}", job.filename, line)
        ) from error


@asynccontextmanager
async def own_sql(
    history: History,
    doing: str = NO_FILE,
    if_lost: str = "",
    *,
    rival: str = "",
    busy: str = "",
    mask: Callable[[str], str] = str,
) -> AsyncIterator[None]:
    """Translate the failures of our own SQL in the block: a query or a row of the history or the journal.

    `doing` names the consequence of a refusal. Where a row is written, `rival` is the reason of a taken key, which
    raises StartOver, and `busy` that of a locked one, which raises Busy. Raises TableBusy, ConnectionLost, and the
    failures of `History.failure`. `mask` hides what must not be shown in the server's words.
    """
    try:
        async with lost_while(if_lost or doing, mask):
            yield
    except asyncpg.PostgresError as error:
        if rival and isinstance(error, asyncpg.UniqueViolationError):
            raise StartOver(rival) from error
        if busy and isinstance(error, (*BUSY, asyncpg.QueryCanceledError)):
            raise Busy(busy, recording=True) from error
        if isinstance(error, BUSY):
            raise TableBusy(f"{mask(str(error))}; the history table {history.name} is locked by somebody") from error
        raise failure_of(history, error, doing, mask) from error


@asynccontextmanager
async def lost_while(state: str, mask: Callable[[str], str] = str) -> AsyncIterator[None]:
    """Translate a broken connection into ConnectionLost, with the `state` of the file then.

    Raises BadConfiguration where it broke since a pooler ends every connection that begins a transaction.
    """
    try:
        yield
    except BROKEN as error:
        if verdict(error) is BadConfiguration and is_lost(error):
            raise BadConfiguration(f"{mask(describe(error))}; {state}") from error
        if is_lost(error):
            raise ConnectionLost(f"connection lost: {mask(describe(error))}; {state}") from error
        raise


def is_lost(error: BaseException) -> bool:
    """Tell whether `error` means that the connection is gone, and not that a statement was refused."""
    error = root(error)
    if isinstance(error, asyncpg.PostgresError):
        return (error.sqlstate or "").startswith("08") or error.sqlstate in LOST
    return True


def server_error(error: asyncpg.PostgresError) -> asyncpg.PostgresError:
    """Return the server's own error: it may have closed the connection over it, which hides it in the cause."""
    return cause if isinstance(cause := root(error), asyncpg.PostgresError) else error


async def see_through(work: Awaitable[Answer], if_lost: str) -> Answer:
    """Await `work` even if we are cancelled meanwhile, for STOP_TIMEOUT; the cancellation follows afterwards.

    A COMMIT that is sent takes effect whether we listen or not, so its answer is worth waiting for: it tells the
    outcome. Logs `if_lost` where the answer does not come in that time.
    """
    task = asyncio.ensure_future(work)
    task.add_done_callback(lambda done: done.cancelled() or done.exception())  # asked, so that asyncio logs none
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task}, timeout=STOP_TIMEOUT)
        if not task.done():
            logger.warning("the server did not answer in time: %s", if_lost)
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
async def rolled_back_on_failure(connection: Connection, name: str) -> AsyncIterator[None]:
    """Roll back before any failure goes on, a cancellation included; `name` stands for the block in messages."""
    try:
        yield
    except BaseException as error:
        in_transaction = not connection.is_closed() and connection.is_in_transaction()
        with suppress(*BROKEN):
            await connection.execute("ROLLBACK", timeout=STOP_TIMEOUT)
            if in_transaction and isinstance(error, MigrationFailed) and TRANSACTION_ENDED not in str(error):
                error.state = f"{name} was rolled back"
            elif in_transaction and isinstance(error, asyncio.CancelledError):
                logger.warning("%s: cancelled and rolled back", name)
        raise


@contextmanager
def notices(connection: Connection, job: Job) -> Iterator[None]:
    """Log the notices and warnings of the file's statements in the block."""
    context = copy_context()  # the driver calls from that of whoever opened the connection

    def log(_: object, notice: asyncpg.PostgresLogMessage) -> None:
        level = logging.WARNING if notice.severity_en == "WARNING" else logging.INFO
        message = job.mask(notice.message or "")
        context.run(logger.log, level, "%s: %s: %s", job.filename, (notice.severity_en or "").lower(), message)

    connection.add_log_listener(log)
    try:
        yield
    finally:
        if not connection.is_closed():
            connection.remove_log_listener(log)
