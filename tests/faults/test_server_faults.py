"""The server's faults: a crash at any moment, a failover, a full disk. A plain run afterwards reaches the same end."""

from __future__ import annotations

import asyncio
import random
import re
import time
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import pytest

from proxy import RoundTrips
from servers import LOCALHOST, eventually

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from conftest import Finished, Folder, Process, Slipway
    from servers import Cluster, Database, Embedded

pytestmark = pytest.mark.faults

FILES = {
    "001_tables.sql": """
        CREATE TABLE log (step int);
        CREATE TABLE big AS SELECT n FROM generate_series(1, 20000) AS n;
        CREATE TABLE parts (n int) PARTITION BY RANGE (n);
        CREATE TABLE part_1 PARTITION OF parts FOR VALUES FROM (1) TO (10);
        INSERT INTO log VALUES (10);
    """,
    "002_transaction.sql": "INSERT INTO log VALUES (20); ALTER TABLE big ADD COLUMN m int; SELECT pg_sleep(0.05);",
    "003_steps.sql": """-- no-transaction
        SET work_mem = '8MB';
        INSERT INTO log VALUES (30);
        CREATE INDEX CONCURRENTLY big_n ON big (n);
        INSERT INTO log VALUES (31);
        VACUUM big;
        CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS big_n_unique ON big (n);
        REINDEX INDEX CONCURRENTLY big_n;
        UPDATE big SET m = coalesce(m, 0) + 1 WHERE n <= 100;
        ALTER TABLE parts DETACH PARTITION part_1 CONCURRENTLY;
        DROP INDEX CONCURRENTLY big_n_unique;
        INSERT INTO log VALUES (32);
    """,
    "004_transaction.sql": "INSERT INTO log VALUES (40); CREATE VIEW v AS SELECT count(*) FROM big;",
    "005_steps.sql": """-- no-transaction
        ANALYZE big;
        INSERT INTO log VALUES (50);
        CREATE INDEX CONCURRENTLY log_step ON log (step);
    """,
}
LOOKS_LIKE_A_MOMENT = re.compile(r"\b20\d\d-\d\d-\d\d|\b\d\d:\d\d:\d\d")
LOOK = """
SELECT 'column', format('%s.%s %s', attrelid::regclass, attname, atttypid::regtype) FROM pg_attribute
 WHERE attnum > 0 AND NOT attisdropped
   AND attrelid IN (SELECT oid FROM pg_class WHERE relnamespace = 'public'::regnamespace)
 UNION ALL SELECT 'index', format('%s valid %s', pg_get_indexdef(indexrelid), indisvalid) FROM pg_index
 WHERE indrelid IN (SELECT oid FROM pg_class WHERE relnamespace = 'public'::regnamespace)
 UNION ALL SELECT 'partition', inhrelid::regclass::text FROM pg_inherits
 UNION ALL SELECT 'history', format('%s %s %s', version, filename, checksum) FROM schema_migrations
 UNION ALL SELECT 'journal', format('%s %s', version, step) FROM schema_migrations_steps
 UNION ALL SELECT 'log', step::text FROM log
 UNION ALL SELECT 'updated', format('%s x %s', m, count(*)) FROM big GROUP BY m
 ORDER BY 1, 2
"""
CRASHES = 25
FAILOVERS = 8
CAN_HEAL = range(10, 20)
RERUNS = 5


class Undisturbed(NamedTuple):
    """What a run leaves that nothing disturbs, and how many queries it sends."""

    state: list[tuple[str, str]]
    queries: int


async def state_of(database: Database) -> list[tuple[str, str]]:
    """Schema, history, journal, and what the files' statements have done."""
    return [(row[0], row[1]) for row in await database.fetch(LOOK)]


@pytest.fixture
async def undisturbed(cluster: Cluster, folder: Folder, slipway: Slipway) -> Undisturbed:
    async with cluster.server.fresh_database() as database, RoundTrips(database) as proxy:
        environ = database.at(proxy.port).environ | {"PGSSLMODE": "disable"}
        finished = await asyncio.to_thread(slipway, env=environ, migrations=folder(FILES))
        assert finished.code == 0, finished
        return Undisturbed(await state_of(database), len(proxy.queries))


