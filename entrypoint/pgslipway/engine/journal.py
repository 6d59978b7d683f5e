"""The journal: how far a non-transactional file got, a row for each of its statements.

A row without `done_at` is in flight: it was written before its statement was sent outside a transaction. All other
rows were committed together with the effect of their statement. The rows of a file go when its history row comes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TypeAlias

from ..dial import Connection
from ..driver_errors import made_once
from ..errors import HistoryConflict
from ..history import ON_PRIMARY, UNREADABLE, History
from ..question import table_name
from ..quote import quote_literal

SUFFIX = "_steps"
EXISTS = "SELECT 1 WHERE pg_catalog.to_regclass({table}) IS NOT NULL"
CREATE = """CREATE TABLE {table} (
    version BIGINT, step INT, checksum TEXT NOT NULL, line INT NOT NULL, statement TEXT, object TEXT, before BIGINT[],
    started_at TIMESTAMPTZ NOT NULL DEFAULT NOW(), done_at TIMESTAMPTZ, PRIMARY KEY (version, step))"""
# Of each unfinished file, how many statements are done, and where the last of them begins.
DONE = f"""
SELECT version, pg_catalog.count(*)::int AS done, pg_catalog.max(line) AS line
  FROM {{table}} WHERE done_at IS NOT NULL AND {ON_PRIMARY} GROUP BY version
"""
# The statements that were sent outside a transaction and have no end yet.
IN_FLIGHT = f"""
SELECT version, step, checksum, line, statement, object, before, started_at
  FROM {{table}} WHERE done_at IS NULL AND {ON_PRIMARY}
"""
CHECKSUMS = f"""
SELECT array_agg(checksum ORDER BY step)
  FROM {{table}} WHERE version = {{version}} AND done_at IS NOT NULL AND {ON_PRIMARY}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A statement of a file, as the journal knows it."""

    version: int
    step: int
    """Counts the statements of the file from 1, without SET and RESET."""
    checksum: str
    line: int
    statement: str | None = None
    """The text, of one that ran outside a transaction."""
    object: str | None = None
    """The qualified name of the object that the statement makes or removes."""
    before: Sequence[int] | None = None
    """The oids of the objects of that name before: one with another oid was made by the statement."""
    started_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an unfinished file got."""

    done: int = 0
    """How many of its statements are done."""
    line: int = 0
    """Where the last one of them begins."""
    in_flight: Entry | None = None
    """The one after them, where a run was stopped while it ran."""


NOT_BEGUN = Progress()
Unfinished: TypeAlias = Mapping[int, Progress]
"""How far each unfinished file got, by version."""


@dataclass(frozen=True, slots=True)
class Journal:
    """The journal that belongs to a history table, read and written over a connection that is passed in."""

    history: History

    @property
    def name(self) -> str:
        """The qualified, quoted name."""
        return table_name(self.history.schema, self.history.table + SUFFIX)

    async def unfinished(self, connection: Connection) -> Unfinished:
        """Return how far each unfinished file got; nothing where there is no table yet.

        Raises AccessRefused where the role may not read it, HistoryConflict for a table that is not ours.
        """
        if not await self.exists(connection):
            return {}
        async with self.history.transaction(connection):
            try:
                rows = await connection.fetch(DONE.format(table=self.name))
                done = {row["version"]: Progress(row["done"], row["line"]) for row in rows}
                rows = await connection.fetch(IN_FLIGHT.format(table=self.name))
            except UNREADABLE as error:
                raise HistoryConflict(
                    f"{self.name} is not pgslipway's journal: {error}; set MIGRATE_TABLE to another name"
                ) from error
        flying = {row["version"]: replace(done.get(row["version"], NOT_BEGUN), in_flight=Entry(**row)) for row in rows}
        return done | flying

    async def checksums(self, connection: Connection, version: int) -> list[str]:
        """Return the checksums of the statements of a file that are done, in order."""
        async with self.history.transaction(connection):
            return await connection.fetchval(CHECKSUMS.format(table=self.name, version=version)) or []

    async def create(self, connection: Connection) -> None:
        """Make the table unless it is there. Raises AccessRefused, StartOver, Busy."""
        if not await self.exists(connection):
            async with self.history.transaction(connection):
                with made_once("the journal"):
                    await connection.execute(CREATE.format(table=self.name))

    async def exists(self, connection: Connection) -> bool:
        """Tell in one round trip whether the table is there."""
        look = EXISTS.format(table=quote_literal(self.name))
        return await connection.execute(f"{self.history.look_sql} {look}") == "SELECT 1"

    def add_sql(self, entry: Entry, condition: str, *, is_done: bool) -> str:
        """Return the SQL that writes `entry` if `condition` holds; its tag counts the row."""
        statement, name = ("NULL" if text is None else quote_literal(text) for text in (entry.statement, entry.object))
        before = "NULL" if entry.before is None else quote_literal(f"{{{','.join(map(str, entry.before))}}}")
        return f"""
            INSERT INTO {self.name} (version, step, checksum, line, statement, object, before, done_at)
            SELECT {entry.version}, {entry.step}, {quote_literal(entry.checksum)}, {entry.line}, {statement}, {name},
                   {before}::bigint[], {"pg_catalog.now()" if is_done else "NULL::timestamptz"}
             WHERE {condition}"""

    def finish_sql(self, entry: Entry) -> str:
        """Return the SQL that notes that `entry` is done."""
        return f"UPDATE {self.name} SET done_at = pg_catalog.now() WHERE {self.where_sql(entry)}"

    def remove_sql(self, entry: Entry) -> str:
        """Return the SQL that notes that `entry` did not take place."""
        return f"DELETE FROM {self.name} WHERE {self.where_sql(entry)}"

    def where_sql(self, entry: Entry) -> str:
        """Return the condition for the row of `entry`."""
        return f"version = {entry.version} AND step = {entry.step} AND done_at IS NULL"

    def clear_sql(self, version: int) -> str:
        """Return the SQL that removes all rows of a file."""
        return f"DELETE FROM {self.name} WHERE version = {version}"
