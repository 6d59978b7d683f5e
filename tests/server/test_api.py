"""`run_migrations`, as an application calls it when it starts, against a real TimescaleDB."""

from __future__ import annotations

import asyncio
import traceback
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import asyncpg
import pytest

from containers import ROOT
from pgslipway import run_migrations
from pgslipway.errors import BadConfiguration, Locked, MigrationFailed
from servers import eventually, pgbouncer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from conftest import Folder
    from servers import Database, Server

EXTENSIONS = ROOT / "migrations" / "001_extensions.sql"
pytestmark = pytest.mark.docker_only


@asynccontextmanager
async def pool_of(database: Database, max_size: int = 2) -> AsyncIterator[asyncpg.Pool[asyncpg.Record]]:
    async with asyncpg.create_pool(database.url, min_size=1, max_size=max_size) as pool:
        yield pool


@pytest.fixture
async def pool(database: Database) -> AsyncIterator[asyncpg.Pool[asyncpg.Record]]:
    async with pool_of(database) as made:
        yield made


@pytest.fixture
def migrations(folder: Folder) -> Path:
    """The folder of the image as it is shipped."""
    return folder({EXTENSIONS.name: EXTENSIONS.read_text()})


async def test_empty_database_gets_the_history_and_the_extension(
    pool: asyncpg.Pool[asyncpg.Record], migrations: Path
) -> None:
    assert await run_migrations(pool, migrations) == ["001_extensions.sql"]

    assert await pool.fetchval("SELECT to_regclass('public.schema_migrations') IS NOT NULL")


async def test_second_call_has_nothing_to_do(pool: asyncpg.Pool[asyncpg.Record], migrations: Path) -> None:
    await run_migrations(pool, migrations)

    assert await run_migrations(pool, str(migrations)) == []


async def test_added_file_is_the_only_one_applied(
    pool: asyncpg.Pool[asyncpg.Record], migrations: Path, folder: Folder
) -> None:
    await run_migrations(pool, migrations)
    folder({"002_test.sql": "CREATE TABLE test (at timestamptz); SELECT create_hypertable('test', 'at');"})

    assert await run_migrations(pool, migrations) == ["002_test.sql"]


async def test_history_has_the_versions_and_filenames(
    pool: asyncpg.Pool[asyncpg.Record], migrations: Path, folder: Folder
) -> None:
    folder({"002_test.sql": "CREATE TABLE test ();"})

    await run_migrations(pool, migrations)

    rows = await pool.fetch("SELECT version, filename FROM schema_migrations ORDER BY version")
    assert [tuple(row) for row in rows] == [(1, "001_extensions.sql"), (2, "002_test.sql")]


async def test_extension_is_active_afterwards(pool: asyncpg.Pool[asyncpg.Record], migrations: Path) -> None:
    assert await pool.fetchval("SELECT count(*) FROM pg_extension WHERE extname = 'timescaledb'") == 0

    await run_migrations(pool, migrations)

    assert await pool.fetchval("SELECT count(*) FROM pg_extension WHERE extname = 'timescaledb'") == 1


async def test_syntax_error_is_rolled_back_not_recorded_and_raised(
    pool: asyncpg.Pool[asyncpg.Record], migrations: Path, folder: Folder
) -> None:
    folder({"002_test.sql": "CREATE TABLE test ();\nCREATE TABEL oops ();"})

    with pytest.raises(MigrationFailed, match=r'002_test.sql:2: syntax error at or near "TABEL"'):
        await run_migrations(pool, migrations)

    assert await pool.fetchval("SELECT to_regclass('test') IS NULL")
    assert [row["version"] for row in await pool.fetch("SELECT version FROM schema_migrations")] == [1]


async def test_extension_file_that_fails_can_be_corrected_on_the_same_pool(
    pool: asyncpg.Pool[asyncpg.Record], folder: Folder
) -> None:
    """A CREATE EXTENSION that is rolled back poisons its session, so the pool must give another."""
    broken = folder({"001_a.sql": f"{EXTENSIONS.read_text()}\nSELECT oops;"})
    with pytest.raises(MigrationFailed):
        await run_migrations(pool, broken)

    assert await run_migrations(pool, folder({"001_a.sql": EXTENSIONS.read_text()})) == ["001_a.sql"]


async def test_one_connection_is_enough(database: Database, folder: Folder) -> None:
    async with pool_of(database, max_size=1) as pool:
        assert await run_migrations(pool, folder({"001_a.sql": "-- no-transaction\nVACUUM"})) == ["001_a.sql"]

        assert pool.get_size() == 1


