"""What a run costs before it does anything, on any machine: the modules that it imports when there is nothing to do."""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING

import pytest

from containers import ROOT, run

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Folder, Slipway
    from servers import Database

pytestmark = [pytest.mark.docker_only, pytest.mark.usefixtures("image")]

IMPORTED = ROOT / "tests/cases/nothing_to_do/imported.txt"
"""Every module, one a line. Whoever adds one has to want it on every start of every pod."""
LINE = re.compile(r"import time: +\d+ \| +\d+ \| +(\S+)$", re.MULTILINE)
PYTHON = ("--entrypoint=/usr/bin/python3.13",)
PROGRAM = ("-X", "importtime", "-IS", "/usr/bin/pgslipway")


def imported(database: Database, migrations: Path) -> list[str]:
    """The modules that a run in the image imports, sorted."""
    ended = run(*PROGRAM, env=database.environ, migrations=migrations, extra=PYTHON)
    assert ended.code == 0, ended
    return sorted(set(LINE.findall(ended.err)))


async def test_nothing_to_do_imports_exactly_this(database: Database, folder: Folder, slipway: Slipway) -> None:
    migrations = folder({"001_a.sql": "CREATE TABLE a ();"})
    slipway(env=database.environ, migrations=migrations)
    expected = IMPORTED.read_text().split()

    found = imported(database, migrations)

    assert found == expected, "\n".join(difflib.unified_diff(expected, found, IMPORTED.name, "the image", lineterm=""))


async def test_something_to_do_imports_more(database: Database, folder: Folder) -> None:
    migrations = folder({"001_a.sql": "CREATE TABLE a ();"})

    found = imported(database, migrations)

    assert {"pgslipway.engine.transaction", "pgslipway.engine.plan", "tenacity"} <= set(found) - set(
        IMPORTED.read_text().split()
    )
