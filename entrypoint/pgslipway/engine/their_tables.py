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
from .strangers import STRANGERS
from .their_rows import Theirs
from .tools import TOOLS, Tool

# The tables of a name that some tool's has, one by the name that was given for it, and those with certain columns.
TABLES = """
SELECT n.nspname AS schema, c.relname AS name, pg_catalog.format('%I.%I', n.nspname, c.relname) AS shown,
       c.relkind = ANY ('{r,p}') AS is_table,
       n.nspname = pg_catalog.current_schema() AS is_current, c.oid = pg_catalog.to_regclass($2) IS TRUE AS is_given,
       pg_catalog.has_schema_privilege(n.oid, 'USAGE') AND pg_catalog.has_table_privilege(c.oid, 'SELECT') AS readable,
       pg_catalog.array_agg(a.attname::text) AS columns,
       pg_catalog.array_agg(pg_catalog.format_type(a.atttypid, NULL)) AS types
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
 WHERE c.relkind = ANY ('{r,p,v,m,f}') AND (c.relname = ANY ($1) OR c.oid = pg_catalog.to_regclass($2)
       OR c.oid IN (SELECT attrelid FROM pg_catalog.pg_attribute
                     WHERE attnum > 0 AND NOT attisdropped AND attname = ANY ($3)
                     GROUP BY attrelid HAVING pg_catalog.count(*) = pg_catalog.cardinality($3)))
 GROUP BY n.oid, n.nspname, c.oid, c.relname, c.relkind
 ORDER BY n.nspname, c.relname
"""
NAMES = [name for tool in TOOLS.values() for name in tool.tables] + [stranger.table for stranger in STRANGERS]
WHERE = "SELECT pg_catalog.current_schema() AS schema, pg_catalog.current_database() AS database"
PARTS = "SELECT pg_catalog.parse_ident($1)"


@dataclass(frozen=True, slots=True)
class Table:
    """A table in the database that has the name of some tool's."""

    schema: str
    name: str
    shown: str
    """The name as a person writes it in a setting."""
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

    def is_where(self, schema: str | None) -> bool:
        """Tell whether it is in this schema; None is the current one."""
        return self.schema == schema if schema else self.is_current


async def has_like(history: History, connection: Connection) -> bool:
    """Tell in one round trip whether there is a table, besides ours, that has the name of some tool's.

    It is looked for in all schemas; where ours is a target, in it alone.
    """
    names = ", ".join(map(quote_literal, NAMES))
    ours = f"pg_catalog.to_regclass({quote_literal(history.name)})"
    query = f"SELECT FROM pg_catalog.pg_class WHERE relname IN ({names}) AND oid IS DISTINCT FROM {ours}"
    if history.search_path:
        query += f" AND relnamespace = pg_catalog.to_regnamespace({quote_literal(quote_name(history.schema))})"
    return await connection.execute(f"{history.look_sql} {query}") != "SELECT 0"


async def tables_like(history: History, connection: Connection, relation: str, tool: Tool | None = None) -> list[Table]:
    """Return the tables that may be some tool's; for a `tool` with a given table, all tables that look like it.

    Where the schema of the history is a target, they are in it alone.

    A name that somebody gave may be misspelt, and then nothing else tells that the tool was at work. Raises
    BadConfiguration for what is no name, AccessRefused where the role may not look.
    """
    if relation:
        await parts_of(connection, relation)
    columns = [*tool.columns] if tool and relation else []
    try:
        rows = await connection.fetch(TABLES, NAMES, relation or None, columns)
    except asyncpg.InsufficientPrivilegeError as error:
        raise AccessRefused(f"{relation} cannot be looked for: {error}") from error
    return [
        Table(
            row["schema"], row["name"], row["shown"], row["is_table"], bool(row["is_current"]), row["is_given"],
            row["readable"], dict(zip(row["columns"], row["types"], strict=True)),
        )
        for row in rows
        if not history.search_path or row["schema"] == history.schema
    ]  # fmt: skip


async def where(connection: Connection) -> tuple[str, str]:
    """Return the current schema, empty without one, and the database."""
    row = await connection.fetchrow(WHERE)
    assert row  # noqa: S101  # a query without FROM has one
    return row["schema"] or "", row["database"]


async def place_of(connection: Connection, tool: Tool, relation: str) -> tuple[str, str]:
    """Return the schema and the name of a tool's table, whether it is there or not. Raises BadConfiguration."""
    current, _ = await where(connection)
    if not relation:
        return tool.schema or current, tool.tables[0]
    *schema, name = await parts_of(connection, relation)
    return schema[0] if schema else current, name


async def parts_of(connection: Connection, relation: str) -> list[str]:
    """Return the name of a relation, with its schema before it where there is one. Raises BadConfiguration.

    What is no name is no failure of every server's when it looks for the relation, and then it is not there.
    """
    try:
        parts: list[str] = await connection.fetchval(PARTS, relation)
    except asyncpg.DataError as error:
        raise BadConfiguration(f"MIGRATE_ADOPT: {relation} is no name of a relation: {error}") from error
    if len(parts) > 2:  # the database is the one that we are in
        raise BadConfiguration(f"MIGRATE_ADOPT: {relation} is no name of a relation, with its schema or without")
    return parts


def table_of(tool: Tool, tables: Sequence[Table], relation: str) -> Table | None:
    """Return the tool's table: the one that was given, or where the tool has it by itself.

    Raises HistoryConflict for what is not its table, AccessRefused for one that cannot be read.
    """
    if relation:
        found = [table for table in tables if table.is_given]
    else:
        found = [table for table in tables if table.name in tool.tables and table.is_where(tool.schema)]
        found.sort(key=lambda table: (not tool.made(table.columns), tool.tables.index(table.name)))
    if not found or (found[0].name in tool.tables[1:] and not relation and not tool.made(found[0].columns)):
        return None  # another tool's may have the older name
    table = found[0]
    if not table.is_table:
        raise HistoryConflict(f"{table.shown} is not a table, so nobody knows what it shows; name {tool.name}'s table")
    if not tool.made(table.columns):
        raise HistoryConflict(f"{table.shown} is not {tool.name}'s: its columns are {few(sorted(table.columns), 12)}")
    if not table.readable:
        raise AccessRefused(f"{table.shown} cannot be read: it takes SELECT on it and USAGE on its schema")
    return table


async def read(tool: Tool, table: Table, connection: Connection, migrations: Sequence[Migration]) -> Theirs:
    """Return a tool's history. Raises HistoryConflict for rows that are none of its."""
    try:
        rows = await connection.fetch(tool.query.format(table=table.qualified))
    except asyncpg.DataError as error:
        raise HistoryConflict(f"{table.shown} has a value that {tool.name} does not write: {error}") from error
    if tool.needs_version and any(row["version"] is None for row in rows):
        return Theirs(refusals=["it has a row without a version"])
    return tool.read(rows, migrations)
