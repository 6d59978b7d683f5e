"""The targets of a run: from the list or the query, those of this pod, and only schemas that are there."""

import asyncio
import csv
import logging
from collections.abc import Sequence
from io import StringIO

import asyncpg

from ..config import Config
from ..dial import Connection
from ..driver_errors import BROKEN, HEALING, describe
from ..errors import BadConfiguration, DatabaseUnavailable
from ..quote import quote_array
from ..words import few
from .names import Target, Word, shard_of, targets_of, words_in

logger = logging.getLogger(__name__)

NO_SCHEMA = "no such schema: {}; create it (pgslipway creates no schema for a target), or take it off the list"
# One row, one message: each name that is no schema, as COPY sends it.
MISSING = """
SELECT name FROM pg_catalog.unnest({names}::text[]) AS wanted (name)
 WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = name)
"""


async def read(config: Config, connection: Connection | None) -> list[Target]:
    """Return this pod's targets, in their order; for a query it takes a `connection`. Raises BadConfiguration."""
    if config.targets is not None or connection is None:
        words = words_in(config.targets or "")
    else:
        words = await rows_of(connection, config.targets_query or "", config.wait_timeout)
    targets, doubles = targets_of(words, config.target_kind)
    if doubles:
        logger.warning("more than once in the list of targets, and done once: %s", few(doubles))
    return shard_of(targets, config)


async def rows_of(connection: Connection, query: str, seconds: float) -> list[Word]:
    """Return the first column of MIGRATE_TARGETS_QUERY.

    Raises BadConfiguration where the server refuses it, DatabaseUnavailable without an answer in so many seconds.
    """
    try:
        async with asyncio.timeout(seconds or None):
            rows = await column(connection, query.strip().removesuffix(";"))
    except BROKEN as error:
        is_fault = isinstance(error, asyncpg.PostgresError) and (error.sqlstate or "")[:2] not in HEALING
        kind = BadConfiguration if is_fault else DatabaseUnavailable
        raise kind(f"MIGRATE_TARGETS_QUERY: {describe(error)}") from error
    return [Word(f"MIGRATE_TARGETS_QUERY, row {number}", text) for number, text in enumerate(rows, 1)]


async def column(connection: Connection, query: str) -> list[str]:
    """Return the first column of a query, NULL as an empty text.

    By COPY, which is one message: behind a pooler the two of a fetch may reach two servers.
    """
    data: list[bytes] = []

    async def take(piece: bytes) -> None:
        data.append(piece)

    await connection.copy_from_query(f"{query}\n", output=take, format="csv", encoding="utf8")
    return [row[0] if row else "" for row in csv.reader(StringIO(b"".join(data).decode(), newline=""))]


async def present(config: Config, connection: Connection, targets: Sequence[Target]) -> list[Target]:
    """Return the targets that are schemas of the database: one that a query has named may be gone since.

    Raises BadConfiguration with all that a list names and that are not there.
    """
    missing = {*await column(connection, MISSING.format(names=quote_array(one.name for one in targets)))}
    if missing and config.targets is not None:
        raise BadConfiguration(NO_SCHEMA.format(few(sorted(missing), 20)))
    if missing:
        logger.warning("no schema any more, and left out: %s", few(sorted(missing)))
    return [target for target in targets if target.name not in missing]
