"""SIGTERM and SIGINT: the running file is cancelled and rolled back; SIGKILL leaves nothing half done."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from servers import eventually, silent, until

if TYPE_CHECKING:
    from conftest import Folder, Process, Slipway
    from servers import Database

ENDLESS = {"001_a.sql": "CREATE TABLE a ();", "002_b.sql": "CREATE TABLE b (); SELECT pg_sleep(3600);"}
RUNNING = """
SELECT pid FROM pg_stat_activity
 WHERE datname = current_database() AND state = 'active' AND query LIKE $1 AND pid <> pg_backend_pid()
"""
SIGNALS = pytest.mark.parametrize(
    ("sig", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["SIGTERM", "SIGINT"]
)


async def is_running(database: Database, query: str) -> bool:
    return bool(await database.fetch(RUNNING, query))


async def is_asleep(database: Database) -> bool:
    return await is_running(database, "%pg_sleep(3600)%")


async def is_awake(database: Database) -> bool:
    return not await is_asleep(database)


async def start_endless(database: Database, folder: Folder, slipway: Slipway) -> Process:
    """Start a run that hangs in its second file, and wait until it does."""
    process = slipway.start(env=database.environ, migrations=folder(ENDLESS))
    await eventually(lambda: is_asleep(database), "the migration sleeps")
    return process


def has_handler(process: Process) -> bool:
    """Tell whether the process catches SIGTERM, by its mask in /proc."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    caught = next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught, 16) & (1 << (signal.SIGTERM - 1)))


def is_connected(process: Process, port: int) -> bool:
    """Tell whether one of the process's descriptors is a socket that is connected to the port."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    sockets = {f"socket:[{row[9]}]" for row in rows if row[2].endswith(f":{port:04X}")}
    descriptors = Path(f"/proc/{process.pid}/fd")
    try:
        return any(str(entry.readlink()) in sockets for entry in descriptors.iterdir())
    except FileNotFoundError:  # closed since it was listed: ask again
        return False


@SIGNALS
async def test_signal_cancels_the_running_file_and_rolls_it_back(
    sig: signal.Signals, code: int, database: Database, folder: Folder, slipway: Slipway
) -> None:
    process = await start_endless(database, folder, slipway)

    process.terminate(sig)
    finished = await asyncio.to_thread(process.finish)

    assert finished.code == code, finished
    assert "002_b.sql: cancelled and rolled back" in finished.err
    assert f"stopped by {sig.name}\napplied in this run and kept: 001_a.sql\n" in finished.err
    assert finished.outcome
    assert finished.outcome["exit_code"] == code
    assert finished.outcome["applied"] == ["001_a.sql"]
    assert not await is_asleep(database)
    assert await database.applied() == ["001_a.sql"]
    assert (await database.fetch("SELECT to_regclass('b') IS NULL AS gone"))[0]["gone"]


@SIGNALS
async def test_signal_while_waiting_for_postgres_ends_the_wait(
    sig: signal.Signals, code: int, folder: Folder, slipway: Slipway
) -> None:
    with silent() as port:
        environ = {"PGHOST": "127.0.0.1", "PGPORT": str(port), "PGUSER": "u", "PGDATABASE": "d"}
        process = slipway.start(env=environ, migrations=folder({"001_a.sql": ""}))
        await asyncio.to_thread(until, lambda: is_connected(process, port), "it is connected")

        process.terminate(sig)
        finished = await asyncio.to_thread(process.finish)

    assert finished.code == code, finished
    assert finished.outcome
    assert finished.outcome["result"] == "stopped"


async def test_signal_while_waiting_for_the_lock_ends_the_wait(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    async with database.migration_lock():
        process = slipway.start(env=database.environ, migrations=folder({"001_a.sql": ""}))
        await asyncio.to_thread(process.wait_for_log, "waiting for the migration lock")

        process.terminate()
        finished = await asyncio.to_thread(process.finish)

    assert finished.code == 143, finished


@pytest.mark.parametrize("run", range(5))
def test_signal_during_the_start_ends_with_an_outcome(run: int, folder: Folder, slipway: Slipway) -> None:
    """The imports take most of a start; this comes while they run, or shortly after."""
    files = folder({f"{number:04}_a.sql": "SELECT 1;" * 500 for number in range(1000)})
    process = slipway.start("check", env={"RUN": str(run)}, migrations=files)
    until(lambda: has_handler(process), "the handler is set")

    process.terminate()
    finished = process.finish()

    assert finished.code == 143, finished
    assert finished.outcome
    assert finished.outcome["exit_code"] == 143


async def test_killed_run_leaves_nothing_of_the_running_file(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    process = await start_endless(database, folder, slipway)

    process.kill()
    files = folder({"002_b.sql": "CREATE TABLE b ();"})
    finished = await asyncio.to_thread(slipway, env=database.environ, migrations=files)

    assert finished.code == 0, finished
    assert finished.outcome
    assert finished.outcome["applied"] == ["002_b.sql"]
    await eventually(lambda: is_awake(database), "the server notices that its client is gone")


async def test_commit_that_was_sent_is_awaited(database: Database, folder: Folder, slipway: Slipway) -> None:
    """A deferred trigger makes the last message slow: the signal comes while the answer to COMMIT is due."""
    slow = """
        CREATE TABLE a (n int);
        CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(2); RETURN NULL; END';
        CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON a DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
            EXECUTE FUNCTION slow();
        INSERT INTO a VALUES (1);
    """
    process = slipway.start(env=database.environ, migrations=folder({"001_a.sql": slow, "002_b.sql": ""}))
    await eventually(lambda: is_running(database, "%SET CONSTRAINTS ALL IMMEDIATE%"), "COMMIT was sent")

    process.terminate()
    finished = await asyncio.to_thread(process.finish)

    assert finished.code == 143, finished
    assert finished.outcome
    assert finished.outcome["applied"] == ["001_a.sql"]
    assert "002_b.sql" not in finished.err
    assert await database.applied() == ["001_a.sql"]


SLOW_JOURNAL = """
CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS
    'BEGIN PERFORM pg_sleep(2); RETURN CASE TG_OP WHEN ''DELETE'' THEN OLD ELSE NEW END; END';
