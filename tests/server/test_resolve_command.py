"""What only a person can tell: exit code 25, `resolve`, and what `status` and `plan` show of an unfinished file."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC
from typing import TYPE_CHECKING

import pytest

from servers import eventually
from unfinished import (
    FAULTS,
    in_flight,
    numbers,
    steps_of,
    stop,
    transaction_on,
    wait_for_query,
    wait_until_gone,
    without_transaction,
)

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Finished, Folder, Slipway
    from servers import Database

LOG = "CREATE TABLE log (n int)"
CALL = "CALL batches('it''s')"
DO = "DO 'BEGIN INSERT INTO log VALUES (1); COMMIT; PERFORM pg_sleep(3600); END'"
PROCEDURE = """
CREATE PROCEDURE batches(why text) LANGUAGE plpgsql AS $$
BEGIN INSERT INTO log VALUES (1); COMMIT; {middle}; INSERT INTO log VALUES (2); COMMIT; END $$
"""
SLEEP = "PERFORM pg_sleep(3600)"
UNKNOWN = "resolve: no file and no row of the history has the version {}"
NOTHING = "version {} has no statement in flight, so there is nothing to resolve"


async def interrupt_call(
    database: Database, folder: Folder, slipway: Slipway, fault: str = "pg_terminate_backend", *after: str
) -> Path:
    """Have a run stopped in a CALL that has committed once; the procedure does not sleep afterwards."""
    await database.execute(f"{LOG}; {PROCEDURE.format(middle=SLEEP)}")
    files = folder({"003_a.sql": without_transaction("INSERT INTO log VALUES (0)", CALL, *after)})
    process = slipway.start(env=database.environ, migrations=files)
    await eventually(lambda: database.fetch("SELECT FROM log WHERE n = 1"), "the first batch is committed")
    await stop(fault, process, database, "CALL %")
    await wait_until_gone(database, "CALL %")
    await database.execute(PROCEDURE.format(middle="PERFORM 1").replace("CREATE", "CREATE OR REPLACE"))
    return files


async def started(database: Database) -> str:
    (row,) = await database.fetch("SELECT started_at FROM schema_migrations_steps WHERE done_at IS NULL")
    return str(row["started_at"].astimezone(UTC).isoformat(" ", "seconds"))


async def undecided(database: Database, statement: str = CALL, place: str = "003_a.sql:3") -> str:
    version = int(place.split("_")[0])
    return (
        f"{place}: this was stopped while it ran outside a transaction, begun at {await started(database)}, and "
        f"nobody but you can tell how far it got:\n  {statement}\n"
        "look at the database, then say so, and run again:\n"
        f"  pgslipway resolve {version} --done    it took effect: go on after it\n"
        f"  pgslipway resolve {version} --retry   it did not, or doing it again is harmless: run it again"
    )


def commands_in(finished: Finished) -> list[list[str]]:
    """The arguments of the commands that a message offers."""
    assert finished.outcome
    lines = [line.split() for line in finished.outcome["message"].splitlines()]
    return [words[1:4] for words in lines if words[:2] == ["pgslipway", "resolve"]]


# --- CALL and DO that commit inside -----------------------------------------------------------------------------


async def test_call_that_commits_inside_runs_outside_a_transaction_once(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    procedure = PROCEDURE.format(middle="PERFORM 1")
    files = folder({"001_a.sql": without_transaction(LOG, procedure, CALL, "INSERT INTO log VALUES (3)")})

    finished = slipway(env=database.environ, migrations=files)

    assert finished.code == 0, finished
    assert await numbers(database) == [1, 2, 3]


BATCH = "PERFORM nextval(''s''); RAISE NOTICE ''a batch''; {};"
PROCEDURES = f"""
CREATE SEQUENCE s;
CREATE PROCEDURE commits() LANGUAGE plpgsql AS 'BEGIN {BATCH.format("COMMIT")} END';
CREATE PROCEDURE "Rolls. back"() LANGUAGE plpgsql AS 'BEGIN {BATCH.format("rollback and chain")} END';
CREATE PROCEDURE calls() LANGUAGE plpgsql AS 'BEGIN CALL public."Rolls. back"(); END';
"""


@pytest.mark.parametrize(
    "statement",
    [
        "CALL commits()",
        'CALL "Rolls. back"()',
        "call public.calls()",
        "DO 'BEGIN " + BATCH.format("COMMIT") + " END'",
        "DO LANGUAGE plpgsql $$BEGIN " + BATCH.format("COMMIT AND CHAIN").replace("''", "'") + " END$$",
        "do $x$ BEGIN CALL commits(); END $x$",
    ],
)
async def test_first_batch_of_a_statement_that_commits_inside_is_done_once(
    statement: str, database: Database, folder: Folder, slipway: Slipway
) -> None:
    await database.execute(PROCEDURES)

    finished = slipway(env=database.environ, migrations=folder({"001_a.sql": without_transaction(statement)}))

    assert finished.code == 0, finished
    assert finished.err.count("notice: a batch") == 1
    assert [row["last_value"] for row in await database.fetch("SELECT last_value FROM s")] == [1]


@pytest.mark.parametrize(
    ("before", "code"), [("", 24), ("BEGIN PERFORM 1/0; EXCEPTION WHEN OTHERS THEN END;", 24), ("COMMIT;", 25)]
)
async def test_failure_before_the_first_commit_is_the_statements_own(
    before: str, code: int, database: Database, folder: Folder, slipway: Slipway
) -> None:
    do = f"DO $$ BEGIN {before} INSERT INTO log VALUES (1); PERFORM 1/0; COMMIT; END $$"
    files = folder({"001_a.sql": without_transaction(LOG, do)})

    finished = slipway(env=database.environ, migrations=files)

    assert finished.code == code, finished
    assert "001_a.sql:3: division by zero" in finished.err
    assert await steps_of(database, 1) == [(1, 2, True)] + ([(2, 3, False)] if code == 25 else [])


async def test_first_batch_whose_table_is_busy_is_tried_again(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    await database.execute(LOG)
    files = folder({"001_a.sql": without_transaction("DO 'BEGIN LOCK TABLE log; COMMIT; END'")})
    async with transaction_on(database, "LOCK TABLE log"):
        runner = slipway.start(env=database.environ, migrations=files, ddl_lock_timeout="50ms")
        await asyncio.to_thread(runner.wait_for_log, "001_a.sql:2: canceling statement due to lock timeout")

    finished = await asyncio.to_thread(runner.finish)

    assert finished.code == 0, finished


async def test_call_that_does_not_commit_runs_in_a_transaction(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    """So it is never a person's call what became of it."""
    await database.execute(
        f"{LOG}; CREATE PROCEDURE plain() LANGUAGE plpgsql AS "
        "'BEGIN INSERT INTO log VALUES (1); PERFORM pg_sleep(3600); END'"
    )
    files = folder({"001_a.sql": without_transaction("CALL plain()")})
    process = slipway.start(env=database.environ, migrations=files)
    await stop("pg_terminate_backend", process, database, "CALL plain()")

    assert await steps_of(database) == []
    assert await numbers(database) == []


