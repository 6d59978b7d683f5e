"""The commands for people and pipelines: status, plan, check; `resolve` and `rehearse` are beside them."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from ..connect import connect
from ..dial import Connection
from ..engine.check import check as check_file
from ..engine.preflight import preview
from ..errors import BadMigrations, NotYet
from ..migrations import Applied, discover
from ..request import Request
from ..run import Run, refuse_reader
from ..words import count, names
from .rehearse import rehearse
from .resolve import resolve
from .rows import plan_of, progress, rows, show, to_json, to_table

Command: TypeAlias = Callable[[Request], Awaitable[str]]


async def status(request: Request) -> str:
    """Show a row for each migration. Raises NotYet with --exit-code when something is pending."""
    plan, unfinished = await plan_of(request.config)
    shown = rows(plan, unfinished)
    show(to_json(shown) if request.options.json else to_table(shown))
    if request.options.exit_code and plan.pending:
        raise NotYet(f"{count(len(plan.pending), 'migration')} pending: {names(plan.pending)}")
    return f"{count(len(plan.pending), 'migration')} pending"


async def plan(request: Request) -> str:
    """Show the files that `up` would apply. Raises the failure with which `up` would refuse."""
    run = Run(request.config, discover(request.config.dir))

    async def look(connection: Connection) -> list[Applied]:
        history = await run.history_as_login.rows(connection)
        if not await run.history_as_login.is_current(connection, run.migrations):
            await refuse_reader(connection)
        return history

    async with connect(request.config, look) as (connection, history):
        jobs, unfinished = await preview(run, connection, history)
    for job in jobs:
        how = "in a transaction" if job.contents.transactional else "without a transaction"
        so_far = unfinished.get(job.migration.version)
        done = f"; {progress(so_far)}" if so_far else ""
        show(f"apply {job.filename} ({count(job.contents.count, 'statement')}, {how}{done})")
    return f"{count(len(jobs), 'migration')} to apply"


async def check(request: Request) -> str:
    """Check the files alone, without a database. Raises BadMigrations with all problems."""
    migrations = discover(request.config.dir)
    chosen = [migration for migration in migrations if migration.version >= (request.options.since or 0)]
    problems = []
    for migration in chosen:
        problems += check_file(migration, migration.read()).problems
        await asyncio.sleep(0)  # a signal may come while many files are read
    if problems:
        raise BadMigrations(*problems)
    return f"checked {count(len(chosen), 'migration')}: nothing wrong"


COMMANDS: dict[str, Command] = {
    "status": status, "plan": plan, "resolve": resolve, "check": check, "rehearse": rehearse,
}  # fmt: skip
