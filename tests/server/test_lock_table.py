"""The tables of docs/writing-migrations.md say what PostgreSQL 14 to 18 do."""

from __future__ import annotations

import asyncio
import os
import re
from typing import TYPE_CHECKING

import asyncpg
import pytest

from lock_table import HOMES, KINDS, OUTSIDE, PARTITIONED, TABLES, measure, tables, written
from pgslipway.cli.rehearsal.effects import Effect
from pgslipway.cli.rehearsal.looks import Relation
from pgslipway.cli.rehearsal.outside import kind_of
from servers import eventually

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from servers import Database

CONCURRENTLY = [kind.statement for kind in KINDS if OUTSIDE.match(kind.statement) and "VIEW" not in kind.statement]
READ_P1 = "SELECT FROM p1"
WAITED_FOR = """
SELECT mode FROM pg_locks l JOIN pg_stat_activity a USING (pid)
 WHERE NOT granted AND locktype = 'relation' AND a.datname = current_database()
"""


@pytest.fixture
def homes() -> Mapping[int, Path]:
    """The servers of all versions."""
    missing = [version for version, home in HOMES.items() if not home.exists()]
    if missing and os.environ.get("CI") == "true":
        pytest.fail(f"no servers of {missing} here", pytrace=False)
    if missing:
        pytest.skip(f"no servers of {missing} here: tests/setup/postgres-versions.sh gets them")
    return HOMES


async def test_page_has_what_the_servers_say(homes: Mapping[int, Path]) -> None:
    for which, table in tables(await measure(homes)).items():
        assert written(which) == table, "tests/lock_table.py writes it anew"


@pytest.mark.parametrize(
    ("statement", "held"),
    [
        *((one, "LOCK TABLE a, p IN SHARE UPDATE EXCLUSIVE MODE") for one in CONCURRENTLY),
        ("VACUUM (ANALYZE, FULL) a", "LOCK TABLE a IN SHARE UPDATE EXCLUSIVE MODE"),
        ("REINDEX SCHEMA public", "SELECT FROM a"),
        ("ALTER TABLE p DETACH PARTITION p1 CONCURRENTLY", READ_P1),
    ],
)
@pytest.mark.needs_server
async def test_kind_of_a_statement_outside_a_transaction_has_the_lock_that_it_waits_for(
    statement: str, held: str, database: Database
) -> None:
    await database.execute(f"{TABLES} {PARTITIONED}")
    async with database.connection() as holder, database.connection() as connection, holder.transaction():
        await holder.execute(held)
        running = asyncio.ensure_future(connection.execute(statement))
        rows = await eventually(lambda: database.fetch(WAITED_FOR), "the statement to wait")
        running.cancel()
        with pytest.raises((asyncio.CancelledError, asyncpg.QueryCanceledError)):
            await running
    modes = [re.sub(r"(?<!^)([A-Z])", r" \1", row["mode"]).removesuffix(" Lock").upper() for row in rows]

    kind = kind_of(statement)
    assert kind
    expected = kind.last_lock if held == READ_P1 else kind.lock
    assert [Effect(Relation(0, "", "a", "a", "r"), expected, True, False, False).lock_name] == modes
