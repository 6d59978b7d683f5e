"""docs/moving.md: the lines of each tool's section take a database of that tool over, and its way back leads back.

And the ends of a run that are about another tool, as docs/operating.md shows them below `<!-- moving: … -->`.
"""

from __future__ import annotations

import asyncio
import json
import re
from typing import TYPE_CHECKING, TypeAlias

import pytest
import yaml

from contract import CONTRACT
from moving_page import APPLIED, CUSTOMERS, ORDERS, PAID, PROJECTS
from pages import PAGES, Block, blocks, matches
from pgslipway.engine.strangers import STRANGERS
from pgslipway.engine.tools import TOOLS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from conftest import Finished, Folder, Slipway
    from servers import Database

PAGE, OPERATING = "docs/moving.md", "docs/operating.md"
NOTE = "moving: "
BASELINE = "Any other tool: a baseline"
NO_TRANSACTION = "SELECT 1;\nCREATE INDEX CONCURRENTLY by_amount ON orders (amount);\n"
WITHOUT_TRANSACTION = {
    "golang-migrate": {"000004_index.up.sql": f"-- no-transaction\n{NO_TRANSACTION}"},
    "goose": {"00004_index.sql": f"-- +goose NO TRANSACTION\n-- +goose Up\n{NO_TRANSACTION}"},
    "dbmate": {"20260104120000_index.sql": f"-- migrate:up transaction:false\n{NO_TRANSACTION}-- migrate:down\n"},
    "Flyway": {"V4__index.sql": NO_TRANSACTION},
    "Prisma": {"20260104120000_index/migration.sql": NO_TRANSACTION},
    "sqlx": {"20260104120000_index.sql": f"-- no-transaction\n{NO_TRANSACTION}"},
    "Diesel": {
        "2026-01-04-120000_index/up.sql": NO_TRANSACTION,
        "2026-01-04-120000_index/metadata.toml": "run_in_transaction = false\n",
    },
    "tern": {"004_index.sql": f"---- tern: disable-tx ----\n{NO_TRANSACTION}"},
    "Supabase": {"20260104120000_index.sql": f"-- no-transaction\n{NO_TRANSACTION}"},
    "refinery": {"V4__index.sql": NO_TRANSACTION},
}
"""By tool, a file that wants no transaction, as its section says; Drizzle's needs an entry in the journal as well."""


def section(title: str) -> list[Block]:
    """The blocks below a heading of the page."""
    lines = PAGES[PAGE].read_text().splitlines()
    first = lines.index(f"## {title}")
    last = next((number for number in range(first + 1, len(lines)) if lines[number].startswith("## ")), len(lines))
    return [block for block in blocks(PAGE) if first < block.line <= last]


def environ_of(title: str) -> dict[str, str]:
    """The settings that a section says to write."""
    [block] = [block for block in section(title) if block.language == "yaml"]
    return {setting["name"]: setting["value"] for setting in yaml.safe_load(block.text)["env"]}


async def leave(database: Database, tool: str) -> None:
    """Make the database as the tool has left it."""
    await database.execute(APPLIED)
    await database.execute(PROJECTS[tool].history)


# --- the sections -----------------------------------------------------------------------------------------------


def test_page_has_a_section_and_a_row_for_each_tool() -> None:
    headings = re.findall(r"^## (.+)$", PAGES[PAGE].read_text(), re.MULTILINE)
    rows = re.findall(r"^\| \[(.+?)\]\(#\w+(?:-\w+)*\) [0-9.]+ \| (\w+) \|", PAGES[PAGE].read_text(), re.MULTILINE)

    assert [title for title in headings if title.lower() in TOOLS] == [title for title, _ in rows] == [*PROJECTS]
    assert {title.lower(): layout for title, layout in rows} == {name: tool.layout for name, tool in TOOLS.items()}


def test_page_says_which_table_each_tool_has() -> None:
    rows = re.findall(r"^\| \[(.+?)\]\(#.*?\) [0-9.]+ \| \w+ \| (.+?) \|", PAGES[PAGE].read_text(), re.MULTILINE)

    expected = {
        tool.name: [f"{tool.schema}.{table}" if tool.schema else table for table in tool.tables]
        for tool in TOOLS.values()
    }
    assert {name.lower(): tables.strip("`").split("`, `") for name, tables in rows} == expected


def test_page_names_the_tools_that_are_recognised_only() -> None:
    [sentence] = re.findall(r"pgslipway recognises the tables of ([^.]+)\. ", PAGES[PAGE].read_text())

    assert set(re.split(r",\s|\sand\s", sentence)) == {stranger.name for stranger in STRANGERS}


