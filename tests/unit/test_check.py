"""What can be known from a file alone: what can never work in it, and what its leading comment asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import asyncpg
import pytest

from pgslipway.engine.check import check
from pgslipway.engine.contents import Contents
from pgslipway.migrations import Migration

if TYPE_CHECKING:
    from servers import Database

OUTSIDE = {
    "create-index": "CREATE INDEX CONCURRENTLY i ON t (a)",
    "create-unique-index": "create unique index concurrently if not exists i on t (a)",
    "drop-index": "DROP INDEX CONCURRENTLY i, j",
    "reindex-table": "REINDEX TABLE CONCURRENTLY t",
    "reindex-index": "REINDEX /* it's */ INDEX -- ;\n CONCURRENTLY i",
    "reindex-option": "REINDEX (VERBOSE, CONCURRENTLY) TABLE t",
    "reindex-option-lower-case": "reindex (concurrently) table t",
    "reindex-option-on": "REINDEX (CONCURRENTLY ON, VERBOSE OFF) TABLE t",
    "reindex-schema": "REINDEX SCHEMA public",
    "reindex-schema-option": "REINDEX (VERBOSE) SCHEMA public",
    "reindex-database": "REINDEX DATABASE",
    "reindex-system": "REINDEX SYSTEM",
    "vacuum": "VACUUM",
    "vacuum-table": "VACUUM t",
    "vacuum-options": "VACUUM (FULL, ANALYZE) t",
    "cluster": "CLUSTER",
    "cluster-verbose": "CLUSTER VERBOSE",
    "cluster-option": "CLUSTER (VERBOSE)",
    "create-database": "CREATE DATABASE d",
    "drop-database": "DROP DATABASE IF EXISTS d WITH (FORCE)",
    "create-tablespace": "CREATE TABLESPACE s LOCATION '/tmp'",
    "drop-tablespace": "DROP TABLESPACE IF EXISTS s",
    "alter-database-tablespace": "ALTER DATABASE postgres SET TABLESPACE pg_default",
    "alter-system": "ALTER SYSTEM SET work_mem = '8MB'",
    "detach": "ALTER TABLE parted DETACH PARTITION part CONCURRENTLY",
    "detach-if-exists": "ALTER TABLE IF EXISTS public.parted DETACH PARTITION public.part CONCURRENTLY",
    "create-subscription": "CREATE SUBSCRIPTION s CONNECTION 'host=x' PUBLICATION p",
    "create-subscription-slot": "CREATE SUBSCRIPTION s CONNECTION '' PUBLICATION p WITH (slot_name = 'x')",
    "discard-all": "DISCARD ALL",
    "commit-prepared": "COMMIT PREPARED 'x'",
    "rollback-prepared": "ROLLBACK PREPARED 'x'",
}
ACCEPTED_OUTSIDE = {name: statement for name, statement in OUTSIDE.items() if name != "discard-all"}
"""DISCARD ALL would drop the migration lock."""
NEAR_MISSES = {
    "table-called-vacuum": 'DROP TABLE "vacuum"',
    "table-called-commit": 'ALTER TABLE "COMMIT" ADD b int',
    "index-called-concurrently": 'CREATE INDEX "concurrently" ON t (a)',
    "index-called-CONCURRENTLY": 'CREATE INDEX "CONCURRENTLY ON" ON t (a)',
    "create-index": "CREATE UNIQUE INDEX i ON t (a)",
    "drop-index": "DROP INDEX plain",
    "reindex-table-called-system": "REINDEX TABLE public.system",
    "reindex-table-called-system-alone": "REINDEX TABLE system",
    "reindex-table-in-a-schema-called-system": "REINDEX (VERBOSE) TABLE system.database",
    "reindex-option-off": "REINDEX (CONCURRENTLY FALSE) TABLE t",
    "reindex-option-off-lower-case": "reindex (concurrently off, verbose) table t",
    "reindex-table-called-concurrently": 'REINDEX TABLE "CONCURRENTLY"',
    "cluster-table": "CLUSTER t USING t_pkey",
    "cluster-table-called-verbose": 'CLUSTER "verbose" USING verbose_pkey',
    "drop-subscription": "DROP SUBSCRIPTION IF EXISTS s",
    "create-subscription": "CREATE SUBSCRIPTION s CONNECTION 'host=x' PUBLICATION p WITH (connect = false)",
    "create-subscription-upper-case": "CREATE SUBSCRIPTION s CONNECTION '' PUBLICATION p WITH (CONNECT = FALSE)",
    "create-subscription-old-slot": "CREATE SUBSCRIPTION s CONNECTION '' PUBLICATION p "
    "WITH (connect = false, create_slot = off, slot_name = NONE)",
    "alter-database": "ALTER DATABASE postgres SET work_mem = '8MB'",
    "alter-table-with-a-name-that-says-so": 'ALTER TABLE "x DETACH PARTITION y CONCURRENTLY" ADD b int',
    "detach": "ALTER TABLE parted DETACH PARTITION part",
    "set-tablespace": "ALTER TABLE t SET TABLESPACE pg_default",
    "discard": "DISCARD PLANS",
    "savepoints": "SAVEPOINT a; ROLLBACK TO SAVEPOINT a; ROLLBACK WORK TO a; RELEASE a",
    "rollback-transaction-to": "SAVEPOINT b; ROLLBACK TRANSACTION TO SAVEPOINT b",
    "in-a-string": "SELECT 'VACUUM;', E'\\';VACUUM;', 'COPY t FROM STDIN;'",
    "in-a-comment": "SELECT 1 /* ; VACUUM; */ -- ;COMMIT;\n",
    "in-dollar-quotes": "DO $$ BEGIN PERFORM 1; END; $$",
    "in-a-body": "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; SELECT 2; END",
    "copy-from-a-program": "COPY t FROM PROGRAM 'echo 1'",
    "copy-to-a-program": "COPY t TO PROGRAM 'cat > /dev/null # TO STDOUT'",
    "copy-from-a-table-called-so": "COPY \"FROM STDIN\" TO '/dev/null'",
    "set-transaction": "SET TRANSACTION READ WRITE",
    "prepare": "PREPARE transactions AS SELECT 1",
}
SCHEMA = """
CREATE TABLE t (a int PRIMARY KEY); CREATE INDEX plain ON t (a); CREATE TABLE "vacuum" (); CREATE TABLE "COMMIT" ();
CREATE TABLE system (); CREATE SCHEMA system; CREATE TABLE system.database (); CREATE TABLE "CONCURRENTLY" ();
CREATE TABLE "verbose" (a int PRIMARY KEY); CREATE TABLE "x DETACH PARTITION y CONCURRENTLY" ();
CREATE TABLE "FROM STDIN" (); CREATE TABLE parted (a int) PARTITION BY LIST (a);
CREATE TABLE part PARTITION OF parted FOR VALUES IN (1)
"""
WAY_OUT = (
    " cannot run inside a transaction; put it in a file of its own that has the line `-- no-transaction` at its top"
)
WRAPPED = {
    "begin": "BEGIN; SELECT 1; COMMIT;",
    "begin-work": "-- a\nbegin work; SELECT 1; SELECT 2; end transaction",
    "start": "START TRANSACTION; SELECT 1; COMMIT WORK -- b",
    "nothing-in-it": "BEGIN; END;",
    "savepoint-in-it": "BEGIN TRANSACTION; SAVEPOINT a; ROLLBACK TO a; COMMIT TRANSACTION;",
}
CONTROL = {
    "commit-in-the-middle": ("SELECT 1; COMMIT; SELECT 2", ["COMMIT"]),
    "commit-alone": ("COMMIT", ["COMMIT"]),
    "begin-alone": ("BEGIN; SELECT 1", ["BEGIN"]),
    "twice": ("BEGIN; COMMIT; BEGIN; COMMIT", ["BEGIN", "COMMIT", "BEGIN", "COMMIT"]),
    "statement-before": ("SELECT 1; BEGIN; COMMIT", ["BEGIN", "COMMIT"]),
    "statement-after": ("BEGIN; COMMIT; SELECT 1", ["BEGIN", "COMMIT"]),
    "commit-in-a-wrapper": ("BEGIN; commit and chain; COMMIT", ["BEGIN", "COMMIT AND CHAIN", "COMMIT"]),
    "rolled-back": ("BEGIN; SELECT 1; ROLLBACK", ["BEGIN", "ROLLBACK"]),
    "isolation": (
        "SELECT 1; BEGIN ISOLATION LEVEL SERIALIZABLE; COMMIT",
        ["BEGIN ISOLATION LEVEL SERIALIZABLE", "COMMIT"],
    ),
    "abort": ("ABORT", ["ABORT"]),
    "prepare": ("PREPARE TRANSACTION 'x'", ["PREPARE TRANSACTION"]),
}


def look(text: str | bytes, version: int = 3) -> Contents:
    source = text.encode() if isinstance(text, str) else text
    return check(Migration(version=version, filename="003_c.sql", checksum="", path=""), source)


@pytest.mark.parametrize("statement", OUTSIDE.values(), ids=OUTSIDE)
def test_statement_that_cannot_run_in_a_transaction_is_refused(statement: str) -> None:
    text = f"SELECT 1;\n  {statement};"

    problems = look(text).problems

    first, *rest = statement.splitlines()
    [message, *shown] = str(problems[0]).split("\n")
    what = message.removeprefix("003_c.sql:2: ").removesuffix(WAY_OUT)
    assert message == f"003_c.sql:2: {what}{WAY_OUT}"
    assert what.split(" ")[0] == statement.split(" ")[0].upper()
    assert what == " ".join(what.split())
    assert shown == [f"  2 |   {first}{'' if rest else ';'}", "    |   ^"]
    assert len(problems) == 1


@pytest.mark.parametrize("statement", ACCEPTED_OUTSIDE.values(), ids=ACCEPTED_OUTSIDE)
def test_statement_that_cannot_run_in_a_transaction_is_accepted_outside_one(statement: str) -> None:
    contents = look(f"-- no-transaction\n{statement};")

    assert contents.problems == []
    assert not contents.transactional


@pytest.mark.parametrize("statement", NEAR_MISSES.values(), ids=NEAR_MISSES)
def test_statement_that_only_looks_like_it_is_accepted(statement: str) -> None:
    contents = look(statement)

    assert contents.problems == []


async def test_server_refuses_the_same_statements_in_a_transaction(database: Database) -> None:
    await database.execute(SCHEMA)
    states = {}
    async with database.connection() as connection:
        for name, statement in OUTSIDE.items():
            await connection.execute("BEGIN")

            try:
                states[name] = await connection.execute(statement)
            except asyncpg.PostgresError as error:
                states[name] = error.sqlstate or ""
            await connection.execute("ROLLBACK")

    assert states == dict.fromkeys(OUTSIDE, "25001")


async def test_server_accepts_the_others_in_a_transaction(database: Database) -> None:
    await database.execute(SCHEMA)
    refused = {}
    async with database.connection() as connection:
        for name, statement in NEAR_MISSES.items():
            await connection.execute("BEGIN")

            try:
                await connection.execute(statement)
            except asyncpg.PostgresError as error:
                refused[name] = str(error)
            await connection.execute("ROLLBACK")

    assert refused == {}


@pytest.mark.parametrize("text", WRAPPED.values(), ids=WRAPPED)
def test_file_that_is_wholly_wrapped_in_a_transaction_is_accepted(text: str) -> None:
    contents = look(text)

    assert contents.problems == []
    assert len(contents.wrapper) == 2


@pytest.mark.parametrize(("text", "refused"), CONTROL.values(), ids=CONTROL)
def test_transaction_control_elsewhere_is_refused(text: str, refused: list[str]) -> None:
    contents = look(text)

    messages = [str(problem).splitlines()[0] for problem in contents.problems]
    reason = "a file is one transaction already; remove it (SAVEPOINT and ROLLBACK TO are fine)"
    assert messages == [f"003_c.sql:1: {statement}: {reason}" for statement in refused]
    assert contents.wrapper == ()


LEVELS = {
    "set transaction": "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ;",
    "after comments and settings": "-- a\nSET search_path = a; RESET ALL;\nset local transaction isolation level "
    "/* b */ repeatable read, READ WRITE, not deferrable; SELECT 1",
    "a setting": "SET transaction_isolation = 'repeatable read'; SELECT 1",
    "a local setting": "SET LOCAL transaction_isolation TO 'REPEATABLE READ'; SELECT 1",
    "a quoted setting": "SET \"transaction_isolation\" TO E'repeatable read'; SELECT 1",
    "the default": "SET default_transaction_isolation = 'repeatable read'; SELECT 1",
    "the session's": "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL REPEATABLE READ; SELECT 1",
    "a function": "SELECT pg_catalog.set_config('default_transaction_isolation', 'repeatable read', false); SELECT 1",
    "begin": "BEGIN ISOLATION LEVEL REPEATABLE READ, READ WRITE; SELECT 1; COMMIT",
    "start": "start transaction isolation level repeatable read; SELECT 1; END",
    "in a wrapper": "BEGIN; SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; SELECT 1; COMMIT",
    "twice": "BEGIN ISOLATION LEVEL REPEATABLE READ; SET transaction_isolation = 'repeatable read'; SELECT 1; COMMIT",
    "again after a query": "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; SELECT 1; "
    "SET LOCAL transaction_isolation = 'repeatable read'",
}
NO_LEVELS = {
    "none": "SELECT 1",
    "the usual one, late": "SELECT 1; SET TRANSACTION ISOLATION LEVEL READ COMMITTED",
    "one that Postgres refuses": "SET transaction_isolation = 'x; DROP TABLE t'",
    "in a string": "SELECT 'SET TRANSACTION ISOLATION LEVEL SERIALIZABLE'",
    "for the database": "ALTER DATABASE d SET default_transaction_isolation = 'serializable'",
    "for a function": "CREATE FUNCTION f() RETURNS int SET default_transaction_isolation = 'serializable' RETURN 1",
}
LATE = "SELECT 1;\nSET TRANSACTION ISOLATION LEVEL SERIALIZABLE;"
ONE_LEVEL = (
    "a file is one transaction, whose isolation level is set before its first query; write SET TRANSACTION ISOLATION "
    "LEVEL … once, as the first statement of the file"
)
READ_ONLY = "the transaction of a file writes its history row, so it cannot be READ ONLY; remove this"
DEFERRABLE = "the transaction of a file writes, so DEFERRABLE has no effect in it; remove this"
SNAPSHOT = "the transaction of a file has taken its own snapshot already; remove this line"
MODES = {
    "a level after a query": (LATE, ONE_LEVEL),
    "a default after a query": ("SELECT 1;\nSET default_transaction_isolation = serializable;", ONE_LEVEL),
    "a second level": ("SET transaction_isolation = 'repeatable read';\n" + LATE.splitlines()[1], ONE_LEVEL),
    "read only": ("\nSET TRANSACTION READ ONLY;", READ_ONLY),
    "begin read only": ("\nBEGIN READ ONLY; SELECT 1; COMMIT;", READ_ONLY),
    "a setting of read only": ("SELECT 1;\nSET LOCAL transaction_read_only = true;", READ_ONLY),
    "deferrable": ("\nBEGIN ISOLATION LEVEL SERIALIZABLE, DEFERRABLE; COMMIT;", DEFERRABLE),
    "a snapshot": ("\nSET TRANSACTION SNAPSHOT '00000003-0000001B-1';", SNAPSHOT),
}


@pytest.mark.parametrize("text", LEVELS.values(), ids=LEVELS)
def test_isolation_level_that_comes_first_is_the_files(text: str) -> None:
    contents = look(text)

    assert (contents.problems, contents.isolation) == ([], "REPEATABLE READ")


@pytest.mark.parametrize("text", NO_LEVELS.values(), ids=NO_LEVELS)
def test_file_without_an_isolation_level_has_the_usual_one(text: str) -> None:
    contents = look(text)

    assert (contents.problems, contents.isolation) == ([], "")


@pytest.mark.parametrize(("text", "message"), MODES.values(), ids=MODES)
def test_mode_that_a_files_transaction_cannot_have_is_refused(text: str, message: str) -> None:
    contents = look(text)

    shown = text.splitlines()[1]
    assert list(map(str, contents.problems)) == [f"003_c.sql:2: {message}\n  2 | {shown}\n    | ^"]


@pytest.mark.parametrize(
    "statement",
    [
        "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE",
        "SET transaction_isolation = 'serializable'",
        "SET default_transaction_isolation = 'serializable'",
        "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE",
    ],
)
def test_isolation_level_is_refused_in_a_file_without_a_transaction(statement: str) -> None:
    contents = look(f"-- no-transaction\n{statement};")

    message = "the statements of a file without a transaction run at READ COMMITTED; remove this"
    assert list(map(str, contents.problems)) == [f"003_c.sql:2: {message}\n  2 | {statement};\n    | ^"]


@pytest.mark.parametrize(
    "statement",
    [
        "SET ROLE app",
        "set session role app",
        "SET LOCAL ROLE NONE",
        "RESET ROLE",
        "SET SESSION AUTHORIZATION app",
        "SET SESSION SESSION AUTHORIZATION DEFAULT",
        "RESET SESSION AUTHORIZATION",
    ],
)
def test_role_is_not_taken_in_a_file_without_a_transaction(statement: str) -> None:
    outside, inside = look(f"-- no-transaction\nSELECT 1;\n{statement};"), look(f"SELECT 1;\n{statement};")

    message = "the role of a file without a transaction is MIGRATE_ROLE, for its journal too; remove this line"
    assert list(map(str, outside.problems)) == [f"003_c.sql:3: {message}\n  3 | {statement};\n    | ^"]
    assert inside.problems == []


@pytest.mark.parametrize(
    "statement",
    [
        "SAVEPOINT a",
        "RELEASE SAVEPOINT a",
        "ROLLBACK TO a",
        "ROLLBACK WORK TO SAVEPOINT a",
        "rollback transaction to a",
    ],
)
def test_savepoint_is_refused_in_a_file_without_a_transaction(statement: str) -> None:
    contents = look(f"-- no-transaction\nSELECT 1;\n{statement};")

    message = "there is no transaction here; remove this"
    assert list(map(str, contents.problems)) == [f"003_c.sql:3: {message}\n  3 | {statement};\n    | ^"]


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("DISCARD ALL", "this would drop the migration lock; write RESET ALL, DISCARD TEMP or DISCARD PLANS"),
        ("SET default_transaction_read_only = on", "the journal could not be written any more; remove this"),
        (r'DROP INDEX CONCURRENTLY U&"d\0061t"',
         'write the name without U&"": it is looked up in the catalogs when a run was cut off'),
    ],
)  # fmt: skip
def test_what_a_file_without_a_transaction_must_not_say_is_refused(statement: str, message: str) -> None:
    contents = look(f"-- no-transaction\n{statement};")

    assert [str(problem).splitlines()[0] for problem in contents.problems] == [f"003_c.sql:2: {message}"]


def test_file_without_a_transaction_may_have_any_number_of_statements() -> None:
    contents = look("-- no-transaction\n" + "".join(f"{statement};\n" for statement in ACCEPTED_OUTSIDE.values()))

    assert contents.problems == []
    assert contents.count == len(ACCEPTED_OUTSIDE)


def test_file_without_a_transaction_is_not_to_be_wrapped_in_one() -> None:
    contents = look("-- no-transaction\nBEGIN;\nVACUUM;\nCOMMIT;")

    assert [str(problem).splitlines()[0] for problem in contents.problems] == [
        "003_c.sql:2: BEGIN: a file without a transaction cannot have transaction control; remove it",
        "003_c.sql:4: COMMIT: a file without a transaction cannot have transaction control; remove it",
    ]


@pytest.mark.parametrize("statement", ["SET LOCAL lock_timeout = '1h'", "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE"])
def test_setting_that_would_do_nothing_without_a_transaction_is_refused(statement: str) -> None:
    contents = look(f"-- no-transaction\nSELECT 1;\n{statement};")

    assert len(contents.problems) == 1
