"""Busy tables: a file waits briefly, steps back and tries again; somebody says who is in the way, or how far it got."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from contextlib import asynccontextmanager, suppress
from functools import partial
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING

import asyncpg
import pytest

from pgslipway import run_migrations
from proxy import RoundTrips
from servers import PATIENCE, eventually, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from conftest import Finished, Folder, Slipway
    from servers import Database, Embedded, Server

WAITING = "SELECT pid FROM pg_locks WHERE NOT granted AND database = (SELECT oid FROM pg_database WHERE datname = $1)"
ALTER = {"001_a.sql": "ALTER TABLE a ADD COLUMN m int;"}
TIMED_OUT = "canceling statement due to lock timeout while waiting for AccessExclusiveLock on a"
PAUSE = re.compile(r"trying again in ([0-9.]+) s")
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


@asynccontextmanager
async def using(database: Database, query: str = "SELECT FROM a") -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    """An application that leaves its transaction open after a query."""
    async with database.connection() as connection:
        await connection.execute("SET application_name = 'billing'")
        await connection.execute(f"BEGIN; {query}")
        yield connection


async def is_waiting(database: Database, times: int = 1) -> bool:
    """Whether so many sessions wait for a lock in this database."""
    return len(await database.fetch(WAITING, database.name)) >= times


async def up(slipway: Slipway, database: Database, files: Path, **settings: str) -> Finished:
    return await asyncio.to_thread(partial(slipway, env=database.environ, migrations=files, limit=PATIENCE, **settings))


async def slow_table(database: Database, pages: int, pause: float) -> None:
    """A table of so many pages, and slow(n), which an index can be built on, taking so long a page."""
    await database.execute(
        "CREATE TABLE a (n int, filler text) WITH (autovacuum_enabled = off);"
        "ALTER TABLE a ALTER COLUMN filler SET STORAGE PLAIN;"
        f"INSERT INTO a SELECT n, repeat('x', 7000) FROM generate_series(1, {pages}) AS n;"
        "CREATE FUNCTION slow(n int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS "
        f"'BEGIN PERFORM pg_sleep({pause}); RETURN n; END'"
    )


# --- tried again ------------------------------------------------------------------------------------------------


async def test_busy_file_is_rolled_back_and_tried_again_and_takes_effect_once(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    """The sequence, which no rollback resets, counts the tries; the rows count what was kept."""
    await database.execute("CREATE TABLE a (); CREATE TABLE kept (n int); CREATE SEQUENCE tries")
    files = folder({"001_a.sql": "INSERT INTO kept SELECT nextval('tries'); ALTER TABLE a ADD COLUMN m int;"})
    async with using(database):
        process = slipway.start(env=database.environ, migrations=files, ddl_lock_timeout="50ms")
        await asyncio.to_thread(until, lambda: len(PAUSE.findall(process.log)) >= 3, "three tries")

    finished = await asyncio.to_thread(process.finish)

    tries = (await database.fetch("SELECT last_value FROM tries"))[0][0]
    assert finished.code == 0, finished
    assert tries == 1 + len(PAUSE.findall(finished.err))
    assert [row["n"] for row in await database.fetch("SELECT n FROM kept")] == [tries]


async def test_busy_statement_of_a_non_transactional_file_is_tried_again_and_takes_effect_once(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    await database.execute("CREATE TABLE a (); CREATE TABLE kept (n int)")
    files = folder(
        {
            "001_a.sql": "-- no-transaction\nINSERT INTO kept VALUES (1);\nALTER TABLE a ADD COLUMN m int;\n"
            "INSERT INTO kept VALUES (2);"
        }
    )
    async with using(database):
        process = slipway.start(env=database.environ, migrations=files, ddl_lock_timeout="50ms")
        await asyncio.to_thread(until, lambda: len(PAUSE.findall(process.log)) >= 3, "three tries")

    finished = await asyncio.to_thread(process.finish)

    assert finished.code == 0, finished
    assert "001_a.sql:3: canceling statement due to lock timeout" in finished.err
    assert [row["n"] for row in await database.fetch("SELECT n FROM kept ORDER BY n")] == [1, 2]


@pytest.mark.parametrize("before", [{}, {"001_a.sql": ""}], ids=["first", "later"])
async def test_file_whose_deferred_trigger_finds_a_table_busy_is_tried_again(
    before: dict[str, str], database: Database, folder: Folder, slipway: Slipway
) -> None:
    """The trigger runs when the file is over, just before the commit."""
    await database.execute(
        "CREATE TABLE a (); CREATE TABLE kept (n int);"
        "CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN LOCK TABLE a; RETURN NULL; END';"
        "CREATE CONSTRAINT TRIGGER touch AFTER INSERT ON kept DEFERRABLE INITIALLY DEFERRED FOR EACH ROW "
        "EXECUTE FUNCTION touch()"
    )
    files = folder(before | {"002_b.sql": "INSERT INTO kept VALUES (1);"})
    async with using(database):
        process = slipway.start(env=database.environ, migrations=files, ddl_lock_timeout="50ms")
        await asyncio.to_thread(process.wait_for_log, "rolled back, trying again in")

    finished = await asyncio.to_thread(process.finish)

    assert finished.code == 0, finished
    assert "002_b.sql: canceling statement due to lock timeout" in finished.err
    assert [row["n"] for row in await database.fetch("SELECT n FROM kept")] == [1]


async def test_file_that_was_chosen_to_break_a_deadlock_is_tried_again(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    """The other one never looks for a deadlock; the file does after two seconds, and then there is one."""
    await database.execute(
        "CREATE TABLE a (); CREATE TABLE b (); CREATE TABLE kept (n int);"
        f"ALTER DATABASE {database.name} SET deadlock_timeout = '2s'"
    )
    files = folder({"001_a.sql": "INSERT INTO kept VALUES (1); LOCK TABLE a; LOCK TABLE b;"})
    async with using(database, "SET LOCAL deadlock_timeout = '1h'; LOCK TABLE b") as other:
        process = slipway.start(env=database.environ, migrations=files, ddl_lock_timeout="30s")
        await eventually(lambda: is_waiting(database), "the file waits for the other one")
        await other.execute("LOCK TABLE a; COMMIT")

        finished = await asyncio.to_thread(process.finish)

    assert finished.code == 0, finished
    assert "001_a.sql: deadlock detected" in finished.err
    assert len(PAUSE.findall(finished.err)) == 1
    assert [row["n"] for row in await database.fetch("SELECT n FROM kept")] == [1]


async def test_pauses_between_the_tries_are_random_and_bounded(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    await database.execute("CREATE TABLE a ()")
    files, tries = folder(ALTER), 5
    async with using(database):
        runs = [
            slipway.start(env=database.environ, migrations=files, ddl_lock_timeout="50ms", table=f"history_{number}")
            for number in range(4)
        ]
        for run in runs:
            await asyncio.to_thread(until, lambda: len(PAUSE.findall(run.log)) >= tries, "the tries")  # noqa: B023
            run.kill()

    pauses = [[float(pause) for pause in PAUSE.findall(run.log)][:tries] for run in runs]

    assert len(set(map(tuple, pauses))) > 1, pauses
    assert all(0.0 < pause <= 5.0 for run in pauses for pause in run), pauses


# --- the others -------------------------------------------------------------------------------------------------

STALL = """
CREATE FUNCTION stall(name text) RETURNS float LANGUAGE plpgsql AS $$
DECLARE
    began timestamptz := clock_timestamp();