async def test_connection_comes_back_as_it_was(database: Database, folder: Folder) -> None:
    files = folder({"001_a.sql": "SET search_path = ''; SET lock_timeout = '1h'; CREATE TEMP TABLE t ();"})
    async with pool_of(database, max_size=1) as pool:
        await run_migrations(pool, files)

        async with pool.acquire() as connection:
            assert await connection.fetchval("SHOW search_path") == '"$user", public'
            assert await connection.fetchval("SHOW lock_timeout") == "0"
            assert await connection.fetchval("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == 0


async def test_keywords_are_the_settings(pool: asyncpg.Pool[asyncpg.Record], folder: Folder) -> None:
    files = folder({"001_a.sql": ""})

    await run_migrations(pool, files, schema="audit", table="history")

    assert await pool.fetchval("SELECT count(*) FROM audit.history") == 1


async def test_variables_are_a_keyword(
    pool: asyncpg.Pool[asyncpg.Record], folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIGRATE_VAR_NAME", "other")
    files = folder({"001_a.sql": "-- variables: Name\nCREATE TABLE \"${Name}\" AS SELECT '${Name}' AS a;"})

    with pytest.raises(BadConfiguration) as caught:
        await run_migrations(pool, files)
    await run_migrations(pool, files, variables={"Name": "it's"})

    folder({"002_b.sql": "-- variables: Name\nSELECT '${Name}'::int;"})
    with pytest.raises(MigrationFailed, match=r"invalid input syntax for type integer: \"\$\{name\}\"") as failed:
        await run_migrations(pool, files, variables={"Name": "it's"})
    with pytest.raises(BadConfiguration, match="each value must be a string; not so: MIGRATE_VAR_NAME"):
        await run_migrations(pool, files, variables={"Name": 5})  # type: ignore[dict-item]

    assert "it's" not in "".join(traceback.format_exception(failed.value, limit=0))
    assert str(caught.value) == "001_a.sql needs MIGRATE_VAR_NAME, the value of its variable ${Name}"
    assert await pool.fetchval('SELECT a FROM "it\'s"') == "it's"


async def test_another_tools_history_is_adopted(pool: asyncpg.Pool[asyncpg.Record], folder: Folder) -> None:
    files = folder({f"{n}_a.sql": f"-- migrate:up\nCREATE TABLE t{n} ();\n-- migrate:down\n" for n in (1, 2)})
    await pool.execute("CREATE TABLE versions (version varchar PRIMARY KEY); INSERT INTO versions VALUES ('1')")

    applied = await run_migrations(pool, files, layout="dbmate", adopt="dbmate:versions")

    assert applied == ["2_a.sql"]
    rows = await pool.fetch("SELECT version, filename FROM schema_migrations ORDER BY version")
    assert [tuple(row) for row in rows] == [(1, "1_a.sql"), (2, "2_a.sql")]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"adopt": "gosse"}, r"MIGRATE_ADOPT: expected none, baseline:VERSION@RELATION or one of .*, not 'gosse'"),
        ({"layout": "gosse"}, r"MIGRATE_LAYOUT: expected auto or plain or .*, not 'gosse'"),
    ],
    ids=["adopt", "layout"],
)
async def test_misspelt_tool_is_refused(
    settings: dict[str, str], message: str, pool: asyncpg.Pool[asyncpg.Record], folder: Folder
) -> None:
    with pytest.raises(BadConfiguration, match=message):
        await run_migrations(pool, folder({"001_a.sql": ""}), **settings)  # type: ignore[arg-type]


async def test_lock_timeout_is_in_seconds(
    database: Database, pool: asyncpg.Pool[asyncpg.Record], folder: Folder
) -> None:
    async with database.migration_lock():
        with pytest.raises(Locked):
            await run_migrations(pool, folder({"001_a.sql": ""}), lock_timeout=0.2)


async def test_ten_applications_at_once_apply_each_file_once(database: Database, folder: Folder) -> None:
    files = folder({f"{n:03}_a.sql": f"CREATE TABLE t{n} ();" for n in range(1, 6)})

    async def start() -> list[str]:
        async with pool_of(database) as pool:
            return await run_migrations(pool, files)

    applied = await asyncio.gather(*(start() for _ in range(10)))

    assert sorted(name for names in applied for name in names) == [f"{n:03}_a.sql" for n in range(1, 6)]


async def test_cancelling_rolls_back(database: Database, pool: asyncpg.Pool[asyncpg.Record], folder: Folder) -> None:
    files = folder({"001_a.sql": "CREATE TABLE a (); SELECT pg_sleep(3600);"})
    task = asyncio.create_task(run_migrations(pool, files))
    sleeping = (
        "SELECT FROM pg_stat_activity WHERE query LIKE '%pg_sleep(3600)%' AND state = 'active' "
        "AND pid <> pg_backend_pid() AND datname = current_database()"
    )
    await eventually(lambda: database.fetch(sleeping), "the migration sleeps")

    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert await database.fetch(sleeping) == []
    assert await pool.fetchval("SELECT to_regclass('a') IS NULL")


async def test_pooler_is_refused_with_the_reason(
    server: Server, database: Database, tools: str, folder: Folder
) -> None:
    assert tools
    files = folder({"001_a.sql": ""})
    with pgbouncer(server, pool_mode="transaction", default_pool_size=2) as pooler:
        pooled = database.at(pooler.port)
        async with asyncpg.create_pool(pooled.url, min_size=1, max_size=1, statement_cache_size=0) as pool:
            with pytest.raises(BadConfiguration, match="needs a second connection"):
                await run_migrations(pool, files)