@pytest.mark.parametrize("title", [*PROJECTS, BASELINE])
def test_section_has_the_two_lines_of_the_dockerfile(title: str) -> None:
    [block] = [block for block in section(title) if block.language == "dockerfile"]

    assert re.fullmatch(r"FROM pgslipway:1\nCOPY [a-z/]+/ /migrations/\n", block.text), block.place


@pytest.mark.parametrize("tool", PROJECTS)
async def test_lines_of_the_section_take_over_and_the_way_back_leads_back(
    tool: str, database: Database, slipway: Slipway, folder: Folder
) -> None:
    await leave(database, tool)
    files = folder(PROJECTS[tool].files)
    env = database.environ | environ_of(tool)
    ours = env.get("MIGRATE_TABLE", "schema_migrations")

    first = await asyncio.to_thread(slipway, env=env, migrations=files)
    again = await asyncio.to_thread(slipway, env=env, migrations=files)

    assert "up to date: adopted 2 migrations, applied 1 migration;" in first.err, first
    assert "up to date: nothing to do;" in again.err, again
    back = [block for block in section(tool) if block.note == f"{NOTE}back"]
    assert len(back) == (tool not in {"Prisma", "sqlx", "refinery"})
    for block in back:
        await database.execute(block.text)
        await database.execute(f"DROP TABLE {ours}")
        anew = await asyncio.to_thread(slipway, env=env, migrations=files)
        assert "up to date: adopted 3 migrations;" in anew.err, f"{block.place}\n{anew}"


@pytest.mark.parametrize("tool", PROJECTS)
async def test_without_the_lines_nothing_is_applied(
    tool: str, database: Database, slipway: Slipway, folder: Folder
) -> None:
    await leave(database, tool)
    files = folder(PROJECTS[tool].files)

    finished = await asyncio.to_thread(slipway, env=database.environ, migrations=files)

    assert finished.code == 23, finished


@pytest.mark.parametrize("tool", WITHOUT_TRANSACTION)
def test_file_without_a_transaction_is_marked_as_the_section_says(
    tool: str, slipway: Slipway, database: Database, folder: Folder
) -> None:
    files = folder(PROJECTS[tool].files | WITHOUT_TRANSACTION[tool])

    finished = slipway("plan", env=database.environ | environ_of(tool), migrations=files)

    applied = re.findall(r"^apply .*index\S* \((.+)\)$", finished.out, re.MULTILINE)
    assert applied == ["2 statements, without a transaction"], finished


@pytest.mark.parametrize("is_new", [False, True], ids=["with the witness", "new"])
async def test_baseline_is_right_for_every_environment(
    is_new: bool, database: Database, slipway: Slipway, folder: Folder
) -> None:
    files = folder({"001_schema.sql": ORDERS, "002_customers.sql": CUSTOMERS, "003_paid.sql": PAID})
    if not is_new:
        await database.execute(ORDERS)

    finished = await asyncio.to_thread(slipway, env=database.environ | environ_of(BASELINE), migrations=files)

    done = "applied 3 migrations" if is_new else "adopted 1 migration, applied 2 migrations"
    assert f"up to date: {done};" in finished.err, finished


# --- what is not run --------------------------------------------------------------------------------------------

