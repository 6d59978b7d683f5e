"""PgBouncer in every mode: what works works as without, what cannot is refused, and nothing stays in the pool."""

from __future__ import annotations

import asyncio
import re
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from servers import eventually, pgbouncer, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from conftest import Finished, Folder, Slipway
    from servers import Database, Server

pytestmark = pytest.mark.docker_only

MODES = {
    "session": {"pool_mode": "session", "max_prepared_statements": 0},
    "session, prepared": {"pool_mode": "session", "max_prepared_statements": 100},
    "transaction": {"pool_mode": "transaction", "max_prepared_statements": 0},
    "transaction, prepared": {"pool_mode": "transaction", "max_prepared_statements": 100},
}
IN_EACH_MODE = pytest.mark.parametrize("mode", MODES)
FILES = {
    "001_a.sql": "CREATE TABLE kept (n int); INSERT INTO kept VALUES (1);",
    "002_b.sql": "COPY kept FROM stdin;\n2\n\\.\n",
    "003_c.sql": "-- no-transaction\nINSERT INTO kept VALUES (3);\nCREATE INDEX CONCURRENTLY kept_n ON kept (n);\n"
    "VACUUM kept;\nINSERT INTO kept VALUES (4);\nREINDEX INDEX CONCURRENTLY kept_n;",
    "004_d.sql": "SET search_path = ''; SET statement_timeout = '1h'; CREATE TEMP TABLE left_over ();"
    "PREPARE p AS SELECT 1; SELECT pg_catalog.pg_advisory_lock(1); LISTEN l;"
    "INSERT INTO public.kept VALUES (5);",
}
RUNNING = """
SELECT pid FROM pg_stat_activity
 WHERE datname = current_database() AND state = 'active' AND query LIKE $1 AND pid <> pg_backend_pid()
"""
LEFT_BEHIND = """
SELECT pg_catalog.pg_backend_pid() AS pid, current_user = session_user AND session_user = $1 AS is_nobody_else,
       ARRAY(SELECT pg_catalog.format('%s = %s', name, setting) FROM pg_catalog.pg_settings
              WHERE source = 'session' AND setting <> reset_val
                AND name NOT IN ('application_name', 'client_encoding', 'DateStyle', 'TimeZone',
                    'standard_conforming_strings', 'extra_float_digits')) AS settings,
       ARRAY(SELECT name FROM pg_catalog.pg_prepared_statements WHERE name NOT LIKE 'PGBOUNCER%') AS prepared,
       ARRAY(SELECT pg_catalog.pg_listening_channels()) AS channels,
       ARRAY(SELECT relname::text FROM pg_catalog.pg_class WHERE relnamespace = pg_catalog.pg_my_temp_schema()) AS temp
"""


class Poolers:
    """Poolers with two places for each database, started when they are first asked for."""

    def __init__(self, server: Server, running: ExitStack) -> None:
        self._server, self._running = server, running
        self._ports: dict[tuple[str, int], int] = {}

    def __call__(self, database: Database, mode: str, size: int = 2) -> Database:
        """The database behind a pooler."""
        if (mode, size) not in self._ports:
            settings = MODES.get(mode, {"pool_mode": mode}) | {"default_pool_size": size}
            self._ports[mode, size] = self._running.enter_context(pgbouncer(self._server, **settings)).port
        return database.at(self._ports[mode, size])


@pytest.fixture(scope="module")
def pooled(server: Server, tools: str) -> Iterator[Poolers]:
    """`pooled(database, "session")` is the database behind a pooler in that mode."""
    assert tools
    with ExitStack() as running:
        yield Poolers(server, running)


async def up(slipway: Slipway, database: Database, files: Path, *command: str, **settings: str) -> Finished:
    return await asyncio.to_thread(
        lambda: slipway(*command, env=database.environ, migrations=files, limit=100, **settings)
    )


async def is_running(database: Database, query: str) -> bool:
    return bool(await database.fetch(RUNNING, query))


