"""The line of a failure to which Postgres gave no place: the file once more, statement by statement, rolled back.

Groups of statements are sent, and the group that fails again in smaller ones: a file of 20,000 statements takes some
fifty messages. Each group has a savepoint, which is why files are not applied so: COPY FREEZE does not work then, and
many savepoints slow the other sessions down.
"""

import asyncio
from contextlib import suppress
from math import ceil

import asyncpg

from ..dial import Connection
from ..driver_errors import BROKEN
from ..errors import Problem, Unplaced
from ..files import Source
from .contents import Contents
from .lock import Held
from .message import Sent
from .sending import STOP_TIMEOUT, Job, sendable, server_error
from .sql import Statement, statements

SHORT = 10.0
"""Seconds that a file may have run that is run again to learn more, and that this may take."""
RUN_ONCE = ("SAVEPOINT", "PREPARE")
"""Statements with which no group is repeated: a file's own ROLLBACK TO takes ours away, and ROLLBACK TO drops nothing
that was prepared."""
PARTS = 16
"""How many parts a group of statements that failed is sent in."""


async def find(held: Held, job: Job, begin_sql: str, failure: Unplaced) -> Problem:
    """Return the problem of `failure` with the place of the statement that fails in the same way, if one does.

    `begin_sql` begins the transaction. Nothing of it stays, and no other failure of it is told.
    """
    error, source = failure.__cause__, job.migration.read()
    assert isinstance(error, asyncpg.PostgresError)  # noqa: S101
    connection = held.connection
    sent = None
    with suppress(*BROKEN):
        try:
            async with asyncio.timeout(SHORT):
                await connection.execute(begin_sql)
                sent = await first_alike(connection, source, job.contents, server_error(error))
        finally:
            await connection.execute("ROLLBACK", timeout=STOP_TIMEOUT)
    encoding = connection.get_settings().server_encoding
    return job.failure(error, sent, 0, encoding).problems[0] if sent else failure.args[0]


async def first_alike(
    connection: Connection, source: Source, contents: Contents, error: asyncpg.PostgresError
) -> Sent | None:
    """Return the first statement that fails, if that is with the same `error`."""
    wrapper = {statement.start for statement in contents.wrapper}
    for start, end in zip(contents.pieces, [*contents.pieces[1:], len(source)], strict=True):
        piece = bytes(source[start:end])
        group = [one for one in statements(piece) if start + one.start not in wrapper]
        parts = len(group) if any(one.text.startswith(RUN_ONCE) for one in group) else PARTS
        while group and (failed := await first_failing(connection, piece, group, parts)):
            group, second = failed
            if len(group) == 1:
                if (second.sqlstate, second.message) != (error.sqlstate, error.message):
                    return None
                (one,) = group
                return Sent(source, start + one.start, piece[one.start : one.end].decode(), is_statement=True)
    return None


async def first_failing(
    connection: Connection, piece: bytes, statements: list[Statement], parts: int
) -> tuple[list[Statement], asyncpg.PostgresError] | None:
    """Run `statements` in so many parts; return the first one that fails, undone, and its error."""
    size = ceil(len(statements) / parts)
    for index in range(0, len(statements), size):
        part = statements[index : index + size]
        savepoint = f"pgslipway_{part[0].start}_{size}"
        try:
            text = piece[part[0].start : part[-1].end].decode()
            await connection.execute(f"SAVEPOINT {savepoint}; {sendable(connection, text)}")
        except asyncpg.PostgresError as error:
            if size > 1:
                await connection.execute(f"ROLLBACK TO SAVEPOINT {savepoint}")
            return part, server_error(error)
    return None
