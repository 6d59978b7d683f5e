"""One runner at a time, however many start, directly and through poolers, and the history right even without."""

from __future__ import annotations

import asyncio
import re
import struct
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import asyncpg
import pytest

from pgslipway import run_migrations
from pgslipway.engine.lock_sql import lock_key
from proxy import RoundTrips
from servers import eventually, pgbouncer
from unfinished import in_flight, is_valid, steps_of, without_transaction

if TYPE_CHECKING:
    from conftest import Folder, Slipway
    from servers import Database, Server

ROWS = 50_000
SHORT_QUESTION = 1_000
RACE = {
    "001_a.sql": f"CREATE TABLE a AS SELECT n FROM generate_series(1, {ROWS}) AS n; CREATE TABLE runs (n int);",
    "002_b.sql": "-- no-transaction\nCREATE INDEX CONCURRENTLY a_n ON a (n);",
    "003_c.sql": "INSERT INTO runs VALUES (3);",
    "004_d.sql": "-- no-transaction\nCREATE UNIQUE INDEX CONCURRENTLY a_n_unique ON a (n);",
    "005_e.sql": "INSERT INTO runs VALUES (5);",
}


def test_key_stays_as_it_is_for_ever() -> None:
    assert lock_key("public", "schema_migrations") == 8332760258828955586


@pytest.mark.parametrize("lock", ["auto", "transaction"])
async def test_twenty_runners_apply_each_file_once(
    lock: str, database: Database, folder: Folder, slipway: Slipway
) -> None:
    files = folder(RACE)

    runners = [slipway.start(env=database.environ, migrations=files, lock=lock) for _ in range(20)]
    finished = [await asyncio.to_thread(runner.finish) for runner in runners]

    assert [one.code for one in finished] == [0] * 20, "\n".join(map(str, finished))
    applied = sorted(name for one in finished if one.outcome for name in one.outcome["applied"])
    assert applied == sorted(RACE)
    assert [row["n"] for row in await database.fetch("SELECT n FROM runs ORDER BY n")] == [3, 5]
    assert (await database.fetch("SELECT count(*) FROM pg_index WHERE NOT indisvalid"))[0][0] == 0


@pytest.mark.docker_only
@pytest.mark.parametrize("pool_mode", ["transaction", "session"])
async def test_runners_behind_a_pooler_apply_each_file_once(
    pool_mode: str, server: Server, database: Database, tools: str, folder: Folder, slipway: Slipway
) -> None:
    assert tools
    files = folder(RACE)
    with pgbouncer(server, pool_mode=pool_mode, default_pool_size=4, max_client_conn=200) as pooler:
        environ = database.at(pooler.port).environ
        runners = [slipway.start(env=environ, migrations=files) for _ in range(8)]
        finished = [await asyncio.to_thread(runner.finish) for runner in runners]

    assert [one.code for one in finished] == [0] * 8, "\n".join(map(str, finished))
    applied = sorted(name for one in finished if one.outcome for name in one.outcome["applied"])
    assert applied == sorted(RACE)
    assert await advisory_locks(database) == 0


async def advisory_locks(database: Database) -> int:
    """How many advisory locks are held in the server."""
    (row,) = await database.fetch("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'")
    return int(row[0])


@pytest.mark.docker_only
async def test_nothing_leaks_into_a_pool(
    server: Server, database: Database, tools: str, folder: Folder, slipway: Slipway
) -> None:
    assert tools
    files = folder({"001_a.sql": "SET search_path = ''; SET statement_timeout = '1h'; CREATE TEMP TABLE t ();"})
    with pgbouncer(server, pool_mode="transaction", default_pool_size=2) as pooler:
        pooled = database.at(pooler.port)
        finished = await asyncio.to_thread(slipway, env=pooled.environ, migrations=files)
        async with pooled.connection() as connection:
            await connection.execute("SELECT 1 FROM schema_migrations")
            state = await connection.execute(
                "SELECT WHERE current_setting('statement_timeout') <> '0' OR current_setting('lock_timeout') <> '0' "
                "OR EXISTS (SELECT FROM pg_class WHERE relname = 't')"
            )

    assert finished.code == 0, finished
    assert state == "SELECT 0"


