"""Adopting: where our history is empty, the migrations that another tool has applied, by its own history.

Their table is read and never touched. Under our lock and theirs, one transaction writes a row for each of them: killed
anywhere, all of them are adopted, or none.
"""

import logging
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace

import asyncpg

from ..dial import Connection
from ..errors import BadConfiguration, HistoryConflict
from ..history import History
from ..layouts.versions import numbers
from ..migrations import Applied, Migration
from ..run import Run
from ..words import count, few
from .their_rows import Entry, Theirs
from .their_tables import Table, has_like, read, table_of, tables_like
from .tools import STRANGERS, TOOLS, Tool

logger = logging.getLogger(__name__)

WHERE = "SELECT pg_catalog.current_schema() AS schema, pg_catalog.current_database() AS database"
EXISTS = "SELECT pg_catalog.to_regclass($1) IS NOT NULL"
INSERT = """
INSERT INTO {table} (version, filename, checksum, applied_at)
SELECT version, filename, checksum, coalesce(applied_at, pg_catalog.now())
  FROM ROWS FROM (pg_catalog.unnest($1::bigint[]), pg_catalog.unnest($2::text[]), pg_catalog.unnest($3::text[]),
                  pg_catalog.unnest($4::timestamptz[])) AS row (version, filename, checksum, applied_at)
"""


@dataclass(frozen=True, slots=True)
class Adoption:
    """What is to be adopted."""

    source: str
    """Whose history it is, for messages."""
    rows: list[Applied]
    warnings: list[str] = field(default_factory=list)
    keys: list[int] = field(default_factory=list)
    """The keys of their lock."""


async def look(run: Run, history: History, connection: Connection) -> tuple[list[Applied], Adoption | None]:
    """Return the rows of our history, and where it has none what to adopt.

    Raises HistoryConflict for a history of theirs that nobody asked to adopt, and for one that cannot be adopted,
    AccessRefused for one that cannot be read, BadConfiguration for a setting that does not fit.
    """
    name, _, relation = (run.config.adopt or "").partition(":")
    try:
        rows = await history.rows(connection)
    except HistoryConflict as error:
        if name in TOOLS and history.table in TOOLS[name].tables:
            raise BadConfiguration(same_name(history, TOOLS[name])) from error
        raise
    if rows or name == "none" or (not name and not await has_like(history, connection)):
        return rows, None
    async with history.transaction(connection):
        if name == "baseline":
            found = await baseline(run.migrations, relation, connection)
        else:
            found = await theirs_in(run, history, connection, TOOLS.get(name), relation)
        is_emptied = found is not None and bool(await history.columns(connection))
    if found and is_emptied and not run.adopts_beside_empty:
        raise HistoryConflict(
            f"{history.name} is there and has no rows, beside {found.source} with "
            f"{count(len(found.rows), 'migration')}: nobody knows which of them is true; `pgslipway adopt` takes over "
            "what is there; MIGRATE_ADOPT=none applies all files"
        )
    return [], found


async def theirs_in(
    run: Run, history: History, connection: Connection, tool: Tool | None, relation: str
) -> Adoption | None:
    """Return what a tool has applied; None where its table is not there, and no other tool's is this folder's."""
    tables = await tables_like(connection, relation)
    table = table_of(tool, tables, relation) if tool else None
    if tool is None or table is None:
        await refuse_unasked(run, history, connection, tables)
        current, database = await where(connection)
        if tool and not (tool.schema or relation) and (current, tool.tables[0]) == (history.schema, history.table):
            raise BadConfiguration(same_name(history, tool))  # here as well as where its table is
        return None
    if (table.schema, table.name) == (history.schema, history.table):
        raise BadConfiguration(same_name(history, tool))
    if (layout := run.migrations[0].layout) != tool.layout:
        raise BadConfiguration(
            f"MIGRATE_ADOPT={tool.name} goes with a folder in the layout {tool.layout}; this one is {layout} "
            "(MIGRATE_LAYOUT says which one it is)"
        )
    theirs = await read(tool, table, connection, run.migrations)
    _, database = await where(connection)
    return adoption(run.migrations, tool, table, theirs, database)


async def where(connection: Connection) -> tuple[str, str]:
    """Return the current schema, empty without one, and the database."""
    row = await connection.fetchrow(WHERE)
    assert row  # noqa: S101  # a query without FROM has one
    return row["schema"] or "", row["database"]


def same_name(history: History, tool: Tool) -> str:
    """Return what to do where our table would have the name of theirs."""
    return (
        f"{history.name} is the name of {tool.name}'s history, and by its settings pgslipway's own as well; "
        "set MIGRATE_TABLE=pgslipway_migrations"
    )


async def baseline(migrations: Sequence[Migration], text: str, connection: Connection) -> Adoption | None:
    """Return the files up to a version as applied, if the relation that witnesses it exists."""
    version, _, relation = text.partition("@")
    wanted = numbers(migrations[0].layout, version)
    last = [one.version for one in migrations if one.version in wanted]
    if not last:
        raise BadConfiguration(f"MIGRATE_ADOPT=baseline:{text}: no file of this folder has the version {version}")
    try:
        if not await connection.fetchval(EXISTS, relation):
            return None
    except asyncpg.PostgresError as error:
        raise BadConfiguration(
            f"MIGRATE_ADOPT=baseline:{text}: {relation} is no name of a relation: {error}"
        ) from error
    rows = [row_of(one, None) for one in migrations if one.version <= last[-1]]
    return Adoption(f"the baseline, since {relation} is there", rows)


