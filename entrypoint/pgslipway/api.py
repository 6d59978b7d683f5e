"""`run_migrations`: the image's own run, over a connection of the application's pool."""

from functools import partial

import asyncpg

from .connect import Connection, describe, verdict
from .errors import DatabaseUnavailable
from .run import Run, until_settled


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
        async with pool.acquire() as proxy:
            connection: Connection = proxy  # type: ignore[assignment]  # it has the same methods
            try:
                if not await run.first_look(connection):
                    await run.migrate(connection, None)
            except BaseException:
                connection.terminate()
                raise
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
        raise (verdict(error) or DatabaseUnavailable)(f"the pool gives no connection: {describe(error)}") from error
