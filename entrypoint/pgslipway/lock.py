"""One runner at a time: the advisory lock, polled and never blocked on.

A session that blocks in pg_advisory_lock holds a snapshot, and CREATE INDEX CONCURRENTLY in the lock's holder
then waits for it for ever. So a waiter asks, sleeps and asks again, and stops when nothing is left to do.
"""

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from math import inf
from typing import TypeAlias

import asyncpg
from tenacity import AsyncRetrying, RetryError, retry_if_result, stop_after_delay

from .config import Config
from .connect import ATTEMPT_TIMEOUT, BROKEN, Connection, close, open_another, pause
from .errors import BadConfiguration, Locked

logger = logging.getLogger(__name__)

Reconnect: TypeAlias = Callable[[], AbstractAsyncContextManager[Connection]]
IsDone: TypeAlias = Callable[[Connection], Awaitable[bool]]
Another: TypeAlias = Callable[..., Awaitable[Connection]]

LONGEST_PAUSE = 3.0
"""Seconds; the pause between polls is random below it, so that many waiters stay below a query a second each."""
IS_DIRECT = "SELECT 1 WHERE pg_catalog.pg_backend_pid() = {pid}"
TRY_SESSION = "SELECT 1 WHERE pg_catalog.pg_try_advisory_lock({key})"
NO_TIMEOUTS = """
SELECT pg_catalog.set_config(name, '0', {local}) FROM pg_catalog.pg_settings
 WHERE name IN ('idle_in_transaction_session_timeout', 'transaction_timeout', 'statement_timeout');
"""
"""Until the transaction ends, or the session; by a query, since older servers do not know all of them."""
IN_TRANSACTION = NO_TIMEOUTS.format(local="true")
IN_SESSION = NO_TIMEOUTS.format(local="false")
TRY_TRANSACTION = f"""
BEGIN ISOLATION LEVEL READ COMMITTED;
{IN_TRANSACTION}
SELECT 1 WHERE pg_catalog.pg_try_advisory_xact_lock({{key}})
"""
UNLOCK = "SELECT pg_catalog.pg_advisory_unlock({key})"
IS_OURS = """
l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
AND l.classid = '{high}'::pg_catalog.oid AND l.objid = '{low}'::pg_catalog.oid
AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
"""
HELD_BY = "EXISTS (SELECT FROM pg_catalog.pg_locks l WHERE l.pid = {pid} AND {is_ours})"
HOLDER = """
SELECT l.pid, pg_catalog.format('pid %s (%s from %s, connected since %s)', l.pid,
           coalesce(nullif(a.application_name, ''), 'unknown'), coalesce(a.client_addr::text, 'a local socket'),
           coalesce(pg_catalog.date_trunc('second', a.backend_start)::text, 'an unknown time')) AS name
  FROM pg_catalog.pg_locks l LEFT JOIN pg_catalog.pg_stat_activity a USING (pid)
 WHERE {is_ours}
"""


@dataclass(frozen=True, slots=True)
class Held:
    """The lock is ours."""

    connection: Connection
    """The connection to work on."""
    condition: str
    """SQL, true as long as the lock is still ours."""
    is_pooled: bool
    """The connection goes through a pooler."""
    another: Another | None = None
    """Opens one more connection, once, for an optional role; None where there must not be any."""

    async def is_ours(self) -> bool:
        """Tell whether the lock is still ours: a file may drop it."""
        return await self.connection.execute(f"SELECT 1 WHERE {self.condition}") == "SELECT 1"


@dataclass(slots=True)
class Waiting:
    """What a waiter has seen so far."""

    key: int
    is_done: IsDone
    holder: str = "another runner"
    seen: set[int] = field(default_factory=set)

    async def poll_session(self, connection: Connection) -> bool | None:
        """Try once: True when the lock is held, False when nothing is left to do, None to wait."""
        if await connection.execute(TRY_SESSION.format(key=self.key)) == "SELECT 1":
            return True
        return await self.look_around(connection)

    async def poll_transaction(self, reconnect: Reconnect, holding: AsyncExitStack) -> bool | None:
        """Try once, on a connection that goes to `holding` with the lock, or is closed again."""
        async with AsyncExitStack() as attempt:
            connection = await attempt.enter_async_context(reconnect())
            if await connection.execute(TRY_TRANSACTION.format(key=self.key)) == "SELECT 1":
                holding.push_async_exit(attempt.pop_all())
                return True
            await connection.execute("ROLLBACK")
            return await self.look_around(connection)

    async def look_around(self, connection: Connection) -> bool | None:
        """Tell False when the holder has done everything; else log a holder that was not seen before."""
        with suppress(asyncpg.LockNotAvailableError):  # somebody works on the history table: not done, then
            if await self.is_done(connection):
                return False
        if row := await find_holder(connection, self.key):
            self.holder = row["name"]
            if row["pid"] not in self.seen:
                self.seen.add(row["pid"])
                logger.info("waiting for the migration lock, held by %s", self.holder, extra={"holder": row["pid"]})
        return None


