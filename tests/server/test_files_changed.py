"""A mounted ConfigMap that is swapped during a run, as the kubelet does it: the run goes on with the files as they are.

In such a volume every file is a link into `..data`, which is itself a link, and is replaced at once.
"""

from __future__ import annotations

import asyncio
from hashlib import sha256
from typing import TYPE_CHECKING

import asyncpg
import pytest

from pgslipway import run_migrations
from pgslipway.config import from_keywords
from pgslipway.errors import FilesChanged, Problem
from pgslipway.run import CHANGES, Run
from servers import eventually

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from conftest import Folder, Slipway
    from servers import Database, Embedded

FILES = {"001_a.sql": "CREATE TABLE a ();", "002_b.sql": "CREATE TABLE old ();"}
NEW = "CREATE TABLE new ();"
BLOCKED = "SELECT pg_advisory_xact_lock(1);"


class ConfigMap:
    """A mounted ConfigMap; called, it has these files and no other."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._swaps = 0
        folder.mkdir()

    def __call__(self, files: Mapping[str, str]) -> Path:
        self._swaps += 1
        version = self.folder / f"..{self._swaps}"
        version.mkdir()
        for name, content in files.items():
            (version / name).write_text(content)
        (self.folder / "..data_tmp").symlink_to(version.name)
        (self.folder / "..data_tmp").replace(self.folder / "..data")
        for link in [path for path in self.folder.iterdir() if path.suffix == ".sql" and path.name not in files]:
            link.unlink()
        for name in files:
            if not (self.folder / name).is_symlink():
                (self.folder / name).symlink_to(f"..data/{name}")
        return self.folder


@pytest.fixture
def volume(tmp_path: Path) -> ConfigMap:
    """`volume({"001_a.sql": ""})` is the folder of a ConfigMap; called again, its content is swapped."""
    return ConfigMap(tmp_path / "volume")


async def tables(database: Database) -> list[str]:
    rows = await database.fetch("SELECT tablename AS relname FROM pg_tables WHERE schemaname = 'public'")
    return sorted(row["relname"] for row in rows if not row["relname"].startswith("schema_migrations"))


SWAPS = {
    "edited": (FILES | {"002_b.sql": NEW}, "002_b.sql", ["a", "new"]),
    "edited, without a transaction": (FILES | {"002_b.sql": f"-- no-transaction\n{NEW}"}, "002_b.sql", ["a", "new"]),
    "added": (FILES | {"003_c.sql": NEW}, "003_c.sql", ["a", "new", "old"]),
    "removed": ({"001_a.sql": FILES["001_a.sql"]}, "002_b.sql", ["a"]),
    "renamed": ({"001_a.sql": FILES["001_a.sql"], "002_x.sql": NEW}, "002_b.sql, 002_x.sql", ["a", "new"]),
}


@pytest.mark.parametrize(("swapped", "changed", "made"), SWAPS.values(), ids=SWAPS)
async def test_files_that_change_while_the_lock_is_awaited_are_applied_as_they_are_then(
    swapped: dict[str, str], changed: str, made: list[str], volume: ConfigMap, database: Database, slipway: Slipway
) -> None:
    async with database.migration_lock():
        waiter = slipway.start(env=database.environ, migrations=volume(FILES))
        await asyncio.to_thread(waiter.wait_for_log, "waiting for the migration lock")
        volume(swapped)
    finished = await asyncio.to_thread(waiter.finish)

    assert finished.code == 0, finished
    assert f"starting over with the files as they are now; changed: {changed}\n" in finished.err
    assert await database.applied() == sorted(swapped)
    assert await tables(database) == made


async def test_files_that_change_while_postgres_starts_are_applied_as_they_are_then(
    volume: ConfigMap, embedded: Embedded, slipway: Slipway
) -> None:
    cluster = embedded.cluster()
    process = slipway.start(env=cluster.database.environ, migrations=volume(FILES))
    process.wait_for_log("waiting for")
    volume(FILES | {"003_c.sql": NEW})
    cluster.start()
    finished = process.finish()

    assert finished.code == 0, finished
    assert await tables(cluster.database) == ["a", "new", "old"]


async def test_files_that_came_while_another_runner_applied_the_others_are_applied(
    volume: ConfigMap, database: Database, slipway: Slipway
) -> None:
    slipway(env=database.environ, migrations=volume({"001_a.sql": FILES["001_a.sql"]}))
    volume(FILES)
    async with database.migration_lock():
        waiter = slipway.start(env=database.environ, migrations=volume.folder)
        await asyncio.to_thread(waiter.wait_for_log, "waiting for the migration lock")
        volume(FILES | {"003_c.sql": NEW})
        checksum = sha256(FILES["002_b.sql"].encode()).hexdigest()
        await database.execute(
            f"INSERT INTO schema_migrations (version, filename, checksum) VALUES (2, '002_b.sql', '{checksum}')"
        )
        await asyncio.to_thread(waiter.wait_for_log, "starting over")
    finished = await asyncio.to_thread(waiter.finish)

    assert finished.code == 0, finished
    assert await tables(database) == ["a", "new"]


async def test_wait_waits_for_the_files_as_they_are(volume: ConfigMap, database: Database, slipway: Slipway) -> None:
    waiter = slipway.start("wait", env=database.environ, migrations=volume(FILES))
    await asyncio.to_thread(waiter.wait_for_log, "waiting for the schema")
    volume({"001_a.sql": NEW})
    finished = await asyncio.to_thread(slipway, env=database.environ, migrations=volume.folder)
    waited = await asyncio.to_thread(waiter.finish)

    assert [finished.code, waited.code] == [0, 0], f"{finished}{waited}"
    assert "starting over with the files as they are now; changed: 001_a.sql, 002_b.sql\n" in waited.err


async def test_folder_that_is_bad_by_then_is_told_as_ever(
    volume: ConfigMap, database: Database, slipway: Slipway
) -> None:
    async with database.migration_lock():
        waiter = slipway.start(env=database.environ, migrations=volume(FILES))
        await asyncio.to_thread(waiter.wait_for_log, "waiting for the migration lock")
        volume(FILES | {"003_c.sql": "COMMIT;", "paid.sql": ""})
    finished = await asyncio.to_thread(waiter.finish)

    assert finished.code == 21, finished
    assert finished.outcome
    assert finished.outcome["message"] == (
        "paid.sql: not a migration's name; name it <version>_<description>.sql, such as 007_add_orders.sql"
    )
    assert await tables(database) == []


async def test_other_entries_of_the_folder_do_not_count(folder: Folder, database: Database, slipway: Slipway) -> None:
    async with database.migration_lock():
        waiter = slipway.start(env=database.environ, migrations=folder(FILES))
        await asyncio.to_thread(waiter.wait_for_log, "waiting for the migration lock")
        folder({"README.md": "", "002_b.down.sql": ""})
    finished = await asyncio.to_thread(waiter.finish)

    assert finished.code == 0, finished
    assert "starting over" not in finished.err


async def is_blocked(database: Database) -> bool:
    return bool(await database.fetch("SELECT FROM pg_locks WHERE locktype = 'advisory' AND objid = 1 AND NOT granted"))


async def test_file_that_changes_while_one_before_it_runs_is_applied_as_it_is_then(
    volume: ConfigMap, database: Database, slipway: Slipway
) -> None:
    first = {"001_a.sql": f"{BLOCKED} CREATE TABLE a ();"}
    async with database.connection() as blocker:
        await blocker.execute("SELECT pg_advisory_lock(1)")
        process = slipway.start(env=database.environ, migrations=volume(FILES | first), ddl_lock_timeout="0")
        await eventually(lambda: is_blocked(database), "the first file to run")
        volume(FILES | first | {"002_b.sql": NEW})
    finished = await asyncio.to_thread(process.finish)

    assert finished.code == 0, finished
    assert finished.outcome
    assert finished.outcome["applied"] == ["001_a.sql", "002_b.sql"]
    assert await tables(database) == ["a", "new"]


async def test_applications_start_over_as_well(volume: ConfigMap, database: Database) -> None:
    first = {"001_a.sql": f"{BLOCKED} CREATE TABLE a ();"}
    async with asyncpg.create_pool(database.url, min_size=1, max_size=2) as pool, database.connection() as blocker:
        await blocker.execute("SELECT pg_advisory_lock(1)")
        run = asyncio.ensure_future(run_migrations(pool, volume(FILES | first), ddl_lock_timeout=0))
        await eventually(lambda: is_blocked(database), "the first file to run")
        volume(FILES | first | {"002_b.sql": NEW})
        await blocker.execute("SELECT pg_advisory_unlock(1)")
        applied = await run

    assert applied == ["001_a.sql", "002_b.sql"]
    assert await tables(database) == ["a", "new"]


def test_files_that_never_stay_the_same_end_the_run(volume: ConfigMap) -> None:
    config = from_keywords(volume(FILES))
    run = Run(config, [])
    changed = FilesChanged(Problem("changed since this run began; run it again", "001_a.sql"))

    for _ in range(CHANGES):
        run.start_over(changed)
    with pytest.raises(FilesChanged) as raised:
        run.start_over(changed)

    assert raised.value.exit_code == 21
    assert str(raised.value) == "001_a.sql: changed since this run began; run it again"