@pytest.mark.parametrize("fault", FAULTS)
async def test_interrupted_call_is_a_persons_decision(
    fault: str, database: Database, folder: Folder, slipway: Slipway
) -> None:
    files = await interrupt_call(database, folder, slipway, fault)

    finished = await asyncio.to_thread(slipway, env=database.environ, migrations=files)
    again = await asyncio.to_thread(slipway, env=database.environ, migrations=files)

    assert finished.code == again.code == 25, finished
    assert finished.outcome
    assert finished.outcome["message"] == await undecided(database)
    assert commands_in(finished) == [["resolve", "3", "--done"], ["resolve", "3", "--retry"]]
    assert await numbers(database) == [0, 1]
    assert await steps_of(database, 3) == [(1, 2, True), (2, 3, False)]


async def test_interrupted_do_is_a_persons_decision(database: Database, folder: Folder, slipway: Slipway) -> None:
    await database.execute(LOG)
    files = folder({"003_a.sql": without_transaction("SELECT 1", DO)})
    process = slipway.start(env=database.environ, migrations=files)
    await eventually(lambda: database.fetch("SELECT FROM log"), "the first batch is committed")
    await stop("SIGTERM", process, database, "DO %")

    finished = await asyncio.to_thread(slipway, env=database.environ, migrations=files)

    assert finished.code == 25, finished
    assert finished.outcome
    assert finished.outcome["message"] == await undecided(database, DO)


