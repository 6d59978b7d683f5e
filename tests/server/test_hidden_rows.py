"""Rows that a role cannot see or cannot write, though nothing says so: a run must not start over for ever."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Folder, Slipway
    from servers import Database

HIDE = """
ALTER TABLE schema_migrations ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY see ON schema_migrations FOR SELECT USING (version <> 2);
CREATE POLICY add ON schema_migrations FOR INSERT WITH CHECK (true);
"""
HIDDEN = (
    '002_b.sql has a row in "public"."schema_migrations" that row-level security hides from this role; let the role '
    "see every row, by a policy, by BYPASSRLS, or, if it owns the table, by ALTER TABLE "
    '"public"."schema_migrations" NO FORCE ROW LEVEL SECURITY'
)
FILES = {"001_a.sql": "CREATE TABLE runs (n int);", "002_b.sql": "INSERT INTO runs VALUES (2);"}
WITHOUT_TRANSACTION = {"002_b.sql": "-- no-transaction\nINSERT INTO runs VALUES (2);"}


@pytest.mark.parametrize(
    ("added", "as_role"),
    [
        ({}, False),
        ({}, True),
        ({"000_z.sql": ""}, False),
        (WITHOUT_TRANSACTION, False),
        (WITHOUT_TRANSACTION, True),
    ],
    ids=["first", "as a role", "after another file", "without a transaction", "without a transaction, as a role"],
)
async def test_row_that_row_security_hides_is_told_and_nothing_is_applied_twice(
    added: dict[str, str], *, as_role: bool, database: Database, folder: Folder, slipway: Slipway
) -> None:
    owner = await database.create_role(f"owner_{database.name}")
    login, role = (database, owner.user) if as_role else (owner, "")
    applied = slipway(
        env=login.environ, migrations=folder(FILES | added if "000_z.sql" not in added else FILES), role=role
    )
    await owner.execute(HIDE)

    finished = slipway(env=login.environ, migrations=folder(added), role=role)

    assert (applied.code, finished.code) == (0, 22), f"{applied}{finished}"
    assert finished.outcome
    assert finished.outcome["message"] == HIDDEN
    assert finished.err.count("starting over") <= 2, finished
    assert [row["n"] for row in await database.fetch("SELECT n FROM runs")] == [2]


async def test_row_security_that_hides_nothing_is_fine(database: Database, folder: Folder, slipway: Slipway) -> None:
    owner = await database.create_role(f"owner_{database.name}")
    files = folder({"001_a.sql": ""})
    slipway(env=owner.environ, migrations=files)
    await owner.execute(HIDE)
    later = {"003_c.sql": "-- no-transaction\nCREATE TABLE c ();", "004_d.sql": "CREATE TABLE d ();"}

    finished = slipway(env=owner.environ, migrations=folder(later))

    assert finished.code == 0, finished
    assert await database.applied() == ["001_a.sql", *later]


async def test_another_unique_index_is_not_another_runner(database: Database, folder: Folder, slipway: Slipway) -> None:
    """Two empty files have the same checksum."""
    slipway(env=database.environ, migrations=folder({"001_a.sql": ""}))
    await database.execute("CREATE UNIQUE INDEX each_once ON schema_migrations (checksum)")

    finished = slipway(env=database.environ, migrations=folder({"002_b.sql": ""}))

    assert finished.code == 23, finished
    assert finished.outcome
    assert finished.outcome["message"] == (
        "002_b.sql could not be recorded, though no row that can be seen has its version; look for a trigger, a rule "
        'or another unique index on "public"."schema_migrations": duplicate key value violates unique constraint '
        '"each_once"\nDETAIL:  Key (checksum)=('
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855) already exists."
    )
    assert finished.err.count("starting over") == 2, finished


@pytest.mark.parametrize(
    "guard",
    [
        "CREATE TRIGGER no BEFORE INSERT ON schema_migrations_steps FOR EACH ROW EXECUTE FUNCTION no()",
        "CREATE RULE no AS ON INSERT TO schema_migrations_steps DO INSTEAD NOTHING",
    ],
    ids=["trigger", "rule"],
)
@pytest.mark.parametrize("statement", ["CREATE TABLE b ();", "VACUUM schema_migrations;"], ids=["inside", "outside"])
async def test_journal_that_lets_no_row_in_is_not_a_dropped_lock(
    statement: str, guard: str, database: Database, folder: Folder, slipway: Slipway
) -> None:
    slipway(env=database.environ, migrations=folder({"001_a.sql": "-- no-transaction\nCREATE TABLE a ();"}))
    no = "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';"
    await database.execute(f"{no} {guard}")

    finished = slipway(env=database.environ, migrations=folder({"002_b.sql": f"-- no-transaction\n{statement}"}))

    assert finished.code == 23, finished
    assert finished.outcome
    assert finished.outcome["message"] == (
        '002_b.sql could not be journalled: a trigger or a rule on "public"."schema_migrations_steps" lets no row in; '
        "remove it"
    )


async def test_table_without_a_column_is_not_another_runners(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    await database.execute("CREATE TABLE schema_migrations ()")

    finished = slipway(env=database.environ, migrations=folder({"001_a.sql": ""}))

    assert finished.code == 23, finished
    assert "it has no column applied_at, filename, version; it was left alone." in finished.err