async def assert_nothing_left(database: Database, through: Database) -> None:
    """Whoever gets the server connections that the pool has now finds them as new; nobody holds an advisory lock."""
    locks = "SELECT FROM pg_locks WHERE locktype = 'advisory' AND granted AND database = (SELECT oid FROM pg_database"

    async def are_free() -> bool:
        return await database.fetch(f"{locks} WHERE datname = current_database())") == []

    await eventually(are_free, "the advisory locks to be gone", limit=5)
    async with through.connection() as one, through.connection() as two:
        await one.execute("BEGIN")
        await two.execute("BEGIN")
        seen = [dict((await connection.fetch(LEFT_BEHIND, database.user))[0]) for connection in (one, two)]
    assert len({each.pop("pid") for each in seen}) == 2
    clean = {"is_nobody_else": True, "settings": [], "prepared": [], "channels": [], "temp": []}
    assert seen == [clean, clean]


async def assert_all_done_once(database: Database) -> None:
    assert await database.applied() == sorted(FILES)
    assert [row["n"] for row in await database.fetch("SELECT n FROM kept ORDER BY n")] == [1, 2, 3, 4, 5]
    assert await database.fetch("SELECT FROM schema_migrations_steps") == []
    assert await database.fetch("SELECT FROM pg_index WHERE NOT indisvalid") == []


# --- what works -------------------------------------------------------------------------------------------------


@IN_EACH_MODE
async def test_every_kind_of_file_is_applied_and_nothing_stays_in_the_pool(
    mode: str, pooled: Poolers, database: Database, folder: Folder, slipway: Slipway
) -> None:
    files = folder(FILES)
    through = pooled(database, mode)
    finished = await up(slipway, through, files)
    status = await up(slipway, through, files, "status", "--exit-code")
    plan = await up(slipway, through, files, "plan")
    again = await up(slipway, through, files)

    assert [each.code for each in (finished, status, plan, again)] == [0, 0, 0, 0], finished
    await assert_nothing_left(database, through)
    await assert_all_done_once(database)


@IN_EACH_MODE
async def test_repeatable_files_are_applied_whenever_they_change(
    mode: str, pooled: Poolers, database: Database, folder: Folder, slipway: Slipway
) -> None:
    through, view = pooled(database, mode), "CREATE OR REPLACE VIEW {} AS SELECT {} AS n;"
    views = {f"R__{name}.sql": view.format(name, 1) for name in "vw"}
    first = await up(slipway, through, folder({"1_a.sql": "CREATE TABLE a ();", "2_b.sql": "SELECT 1;"} | views))
    again = await up(slipway, through, folder({"R__w.sql": view.format("w", 2)}))
    last = await up(slipway, through, folder({}))

    assert [each.code for each in (first, again, last)] == [0, 0, 0], f"{first}{again}{last}"
    assert again.outcome
    assert again.outcome["applied"] == ["R__w.sql"]
    assert [tuple(row) for row in await database.fetch("SELECT v.n, w.n FROM v, w")] == [(1, 2)]
    await assert_nothing_left(database, through)


@pytest.mark.parametrize(
    ("known", "code", "said"),
    [
        ("*", 0, "created the database not_there"),
        ("elsewhere", 22, "A pooler knows only the databases in its settings"),
    ],
    ids=["every-database", "one-database"],
)
async def test_missing_database_is_created_where_the_pooler_lets_it_be_reached(
    known: str, code: int, said: str, server: Server, tools: str, folder: Folder, slipway: Slipway
) -> None:
    assert tools
    files = folder({"1_a.sql": "CREATE TABLE a ();"})
    with pgbouncer(server, known=known, pool_mode="transaction") as pooler:
        through = server.database("not_there").at(pooler.port)
        finished = await up(slipway, through, files, create_database="yes", wait_timeout="5s")
    created = await server.database().fetch("SELECT FROM pg_database WHERE datname = 'not_there'")
    await server.database().execute("DROP DATABASE IF EXISTS not_there WITH (FORCE)")

    assert finished.code == code, finished
    assert said in finished.err
    assert len(created) == (code == 0)


async def test_everything_works_in_session_mode_with_the_lock_in_the_session(
    pooled: Poolers, database: Database, folder: Folder, slipway: Slipway
) -> None:
    sets = {
        "005_e.sql": "-- no-transaction\nSET search_path = pg_catalog, public;\nCREATE TEMP TABLE t AS SELECT 6 AS n;\n"
        "DROP INDEX CONCURRENTLY kept_n;\nINSERT INTO kept SELECT n FROM t;"
    }
    owner = f"owner_{database.name}"
    await database.execute(f"CREATE ROLE {owner}; GRANT ALL ON SCHEMA public TO {owner}; ")
    files = folder(FILES | sets)
    through = pooled(database, "session")
    finished = await up(slipway, through, files, lock="session", role=owner)

    assert finished.code == 0, finished
    await assert_nothing_left(database, through)
    assert [row["n"] for row in await database.fetch("SELECT n FROM kept ORDER BY n")] == [1, 2, 3, 4, 5, 6]


