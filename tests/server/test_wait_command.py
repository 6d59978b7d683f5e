"""`pgslipway wait`: an app's pod waits for the schema with no right but to read the history."""

from __future__ import annotations

import asyncio
import shutil
import signal
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from pgslipway.config import from_environ
from pgslipway.settings import DEFAULTS
from proxy import RoundTrips
from servers import LOCALHOST

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Folder, Slipway
    from servers import Cluster, Database

FIRST = {"001_a.sql": "CREATE TABLE a ();"}
BOTH = FIRST | {"002_b.sql": "CREATE TABLE b ();"}


async def reader_of(database: Database) -> Database:
    """The database for a role that may read the history and write nothing at all."""
    reader = await database.create_role("slipway_waiter")
    await database.execute("""
        ALTER ROLE slipway_waiter SET default_transaction_read_only = on;
        GRANT SELECT ON schema_migrations TO slipway_waiter""")
    return reader


async def test_schema_that_is_there_is_no_round_trip_after_the_handshake(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    files = folder(BOTH)
    slipway(env=database.environ, migrations=files)
    reader = await reader_of(database)

    async with database.migration_lock(), RoundTrips(reader) as proxy:
        environ = reader.at(proxy.port).environ | {"PGSSLMODE": "disable"}
        finished = await asyncio.to_thread(slipway, "wait", env=environ, migrations=files)

    assert finished.code == 0, finished
    assert "up to date: the newest of 2 migrations is 002_b.sql" in finished.err
    assert (proxy.handshake, proxy.after_handshake) == (3, 0)


async def test_waits_for_a_run_and_says_what_is_missing_when_that_changes(
    database: Database, folder: Folder, slipway: Slipway, tmp_path: Path
) -> None:
    files = folder(FIRST)
    older = shutil.copytree(files, tmp_path / "older")
    slipway(env=database.environ, migrations=files)
    await database.execute("DROP TABLE a, schema_migrations")
    reader = await database.create_role("slipway_wait_late")
    folder(BOTH)

    waiter = slipway.start("wait", env=reader.environ, migrations=files)
    waiter.wait_for_log("waiting for the schema: 2 migrations missing: 001_a.sql, 002_b.sql")
    await asyncio.to_thread(slipway, env=database.environ, migrations=older)
    waiter.wait_for_log('waiting for the schema: "public"."schema_migrations" cannot be read yet: permission denied')
    await database.execute("GRANT SELECT ON schema_migrations TO slipway_wait_late")
    waiter.wait_for_log("waiting for the schema: 1 migration missing: 002_b.sql")
    await asyncio.to_thread(slipway, env=database.environ, migrations=files)
    finished = await asyncio.to_thread(waiter.finish)

    assert finished.code == 0, finished
    assert finished.err.count("waiting for the schema") == 3, finished


async def test_waiting_takes_no_lock_and_keeps_no_connection(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    waiter = slipway.start("wait", env=database.environ, migrations=folder(BOTH))
    waiter.wait_for_log("waiting for the schema")

    run = await asyncio.to_thread(slipway, env=database.environ, migrations=folder({}), lock_timeout="1ms")
    finished = await asyncio.to_thread(waiter.finish)

    assert run.code == 0, run
    assert "waiting for the migration lock" not in run.err
    assert finished.code == 0, finished


def test_gives_up_with_what_is_missing(database: Database, folder: Folder, slipway: Slipway) -> None:
    finished = slipway("wait", env=database.environ, migrations=folder(BOTH), wait_timeout="300ms")

    assert finished.code == 14, finished
    assert finished.outcome
    assert finished.outcome["message"] == (
        f"{database.target}: 2 migrations missing: 001_a.sql, 002_b.sql (gave up after MIGRATE_WAIT_TIMEOUT=0.3s)"
    )


async def test_server_that_does_not_answer_in_the_end_does_not_hide_what_was_missing(
    cluster: Cluster, folder: Folder, slipway: Slipway
) -> None:
    database = cluster.server.database()
    waiter = slipway.start("wait", env=database.environ, migrations=folder(BOTH), wait_timeout="3s")
    waiter.wait_for_log("waiting for the schema")

    cluster.stop()
    finished = await asyncio.to_thread(waiter.finish)

    assert finished.code == 14, finished
    assert "when it last answered: 2 migrations missing: 001_a.sql, 002_b.sql" in finished.err


async def test_history_that_is_locked_is_not_there_yet(database: Database, folder: Folder, slipway: Slipway) -> None:
    files = folder(BOTH)
    slipway(env=database.environ, migrations=files)
    async with database.connection() as other:
        await other.execute("BEGIN; LOCK TABLE schema_migrations")
        finished = await asyncio.to_thread(slipway, "wait", env=database.environ, migrations=files, wait_timeout="8s")

    assert finished.code == 14, finished
    assert "cannot be read yet: canceling statement due to lock timeout" in finished.err


def test_server_that_never_answers_is_unavailable(folder: Folder, slipway: Slipway) -> None:
    nobody = {"PGHOST": LOCALHOST, "PGPORT": "1", "PGUSER": "app"}

    finished = slipway("wait", env=nobody, migrations=folder(BOTH), wait_timeout="300ms")

    assert finished.code == 10, finished


async def test_waits_on_while_the_server_is_away(cluster: Cluster, folder: Folder, slipway: Slipway) -> None:
    database = cluster.server.database()
    waiter = slipway.start("wait", env=database.environ, migrations=folder(BOTH))
    waiter.wait_for_log("waiting for the schema")

    cluster.stop()
    waiter.wait_for_log("Connection refused")
    cluster.start()
    run = await asyncio.to_thread(slipway, env=database.environ, migrations=folder({}))
    finished = await asyncio.to_thread(waiter.finish)

    assert (run.code, finished.code) == (0, 0), finished


async def test_wrong_password_is_not_waited_for(database: Database, folder: Folder, slipway: Slipway) -> None:
    reader = await database.create_role("slipway_wait_stranger")

    finished = slipway("wait", env=replace(reader, password="wrong password").environ, migrations=folder(BOTH))

    assert finished.code == 22, finished


async def test_newer_schema_will_do(database: Database, folder: Folder, slipway: Slipway) -> None:
    slipway(env=database.environ, migrations=folder(BOTH))
    (folder.path / "002_b.sql").unlink()

    finished = slipway("wait", env=database.environ, migrations=folder({}))

    assert finished.code == 0, finished
    assert "warning: the database is ahead of this image, by 002_b.sql" in finished.err


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"001_a.sql": "CREATE TABLE edited ();"}, "001_a.sql was edited after it was applied"),
        ({"001_a.sql": None, "002_b.sql": None, "003_c.sql": ""}, "001_a.sql was applied but is not in this image"),
    ],
    ids=["edited", "missing"],
)
async def test_conflict_is_not_waited_for(
    change: dict[str, str | None], reason: str, database: Database, folder: Folder, slipway: Slipway
) -> None:
    slipway(env=database.environ, migrations=folder(BOTH))
    for name, text in change.items():
        (folder.path / name).unlink(missing_ok=True)
        folder({} if text is None else {name: text})

    finished = slipway("wait", env=database.environ, migrations=folder({}))

    assert finished.code == 23, finished
    assert reason in finished.err


async def test_table_of_another_tool_is_not_waited_for(database: Database, folder: Folder, slipway: Slipway) -> None:
    await database.execute("CREATE TABLE schema_migrations (version bigint PRIMARY KEY, dirty boolean)")

    finished = slipway("wait", env=database.environ, migrations=folder(BOTH))

    assert finished.code == 23, finished
    assert "golang-migrate" in finished.err


def test_signal_ends_the_waiting(database: Database, folder: Folder, slipway: Slipway) -> None:
    waiter = slipway.start("wait", env=database.environ, migrations=folder(BOTH))
    waiter.wait_for_log("waiting for the schema")

    waiter.terminate(signal.SIGTERM)

    assert waiter.finish().code == 143


@pytest.mark.parametrize(
    ("environ", "seconds"), [({}, 600.0), ({"MIGRATE_WAIT_TIMEOUT": "0"}, 0.0)], ids=["not given", "given"]
)
def test_patience_is_that_of_a_long_migration_where_none_is_given(environ: dict[str, str], seconds: float) -> None:
    assert from_environ(environ, {}, defaults=DEFAULTS["wait"]).wait_timeout == seconds