@pytest.mark.docker_only
async def test_role_without_a_transaction_is_refused_behind_a_pooler(
    server: Server, database: Database, tools: str, folder: Folder, slipway: Slipway
) -> None:
    assert tools
    files = folder({"001_a.sql": "-- no-transaction\nVACUUM"})
    with pgbouncer(server, pool_mode="transaction", default_pool_size=2) as pooler:
        environ = database.at(pooler.port).environ
        finished = await asyncio.to_thread(slipway, env=environ, migrations=files, role=database.user)

    assert finished.code == 20, finished
    assert (
        "001_a.sql:2: this runs outside a transaction, where MIGRATE_ROLE, or the schema of a target, cannot be set "
        "behind a pooler" in finished.err
    )


async def test_waiter_names_the_holder_and_gives_up_in_the_end(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    files = folder({"001_a.sql": ""})
    async with database.migration_lock() as holder:
        await holder.execute("SET application_name = 'someone'")
        pid = holder.get_server_pid()

        finished = await asyncio.to_thread(slipway, env=database.environ, migrations=files, lock_timeout="300ms")

    assert finished.code == 11, finished
    assert f"waiting for the migration lock, held by pid {pid} (someone from " in finished.err
    assert f"the migration lock is still held by pid {pid}" in finished.err
    assert "MIGRATE_LOCK_TIMEOUT=0.3s" in finished.err


async def test_holders_in_other_databases_of_the_server_are_nobody(
    server: Server, database: Database, folder: Folder, slipway: Slipway
) -> None:
    """The key is the same in each of them, and other locks of this one may have a part of it."""
    key = lock_key("public", "schema_migrations")
    halves = struct.unpack(">ii", key.to_bytes(8, signed=True))
    async with (
        server.database("postgres").migration_lock(),
        server.database("template1").migration_lock(),
        database.connection() as other,
        database.migration_lock() as holder,
    ):
        await other.execute(f"SELECT pg_advisory_lock({key + 1}), pg_advisory_lock{halves}")
        pid = holder.get_server_pid()
        finished = await asyncio.to_thread(
            slipway, env=database.environ, migrations=folder({"001_a.sql": ""}), lock_timeout="100ms"
        )

    assert finished.code == 11, finished
    assert finished.outcome
    assert finished.outcome["message"].startswith(f"the migration lock is still held by pid {pid} (")


WAITED_FOR = {"own rows": "checksum", "rows that were taken over": "NULL"}


@pytest.mark.parametrize("checksum", WAITED_FOR.values(), ids=WAITED_FOR)
async def test_waiter_sees_in_every_history_that_nothing_is_left_to_do(
    checksum: str, database: Database, folder: Folder, slipway: Slipway
) -> None:
    """By one digest over the rows, or, where some have no checksum, by the names of their files."""
    slipway(env=database.environ, migrations=folder({f"{n:03}_a.sql": "" for n in range(1, 101)}))
    await database.execute(f"UPDATE schema_migrations SET checksum = {checksum}")
    files = folder({"101_b.sql": ""})
    async with database.migration_lock(), RoundTrips(database) as proxy:
        environ = database.at(proxy.port).environ | {"PGSSLMODE": "disable"}
        waiter = slipway.start(env=environ, migrations=files)
        await asyncio.to_thread(waiter.wait_for_log, "waiting for the migration lock")
        await database.execute("INSERT INTO schema_migrations (version, filename) VALUES (101, '101_b.sql')")
        if checksum != "NULL":
            of_nothing = "encode(sha256(''), 'hex')"
            await database.execute(f"UPDATE schema_migrations SET checksum = {of_nothing} WHERE version = 101")

        finished = await asyncio.to_thread(waiter.finish)

    assert finished.code == 0, finished
    assert "another runner has applied everything" in finished.err
    polls = [query for query in proxy.queries if "pg_try_advisory_lock" in query]
    assert (max(map(len, polls)) < SHORT_QUESTION) == (checksum != "NULL")


async def test_waiter_stops_when_nothing_is_left_to_do_though_the_lock_is_held(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    files = folder({"001_a.sql": "CREATE TABLE a ();"})
    async with database.migration_lock():
        waiter = slipway.start(env=database.environ, migrations=files)
        await asyncio.to_thread(waiter.wait_for_log, "waiting for the migration lock")
        other = await asyncio.to_thread(slipway, env=database.environ, migrations=files, lock="transaction", table="x")
        await database.execute(
            "CREATE TABLE schema_migrations (LIKE x INCLUDING ALL); INSERT INTO schema_migrations SELECT * FROM x"
        )

        finished = await asyncio.to_thread(waiter.finish)

    assert other.code == 0, other
    assert finished.code == 0, finished
    assert "another runner has applied everything" in finished.err


async def test_waiter_goes_on_when_the_holder_is_gone(database: Database, folder: Folder, slipway: Slipway) -> None:
    files = folder({"001_a.sql": "CREATE TABLE a ();"})
    async with database.migration_lock():
        waiter = slipway.start(env=database.environ, migrations=files)
        await asyncio.to_thread(waiter.wait_for_log, "waiting for the migration lock")

    finished = await asyncio.to_thread(waiter.finish)

    assert finished.code == 0, finished
    assert finished.outcome
    assert finished.outcome["applied"] == ["001_a.sql"]


async def test_no_limit_is_a_limit_that_is_never_reached(database: Database, folder: Folder, slipway: Slipway) -> None:
    async with database.migration_lock():
        waiter = slipway.start(
            env=database.environ, migrations=folder({"001_a.sql": ""}), lock_timeout="0", wait_timeout="0"
        )
        await asyncio.to_thread(waiter.wait_for_log, "waiting for the migration lock")

    finished = await asyncio.to_thread(waiter.finish)

    assert finished.code == 0, finished


async def test_history_row_of_another_runner_is_waited_for_and_ends_as_locked(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    files = folder({"001_a.sql": ""})
    slipway(env=database.environ, migrations=files)
    folder({"002_b.sql": "CREATE TABLE b ();"})
    async with database.connection() as other, other.transaction():
        await other.execute("INSERT INTO schema_migrations (version, filename) VALUES (2, '002_b.sql')")

        finished = await asyncio.to_thread(
            slipway, env=database.environ, migrations=files, lock_timeout="500ms", ddl_lock_timeout="50ms"
        )

    assert finished.code == 11, finished
    assert "002_b.sql: another runner is applying it" in finished.err


async def test_history_row_that_appears_meanwhile_is_taken_as_done(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    files = folder({"001_a.sql": ""})
    slipway(env=database.environ, migrations=files)
    folder({"002_b.sql": "SELECT pg_sleep(3600)"})
    async with database.connection() as other:
        transaction = other.transaction()
        await transaction.start()
        await other.execute("INSERT INTO schema_migrations (version, filename) VALUES (2, '002_b.sql')")
        runner = slipway.start(env=database.environ, migrations=files, ddl_lock_timeout="50ms")
        await asyncio.to_thread(runner.wait_for_log, "another runner is applying it")
        await transaction.commit()

        finished = await asyncio.to_thread(runner.finish)

    assert finished.code == 0, finished
    assert finished.outcome
    assert finished.outcome["applied"] == []


async def test_lock_is_free_on_a_connection_that_goes_back_to_its_pool_as_it_is(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    """The driver's own pool drops the lock when it resets the connection, unless it is told to reset it otherwise."""

    async def reset(connection: asyncpg.Connection[asyncpg.Record]) -> None:
        await connection.execute("RESET search_path")

    async with asyncpg.create_pool(database.url, min_size=1, max_size=1, reset=reset) as pool:
        applied = await run_migrations(pool, folder({"001_a.sql": "CREATE TABLE a ();"}))
        held = await advisory_locks(database)
        files = folder({"002_b.sql": "CREATE TABLE b ();"})
        second = await asyncio.to_thread(slipway, env=database.environ, migrations=files, lock_timeout="100ms")

    assert applied == ["001_a.sql"]
    assert held == 0
    assert second.code == 0, second
    assert "waiting for the migration lock" not in second.err


async def test_file_without_a_transaction_is_not_touched_until_the_lock_that_was_dropped_is_taken_again(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    """Another runner takes it in between, and an index is half built that the file would drop."""
    index = "CREATE UNIQUE INDEX CONCURRENTLY a_n ON a (n)"
    assert slipway(env=database.environ, migrations=folder({"003_c.sql": without_transaction("SELECT 1")})).code == 0
    await database.execute("CREATE TABLE a AS SELECT 1 AS n FROM generate_series(1, 2)")
    with pytest.raises(asyncpg.UniqueViolationError):
        await database.execute(index)
    await database.execute("DELETE FROM a")
    await database.execute(in_flight(index, version=2, object_name="public.a_n", before=[]))
    drops = "SET LOCAL lock_timeout = 0; SELECT pg_advisory_unlock_all(); SELECT pg_advisory_xact_lock(1);"
    files = folder({"001_a.sql": drops, "002_b.sql": without_transaction(index)})
    async with database.connection() as other:
        await other.execute("SELECT pg_advisory_lock(1)")
        runner = slipway.start(env=database.environ, migrations=files)
        await eventually(
            lambda: database.fetch("SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"), "it is dropped"
        )
        key = lock_key("public", "schema_migrations")
        await other.execute(f"SELECT pg_advisory_lock({key}); SELECT pg_advisory_unlock(1)")
        log = await asyncio.to_thread(runner.wait_for_log, "waiting for the migration lock")
        left, was_valid = await steps_of(database, 2), await is_valid(database, "a_n")

    finished = await asyncio.to_thread(runner.finish)

    assert "starting over: the migration lock was dropped\n" in log
    assert "half done" not in log
    assert (left, was_valid) == ([(1, 2, False)], False)
    assert finished.code == 0, finished
    assert "002_b.sql:2: half done; running DROP INDEX CONCURRENTLY IF EXISTS public.a_n" in finished.err
    assert await is_valid(database, "a_n")


async def test_sessions_that_block_on_the_lock_in_the_server_are_not_taken_for_its_holder(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    """A person who calls pg_advisory_lock has a row in pg_locks as well, which is not granted."""
    take = f"SELECT pg_advisory_lock({lock_key('public', 'schema_migrations')})"
    async with AsyncExitStack() as stack:  # pg_locks shows the older sessions first, or the younger ones
        others = [await stack.enter_async_context(database.connection()) for _ in range(4)]
        holder = await stack.enter_async_context(database.migration_lock())
        others += [await stack.enter_async_context(database.connection()) for _ in range(4)]
        blocked = [asyncio.create_task(other.execute(take)) for other in others]
        waiting = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        await eventually(lambda: all_of(database, waiting, len(others)), "they wait")
        pid = holder.get_server_pid()
        finished = await asyncio.to_thread(
            slipway, env=database.environ, migrations=folder({"001_a.sql": ""}), lock_timeout="100ms"
        )
    await asyncio.gather(*blocked, return_exceptions=True)

    assert finished.code == 11, finished
    assert finished.outcome
    assert re.fullmatch(
        rf"the migration lock is still held by pid {pid} \(unknown from [^,]+, connected since "
        r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[^)]*\) after MIGRATE_LOCK_TIMEOUT=0\.1s",
        finished.outcome["message"],
    ), finished


async def all_of(database: Database, query: str, count: int) -> bool:
    """Whether a query has so many rows."""
    return len(await database.fetch(query)) == count


async def test_lock_whose_session_is_lost_is_taken_again_before_the_next_file(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    """Where it is in a transaction on a connection of its own, as behind a pooler. Another runner has it meanwhile."""
    files = folder(
        {"001_a.sql": "SET LOCAL lock_timeout = 0; SELECT pg_advisory_xact_lock(1)", "002_b.sql": "CREATE TABLE b ();"}
    )
    waits = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    holds = "SELECT pid FROM pg_stat_activity JOIN pg_locks USING (pid) WHERE locktype = 'advisory' AND objid <> 1"
    async with database.connection() as other:
        await other.execute("SELECT pg_advisory_lock(1)")
        runner = slipway.start(env=database.environ, migrations=files, lock="transaction")
        await eventually(lambda: database.fetch(waits), "the first file waits")
        ((holder,),) = await database.fetch(holds)
        await database.fetch("SELECT pg_terminate_backend($1)", holder)
        key = lock_key("public", "schema_migrations")
        await other.execute(f"SELECT pg_advisory_lock({key}); SELECT pg_advisory_unlock(1)")
        log = await asyncio.to_thread(runner.wait_for_log, "waiting for the migration lock")
        applied = await database.applied()
    finished = await asyncio.to_thread(runner.finish)

    assert "starting over: the migration lock was dropped\n" in log
    assert applied == ["001_a.sql"]
    assert finished.code == 0, finished


async def test_history_that_takes_no_row_is_not_waited_for_without_end(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    """Our own statements, too, are prepared only within MIGRATE_DDL_LOCK_TIMEOUT: that locks the table."""
    slipway(env=database.environ, migrations=folder({"001_a.sql": ""}))
    files = folder({"002_b.sql": ""})
    async with database.connection() as other, other.transaction():
        await other.execute("LOCK TABLE schema_migrations IN SHARE MODE")

        finished = await asyncio.to_thread(
            slipway, env=database.environ, migrations=files, lock_timeout="1s", ddl_lock_timeout="100ms"
        )

    assert finished.code == 11, finished
    assert "002_b.sql: another runner is applying it since MIGRATE_LOCK_TIMEOUT=1s" in finished.err
