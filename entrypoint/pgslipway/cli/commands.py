"""The commands for people and pipelines: status, plan, resolve, check; `rehearse` is beside them."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from ..connect import Connection, connect
from ..engine.check import check as check_file
from ..engine.journal import NOT_BEGUN, Journal
from ..engine.lock import lock
from ..engine.lock_sql import ANYTHING
from ..engine.preflight import preview
from ..engine.recovery import rule_of, wait_for_orphan
from ..engine.sending import own_sql
from ..errors import BadMigrations, HistoryConflict, NotYet
from ..migrations import Applied, discover
from ..request import Request
from ..run import Run, refuse_reader
from ..words import count, names, short
from .rehearse import rehearse
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


async def resolve(request: Request) -> str:
    """Take down a person's decision about a statement in flight. Raises HistoryConflict where there is none."""
    config, version, is_done = request.config, int(request.options.argument or 0), request.options.done
    run = Run(config, [])
    history, journal = run.history, Journal(run.history)
    async with (
        connect(config, refuse_reader) as (connection, _),
        own_sql(run.history),
        lock(connection, config, history, ANYTHING) as held,
    ):
        entry = (await journal.unfinished(held.connection)).get(version, NOT_BEGUN).in_flight if held else None
        if held is None or entry is None:
            raise HistoryConflict(f"version {version} has no statement in flight, so there is nothing to resolve")
        if rule_of(entry):
            raise HistoryConflict(
                f"version {version}: nothing to resolve; the catalogs tell what became of line {entry.line}, "
                f"{short(entry.statement or '')}: the next `up` mends it and goes on by itself"
            )
        await wait_for_orphan(held.connection, entry.statement or "", config.lock_timeout)
        async with history.transaction(held.connection):
            decision = journal.finish_sql(entry) if is_done else journal.remove_sql(entry)
            await held.connection.execute(decision)
    what = "took effect; the next run goes on after it" if is_done else "did not take effect; the next run repeats it"
    return f"noted: line {entry.line} of version {version} {what}"


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
