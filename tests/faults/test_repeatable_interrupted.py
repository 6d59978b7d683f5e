"""Repeatable files, cut and killed at every message: what is there is what is recorded, and the next run goes on."""

from __future__ import annotations

import asyncio
from hashlib import sha256
from typing import TYPE_CHECKING

import asyncpg
import pytest

from pgslipway import run_migrations
from proxy import FaultProxy
from sampling import sample_of_this_run
from strikes import ENDS, finish_struck

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Folder, Process, Slipway
    from servers import Database, Embedded

pytestmark = pytest.mark.faults


def text(name: str, release: int) -> str:
    return f"CREATE OR REPLACE VIEW {name} AS SELECT {release} AS n; SELECT pg_sleep(0.02);"


def release(number: int) -> dict[str, str]:
    """What changes with a release: a version more, two new texts, and one that stays."""
    return {
        f"{number}_t.sql": f"CREATE TABLE t{number} ();",
        "R__a.sql": text("a", number), "R__b.sql": text("b", number), "R__c.sql": text("c", 1),
    }  # fmt: skip


RELEASE = {sha256(text(name, number).encode()).hexdigest(): number for name in "abc" for number in (1, 2)}
CURRENT = """
SELECT DISTINCT ON (filename) filename, checksum, newest FROM schema_migrations_repeatable
 ORDER BY filename, newest DESC, applied_at DESC"""


class Ground:
    """The first release, applied to a new database for each case; then the second one."""

    def __init__(self, embedded: Embedded, slipway: Slipway, first: Path, second: Path) -> None:
        self.server, self.slipway = embedded.cluster().start().server, slipway
        self.first, self.second = first, second

    def up(self, database: Database) -> Process:
        return self.slipway.start(env=database.environ, migrations=self.second)

    async def apply(self, database: Database, migrations: Path) -> None:
        """In this process, which is faster."""
        async with asyncpg.create_pool(database.url, min_size=1, max_size=1) as pool:
            await run_migrations(pool, migrations)

    async def messages(self) -> range:
        """The messages of a run without a fault, from that on which begins the first file."""
        async with self.server.fresh_database() as database:
            await self.apply(database, self.first)
            async with FaultProxy(database) as proxy:
                finished = await asyncio.to_thread(self.up(database.at(proxy.port)).finish)
                assert finished.code == 0, finished
                begin = next(one.number for one in proxy.passages if b"BEGIN ISOLATION" in one.message.raw)
                return range(begin, len(proxy.passages))

    async def releases(self, database: Database) -> list[int]:
        """Of which release the versions are, and each view; what is recorded about them is the same."""
        (shown,) = await database.fetch("SELECT a.n AS a, b.n AS b, c.n AS c FROM a, b, c")
        recorded = [RELEASE[row["checksum"]] for row in await database.fetch(CURRENT)]
        assert recorded == [*shown.values()]
        rows = await database.fetch("SELECT version FROM schema_migrations ORDER BY 1")
        tables = await database.fetch("SELECT FROM pg_class WHERE relname IN ('t1', 't2')")
        assert len(tables) == len(rows)
        return [len(rows), *recorded]

    async def examine(self, number: int, means: str) -> list[str]:
        """What is wrong after a fault at that message, and after a second run."""
        async with self.server.fresh_database() as database, FaultProxy(database) as proxy:
            await self.apply(database, self.first)
            process = self.up(database.at(proxy.port))
            wrong = await finish_struck(process, proxy, number, means)
            there = await self.releases(database)
            await self.apply(database, self.second)
            if there not in ([1, 1, 1, 1], [2, 1, 1, 1], [2, 2, 1, 1], [2, 2, 2, 1]):
                wrong.append(f"there {there}")
            newest = {row["newest"] for row in await database.fetch(CURRENT)}
            if await self.releases(database) != [2, 2, 2, 1] or newest != {2}:
                wrong.append(f"then {await self.releases(database)}, newest {newest}")
            return [f"{means} at {number}: {one}" for one in wrong]


@pytest.fixture
def ground(embedded: Embedded, slipway: Slipway, folder: Folder, tmp_path: Path) -> Ground:
    first = folder(release(1)).rename(tmp_path / "first")
    return Ground(embedded, slipway, first, folder({"1_t.sql": release(1)["1_t.sql"], **release(2)}))


@pytest.mark.parametrize("means", ENDS)
async def test_what_is_there_is_what_is_recorded(means: str, ground: Ground) -> None:
    messages = await ground.messages()

    wrong = [line for number in sample_of_this_run().of(messages) for line in await ground.examine(number, means)]

    assert wrong == []
    assert len(messages) > 10
