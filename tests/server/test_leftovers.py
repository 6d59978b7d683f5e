"""What a file leaves in its session does not reach the next one: it does the same wherever it is applied."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import asyncpg
import pytest

from pgslipway import run_migrations
from pgslipway.engine.lock_sql import lock_key
from servers import eventually

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Folder, Slipway
    from servers import Database, Server

MAKES = "CREATE TABLE t (id serial, n int); CREATE SEQUENCE s; CREATE TABLE seen (what text, said text);"
# Statements that leave something, and one that finds it.
LEAVES = {
    "a prepared statement": ("PREPARE one AS SELECT 1", "PREPARE one AS SELECT 2"),
    "a prepared statement that is run": ("PREPARE two AS INSERT INTO t (n) VALUES (2)", "EXECUTE two"),
    "one that a block prepared": ("DO $$ BEGIN EXECUTE 'PREPARE \"T hree\" AS SELECT 1'; END $$", 'EXECUTE "T hree"'),
    "the current value of a sequence": ("SELECT nextval('s')", "SELECT currval('s')"),
    "the current value of a serial column": ("INSERT INTO t (n) VALUES (3)", "SELECT currval('t_id_seq')"),
    "the last value": ("SELECT nextval('s')", "SELECT lastval()"),
    "advisory locks": (
        "SELECT pg_advisory_lock(7), pg_advisory_lock(7, 7), pg_advisory_lock_shared(8)",
        "SELECT 1 / count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid() AND objid IN (7, 8)",
    ),
    "a cursor that is held": ("DECLARE c CURSOR WITH HOLD FOR SELECT 1", "CLOSE c"),
    "a channel": ("LISTEN c", "SELECT 1 / count(*) FROM pg_listening_channels()"),
    "a temporary table": ("CREATE TEMP TABLE mine ()", "TABLE mine"),
    "a setting": ("SET work_mem = '9MB'", "SELECT 1 / (current_setting('work_mem') = '9MB')::int"),
}
FOUND = """DO $do$ BEGIN
    EXECUTE $x${finds}$x$; INSERT INTO seen VALUES ('{what}', 'found');
EXCEPTION WHEN OTHERS THEN INSERT INTO seen VALUES ('{what}', SQLERRM); END $do$;
"""
LEAVING = "; ".join(leaves for leaves, _ in LEAVES.values()) + ";"
FINDING = "".join(FOUND.format(what=what, finds=finds) for what, (_, finds) in LEAVES.items())
KINDS = {
    "in the first file": {"001_a.sql": f"{MAKES} {LEAVING}"},
    "in a later file": {"001_a.sql": MAKES, "002_b.sql": LEAVING},
    "in a large file": {"001_a.sql": f"{MAKES} {LEAVING}\n--{' ' * 1_050_000}"},
    "in a file without a transaction": {"001_a.sql": f"-- no-transaction\n{MAKES} {LEAVING}"},
}


async def apply(server: Server, slipway: Slipway, *folders: Path) -> dict[str, str]:
    """What the last file has found after so many runs on a database of its own."""
    async with server.fresh_database() as database:
        for files in folders:
            finished = await asyncio.to_thread(slipway, env=database.environ, migrations=files)
            assert finished.code == 0, finished
        return {row["what"]: row["said"] for row in await database.fetch("SELECT what, said FROM seen")}


@pytest.mark.parametrize("files", KINDS.values(), ids=KINDS)
async def test_file_finds_the_same_session_whether_it_comes_at_once_or_later(
    files: dict[str, str], server: Server, folder: Folder, slipway: Slipway, tmp_path: Path
) -> None:
    first, both = type(folder)(tmp_path / "first")(files), folder(files | {"003_c.sql": FINDING})

    at_once, one_by_one = await apply(server, slipway, both), await apply(server, slipway, first, both)

    assert at_once == one_by_one
    assert [what for what, said in at_once.items() if said == "found"] == ["a prepared statement"]


async def test_file_that_is_tried_again_may_prepare_its_statements_again(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    """A ROLLBACK leaves them."""
    await database.execute("CREATE TABLE t (n int)")
    files = folder({"001_nothing.sql": "", "002_b.sql": "PREPARE one AS SELECT 1; LOCK TABLE t;"})
    async with database.connection() as other, other.transaction():
        await other.execute("LOCK TABLE t IN SHARE MODE")
        runner = slipway.start(env=database.environ, migrations=files, ddl_lock_timeout="100ms")
        await asyncio.to_thread(runner.wait_for_log, "trying again")

    finished = await asyncio.to_thread(runner.finish)

    assert finished.code == 0, finished


async def test_statements_of_an_application_and_of_its_driver_stay(database: Database, folder: Folder) -> None:
    files = folder(
        {"001_a.sql": 'PREPARE "A b" AS SELECT 1;', "002_b.sql": 'PREPARE "A b" AS SELECT 2;',
         "003_c.sql": '-- no-transaction\nPREPARE "A b" AS SELECT 3; EXECUTE "A b"; VACUUM; EXECUTE "A b";'}
    )  # fmt: skip
    async with asyncpg.create_pool(database.url, min_size=1, max_size=1) as pool:
        assert await pool.fetchval("SELECT 17") == 17
        applied = await run_migrations(pool, files)
        left = await pool.fetch("SELECT name FROM pg_prepared_statements WHERE from_sql")
        kept = await pool.fetchval("SELECT count(*) FROM pg_prepared_statements WHERE statement = 'SELECT 17'")
        again = await pool.fetchval("SELECT 17")

    assert (applied, left, kept, again) == (["001_a.sql", "002_b.sql", "003_c.sql"], [], 1, 17)


async def test_nobody_gets_the_migration_lock_while_the_others_are_dropped(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    files = folder({f"{n:03}_a.sql": f"SELECT pg_advisory_lock({n});" for n in range(1, 60)})
    key = lock_key("public", "schema_migrations")
    got: list[asyncpg.Record] = []
    async with database.connection() as other:
        runner = slipway.start(env=database.environ, migrations=files, lock_timeout="5s")
        await eventually(lambda: database.fetch("SELECT FROM pg_locks WHERE locktype = 'advisory'"), "the lock is held")
        while runner.is_running() and not got:
            got = await other.fetch(f"SELECT FROM generate_series(1, 500) WHERE pg_try_advisory_lock({key}) LIMIT 1")

    finished = await asyncio.to_thread(runner.finish)

    assert finished.code == 0, finished
    assert "starting over" not in finished.err
