"""`run_migrations`: the image's own run, over a connection of the application's pool."""

from contextlib import suppress
from functools import partial

import asyncpg

from .connect import BROKEN, Connection, describe, verdict
from .errors import BadConfiguration, DatabaseUnavailable
from .migrate import migrate as migrate_on
from .migrate import translated
from .run import Run, until_settled

HAS_OTHER_ROLE = "SELECT 1 WHERE current_user <> session_user"


async def run_on_pool(pool: "asyncpg.Pool[asyncpg.Record]", run: Run) -> list[str]:
    """Apply what is pending; return the filenames newly applied."""
    await until_settled(partial(migrate, pool, run), run)
    return run.applied


async def migrate(pool: "asyncpg.Pool[asyncpg.Record]", run: Run) -> None:
    """Apply what is pending on one connection of the pool.

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
        async with translated(run.history):
            if not await run.first_look(connection):
                await refuse_other_role(connection)
                await migrate_on(run, connection, may_connect=False)
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
