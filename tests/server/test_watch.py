"""The watch over long statements: when it ends, what becomes of its connection, and what it says about others."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import asyncpg

from proxy import CHUNK, READY_FOR_QUERY, FaultProxy, Proxy, RoundTrips, reset
from servers import eventually, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from conftest import Folder, Process, Slipway
    from proxy import Passage
    from servers import Database

ALTER = {"001_a.sql": "ALTER TABLE a ADD COLUMN m int;"}
SESSIONS = "SELECT pid FROM pg_stat_activity WHERE application_name = 'pgslipway' AND datname = $1"
FOREVER = "SELECT pg_sleep(3600);"


@asynccontextmanager
async def using(database: Database, table: str = "a") -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    """An application that leaves its transaction open after it has read a table."""
    async with database.connection() as connection:
        await connection.execute(f"BEGIN; SELECT FROM {table}")
        yield connection


async def worker_of(database: Database, sql: str) -> int:
    """The pid of the session that runs such SQL right now."""
    found = await eventually(lambda: database.fetch(f"{SESSIONS} AND query LIKE $2", database.name, f"%{sql}%"), sql)
    pid: int = found[0]["pid"]
    return pid


async def watch_beside(database: Database, *others: int) -> int:
    """The pid of the session that is none of these, once there is one."""
    found = await eventually(
        lambda: database.fetch(f"{SESSIONS} AND pid <> ALL ($2)", database.name, others), "the session of the watch"
    )
    pid: int = found[0]["pid"]
    return pid


def direct(database: Database, port: int) -> dict[str, str]:
    """The environment of a run through a proxy, in the clear."""
    return database.at(port).environ | {"PGSSLMODE": "disable"}


def is_at_work(process: Process | None) -> bool:
    """Whether it has its connection, so that any other one is of the watch."""
    return process is not None and "connected to" in process.log


class ForTheWork(Proxy):
    """Lets through what comes before the work; to later connections it says nothing, until it turns them away."""

    def __init__(self, server: Database) -> None:
        super().__init__(server)
        self.process: Process | None = None
        self.came = 0
        self.most_waiting = 0
        self._waiting: set[asyncio.StreamWriter] = set()
        self._is_open = False

    def turn_away(self) -> None:
        """End the connections that wait for a word; later ones are let through."""
        self._is_open = True
        reset(*self._waiting)

    async def _relay(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        if is_at_work(self.process):
            self.came += 1
            if not self._is_open:
                await self._say_nothing(client, to_client)
                return
        server, to_server = await asyncio.open_connection(self._server.host, self._server.port)
        try:
            await asyncio.gather(pipe(client, to_server), pipe(server, to_client))
        finally:
            to_server.close()

    async def _say_nothing(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        self._waiting.add(to_client)
        self.most_waiting = max(self.most_waiting, len(self._waiting))
        try:
            while await client.read(CHUNK):
                pass
        finally:
            self._waiting.remove(to_client)


async def pipe(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    while data := await source.read(CHUNK):
        target.write(data)
    target.write_eof()


class FarAway(RoundTrips):
    """Counts connections, and lets those that come after the work has begun through only once they `may`."""

    def __init__(self, server: Database) -> None:
        super().__init__(server)
        self.process: Process | None = None
        self.may = asyncio.Event()
        self.came = 0

    async def _relay(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        if is_at_work(self.process):
            self.came += 1
            await self.may.wait()
        await super()._relay(client, to_client)


# --- the end of a watch -----------------------------------------------------------------------------------------


async def test_watch_over_a_file_ends_with_it(database: Database, folder: Folder, slipway: Slipway) -> None:
    """Else the log told how long a file takes that is done."""
    process = slipway.start(
        env=database.environ, migrations=folder({"001_a.sql": "SELECT pg_sleep(0.2);", "002_b.sql": FOREVER})
    )
    log = await asyncio.to_thread(process.wait_for_log, "002_b.sql: at work")
    process.kill()

    assert "001_a.sql: at work" not in log


async def test_watch_over_a_statement_ends_with_it(database: Database, folder: Folder, slipway: Slipway) -> None:
    sql = f"-- no-transaction\nSELECT pg_sleep(0.2);\n{FOREVER}"
    process = slipway.start(env=database.environ, migrations=folder({"001_a.sql": sql}))
    log = await asyncio.to_thread(process.wait_for_log, "001_a.sql:3: at work")
    process.kill()

    assert "001_a.sql:2: at work" not in log


async def test_connection_of_the_watch_is_closed_when_its_file_ends(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    """In a small pool, the next file's watch needs the place."""
    files = folder({"001_a.sql": "SELECT pg_sleep(2.5);", "002_b.sql": "LOCK TABLE a;"})
    await database.execute("CREATE TABLE a ()")
    async with using(database):
        process = slipway.start(env=database.environ, migrations=files, ddl_lock_timeout="1h")
        worker = await worker_of(database, "pg_sleep")
        first = await watch_beside(database, worker)
        await watch_beside(database, worker, first)
        left = await database.fetch(f"{SESSIONS} AND pid = $2", database.name, first)
        process.kill()

    assert left == []