async def run_to_the_end(slipway: Slipway, first: Finished, env: Mapping[str, str], migrations: Path) -> list[Finished]:
    """Run again while the code says that it can heal; all runs."""
    runs = [first]
    while runs[-1].code in CAN_HEAL and len(runs) <= RERUNS:
        runs.append(await asyncio.to_thread(slipway, env=env, migrations=migrations))
    return runs


async def test_crashes_of_the_server_lose_and_repeat_nothing(
    cluster: Cluster, undisturbed: Undisturbed, folder: Folder, slipway: Slipway
) -> None:
    """Crash after a random query of the run, and what time passes until `pg_ctl` has done it."""
    chance = random.Random(3)
    files = folder({})
    ends = []
    for crash in range(CRASHES):
        number = chance.randint(1, undisturbed.queries)
        async with cluster.server.fresh_database() as database, RoundTrips(database) as proxy:
            environ = database.at(proxy.port).environ | {"PGSSLMODE": "disable"}
            runner = slipway.start(env=environ, migrations=files)
            await eventually(partial(has_sent, proxy, number, runner), f"query {number}")
            await asyncio.to_thread(cluster.stop, "immediate")
            sent = len(proxy.queries)
            await asyncio.to_thread(cluster.start)
            first = await asyncio.to_thread(runner.finish)
            runs = await run_to_the_end(slipway, first, environ, files)

            ends.append(f"{number}..{sent}: {' '.join(str(run.code) for run in runs)}")
            assert runs[-1].code == 0, f"crash {crash} after query {number}\n" + "\n".join(map(str, runs))
            assert await state_of(database) == undisturbed.state, f"crash {crash} after query {number}"
    print(f"\n{CRASHES} crashes, queries of {undisturbed.queries} sent: exit codes; {'; '.join(ends)}")


async def has_sent(proxy: RoundTrips, number: int, runner: Process) -> bool:
    """Whether the run has sent so many queries, or has ended."""
    return len(proxy.queries) >= number or not runner.is_running()


# --- failover ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(FAILOVERS))
async def test_failover_to_a_standby_loses_and_repeats_nothing(
    seed: int, embedded: Embedded, undisturbed: Undisturbed, folder: Folder, slipway: Slipway
) -> None:
    """What the primary acknowledges the standby has. It is gone after a random query, and the standby is promoted."""
    number = random.Random(seed).randint(1, undisturbed.queries)
    primary = embedded.cluster().start()
    standby = embedded.standby_of(primary, hot_standby_feedback="on").start()
    await primary.database.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
    await primary.database.execute("SELECT pg_reload_conf()")
    await eventually(lambda: is_synchronous(primary.database), "the standby to be synchronous")
    files = folder({})
    async with RoundTrips(primary.server) as proxy:
        env = {"DATABASE_URL": two_hosts(primary.database, proxy.port, standby.server.port)}
        runner = slipway.start(env=env, migrations=files)
        await eventually(partial(has_sent, proxy, number, runner), f"query {number}")
        await asyncio.to_thread(primary.stop, "immediate")
        sent = len(proxy.queries)
        await asyncio.to_thread(standby.promote)
        first = await asyncio.to_thread(runner.finish)
        runs = await run_to_the_end(slipway, first, env, files)

    print(f"\nfailover after query {number}..{sent} of {undisturbed.queries}: codes {[run.code for run in runs]}")
    assert runs[-1].code == 0, "\n".join(map(str, runs))
    assert await state_of(standby.database) == undisturbed.state


async def is_synchronous(database: Database) -> bool:
    return bool(await database.fetch("SELECT FROM pg_stat_replication WHERE sync_state = 'sync'"))


