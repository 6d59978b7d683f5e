"""Where their table is, who may read it, and what has its name: taken over, or refused with what to write."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from moving import FILES, OURS, TOOLS, Moving, Tool, named, write

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Finished, Folder, Slipway
    from servers import Database

GOLANG_MIGRATE, GOOSE, DBMATE, FLYWAY, SQLX, PRISMA, DRIZZLE, DIESEL, REFINERY, TERN, SUPABASE = TOOLS
IN_PLACE_OF_OURS = named("golang-migrate", "dbmate")
"""Their table has the default name of ours."""
EVERY_TOOL = pytest.mark.parametrize("tool", TOOLS, ids=str)
WITH_GOOSE = pytest.mark.parametrize("tool", [GOOSE], ids=str)


@pytest.fixture
def moving(tool: Tool, database: Database, slipway: Slipway, tmp_path: Path) -> Moving:
    return Moving(database, slipway, tool.write(tmp_path / "folder"), tool.name)


async def assert_adopted(moving: Moving, **settings: str) -> Finished:
    """Two of theirs, and the other two are applied."""
    finished = moving.run("up", **settings)
    assert finished.code == 0, finished
    assert finished.outcome
    assert "adopted 2 migrations, applied 2 migrations" in finished.outcome["message"]
    assert await moving.orders() == [1, 2, 3, 4]
    return finished


# --- another place ----------------------------------------------------------------------------------------------


@WITH_GOOSE
@pytest.mark.parametrize(
    ("table", "written"),
    [
        ("ops.goose_db_version", "ops.goose_db_version"),
        ("ops.versions", "OPS.Versions"),
        ('ops."Versions of ours"', 'ops."Versions of ours"'),
        ("versions", "versions"),
        ('ops."a.b"', 'ops."a.b"'),
    ],
)
async def test_table_is_where_one_says(tool: Tool, table: str, written: str, moving: Moving) -> None:
    await moving.database.execute("CREATE SCHEMA ops")
    await tool.migrate(moving.database, 2, table="made")
    schema, _, name = table.rpartition(".")
    if '"a.b"' in table:
        schema, name = "ops", '"a.b"'
    await moving.database.execute(f"ALTER TABLE made RENAME TO {name}")
    if schema:
        await moving.database.execute(f"ALTER TABLE {name} SET SCHEMA {schema}")

    await assert_adopted(moving, adopt=f"goose:{written}")


@WITH_GOOSE
@pytest.mark.parametrize(
    "written", ["ops.goose_db_versoin", "goose_db_version", "ops.Versions", "nowhere.versions", 'ops."GOOSE"']
)
@pytest.mark.parametrize("real", ["goose_db_version", "my_versions", '"My Versions"'])
async def test_misspelt_table_does_not_run_all_files(tool: Tool, written: str, real: str, moving: Moving) -> None:
    await moving.database.execute("CREATE SCHEMA ops")
    await tool.migrate(moving.database, 2, table="made")
    await moving.database.execute(f"ALTER TABLE made RENAME TO {real}; ALTER TABLE {real} SET SCHEMA ops")

    await moving.assert_refused(
        f"ops.{real} says that goose has applied 2 files of this folder, which would be applied again; "
        f"set MIGRATE_ADOPT=goose:ops.{real} to take over from it, or MIGRATE_ADOPT=none if that table is another "
        "application's",
        adopt=f"goose:{written}",
    )
    await assert_adopted(moving, adopt=f"goose:ops.{real}")


@WITH_GOOSE
@pytest.mark.parametrize("written", ["a b", "a.b.c.d", '"open', "..", "other_db.ops.goose"])
async def test_text_that_is_no_name_of_a_table(written: str, moving: Moving) -> None:
    finished = moving.run("up", adopt=f"goose:{written}")

    assert finished.code == 20, finished
    assert f"error: MIGRATE_ADOPT: {written} is no name of a relation" in finished.err


@WITH_GOOSE
async def test_their_own_place_is_empty_and_the_real_one_elsewhere(tool: Tool, moving: Moving) -> None:
    await tool.create_table(moving.database)
    await tool.migrate(moving.database, 2, table="ops.goose_db_version")

    await moving.assert_refused(
        "ops.goose_db_version says that goose has applied 2 files of this folder, which would be applied again; "
        "set MIGRATE_ADOPT=goose:ops.goose_db_version to take over from it, or MIGRATE_ADOPT=none if that table is "
        "another application's"
    )


@EVERY_TOOL
async def test_history_of_ours_is_in_another_schema(tool: Tool, moving: Moving) -> None:
    await tool.migrate(moving.database, 2)

    await assert_adopted(moving, schema="deploys", table="schema_migrations")

    rows = await moving.database.fetch("SELECT FROM deploys.schema_migrations")
    assert len(rows) == FILES


@WITH_GOOSE
async def test_current_schema_is_theirs(tool: Tool, moving: Moving) -> None:
    await moving.database.execute(
        f"CREATE SCHEMA app; ALTER DATABASE {moving.database.name} SET search_path = app, public"
    )
    await tool.migrate(moving.database, 2, table="app.goose_db_version")

    await assert_adopted(moving)


# --- who may read it --------------------------------------------------------------------------------------------


@EVERY_TOOL
async def test_role_owns_what_is_adopted_and_reads_their_table(tool: Tool, moving: Moving) -> None:
    owner = f"owner_{moving.database.name}"
    schema, dot, _ = tool.table.partition(".")
    await tool.migrate(moving.database, 2)
    await moving.database.execute(
        f"CREATE ROLE {owner}; GRANT ALL ON SCHEMA public TO {owner}; GRANT ALL ON orders, {tool.table} TO {owner};"
        + (f"GRANT USAGE ON SCHEMA {schema} TO {owner}" if dot else "")
    )
    login = await moving.database.create_role(f"login_{moving.database.name}", f"LOGIN NOINHERIT IN ROLE {owner}")
    as_login = Moving(login, moving.slipway, moving.folder, tool.name)

    finished = as_login.run("up", role=owner)

    assert finished.code == 0, finished
    owners = await moving.database.fetch(
        "SELECT pg_get_userbyid(relowner) AS name FROM pg_class WHERE relname = $1", OURS
    )
    assert [row["name"] for row in owners] == [owner]
    assert await moving.orders() == [1, 2, 3, 4]


UNREADABLE = "{} cannot be read: it takes SELECT on it and USAGE on its schema"


@EVERY_TOOL
async def test_table_that_only_another_role_may_read(tool: Tool, moving: Moving) -> None:
    await tool.migrate(moving.database, 2)
    login = await moving.database.create_role(f"login_{moving.database.name}")
    as_login = Moving(login, moving.slipway, moving.folder, tool.name)
    table = tool.table if "." in tool.table else f"public.{tool.table}"

    await as_login.assert_refused(UNREADABLE.format(table), code=22)


@WITH_GOOSE
async def test_given_table_in_a_schema_that_only_another_role_may_use(tool: Tool, moving: Moving) -> None:
    await tool.migrate(moving.database, 2, table="ops.versions")
    login = await moving.database.create_role(f"login_{moving.database.name}")
    as_login = Moving(login, moving.slipway, moving.folder, tool.name)

    await as_login.assert_refused(
        "ops.versions cannot be looked for: permission denied for schema ops", code=22, adopt="goose:ops.versions"
    )


@EVERY_TOOL
async def test_table_that_nobody_asked_for_and_that_cannot_be_read(tool: Tool, moving: Moving) -> None:
    await tool.migrate(moving.database, 2)
    login = await moving.database.create_role(f"login_{moving.database.name}")
    as_login = Moving(login, moving.slipway, moving.folder, tool.name)
    table = tool.table if "." in tool.table else f"public.{tool.table}"

    await as_login.assert_refused(
        f"{table} cannot be read, so nobody knows whether {tool.name} has applied this folder's files; grant SELECT on "
        f"it and set MIGRATE_ADOPT={tool.name}, or set MIGRATE_ADOPT=none if that table is another application's",
        code=22,
        adopt="",
    )


@WITH_GOOSE
async def test_history_of_ours_counts_whatever_becomes_of_theirs(tool: Tool, moving: Moving) -> None:
    """Also while something is pending."""
    await tool.migrate(moving.database, 2)
    text = (late := moving.folder / tool.filename(4)).read_text()
    late.unlink()
    assert moving.run("up").code == 0
    await moving.database.execute(
        "ALTER TABLE goose_db_version RENAME TO old; CREATE VIEW goose_db_version AS SELECT * FROM old"
    )
    late.write_text(text)

    finished = moving.run("up")

    assert finished.code == 0, finished
    assert await moving.orders() == [1, 2, 3, 4]


# --- what has its name ------------------------------------------------------------------------------------------


@EVERY_TOOL
async def test_view_is_refused(tool: Tool, moving: Moving) -> None:
    schema, _, name = (tool.table if "." in tool.table else f"public.{tool.table}").partition(".")
    await tool.migrate(moving.database, 2)
    await moving.database.execute(
        f"ALTER TABLE {schema}.{name} RENAME TO old; CREATE VIEW {schema}.{name} AS SELECT * FROM {schema}.old"
    )

    await moving.assert_refused(
        f"{schema}.{name} is not a table, so nobody knows what it shows; name {tool.name}'s table"
    )


@EVERY_TOOL
async def test_table_with_other_columns_is_refused(tool: Tool, moving: Moving) -> None:
    table = tool.table if "." in tool.table else f"public.{tool.table}"
    schema, _, _ = table.partition(".")
    await moving.database.execute(f"CREATE SCHEMA IF NOT EXISTS {schema}; CREATE TABLE {table} (id int, of_mine text)")

    await moving.assert_refused(f"{table} is not {tool.name}'s: its columns are id, of_mine")


@pytest.mark.parametrize("tool", [FLYWAY], ids=str)
async def test_older_name_of_their_table(tool: Tool, moving: Moving) -> None:
    await tool.migrate(moving.database, 2, table="schema_version")

    await assert_adopted(moving)


@pytest.mark.parametrize("tool", [FLYWAY], ids=str)
async def test_older_name_may_be_another_tools(moving: Moving) -> None:
    await TERN.create_table(moving.database)

    finished = moving.run("up")

    assert finished.code == 0, finished
    assert await moving.orders() == [1, 2, 3, 4]


@pytest.mark.parametrize("tool", [GOOSE, FLYWAY, PRISMA], ids=str)
@pytest.mark.parametrize("is_fresh", [True, False], ids=["fresh", "theirs"])
async def test_folder_of_another_layout_is_refused(
    tool: Tool, is_fresh: bool, database: Database, slipway: Slipway, folder: Folder
) -> None:
    if not is_fresh:
        await tool.migrate(database, 2)
    other = Moving(database, slipway, folder({"001_a.sql": ""}), tool.name)

    await other.assert_refused(
        f"MIGRATE_ADOPT={tool.name} goes with a folder in the layout {tool.layout}; this one is plain (MIGRATE_LAYOUT "
        "says which one it is)",
        code=20,
    )


# --- the name of ours -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_fresh", [True, False], ids=["fresh", "theirs"])
@EVERY_TOOL
async def test_our_table_would_be_theirs(tool: Tool, is_fresh: bool, moving: Moving) -> None:
    """Told in a fresh database, too, so that nobody finds out in the last environment."""
    if not is_fresh:
        await tool.migrate(moving.database, 2)
    schema, _, name = tool.table.rpartition(".")
    schema = schema or "public"

    await moving.assert_refused(
        f'"{schema}"."{name}" is the name of {tool.name}\'s history, and by its settings pgslipway\'s own as well; set '
        "MIGRATE_TABLE=pgslipway_migrations",
        code=20,
        schema=schema,
        table=name,
    )


@WITH_GOOSE
@pytest.mark.parametrize("is_fresh", [True, False], ids=["fresh", "theirs"])
async def test_our_table_would_be_the_given_one(tool: Tool, is_fresh: bool, moving: Moving) -> None:
    if not is_fresh:
        await tool.migrate(moving.database, 2, table="ops.versions")

    await moving.assert_refused(
        '"ops"."versions" is the name of goose\'s history, and by its settings pgslipway\'s own as well; set '
        "MIGRATE_TABLE=pgslipway_migrations",
        code=20,
        adopt="goose:Ops.versions",
        schema="ops",
        table="versions",
    )


@pytest.mark.parametrize("tool", IN_PLACE_OF_OURS, ids=str)
async def test_foreign_table_in_our_place_says_what_to_set(tool: Tool, moving: Moving) -> None:
    await tool.migrate(moving.database, 2)
    reason = {
        "golang-migrate": "it has a column dirty, as golang-migrate's has",
        "dbmate": "its version is text, as dbmate's and Rails's is",
    }
    finished = moving.run("up", adopt="", table="")

    assert finished.code == 23, finished
    assert finished.outcome
    assert finished.outcome["message"] == (
        f'"public"."schema_migrations" is not pgslipway\'s: {reason[tool.name]}; it was left alone. Set '
        f"MIGRATE_ADOPT={tool.name} and MIGRATE_TABLE=pgslipway_migrations to take over what {tool.name} has applied; "
        "docs/moving.md says more"
    )
    assert [moving.run(one, adopt="", table="").code for one in ("plan", "status", "wait")] == [23, 23, 23]


STRANGERS_IN_OUR_PLACE = {
    "Ecto": "version bigint PRIMARY KEY, inserted_at timestamp",
    "Rails": "version varchar PRIMARY KEY",
}


@pytest.mark.parametrize("name", STRANGERS_IN_OUR_PLACE)
async def test_strangers_table_in_our_place_says_what_to_set(
    name: str, database: Database, slipway: Slipway, folder: Folder
) -> None:
    await database.execute(f"CREATE TABLE schema_migrations ({STRANGERS_IN_OUR_PLACE[name]})")
    if name == "Rails":
        await database.execute("CREATE TABLE ar_internal_metadata (key varchar PRIMARY KEY, value varchar)")

    finished = slipway(env=database.environ, migrations=folder({"001_a.sql": ""}))

    assert finished.code == 23, finished
    assert (
        f"it was left alone. Set MIGRATE_TABLE=pgslipway_migrations, and "
        "MIGRATE_ADOPT=baseline:VERSION@public.schema_migrations if the "
        f"files up to a version stand for what {name} has made; docs/moving.md says more"
    ) in finished.err


async def test_unknown_table_in_our_place_points_to_the_page(
    database: Database, slipway: Slipway, folder: Folder
) -> None:
    await database.execute("CREATE TABLE schema_migrations (of_mine int)")

    finished = slipway(env=database.environ, migrations=folder({"001_a.sql": ""}))

    assert finished.code == 23, finished
    assert (
        "it was left alone. Set MIGRATE_TABLE to another name, such as pgslipway_migrations; docs/moving.md says how "
        "to take over what was applied"
    ) in finished.err


# --- tools whose history is not read ----------------------------------------------------------------------------

STRANGERS = {
    "Liquibase": ("databasechangelog", "id text, author text, filename text, md5sum text"),
    "Atlas": ("atlas_schema_revisions.atlas_schema_revisions", "version text, applied int, hash text"),
    "Alembic": ("alembic_version", "version_num varchar(32) PRIMARY KEY"),
    "Django": ("django_migrations", "id int, app text, name text, applied timestamptz"),
    "Rails": ("ar_internal_metadata", "key varchar PRIMARY KEY, value varchar"),
    "Knex": ("knex_migrations", "id int, name text, batch int, migration_time timestamptz"),
    "Ecto": ("schema_migrations", "version bigint PRIMARY KEY, inserted_at timestamp"),
    "Sqitch": ("sqitch.changes", "change_id text PRIMARY KEY, change text, project text"),
    "yoyo": ("_yoyo_migration", "migration_hash varchar(64) PRIMARY KEY, migration_id text, applied_at_utc timestamp"),
    "graphile-migrate": (
        "graphile_migrate.migrations", "hash text PRIMARY KEY, previous_hash text, filename text, date timestamptz"
    ),
    "node-pg-migrate": ("pgmigrations", "id serial PRIMARY KEY, name varchar(255), run_on timestamp"),
    "Hasura": ("hdb_catalog.hdb_version", "hasura_uuid uuid, version text, cli_state jsonb"),
}  # fmt: skip


@pytest.mark.parametrize("name", STRANGERS)
async def test_stranger_is_refused_with_the_way(
    name: str, database: Database, slipway: Slipway, tmp_path: Path
) -> None:
    table, columns = STRANGERS[name]
    schema, dot, _ = table.partition(".")
    await database.execute(f"{f'CREATE SCHEMA {schema};' if dot else ''} CREATE TABLE {table} ({columns})")
    moving = Moving(database, slipway, SQLX.write(tmp_path / "folder"), "")
    where = table if dot else f"public.{table}"

    await moving.assert_refused(
        f"{where} is {name}'s, whose history pgslipway cannot take over; if the files up to a version stand for what "
        f"{name} has made, set MIGRATE_ADOPT=baseline:VERSION@{where}, with 20260101120000 or a later version; if that "
        "table is another application's, set MIGRATE_ADOPT=none"
    )
    finished = moving.run("up", adopt=f"baseline:20260102120000@{where}")
    assert finished.code == 0, finished
    assert await moving.orders() == [3, 4]


async def test_strangers_table_in_another_schema_is_another_applications(
    database: Database, slipway: Slipway, tmp_path: Path
) -> None:
    await database.execute("CREATE SCHEMA other; CREATE TABLE other.alembic_version (version_num varchar(32))")
    moving = Moving(database, slipway, SQLX.write(tmp_path / "folder"), "")

    assert moving.run("up").code == 0
    assert await moving.orders() == [1, 2, 3, 4]


async def test_strangers_table_beside_the_tool_that_was_named_does_not_matter(
    database: Database, slipway: Slipway, tmp_path: Path
) -> None:
    await database.execute("CREATE TABLE alembic_version (version_num varchar(32))")
    moving = Moving(database, slipway, SQLX.write(tmp_path / "folder"), "sqlx")

    assert moving.run("up").code == 0
    assert await moving.orders() == [1, 2, 3, 4]


# --- a baseline -------------------------------------------------------------------------------------------------


@EVERY_TOOL
async def test_baseline_is_written_as_the_layout_writes_it(tool: Tool, moving: Moving) -> None:
    await moving.database.execute("CREATE TABLE orders (id int); INSERT INTO orders VALUES (1), (2)")

    planned = moving.run("plan", adopt=f"baseline:{tool.shown(2)}@public.orders")
    await assert_adopted(moving, adopt=f"baseline:{tool.shown(2)}@public.orders")
    again = moving.run("up", adopt=f"baseline:{tool.shown(2)}@public.orders")

    assert planned.out.startswith(
        f"adopt 2 migrations from the baseline, since public.orders is there: {tool.filename(1)}, {tool.filename(2)}\n"
    )
    assert again.code == 0
    assert await moving.orders() == [1, 2, 3, 4]
    assert all(row["checksum"] for row in await moving.history())


@pytest.mark.parametrize("tool", [SQLX], ids=str)
async def test_baseline_without_its_witness_is_a_fresh_database(tool: Tool, moving: Moving) -> None:
    """Also in later runs: the relation is there then, and the history as well."""
    adopt = f"baseline:{tool.shown(2)}@public.orders"

    finished, again = moving.run("up", adopt=adopt), moving.run("up", adopt=adopt)

    assert [finished.code, again.code] == [0, 0], finished
    assert await moving.orders() == [1, 2, 3, 4]


@pytest.mark.parametrize("tool", [SQLX], ids=str)
async def test_baseline_with_a_misspelt_witness_does_not_run_all_files(tool: Tool, moving: Moving) -> None:
    await tool.migrate(moving.database, 2)

    await moving.assert_refused(
        "public._sqlx_migrations says that sqlx has applied 2 files of this folder, which would be applied again; set "
        "MIGRATE_ADOPT=sqlx to take over from it, or MIGRATE_ADOPT=none if that table is another application's",
        adopt=f"baseline:{tool.shown(2)}@public.ordres",
    )


@pytest.mark.parametrize("tool", [FLYWAY, GOOSE, PRISMA], ids=str)
@pytest.mark.parametrize("version", ["9", "v1", "1.2.3.4.5.6", "-1"])
async def test_baseline_version_that_no_file_has(version: str, moving: Moving) -> None:
    await moving.database.execute("CREATE TABLE orders (id int)")

    await moving.assert_refused(
        f"MIGRATE_ADOPT=baseline:{version}@orders: no file of this folder has the version {version}",
        code=20,
        adopt=f"baseline:{version}@orders",
    )


@pytest.mark.parametrize("tool", [SQLX], ids=str)
@pytest.mark.parametrize("relation", ["a b", "..", '"open', "a.b.c.d"])
async def test_baseline_witness_that_is_no_name(tool: Tool, relation: str, moving: Moving) -> None:
    adopt = f"baseline:{tool.shown(2)}@{relation}"

    finished = moving.run("up", adopt=adopt)

    assert finished.code == 20, finished
    assert f"error: MIGRATE_ADOPT: {relation} is no name of a relation" in finished.err


@pytest.mark.parametrize("tool", [SQLX], ids=str)
async def test_baseline_witness_that_cannot_be_looked_for(tool: Tool, moving: Moving) -> None:
    await moving.database.execute("CREATE SCHEMA ops; CREATE TABLE ops.t ()")
    login = await moving.database.create_role(f"login_{moving.database.name}")
    adopt = f"baseline:{tool.shown(2)}@ops.t"

    await Moving(login, moving.slipway, moving.folder, "").assert_refused(
        "ops.t cannot be looked for: permission denied for schema ops", code=22, adopt=adopt
    )


@pytest.mark.parametrize("tool", [SQLX], ids=str)
async def test_baseline_beside_an_empty_history_is_a_decision(tool: Tool, moving: Moving) -> None:
    adopt = f"baseline:{tool.shown(2)}@public.orders"
    moving.run("up", adopt="")
    await moving.database.execute(f"TRUNCATE {OURS}; DELETE FROM orders WHERE id > 2")

    finished = moving.run("up", adopt=adopt)
    decided = moving.run("adopt", adopt=adopt)

    assert finished.code == 23, finished
    assert finished.outcome
    assert finished.outcome["message"] == (
        f'"public"."{OURS}" is there and has no rows, beside the baseline, since public.orders is there with 2 '
        "migrations: nobody knows which of them is true; `pgslipway adopt` takes over what is there; "
        "MIGRATE_ADOPT=none applies all files"
    )
    assert decided.code == 0, decided
    assert moving.run("up", adopt=adopt).code == 0
    assert await moving.orders() == [1, 2, 3, 4]


@pytest.mark.parametrize("tool", [SQLX], ids=str)
async def test_file_that_is_half_done_does_not_count_as_applied(tool: Tool, moving: Moving) -> None:
    """It has made the very relation that witnesses the baseline."""
    adopt = f"baseline:{tool.shown(2)}@public.orders"
    write(moving.folder, {tool.filename(1): f"-- no-transaction\n{tool.text(1)}SELECT 1 / 0;"})
    begun = moving.run("up", adopt=adopt)

    undecided, decided = moving.run("up", adopt=adopt), moving.run("adopt", adopt=adopt)

    assert [begun.code, undecided.code, decided.code] == [24, 23, 23], decided
    assert decided.outcome
    assert decided.outcome["message"] == (
        f"{tool.filename(1)}: pgslipway has begun with it, and it is not done, so it cannot count as applied; go on "
        "with MIGRATE_ADOPT=none, or forget what was done: pgslipway resolve VERSION --restart"
    )
    assert await moving.history() == []


@pytest.mark.parametrize("value", [None, "none"], ids=str)
async def test_command_needs_the_setting(
    value: str | None, database: Database, slipway: Slipway, tmp_path: Path
) -> None:
    moving = Moving(database, slipway, SQLX.write(tmp_path / "folder"), value or "")

    finished = moving.run("adopt")

    assert finished.code == 20, finished
    assert "adopt needs MIGRATE_ADOPT: the tool to take over from, or baseline:VERSION@RELATION" in finished.err
