"""Repeatable files: applied after the versions, whenever they change, by the image that is the newer one."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import asyncpg
import pytest

from pgslipway import run_migrations
from pgslipway.config import from_keywords
from pgslipway.errors import FilesChanged
from pgslipway.run import run_of
from proxy import RoundTrips
from rollouts import ROLLOUTS, Model

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Finished, Folder, Slipway
    from servers import Database

TEXTS = "schema_migrations_repeatable"
VIEW = "CREATE OR REPLACE VIEW v AS SELECT {} AS n;\n"
TABLE = {"001_a.sql": "CREATE TABLE a (n int);"}
REPEATABLE = {**TABLE, "R__v.sql": VIEW.format(1)}
TOLD_APART_BY_NOBODY = (
    "R__v.sql is superseded: its text, with the values of its variables, was applied before, and another one since, "
    "by an image with the same newest version, so nobody can tell which is the newer one; if this one is, change a "
    "comment in it, or add a version"
)


def message(finished: Finished) -> str:
    assert finished.outcome, finished
    return str(finished.outcome["message"])


class Ground:
    """A database, and the folders of releases."""

    def __init__(self, database: Database, slipway: Slipway, folder: Folder) -> None:
        self.database, self.slipway, self.folder = database, slipway, folder

    def __call__(self, *args: str) -> Finished:
        return self.slipway(*args, env=self.database.environ, migrations=self.folder({}))

    def up(self, code: int = 0) -> str:
        """The last line of a run."""
        finished = self()
        assert finished.code == code, finished
        return message(finished)

    async def shown(self) -> int:
        """What the view says."""
        (row,) = await self.database.fetch("SELECT n FROM v")
        return int(row["n"])


@pytest.fixture
def ground(database: Database, slipway: Slipway, folder: Folder) -> Ground:
    return Ground(database, slipway, folder)


async def test_text_is_applied_whenever_it_is_new_and_left_alone_when_it_comes_back(
    ground: Ground, folder: Folder
) -> None:
    folder(REPEATABLE)
    assert ground("status", "--exit-code").code == 14
    assert message(ground("plan")) == "1 migration and 1 repeatable file to apply"
    assert (
        ground.up() == "up to date: applied 1 migration and 1 repeatable file; the newest of 1 migration is 001_a.sql"
    )
    assert ground.up() == "up to date: nothing to do; the newest of 1 migration is 001_a.sql"

    folder({"R__v.sql": VIEW.format(2)})
    assert message(ground("status", "--exit-code")) == "1 repeatable file pending: R__v.sql"
    assert "apply R__v.sql (1 statement, in a transaction)" in ground("plan").out
    missing = ground.slipway("wait", env=ground.database.environ, migrations=folder({}), wait_timeout="1ms")
    assert missing.code == 14, missing
    assert "waiting for the schema: 1 repeatable file missing: R__v.sql\n" in missing.err
    assert ground.up() == "up to date: applied 1 repeatable file; the newest of 1 migration is 001_a.sql"
    assert await ground.shown() == 2

    folder({"R__v.sql": VIEW.format(1)})
    finished = ground()
    last = "up to date: nothing to do; the newest of 1 migration is 001_a.sql; superseded: R__v.sql"
    assert (finished.code, message(finished)) == (0, last), finished
    assert TOLD_APART_BY_NOBODY in finished.err
    assert message(ground("wait")) == "up to date: the newest of 1 migration is 001_a.sql; superseded: R__v.sql"
    status = ground("status", "--json")
    assert (status.code, message(status)) == (0, "0 migrations pending; superseded: R__v.sql")
    assert [(row["version"], row["filename"], row["state"]) for row in json.loads(status.out)] == [
        (1, "001_a.sql", "applied"),
        (None, "R__v.sql", "superseded"),
    ]
    assert message(ground("plan")) == "0 migrations to apply; superseded: R__v.sql"
    assert await ground.shown() == 2

    folder({"R__v.sql": f"-- as before\n{VIEW.format(1)}"})
    assert ground.up() == "up to date: applied 1 repeatable file; the newest of 1 migration is 001_a.sql"
    assert await ground.shown() == 1


async def test_older_image_leaves_the_newer_text_alone(ground: Ground, folder: Folder) -> None:
    folder({**REPEATABLE, "002_b.sql": "SELECT 1;"})
    ground.up()
    (folder.path / "002_b.sql").unlink()
    folder({"R__v.sql": VIEW.format(0)})

    finished = ground()

    assert message(finished) == (
        "up to date: nothing to do; the newest of 1 migration is 001_a.sql; superseded: R__v.sql"
    ), finished
    why = "an image with version 2 has applied its own text of it; a newer one may change it again"
    assert f"R__v.sql is superseded: {why}" in finished.err
    assert await ground.shown() == 1


async def test_file_that_only_an_older_image_has_is_left_alone_on_a_newer_schema(
    ground: Ground, folder: Folder
) -> None:
    folder({**TABLE, "002_b.sql": "SELECT 1;"})
    ground.up()
    (folder.path / "002_b.sql").unlink()
    folder(REPEATABLE)

    finished = ground()

    last = "up to date: nothing to do; the newest of 1 migration is 001_a.sql; superseded: R__v.sql"
    assert (finished.code, message(finished)) == (0, last), finished
    assert "R__v.sql is superseded: no image has applied it yet, and the database is ahead of this one" in finished.err
    assert [row["state"] for row in json.loads(ground("status", "--json").out)] == ["applied", "ahead", "superseded"]
    assert await ground.database.fetch("SELECT FROM pg_views WHERE viewname = 'v'") == []


async def test_down_file_is_no_repeatable_one_and_down_leaves_a_strangers_table_alone(
    ground: Ground, folder: Folder
) -> None:
    folder({**TABLE, "001_a.down.sql": "DROP TABLE a;", "R__v.down.sql": "DROP VIEW v;"})
    assert ground.up() == "up to date: applied 1 migration; the newest of 1 migration is 001_a.sql"
    await ground.database.execute(f"CREATE TABLE {TEXTS} AS SELECT 1 AS mine")

    finished = ground("down", "0")

    assert finished.code == 23, finished
    assert "is not pgslipway's: it has no column filename text, checksum text, newest bigint" in message(finished)
    assert len(await ground.database.fetch(f"SELECT FROM {TEXTS}")) == 1


async def test_failure_keeps_the_versions_and_the_files_before_it(ground: Ground, folder: Folder) -> None:
    folder({**REPEATABLE, "R__w.sql": "CREATE VIEW w AS\nSELECT nothing FROM a;", "R__x.sql": "SELECT 1;"})

    assert ground.up(24) == (
        'R__w.sql:2: column "nothing" does not exist\n  2 | SELECT nothing FROM a;\n    |        ^\nSQLSTATE 42703\n'
        "R__w.sql was rolled back"
    )
    assert await ground.database.applied() == ["001_a.sql"]
    assert [row["filename"] for row in await ground.database.fetch(f"SELECT filename FROM {TEXTS}")] == ["R__v.sql"]

    folder({"R__w.sql": "CREATE VIEW w AS\nSELECT n FROM a;"})
    assert ground.up() == "up to date: applied 2 repeatable files; the newest of 1 migration is 001_a.sql"


async def test_version_drops_a_view_that_the_same_release_makes_anew(ground: Ground, folder: Folder) -> None:
    folder({**TABLE, "R__v.sql": "CREATE OR REPLACE VIEW v AS SELECT n FROM a;"})
    ground.up()

    folder({"002_b.sql": "DROP VIEW v; ALTER TABLE a ALTER n TYPE bigint;", "R__v.sql": "CREATE VIEW v AS TABLE a;"})

    assert (
        ground.up() == "up to date: applied 1 migration and 1 repeatable file; the newest of 2 migrations is 002_b.sql"
    )


REFUSED = {
    "names": (
        {"r__a.sql": "", "R_b.sql": "", "R__.sql": "", "R__c.SQL": ""},
        "\n".join(
            f"{name}: not a repeatable file's name; name it R__<description>.sql, such as R__views.sql"
            for name in ("R__.sql", "R__c.SQL", "R_b.sql", "r__a.sql")
        ),
    ),
    "directives": (
        {"R__a.sql": "-- no-transaction\n-- squash\n-- minimum-version: 1\nSELECT 1"},
        (
            "R__a.sql: a repeatable file is one transaction; put what cannot be in one into a file with a version\n"
            "R__a.sql: a repeatable file has no version, so it has no squash; say it in a file that has one\n"
            "R__a.sql: a repeatable file has no version, so it has no minimum-version; say it in a file that has one"
        ),
    ),
    "statement": (
        {"R__a.sql": "COMMIT;"},
        (
            "R__a.sql:1: COMMIT: a file is one transaction already; remove it (SAVEPOINT and ROLLBACK TO are fine)\n"
            "  1 | COMMIT;\n    | ^"
        ),
    ),
}


@pytest.mark.parametrize(("files", "expected"), REFUSED.values(), ids=REFUSED)
async def test_misfit_is_refused_before_anything_is_applied(
    files: dict[str, str], expected: str, ground: Ground, folder: Folder
) -> None:
    folder({**TABLE, **files})

    assert message(ground("check")) == ground.up(21) == expected
    assert await ground.database.fetch("SELECT FROM pg_class WHERE relnamespace = 'public'::regnamespace") == []


def test_folder_without_a_version_has_no_migration(folder: Folder, slipway: Slipway) -> None:
    finished = slipway("check", env={}, migrations=folder({"R__v.sql": "SELECT 1"}))

    assert (finished.code, message(finished).partition(": ")[2]) == (
        21,
        "no migration in this folder; name it <version>_<description>.sql, such as 007_add_orders.sql",
    )


LAYOUTS = {
    "plain": {"1_a.sql": "SELECT 1;", "R__v.sql": VIEW},
    "flyway": {"V1__a.sql": "SELECT 1;", "views/R__v.sql": VIEW},
}


@pytest.mark.parametrize("layout", LAYOUTS)
async def test_question_is_one_more_in_no_more_round_trips_and_not_asked_without_such_files(
    layout: str, database: Database, folder: Folder, slipway: Slipway
) -> None:
    (version, _), (repeatable, _) = LAYOUTS[layout].items()

    async def through_proxy() -> RoundTrips:
        async with RoundTrips(database) as proxy:
            environ = database.at(proxy.port).environ | {"PGSSLMODE": "disable"}
            finished = await asyncio.to_thread(slipway, env=environ, migrations=folder.path)
        assert finished.code == 0, finished
        return proxy

    folder({version: LAYOUTS[layout][version]})
    assert "_repeatable" not in str([(await through_proxy()).queries, (await through_proxy()).queries])

    folder({repeatable: VIEW.format(1)})
    await through_proxy()
    proxy = await through_proxy()
    assert (proxy.handshake, proxy.after_handshake, len(proxy.queries)) == (3, 0, 1)
    assert TEXTS in proxy.queries[0]


async def test_wait_says_which_grant_it_needs(ground: Ground, folder: Folder) -> None:
    folder(REPEATABLE)
    ground.up()
    reader = f"reader_{ground.database.name}"
    await ground.database.execute(
        f"CREATE ROLE {reader} LOGIN PASSWORD 'x'; GRANT SELECT ON schema_migrations TO {reader}"
    )
    environ = ground.database.environ | {"PGUSER": reader, "PGPASSWORD": "x"}
    try:
        finished = ground.slipway("wait", env=environ, migrations=folder({}), wait_timeout="1ms")
        assert finished.code == 14, finished
        assert (
            'waiting for the schema: "public"."schema_migrations", or "public"."schema_migrations_repeatable", cannot '
            f"be read yet: permission denied for table {TEXTS}; it takes SELECT on it and USAGE on its schema\n"
        ) in finished.err

        await ground.database.execute(f"GRANT SELECT ON {TEXTS} TO {reader}")
        finished = ground.slipway("wait", env=environ, migrations=folder({}))
        assert message(finished) == "up to date: the newest of 1 migration is 001_a.sql", finished
    finally:
        await ground.database.execute(f"DROP OWNED BY {reader}; DROP ROLE {reader}")


def test_file_that_changes_while_a_run_waits_is_noticed(folder: Folder, tmp_path: Path) -> None:
    path = folder(REPEATABLE)
    run = run_of(from_keywords(path), [])
    run.refuse_changed()

    (tmp_path / "new").write_text(VIEW.format(2))
    (tmp_path / "new").rename(path / "R__v.sql")

    with pytest.raises(FilesChanged, match=r"R__v\.sql: changed since this run began"):
        run.refuse_changed()


async def test_text_with_another_value_of_a_variable_is_applied_again(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    text = "-- Variables: what\nCREATE OR REPLACE VIEW v AS SELECT '${what}' AS a;"
    migrations = folder({"001_a.sql": "CREATE TABLE a ();", "R__v.sql": text})

    def said(*command: str, what: str = "") -> tuple[int, str]:
        env = database.environ | ({"MIGRATE_VAR_WHAT": what} if what else {})
        finished = slipway(*command, env=env, migrations=migrations, wait_timeout="2s")
        return finished.code, message(finished)

    lacking = said()
    first = said(what="o'ne")
    again = said(what="o'ne")
    waited = said("wait", what="o'ne")
    changed = said(what="two")
    not_yet = said("wait", what="three")

    assert lacking == (20, "R__v.sql needs MIGRATE_VAR_WHAT, the value of its variable ${what}")
    assert first == (0, "up to date: applied 1 migration and 1 repeatable file; the newest of 1 migration is 001_a.sql")
    assert again == (0, "up to date: nothing to do; the newest of 1 migration is 001_a.sql")
    assert waited == (0, "up to date: the newest of 1 migration is 001_a.sql")
    assert changed == (0, "up to date: applied 1 repeatable file; the newest of 1 migration is 001_a.sql")
    assert not_yet[0] == 14
    assert [tuple(row) for row in await database.fetch("SELECT a FROM v")] == [("two",)]
    assert "two" not in str(await database.fetch(f"SELECT * FROM {TEXTS}"))


async def test_down_forgets_all_of_them(ground: Ground, folder: Folder) -> None:
    folder({**REPEATABLE, "002_b.sql": "SELECT 1;", "002_b.down.sql": "DROP VIEW v;", "R__x.sql": "SELECT 2;"})
    ground.up()

    assert ground("down", "1").code == 0

    assert await ground.database.fetch(f"SELECT FROM {TEXTS}") == []
    assert ground.up().startswith("up to date: applied 1 migration and 2 repeatable files;")
    assert await ground.shown() == 1


async def test_file_must_leave_its_row_alone(ground: Ground, folder: Folder) -> None:
    folder({**REPEATABLE, "R__w.sql": f"DELETE FROM {TEXTS};"})

    assert ground.up(24).startswith(
        'R__w.sql: this file removed its own row from the history, "public"."schema_migrations_repeatable"'
    )
    assert [row["filename"] for row in await ground.database.fetch(f"SELECT filename FROM {TEXTS}")] == ["R__v.sql"]


async def test_orders_of_starts_end_as_the_model_says(database: Database, tmp_path: Path) -> None:
    """A sample of the orders that the model's own tests go through."""
    sample = [rollout for rollout in ROLLOUTS if len(rollout.starts) == 4][::61]
    async with asyncpg.create_pool(database.url, min_size=1, max_size=1) as pool:
        for number, rollout in enumerate(sample):
            model, schema = Model(), f"s{number}"
            for release in rollout.order:
                path = tmp_path / f"{release.newest}{release.text}{number}"
                path.mkdir(exist_ok=True)
                for version in range(1, release.newest + 1):
                    (path / f"{version}_a.sql").write_text("SELECT 1;")
                function = f"FUNCTION which{number}() RETURNS text LANGUAGE sql AS $$SELECT '{release.text}'$$"
                (path / "R__which.sql").write_text(f"CREATE OR REPLACE {function}")
                model.start(release)
                await run_migrations(pool, path, schema=schema)
                assert model.current
                found = await pool.fetchrow(
                    f"SELECT which{number}() AS text, max(newest) AS newest, count(*) FROM {schema}.{TEXTS}"
                )
                expected = (model.current.checksum, model.current.newest, len({*model.applied}))
                assert tuple(found or ()) == expected, rollout
    assert len(sample) > 30
