"""The history table: made as documented, taken over in place, widened once, and never taken from another tool."""

from __future__ import annotations

from typing import TYPE_CHECKING

import asyncpg
import pytest

if TYPE_CHECKING:
    from conftest import Folder, Slipway
    from servers import Database

COLUMNS = """
SELECT column_name, data_type, is_nullable, column_default FROM information_schema.columns
 WHERE table_schema = $1 AND table_name = $2 ORDER BY ordinal_position
"""
BY_HAND = """
CREATE TABLE schema_migrations (
    version INT PRIMARY KEY, filename TEXT NOT NULL, applied_at TIMESTAMPTZ DEFAULT NOW()
);
INSERT INTO schema_migrations VALUES (1, '001_a.sql', '2020-02-02 20:20:20+00'), (2, '002_b.sql', NULL);
"""
FOREIGN = {
    "golang-migrate": (
        "CREATE TABLE schema_migrations (version bigint PRIMARY KEY, dirty boolean NOT NULL)",
        "it has a column dirty, as golang-migrate's has",
    ),
    "dbmate": (
        "CREATE TABLE schema_migrations (version varchar PRIMARY KEY)",
        "its version is text, as dbmate's and Rails's is",
    ),
    "ecto": (
        "CREATE TABLE schema_migrations (version bigint PRIMARY KEY, inserted_at timestamp)",
        "it has no column applied_at, filename",
    ),
    "another type of version": (
        "CREATE TABLE schema_migrations (version numeric PRIMARY KEY, filename text, applied_at timestamptz)",
        "its version is of type numeric",
    ),
    "view": (
        "CREATE VIEW schema_migrations AS SELECT 1 AS version, 'a'::text AS filename, now() AS applied_at",
        "it is not a table",
    ),
}


async def columns(database: Database, schema: str, table: str) -> list[tuple[str, ...]]:
    return [tuple(row) for row in await database.fetch(COLUMNS, schema, table)]