def adoption(
    migrations: Sequence[Migration], tool: Tool, table: Table, theirs: Theirs, database: str
) -> Adoption | None:
    """Compare their history with the files. Raises HistoryConflict with all that is in the way."""
    files = {one.version: one for one in migrations}
    newest = max(files)
    refusals, warnings, rows = [*theirs.refusals], [theirs.note] if theirs.note else [], []
    for entry in sorted({entry.version: entry for entry in theirs.entries}.values(), key=lambda entry: entry.version):
        one = files.get(entry.version)
        if one is None and entry.version <= newest:
            refusals.append(f"{entry.name} is applied, and no file of this folder is it; put the file back")
        elif one is None:
            rows.append(Applied(version=entry.version, filename=entry.name, applied_at=entry.at))
        elif entry.fits is None or entry.fits(one):
            rows.append(row_of(one, entry))
        elif tool.compares:
            refusals.append(f"{one.filename} is not what was applied: its checksum differs; put the old text back")
        else:
            warnings.append(f"{one.filename} was edited after it was applied, which {tool.name} lets pass")
            rows.append(replace(row_of(one, entry), checksum=None))
    if refusals:
        raise HistoryConflict(*(f"{tool.name}'s {table.shown} cannot be adopted: {refusal}" for refusal in refusals))
    if not rows:
        return None
    return Adoption(f"{tool.name}'s {table.shown}", rows, warnings, tool.keys(table.schema, table.name, database))


def row_of(migration: Migration, entry: Entry | None) -> Applied:
    """Return the row for a file that counts as applied."""
    return Applied(
        version=migration.version,
        filename=migration.filename,
        applied_at=entry.at if entry else None,
        checksum=migration.checksum,
    )


async def refuse_unasked(run: Run, history: History, connection: Connection, tables: Sequence[Table]) -> None:
    """Raise HistoryConflict where another tool has applied this folder's files: here they would be applied again."""
    reasons = []
    for table in tables:
        if stranger := STRANGERS.get(table.name):
            if table.is_current:
                reasons.append(stranger_there(table, stranger, run.migrations))
            continue
        for tool in TOOLS.values():
            if table.name in tool.tables and table.is_table and table.readable and tool.made(table.columns):
                reasons += [reason async for reason in of_this_folder(run, history, connection, tool, table)]
    if reasons:
        raise HistoryConflict(*reasons)


async def of_this_folder(
    run: Run, history: History, connection: Connection, tool: Tool, table: Table
) -> AsyncIterator[str]:
    """Yield the reason to stop if a table of theirs has a file of this folder as applied."""
    if tool.layout != run.migrations[0].layout:
        return
    theirs = await read(tool, table, connection, run.migrations)
    versions = {one.version for one in run.migrations}
    common = sum(entry.version in versions for entry in theirs.entries)
    if not common and not theirs.refusals:
        return
    is_usual = table.schema == tool.schema if tool.schema else table.is_current
    setting = tool.name if is_usual and table.name == tool.tables[0] else f"{tool.name}:{table.shown}"
    more = ""
    if (table.schema, table.name) == (history.schema, history.table):
        more = " and MIGRATE_TABLE=pgslipway_migrations"
    yield (
        f"{table.shown} says that {tool.name} has applied {count(common, 'file')} of this folder, which would be "
        f"applied again; set MIGRATE_ADOPT={setting}{more} to take over from it, or MIGRATE_ADOPT=none if that table "
        "is another application's"
    )


def stranger_there(table: Table, tool: str, migrations: Sequence[Migration]) -> str:
    """Return the reason to stop where a tool was at work whose history cannot be taken over."""
    return (
        f"{table.shown} is {tool}'s, whose history pgslipway cannot take over; if the files up to a version stand for "
        f"what {tool} has made, set MIGRATE_ADOPT=baseline:VERSION@{table.shown}, with {migrations[0].text} or a later "
        "version; if that table is another application's, set MIGRATE_ADOPT=none"
    )


async def refuse_still_at_work(run: Run, history: History, connection: Connection, rows: Sequence[Applied]) -> None:
    """Raise HistoryConflict where their tool has applied files since we have taken over."""
    name, _, relation = (run.config.adopt or "").partition(":")
    if name not in TOOLS or not rows:
        return
    tool = TOOLS[name]
    async with history.transaction(connection):
        table = table_of(tool, await tables_like(connection, relation), relation)
        theirs = await read(tool, table, connection, run.migrations) if table else Theirs()
    ours = {row.version for row in rows}
    if table and (grown := [entry.name for entry in theirs.entries if entry.version not in ours]):
        raise HistoryConflict(
            f"{tool.name} is still at work: since pgslipway took over, {table.shown} has got {few(grown)}; "
            f"stop it, and add the rows to {history.name} by hand, or undo with {tool.name} what it has applied"
        )


async def write(run: Run, history: History, connection: Connection, found: Adoption) -> None:
    """Write a row for each adopted migration, in one transaction. Raises Busy, HistoryConflict, AccessRefused."""
    rows = found.rows
    async with history.transaction(connection):
        await history.upgrade(connection, max(row.version for row in rows), run.config.ddl_lock_timeout)
        columns = ([getattr(row, name) for row in rows] for name in ("version", "filename", "checksum", "applied_at"))
        await connection.execute(INSERT.format(table=history.name), *columns)
    for warning in found.warnings:
        logger.warning(warning)
    logger.info("adopted %s from %s", count(len(rows), "migration"), found.source)
    run.adopted = len(rows)