@asynccontextmanager
async def lock(
    connection: Connection, config: Config, is_done: IsDone, reconnect: Reconnect | None
) -> AsyncIterator[Held | None]:
    """Hold the migration lock while the block runs; None instead when nothing is left to do.

    Where `connection` goes through a pooler the lock sits in a transaction on a connection of its own, made by
    `reconnect`, and `connection` is closed first: a small pool could not serve both. Raises Locked after the
    lock timeout.
    """
    waiting = Waiting(lock_key(config.schema, config.table), is_done)
    another = partial(open_another, config) if reconnect else None
    if await is_session(connection, config):
        await connection.execute("SET idle_session_timeout = 0")
        if not await wait(partial(waiting.poll_session, connection), waiting, config):
            yield None
            return
        try:
            condition = held_by("pg_catalog.pg_backend_pid()", waiting.key)
            yield Held(connection, condition, is_pooled=False, another=another)
        finally:
            with suppress(*BROKEN):
                await connection.execute(UNLOCK.format(key=waiting.key))
        return
    if reconnect is None:
        raise BadConfiguration(
            "behind a connection pooler the migration lock needs a second connection, which run_migrations does not "
            "open; give it a pool that connects to Postgres directly"
        )
    await close(connection)
    async with AsyncExitStack() as holding:
        if not await wait(partial(waiting.poll_transaction, reconnect, holding), waiting, config):
            yield None
            return
        work = await holding.enter_async_context(reconnect())
        holder = await find_holder(work, waiting.key)
        yield Held(work, held_by(str(holder["pid"]) if holder else "0", waiting.key), is_pooled=True, another=another)


async def wait(poll: Callable[[], Awaitable[bool | None]], waiting: Waiting, config: Config) -> bool:
    """Poll until the lock is held (True) or nothing is left to do (False). Raises Locked."""
    limit = config.lock_timeout or inf
    attempts = AsyncRetrying(
        retry=retry_if_result(lambda result: result is None),
        wait=pause(0.1, LONGEST_PAUSE, limit),
        stop=stop_after_delay(limit),
    )

    async def poll_in_time() -> bool | None:
        async with asyncio.timeout((config.wait_timeout or inf) + ATTEMPT_TIMEOUT):  # a network may go silent
            return await poll()

    try:
        return bool(await attempts(poll_in_time))
    except RetryError as error:
        raise Locked(
            f"the migration lock is still held by {waiting.holder} after MIGRATE_LOCK_TIMEOUT={config.lock_timeout:g}s"
        ) from error


async def is_session(connection: Connection, config: Config) -> bool:
    """Tell whether a session can hold the lock: not behind a pooler, where the backend has another pid."""
    if config.lock != "auto":
        return config.lock == "session"
    return await connection.execute(IS_DIRECT.format(pid=connection.get_server_pid())) == "SELECT 1"


async def find_holder(connection: Connection, key: int) -> asyncpg.Record | None:
    """Return pid and description of the session that holds the lock."""
    async with connection.transaction():  # the two messages of a fetch must reach the same backend
        return await connection.fetchrow(HOLDER.format(is_ours=is_ours(key)))


def lock_key(schema: str, table: str) -> int:
    """Return the key of the advisory lock, a signed 64-bit number; it must stay as it is for ever."""
    digest = hashlib.sha256(f"pgslipway:{schema}.{table}".encode()).digest()
    return int.from_bytes(digest[:8], signed=True)


def is_ours(key: int) -> str:
    """Return the condition that finds the lock in pg_locks, which shows the key as two unsigned halves."""
    unsigned = key % 2**64
    return IS_OURS.format(high=unsigned >> 32, low=unsigned % 2**32)


def held_by(pid: str, key: int) -> str:
    """Return the condition that the backend `pid` holds the lock."""
    return HELD_BY.format(pid=pid, is_ours=is_ours(key))
