"""The text of a file is stored as it is written: no statement in it changes how Postgres reads the next one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import asyncpg
import pytest

from pgslipway import run_migrations

if TYPE_CHECKING:
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
