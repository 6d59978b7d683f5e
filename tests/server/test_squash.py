"""`-- squash`: one file that stands for all that were before it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Finished, Slipway
    from servers import Database

OLD = {f"{number:03}_t.sql": f"CREATE TABLE t{number} ();" for number in range(1, 5)}
SQUASH = {"004_all.sql": "-- squash\n" + "\n".join(OLD.values())}
NEXT = {"005_next.sql": "CREATE TABLE t5 ();"}


class Releases:
    """Images of a product: of all files, and of the squash with one more."""

    def __init__(self, slipway: Slipway, database: Database, path: Path) -> None:
        self.slipway, self.database, self.path = slipway, database, path

    def folder(self, files: dict[str, str]) -> Path:
        folder = self.path / str(len([*self.path.iterdir()]))
        folder.mkdir()
        for name, text in files.items():
            (folder / name).write_text(text)
        return folder

    def __call__(self, *command: str, files: dict[str, str]) -> Finished:
        return self.slipway(*command, env=self.database.environ, migrations=self.folder(files), wait_timeout="5s")


@pytest.fixture
def release(slipway: Slipway, database: Database, tmp_path: Path) -> Releases:
    path = tmp_path / "releases"
    path.mkdir()
    return Releases(slipway, database, path)


async def tables(database: Database) -> int:
    return len(await database.fetch("SELECT FROM pg_class WHERE relname ~ '^t[0-9]$'"))


async def test_new_database_gets_the_squash_alone(release: Releases, database: Database) -> None:
    finished = release(files=SQUASH | NEXT)

    assert finished.code == 0, finished
    assert await database.applied() == ["004_all.sql", "005_next.sql"]
    assert await tables(database) == 5


async def test_database_with_all_of_them_gets_what_is_new(release: Releases, database: Database) -> None:
    release(files=OLD)

    finished = [release(*command, files=SQUASH | NEXT) for command in ((), (), ("wait",), ("plan",))]

    assert [one.code for one in finished] == [0, 0, 0, 0], finished
    assert await database.applied() == [*OLD, "005_next.sql"]
    assert await tables(database) == 5
    assert "warning" not in "".join(one.err for one in finished)


async def test_database_with_some_of_them_is_refused(release: Releases, database: Database) -> None:
    release(files=dict([*OLD.items()][:3]))

    finished = [release(*command, files=SQUASH | NEXT) for command in ((), ("wait",), ("plan",))]

    assert [one.code for one in finished] == [23, 23, 23], finished
    assert [one.outcome and one.outcome["message"] for one in finished] == 3 * [
        (
            "004_all.sql stands for all files before it, and this database has only 001_t.sql, 002_t.sql, 003_t.sql of "
            "them; bring it up to that version with the last image that has these files"
        )
    ]
    assert await tables(database) == 3


async def test_database_that_is_ahead_stays_so(release: Releases, database: Database) -> None:
    release(files=OLD | NEXT)

    finished = release(files=SQUASH)

    assert finished.code == 0, finished
    assert "the database is ahead of this image, by 005_next.sql" in finished.err
    assert await tables(database) == 5


async def test_old_image_runs_again_afterwards(release: Releases, database: Database) -> None:
    release(files=OLD)
    release(files=SQUASH | NEXT)

    finished = release(files=OLD)

    assert finished.code == 0, finished
    assert await tables(database) == 5


async def test_old_image_does_not_fit_a_database_that_began_with_the_squash(release: Releases) -> None:
    release(files=SQUASH)

    finished = release(files=OLD)

    assert finished.code == 23, finished


async def test_status_shows_the_rows_that_it_stands_for(release: Releases) -> None:
    release(files=OLD)

    finished = release("status", files=SQUASH | NEXT)

    states = [line.split()[:2] for line in finished.out.splitlines()[1:]]
    assert states == [*(["123"[place], "squashed"] for place in range(3)), ["4", "applied"], ["5", "pending"]]


@pytest.mark.parametrize("command", ["up", "plan", "check"])
async def test_squash_after_another_file_is_refused(command: str, release: Releases) -> None:
    finished = release(command, files={"001_t.sql": OLD["001_t.sql"], **SQUASH})

    assert finished.outcome, finished
    assert (finished.code, finished.outcome["message"]) == (
        21,
        (
            "004_all.sql stands for all files before it (-- squash), and 001_t.sql is before it; delete the files that "
            "it stands for"
        ),
    )


async def test_file_that_is_no_squash_stands_for_nothing(release: Releases) -> None:
    release(files=OLD)

    finished = release(files={"004_all.sql": "SELECT 1;\n-- squash"})

    assert finished.code == 23, finished
    assert finished.outcome
    assert [problem["file"] for problem in finished.outcome["problems"]] == [*[*OLD][:3], "004_all.sql"]


async def test_squash_is_not_undone_where_it_stands_for_others(release: Releases, database: Database) -> None:
    release(files=OLD)

    finished = release("down", "0", files={**SQUASH, "004_all.down.sql": "DROP TABLE t1, t2, t3, t4"})

    assert finished.outcome, finished
    assert (finished.code, finished.outcome["message"]) == (
        23,
        "004_all.sql stands for 001_t.sql, 002_t.sql, 003_t.sql in this database; undo it by hand",
    )
    assert await tables(database) == 4
