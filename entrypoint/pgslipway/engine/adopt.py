"""Adopting: where our history is empty, the migrations that another tool has applied, by its own history.

Their table is read and never touched. Under our lock and theirs, one transaction writes a row for each of them: killed
anywhere, all of them are adopted, or none.
"""

import logging
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

import asyncpg

from ..dial import Connection
from ..errors import AccessRefused, BadConfiguration, HistoryConflict
from ..history import History
from ..layouts.versions import numbers
from ..migrations import Applied, Migration
from ..run import Run
from ..words import both, count, few
from .repeatable import Text, texts_of
from .squash import is_squash
from .their_rows import Entry, Theirs
from .their_tables import Table, has_like, parts_of, read, table_of, tables_like, where
from .tools import TOOLS, Tool
from .unasked import refuse_foreign, refuse_misfit, refuse_unasked

logger = logging.getLogger(__name__)

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
    texts: list[Text] = field(default_factory=list)
    """The texts of repeatable files that are to count as applied."""
    refusals: list[str] = field(default_factory=list)
    """What is in the way; it may be gone when their lock is ours, since a tool that is at work may look like that."""

    def refuse(self) -> None:
        """Raise HistoryConflict with all that is in the way."""
        if self.refusals:
            raise HistoryConflict(*(f"{self.source} cannot be adopted: {refusal}" for refusal in self.refusals))


async def look(run: Run, history: History, connection: Connection) -> tuple[list[Applied], Adoption | None]:
    """Return the rows of our history, and where it has none what to adopt, which may still have to be refused.

    Raises HistoryConflict for a history of theirs that nobody asked to adopt, AccessRefused for one that cannot be
    read, BadConfiguration for a setting that does not fit.
    """
    name, _, relation = (run.config.adopt or "").partition(":")
    tool = TOOLS.get(name)
    try:
        rows = await history.rows(connection)
    except HistoryConflict as error:
        await refuse_foreign(run, history, connection, tool, relation, error)
        raise
    if rows or name == "none" or (not name and not await has_like(history, connection)):
        return rows, None
    async with history.transaction(connection):
        if name == "baseline":
            found = await baseline(run, relation, connection)
        else:
            found = await theirs_in(run, history, connection, tool, relation)
        is_emptied = found is not None and bool(found.rows) and bool(await history.columns(connection))
    if is_emptied and (rows := await history.rows(connection)):
        return rows, None  # another runner has adopted meanwhile
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
    """Return what a tool has applied; None where it has applied nothing, and no other one has this folder's files."""
    if tool:
        await refuse_misfit(run, history, connection, tool, relation)
    tables = await tables_like(history, connection, relation, tool)
    table = table_of(tool, tables, relation) if tool else None
    found = None
    if tool and table:
        theirs = await read(tool, table, connection, run.migrations)
        _, database = await where(connection)
        found = adoption(run.migrations, tool, table, theirs, database)
        if found and found.rows:
            found.texts.extend(texts_in(run, theirs))
    if not found or not (found.rows or found.refusals):
        await refuse_unasked(run, connection, tables, tool)
    return found


async def baseline(run: Run, text: str, connection: Connection) -> Adoption | None:
    """Return the files up to a version as applied, if the relation that witnesses it exists."""
    version, _, relation = text.partition("@")
    wanted = numbers(run.migrations[0].layout, version)
    last = [one.version for one in run.migrations if one.version in wanted]
    if not last:
        raise BadConfiguration(f"MIGRATE_ADOPT=baseline:{text}: no file of this folder has the version {version}")
    await parts_of(connection, relation)
    try:
        is_there = await connection.fetchval(EXISTS, relation)
    except asyncpg.InsufficientPrivilegeError as error:
        raise AccessRefused(f"{relation} cannot be looked for: {error}") from error
    if not is_there:
        await refuse_unasked(run, connection, await tables_like(run.history, connection, ""))
        return None
    rows = [row_of(one, None) for one in run.migrations if one.version <= last[-1]]
    return Adoption(f"the baseline, since {relation} is there", rows)


