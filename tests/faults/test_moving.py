"""Moving in, with the other tool itself: it migrates half-way, we take over and finish, and it is asked again."""

from __future__ import annotations

import asyncio
import shutil
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

import real_folders
from real_folders import MOVING
from servers import eventually
from their_tools import BEYOND, FIRST, GATE, TOOLS, keep_first, write_small

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from conftest import Slipway
    from servers import Database, Embedded
    from their_tools import Tool

pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(not MOVING.is_dir(), reason="the folders of other tools are not in this clone"),
]

AFTERWARDS = {
    "golang-migrate": (0, 1, 'table "build_inputs" does not exist'),
    "goose": (0, 1, 'column "config" of relation "snapshots" already exists'),
    "tern": (0, 1, 'column "message_color" of relation "guild_settings" already exists'),
    "dbmate": (0, 2, 'column "build_started" of relation "builds" already exists'),
    "sqlx": (0, 1, 'relation "releases_rustdoc_status_idx" already exists'),
    "refinery": (None, 1, "applying migration: V17__builds_started_finished"),
    "drizzle": (None, 1, "already exists"),
    "prisma": (1, 1, 'migration_name="20241118054346_infra_config_sync_with_env_file"'),
    "flyway": (0, 0, 'version "1.15 - trigger store next date" failed! Changes successfully rolled back.'),
}
"""How each ends that is asked what it has applied, and that is started again, and what it says then."""
LOCKING = [name for name, tool in TOOLS.items() if tool.small]
AT_THE_GATE = "SELECT FROM pg_locks WHERE relation = 'side.gate'::regclass AND NOT granted"
ASKING = """
SELECT FROM pg_stat_activity
 WHERE query LIKE '%advisory%lock%' AND application_name <> 'pgslipway' AND pid <> pg_backend_pid()
"""


@pytest.fixture(scope="module")
def installed() -> Iterator[Embedded]:
    """The binaries of a server with extensions."""
    yield from real_folders.servers()


@pytest.fixture
def fresh(installed: Embedded) -> Iterator[Callable[[], Database]]:
    """Gives a database on a server of its own: some folders make roles, which all databases of a server share."""
    first = len(installed.clusters)
    yield lambda: installed.cluster().start().database
    installed.remove_clusters_from(first)


@pytest.fixture
def tool(request: pytest.FixtureRequest) -> Tool:
    found = TOOLS[request.param]
    found.get()
    return found


async def rows_of(database: Database, tool: Tool) -> list[str]:
    """The filenames in our history, by version."""
    table = tool.settings.get("MIGRATE_TABLE", "schema_migrations")
    return [row[0] for row in await database.fetch(f"SELECT filename FROM {table} ORDER BY version")]


