"""One runner at a time: the advisory lock, polled and never blocked on.

A session that blocks in pg_advisory_lock holds a snapshot, and CREATE INDEX CONCURRENTLY in the lock's holder
then waits for it for ever. So a waiter asks, sleeps and asks again, and stops when everything is applied.
"""

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, repeat
from math import inf
from typing import TypeAlias

import asyncpg
from tenacity import AsyncRetrying, RetryError, retry_if_result, stop_after_delay

from ..config import Config
from ..connect import ATTEMPT_TIMEOUT, Connection, close, connect, open_another, reconnect
from ..driver_errors import BROKEN
from ..errors import BadConfiguration, Locked
from ..history import UNREADABLE, History
from ..retry import pause

logger = logging.getLogger(__name__)

Query: TypeAlias = Callable[[Connection], Awaitable[str]]
Connect: TypeAlias = Callable[[Query], AbstractAsyncContextManager[tuple[Connection, str]]]
Another: TypeAlias = Callable[..., Awaitable[Connection]]

LONGEST_PAUSE = 5.0
"""Seconds; the pause between polls is random below it: many waiters stay below a query, and a connection, a second."""
HOLDER_INTERVAL = 10.0
"""Seconds between two looks who holds the lock."""
IS_DIRECT = "SELECT 1 WHERE pg_catalog.pg_backend_pid() = {pid}"
LOCKED, DONE, WAIT = "SELECT 2", "SELECT 1", "SELECT 0"
# Two rows where the lock is ours now, none where it is not and something is pending, one where nothing is.
TRY = "SELECT FROM pg_catalog.generate_series(1, CASE WHEN {lock} THEN 2 WHEN EXISTS ({undone}) THEN 0 ELSE 1 END)"
"""Its tag is the answer: a simple query leaves no portal open, whose snapshot would stop concurrent index builds."""
ANYTHING = "SELECT"
"""The query that says that something is pending."""
NOT_TOLD = (*UNREADABLE, asyncpg.LockNotAvailableError)
"""The failures of a question to a history that is not there yet, or that somebody works on."""
LIFT_TIMEOUTS = """
SELECT pg_catalog.set_config(name, '0', {is_local})
  FROM (VALUES ('idle_in_transaction_session_timeout'), ('transaction_timeout'), ('statement_timeout')) AS t (name)
 WHERE pg_catalog.current_setting(name, true) IS NOT NULL;
"""
NO_TIMEOUTS = {
    "LOCAL": LIFT_TIMEOUTS.format(is_local="true"),
    "SESSION": LIFT_TIMEOUTS.format(is_local="false"),
}
"""Until the transaction ends, or the session; by a query, since older servers do not know all of them. The view of all
settings would do as well, but takes ten times as long, and this is sent for each file."""
BEGIN = f"BEGIN ISOLATION LEVEL READ COMMITTED; {NO_TIMEOUTS['LOCAL']}"
KEEP = "SET idle_session_timeout = 0;"
"""The server would end an idle session that holds the lock."""
TRY_LOCK = "pg_catalog.pg_try_advisory_lock({key}) AND pg_catalog.pg_try_advisory_lock_shared({key})"
"""A session holds it in both modes, which never disturb each other in one session."""
IS_LOCKED = """
CASE WHEN pg_catalog.pg_advisory_unlock_shared({key}) THEN pg_catalog.pg_try_advisory_lock_shared({key}) ELSE false END
"""
"""That the session still has the lock, told by giving the shared one back and taking it again while the other one keeps
everybody out: a look into pg_locks takes some tenths of a millisecond, and this is asked for each file."""
UNLOCK = "SELECT pg_catalog.pg_advisory_unlock_shared({key}), pg_catalog.pg_advisory_unlock({key})"
# The rows of pg_locks that are this lock in this database; it shows the key as two unsigned halves.
IS_OURS = """
l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
AND l.classid = '{high}'::pg_catalog.oid AND l.objid = '{low}'::pg_catalog.oid
AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
"""
HELD_BY = "EXISTS (SELECT FROM pg_catalog.pg_locks l WHERE l.pid = {pid} AND {is_ours})"
# Who holds the lock: a pid to recognise the session by, and a description for people.
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
    is_direct: bool
    """No pooler is in between, or one that keeps the session: the session itself holds the lock."""
    pid: int = 0
    """The pid of the server's process that works on the connection; 0 where a pooler may change it."""
    another: Another | None = None
    """Opens one more connection, once, with optional settings; None where there must not be any."""

    async def is_ours(self) -> bool:
        """Tell whether the lock is still ours: a file may drop it."""
        return await self.connection.execute(f"SELECT 1 WHERE {self.condition}") == "SELECT 1"


