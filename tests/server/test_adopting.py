"""Taking over from each tool: the rows of its history become ours, once, or nothing is written, and why is said."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import pytest

from containers import ROOT
from looks import look
from moving import FILES, MOMENT, TOOLS, Moving, Tool, flyway_sum, named, up, write

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Finished, Slipway
    from servers import Database, Embedded

EVERY_TOOL = pytest.mark.parametrize("tool", TOOLS, ids=str)
GOLANG_MIGRATE, GOOSE, DBMATE, FLYWAY, SQLX, PRISMA, DRIZZLE, DIESEL, REFINERY, TERN, SUPABASE = TOOLS
NOTHING_TO_DO = "up to date: nothing to do; the newest of 4 migrations is {}"


@pytest.fixture
def moving(tool: Tool, database: Database, slipway: Slipway, tmp_path: Path) -> Moving:
    return Moving(database, slipway, tool.write(tmp_path / "folder"), tool.name)


def shown(table: str) -> str:
    return table if "." in table else f"public.{table}"


def time_of(tool: Tool, number: int) -> datetime | None:
    """When they applied a file, where they say it."""
    return datetime.fromisoformat(MOMENT.format(number)).replace(tzinfo=UTC) if tool.keeps_time else None


def checksum(text: str) -> str:
    """Ours, over the up part."""
    lines = text.splitlines(keepends=True)
    begin = next((place + 1 for place, line in enumerate(lines) if "+goose Up" in line or "migrate:up" in line), 0)
    ends = ("+goose Down", "migrate:down", "drop below")
    end = next((place for place, line in enumerate(lines) if any(word in line for word in ends)), len(lines))
    return sha256("".join(lines[begin:end]).encode()).hexdigest()


# --- what is adopted --------------------------------------------------------------------------------------------


@EVERY_TOOL
async def test_row_has_their_version_and_time_and_our_checksum(tool: Tool, moving: Moving) -> None:
    await tool.migrate(moving.database, 2)

    finished = moving.run("up")

    assert finished.code == 0, finished
    rows = await moving.history()
    assert [(row["version"], row["filename"], row["checksum"]) for row in rows] == [
        (tool.version(n), tool.filename(n), checksum(tool.text(n))) for n in range(1, FILES + 1)
    ]
    times = [row["applied_at"] for row in rows]
    if tool.keeps_time:
        assert times[:2] == [time_of(tool, 1), time_of(tool, 2)]
    else:
        assert times[0] == times[1]
    assert await moving.orders() == [1, 2, 3, 4]
    assert f"adopted 2 migrations from {tool.name}'s {shown(tool.table)}" in finished.err
    assert finished.outcome
    assert finished.outcome["message"] == (
        f"up to date: adopted 2 migrations, applied 2 migrations; the newest of 4 migrations is {tool.filename(4)}"
    )


@EVERY_TOOL
async def test_later_runs_end_with_the_glance(tool: Tool, moving: Moving) -> None:
    await tool.migrate(moving.database, 2)
    moving.run("up")

    code, said = await look(moving.environ)

    assert code == 0
    assert NOTHING_TO_DO.format(tool.filename(FILES)) in said
    again = moving.run("up")
    assert again.outcome
    assert again.outcome["message"] == NOTHING_TO_DO.format(tool.filename(FILES))


@EVERY_TOOL
async def test_plan_shows_the_adoption_and_the_files(tool: Tool, moving: Moving) -> None:
    await tool.migrate(moving.database, 2)

    before = moving.run("plan")
    moving.run("up")
    after = moving.run("plan")

    kept = f"  {tool.name} keeps its last version only: every file up to 2 counts as applied\n"
    assert before.out == (
        f"adopt 2 migrations from {tool.name}'s {shown(tool.table)}: {tool.filename(1)}, {tool.filename(2)}\n"
        + (kept if tool.keeps_last_only else "")
        + f"apply {tool.filename(3)} (2 statements, in a transaction)\n"
        f"apply {tool.filename(4)} (2 statements, in a transaction)\n"
    )
    assert after.out == ""


@EVERY_TOOL
async def test_status_shows_what_is_adoptable(tool: Tool, moving: Moving) -> None:
    await tool.migrate(moving.database, 2)

    table, strict = moving.run("status"), moving.run("status", "--exit-code")
    before = [states_of(moving.run("status", "--json"))]
    moving.run("up")
    after = states_of(moving.run("status", "--json"))

    cells = [line.split() for line in table.out.splitlines()]
    moments = [f"2026-01-0{n}T10:00:00+00:00" if tool.keeps_time else "-" for n in (1, 2)]
    assert cells == [
        ["VERSION", "STATE", "APPLIED", "AT", "FILE"],
        *([tool.shown(n), "adoptable", moments[n - 1], tool.filename(n)] for n in (1, 2)),
        *([tool.shown(n), "pending", "-", tool.filename(n)] for n in (3, 4)),
    ]
    assert strict.code == 14
    assert strict.outcome
    assert strict.outcome["message"] == "2 migrations to adopt, 2 pending"
    versions: list[Any] = [tool.shown(n) for n in range(1, FILES + 1)]
    if tool.layout == "plain":
        versions = [int(version) for version in versions]
    assert before == [[*zip(versions, ["adoptable", "adoptable", "pending", "pending"], strict=True)]]
    assert after == [(version, "applied") for version in versions]


def states_of(finished: Finished) -> list[tuple[Any, str]]:
    return [(row["version"], row["state"]) for row in json.loads(finished.out)]


@EVERY_TOOL
async def test_command_adopts_and_does_nothing_else(tool: Tool, moving: Moving) -> None:
    await tool.migrate(moving.database, 2)

    finished, again = moving.run("adopt"), moving.run("adopt")

    assert finished.code == 0, finished
    assert finished.outcome
    assert again.outcome
    assert finished.outcome["message"] == f"adopted 2 migrations from {tool.name}'s {shown(tool.table)}"
    assert again.outcome["message"] == "nothing to adopt: the history has 2 rows"
    assert [row["filename"] for row in await moving.history()] == [tool.filename(1), tool.filename(2)]
    assert await moving.orders() == [1, 2]


@EVERY_TOOL
async def test_their_table_stays_as_it_was(tool: Tool, moving: Moving) -> None:
    await tool.migrate(moving.database, 2)
    before = await moving.database.fetch(f"SELECT * FROM {tool.table}")

    moving.run("up")

    assert await moving.database.fetch(f"SELECT * FROM {tool.table}") == before


@EVERY_TOOL
async def test_table_without_a_migration_is_a_fresh_database(tool: Tool, moving: Moving) -> None:
    await tool.create_table(moving.database)

    finished = moving.run("up")

    assert finished.code == 0, finished
    assert finished.outcome
    assert finished.outcome["applied_count"] == FILES
    assert await moving.orders() == [1, 2, 3, 4]


# --- what is not as it was --------------------------------------------------------------------------------------


@pytest.mark.parametrize("tool", [tool for tool in TOOLS if tool.compares], ids=str)
async def test_edited_file_is_refused_where_their_tool_refuses_it(tool: Tool, moving: Moving) -> None:
    await tool.migrate(moving.database, 2)
    write(moving.folder, {tool.filename(2): tool.text(2) + "SELECT 'edited';"})

    await moving.assert_refused(
        f"{tool.name}'s public.{tool.table} cannot be adopted: {tool.filename(2)} is not what was applied: its "
        "checksum differs; put the old text back"
    )


@pytest.mark.parametrize("tool", [PRISMA, DRIZZLE], ids=str)
async def test_edited_file_is_a_warning_where_their_tool_lets_it_pass(tool: Tool, moving: Moving) -> None:
    await tool.migrate(moving.database, 2)
    write(moving.folder, {tool.filename(2): tool.text(2) + "SELECT 'edited';"})

    planned, finished, again = moving.run("plan"), moving.run("up"), moving.run("up")

    warning = f"{tool.filename(2)} was edited after it was applied, which {tool.name} lets pass"
    assert f"  {warning}\n" in planned.out
    assert f"warning: {warning}" in finished.err
    assert finished.code == again.code == 0, finished
    assert [bool(row["checksum"]) for row in await moving.history()] == [True, False, True, True]
    assert again.outcome
    assert again.outcome["message"] == NOTHING_TO_DO.format(tool.filename(FILES))
    assert await moving.orders() == [1, 2, 3, 4]


@pytest.mark.parametrize("tool", [GOOSE, DBMATE, DIESEL, SUPABASE, SQLX, FLYWAY, REFINERY, PRISMA, DRIZZLE], ids=str)
async def test_row_at_or_below_our_newest_without_a_file_is_refused(tool: Tool, moving: Moving) -> None:
    await tool.migrate(moving.database, 3)
    shutil.rmtree(moving.folder)
    write(moving.folder, {name: text for name, text in tool.files().items() if name != tool.filename(2)})
    if tool is DRIZZLE:
        journal = (moving.folder / "meta/_journal.json").read_text().splitlines()
        (moving.folder / "meta/_journal.json").write_text("\n".join(journal[:2] + journal[3:]))

    await moving.assert_refused(
        f"{tool.name}'s {shown(tool.table)} cannot be adopted: {tool.entry(2)} is applied, and no file of this folder "
        "is it; put the file back"
    )


@pytest.mark.parametrize("tool", [tool for tool in TOOLS if not tool.keeps_last_only], ids=str)
async def test_row_above_our_newest_is_ahead(tool: Tool, moving: Moving) -> None:
    await tool.migrate(moving.database, FILES)
    shutil.rmtree(moving.folder)
    tool.write(moving.folder, 3)

    shown_before, finished = moving.run("status", "--json"), moving.run("up")

    assert [state for _, state in states_of(shown_before)] == ["adoptable"] * 3 + ["ahead"]
    assert finished.code == 0, finished
    assert [(row["version"], bool(row["checksum"])) for row in await moving.history()] == [
        (tool.version(1), True), (tool.version(2), True), (tool.version(3), True), (tool.version(4), False),
    ]  # fmt: skip
    assert "warning: the database is ahead of this image, by" in finished.err


@pytest.mark.parametrize("tool", [GOLANG_MIGRATE, TERN], ids=str)
async def test_last_version_stands_for_all_files_up_to_it_and_the_log_says_so(tool: Tool, moving: Moving) -> None:
    await tool.migrate(moving.database, 3)

    finished = moving.run("up")

    assert f"warning: {tool.name} keeps its last version only: every file up to 3 counts as applied" in finished.err
    assert await moving.orders() == [1, 2, 3, 4]


@pytest.mark.parametrize("tool", [GOLANG_MIGRATE, TERN], ids=str)
async def test_last_version_that_no_file_has_is_refused(tool: Tool, moving: Moving) -> None:
    await tool.migrate(moving.database, FILES)
    await tool.record(moving.database, [9])

    await moving.assert_refused(
        f"{tool.name}'s public.{tool.table} cannot be adopted: its last version is 9, which no file of this folder has"
    )


FAILED = {
    "golang-migrate": "version 2 is dirty: it began and failed; mend it, and run: migrate force",
    "flyway": "V1.2__orders.sql failed and is marked so; mend it and run: flyway repair",
    "sqlx": "version 20260102120000 failed and is marked so; mend it, and delete its row",
    "prisma": "20260102120000_orders failed; mend it and run: prisma migrate resolve --applied (or --rolled-back)",
}


@pytest.mark.parametrize("tool", named(*FAILED), ids=str)
async def test_failed_migration_is_refused(tool: Tool, moving: Moving) -> None:
    await tool.migrate(moving.database, 2)
    await moving.database.execute(tool.failed(2))

    await moving.assert_refused(f"{tool.name}'s public.{tool.table} cannot be adopted: {FAILED[tool.name]}")


@pytest.mark.parametrize("tool", [GOOSE, SQLX, FLYWAY, DIESEL], ids=str)
async def test_squash_stands_for_what_they_have_applied(tool: Tool, moving: Moving) -> None:
    await tool.migrate(moving.database, 3)
    shutil.rmtree(moving.folder)
    write(moving.folder, tool.files(first=3) | {tool.filename(3): f"-- squash\n{tool.text(3)}"})

    finished, again = moving.run("up"), moving.run("up")

    assert [finished.code, again.code] == [0, 0], finished
    assert finished.outcome
    assert "adopted 3 migrations, applied 1 migration" in finished.outcome["message"]
    assert await moving.orders() == [1, 2, 3, 4]


# --- what each tool writes besides ------------------------------------------------------------------------------


@pytest.mark.parametrize("tool", [GOOSE], ids=str)
async def test_goose_counts_the_last_row_of_a_version(tool: Tool, moving: Moving) -> None:
    await tool.migrate(moving.database, 3)
    again = "INSERT INTO goose_db_version (version_id, is_applied) VALUES"
    await moving.database.execute(
        f"{again} (20260102120000, false), (20260103120000, false), (20260103120000, true);"
        "DELETE FROM orders WHERE id = 2"
    )

    finished = moving.run("up")

    assert "adopted 2 migrations from goose's" in finished.err
    assert await moving.orders() == [1, 2, 3, 4]


@pytest.mark.parametrize("tool", [PRISMA], ids=str)
async def test_prisma_row_that_was_rolled_back_is_void_and_one_that_was_resolved_counts(
    tool: Tool, moving: Moving
) -> None:
    await tool.migrate(moving.database, 3)
    await moving.database.execute(
        """
        UPDATE _prisma_migrations SET finished_at = NULL, rolled_back_at = now() WHERE id IN ('2', '3');
        INSERT INTO _prisma_migrations (id, checksum, finished_at, migration_name, logs)
            SELECT 'x' || id, checksum, '2026-02-01 00:00:00+00', migration_name, ''
              FROM _prisma_migrations WHERE id = '2';
        DELETE FROM orders WHERE id = 3
        """
    )

    finished = moving.run("up")

    assert "adopted 2 migrations from prisma's" in finished.err
    assert [row["applied_at"] for row in await moving.history()][1] == datetime(2026, 2, 1, tzinfo=UTC)
    assert await moving.orders() == [1, 2, 3, 4]


@pytest.mark.parametrize("tool", [PRISMA], ids=str)
async def test_prisma_folders_of_the_same_digits_are_told_apart_when_they_are_ahead(tool: Tool, moving: Moving) -> None:
    later = "20260104120000_later/migration.sql"
    await tool.migrate(moving.database, FILES)
    await moving.database.execute(
        "INSERT INTO orders VALUES (5); INSERT INTO _prisma_migrations (id, checksum, finished_at, migration_name) "
        "VALUES ('5', 'x', now(), '20260104120000_later')"
    )
    shutil.rmtree(moving.folder)
    tool.write(moving.folder, 3)
    assert moving.run("up").code == 0

    write(moving.folder, tool.files() | {later: up(5)})
    finished = moving.run("up")

    assert [(row["version"], row["filename"]) for row in (await moving.history())[3:]] == [
        (202601041200000, later), (202601041200001, tool.filename(4)),
    ]  # fmt: skip
    assert finished.code == 0, finished
    assert await moving.orders() == [1, 2, 3, 4, 5]


BASELINE = "DELETE FROM flyway_schema_history WHERE installed_rank < 3; UPDATE flyway_schema_history SET type = '{}', "


@pytest.mark.parametrize("tool", [FLYWAY], ids=str)
@pytest.mark.parametrize("kind", ["BASELINE", "SQL_BASELINE"])
async def test_flyway_baseline_stands_for_the_files_up_to_it(tool: Tool, kind: str, moving: Moving) -> None:
    await tool.migrate(moving.database, 3)
    await moving.database.execute(BASELINE.format(kind) + "checksum = NULL, script = '<< Flyway Baseline >>'")

    finished = moving.run("up")

    assert "adopted 3 migrations from flyway's" in finished.err
    assert await moving.orders() == [1, 2, 3, 4]


@pytest.mark.parametrize("tool", [FLYWAY], ids=str)
@pytest.mark.parametrize("kind", ["UNDO_SQL", "DELETE"])
async def test_flyway_row_that_voids_an_earlier_one(tool: Tool, kind: str, moving: Moving) -> None:
    await tool.migrate(moving.database, 3)
    row = tool.row(3, "U1.3__orders.sql", "").replace("'SQL'", f"'{kind}'").replace("3, '1.3'", "9, '1.3'")
    await moving.database.execute(f"INSERT INTO flyway_schema_history VALUES ({row}); DELETE FROM orders WHERE id = 3")

    finished = moving.run("up")

    assert "adopted 2 migrations from flyway's" in finished.err
    assert await moving.orders() == [1, 2, 3, 4]


@pytest.mark.parametrize("tool", [FLYWAY], ids=str)
async def test_flyway_rows_without_a_file_of_a_version(tool: Tool, moving: Moving) -> None:
    """The mark that the schema was made, and repeatable ones."""
    await tool.migrate(moving.database, 2)
    script = "'\"public\"', NULL, 'me', now(), 0, true"
    await moving.database.execute(
        f"""INSERT INTO flyway_schema_history VALUES
            (0, NULL, '<< Flyway Schema Creation >>', 'SCHEMA', {script}),
            (-1, '0', '<< Flyway Schema Creation >>', 'SCHEMA', {script}),
            (8, NULL, 'v', 'SQL', 'R__v.sql', 5, 'me', now(), 0, true),
            (9, NULL, 'v', 'SQL', 'R__v.sql', 6, 'me', now(), 0, true)"""
    )

    finished = moving.run("up")

    assert "adopted 2 migrations from flyway's" in finished.err
    assert await moving.orders() == [1, 2, 3, 4]


@pytest.mark.parametrize("tool", [FLYWAY], ids=str)
async def test_flyway_repeatable_file_is_applied_again_unless_its_last_row_has_its_checksum(
    tool: Tool, moving: Moving
) -> None:
    await tool.migrate(moving.database, 2)
    files = {f"views/R__{name}.sql": f"INSERT INTO ran\nVALUES ('{name}')" for name in ("same", "old", "void", "none")}
    write(moving.folder, files)
    rows = [
        (name, "DELETE" if is_void else "SQL", flyway_sum(files[f"views/R__{name}.sql"]) + off)
        for name, is_void, off in [
            ("same", False, 1), ("same", False, 0), ("old", False, 0), ("old", False, 1), ("void", False, 0),
            ("void", True, 0),
        ]
    ]  # fmt: skip
    values = ", ".join(
        f"({rank}, NULL, '{name}', '{kind}', 'R__{name}.sql', {number}, 'me', '2026-01-09', 0, true)"
        for rank, (name, kind, number) in enumerate(rows, 10)
    )
    await moving.database.execute(f"CREATE TABLE ran (name text); INSERT INTO flyway_schema_history VALUES {values}")
    states = {row["filename"]: row["state"] for row in json.loads(moving.run("status", "--json").out)}
    assert [states[name] for name in sorted(files)] == ["pending", "pending", "adoptable", "pending"]

    finished = moving.run("up")

    assert "adopted 2 migrations and 1 repeatable file from flyway's" in finished.err, finished
    ran = [row["name"] for row in await moving.database.fetch("SELECT name FROM ran")]
    assert ran == ["none", "old", "void"]
    assert "nothing to do" in moving.run("up").err


@pytest.mark.parametrize("tool", [FLYWAY], ids=str)
async def test_flyway_version_that_our_history_cannot_have_is_refused(tool: Tool, moving: Moving) -> None:
    await tool.migrate(moving.database, 2)
    await moving.database.execute(
        "UPDATE flyway_schema_history SET version = '1.2.3.4.5', script = 'x.sql' WHERE version = '1.2'"
    )

    await moving.assert_refused(
        "flyway's public.flyway_schema_history cannot be adopted: x.sql has a version that no file can have: "
        "'1.2.3.4.5'"
    )


@pytest.mark.parametrize("tool", [DBMATE, SUPABASE], ids=str)
@pytest.mark.parametrize("version", ["-1", " 5", "v7", "1_000", "99999999999999999999", ""])
async def test_text_that_is_no_version_is_refused(tool: Tool, version: str, moving: Moving) -> None:
    await tool.migrate(moving.database, 2)
    await moving.database.execute(f"INSERT INTO {tool.table} (version) VALUES ('{version}')")

    await moving.assert_refused(
        f"{tool.name}'s {shown(tool.table)} cannot be adopted: it has a version that no file can have: {version!r}"
    )


@pytest.mark.parametrize("tool", [DBMATE], ids=str)
async def test_version_that_is_there_twice_counts_once(tool: Tool, moving: Moving) -> None:
    await tool.migrate(moving.database, 2)
    await moving.database.execute("INSERT INTO schema_migrations VALUES ('020260102120000')")

    finished = moving.run("up")

    assert "adopted 2 migrations from dbmate's" in finished.err
    assert await moving.orders() == [1, 2, 3, 4]


@pytest.mark.parametrize("tool", [DRIZZLE], ids=str)
async def test_drizzle_row_without_its_moment_is_refused(tool: Tool, moving: Moving) -> None:
    await tool.migrate(moving.database, 2)
    await moving.database.execute("UPDATE drizzle.__drizzle_migrations SET created_at = NULL WHERE id = 2")

    await moving.assert_refused(
        "drizzle's drizzle.__drizzle_migrations cannot be adopted: row 2 has no created_at, so nobody knows which file "
        "it is"
    )


@pytest.mark.parametrize("tool", [DRIZZLE], ids=str)
async def test_drizzle_entry_that_it_has_skipped_is_applied(tool: Tool, moving: Moving) -> None:
    await tool.migrate(moving.database, 3)
    await moving.database.execute(
        "DELETE FROM drizzle.__drizzle_migrations WHERE id = 2; DELETE FROM orders WHERE id = 2"
    )

    finished = moving.run("up")

    assert "adopted 2 migrations from drizzle's" in finished.err
    assert "warning: out of order: 0001_next.sql is pending below a version that is applied" in finished.err
    assert await moving.orders() == [1, 2, 3, 4]


@pytest.mark.parametrize("tool", [REFINERY], ids=str)
@pytest.mark.parametrize(("value", "seen"), [("NULL", None), ("'2026-01-02T10:00:00+02:00'", 8)])
async def test_refinery_time_is_a_text(tool: Tool, value: str, seen: int | None, moving: Moving) -> None:
    await tool.migrate(moving.database, 2)
    await moving.database.execute(f"UPDATE refinery_schema_history SET applied_on = {value} WHERE version = 2")

    assert moving.run("up").code == 0

    if seen:
        assert (await moving.history())[1]["applied_at"] == datetime(2026, 1, 2, seen, tzinfo=UTC)


@pytest.mark.parametrize("tool", [REFINERY], ids=str)
async def test_text_that_is_no_time_is_refused(tool: Tool, moving: Moving) -> None:
    await tool.migrate(moving.database, 2)
    await moving.database.execute("UPDATE refinery_schema_history SET applied_on = 'now then' WHERE version = 2")

    await moving.assert_refused(
        "public.refinery_schema_history has a value that refinery does not write: invalid input syntax for type "
        'timestamp with time zone: "now then"'
    )


@pytest.mark.parametrize("tool", [REFINERY], ids=str)
async def test_refinery_file_with_another_name_is_not_what_was_applied(tool: Tool, moving: Moving) -> None:
    await tool.migrate(moving.database, 2)
    (moving.folder / "V2__orders.sql").rename(moving.folder / "V2__others.sql")

    await moving.assert_refused(
        "refinery's public.refinery_schema_history cannot be adopted: V2__others.sql is not what was applied: its "
        "checksum differs; put the old text back"
    )


@pytest.mark.parametrize("tool", [TERN], ids=str)
async def test_null_for_a_version_is_refused(tool: Tool, moving: Moving) -> None:
    await tool.create_table(moving.database)
    await moving.database.execute("ALTER TABLE schema_version ALTER version DROP NOT NULL")
    await moving.database.execute("UPDATE schema_version SET version = NULL")

    await moving.assert_refused("tern's public.schema_version cannot be adopted: it has a row without a version")


# --- real histories ---------------------------------------------------------------------------------------------

REAL = ROOT.parent / "shared" / "real" / "moving"
in_reach = pytest.mark.skipif(not REAL.is_dir(), reason="the real folders are not in this clone")


async def load(database: Database, embedded: Embedded, dump: str) -> None:
    """Load a dump that pg_dump wrote."""
    copy = shutil.copy(REAL / dump, embedded.folder / "dump.sql")
    embedded.run(
        "psql", "--no-psqlrc", "--set=ON_ERROR_STOP=1", "--quiet", "--file", copy,
        "--host", database.host, "--port", database.port, "--username", database.user, database.name,
        PGPASSWORD=database.password,
    )  # fmt: skip


@in_reach
@pytest.mark.parametrize(
    ("tool", "folder", "adopted", "pending"),
    [
        (GOOSE, "goose/e2b-infra", 131, 0),
        (FLYWAY, "flyway/kestra", 26, 0),
        (SQLX, "sqlx/docs.rs", 33, 0),
        (PRISMA, "prisma/hoppscotch", 21, 0),
        (DRIZZLE, "drizzle/zero", 26, 0),
        (TERN, "tern/tpr", 11, 0),
        (TERN, "tern/discord-signup-bot", 5, 2),
        (REFINERY, "refinery/synthetic", 3, 0),
        (FLYWAY, "flyway/synthetic", 4, 0),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_real_history_is_adopted(
    tool: Tool, folder: str, adopted: int, pending: int, database: Database, embedded: Embedded, slipway: Slipway,
    tmp_path: Path,
) -> None:  # fmt: skip
    copy = shutil.copytree(REAL / folder, tmp_path / "folder")
    for path in copy.rglob("R__*"):
        path.unlink()
    for path in copy.rglob("U3__uu.sql"):
        path.rename(path.with_name("V3__uu.sql"))
    await load(database, embedded, f"{folder}.history.sql")
    moving = Moving(database, slipway, copy, tool.name)

    finished = moving.run("adopt")

    assert finished.code == 0, finished
    states = [state for _, state in states_of(moving.run("status", "--json"))]
    assert (states.count("applied"), states.count("pending"), len(states)) == (adopted, pending, adopted + pending)
    assert all(row["checksum"] for row in await moving.history())


@in_reach
@pytest.mark.parametrize(
    ("tool", "folder", "dump", "reason"),
    [
        (
            PRISMA,
            "prisma/hoppscotch",
            "prisma/hoppscotch.failed",
            FAILED["prisma"].replace("20260102120000_orders", "20251016080714_mock_server"),
        ),
        (FLYWAY, "flyway/synthetic", "flyway/synthetic.failed", FAILED["flyway"].replace("V1.2__orders", "V3__c")),
        (GOLANG_MIGRATE, "", "golang-migrate/synthetic.dirty", FAILED["golang-migrate"].replace("2", "3")),
    ],
    ids=["prisma", "flyway", "golang-migrate"],
)
async def test_real_history_of_a_failure_is_refused(
    tool: Tool, folder: str, dump: str, reason: str, database: Database, embedded: Embedded,
    slipway: Slipway, tmp_path: Path,
) -> None:  # fmt: skip
    copy = shutil.copytree(REAL / folder, tmp_path / "folder") if folder else tool.write(tmp_path / "folder")
    for path in copy.rglob("R__*"):
        path.unlink()
    await load(database, embedded, f"{dump}.history.sql")
    moving = Moving(database, slipway, copy, tool.name)

    await moving.assert_refused(f"{tool.name}'s public.{tool.table} cannot be adopted: {reason}")
