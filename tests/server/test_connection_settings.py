"""Settings of a connection that reach the server: PGOPTIONS and the others, and what a URL says besides."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Folder, Slipway
    from servers import Database

FILES = {
    "001_a.sql": "CREATE TABLE a ();",
    "002_b.sql": "CREATE TABLE b (); SET search_path = pg_catalog; SET ROLE NONE;",
    "003_c.sql": "CREATE TABLE c ();",
    "004_d.sql": "-- no-transaction\nCREATE TABLE d ();\nRESET search_path;\nCREATE TABLE e ();",
}
"""The first file of a run, those after it, and one without a transaction go to the server in different ways."""
WHERE = """
    SELECT string_agg(DISTINCT format('%s by %s', relnamespace::regnamespace, pg_get_userbyid(relowner)), ', ')
      FROM pg_class WHERE relname IN ('a', 'b', 'c', 'd', 'e') HAVING count(*) = 5"""
PATHS: dict[str, tuple[dict[str, str], str]] = {
    "PGOPTIONS": ({"PGOPTIONS": "-c search_path=app"}, ""),
    "options": ({}, "?options=-c%20search_path%3Dapp"),
    "options before PGOPTIONS": ({"PGOPTIONS": "-c search_path=nowhere"}, "?options=-csearch_path%3Dapp"),
    "search_path": ({}, "?search_path=app"),
}


@pytest.mark.parametrize(("environ", "query"), PATHS.values(), ids=PATHS)
async def test_search_path_of_the_connection_holds_in_every_file(
    environ: dict[str, str], query: str, database: Database, folder: Folder, slipway: Slipway
) -> None:
    await database.execute("CREATE SCHEMA app")
    given = environ | {"DATABASE_URL": f"{database.url}{query}"}

    finished = slipway(env=given, migrations=folder(FILES))

    assert finished.code == 0, finished
    async with database.connection() as connection:
        assert await connection.fetchval(WHERE) == f"app by {database.user}"


@pytest.mark.parametrize("query", ["role={}", "options=-c%20role%3D{}"], ids=["role", "options"])
async def test_role_of_the_connection_owns_the_tables_of_every_file(
    query: str, database: Database, folder: Folder, slipway: Slipway
) -> None:
    owner = f"owner_of_{database.name}"
    await database.execute(f'CREATE ROLE "{owner}"; GRANT ALL ON SCHEMA public TO "{owner}"')
    given = {"DATABASE_URL": f"{database.url}?{query.format(owner)}"}

    finished = slipway(env=given, migrations=folder(FILES))

    assert finished.code == 0, finished
    async with database.connection() as connection:
        assert await connection.fetchval(WHERE) == f"public by {owner}"


async def test_read_only_connection_writes_nothing(database: Database, folder: Folder, slipway: Slipway) -> None:
    read_only = {"PGOPTIONS": "-c default_transaction_read_only=on"}

    finished = slipway(env=database.environ | read_only, migrations=folder(FILES), wait_timeout="1s")

    assert finished.code == 10, finished
    assert (
        "the database takes no writes: its transactions are read-only (default_transaction_read_only)" in finished.err
    )


SETTINGS: dict[str, tuple[dict[str, str], str, str, str]] = {
    "PGTZ": ({"PGTZ": "Asia/Tokyo"}, "", "TimeZone", "Asia/Tokyo"),
    "timezone before PGTZ": ({"PGTZ": "Asia/Tokyo"}, "timezone=Asia/Seoul", "TimeZone", "Asia/Seoul"),
    "PGDATESTYLE": ({"PGDATESTYLE": "German"}, "", "DateStyle", "German, DMY"),
    "PGGEQO": ({"PGGEQO": "off"}, "", "geqo", "off"),
    "name with a dot": ({}, "app.tenant=42", "app.tenant", "42"),
    "two options": ({"PGOPTIONS": '-c geqo=off -c search_path="a\\ b"'}, "", "search_path", '"a b"'),
    "time-out, which the lock lifts": ({}, "idle_session_timeout=1h", "idle_session_timeout", "0"),
    "name in another case": ({}, "TimeZone=UTC", "TimeZone", "UTC"),
    "application_name is ours": ({"PGAPPNAME": "x"}, "application_name=y", "application_name", "pgslipway"),
}


@pytest.mark.parametrize(("environ", "query", "name", "value"), SETTINGS.values(), ids=SETTINGS)
async def test_setting_of_the_connection_is_in_force_in_every_file(
    environ: dict[str, str], query: str, name: str, value: str, database: Database, folder: Folder, slipway: Slipway
) -> None:
    show = f"INSERT INTO public.seen SELECT current_setting('{name}');"
    files = {f"00{number}_a.sql": show for number in range(2, 5)}
    given = environ | {"DATABASE_URL": f"{database.url}?{query}"}

    finished = slipway(env=given, migrations=folder({"001_a.sql": "CREATE TABLE public.seen (value text);"} | files))

    assert finished.code == 0, finished
    async with database.connection() as connection:
        assert await connection.fetchval("SELECT array_agg(value) FROM seen") == [value] * 3


ENCODINGS: dict[str, tuple[dict[str, str], str]] = {
    "client_encoding": ({}, "client_encoding=latin1"),
    "PGCLIENTENCODING": ({"PGCLIENTENCODING": "latin1"}, ""),
    "PGOPTIONS": ({"PGOPTIONS": "-c client_encoding=latin1"}, ""),
}


@pytest.mark.parametrize(("environ", "query"), ENCODINGS.values(), ids=ENCODINGS)
async def test_encoding_of_the_client_does_not_change_the_text_that_is_stored(
    environ: dict[str, str], query: str, database: Database, folder: Folder, slipway: Slipway
) -> None:
    files = {"001_a.sql": "CREATE TABLE a AS SELECT 'Zoë' AS name;", "002_b.sql": "INSERT INTO a VALUES ('Zoë');"}
    given = environ | {"DATABASE_URL": f"{database.url}?{query}"}

    finished = slipway(env=given, migrations=folder(files))

    assert finished.code == 0, finished
    async with database.connection() as connection:
        assert await connection.fetchval("SELECT array_agg(name) FROM a") == ["Zoë", "Zoë"]