async def test_table_has_the_three_columns_and_ours_are_nullable(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    slipway(env=database.environ, migrations=folder({"001_a.sql": ""}))

    assert await columns(database, "public", "schema_migrations") == [
        ("version", "integer", "NO", None),
        ("filename", "text", "NO", None),
        ("applied_at", "timestamp with time zone", "YES", "now()"),
        ("checksum", "text", "YES", None),
        ("minimum_version", "bigint", "YES", None),
    ]


async def test_table_filled_by_hand_is_taken_over_without_losing_a_row(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    await database.execute(BY_HAND)
    before = await database.fetch("SELECT version, filename, applied_at FROM schema_migrations ORDER BY 1")
    files = folder({"001_a.sql": "no SQL at all", "002_b.sql": "", "003_c.sql": "CREATE TABLE c ();"})

    finished = slipway(env=database.environ, migrations=files)
    again = slipway(env=database.environ, migrations=files)

    assert finished.code == 0, finished
    assert again.code == 0, again
    assert finished.outcome
    assert finished.outcome["applied"] == ["003_c.sql"]
    rows = await database.fetch("SELECT version, filename, applied_at, checksum FROM schema_migrations ORDER BY 1")
    assert [tuple(row)[:3] for row in rows[:2]] == [tuple(row) for row in before]
    assert [row["checksum"] is None for row in rows] == [True, True, False]


async def test_table_filled_by_hand_is_not_touched_where_nothing_is_pending(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    await database.execute(BY_HAND)

    finished = slipway(env=database.environ, migrations=folder({"001_a.sql": "", "002_b.sql": ""}))

    assert finished.code == 0, finished
    assert len(await columns(database, "public", "schema_migrations")) == 3


async def test_row_that_was_taken_over_matches_by_filename(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    await database.execute(BY_HAND)

    finished = slipway(env=database.environ, migrations=folder({"001_other.sql": "", "002_b.sql": ""}))

    assert finished.code == 23, finished
    assert "version 1 was applied as 001_a.sql but is 001_other.sql in this image" in finished.err


async def test_version_is_widened_once_when_a_file_needs_it(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    slipway(env=database.environ, migrations=folder({"001_a.sql": "CREATE VIEW v AS SELECT 1 AS n"}))

    finished = slipway(env=database.environ, migrations=folder({"20260131120000_b.up.sql": ""}))
    again = slipway(env=database.environ, migrations=folder({"9223372036854775807_c.sql": ""}))

    assert finished.code == 0, finished
    assert again.code == 0, again
    rows = await database.fetch("SELECT version FROM schema_migrations ORDER BY 1")
    assert [row["version"] for row in rows] == [1, 20260131120000, 9223372036854775807]
    assert (await columns(database, "public", "schema_migrations"))[0][1] == "bigint"


@pytest.mark.parametrize(("sql", "reason"), FOREIGN.values(), ids=FOREIGN)
@pytest.mark.parametrize("command", ["up", "status", "plan"])
async def test_table_of_another_tool_is_refused_and_left_alone(
    command: str, sql: str, reason: str, database: Database, folder: Folder, slipway: Slipway
) -> None:
    await database.execute(sql)
    before = await columns(database, "public", "schema_migrations")

    finished = slipway(command, env=database.environ, migrations=folder({"001_a.sql": "CREATE TABLE a ();"}))

    assert finished.code == 23, finished
    assert f'"public"."schema_migrations" is not pgslipway\'s: {reason}; it was left alone.' in finished.err
    assert "pgslipway_migrations" in finished.err
    assert "docs/moving.md says" in finished.err
    assert await columns(database, "public", "schema_migrations") == before


async def test_other_table_name_works_beside_another_tool(database: Database, folder: Folder, slipway: Slipway) -> None:
    await database.execute(FOREIGN["golang-migrate"][0])

    finished = slipway(
        env=database.environ, migrations=folder({"001_a.sql": ""}), schema='my "schema"', table="Our.History"
    )
    again = slipway(
        "status", "--exit-code", env=database.environ, migrations=folder({}), schema='my "schema"', table="Our.History"
    )

    assert finished.code == 0, finished
    assert again.code == 0, again
    assert len(await columns(database, 'my "schema"', "Our.History")) == 5


async def test_table_without_a_key_is_refused_with_the_way_out(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    await database.execute("CREATE TABLE schema_migrations (version int, filename text, applied_at timestamptz)")
    files = folder({"001_a.sql": ""})

    refused = slipway(env=database.environ, migrations=files)
    way_out = 'ALTER TABLE "public"."schema_migrations" ADD PRIMARY KEY (version)'
    await database.execute(way_out)
    accepted = slipway(env=database.environ, migrations=files)

    assert refused.code == 23, refused
    assert way_out in refused.err
    assert accepted.code == 0, accepted


NO_KEY = {
    "with another column": "ALTER TABLE {table} ADD PRIMARY KEY (version, filename)",
    "of another column": "ALTER TABLE {table} ADD PRIMARY KEY (filename), ADD UNIQUE (filename, version)",
    "of an expression": "CREATE UNIQUE INDEX ON {table} ((version + 0))",
    "of some rows": "CREATE UNIQUE INDEX ON {table} (version) WHERE applied_at IS NOT NULL",
    "that is an index": "CREATE INDEX ON {table} (version)",
    "of another table": "CREATE TABLE other (LIKE {table}, PRIMARY KEY (version))",
}


@pytest.mark.parametrize("key", NO_KEY.values(), ids=NO_KEY)
async def test_key_that_lets_a_version_in_twice_is_no_key(
    key: str, database: Database, folder: Folder, slipway: Slipway
) -> None:
    await database.execute("CREATE TABLE schema_migrations (version int, filename text, applied_at timestamptz)")
    await database.execute(key.format(table="schema_migrations"))

    finished = slipway(env=database.environ, migrations=folder({"001_a.sql": ""}))

    assert finished.code == 23, finished
    assert '"public"."schema_migrations" has no unique key on version' in finished.err


async def test_key_whose_build_has_failed_is_no_key(database: Database, folder: Folder, slipway: Slipway) -> None:
    await database.execute("CREATE TABLE schema_migrations (version int, filename text, applied_at timestamptz)")
    await database.execute("INSERT INTO schema_migrations VALUES (1, '001_a.sql'), (1, '001_a.sql')")
    with pytest.raises(asyncpg.UniqueViolationError):
        await database.execute("CREATE UNIQUE INDEX CONCURRENTLY ON schema_migrations (version)")
    await database.execute("DELETE FROM schema_migrations")

    finished = slipway(env=database.environ, migrations=folder({"001_a.sql": ""}))

    assert finished.code == 23, finished
    assert '"public"."schema_migrations" has no unique key on version' in finished.err


async def test_unique_index_is_a_key(database: Database, folder: Folder, slipway: Slipway) -> None:
    await database.execute("CREATE TABLE schema_migrations (version int, filename text, applied_at timestamptz)")
    await database.execute("CREATE UNIQUE INDEX ON schema_migrations (version) INCLUDE (filename)")

    finished = slipway(env=database.environ, migrations=folder({"001_a.sql": ""}))

    assert finished.code == 0, finished


async def test_edited_file_is_refused_or_warned_about(database: Database, folder: Folder, slipway: Slipway) -> None:
    slipway(env=database.environ, migrations=folder({"001_a.sql": "CREATE TABLE a ();"}))
    files = folder({"001_a.sql": "CREATE TABLE a (n int);"})

    refused = slipway(env=database.environ, migrations=files)
    warned = slipway(env=database.environ, migrations=files, edited="warn")

    assert refused.code == 23, refused
    assert refused.err.count("001_a.sql was edited after it was applied") == 1
    assert warned.code == 0, warned
    assert "warning: 001_a.sql was edited after it was applied" in warned.err


async def test_line_ends_and_a_bom_do_not_count_as_an_edit(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    slipway(env=database.environ, migrations=folder({"001_a.sql": "SELECT 1;\nSELECT 2;\n"}))

    finished = slipway(env=database.environ, migrations=folder({"001_a.sql": "\ufeffSELECT 1;\r\nSELECT 2;\r\n"}))

    assert finished.code == 0, finished
    assert "nothing to do" in finished.err


async def test_older_image_starts_on_a_newer_schema(database: Database, folder: Folder, slipway: Slipway) -> None:
    files = folder({"001_a.sql": "", "002_b.sql": ""})
    slipway(env=database.environ, migrations=files)
    (files / "002_b.sql").unlink()

    allowed = slipway(env=database.environ, migrations=files)
    refused = slipway(env=database.environ, migrations=files, ahead="refuse")

    assert allowed.code == 0, allowed
    assert "warning: the database is ahead of this image, by 002_b.sql" in allowed.err
    assert refused.code == 23, refused


async def test_older_image_below_the_floor_is_refused(database: Database, folder: Folder, slipway: Slipway) -> None:
    files = folder({"001_a.sql": "", "002_b.sql": "-- minimum-version: 2\nSELECT 1;"})
    slipway(env=database.environ, migrations=files)
    (files / "002_b.sql").unlink()

    finished = slipway(env=database.environ, migrations=files, ahead="allow")

    assert finished.code == 23, finished
    assert "002_b.sql was applied and says minimum-version: 2; this image's newest is 1" in finished.err


async def test_missing_file_is_refused(database: Database, folder: Folder, slipway: Slipway) -> None:
    files = folder({"001_a.sql": "", "002_b.sql": ""})
    slipway(env=database.environ, migrations=files)
    (files / "001_a.sql").unlink()

    finished = slipway(env=database.environ, migrations=files)

    assert finished.code == 23, finished
    assert "001_a.sql was applied but is not in this image" in finished.err


async def test_two_branches_are_refused_unless_said_otherwise(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    files = folder({"001_a.sql": "", "003_theirs.sql": ""})
    slipway(env=database.environ, migrations=files)
    (files / "003_theirs.sql").unlink()
    folder({"002_ours.sql": "CREATE TABLE ours ();"})

    refused = slipway(env=database.environ, migrations=files)
    allowed = slipway(env=database.environ, migrations=files, ahead="allow")

    assert refused.code == 23, refused
    assert "two branches: the database has 003_theirs.sql" in refused.err
    assert allowed.code == 0, allowed
    assert allowed.outcome
    assert allowed.outcome["applied"] == ["002_ours.sql"]


async def test_late_lower_version_is_applied_with_a_warning(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    slipway(env=database.environ, migrations=folder({"001_a.sql": "", "003_c.sql": ""}))
    files = folder({"002_b.sql": "CREATE TABLE b ();"})

    refused = slipway(env=database.environ, migrations=files, out_of_order="refuse")
    allowed = slipway(env=database.environ, migrations=files)

    assert refused.code == 23, refused
    assert allowed.code == 0, allowed
    assert "warning: out of order: 002_b.sql is pending below a version that is applied" in allowed.err


async def test_new_table_is_wide_enough_for_the_last_of_its_first_files(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    finished = slipway(env=database.environ, migrations=folder({"001_a.sql": "", "20260131120000_b.sql": ""}))

    assert finished.code == 0, finished
    assert (await columns(database, "public", "schema_migrations"))[0][1] == "bigint"
