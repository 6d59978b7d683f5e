"""The isolation level that a file asks for: it has it, and a conflict with another transaction is tried again."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from servers import eventually

if TYPE_CHECKING:
    from conftest import Folder, Slipway
    from servers import Database

SET = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ;"
FIRST = {"001_a.sql": "CREATE TABLE t (n int); INSERT INTO t VALUES (1); CREATE TABLE levels (level text);"}
FORMS = {
    "set": (SET, ""),
    "set local": ("SET LOCAL transaction_isolation = 'repeatable read';", ""),
    "default": ("SET default_transaction_isolation = 'repeatable read';", ""),
    "session": ("SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL REPEATABLE READ;", ""),
    "begin": ("BEGIN ISOLATION LEVEL REPEATABLE READ;", "COMMIT;"),
    "in a wrapper": (f"BEGIN; {SET}", "COMMIT;"),
    "large": (SET, f"--{' ' * 1_050_000}"),
}
WAITS = "SELECT FROM pg_locks WHERE NOT granted AND database = (SELECT oid FROM pg_database WHERE datname = {})"
LEVEL = "INSERT INTO levels VALUES (current_setting('transaction_isolation'));"


@pytest.mark.parametrize("kind", ["first", "later"])
async def test_file_has_the_isolation_level_that_it_asks_for(
    kind: str, database: Database, folder: Folder, slipway: Slipway
) -> None:
    before = {} if kind == "first" else {"000_first.sql": ""}
    if kind == "first":
        await database.execute(FIRST["001_a.sql"])
    else:
        before |= FIRST
    files = {
        f"{number}_a.sql": f"{opening} {LEVEL} {closing}"
        for number, (opening, closing) in enumerate(FORMS.values(), 100)
        if kind == "later" or number == 100
    }

    finished = slipway(env=database.environ, migrations=folder(before | files | {"999_z.sql": LEVEL}))

    assert finished.code == 0, finished
    rows = await database.fetch("SELECT level FROM levels")
    assert [row["level"] for row in rows] == ["repeatable read"] * len(files) + ["read committed"]


@pytest.mark.parametrize("before", [{}, {"001_nothing.sql": ""}], ids=["in the first file", "in a later file"])
async def test_file_whose_row_another_transaction_has_changed_is_tried_again(
    before: dict[str, str], database: Database, folder: Folder, slipway: Slipway
) -> None:
    await database.execute(FIRST["001_a.sql"])
    files = folder(before | {"002_b.sql": f"{SET} SET LOCAL lock_timeout = '1min'; UPDATE t SET n = n + 10;"})
    async with database.connection() as other, other.transaction():
        await other.execute("UPDATE t SET n = 2")
        runner = slipway.start(env=database.environ, migrations=files)
        await eventually(lambda: database.fetch("SELECT FROM pg_locks WHERE NOT granted"), "the file waits")

    finished = await asyncio.to_thread(runner.finish)

    assert finished.code == 0, finished
    message = "002_b.sql: could not serialize access due to concurrent update; rolled back, trying again in "
    assert message in finished.err
    assert [row["n"] for row in await database.fetch("SELECT n FROM t")] == [12]


@pytest.mark.parametrize("before", [{}, {"001_nothing.sql": ""}], ids=["in the first file", "in a later file"])
async def test_file_that_cannot_be_serialized_at_its_commit_is_tried_again(
    before: dict[str, str], database: Database, folder: Folder, slipway: Slipway
) -> None:
    await database.execute("CREATE TABLE a (n int); CREATE TABLE b (n int)")
    files = folder(
        before
        | {
            "002_b.sql": "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE; SET LOCAL lock_timeout = 0;"
            "INSERT INTO b SELECT count(*) FROM a; SELECT pg_advisory_xact_lock(1);"
        }
    )
    async with database.connection() as other:
        await other.execute("SELECT pg_advisory_lock(1)")
        runner = slipway.start(env=database.environ, migrations=files)
        await eventually(lambda: database.fetch("SELECT FROM pg_locks WHERE NOT granted"), "the file waits")
        async with other.transaction(isolation="serializable"):
            await other.execute("INSERT INTO a SELECT count(*) FROM b")
        await other.execute("SELECT pg_advisory_unlock(1)")
        finished = await asyncio.to_thread(runner.finish)

    assert finished.code == 0, finished
    assert "002_b.sql: could not serialize access due to read/write dependencies among transactions" in finished.err
    assert [row["n"] for row in await database.fetch("SELECT n FROM b")] == [1]


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
@pytest.mark.parametrize("before", [{}, {"001_nothing.sql": ""}], ids=["in the first file", "in a later file"])
async def test_second_runner_finds_the_file_applied(
    before: dict[str, str], level: str, database: Database, folder: Folder, slipway: Slipway
) -> None:
    """Its row waits for that of the first one, with a snapshot from before it was committed."""
    assert slipway(env=database.environ, migrations=folder({"000_first.sql": ""})).code == 0
    files = folder(before | {"002_b.sql": f"SET TRANSACTION ISOLATION LEVEL {level}; CREATE TABLE b ();"})
    async with database.connection() as other, other.transaction():
        await other.execute("INSERT INTO schema_migrations (version, filename) VALUES (2, '002_b.sql')")
        runner = slipway.start(env=database.environ, migrations=files, ddl_lock_timeout="30s")
        await eventually(lambda: database.fetch("SELECT FROM pg_locks WHERE NOT granted"), "the row waits")

    finished = await asyncio.to_thread(runner.finish)

    assert finished.code == 0, finished
    assert finished.err.count("starting over: 002_b.sql was applied by another runner") == 1
    assert finished.outcome
    assert "002_b.sql" not in finished.outcome["applied"]


async def test_conflict_that_does_not_end_is_a_busy_table(database: Database, folder: Folder, slipway: Slipway) -> None:
    files = folder({"002_b.sql": "DO $$ BEGIN RAISE 'never' USING ERRCODE = 'serialization_failure'; END $$"})

    finished = slipway(env=database.environ, migrations=files, ddl_retry="300ms")

    assert finished.code == 12, finished
    assert "002_b.sql: never (MIGRATE_DDL_LOCK_TIMEOUT=0.5s, tried again for MIGRATE_DDL_RETRY=0.3s)" in finished.err