def two_hosts(database: Database, first: int, second: int) -> str:
    """The DSN that names two ports of this machine."""
    here = f"@{LOCALHOST}:{database.port}/"
    both = f"@{LOCALHOST}:{first},{LOCALHOST}:{second}/"
    return database.url.replace(here, both) + "?target_session_attrs=read-write&sslmode=disable"


# --- a full disk ------------------------------------------------------------------------------------------------

FULL = {
    "001_transaction.sql": """
        CREATE TABLE a TABLESPACE small AS
            SELECT n, (SELECT string_agg(md5(n::text || i), '') FROM generate_series(1, 32) AS i) AS text
              FROM generate_series(1, 4000) AS n;
        INSERT INTO log VALUES (1);
    """,
    "002_steps.sql": """-- no-transaction
        INSERT INTO log VALUES (20);
        CREATE INDEX CONCURRENTLY a_text ON a (text, n) TABLESPACE small;
        INSERT INTO log VALUES (21);
    """,
}
FILLER = "CREATE TABLE {name} TABLESPACE small AS SELECT repeat('x', 1000) FROM generate_series(1, {rows})"


@pytest.mark.docker_only
async def test_full_disk_stops_a_file_and_room_lets_it_go_on(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    """16 MB: the first time there is no room for the table, then none for its index, then for both."""
    await database.execute("COPY (SELECT) TO PROGRAM 'cat > /dev/null; mkdir -p /small/faults'")
    await database.execute("CREATE TABLESPACE small LOCATION '/small/faults'")
    await database.execute("CREATE TABLE log (step int)")
    await database.execute(FILLER.format(name="filler", rows=7000))
    await database.execute(FILLER.format(name="more", rows=5000))
    files = folder(FULL)
    try:
        without_table = await asyncio.to_thread(slipway, env=database.environ, migrations=files)
        nothing_left = await database.fetch("SELECT FROM pg_class WHERE relname = 'a'")
        await database.execute("TRUNCATE more")
        without_index = await asyncio.to_thread(slipway, env=database.environ, migrations=files)
        assert without_index.code == 24, without_index
        assert "002_steps.sql:3: could not extend file" in without_index.err, without_index
        invalid = await database.fetch("SELECT FROM pg_class WHERE relname LIKE 'a_text%'")
        steps = [row["step"] for row in await database.fetch("SELECT step FROM log ORDER BY step")]
        journal = [row["step"] for row in await database.fetch("SELECT step FROM schema_migrations_steps")]
        await database.execute("TRUNCATE filler")
        with_room = await asyncio.to_thread(slipway, env=database.environ, migrations=files)

        assert without_table.code == 24, without_table
        assert "001_transaction.sql: could not extend file" in without_table.err
        assert "No space left on device" in without_table.err
        assert nothing_left == []
        assert (invalid, steps, journal) == ([], [1, 20], [1])
        assert with_room.code == 0, with_room
        assert [row["step"] for row in await database.fetch("SELECT step FROM log ORDER BY step")] == [1, 20, 21]
        assert await database.fetch("SELECT FROM pg_index WHERE NOT indisvalid") == []
        assert await database.fetch("SELECT FROM schema_migrations_steps") == []
    finally:
        await database.execute("DROP TABLE IF EXISTS a, filler, more")
        await database.execute("DROP TABLESPACE small")


# --- the clock --------------------------------------------------------------------------------------------------


async def test_no_time_comes_from_the_runners_clock(cluster: Cluster, folder: Folder, slipway: Slipway) -> None:
    """Whatever a runner's clock says reaches the server in no form: no query of a run has a moment in it."""
    async with cluster.server.fresh_database() as database, RoundTrips(database) as proxy:
        environ = database.at(proxy.port).environ | {"PGSSLMODE": "disable"}
        before = time.time()
        finished = await asyncio.to_thread(slipway, env=environ, migrations=folder(FILES))
        after = time.time()
        queries = proxy.queries

    assert finished.code == 0, finished
    assert not [query for query in queries if LOOKS_LIKE_A_MOMENT.search(query)]
    assert not [query for query in queries for moment in range(int(before), int(after) + 1) if str(moment) in query]
