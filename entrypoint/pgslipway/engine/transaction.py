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
import time
from collections.abc import Iterator
from functools import partial

from ..driver_errors import BROKEN
from ..errors import HistoryConflict, MigrationFailed, Problem, StartOver, Unplaced
from ..files import Source
from ..quote import milliseconds
from .ahead import Ahead, Message
from .check import USUAL_LEVEL
from .contents import Contents
from .copying import copy_in
from .leftovers import (
    drop_prepared,
    have_it_read_as_sent,
    is_read_as_sent,
    put_back_sql,
)
from .lock import Held
from .message import Sent
from .prepared import Around, is_missing, plain, prepare_sql, short
from .replay import SHORT, find
from .sending import (
    STOP_TIMEOUT,
    Job,
    cancel_again,
    file_sql,
    notices,
    own_sql,
    rolled_back_on_failure,
    see_through,
    sendable,
    settings_sql,
)
from .sql import BLANK, text_start, tokens
from .watch import Watch

logger = logging.getLogger(__name__)

RECORDED, FORGOTTEN = "INSERT 0 1", "DELETE 1"
"""The tags that say that a history row was written, or removed."""
STILL_OURS = "SELECT 1"
"""The tag that says that a file was committed, did not drop the lock, and left nothing else to be dropped."""
STOPPED = {"08", "40", "53", "57"}
"""Classes of SQLSTATE after which a file is not run again to learn more: connection, conflict, resources, operator."""


async def apply(held: Held, job: Job, watch: Watch, ahead: Ahead, *, at_once: bool) -> bool:
    """Apply one transactional file and record it, in one message if it may go `at_once`.

    Returns whether the lock was still ours in the end, so that the next one may. Raises MigrationFailed, Busy,
    StartOver, ConnectionLost, AccessRefused, HistoryConflict, DatabaseUnavailable; after each of them nothing of the
    file is left, but after ConnectionLost, where the history tells.
    """
    if (task := asyncio.current_task()) and task.cancelling():
        await asyncio.sleep(0)  # we are cancelled since the last file was committed
    started, settled = time.monotonic(), None
    # Postgres reads a message before it runs any of it, so also before we could set how strings are read.
    if at_once and is_read_as_sent(held.connection):
        try:
            return await send_at_once(held, job, watch, ahead)
        except Unplaced as failure:
            settled = None if may_repeat(failure, started) else failure
    ahead.say()
    try:
        return await send_in_three(held, job, watch, settled)
    except Unplaced as failure:
        if may_repeat(failure, started) and not job.contents.copies:
            failure.args = (await find(held, job, begin_sql(held, job, watch), failure),)
        raise


def may_repeat(failure: Unplaced, started: float) -> bool:
    """Tell whether the file may be run again to learn more: not if something stopped it, nor if it takes long.

    Where it failed only since a statement of ours was gone, it may be run again in any case.
    """
    state = getattr(failure.__cause__, "sqlstate", None) or ""
    is_short = time.monotonic() - started < SHORT
    return is_missing(failure.__cause__) or (state[:2] not in STOPPED and is_short)


def if_lost(job: Job) -> str:
    """Return the state of the file when the answer to its COMMIT is lost."""
    if job.undoes:
        return f"{job.filename} is either undone or not at all; `status` will tell"
    return f"{job.filename} is either applied and recorded or neither; the next run will tell"


async def send_at_once(held: Held, job: Job, watch: Watch, ahead: Ahead) -> bool:
    """Apply a file in one message; True if the lock is still ours then. Raises as `apply` does.

    Unplaced leaves open whether the file failed or our own SQL in that message.
    """
    message = ahead.take(job) or message_of(held, job)
    async with rolled_back_on_failure(held.connection, job.filename):
        try:
            with notices(held.connection, job), watch.over(job.filename):
                async with file_sql(job, watch, if_lost(job), sent=message.sent):
                    ahead.begin(partial(message_of, held))
                    return await held.connection.execute(message.sql) == STILL_OURS
        except asyncio.CancelledError:
            if not await was_committed(held, job):
                raise
            cancel_again()
            return False


def message_of(held: Held, job: Job) -> Message:
    """Return the message with all of a file. Raises FilesChanged.

    The row first, so that a second runner waits on its key; COMMIT last, so that a failure anywhere in the message
    leaves nothing of it.
    """
    source = job.migration.read()
    start, text = next(parts(source, job.contents), (0, ""))
    around = short(held, job)
    before = f"-- {job.filename}\n{opening_sql(job)} {around.record};".ljust(around.width) + "\n"
    sql = f"{before}{sendable(held.connection, text)}\n;{finish_sql(held, job, around)}"
    return Message(job, Sent(source, start, text, before), sql)


