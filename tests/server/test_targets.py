"""Many schemas or databases in one run, as an orchestrator and a person at 3 a.m. see them."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import subprocess
import sys
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from pgslipway import run_targets
from pgslipway.errors import BadConfiguration, MigrationFailed
from proxy import RoundTrips
from unfinished import wait_for_query

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from conftest import Finished, Folder, Slipway
    from servers import Database

FILES = {
    "001_a.sql": "CREATE TABLE orders (id int PRIMARY KEY, state text);",
    "002_b.sql": "INSERT INTO orders VALUES (1, current_schema());",
}


async def make(database: Database, names: str) -> None:
    for name in names.split():
        await database.execute(f'CREATE SCHEMA "{name}"')


def over(database: Database, **settings: str) -> dict[str, str]:
    """The environment of a run over many."""
    return database.environ | {f"MIGRATE_{name.upper()}": value for name, value in settings.items()}


async def states(database: Database, name: str) -> list[str]:
    """The files that the history in a schema has; none where there is no history."""
    found = await database.fetch("SELECT FROM pg_tables WHERE schemaname = $1 AND tablename ~ '^schema_migr'", name)
    if not found:
        return []
    rows = await database.fetch(f'SELECT filename FROM "{name}".schema_migrations ORDER BY version')
    return [row["filename"] for row in rows]


async def test_each_schema_gets_the_files_and_a_history(database: Database, folder: Folder, slipway: Slipway) -> None:
    await make(database, "a B-1 c")

    finished = slipway(env=database.environ, migrations=folder(FILES), targets="a B-1 c")

    assert finished.code == 0, finished
    for name in ("a", "B-1", "c"):
        assert await states(database, name) == [*FILES]
        [row] = await database.fetch(f'SELECT state FROM "{name}".orders')
        assert row["state"] == name
    assert await database.fetch("SELECT FROM pg_tables WHERE schemaname = 'public' AND tablename ~ 'orders|migr'") == []


async def test_log_has_the_target_in_every_line_about_one(database: Database, folder: Folder, slipway: Slipway) -> None:
    await make(database, "a b c")
    files = folder({"001_a.sql": "DO $$ BEGIN RAISE NOTICE 'in %', current_schema(); END $$;"})

    text = slipway(env=database.environ, migrations=files, targets="a b", log_format="text")
    as_json = slipway(env=database.environ, migrations=files, targets="c a b", log_format="json")

    lines = [re.sub(r"^[0-9:]+ |in \d+ ms", "", line) for line in text.err.splitlines()]
    assert lines == [
        f"connected to {database.target}",
        "a: 001_a.sql: notice: in a",
        "a: applied 001_a.sql ",
        "b: 001_a.sql: notice: in b",
        "b: applied 001_a.sql ",
        "up to date: 2 targets: 2 migrated (2 files); the newest of 1 migration is 001_a.sql",
    ]
    found = [json.loads(line) for line in as_json.err.splitlines()]
    assert [line.get("target") for line in found] == [None, "c", "c", None]
    assert found[-1]["targets"]["up_to_date"] == 2
    assert found[-1]["message"] == (
        "up to date: 3 targets: 1 migrated (1 file), 2 up to date; the newest of 1 migration is 001_a.sql"
    )


async def test_notice_is_said_of_the_right_target_on_a_shared_connection(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    names = [f"t{number}" for number in range(12)]
    await make(database, " ".join(names))
    files = folder({"001_a.sql": "DO $$ BEGIN RAISE NOTICE 'in %', current_schema(); END $$;"})

    finished = slipway(env=database.environ, migrations=files, targets=" ".join(names))

    said = re.findall(r"(\w+): 001_a.sql: notice: in (\w+)", finished.err)
    assert sorted(said) == sorted((name, name) for name in names)


async def test_failure_stops_what_has_not_begun_and_a_second_run_does_what_is_left(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    await make(database, "a b c d e f")
    await database.execute("CREATE TABLE b.orders ()")

    first = slipway(env=database.environ, migrations=folder(FILES), targets="a b c d e f", parallel="1")
    await database.execute("DROP TABLE b.orders")
    second = slipway(env=database.environ, migrations=folder(FILES), targets="a b c d e f")

    assert first.code == 24, first
    assert first.outcome
    assert first.outcome["targets"] == {
        "total": 6, "up_to_date": 0, "migrated": 1, "failed": 1, "stopped": 0, "not_begun": 4, "applied": 2,
        "failures": ["b"],
    }  # fmt: skip
    assert first.outcome["message"] == (
        "1 of 6 targets failed (24 migration failed: b); 1 migrated (2 files), 4 not begun\n"
        'b: 001_a.sql:1: relation "orders" already exists\n'
        "  1 | CREATE TABLE orders (id int PRIMARY KEY, state text);\n    | ^\n"
        "SQLSTATE 42P07\n001_a.sql was rolled back"
    )
    assert first.outcome["problems"][1]["target"] == "b"
    assert "no further target is begun after more than MIGRATE_MAX_FAILURES=0; 4 left" in first.err
    assert second.code == 0, second
    assert second.outcome
    assert second.outcome["targets"]["migrated"] == 5
    assert [await states(database, name) for name in "abcdef"] == [[*FILES]] * 6


async def test_folder_that_changes_meanwhile_is_looked_at_again(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    """Targets that were up to date before, or done already, get the new file as well."""
    await make(database, "a b c")
    files = folder({"001_a.sql": "SELECT 1;"})
    slipway(env=database.environ, migrations=files, targets="a")
    folder({"002_b.sql": "SELECT pg_sleep(1) WHERE current_schema() = 'c';"})
    slipway(env=database.environ, migrations=files, targets="a")

    running = slipway.start(env=database.environ, migrations=files, targets="a b c", parallel="1")
    await wait_for_query(database, "%pg_sleep(1)%")
    folder({"003_c.sql": "SELECT 3;"})
    finished = await asyncio.to_thread(running.finish)

    assert finished.code == 0, finished
    assert [await states(database, name) for name in "abc"] == [["001_a.sql", "002_b.sql", "003_c.sql"]] * 3


async def test_only_up_creates_a_database(databases: list[Database], folder: Folder, slipway: Slipway) -> None:
    missing = replace(databases[0], name=f"{databases[0].name}_missing")
    environ = over(missing, targets="a", create_database="yes", wait_timeout="1s")

    ended = [
        slipway(*command.split(), env=environ, migrations=folder(FILES))
        for command in ("wait", "status", "plan", "status --target a")
    ]

    assert [one.code for one in ended] == [14, 22, 22, 22], ended
    assert not any("created the database" in one.err for one in ended)


async def test_one_target_does_not_depend_on_the_others(database: Database, folder: Folder, slipway: Slipway) -> None:
    await make(database, "a")

    finished = slipway("up", "--target=a", env=database.environ, migrations=folder(FILES), targets="a gone")
    missing = slipway("up", "--target=gone", env=database.environ, migrations=folder(FILES), targets="a gone")

    assert finished.code == 0, finished
    assert missing.code == 20, missing
    assert "no such schema: gone" in missing.err


async def test_schema_that_is_gone_since_the_query_is_left_out(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    await make(database, "a")

    finished = slipway(env=database.environ, migrations=folder(FILES), targets_query="VALUES ('a'), ('gone')")

    assert finished.code == 0, finished
    assert "no schema any more, and left out: gone" in finished.err
    assert "up to date: 1 target: 1 migrated (2 files)" in finished.err


async def test_query_without_an_answer_is_named(database: Database, folder: Folder, slipway: Slipway) -> None:
    query = "SELECT 'a' FROM pg_sleep(60)"

    finished = slipway(env=database.environ, migrations=folder(FILES), targets_query=query, wait_timeout="1s")

    assert finished.code == 10, finished
    assert "MIGRATE_TARGETS_QUERY: no answer in time" in finished.err


@pytest.mark.parametrize(("damage", "code"), [("both", 26), ("one", 24)])
async def test_code_is_that_of_all_failures_or_says_that_a_person_is_needed(
    damage: str, code: int, database: Database, folder: Folder, slipway: Slipway
) -> None:
    await make(database, "a b c")
    await database.execute("CREATE TABLE a.orders ()")
    if damage == "both":
        await database.execute("CREATE TABLE b.schema_migrations (version bigint, dirty bool)")

    finished = slipway(env=database.environ, migrations=folder(FILES), targets="a b c", max_failures="9")

    assert finished.code == code, finished
    assert await states(database, "c") == [*FILES]


async def test_failures_that_can_heal_are_tried_again_by_the_orchestrator(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    await make(database, "a b c")
    slipway(env=database.environ, migrations=folder(FILES), targets="a b c")
    files = folder({"003_c.sql": "ALTER TABLE orders ADD at date;"})
    key = "SELECT pg_advisory_lock(('x' || encode(sha256('pgslipway:b.schema_migrations'), 'hex'))::bit(64)::bigint)"
    async with database.connection() as busy, busy.transaction():
        await busy.execute(f"LOCK TABLE a.orders; {key}")

        finished = await asyncio.to_thread(
            slipway, env=database.environ, migrations=files, targets="a b c", max_failures="9", ddl_retry="0",
            lock_timeout="500ms",
        )  # fmt: skip

    assert finished.code == 15, finished
    assert "(12 table busy: a; 11 locked: b)" in finished.err
    assert await states(database, "c") == [*FILES, "003_c.sql"]


async def test_schema_of_a_target_alone_is_searched(database: Database, folder: Folder, slipway: Slipway) -> None:
    """A table that a tenant lacks must not be found elsewhere; nor may a tenant's own be made elsewhere."""
    await make(database, "a")
    await database.execute("CREATE TABLE public.forgotten (n int); INSERT INTO public.forgotten VALUES (1)")
    files = folder({"001_a.sql": "UPDATE forgotten SET n = 2;"})

    alone = slipway(env=database.environ, migrations=files, targets="a")
    with_path = slipway(env=database.environ, migrations=files, targets="a", target_path="public")

    assert alone.code == 24, alone
    assert 'a: 001_a.sql:1: relation "forgotten" does not exist' in alone.err
    assert with_path.code == 0, with_path
    assert [row["n"] for row in await database.fetch("SELECT n FROM public.forgotten")] == [2]


