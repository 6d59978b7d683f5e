"""Many small files in one session: our statements are prepared, and our own work is done while the server does its."""

from __future__ import annotations

import asyncio
import logging
import re
from typing import TYPE_CHECKING

import asyncpg
import pytest

from pgslipway import run_migrations
from pgslipway.config import from_environ
from pgslipway.engine import transaction
from pgslipway.up import up
from proxy import RoundTrips

if TYPE_CHECKING:
    from conftest import Finished, Folder, Slipway
    from pgslipway.engine.ahead import Message
    from pgslipway.engine.lock import Held
    from pgslipway.engine.sending import Job
    from servers import Database

FIRST = {"001_a.sql": "CREATE TABLE a (n int);", "002_b.sql": "INSERT INTO a VALUES (2);"}
LAST = {"008_y.sql": "INSERT INTO a VALUES (8);", "009_z.sql": "INSERT INTO a VALUES (9);"}
HIDDEN = "DO $$ BEGIN EXECUTE 'DEALL' || 'OCATE ALL'; END $$;"
DROPS = {"said": "DEALLOCATE ALL;", "executed": "DO $$ BEGIN EXECUTE 'deallocate all'; END $$;", "hidden": HIDDEN}
PREPARED = re.compile(r"\b(PREPARE|EXECUTE)\b")


async def run(database: Database, slipway: Slipway, folder: Folder, lock: str = "auto") -> tuple[Finished, list[str]]:
    """Run over the files in the folder; return the queries as well."""
    async with RoundTrips(database) as proxy:
        environ = database.at(proxy.port).environ | {"PGSSLMODE": "disable"}
        finished = await asyncio.to_thread(slipway, env=environ, migrations=folder({}), lock=lock)
    return finished, proxy.queries


async def test_our_statements_are_prepared_once(database: Database, folder: Folder, slipway: Slipway) -> None:
    folder(FIRST | LAST)

    finished, queries = await run(database, slipway, folder)

    assert finished.code == 0, finished
    assert sum("PREPARE pgslipway_record" in query for query in queries) == 1
    assert sum("EXECUTE pgslipway_verify" in query for query in queries) == 3


async def test_pooler_sees_nothing_prepared(database: Database, folder: Folder, slipway: Slipway) -> None:
    folder(FIRST | LAST)

    finished, queries = await run(database, slipway, folder, lock="transaction")

    assert finished.code == 0, finished
    assert sum(query.startswith("-- 00") for query in queries) == 3
    assert [query for query in queries if PREPARED.search(query)] == []


async def test_pool_of_an_application_sees_nothing_prepared(database: Database, folder: Folder) -> None:
    files = folder(FIRST | LAST)
    async with RoundTrips(database) as proxy:
        url = f"{database.at(proxy.port).url}?sslmode=disable"
        async with asyncpg.create_pool(url, min_size=1, max_size=1) as pool:
            applied = await run_migrations(pool, files)

    assert applied == [*FIRST, *LAST]
    assert sum(query.startswith("-- 00") for query in proxy.queries) == 3
    assert [query for query in proxy.queries if PREPARED.search(query)] == []


@pytest.mark.parametrize("drops", DROPS.values(), ids=DROPS)
async def test_file_may_drop_all_prepared_statements(
    drops: str, database: Database, folder: Folder, slipway: Slipway
) -> None:
    folder(FIRST | {"003_c.sql": f"INSERT INTO a VALUES (3); {drops}"} | LAST)

    finished, queries = await run(database, slipway, folder)

    assert finished.code == 0, finished
    assert "pgslipway_" not in finished.err
    assert [row["n"] for row in await database.fetch("SELECT n FROM a ORDER BY n")] == [2, 3, 8, 9]
    assert sum("EXECUTE pgslipway_verify" in query for query in queries) == 2 + (drops == HIDDEN)


async def test_file_that_drops_our_statements_is_not_blamed_however_long_it_takes(
    database: Database, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transaction, "SHORT", 0.0)
    files = folder(FIRST | {"003_c.sql": HIDDEN} | LAST)
    applied: list[str] = []

    await up(from_environ({**database.environ, "MIGRATE_DIR": str(files)}, {}), applied)

    assert applied == [*FIRST, "003_c.sql", *LAST]


@pytest.mark.parametrize(
    ("fails", "expected"),
    [
        ("SELECT 1 / 0;", "003_c.sql:2: division by zero"),
        ("EXECUTE nothing;", '003_c.sql:2: prepared statement "nothing" does not exist'),
    ],
    ids=["another_error", "its_own_statement"],
)
async def test_failure_of_a_file_that_drops_our_statements_is_its_own(
    fails: str, expected: str, database: Database, folder: Folder, slipway: Slipway
) -> None:
    files = folder(FIRST | {"003_c.sql": f"{HIDDEN}\n{fails}"} | LAST)

    finished = slipway(env=database.environ, migrations=files)

    assert finished.code == 24, finished
    assert expected in finished.err
    assert await database.applied() == [*FIRST]


