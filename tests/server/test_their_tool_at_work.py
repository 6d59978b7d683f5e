"""Adopting while the other tool is in the middle of a file: what its history looks like then is no failure yet."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from conftest import Slipway
    from servers import Database

PRISMA, TERN = 72707369, 9628173550095224
"""The keys of their locks."""
BEGUN = """
CREATE TABLE _prisma_migrations (
    id varchar(36) PRIMARY KEY, checksum varchar(64) NOT NULL, finished_at timestamptz,
    migration_name varchar(255) NOT NULL, logs text, rolled_back_at timestamptz,
    started_at timestamptz NOT NULL DEFAULT now(), applied_steps_count integer NOT NULL DEFAULT 0
);
INSERT INTO _prisma_migrations (id, checksum, migration_name) VALUES ('1', '', '20260101000000_a');
"""
DONE = "UPDATE _prisma_migrations SET finished_at = now()"
FAILED = (
    "prisma's public._prisma_migrations cannot be adopted: 20260101000000_a failed; mend it and run: "
    "prisma migrate resolve --applied (or --rolled-back)"
)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Two of Prisma's, of which the first would fail here."""
    for name, sql in {"20260101000000_a": "SELECT 1 / 0", "20260102000000_b": "CREATE TABLE b ()"}.items():
        (tmp_path / "files" / name).mkdir(parents=True)
        (tmp_path / "files" / name / "migration.sql").write_text(sql)
    return tmp_path / "files"


@asynccontextmanager
async def at_work(database: Database, key: int) -> AsyncIterator[str]:
    """Somebody holds the lock with this key, and is called like that."""
    async with database.connection() as theirs:
        await theirs.execute(f"SET application_name = 'theirs'; SELECT pg_advisory_lock({key})")
        yield f"pid {theirs.get_server_pid()} (theirs from "


async def test_begun_migration_is_waited_for(database: Database, files: Path, slipway: Slipway) -> None:
    await database.execute(BEGUN)
    async with at_work(database, PRISMA):
        ours = slipway.start(env=database.environ, migrations=files, adopt="prisma", log_format="text")
        await asyncio.to_thread(ours.wait_for_log, "waiting for the lock of prisma's public._prisma_migrations, held")
        await database.execute(DONE)
    finished = await asyncio.to_thread(ours.finish)

    assert finished.code == 0, finished
    assert await database.applied() == ["20260101000000_a/migration.sql", "20260102000000_b/migration.sql"]


async def test_begun_migration_without_anybody_at_work_has_failed(
    database: Database, files: Path, slipway: Slipway
) -> None:
    await database.execute(BEGUN)

    for command in ("up", "adopt", "plan", "status", "wait"):
        finished = await asyncio.to_thread(slipway, command, env=database.environ, migrations=files, adopt="prisma")

        assert finished.code == 23, finished
        assert finished.outcome
        assert finished.outcome["message"] == FAILED


async def test_those_who_look_are_told_who_is_at_work(database: Database, files: Path, slipway: Slipway) -> None:
    await database.execute(BEGUN)
    async with at_work(database, PRISMA) as name:
        for command in ("plan", "status"):
            finished = await asyncio.to_thread(slipway, command, env=database.environ, migrations=files, adopt="prisma")

            assert finished.code == 11, finished
            assert finished.outcome
            assert finished.outcome["message"].startswith(
                f"prisma's public._prisma_migrations cannot be adopted yet: its lock is held by {name}"
            )


async def test_wait_goes_on_while_they_are_at_work(database: Database, files: Path, slipway: Slipway) -> None:
    await database.execute(BEGUN)
    async with at_work(database, PRISMA):
        waiting = slipway.start("wait", env=database.environ, migrations=files, adopt="prisma", log_format="text")
        await asyncio.to_thread(waiting.wait_for_log, "waiting for the schema: prisma's public._prisma_migrations")
        await database.execute(DONE)
    migrated = await asyncio.to_thread(slipway, env=database.environ, migrations=files, adopt="prisma")
    waited = await asyncio.to_thread(waiting.finish)

    assert (migrated.code, waited.code) == (0, 0), f"{migrated}\n{waited}"


async def test_their_first_file_is_waited_for(database: Database, tmp_path: Path, slipway: Slipway) -> None:
    """Nothing is in their table yet, and they are about to commit."""
    await database.execute("CREATE TABLE schema_version (version int4 NOT NULL); INSERT INTO schema_version VALUES (0)")
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "001_a.sql").write_text("SELECT 1 / 0;\n---- create above / drop below ----\n")
    async with at_work(database, TERN):
        ours = slipway.start(env=database.environ, migrations=tmp_path / "files", adopt="tern", log_format="text")
        await asyncio.to_thread(ours.wait_for_log, "waiting for the lock of tern's public.schema_version, held by pid")
        await database.execute("UPDATE schema_version SET version = 1")
    finished = await asyncio.to_thread(ours.finish)

    assert finished.code == 0, finished
    assert await database.applied() == ["001_a.sql"]


async def test_empty_table_is_a_fresh_database(database: Database, tmp_path: Path, slipway: Slipway) -> None:
    await database.execute("CREATE TABLE schema_version (version int4 NOT NULL); INSERT INTO schema_version VALUES (0)")
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "001_a.sql").write_text("CREATE TABLE a ();\n---- create above / drop below ----\n")

    env = {**database.environ, "MIGRATE_ADOPT": "tern"}
    planned = slipway("plan", env=env, migrations=tmp_path / "files")
    adopted = slipway("adopt", env=env, migrations=tmp_path / "files", log_format="text")
    status = slipway("status", "--exit-code", env=env, migrations=tmp_path / "files")
    finished = slipway(env=env, migrations=tmp_path / "files")

    assert planned.out == "apply 001_a.sql (1 statement, in a transaction)\n"
    assert adopted.err.endswith(" nothing to adopt\n"), adopted
    assert status.code == 14, status
    assert status.outcome
    assert status.outcome["message"] == "1 migration pending: 001_a.sql"
    assert finished.code == 0, finished
    assert await database.applied() == ["001_a.sql"]


async def test_replicas_that_start_together_adopt_once(database: Database, files: Path, slipway: Slipway) -> None:
    await database.execute(f"{BEGUN}; {DONE}")

    running = [slipway.start(env=database.environ, migrations=files, adopt="prisma") for _ in range(8)]
    finished = [await asyncio.to_thread(one.finish) for one in running]

    assert [one.code for one in finished] == [0] * len(running), [str(one) for one in finished if one.code]
    assert await database.applied() == ["20260101000000_a/migration.sql", "20260102000000_b/migration.sql"]
