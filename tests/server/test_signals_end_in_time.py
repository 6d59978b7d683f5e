"""SIGTERM and SIGINT at any moment end in 5 s, whatever the server does; the next run takes up what is left.

Five seconds is what README promises. The tests allow for a busy machine and print what they measured.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg
import pytest

from proxy import Proxy
from servers import PATIENCE, eventually, silent, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from conftest import Finished, Folder, Process, Slipway
    from servers import Database, Server

PROMISED, NOISE = 5.0, 2.0
SIGNALS = pytest.mark.parametrize(
    ("sig", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["SIGTERM", "SIGINT"]
)
RUNNING = """
SELECT pid FROM pg_stat_activity
 WHERE datname = current_database() AND state = 'active' AND query LIKE $1 AND pid <> pg_backend_pid()
"""
FILES = {
    "001_a.sql": "CREATE TABLE kept (n int); INSERT INTO kept VALUES (1);",
    "002_b.sql": "INSERT INTO kept VALUES (2); CREATE INDEX kept_n ON kept (n);",
    "003_c.sql": "-- no-transaction\nINSERT INTO kept VALUES (3);\nCREATE INDEX CONCURRENTLY kept_c ON kept (n);\n"
    "VACUUM kept;\nINSERT INTO kept VALUES (4);",
    "004_d.sql": "INSERT INTO kept VALUES (5);",
}


class Silence(Proxy):
    """A proxy that from a client's message on says nothing more to anybody, and keeps all connections open.

    The message itself is swallowed as well, or only its answer.
    """

    def __init__(self, server: Database, marker: str, *, swallow: bool) -> None:
        super().__init__(server)
        self._marker = marker.encode()
        self._swallow = swallow
        self.is_silent = asyncio.Event()

    async def _relay(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        server, to_server = await asyncio.open_connection(self._server.host, self._server.port)

        async def ask() -> None:
            while data := await client.read(1 << 20):
                is_now = self._marker in data
                if not self.is_silent.is_set() and not (is_now and self._swallow):
                    to_server.write(data)
                if is_now:
                    self.is_silent.set()

        async def answer() -> None:
            while data := await server.read(1 << 20):
                if not self.is_silent.is_set():
                    to_client.write(data)

        try:
            await asyncio.gather(ask(), answer())
        finally:
            to_server.close()


async def stop(process: Process, sig: signal.Signals = signal.SIGTERM) -> tuple[Finished, float]:
    """Send a signal; how it ended, and how many seconds that took."""
    started = time.monotonic()
    process.terminate(sig)
    finished = await asyncio.to_thread(process.finish)
    seconds = time.monotonic() - started
    print(f"ended {seconds:.2f} s after {sig.name}")
    return finished, seconds


def assert_stopped(finished: Finished, seconds: float, code: int = 143) -> None:
    """It ended in time, with the code and with an outcome."""
    assert finished.code == code, finished
    assert finished.outcome
    assert (finished.outcome["exit_code"], finished.outcome["result"]) == (code, "stopped")
    assert seconds < PROMISED + NOISE, finished


async def assert_done_by_the_next_run(database: Database, slipway: Slipway, files: Path) -> None:
    """A plain re-run ends well, and everything has happened once."""
    run = slipway.start(env=database.environ, migrations=files)
    again = await asyncio.to_thread(run.finish)
    assert again.code == 0, again
    names = await asyncio.to_thread(lambda: sorted(path.name for path in files.iterdir()))
    assert await database.applied() == names
    if "004_d.sql" in names:
        assert [row["n"] for row in await database.fetch("SELECT n FROM kept ORDER BY n")] == [1, 2, 3, 4, 5]
        assert await database.fetch("SELECT FROM schema_migrations_steps") == []
    assert await database.fetch("SELECT FROM pg_index WHERE NOT indisvalid") == []


async def is_running(database: Database, query: str) -> bool:
    return bool(await database.fetch(RUNNING, query))


@asynccontextmanager
async def writing(database: Database) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    """An open transaction that has written to `kept`: a concurrent build waits for its end."""
    async with database.connection() as connection:
        await connection.execute("BEGIN; INSERT INTO kept VALUES (0)")
        yield connection


# --- the server goes silent -------------------------------------------------------------------------------------

PHASES = {
    "first look": "unnest(",
    "lock": "pg_try_advisory_lock(",
    "begin": "'002_b.sql'",
    "statement": "CREATE INDEX kept_n",
    "commit": "SET CONSTRAINTS ALL IMMEDIATE",
    "settings": "SET SESSION client_connection_check_interval",
    "journal": 'INSERT INTO "public"."schema_migrations_steps"',
    "step": "INSERT INTO kept VALUES (3)",
    "concurrent build": "CREATE INDEX CONCURRENTLY kept_c ON kept (n)\0",
    "step is done": "SET done_at",
    "vacuum": "VACUUM kept\0",
    "record": "DELETE FROM \"public\".\"schema_migrations_steps\" WHERE version = 3;",
    "unlock": "pg_advisory_unlock(",
    "good-bye": "X\0\0\0\4",
}  # fmt: skip


@pytest.mark.parametrize("swallow", [True, False], ids=["before", "after"])
async def test_signal_ends_a_run_whose_server_has_gone_silent(
    swallow: bool, server: Server, folder: Folder, slipway: Slipway
) -> None:
    """For each phase a run in a database of its own, all at once: most of it is waiting."""
    files = folder(FILES)

    async def seconds_to_end(phase: str) -> float:
        async with server.fresh_database() as database:
            async with Silence(database, PHASES[phase], swallow=swallow) as proxy:
                environ = database.at(proxy.port).environ | {"PGSSLMODE": "disable"}
                process = slipway.start(env=environ, migrations=files)
                async with asyncio.timeout(PATIENCE):
                    await proxy.is_silent.wait()
                finished, seconds = await stop(process)
            if phase != "good-bye" or finished.code:  # nothing is left to do there
                assert_stopped(finished, seconds)
            await assert_done_by_the_next_run(database, slipway, files)
        return seconds

    measured = dict(zip(PHASES, await asyncio.gather(*map(seconds_to_end, PHASES)), strict=True))

    print({phase: round(seconds, 2) for phase, seconds in measured.items()})


@SIGNALS
async def test_signal_while_connecting_to_a_silent_host_ends_the_run(
    sig: signal.Signals, code: int, folder: Folder, slipway: Slipway
) -> None:
    with silent() as port:
        environ = {"PGHOST": "127.0.0.1", "PGPORT": str(port), "PGUSER": "u", "PGDATABASE": "d"}
        process = slipway.start(env=environ, migrations=folder({"001_a.sql": ""}), wait_timeout="1s")
        await asyncio.to_thread(until, lambda: has_handler(process), "the handler is set")

        assert_stopped(*await stop(process, sig), code)


async def test_signal_while_a_setting_is_read_ends_with_an_outcome(
    folder: Folder, slipway: Slipway, tmp_path: Path
) -> None:
    """Nobody writes to the pipe, and no signal ends such a read: the alarm does."""
    os.mkfifo(tmp_path / "password")
    environ = {"PGHOST": "127.0.0.1", "PGUSER": "u", "PGPASSWORD_FILE": str(tmp_path / "password")}
    process = slipway.start(env=environ, migrations=folder({"001_a.sql": ""}))
    await asyncio.to_thread(until, lambda: is_opening_a_pipe(process), "the pipe to be opened")

    assert_stopped(*await stop(process, signal.SIGTERM))


def is_opening_a_pipe(process: Process) -> bool:
    """Whether the process waits for somebody to open the other end."""
    return "wait_for_partner" in Path(f"/proc/{process.pid}/wchan").read_text()


def has_handler(process: Process) -> bool:
    """Whether the process catches SIGTERM, by its mask in /proc."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    caught = next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught, 16) & (1 << (signal.SIGTERM - 1)))