async def test_history_that_a_long_file_drops_is_not_missed_at_a_place_in_the_file(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    drops = "DROP TABLE public.schema_migrations;\n"
    files = folder(FIRST | {"003_c.sql": drops + "SELECT 1; -- a line\n" * 1000})

    finished = slipway(env=database.environ, migrations=files)

    assert finished.code == 24, finished
    assert '003_c.sql: this file dropped or changed the history table, "public"."schema_migrations": ' in finished.err


async def test_file_without_a_transaction_does_not_find_what_the_one_before_it_prepared(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    prepares = "PREPARE one AS INSERT INTO a VALUES (3); EXECUTE one;"
    files = folder(FIRST | {"003_c.sql": prepares, "004_d.sql": f"-- no-transaction\n{prepares}"})

    finished = slipway(env=database.environ, migrations=files)

    assert finished.code == 0, finished
    assert [row["n"] for row in await database.fetch("SELECT n FROM a ORDER BY n")] == [2, 3, 3]


async def test_advisory_lock_of_a_file_that_prepares_as_well_is_dropped(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    leaves = "PREPARE one AS SELECT 1; SELECT pg_advisory_lock(7);"
    finds = """INSERT INTO a SELECT count(*) FROM pg_locks
        WHERE locktype = 'advisory' AND pid = pg_backend_pid() AND objid = 7"""
    files = folder(FIRST | {"003_c.sql": leaves, "004_d.sql": finds})

    finished = slipway(env=database.environ, migrations=files)

    assert finished.code == 0, finished
    assert [row["n"] for row in await database.fetch("SELECT n FROM a ORDER BY n")] == [0, 2]


async def test_advisory_lock_on_an_applications_connection_is_dropped_as_well(
    database: Database, folder: Folder
) -> None:
    files = folder(FIRST | {"003_c.sql": "PREPARE one AS SELECT 1; SELECT pg_advisory_lock(7);"})
    async with asyncpg.create_pool(database.url, min_size=1, max_size=1) as pool, pool.acquire() as connection:
        only = await connection.fetchval("SELECT pg_backend_pid()")
        held = "SELECT FROM pg_locks WHERE locktype = 'advisory' AND pid = $1"
        await pool.release(connection)
        await run_migrations(pool, files)
        assert await database.fetch(held, only) == []


async def test_line_about_a_file_comes_before_anything_about_the_next_one(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    says = "DO $$ BEGIN RAISE NOTICE 'hello'; END $$;"
    at_once = {"001_a.sql": says, "002_b.sql": says, "003_c.sql": says}
    others = {"004_d.sql": f"{says} DEALLOCATE ALL;", "005_e.sql": f"-- no-transaction\n{says}"}
    files = folder(at_once | others | {"006_f.sql": "SELECT nowhere;"})

    finished = slipway(env=database.environ, migrations=files)

    assert finished.code == 24, finished
    said = re.findall(r"applied \S+|\S+: notice|\S+: column", finished.err)
    expected = [line for name in at_once | others for line in (f"{name}: notice", f"applied {name}")]
    assert said[:11] == [*expected, "006_f.sql:1: column"]


async def test_line_about_the_last_file_comes_before_the_end(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    finished = slipway(env=database.environ, migrations=folder(FIRST))

    assert re.search(r"applied 001_a.sql .*\n.*applied 002_b.sql .*\n.*up to date: applied 2 migrations", finished.err)


async def test_cancellation_while_the_next_message_is_made_rolls_back_the_file_that_is_sent(
    database: Database, folder: Folder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "pgslipway")
    make = transaction.message_of
    files = folder(FIRST | {"003_c.sql": "SELECT pg_sleep(600);"} | LAST)
    applied: list[str] = []
    config = from_environ({**database.environ, "MIGRATE_DIR": str(files)}, {})
    running = asyncio.ensure_future(up(config, applied))

    def cancelling(held: Held, job: Job) -> Message:
        if job.filename == "008_y.sql":
            running.cancel()
        return make(held, job)

    monkeypatch.setattr(transaction, "message_of", cancelling)
    with pytest.raises(asyncio.CancelledError):
        await running

    assert applied == await database.applied() == [*FIRST]
    assert caplog.messages[-2:] == [caplog.messages[-2], "003_c.sql: cancelled and rolled back"]
    assert caplog.messages[-2].startswith("applied 002_b.sql in ")


async def test_cancellation_between_two_files_sends_nothing_of_the_second(
    database: Database, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = folder(FIRST | LAST)
    applied: list[str] = []
    async with RoundTrips(database) as proxy:
        environ = database.at(proxy.port).environ | {"PGSSLMODE": "disable", "MIGRATE_DIR": str(files)}
        running = asyncio.ensure_future(up(from_environ(environ, {}), applied))
        started = transaction.apply

        def cancelling(held: Held, job: Job, *args: object, **kwargs: object) -> object:
            if job.filename == "008_y.sql":
                running.cancel()
            return started(held, job, *args, **kwargs)  # type: ignore[arg-type]

        monkeypatch.setattr(transaction, "apply", cancelling)
        with pytest.raises(asyncio.CancelledError):
            await running

    assert applied == await database.applied() == [*FIRST]
    assert not [query for query in proxy.queries if "008_y.sql" in query and "EXECUTE" in query]
