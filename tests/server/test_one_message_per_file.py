"""Files after the first of a run: one message each, and told of as if it were three."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

import pytest

from servers import eventually

if TYPE_CHECKING:
    from conftest import Folder, Slipway
    from servers import Database

FIRST = {"001_a.sql": "CREATE TABLE a (n int UNIQUE DEFERRABLE INITIALLY DEFERRED, t text);"}


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        pytest.param(
            "-- für 🐘\nSELECT 'é🐘', nowhere FROM a;",
            '002_ü.sql:2: column "nowhere" does not exist\n'
            "  2 | SELECT 'é🐘', nowhere FROM a;\n"
            "    |              ^\nSQLSTATE 42703\n002_ü.sql was rolled back",
            id="a_place_behind_other_characters",
        ),
        pytest.param(
            "SELECT 1 +",
            "002_ü.sql:1: syntax error at end of input\n"
            "  1 | SELECT 1 +\n"
            "    |           ^\nSQLSTATE 42601\n002_ü.sql was rolled back",
            id="an_end_that_is_missing",
        ),
        pytest.param("INSERT INTO a VALUES (1), (1);", "Key (n)=(1) already exists.", id="a_deferred_constraint"),
        pytest.param("DELETE FROM public.schema_migrations;", "removed its own row", id="the_row_removed"),
        pytest.param("DROP TABLE public.schema_migrations;", 'schema_migrations" does not exist', id="the_table_gone"),
    ],
)
async def test_failure_says_where_and_what_is_left(
    database: Database, folder: Folder, slipway: Slipway, sql: str, expected: str
) -> None:
    files = folder(FIRST | {"002_ü.sql": sql, "003_c.sql": "CREATE TABLE c ();"})

    finished = slipway(env=database.environ, migrations=files)

    assert finished.code == 24, finished
    assert expected in finished.err
    assert "002_ü.sql was rolled back" in finished.err
    assert finished.outcome
    assert finished.outcome["applied"] == ["001_a.sql"]
    (row,) = await database.fetch("SELECT array_agg(version) FROM schema_migrations")
    assert row[0] == [1]


@pytest.mark.parametrize("sql", ["", "-- nothing", "BEGIN; CREATE TABLE b (); COMMIT; -- no line end"])
async def test_whatever_a_file_ends_with_is_applied(
    database: Database, folder: Folder, slipway: Slipway, sql: str
) -> None:
    files = folder(FIRST | {"002_b.sql": sql, "003_c.sql": "CREATE TABLE c ()"})

    finished = slipway(env=database.environ, migrations=files)

    assert finished.code == 0, finished
    (row,) = await database.fetch("SELECT to_regclass('c') IS NOT NULL, count(*) FROM schema_migrations")
    assert tuple(row) == (True, 3)


async def test_strings_are_read_as_the_file_was_checked(database: Database, folder: Folder, slipway: Slipway) -> None:
    await database.execute(f"ALTER DATABASE {database.name} SET standard_conforming_strings = off")
    files = folder(FIRST | {"002_b.sql": r"INSERT INTO a VALUES (1, 'one\n'); -- it's one string"})

    finished = slipway(env=database.environ, migrations=files)

    assert finished.code == 0, finished
    (row,) = await database.fetch("SELECT t FROM a")
    assert row["t"] == r"one\n"


async def test_settings_do_not_reach_the_next_file(database: Database, folder: Folder, slipway: Slipway) -> None:
    files = folder(
        FIRST
        | {
            "002_b.sql": "SET search_path = pg_catalog; SET lock_timeout = '1h'; CREATE TEMP TABLE mine ();",
            "003_c.sql": "INSERT INTO a SELECT 1, current_setting('lock_timeout') WHERE to_regclass('mine') IS NULL;",
        }
    )

    finished = slipway(env=database.environ, migrations=files)

    assert finished.code == 0, finished
    (row,) = await database.fetch("SELECT t FROM a")
    assert row["t"] == "500ms"


async def test_lock_that_a_later_file_drops_is_taken_again(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    files = folder(FIRST | {"002_b.sql": "SELECT pg_advisory_unlock_all();", "003_c.sql": "CREATE TABLE c ();"})

    finished = slipway(env=database.environ, migrations=files)

    assert finished.code == 0, finished
    assert "starting over: the migration lock was dropped" in finished.err
    assert finished.outcome
    assert finished.outcome["applied"] == ["001_a.sql", "002_b.sql", "003_c.sql"]


async def test_file_that_another_runner_has_recorded_is_not_applied_again(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    record = "INSERT INTO public.schema_migrations (version, filename) VALUES (2, '002_b.sql');"
    files = folder({"001_a.sql": record, "002_b.sql": "CREATE TABLE b ();"})

    finished = slipway(env=database.environ, migrations=files)

    assert finished.code == 0, finished
    assert "starting over: 002_b.sql was applied by another runner" in finished.err
    (row,) = await database.fetch("SELECT to_regclass('b')")
    assert row[0] is None


async def test_file_whose_table_is_busy_is_tried_again(database: Database, folder: Folder, slipway: Slipway) -> None:
    await database.execute("CREATE TABLE busy ()")
    files = folder(FIRST | {"002_b.sql": "ALTER TABLE busy ADD COLUMN n int;"})
    async with database.connection() as other:
        await other.execute("BEGIN; LOCK TABLE busy")
        process = slipway.start(env=database.environ, migrations=files, ddl_lock_timeout="100ms")
        await asyncio.to_thread(process.wait_for_log, "rolled back, trying again")
        await other.execute("ROLLBACK")
        finished = await asyncio.to_thread(process.finish)

    assert finished.code == 0, finished
    assert len(await database.fetch("SELECT n FROM busy")) == 0


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["term", "int"])
async def test_signal_rolls_the_file_back(
    database: Database, folder: Folder, slipway: Slipway, signum: signal.Signals, code: int
) -> None:
    files = folder(FIRST | {"002_b.sql": "CREATE TABLE b (); SELECT pg_sleep(600);"})
    process = slipway.start(env=database.environ, migrations=files)
    sleeping = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'"
    await eventually(lambda: database.fetch(sleeping), "the statement to run")

    process.terminate(signum)

    finished = await asyncio.to_thread(process.finish)
    assert finished.code == code, finished
    assert "002_b.sql: cancelled and rolled back" in finished.err
    (row,) = await database.fetch("SELECT to_regclass('b'), array_agg(version) FROM schema_migrations")
    assert tuple(row) == (None, [1])


async def test_the_server_shows_which_file_it_works_on(database: Database, folder: Folder, slipway: Slipway) -> None:
    files = folder(FIRST | {"002_b.sql": "SELECT pg_sleep(600);"})
    process = slipway.start(env=database.environ, migrations=files)
    named = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND query LIKE '-- 002\\_b.sql%'"

    await eventually(lambda: database.fetch(named), "the file's name")

    process.terminate(signal.SIGTERM)
    assert (await asyncio.to_thread(process.finish)).code == 143
