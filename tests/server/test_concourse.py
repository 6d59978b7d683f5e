"""Real input: the migrations of Concourse CI, written by people who never heard of pgslipway."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from containers import ROOT

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Slipway
    from servers import Database, Embedded, Server

CONCOURSE = ROOT.parent / "shared" / "real" / "concourse"
TWICE = "1626194317_add_pipeline_pauses_table.up.sql"
MENDED = TWICE.replace("1626194317", "1626194318")

INTERNAL = "pg_attver"
"""What newer minor releases keep among a column's options; only the pg_dump of the same release leaves it out."""

pytestmark = pytest.mark.skipif(not CONCOURSE.is_dir(), reason="the migrations of Concourse are not in this clone")


@pytest.fixture
def concourse(tmp_path: Path) -> Path:
    """The 149 files, with the version that two of them share mended."""
    copy = tmp_path / "concourse"
    shutil.copytree(CONCOURSE, copy)
    (copy / TWICE).rename(copy / MENDED)
    return copy


def files_of(folder: Path) -> list[Path]:
    """The files that go up, in order."""
    return sorted(folder.glob("*.up.sql"), key=lambda path: int(path.name.partition("_")[0]))


def dump(database: Database, embedded: Embedded) -> list[str]:
    """The schema as pg_dump writes it, without comments and what differs from dump to dump."""
    path = embedded.folder / f"{database.name}.sql"
    embedded.run(
        "pg_dump", "--schema-only", "--exclude-table=schema_migrations", "--file", path,
        "--host", database.host, "--port", database.port, "--username", database.user, database.name,
        PGPASSWORD=database.password,
    )  # fmt: skip
    lines = path.read_text().splitlines()
    return [line for line in lines if line and not line.startswith(("--", "\\")) and INTERNAL not in line]


def test_as_it_stands_it_is_refused_with_both_files_named(slipway: Slipway) -> None:
    finished = slipway("check", env={}, migrations=CONCOURSE)

    assert finished.code == 21, finished
    assert (
        f"version 1626194317 is taken by 1626194317_add_job_pauses_table.up.sql and {TWICE}; "
        "give each file a version of its own"
    ) in finished.err


@pytest.mark.docker_only  # the embedded Postgres has no pgcrypto, which one of the files creates
async def test_schema_is_the_one_that_psql_makes(
    server: Server, database: Database, embedded: Embedded, concourse: Path, slipway: Slipway
) -> None:
    first = slipway(env=database.environ, migrations=concourse)
    second = slipway(env=database.environ, migrations=concourse)
    async with server.fresh_database() as by_psql:
        for path in files_of(concourse):
            embedded.run(
                "psql", "--no-psqlrc", "--set=ON_ERROR_STOP=1", "--single-transaction", "--quiet",
                "--command", path.read_text(),
                "--host", by_psql.host, "--port", by_psql.port, "--username", by_psql.user, by_psql.name,
                PGPASSWORD=by_psql.password,
            )  # fmt: skip
        expected = dump(by_psql, embedded)

    assert first.code == 0, first
    assert first.outcome
    assert first.outcome["applied_count"] == len(files_of(concourse)) == 149
    assert second.code == 0, second
    assert second.outcome
    assert second.outcome["applied"] == []
    assert len(expected) > 1000
    assert dump(database, embedded) == expected
