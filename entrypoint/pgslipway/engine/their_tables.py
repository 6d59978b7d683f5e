"""The tables of other tools: found in the catalogs by name, told by their columns, and read."""

from collections.abc import Sequence
from dataclasses import dataclass

import asyncpg

from ..dial import Connection
from ..errors import AccessRefused, BadConfiguration, HistoryConflict
from ..history import History
from ..migrations import Migration
from ..quote import quote_literal, quote_name
from ..words import few
from .their_rows import Theirs
from .tools import STRANGERS, TOOLS, Tool

# The tables of a name that some tool's has, and one by the name that was given for it.
TABLES = """
SELECT n.nspname AS schema, c.relname AS name, c.relkind = ANY ('{r,p}') AS is_table,
       n.nspname = pg_catalog.current_schema() AS is_current, c.oid = pg_catalog.to_regclass($2) IS TRUE AS is_given,
       pg_catalog.has_schema_privilege(n.oid, 'USAGE') AND pg_catalog.has_table_privilege(c.oid, 'SELECT') AS readable,
       pg_catalog.array_agg(a.attname::text) AS columns,
       pg_catalog.array_agg(pg_catalog.format_type(a.atttypid, NULL)) AS types
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
 WHERE c.relkind = ANY ('{r,p,v,m,f}') AND (c.relname = ANY ($1) OR c.oid = pg_catalog.to_regclass($2))
 GROUP BY n.oid, n.nspname, c.oid, c.relname, c.relkind
 ORDER BY n.nspname, c.relname
"""
NAMES = [*dict.fromkeys(name for tool in TOOLS.values() for name in tool.tables), *STRANGERS]


@dataclass(frozen=True, slots=True)
class Table:
    """A table in the database that has the name of some tool's."""

    schema: str
    name: str
    is_table: bool
    is_current: bool
    is_given: bool
    readable: bool
    columns: dict[str, str]
    """The type of each column."""

    @property
    def qualified(self) -> str:
        """The name for SQL."""
        return f"{quote_name(self.schema)}.{quote_name(self.name)}"

    @property
    def shown(self) -> str:
        """The name as a person writes it in a setting."""
        return f"{self.schema}.{self.name}"


async def has_like(history: History, connection: Connection) -> bool:
    """Tell in one round trip whether there is a table, besides ours, that has the name of some tool's."""
    names = ", ".join(map(quote_literal, NAMES))
    ours = f"pg_catalog.to_regclass({quote_literal(history.name)})"
    query = f"SELECT FROM pg_catalog.pg_class WHERE relname IN ({names}) AND oid IS DISTINCT FROM {ours}"
    return await connection.execute(query) != "SELECT 0"


async def tables_like(connection: Connection, relation: str) -> list[Table]:
    """Return the tables that may be some tool's."""
    try:
        rows = await connection.fetch(TABLES, NAMES, relation or None)
    except asyncpg.PostgresError as error:
        raise BadConfiguration(f"MIGRATE_ADOPT: {relation} is no name of a table: {error}") from error
    return [
        Table(
            row["schema"], row["name"], row["is_table"], row["is_current"], row["is_given"], row["readable"],
            dict(zip(row["columns"], row["types"], strict=True)),
        )
        for row in rows
    ]  # fmt: skip


def table_of(tool: Tool, tables: Sequence[Table], relation: str) -> Table | None:
    """Return the tool's table: the one that was given, or where the tool has it by itself."""
    if relation:
        found = [table for table in tables if table.is_given]
    else:
        found = [
            table
            for table in tables
            if table.name in tool.tables
            and (table.schema == tool.schema if tool.schema else table.is_current)
            and tool.made(table.columns)
        ]
    for table in found[:1]:
        if not table.is_table:
            raise HistoryConflict(
                f"{table.shown} is not a table, so nobody knows what it shows; name {tool.name}'s table"
            )
        if not tool.made(table.columns):
            raise HistoryConflict(
                f"{table.shown} is not {tool.name}'s: its columns are {few(sorted(table.columns), 12)}"
            )
        if not table.readable:
            raise AccessRefused(f"{table.shown} cannot be read: it takes SELECT on it and USAGE on its schema")
        return table
    return None


async def read(tool: Tool, table: Table, connection: Connection, migrations: Sequence[Migration]) -> Theirs:
    """Return a tool's history."""
    rows = await connection.fetch(tool.query.format(table=table.qualified))
    if tool.needs_version and any(row["version"] is None for row in rows):
        return Theirs(refusals=["it has a row without a version"])
    return tool.read(rows, migrations)
