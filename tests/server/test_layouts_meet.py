"""A folder in which the files of two layouts are: refused, unless the history says that it was so before."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Folder, Slipway
    from servers import Database

MEET = (
    "two layouts meet in this folder: seed/migration.sql (prisma) and 001_a.sql (plain); keep the files of one of "
    "them, or say which one it is with MIGRATE_LAYOUT, and the others are not read"
)
FILES = {"001_a.sql": "CREATE TABLE a ();", "seed/migration.sql": "CREATE TABLE seed ();"}


@pytest.mark.parametrize("command", ["up", "wait", "plan", "status", "check"])
def test_new_folder_is_refused(command: str, database: Database, folder: Folder, slipway: Slipway) -> None:
    finished = slipway(command, env=database.environ, migrations=folder(FILES))

    assert finished.outcome, finished
    assert (finished.code, finished.outcome["message"]) == (21, MEET)


@pytest.mark.parametrize("command", ["up", "wait", "plan", "status"])
async def test_folder_whose_plain_files_the_history_has_stays_plain(
    command: str, database: Database, folder: Folder, slipway: Slipway
) -> None:
    migrations = folder(FILES)
    slipway(env={**database.environ, "MIGRATE_LAYOUT": "plain"}, migrations=migrations)

    finished = slipway(command, env=database.environ, migrations=migrations)

    assert finished.code == 0, finished
    assert await database.fetch("SELECT FROM pg_class WHERE relname = 'seed'") == []


async def test_history_of_other_files_decides_nothing(database: Database, folder: Folder, slipway: Slipway) -> None:
    migrations = folder({"002_other.sql": ""})
    slipway(env=database.environ, migrations=migrations)
    (migrations / "002_other.sql").unlink()

    finished = slipway(env=database.environ, migrations=folder(FILES))

    assert finished.outcome, finished
    assert (finished.code, finished.outcome["message"]) == (21, MEET)
