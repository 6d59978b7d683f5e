"""Faults of a few among many targets: the others are done, the failure names its target, the next run does the rest."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import time
from collections import Counter
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING

import asyncpg
import pytest

from pgslipway.config import Location
from pgslipway.dial import open_connection
from pgslipway.engine.lock_sql import lock_key
from servers import eventually, pgbouncer, silent
from tenants import GATE, SHARED, databases, files_for, gated, schemas

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path
    from typing import Any

    from conftest import Finished, Folder, Slipway
    from servers import Cluster, Database, Embedded, Server
    from tenants import Tenants

KINDS = pytest.mark.parametrize("kind", ["schema", "database"])
SLEEPING = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'PgSleep'"


def fresh(kind: str, server: Server, number: int) -> AbstractAsyncContextManager[Tenants]:
    """So many targets of a kind with nothing in them."""
    if kind == "schema":
        return schemas(server, [f"tenant_{index}" for index in range(number)])
    return databases(server, number)


async def up(
    slipway: Slipway, tenants: Tenants, files: Path, login: Database | None = None, **settings: str
) -> Finished:
    """A run over all of them, to its end."""
    environ = tenants.environ | (login.environ if login else {})
    given = {f"MIGRATE_{name.upper()}": value for name, value in settings.items()}
    return await asyncio.to_thread(slipway, env=environ | given, migrations=files)


async def up_undeterred(
    slipway: Slipway, tenants: Tenants, files: Path, login: Database | None = None, **settings: str
) -> Finished:
    """The same, without canaries and however many fail, so that only the faulty targets are left."""
    return await up(slipway, tenants, files, login, canaries="0", max_failures=str(10**6), **settings)


def counts(finished: Finished) -> dict[str, Any]:
    """How many targets ended in which way, without those of which there were none."""
    assert finished.outcome, finished
    return {name: number for name, number in finished.outcome["targets"].items() if number}


def assert_one_failed(finished: Finished, code: int, names: list[str], bad: str, *words: str) -> None:
    """All but one are done; the last words name that one, and say these."""
    assert finished.code == code, finished
    assert finished.outcome
    total = len(names)
    done = {"total": total, "migrated": total - 1, "failed": 1, "failures": [bad], "applied": 3 * (total - 1)}
    assert counts(finished) == done, finished
    first, second = finished.outcome["message"].splitlines()[:2]
    assert first.startswith(f"1 of {total} targets failed ({code} {finished.outcome['result']}: {bad}); "), finished
    assert second.startswith(f"{bad}: "), finished
    assert not [word for word in words if word not in second], finished


async def assert_next_run_ends_all(slipway: Slipway, tenants: Tenants, files: Path) -> None:
    """A plain run does what is left, and everything has happened once."""
    again = await up(slipway, tenants, files)
    assert again.code == 0, again
    await tenants.assert_all_done_once()


async def weak_login(tenants: Tenants, options: str) -> Database:
    """A role that may do all of it, but is no superuser, whom limits do not bind."""
    grants = [f"GRANT ALL ON SCHEMA {name} TO PUBLIC" for name in tenants.names if tenants.kind == "schema"]
    for database in tenants.databases:
        everywhere = "GRANT ALL ON SCHEMA public, shared TO PUBLIC; GRANT ALL ON shared.effects TO PUBLIC"
        await database.execute(";".join([everywhere, *grants]))
    return await tenants.databases[0].create_role("weak", f"LOGIN {options}")


async def asleep(database: Database, number: int) -> None:
    """Block until so many sessions of the server sleep in a statement."""

    async def are_asleep() -> bool:
        return len(await database.fetch(SLEEPING)) == number

    await eventually(are_asleep, f"{number} sessions to sleep")


# --- one target is not as the others ----------------------------------------------------------------------------

BROKEN = {
    "gone": ("DROP DATABASE {}", "CREATE DATABASE {}", 22, ["does not exist", "check the user"]),
    "takes-no-connections": (
        "ALTER DATABASE {} ALLOW_CONNECTIONS false", "ALTER DATABASE {} ALLOW_CONNECTIONS true",
        22, ["is not currently accepting connections", "the database"],
    ),
    "read-only": (
        "ALTER DATABASE {} SET default_transaction_read_only = on",
        "ALTER DATABASE {} RESET default_transaction_read_only",
        10, ["the database takes no writes", "default_transaction_read_only", "MIGRATE_WAIT_TIMEOUT=4s"],
    ),
    "full-of-sessions": (
        "ALTER DATABASE {} CONNECTION LIMIT 0", "ALTER DATABASE {} CONNECTION LIMIT -1",
        10, ["too many connections for database", "MIGRATE_WAIT_TIMEOUT=4s"],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("break_it", "mend_it", "code", "words"), BROKEN.values(), ids=BROKEN)
async def test_database_that_cannot_be_used_keeps_no_other_from_being_done(
    break_it: str, mend_it: str, code: int, words: list[str], cluster: Cluster, folder: Folder, slipway: Slipway
) -> None:
    files = folder(files_for("database"))
    async with fresh("database", cluster.server, 6) as tenants:
        weak, bad = await weak_login(tenants, ""), tenants.names[1]
        await cluster.database.execute(break_it.format(bad))
        finished = await up_undeterred(slipway, tenants, files, weak, wait_timeout="4s", parallel="2")

        assert_one_failed(finished, code, tenants.names, bad, *words)
        await cluster.database.execute(mend_it.format(bad))
        if "CREATE" in mend_it:
            await tenants.databases[1].execute(SHARED)
        await assert_next_run_ends_all(slipway, tenants, files)


FULL = {"001_a.sql": "CREATE TABLE own AS SELECT repeat(n::text, 200) FROM generate_series(1, 20000) AS n;"}
"""Twenty megabytes, above the sixteen of the disk."""


@pytest.mark.docker_only
async def test_full_disk_of_one_database_keeps_no_other_from_being_done(
    server: Server, folder: Folder, slipway: Slipway
) -> None:
    files, root = folder(FULL), server.database()
    await root.execute("COPY (SELECT) TO PROGRAM 'cat > /dev/null; mkdir -p /small/tenant'")
    await root.execute("CREATE TABLESPACE small_tenant LOCATION '/small/tenant'")
    async with fresh("database", server, 3) as tenants:
        bad = tenants.names[1]
        await move(root, bad, "small_tenant")
        finished = await up_undeterred(slipway, tenants, files)
        left = await tenants.tables()
        await move(root, bad, "pg_default")
        again = await up(slipway, tenants, files)
        done = await tenants.tables()
    await root.execute("DROP TABLESPACE small_tenant")

    assert finished.code == 24, finished
    assert f"{bad}: 001_a.sql: could not extend file" in finished.err
    assert "No space left on device" in finished.err
    assert counts(finished) == {"total": 3, "migrated": 2, "failed": 1, "failures": [bad], "applied": 2}
    assert left == {*tenants.names} - {bad}
    assert again.code == 0, again
    assert done == {*tenants.names}


async def move(root: Database, name: str, tablespace: str) -> None:
    """Move a database to another disk, once nobody uses it; a background worker may."""

    async def is_moved() -> bool:
        with suppress(asyncpg.ObjectInUseError):
            await root.execute(f"ALTER DATABASE {name} SET TABLESPACE {tablespace}")
            return True
        return False

    await eventually(is_moved, f"{name} to be moved")


# --- somebody else is at work on one target ---------------------------------------------------------------------


async def test_history_that_somebody_has_locked_keeps_no_other_from_being_done(
    cluster: Cluster, folder: Folder, slipway: Slipway
) -> None:
    """One query asks the histories of all schemas; it cannot answer while one of them is locked."""
    first, *others = files_for("schema").items()
    async with fresh("schema", cluster.server, 6) as tenants:
        assert (await up(slipway, tenants, folder(dict([first])))).code == 0
        files = folder(dict(others))
        async with tenants.databases[0].connection() as holder:
            await holder.execute("BEGIN; LOCK TABLE tenant_1.schema_migrations")
            finished = await up_undeterred(slipway, tenants, files)

        assert finished.code == 12, finished
        assert finished.outcome
        said = 'tenant_1: canceling statement due to lock timeout; the history table "tenant_1"."schema_migrations" is'
        assert f"\n{said} locked by somebody" in finished.outcome["message"]
        done = {"total": 6, "migrated": 5, "failed": 1, "failures": ["tenant_1"], "applied": 10}
        assert counts(finished) == done, finished
        await assert_next_run_ends_all(slipway, tenants, files)


@KINDS
async def test_migration_lock_that_somebody_holds_keeps_no_other_from_being_done(
    kind: str, cluster: Cluster, folder: Folder, slipway: Slipway
) -> None:
    files = folder(files_for(kind))
    async with fresh(kind, cluster.server, 6) as tenants:
        bad, database = tenants.names[1], tenants.databases[1 % len(tenants.databases)]
        key = lock_key(bad if kind == "schema" else "public", "schema_migrations")
        async with database.connection() as holder:
            await holder.execute(f"SELECT pg_advisory_lock({key})")
            finished = await up_undeterred(slipway, tenants, files, lock_timeout="1s")

        words = ["the migration lock is still held by pid", "MIGRATE_LOCK_TIMEOUT=1s"]
        assert_one_failed(finished, 11, tenants.names, bad, *words)
        await assert_next_run_ends_all(slipway, tenants, files)


async def test_two_runs_at_once_share_the_work_and_do_each_thing_once(
    cluster: Cluster, folder: Folder, slipway: Slipway
) -> None:
    files = folder(files_for("schema"))
    folder({"002_b.sql": f"{files_for('schema')['002_b.sql']} SELECT pg_sleep(0.1);"})
    async with fresh("schema", cluster.server, 40) as tenants:
        both = [slipway.start(env=tenants.environ, migrations=files, canaries="0") for _ in range(2)]
        runs = await asyncio.gather(*(asyncio.to_thread(process.finish) for process in both))

        assert [run.code for run in runs] == [0, 0], f"{runs[0]}{runs[1]}"
        one, other = map(counts, runs)
        assert one["migrated"] + other["migrated"] == 40
        assert one["applied"] + other["applied"] == 120
        assert (one["up_to_date"], other["up_to_date"]) == (other["migrated"], one["migrated"])
        await tenants.assert_all_done_once()


# --- no place for so many ---------------------------------------------------------------------------------------


@KINDS
async def test_role_that_may_have_two_connections_does_all_of_eight_at_a_time(
    kind: str, cluster: Cluster, folder: Folder, slipway: Slipway
) -> None:
    """The few that get in may be done before the others give up waiting: the last of those has to go on."""
    files = folder(files_for(kind))
    async with fresh(kind, cluster.server, 12) as tenants:
        weak = await weak_login(tenants, "CONNECTION LIMIT 2")
        finished = await up(slipway, tenants, files, weak, parallel="8", wait_timeout="5s")

        assert finished.code == 0, finished
        assert counts(finished) == {"total": 12, "migrated": 12, "applied": 36}
        assert 'too many connections for role "weak"' in finished.err
        await tenants.assert_all_done_once()


async def test_server_with_fewer_connections_than_targets_at_a_time_has_all_done(
    embedded: Embedded, folder: Folder, slipway: Slipway
) -> None:
    cluster = embedded.cluster(max_connections=6, superuser_reserved_connections=2).start()
    files = folder(files_for("schema"))
    async with fresh("schema", cluster.server, 12) as tenants:
        weak = await weak_login(tenants, "")
        finished = await up(slipway, tenants, files, weak, parallel="8", wait_timeout="5s")

        assert finished.code == 0, finished
        assert counts(finished) == {"total": 12, "migrated": 12, "applied": 36}
        await tenants.assert_all_done_once()


async def test_database_that_lets_nobody_in_slows_no_other_down(
    cluster: Cluster, folder: Folder, slipway: Slipway
) -> None:
    """It is put back to the end, and costs the others one place and not all of them."""
    files = folder(files_for("database"))
    folder({"002_b.sql": f"{files_for('database')['002_b.sql']} SELECT pg_sleep(0.75);"})
    async with fresh("database", cluster.server, 20) as tenants:
        weak, bad = await weak_login(tenants, ""), tenants.names[1]
        await cluster.database.execute(f"ALTER DATABASE {bad} CONNECTION LIMIT 0")
        finished = await up_undeterred(slipway, tenants, files, weak, wait_timeout="3s")

        assert_one_failed(finished, 10, tenants.names, bad, "too many connections for database")
        _, _, after_first_try = finished.err.partition("3 targets at a time from now on")
        before_second, _, _ = after_first_try.partition(f"waiting for {cluster.server.database(bad).target}")
        begun = finished.err.removesuffix(after_first_try) + before_second
        assert begun.count("applied 002_b.sql") > 15, finished


# --- the list is not what it was --------------------------------------------------------------------------------


async def test_schemas_that_come_and_go_after_the_list_was_read_do_no_harm(
    cluster: Cluster, folder: Folder, slipway: Slipway
) -> None:
    files = folder(gated("schema", "_0$"))
    query = "SELECT nspname FROM pg_namespace WHERE nspname LIKE 'tenant%' ORDER BY nspname"
    async with fresh("schema", cluster.server, 6) as tenants:
        (database,) = tenants.databases
        process = slipway.start(env=database.environ, migrations=files, targets_query=query, max_failures="9")
        await asleep(database, 1)
        await database.execute(f"DROP SCHEMA tenant_3; CREATE SCHEMA tenant_new; {GATE}")
        finished = await asyncio.to_thread(process.finish)

        assert_one_failed(finished, 22, tenants.names, "tenant_3", "the schema tenant_3 does not exist any more")
        assert await tenants.tables() == {*tenants.names} - {"tenant_3"}
        again = await asyncio.to_thread(slipway, env=database.environ, migrations=files, targets_query=query)
        assert again.code == 0, again
        assert counts(again) == {"total": 6, "up_to_date": 5, "migrated": 1, "applied": 3}
        tenants.names[3] = "tenant_new"
        await tenants.assert_all_done_once()


# --- the run or the server is stopped ---------------------------------------------------------------------------

PROMISED, NOISE = 5.0, 2.0


@KINDS
async def test_signal_stops_all_that_are_at_work_and_counts_them(
    kind: str, cluster: Cluster, folder: Folder, slipway: Slipway
) -> None:
    files = folder(gated(kind, "_[1-9]$"))
    async with fresh(kind, cluster.server, 12) as tenants:
        process = slipway.start(env=tenants.environ, migrations=files, parallel="8")
        await asleep(cluster.database, 8)
        started = time.monotonic()
        process.terminate()
        finished = await asyncio.to_thread(process.finish)

        assert time.monotonic() - started < PROMISED + NOISE
        assert finished.code == 143, finished
        assert finished.outcome
        assert (finished.outcome["result"], finished.outcome["message"]) == ("stopped", "stopped by SIGTERM")
        assert counts(finished) == {"total": 12, "migrated": 1, "stopped": 8, "not_begun": 3, "applied": 11}
        for name in tenants.names[1:9]:
            assert f"warning: {name}: 002_b.sql: cancelled and rolled back\n" in finished.err
        first = [(tenants.names[0], number) for number in (1, 2, 3)]
        assert await tenants.effects() == Counter(first + [(name, 1) for name in tenants.names[1:9]])
        await tenants.open_gate()
        await assert_next_run_ends_all(slipway, tenants, files)


async def test_signal_counts_those_at_work_though_the_server_has_gone_silent(
    cluster: Cluster, folder: Folder, slipway: Slipway
) -> None:
    files = folder(gated("schema", "_[1-4]$"))
    async with fresh("schema", cluster.server, 8) as tenants:
        process = slipway.start(env=tenants.environ, migrations=files)
        await asleep(cluster.database, 4)
        pids = [row["pid"] for row in await cluster.database.fetch(SLEEPING)]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        process.terminate()
        try:
            finished = await asyncio.to_thread(process.finish)
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)

        assert finished.code == 143, finished
        assert counts(finished) == {"total": 8, "migrated": 1, "stopped": 4, "not_begun": 3, "applied": 7}
        await tenants.open_gate()
        await assert_next_run_ends_all(slipway, tenants, files)


@pytest.mark.parametrize("mode", ["fast", "immediate"])
@KINDS
async def test_restart_of_the_server_fails_those_at_work_and_no_other(
    kind: str, mode: str, cluster: Cluster, folder: Folder, slipway: Slipway
) -> None:
    files = folder(gated(kind, "_[1-4]$"))
    async with fresh(kind, cluster.server, 12) as tenants:
        process = slipway.start(env=tenants.environ, migrations=files, max_failures="9")
        await asleep(cluster.database, 4)
        await asyncio.to_thread(cluster.stop, mode)
        await asyncio.to_thread(cluster.start)
        finished = await asyncio.to_thread(process.finish)

        assert finished.code == 13, finished
        assert finished.outcome
        failures = sorted(finished.outcome["targets"].pop("failures"))
        assert failures == tenants.names[1:5]
        assert counts(finished) == {"total": 12, "migrated": 8, "failed": 4, "applied": 28}
        await tenants.open_gate()
        await assert_next_run_ends_all(slipway, tenants, files)


# --- behind a pooler --------------------------------------------------------------------------------------------

LEFT_BEHIND = """
SELECT pg_backend_pid() AS pid, current_setting('search_path') AS search_path,
       ARRAY(SELECT name FROM pg_settings WHERE source = 'session' AND setting <> reset_val
              AND name NOT IN ('application_name', 'client_encoding', 'DateStyle', 'TimeZone',
                  'standard_conforming_strings', 'extra_float_digits')) AS settings,
       ARRAY(SELECT relname::text FROM pg_class WHERE relnamespace = pg_my_temp_schema()) AS temp,
       ARRAY(SELECT name FROM pg_prepared_statements WHERE name NOT LIKE 'PGBOUNCER%') AS prepared,
       (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'
           AND database = (SELECT oid FROM pg_database WHERE datname = current_database())) AS locks