async def test_message_of_a_signal_says_what_becomes_of_a_call(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    await database.execute(LOG)
    process = slipway.start(env=database.environ, migrations=folder({"001_a.sql": without_transaction(DO)}))
    await eventually(lambda: database.fetch("SELECT FROM log"), "the first batch is committed")

    finished = await stop("SIGTERM", process, database, "DO %")

    assert finished
    assert "rolled back" not in finished.err.split("001_a.sql:2")[-1]


async def test_other_statement_that_nobody_can_tell_about_is_a_persons_decision(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    slipway(env=database.environ, migrations=folder({"001_a.sql": without_transaction("SELECT 1")}))
    await database.execute(in_flight("COMMIT PREPARED 'x'", version=2))

    finished = slipway(
        env=database.environ, migrations=folder({"002_b.sql": without_transaction("COMMIT PREPARED 'x'")})
    )

    assert finished.code == 25, finished
    assert finished.outcome
    assert finished.outcome["message"] == await undecided(database, "COMMIT PREPARED 'x'", "002_b.sql:2")


async def test_call_that_commits_and_then_is_the_victim_of_a_deadlock_is_not_repeated_unasked(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    await database.execute(
        f"{LOG}; CREATE TABLE a (); CREATE TABLE b (); {PROCEDURE.format(middle='LOCK TABLE b; LOCK TABLE a')}"
    )
    files = folder({"003_a.sql": without_transaction("SELECT 1", CALL)})
    async with database.connection() as other:
        await other.execute("BEGIN; SET LOCAL deadlock_timeout = '1h'; LOCK TABLE a")
        process = slipway.start(env=database.environ, migrations=files)
        await eventually(
            lambda: database.fetch("SELECT FROM pg_locks WHERE relation = 'b'::regclass AND granted"), "b is locked"
        )
        await other.execute("LOCK TABLE b; COMMIT")

    finished = await asyncio.to_thread(process.finish)

    assert await numbers(database) == [1], finished
    assert finished.code == 25, finished
    assert "canceling statement due to lock timeout" in finished.err


async def test_call_that_commits_and_then_fails_is_not_repeated_unasked(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    """An initContainer is started again at once, for ever: it would do the first batch again and again."""
    await database.execute(f"{LOG}; {PROCEDURE.format(middle='PERFORM 1 / 0')}")
    files = folder({"003_a.sql": without_transaction("SELECT 1", CALL)})

    first = slipway(env=database.environ, migrations=files)
    second = slipway(env=database.environ, migrations=files)

    assert "003_a.sql:3: division by zero" in first.err
    assert await numbers(database) == [1], second


async def test_call_that_is_refused_before_it_does_anything_can_be_corrected(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    await database.execute(f"{LOG}; {PROCEDURE.format(middle='PERFORM 1')}")

    refused = slipway(env=database.environ, migrations=folder({"001_a.sql": without_transaction("CALL batch(1)")}))
    corrected = slipway(env=database.environ, migrations=folder({"001_a.sql": without_transaction(CALL)}))

    assert refused.code == 24, refused
    assert corrected.code == 0, corrected
    assert await numbers(database) == [1, 2]


async def test_edited_statement_does_not_hide_that_one_is_in_flight(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    await interrupt_call(database, folder, slipway)
    files = folder({"003_a.sql": without_transaction("INSERT INTO log VALUES (0)", "SELECT 1")})

    finished = await asyncio.to_thread(slipway, env=database.environ, migrations=files)

    assert finished.code == 25, finished
    assert finished.outcome
    assert finished.outcome["message"] == await undecided(database)


# --- resolve ----------------------------------------------------------------------------------------------------


async def test_resolve_done_goes_on_after_it(database: Database, folder: Folder, slipway: Slipway) -> None:
    files = await interrupt_call(database, folder, slipway, "SIGTERM", "INSERT INTO log VALUES (3)")
    refused = await asyncio.to_thread(slipway, env=database.environ, migrations=files)

    resolved = await asyncio.to_thread(slipway, *commands_in(refused)[0], env=database.environ)
    left = await steps_of(database, 3)
    finished = await asyncio.to_thread(slipway, env=database.environ, migrations=files)

    assert resolved.code == 0, resolved
    assert resolved.outcome
    assert resolved.outcome["message"] == "noted: line 3 of version 3 took effect; the next run goes on after it"
    assert left == [(1, 2, True), (2, 3, True)]
    assert finished.code == 0, finished
    assert await numbers(database) == [0, 1, 3]
    assert await steps_of(database, 3) == []


async def test_resolve_retry_runs_it_again(database: Database, folder: Folder, slipway: Slipway) -> None:
    files = await interrupt_call(database, folder, slipway, "SIGTERM", "INSERT INTO log VALUES (3)")
    refused = await asyncio.to_thread(slipway, env=database.environ, migrations=files)

    resolved = await asyncio.to_thread(slipway, *commands_in(refused)[1], env=database.environ)
    left = await steps_of(database, 3)
    finished = await asyncio.to_thread(slipway, env=database.environ, migrations=files)

    assert resolved.code == 0, resolved
    assert resolved.outcome
    assert resolved.outcome["message"] == "noted: line 3 of version 3 did not take effect; the next run repeats it"
    assert left == [(1, 2, True)]
    assert finished.code == 0, finished
    assert await numbers(database) == [0, 1, 1, 2, 3]


async def test_file_can_be_corrected_after_resolve_retry(database: Database, folder: Folder, slipway: Slipway) -> None:
    await interrupt_call(database, folder, slipway)
    await asyncio.to_thread(slipway, "resolve", "3", "--retry", env=database.environ)
    files = folder({"003_a.sql": without_transaction("INSERT INTO log VALUES (0)", "INSERT INTO log VALUES (2)")})

    finished = await asyncio.to_thread(slipway, env=database.environ, migrations=files)

    assert finished.code == 0, finished
    assert await numbers(database) == [0, 1, 2]


async def test_resolve_restart_begins_the_file_anew(database: Database, folder: Folder, slipway: Slipway) -> None:
    await interrupt_call(database, folder, slipway, "SIGTERM", "INSERT INTO log VALUES (3)")
    await database.execute("DELETE FROM log")
    files = folder({"003_a.sql": without_transaction("INSERT INTO log VALUES (4)", CALL)})

    resolved = await asyncio.to_thread(slipway, "resolve", "3", "--restart", env=database.environ)
    left = await steps_of(database, 3)
    finished = await asyncio.to_thread(slipway, env=database.environ, migrations=files)

    assert resolved.code == 0, resolved
    assert resolved.outcome
    message = "noted: the next run begins version 3 anew; 2 statements of it had been begun"
    assert resolved.outcome["message"] == message
    assert left == []
    assert finished.code == 0, finished
    assert await numbers(database) == [1, 2, 4]


async def test_resolve_restart_leaves_other_files_and_the_history_alone(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    files = folder({"001_a.sql": without_transaction("SELECT 1"), "002_b.sql": without_transaction("SELECT 1", "oops")})
    assert slipway(env=database.environ, migrations=files).code == 24
    await database.execute(in_flight("CREATE INDEX CONCURRENTLY i ON t (n)", version=3, step=1, line=2))

    applied = slipway("resolve", "1", "--restart", env=database.environ)
    first = slipway("resolve", "3", "--restart", env=database.environ)
    second = slipway("resolve", "3", "--restart", env=database.environ)

    assert [one.code for one in (applied, first, second)] == [23, 0, 20], first
    for finished, message in (
        (applied, "version 1 is not unfinished, so there is nothing to begin anew"),
        (second, UNKNOWN.format(3)),
    ):
        assert finished.outcome
        assert finished.outcome["message"] == message
    assert await steps_of(database, 2) == [(1, 2, True)]
    assert await database.applied() == ["001_a.sql"]


@pytest.mark.parametrize("decision", ["--done", "--retry"])
async def test_nothing_in_flight_is_a_conflict(
    decision: str, database: Database, folder: Folder, slipway: Slipway
) -> None:
    """Without a journal, with one, with an unfinished file, and the second time; of a version that nobody knows."""
    files = folder({"003_a.sql": without_transaction("SELECT 1", "SELECT oops")})
    unknown = slipway("resolve", "3", decision, env=database.environ)
    without_journal = slipway("resolve", "3", decision, env=database.environ, migrations=files)
    assert slipway(env=database.environ, migrations=files).code == 24
    unfinished = slipway("resolve", "3", decision, env=database.environ)
    await database.execute(in_flight(CALL, version=3, step=2, line=3))
    first = slipway("resolve", "3", decision, env=database.environ)
    second = slipway("resolve", "3", decision, env=database.environ, migrations=files)
    other = slipway("resolve", "9999999999999999999", decision, env=database.environ)

    assert [one.code for one in (without_journal, unfinished, first, second)] == [23, 23, 0, 23], second
    for finished, version in ((unknown, 3), (other, 9999999999999999999)):
        assert finished.outcome
        assert (finished.code, finished.outcome["message"]) == (20, UNKNOWN.format(version)), finished
    for finished in (without_journal, unfinished, second):
        assert finished.outcome
        assert finished.outcome["message"] == NOTHING.format(3)


@pytest.mark.parametrize(
    "arguments",
    [
        ("resolve",),
        ("resolve", "3"),
        ("resolve", "--done"),
        ("resolve", "3", "--done", "--retry"),
        ("resolve", "3", "--restart", "--retry"),
        ("resolve", "--restart"),
        ("resolve", "three", "--done"),
        ("resolve", "-3", "--done"),
        ("resolve", "003_a.sql", "--done"),
        ("resolve", "12345678901234567890", "--done"),
    ],
    ids=" ".join,
)
def test_resolve_needs_a_version_and_a_decision(arguments: tuple[str, ...], slipway: Slipway) -> None:
    finished = slipway(*arguments, env={"PGHOST": "127.0.0.1", "PGUSER": "u", "PGPORT": "1"})

    assert finished.code == 20, finished


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("up", "--done"), "--done goes with resolve, not with up"),
        (("status", "--retry"), "--retry goes with resolve, not with status"),
        (("plan", "--restart"), "--restart goes with resolve, not with plan"),
        (("up", "3"), "up takes no argument"),
        (("resolve", "3", "4", "--done"), "unknown arguments: too many"),
        (("resolve", "3", "--don"), "unknown arguments: --don"),
    ],
    ids=["done", "retry", "restart", "version", "two", "abbreviated"],
)
def test_arguments_of_resolve_go_with_resolve(arguments: tuple[str, ...], message: str, slipway: Slipway) -> None:
    finished = slipway(*arguments, env={})

    assert finished.code == 20, finished
    assert message in finished.err


@pytest.mark.parametrize("decision", ["--done", "--restart"])
async def test_resolve_waits_for_the_lock(decision: str, database: Database, folder: Folder, slipway: Slipway) -> None:
    await interrupt_call(database, folder, slipway)
    async with database.migration_lock():
        locked = await asyncio.to_thread(
            slipway, "resolve", "3", decision, env=database.environ, lock_timeout="300ms"
        )  # fmt: skip
        left = await steps_of(database, 3)
        waiting = slipway.start("resolve", "3", decision, env=database.environ)
        await asyncio.to_thread(waiting.wait_for_log, "waiting for the migration lock")

    finished = await asyncio.to_thread(waiting.finish)

    assert locked.code == 11, locked
    assert left == [(1, 2, True), (2, 3, False)]
    assert finished.code == 0, finished


@pytest.mark.parametrize("decision", ["--done", "--restart"])
async def test_resolve_waits_for_an_orphan(decision: str, database: Database, folder: Folder, slipway: Slipway) -> None:
    """As behind a pooler, where the lock was the killed run's and its session is the pool's."""
    await interrupt_call(database, folder, slipway)
    await database.execute("CREATE TABLE held ()")
    await database.execute(PROCEDURE.format(middle="LOCK TABLE held").replace("CREATE", "CREATE OR REPLACE"))
    async with transaction_on(database, "LOCK TABLE held"):
        orphan = asyncio.create_task(database.execute(CALL))
        pid = await wait_for_query(database, "CALL %")
        locked = await asyncio.to_thread(
            slipway, "resolve", "3", decision, env=database.environ, lock_timeout="1s"
        )  # fmt: skip
        left = await steps_of(database, 3)
    await orphan

    assert locked.code == 11, locked
    assert locked.outcome
    assert locked.outcome["message"] == (
        f"an earlier run's session, pid {pid}, still works on: {CALL} (MIGRATE_LOCK_TIMEOUT=1s)"
    )
    assert left == [(1, 2, True), (2, 3, False)]


async def test_resolve_becomes_the_role(database: Database, folder: Folder, slipway: Slipway) -> None:
    login = await database.create_role("resolve_login", "LOGIN NOINHERIT")
    await database.execute("CREATE ROLE resolve_owner; GRANT resolve_owner TO resolve_login")
    await database.execute("GRANT ALL ON SCHEMA public TO resolve_owner")
    files = folder({"003_a.sql": without_transaction("SELECT 1", "SELECT oops")})
    slipway(env=login.environ, migrations=files, role="resolve_owner")
    await database.execute(in_flight(CALL, version=3, step=2, line=3))

    as_login = slipway("resolve", "3", "--done", env=login.environ)
    begun_anew = slipway("resolve", "3", "--restart", env=login.environ)
    as_role = slipway("resolve", "3", "--done", env=login.environ, role="resolve_owner")

    assert (as_login.code, begun_anew.code) == (22, 22), begun_anew
    assert "permission denied for table schema_migrations_steps" in as_login.err
    assert as_role.code == 0, as_role


# --- status and plan --------------------------------------------------------------------------------------------

PENDING = "SELECT 1"


async def leave_unfinished(database: Database, folder: Folder, slipway: Slipway) -> Path:
    """1 is applied, 2 has a statement in flight, 3 is pending."""
    slipway(env=database.environ, migrations=folder({"001_a.sql": ""}))
    files = folder({"002_b.sql": without_transaction("SELECT 1", "SELECT oops"), "003_c.sql": PENDING})
    assert slipway(env=database.environ, migrations=files).code == 24
    await database.execute(in_flight(CALL, version=2, step=2, line=3))
    await database.execute("UPDATE schema_migrations SET applied_at = '2026-01-02 03:04:05+00'")
    await database.execute("UPDATE schema_migrations_steps SET started_at = '2026-01-02 03:04:06+00'")
    return files


PROGRESS = f"1 done, up to line 2; line 3 in flight since 2026-01-02T03:04:06+00:00: {CALL}"


async def test_status_shows_how_far_an_unfinished_file_got(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    files = await leave_unfinished(database, folder, slipway)

    finished = slipway("status", env=database.environ, migrations=files)
    strict = slipway("status", "--exit-code", env=database.environ, migrations=files)

    assert finished.code == 0, finished
    assert finished.out == (
        "VERSION  STATE       APPLIED AT                 FILE\n"
        "1        applied     2026-01-02T03:04:05+00:00  001_a.sql\n"
        "2        unfinished  -                          002_b.sql\n"
        "3        pending     -                          003_c.sql\n"
        f"002_b.sql: {PROGRESS}\n"
    )
    assert strict.code == 14, strict
    assert "2 migrations pending: 002_b.sql, 003_c.sql" in strict.err


async def test_status_as_json_has_the_progress(database: Database, folder: Folder, slipway: Slipway) -> None:
    files = await leave_unfinished(database, folder, slipway)

    finished = slipway("status", "--json", env=database.environ, migrations=files)

    assert [(row["state"], row["progress"]) for row in json.loads(finished.out)] == [
        ("applied", None),
        ("unfinished", PROGRESS),
        ("pending", None),
    ]


async def test_status_shows_an_unfinished_file_that_the_image_does_not_have(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    files = await leave_unfinished(database, folder, slipway)
    (files / "002_b.sql").unlink()

    finished = slipway("status", env=database.environ, migrations=files)
    as_json = slipway("status", "--json", env=database.environ, migrations=files)

    assert finished.code == 0, finished
    assert finished.out.splitlines()[2:] == [
        "2        unfinished  -                          (a file that this image does not have)",
        "3        pending     -                          003_c.sql",
        f"(a file that this image does not have): {PROGRESS}",
    ]
    assert json.loads(as_json.out)[1] == {
        "version": 2,
        "filename": "(a file that this image does not have)",
        "state": "unfinished",
        "applied_at": None,
        "progress": PROGRESS,
    }


async def test_status_shows_a_version_once_whose_row_somebody_wrote(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    """A person has done the rest by hand, and taken the file over."""
    files = await leave_unfinished(database, folder, slipway)
    await database.execute("INSERT INTO schema_migrations VALUES (2, '002_b.sql', '2026-01-02 03:04:05+00')")

    finished = slipway("status", env=database.environ, migrations=files)

    assert [line.split()[0] for line in finished.out.splitlines()[1:4]] == ["1", "2", "3"], finished
    assert "(a file that this image does not have)" not in finished.out


async def test_plan_shows_how_far_an_unfinished_file_got(database: Database, folder: Folder, slipway: Slipway) -> None:
    files = folder({"001_a.sql": without_transaction("SELECT 1", "SELECT 2", "SELECT oops"), "002_b.sql": PENDING})
    slipway(env=database.environ, migrations=files)

    finished = slipway("plan", env=database.environ, migrations=files)

    assert finished.code == 0, finished
    assert finished.out == (
        "apply 001_a.sql (3 statements, without a transaction; 2 done, up to line 3)\n"
        "apply 002_b.sql (1 statement, in a transaction)\n"
    )


@pytest.mark.parametrize("edited", [False, True], ids=["in flight", "edited"])
async def test_plan_refuses_an_unfinished_file_as_up_would(
    edited: bool, database: Database, folder: Folder, slipway: Slipway
) -> None:
    files = await leave_unfinished(database, folder, slipway)
    if edited:
        await database.execute("DELETE FROM schema_migrations_steps WHERE done_at IS NULL")
        folder({"002_b.sql": without_transaction("SELECT 10", "SELECT 2")})

    planned = slipway("plan", env=database.environ, migrations=files)
    run = slipway(env=database.environ, migrations=files)

    assert run.code == 25, run
    assert planned.code == 25, planned


async def test_role_that_may_read_the_history_only_still_sees_its_status(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    """The journal is there as soon as one file without a transaction has ever run; it is empty then."""
    files = folder({"001_a.sql": without_transaction("SELECT 1")})
    slipway(env=database.environ, migrations=files)
    reader = await database.create_role("resolve_reader")
    await database.execute("GRANT SELECT ON schema_migrations TO resolve_reader")

    shown = slipway("status", "--exit-code", env=reader.environ, migrations=files)
    planned = slipway("plan", env=reader.environ, migrations=files)

    assert shown.code == 0, shown
    assert planned.code == 0, planned


async def test_status_shows_an_unfinished_file_whose_first_statement_is_in_flight(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    await leave_unfinished(database, folder, slipway)
    await database.execute("DELETE FROM schema_migrations_steps")
    await database.execute(in_flight(CALL, version=2, step=1, line=2))
    await database.execute("UPDATE schema_migrations_steps SET started_at = '2026-01-02T03:04:06+00'")

    finished = slipway("status", "--json", env=database.environ, migrations=folder({}))

    assert finished.code == 0, finished
    assert json.loads(finished.out)[1]["progress"] == f"line 2 in flight since 2026-01-02T03:04:06+00:00: {CALL}"