BEGIN
    EXECUTE format('SELECT FROM %I LIMIT 1', name);
    RETURN date_part('epoch', clock_timestamp() - began);
END $$
"""
"""Reads a table; how long that took by the server's clock."""
LOCK_TIMEOUT = 0.5


class Readers:
    """A stream of short queries over connections that are open."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.stalls: dict[str, list[float]] = {"a": [0.0], "quiet": [0.0]}

    async def read(self) -> None:
        """Read a busy table and one that nobody changes, in turns, until cancelled."""
        async with self._database.connection() as connection:
            while True:
                for table, stalls in self.stalls.items():
                    stalls.append(await connection.fetchval("SELECT stall($1)", table))
                await asyncio.sleep(0.01)

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(self.read()) for _ in range(3)]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def worst_stall(database: Database, slipway: Slipway, files: Path, lock_timeout: str) -> tuple[float, float]:
    """The longest that a reader of `a` had to wait while a run waited for a long one, and one of a quiet table."""
    readers = Readers(database)
    async with readers.reading():
        async with using(database):
            process = slipway.start(env=database.environ, migrations=files, ddl_lock_timeout=lock_timeout)
            await eventually(lambda: is_waiting(database, 2), "the run waits, and a reader behind it")
            await database.execute("SELECT pg_sleep(2)")
        finished = await asyncio.to_thread(process.finish)
    assert finished.code == 0, finished
    return max(readers.stalls["a"]), max(readers.stalls["quiet"])


async def test_readers_never_stall_longer_than_twice_the_lock_timeout(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    """While a file waits behind a reader that takes several seconds.

    The server's clock times each query. What a query of a table that nobody touches takes in the worst case is
    the machine's noise, and does not count; the median of three rounds does. Without a time-out the same readers
    stall until the long one is done.
    """
    await database.execute(f"CREATE TABLE a (); CREATE TABLE quiet (); {STALL}")
    rounds = []
    for number in range(1, 4):
        files = folder({f"{number:03}_a.sql": f"ALTER TABLE a ADD COLUMN c{number} int;"})
        rounds.append(await worst_stall(database, slipway, files, f"{LOCK_TIMEOUT * 1000:.0f}ms"))
    without_limit, _ = await worst_stall(
        database, slipway, folder({"004_a.sql": "ALTER TABLE a ADD COLUMN c4 int;"}), "0"
    )

    stall = median(stall - noise for stall, noise in rounds)
    print(f"stalls and noise: {rounds}; without a limit: {without_limit}")
    assert stall <= 2 * LOCK_TIMEOUT, (rounds, without_limit)
    assert without_limit > 2 * stall, (rounds, without_limit)


# --- exit 12 ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("retry", ["2s", "0"])
async def test_table_that_stays_busy_ends_the_run_with_the_name_of_who_uses_it(
    retry: str, database: Database, folder: Folder, slipway: Slipway
) -> None:
    await database.execute("CREATE TABLE a (n int)")
    async with using(database, "INSERT INTO a\n  VALUES (1)") as other:
        finished = await up(slipway, database, folder(ALTER), ddl_retry=retry)
        pid = other.get_server_pid()

    limits = f"(MIGRATE_DDL_LOCK_TIMEOUT=0.5s, tried again for MIGRATE_DDL_RETRY={retry.removesuffix('s')}s)"
    assert finished.code == 12, finished
    assert finished.outcome
    assert re.sub(r"from [0-9.]+|for \d+ s,", "…", finished.outcome["message"]) == (
        f"001_a.sql: {TIMED_OUT}, held by pid {pid} (user {database.user}, billing, …, idle in transaction … "
        f"its last query: BEGIN; INSERT INTO a VALUES (1)) {limits}; it was rolled back. "
        "A file that may wait longer, for row locks too, can say SET LOCAL lock_timeout"
    )
    assert await database.fetch("SELECT FROM schema_migrations") == []


async def test_short_lock_timeout_is_long_enough_to_name_who_uses_the_table(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    await database.execute("CREATE TABLE a ()")
    async with using(database) as other:
        finished = await up(slipway, database, folder(ALTER), ddl_lock_timeout="100ms", ddl_retry="4s")
        pid = other.get_server_pid()

    assert finished.code == 12, finished
    assert f"{TIMED_OUT}, held by pid {pid} " in finished.err
    assert " so far" not in finished.err, "a try that is over at once needs no line of its own"


async def test_who_was_in_the_way_of_an_earlier_try_is_not_blamed_for_a_later_one(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    """The first uses `a` and goes; the second uses `b`, which the file comes to only then."""
    await database.execute("CREATE TABLE a (); CREATE TABLE b ()")
    files = folder({"001_a.sql": "ALTER TABLE a ADD COLUMN m int; ALTER TABLE b ADD COLUMN m int;"})
    async with using(database, "SELECT FROM b") as second:
        async with using(database) as first:
            process = slipway.start(env=database.environ, migrations=files, ddl_retry="3s")
            await asyncio.to_thread(process.wait_for_log, f"on a, held by pid {first.get_server_pid()} ")
        finished = await asyncio.to_thread(process.finish)
        pid = second.get_server_pid()

    assert finished.code == 12, finished
    assert finished.outcome
    assert f"AccessExclusiveLock on b, held by pid {pid} " in finished.outcome["message"]


async def test_file_that_creates_an_extension_names_who_uses_its_table(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    """Each of its tries has a session of its own."""
    await database.execute("CREATE TABLE a ()")
    files = folder({"001_a.sql": "CREATE EXTENSION IF NOT EXISTS plpgsql; ALTER TABLE a ADD COLUMN m int;"})
    async with using(database) as other:
        finished = await up(slipway, database, files, ddl_retry="2s")
        pid = other.get_server_pid()

    assert finished.code == 12, finished
    assert f"{TIMED_OUT}, held by pid {pid} " in finished.err


async def test_mending_of_a_build_waits_without_a_limit(database: Database, folder: Folder, slipway: Slipway) -> None:
    """As the build itself does: it blocks nobody meanwhile."""
    await database.execute("CREATE TABLE a (n int)")
    files = folder({"001_a.sql": "-- no-transaction\nCREATE INDEX CONCURRENTLY a_n ON a (n);"})
    async with using(database, "INSERT INTO a VALUES (1)") as writer:
        process = slipway.start(env=database.environ, migrations=files)
        await eventually(lambda: database.fetch("SELECT FROM pg_index WHERE NOT indisvalid"), "the build has begun")
        process.kill()
        again = slipway.start(env=database.environ, migrations=files, ddl_lock_timeout="100ms", ddl_retry="0")
        await asyncio.to_thread(again.wait_for_log, "half done; running DROP INDEX CONCURRENTLY")
        await database.execute("SELECT pg_sleep(1)")
        await writer.execute("COMMIT")
        finished = await asyncio.to_thread(again.finish)

    assert finished.code == 0, finished


# --- who is in the way ------------------------------------------------------------------------------------------


async def test_active_blocker_is_shown_with_its_query(database: Database, folder: Folder, slipway: Slipway) -> None:
    await database.execute("CREATE TABLE a ()")
    async with using(database) as other:
        task = asyncio.create_task(other.execute("SELECT pg_sleep(3600)"))
        finished = await up(slipway, database, folder(ALTER), ddl_retry="1s")
    with suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
        await task

    assert finished.code == 12, finished
    assert re.search(r"active for \d+ s, its query: SELECT pg_sleep\(3600\)\)", finished.err), finished


async def test_long_query_of_a_blocker_is_cut(database: Database, folder: Folder, slipway: Slipway) -> None:
    await database.execute("CREATE TABLE a ()")
    query = f"SELECT '{'x' * 200}' FROM a"
    async with using(database, query):
        finished = await up(slipway, database, folder(ALTER), ddl_retry="0")

    assert finished.code == 12, finished
    assert finished.outcome
    assert f"its last query: {f'BEGIN; {query}'[:100]}) (MIGRATE_DDL" in finished.outcome["message"]


async def test_blocker_is_said_to_be_idle_since_its_last_query(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    """An application's pool has connections that are far older."""
    await database.execute("CREATE TABLE a ()")
    idle = "SELECT date_part('epoch', clock_timestamp() - state_change) FROM pg_stat_activity WHERE pid = $1"
    async with using(database, "SELECT pg_sleep(3); SELECT FROM a") as other:
        process = slipway.start(env=database.environ, migrations=folder(ALTER), ddl_lock_timeout="1h")
        log = await asyncio.to_thread(process.wait_for_log, " 2 s so far")
        seconds = (await database.fetch(idle, other.get_server_pid()))[0][0]
        process.kill()

    said = re.search(r"idle in transaction for (\d+) s", log)
    assert said, log
    assert 2 <= int(said[1]) <= round(seconds)