UP, DOWN = "-- +goose Up\n", "-- +goose Down\n"
REFUSED = {
    "envsub": ("goose", {"00004_x.sql": f"-- +goose ENVSUB ON\n{UP}SELECT 1;\n"}),
    "go": ("goose", {"00004_x.go": "package migrations"}),
    "no version": ("goose", {"notes.sql": f"{UP}SELECT 1;\n"}),
    "order": ("dbmate", {"9_x.sql": "-- migrate:up\nSELECT 1;\n-- migrate:down\n"}),
    "repeatable": ("Flyway", {"r__x.sql": "SELECT 1;"}),
    "baseline": ("Flyway", {"B4__x.sql": "SELECT 1;"}),
    "callback": ("Flyway", {"beforeMigrate.sql": "SELECT 1;"}),
    "placeholder": ("Flyway", {"V4__x.sql": "SELECT '${flyway:user}';"}),
    "conf": ("Flyway", {"V4__x.sql": "SELECT 1;", "V4__x.sql.conf": "shouldExecute=false\n"}),
    "copy": ("Flyway", {"V4__x.sql": "COPY orders FROM stdin;\n\\.\nVACUUM;\n"}),
    "version": ("Flyway", {"V1000000.1.2__x.sql": "SELECT 1;"}),
    "no file": ("Prisma", {"20260104120000_x/notes.txt": ""}),
    "name": ("sqlx", {"x.sql": "SELECT 1;"}),
    "journal": ("Drizzle", {"meta/_journal.json": '{"entries": [{"tag": "0009_x", "when": 1}]}'}),
    "folder": ("Diesel", {"2026-01-04-120000_x/down.sql": "SELECT 1;"}),
    "template": ("tern", {"004_x.sql": '{{ template "shared/x.sql" . }}'}),
    "u": ("refinery", {"U4__x.sql": "SELECT 1;"}),
    "liquibase": ("sqlx", {"20260104120000_x.sql": "-- liquibase formatted sql\nSELECT 1;"}),
    "atlas": ("sqlx", {"20260104120000_x.sql": "-- atlas:txmode none\nSELECT 1;"}),
    "node-pg-migrate": ("sqlx", {"20260104120000_x.sql": "-- Up Migration\nSELECT 1;\n-- Down Migration\n"}),
    "layouts": ("Flyway", {"001_x.sql": "SELECT 1;"}),
}
"""What the page says to be refused (21), by a word for it."""


@pytest.mark.parametrize("case", REFUSED)
def test_file_is_refused_as_the_page_says(case: str, slipway: Slipway, folder: Folder) -> None:
    tool, files = REFUSED[case]

    finished = slipway("check", env={}, migrations=folder(PROJECTS[tool].files | files))

    assert finished.code == 21, finished


NOT_READ = {
    "goose": {"README.md": ""},
    "dbmate": {"notes.sql": "SELEC"},
    "Flyway": {"U1__x.sql": "SELEC", "V2__X.java": "", "x.sh": ""},
    "Prisma": {"migration_lock.toml": "", "20260101120000_orders/down.sql": "SELEC"},
    "Drizzle": {"0009_x.sql": "SELEC", "meta/0001_snapshot.json": "{}"},
    "Diesel": {"2026-01-02-120000_customers/down.sql": "SELEC"},
    "tern": {"shared/x.sql": "{{ SELEC }}"},
    "sqlx": {"20260101120000_orders.down.sql": "SELEC", ".hidden": "", "README.md": ""},
    "refinery": {"mod.rs": "", "V2__x.rs": ""},
}


@pytest.mark.parametrize("tool", NOT_READ)
def test_file_is_not_read_as_the_page_says(tool: str, slipway: Slipway, folder: Folder) -> None:
    files = folder(PROJECTS[tool].files | NOT_READ[tool])

    finished = slipway("check", env={}, migrations=files)

    assert finished.code == 0, finished
    assert "checked 3 migrations" in finished.err, finished


async def test_java_migration_that_is_applied_needs_an_empty_file(
    database: Database, slipway: Slipway, folder: Folder
) -> None:
    await leave(database, "Flyway")
    row = "3, '3', 'paid', 'JDBC', 'com.shop.V3__Paid', NULL, 'app', now(), 5, true"
    await database.execute(f"INSERT INTO flyway_schema_history VALUES ({row})")
    files = folder(PROJECTS["Flyway"].files | {"V3__paid.sql": "", "V4__paid.sql": PAID})

    finished = await asyncio.to_thread(slipway, env=database.environ | environ_of("Flyway"), migrations=files)

    assert "up to date: adopted 3 migrations, applied 1 migration;" in finished.err, finished


@pytest.mark.parametrize("parameter", ["schema=public", "connection_limit=5", "x-migrations-table=versions"])
def test_parameter_of_another_tool_is_refused(
    parameter: str, database: Database, slipway: Slipway, folder: Folder
) -> None:
    files = folder({"001_orders.sql": ORDERS})

    finished = slipway(env={"DATABASE_URL": f"{database.url}?{parameter}"}, migrations=files)

    assert finished.code == 20, finished


# --- the ends that docs/operating.md shows ----------------------------------------------------------------------

Run: TypeAlias = "Callable[..., Awaitable[Finished]]"
Scene: TypeAlias = "Callable[[Database, Folder, Run], Awaitable[Finished]]"


