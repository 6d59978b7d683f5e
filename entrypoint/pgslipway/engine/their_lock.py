"""The lock of the tool that is taken over from: held while it may still be at work."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from math import inf
from random import uniform

from ..connect import close
from ..dial import Connection
from ..errors import Locked
from ..run import Run
from .adopt import Adoption
from .lock import Held, find_holder

logger = logging.getLogger(__name__)

LONGEST_PAUSE = 1.0
"""Seconds between two tries to take their lock."""
UNLOCK_ALL = "SELECT pg_catalog.pg_advisory_unlock_all()"
BEFORE, UNDO = "SAVEPOINT theirs;", "ROLLBACK TO SAVEPOINT theirs"
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
        if held.is_direct and held.another:
            holder = await held.another()
            opened.push_async_callback(close, holder)
        else:
            holder = held.holder or held.connection
        kind, before, undo = ("", "", UNLOCK_ALL) if held.is_direct else ("xact_", BEFORE, UNDO)
        locks = " AND ".join(f"pg_catalog.pg_try_advisory_{kind}lock({key})" for key in found.keys)
        await take(run, holder, f"{before} SELECT 1 WHERE {locks}", undo, found)
        give_up = partial(holder.execute, undo) if holder is not held.connection else opened.aclose
        held.theirs.append(give_up)
        try:
            yield
        finally:
            held.theirs.clear()


async def take(run: Run, holder: Connection, sql: str, undo: str, found: Adoption) -> None:
    """Try until their lock is ours. Raises Locked."""
    limit = run.config.lock_timeout or inf
    loop = asyncio.get_running_loop()
    deadline = loop.time() + limit
    is_said = False
    while await holder.execute(sql) != "SELECT 1":
        await holder.execute(undo)
        by = next(filter(None, [await find_holder(holder, key) for key in found.keys]), None)
        name = by["name"] if by else "somebody"
        if not is_said:
            logger.info("waiting for the lock of %s, held by %s", found.source, name)
            is_said = True
        if loop.time() > deadline:
            raise Locked(f"the lock of {found.source} is still held by {name} after MIGRATE_LOCK_TIMEOUT={limit:g}s")
        await asyncio.sleep(uniform(0.1, LONGEST_PAUSE))  # noqa: S311
