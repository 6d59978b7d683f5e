"""`down`, cut and killed at every message: what is undone is a prefix, the newest first, and a second one goes on."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from proxy import FaultProxy
from sampling import sample_of_this_run
from strikes import ENDS, finish_struck

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Folder, Process, Slipway
    from servers import Database, Embedded

pytestmark = pytest.mark.faults

FILES = {
    f"{number}_t.{way}.sql": text.format(number)
    for number in (1, 2)
    for way, text in (("up", "CREATE TABLE t{0} ();"), ("down", "DROP TABLE t{0}; SELECT pg_sleep(0.02);"))
}


class Ground:
    """Two migrations, applied to a new database for each case."""

    def __init__(self, embedded: Embedded, slipway: Slipway, migrations: Path) -> None:
        self.server, self.slipway, self.migrations = embedded.cluster().start().server, slipway, migrations

    async def apply(self, database: Database) -> None:
        finished = await asyncio.to_thread(self.slipway, env=database.environ, migrations=self.migrations)
        assert finished.code == 0, finished

    def down(self, database: Database) -> Process:
        return self.slipway.start("down", "0", env=database.environ, migrations=self.migrations)

    async def messages(self) -> int:
        """How many messages `down` takes without a fault."""
        async with self.server.fresh_database() as database:
            await self.apply(database)
            async with FaultProxy(database) as proxy:
                finished = await asyncio.to_thread(self.down(database.at(proxy.port)).finish)
                assert finished.code == 0, finished
                return len(proxy.passages)

    async def left(self, database: Database) -> tuple[list[str], list[str]]:
        tables = await database.fetch("SELECT relname::text FROM pg_class WHERE relname ~ '^t[0-9]$' ORDER BY 1")
        rows = await database.fetch("SELECT version FROM schema_migrations ORDER BY 1")
        return [row["relname"] for row in tables], [f"t{row['version']}" for row in rows]

    async def examine(self, number: int, means: str) -> list[str]:
        """What is wrong after a fault at that message, and after a second `down`."""
        async with self.server.fresh_database() as database, FaultProxy(database) as proxy:
            await self.apply(database)
            process = self.down(database.at(proxy.port))
            wrong = await finish_struck(process, proxy, number, means)
            tables, rows = await self.left(database)
            second = await asyncio.to_thread(self.down(database).finish)
            if tables != rows or tables != ["t1", "t2"][: len(tables)]:
                wrong.append(f"tables {tables}, rows {rows}")
            if second.code != 0 or await self.left(database) != ([], []):
                wrong.append(f"then {second.code}, left {await self.left(database)}")
            return [f"{means} at {number}: {one}" for one in wrong]


@pytest.fixture
def ground(embedded: Embedded, slipway: Slipway, folder: Folder) -> Ground:
    return Ground(embedded, slipway, folder(FILES))


@pytest.mark.parametrize("means", ENDS)
async def test_what_is_undone_is_a_prefix(means: str, ground: Ground) -> None:
    messages = range(await ground.messages())

    wrong = [line for number in sample_of_this_run().of(messages) for line in await ground.examine(number, means)]

    assert wrong == []
    assert len(messages) > 20