async def send_in_three(held: Held, job: Job, watch: Watch, settled: MigrationFailed | None) -> bool:
    """Apply a file in three messages; True if the lock is still ours then. Raises as `apply` does.

    The first one tells whether it is our own SQL that fails. If it is not, `settled` is the failure, if there is one.
    """
    async with rolled_back_on_failure(held.connection, job.filename):
        await begin(held, job, watch)
        if settled:
            raise settled
        with notices(held.connection, job), watch.over(job.filename):
            await send(held, job, watch)
            return await commit(held, job, watch)


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
        f"{job.filename} {could_not(job)}",
        f"{job.filename} was not {'undone' if job.undoes else 'applied'}",
        rival=f"{job.filename} was applied by another runner",
        busy="another runner is applying it",
        mask=job.mask,
    ):
        await drop_prepared(held)  # by an earlier try, whose ROLLBACK left them
        await have_it_read_as_sent(held)
        tag = await held.connection.execute(begin_sql(held, job, watch))
    if tag != (FORGOTTEN if job.undoes else RECORDED):
        if await held.is_ours():
            way = "go" if job.undoes else "in"
            cause = f"a trigger or a row-level security policy on {job.history.name} lets no row {way}; remove it"
            raise HistoryConflict(Problem(f"{could_not(job)}: {cause}", job.filename, joint=" "))
        raise StartOver("the migration lock was dropped")


def could_not(job: Job) -> str:
    """Return the words for a row that was not written, or not removed."""
    return "could not be taken out of the history" if job.undoes else "could not be recorded"


def opening_sql(job: Job) -> str:
    """Return the SQL that begins the transaction of a file."""
    return f"BEGIN ISOLATION LEVEL {job.contents.isolation or USUAL_LEVEL}; {job.history.set_role_sql}"


def begin_sql(held: Held, job: Job, watch: Watch) -> str:
    """Return the first of three messages, which writes the row while the lock is ours; its tag is RECORDED then."""
    around = plain(held, job, settings_sql(job.config, "LOCAL", watch), held.condition)
    patience = f"SET LOCAL lock_timeout = {milliseconds(job.config.ddl_lock_timeout)};"  # preparing locks the table
    return f"{opening_sql(job)} {patience} {prepare_sql(held, job)} {around.record}"


async def send(held: Held, job: Job, watch: Watch) -> None:
    """Send the text of the file: at once, or in pieces where it is large."""
    source = job.migration.read()
    for start, text in parts(source, job.contents):
        copy = job.contents.copies.get(start)
        data = copy.data if copy else None
        sent = Sent(source, start, text, is_statement=data is not None, data=data)
        async with file_sql(job, watch, f"{job.filename} was not committed", sent=sent):
            await have_it_read_as_sent(held)
            sql = sendable(held.connection, text)
            await (copy_in(held.connection, sql, source, data) if data else held.connection.execute(sql))


def parts(source: Source, contents: Contents) -> Iterator[tuple[int, str]]:
    """Yield (first byte, text) of each piece of a file to send; nothing for one that has no statement.

    BEGIN and COMMIT around the file are left out, and what pg_dump writes for psql: as blanks, so that positions stay
    true.
    """
    if not contents.count:
        return
    starts = contents.pieces if contents.is_large else [text_start(source)]
    for start, following in zip(starts, [*starts[1:], len(source)], strict=True):
        end = contents.copies[start].end if start in contents.copies else following
        text = source[start:end]
        wrapper = [(statement.start, statement.end) for statement in contents.wrapper]
        for first, after in [*wrapper, *contents.left_out]:
            if start <= first < end:
                text = b"".join([text[: first - start], b" " * (after - first), text[after - start :]])
        if says_something(text):
            yield start, text.decode()


def says_something(text: bytes) -> bool:
    """Tell whether a text has a statement: the driver takes no answer to an empty one."""
    return any(kind not in BLANK and kind != "end" for kind, _, _ in tokens(text))


async def commit(held: Held, job: Job, watch: Watch) -> bool:
    """Fire the deferred constraints, put session state back and commit; True if the lock is still ours then.

    Once COMMIT is sent its answer is awaited, also when we are cancelled meanwhile.
    """
    async with file_sql(job, watch, if_lost(job)):
        finish = finish_sql(held, job, plain(held, job, "", "true"))
        return await see_through(held.connection.execute(finish), if_lost(job)) == STILL_OURS


def finish_sql(held: Held, job: Job, around: Around) -> str:
    """Return the SQL that ends the transaction of a file; its tag is STILL_OURS if the lock is, and nothing is left.

    The row is checked after the deferred constraints, whose triggers are the file's last chance to touch it, and as
    the role that wrote it; only then the session is put back.
    """
    return f"""
        SET CONSTRAINTS ALL IMMEDIATE;
        RESET SESSION AUTHORIZATION;
        {job.history.set_role_sql}
        {around.verify};
        {put_back_sql(held)}
        COMMIT;
        {around.end}"""
