"""One runner at a time: the advisory lock, polled and never blocked on.

A session that blocks in pg_advisory_lock holds a snapshot, and CREATE INDEX CONCURRENTLY in the lock's holder
then waits for it for ever. So a waiter asks, sleeps and asks again, and stops when everything is applied.
"""

import asyncio
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
from ..connect import ATTEMPT_TIMEOUT, connect, open_another, reconnect, use
from ..dial import Connection
from ..driver_errors import BROKEN
from ..errors import BadConfiguration, DatabaseUnavailable, Locked, NoPlace
from ..history import UNREADABLE, History
from ..retry import pause
from .lock_sql import (
    ANYTHING,
    BEGIN,
    DONE,
    HELD_BY,
    HOLDER,
    IS_ALONE,
    IS_DIRECT,
    IS_LOCKED,
    KEEP,
    LOCKED,
    PID,
    TRY_LOCK,
    UNLOCK,
    WAIT,
    is_ours_sql,
    lock_key,
    try_sql,
)

logger = logging.getLogger(__name__)

Query: TypeAlias = Callable[[Connection], Awaitable[str]]
Connect: TypeAlias = Callable[[Query], AbstractAsyncContextManager[tuple[Connection, str]]]
Another: TypeAlias = Callable[..., Awaitable[Connection]]

LONGEST_PAUSE = 5.0
"""Seconds; the pause between polls is random below it: many waiters stay below a query, and a connection, a second."""
HOLDER_INTERVAL = 10.0
"""Seconds between two looks who holds the lock."""
PATIENCE_BESIDE = 3.0
"""Seconds that a pooler may take to give a second server connection before the server is asked who has them."""
NEEDS_TWO = "behind a pooler a run needs two server connections, one to hold the migration lock and one to work on"
MORE_PLACES = (
    "raise default_pool_size or max_db_connections of PgBouncer, connect to Postgres directly, or set "
    "MIGRATE_LOCK=session where the pooler's mode is session"
)
NOT_TOLD = (*UNREADABLE, asyncpg.LockNotAvailableError)
"""The failures of a question to a history that is not there yet, or that somebody works on."""


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
    holder: Connection | None = None
    """The connection whose transaction holds the lock, where it is not the one to work on."""
    theirs: list[Callable[[], Awaitable[object]]] = field(default_factory=list)
    """Gives up the lock of the tool that is taken over from, as long as it is held."""

    async def give_up_theirs(self) -> None:
        """Give up the lock of the tool that is taken over from, if it is still held."""
        while self.theirs:
            await self.theirs.pop()()

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
    connection is needed and cannot be had.
    """
    may_connect = config.location is not None
    waiting = Waiting(history, undone_sql, await is_direct(connection, config))
    if not waiting.is_direct and not may_connect:
        raise BadConfiguration(
            "behind a connection pooler the migration lock needs a second connection, which run_migrations does not "
            "open; give it a pool that connects to Postgres directly"
        )
    keeps = config.shared and waiting.is_direct  # others use it afterwards

    def first(first_query: Query) -> AbstractAsyncContextManager[tuple[Connection, str]]:
        return use(connection, first_query, closes=lambda answer: may_connect and not (keeps and answer == LOCKED))

    again: Connect = partial(connect, config) if may_connect else first
    async with AsyncExitStack() as holding:
        polling = partial(waiting.poll, chain([first], repeat(again)), holding)
        if not await wait(polling, waiting, config) or not waiting.connection:
            yield None
            return
        another = partial(open_another, config) if may_connect else None
        if not waiting.is_direct:
            work = await holding.enter_async_context(reconnect_beside(waiting.connection, config))
            holder = await find_holder(work, waiting.key)
            condition = HELD_BY.format(pid=holder["pid"] if holder else 0, is_ours=is_ours_sql(waiting.key))
            yield Held(work, condition, is_direct=False, another=another, holder=waiting.connection)
            return
        try:
            worker = waiting.connection
            pid = await server_pid(worker) if config.lock == "session" else worker.get_server_pid()
            yield Held(worker, IS_LOCKED.format(key=waiting.key), is_direct=True, pid=pid, another=another)
        finally:  # a pool, or a pooler in session mode, keeps the session
            with suppress(*BROKEN):
                await waiting.connection.execute(UNLOCK.format(key=waiting.key))


@asynccontextmanager
async def reconnect_beside(holder: Connection, config: Config) -> AsyncIterator[Connection]:
    """Open the connection for the work, beside the one that holds the lock.

    A pool of one has no place for it, now or later: raises BadConfiguration for it soon, since the application waits
    for that place as well. Raises DatabaseUnavailable where others kept all places, until the wait timeout.
    """
    async with AsyncExitStack() as opened:
        opening = asyncio.ensure_future(opened.enter_async_context(reconnect(config)))
        try:
            await asyncio.wait({opening}, timeout=PATIENCE_BESIDE)
            if not opening.done() and await holder.execute(IS_ALONE, timeout=ATTEMPT_TIMEOUT) == "SELECT 1":
                raise BadConfiguration(f"{NEEDS_TWO}, and this pool has one; {MORE_PLACES}")
            work = await opening
        except DatabaseUnavailable as error:
            raise NoPlace(f"{error}; {NEEDS_TWO}") from error
        finally:
            opening.cancel()
            await asyncio.wait({opening})
        yield work


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


async def is_direct(connection: Connection, config: Config) -> bool:
    """Tell whether a session can hold the lock: not behind a pooler, where the backend has another pid."""
    if config.lock != "auto":
        return config.lock == "session"
    return await connection.execute(IS_DIRECT.format(pid=connection.get_server_pid())) == "SELECT 1"


async def server_pid(connection: Connection) -> int:
    """Return the pid of the server's process, which a pooler does not tell."""
    async with connection.transaction():
        pid: int = await connection.fetchval(PID)
    return pid


async def find_holder(connection: Connection, key: int) -> asyncpg.Record | None:
    """Return pid and description of the session that holds the lock."""
    async with connection.transaction():  # the two messages of a fetch must reach the same backend
        return await connection.fetchrow(HOLDER.format(is_ours=is_ours_sql(key)))
