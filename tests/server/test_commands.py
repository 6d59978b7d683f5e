"""`status`, `plan`, `rehearse`, --help and --version, as a person or a script meets them."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from containers import ROOT
from pgslipway import __version__

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Folder, Slipway
    from servers import Database

WEBSHOP = ROOT / "examples" / "webshop"


async def make_one_of_each(database: Database, folder: Folder, slipway: Slipway) -> Path:
    """A folder and a database that show every state there is."""
    files = folder({f"{number:03}_a.sql": "" for number in (1, 2, 3, 9)})
    slipway(env=database.environ, migrations=files)
    (files / "002_a.sql").unlink()
    (files / "009_a.sql").unlink()
    await database.execute("UPDATE schema_migrations SET applied_at = '2026-01-02 03:04:05+00'")
    return folder({"003_a.sql": "SELECT 'edited';", "004_b.sql": "SELECT 1;"})


async def test_status_shows_every_state_as_a_table(database: Database, folder: Folder, slipway: Slipway) -> None:
    files = await make_one_of_each(database, folder, slipway)

    finished = slipway("status", env=database.environ, migrations=files)

    assert finished.code == 0, finished
    assert finished.out == (
        "VERSION  STATE    APPLIED AT                 FILE\n"
        "1        applied  2026-01-02T03:04:05+00:00  001_a.sql\n"
        "2        missing  2026-01-02T03:04:05+00:00  002_a.sql\n"
        "3        edited   2026-01-02T03:04:05+00:00  003_a.sql\n"
        "4        pending  -                          004_b.sql\n"
        "9        ahead    2026-01-02T03:04:05+00:00  009_a.sql\n"
    )


async def test_status_as_json_is_for_scripts(database: Database, folder: Folder, slipway: Slipway) -> None:
    files = await make_one_of_each(database, folder, slipway)

    finished = slipway("status", "--json", env=database.environ, migrations=files)

    rows = json.loads(finished.out)
    assert [row["state"] for row in rows] == ["applied", "missing", "edited", "pending", "ahead"]
    assert rows[0] == {
        "version": 1,
        "filename": "001_a.sql",
        "state": "applied",
        "applied_at": "2026-01-02T03:04:05+00:00",
        "progress": None,
    }


async def test_status_of_an_empty_database_is_all_pending_and_writes_nothing(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    files = folder({"001_a.sql": ""})

    plain = slipway("status", env=database.environ, migrations=files)
    strict = slipway("status", "--exit-code", env=database.environ, migrations=files)

    assert plain.code == 0, plain
    assert strict.code == 14, strict
    assert "1 migration pending: 001_a.sql" in strict.err
    assert await database.fetch("SELECT FROM pg_class WHERE relname = 'schema_migrations'") == []


async def test_status_needs_no_more_than_select(database: Database, folder: Folder, slipway: Slipway) -> None:
    files = folder({"001_a.sql": ""})
    slipway(env=database.environ, migrations=files)
    reader = await database.create_role("slipway_reader")
    await database.execute("GRANT SELECT ON schema_migrations TO slipway_reader")

    finished = slipway("status", "--exit-code", env=reader.environ, migrations=files, role="never_taken")

    assert finished.code == 0, finished


async def test_plan_says_what_up_would_do_and_does_nothing(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    files = folder(
        {"001_a.sql": "SELECT 1; SELECT 2;", "002_b.sql": "-- no-transaction\nCREATE INDEX CONCURRENTLY i ON a (n);"}
    )

    finished = slipway("plan", env=database.environ, migrations=files)

    assert finished.code == 0, finished
    assert finished.out == (
        "apply 001_a.sql (2 statements, in a transaction)\napply 002_b.sql (1 statement, without a transaction)\n"
    )
    assert await database.fetch("SELECT FROM pg_class WHERE relname = 'schema_migrations'") == []


@pytest.mark.parametrize(
    ("change", "code"),
    [({"001_a.sql": "SELECT 'edited'"}, 23), ({"002_b.sql": "COMMIT"}, 21), ({"002_b.sql": "CREATE EXTENSION no"}, 21)],
    ids=["edited", "transaction control", "extension"],
)
async def test_plan_refuses_as_up_would(
    change: dict[str, str], code: int, database: Database, folder: Folder, slipway: Slipway
) -> None:
    slipway(env=database.environ, migrations=folder({"001_a.sql": ""}))
    files = folder(change)

    planned = slipway("plan", env=database.environ, migrations=files)
    run = slipway("up", env=database.environ, migrations=files)

    assert planned.code == run.code == code, planned
    assert planned.outcome
    assert run.outcome
    assert planned.outcome["message"] == run.outcome["message"]


@pytest.mark.needs_server
def test_rehearse_applies_everything_and_leaves_nothing(slipway: Slipway) -> None:
    finished = slipway("rehearse", str(WEBSHOP), env={"PGPORT": "1", "PGHOST": "nowhere"})

    assert finished.code == 0, finished
    assert [line.split()[1] for line in finished.out.splitlines()] == ["STATE", *["applied"] * 4]
    assert "connected to an embedded Postgres\n" in finished.err
    assert "rehearsed 4 migrations on an embedded Postgres, which is gone again" in finished.err


@pytest.mark.needs_server
def test_rehearse_fails_like_up(folder: Folder, slipway: Slipway) -> None:
    finished = slipway("rehearse", env={}, migrations=folder({"001_a.sql": "SELECT oops"}))

    assert finished.code == 24, finished
    assert '001_a.sql:1: column "oops" does not exist' in finished.err


@pytest.mark.needs_server
def test_rehearse_without_a_place_for_its_server_says_so() -> None:
    """No file of the server may be as large as they are."""
    command = f"ulimit -f 64; exec {shlex.quote(sys.executable)} -m pgslipway rehearse {shlex.quote(str(WEBSHOP))}"

    ended = subprocess.run(
        ["bash", "-c", command], check=False, capture_output=True, text=True, env={"PATH": os.environ["PATH"]}
    )

    assert ended.returncode == 10, ended
    assert "error: an embedded Postgres does not start in " in ended.stderr
    assert "TMPDIR can name another place\n" in ended.stderr
    assert "Traceback" not in ended.stderr.partition("error: ")[2]


def test_help_shows_commands_settings_and_exit_codes(slipway: Slipway) -> None:
    finished = slipway("--help", env={})

    assert finished.code == 0, finished
    assert finished.out.startswith("usage: pgslipway [COMMAND] [options]\n")
    for expected in ("rehearse", "--lock-timeout VALUE", "MIGRATE_LOCK_TIMEOUT", "24       migration failed"):
        assert expected in finished.out


def test_version_has_one_source(slipway: Slipway) -> None:
    assert slipway("--version", env={}).out == f"pgslipway {__version__}\n"


def test_check_takes_a_version_as_the_layout_writes_it(slipway: Slipway, folder: Folder) -> None:
    migrations = folder({"V1.1__a.sql": "COMMIT; SELECT 1", "V1.2__b.sql": ""})

    checked = slipway("check", "--since", "1.2", env={}, migrations=migrations)
    refused = slipway("check", "--since", "1.x", env={}, migrations=migrations)

    assert checked.outcome, checked
    told = "checked 1 migration, laid out as by flyway (told by V1.1__a.sql): nothing wrong"
    assert (checked.code, checked.outcome["message"]) == (0, told)
    assert refused.outcome, refused
    no_version = "--since: '1.x' is no version as flyway writes it, such as 1.2"
    assert (refused.code, refused.outcome["message"]) == (20, no_version)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["upp"], "invalid choice: 'upp'"),
        (["up", "now"], "up takes no argument"),
        (["status", "--since", "3"], "--since goes with check and rehearse, not with status"),
        (["up", "--json"], "--json goes with status and rehearse, not with up"),
        (["rehearse", "--refuse-blocking"], "rehearse --refuse-blocking goes with --locks"),
        (["rehearse", "--since", "3"], "rehearse --since goes with --locks or --down"),
        (["rehearse", "--locks", "--down"], "rehearse takes one of --locks and --down; run it once with each"),
        (["rehearse", "--locks", "--since", ""], "--since: the version is empty"),
        (["rehearse", "--locks", "--since", "x"], "--since: 'x' is no version, such as 3"),
        (["--no-such-flag"], "unknown arguments: --no-such-flag"),
    ],
    ids=[
        "command",
        "folder",
        "since",
        "json",
        "blocking alone",
        "since alone",
        "both",
        "empty version",
        "no version",
        "flag",
    ],
)
def test_wrong_arguments_are_a_bad_configuration(arguments: list[str], message: str, slipway: Slipway) -> None:
    finished = slipway(*arguments, env={}, migrations=WEBSHOP)

    assert finished.code == 20, finished
    assert message in finished.err
