"""`migrations/` of this repository, which no embedded Postgres can take, rehearsed on a server that has TimescaleDB."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from containers import ROOT
from pages import masked

if TYPE_CHECKING:
    from conftest import Finished, Slipway
    from servers import Database, Server

pytestmark = pytest.mark.docker_only

MIGRATIONS = ROOT / "migrations"
SCRATCH = "SELECT FROM pg_database WHERE datname LIKE 'pgslipway\\_rehearsal\\_%'"
TABLE = """
VERSION  STATE    APPLIED AT                 FILE
1        applied  DATE  001_extensions.sql
2        applied  DATE  002_readings.sql
3        applied  DATE  003_hottest_hour.sql
"""


async def rehearse(slipway: Slipway, database: Database) -> Finished:
    """Rehearse the folder on the server of a database."""
    return await asyncio.to_thread(slipway, "rehearse", str(MIGRATIONS), "--on", database.url, env={})


async def has_none(server: Server) -> bool:
    """Whether no scratch database is on a server."""
    return not await server.database().fetch(SCRATCH)


async def test_extensions_of_this_repository_are_rehearsed(server: Server, slipway: Slipway) -> None:
    finished = await rehearse(slipway, server.database())

    assert finished.code == 0, finished
    assert masked(finished.out) == TABLE.lstrip()
    assert "rehearsed 3 migrations in the scratch database pgslipway_rehearsal_" in finished.err
    assert await has_none(server)


async def test_extension_may_be_in_the_template(server: Server, slipway: Slipway) -> None:
    template = server.database("template1")
    was_there = await template.fetch("SELECT FROM pg_extension WHERE extname = 'timescaledb'")
    await template.execute("CREATE EXTENSION IF NOT EXISTS timescaledb")
    try:
        finished = await rehearse(slipway, server.database())
    finally:
        if not was_there:
            await template.execute("DROP EXTENSION timescaledb")

    assert finished.code == 0, finished
    assert await has_none(server)


async def test_owner_who_is_no_superuser_can_drop_it(server: Server, slipway: Slipway) -> None:
    user = await server.database().create_role("rehearser", "LOGIN CREATEDB")
    try:
        finished = await rehearse(slipway, user)
    finally:
        await server.database().execute("DROP OWNED BY rehearser; DROP ROLE rehearser")

    assert finished.code == 0, finished
    assert await has_none(server)