# --- the server works, or waits ---------------------------------------------------------------------------------


@SIGNALS
async def test_signal_while_the_lock_is_awaited_ends_the_run(
    sig: signal.Signals, code: int, database: Database, folder: Folder, slipway: Slipway
) -> None:
    files = folder(FILES)
    async with database.migration_lock():
        process = slipway.start(env=database.environ, migrations=files)
        await asyncio.to_thread(process.wait_for_log, "waiting for the migration lock")

        assert_stopped(*await stop(process, sig), code)

    await assert_done_by_the_next_run(database, slipway, files)


@SIGNALS
async def test_signal_during_the_pause_of_a_busy_file_ends_the_run(
    sig: signal.Signals, code: int, database: Database, folder: Folder, slipway: Slipway
) -> None:
    await database.execute("CREATE TABLE a ()")
    files = folder({"001_a.sql": "ALTER TABLE a ADD COLUMN n int;"})
    async with database.connection() as reader:
        await reader.execute("BEGIN; SELECT FROM a")
        process = slipway.start(env=database.environ, migrations=files, ddl_lock_timeout="50ms")
        await asyncio.to_thread(process.wait_for_log, "trying again")

        assert_stopped(*await stop(process, sig), code)

    await assert_done_by_the_next_run(database, slipway, files)


