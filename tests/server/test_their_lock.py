"""The lock of the tool that is taken over from: waited for, held while we run, and in nobody's way."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

import asyncpg
import pytest

from conftest import has_engine
from moving import OURS, TOOLS, Moving, Tool, write
from pgslipway import run_migrations
from pgslipway.engine.lock_sql import is_ours_sql, lock_key
from pgslipway.errors import Locked
from servers import LOCALHOST, eventually, free_port, is_listening, pgbouncer, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from conftest import Finished, Process, Slipway
    from servers import Database, Server

WITH_LOCK = [tool for tool in TOOLS if tool.keys("")]
KEYS = [
    pytest.param(tool, place, id=f"{tool}{place or ''}") for tool in WITH_LOCK for place in range(len(tool.keys("")))
]
EACH_KEY = pytest.mark.parametrize(("tool", "place"), KEYS)
EACH_TOOL = pytest.mark.parametrize("tool", WITH_LOCK, ids=str)
GOOSE = next(tool for tool in TOOLS if tool.name == "goose")
GATE = 1
"""The key of a lock of the test's, for which a file waits."""
WAITS_AT_GATE = f"SELECT pg_advisory_xact_lock({GATE});\n"
CONCURRENTLY = "CREATE INDEX CONCURRENTLY orders_id ON orders (id);\n"
BLOCKED = """
SELECT FROM pg_stat_activity
 WHERE datname = current_database() AND wait_event = 'advisory' AND query LIKE $1 AND pid <> pg_backend_pid()
"""
HOLDERS = "SELECT pid FROM pg_locks l WHERE {}"


@pytest.fixture
def moving(tool: Tool, database: Database, slipway: Slipway, tmp_path: Path) -> Moving:
    made = Moving(database, slipway, tool.write(tmp_path / "folder"), tool.name)
    made.settings["MIGRATE_DDL_LOCK_TIMEOUT"] = "0"
    return made


@asynccontextmanager
async def holding(database: Database, key: int) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    """A session of theirs that holds a lock."""
    async with database.connection() as theirs:
        await theirs.execute("SET application_name = 'their tool'")
        await theirs.execute(f"SELECT pg_advisory_lock({key})")
        yield theirs


async def holders(database: Database, key: int) -> list[int]:
    return [row["pid"] for row in await database.fetch(HOLDERS.format(is_ours_sql(key)))]


async def is_free(database: Database, key: int) -> bool:
    """Whether another session could take a lock now."""
    return bool((await database.fetch(f"SELECT pg_try_advisory_lock({key}) AS free"))[0]["free"])


async def are_blocked(database: Database, query: str) -> bool:
    return bool(await database.fetch(BLOCKED, f"%{query}%"))


def change(moving: Moving, tool: Tool, number: int, first: str, *, is_step: bool = False) -> None:
    """Have a file begin with a statement, without a transaction where it is a step."""
    text = tool.text(number).replace("CREATE TABLE", f"{first}CREATE TABLE", 1)
    write(moving.folder, {tool.filename(number): f"-- no-transaction\n{text}" if is_step else text})


async def finish(process: Process) -> Finished:
    return await asyncio.to_thread(process.finish)


# --- theirs -----------------------------------------------------------------------------------------------------


@EACH_KEY
@pytest.mark.parametrize("command", ["up", "adopt"])
async def test_lock_that_they_hold_ends_the_run(tool: Tool, place: int, command: str, moving: Moving) -> None:
    database = moving.database
    await tool.migrate(database, 2)
    key = tool.keys(database.name)[place]

    async with holding(database, key) as theirs:
        finished = await asyncio.to_thread(moving.run, command, lock_timeout="100ms")
        pid = theirs.get_server_pid()

    assert finished.code == 11, finished
    assert finished.outcome
    source = f"{tool.name}'s {tool.table if '.' in tool.table else f'public.{tool.table}'}"
    assert f"waiting for the lock of {source}, held by pid {pid} (their tool from " in finished.err
    message = finished.outcome["message"]
    assert message.startswith(f"the lock of {source} is still held by pid {pid} (their tool from ")
    assert message.endswith(" after MIGRATE_LOCK_TIMEOUT=0.1s")
    assert await moving.orders() == [1, 2]
    assert not await database.fetch("SELECT FROM pg_class WHERE relname = $1", OURS)


