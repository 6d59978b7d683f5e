"""The house on a real run: what it loads, and how many steps it is from `up` to the SQL of a file."""

from __future__ import annotations

import re
import subprocess
import sys
from types import FrameType
from typing import TYPE_CHECKING, Any

import pytest

from pgslipway.config import from_environ
from pgslipway.up import up

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Folder, Slipway
    from servers import Database

MOST_FRAMES = 8
CLI = {"pgslipway.cli"}
GLANCE = {
    "__main__", "config", "errors", "files", "glance", "libpq", "line", "lines", "outcome", "question", "quote",
    "report", "scram", "settings", "signals", "system", "wire", "words",
}  # fmt: skip
"""Our modules of a start with nothing to do."""
HEAVY = {
    "asyncio",
    "asyncpg",
    "dataclasses",
    "enum",
    "json",
    "logging",
    "os",
    "pathlib",
    "re",
    "socket",
    "ssl",
    "typing",
}
START = "import sys; sys.path[:0] = {path!r}; from pgslipway.__main__ import main; main()"
"""As the image's /usr/bin/pgslipway; with -IS, which leaves out what Python itself would load."""


def loaded(database: Database, migrations: Path, *arguments: str) -> set[str]:
    """The modules that a run imports."""
    start = START.format(path=[path for path in sys.path if path])
    command = [sys.executable, "-IS", "-X", "importtime", "-c", start, *arguments]
    environ = {**database.environ, "MIGRATE_DIR": str(migrations), "PATH": ""}
    ended = subprocess.run(command, env=environ, capture_output=True, text=True, check=True)
    return set(re.findall(r"^import time:.*\| +(\S+)$", ended.stderr, re.MULTILINE))


@pytest.mark.parametrize("arguments", [(), ("up",), ("wait",)], ids=["no argument", "up", "wait"])
def test_start_with_nothing_to_do_loads_no_more_than_the_glance(
    database: Database, folder: Folder, slipway: Slipway, arguments: tuple[str, ...]
) -> None:
    migrations = folder({"001_a.sql": "CREATE TABLE a ();"})
    slipway(env=database.environ, migrations=migrations)

    modules = loaded(database, migrations, *arguments)

    ours = {name for name in modules if name.startswith("pgslipway.")}
    assert {name.removeprefix("pgslipway.") for name in ours} == GLANCE
    assert {name.split(".")[0] for name in modules} & HEAVY == set()


def test_start_with_something_to_do_loads_the_engine_and_no_command(database: Database, folder: Folder) -> None:
    modules = loaded(database, folder({"001_a.sql": "CREATE TABLE a ();"}))

    assert "pgslipway.engine.transaction" in modules
    assert modules & CLI == set()


class Steps:
    """Counts our frames from `up` to the driver's call that sends a text."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.trips: list[list[str]] = []
        self.seen: list[FrameType] = []
        """A coroutine that goes on is called once more."""

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if event != "call" or code.co_name != "execute" or not code.co_filename.endswith("asyncpg/connection.py"):
            return
        if frame in self.seen or self.text not in frame.f_locals["query"]:
            return
        self.seen.append(frame)
        trip: list[str] = []
        above = frame.f_back
        while above:
            if "/pgslipway/" in above.f_code.co_filename:
                trip.append(above.f_code.co_qualname)
            above = above.f_back
        self.trips.append(trip[::-1])


async def test_it_is_at_most_eight_steps_from_up_to_the_sql_of_a_file(database: Database, folder: Folder) -> None:
    migrations = folder({"001_a.sql": "CREATE TABLE marked_a ();", "002_b.sql": "CREATE TABLE marked_b ();"})
    config = from_environ({**database.environ, "MIGRATE_DIR": str(migrations)}, {})
    steps = Steps("CREATE TABLE marked_")
    sys.setprofile(steps)
    try:
        await up(config, [])
    finally:
        sys.setprofile(None)

    first, second = steps.trips
    assert first[0] == second[0] == "up"
    assert first[-1] == "send"
    assert second[-1] == "send_at_once"
    assert max(len(first), len(second)) <= MOST_FRAMES, (first, second)