@SIGNALS
@pytest.mark.parametrize("start", ["", "-- no-transaction\n"], ids=["transactional", "non-transactional"])
async def test_signal_in_a_statement_that_is_watched_ends_the_run(
    start: str, sig: signal.Signals, code: int, database: Database, folder: Folder, slipway: Slipway
) -> None:
    files = folder({"001_a.sql": f"{start}CREATE TABLE a (); SELECT pg_sleep(3600);"})
    process = slipway.start(env=database.environ, migrations=files)
    await asyncio.to_thread(process.wait_for_log, "at work")

    assert_stopped(*await stop(process, sig), code)

    assert not await is_running(database, "%pg_sleep(3600)%")
    folder({"001_a.sql": f"{start}CREATE TABLE a ();"})
    await assert_done_by_the_next_run(database, slipway, files)


async def start_build(database: Database, slipway: Slipway, files: Path) -> Process:
    """A run whose concurrent build has begun, and waits for a transaction that has written to the table."""
    process = slipway.start(env=database.environ, migrations=files)
    invalid = "SELECT FROM pg_index WHERE indexrelid = to_regclass('kept_c') AND NOT indisvalid"
    await eventually(lambda: database.fetch(invalid), "the build has begun")
    return process


@SIGNALS
async def test_signal_during_a_concurrent_build_ends_the_run(
    sig: signal.Signals, code: int, database: Database, folder: Folder, slipway: Slipway
) -> None:
    await asyncio.to_thread(slipway, env=database.environ, migrations=folder(dict(list(FILES.items())[:2])))
    files = folder(FILES)
    async with writing(database):
        process = await start_build(database, slipway, files)

        finished, seconds = await stop(process, sig)

    assert_stopped(finished, seconds, code)
    assert "003_c.sql:3: cancelled; the next run looks what became of it\n" in finished.err
    await assert_done_by_the_next_run(database, slipway, files)