@dataclass(slots=True)
class Waiting:
    """A runner that wants the lock, and the holders that it has seen so far."""

    history: History
    undone_sql: str
    """The query that returns a row as long as something is pending."""
    is_direct: bool
    """The session itself can hold the lock."""
    holder: str = "another runner"
    seen: set[int] = field(default_factory=set)
    looked: float = -inf
    asks_from: float = -inf
    """When the history is asked again: the last question to it failed."""
    connection: Connection | None = None
    """Holds the lock, once it is held."""

    @property
    def key(self) -> int:
        """The lock's key."""
        return lock_key(self.history.schema, self.history.table)

    async def try_lock(self, connection: Connection) -> str:
        """Try once to take the lock: LOCKED, DONE where nothing is pending any more, or WAIT."""
        now = asyncio.get_running_loop().time()
        if self.is_direct:
            lock = TRY_LOCK.format(key=self.key)
            try:
                undone = self.undone_sql if now >= self.asks_from else ANYTHING
                return await connection.execute(f"{KEEP} {self.history.look_sql} {try_sql(lock, undone)}")
            except NOT_TOLD:
                self.asks_from = now + HOLDER_INTERVAL
                return await connection.execute(f"{KEEP} {try_sql(lock, ANYTHING)}")
        # The lock lives in the transaction, so the history is not asked in there: a failed question would end both.
        lock = f"pg_catalog.pg_try_advisory_xact_lock({self.key})"
        if await connection.execute(f"{BEGIN} {try_sql(lock, ANYTHING)}") == LOCKED:
            return LOCKED
        try:
            return await connection.execute(f"ROLLBACK; {self.history.look_sql} {try_sql('false', self.undone_sql)}")
        except NOT_TOLD:
            return WAIT

    async def poll(self, connections: Iterator[Connect], holding: AsyncExitStack) -> bool | None:
        """Try on the next connection: True when the lock is held, False when nothing is pending, None to wait.

        With the lock the connection goes to `holding`; otherwise it is closed until the next poll, since waiters
        without number would leave no slot for the application.
        """
        async with AsyncExitStack() as trying:
            connection, answer = await trying.enter_async_context(next(connections)(self.try_lock))
            if answer == LOCKED:
                self.connection = connection
                holding.push_async_exit(trying.pop_all())
            elif answer == WAIT:
                await self.look_for_holder(connection)
            return {LOCKED: True, DONE: False}.get(answer)

    async def look_for_holder(self, connection: Connection) -> None:
        """Log a holder that was not seen before."""
        now = asyncio.get_running_loop().time()
        if now - self.looked < HOLDER_INTERVAL:
            return
        self.looked = now
        if row := await find_holder(connection, self.key):
            self.holder = row["name"]
            if row["pid"] not in self.seen:
                self.seen.add(row["pid"])
                logger.info("waiting for the migration lock, held by %s", self.holder, extra={"holder": row["pid"]})


