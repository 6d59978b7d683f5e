"""The text of a file is stored as it is written: no statement in it changes how Postgres reads the next one."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import asyncpg
import pytest

from pgslipway import run_migrations

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from conftest import Folder, Slipway
    from servers import Database

READ_AS_SENT = {
    "strings": ("standard_conforming_strings", "off"),
    "latin1": ("client_encoding", "LATIN1"),
    "an encoding with a backslash in its characters": ("client_encoding", "SJIS"),
}
CHANGES = {
    "by a block": "DO $$ BEGIN EXECUTE 'SET ' || '{0} = {1}'; END $$;",
    "by a query": "SELECT set_config('{0}' || '', '{1}', false);",
    "for the transaction": "SELECT set_config('{0}' || '', '{1}', true);",
    "by a function": "CREATE FUNCTION f() RETURNS void LANGUAGE plpgsql AS "
    "'BEGIN EXECUTE ''SET ''||''{0} = {1}''; END'; SELECT f();",
    "for later sessions": "ALTER ROLE {role} SET {0} = {1}; ALTER DATABASE {role} SET {0} = {1};",
}
SENDERS = {
    "small": "{}{}",
    "large": f"{{}}\n--{' ' * 1_050_000}\n{{}}",
    "without a transaction": "-- no-transaction\n{}{}",
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
async def test_text_is_stored_as_it_is_written_whatever_a_statement_sets(
    change: str, database: Database, folder: Folder, slipway: Slipway
) -> None:
    await database.create_role(role := database.name)
    await database.execute("CREATE TABLE t (n text, ascii text, other text)")
    insert = (
        r"INSERT INTO t VALUES ('{0}', 'a\\b\''; COMMIT; -- ', 'Zoë ソ'); RESET ALL;"
        r"INSERT INTO t SELECT '{0}', '\n', 'é';"
    )
    texts = {
        f"{sender} {what}": pattern.format(change.format(*setting, role=role), insert.format(f"{sender} {what}"))
        for sender, pattern in SENDERS.items()
        for what, setting in READ_AS_SENT.items()
    }
    files = folder({f"{n:03}_a.sql": text.replace("f()", f"f{n}()") for n, text in enumerate(texts.values(), 1)})

    finished = slipway(env=database.environ, migrations=files)

    assert finished.code == 0, finished
    rows = await database.fetch("SELECT n, ascii, other FROM t ORDER BY other DESC")
    expected = [(name, r"a\\b\'; COMMIT; -- ", "Zoë ソ") for name in texts] + [(name, r"\n", "é") for name in texts]
    assert sorted(tuple(row) for row in rows) == sorted(expected)


async def test_encoding_that_the_driver_does_not_know_is_a_failure_of_the_file(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    files = folder({"001_a.sql": "-- no-transaction\nSELECT set_config('client_' || 'encoding', 'EUC_TW', false);"})

    finished = slipway(env=database.environ, migrations=files)

    assert finished.code == 24, finished
    assert "001_a.sql:2: the client_encoding was changed: unknown encoding: euc_tw" in finished.err


async def test_encoding_of_an_applications_pool_does_not_matter(database: Database, folder: Folder) -> None:
    insert = "INSERT INTO t VALUES ('Zoë');"
    files = {"001_ä.sql": f"CREATE TABLE t (a text); {insert}", "002_b.sql": insert, "003_c.sql": insert}
    files["003_ö.sql"] = f"-- no-transaction\n{files.pop('003_c.sql')}"
    settings = {"client_encoding": "latin1"}
    async with asyncpg.create_pool(database.url, min_size=1, max_size=1, server_settings=settings) as pool:
        await run_migrations(pool, folder(files))

    assert [row["a"] for row in await database.fetch("SELECT a FROM t")] == ["Zoë"] * 3
    assert await database.applied() == sorted(files)


@asynccontextmanager
async def database_in(encoding: str, database: Database) -> AsyncIterator[Database]:
    """Another database of that server, with such an encoding."""
    other = database.server.database(f"{database.name}_{encoding.lower()}")
    await database.execute(f"CREATE DATABASE {other.name} TEMPLATE template0 ENCODING {encoding} LOCALE 'C'")
    try:
        yield other
    finally:
        await database.execute(f"DROP DATABASE {other.name} WITH (FORCE)")


COMMENT = "-- — 日本\n/* 🐘 /* — */ */"
COMMENTED = {
    "a first file": {"001_a.sql": f"{COMMENT} CREATE TABLE t (a text); INSERT INTO t {COMMENT} VALUES ('ü');"},
    "a later file": {"001_a.sql": "CREATE TABLE t (a text);", "002_b.sql": f"INSERT INTO t {COMMENT} VALUES ('ü');"},
    "a large file": {
        "001_a.sql": f"CREATE TABLE t (a text);{COMMENT}\n--{'—' * 400_000}\nINSERT INTO t {COMMENT} VALUES ('ü');"
    },
    "without a transaction": {
        "001_a.sql": f"-- no-transaction\nCREATE TABLE t (a {COMMENT} text);"
        f"CREATE INDEX CONCURRENTLY i ON t {COMMENT} (a);"
        f"CREATE PROCEDURE p() LANGUAGE plpgsql AS 'BEGIN INSERT INTO t VALUES (''ü''); COMMIT; END';"
        f"CALL {COMMENT} p();"
    },
}


@pytest.mark.parametrize("files", COMMENTED.values(), ids=COMMENTED)
async def test_comment_may_have_what_the_database_cannot_store(
    files: dict[str, str], database: Database, folder: Folder, slipway: Slipway
) -> None:
    async with database_in("LATIN1", database) as other:
        finished = await asyncio.to_thread(slipway, env=other.environ, migrations=folder(files))

        assert finished.code == 0, finished
        assert [row["a"] for row in await other.fetch("SELECT a FROM t")] == ["ü"]


@pytest.mark.parametrize("before", [{}, {"000_first.sql": ""}], ids=["in the first file", "in a later file"])
@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("SELECT /* — */ nowhere", '001_a.sql:3: column "nowhere" does not exist\n  3 | SELECT /* — */ nowhere;\n'),
        ("SELECT '—', 1", "001_a.sql:3: character with byte sequence 0xe2 0x80 0x94 in encoding"),
        ("SELECT 1 / 0 -- —\n", "001_a.sql:3: division by zero\n"),
    ],
    ids=["a place", "a string that cannot be stored", "no place"],
)
async def test_failure_beside_such_a_comment_has_its_place(
    statement: str, expected: str, before: dict[str, str], database: Database, folder: Folder, slipway: Slipway
) -> None:
    files = folder(before | {"001_a.sql": f"-- —\nSELECT 1; -- 日本\n{statement};"})
    async with database_in("LATIN1", database) as other:
        finished = await asyncio.to_thread(slipway, env=other.environ, migrations=files)

    assert finished.code == 24, finished
    assert expected in finished.err


async def test_comment_is_sent_as_it_is_where_the_database_can_store_it(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    query = "CREATE TABLE t AS SELECT query FROM pg_stat_activity /* — */ WHERE pid = pg_backend_pid();"

    finished = slipway(env=database.environ, migrations=folder({"001_a.sql": query}))

    assert finished.code == 0, finished
    assert [row["query"] for row in await database.fetch("SELECT query FROM t")] == [query]
