"""Real input: the folders of other tools' users, each run as it lies there, beside psql that runs its up parts."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

import real_folders
from real_folders import DOCS_RS, E2B, HOPPSCOTCH, KESTRA, MOVING, NCPS, SIGNUP, ZERO
from unfinished import is_valid

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from conftest import Folder, Slipway
    from real_folders import Real
    from servers import Database, Embedded

pytestmark = pytest.mark.skipif(not MOVING.is_dir(), reason="the folders of other tools are not in this clone")


TEMPLATE = "a template of tern's, which pgslipway does not fill in; write what it becomes"
UNDO = "no V file has this version, so it is nothing that undoes one; refinery's U files may become V files"


@pytest.fixture(scope="module")
def installed() -> Iterator[Embedded]:
    """The binaries of a server with extensions."""
    yield from real_folders.servers()


@pytest.mark.parametrize(
    ("real", "number", "told_by", "not_read"),
    [
        (E2B, 131, "goose (told by 20000101000000_auth.sql)", "NOTICE.md"),
        (NCPS, 16, "goose (told by 20260101000000_init_schema.sql)", "NOTICE.md, atlas.sum"),
        (KESTRA, 26, "flyway (told by V1_10__multitenant_indices.sql)", "NOTICE.md"),
        (HOPPSCOTCH, 21, "prisma (told by 20230406064219_init/migration.sql)", "NOTICE.md"),
        (DOCS_RS, 33, "", ""),
        (ZERO, 26, "drizzle (told by meta/_journal.json)", "0025_far_echo.sql, NOTICE.md"),
    ],
    ids=lambda value: value.name if isinstance(value, real_folders.Real) else "",
)
def test_folder_makes_the_schema_that_psql_makes_of_its_up_parts(
    real: Real, number: int, told_by: str, not_read: str, installed: Embedded, embedded: Embedded, slipway: Slipway
) -> None:
    """On a server each: some make roles, which all databases of a server share."""
    first = len(installed.clusters)
    by_us, by_psql = (installed.cluster().start().database for _ in range(2))

    checked = slipway("check", env={}, migrations=real.path, log_format="text")
    applied = slipway(env=by_us.environ, migrations=real.path)
    again = slipway(env=by_us.environ, migrations=real.path)
    real_folders.apply(real.parts(), by_psql, embedded)

    laid_out = f", laid out as by {told_by}" if told_by else ""
    said = [line.partition(" ")[2] for line in checked.err.splitlines()]
    assert said == [f"not read: {not_read}"] * bool(not_read) + [
        f"checked {number} migrations{laid_out}: nothing wrong"
    ]
    assert applied.code == 0, applied
    assert applied.outcome
    assert applied.outcome["applied_count"] == len(real.parts()) == number
    assert again.code == 0, again
    assert again.outcome
    assert again.outcome["applied"] == []
    expected = real_folders.dump(by_psql, embedded)
    assert len(expected) > 20
    assert real_folders.dump(by_us, embedded) == expected
    installed.remove_clusters_from(first)


@pytest.mark.parametrize("real", [E2B, NCPS, KESTRA, HOPPSCOTCH, DOCS_RS, ZERO], ids=lambda real: real.name)
async def test_dump_of_its_database_with_rows_is_a_file_that_makes_it_again(
    real: Real, installed: Embedded, embedded: Embedded, slipway: Slipway, folder: Folder
) -> None:
    first = len(installed.clusters)
    original = installed.cluster().start().database
    assert slipway(env=original.environ, migrations=real.path).code == 0
    tables = await real_folders.fill(original)
    text = real_folders.write_dump(original, embedded, "--verbose").read_text()

    async with original.server.fresh_database() as copy:
        finished = slipway(env=copy.environ, migrations=folder({"1_all.sql": text}))
        again = real_folders.write_dump(copy, embedded, "--verbose").read_text()

    assert finished.code == 0, finished
    assert tables > 3
    assert text.count("FROM stdin;\n") >= tables
    assert real_folders.essence(again.splitlines()) == real_folders.essence(text.splitlines())
    installed.remove_clusters_from(first)


def test_folder_with_a_file_that_no_postgres_takes_stops_there(
    installed: Embedded, embedded: Embedded, slipway: Slipway
) -> None:
    """Its sixth file has the KEY of another database: the team's own history ends at the fifth."""
    first = len(installed.clusters)
    by_us, by_psql = (installed.cluster().start().database for _ in range(2))

    checked = slipway("check", env={}, migrations=SIGNUP.path, log_format="text")
    finished = slipway(env=by_us.environ, migrations=SIGNUP.path, log_format="text")
    real_folders.apply(SIGNUP.parts()[:5], by_psql, embedded)

    assert [line.partition(" ")[2] for line in checked.err.splitlines()] == [
        "not read: NOTICE.md, tern.conf",
        "checked 7 migrations, laid out as by tern (told by tern.conf): nothing wrong",
    ]
    assert finished.code == 24, finished
    assert finished.outcome
    assert finished.outcome["applied"] == [part.filename for part in SIGNUP.parts()[:5]]
    assert finished.outcome["problems"] == [
        {"file": "006_multi_signups.sql", "line": 13, "text": 'syntax error at or near "("'}
    ]
    assert real_folders.dump(by_us, embedded) == real_folders.dump(by_psql, embedded)
    installed.remove_clusters_from(first)


