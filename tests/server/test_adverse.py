"""Databases, roles and files that stand in the way: nothing is recorded that did not happen, nothing hangs."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

import asyncpg
import pytest

from servers import eventually

if TYPE_CHECKING:
    from conftest import Folder, Slipway
    from servers import Database


async def test_backslashes_are_read_as_the_server_reads_them(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    """With standard_conforming_strings off, the server would see a COMMIT that the splitter takes for text."""
    await database.execute(f"ALTER DATABASE {database.name} SET standard_conforming_strings = off")
    hidden = "CREATE TABLE a (t text); INSERT INTO a VALUES ('\\''); COMMIT; CREATE TABLE b (); SELECT 1/0; --');"

    finished = slipway(env=database.environ, migrations=folder({"001_a.sql": hidden}))

    assert finished.code == 0, finished
    assert [row["t"] for row in await database.fetch("SELECT t FROM a")] == [
        "\\'); COMMIT; CREATE TABLE b (); SELECT 1/0; --"
    ]


async def test_isolation_and_strings_are_what_files_are_written_for_whatever_the_database_has(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    """In the first file, in a later one, and without a transaction, before and after a RESET."""
    await database.execute(
        f"ALTER DATABASE {database.name} SET default_transaction_isolation = 'serializable';"
        f"ALTER DATABASE {database.name} SET standard_conforming_strings = off;"
        "CREATE TABLE noted (n int, level text, string text)"
    )
    note = r"INSERT INTO noted VALUES ({}, current_setting('transaction_isolation'), 'one\n')"
    files = folder(
        {
            "001_a.sql": note.format(1),
            "002_b.sql": note.format(2),
            "003_c.sql": f"-- no-transaction\n{note.format(3)};\nSET my.path = 'C:\\';\nRESET ALL;\n{note.format(4)};",
        }
    )

    finished = slipway(env=database.environ, migrations=files)

    assert finished.code == 0, finished
    rows = await database.fetch("SELECT * FROM noted ORDER BY n")
    assert [tuple(row) for row in rows] == [(n, "read committed", r"one\n") for n in (1, 2, 3, 4)]


@pytest.mark.parametrize("opt_out", ["", "-- no-transaction"], ids=["in a transaction", "without a transaction"])
def test_settings_that_change_how_the_file_is_read_are_refused(opt_out: str, folder: Folder, slipway: Slipway) -> None:
    statements = [
        "SET standard_conforming_strings = off",
        "SET client_encoding TO 'LATIN1'",
        "SET SESSION /* a */ client_encoding = latin1",
        'SET "client_encoding" TO "latin1"',
        "set names 'latin1'",
        "SET NAMES E'latin1'",
        "SET NAMES latin1",
        "SELECT 1, pg_catalog . set_config ( 'client_encoding', 'LATIN1', false)",
        "SELECT set_config(setting_name => 'standard_conforming_strings'::text, new_value := 'off', is_local => true)",
        "WITH a AS (SELECT Set_Config('client_encoding', 'sql_ascii', true)) SELECT FROM a",
        "DO $$ BEGIN PERFORM set_config('client_encoding', 'latin1', true); END $$",
        "DO $$ BEGIN SET LOCAL client_encoding TO 'latin1'; END $$",
        "DO 'BEGIN EXECUTE ''SET NAMES latin1''; END'",
    ]
    files = folder({"001_a.sql": ";\n".join([opt_out + "\nSELECT 1", *statements])})

    finished = slipway("check", env={}, migrations=files)

    assert finished.code == 21, finished
    assert finished.outcome
    found = [line for line in finished.outcome["message"].splitlines() if line.startswith("001_a.sql:")]
    named = ["strings" in statement for statement in statements]
    assert found == [
        f"001_a.sql:{number}: the file is read and sent with "
        f"{'standard_conforming_strings = on' if strings else 'client_encoding = utf8'}; remove this line"
        for number, strings in enumerate(named, 3)
    ]


def test_settings_as_pg_dump_writes_them_are_fine(folder: Folder, slipway: Slipway) -> None:
    dumped = (
        "SET client_encoding = 'UTF8'; SET standard_conforming_strings = on; SET NAMES 'utf8';"
        "SELECT pg_catalog.set_config('search_path', '', false), set_config('client_encoding', 'UTF-8', true);"
        "SET SESSION ROLE a; SET CONSTRAINTS ALL DEFERRED; SET TIME ZONE 'UTC'; SET XML OPTION DOCUMENT;"
        "CREATE FUNCTION f() RETURNS int SET client_encoding = 'latin1' LANGUAGE sql RETURN 1;"
        "INSERT INTO t VALUES ('set_config(''client_encoding'', ''latin1'', true)');"
        "COMMENT ON TABLE t IS 'SET NAMES a'"
    )

    assert slipway("check", env={}, migrations=folder({"001_a.sql": dumped})).code == 0


@pytest.mark.parametrize(
    ("timeout", "lock"),
    [
        ("transaction_timeout", "session"),
        ("transaction_timeout", "transaction"),
        ("idle_in_transaction_session_timeout", "session"),
        ("idle_in_transaction_session_timeout", "transaction"),
        ("idle_session_timeout", "session"),
    ],
)
async def test_timeouts_of_the_role_do_not_end_a_migration(
    timeout: str, lock: str, database: Database, folder: Folder, slipway: Slipway
) -> None:
    login = await database.create_role(f"slipway_{timeout}_{lock}")
    await database.execute(f"ALTER ROLE {login.user} SET {timeout} = '300ms'")
    files = folder({"001_a.sql": "SELECT pg_sleep(1);", "002_b.sql": "SELECT 1;"})
    async with database.migration_lock():
        runner = slipway.start(env=login.environ, migrations=files, lock=lock)
        await asyncio.to_thread(runner.wait_for_log, "waiting for the migration lock")
        await database.execute("SELECT pg_sleep(1)")

    finished = await asyncio.to_thread(runner.finish)

    assert finished.code == 0, finished
    assert "starting over" not in finished.err


async def test_session_that_the_server_ends_between_two_messages_is_a_lost_connection(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    files = folder({"001_a.sql": "SET idle_in_transaction_session_timeout = '1ms'; CREATE TABLE a ();"})

    codes = {(await asyncio.to_thread(slipway, env=database.environ, migrations=files)).code for _ in range(5)}

    assert codes <= {0, 13}


@pytest.mark.parametrize("lock", ["session", "transaction"])
async def test_locked_history_does_not_make_a_waiter_hang(
    lock: str, database: Database, folder: Folder, slipway: Slipway
) -> None:
    slipway(env=database.environ, migrations=folder({"001_a.sql": ""}))
    files = folder({"002_b.sql": ""})
    async with database.migration_lock(), database.connection() as other:
        runner = slipway.start(env=database.environ, migrations=files, lock=lock, lock_timeout="1s")
        await asyncio.to_thread(runner.wait_for_log, "waiting for the migration lock")
        await other.execute("BEGIN; LOCK TABLE schema_migrations")

        finished = await asyncio.to_thread(runner.finish)

    assert finished.code == 11, finished


async def test_services_that_share_a_new_schema_can_start_together(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    files = folder({"001_a.sql": ""})

    runners = [
        slipway.start(env=database.environ, migrations=files, schema="ops", table=f"history_{number}")
        for number in range(8)
    ]
    finished = [await asyncio.to_thread(runner.finish) for runner in runners]

    assert [one.code for one in finished] == [0] * 8, "\n".join(map(str, finished))


async def test_busy_file_with_an_extension_ends_as_busy(database: Database, folder: Folder, slipway: Slipway) -> None:
    await database.execute("CREATE TABLE a ()")
    files = folder({"001_a.sql": "CREATE EXTENSION IF NOT EXISTS plpgsql; ALTER TABLE a ADD COLUMN n int;"})
    async with database.connection() as reader, reader.transaction():
        await reader.execute("SELECT FROM a")

        finished = await asyncio.to_thread(
            slipway, env=database.environ, migrations=files, ddl_lock_timeout="20ms", ddl_retry="1s"
        )

    assert finished.code == 12, finished
    assert "starting over: 001_a.sql: canceling statement due to lock timeout" in finished.err


async def test_upgrade_of_the_history_waits_for_its_readers(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    await database.execute(
        "CREATE TABLE schema_migrations (version INT PRIMARY KEY, filename TEXT NOT NULL, applied_at TIMESTAMPTZ)"
    )
    async with database.connection() as reader:
        await reader.execute("BEGIN; SELECT FROM schema_migrations")
        runner = slipway.start(env=database.environ, migrations=folder({"001_a.sql": ""}), ddl_lock_timeout="50ms")
        await asyncio.to_thread(runner.wait_for_log, "trying again")

    finished = await asyncio.to_thread(runner.finish)

    assert finished.code == 0, finished


async def test_cancelled_concurrent_build_is_not_taken_for_done(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    await database.execute("CREATE TABLE a AS SELECT n FROM generate_series(1, 10) AS n")
    files = folder({"001_i.sql": "-- no-transaction\nCREATE INDEX CONCURRENTLY IF NOT EXISTS a_n ON a (n);"})
    async with database.connection() as writer:
        await writer.execute("BEGIN; INSERT INTO a VALUES (0)")  # the build waits for this one
        runner = slipway.start(env=database.environ, migrations=files)
        await eventually(
            lambda: database.fetch("SELECT FROM pg_index WHERE indexrelid = to_regclass('a_n') AND NOT indisvalid"),
            "the build has begun",
        )
        runner.terminate(signal.SIGTERM)
        cancelled = await asyncio.to_thread(runner.finish)

    again = await asyncio.to_thread(slipway, env=database.environ, migrations=files)

    assert cancelled.code == 143, cancelled
    assert again.code == 0, again
    assert "001_i.sql:2: half done; running DROP INDEX CONCURRENTLY IF EXISTS public.a_n" in again.err
    assert "001_i.sql:2: what an earlier run had in flight here did not take effect, and is repeated" in again.err
    assert await database.fetch("SELECT FROM pg_index WHERE NOT indisvalid") == []


@pytest.mark.parametrize(
    ("trigger", "code", "reason"),
    [
        ("RAISE EXCEPTION ''no more rows''", 23, "no more rows"),
        ("RETURN NULL", 23, 'a trigger on "public"."schema_migrations" lets no row in'),
    ],
    ids=["refuses", "drops"],
)
async def test_file_that_could_not_be_recorded_is_recorded_by_the_next_run(
    trigger: str, code: int, reason: str, database: Database, folder: Folder, slipway: Slipway
) -> None:
    slipway(env=database.environ, migrations=folder({"001_a.sql": "CREATE TABLE a (n int);"}))
    await database.execute(
        f"CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN {trigger}; END';"
        "CREATE TRIGGER no BEFORE INSERT ON schema_migrations FOR EACH ROW EXECUTE FUNCTION no()"
    )
    files = folder({"002_i.sql": "-- no-transaction\nCREATE INDEX CONCURRENTLY a_n ON a (n);"})

    finished = slipway(env=database.environ, migrations=files)
    await database.execute("DROP TRIGGER no ON schema_migrations")
    again = slipway(env=database.environ, migrations=files)

    assert finished.code == code, finished
    assert "002_i.sql is done, and the next run records it; now it could not be recorded" in finished.err
    assert reason in finished.err
    assert again.code == 0, again
    assert await database.fetch("SELECT FROM schema_migrations_steps") == []


@pytest.mark.parametrize("target", ["a", "public.a", "ONLY a USING btree", '"public" . "a"'])
@pytest.mark.parametrize("index", ["i", "Éidx", '"Odd ""Na\'me"'])
async def test_invalid_index_is_never_taken_for_done(
    index: str, target: str, database: Database, folder: Folder, slipway: Slipway
) -> None:
    await database.execute("CREATE TABLE a (n int); INSERT INTO a VALUES (1), (1)")
    build = f"CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS {index} ON {target} (n);"
    with pytest.raises(asyncpg.UniqueViolationError):
        await database.execute(build)

    finished = slipway(env=database.environ, migrations=folder({"001_i.sql": f"-- no-transaction\n{build}"}))

    assert finished.code == 24, finished
    assert "exists but is invalid" in finished.err
    assert await database.fetch("SELECT FROM schema_migrations_steps") == []


async def test_invalid_index_of_another_table_is_left_alone(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    await database.execute("CREATE SCHEMA z; CREATE TABLE z.a (n int); INSERT INTO z.a VALUES (1), (1)")
    build = "CREATE UNIQUE INDEX CONCURRENTLY i ON"
    with pytest.raises(asyncpg.UniqueViolationError):
        await database.execute(f"{build} z.a (n);")
    await database.execute("CREATE TABLE a (n int)")

    finished = slipway(env=database.environ, migrations=folder({"001_i.sql": f"-- no-transaction\n{build} a (n);"}))

    assert finished.code == 0, finished
    assert len(await database.fetch("SELECT FROM pg_index WHERE NOT indisvalid")) == 1


async def test_trigger_that_drops_the_row_is_named(database: Database, folder: Folder, slipway: Slipway) -> None:
    slipway(env=database.environ, migrations=folder({"001_a.sql": ""}))
    await database.execute(
        "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';"
        "CREATE TRIGGER no BEFORE INSERT ON schema_migrations FOR EACH ROW EXECUTE FUNCTION no()"
    )

    finished = slipway(env=database.environ, migrations=folder({"002_b.sql": "CREATE TABLE b ();"}))

    assert finished.code == 23, finished
    assert "lets no row in" in finished.err
    assert await database.applied() == ["001_a.sql"]


REFUSE = """
CREATE FUNCTION refuse() RETURNS event_trigger LANGUAGE plpgsql AS $$BEGIN
    RAISE EXCEPTION 'no % here', tg_tag USING ERRCODE = '{state}', HINT = 'ask the administrators';