@pytest.mark.parametrize("tool", TOOLS, indirect=True)
async def test_half_done_folder_is_finished_to_the_schema_that_the_tool_makes_alone(
    tool: Tool,
    fresh: Callable[[], Database],
    embedded: Embedded,
    slipway: Slipway,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    """What it says when it is started again is for whoever looks; it knows of nothing that was done without it."""
    before, whole = tmp_path / "before", tmp_path / "migrations"
    for folder in (before, whole):
        folder.mkdir()
        tool.write(folder)
    files = tool.files(whole)
    keep_first(before, files, tool.half)
    database, alone = fresh(), fresh()

    by_them = tool.run(tool.migrate(before, database), database)
    unasked = slipway(env={**database.environ, **tool.settings}, migrations=whole)
    finished = slipway(env=tool.asked(database), migrations=whole)
    again = slipway(env=tool.asked(database), migrations=whole)
    by_them_alone = tool.migrate_alone(whole, alone, embedded)

    assert (by_them.code, by_them_alone.code) == (0, 0), f"{by_them}\n{by_them_alone}"
    assert unasked.code == 23, unasked
    assert unasked.outcome
    assert unasked.outcome["message"] == (
        f"{tool.schema}.{tool.history} says that {tool.name} has applied {tool.half} files of this folder, which would "
        f"be applied again; set MIGRATE_ADOPT={tool.name} to take over from it, or MIGRATE_ADOPT=none if that table is "
        "another application's"
    )
    assert finished.code == 0, finished
    assert finished.outcome
    assert finished.outcome["message"] == (
        f"up to date: adopted {tool.half} migrations, applied {len(files) - tool.half} migrations; "
        f"the newest of {len(files)} migrations is {files[-1]}"
    )
    assert await rows_of(database, tool) == files
    assert again.code == 0, again
    assert again.outcome
    assert (
        again.outcome["message"] == f"up to date: nothing to do; the newest of {len(files)} migrations is {files[-1]}"
    )
    expected = real_folders.dump(alone, embedded, tool.history)
    assert len(expected) > 60
    assert real_folders.dump(database, embedded, tool.history) == expected

    asked = tool.run(tool.status(whole, database), database) if tool.status else None
    started_again = tool.run(tool.migrate(whole, database), database)
    last = slipway(env=tool.asked(database), migrations=whole)

    said = " ".join(f"{started_again.out} {started_again.err}".split())
    record_property("faults", f"{tool.name} afterwards: exit {started_again.code}, … {said[-600:]}")
    status, code, text = AFTERWARDS[tool.name]
    assert (asked and asked.code) == status, asked
    assert started_again.code == code, started_again
    assert text in f"{started_again.out}{started_again.err}", started_again
    assert real_folders.dump(database, embedded, tool.history) == expected
    assert last.code == 0, last


@asynccontextmanager
async def closed_gate(database: Database) -> AsyncIterator[None]:
    """Whoever applies that file waits until this ends."""
    async with database.connection() as connection, connection.transaction():
        await connection.execute("LOCK TABLE side.gate")
        yield


@pytest.mark.parametrize("before", [[FIRST], []], ids=["", "in-their-first-file"])
@pytest.mark.parametrize("tool", LOCKING, indirect=True)
async def test_their_lock_is_waited_for(
    tool: Tool, before: list[str], fresh: Callable[[], Database], slipway: Slipway, tmp_path: Path
) -> None:
    """While they are in the middle of a file, we neither take over nor say that it has failed."""
    database, first, theirs, ours = fresh(), tmp_path / "first", tmp_path / "theirs", tmp_path / "ours"
    await database.execute("CREATE SCHEMA side; CREATE TABLE side.gate ()")
    write_small(tool, first, *before)
    write_small(tool, theirs, *before, GATE)
    files = write_small(tool, ours, *before, GATE, BEYOND)
    if before:
        assert tool.run(tool.migrate(first, database), database).code == 0

    async with closed_gate(database):
        running = tool.start(tool.migrate(theirs, database), database)
        await eventually(lambda: database.fetch(AT_THE_GATE), f"{tool.name} to wait in its file")
        given_up = await asyncio.to_thread(slipway, env=tool.asked(database), migrations=ours, lock_timeout="200ms")
        status = await asyncio.to_thread(slipway, "status", env=tool.asked(database), migrations=ours)
        waiting = slipway.start(env=tool.asked(database), migrations=ours, log_format="text")
        await asyncio.to_thread(waiting.wait_for_log, f"waiting for the lock of {tool.name}'s")
    out, err = running.communicate(timeout=60)
    finished = await asyncio.to_thread(waiting.finish)

    assert given_up.code == 11, given_up
    assert status.code in {0, 11}, status
    assert running.returncode == 0, out + err
    assert finished.code == 0, finished
    assert f"adopted {len(before) + 1} migration{'s' * len(before)}, applied 1 migration;" in finished.err
    assert await rows_of(database, tool) == files


@pytest.mark.parametrize("tool", LOCKING, indirect=True)
async def test_they_wait_for_their_lock_while_we_take_over(
    tool: Tool, fresh: Callable[[], Database], slipway: Slipway, tmp_path: Path
) -> None:
    database, first, whole = fresh(), tmp_path / "first", tmp_path / "whole"
    await database.execute("CREATE SCHEMA side; CREATE TABLE side.gate ()")
    write_small(tool, first, FIRST)
    files = write_small(tool, whole, FIRST, GATE, BEYOND)
    assert tool.run(tool.migrate(first, database), database).code == 0

    async with closed_gate(database):
        ours = slipway.start(env=tool.asked(database), migrations=whole, log_format="text", ddl_lock_timeout="0")
        await eventually(lambda: database.fetch(AT_THE_GATE), "us to wait in the second file")
        running = tool.start(tool.migrate(whole, database), database)
        await eventually(lambda: database.fetch(ASKING), f"{tool.name} to ask for its lock")
        waiting = running.poll() is None, len(await database.fetch(AT_THE_GATE))
    finished = await asyncio.to_thread(ours.finish)
    out, err = running.communicate(timeout=60)

    assert waiting == (True, 1)
    assert finished.code == 0, finished
    assert "adopted 1 migration, applied 2 migrations;" in finished.err
    assert await rows_of(database, tool) == files
    assert "failed" in f"{out}{err}" or "already exists" in f"{out}{err}"


@pytest.mark.parametrize("tool", ["tern"], indirect=True)
async def test_templates_are_no_matter_where_they_are_applied(
    tool: Tool, fresh: Callable[[], Database], slipway: Slipway, tmp_path: Path
) -> None:
    database, folder = fresh(), tmp_path / "migrations"
    await database.execute("CREATE ROLE tpr")
    shutil.copytree(MOVING / "tern" / "tpr", folder)
    by_them = tool.run([*tool.migrate(folder, database), f"--config={folder / 'tern.conf'}"], database)
    (folder / "012_ours.sql").write_text("ALTER TABLE users ADD COLUMN ours int;\n")

    finished = slipway(env=tool.asked(database), migrations=folder, log_format="text")

    assert by_them.code == 0, by_them
    assert finished.code == 0, finished
    assert "adopted 11 migrations, applied 1 migration;" in finished.err
    assert await database.fetch("SELECT ours FROM users") == []
