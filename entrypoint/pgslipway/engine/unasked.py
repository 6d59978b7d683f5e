"""Where another tool was at work and nobody has said so: a run that applied all files would apply them again."""

from collections.abc import Iterable, Sequence

from ..dial import Connection
from ..errors import AccessRefused, BadConfiguration, HistoryConflict
from ..history import History, foreign
from ..migrations import Migration
from ..run import Run
from ..words import count
from .strangers import STRANGERS
from .their_tables import Table, place_of, read, tables_like
from .tools import TOOLS, Tool

MOST = 5
"""Reasons that are told at once: a database may have a schema for each of its tenants."""
OURS = "MIGRATE_TABLE=pgslipway_migrations"


async def refuse_misfit(run: Run, history: History, connection: Connection, tool: Tool, relation: str) -> None:
    """Raise BadConfiguration for a tool whose folder this is not, or whose table would have the name of ours."""
    if (layout := run.migrations[0].layout) != tool.layout:
        raise BadConfiguration(
            f"MIGRATE_ADOPT={tool.name} goes with a folder in the layout {tool.layout}; this one is {layout} "
            "(MIGRATE_LAYOUT says which one it is)"
        )
    if await place_of(connection, tool, relation) == (history.schema, history.table):
        raise BadConfiguration(
            f"{history.name} is the name of {tool.name}'s history, and by its settings pgslipway's own as well; "
            f"set {OURS}"
        )


async def refuse_foreign(
    run: Run, history: History, connection: Connection, tool: Tool | None, relation: str, error: HistoryConflict
) -> None:
    """Raise the failure that says what to set where a known tool's table has the name of ours.

    Raises nothing for another `error`.
    """
    async with history.transaction(connection):
        reason = foreign(await history.columns(connection))
        if not reason or run.config.adopt == "none":
            return
        if tool:
            await refuse_misfit(run, history, connection, tool, relation)
        settings = settings_for(run.migrations, history, await tables_like(history, connection, ""))
    if settings:
        raise HistoryConflict(
            f"{history.name} is not pgslipway's: {reason}; it was left alone. {settings[0]}; docs/moving.md says more"
        ) from error


def settings_for(migrations: Sequence[Migration], history: History, tables: Sequence[Table]) -> Sequence[str]:
    """Return what to set where the table in the place of ours is a known tool's."""
    table = next((one for one in tables if (one.schema, one.name) == (history.schema, history.table)), None)
    if not table:
        return []
    return [
        f"Set MIGRATE_ADOPT={setting_for(tool, table)} and {OURS} to take over what {tool.name} has applied"
        for tool in tools_of(table, migrations[0])
    ] + [
        f"Set {OURS}, and MIGRATE_ADOPT=baseline:VERSION@{table.shown} if the files up to a version stand for what "
        f"{name} has made"
        for name in strangers_in(one for one in tables if one.schema == history.schema)
    ]


async def refuse_unasked(run: Run, connection: Connection, tables: Sequence[Table], tool: Tool | None = None) -> None:
    """Raise HistoryConflict where a tool has applied this folder's files, though not where `tool` was said to have.

    Raises AccessRefused for a table that may say so and cannot be read.
    """
    reasons = [
        reason
        for table in tables
        for one in tools_of(table, run.migrations[0], tool)
        if (reason := await of_this_folder(run, connection, one, table))
    ]
    if not tool:  # whoever names the tool knows that the others are not about this folder
        reasons += [
            f"{table.shown} is {name}'s, whose history pgslipway cannot take over; if the files up to a version stand "
            f"for what {name} has made, set MIGRATE_ADOPT=baseline:VERSION@{table.shown}, with "
            f"{run.migrations[0].text} or a later version; if that table is another application's, set "
            "MIGRATE_ADOPT=none"
            for table in tables
            for name in strangers_in([table])
        ]
    if reasons:
        raise HistoryConflict(*reasons[:MOST])


def tools_of(table: Table, migration: Migration, tool: Tool | None = None) -> Sequence[Tool]:
    """Return the tools for folders like this one that may have made the table; `tool` may have it by any name."""
    return [
        one
        for one in TOOLS.values()
        if one.layout == migration.layout
        and (table.name in one.tables or one is tool)
        and not (one.is_common and table.schema != one.schema)
        and one.made(table.columns)
    ]


def strangers_in(tables: Iterable[Table]) -> list[str]:
    """Return the names of the tools whose history cannot be taken over and whose tables these are."""
    return [
        stranger.name
        for table in tables
        for stranger in STRANGERS
        if stranger.table == table.name and table.is_where(stranger.schema) and stranger.made(table.columns)
    ]


async def of_this_folder(run: Run, connection: Connection, tool: Tool, table: Table) -> str:
    """Return the reason to stop if a tool's table has a file of this folder as applied; else an empty text."""
    is_usual = table.is_where(tool.schema)
    setting = setting_for(tool, table)
    if not table.is_table or not table.readable:
        if is_usual and table.is_table:
            raise AccessRefused(
                f"{table.shown} cannot be read, so nobody knows whether {tool.name} has applied this folder's files; "
                f"grant SELECT on it and set MIGRATE_ADOPT={setting}, or set MIGRATE_ADOPT=none if that table is "
                "another application's"
            )
        return ""
    theirs = await read(tool, table, connection, run.migrations)
    versions = {one.version for one in run.migrations}
    common = {entry.version for entry in [*theirs.entries, *theirs.rows]} & versions
    if not common and not (theirs.refusals and is_usual):
        return ""
    said = f"{tool.name} has applied {count(len(common), 'file')} of this folder, which would be applied again"
    return (
        f"{table.shown} says that {said if common else f'{tool.name} was at work: {theirs.refusals[0]}'}; "
        f"set MIGRATE_ADOPT={setting} to take over from it, or MIGRATE_ADOPT=none if that table is another "
        "application's"
    )


def setting_for(tool: Tool, table: Table) -> str:
    """Return the value of MIGRATE_ADOPT for a tool's table."""
    is_usual = table.is_where(tool.schema) and table.name in tool.tables
    return tool.name if is_usual else f"{tool.name}:{table.shown}"
