"""Five hundred runners at once: all succeed, each file is applied once, and the server has room for others.

What matters is asked of the database: how many connections are open, whether an application still gets in, and how
many queries its log holds for each waiter and second.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg
import pytest

from servers import POLL, eventually, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from conftest import Finished, Folder, Process, Slipway
    from servers import Database, Embedded

pytestmark = pytest.mark.faults

RUNNERS = 500
MAX_CONNECTIONS = 100
LONG = 1200.0
APPLIED = {
    "001_log.sql": "CREATE TABLE log (version int); CREATE TABLE big AS SELECT n FROM generate_series(1, 1e4) n;"
}
PENDING = {
    f"{version:03}_a.sql": f"INSERT INTO log VALUES ({version}); SELECT pg_sleep(1);" for version in range(2, 10)
} | {
    "010_i.sql": "-- no-transaction\nCREATE INDEX CONCURRENTLY big_n ON big (n);",
    "011_z.sql": "INSERT INTO log VALUES (11);",
}

CLIENTS = """
SELECT count(*) AS all, count(*) FILTER (WHERE application_name = 'pgslipway') AS runners
  FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()
"""
APPLICATION_EVERY = 0.2

WAITERS = 50
WINDOW = 20.0
SETTLING = 10.0
SAID = re.compile(r"^(?P<time>\d+\.\d+) pgslipway LOG:  (?:statement|execute [^:]*): ", re.MULTILINE)
CAME = re.compile(r"^(?P<time>\d+\.\d+) \S+ LOG:  connection authorized: .*application_name=pgslipway", re.MULTILINE)


@dataclass(slots=True)
class Watch:
    """What was seen while the runners were at it."""

    most: int = 0
    most_runners: int = 0
    samples: list[tuple[float, int]] = field(default_factory=list)
    let_in: int = 0
    turned_away: int = 0


async def try_to_connect(database: Database) -> asyncpg.Connection[asyncpg.Record] | None:
    """A connection, if there is a slot."""
    with suppress(asyncpg.TooManyConnectionsError, asyncpg.CannotConnectNowError, TimeoutError):
        return await database.connect()
    return None


@asynccontextmanager
async def watching(database: Database, application: Database) -> AsyncIterator[Watch]:
    """Count the open connections meanwhile, and try to get in as an application does."""
    seen = Watch()

    async def count() -> None:
        started = time.monotonic()
        connection = await eventually(partial(try_to_connect, database), "a connection to watch from")
        assert connection
        try:
            while True:
                row = await connection.fetchrow(CLIENTS)
                assert row
                seen.most = max(seen.most, row["all"])
                seen.most_runners = max(seen.most_runners, row["runners"])
                seen.samples.append((time.monotonic() - started, row["runners"]))
                await asyncio.sleep(POLL)
        finally:
            connection.terminate()

    async def visit() -> None:
        while True:
            try:
                await application.fetch("SELECT 1")
                seen.let_in += 1
            except asyncpg.TooManyConnectionsError:
                seen.turned_away += 1
            except (
                TimeoutError,
                asyncpg.CannotConnectNowError,
            ):  # the machine is busy with five hundred processes that start
                pass
            await asyncio.sleep(APPLICATION_EVERY)

    tasks = [asyncio.create_task(count()), asyncio.create_task(visit())]
    try:
        yield seen
    finally:
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(one, asyncio.CancelledError) for one in ended), ended


async def finish(runners: list[Process]) -> list[Finished]:
    """Wait until all have ended."""
    return [await asyncio.to_thread(runner.finish) for runner in runners]


@pytest.mark.alone
async def test_five_hundred_runners_apply_each_file_once_and_leave_room(
    embedded: Embedded, tmp_path: Path, folder: Folder, slipway: Slipway
) -> None:
    cluster = embedded.cluster(max_connections=MAX_CONNECTIONS).start()
    runner = await cluster.database.create_role("runner")
    application = await cluster.database.create_role("application")
    old, new = tmp_path / "old", folder(APPLIED)
    type(folder)(old)(APPLIED)
    assert (await asyncio.to_thread(slipway, env=runner.environ, migrations=old)).code == 0
    folder(PENDING)

    cluster.stop()
    with cluster.starting_up():
        runners = [
            slipway.start(
                env=runner.environ,
                migrations=(old, new)[number % 2],
                wait_timeout="15m",
                lock_timeout="15m",
                limit=LONG,
            )
            for number in range(RUNNERS)
        ]
        await asyncio.to_thread(until, lambda: all("waiting for" in one.log for one in runners), "all to wait", LONG)
    started = time.monotonic()
    async with watching(cluster.database, application) as seen:
        finished = await finish(runners)
    took = time.monotonic() - started

    codes = Counter(one.code for one in finished)
    print(
        f"\n{RUNNERS} runners: {took:.1f} s, codes {dict(codes)}; open connections "
        f"at most {seen.most} of {MAX_CONNECTIONS} ({seen.most_runners} runners'); an application got in {seen.let_in} "
        f"times and was turned away {seen.turned_away} times"
    )
    print("open:", " ".join(f"{at:.0f}s:{number}" for at, number in seen.samples[:: max(1, len(seen.samples) // 60)]))
    said = Counter(re.sub(r"\d+", "N", line[9:90]) for one in finished for line in one.err.splitlines())
    print("\n".join(f"{number} x {line}" for line, number in said.most_common(15)))
    assert codes == {0: RUNNERS}, "\n".join(str(one) for one in finished if one.code)
    applied = sorted(name for one in finished if one.outcome for name in one.outcome["applied"])
    assert applied == sorted(PENDING)
    assert await cluster.database.applied() == sorted(APPLIED | PENDING)
    versions = [row["version"] for row in await cluster.database.fetch("SELECT version FROM log ORDER BY version")]
    assert versions == [2, 3, 4, 5, 6, 7, 8, 9, 11]
    assert seen.most < MAX_CONNECTIONS


async def test_waiters_cost_less_than_a_query_a_second_each(
    embedded: Embedded, folder: Folder, slipway: Slipway
) -> None:
    settings = {"log_statement": "all", "log_connections": "on", "log_line_prefix": "%n %a "}
    cluster = embedded.cluster(max_connections=MAX_CONNECTIONS, **settings).start()
    database, files = cluster.database, folder(APPLIED)
    async with database.migration_lock():
        waiters = [slipway.start(env=database.environ, migrations=files, limit=LONG) for _ in range(WAITERS)]
        await asyncio.to_thread(until, lambda: all("held by" in one.log for one in waiters), "all to wait", LONG)
        async with database.connection() as clock:
            first = await now(clock) + SETTLING
            last = first + WINDOW
            await eventually(lambda: is_past(clock, last), "the window to end", LONG)
        log = (embedded.folder / f"{cluster.data.name}.log").read_text()
    finished = await finish(waiters)

    said, came = (sum(first <= float(found["time"]) < last for found in line.finditer(log)) for line in (SAID, CAME))
    print(
        f"\n{WAITERS} waiters, {WINDOW:g} s: {said} queries, {said / WINDOW / WAITERS:.2f} per waiter and second; "
        f"{came} connections, {came / WINDOW / WAITERS:.2f} per waiter and second"
    )
    assert [one.code for one in finished] == [0] * WAITERS, "\n".join(map(str, finished))
    assert said
    assert said / WINDOW / WAITERS < 1


async def now(clock: asyncpg.Connection[asyncpg.Record]) -> float:
    """The server's clock, in seconds."""
    return float(await clock.fetchval("SELECT extract(epoch FROM clock_timestamp())::float8"))


async def is_past(clock: asyncpg.Connection[asyncpg.Record], time: float) -> bool:
    return await now(clock) > time