@IN_EACH_MODE
async def test_interrupted_build_is_gone_on_with(
    mode: str, pooled: Poolers, database: Database, folder: Folder, slipway: Slipway
) -> None:
    """Killed, so that the build goes on as an orphan that the next run waits for, and does not double."""
    await up(slipway, database, folder(dict(list(FILES.items())[:1])))
    files = folder(FILES)
    through = pooled(database, mode)
    async with database.connection() as writer:
        await writer.execute("BEGIN; INSERT INTO kept VALUES (0)")
        process = slipway.start(env=through.environ, migrations=files)
        invalid = "SELECT FROM pg_index WHERE indexrelid = to_regclass('kept_n') AND NOT indisvalid"
        await eventually(lambda: database.fetch(invalid), "the build has begun")
        process.kill()
        if await is_running(database, "CREATE INDEX CONCURRENTLY%"):
            again = slipway.start(env=through.environ, migrations=files)
            await asyncio.to_thread(again.wait_for_log, "an earlier run's session, pid ")
            builds = await database.fetch(RUNNING, "CREATE INDEX CONCURRENTLY%")
            await writer.execute("ROLLBACK")
            finished = await asyncio.to_thread(again.finish)
            assert len(builds) == 1
            assert finished.code == 0, finished
    last = await up(slipway, through, files)

    assert last.code == 0, last
    await assert_nothing_left(database, through)
    await assert_all_done_once(database)


@IN_EACH_MODE
async def test_cancelled_build_is_mended(
    mode: str, pooled: Poolers, database: Database, folder: Folder, slipway: Slipway
) -> None:
    await up(slipway, database, folder(dict(list(FILES.items())[:1])))
    files = folder(FILES)
    through = pooled(database, mode)
    async with database.connection() as writer:
        await writer.execute("BEGIN; INSERT INTO kept VALUES (0)")
        process = slipway.start(env=through.environ, migrations=files)
        invalid = "SELECT FROM pg_index WHERE indexrelid = to_regclass('kept_n') AND NOT indisvalid"
        await eventually(lambda: database.fetch(invalid), "the build has begun")
        process.terminate()
        stopped = await asyncio.to_thread(process.finish)
    status = await up(slipway, through, files, "status")
    again = await up(slipway, through, files)

    assert stopped.code == 143, stopped
    assert "unfinished" in status.out
    assert again.code == 0, again
    assert "half done; running DROP INDEX CONCURRENTLY" in again.err
    await assert_nothing_left(database, through)
    await assert_all_done_once(database)


@IN_EACH_MODE
async def test_what_nobody_can_tell_is_resolved(
    mode: str, pooled: Poolers, database: Database, folder: Folder, slipway: Slipway
) -> None:
    statement = "DO $$BEGIN INSERT INTO kept VALUES (1); COMMIT; PERFORM pg_sleep(600); END$$"
    await database.execute("CREATE TABLE kept (n int)")
    files = folder({"001_a.sql": f"-- no-transaction\n{statement};\nINSERT INTO kept VALUES (2);"})
    through = pooled(database, mode)
    process = slipway.start(env=through.environ, migrations=files)
    await eventually(lambda: database.fetch("SELECT FROM kept WHERE n = 1"), "a part of it is committed")
    process.terminate()
    stopped = await asyncio.to_thread(process.finish)
    undecided = await up(slipway, through, files)
    resolved = await up(slipway, through, files, "resolve", "1", "--done")
    finished = await up(slipway, through, files)

    assert [each.code for each in (stopped, undecided, resolved, finished)] == [143, 25, 0, 0], undecided
    await assert_nothing_left(database, through)
    assert [row["n"] for row in await database.fetch("SELECT n FROM kept ORDER BY n")] == [1, 2]