"""
LEAVES_THINGS = """
SET search_path = ''; SET statement_timeout = '1h'; CREATE TEMP TABLE left_over (); PREPARE p AS SELECT 1;
SELECT pg_catalog.pg_advisory_lock(1);
"""


async def assert_nothing_left(database: Database, number: int) -> None:
    """Whoever gets the server connections that the pool has now finds them as new."""
    async with AsyncExitStack() as opened:
        connections = [await opened.enter_async_context(database.connection()) for _ in range(number)]
        for connection in connections:
            await connection.execute("BEGIN")
        seen = [dict((await connection.fetch(LEFT_BEHIND))[0]) for connection in connections]
    assert len({each.pop("pid") for each in seen}) == number
    as_new = {"search_path": '"$user", public', "settings": [], "temp": [], "prepared": [], "locks": 0}
    assert seen == [as_new] * number


@pytest.mark.docker_only
@pytest.mark.parametrize("size", [8, 2], ids=["a-place-for-each", "no-place-for-all"])
async def test_each_schema_has_its_own_path_behind_a_pooler_and_nothing_stays_in_the_pool(
    size: int, server: Server, tools: str, folder: Folder, slipway: Slipway
) -> None:
    """Each target at work needs two places: one for its lock, one for its files."""
    assert tools
    files = {**files_for("schema"), "004_d.sql": LEAVES_THINGS}
    files["003_c.sql"] = files["003_c.sql"].partition("CREATE INDEX")[0]
    migrations = folder(files)
    with pgbouncer(server, pool_mode="transaction", default_pool_size=size) as pooler:
        async with fresh("schema", server, 12) as tenants:
            through = tenants.databases[0].at(pooler.port)
            finished = await up(slipway, tenants, migrations, through, wait_timeout="6s")

            assert finished.code == 0, finished
            assert counts(finished) == {"total": 12, "migrated": 12, "applied": 48}
            await tenants.assert_all_done_once()
            await assert_nothing_left(through, min(size, 4))


@pytest.mark.docker_only
async def test_statement_that_would_lose_its_path_behind_a_pooler_is_refused_before_anything_is_applied(
    server: Server, tools: str, folder: Folder, slipway: Slipway
) -> None:
    assert tools
    files = folder(files_for("schema"))
    with pgbouncer(server, pool_mode="transaction", default_pool_size=8) as pooler:
        async with fresh("schema", server, 3) as tenants:
            through = tenants.databases[0].at(pooler.port)
            finished = await up(slipway, tenants, files, through)

            assert finished.code == 20, finished
            assert "tenant_0: 003_c.sql:3: " in finished.err
            assert counts(finished) == {"total": 3, "failed": 1, "not_begun": 2, "failures": ["tenant_0"]}
            assert await tenants.effects() == {}


# --- what is said besides ---------------------------------------------------------------------------------------


async def test_attempt_to_connect_that_is_given_up_leaves_no_complaint_of_asyncio() -> None:
    """A run over many lives on after it, and its log would have the complaint. Given up after each turn of the loop."""
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    with silent() as port:
        location = Location({"PGHOST": "127.0.0.1", "PGPORT": str(port), "PGUSER": "u", "PGDATABASE": "d"})
        for turns in range(40):
            attempt = asyncio.ensure_future(open_connection(location, 0, 10.0))
            for _ in range(turns):
                await asyncio.sleep(0)
            attempt.cancel()
            await asyncio.wait({attempt})
            await asyncio.sleep(0)
    del attempt
    gc.collect()

    assert complaints == []
