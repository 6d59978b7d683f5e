"""The lock of the tool that is taken over from: held while it may still be at work."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from math import inf
from random import uniform

from ..connect import reconnect
from ..dial import Connection
from ..driver_errors import BROKEN
from ..errors import DatabaseUnavailable, Locked
from ..run import Run
from .adopt import Adoption
from .lock import Held, find_holder
from .lock_sql import HELD_BY, KEEP, is_ours_sql
from .sending import STOP_TIMEOUT

logger = logging.getLogger(__name__)

LONGEST_PAUSE = 1.0
"""Seconds between two tries to take their lock."""
UNLOCK = "SELECT pg_catalog.pg_advisory_unlock({key}) WHERE {is_held}"
SAVEPOINT, UNDO = "SAVEPOINT theirs;", "ROLLBACK TO SAVEPOINT theirs; RELEASE SAVEPOINT theirs"
"""What is locked in a transaction is given up by going back to before."""


@asynccontextmanager
async def their_lock(run: Run, held: Held, found: Adoption | None) -> AsyncIterator[None]:
    """Hold the lock of the tool that is taken over from, if it has one. Raises Locked after the lock timeout.

    On a connection of its own, since each file gives back what locks its session has; behind a pooler beside ours, in
    the same transaction; on an application's connection until the first file ends. It is given up before a statement
    outside of a transaction: one that waits in their tool for the lock has a snapshot, for which a concurrent index
    build would wait.
    """
    if not found or not found.keys:
        yield
        return
    async with AsyncExitStack() as opened:
        holder = held.holder or held.connection
        if held.is_direct and held.another:
            holder = await opened.enter_async_context(another(run, found))
        lock, unlock = session_sql(found.keys) if held.is_direct else transaction_sql(found.keys)

        async def give_up() -> None:
            with suppress(*BROKEN):  # whoever goes on with that connection notices it
                await holder.execute(unlock, timeout=STOP_TIMEOUT)

        await take(run, held, found, lambda: holder.execute(lock), give_up)
        held.theirs.append(give_up)
        try:
            yield
        finally:
            await held.give_up_theirs()


@asynccontextmanager
async def another(run: Run, found: Adoption) -> AsyncIterator[Connection]:
    """Open the connection for their lock, like any other. Raises DatabaseUnavailable after the wait timeout."""
    async with AsyncExitStack() as opened:
        try:
            connection = await opened.enter_async_context(reconnect(run.config))
        except DatabaseUnavailable as error:
            raise DatabaseUnavailable(f"the lock of {found.source} needs a connection of its own: {error}") from error
        yield connection


async def refuse(found: Adoption | None, connection: Connection) -> None:
    """Raise HistoryConflict with what is in the way of adopting, for those who only look.

    Raises Locked instead while their tool is at work: nobody knows yet.
    """
    if not found or not found.refusals:
        return
    for key in found.keys:
        if by := await find_holder(connection, key):
            raise Locked(f"{found.source} cannot be adopted yet: its lock is held by {by['name']}")
    found.refuse()


async def take(
    run: Run, held: Held, found: Adoption, lock: Callable[[], Awaitable[str]], give_up: Callable[[], Awaitable[None]]
) -> None:
    """Try until their lock is ours. Raises Locked."""
    limit = run.config.lock_timeout or inf
    loop = asyncio.get_running_loop()
    deadline = loop.time() + limit
    holder = ""
    while await lock() != "SELECT 1":
        await give_up()
        by = next(filter(None, [await find_holder(held.connection, key) for key in found.keys]), None)
        name = by["name"] if by else holder or "somebody"
        if name != holder:
            logger.info("waiting for the lock of %s, held by %s", found.source, name)
            holder = name
        if loop.time() > deadline:
            raise Locked(f"the lock of {found.source} is still held by {holder} after MIGRATE_LOCK_TIMEOUT={limit:g}s")
        await asyncio.sleep(uniform(0.1, LONGEST_PAUSE))  # noqa: S311


def session_sql(keys: Sequence[int]) -> tuple[str, str]:
    """Return the SQL that takes all of these locks for the session, and the one that gives up what was taken."""
    is_held = [HELD_BY.format(pid="pg_catalog.pg_backend_pid()", is_ours=is_ours_sql(key)) for key in keys]
    locks = " AND ".join(f"pg_catalog.pg_try_advisory_lock({key})" for key in keys)
    unlock = "; ".join(UNLOCK.format(key=key, is_held=one) for key, one in zip(keys, is_held, strict=True))
    return f"{KEEP} SELECT 1 WHERE {locks}", unlock


def transaction_sql(keys: Sequence[int]) -> tuple[str, str]:
    """Return the same for the transaction that is open."""
    locks = " AND ".join(f"pg_catalog.pg_try_advisory_xact_lock({key})" for key in keys)
    return f"{SAVEPOINT} SELECT 1 WHERE {locks}", UNDO