@pytest.mark.parametrize(
    ("sql", "code"),
    [("SET lock_timeout = '1h'; SELECT 1/0", 24), ("-- no-transaction\nSELECT 1/0", 24), ("SELECT pg_sleep(9)", 143)],
    ids=["failed", "failed step", "stopped"],
)
@pytest.mark.parametrize("mode", ["session", "transaction"])
async def test_failure_leaves_nothing_in_the_pool(
    mode: str, sql: str, code: int, pooled: Poolers, database: Database, folder: Folder, slipway: Slipway
) -> None:
    owner = await database.create_role(f"owner_{database.name}")
    through = pooled(database, mode)
    process = slipway.start(env=through.environ, migrations=folder({"001_a.sql": sql}), role=owner.user)
    if code == 143:
        await eventually(lambda: is_running(database, sql), "the statement runs")
        process.terminate()
    finished = await asyncio.to_thread(process.finish)

    assert finished.code == code, finished
    await assert_nothing_left(database, through)


# --- what is refused --------------------------------------------------------------------------------------------

REFUSED = {
    "setting": ("SET work_mem = '1GB'", "would stay with whoever uses the server connection next"),
    "temporary table": ("CREATE TEMP TABLE t (n int)", "would stay with whoever uses the server connection next"),
}


@pytest.mark.parametrize(("statement", "reason"), REFUSED.values(), ids=REFUSED)
@IN_EACH_MODE
async def test_what_needs_a_session_is_refused_before_anything_is_applied(
    mode: str, statement: str, reason: str, pooled: Poolers, database: Database, folder: Folder, slipway: Slipway
) -> None:
    files = folder({"001_a.sql": "CREATE TABLE a ();", "002_b.sql": f"-- no-transaction\nVACUUM;\n{statement};"})
    through = pooled(database, mode)
    plan = await up(slipway, through, files, "plan")
    finished = await up(slipway, through, files)

    assert finished.code == 20, finished
    assert plan.code == 20, plan
    await assert_nothing_left(database, through)
    assert "002_b.sql:3: behind a pooler" in finished.err
    assert reason in finished.err
    assert "connect to Postgres directly, or set MIGRATE_LOCK=session" in finished.err
    assert await database.fetch("SELECT FROM pg_class WHERE oid = to_regclass('a')") == []


async def test_extension_update_is_refused_before_anything_is_applied(
    pooled: Poolers, database: Database, folder: Folder, slipway: Slipway
) -> None:
    """It must be the first command of a server session, which a pooler does not give, with a role even less."""
    files = folder(
        {"001_a.sql": "CREATE TABLE a ();", "002_b.sql": "-- no-transaction\nALTER EXTENSION plpgsql UPDATE;"}
    )
    through = pooled(database, "transaction")
    finished = await up(slipway, through, files, role=database.user)

    assert finished.code == 20, finished
    assert await database.fetch("SELECT FROM pg_class WHERE oid = to_regclass('a')") == []


NEEDS_TWO = "behind a pooler a run needs two server connections, one to hold the migration lock and one to work on"


@pytest.mark.parametrize(
    ("given", "cause"),
    [
        ({"PGDATABASE": "nowhere"}, 'database "nowhere" does not exist'),
        ({"PGUSER": "nobody"}, "SASL authentication failed"),
        ({"PGPASSWORD": "of somebody else"}, "SASL authentication failed"),
    ],
    ids=["database", "user", "password"],
)
@pytest.mark.parametrize("mode", ["session", "transaction"])
async def test_who_is_not_let_in_is_refused_as_without_a_pooler(
    mode: str, given: dict[str, str], cause: str, pooled: Poolers, database: Database, folder: Folder, slipway: Slipway
) -> None:
    environ = pooled(database, mode).environ | given
    finished = await asyncio.to_thread(slipway, env=environ, migrations=folder({"001_a.sql": ""}), wait_timeout="20s")

    assert finished.code == 22, finished
    assert finished.outcome
    assert finished.outcome["message"] == (
        f"{environ['PGHOST']}:{environ['PGPORT']}/{environ['PGDATABASE']}: {cause}; check the user and its "
        "privileges, the password, the database and the TLS settings"
    )