CREATE TRIGGER slow BEFORE {event} ON schema_migrations_steps FOR EACH ROW EXECUTE FUNCTION slow();
DELETE FROM schema_migrations;
"""


@pytest.mark.parametrize("event", ["UPDATE", "DELETE"], ids=["that a statement is done", "that the file is done"])
async def test_what_the_journal_is_told_is_awaited(
    event: str, database: Database, folder: Folder, slipway: Slipway
) -> None:
    """Of a DO that commits inside, only a person could tell what became of it."""
    assert slipway(env=database.environ, migrations=folder({"001_a.sql": "-- no-transaction\nSELECT 1"})).code == 0
    await database.execute(SLOW_JOURNAL.format(event=event))
    await database.execute("CREATE TABLE log (n int)")
    commits = "-- no-transaction\nDO 'BEGIN COMMIT; INSERT INTO log VALUES (1); END'"
    files = folder({"001_a.sql": commits, "002_b.sql": ""})
    process = slipway.start(env=database.environ, migrations=files)
    writing = "%SET done_at%" if event == "UPDATE" else "%DELETE FROM%_steps%"
    await eventually(lambda: is_running(database, writing), "the journal is written")

    process.terminate()
    finished = await asyncio.to_thread(process.finish)
    again = await asyncio.to_thread(slipway, env=database.environ, migrations=files)

    assert finished.code == 143, finished
    assert finished.outcome
    assert finished.outcome["applied"] == ["001_a.sql"]
    assert again.code == 0, again
    assert len(await database.fetch("SELECT FROM log")) == 1