async def locked(database: Database, folder: Folder, run: Run) -> Finished:
    await leave(database, "golang-migrate")
    folder(PROJECTS["golang-migrate"].files)
    key = TOOLS["golang-migrate"].keys("public", "schema_migrations", database.name)[0]
    async with database.connection() as other:
        await other.execute(f"SET application_name = 'migrate'; SELECT pg_advisory_lock({key})")
        return await run(adopt="golang-migrate", table="pgslipway_migrations", lock_timeout="1s")


async def same_name(database: Database, folder: Folder, run: Run) -> Finished:
    await leave(database, "golang-migrate")
    folder(PROJECTS["golang-migrate"].files)
    return await run(adopt="golang-migrate")


async def two_layouts(_: Database, folder: Folder, run: Run) -> Finished:
    folder({"001_orders.sql": ORDERS, "V2__customers.sql": CUSTOMERS})
    return await run("check")


async def unreadable(database: Database, folder: Folder, run: Run) -> Finished:
    await leave(database, "goose")
    folder(PROJECTS["goose"].files)
    role = await database.create_role("migrator")
    await database.execute(f"GRANT CREATE, USAGE ON SCHEMA public TO {role.user}")
    return await run(adopt="goose", env=role.environ)


async def unasked(database: Database, folder: Folder, run: Run) -> Finished:
    await leave(database, "goose")
    folder(PROJECTS["goose"].files)
    return await run()


async def failed(database: Database, folder: Folder, run: Run) -> Finished:
    await leave(database, "Flyway")
    await database.execute("UPDATE flyway_schema_history SET success = false WHERE version = '2'")
    folder(PROJECTS["Flyway"].files | {"V1__orders.sql": ORDERS.replace("amount", "total")})
    return await run(adopt="flyway")


async def still_at_work(database: Database, folder: Folder, run: Run) -> Finished:
    await leave(database, "goose")
    folder(PROJECTS["goose"].files)
    assert (await run("adopt", adopt="goose")).code == 0
    await database.execute("INSERT INTO goose_db_version (version_id, is_applied) VALUES (3, true)")
    return await run(adopt="goose")


async def emptied(database: Database, folder: Folder, run: Run) -> Finished:
    finished = await still_at_work(database, folder, run)
    assert finished.code == 23
    await database.execute("TRUNCATE schema_migrations")
    return await run(adopt="goose")


async def stranger(database: Database, folder: Folder, run: Run) -> Finished:
    await database.execute(f"{APPLIED} CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY)")
    folder({"001_schema.sql": APPLIED, "002_paid.sql": PAID})
    return await run()


async def moved(database: Database, folder: Folder, run: Run) -> Finished:
    await leave(database, "Prisma")
    folder(PROJECTS["Prisma"].files)
    assert (await run(adopt="prisma")).code == 0
    folder({"20260101120000_index/migration.sql": "CREATE INDEX ON orders (amount);"})
    return await run()


SCENES: dict[str, Scene] = {
    "11": locked, "20": same_name, "21": two_layouts, "22": unreadable, "23 unasked": unasked,
    "23 another tool": stranger, "23 not as applied": failed, "23 at work": still_at_work, "23 emptied": emptied,
    "23 moved": moved,
}  # fmt: skip


@pytest.mark.parametrize("name", SCENES)
async def test_end_is_as_the_page_shows_it(name: str, database: Database, slipway: Slipway, folder: Folder) -> None:
    async def run(*arguments: str, env: Mapping[str, str] | None = None, **settings: str) -> Finished:
        given = {f"MIGRATE_{setting.upper()}": value for setting, value in settings.items()}
        return await asyncio.to_thread(
            slipway, *arguments, env={**(env or database.environ), **given}, migrations=folder.path
        )

    finished = await SCENES[name](database, folder, run)

    assert finished.outcome
    assert finished.code == finished.outcome["exit_code"] == int(name.split()[0]), finished
    assert finished.outcome["result"] == CONTRACT[finished.code]
    message = json.dumps(finished.outcome, ensure_ascii=False) + "\n"
    log, message = (text.replace(database.target, "db:5432/shop") for text in (finished.err, message))
    shown = [block for block in blocks(OPERATING) if block.note == f"{NOTE}{name}"]
    assert {block.language for block in shown} == {"text", "json"}, f"{OPERATING} has no example of {name}\n{log}"
    for block in shown:
        assert matches(block.text, log if block.language == "text" else message), f"{block.place}\n{log}\n{message}"


def test_no_example_is_left_out() -> None:
    notes = {block.note.removeprefix(NOTE) for page in PAGES for block in blocks(page) if block.note.startswith(NOTE)}

    assert notes == {*SCENES, "back"}