async def test_file_without_a_transaction_is_in_the_schema_too(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    await make(database, "a b")
    folder(FILES)
    files = folder({"003_c.sql": "-- no-transaction\nCREATE INDEX CONCURRENTLY by_state ON orders (state);"})

    finished = slipway(env=database.environ, migrations=files, targets="a b")

    assert finished.code == 0, finished
    rows = await database.fetch("SELECT schemaname::text AS name FROM pg_indexes WHERE indexname = 'by_state'")
    assert sorted(row["name"] for row in rows) == ["a", "b"]


async def test_interrupted_index_of_a_target_is_built_again_in_its_schema(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    await make(database, "a b")
    slipway(env=database.environ, migrations=folder(FILES), targets="a b")
    files = folder({"003_c.sql": "-- no-transaction\nCREATE INDEX CONCURRENTLY by_state ON orders (state);"})
    async with database.connection() as other, other.transaction():
        await other.execute("UPDATE a.orders SET state = 'busy'")
        killed = slipway.start(env=database.environ, migrations=files, targets="a b")
        await wait_for_query(database, "CREATE INDEX CONCURRENTLY%")
        killed.kill()

    finished = await asyncio.to_thread(slipway, env=database.environ, migrations=files, targets="a b")

    assert finished.code == 0, finished
    rows = await database.fetch(
        "SELECT n.nspname::text AS name, indisvalid FROM pg_index i JOIN pg_class c ON c.oid = indexrelid "
        "JOIN pg_namespace n ON n.oid = relnamespace WHERE relname = 'by_state' ORDER BY 1"
    )
    assert [tuple(row) for row in rows] == [("a", True), ("b", True)]


async def test_extension_needs_a_schema_that_no_target_owns(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    await make(database, "a b")
    files = folder({"001_a.sql": "\nCREATE EXTENSION IF NOT EXISTS plpgsql;"})

    refused = slipway(env=database.environ, migrations=files, targets="a b")
    checked = slipway("check", env={}, migrations=files, targets="a b")
    folder({"001_a.sql": "CREATE EXTENSION IF NOT EXISTS plpgsql WITH SCHEMA pg_catalog;"})
    accepted = slipway(env=database.environ, migrations=files, targets="a b")

    assert (refused.code, checked.code) == (21, 21), refused
    assert "a: 001_a.sql:2: in which schema? The schema of the first target would own the extension" in refused.err
    assert accepted.code == 0, accepted


async def test_unknown_schemas_are_refused_all_at_once(database: Database, folder: Folder, slipway: Slipway) -> None:
    await make(database, "a")

    finished = slipway(env=database.environ, migrations=folder(FILES), targets="a x y")
    reading = slipway("status", env=database.environ, migrations=folder(FILES), targets="a x y")

    assert (finished.code, reading.code) == (20, 20), finished
    message = "no such schema: x, y; create it (pgslipway creates no schema for a target), or take it off the list"
    assert message in finished.err
    assert message in reading.err
    assert await states(database, "a") == []


async def test_empty_list_is_refused(database: Database, folder: Folder, slipway: Slipway, tmp_path: Path) -> None:
    (tmp_path / "none").write_text("# no tenant yet\n")
    environ = {**database.environ, "MIGRATE_TARGETS_FILE": str(tmp_path / "none")}

    finished = slipway(env=environ, migrations=folder(FILES))

    assert finished.code == 20, finished
    assert "there is no target: the list, or the result of MIGRATE_TARGETS_QUERY, is empty" in finished.err
    assert await database.fetch("SELECT FROM pg_tables WHERE tablename = 'orders'") == []


# --- by a query -------------------------------------------------------------------------------------------------


async def test_targets_come_from_a_query(database: Database, folder: Folder, slipway: Slipway) -> None:
    await make(database, "t1 t,2 other")
    query = "SELECT nspname, 'x' FROM pg_namespace WHERE nspname ~ '^t' ORDER BY 1; -- the tenants"

    finished = slipway(env=database.environ, migrations=folder(FILES), targets_query=query.replace("; --", " --"))

    assert finished.code == 0, finished
    assert await states(database, "t1") == await states(database, "t,2") == [*FILES]
    assert await states(database, "other") == []


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("SELECT nspname FROM pg_namespace WHERE false", "there is no target: the list, or the result of "),
        ("SELECT nom FROM pg_namespace;", 'MIGRATE_TARGETS_QUERY: column "nom" does not exist'),
        ("SELEC 1", 'MIGRATE_TARGETS_QUERY: syntax error at or near "SELEC"'),
        ("SELECT NULL UNION ALL SELECT ''", "MIGRATE_TARGETS_QUERY, row 1: expected a name of at most 63 bytes"),
        ("SELECT 'pg_toast'", "MIGRATE_TARGETS_QUERY, row 1: pg_toast is a schema of Postgres itself"),
    ],
    ids=["no-row", "no-column", "no-sql", "null", "forbidden"],
)
async def test_query_without_targets_is_refused(
    query: str, message: str, database: Database, folder: Folder, slipway: Slipway
) -> None:
    finished = slipway(env=database.environ, migrations=folder(FILES), targets_query=query)

    assert finished.code == 20, finished
    assert message in finished.err


# --- databases and URLs -----------------------------------------------------------------------------------------


@pytest.fixture
async def databases(database: Database) -> AsyncIterator[list[Database]]:
    """Three databases of one server."""
    made = [replace(database, name=f"{database.name}_{number}") for number in range(3)]
    for one in made:
        await database.execute(f'CREATE DATABASE "{one.name}"')
    yield made
    for one in made:
        await database.execute(f'DROP DATABASE IF EXISTS "{one.name}" WITH (FORCE)')


async def test_each_database_gets_the_files(databases: list[Database], folder: Folder, slipway: Slipway) -> None:
    names = " ".join(one.name for one in databases)
    environ = over(databases[0], targets=names, target_kind="database", schema="ops")

    first = slipway(env=environ, migrations=folder(FILES))
    second = slipway(env=environ, migrations=folder(FILES))

    assert (first.code, second.code) == (0, 0), first
    assert second.outcome
    assert second.outcome["targets"]["up_to_date"] == 3
    assert [await states(one, "ops") for one in databases] == [[*FILES]] * 3


async def test_each_url_gets_the_files(
    databases: list[Database], folder: Folder, slipway: Slipway, tmp_path: Path
) -> None:
    lines = "\n".join(f"customer-{number}={one.url}" for number, one in enumerate(databases))
    (tmp_path / "targets").write_text(f"# of all regions\n{lines}\n")
    environ = {"MIGRATE_TARGETS_FILE": str(tmp_path / "targets"), "MIGRATE_TARGET_KIND": "url"}

    finished = slipway(env=environ, migrations=folder(FILES))

    assert finished.code == 0, finished
    assert "customer-1: applied 001_a.sql" in finished.err
    assert [await one.applied() for one in databases] == [[*FILES]] * 3


async def test_missing_database_fails_alone_or_is_created(
    databases: list[Database], folder: Folder, slipway: Slipway
) -> None:
    await databases[0].execute(f'DROP DATABASE "{databases[1].name}"')
    names = " ".join(one.name for one in databases)
    environ = over(databases[0], targets=names, target_kind="database", max_failures="1")

    refused = slipway(env=environ, migrations=folder(FILES))
    created = slipway(env=environ, migrations=folder(FILES), create_database="yes")

    assert refused.code == 22, refused
    assert f"1 of 3 targets failed (22 access refused: {databases[1].name}); 2 migrated (4 files)" in refused.err
    assert created.code == 0, created
    assert await databases[1].applied() == [*FILES]


# --- the other commands -----------------------------------------------------------------------------------------


async def migrated(database: Database, folder: Folder, slipway: Slipway) -> Path:
    """Three schemas: up to date, one file behind, and without anything."""
    await make(database, "a b c")
    files = folder(FILES)
    slipway(env=database.environ, migrations=files, targets="a b")
    await database.execute("DELETE FROM b.schema_migrations WHERE version = 2; DELETE FROM b.orders")
    return files


async def test_status_has_a_line_for_each_target(database: Database, folder: Folder, slipway: Slipway) -> None:
    files = await migrated(database, folder, slipway)

    finished = slipway("status", env=database.environ, migrations=files, targets="a b c")
    code = slipway("status", "--exit-code", env=database.environ, migrations=files, targets="a b c")

    assert finished.code == 0, finished
    assert finished.out == (
        "TARGET  MIGRATIONS            NEWEST APPLIED\n"
        "a       2 applied             002_b.sql\n"
        "b       1 applied, 1 pending  001_a.sql\n"
        "c       2 pending             -\n"
    )
    assert code.code == 14, code
    assert "2 of 3 targets with something pending: b, c" in code.err


async def test_status_as_json_has_the_rows_of_each(database: Database, folder: Folder, slipway: Slipway) -> None:
    files = await migrated(database, folder, slipway)

    finished = slipway("status", "--json", env=database.environ, migrations=files, targets="a b c")

    found: list[dict[str, Any]] = json.loads(finished.out)
    by_target = {one["target"]: [row["state"] for row in one["migrations"]] for one in found}
    assert by_target == {"a": ["applied"] * 2, "b": ["applied", "pending"], "c": ["pending"] * 2}


async def test_plan_tells_the_same_plan_once(database: Database, folder: Folder, slipway: Slipway) -> None:
    files = await migrated(database, folder, slipway)
    await make(database, "d")

    finished = slipway("plan", env=database.environ, migrations=files, targets="a b c d", parallel="1")

    assert finished.code == 0, finished
    assert finished.out == (
        "1 target: b\n"
        "  apply 002_b.sql (1 statement, in a transaction)\n"
        "2 targets: c, d\n"
        "  apply 001_a.sql (1 statement, in a transaction)\n"
        "  apply 002_b.sql (1 statement, in a transaction)\n"
    )
    assert "3 of 4 targets with something to do" in finished.err


async def test_plan_has_the_code_of_the_refusal(database: Database, folder: Folder, slipway: Slipway) -> None:
    files = await migrated(database, folder, slipway)
    folder({"003_c.sql": "COMMIT;"})

    finished = slipway("plan", env=database.environ, migrations=files, targets="a b c", parallel="1")

    assert finished.code == 21, finished
    assert finished.err.count("003_c.sql:1: COMMIT: a file is one transaction already") == 2
    assert "failed as a did, exit code 21" in finished.err


async def test_wait_ends_when_all_targets_are_there(database: Database, folder: Folder, slipway: Slipway) -> None:
    files = await migrated(database, folder, slipway)

    waiting = slipway.start("wait", env=database.environ, migrations=files, targets="a b c")
    waiting.wait_for_log("b: waiting for the schema: 1 migration missing: 002_b.sql")
    waiting.wait_for_log("c: waiting for the schema: 2 migrations missing")
    await asyncio.to_thread(slipway, env=database.environ, migrations=files, targets="a b c")
    finished = await asyncio.to_thread(waiting.finish)

    assert finished.code == 0, finished
    assert "up to date: 3 targets: 3 up to date; the newest of 2 migrations is 002_b.sql" in finished.err


async def test_wait_names_who_is_not_there(database: Database, folder: Folder, slipway: Slipway) -> None:
    files = await migrated(database, folder, slipway)

    finished = slipway("wait", env=database.environ, migrations=files, targets="a b c", wait_timeout="1s")

    assert finished.code == 14, finished
    assert re.search(r"[12] of 3 targets failed \(14 not yet: [bc](, [bc])?\); 1 up to date", finished.err), finished


async def test_down_undoes_every_target(database: Database, folder: Folder, slipway: Slipway) -> None:
    await make(database, "a b c")
    files = folder(FILES | {"002_b.down.sql": "DELETE FROM orders;"})
    slipway(env=database.environ, migrations=files, targets="a b c")

    finished = slipway("down", "1", env=database.environ, migrations=files, targets="a b c")

    assert finished.code == 0, finished
    assert "down: 3 targets: 3 migrated (3 files)" in finished.err
    assert [await states(database, name) for name in "abc"] == [["001_a.sql"]] * 3


async def test_adopt_takes_over_in_each_schema_alone(database: Database, folder: Folder, slipway: Slipway) -> None:
    await make(database, "a b c")
    for name in ("a", "b", "public"):
        await database.execute(
            f"CREATE TABLE {name}.goose_db_version (id serial, version_id bigint, is_applied bool, tstamp timestamp "
            f"DEFAULT now()); INSERT INTO {name}.goose_db_version (version_id, is_applied) VALUES (0, true), (1, true)"
        )
    files = folder(
        {
            "001_a.sql": "-- +goose Up\nCREATE TABLE orders (id int);\n-- +goose Down\n",
            "002_b.sql": "-- +goose Up\nCREATE TABLE items (id int);\n-- +goose Down\n",
        }
    )

    unasked = slipway(env=database.environ, migrations=files, targets="a c")
    adopted = slipway("adopt", env=database.environ, migrations=files, targets="a b c", adopt="goose")
    applied = slipway(env=database.environ, migrations=files, targets="c", adopt="goose")

    assert unasked.code == 23, unasked
    assert "a: a.goose_db_version says that goose has applied 1 file of this folder" in unasked.err
    assert adopted.code == 0, adopted
    assert [await states(database, name) for name in "ab"] == [["001_a.sql"]] * 2
    assert applied.code == 0, applied
    assert await states(database, "c") == ["001_a.sql", "002_b.sql"]


async def test_baseline_is_witnessed_in_each_schema(database: Database, folder: Folder, slipway: Slipway) -> None:
    await make(database, "a b")
    await database.execute("CREATE TABLE a.orders (id int, state text); CREATE TABLE public.orders (id int)")

    finished = slipway(
        env=database.environ, migrations=folder(FILES), targets="a b", adopt="baseline:1@orders", target_path="public"
    )

    assert finished.code == 0, finished
    assert "a: adopted 1 migration from the baseline" in finished.err
    assert "b: applied 001_a.sql" in finished.err


async def test_resolve_is_about_one_target(database: Database, folder: Folder, slipway: Slipway) -> None:
    await make(database, "a b")
    files = folder({"001_a.sql": "-- no-transaction\nSELECT 1;\nSELECT 1/0;"})
    slipway(env=database.environ, migrations=files, targets="a b")

    many = slipway("resolve", "1", "--restart", env=database.environ, migrations=files, targets="a b")
    unknown = slipway("resolve", "1", "--restart", "--target=x", env=database.environ, migrations=files, targets="a b")
    one = slipway("resolve", "1", "--restart", "--target=a", env=database.environ, migrations=files, targets="a b")

    assert (many.code, unknown.code) == (20, 20), many
    assert "resolve takes one of the targets, as in: pgslipway resolve --target NAME" in many.err
    assert "--target: 'x' is none of the targets" in unknown.err
    assert one.code == 0, one
    assert "noted: the next run begins version 1 anew" in one.err


async def test_command_may_be_about_one_target(database: Database, folder: Folder, slipway: Slipway) -> None:
    files = await migrated(database, folder, slipway)

    applied = slipway("up", "--target", "c", env=database.environ, migrations=files, targets="a b c")
    shown = slipway("status", "--target", "c", env=database.environ, migrations=files, targets="a b c")
    without = slipway("status", "--target", "c", env=database.environ, migrations=files)

    assert (applied.code, shown.code) == (0, 0), applied
    assert [line.split()[1] for line in shown.out.splitlines()] == ["STATE", "applied", "applied"]
    assert await states(database, "b") == ["001_a.sql"]
    assert without.code == 20, without
    assert "--target goes with MIGRATE_TARGETS or MIGRATE_TARGETS_QUERY" in without.err


# --- shares of an Indexed Job -----------------------------------------------------------------------------------


async def test_pods_share_the_targets(database: Database, folder: Folder, slipway: Slipway) -> None:
    names = [f"t{number}" for number in range(12)]
    await make(database, " ".join(names))
    migrated = []
    for index in range(3):
        environ = {**database.environ, "JOB_COMPLETION_INDEX": str(index)}
        finished = slipway(env=environ, migrations=folder(FILES), targets=" ".join(names), shards="3")
        assert finished.code == 0, finished
        assert finished.outcome
        assert f"; JOB_COMPLETION_INDEX={index} of MIGRATE_SHARDS=3" in finished.err
        migrated.append(finished.outcome["targets"]["migrated"])

    assert sum(migrated) == 12
    assert [await states(database, name) for name in names] == [[*FILES]] * 12


async def test_empty_share_is_a_success(database: Database, folder: Folder, slipway: Slipway) -> None:
    await make(database, "a")
    ended = [
        slipway(
            env={**database.environ, "JOB_COMPLETION_INDEX": str(index)},
            migrations=folder(FILES),
            targets="a",
            shards="2",
        )
        for index in range(3)
    ]

    assert [one.code for one in ended] == [0, 0, 20]
    assert sorted("up to date: 0 targets: 0 up to date" in one.err for one in ended[:2]) == [False, True]


# --- cheap ------------------------------------------------------------------------------------------------------


async def through_proxy(
    database: Database, folder: Folder, slipway: Slipway, names: list[str]
) -> tuple[Finished, RoundTrips]:
    async with RoundTrips(database) as proxy:
        environ = database.at(proxy.port).environ | {"PGSSLMODE": "disable"}
        finished = await asyncio.to_thread(slipway, env=environ, migrations=folder(FILES), targets=" ".join(names))
    assert finished.code == 0, finished
    return finished, proxy


async def test_nothing_to_do_in_hundreds_of_schemas_is_a_query_for_each_500(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    names = [f"t{number}" for number in range(501)]
    async with AsyncExitStack() as stack:
        connection = await stack.enter_async_context(database.connection())
        for name in names:
            await connection.execute(f"CREATE SCHEMA {name}")
    slipway(
        env=database.environ,
        migrations=folder(
            {
                "001_a.sql": "SELECT 1;",
            }
        ),
        targets=" ".join(names),
    )

    async with RoundTrips(database) as proxy:
        environ = database.at(proxy.port).environ | {"PGSSLMODE": "disable"}
        finished = await asyncio.to_thread(slipway, env=environ, migrations=folder({}), targets=" ".join(names))

    assert finished.code == 0, finished
    assert finished.outcome
    assert finished.outcome["targets"]["up_to_date"] == 501
    assert (proxy.handshake, proxy.after_handshake, len(proxy.conversations)) == (3, 2, 1)


async def test_schemas_share_connections(database: Database, folder: Folder, slipway: Slipway) -> None:
    names = [f"t{number}" for number in range(20)]
    await make(database, " ".join(names))

    _, proxy = await through_proxy(database, folder, slipway, names)

    assert len(proxy.conversations) <= 4


@pytest.mark.parametrize("kind", ["schema", "database"])
async def test_nothing_to_do_loads_neither_the_engine_nor_the_command_line(
    kind: str, database: Database, folder: Folder, slipway: Slipway
) -> None:
    await make(database, "a")
    environ = over(database, targets="a" if kind == "schema" else database.name, target_kind=kind)
    slipway(env=environ, migrations=folder(FILES))

    command = [sys.executable, "-X", "importtime", "-m", "pgslipway"]
    ended = await asyncio.to_thread(
        subprocess.run, command, env=os.environ | environ | {"MIGRATE_DIR": str(folder.path)}, capture_output=True,
        text=True, check=True,
    )  # fmt: skip

    assert re.findall(r"pgslipway\.(?:engine|cli)\.\w+", ended.stderr) == []


# --- on a terminal ----------------------------------------------------------------------------------------------


async def test_terminal_shows_a_bar(database: Database, folder: Folder) -> None:
    await make(database, "a b c")
    files = folder({"001_a.sql": "SELECT pg_sleep(0.5);"})
    environ = {**os.environ, **database.environ, "MIGRATE_DIR": str(files), "MIGRATE_TARGETS": "a b c"}
    primary, secondary = pty.openpty()

    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "pgslipway", env=environ, stdout=secondary, stderr=secondary
    )
    os.close(secondary)
    shown = await asyncio.to_thread(read_all, primary)

    assert await process.wait() == 0, shown
    assert "[########................] 1 of 3 targets, " in shown
    assert "up to date: 3 targets: 3 migrated (3 files)" in shown


def read_all(descriptor: int) -> str:
    found = b""
    while True:
        try:
            piece = os.read(descriptor, 4096)
        except OSError:  # the other end is closed
            return found.decode()
        found += piece


# --- from an application ----------------------------------------------------------------------------------------


@pytest.fixture
async def pool(database: Database) -> AsyncIterator[asyncpg.Pool[asyncpg.Record]]:
    async with asyncpg.create_pool(database.url, min_size=0, max_size=3) as made:
        yield made


async def test_application_gets_a_result_for_each(
    database: Database, pool: asyncpg.Pool[asyncpg.Record], folder: Folder
) -> None:
    await make(database, "a b c d")
    files = folder(FILES)
    await run_targets(pool, files, ["a"])
    await database.execute("CREATE TABLE c.orders ()")

    results = await run_targets(pool, files, ["a", "b", "c", "d", "a"], max_failures=1)

    assert [(one.target, one.state, one.applied) for one in results] == [
        ("a", "up to date", []), ("b", "migrated", [*FILES]), ("c", "failed", []), ("d", "migrated", [*FILES]),
    ]  # fmt: skip
    assert isinstance(results[2].error, MigrationFailed)
    assert await pool.fetchval("SHOW search_path") == '"$user", public'


async def test_application_learns_what_was_not_begun(
    database: Database, pool: asyncpg.Pool[asyncpg.Record], folder: Folder
) -> None:
    await make(database, "a b")
    await database.execute("CREATE TABLE a.orders ()")

    results = await run_targets(pool, folder(FILES), ["a", "b"])

    assert [one.state for one in results] == ["failed", "not begun"]


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"schema": "a"}, TypeError, "run_targets has no keyword schema"),
        ({"parallel": 0}, BadConfiguration, "MIGRATE_PARALLEL: expected a whole number from 1 to 1000, not '0'"),
        ({"edited": "no"}, BadConfiguration, "MIGRATE_EDITED: expected refuse or warn, not 'no'"),
    ],
)
async def test_application_learns_of_bad_settings(
    settings: dict[str, Any], error: type[Exception], message: str, pool: asyncpg.Pool[asyncpg.Record], folder: Folder
) -> None:
    with pytest.raises(error) as raised:
        await run_targets(pool, folder(FILES), ["a"], **settings)

    assert str(raised.value) == message


async def test_application_learns_of_missing_schemas(pool: asyncpg.Pool[asyncpg.Record], folder: Folder) -> None:
    with pytest.raises(BadConfiguration, match="no such schema: nowhere"):
        await run_targets(pool, folder(FILES), ["nowhere"])
