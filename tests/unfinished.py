"""Files without a transaction that stop somewhere: what holds a statement up, and what the journal says afterwards."""

from __future__ import annotations

import asyncio
import hashlib
from contextlib import asynccontextmanager
from signal import SIGTERM
from typing import TYPE_CHECKING

from servers import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from conftest import Finished, Process
    from servers import Database

OPT_OUT = "-- no-transaction\n"
INVALID = """
SELECT indexrelid::regclass::text AS name, indexrelid::bigint AS oid FROM pg_index WHERE NOT indisvalid ORDER BY 1
"""
ACTIVE = """
SELECT pid FROM pg_stat_activity
 WHERE datname = current_database() AND state = 'active' AND query LIKE $1 AND pid <> pg_backend_pid()
"""
FAULTS = {"SIGTERM": 143, "SIGKILL": -9, "pg_terminate_backend": 13}
"""What ends a run, and the exit code that it ends with."""


def without_transaction(*statements: str) -> str:
    """A file that has one statement a line, the first in line 2."""
    return OPT_OUT + "".join(f"{statement};\n" for statement in statements)


async def steps_of(database: Database, version: int = 1) -> list[tuple[int, int, bool]]:
    """The journal of a file: (step, line, is done)."""
    rows = await database.fetch(
        "SELECT step, line, done_at IS NOT NULL FROM schema_migrations_steps WHERE version = $1 ORDER BY step", version
    )
    return [(row[0], row[1], row[2]) for row in rows]


async def numbers(database: Database, table: str = "log") -> list[int]:
    """The numbers in a table, in order: each as often as its statement had its effect."""
    return [row["n"] for row in await database.fetch(f"SELECT n FROM {table} ORDER BY n")]


async def invalid_indexes(database: Database) -> list[str]:
    return [row["name"] for row in await database.fetch(INVALID)]


async def oid_of(database: Database, name: str) -> int | None:
    """The oid of a relation, or None."""
    (row,) = await database.fetch("SELECT to_regclass($1)::oid::bigint", name)
    found: int | None = row[0]
    return found


async def is_valid(database: Database, index: str) -> bool:
    rows = await database.fetch("SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass($1)", index)
    return [row["indisvalid"] for row in rows] == [True]


async def wait_for_query(database: Database, pattern: str) -> int:
    """Block until another session of the database runs a query that is LIKE the pattern; its pid."""
    rows = await eventually(lambda: database.fetch(ACTIVE, pattern), f"a session that runs {pattern}")
    pid: int = rows[0]["pid"]
    return pid


async def wait_until_gone(database: Database, pattern: str) -> None:
    """Block until nobody runs such a query."""

    async def is_gone() -> bool:
        return not await database.fetch(ACTIVE, pattern)

    await eventually(is_gone, f"no session runs {pattern}")


@asynccontextmanager
async def transaction_on(database: Database, sql: str) -> AsyncIterator[None]:
    """Keep a transaction open that has run `sql`: others wait for its locks, concurrent builds for its end."""
    async with database.connection() as connection:
        await connection.execute(f"BEGIN; {sql}")
        yield


async def stop(fault: str, process: Process, database: Database, pattern: str) -> Finished | None:
    """End a run whose statement is LIKE `pattern` by a fault; how the program ended unless it was killed."""
    pid = await wait_for_query(database, pattern)
    if fault == "SIGKILL":
        process.kill()
        return None
    if fault == "SIGTERM":
        process.terminate(SIGTERM)
    else:
        await database.fetch("SELECT pg_terminate_backend($1)", pid)
    finished = await asyncio.to_thread(process.finish)
    assert finished.code == FAULTS[fault], finished
    return finished


def in_flight(
    statement: str,
    *,
    version: int = 1,
    step: int = 1,
    line: int = 2,
    object_name: str | None = None,
    before: Sequence[int] | None = None,
) -> str:
    """The SQL that notes a statement as in flight, as a run does before it sends it; the journal has to be there."""
    oids = None if before is None else "{" + ",".join(map(str, before)) + "}"
    return f"""
        INSERT INTO schema_migrations_steps (version, step, checksum, line, statement, object, before)
        VALUES ({version}, {step}, '{hashlib.sha256(statement.encode()).hexdigest()}', {line}, {literal(statement)},
                {literal(object_name)}, {literal(oids)}::bigint[])"""


def literal(text: str | None) -> str:
    return "NULL" if text is None else "'" + text.replace("'", "''") + "'"
