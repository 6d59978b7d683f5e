"""The targets of a run: from the list or the query, those of this pod, and only schemas that are there."""

import csv
import logging
from collections.abc import Sequence
from io import StringIO

import asyncpg

from ..config import Config
from ..dial import Connection
from ..errors import BadConfiguration
from ..quote import quote_array
from ..words import few
from .names import Target, Word, shard_of, targets_of, words_in

logger = logging.getLogger(__name__)

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
        words = await rows_of(connection, config.targets_query or "")
    targets, doubles = targets_of(words, config.target_kind)
    if doubles:
        logger.warning("more than once in the list of targets, and done once: %s", few(doubles))
    return shard_of(targets, config)


async def rows_of(connection: Connection, query: str) -> list[Word]:
    """Return the first column of MIGRATE_TARGETS_QUERY. Raises BadConfiguration where the server refuses it."""
    try:
        rows = await column(connection, query.strip().removesuffix(";"))
    except asyncpg.PostgresError as error:
        if (error.sqlstate or "")[:2] in {"08", "40", "53", "57"}:  # no fault of the query
            raise
        raise BadConfiguration(f"MIGRATE_TARGETS_QUERY: {error}") from error
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


async def refuse_missing(connection: Connection, targets: Sequence[Target]) -> None:
    """Raise BadConfiguration with every target that is no schema of the database."""
    missing = await column(connection, MISSING.format(names=quote_array(one.name for one in targets)))
    if missing:
        raise BadConfiguration(
            f"no such schema: {few(missing, 20)}; create it (pgslipway creates no schema for a target), or take it off "
            "the list"
        )