@pytest.mark.parametrize(
    "command", [["up"], ["wait"], ["status"], ["plan"], ["resolve", "1", "--done"]], ids=lambda given: given[0]
)
async def test_statement_mode_is_refused_by_every_command(
    command: list[str], pooled: Poolers, database: Database, folder: Folder, slipway: Slipway
) -> None:
    finished = await up(slipway, pooled(database, "statement"), folder({"001_a.sql": ""}), *command)

    assert finished.code == 20, finished
    assert (
        "transaction blocks not allowed in statement pooling mode; have the pooler use pool_mode=transaction or "
        "pool_mode=session"
    ) in finished.err


@pytest.mark.parametrize("mode", ["session", "transaction"])
async def test_pool_of_one_is_refused_at_once_and_given_back(
    mode: str, pooled: Poolers, database: Database, folder: Folder, slipway: Slipway
) -> None:
    through = pooled(database, mode, 1)
    finished = await up(slipway, through, folder({"001_a.sql": ""}), wait_timeout="100s")

    assert finished.code == 20, finished
    assert finished.outcome
    assert finished.outcome["message"] == (
        f"{NEEDS_TWO}, and this pool has one; raise default_pool_size or max_db_connections of PgBouncer, connect to "
        "Postgres directly, or set MIGRATE_LOCK=session where the pooler's mode is session"
    )
    assert finished.outcome["seconds"] < 30
    assert await through.execute("SELECT 1") == "SELECT 1"


async def test_pool_of_one_is_enough_for_a_lock_in_the_session(
    pooled: Poolers, database: Database, folder: Folder, slipway: Slipway
) -> None:
    finished = await up(slipway, pooled(database, "session", 1), folder(FILES), lock="session")

    assert finished.code == 0, finished
    await assert_all_done_once(database)


async def test_application_that_uses_up_the_pool_for_a_while_is_waited_for(
    pooled: Poolers, database: Database, folder: Folder, slipway: Slipway
) -> None:
    """Its place will be free one day, unlike that of a pool which has none."""
    through = pooled(database, "transaction")
    files = folder({"001_a.sql": ""})
    async with through.connection() as application:
        await application.execute("BEGIN; SELECT 1")
        gave_up = await up(slipway, through, files, wait_timeout="5s")
        process = slipway.start(env=through.environ, migrations=files)
        process.wait_for_log("connected to")
        await application.execute("COMMIT")
        finished = await asyncio.to_thread(process.finish)

    assert [gave_up.code, finished.code] == [10, 0], f"{gave_up}{finished}"
    assert gave_up.outcome
    assert gave_up.outcome["message"] == (
        f"{through.target}: no answer in time (gave up after MIGRATE_WAIT_TIMEOUT=5s); {NEEDS_TWO}"
    )


# --- busy tables ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lock", ["auto", "session"])
@pytest.mark.parametrize("place", ["first", "second"])
async def test_who_is_in_the_way_is_named(
    place: str, lock: str, pooled: Poolers, database: Database, folder: Folder, slipway: Slipway
) -> None:
    await database.execute("CREATE TABLE busy ()")
    first = {"001_a.sql": "CREATE TABLE a ();"} if place == "second" else {}
    files = folder(first | {"002_b.sql": "ALTER TABLE busy ADD COLUMN n int;"})
    through = pooled(database, "session", 4)
    async with database.connection() as reader:
        await reader.execute("BEGIN; SELECT FROM busy")
        pid = reader.get_server_pid()
        finished = await up(slipway, through, files, ddl_retry="2s", lock=lock)

    assert finished.code == 12, finished
    assert f"AccessExclusiveLock on busy, held by pid {pid} (" in finished.err


@pytest.mark.parametrize("mode", ["session", "transaction"])
async def test_work_goes_on_where_the_pool_has_no_place_for_who_watches(
    mode: str, pooled: Poolers, database: Database, folder: Folder, slipway: Slipway
) -> None:
    await database.execute("CREATE TABLE a ()")
    files = folder({"001_a.sql": "ALTER TABLE a ADD COLUMN n int;", "002_b.sql": "SELECT pg_sleep(3);"})
    through = pooled(database, mode)
    async with database.connection() as reader:
        await reader.execute("BEGIN; SELECT FROM a")
        process = slipway.start(env=through.environ, migrations=files)
        await asyncio.to_thread(until, lambda: len(re.findall("trying again", process.log)) > 2, "three tries")
    finished = await asyncio.to_thread(process.finish)

    assert finished.code == 0, finished
    await assert_nothing_left(database, through)