@asynccontextmanager
async def lock(connection: Connection, config: Config, history: History, undone_sql: str) -> AsyncIterator[Held | None]:
    """Hold the migration lock while the block runs; None instead when nothing is pending any more.

    `undone_sql` returns a row as long as something is pending. `connection` is used for the first try and closed when
    that was in vain; where the caller gave it, no other is opened, and it stays open. Behind a pooler the lock sits in
    a transaction on a connection of its own. Raises Locked after the lock timeout, BadConfiguration where a second
    connection would be needed.
    """
    may_connect = config.location is not None
    waiting = Waiting(history, undone_sql, await is_direct(connection, config))
    if not waiting.is_direct and not may_connect:
        raise BadConfiguration(
            "behind a connection pooler the migration lock needs a second connection, which run_migrations does not "
            "open; give it a pool that connects to Postgres directly"
        )
    first: Connect = partial(use, connection, closes=may_connect)
    again: Connect = partial(connect, config) if may_connect else first
    async with AsyncExitStack() as holding:
        polling = partial(waiting.poll, chain([first], repeat(again)), holding)
        if not await wait(polling, waiting, config) or not waiting.connection:
            yield None
            return
        another = partial(open_another, config) if may_connect else None
        if not waiting.is_direct:
            work = await holding.enter_async_context(reconnect(config))
            holder = await find_holder(work, waiting.key)
            condition = HELD_BY.format(pid=holder["pid"] if holder else 0, is_ours=is_ours_sql(waiting.key))
            yield Held(work, condition, is_direct=False, another=another)
            return
        try:
            worker = waiting.connection
            pid = await server_pid(worker) if config.lock == "session" else worker.get_server_pid()
            yield Held(worker, IS_LOCKED.format(key=waiting.key), is_direct=True, pid=pid, another=another)
        finally:  # a pool, or a pooler in session mode, keeps the session
            with suppress(*BROKEN):
                await waiting.connection.execute(UNLOCK.format(key=waiting.key))


@asynccontextmanager
async def use(connection: Connection, first_query: Query, *, closes: bool) -> AsyncIterator[tuple[Connection, str]]:
    """Ask `first_query` on a connection that is there, like `connect` on a new one."""
    try:
        yield connection, await first_query(connection)
    finally:
        if closes:
            await close(connection)


async def wait(poll: Callable[[], Awaitable[bool | None]], waiting: Waiting, config: Config) -> bool:
    """Poll until the lock is held (True) or nothing is pending any more (False). Raises Locked."""
    limit = config.lock_timeout or inf
    attempts = AsyncRetrying(
        retry=retry_if_result(lambda result: result is None),
        wait=pause(0.1, LONGEST_PAUSE, limit, share=0.2),
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


def try_sql(lock: str, undone: str) -> str:
    """Return the query that evaluates the condition `lock`, and, where that is false, the query `undone`."""
    return TRY.format(lock=lock, undone=undone)


async def is_direct(connection: Connection, config: Config) -> bool:
    """Tell whether a session can hold the lock: not behind a pooler, where the backend has another pid."""
    if config.lock != "auto":
        return config.lock == "session"
    return await connection.execute(IS_DIRECT.format(pid=connection.get_server_pid())) == "SELECT 1"


async def server_pid(connection: Connection) -> int:
    """Return the pid of the server's process, which a pooler does not tell."""
    async with connection.transaction():
        pid: int = await connection.fetchval("SELECT pg_catalog.pg_backend_pid()")
    return pid


async def find_holder(connection: Connection, key: int) -> asyncpg.Record | None:
    """Return pid and description of the session that holds the lock."""
    async with connection.transaction():  # the two messages of a fetch must reach the same backend
        return await connection.fetchrow(HOLDER.format(is_ours=is_ours_sql(key)))


def lock_key(schema: str, table: str) -> int:
    """Return the key of the advisory lock, a signed 64-bit number; it must stay as it is for ever."""
    digest = hashlib.sha256(f"pgslipway:{schema}.{table}".encode()).digest()
    return int.from_bytes(digest[:8], signed=True)


def is_ours_sql(key: int) -> str:
    """Return the condition that finds the lock in pg_locks."""
    unsigned = key % 2**64
    return IS_OURS.format(high=unsigned >> 32, low=unsigned % 2**32)
