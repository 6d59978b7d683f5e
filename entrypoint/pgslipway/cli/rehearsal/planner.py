"""The tables that a statement about rows reads as a whole, by its plan for large tables.

On the small tables of a rehearsal the planner reads a table of one page as a whole rather than use an index; and it
reads a whole table by way of an index, which counts as no whole read. So it is asked for its plan, with other ways
turned off. The check of a foreign key, in turn, may use the indexes of empty tables.
"""

import json
import re
from collections.abc import AsyncIterator, Iterator
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import asyncpg

from ...dial import Connection
from ...engine.recovery import qualified
from ...engine.sql import names

Names: TypeAlias = AbstractSet[tuple[str, str]]
"""Tables, by schema and name."""

BY_CONDITION = ("enable_seqscan", "enable_indexonlyscan", "enable_mergejoin")
"""Without these a table is read as a whole only where no index fits the conditions."""
BY_INDEX = ("enable_indexscan", "enable_bitmapscan", "enable_indexonlyscan")
MADE_OF_A_QUERY = r"CREATE ((GLOBAL |LOCAL )?TEMP(ORARY)? |UNLOGGED )?TABLE .*\bAS\b|CREATE MATERIALIZED VIEW"
QUERIES = rf"INSERT|UPDATE|DELETE|MERGE|WITH|SELECT|VALUES|REFRESH|{MADE_OF_A_QUERY}"
EXPLAINED = re.compile(rf"(?!.*\bWITH NO DATA$)({QUERIES})\b")
"""The kinds of statements that have a plan."""
UNWANTED = (
    (re.compile(rf"{EXPLAINED.pattern}|COPY"), BY_CONDITION),
    (re.compile(r"ALTER TABLE\b"), BY_INDEX),
)
"""The kinds of plans that are not wanted, by the words of a statement."""
QUERY_OF_VIEW = "SELECT coalesce(pg_catalog.pg_get_viewdef(pg_catalog.to_regclass($1)), '')"
BEFORE_VIEW = {("REFRESH",), ("MATERIALIZED",), ("VIEW",), ("CONCURRENTLY",)}
KEEP = "SAVEPOINT pgslipway_plan"
UNDO = "ROLLBACK TO SAVEPOINT pgslipway_plan; RELEASE SAVEPOINT pgslipway_plan"
TURN_OFF = """
SELECT pg_catalog.set_config('pgslipway.' || name, pg_catalog.current_setting(name), true),
       pg_catalog.set_config(name, 'off', true)
  FROM pg_catalog.unnest($1::text[]) AS unwanted (name)
"""
PUT_BACK = """
SELECT pg_catalog.set_config(name, pg_catalog.current_setting('pgslipway.' || name), true)
  FROM pg_catalog.unnest($1::text[]) AS unwanted (name)
"""


@asynccontextmanager
async def as_for_large_tables(connection: Connection, words: str, text: str) -> AsyncIterator[Names]:
    """Have a statement in the block planned so, and give the tables that it reads as a whole, by its plan.

    Takes its words and its text. After a failure all is rolled back anyway.
    """
    unwanted = next((ways for pattern, ways in UNWANTED if pattern.match(words)), None)
    if unwanted:
        await connection.fetch(TURN_OFF, unwanted)
    yield await plan(connection, words, text) if EXPLAINED.match(words) else frozenset()
    if unwanted:
        await connection.fetch(PUT_BACK, unwanted)


async def plan(connection: Connection, words: str, text: str) -> Names:
    """Return the tables that the plan of a statement reads as a whole; none where it fails, as the statement will."""
    await connection.execute(KEEP)
    try:
        if words.startswith("REFRESH"):
            view = next(parts for _, parts in names(text.encode()) if parts not in BEFORE_VIEW)
            text = await connection.fetchval(QUERY_OF_VIEW, qualified(view))
        found = await connection.fetchval(f"EXPLAIN (VERBOSE, FORMAT JSON) {text}")
    except asyncpg.PostgresError:
        found = "[{}]"
    await connection.execute(UNDO)
    return frozenset(read_whole(json.loads(found)[0].get("Plan", {})))


def read_whole(node: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the tables that a node of a plan, or one below it, reads without a condition for an index."""
    is_scan = node.get("Node Type", "") in {"Seq Scan", "Index Scan", "Index Only Scan"}
    if is_scan and "Index Cond" not in node:
        yield node["Schema"], node["Relation Name"]
    if node.get("Node Type") != "Limit":
        for child in node.get("Plans", ()):
            yield from read_whole(child)