@EACH_KEY
async def test_run_goes_on_when_they_are_done(tool: Tool, place: int, moving: Moving) -> None:
    """What they have applied meanwhile is adopted as well."""
    database = moving.database
    await tool.migrate(database, 2)

    async with holding(database, tool.keys(database.name)[place]):
        process = moving.start("up")
        await asyncio.to_thread(process.wait_for_log, "waiting for the lock of")
        await tool.migrate(database, 3, first=3)
    finished = await finish(process)

    assert finished.code == 0, finished
    assert "adopted 3 migrations" in finished.err
    assert await moving.orders() == [1, 2, 3, 4]


@pytest.mark.parametrize("tool", [GOOSE], ids=str)
async def test_run_waits_for_a_place_for_the_connection_of_their_lock(tool: Tool, moving: Moving) -> None:
    database = moving.database
    await tool.migrate(database, 2)
    login = await database.create_role(f"single_{database.name}", "LOGIN CONNECTION LIMIT 1")
    await database.execute(f"GRANT pg_read_all_data, pg_write_all_data TO {login.user}")
    await database.execute(f"GRANT ALL ON SCHEMA public TO {login.user}")
    limited = Moving(login, moving.slipway, moving.folder, tool.name)

    process = limited.start("up")
    await asyncio.to_thread(process.wait_for_log, "too many connections for role")
    await database.execute(f"ALTER ROLE {login.user} CONNECTION LIMIT 2")
    finished = await finish(process)

    assert finished.code == 0, finished
    assert await moving.orders() == [1, 2, 3, 4]


@pytest.mark.parametrize("tool", [GOOSE], ids=str)
async def test_run_without_a_place_for_the_connection_of_their_lock_ends(tool: Tool, moving: Moving) -> None:
    database = moving.database
    await tool.migrate(database, 2)
    login = await database.create_role(f"single_{database.name}", "LOGIN CONNECTION LIMIT 1")
    await database.execute(f"GRANT pg_read_all_data, pg_write_all_data TO {login.user}")
    await database.execute(f"GRANT ALL ON SCHEMA public TO {login.user}")

    finished = await asyncio.to_thread(
        Moving(login, moving.slipway, moving.folder, tool.name).run, "up", wait_timeout="1s"
    )

    assert finished.code == 10, finished
    assert finished.outcome
    message = finished.outcome["message"]
    assert message.startswith("the lock of goose's public.goose_db_version needs a connection of its own: ")
    assert "too many connections for role" in message
    assert await moving.orders() == [1, 2]


@EACH_TOOL
async def test_signal_ends_the_wait_for_their_lock(tool: Tool, moving: Moving) -> None:
    database = moving.database
    await tool.migrate(database, 2)

    async with holding(database, tool.keys(database.name)[-1]):
        process = moving.start("up")
        await asyncio.to_thread(process.wait_for_log, "waiting for the lock of")
        process.terminate(signal.SIGTERM)
        finished = await finish(process)

    assert finished.code == 143, finished
    assert await moving.orders() == [1, 2]


# --- ours -------------------------------------------------------------------------------------------------------


@EACH_TOOL
async def test_their_lock_is_held_until_the_run_ends(tool: Tool, moving: Moving) -> None:
    database = moving.database
    await tool.migrate(database, 2)
    change(moving, tool, 4, WAITS_AT_GATE)
    keys = tool.keys(database.name)

    async with holding(database, GATE):
        process = moving.start("up")
        await eventually(lambda: are_blocked(database, f"pg_advisory_xact_lock({GATE})"), "the last file to wait")
        free_meanwhile = [await is_free(database, key) for key in keys]
    finished = await finish(process)

    assert finished.code == 0, finished
    assert free_meanwhile == [False for _ in keys]
    assert [await is_free(database, key) for key in keys] == [True for _ in keys]
    assert await moving.orders() == [1, 2, 3, 4]


@EACH_TOOL
async def test_signal_gives_their_lock_back(tool: Tool, moving: Moving) -> None:
    database = moving.database
    await tool.migrate(database, 2)
    change(moving, tool, 4, WAITS_AT_GATE)

    async with holding(database, GATE):
        process = moving.start("up")
        await eventually(lambda: are_blocked(database, f"pg_advisory_xact_lock({GATE})"), "the last file to wait")
        process.terminate(signal.SIGTERM)
        finished = await finish(process)

    assert finished.code == 143, finished
    for key in tool.keys(database.name):
        assert await is_free(database, key)