async def test_signal_during_the_mending_of_a_build_ends_the_run(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    await asyncio.to_thread(slipway, env=database.environ, migrations=folder(dict(list(FILES.items())[:2])))
    files = folder(FILES)
    async with writing(database):
        process = await start_build(database, slipway, files)
        process.kill()
        mending = slipway.start(env=database.environ, migrations=files)
        await asyncio.to_thread(mending.wait_for_log, "half done; running DROP INDEX CONCURRENTLY")
        await eventually(lambda: is_running(database, "DROP INDEX CONCURRENTLY%"), "the index is being dropped")

        finished, seconds = await stop(mending)

    assert_stopped(finished, seconds)
    await assert_done_by_the_next_run(database, slipway, files)


async def test_signal_while_an_orphan_is_awaited_ends_the_run(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    """The orphan is played by a session that works on the very statement that the journal has in flight."""
    await database.execute(
        f"ALTER DATABASE {database.name} SET vacuum_cost_delay = '100ms';"
        f"ALTER DATABASE {database.name} SET vacuum_cost_limit = 1;"
        "CREATE TABLE slow WITH (fillfactor = 10) AS SELECT generate_series(1, 20000)"
    )
    files = folder({"001_a.sql": "-- no-transaction\nVACUUM slow;"})
    process = slipway.start(env=database.environ, migrations=files)
    await eventually(lambda: is_running(database, "VACUUM slow"), "the statement runs")
    process.kill()
    async with database.connection() as orphan:
        work = asyncio.create_task(orphan.execute("VACUUM slow"))
        waiting = slipway.start(env=database.environ, migrations=files)
        await asyncio.to_thread(waiting.wait_for_log, "an earlier run's session, pid ")

        finished, seconds = await stop(waiting)

        await database.execute(f"SELECT pg_terminate_backend({orphan.get_server_pid()})")
        with suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
            await work
    assert_stopped(finished, seconds)
    await database.execute(f"ALTER DATABASE {database.name} RESET ALL")
    await assert_done_by_the_next_run(database, slipway, files)


@SIGNALS
def test_signal_in_the_middle_of_the_check_of_a_large_file_ends_the_run(
    sig: signal.Signals, code: int, folder: Folder, slipway: Slipway
) -> None:
    insert = "INSERT INTO a (id, name, price) VALUES (1, 'a name; with a semicolon', 12.34);\n"
    files = folder({"001_a.sql": insert * (20_000_000 // len(insert))})
    process = slipway.start("check", env={}, migrations=files)
    until(lambda: has_handler(process), "the handler is set")

    finished, seconds = asyncio.run(stop(process, sig))

    assert_stopped(finished, seconds, code)


@SIGNALS
async def test_signal_in_the_middle_of_a_large_file_ends_the_run(
    sig: signal.Signals, code: int, database: Database, folder: Folder, slipway: Slipway
) -> None:
    insert = f"INSERT INTO a VALUES ('{'x' * 1000}');\n"
    files = folder({"001_a.sql": "CREATE TABLE a (t text);\n" + insert * 10_000 + "INSERT INTO a VALUES ('last');"})
    process = slipway.start(env=database.environ, migrations=files)
    await eventually(lambda: is_running_or_idle(database), "it has begun to insert")

    finished, seconds = await stop(process, sig)

    assert_stopped(finished, seconds, code)
    assert (await database.fetch("SELECT to_regclass('a') IS NULL AS gone"))[0]["gone"]


async def is_running_or_idle(database: Database) -> bool:
    """Whether a session is in the midst of the INSERTs, be it between two of them."""
    query = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'INSERT INTO a VALUES%'"
    return bool(await database.fetch(query))


# --- the log is not read ----------------------------------------------------------------------------------------


async def test_signal_ends_a_run_whose_log_nobody_reads(database: Database, folder: Folder, tmp_path: Path) -> None:
    """A pipe that is full makes each line block."""
    notices = "DO $$BEGIN FOR i IN 1..5000 LOOP RAISE NOTICE 'a line that is long enough: %', i; END LOOP; END$$;"
    files, outcome = folder({"001_a.sql": notices}), tmp_path / "termination"
    environ = {"PATH": os.environ["PATH"], "MIGRATE_DIR": str(files), "MIGRATE_TERMINATION_LOG": str(outcome)}
    ours, theirs = os.pipe()
    process = start_unread(environ | database.environ, tmp_path, theirs)
    try:
        await asyncio.to_thread(until, lambda: is_blocked(process), "the pipe is full")
        started = time.monotonic()
        process.send_signal(signal.SIGTERM)
        code = await asyncio.to_thread(process.wait, 30)
        seconds = time.monotonic() - started
    finally:
        process.kill()
        process.wait()
        os.close(ours)

    assert code == 143
    assert seconds < PROMISED + NOISE
    assert json.loads(outcome.read_bytes())["exit_code"] == 143


def start_unread(environ: dict[str, str], folder: Path, stderr: int) -> subprocess.Popen[bytes]:
    """A run that writes its log to a descriptor, which is closed here."""
    command = [sys.executable, "-m", "pgslipway"]
    process = subprocess.Popen(command, env=environ, cwd=folder, stdin=subprocess.DEVNULL, stderr=stderr)
    os.close(stderr)
    return process


def is_blocked(process: subprocess.Popen[bytes]) -> bool:
    """Whether the process waits for room in a pipe; what it waits for is in /proc."""
    return "pipe_write" in Path(f"/proc/{process.pid}/wchan").read_text()


# --- SIGKILL ----------------------------------------------------------------------------------------------------

ORPHANS = {
    "transactional": ("SELECT pg_sleep(3600);", "%pg_sleep(3600)%"),
    "in a transaction of its own": ("-- no-transaction\nSELECT pg_sleep(3600);", "%pg_sleep(3600)%"),
    "outside": ("-- no-transaction\nDO $$BEGIN COMMIT; PERFORM pg_sleep(3600); END$$;", "%pg_sleep(3600)%"),
    "concurrent build": (
        "-- no-transaction\nCREATE INDEX CONCURRENTLY kept_c ON kept (n);",
        "CREATE INDEX CONCURRENTLY%",
    ),
}
ORPHAN_SECONDS = 2.0


@pytest.mark.parametrize(("sql", "query"), ORPHANS.values(), ids=ORPHANS)
async def test_server_ends_the_statement_of_a_run_that_was_killed(
    sql: str, query: str, database: Database, folder: Folder, slipway: Slipway
) -> None:
    """client_connection_check_interval is two seconds; without it these would run, or wait, for an hour."""
    await database.execute("CREATE TABLE kept (n int)")
    async with writing(database):
        process = slipway.start(env=database.environ, migrations=folder({"001_a.sql": sql}))
        await eventually(lambda: is_running(database, query), "the statement runs")
        if "COMMIT" in sql:  # which is tried in a transaction first
            journalled = "SELECT FROM schema_migrations_steps WHERE done_at IS NULL"
            await eventually(lambda: database.fetch(journalled), "it runs outside")
            await eventually(lambda: is_running(database, query), "it runs again")
        if "CONCURRENTLY" in sql:
            await eventually(lambda: database.fetch("SELECT FROM pg_index WHERE NOT indisvalid"), "the build waits")
        process.kill()
        started = time.monotonic()

        async def is_over() -> bool:
            return not await is_running(database, query)

        await eventually(is_over, "the server to end it")
        seconds = time.monotonic() - started
        print(f"ended {seconds:.2f} s after SIGKILL")

    assert seconds < ORPHAN_SECONDS + 4 * NOISE
