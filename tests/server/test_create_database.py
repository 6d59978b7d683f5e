"""MIGRATE_CREATE_DATABASE: a database that does not exist is created."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from conftest import Folder, Slipway
    from servers import Database, Embedded

FILES = {"001_a.sql": "CREATE TABLE a ();"}
NEW = 'a new "shop"'
"""A name that has to be quoted."""


@pytest.fixture
async def missing(database: Database) -> AsyncIterator[Database]:
    """A database that does not exist; it is dropped in the end."""
    one = replace(database, name=f"{database.name} {NEW}")
    yield one
    await database.execute("DROP DATABASE IF EXISTS {} WITH (FORCE)".format('"' + one.name.replace('"', '""') + '"'))


async def owner(database: Database) -> str:
    [row] = await database.fetch(
        "SELECT pg_get_userbyid(datdba)::text AS owner FROM pg_database WHERE datname = current_database()"
    )
    return str(row["owner"])


async def test_missing_database_is_created_and_migrated(missing: Database, folder: Folder, slipway: Slipway) -> None:
    finished = slipway(env=missing.environ, migrations=folder(FILES), create_database="yes")

    assert finished.code == 0, finished
    assert f"created the database {missing.name}\n" in finished.err
    assert await missing.applied() == ["001_a.sql"]


async def test_two_runners_create_it_once(missing: Database, folder: Folder, slipway: Slipway) -> None:
    migrations = folder(FILES)

    runs = [slipway.start(env=missing.environ, migrations=migrations, create_database="yes") for _ in range(2)]
    finished = [await asyncio.to_thread(run.finish) for run in runs]

    assert [one.code for one in finished] == [0, 0], finished
    assert sum(one.err.count("created the database") for one in finished) == 1
    assert await missing.applied() == ["001_a.sql"]


async def test_template_in_use_is_waited_for(embedded: Embedded, folder: Folder, slipway: Slipway) -> None:
    cluster = embedded.cluster().start()
    missing = replace(cluster.database, name="shop")

    async with replace(missing, name="template1").connection():
        run = slipway.start(env=missing.environ, migrations=folder(FILES), create_database="yes")
        await asyncio.to_thread(run.wait_for_log, "could not be created yet: source database")
    finished = await asyncio.to_thread(run.finish)

    assert finished.code == 0, finished
    assert await missing.applied() == ["001_a.sql"]


async def test_role_of_the_settings_owns_it(
    missing: Database, database: Database, folder: Folder, slipway: Slipway
) -> None:
    role = f"owner_{database.name}"
    await database.execute(f"CREATE ROLE {role}")

    finished = slipway(env=missing.environ, migrations=folder(FILES), create_database="yes", role=role)

    assert finished.code == 0, finished
    assert await owner(missing) == role


async def test_user_who_may_not_create_it_is_told(
    missing: Database, database: Database, folder: Folder, slipway: Slipway
) -> None:
    user = f"user_{database.name}"
    await database.create_role(user)

    finished = slipway(env=missing.login(user).environ, migrations=folder(FILES), create_database="yes")

    assert finished.outcome, finished
    assert finished.code == 22
    assert finished.outcome["message"] == (
        f"the database {missing.name} does not exist, and could not be created "
        "(MIGRATE_CREATE_DATABASE=yes): permission denied to create database; the user needs CREATEDB, and to be a "
        "member of MIGRATE_ROLE if that is set"
    )


@pytest.mark.parametrize(("command", "setting"), [("up", ""), ("up", "no"), ("status", "yes"), ("plan", "yes")])
async def test_nobody_else_creates_it(
    command: str, setting: str, missing: Database, folder: Folder, slipway: Slipway
) -> None:
    finished = slipway(command, env=missing.environ, migrations=folder(FILES), create_database=setting)

    assert finished.outcome, finished
    assert finished.code == 22
    assert f'database "{missing.name}" does not exist' in finished.outcome["message"]


async def test_wait_waits_for_it(missing: Database, folder: Folder, slipway: Slipway) -> None:
    migrations = folder(FILES)
    waiting = slipway.start("wait", env=missing.environ, migrations=migrations, create_database="yes")
    await asyncio.to_thread(waiting.wait_for_log, "does not exist")

    slipway(env=missing.environ, migrations=migrations, create_database="yes")

    finished = await asyncio.to_thread(waiting.finish)
    assert finished.code == 0, finished


async def test_wait_for_a_database_that_does_not_come_is_not_yet(
    missing: Database, folder: Folder, slipway: Slipway
) -> None:
    finished = slipway(
        "wait", env=missing.environ, migrations=folder(FILES), create_database="yes", wait_timeout="1s"
    )  # fmt: skip

    assert finished.outcome, finished
    assert finished.code == 14
    assert re.fullmatch(
        rf'.*: database "{re.escape(missing.name)}" does not exist \(gave up after MIGRATE_WAIT_TIMEOUT=1s\)',
        finished.outcome["message"],
    )