@EACH_KEY
async def test_whoever_waits_for_their_lock_does_not_hang_a_concurrent_build(
    tool: Tool, place: int, moving: Moving
) -> None:
    """It blocks with a snapshot, for which the build would wait, and it for us."""
    database = moving.database
    await tool.migrate(database, 2)
    change(moving, tool, 3, WAITS_AT_GATE)
    change(moving, tool, 4, CONCURRENTLY, is_step=True)
    key = tool.keys(database.name)[place]

    async with database.connection() as theirs:
        async with holding(database, GATE):
            process = moving.start("up")
            await eventually(lambda: are_blocked(database, f"pg_advisory_xact_lock({GATE})"), "a file to wait")
            waiting = asyncio.create_task(theirs.execute(f"SELECT pg_advisory_lock({key})"))
            await eventually(lambda: are_blocked(database, f"pg_advisory_lock({key})"), "their tool to wait")
        finished = await finish(process)
        await waiting

    assert finished.code == 0, finished
    assert await moving.orders() == [1, 2, 3, 4]


@EACH_TOOL
async def test_second_run_of_ours_waits_for_the_first(tool: Tool, moving: Moving) -> None:
    await tool.migrate(moving.database, 2)
    change(moving, tool, 4, WAITS_AT_GATE)

    async with holding(moving.database, GATE):
        first = moving.start("up")
        await eventually(
            lambda: are_blocked(moving.database, f"pg_advisory_xact_lock({GATE})"), "the last file to wait"
        )
        second = moving.start("up")
        await asyncio.to_thread(second.wait_for_log, "waiting for the migration lock")
    codes = [(await finish(process)).code for process in (first, second)]

    assert codes == [0, 0]
    assert await moving.orders() == [1, 2, 3, 4]


# --- over an application's pool ---------------------------------------------------------------------------------


@asynccontextmanager
async def pool_of(database: Database) -> AsyncIterator[asyncpg.Pool[asyncpg.Record]]:
    async with asyncpg.create_pool(database.url, min_size=1, max_size=1) as pool:
        yield pool


@EACH_TOOL
async def test_pool_adopts(tool: Tool, moving: Moving) -> None:
    await tool.migrate(moving.database, 2)

    async with pool_of(moving.database) as pool:
        settings = {"table": OURS, "adopt": tool.name, "layout": tool.layout}
        applied = await run_migrations(pool, moving.folder, **settings)  # type: ignore[arg-type]
        again = await run_migrations(pool, moving.folder, **settings)  # type: ignore[arg-type]
        for key in tool.keys(moving.database.name):
            assert await is_free(moving.database, key), "the pool keeps the session"

    assert applied == [tool.filename(3), tool.filename(4)]
    assert again == []
    assert await moving.orders() == [1, 2, 3, 4]


@EACH_KEY
async def test_pool_keeps_our_lock_while_it_waits_for_theirs(
    tool: Tool, place: int, moving: Moving, caplog: pytest.LogCaptureFixture
) -> None:
    database = moving.database
    await tool.migrate(database, 2)
    keys = tool.keys(database.name)
    caplog.set_level("INFO")

    async def is_waiting() -> bool:
        return "waiting for the lock of" in caplog.text

    async with pool_of(database) as pool, holding(database, keys[place]) as theirs:
        run = asyncio.create_task(run_migrations(pool, moving.folder, table=OURS, adopt=tool.name, lock_timeout=2))
        await eventually(is_waiting, "the run to wait")
        ours = await holders(database, lock_key("public", OURS))
        held = [await holders(database, key) for key in keys]
        pid = theirs.get_server_pid()
        with pytest.raises(Locked, match="is still held by pid"):
            await run

    assert len(ours) == 2, "in both modes"
    assert held == [[pid] if number == place else [] for number, _ in enumerate(keys)]
    assert await moving.orders() == [1, 2]


@pytest.mark.parametrize("tool", [GOOSE], ids=str)
async def test_pool_gives_their_lock_up_before_a_concurrent_build(tool: Tool, moving: Moving) -> None:
    """Also where that is the first thing that it applies."""
    database = moving.database
    await tool.migrate(database, 2)
    change(moving, tool, 3, WAITS_AT_GATE + CONCURRENTLY, is_step=True)
    [key] = tool.keys(database.name)

    async with pool_of(database) as pool, database.connection() as theirs:
        async with holding(database, GATE):
            run = asyncio.create_task(
                run_migrations(pool, moving.folder, table=OURS, adopt=tool.name, ddl_lock_timeout=0)
            )
            await eventually(lambda: are_blocked(database, f"pg_advisory_xact_lock({GATE})"), "a file to wait")
            waiting = asyncio.create_task(theirs.execute(f"SELECT pg_advisory_lock({key})"))
            await eventually(lambda: are_blocked(database, f"pg_advisory_lock({key})"), "their tool to wait")
        async with asyncio.timeout(60):
            assert await run == [tool.filename(3), tool.filename(4)]
        await waiting


