"""What `check` says, word by word, and what it makes of the leading comment."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pgslipway.engine.check import check
from pgslipway.engine.contents import Contents
from pgslipway.migrations import Migration

if TYPE_CHECKING:
    from conftest import Folder, Slipway

NO_END = "the data of this COPY begin in the next line and never end; put a line with a backslash and a dot behind them"
NO_READER = "COPY to the client has no reader here; write COPY to a file of the server, or leave it out"
PSQL = "psql's backslash commands are not SQL; write what the command does as SQL, or leave it out"
NUL = "a NUL byte, which Postgres cannot store; remove it"
MESSAGES = {
    "psql-command": ("SELECT 1;\n\\d t\n", f"003_c.sql:2: {PSQL}\n  2 | \\d t\n    | ^"),
    "psql-command-in-a-line": ("SELECT 1 \\gset", f"003_c.sql:1: {PSQL}\n  1 | SELECT 1 \\gset\n    |          ^"),
    "copy-from-stdin": ("COPY t (a) FROM STDIN", f"003_c.sql:1: {NO_END}\n  1 | COPY t (a) FROM STDIN\n    | ^"),
    "copy-to-stdout": ("-- a\r\n copy t to stdout;\r", f"003_c.sql:2: {NO_READER}\n  2 |  copy t to stdout;\n    |  ^"),
    "nul": ("SELECT 'é\0'", f"003_c.sql:1: {NUL}\n  1 | SELECT 'é�'\n    |          ^"),
    "string": (
        "SELECT 1;\n\tSELECT 'a\n",
        (
            "003_c.sql:2: the string that begins here is never closed; a quote inside a string is written twice: ''\n"
            "  2 | \tSELECT 'a\n"
            "    | \t       ^"
        ),
    ),
    "name": (
        '\ufeffSELECT "a',
        (
            "003_c.sql:1: the quoted name that begins here is never closed; "
            'a quote inside a name is written twice: ""\n'
            '  1 | SELECT "a\n'
            "    |        ^"
        ),
    ),
    "dollars": (
        "SELECT $é$ $$",
        "003_c.sql:1: the string that begins here is never closed with $é$\n  1 | SELECT $é$ $$\n    |        ^",
    ),
    "comment": (
        "\n" * 11 + "SELECT 'größe', /* /* */ 1",
        (
            "003_c.sql:12: the comment that begins here is never closed; comments nest: each /* needs its own */\n"
            "  12 | SELECT 'größe', /* /* */ 1\n"
            "     |                 ^"
        ),
    ),
    "long-line": (
        f"SELECT '{'a' * 200}'; COMMIT; SELECT '{'b' * 200}'",
        (
            "003_c.sql:1: COMMIT: a file is one transaction already; remove it (SAVEPOINT and ROLLBACK TO are fine)\n"
            f"  1 | {'a' * 47}'; COMMIT; SELECT '{'b' * 84}\n"
            f"    | {' ' * 50}^"
        ),
    ),
    "concurrent-index-without-a-name": (
        "-- no-transaction\nCREATE INDEX CONCURRENTLY ON t (a)",
        (
            "003_c.sql:2: an index that is built concurrently needs a name here, "
            "so that a run that was cut off can go on\n"
            "  2 | CREATE INDEX CONCURRENTLY ON t (a)\n"
            "    | ^"
        ),
    ),
    "transaction-control-outside": (
        "-- no-transaction\nCOMMIT",
        (
            "003_c.sql:2: COMMIT: a file without a transaction cannot have transaction control; remove it\n"
            "  2 | COMMIT\n"
            "    | ^"
        ),
    ),
    "minimum-version": (
        "-- minimum-version: x",
        "003_c.sql: minimum-version: x must be a version that is not above the file's own, 3",
    ),
}


def look(text: str, version: int = 3) -> Contents:
    return check(Migration(version=version, filename="003_c.sql", checksum="", path=""), text.encode())


@pytest.mark.parametrize(("text", "message"), MESSAGES.values(), ids=MESSAGES)
def test_problem_is_shown_with_its_line_and_a_caret(text: str, message: str) -> None:
    contents = look(text)

    assert list(map(str, contents.problems)) == [message]


LICENCE = "/* Licensed under\n-- the terms; of\n*/\n"
OPT_OUTS = {
    "first-line": "-- no-transaction\nVACUUM",
    "without-space": "--no-transaction\nVACUUM",
    "upper-case": "-- NO-Transaction \t\nVACUUM",
    "after-a-licence": f"{LICENCE}\n-- about\n--\n  -- no-transaction\nVACUUM",
    "crlf": "-- about\r\n-- no-transaction\r\nVACUUM;\r\n",
    "bom": "\ufeff-- no-transaction\nVACUUM",
    "before-other-comments": "-- no-transaction\n-- minimum-version: 1\n-- why\nVACUUM",
    "nothing-else": "-- no-transaction",
}
NOT_OPT_OUTS = {
    "after-the-first-statement": "SELECT 1;\n-- no-transaction\n",
    "after-a-semicolon": ";\n-- no-transaction\nSELECT 1",
    "in-a-statement": "SELECT\n-- no-transaction\n1",
    "in-a-block-comment": "/*\n-- no-transaction\n*/ SELECT 1",
    "as-a-block-comment": "/* no-transaction */ SELECT 1",
    "with-more-words": "-- no-transaction is needed here\nSELECT 1",
    "misspelt": "-- no transaction\nSELECT 1",
}


@pytest.mark.parametrize("text", OPT_OUTS.values(), ids=OPT_OUTS)
def test_leading_comment_opts_out_of_the_transaction(text: str) -> None:
    contents = look(text)

    assert (contents.transactional, contents.problems) == (False, [])


@pytest.mark.parametrize("text", NOT_OPT_OUTS.values(), ids=NOT_OPT_OUTS)
def test_comment_elsewhere_does_not_opt_out(text: str) -> None:
    contents = look(text)

    assert (contents.transactional, contents.problems) == (True, [])


FLOORS = {
    "own-version": ("-- minimum-version: 3", 3),
    "lower": ("-- minimum-version: 2\nSELECT 1", 2),
    "zeros": ("--minimum-version:002", 2),
    "upper-case": ("-- Minimum-Version: 1", 1),
    "crlf-after-a-licence": (f"{LICENCE}-- minimum-version: 3\r\nSELECT 1;\r\n", 3),
    "none": ("SELECT 1", None),
    "after-a-statement": ("SELECT 1;\n-- minimum-version: 3", None),
    "in-a-sentence": ("-- the minimum-version: 3", None),
}
NOT_FLOORS = ["", "x", "4", "-1", "1.5", "2 3", "99999999999999999999", "\u0663", "0x1"]


@pytest.mark.parametrize(("text", "floor"), FLOORS.values(), ids=FLOORS)
def test_minimum_version_is_read(text: str, floor: int | None) -> None:
    contents = look(text)

    assert (contents.minimum_version, contents.problems) == (floor, [])


@pytest.mark.parametrize("value", NOT_FLOORS)
def test_minimum_version_that_cannot_be_is_refused(value: str) -> None:
    contents = look(f"-- minimum-version: {value}\nSELECT 1")

    assert contents.minimum_version is None
    assert len(contents.problems) == 1


def test_check_needs_no_database_and_names_every_problem(folder: Folder, slipway: Slipway) -> None:
    migrations = folder({"001_a.sql": "SELECT 1;\n\tCOMMIT;", "002_b.sql": "SELECT 1", "003_c.sql": "SELECT '"})

    finished = slipway("check", env={"DATABASE_URL": "nonsense"}, migrations=migrations)

    assert finished.code == 21
    assert finished.outcome is not None
    assert finished.outcome["message"] == (
        "001_a.sql:2: COMMIT: a file is one transaction already; remove it (SAVEPOINT and ROLLBACK TO are fine)\n"
        "  2 | \tCOMMIT;\n"
        "    | \t^\n"
        "003_c.sql:1: the string that begins here is never closed; a quote inside a string is written twice: ''\n"
        "  1 | SELECT '\n"
        "    |        ^"
    )


SINCE = {"all": ((), 21), "since-the-bad-one": (("--since", "1"), 21), "since-the-next": (("--since=2",), 0),
         "since-none": (("--since", "3"), 0), "since-nonsense": (("--since", "x"), 20)}  # fmt: skip


@pytest.mark.parametrize(("options", "code"), SINCE.values(), ids=SINCE)
def test_check_since_leaves_older_files_in_peace(
    folder: Folder, slipway: Slipway, options: tuple[str, ...], code: int
) -> None:
    migrations = folder({"001_a.sql": "COMMIT", "002_b.sql": "SELECT 1"})

    finished = slipway("check", *options, env={}, migrations=migrations)

    assert finished.code == code, str(finished)


DIVIDED = (
    "this line is {0}'s, for which it divides the file; here the whole file would be run, with the part that undoes "
    "the change. Move that part to a file that ends in .down.sql, and take {0}'s lines out"
)
ALONE = (
    "this line is {0}'s, but the folder is not: its first file tells its layout. Move the part that undoes the "
    "change to a file that ends in .down.sql, and take {0}'s lines out; or set MIGRATE_LAYOUT={0}"
)
DIRECTIVE = "this line is {0}'s, and has no effect here; write what it asks for as SQL or as files, and take it out"
UNDOES = "this is a script of {0} that undoes a change; give it a name that ends in .down.sql, or leave it out"
BOM = "a byte order mark, as two files put together have one; remove it"
HIDDEN = {
    "put together": ("\ufeffSELECT 1;\n\ufeffSELECT 2;", 2, "\\ufeffSELECT 2;", 0),
    "before a comment": ("SELECT 1;\n\ufeff-- two\n", 2, "\\ufeff-- two", 0),
    "twice at the start": ("\ufeff\ufeffSELECT 1;", 1, "\\ufeffSELECT 1;", 0),
    "in a name": ("SELECT 1;\nSELECT é\ufeffb, 'a\u200bb\u00a0c'", 2, "SELECT é\\ufeffb, 'a\\u200bb\\u00a0c'", 8),
}
NOT_HIDDEN = {
    "at the start": "\ufeffSELECT 1;",
    "in a string": "INSERT INTO t VALUES ('\ufeff')",
    "in a quoted name": 'SELECT "\ufeff"',
    "in a body": "DO $$ BEGIN PERFORM '\ufeff'; END $$",
    "in a comment": "-- \ufeff\n/* \ufeff */ SELECT 1",
}


@pytest.mark.parametrize(("text", "line", "shown", "column"), HIDDEN.values(), ids=HIDDEN)
def test_byte_order_mark_within_the_sql_is_refused_and_shown(text: str, line: int, shown: str, column: int) -> None:
    contents = look(text)

    message = f"003_c.sql:{line}: {BOM}\n  {line} | {shown}\n    | {' ' * column}^"
    assert list(map(str, contents.problems)) == [message]


@pytest.mark.parametrize("text", NOT_HIDDEN.values(), ids=NOT_HIDDEN)
def test_byte_order_mark_where_it_does_no_harm_is_accepted(text: str) -> None:
    assert look(text).problems == []


MARKERS = {
    "goose": ("goose", "-- +goose Up", ALONE),
    "goose, as it likes it": ("goose", "--+GOOSE NO TRANSACTION", ALONE),
    "dbmate": ("dbmate", "-- migrate:up transaction:false", ALONE),
    "dbmate's other part": ("dbmate", "--migrate:down", ALONE),
    "tern": ("tern", "---- create above / drop below ----", ALONE),
    "tern's opt-out": ("tern", "---- tern: disable-tx ----", ALONE),
    "sql-migrate": ("sql-migrate", "-- +migrate Down", DIVIDED),
    "node-pg-migrate": ("node-pg-migrate", "  ---- Down  Migration", DIVIDED),
    "micrate": ("micrate", "-- +micrate Up", DIVIDED),
    "rambler": ("rambler", "-- rambler up", DIVIDED),
    "shmig": ("shmig", "-- ==== DOWN ====", DIVIDED),
    "MyBatis": ("MyBatis", "-- //@UNDO", DIVIDED),
    "Play": ("Play", "-- !Downs", DIVIDED),
    "Liquibase": ("Liquibase", "--liquibase formatted sql", DIRECTIVE),
    "Liquibase's changeset": ("Liquibase", "-- changeset ann:1 runOnChange:true", DIRECTIVE),
    "Atlas": ("Atlas", "-- atlas:txmode none", DIRECTIVE),
    "Sqitch": ("Sqitch", "-- Revert shop:orders from pg", UNDOES),
}
NO_MARKERS = {
    "after a statement": "SELECT 1; -- +goose Up",
    "in a string": "INSERT INTO help VALUES ('a\n-- +goose Down\nb')",
    "in dollar quotes": "CREATE FUNCTION f() RETURNS text RETURN $$\n-- migrate:down\n$$",
    "in a block comment": "/* as with\n-- +migrate Up\n*/ SELECT 1",
    "about it": "-- made from goose's file; was -- +goose Up there\nSELECT 1",
    "a heading": "-- Up migration\nSELECT 1",
    "words in the next line": "--\ndown migration",
    "a sentence": "-- revert orders from pg to another server\n-- the changeset of May: 1\nSELECT 1",
    "our own": "-- no-transaction\n-- minimum-version: 1\nSELECT 1",
    "a breakpoint of Drizzle": "SELECT 1;\n--> statement-breakpoint\nSELECT 2",
}


@pytest.mark.parametrize("before", ["", "\ufeff", "SELECT 1;\r\n"], ids=["first", "after a BOM", "later"])
@pytest.mark.parametrize(("tool", "line", "message"), MARKERS.values(), ids=MARKERS)
def test_marker_of_another_tool_is_refused(tool: str, line: str, message: str, before: str) -> None:
    contents = look(f"{before}{line}\nSELECT 2;\n{line}")

    [problem] = contents.problems
    assert (str(problem).splitlines()[0], problem.line) == (
        f"003_c.sql:{1 + before.count('SELECT')}: {message.format(tool)}",
        1 + before.count("SELECT"),
    )


@pytest.mark.parametrize("text", NO_MARKERS.values(), ids=NO_MARKERS)
def test_text_about_another_tool_is_no_marker(text: str) -> None:
    assert look(text).problems == []


def test_marker_is_shown_and_nothing_is_applied(folder: Folder, slipway: Slipway) -> None:
    up, down = "-- migrate:up\nCREATE TABLE t ();", "-- migrate:down\nDROP TABLE t;"

    finished = slipway("check", env={}, migrations=folder({"001_a.sql": "SELECT 1", "002_b.sql": f"{up}\n{down}"}))

    assert finished.code == 21, finished
    assert finished.outcome
    assert finished.outcome["message"] == f"002_b.sql:1: {ALONE.format('dbmate')}\n  1 | -- migrate:up\n    | ^"