async def test_watch_that_is_still_connecting_gives_up_when_its_file_ends(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    """Its connection would come later, and nobody would close it."""
    async with ForTheWork(database) as proxy:
        process = proxy.process = slipway.start(
            env=direct(database, proxy.port),
            migrations=folder({"001_a.sql": "SELECT pg_sleep(2.5);", "002_b.sql": FOREVER}),
        )
        await asyncio.to_thread(until, lambda: proxy.came == 2, "the watch over the second file")
        most_waiting = proxy.most_waiting
        process.terminate()  # a request to cancel is a connection as well
        finished = await asyncio.to_thread(process.finish)

    assert finished.code == 143, finished
    assert "applied 001_a.sql" in finished.err
    assert most_waiting == 1


# --- its connection ---------------------------------------------------------------------------------------------


async def test_watch_that_lost_its_connection_opens_another_for_the_next_try(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    await database.execute("CREATE TABLE a ()")
    async with using(database):
        process = slipway.start(env=database.environ, migrations=folder(ALTER), ddl_lock_timeout="1s")
        worker = await worker_of(database, "ALTER TABLE")
        lost = await watch_beside(database, worker)
        await database.execute(f"SELECT pg_terminate_backend({lost})")
        await asyncio.to_thread(process.wait_for_log, "001_a.sql: nobody can be asked what it is doing: ")
        await watch_beside(database, worker, lost)
    finished = await asyncio.to_thread(process.finish)

    assert finished.code == 0, finished


async def test_watch_that_fails_to_connect_between_two_statements_tries_again_and_leaves_no_traceback(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    async with ForTheWork(database) as proxy:
        files = folder({"001_a.sql": f"-- no-transaction\nSELECT pg_sleep(2.5);\n{FOREVER}"})
        process = proxy.process = slipway.start(env=direct(database, proxy.port), migrations=files)
        await worker_of(database, "pg_sleep(3600)")
        proxy.turn_away()
        await asyncio.to_thread(process.wait_for_log, "001_a.sql:3: at work, 2 s so far")
        process.terminate()
        finished = await asyncio.to_thread(process.finish)

    assert finished.code == 143, finished


async def test_watch_whose_connection_takes_longer_than_a_try_is_waited_for_by_the_next_ones(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    """Far away, or where a small pool has no place, none that begins anew with each try would ever have an answer."""
    await database.execute("CREATE TABLE a ()")
    async with FarAway(database) as proxy, using(database) as other:
        process = proxy.process = slipway.start(
            env=direct(database, proxy.port), migrations=folder(ALTER), ddl_lock_timeout="100ms", ddl_retry="5s"
        )
        await asyncio.to_thread(until, lambda: process.log.count("trying again") >= 4, "some tries")
        proxy.may.set()
        finished = await asyncio.to_thread(process.finish)
        pid, came = other.get_server_pid(), proxy.came

    assert finished.code == 12, finished
    assert finished.outcome
    assert f"on a, held by pid {pid} " in finished.outcome["message"]
    assert came == 1


# --- its looks --------------------------------------------------------------------------------------------------


def states_at_looks(passages: Iterable[Passage]) -> list[bytes]:
    """What the server has last said of each session that looks for blockers: `I` is idle, `T` in a transaction."""
    states, found = dict[int, bytes](), []
    for passage in passages:
        if passage.message.kind == READY_FOR_QUERY:
            states[passage.connection] = passage.message.body
        elif passage.from_client and b"pg_blocking_pids" in passage.message.body:
            found.append(states[passage.connection])
    return found


async def test_looks_are_in_transactions_and_a_tenth_of_a_second_apart(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    """Without one, a pooler in transaction mode may prepare a query in one session and run it in the next."""
    await database.execute("CREATE TABLE a ()")
    async with FaultProxy(database) as proxy, using(database):
        finished = await asyncio.to_thread(
            slipway, env=direct(database, proxy.port), migrations=folder(ALTER), ddl_lock_timeout="1s", ddl_retry="1s"
        )
        looks = states_at_looks(proxy.passages)

    assert finished.code == 12, finished
    assert set(looks) == {b"T"}
    assert len(looks) <= 11 * (1 + finished.err.count("trying again in")), looks


async def test_who_is_in_the_way_later_in_a_try_is_named_as_well(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    """The first look comes before the table is waited for."""
    await database.execute("CREATE TABLE a ()")
    files = folder({"001_a.sql": f"SELECT pg_sleep(0.3);\n{ALTER['001_a.sql']}"})
    async with using(database) as other:
        finished = await asyncio.to_thread(slipway, env=database.environ, migrations=files, ddl_retry="2s")
        pid = other.get_server_pid()

    assert finished.code == 12, finished
    assert finished.outcome
    assert f"AccessExclusiveLock on a, held by pid {pid} " in finished.outcome["message"]
