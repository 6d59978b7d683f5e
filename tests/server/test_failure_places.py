"""Failures that Postgres gives no place: the line is found all the same, and whose failure it was."""

from __future__ import annotations

import asyncio
import secrets
from typing import TYPE_CHECKING

import asyncpg
import pytest

from pgslipway import run_migrations
from pgslipway.errors import MigrationFailed
from servers import eventually

if TYPE_CHECKING:
    from conftest import Folder, Slipway
    from servers import Database, Embedded, Server

FIRST = "CREATE TABLE t (id int PRIMARY KEY, note text NOT NULL, CONSTRAINT short CHECK (length(note) < 20));\n"
MANY = "".join(f"INSERT INTO t VALUES ({n}, 'row {n}');\n" for n in range(1, 301))
FAILURES = {
    "a_duplicate_key_among_many": (
        f"{MANY}INSERT INTO t\n  VALUES (7, 'again');\n{MANY}",
        (
            '{name}:301: duplicate key value violates unique constraint "t_pkey"\n'
            "  301 | INSERT INTO t\n"
            "      | ^\n"
            "detail: Key (id)=(7) already exists.\n"
            "about: table t, constraint t_pkey\n"
            "SQLSTATE 23505\n"
            "{name} was rolled back"
        ),
    ),
    "a_foreign_key_to_no_column": (
        "-- é\nSELECT 1; ALTER TABLE t ADD FOREIGN KEY (id) REFERENCES t (nothing);\n",
        (
            '{name}:2: column "nothing" referenced in foreign key constraint does not exist\n'
            "  2 | SELECT 1; ALTER TABLE t ADD FOREIGN KEY (id) REFERENCES t (nothing);\n"
            "    |           ^\n"
            "SQLSTATE 42703\n"
            "{name} was rolled back"
        ),
    ),
    "a_table_that_is_there": (
        "SELECT 1;\n\nCREATE TABLE t ();",
        (
            '{name}:3: relation "t" already exists\n'
            "  3 | CREATE TABLE t ();\n"
            "    | ^\n"
            "SQLSTATE 42P07\n"
            "{name} was rolled back"
        ),
    ),
    "after_a_savepoint": (
        f"SAVEPOINT one;\n{MANY}ROLLBACK TO one;\nINSERT INTO t VALUES (1, NULL);",
        (
            '{name}:303: null value in column "note" of relation "t" violates not-null constraint\n'
            "  303 | INSERT INTO t VALUES (1, NULL);\n"
            "      | ^\n"
            "detail: Failing row contains (1, null).\n"
            "about: table t, column note\n"
            "SQLSTATE 23502\n"
            "{name} was rolled back"
        ),
    ),
    "after_a_prepared_statement": (
        f"{MANY}PREPARE one AS SELECT 1;\nEXECUTE one;\nSELECT 1 / 0;",
        ("{name}:303: division by zero\n  303 | SELECT 1 / 0;\n      | ^\nSQLSTATE 22012\n{name} was rolled back"),
    ),
    "in_a_block": (
        "SELECT 1;\nDO $$ BEGIN\n  EXECUTE 'SELECT 1,\n  nowhere FROM t';\nEND $$;",
        (
            '{name}:2: column "nowhere" does not exist\n'
            "  2 | DO $$ BEGIN\n"
            "    | ^\n"
            "in the query that it ran:\n"
            "  2 |   nowhere FROM t\n"
            "    |   ^\n"
            "context: PL/pgSQL function inline_code_block line 2 at EXECUTE\n"
            "SQLSTATE 42703\n"
            "{name} was rolled back"
        ),
    ),
    "in_begin_and_commit": (
        "BEGIN;\nSELECT 1;\nSELECT 1 / 0;\nCOMMIT;",
        "{name}:3: division by zero\n  3 | SELECT 1 / 0;\n    | ^\nSQLSTATE 22012\n{name} was rolled back",
    ),
}
LARGE = "".join(f"INSERT INTO t VALUES ({n}, 'row {n}'); -- {'x' * 70}\n" for n in range(1, 11_001))


@pytest.mark.parametrize("name", ["001_first.sql", "003_later.sql"])
@pytest.mark.parametrize(("sql", "message"), FAILURES.values(), ids=FAILURES)
async def test_failure_without_a_position_has_the_statements_line(
    database: Database, folder: Folder, slipway: Slipway, sql: str, message: str, name: str
) -> None:
    if name.startswith("001"):
        await database.execute(FIRST)
        files = folder({name: sql})
    else:
        files = folder({"001_t.sql": FIRST, "002_a.sql": "SELECT 1;", name: sql})

    finished = slipway(env=database.environ, migrations=files)

    assert finished.code == 24, finished
    assert finished.outcome
    assert finished.outcome["message"] == message.format(name=name)
    assert name not in await database.applied()