# --- behind a pooler --------------------------------------------------------------------------------------------


@contextmanager
def pgbouncer_here(server: Server, folder: Path) -> Iterator[int]:
    """PgBouncer in transaction mode as a process of this machine; the port."""
    port = free_port()
    folder.chmod(0o755)
    (folder / "users").write_text(f'"{server.user}" "{server.password}"\n')
    (folder / "pgbouncer.ini").write_text(
        f"[databases]\n* = host={server.host} port={server.port}\n[pgbouncer]\nlisten_addr = {LOCALHOST}\n"
        f"listen_port = {port}\nauth_type = scram-sha-256\nauth_file = {folder}/users\nunix_socket_dir =\n"
        "pool_mode = transaction\ndefault_pool_size = 3\n"
    )
    shutil.chown(folder, "nobody")
    command = ["pgbouncer", "--quiet", str(folder / "pgbouncer.ini")]
    user = "nobody" if os.geteuid() == 0 else None
    process = subprocess.Popen(command, user=user, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until(lambda: is_listening(port), "PgBouncer to start")
        yield port
    finally:
        process.terminate()
        process.wait()


@pytest.fixture
def pooled(server: Server, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a PgBouncer in transaction mode: in a container, or of this machine where there is no engine."""
    if has_engine():
        request.getfixturevalue("tools")
        with pgbouncer(server, pool_mode="transaction", default_pool_size=3) as pooler:
            yield pooler.port
    elif shutil.which("pgbouncer"):
        folder = tmp_path_factory.mktemp("pgbouncer")
        folder.parent.chmod(0o755)
        folder.parent.parent.chmod(0o755)
        with pgbouncer_here(server, folder) as port:
            yield port
    else:
        pytest.skip("there is neither an engine nor a PgBouncer")


def behind(moving: Moving, port: int) -> Moving:
    """The same behind the pooler."""
    made = Moving(moving.database.at(port), moving.slipway, moving.folder, "")
    made.settings = moving.settings
    return made


@EACH_TOOL
async def test_pooler_is_no_hindrance(tool: Tool, moving: Moving, pooled: int) -> None:
    await tool.migrate(moving.database, 2)

    planned = behind(moving, pooled).run("plan")
    finished = behind(moving, pooled).run("up")
    again = behind(moving, pooled).run("up")

    assert [planned.code, finished.code, again.code] == [0, 0, 0], finished
    assert "adopted 2 migrations" in finished.err
    assert await moving.orders() == [1, 2, 3, 4]
    for key in tool.keys(moving.database.name):
        assert await is_free(moving.database, key)


@EACH_KEY
async def test_lock_that_they_hold_ends_the_run_behind_a_pooler(
    tool: Tool, place: int, moving: Moving, pooled: int
) -> None:
    database = moving.database
    await tool.migrate(database, 2)

    async with holding(database, tool.keys(database.name)[place]) as theirs:
        finished = await asyncio.to_thread(behind(moving, pooled).run, "up", lock_timeout="100ms")
        pid = theirs.get_server_pid()

    assert finished.code == 11, finished
    assert f"is still held by pid {pid} (their tool from " in finished.err
    assert await moving.orders() == [1, 2]


@EACH_TOOL
async def test_their_lock_is_held_and_given_up_behind_a_pooler(tool: Tool, moving: Moving, pooled: int) -> None:
    database = moving.database
    await tool.migrate(database, 2)
    change(moving, tool, 3, WAITS_AT_GATE)
    change(moving, tool, 4, CONCURRENTLY, is_step=True)
    keys = tool.keys(database.name)

    async with database.connection() as theirs:
        async with holding(database, GATE):
            process = behind(moving, pooled).start("up")
            await eventually(lambda: are_blocked(database, f"pg_advisory_xact_lock({GATE})"), "a file to wait")
            free_meanwhile = [await is_free(database, key) for key in keys]
            waiting = asyncio.create_task(theirs.execute(f"SELECT pg_advisory_lock({keys[0]})"))
            await eventually(lambda: are_blocked(database, f"pg_advisory_lock({keys[0]})"), "their tool to wait")
        finished = await finish(process)
        await waiting

    assert finished.code == 0, finished
    assert free_meanwhile == [False for _ in keys]
    assert await moving.orders() == [1, 2, 3, 4]
