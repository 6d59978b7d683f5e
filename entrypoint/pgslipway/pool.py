"""`run_migrations`: the image's own run, over a connection of the application's pool."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TypeVar

import asyncpg

from .dial import Connection
from .driver_errors import BROKEN, describe, verdict
from .engine.sending import own_sql
from .errors import BadConfiguration, DatabaseUnavailable, SlipwayError
from .run import Run
from .up import bring_up_to_date

Answer = TypeVar("Answer")

HAS_OTHER_ROLE = "SELECT 1 WHERE current_user <> session_user"


async def run_on_pool(pool: "asyncpg.Pool[asyncpg.Record]", run: Run) -> list[str]:
    """Apply the pending migrations; return the filenames newly applied.

    Where a file has variables, a failure goes on without its cause: the driver's errors hold the SQL with the values.
    """
    try:
        await bring_up_to_date(run, partial(acquire, pool, run))
    except SlipwayError as error:
        if run.config.variables.known:
            error.__cause__ = error.__context__ = None
        raise
    return run.applied


@asynccontextmanager
async def acquire(
    pool: "asyncpg.Pool[asyncpg.Record]", run: Run, first_query: Callable[[Connection], Awaitable[Answer]]
) -> AsyncIterator[tuple[Connection, Answer]]:
    """Ask `first_query` on a connection of the pool, like `connect` on a new one.

    After a failure that connection is given up, and the pool opens another in its place: a CREATE EXTENSION
    that was rolled back can leave a session that cannot create the extension any more.
    """
    try:
        proxy = await pool.acquire()
    except BROKEN as error:
        failure = verdict(error) or DatabaseUnavailable
        raise failure(f"the pool gives no connection: {describe(error)}") from error
    connection: Connection = proxy  # type: ignore[assignment]  # it has the same methods
    try:
        async with own_sql(run.history):
            if not (answer := await first_query(connection)):
                await refuse_other_role(connection)
        yield connection, answer
    except BaseException:
        with suppress(asyncpg.InterfaceError):  # the driver may have given it up before us
            connection.terminate()
        raise
    finally:
        await pool.release(proxy)


async def refuse_other_role(connection: Connection) -> None:
    """Raise BadConfiguration for a connection that has taken another role."""
    if await connection.execute(HAS_OTHER_ROLE) == "SELECT 1":
        raise BadConfiguration(
            "the pool's connections have taken another role, which the end of a file would reset; give run_migrations "
            "the role as a keyword instead"
        )
