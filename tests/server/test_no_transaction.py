"""Files without a transaction: each statement has its effect once, and a file goes on where it stopped."""

from __future__ import annotations

import asyncio
import os
from functools import partial
from typing import TYPE_CHECKING

import asyncpg
import pytest

from pgslipway import run_migrations
from pgslipway.errors import BadConfiguration
from servers import PATIENCE, eventually
from unfinished import (
    FAULTS,
    OPT_OUT,
    numbers,
    steps_of,
    stop,
    transaction_on,
    wait_for_query,
    wait_until_gone,
    without_transaction,
)

if TYPE_CHECKING:
    from conftest import Folder, Slipway
    from servers import Cluster, Database, Server

LOG = "CREATE TABLE log (n int)"
SLEEPS = "%pg_sleep(3600)%"
GOES_ON = "what comes before it in 001_a.sql is done and stays; the next run goes on from there"


def logging(number: int) -> str:
    """A statement that leaves a number each time that it has its effect."""
    return f"INSERT INTO log VALUES ({number})"


# --- each statement once ----------------------------------------------------------------------------------------


async def test_file_of_many_statements_has_each_effect_once_and_leaves_no_journal(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    files = folder(
        {"001_a.sql": without_transaction(LOG, logging(1), "VACUUM log", logging(2), "DO 'BEGIN COMMIT; END'")}
    )

    finished = slipway(env=database.environ, migrations=files)
    again = slipway(env=database.environ, migrations=files)

    assert finished.code == 0, finished
    assert again.code == 0, again
    assert await numbers(database) == [1, 2]
    assert await steps_of(database) == []
    assert await database.applied() == ["001_a.sql"]


@pytest.mark.parametrize("fault", FAULTS)
async def test_interrupted_file_has_each_effect_once(
    fault: str, database: Database, folder: Folder, slipway: Slipway
) -> None:
    slow = "INSERT INTO log SELECT 2 FROM pg_sleep(3600)"
    process = slipway.start(
        env=database.environ, migrations=folder({"001_a.sql": without_transaction(LOG, logging(1), slow, logging(3))})
    )
    await stop(fault, process, database, SLEEPS)
    await wait_until_gone(database, SLEEPS)
    left = await steps_of(database)
    quick = folder({"001_a.sql": without_transaction(LOG, logging(1), logging(2), logging(3))})

    again = await asyncio.to_thread(slipway, env=database.environ, migrations=quick)

    assert left == [(1, 2, True), (2, 3, True)]
    assert again.code == 0, again
    assert await numbers(database) == [1, 2, 3]
    assert await steps_of(database) == []


async def test_crash_of_the_server_leaves_each_effect_once(cluster: Cluster, folder: Folder, slipway: Slipway) -> None:
    database = cluster.database
    slow = "INSERT INTO log SELECT 2 FROM pg_sleep(3600)"
    process = slipway.start(
        env=database.environ, migrations=folder({"001_a.sql": without_transaction(LOG, logging(1), slow)})
    )
    await wait_for_query(database, SLEEPS)
    await asyncio.to_thread(cluster.stop, "immediate")
    finished = await asyncio.to_thread(process.finish)
    await asyncio.to_thread(cluster.start)
    files = folder({"001_a.sql": without_transaction(LOG, logging(1), logging(2))})

    again = await asyncio.to_thread(slipway, env=database.environ, migrations=files)

    assert finished.code == 13, finished
    assert "001_a.sql:4 was not committed" in finished.err
    assert again.code == 0, again
    assert await numbers(database) == [1, 2]


async def test_command_of_an_extension_that_refuses_a_transaction_runs_outside_one(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    if not database.server.timescaledb:
        pytest.skip("needs TimescaleDB")
    statements = [
        "CREATE EXTENSION timescaledb",
        "CREATE TABLE log (n int, at timestamptz NOT NULL)",
        "SELECT create_hypertable('log', 'at')",
        "INSERT INTO log VALUES (1, now())",
        "CREATE INDEX log_n ON log (n) WITH (timescaledb.transaction_per_chunk)",
        "INSERT INTO log VALUES (2, now())",
    ]

    finished = slipway(env=database.environ, migrations=folder({"001_a.sql": without_transaction(*statements)}))

    assert finished.code == 0, finished
    assert await numbers(database) == [1, 2]
    assert await database.fetch("SELECT FROM pg_index WHERE NOT indisvalid") == []


@pytest.mark.parametrize("reset", ["RESET ALL", "RESET lock_timeout"])
async def test_lock_timeout_is_in_force_after_a_reset(
    reset: str, database: Database, folder: Folder, slipway: Slipway
) -> None:
    """An ALTER TABLE without one would take the site down."""
    note = "CREATE TABLE noted AS SELECT current_setting('lock_timeout') AS seen"

    finished = slipway(
        env=database.environ, migrations=folder({"001_a.sql": without_transaction(reset, note)}),
        ddl_lock_timeout="300ms",
    )  # fmt: skip

    assert finished.code == 0, finished
    assert [row["seen"] for row in await database.fetch("SELECT seen FROM noted")] == ["300ms"]


# --- a statement that Postgres refuses --------------------------------------------------------------------------


async def test_refused_statement_keeps_earlier_ones_and_the_corrected_file_goes_on_from_there(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    await database.execute("CREATE SCHEMA app")
    before = ["SET search_path = app", LOG, logging(1)]

    refused = slipway(
        env=database.environ,
        migrations=folder({"001_a.sql": without_transaction(*before, "INSERT INTO log VALUES (oops)", logging(3))}),
    )
    left = await steps_of(database)
    corrected = slipway(
        env=database.environ,
        migrations=folder({"001_a.sql": without_transaction(*before, logging(2), logging(3))}),
    )

    assert refused.code == 24, refused
    assert refused.outcome
    assert refused.outcome["message"] == (
        '001_a.sql:5: column "oops" does not exist\n'
        "  5 | INSERT INTO log VALUES (oops);\n"
        "    |                         ^\n"
        "SQLSTATE 42703\n"
        f"{GOES_ON}"
    )
    assert left == [(1, 3, True), (2, 4, True)]
    assert corrected.code == 0, corrected
    assert await numbers(database, "app.log") == [1, 2, 3]


async def test_error_without_a_position_names_file_and_line(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    files = folder({"001_a.sql": f"{OPT_OUT}{LOG};\n\n/* why */ ALTER TABLE log\n  ADD CHECK (n > 0);\n{logging(-1)};"})

    finished = slipway(env=database.environ, migrations=files)

    assert finished.code == 24, finished
    assert '001_a.sql:6: new row for relation "log" violates check constraint "log_n_check"\n' in finished.err
    assert "was rolled back" not in finished.err


async def test_caret_is_under_the_place_in_a_later_line_of_a_later_statement(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    files = folder({"001_a.sql": f"{OPT_OUT}SELECT 'größe'; SELECT 1,\n\n  'ä', oops -- here\n;"})

    finished = slipway(env=database.environ, migrations=files)

    assert finished.code == 24, finished
    assert "001_a.sql:4: column \"oops\" does not exist\n  4 |   'ä', oops -- here\n    |        ^\n" in finished.err


async def test_deferred_constraint_that_fails_at_the_commit_undoes_its_statement_only(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    table = "CREATE TABLE log (n int PRIMARY KEY, m int REFERENCES log DEFERRABLE INITIALLY DEFERRED)"
    files = folder({"001_a.sql": without_transaction(table, logging(1), "INSERT INTO log VALUES (2, 7)")})

    finished = slipway(env=database.environ, migrations=files)

    assert finished.code == 24, finished
    assert "001_a.sql:4: insert or update on table" in finished.err
    assert GOES_ON in finished.err
    assert await numbers(database) == [1]
    assert await steps_of(database) == [(1, 2, True), (2, 3, True)]


async def test_statement_timeout_is_in_force_and_what_it_ends_is_not_in_flight(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    files = folder({"001_a.sql": without_transaction("SELECT 1", "SELECT pg_sleep(60)")})

    finished = slipway(env=database.environ, migrations=files, statement_timeout="100ms")

    assert finished.code == 24, finished
    assert "001_a.sql:3: canceling statement due to statement timeout" in finished.err
    assert await steps_of(database) == [(1, 2, True)]


# --- settings, enum values, the temporary -----------------------------------------------------------------------


async def test_settings_before_the_place_run_again_and_those_after_it_only_then(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    note = "CREATE TABLE noted AS SELECT 1 AS line, current_setting('my.one') AS one, current_setting('my.two') AS two"
    before = ["SET my.one = 'a'", "SET my.two = 'b'", "SELECT 1", "RESET my.one"]
    slipway(env=database.environ, migrations=folder({"001_a.sql": without_transaction(*before, "SELECT oops")}))

    finished = slipway(
        env=database.environ,
        migrations=folder({"001_a.sql": without_transaction(*before, note, "SET my.two = 'c'"), "002_b.sql": ""}),
    )

    assert finished.code == 0, finished
    assert [tuple(row) for row in await database.fetch("SELECT * FROM noted")] == [(1, "", "b")]


async def test_settings_do_not_reach_the_next_file(database: Database, folder: Folder, slipway: Slipway) -> None:
    await database.execute("CREATE SCHEMA app")
    files = folder(
        {
            "001_a.sql": without_transaction("SET search_path = app", "CREATE TEMP TABLE t ()", "SET my.one = 'a'"),
            "002_b.sql": without_transaction("CREATE TABLE b ()", "SELECT 1 / (CASE WHEN now() IS NULL THEN 1 END)"),
            "003_c.sql": "CREATE TABLE c AS SELECT current_setting('my.one') AS one, to_regclass('t') AS t;",
        }
    )

    finished = slipway(env=database.environ, migrations=files)

    assert finished.code == 0, finished
    assert await database.fetch("SELECT FROM public.b") == []
    assert [tuple(row) for row in await database.fetch("SELECT one, t::text FROM c")] == [("", None)]


async def test_search_path_that_a_query_sets_is_in_force_when_a_file_goes_on(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    """pg_dump writes it so. Either it runs again, or it is refused: silently, the rest would go elsewhere."""
    await database.execute("CREATE SCHEMA app")
    before = ["SELECT pg_catalog.set_config('search_path', 'app', false)", "CREATE TABLE a ()"]
    first = slipway(env=database.environ, migrations=folder({"001_a.sql": without_transaction(*before, "SELECT oops")}))
    second = slipway(
        env=database.environ, migrations=folder({"001_a.sql": without_transaction(*before, "CREATE TABLE b ()")})
    )

    made = await database.fetch("SELECT relnamespace::regnamespace::text AS schema FROM pg_class WHERE relname = 'b'")
    assert (first.code, second.code) in {(21, 21), (24, 0)}, second
    assert [row["schema"] for row in made] == (["app"] if second.code == 0 else [])


async def test_enum_value_can_be_used_in_the_next_statement(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    statements = [
        "CREATE TYPE mood AS ENUM ('sad')",
        "CREATE TABLE log (m mood)",
        "ALTER TYPE mood ADD VALUE 'glad'",
        "INSERT INTO log VALUES ('glad')",
    ]

    finished = slipway(env=database.environ, migrations=folder({"001_a.sql": without_transaction(*statements)}))

    assert finished.code == 0, finished
    assert [row[0] for row in await database.fetch("SELECT m::text FROM log")] == ["glad"]


async def test_temporary_table_lasts_to_the_end_of_a_run(database: Database, folder: Folder, slipway: Slipway) -> None:
    statements = ["CREATE TEMP TABLE t (n int)", "INSERT INTO t VALUES (1)", "CREATE TABLE log AS SELECT n FROM t"]

    finished = slipway(env=database.environ, migrations=folder({"001_a.sql": without_transaction(*statements)}))

    assert finished.code == 0, finished
    assert await numbers(database) == [1]


@pytest.mark.parametrize(
    "temporary",
    [
        "CREATE TEMP TABLE t (n int)",
        'CREATE TEMPORARY TABLE IF NOT EXISTS "Odd ""t" (n int)',
        "CREATE TEMP VIEW t AS SELECT 1 AS n",
        "create local temp sequence t",
    ],
    ids=["table", "odd", "view", "sequence"],
)
async def test_temporary_object_of_a_lost_session_is_missed(
    temporary: str, database: Database, folder: Folder, slipway: Slipway
) -> None:
    files = folder({"001_a.sql": without_transaction("SELECT 1", temporary, "SELECT oops", "SELECT 2")})

    first = slipway(env=database.environ, migrations=files)
    second = slipway(env=database.environ, migrations=files)

    assert first.code == 24, first
    assert second.code == 25, second
    assert second.outcome
    assert second.outcome["message"] == (
        "001_a.sql:3: this made something temporary, which is gone with the session of an earlier run; use a plain "
        "table: undo by hand what the file did, "
        "and have it start anew with: pgslipway resolve 1 --restart\n"
        f"  3 | {temporary};\n"
        "    | ^"
    )


async def test_temporary_table_that_the_file_has_dropped_is_not_missed(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    before = ["CREATE TEMP TABLE t (n int)", "DROP TABLE t", LOG]
    slipway(env=database.environ, migrations=folder({"001_a.sql": without_transaction(*before, "SELECT oops")}))

    finished = slipway(env=database.environ, migrations=folder({"001_a.sql": without_transaction(*before, logging(1))}))

    assert finished.code == 0, finished


async def test_file_that_another_runner_has_recorded_meanwhile_is_not_said_to_be_applied(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    record = "INSERT INTO schema_migrations (version, filename) VALUES (1, '001_a.sql')"

    finished = slipway(env=database.environ, migrations=folder({"001_a.sql": without_transaction(LOG, record)}))

    assert finished.code == 0, finished
    assert "starting over: 001_a.sql was applied by another runner" in finished.err
    assert finished.outcome
    assert finished.outcome["applied"] == []


# --- busy tables ------------------------------------------------------------------------------------------------


async def test_temporary_table_survives_a_busy_table(database: Database, folder: Folder, slipway: Slipway) -> None:
    await database.execute("CREATE TABLE a ()")
    statements = [
        LOG,
        "CREATE TEMP TABLE t AS SELECT 7 AS n",
        logging(1),
        "ALTER TABLE a ADD b int",
        "INSERT INTO log SELECT n FROM t",
    ]
    async with transaction_on(database, "SELECT FROM a"):
        running = slipway.start(
            env=database.environ,
            migrations=folder({"001_a.sql": without_transaction(*statements)}),
            ddl_lock_timeout="50ms",
        )
        await asyncio.to_thread(running.wait_for_log, "trying again")
        held = await numbers(database)

    finished = await asyncio.to_thread(running.finish)

    assert held == [1]
    assert finished.code == 0, finished
    assert await numbers(database) == [1, 7]
    assert "001_a.sql:5: canceling statement due to lock timeout" in finished.err


async def test_table_that_stays_busy_ends_as_busy_and_the_file_goes_on_from_there(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    await database.execute("CREATE TABLE a ()")
    files = folder({"001_a.sql": without_transaction(LOG, logging(1), "ALTER TABLE a ADD b int", logging(2))})
    async with transaction_on(database, "SELECT FROM a"):
        busy = await asyncio.to_thread(
            slipway, env=database.environ, migrations=files, ddl_lock_timeout="50ms", ddl_retry="200ms"
        )
        left = await steps_of(database)

    again = await asyncio.to_thread(slipway, env=database.environ, migrations=files)

    assert busy.code == 12, busy
    assert left == [(1, 2, True), (2, 3, True)]
    assert again.code == 0, again
    assert await numbers(database) == [1, 2]


async def test_busy_message_of_a_file_without_a_transaction_tells_the_truth(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    """Not all of it was rolled back, and SET LOCAL would do nothing in it."""
    await database.execute("CREATE TABLE a ()")
    files = folder({"001_a.sql": without_transaction(LOG, "ALTER TABLE a ADD b int")})
    async with transaction_on(database, "SELECT FROM a"):
        busy = await asyncio.to_thread(
            slipway, env=database.environ, migrations=files, ddl_lock_timeout="50ms", ddl_retry="100ms"
        )

    assert busy.code == 12, busy
    assert busy.outcome
    assert "it was rolled back" not in busy.outcome["message"]
    assert "SET LOCAL" not in busy.outcome["message"]


async def test_file_may_set_a_longer_lock_timeout_for_itself(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    await database.execute("CREATE TABLE a ()")
    files = folder({"001_a.sql": without_transaction("SET lock_timeout = '1h'", "ALTER TABLE a ADD b int")})
    async with transaction_on(database, "SELECT FROM a"):
        running = slipway.start(env=database.environ, migrations=files, ddl_lock_timeout="10ms", ddl_retry="0")
        await asyncio.to_thread(running.wait_for_log, "waiting for AccessExclusiveLock on a")

    finished = await asyncio.to_thread(running.finish)

    assert finished.code == 0, finished


async def test_lock_timeout_that_the_file_set_is_in_force_after_a_concurrent_build(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    note = "CREATE TABLE noted AS SELECT current_setting('lock_timeout') AS seen"
    index = "CREATE INDEX CONCURRENTLY i ON log (n)"
    files = folder(
        {
            "001_a.sql": without_transaction(LOG, "SET lock_timeout = '7s'", index, note),
            "002_b.sql": without_transaction("DROP INDEX CONCURRENTLY i", "INSERT INTO noted SELECT "
            "current_setting('lock_timeout')"),
        }
    )  # fmt: skip

    finished = slipway(env=database.environ, migrations=files, ddl_lock_timeout="300ms")

    assert finished.code == 0, finished
    assert [row["seen"] for row in await database.fetch("SELECT seen FROM noted")] == ["7s", "300ms"]


async def test_deadlock_is_tried_again_with_each_effect_once(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    """The other session may not be the victim: it has all the time in the world before it looks."""
    await database.execute("CREATE TABLE a (n int); CREATE TABLE b (n int); INSERT INTO a VALUES (1)")
    both = "DO 'BEGIN INSERT INTO log VALUES (2); LOCK TABLE b; LOCK TABLE a; END'"
    files = folder({"001_a.sql": without_transaction(LOG, logging(1), both, logging(3))})
    async with database.connection() as other:
        await other.execute("BEGIN; SET LOCAL deadlock_timeout = '1h'; LOCK TABLE a")
        running = slipway.start(env=database.environ, migrations=files, ddl_lock_timeout="1h")
        await eventually(
            lambda: database.fetch("SELECT FROM pg_locks WHERE relation = 'b'::regclass AND granted"), "b is locked"
        )
        await other.execute("LOCK TABLE b; COMMIT")

    finished = await asyncio.to_thread(running.finish)

    assert finished.code == 0, finished
    assert "deadlock detected" in finished.err
    assert await numbers(database) == [1, 2, 3]


@pytest.mark.parametrize("statement", ["VACUUM FULL a", "VACUUM a", "REINDEX SCHEMA public"])
async def test_statement_outside_a_transaction_that_blocks_others_is_bounded_by_the_lock_timeout(
    statement: str, database: Database, folder: Folder, slipway: Slipway
) -> None:
    await database.execute("CREATE TABLE a (n int PRIMARY KEY)")
    async with transaction_on(database, "LOCK TABLE a IN SHARE UPDATE EXCLUSIVE MODE"):
        running = slipway.start(
            env=database.environ, migrations=folder({"001_a.sql": without_transaction(statement)}),
            ddl_lock_timeout="50ms",
        )  # fmt: skip
        await asyncio.to_thread(running.wait_for_log, "trying again")
        left = await steps_of(database)

    finished = await asyncio.to_thread(running.finish)

    assert "001_a.sql:2: canceling statement due to lock timeout" in finished.err
    assert left == []
    assert finished.code == 0, finished


async def test_file_whose_record_is_locked_out_is_done_once_and_recorded_by_the_next_run(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    files = folder(
        {
            "001_a.sql": without_transaction(
                "SET lock_timeout = '1h'", LOG, "INSERT INTO log SELECT 1 FROM pg_advisory_xact_lock(1)"
            )
        }
    )
    async with database.connection() as other:
        await other.execute("SELECT pg_advisory_lock(1)")
        running = slipway.start(env=database.environ, migrations=files, ddl_lock_timeout="300ms", lock_timeout="1s")
        await wait_for_query(database, "%pg_advisory_xact_lock(1)")
        await other.execute("BEGIN; LOCK TABLE schema_migrations; SELECT pg_advisory_unlock(1)")
        locked_out = await asyncio.to_thread(running.finish)

    again = await asyncio.to_thread(slipway, env=database.environ, migrations=files)

    assert locked_out.code == 11, locked_out
    assert locked_out.outcome
    assert locked_out.outcome["message"] == ("001_a.sql: somebody has locked the history since MIGRATE_LOCK_TIMEOUT=1s")
    assert "001_a.sql: somebody has locked the history; rolled back, trying again in" in locked_out.err
    assert again.code == 0, again
    assert await numbers(database) == [1]


# --- a file that changes while it is unfinished -----------------------------------------------------------------

UNFINISHED = (LOG, logging(1), logging(2))


async def leave_unfinished(database: Database, folder: Folder, slipway: Slipway) -> None:
    """Two of UNFINISHED are done and so is the third; a fourth was refused."""
    files = folder({"001_a.sql": without_transaction(*UNFINISHED, "SELECT oops")})
    assert slipway(env=database.environ, migrations=files).code == 24
    assert await steps_of(database) == [(1, 2, True), (2, 3, True), (3, 4, True)]


WAY_OUT = (
    "its first 3 are done. Put their text back as it was; or undo by hand what they did, and "
    "have the file start anew with: pgslipway resolve 1 --restart"
)
CHANGES = {
    "edited": (
        without_transaction(LOG, logging(10), logging(2)),
        f"001_a.sql:3: this was edited after it was done; {WAY_OUT}\n  3 | {logging(10)};\n    | ^",
    ),
    "added before": (
        without_transaction("SELECT 0", *UNFINISHED),
        f"001_a.sql:2: this was edited after it was done; {WAY_OUT}\n  2 | SELECT 0;\n    | ^",
    ),
    "removed": (without_transaction(LOG, logging(1)), f"001_a.sql has 2 statements now, but {WAY_OUT}"),
    "emptied": (OPT_OUT, f"001_a.sql has 0 statements now, but {WAY_OUT}"),
    "swapped": (
        without_transaction(LOG, logging(2), logging(1)),
        f"001_a.sql:3: this was edited after it was done; {WAY_OUT}\n  3 | {logging(2)};\n    | ^",
    ),
}


@pytest.mark.parametrize(("text", "message"), CHANGES.values(), ids=CHANGES)
async def test_change_of_what_is_done_is_refused_and_the_old_text_is_a_way_out(
    text: str, message: str, database: Database, folder: Folder, slipway: Slipway
) -> None:
    await leave_unfinished(database, folder, slipway)

    planned = slipway("plan", env=database.environ, migrations=folder({"001_a.sql": text}))
    changed = slipway(env=database.environ, migrations=folder({"001_a.sql": text}))
    files = folder({"001_a.sql": without_transaction(*UNFINISHED, logging(3))})
    put_back = slipway(env=database.environ, migrations=files)

    assert planned.code == 25, planned
    assert changed.code == 25, changed
    assert changed.outcome
    assert changed.outcome["message"] == message
    assert put_back.code == 0, put_back
    assert await numbers(database) == [1, 2, 3]


async def test_file_starts_anew_with_the_command_that_the_message_gives(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    await leave_unfinished(database, folder, slipway)
    files = folder({"001_a.sql": without_transaction(LOG, logging(10))})
    refused = slipway(env=database.environ, migrations=files)
    assert refused.outcome
    command = refused.outcome["message"].split("have the file start anew with: ")[1].split("\n")[0]

    await database.execute("DROP TABLE log")
    resolved = slipway(*command.split()[1:], env=database.environ)
    finished = slipway(env=database.environ, migrations=files)

    assert resolved.code == 0, resolved
    assert finished.code == 0, finished
    assert await numbers(database) == [10]


async def test_file_that_is_made_transactional_half_way_is_refused(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    await leave_unfinished(database, folder, slipway)
    files = folder({"001_a.sql": ";\n".join([*UNFINISHED, logging(3)])})

    planned = slipway("plan", env=database.environ, migrations=files)
    refused = slipway(env=database.environ, migrations=files)
    put_back = slipway(
        env=database.environ, migrations=folder({"001_a.sql": f"{OPT_OUT}{';'.join([*UNFINISHED, logging(3)])}"})
    )

    assert (planned.code, refused.code) == (25, 25), refused
    assert refused.outcome
    assert refused.outcome["message"] == (
        "001_a.sql was begun without a transaction, and 3 of its statements are done, so it cannot "
        "run as one transaction now; put `-- no-transaction` back at its top"
    )
    assert put_back.code == 0, put_back
    assert await numbers(database) == [1, 2, 3]


async def test_file_of_which_nothing_was_done_may_become_transactional(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    refused = slipway(env=database.environ, migrations=folder({"001_a.sql": without_transaction("SELECT oops")}))

    finished = slipway(env=database.environ, migrations=folder({"001_a.sql": LOG}))

    assert refused.code == 24, refused
    assert finished.code == 0, finished


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("SELECT\n  1;\nSELECT '\n';\n", "SELECT\r\n  1;\r\nSELECT '\r\n';\r\n"),
        ("SELECT\r\n  1;\r\nSELECT '\r\n';\r\n", "SELECT\n  1;\nSELECT '\n';\n"),
        ("SELECT 1;SELECT 2;", "-- one\nSELECT 1 /* and */ ;\n\n;-- two\n/* ; */SELECT 2 -- done\n;"),
        ("SELECT 1;SELECT 2;", "\n\nSET my.one = '1';SELECT 1;RESET my.one;SELECT 2;"),
    ],
    ids=["to CRLF", "to LF", "comments", "settings"],
)
async def test_change_between_the_statements_that_are_done_changes_nothing(
    before: str, after: str, database: Database, folder: Folder, slipway: Slipway
) -> None:
    refused = slipway(env=database.environ, migrations=folder({"001_a.sql": f"{OPT_OUT}{before}SELECT oops"}))

    finished = slipway(env=database.environ, migrations=folder({"001_a.sql": f"{OPT_OUT}{after}SELECT 3"}))

    assert refused.code == 24, refused
    assert finished.code == 0, finished


async def test_comment_within_a_statement_belongs_to_it(database: Database, folder: Folder, slipway: Slipway) -> None:
    slipway(env=database.environ, migrations=folder({"001_a.sql": f"{OPT_OUT}SELECT 1;SELECT oops"}))

    finished = slipway(env=database.environ, migrations=folder({"001_a.sql": f"{OPT_OUT}SELECT /* one */ 1;SELECT 2"}))

    assert finished.code == 25, finished


# --- whose it is, and where -------------------------------------------------------------------------------------


async def test_journal_and_what_the_file_makes_belong_to_the_role(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    login = await database.create_role("steps_login", "LOGIN NOINHERIT")
    await database.execute("CREATE ROLE steps_owner; GRANT steps_owner TO steps_login")
    await database.execute("GRANT ALL ON SCHEMA public TO steps_owner; REVOKE ALL ON SCHEMA public FROM steps_login")
    statements = [LOG, "CREATE INDEX CONCURRENTLY i ON log (n)", "VACUUM log", "DO 'BEGIN COMMIT; END'", "SELECT oops"]
    files = folder({"001_a.sql": without_transaction(*statements)})

    refused = slipway(env=login.environ, migrations=files, role="steps_owner")
    owners = await database.fetch(
        "SELECT relname, relowner::regrole::text AS owner FROM pg_class "
        "WHERE relname IN ('log', 'i', 'schema_migrations_steps')"
    )
    finished = slipway(
        env=login.environ, migrations=folder({"001_a.sql": without_transaction(*statements[:-1])}), role="steps_owner"
    )

    assert refused.code == 24, refused
    assert {row["relname"]: row["owner"] for row in owners} == dict.fromkeys(
        ("log", "i", "schema_migrations_steps"), "steps_owner"
    )
    assert finished.code == 0, finished


@pytest.mark.parametrize(("schema", "table"), [('Odd "schema', "Ümlaut's"), ("public", "t" * 52)], ids=["odd", "long"])
async def test_journal_is_beside_a_history_of_any_name(
    schema: str, table: str, database: Database, folder: Folder, slipway: Slipway
) -> None:
    before = [LOG, logging(1), "CREATE INDEX CONCURRENTLY i ON log (n)"]
    first = slipway(
        env=database.environ,
        migrations=folder({"001_a.sql": without_transaction(*before, "SELECT oops")}),
        schema=schema,
        table=table,
    )
    tables = await database.fetch(
        "SELECT relname FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace WHERE nspname = $1 AND relkind = 'r'",
        schema,
    )
    second = slipway(
        env=database.environ,
        migrations=folder({"001_a.sql": without_transaction(*before, logging(2))}),
        schema=schema,
        table=table,
    )

    assert first.code == 24, first
    assert {table, f"{table}_steps"} <= {row["relname"] for row in tables}
    assert second.code == 0, second
    assert await numbers(database) == [1, 2]


@pytest.mark.parametrize(
    "foreign",
    [
        "CREATE TABLE schema_migrations_steps (id int)",
        "CREATE VIEW schema_migrations_steps AS SELECT 1 AS one",
        "CREATE SEQUENCE schema_migrations_steps",
        "CREATE TABLE schema_migrations_steps (LIKE pg_class); ALTER TABLE schema_migrations_steps ADD version text",
    ],
    ids=["table", "view", "sequence", "text"],
)
@pytest.mark.parametrize("command", ["up", "status", "plan"])
async def test_foreign_table_with_the_name_of_the_journal_is_a_conflict(
    command: str, foreign: str, database: Database, folder: Folder, slipway: Slipway
) -> None:
    await database.execute(foreign)

    finished = slipway(command, env=database.environ, migrations=folder({"001_a.sql": without_transaction(LOG)}))

    assert finished.code == 23, finished
    assert '"public"."schema_migrations_steps" is not pgslipway\'s journal: ' in finished.err
    assert "set MIGRATE_TABLE to another name" in finished.err
    assert await database.fetch("SELECT FROM pg_class WHERE relname = 'log'") == []


async def test_journal_that_lets_no_row_in_is_named_and_nothing_is_done(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    assert slipway(env=database.environ, migrations=folder({"001_a.sql": without_transaction("SELECT 1")})).code == 0
    await database.execute(
        "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE ''full''; END';"
        "CREATE TRIGGER no BEFORE INSERT ON schema_migrations_steps FOR EACH ROW EXECUTE FUNCTION no()"
    )

    finished = slipway(env=database.environ, migrations=folder({"002_b.sql": without_transaction(LOG)}))

    assert finished.code == 23, finished
    assert finished.outcome
    assert finished.outcome["message"].splitlines()[0] == (
        "002_b.sql could not be journalled: full (SQLSTATE P0001); this is about the history table "
        '"public"."schema_migrations"'
    )
    assert await database.fetch("SELECT FROM pg_class WHERE relname = 'log'") == []


# --- extensions -------------------------------------------------------------------------------------------------

UPDATABLE = """
SELECT e.name, p.source, p.target
  FROM pg_available_extensions e CROSS JOIN LATERAL pg_extension_update_paths(e.name) AS p
  JOIN pg_available_extension_versions v ON v.name = e.name AND v.version = p.source
 WHERE p.path IS NOT NULL AND p.target = e.default_version AND e.name <> 'timescaledb' AND v.requires IS NULL
 ORDER BY e.name <> 'hstore', e.name, p.source LIMIT 1
"""


async def updatable(database: Database) -> tuple[str, str, str]:
    """An extension of this server that has an update path: its name, from, to. TimescaleDB's image has some."""
    rows = await database.fetch(UPDATABLE)
    if not rows:
        missing = "this server offers no extension that can be updated"
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(missing)
    (row,) = rows
    return row["name"], row["source"], row["target"]


async def version_of(database: Database, extension: str) -> str:
    (row,) = await database.fetch("SELECT extversion FROM pg_extension WHERE extname = $1", extension)
    return str(row["extversion"])


async def test_extension_is_updated_as_the_first_command_of_a_session_of_its_own(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    name, source, target = await updatable(database)
    await database.execute(f"CREATE EXTENSION \"{name}\" VERSION '{source}'; {LOG}")
    update = f'ALTER EXTENSION "{name}" UPDATE'
    statements = [update, logging(1), f"{update} TO '{target}'", logging(2)]

    finished = slipway(env=database.environ, migrations=folder({"001_a.sql": without_transaction(*statements)}))

    assert finished.code == 0, finished
    assert await version_of(database, name) == target
    assert "001_a.sql:2 updated an extension, which the sessions before it cannot use" in finished.err
    assert await numbers(database) == [1, 2]
    assert await steps_of(database) == []


async def test_extension_that_cannot_be_updated_is_not_in_flight(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    files = folder({"001_a.sql": without_transaction("ALTER EXTENSION plpgsql UPDATE TO 'never'")})

    finished = slipway(env=database.environ, migrations=files)

    assert finished.code == 24, finished
    assert "001_a.sql:2: extension" in finished.err
    assert await steps_of(database) == []


@pytest.mark.parametrize(
    ("settings", "said", "code"),
    [
        ({"ddl_lock_timeout": "50ms", "ddl_retry": "100ms"}, "canceling statement due to lock timeout", 12),
        ({"ddl_lock_timeout": "0", "statement_timeout": "100ms"}, "canceling statement due to statement timeout", 24),
    ],
    ids=["lock", "statement"],
)
async def test_extension_update_is_bounded_as_every_statement_is(
    settings: dict[str, str], said: str, code: int, database: Database, folder: Folder, slipway: Slipway
) -> None:
    files = folder({"001_a.sql": without_transaction("ALTER EXTENSION plpgsql UPDATE")})
    async with transaction_on(database, "LOCK TABLE pg_extension"):
        finished = await asyncio.to_thread(
            partial(slipway, env=database.environ, migrations=files, limit=PATIENCE, **settings)
        )

    assert finished.code == code, finished
    assert f"001_a.sql:2: {said}" in finished.err
    assert await steps_of(database) == []


async def test_extension_update_belongs_to_the_role(database: Database, folder: Folder, slipway: Slipway) -> None:
    name, source, _ = await updatable(database)
    await database.execute(f"CREATE EXTENSION \"{name}\" VERSION '{source}'")
    login = await database.create_role("steps_updater", "LOGIN NOINHERIT")
    await database.execute("CREATE ROLE steps_stranger; GRANT steps_stranger TO steps_updater")
    await database.execute("GRANT ALL ON SCHEMA public TO steps_stranger")
    files = folder({"001_a.sql": without_transaction(f'ALTER EXTENSION "{name}" UPDATE')})

    finished = slipway(env=login.environ, migrations=files, role="steps_stranger")

    assert finished.code == 24, finished
    assert f"must be owner of extension {name}" in finished.err


async def test_extension_update_is_refused_where_there_is_one_connection_only(
    database: Database, folder: Folder
) -> None:
    files = folder({"001_a.sql": without_transaction("ALTER EXTENSION plpgsql UPDATE")})
    async with pool_of_one(database) as pool:
        with pytest.raises(BadConfiguration) as raised:
            await run_migrations(pool, files)

    assert str(raised.value) == (
        "001_a.sql:2 needs a second connection, which run_migrations does not open; use the image, or the command line"
    )
    assert await steps_of(database) == []


def pool_of_one(database: Database) -> asyncpg.Pool[asyncpg.Record]:
    return asyncpg.create_pool(database.url, min_size=1, max_size=1)


async def test_extension_update_works_where_it_is_not_the_first_statement_of_run_migrations(
    database: Database, folder: Folder
) -> None:
    files = folder({"001_a.sql": without_transaction(LOG, "ALTER EXTENSION plpgsql UPDATE", logging(1))})
    async with pool_of_one(database) as pool:
        assert await run_migrations(pool, files) == ["001_a.sql"]

    assert await numbers(database) == [1]


# --- the lock ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("statement", ["SELECT pg_advisory_unlock_all()"])
async def test_file_that_drops_the_lock_takes_it_again_and_goes_on(
    statement: str, database: Database, folder: Folder, slipway: Slipway
) -> None:
    await database.execute("CREATE SCHEMA app")
    statements = ["SET search_path = app", LOG, logging(1), statement, logging(2)]

    finished = slipway(env=database.environ, migrations=folder({"001_a.sql": without_transaction(*statements)}))

    assert finished.code == 0, finished
    assert "starting over: the migration lock was dropped" in finished.err
    assert await numbers(database, "app.log") == [1, 2]


# --- size -------------------------------------------------------------------------------------------------------


async def test_long_file_goes_on_at_the_right_line(server: Server, folder: Folder, slipway: Slipway) -> None:
    async with server.fresh_database() as database:
        rows = "".join(f"INSERT INTO log VALUES ({number});\n" for number in range(1, 501))
        refused = slipway(
            env=database.environ, migrations=folder({"001_a.sql": f"{OPT_OUT}{LOG};\n{rows}SELECT oops;\n"})
        )

        finished = slipway(
            env=database.environ, migrations=folder({"001_a.sql": f"{OPT_OUT}{LOG};\n{rows}SELECT 1;\n"})
        )

        assert '001_a.sql:503: column "oops" does not exist\n  503 | SELECT oops;' in refused.err
        assert finished.code == 0, finished
        assert await numbers(database) == [*range(1, 501)]


@pytest.mark.parametrize("kind", ["VIEW", "SEQUENCE"])
async def test_temporary_object_of_another_kind_that_the_file_has_dropped_is_not_missed(
    kind: str, database: Database, folder: Folder, slipway: Slipway
) -> None:
    made = f"CREATE TEMP {kind} t" + (" AS SELECT 1 AS n" if kind == "VIEW" else "")
    before = [made, f"DROP {kind} t", LOG]
    first = slipway(env=database.environ, migrations=folder({"001_a.sql": without_transaction(*before, "SELECT oops")}))

    finished = slipway(env=database.environ, migrations=folder({"001_a.sql": without_transaction(*before, logging(1))}))

    assert first.code == 24, first
    assert finished.code == 0, finished
    assert await numbers(database) == [1]


LEAVES = {
    "setting": "DO $$ BEGIN PERFORM set_config('app.left', 'yes', false); END $$",
    "channel": "LISTEN heard",
    "cursor": "DECLARE c CURSOR WITH HOLD FOR SELECT 1",
    "prepared statement": "PREPARE p AS SELECT 1",
    "advisory lock": "SELECT pg_advisory_lock(7)",
    "name": "DO $$ BEGIN PERFORM set_config('application_name', 'other', false); END $$",
}
LEFT = """
CREATE TABLE log AS SELECT coalesce(current_setting('app.left', true), '') || '|' ||
    (SELECT count(*) FROM pg_listening_channels()) || '|' ||
    (SELECT count(*) FROM pg_cursors WHERE is_holdable) || '|' ||
    (SELECT count(*) FROM pg_prepared_statements) || '|' ||
    (SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'advisory') || '|' ||
    current_setting('application_name') AS m
"""


@pytest.mark.parametrize("leaves", LEAVES.values(), ids=LEAVES)
async def test_session_that_may_be_anothers_next_has_nothing_of_a_statement(
    leaves: str, database: Database, folder: Folder, slipway: Slipway
) -> None:
    """Where the lock is in a transaction of its own, as behind a pooler."""
    files = folder({"001_a.sql": without_transaction(leaves, LEFT.strip())})

    finished = slipway(env=database.environ, migrations=files, lock="transaction")

    assert finished.code == 0, finished
    assert [row["m"] for row in await database.fetch("SELECT m FROM log")] == ["|0|0|0|0|pgslipway"]


async def test_last_words_of_the_server_are_said_where_it_ends_a_statement_outside_a_transaction(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    """Not what comes of it afterwards."""
    await database.execute("CREATE TABLE a (n int)")
    files = folder({"001_a.sql": without_transaction("CREATE INDEX CONCURRENTLY a_n ON a (n)")})
    async with transaction_on(database, "INSERT INTO a VALUES (1)"):
        process = slipway.start(env=database.environ, migrations=files)
        pid = await wait_for_query(database, "CREATE INDEX CONCURRENTLY%")
        await database.fetch("SELECT pg_terminate_backend($1)", pid)
        finished = await asyncio.to_thread(process.finish)

    assert finished.code == 13, finished
    assert finished.outcome
    assert finished.outcome["message"] == (
        "connection lost: terminating connection due to administrator command; "
        "001_a.sql:2 may be half done; the next run looks, and goes on from there"
    )


async def test_line_ends_of_an_old_mac_within_a_statement_that_is_done_are_no_edit(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    done = "CREATE TABLE log\n(n int)"
    first = slipway(env=database.environ, migrations=folder({"001_a.sql": without_transaction(done, "SELECT oops")}))
    text = without_transaction(done, logging(1)).replace(done, done.replace("\n", "\r"))

    finished = slipway(env=database.environ, migrations=folder({"001_a.sql": text}))

    assert first.code == 24, first
    assert finished.code == 0, finished
    assert await numbers(database) == [1]


async def test_temporary_table_that_the_file_has_used_since_is_missed_all_the_same(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    statements = ["CREATE TEMP TABLE t (n int)", "INSERT INTO t VALUES (1)", "SELECT oops"]
    files = folder({"001_a.sql": without_transaction(*statements)})

    first = slipway(env=database.environ, migrations=files)
    second = slipway(env=database.environ, migrations=files)

    assert first.code == 24, first
    assert second.code == 25, second
    assert "001_a.sql:2: this made something temporary, which is gone with the session of an earlier run" in second.err


async def test_temporary_table_that_went_with_its_own_transaction_is_not_missed(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    before = ["CREATE TEMP TABLE t (n int) ON COMMIT DROP", LOG]
    slipway(env=database.environ, migrations=folder({"001_a.sql": without_transaction(*before, "SELECT oops")}))

    finished = slipway(env=database.environ, migrations=folder({"001_a.sql": without_transaction(*before, logging(1))}))

    assert finished.code == 0, finished


async def test_temporary_table_of_a_file_that_is_done_but_not_recorded_is_not_missed(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    statements = ["CREATE TEMP TABLE t (n int)", LOG]
    first = slipway(
        env=database.environ, migrations=folder({"001_a.sql": without_transaction(*statements, "SELECT oops")})
    )

    finished = slipway(env=database.environ, migrations=folder({"001_a.sql": without_transaction(*statements)}))

    assert first.code == 24, first
    assert finished.code == 0, finished
    assert await database.applied() == ["001_a.sql"]


async def test_order_of_the_journal_is_that_of_the_steps_and_not_that_of_its_rows(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    """A row may be put where another one was removed."""
    done = [LOG, logging(1)]
    first = slipway(env=database.environ, migrations=folder({"001_a.sql": without_transaction(*done, "SELECT oops")}))
    await database.execute(
        "CREATE TABLE copy AS TABLE schema_migrations_steps; DELETE FROM schema_migrations_steps;"
        "INSERT INTO schema_migrations_steps SELECT * FROM copy ORDER BY step DESC"
    )

    finished = slipway(env=database.environ, migrations=folder({"001_a.sql": without_transaction(*done, logging(2))}))

    assert first.code == 24, first
    assert finished.code == 0, finished
    assert await numbers(database) == [1, 2]