async def test_folder_with_placeholders_and_a_repeatable_file_is_applied(database: Database, slipway: Slipway) -> None:
    folder = MOVING / "flyway/synthetic"

    without = slipway(env=database.environ, migrations=folder)
    finished = slipway(env=database.environ, migrations=folder, var_who="me")

    assert (without.code, finished.code) == (20, 0), f"{without}{finished}"
    assert "V2__ph.sql needs MIGRATE_VAR_WHO, the value of its variable ${who}" in without.err
    assert (await database.fetch("SELECT count(*) FROM schema_migrations_repeatable"))[0][0] == 1


@pytest.mark.parametrize(
    ("name", "without", "problems"),
    [
        (
            "tern/tpr",
            "",
            [
                ("001_create_users.sql", 10, TEMPLATE),
                ("002_create_feeds.sql", 15, TEMPLATE),
                ("003_create_items.sql", 14, TEMPLATE),
                ("004_create_subscriptions.sql", 9, TEMPLATE),
                ("005_create_unread_items.sql", 10, TEMPLATE),
                ("006_create_sessions.sql", 7, TEMPLATE),
                ("007_create_create_subscriptions.sql", 1, TEMPLATE),
                ("008_fix_sequence_permissions.sql", 1, TEMPLATE),
                ("009_add_truncate_permission.sql", 1, TEMPLATE),
                ("011_create_password_resets.sql", 14, TEMPLATE),
            ],
        ),
        ("refinery/synthetic/migrations", "", [("U3__uu.sql", None, UNDO)]),
    ],
    ids=["tern", "refinery"],
)
async def test_folder_that_asks_for_more_than_we_do_is_refused_before_anything_is_written(
    name: str,
    without: str,
    problems: list[tuple[str, int | None, str]],
    database: Database,
    slipway: Slipway,
    tmp_path: Path,
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(MOVING / name, folder, ignore=shutil.ignore_patterns(without))

    finished = slipway(env=database.environ, migrations=folder)

    assert finished.code == 21, finished
    assert finished.outcome
    assert [(one["file"], one.get("line"), one["text"]) for one in finished.outcome["problems"]] == problems
    assert await database.fetch("SELECT FROM pg_class WHERE relnamespace = 'public'::regnamespace") == []


async def test_subfolder_and_a_file_with_settings_are_read_as_flyway_reads_them(
    database: Database, slipway: Slipway, tmp_path: Path
) -> None:
    """By version, not by folder; a concurrent index by itself, as Flyway finds out, and by a .conf file."""
    folder = tmp_path / "copy"
    shutil.copytree(MOVING / "flyway" / "synthetic", folder, ignore=shutil.ignore_patterns("R__v.sql", "V2__ph.sql"))

    finished = slipway(env=database.environ, migrations=folder)

    assert finished.code == 0, finished
    assert finished.outcome
    assert finished.outcome["applied"] == ["V1__a.sql", "sub/V1.1__idx.sql", "V3__c.sql"]
    assert await is_valid(database, "t_i")
