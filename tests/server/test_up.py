"""`up` as an orchestrator sees it: what it applies, what it leaves after a failure, and what it says."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import asyncpg
import pytest

from pgslipway import run_migrations
from pgslipway.engine import check
from pgslipway.errors import MigrationFailed

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Folder, Slipway
    from servers import Database


async def has_table(database: Database, name: str) -> bool:
    rows = await database.fetch("SELECT to_regclass($1) IS NOT NULL AS found", name)
    return bool(rows[0]["found"])


async def test_pending_files_are_applied_in_order(database: Database, folder: Folder, slipway: Slipway) -> None:
    files = folder({"002_b.sql": "ALTER TABLE a ADD COLUMN n int;", "001_a.sql": "CREATE TABLE a ();"})

    first = slipway(env=database.environ, migrations=files)
    second = slipway(env=database.environ, migrations=files)

    assert first.code == 0, first
    assert first.outcome
    assert first.outcome["applied"] == ["001_a.sql", "002_b.sql"]
    assert second.code == 0, second
    assert second.outcome
    assert second.outcome["applied"] == []
    assert "up to date: nothing to do" in second.err
    assert await database.applied() == ["001_a.sql", "002_b.sql"]


async def test_versions_are_ordered_as_numbers(database: Database, folder: Folder, slipway: Slipway) -> None:
    files = folder({"10_b.sql": "ALTER TABLE a ADD COLUMN n int;", "9_a.sql": "CREATE TABLE a ();"})

    finished = slipway(env=database.environ, migrations=files)

    assert finished.code == 0, finished
    assert await database.applied() == ["9_a.sql", "10_b.sql"]


async def test_failure_keeps_earlier_migrations(database: Database, folder: Folder, slipway: Slipway) -> None:
    files = folder(
        {
            "001_a.sql": "CREATE TABLE orders (id int PRIMARY KEY, total int);",
            "002_b.sql": "CREATE TABLE b ();",
            "003_orders.sql": "-- pays\nCREATE TABLE c ();\nUPDATE orders SET total = totl + 1;\n",
            "004_d.sql": "CREATE TABLE d ();",
        }
    )

    finished = slipway(env=database.environ, migrations=files)

    assert finished.code == 24, finished
    assert (
        '003_orders.sql:3: column "totl" does not exist\n'
        "  3 | UPDATE orders SET total = totl + 1;\n"
        "    |                           ^\n"
        'hint: Perhaps you meant to reference the column "orders.total".\n'
        "SQLSTATE 42703\n"
        "003_orders.sql was rolled back\n"
        "applied in this run and kept: 001_a.sql, 002_b.sql\n"
    ) in finished.err
    assert await database.applied() == ["001_a.sql", "002_b.sql"]
    assert not await has_table(database, "c")


async def test_corrected_file_goes_on_from_there(database: Database, folder: Folder, slipway: Slipway) -> None:
    files = folder({"001_a.sql": "CREATE TABLE a ();", "002_b.sql": "CREATE TABLE b (;"})
    slipway(env=database.environ, migrations=files)

    finished = slipway(env=database.environ, migrations=folder({"002_b.sql": "CREATE TABLE b ();"}))

    assert finished.code == 0, finished
    assert await database.applied() == ["001_a.sql", "002_b.sql"]


async def test_violation_shows_detail_table_and_constraint(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    files = folder(
        {"001_a.sql": "CREATE TABLE a (n int CONSTRAINT positive CHECK (n > 0)); INSERT INTO a VALUES (-7);"}
    )

    finished = slipway(env=database.environ, migrations=files)

    assert finished.code == 24, finished
    assert "detail: Failing row contains (-7)." in finished.err
    assert "about: table a, constraint positive" in finished.err


async def test_error_in_a_function_shows_the_context(database: Database, folder: Folder, slipway: Slipway) -> None:
    files = folder({"001_a.sql": "DO $$ BEGIN\n  PERFORM 1 / 0;\nEND $$;"})

    finished = slipway(env=database.environ, migrations=files)

    assert finished.code == 24, finished
    assert "context:" in finished.err
    assert "PL/pgSQL function inline_code_block line 2 at PERFORM" in finished.err


async def test_place_is_counted_in_characters_after_a_bom(database: Database, folder: Folder, slipway: Slipway) -> None:
    files = folder({"001_a.sql": "\ufeff-- größer als ← alles 🎉\r\nSELECT 'ä' FROM nichts;\r\n"})

    finished = slipway(env=database.environ, migrations=files)

    assert (
        "001_a.sql:2: relation \"nichts\" does not exist\n  2 | SELECT 'ä' FROM nichts;\n    |                 ^\n"
    ) in finished.err


async def test_deferred_constraint_fails_before_the_commit(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    deferred = "CREATE TABLE a (n int UNIQUE DEFERRABLE INITIALLY DEFERRED); INSERT INTO a VALUES (1), (1);"

    finished = slipway(env=database.environ, migrations=folder({"001_a.sql": deferred}))

    assert finished.code == 24, finished
    assert "001_a.sql was rolled back" in finished.err
    assert await database.applied() == []


async def test_notices_and_warnings_are_logged_with_the_file(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    noisy = "DO $$ BEGIN RAISE NOTICE 'one'; RAISE WARNING 'two'; END $$; DROP TABLE IF EXISTS nothing;"

    finished = slipway(env=database.environ, migrations=folder({"001_a.sql": noisy}))

    assert "001_a.sql: notice: one\n" in finished.err
    assert "warning: 001_a.sql: warning: two\n" in finished.err
    assert '001_a.sql: notice: table "nothing" does not exist, skipping\n' in finished.err


@pytest.mark.parametrize(
    "text",
    ["", "-- nothing\n", "/* nothing */", "\ufeff", ";;", " \n\t"],
    ids=["empty", "line", "block", "bom", "semicolons", "blank"],
)
async def test_file_without_a_statement_is_recorded(
    text: str, database: Database, folder: Folder, slipway: Slipway
) -> None:
    finished = slipway(env=database.environ, migrations=folder({"001_a.sql": text}))

    assert finished.code == 0, finished
    assert await database.applied() == ["001_a.sql"]


@pytest.mark.parametrize(
    "text",
    [
        "BEGIN;\nCOMMIT; -- nothing\n",
        "SET transaction_timeout = 0; -- of pg_dump\n",
        "BEGIN;\nCREATE TABLE a (n int);\nCOPY a FROM stdin;\n1\n\\.\nCOMMIT;\n-- the end\n",
    ],
    ids=["whole file", "setting that is left out", "last piece"],
)
async def test_text_of_which_nothing_is_left_to_send_is_not_sent(
    text: str, database: Database, folder: Folder, slipway: Slipway
) -> None:
    finished = slipway(env=database.environ, migrations=folder({"001_a.sql": text, "002_b.sql": text.lower()}))

    expected = (24, ["001_a.sql"]) if "CREATE" in text else (0, ["001_a.sql", "002_b.sql"])  # its table is there
    assert (finished.code, await database.applied()) == expected, finished


async def test_file_wrapped_in_begin_and_commit_is_one_transaction(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    files = folder(
        {
            "001_a.sql": "BEGIN;\nCREATE TABLE a ();\nCOMMIT;\n",
            "002_b.sql": "START TRANSACTION;\nCREATE TABLE b ();\nSELECT 1 FROM nowhere;\nEND;",
        }
    )

    finished = slipway(env=database.environ, migrations=files)

    assert finished.code == 24, finished
    assert (
        '002_b.sql:3: relation "nowhere" does not exist\n  3 | SELECT 1 FROM nowhere;\n    |               ^\n'
        in finished.err
    )
    assert "there is already a transaction in progress" not in finished.err
    assert await database.applied() == ["001_a.sql"]
    assert not await has_table(database, "b")


async def test_session_state_does_not_reach_the_next_file(database: Database, folder: Folder, slipway: Slipway) -> None:
    await database.create_role("slipway_other")
    files = folder(
        {
            "001_a.sql": "SELECT pg_catalog.set_config('search_path', '', false);"
            "CREATE TEMP TABLE schema_migrations ();"
            "SET lock_timeout = '1h'; SET default_transaction_read_only = on; SET SESSION AUTHORIZATION slipway_other;",
            "002_b.sql": "CREATE TABLE b AS SELECT current_setting('search_path') AS path, current_user::text AS who, "
            "current_setting('lock_timeout') AS timeout, to_regclass('pg_temp.schema_migrations') IS NULL AS clean;",
        }
    )

    finished = slipway(env=database.environ, migrations=files)

    assert finished.code == 0, finished
    (row,) = await database.fetch("SELECT * FROM b")
    assert dict(row) == {"path": '"$user", public', "who": database.user, "timeout": "500ms", "clean": True}


async def test_lock_that_a_file_drops_is_taken_again(database: Database, folder: Folder, slipway: Slipway) -> None:
    files = folder({"001_a.sql": "SELECT pg_advisory_unlock_all();", "002_b.sql": "CREATE TABLE b ();"})

    finished = slipway(env=database.environ, migrations=files)

    assert finished.code == 0, finished
    assert "starting over: the migration lock was dropped" in finished.err
    assert finished.outcome
    assert finished.outcome["applied"] == ["001_a.sql", "002_b.sql"]


async def test_file_that_removes_its_history_row_is_not_committed(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    files = folder({"001_a.sql": "CREATE TABLE a (); DELETE FROM public.schema_migrations;"})

    finished = slipway(env=database.environ, migrations=files)

    assert finished.code == 24, finished
    assert "removed its own row" in finished.err
    assert not await has_table(database, "a")


@pytest.mark.parametrize(
    ("ends", "is_kept"), [("COMMIT", True), ("COMMIT AND CHAIN", False)], ids=["and no other", "and another begins"]
)
@pytest.mark.parametrize("padding", ["", f"--{' ' * 1_050_000}"], ids=["small", "large"])
async def test_commit_that_the_check_does_not_see_is_found_out(
    padding: str, ends: str, is_kept: bool, database: Database, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "CONTROL", re.compile("nothing"))
    files = folder({"001_a.sql": f"SELECT 1;\n{ends};\nCREATE TABLE a ();\n{padding}"})

    async with asyncpg.create_pool(database.url, min_size=1, max_size=1) as pool:
        with pytest.raises(MigrationFailed) as failed:
            await run_migrations(pool, files)

    assert str(failed.value).removesuffix("\n001_a.sql was rolled back") == (
        "001_a.sql: this file ended the transaction it ran in, so a part of it is committed and it counts as applied: "
        "look at the schema, mend it by hand, and take BEGIN, COMMIT and ROLLBACK out of the file"
    )
    assert await database.applied() == ["001_a.sql"]
    assert await has_table(database, "a") is is_kept


async def test_bad_files_are_all_named_and_nothing_is_applied(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    files = folder(
        {
            "001_a.sql": "CREATE TABLE a ();",
            "002_b.sql": "CREATE INDEX CONCURRENTLY i ON a (n);",
            "003_c.sql": "CREATE TABLE c ();\nCOMMIT;",
        }
    )

    finished = slipway(env=database.environ, migrations=files)

    assert finished.code == 21, finished
    assert "002_b.sql:1: CREATE INDEX CONCURRENTLY cannot run inside a transaction" in finished.err
    assert "003_c.sql:2: COMMIT: a file is one transaction already" in finished.err
    assert not await has_table(database, "public.schema_migrations")


async def test_extension_that_the_server_lacks_is_named_before_anything_is_applied(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    files = folder({"001_a.sql": "CREATE TABLE a ();", "002_b.sql": 'CREATE EXTENSION IF NOT EXISTS "no-such-thing";'})

    finished = slipway(env=database.environ, migrations=files)

    assert finished.code == 21, finished
    assert (
        '002_b.sql: the server does not offer the extension "no-such-thing"; install its package there' in finished.err
    )
    assert not await has_table(database, "a")


async def test_concurrent_index_is_built_outside_a_transaction(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    files = folder(
        {
            "001_a.sql": "CREATE TABLE a (n int);",
            "002_b.sql": "-- no-transaction\nCREATE INDEX CONCURRENTLY a_n ON a (n);",
            "003_c.sql": "-- no-transaction\nVACUUM a",
        }
    )

    finished = slipway(env=database.environ, migrations=files)

    assert finished.code == 0, finished
    assert (await database.fetch("SELECT indisvalid FROM pg_index WHERE indexrelid = 'a_n'::regclass"))[0][0]
    assert await database.applied() == ["001_a.sql", "002_b.sql", "003_c.sql"]


async def test_failed_statement_outside_a_transaction_says_what_stays(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    await database.execute("CREATE TABLE a (n int); INSERT INTO a VALUES (1), (1)")
    files = folder({"001_b.sql": "-- no-transaction\nCREATE UNIQUE INDEX CONCURRENTLY a_n ON a (n);"})

    finished = slipway(env=database.environ, migrations=files)

    assert finished.code == 24, finished
    assert "detail: Key (n)=(1) is duplicated." in finished.err
    assert "what comes before it in 001_b.sql is done and stays" in finished.err
    assert "was rolled back" not in finished.err
    assert await database.applied() == []
    assert await database.fetch("SELECT FROM pg_index WHERE NOT indisvalid") == []


async def test_table_that_stays_busy_ends_the_run_and_lets_the_others_go_on(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    await database.execute("CREATE TABLE a ()")
    async with database.connection() as reader, reader.transaction():
        await reader.execute("SELECT FROM a")

        finished = await asyncio.to_thread(
            slipway,
            env=database.environ,
            migrations=folder({"001_a.sql": "ALTER TABLE a ADD COLUMN n int;"}),
            ddl_lock_timeout="50ms",
            ddl_retry="300ms",
        )

    assert finished.code == 12, finished
    assert "canceling statement due to lock timeout; rolled back, trying again in" in finished.err
    assert "SET LOCAL lock_timeout" in finished.err
    assert await database.applied() == []


async def test_busy_table_is_tried_again_until_it_is_free(database: Database, folder: Folder, slipway: Slipway) -> None:
    await database.execute("CREATE TABLE a ()")
    files = folder({"001_a.sql": "ALTER TABLE a ADD COLUMN n int;"})
    async with database.connection() as reader:
        transaction = reader.transaction()
        await transaction.start()
        await reader.execute("SELECT FROM a")
        running = slipway.start(env=database.environ, migrations=files, ddl_lock_timeout="50ms")
        await asyncio.to_thread(running.wait_for_log, "trying again")
        await transaction.rollback()

        finished = await asyncio.to_thread(running.finish)

    assert finished.code == 0, finished
    assert await database.applied() == ["001_a.sql"]


async def test_statement_timeout_ends_a_migration(database: Database, folder: Folder, slipway: Slipway) -> None:
    files = folder({"001_a.sql": "SELECT pg_sleep(60);"})

    finished = slipway(env=database.environ, migrations=files, statement_timeout="100ms")

    assert finished.code == 24, finished
    assert "canceling statement due to statement timeout" in finished.err


async def test_everything_belongs_to_the_role(database: Database, folder: Folder, slipway: Slipway) -> None:
    login = await database.create_role("slipway_login")
    await database.execute("CREATE ROLE slipway_owner; GRANT slipway_owner TO slipway_login")
    await database.execute(
        "GRANT ALL ON SCHEMA public TO slipway_owner; REVOKE CREATE ON SCHEMA public FROM slipway_login"
    )
    files = folder({"001_a.sql": "CREATE TABLE a ();", "002_b.sql": "-- no-transaction\nCREATE TABLE b ();"})

    finished = slipway(env=login.environ, migrations=files, role="slipway_owner")
    again = slipway(env=login.environ, migrations=files, role="slipway_owner")

    assert finished.code == 0, finished
    assert again.code == 0, again
    owners = await database.fetch(
        "SELECT relname, relowner::regrole::text AS owner FROM pg_class "
        "WHERE relname IN ('a', 'b', 'schema_migrations')"
    )
    assert {row["relname"]: row["owner"] for row in owners} == dict.fromkeys(
        ("a", "b", "schema_migrations"), "slipway_owner"
    )


@pytest.mark.parametrize("lock", ["session", "transaction"])
async def test_login_that_can_do_nothing_but_become_the_role_is_enough(
    lock: str, database: Database, folder: Folder, slipway: Slipway
) -> None:
    login = await database.create_role(f"slipway_bare_{lock}", "LOGIN NOINHERIT")
    able = f"slipway_able_{lock}"
    await database.execute(
        f"CREATE ROLE {able}; GRANT {able} TO {login.user}; GRANT ALL ON SCHEMA public TO {able};"
        f"REVOKE ALL ON SCHEMA public FROM {login.user}, PUBLIC"
    )
    files = folder(
        {f"00{n}_a.sql": f"CREATE TABLE t{n} (); RESET ROLE;" for n in (1, 2)}
        | {"003_c.sql": "-- no-transaction\nCREATE TABLE t3 ();\nCREATE TABLE t4 ();"}
    )

    finished = slipway(env=login.environ, migrations=files, role=able, lock=lock)
    again = slipway(env=login.environ, migrations=files, role=able, lock=lock)

    assert finished.code == 0, finished
    assert again.code == 0, again
    assert await database.applied() == ["001_a.sql", "002_a.sql", "003_c.sql"]


async def test_role_that_does_not_exist_is_an_access_failure(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    finished = slipway(env=database.environ, migrations=folder({"001_a.sql": ""}), role="nobody_at_all")

    assert finished.code == 22, finished
    assert 'role "nobody_at_all" does not exist' in finished.err


async def test_large_file_is_sent_in_parts_and_fails_at_the_right_place(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    rows = "".join(f"INSERT INTO a VALUES ({n}, 'ä{'x' * 60}');\n" for n in range(20_000))
    good = folder({"001_a.sql": f"BEGIN;\nCREATE TABLE a (n int, t text);\n{rows}COMMIT;\n"})
    assert (good / "001_a.sql").stat().st_size > 1 << 20

    first = slipway(env=database.environ, migrations=good)
    second = slipway(env=database.environ, migrations=folder({"002_b.sql": f"{rows}INSERT INTO a VALUES (1, oops);"}))

    assert first.code == 0, first
    assert '002_b.sql:20001: column "oops" does not exist\n  20001 | INSERT INTO a VALUES (1, oops);' in second.err
    assert (await database.fetch("SELECT count(*) FROM a"))[0][0] == 20_000
    assert await database.applied() == ["001_a.sql"]


async def test_no_privilege_on_the_history_is_an_access_failure(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    files = folder({"001_a.sql": "CREATE TABLE a ();"})
    slipway(env=database.environ, migrations=files)
    stranger = await database.create_role("slipway_stranger")

    finished = slipway(env=stranger.environ, migrations=files)

    assert finished.code == 22, finished
    assert "permission denied for table schema_migrations" in finished.err


async def test_statement_that_must_come_before_any_write_gets_a_hint(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    """As pg_create_logical_replication_slot says it, where wal_level lets it get so far."""
    text = "cannot create logical replication slot in transaction that has performed writes"
    raises = f"DO $$ BEGIN RAISE '{text}' USING ERRCODE = 'active_sql_transaction'; END $$"

    finished = slipway(env=database.environ, migrations=folder({"001_a.sql": raises}))

    assert finished.code == 24, finished
    assert (
        "\nhint: a file writes its history row first, and this must come before any write: "
        "put it in a file of its own that has the line `-- no-transaction` at its top\n"
    ) in finished.err


async def test_time_that_a_file_took_is_logged(database: Database, folder: Folder, slipway: Slipway) -> None:
    files = folder({"001_a.sql": "SELECT pg_sleep(0.3)"})

    finished = slipway(env=database.environ, migrations=files, log_format="json")

    (line,) = [line for line in map(json.loads, finished.err.splitlines()) if line["message"].startswith("applied ")]
    assert finished.code == 0, finished
    assert 0.3 <= line["seconds"] < 30
    assert line["message"] == f"applied 001_a.sql in {line['seconds'] * 1000:.0f} ms"
    assert line["file"] == "001_a.sql"


@pytest.mark.parametrize("streams", ["2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
async def test_streams_that_are_closed_are_no_reason_to_stop(
    streams: str, database: Database, folder: Folder, tmp_path: Path
) -> None:
    """What is opened next would get their numbers, and the log would be sent to the server."""
    termination = tmp_path / "termination"
    environ = database.environ | {"MIGRATE_TERMINATION_LOG": str(termination), "PATH": os.environ["PATH"]}

    def run(files: dict[str, str]) -> tuple[int, int, list[str]]:
        command = ["sh", "-c", f'exec "$@" {streams}', "sh", sys.executable, "-m", "pgslipway"]
        ended = subprocess.run(command, env=environ | {"MIGRATE_DIR": str(folder(files))}, check=False)
        outcome = json.loads(termination.read_bytes())
        return ended.returncode, outcome["exit_code"], outcome["applied"]

    assert run({"001_a.sql": "CREATE TABLE a ();"}) == (0, 0, ["001_a.sql"])
    assert run({}) == (0, 0, [])
    assert run({"002_b.sql": "nonsense"}) == (24, 24, [])
