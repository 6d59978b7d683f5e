"""The planner's choices while a statement is looked at: as for a large table, whatever the size of the one at hand.

It reads a table of one page as a whole rather than use an index, and the other way round the check of a foreign key may
use indexes of empty tables.
"""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from ...dial import Connection

WHOLE = ("enable_seqscan", "enable_indexonlyscan", "enable_mergejoin")
"""Without these a table is read as a whole only where no index fits the conditions."""
BY_INDEX = ("enable_indexscan", "enable_bitmapscan", "enable_indexonlyscan")
UNWANTED = (
    (re.compile(r"(INSERT|UPDATE|DELETE|MERGE|WITH|SELECT|VALUES|TABLE|COPY|REFRESH|CREATE .*\bAS\b)"), WHOLE),
    (re.compile(r"ALTER TABLE\b"), BY_INDEX),
)
"""The kinds of plans that are not wanted, by the words of a statement."""
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
async def as_for_large_tables(connection: Connection, words: str) -> AsyncIterator[None]:
    """Have a statement in the block planned so, by its words; after a failure all is rolled back anyway."""
    names = next((names for pattern, names in UNWANTED if pattern.match(words)), None)
    if names:
        await connection.fetch(TURN_OFF, names)
    yield
    if names:
        await connection.fetch(PUT_BACK, names)