def adoption(
    migrations: Sequence[Migration], tool: Tool, table: Table, theirs: Theirs, database: str
) -> Adoption | None:
    """Compare their history with the files; None where it is empty, and no lock tells whether that is about to change.

    Raises HistoryConflict with all that is in the way, for a tool without a lock.
    """
    files = {one.version: one for one in migrations}
    entries = {entry.version: entry for entry in theirs.entries}
    newest, squash = max(files), squash_of(migrations, entries)
    refusals, warnings, rows = [*theirs.refusals], [theirs.note] if theirs.note else [], []
    for version, entry in sorted(entries.items()):
        one = files.get(version)
        if one is None and squash < version <= newest:
            refusals.append(f"{entry.name} is applied, and no file of this folder is it; put the file back")
        elif one is None:
            name = entry.filename or str(version)  # the newer image's file, whose name they may not have
            rows.append(Applied(version=version, filename=name, applied_at=entry.at))
        elif entry.fits is None or version == squash or entry.fits(one):
            rows.append(row_of(one, entry))
        elif tool.compares:
            refusals.append(f"{one.filename} is not what was applied: its checksum differs; put the old text back")
        else:
            warnings.append(f"{one.filename} was edited after it was applied, which {tool.name} lets pass")
            rows.append(replace(row_of(one, entry), checksum=None))
    keys = tool.keys(table.schema, table.name, database)
    found = Adoption(f"{tool.name}'s {table.shown}", rows, warnings, keys, refusals=refusals)
    if not keys:
        found.refuse()
    return found if rows or keys else None


def texts_in(run: Run, theirs: Theirs) -> list[Text]:
    """Return the texts of repeatable files that are applied as they are; the others are applied again, as by theirs."""
    found = []
    for one in run.repeatable:
        entry = theirs.repeatable.get(one.filename.rpartition("/")[2])
        if entry and entry.at and entry.fits and entry.fits(one):
            found.append(Text(one.filename, one.checksum, one.version, entry.at))
    return found


def squash_of(migrations: Sequence[Migration], applied: Collection[int]) -> int:
    """Return the version of the squash that the folder begins with, if it is applied; else 0.

    The files that it stands for are not missing then, and it is no edited one.
    """
    first = migrations[0].version
    rows = [Applied(version=version, filename="") for version in applied]
    return first if first in applied and is_squash(migrations, rows) else 0


def row_of(migration: Migration, entry: Entry | None) -> Applied:
    """Return the row for a file that counts as applied."""
    return Applied(
        version=migration.version,
        filename=migration.filename,
        applied_at=entry.at if entry else None,
        checksum=migration.checksum,
    )


async def refuse_still_at_work(run: Run, history: History, connection: Connection, rows: Sequence[Applied]) -> None:
    """Raise HistoryConflict where their tool has applied files since we have taken over."""
    name, _, relation = (run.config.adopt or "").partition(":")
    if name not in TOOLS or not rows:
        return
    tool, table, theirs = TOOLS[name], None, Theirs()
    async with history.transaction(connection):
        with suppress(HistoryConflict, AccessRefused):  # ours counts, whatever became of theirs
            if table := table_of(tool, await tables_like(history, connection, relation), relation):
                theirs = await read(tool, table, connection, run.migrations)
    ours = {row.version for row in rows}
    if table and (grown := [entry.name for entry in theirs.rows if entry.version not in ours]):
        raise HistoryConflict(
            f"{tool.name} is still at work: since pgslipway took over, {table.shown} has got {few(grown)}; "
            f"stop it, and add the rows to {history.name} by hand, or undo with {tool.name} what it has applied; "
            "where `pgslipway down` has undone them, set MIGRATE_ADOPT=none"
        )


async def write(run: Run, history: History, connection: Connection, found: Adoption) -> None:
    """Write a row for each adopted migration, in one transaction. Raises Busy, HistoryConflict, AccessRefused."""
    if not (rows := found.rows):
        return
    async with history.transaction(connection):
        await history.upgrade(connection, max(row.version for row in rows), run.config.ddl_lock_timeout)
        columns = ([getattr(row, name) for row in rows] for name in ("version", "filename", "checksum", "applied_at"))
        await connection.execute(INSERT.format(table=history.name), *columns)
        if found.texts:
            await texts_of(history).adopt(connection, found.texts, run.config.ddl_lock_timeout)
    for warning in found.warnings:
        logger.warning(warning)
    logger.info("adopted %s from %s", both(len(rows), len(found.texts)), found.source)
    run.adopted = len(rows)