END$$;
CREATE EVENT TRIGGER refuse ON {event} WHEN TAG IN ('{tag}') EXECUTE FUNCTION refuse();
"""
OURS = {
    "CREATE TABLE": ("the schema or the table of the history", "public", ""),
    "CREATE SCHEMA": ("the schema or the table of the history", "ops", ""),
    "ALTER TABLE": (
        "the schema or the table of the history",
        "public",
        "CREATE TABLE schema_migrations (version int PRIMARY KEY, filename text NOT NULL, applied_at timestamptz)",
    ),
}


@pytest.mark.parametrize(
    ("event", "state"), [("ddl_command_start", "P0001"), ("ddl_command_end", "0A000")], ids=["start", "end"]
)
@pytest.mark.parametrize(("tag", "case"), OURS.items(), ids=OURS)
async def test_event_trigger_that_refuses_our_table_is_an_access_failure(
    tag: str, case: tuple[str, str, str], state: str, event: str, database: Database, folder: Folder, slipway: Slipway
) -> None:
    what, schema, before = case
    await database.execute(f"{before}; {REFUSE.format(state=state, event=event, tag=tag)}")

    finished = slipway(env=database.environ, migrations=folder({"001_a.sql": ""}), schema=schema)

    assert finished.code == 22, finished
    assert finished.outcome
    assert finished.outcome["message"] == (
        f"{what} could not be made, since an event trigger of this database refuses it; have whoever keeps the "
        f"database let this role make it (SQLSTATE {state}): no {tag} here\nHINT:  ask the administrators"
    )


async def test_event_trigger_that_refuses_the_journal_is_an_access_failure(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    slipway(env=database.environ, migrations=folder({"001_a.sql": ""}))
    await database.execute(REFUSE.format(state="P0001", event="ddl_command_start", tag="CREATE TABLE"))

    finished = slipway(env=database.environ, migrations=folder({"002_b.sql": "-- no-transaction\nSELECT 1;"}))

    assert finished.code == 22, finished
    assert "the journal could not be made, since an event trigger of this database refuses it" in finished.err


async def test_event_trigger_that_refuses_a_file_has_failed_the_file(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    slipway(env=database.environ, migrations=folder({"001_a.sql": ""}))
    await database.execute(REFUSE.format(state="P0001", event="ddl_command_start", tag="CREATE TABLE"))

    finished = slipway(env=database.environ, migrations=folder({"002_b.sql": "CREATE TABLE b ();"}))

    assert finished.code == 24, finished


@pytest.mark.parametrize(
    "row",
    [
        "ALTER COLUMN filename DROP NOT NULL",
        "ALTER COLUMN applied_at TYPE text",
        "ALTER COLUMN filename TYPE bytea USING ''",
    ],
    ids=["null", "time", "name"],
)
@pytest.mark.parametrize("command", ["up", "status"])
async def test_history_with_odd_columns_or_rows_is_a_conflict(
    command: str, row: str, database: Database, folder: Folder, slipway: Slipway
) -> None:
    slipway(env=database.environ, migrations=folder({"001_a.sql": ""}))
    await database.execute(f"ALTER TABLE schema_migrations {row}")
    if "NULL" in row:
        await database.execute("UPDATE schema_migrations SET filename = NULL, checksum = NULL")

    finished = slipway(command, env=database.environ, migrations=folder({"002_b.sql": ""}))

    assert finished.code == 23, finished


async def test_session_leftovers_do_not_outlive_the_file(database: Database, folder: Folder, slipway: Slipway) -> None:
    leftovers = "CREATE TEMP TABLE t (n int); DECLARE c CURSOR WITH HOLD FOR SELECT * FROM t; FETCH c; LISTEN x;"
    seen = "CREATE TABLE b AS SELECT name FROM pg_cursors WHERE name = 'c' UNION ALL SELECT pg_listening_channels();"

    finished = slipway(env=database.environ, migrations=folder({"001_a.sql": leftovers, "002_b.sql": seen}))

    assert finished.code == 0, finished
    assert await database.fetch("SELECT FROM b") == []


async def test_notice_of_a_deferred_trigger_is_logged(database: Database, folder: Folder, slipway: Slipway) -> None:
    deferred = """
        CREATE TABLE a (n int);
        CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE NOTICE ''late''; RETURN NULL; END';
        CREATE CONSTRAINT TRIGGER tell AFTER INSERT ON a DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION tell();
        INSERT INTO a VALUES (1);
    """

    finished = slipway(env=database.environ, migrations=folder({"001_a.sql": deferred}))

    assert "001_a.sql: notice: late" in finished.err


async def test_database_of_the_environment_is_used_where_the_url_names_none(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    url = f"postgresql://{database.user}@{database.host}:{database.port}/?sslmode=prefer"
    environ = {"DATABASE_URL": url, "PGDATABASE": database.name, "PGPASSWORD": database.password}

    finished = slipway(env=environ, migrations=folder({"001_a.sql": ""}))

    assert finished.code == 0, finished
    assert f"connected to {database.target}" in finished.err
    assert await database.applied() == ["001_a.sql"]


async def test_statement_that_forbids_itself_gets_no_wrong_advice(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    late = "DO $$ BEGIN SET TRANSACTION ISOLATION LEVEL SERIALIZABLE; END $$"

    finished = slipway(env=database.environ, migrations=folder({"001_a.sql": late}))

    assert finished.code == 24, finished
    assert "no-transaction" not in finished.err


async def test_no_control_character_of_the_server_reaches_the_terminal(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    controls = r"U&'\001b[31m\0007\009b'"
    say = f"DO $$ BEGIN RAISE NOTICE '%', {controls}; RAISE 'a%b', {controls}; END $$;"
    files = folder({"001_a.sql": say})

    failed = slipway(env=database.environ, migrations=files, log_format="text")
    slipway(env=database.environ, migrations=folder({"001_a.sql": "SELECT 1;"}))
    await database.execute("INSERT INTO schema_migrations VALUES (0, U&'a\\001b[31m.sql')")
    status = slipway("status", env=database.environ, migrations=files)

    assert failed.code == 24, failed
    assert r"001_a.sql: notice: \x1b[31m\x07\x9b" in failed.err
    assert r"001_a.sql:1: a\x1b[31m\x07\x9bb" in failed.err
    assert r"a\x1b[31m.sql" in status.out
    assert not [text for text in (failed.err, status.out) if {*"\x1b\x07\x9b"} & {*text}]