async def test_every_blocker_is_named(database: Database, folder: Folder, slipway: Slipway) -> None:
    await database.execute("CREATE TABLE a ()")
    async with using(database) as one, using(database) as two:
        finished = await up(slipway, database, folder(ALTER), ddl_retry="1s")
        pids = {str(one.get_server_pid()), str(two.get_server_pid())}

    assert finished.code == 12, finished
    assert finished.outcome
    assert set(re.findall(r"pid (\d+) \(", finished.outcome["message"])) == pids
    assert "); pid " in finished.outcome["message"]


async def test_role_without_privileges_sees_pid_user_and_application_only(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    login = await database.create_role(f"owner_{database.name}")
    await database.execute(f"CREATE TABLE a (); ALTER TABLE a OWNER TO {login.user}")
    async with using(database) as other:
        finished = await up(slipway, login, folder(ALTER), ddl_retry="1s")
        pid = other.get_server_pid()

    assert finished.code == 12, finished
    assert f"{TIMED_OUT}, held by pid {pid} (user {database.user}, billing) (MIGRATE_DDL" in finished.err


async def test_blocker_whose_activities_are_not_tracked_is_named_without_them(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    await database.execute("CREATE TABLE a ()")
    async with using(database) as other:
        await other.execute("SET track_activities = off")
        finished = await up(slipway, database, folder(ALTER), ddl_retry="0")
        pid = other.get_server_pid()

    assert finished.code == 12, finished
    assert re.search(rf"held by pid {pid} \(user {database.user}, billing, from [0-9.]+\) \(MIGRATE_DDL", finished.err)


async def test_prepared_transaction_is_named_as_what_it_is(
    embedded: Embedded, folder: Folder, slipway: Slipway
) -> None:
    database = embedded.cluster(max_prepared_transactions=2).start().database
    await database.execute("CREATE TABLE a ()")
    await database.execute("BEGIN; SELECT FROM a; PREPARE TRANSACTION 'forgotten'")

    finished = await up(slipway, database, folder(ALTER), ddl_retry="1s")

    assert finished.code == 12, finished
    assert f"{TIMED_OUT}, held by a prepared transaction (see pg_prepared_xacts) (MIGRATE_DDL" in finished.err


async def autovacuumed(embedded: Embedded, *, gives_way_after: str = "1s") -> Database:
    """A server whose autovacuum has just begun to clean a table of `owner`, `a`, which will take it minutes."""
    cluster = embedded.cluster(
        autovacuum_naptime="1s",
        autovacuum_vacuum_cost_delay="100ms",
        vacuum_cost_limit=1,
        deadlock_timeout=gives_way_after,
    )
    database = cluster.start().database
    owner = await database.create_role("owner")
    await owner.execute(
        "CREATE TABLE a (n int) WITH (fillfactor = 10, autovacuum_vacuum_threshold = 1,"
        " autovacuum_vacuum_scale_factor = 0);"
        "INSERT INTO a SELECT generate_series(1, 50000)"
    )
    await owner.execute("DELETE FROM a WHERE n % 2 = 0")
    at_work = (
        "SELECT pid FROM pg_stat_activity JOIN pg_stat_progress_vacuum USING (pid, datname) "
        "WHERE backend_type = 'autovacuum worker' AND relid = 'a'::regclass"
    )
    await eventually(lambda: database.fetch(at_work), "autovacuum is at work on the table")
    return database


@pytest.mark.parametrize("start", ["", "-- no-transaction\n"], ids=["transactional", "non-transactional"])
async def test_autovacuum_gives_way(start: str, embedded: Embedded, folder: Folder, slipway: Slipway) -> None:
    """Postgres cancels it for a session that waits for deadlock_timeout, which is longer than our usual time-out."""
    database = await autovacuumed(embedded)

    finished = await up(slipway, database, folder({"001_a.sql": start + ALTER["001_a.sql"]}), ddl_retry="10s")

    assert finished.code == 0, finished


TELL_LIMIT = "DO $$ BEGIN RAISE NOTICE 'a limit of %', current_setting('lock_timeout'); END $$;"
TELLING = {"001_a.sql": f"{TELL_LIMIT} ALTER TABLE a ADD COLUMN m int;"}
"""Each try tells its lock_timeout."""
LIMIT = re.compile(r"a limit of (\w+)")


async def test_lock_timeout_is_longer_than_usual_where_that_makes_autovacuum_give_way(
    embedded: Embedded, folder: Folder, slipway: Slipway
) -> None:
    """Longer than deadlock_timeout, but not by much; also where autovacuum is not the only one in the way."""
    database = await autovacuumed(embedded)
    async with using(database):
        process = slipway.start(env=database.environ, migrations=folder(TELLING))
        await asyncio.to_thread(until, lambda: len(set(LIMIT.findall(process.log))) > 1, "another limit")
        process.kill()

    assert list(dict.fromkeys(LIMIT.findall(process.log))) == ["500ms", "1500ms"]


async def test_lock_timeout_stays_as_it_is_for_those_who_do_not_give_way(
    embedded: Embedded, folder: Folder, slipway: Slipway
) -> None:
    database = embedded.cluster(max_prepared_transactions=2).start().database
    await database.execute("CREATE TABLE a ()")
    await database.execute("BEGIN; SELECT FROM a; PREPARE TRANSACTION 'forgotten'")
    async with using(database):
        process = slipway.start(env=database.environ, migrations=folder(TELLING))
        await asyncio.to_thread(until, lambda: len(LIMIT.findall(process.log)) >= 3, "three tries")
        process.kill()

    assert set(LIMIT.findall(process.log)) == {"500ms"}


@pytest.mark.parametrize("limit", ["0", "1h"], ids=["no limit", "a long one"])
async def test_lock_timeout_that_is_long_enough_stays_as_it_is_where_autovacuum_was_in_the_way(
    limit: str, embedded: Embedded, folder: Folder, slipway: Slipway
) -> None:
    """The watch sees it at the first statement; RESET has our settings set again."""
    database = await autovacuumed(embedded)
    files = folder({"001_a.sql": f"-- no-transaction\n{ALTER['001_a.sql']}\nRESET ALL;\n{TELL_LIMIT}"})

    finished = await up(slipway, database, files, ddl_lock_timeout=limit, ddl_retry="0")

    assert finished.code == 0, finished
    assert LIMIT.findall(finished.err) == [limit]


@pytest.mark.parametrize(
    ("privileged", "worker"),
    [(True, "autovacuum worker, active for [^)]*"), (False, "(autovacuum worker|a background process)")],
    ids=["superuser", "owner"],
)
async def test_autovacuum_is_named_as_what_it_is(
    privileged: bool, worker: str, embedded: Embedded, folder: Folder, slipway: Slipway
) -> None:
    database = await autovacuumed(embedded, gives_way_after="1min")
    login = database if privileged else database.login("owner")

    finished = await up(slipway, login, folder(ALTER), ddl_retry="0", ddl_lock_timeout="3s")

    assert finished.code == 12, finished
    assert re.search(rf"{TIMED_OUT}, held by pid \d+ \({worker}\)", finished.err), finished


async def test_control_characters_of_a_blockers_query_reach_nobodys_terminal(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    await database.execute("CREATE TABLE a ()")
    async with using(database, "SELECT '\x1b[31m\x07\x9b2J\r\n' FROM a"):
        text = await up(slipway, database, folder(ALTER), ddl_retry="0")
        lines = await up(slipway, database, folder(ALTER), ddl_retry="0", log_format="json")

    assert (text.code, lines.code) == (12, 12)
    assert "its last query: BEGIN; SELECT '\ufffd[31m\ufffd\ufffd2J ' FROM a) (MIGRATE_DDL" in text.err, repr(text.err)
    assert not CONTROL.search(text.err), repr(text.err)
    assert not CONTROL.search(lines.err), repr(lines.err)
    assert [json.loads(line) for line in lines.err.splitlines()]


# --- the second connection --------------------------------------------------------------------------------------


async def connections_of(slipway: Slipway, database: Database, files: Path, **settings: str) -> tuple[Finished, int]:
    """A run through a proxy, and how many connections it opened; the glance's is none, nor are requests to cancel."""
    async with RoundTrips(database) as proxy:
        environ = database.at(proxy.port).environ | {"PGSSLMODE": "disable"}
        finished = await asyncio.to_thread(partial(slipway, env=environ, migrations=files, limit=PATIENCE, **settings))
        return finished, sum(conversation.after_handshake > 0 for conversation in proxy.conversations)


async def test_short_statements_are_not_watched(database: Database, folder: Folder, slipway: Slipway) -> None:
    files = folder({f"{n:03}_a.sql": "SELECT pg_sleep(0.2);" for n in range(1, 6)})

    finished, connections = await connections_of(slipway, database, files)

    assert finished.code == 0, finished
    assert connections == 1


@pytest.mark.parametrize("start", ["", "-- no-transaction\n"], ids=["transactional", "non-transactional"])
async def test_long_statement_is_watched_over_a_second_connection(
    start: str, database: Database, folder: Folder, slipway: Slipway
) -> None:
    finished, connections = await connections_of(
        slipway, database, folder({"001_a.sql": f"{start}SELECT pg_sleep(2.8)"})
    )

    assert finished.code == 0, finished
    assert connections == 2
    assert re.search(r"001_a.sql(:2)?: at work, 2 s so far\n", finished.err), finished


async def test_busy_table_is_looked_at_over_one_more_connection_however_often_it_is_tried(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    await database.execute("CREATE TABLE a ()")
    async with using(database):
        finished, connections = await connections_of(slipway, database, folder(ALTER), ddl_retry="3s")

    assert finished.code == 12, finished
    assert len(PAUSE.findall(finished.err)) >= 2
    assert connections == 2


async def test_work_goes_on_where_there_is_no_second_connection(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    login = await database.create_role(f"single_{database.name}", "LOGIN CONNECTION LIMIT 1")
    await database.execute(f"CREATE TABLE a (); ALTER TABLE a OWNER TO {login.user}")
    async with using(database):
        process = slipway.start(
            env=login.environ, migrations=folder(ALTER | {"002_b.sql": "SELECT pg_sleep(2.5)"}), ddl_lock_timeout="1s"
        )
        await asyncio.to_thread(process.wait_for_log, "nobody can be asked")
    finished = await asyncio.to_thread(process.finish)

    reason = f'nobody can be asked what it is doing: too many connections for role "{login.user}"'
    assert finished.code == 0, finished
    assert f"001_a.sql: {reason}\n" in finished.err
    assert f"002_b.sql: {reason}\n" in finished.err
    assert "001_a.sql: canceling statement due to lock timeout; rolled back, trying again" in finished.err


async def test_run_migrations_opens_no_second_connection(
    database: Database, folder: Folder, caplog: pytest.LogCaptureFixture
) -> None:
    await database.execute("CREATE TABLE a ()")
    caplog.set_level("INFO", "pgslipway")
    async with RoundTrips(database) as proxy:
        through = database.at(proxy.port)
        async with (
            asyncpg.create_pool(f"{through.url}?sslmode=disable", min_size=1, max_size=5) as pool,
            using(database) as other,
        ):
            files = folder({"001_a.sql": "SELECT pg_sleep(2.5); ALTER TABLE a ADD COLUMN m int;"})
            running = asyncio.create_task(run_migrations(pool, files))
            await eventually(lambda: asyncio.sleep(0, "trying again" in caplog.text), "a second try")
            await other.execute("ROLLBACK")
            applied = await running
        connections = sum(conversation.after_handshake > 0 for conversation in proxy.conversations)

    assert applied == ["001_a.sql"]
    assert connections == 1
    assert "001_a.sql: nobody can be asked what it is doing: run_migrations opens no second connection\n" in caplog.text


# --- progress ---------------------------------------------------------------------------------------------------

PROGRESS = {
    "index": ("CREATE INDEX a_n ON a (slow(n));", "index build: building index: scanning table"),
    "concurrent index": (
        "-- no-transaction\nCREATE INDEX CONCURRENTLY a_n ON a (slow(n));",
        "index build: building index: scanning table",
    ),
    "vacuum": (
        "-- no-transaction\nSET vacuum_cost_delay = '100ms'; SET vacuum_cost_limit = 1; VACUUM (FREEZE) a;",
        "VACUUM: scanning heap",
    ),
}


@pytest.mark.parametrize(("sql", "doing"), PROGRESS.values(), ids=PROGRESS)
async def test_progress_is_shown_in_percent(
    sql: str, doing: str, database: Database, folder: Folder, slipway: Slipway
) -> None:
    await slow_table(database, pages=40, pause=0.1)
    process = slipway.start(env=database.environ, migrations=folder({"001_a.sql": sql}))

    log = await asyncio.to_thread(process.wait_for_log, " s so far")
    process.kill()

    percent = re.search(rf"001_a.sql(?::\d)?: {doing}, (\d+) %, 2 s so far", log)
    assert percent, log
    assert 0 < int(percent[1]) < 100, log


async def test_percentage_of_an_index_build_is_the_part_of_the_table_that_is_read(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    """The build stops at the first row of the 31st of 40 pages."""
    await slow_table(database, pages=40, pause=0)
    await database.execute(
        "CREATE OR REPLACE FUNCTION slow(n int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS "
        "'BEGIN IF n > 30 THEN PERFORM pg_sleep(3600); END IF; RETURN n; END'"
    )
    process = slipway.start(env=database.environ, migrations=folder({"001_a.sql": "CREATE INDEX a_n ON a (slow(n));"}))

    log = await asyncio.to_thread(process.wait_for_log, " s so far")
    process.kill()

    assert "001_a.sql: index build: building index: scanning table, 75 %, 2 s so far" in log


STOPS_LOADING = """
CREATE TABLE a AS SELECT n FROM generate_series(1, 40) AS n;
CREATE FUNCTION compare(one int, other int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    PERFORM pg_stat_clear_snapshot();
    IF EXISTS (SELECT FROM pg_stat_progress_create_index WHERE pid = pg_backend_pid() AND tuples_done = 10) THEN
        PERFORM pg_sleep(3600);
    END IF;
    RETURN btint4cmp(one, other);
END $$;
CREATE OPERATOR CLASS stopping FOR TYPE int USING btree AS
    OPERATOR 1 <, OPERATOR 2 <=, OPERATOR 3 =, OPERATOR 4 >=, OPERATOR 5 >, FUNCTION 1 compare(int, int);
"""
"""A unique index of this class is never built: Postgres merges its entries with those of deleted rows."""


async def test_percentage_of_an_index_build_is_the_part_of_the_entries_once_these_are_written(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    """The table has been read as a whole by then."""
    await database.execute(STOPS_LOADING)
    files = folder({"001_a.sql": "CREATE UNIQUE INDEX a_n ON a (n stopping);"})
    async with database.connection() as old:  # the deleted row is there for it
        await old.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT")
        await database.execute("DELETE FROM a WHERE n = 40")
        process = slipway.start(env=database.environ, migrations=files)
        log = await asyncio.to_thread(process.wait_for_log, " s so far")
        process.kill()

    assert "001_a.sql: index build: building index: loading tuples in tree, 25 %, 2 s so far" in log


async def test_progress_of_somebody_elses_build_is_not_shown(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    await slow_table(database, pages=2, pause=3600)
    async with database.connection() as other:
        build = asyncio.create_task(other.execute("CREATE INDEX a_n ON a (slow(n))"))
        begun = "SELECT FROM pg_stat_progress_create_index WHERE datname = current_database()"
        await eventually(lambda: database.fetch(begun), "the build has begun")
        process = slipway.start(env=database.environ, migrations=folder({"001_a.sql": "SELECT pg_sleep(3600);"}))
        log = await asyncio.to_thread(process.wait_for_log, " s so far")
        process.kill()
    with suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
        await build

    assert "001_a.sql: at work, 2 s so far" in log


async def table_with_a_slow_index(database: Database) -> None:
    """Make a table with an index whose expression takes long from then on."""
    await slow_table(database, pages=20, pause=0)
    await database.execute("CREATE INDEX a_n ON a (slow(n))")
    await database.execute(
        "CREATE OR REPLACE FUNCTION slow(n int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS "
        "'BEGIN PERFORM pg_sleep(0.2); RETURN n; END'"
    )


async def test_rebuild_of_a_table_is_shown(database: Database, folder: Folder, slipway: Slipway) -> None:
    await table_with_a_slow_index(database)
    process = slipway.start(env=database.environ, migrations=folder({"001_a.sql": "CLUSTER a USING a_n;"}))

    log = await asyncio.to_thread(process.wait_for_log, " s so far")
    process.kill()

    assert re.search(r"001_a.sql: CLUSTER: [a-z ]+(, \d+ %)?, 2 s so far", log), log


async def test_full_vacuum_is_shown_by_its_name_with_the_part_of_the_table_that_is_read(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    """All of it is, while the index is made anew: pages count, not rows."""
    await table_with_a_slow_index(database)
    await database.execute("DELETE FROM a WHERE n > 15")
    files = folder({"001_a.sql": "-- no-transaction\nVACUUM FULL a;"})
    process = slipway.start(env=database.environ, migrations=files)

    log = await asyncio.to_thread(process.wait_for_log, " s so far")
    process.kill()

    assert "001_a.sql:2: VACUUM FULL: rebuilding index, 100 %, 2 s so far" in log


@pytest.mark.faults
async def test_logs_have_a_line_every_ten_seconds(database: Database, folder: Folder, slipway: Slipway) -> None:
    await database.execute("CREATE TABLE a ()")
    process = slipway.start(
        env=database.environ, migrations=folder({"001_a.sql": "SELECT pg_sleep(13)"}), log_format="json"
    )

    finished = await asyncio.to_thread(process.finish)

    lines = [json.loads(line)["message"] for line in finished.err.splitlines()]
    seconds = [int(match[1]) for line in lines if (match := re.search(r"at work, (\d+) s so far", line))]
    assert finished.code == 0, finished
    assert len(seconds) == 2, finished
    assert seconds[0] in {2, 3}, seconds
    assert 9 <= seconds[1] - seconds[0] <= 12, seconds


def read_terminal(folder: Path, environ: dict[str, str], columns: int, enough: re.Pattern[str]) -> str:
    """Run with a terminal as stderr until it has shown enough; what was written to it."""
    ours, theirs = pty.openpty()
    os.set_blocking(ours, False)
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-m", "pgslipway"], env=environ, cwd=folder, stdin=subprocess.DEVNULL, stderr=theirs
    )
    os.close(theirs)
    shown = ""

    def more() -> bool:
        nonlocal shown
        with suppress(BlockingIOError, OSError):
            shown += os.read(ours, 1 << 16).decode()
        return process.poll() is not None or enough.search(shown) is not None

    try:
        until(more, "the terminal to show it")
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    return shown


async def test_terminal_has_one_progress_line_that_is_drawn_over(
    database: Database, folder: Folder, tmp_path: Path
) -> None:
    await slow_table(database, pages=48, pause=0.1)
    files = folder({"001_a.sql": "CREATE INDEX a_n ON a (slow(n))"})
    environ = {"PATH": os.environ["PATH"], "MIGRATE_DIR": str(files)} | database.environ
    line = r"\d\d:\d\d:\d\d 001_a.sql: index build: building index: scanning table, \d+ %, \d+ s so far"

    shown = await asyncio.to_thread(
        read_terminal, tmp_path, environ, 120, re.compile(r"applied 001_a.sql in \d+ ms\r\n")
    )

    drawn = re.search(rf"\n{line}((\r\x1b\[K{line})+)\r\x1b\[K\d\d:\d\d:\d\d applied 001_a.sql", shown)
    assert drawn, repr(shown)
    seconds = [int(second) for second in re.findall(r"(\d+) s so far", shown)]
    assert min(later - earlier for earlier, later in pairwise(seconds)) == 1, seconds


async def test_progress_line_fits_the_terminal(database: Database, folder: Folder, tmp_path: Path) -> None:
    """What wraps cannot be drawn over: each second would leave a row behind."""
    await database.execute("CREATE TABLE a ()")
    environ = {"PATH": os.environ["PATH"], "MIGRATE_DIR": str(folder(ALTER)), "MIGRATE_DDL_LOCK_TIMEOUT": "1m"}
    async with using(database, "SELECT 'a query that is longer than any terminal is wide' FROM a"):
        shown = await asyncio.to_thread(
            read_terminal, tmp_path, environ | database.environ, 80, re.compile(r"\r\x1b\[K.*\r\x1b\[K", re.DOTALL)
        )

    drawn = [part for part in shown.rpartition("\n")[2].split("\r\x1b[K") if part]
    assert len(drawn) > 1, repr(shown)
    assert max(map(len, drawn)) < 80, drawn


# --- the end of patience ----------------------------------------------------------------------------------------


async def test_statement_that_is_found_busy_on_a_later_try_only_is_tried_again_as_the_first_one_was(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    """The first one keeps its effect when it is done, so the next try begins at the second one."""
    await database.execute("CREATE TABLE a (); CREATE TABLE b ()")
    alters = "ALTER TABLE a ADD COLUMN m int;\nALTER TABLE b ADD COLUMN m int;"
    async with using(database, "SELECT FROM b"):
        async with using(database):
            process = slipway.start(
                env=database.environ, migrations=folder({"001_a.sql": f"-- no-transaction\n{alters}"}),
                ddl_lock_timeout="100ms",
            )  # fmt: skip
            await asyncio.to_thread(process.wait_for_log, "001_a.sql:2: canceling statement due to lock timeout")
        await asyncio.to_thread(process.wait_for_log, "001_a.sql:3: canceling statement due to lock timeout")
    finished = await asyncio.to_thread(process.finish)

    assert finished.code == 0, finished
    assert re.search(r"001_a\.sql:3: .*; rolled back, trying again in", finished.err), finished


@asynccontextmanager
async def recording(database: Database, version: int, filename: str) -> AsyncIterator[None]:
    """Another runner that has not committed the row of a file in the history yet, and never will."""
    async with database.connection() as other:
        await other.execute(
            f"BEGIN; INSERT INTO schema_migrations (version, filename) VALUES ({version}, '{filename}')"
        )
        yield


@pytest.mark.parametrize("lock_timeout", ["0", "1m"], ids=["no limit", "a limit"])
async def test_row_of_another_runner_is_waited_for_by_the_limit_of_the_lock_and_not_by_that_of_busy_tables(
    lock_timeout: str, database: Database, folder: Folder, slipway: Slipway
) -> None:
    assert slipway(env=database.environ, migrations=folder({"001_a.sql": ""})).code == 0
    files = folder({"002_b.sql": "CREATE TABLE b ();"})
    async with recording(database, 2, "002_b.sql"):
        process = slipway.start(
            env=database.environ, migrations=files, lock_timeout=lock_timeout, ddl_retry="0", ddl_lock_timeout="50ms"
        )
        await asyncio.to_thread(
            until, lambda: len(PAUSE.findall(process.log)) >= 2 or not process.is_running(), "tries"
        )

    finished = await asyncio.to_thread(process.finish)

    assert finished.code == 0, finished
    assert finished.outcome
    assert finished.outcome["applied"] == ["002_b.sql"]
    assert "002_b.sql: another runner is applying it; rolled back, trying again in " in finished.err


async def test_row_of_another_runner_that_never_commits_ends_as_locked_by_the_limit_of_the_lock(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    """However long the tables may be busy."""
    assert slipway(env=database.environ, migrations=folder({"001_a.sql": ""})).code == 0
    async with recording(database, 2, "002_b.sql"):
        finished = await up(
            slipway, database, folder({"002_b.sql": ""}), lock_timeout="300ms", ddl_retry="0", ddl_lock_timeout="50ms"
        )

    assert finished.code == 11, finished
    assert finished.outcome
    assert finished.outcome["message"] == "002_b.sql: another runner is applying it since MIGRATE_LOCK_TIMEOUT=0.3s"
    assert len(PAUSE.findall(finished.err)) >= 1


async def test_who_blocks_another_databases_run_is_not_blamed_where_a_pooler_hides_our_session(
    server: Server, database: Database, folder: Folder, slipway: Slipway
) -> None:
    """The lock in a transaction: then the server process that works is looked for by its name."""
    await database.execute("CREATE TABLE a ()")
    async with server.fresh_database() as elsewhere:
        await elsewhere.execute("CREATE TABLE b ()")
        async with using(elsewhere, "SELECT FROM b"), elsewhere.connection() as stuck, using(database) as other:
            await stuck.execute("SET application_name = 'pgslipway'")
            task = asyncio.create_task(stuck.execute("ALTER TABLE b ADD COLUMN m int"))
            await eventually(lambda: is_waiting(elsewhere), "the other run waits")
            finished = await up(slipway, database, folder(ALTER), ddl_retry="1s", lock="transaction")
            pid = other.get_server_pid()
        with suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
            await task

    assert finished.code == 12, finished
    assert f"{TIMED_OUT}, held by pid {pid} " in finished.err


async def test_who_blocks_another_run_in_the_same_database_is_not_blamed(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    """One with another history, as of two services that share a database."""
    await database.execute("CREATE TABLE a (); CREATE TABLE b ()")
    async with using(database, "SELECT FROM b"), database.connection() as stuck, using(database) as other:
        await stuck.execute("SET application_name = 'pgslipway'")
        task = asyncio.create_task(stuck.execute("ALTER TABLE b ADD COLUMN m int"))
        await eventually(lambda: is_waiting(database), "the other run waits")
        finished = await up(slipway, database, folder(ALTER), ddl_retry="1s")
        pid = other.get_server_pid()
    with suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
        await task

    assert finished.code == 12, finished
    assert f"{TIMED_OUT}, held by pid {pid} " in finished.err


async def wait_for(database: Database, table: str) -> None:
    """Be an application that waits for a table."""
    with suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
        await database.execute(f"ALTER TABLE {table} ADD COLUMN n int")


async def test_who_blocks_applications_is_not_blamed_where_a_pooler_hides_our_session(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    """There are many, so that ours is hardly the first to be listed by chance."""
    tables = [f"t{number}" for number in range(8)]
    await database.execute("CREATE TABLE a ();" + "".join(f"CREATE TABLE {table} ();" for table in tables))
    async with using(database, f"SELECT FROM {', '.join(tables)}") as another, using(database) as other:
        applications = [asyncio.create_task(wait_for(database, table)) for table in tables]
        await eventually(lambda: is_waiting(database, len(tables)), "the applications wait")
        finished = await up(slipway, database, folder(ALTER), ddl_retry="1s", lock="transaction")
        pid = other.get_server_pid()
        await another.execute("ROLLBACK")
        await asyncio.gather(*applications)

    assert finished.code == 12, finished
    assert f"{TIMED_OUT}, held by pid {pid} " in finished.err


async def test_who_blocks_a_waiting_runner_is_not_blamed_where_a_pooler_hides_our_session(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    """It has begun later than the one at work, since its questions are short."""
    await database.execute("CREATE TABLE a (); CREATE TABLE b ()")
    async with using(database, "SELECT FROM b"), database.connection() as waiter, using(database) as other:
        process = slipway.start(
            env=database.environ, migrations=folder(ALTER), ddl_lock_timeout="1h", lock="transaction"
        )
        await eventually(lambda: is_waiting(database), "the run waits")
        await waiter.execute("SET application_name = 'pgslipway'")
        task = asyncio.create_task(waiter.execute("ALTER TABLE b ADD COLUMN m int"))
        await eventually(lambda: is_waiting(database, 2), "the other one waits as well")
        log = await asyncio.to_thread(process.wait_for_log, " s so far")
        pid = other.get_server_pid()
        process.kill()
    with suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
        await task

    assert f"AccessExclusiveLock on a, held by pid {pid} " in log


async def test_analysis_of_a_table_is_shown(database: Database, folder: Folder, slipway: Slipway) -> None:
    """It computes the expression of an index for each row."""
    await table_with_a_slow_index(database)
    process = slipway.start(env=database.environ, migrations=folder({"001_a.sql": "ANALYZE a;"}))

    log = await asyncio.to_thread(process.wait_for_log, " s so far")
    process.kill()

    assert "001_a.sql: ANALYZE: computing statistics, 100 %, 2 s so far" in log


async def test_row_of_another_runner_is_told_from_busy_tables_also_in_a_later_file(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    """Its first try is one message, in which nobody can tell; the next one is not."""
    assert slipway(env=database.environ, migrations=folder({"001_a.sql": ""})).code == 0
    files = folder({"002_b.sql": "CREATE TABLE b ();", "003_c.sql": "CREATE TABLE c ();"})
    async with recording(database, 3, "003_c.sql"):
        finished = await up(
            slipway, database, files, lock_timeout="300ms", ddl_retry="5s", ddl_lock_timeout="50ms"
        )  # fmt: skip

    assert finished.code == 11, finished
    assert finished.outcome
    assert finished.outcome["applied"] == ["002_b.sql"]
    assert finished.outcome["message"].startswith(
        "003_c.sql: another runner is applying it since MIGRATE_LOCK_TIMEOUT=0.3s"
    )


async def test_history_that_cannot_be_upgraded_since_it_stays_busy_is_named(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    await database.execute(
        "CREATE TABLE schema_migrations (version INT PRIMARY KEY, filename TEXT, applied_at TIMESTAMPTZ)"
    )
    async with using(database, "SELECT FROM schema_migrations"):
        finished = await up(
            slipway, database, folder({"001_a.sql": ""}), ddl_retry="500ms", ddl_lock_timeout="50ms"
        )  # fmt: skip

    history = '"public"."schema_migrations": '
    assert finished.code == 12, finished
    assert re.search(rf"{history}[^;]+; rolled back, trying again in", finished.err), finished
    assert finished.outcome
    assert finished.outcome["message"].startswith(
        f"{history}canceling statement due to lock timeout "
        "(MIGRATE_DDL_LOCK_TIMEOUT=0.05s, tried again for MIGRATE_DDL_RETRY=0.5s); it was rolled back. "
    )


async def test_who_holds_up_the_mending_of_a_build_is_said(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    await database.execute("CREATE TABLE a (n int)")
    files = folder({"001_a.sql": "-- no-transaction\nCREATE INDEX CONCURRENTLY a_n ON a (n);"})
    async with using(database, "INSERT INTO a VALUES (1)") as writer:
        first = slipway.start(env=database.environ, migrations=files)
        await eventually(lambda: database.fetch("SELECT FROM pg_index WHERE NOT indisvalid"), "the build has begun")
        first.kill()
        again = slipway.start(env=database.environ, migrations=files)
        log = await asyncio.to_thread(again.wait_for_log, " s so far")
        pid = writer.get_server_pid()
        again.kill()

    assert "001_a.sql:2: half done; running DROP INDEX CONCURRENTLY" in log
    assert re.search(rf"001_a.sql:2: waiting for ShareLock on a virtualxid, held by pid {pid} .*, 2 s so far", log), log


async def test_file_that_was_busy_and_is_then_refused_has_failed(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    await database.execute("CREATE TABLE a ()")
    async with using(database) as other:
        process = slipway.start(env=database.environ, migrations=folder(ALTER), ddl_lock_timeout="50ms")
        await asyncio.to_thread(process.wait_for_log, "trying again in")
        await other.execute("DROP TABLE a; COMMIT")

    finished = await asyncio.to_thread(process.finish)

    assert finished.code == 24, finished
    assert '001_a.sql:1: relation "a" does not exist' in finished.err


@pytest.mark.parametrize("first", ["", "-- no-transaction\n"], ids=["first", "first without"])
@pytest.mark.parametrize("start", ["", "-- no-transaction\n"], ids=["transaction", "without"])
async def test_session_with_the_lock_has_no_idle_timeout_in_any_file(
    start: str, first: str, database: Database, folder: Folder, slipway: Slipway
) -> None:
    """It would end in the pause before a busy file is tried again. Each file puts the session's settings back."""
    login = await database.create_role(f"idle_{database.name}")
    await database.execute(f"ALTER ROLE {login.user} SET idle_session_timeout = '1h'")
    await login.execute("CREATE TABLE seen (value text)")
    see = "INSERT INTO seen SELECT current_setting('idle_session_timeout');"
    files = folder({"001_a.sql": first + see, "002_b.sql": start + see, "003_c.sql": see})

    finished = slipway(env=login.environ, migrations=files)

    assert finished.code == 0, finished
    assert [row["value"] for row in await database.fetch("SELECT value FROM seen")] == ["0", "0", "0"]


async def test_idle_timeout_of_a_pools_session_is_its_own_again(database: Database, folder: Folder) -> None:
    """Also where the pool leaves its connections as they come back."""

    async def reset(connection: asyncpg.Connection[asyncpg.Record]) -> None:
        await connection.execute("RESET search_path")

    url = f"{database.url}?idle_session_timeout=1h"
    async with asyncpg.create_pool(url, min_size=1, max_size=1, reset=reset) as pool:
        await run_migrations(pool, folder({"001_a.sql": "CREATE TABLE a ();"}))
        shown = await pool.fetchval("SHOW idle_session_timeout")

    assert shown == "1h"


async def test_deferred_trigger_that_takes_long_is_watched(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    """It fires once the file is sent, before COMMIT."""
    sql = """
        CREATE TABLE a ();
        CREATE FUNCTION linger() RETURNS trigger LANGUAGE plpgsql
        AS $$ BEGIN PERFORM pg_sleep(600); RETURN NULL; END $$;
        CREATE CONSTRAINT TRIGGER linger AFTER INSERT ON a INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION linger();
        INSERT INTO a DEFAULT VALUES;
    """
    process = slipway.start(env=database.environ, migrations=folder({"001_a.sql": sql}))

    log = await asyncio.to_thread(process.wait_for_log, " s so far")
    process.terminate()

    assert "001_a.sql: at work, 2 s so far" in log
    assert (await asyncio.to_thread(process.finish)).code == 143
