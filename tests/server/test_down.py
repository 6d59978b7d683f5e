"""`down VERSION`: what a person undoes, newest first, and what is refused before anything is."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from servers import eventually

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Finished, Folder, Slipway
    from servers import Database

UP, DOWN = "CREATE TABLE t{0} ();", "DROP TABLE t{0};"
PLAIN = {
    f"00{number}_t.{way}.sql": text.format(number) for number in (1, 2, 3) for way, text in (("up", UP), ("down", DOWN))
}
GOOSE = "-- +goose Up\n{up}\n-- +goose Down\n{down}\n"
DBMATE = "-- migrate:up\n{up}\n-- migrate:down\n{down}\n"
TERN = "{up}\n---- create above / drop below ----\n{down}\n"
LAYOUTS = {
    "plain": {"1_t.sql": "{up}", "1_t.down.sql": "{down}"},
    "golang-migrate": {"1_t.up.sql": "{up}", "1_other_name.down.sql": "{down}"},
    "goose": {"1_t.sql": GOOSE},
    "goose with CRLF": {"1_t.sql": GOOSE.replace("\n", "\r\n")},
    "dbmate": {"1_t.sql": DBMATE},
    "tern": {"1_t.sql": TERN},
    "flyway": {"V1__t.sql": "{up}", "U1__t.sql": "{down}"},
    "flyway below": {"a/V1.0__t.sql": "{up}", "a/U1.0__t.sql": "{down}"},
    "prisma": {"1_t/migration.sql": "{up}", "1_t/down.sql": "{down}"},
    "diesel": {"1_t/up.sql": "{up}", "1_t/down.sql": "{down}"},
}


async def tables(database: Database) -> list[str]:
    rows = await database.fetch("SELECT relname::text FROM pg_class WHERE relname ~ '^t[0-9]$' ORDER BY 1")
    return [row["relname"] for row in rows]


def apply(slipway: Slipway, database: Database, migrations: Path) -> Path:
    applied = slipway(env=database.environ, migrations=migrations)
    assert applied.code == 0, applied
    return migrations


def message(finished: Finished) -> str:
    assert finished.outcome, finished
    return str(finished.outcome["message"])


async def test_everything_above_the_version_is_undone(database: Database, folder: Folder, slipway: Slipway) -> None:
    migrations = apply(slipway, database, folder(PLAIN))

    finished = slipway("down", "1", env=database.environ, migrations=migrations)

    assert (finished.code, message(finished)) == (
        0,
        "undone 2 migrations; the newest that is applied is 001_t.up.sql",
    ), finished
    lines = [line.partition(" in ")[0][9:] for line in finished.err.splitlines() if "undone 00" in line]
    assert lines == ["undone 003_t.down.sql", "undone 002_t.down.sql"]
    assert await tables(database) == ["t1"]
    assert await database.applied() == ["001_t.up.sql"]


@pytest.mark.parametrize("files", LAYOUTS.values(), ids=LAYOUTS)
async def test_down_part_of_each_layout(
    files: dict[str, str], database: Database, folder: Folder, slipway: Slipway
) -> None:
    written = {name: text.format(up=UP.format(1), down=DOWN.format(1)) for name, text in files.items()}
    migrations = apply(slipway, database, folder(written))
    assert await tables(database) == ["t1"]

    finished = slipway("down", "0", env=database.environ, migrations=migrations)

    assert (finished.code, message(finished)) == (0, "undone 1 migration; none is applied any more"), finished
    assert await tables(database) == []
    assert await database.applied() == []
    assert slipway(env=database.environ, migrations=migrations).code == 0
    assert await tables(database) == ["t1"]


ONE_TRANSACTION = "a down part is one transaction with the removal of its row; undo by hand what cannot be in one"
REFUSED = {
    "no down part": ({"002_t.down.sql": None}, 21, "002_t.up.sql: nothing here undoes it; add its down file"),
    "two down parts": (
        {"2_x.down.sql": "SELECT 1"},
        21,
        "002_t.up.sql: 002_t.down.sql and 2_x.down.sql undo it; keep one",
    ),
    "no transaction": (
        {"002_t.down.sql": "-- no-transaction\nVACUUM"},
        21,
        f"002_t.down.sql: {ONE_TRANSACTION}",
    ),
    "edited": (
        {"002_t.up.sql": "CREATE TABLE other ();"},
        23,
        "002_t.up.sql was edited after it was applied, so its down part may not fit; put the old text back",
    ),
    "gone": (
        {"002_t.up.sql": None},
        23,
        (
            "002_t.up.sql was applied but is not in this image; put the file back, as it was, or, if it never belongs "
            "here, delete its row from the history"
        ),
    ),
    "ahead": (
        {"003_t.up.sql": None},
        23,
        "003_t.up.sql was applied by a newer image, which has its down part; use that one",
    ),
}


@pytest.mark.parametrize(("changes", "code", "expected"), REFUSED.values(), ids=REFUSED)
async def test_nothing_is_undone_where_one_file_cannot_be(
    changes: dict[str, str | None], code: int, expected: str, database: Database, folder: Folder, slipway: Slipway
) -> None:
    migrations = apply(slipway, database, folder(PLAIN))
    for name, text in changes.items():
        (migrations / name).unlink(missing_ok=True)
        if text is not None:
            (migrations / name).write_text(text)

    finished = slipway("down", "1", env=database.environ, migrations=migrations)

    assert (finished.code, message(finished)) == (code, expected), finished
    assert await tables(database) == ["t1", "t2", "t3"]


async def test_what_is_below_the_version_may_be_as_it_likes(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    migrations = apply(slipway, database, folder(PLAIN))
    (migrations / "001_t.down.sql").unlink()
    (migrations / "001_t.up.sql").write_text("SELECT 'edited'")

    finished = slipway("down", "2", env=database.environ, migrations=migrations)

    assert finished.code == 0, finished
    assert await tables(database) == ["t1", "t2"]


async def test_failure_keeps_what_was_undone_before_it(database: Database, folder: Folder, slipway: Slipway) -> None:
    migrations = apply(slipway, database, folder({**PLAIN, "002_t.down.sql": "DROP TABLE t2;\nDROP TABLE nowhere;"}))

    finished = slipway("down", "0", env=database.environ, migrations=migrations)

    assert (finished.code, message(finished)) == (
        24,
        (
            '002_t.down.sql:2: table "nowhere" does not exist\n  2 | DROP TABLE nowhere;\n    | ^\nSQLSTATE 42P01\n'
            "002_t.down.sql was rolled back"
        ),
    ), finished
    assert await tables(database) == ["t1", "t2"]
    assert await database.applied() == ["001_t.up.sql", "002_t.up.sql"]


async def test_place_in_a_section_is_the_line_of_the_file(database: Database, folder: Folder, slipway: Slipway) -> None:
    text = GOOSE.format(up="CREATE TABLE t1 ();\n", down="SELECT 1;\nDROP TABLE nowhere;")
    migrations = apply(slipway, database, folder({"1_t.sql": text}))

    finished = slipway("down", "0", env=database.environ, migrations=migrations)

    assert message(finished).startswith('1_t.sql:6: table "nowhere" does not exist\n  6 | DROP TABLE nowhere;\n')


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "down takes the version to go back to, as in: pgslipway down 3; `down 0` undoes all"),
        (["7"], "down: no file and no row of the history has the version 7"),
        (["one"], "down: 'one' is no version, such as 3"),
    ],
    ids=["none", "unknown", "nonsense"],
)
async def test_version_has_to_be_known(
    arguments: list[str], expected: str, database: Database, folder: Folder, slipway: Slipway
) -> None:
    migrations = apply(slipway, database, folder(PLAIN))

    finished = slipway("down", *arguments, env=database.environ, migrations=migrations)

    assert (finished.code, message(finished)) == (20, expected), finished
    assert await tables(database) == ["t1", "t2", "t3"]


async def test_floor_goes_with_its_row(database: Database, folder: Folder, slipway: Slipway) -> None:
    files = {**PLAIN, "003_t.up.sql": "-- minimum-version: 3\nCREATE TABLE t3 ();"}
    migrations = apply(slipway, database, folder(files))

    slipway("down", "2", env=database.environ, migrations=migrations)
    for name in ("003_t.up.sql", "003_t.down.sql"):
        (migrations / name).unlink()

    assert slipway(env=database.environ, migrations=migrations).code == 0


async def test_waits_for_another_runner(database: Database, folder: Folder, slipway: Slipway) -> None:
    migrations = apply(slipway, database, folder(PLAIN))
    async with database.migration_lock():
        finished = await asyncio.to_thread(
            slipway, "down", "0", env=database.environ, migrations=migrations, lock_timeout="500ms"
        )

    assert finished.code == 11, finished
    assert await tables(database) == ["t1", "t2", "t3"]


async def test_busy_table_is_tried_again(database: Database, folder: Folder, slipway: Slipway) -> None:
    migrations = apply(slipway, database, folder(PLAIN))
    async with database.connection() as reader:
        transaction = reader.transaction()
        await transaction.start()
        await reader.execute("SELECT FROM t3")
        running = slipway.start("down", "2", env=database.environ, migrations=migrations, ddl_lock_timeout="100ms")
        await asyncio.to_thread(running.wait_for_log, "003_t.down.sql: ")
        await transaction.rollback()
        finished = await asyncio.to_thread(running.finish)

    assert finished.code == 0, finished
    assert "rolled back, trying again" in finished.err
    assert await tables(database) == ["t1", "t2"]


async def test_signal_rolls_back(database: Database, folder: Folder, slipway: Slipway) -> None:
    migrations = apply(slipway, database, folder({**PLAIN, "002_t.down.sql": "DROP TABLE t2; SELECT pg_sleep(600);"}))
    running = slipway.start("down", "1", env=database.environ, migrations=migrations)
    await asyncio.to_thread(running.wait_for_log, "undone 003_t.down.sql")
    asleep = "SELECT FROM pg_stat_activity WHERE query LIKE '%pg_sleep(600)%' AND pid <> pg_backend_pid()"
    await eventually(lambda: database.fetch(asleep), "the down part is not run")

    running.terminate()
    finished = await asyncio.to_thread(running.finish)

    assert finished.code == 143, finished
    assert await tables(database) == ["t1", "t2"]
    assert await database.applied() == ["001_t.up.sql", "002_t.up.sql"]


TOUCHING = {
    "writes its row again": (
        "INSERT INTO schema_migrations (version, filename) VALUES (3, '003_t.up.sql')",
        ("003_t.down.sql: this file wrote its own row into the history again, \"public\".\"schema_migrations\"; "
        "a file must leave it alone"),
    ),
    "ends its transaction": ("COMMIT", "003_t.down.sql:1: COMMIT: a file is one transaction already; remove it"),
}  # fmt: skip


@pytest.mark.parametrize(("sql", "expected"), TOUCHING.values(), ids=TOUCHING)
async def test_down_part_must_leave_the_history_alone(
    sql: str, expected: str, database: Database, folder: Folder, slipway: Slipway
) -> None:
    migrations = apply(slipway, database, folder({**PLAIN, "003_t.down.sql": sql}))

    finished = slipway("down", "2", env=database.environ, migrations=migrations)

    assert finished.code in {21, 24}, finished
    assert message(finished).startswith(expected)
    assert await tables(database) == ["t1", "t2", "t3"]


async def test_down_part_that_drops_the_lock_is_followed_by_the_next_one(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    files = {**PLAIN, "003_t.down.sql": "DROP TABLE t3; SELECT pg_advisory_unlock_all();"}
    migrations = apply(slipway, database, folder(files))

    finished = slipway("down", "1", env=database.environ, migrations=migrations)

    assert (finished.code, message(finished)) == (
        0,
        "undone 2 migrations; the newest that is applied is 001_t.up.sql",
    ), finished
    assert await tables(database) == ["t1"]


async def test_unfinished_file_above_the_version_comes_first(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    migrations = apply(slipway, database, folder(PLAIN))
    folder({"004_t.sql": "-- no-transaction\nCREATE TABLE t4 ();\nSELECT 1/0;"})
    assert slipway(env=database.environ, migrations=migrations).code == 24

    finished = slipway("down", "2", env=database.environ, migrations=migrations)

    assert (finished.code, message(finished)) == (
        23,
        "unfinished: 004_t.sql; finish it with `up`, or undo it and `resolve --restart`",
    ), finished
    assert await tables(database) == ["t1", "t2", "t3", "t4"]


async def test_squash_without_a_row_of_its_own_is_told(database: Database, folder: Folder, slipway: Slipway) -> None:
    migrations = apply(slipway, database, folder(PLAIN))
    for path in migrations.iterdir():
        path.unlink()
    folder({"004_all.sql": "-- squash\nSELECT 1"})

    finished = slipway("down", "0", env=database.environ, migrations=migrations)

    assert (finished.code, message(finished)) == (
        23,
        (
            "004_all.sql stands for all files before it, and this database has only 001_t.up.sql, 002_t.up.sql, "
            "003_t.up.sql of them; bring it up to that version with the last image that has these files"
        ),
    ), finished
    assert len(await database.applied()) == 3


async def test_unfinished_file_that_is_not_here_is_named_by_its_version(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    migrations = apply(slipway, database, folder(PLAIN))
    folder({"004_t.sql": "-- no-transaction\nCREATE TABLE t4 ();\nSELECT 1/0;"})
    assert slipway(env=database.environ, migrations=migrations).code == 24
    (migrations / "004_t.sql").unlink()

    finished = slipway("down", "2", env=database.environ, migrations=migrations)

    assert (finished.code, message(finished)) == (
        23,
        "unfinished: version 4; finish it with `up`, or undo it and `resolve --restart`",
    ), finished


async def test_diesels_metadata_counts_for_the_down_part(database: Database, folder: Folder, slipway: Slipway) -> None:
    files = {"1_t/up.sql": "CREATE TABLE t1 ()", "1_t/down.sql": "DROP TABLE t1", "1_t/metadata.toml": ""}
    migrations = apply(slipway, database, folder(files))
    (migrations / "1_t/metadata.toml").write_text("run_in_transaction = false")

    finished = slipway("down", "0", env=database.environ, migrations=migrations)

    assert (finished.code, message(finished)) == (21, f"1_t/down.sql: {ONE_TRANSACTION}"), finished