@pytest.mark.parametrize(
    "again",
    ["", "SELECT CASE WHEN currval('runs') > 1 THEN 'one'::text::int END;"],
    ids=["nothing", "another_statement"],
)
async def test_line_is_not_lent_by_another_failure(
    database: Database, folder: Folder, slipway: Slipway, again: str
) -> None:
    """The second run of the statements, which ends with COMMIT here, goes another way than the first."""
    await database.execute("CREATE SEQUENCE runs")
    sql = f"BEGIN;\nCREATE TABLE a ();\nSELECT 1 / (nextval('runs') - 1);\n{again}\nCOMMIT;"

    finished = slipway(env=database.environ, migrations=folder({"001_a.sql": sql}))

    assert finished.code == 24, finished
    assert finished.outcome
    assert finished.outcome["message"] == "001_a.sql: division by zero\nSQLSTATE 22012\n001_a.sql was rolled back"
    (row,) = await database.fetch(
        "SELECT to_regclass('a'), last_value, (SELECT count(*) FROM schema_migrations) FROM runs"
    )
    assert tuple(row) == (None, 2, 0)


async def test_failure_in_a_large_file_has_the_statements_line(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    files = folder({"001_t.sql": FIRST + LARGE + "INSERT INTO t VALUES (9000, 'again');\nSELECT 1;\n"})

    finished = slipway(env=database.environ, migrations=files)

    assert finished.code == 24, finished
    assert '001_t.sql:11002: duplicate key value violates unique constraint "t_pkey"\n' in finished.err


async def test_large_file_that_was_stopped_is_not_run_again_and_says_where_it_was(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    await database.execute("CREATE SEQUENCE runs")
    files = folder({"001_t.sql": f"{FIRST}{LARGE}\nSELECT nextval('runs');\nSELECT pg_sleep(60);\n"})

    finished = slipway(env=database.environ, migrations=files, statement_timeout="2s")

    assert finished.code == 24, finished
    assert "001_t.sql:10838: canceling statement due to statement timeout\n" in finished.err
    assert "one of the statements in lines 10838 to 11004\n" in finished.err
    assert (await database.fetch("SELECT last_value FROM runs"))[0][0] == 1


@pytest.mark.parametrize("name", ["001_first.sql", "003_later.sql"])
async def test_file_that_was_stopped_is_not_run_again(
    database: Database, folder: Folder, slipway: Slipway, name: str
) -> None:
    await database.execute("CREATE SEQUENCE runs")
    files = folder({"001_first.sql": "", "002_b.sql": ""} | {name: "SELECT nextval('runs');\nSELECT pg_sleep(60);"})

    finished = slipway(env=database.environ, migrations=files, statement_timeout="500ms")

    assert finished.code == 24, finished
    assert (
        f"{name}: canceling statement due to statement timeout\nSQLSTATE 57014\n{name} was rolled back" in finished.err
    )
    assert (await database.fetch("SELECT last_value FROM runs"))[0][0] == 1


@pytest.mark.parametrize("name", ["001_first.sql", "003_later.sql"])
async def test_file_that_took_long_is_not_run_again(
    database: Database, folder: Folder, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr("pgslipway.engine.transaction.SHORT", 0.0)
    await database.execute("CREATE SEQUENCE runs")
    files = folder({"001_first.sql": "", "002_b.sql": ""} | {name: "SELECT nextval('runs');\nSELECT 1 / 0;"})

    async with asyncpg.create_pool(database.url, min_size=1, max_size=1) as pool:
        with pytest.raises(MigrationFailed) as caught:
            await run_migrations(pool, files)

    assert str(caught.value) == f"{name}: division by zero\nSQLSTATE 22012\n{name} was rolled back"
    assert (await database.fetch("SELECT last_value FROM runs"))[0][0] == 1


async def test_failure_at_commit_names_file_and_constraint(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    unique = "CREATE TABLE a (n int CONSTRAINT once UNIQUE DEFERRABLE INITIALLY DEFERRED);"
    files = folder({"001_a.sql": unique, "002_b.sql": "INSERT INTO a VALUES (1);\nINSERT INTO a VALUES (1);"})

    finished = slipway(env=database.environ, migrations=files)

    assert finished.code == 24, finished
    assert finished.outcome
    assert finished.outcome["message"] == (
        '002_b.sql: at COMMIT: duplicate key value violates unique constraint "once"\n'
        "detail: Key (n)=(1) already exists.\n"
        "about: table a, constraint once\n"
        "SQLSTATE 23505\n"
        "002_b.sql was rolled back"
    )


@pytest.mark.parametrize("name", ["001_{}.sql", "003_{}.sql"], ids=["first", "later"])
@pytest.mark.parametrize(
    ("encoding", "description", "letters"),
    [("SQL_ASCII", "ü", "é🐘日"), ("LATIN1", "ü", "äöü"), ("EUC_JP", "u", "日本語")],
    ids=["SQL_ASCII", "LATIN1", "EUC_JP"],
)
async def test_place_is_right_in_every_encoding(
    server: Server, folder: Folder, slipway: Slipway, encoding: str, description: str, letters: str, name: str
) -> None:
    """Positions count characters, and bytes where the database has no encoding."""
    refused = name.format(description)
    do = f"DO $$ BEGIN\n EXECUTE 'SELECT ''{letters}'', nowhere'; END $$"
    files = folder({"001_a.sql": "SELECT 1;", "002_b.sql": "SELECT 1;"} if name.startswith("003") else {})
    database = server.database(f"test_{secrets.token_hex(6)}")
    await server.database().execute(
        f"CREATE DATABASE {database.name} TEMPLATE template0 ENCODING {encoding} LOCALE 'C'"
    )
    try:
        first = slipway(env=database.environ, migrations=folder({refused: f"SELECT '{letters}', nowhere;"}))
        second = slipway(env=database.environ, migrations=folder({refused: do}))
    finally:
        await server.database().execute(f"DROP DATABASE {database.name} WITH (FORCE)")

    assert files
    assert (first.code, second.code) == (24, 24), (first, second)
    line = f"  1 | SELECT '{letters}', nowhere"
    place = f"\n    | {' ' * (len(letters) + 11)}^\n"
    assert f'{refused}:1: column "nowhere" does not exist\n{line};{place}' in first.err
    assert f"in the query that it ran:\n{line}{place}" in second.err


# --- whose failure it was ---------------------------------------------------------------------------------------

REFUSE = """
    CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'not on a Friday'; END $$;
    CREATE TRIGGER refuse BEFORE INSERT ON public.schema_migrations FOR EACH ROW WHEN (NEW.version > {version})
    EXECUTE FUNCTION refuse();
"""
SWALLOW = """
    CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
    CREATE TRIGGER swallow BEFORE INSERT ON public.schema_migrations FOR EACH ROW WHEN (NEW.version > {version})
    EXECUTE FUNCTION swallow();
"""
OBSTACLES = {
    "a_trigger_that_raises": (REFUSE, 23, "not on a Friday (SQLSTATE P0001); this is about the history table"),
    "a_trigger_that_lets_no_row_in": (SWALLOW, 23, "lets no row in; remove it"),
    "a_privilege_taken": (
        "REVOKE INSERT ON public.schema_migrations FROM CURRENT_USER; -- {version}",
        22,
        "(SQLSTATE 42501)",
    ),
}


@pytest.mark.parametrize("obstacle", OBSTACLES)
async def test_history_that_takes_no_row_has_the_same_code_wherever_the_file_stands(
    database: Database, folder: Folder, slipway: Slipway, obstacle: str
) -> None:
    sql, code, text = OBSTACLES[obstacle]
    role = f"r_{secrets.token_hex(6)}"
    login = await database.create_role(role)
    await database.execute(f"GRANT CREATE, USAGE ON SCHEMA public TO {role}")
    files = folder({"001_a.sql": "", "002_b.sql": sql.format(version=2), "003_c.sql": "CREATE TABLE c ();"})

    first = slipway(env=login.environ, migrations=files)
    second = slipway(env=login.environ, migrations=files)

    assert (first.code, second.code) == (code, code), (first, second)
    assert text in first.err
    assert text in second.err
    assert await database.applied() == ["001_a.sql", "002_b.sql"]


async def test_server_that_takes_no_writes_any_more_can_heal(
    embedded: Embedded, folder: Folder, slipway: Slipway
) -> None:
    database = embedded.cluster().start().database
    files = folder({"001_a.sql": "", "002_b.sql": "SELECT pg_sleep(3);", "003_c.sql": "CREATE TABLE c ();"})
    process = slipway.start(env=database.environ, migrations=files)
    sleeping = "SELECT FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
    await eventually(lambda: database.fetch(sleeping), "the second file to run")

    await database.execute("ALTER SYSTEM SET default_transaction_read_only = on")
    await database.fetch("SELECT pg_reload_conf()")

    finished = await asyncio.to_thread(process.finish)
    assert finished.code == 10, finished
    assert "003_c.sql could not be recorded: cannot execute INSERT in a read-only transaction" in finished.err


async def test_failure_that_passes_is_not_one(database: Database, folder: Folder, slipway: Slipway) -> None:
    """Sequences are not rolled back: the file fails the first time only."""
    once = "CREATE SEQUENCE runs;"
    fails_once = "SELECT 1 / (nextval('runs') - 1);"
    files = folder({"001_a.sql": once, "002_b.sql": fails_once})

    finished = slipway(env=database.environ, migrations=files)

    assert finished.code == 0, finished
    assert await database.applied() == ["001_a.sql", "002_b.sql"]


# --- files that touch the history -------------------------------------------------------------------------------

TABLE = "public.schema_migrations"
LEAVE = "a file must leave it alone"
TOUCHED = {
    "dropped": (
        "DROP TABLE IF EXISTS schema_migrations;",
        f'this file dropped or changed the history table, {{name}}: relation "{TABLE}" does not exist; {LEAVE}',
    ),
    "renamed": (
        "ALTER TABLE schema_migrations RENAME TO old;",
        f'this file dropped or changed the history table, {{name}}: relation "{TABLE}" does not exist; {LEAVE}',
    ),
    "with_its_schema": (
        "DROP SCHEMA public CASCADE; CREATE SCHEMA public;",
        f'this file dropped or changed the history table, {{name}}: relation "{TABLE}" does not exist; {LEAVE}',
    ),
    "a_column_dropped": (
        "ALTER TABLE schema_migrations DROP COLUMN applied_at;",
        f'this file dropped or changed the history table, {{name}}: column "applied_at" does not exist; {LEAVE}',
    ),
    "row_removed": (
        "TRUNCATE schema_migrations;",
        f"this file removed its own row from the history, {{name}}; {LEAVE}",
    ),
    "row_hidden": (
        "ALTER TABLE schema_migrations ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;",
        f"row-level security hides the row of this file, {{name}}; {LEAVE}",
    ),
    "types_changed": (
        "ALTER TABLE schema_migrations ALTER COLUMN applied_at TYPE timestamp;",
        f"this file changed the columns or the key of the history table, {{name}}; {LEAVE}",
    ),
    "key_dropped": (
        "ALTER TABLE schema_migrations DROP CONSTRAINT schema_migrations_pkey;",
        f"this file changed the columns or the key of the history table, {{name}}; {LEAVE}",
    ),
    "created": (
        "CREATE TABLE schema_migrations (version text PRIMARY KEY);",
        f"hint: {{name}} is pgslipway's history table; {LEAVE}, or set MIGRATE_TABLE",
    ),
    "row_of_another_tool": (
        "INSERT INTO schema_migrations (version) VALUES (20200101);",
        f"hint: {{name}} is pgslipway's history table; {LEAVE}, or set MIGRATE_TABLE",
    ),
}


@pytest.mark.parametrize("name", ["001_first.sql", "003_later.sql"])
@pytest.mark.parametrize("touch", TOUCHED)
async def test_file_that_touches_the_history_is_told_so_and_rolled_back(
    database: Database, folder: Folder, slipway: Slipway, touch: str, name: str
) -> None:
    sql, message = TOUCHED[touch]
    role = f"r_{secrets.token_hex(6)}"  # row-level security is nothing to a superuser
    login = await database.create_role(role)
    await database.execute(f"ALTER SCHEMA public OWNER TO {role}; GRANT CREATE ON DATABASE {database.name} TO {role}")
    earlier = {} if name.startswith("001") else {"001_a.sql": "", "002_b.sql": ""}
    files = folder({**earlier, name: f"SELECT 1;\n{sql}"})

    finished = slipway(env=login.environ, migrations=files)

    assert finished.code == 24, finished
    assert message.format(name='"public"."schema_migrations"') in finished.err
    assert finished.outcome
    assert finished.outcome["message"].endswith(f"\n{name} was rolled back")
    assert await database.applied() == list(earlier)


async def test_table_that_a_file_without_a_transaction_changes_is_a_conflict(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    change = "-- no-transaction\nALTER TABLE schema_migrations ALTER COLUMN applied_at TYPE timestamp;"

    finished = slipway(env=database.environ, migrations=folder({"001_a.sql": change}))

    assert finished.code == 23, finished
    assert (
        "001_a.sql is done, and the next run records it; now it could not be recorded: this file changed the columns "
        'or the key of the history table, "public"."schema_migrations"'
    ) in finished.err
