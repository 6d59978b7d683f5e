"""The commands for people and pipelines: status, plan, check; `resolve` and `rehearse` are beside them."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from .. import files
from ..connect import connect
from ..dial import Connection
from ..engine.order import disorder
from ..engine.preflight import preview
from ..engine.repeatable import PENDING, SUPERSEDED, misfits
from ..engine.squash import misplaced
from ..engine.variables import checked
from ..errors import BadMigrations, NotYet
from ..migrations import migrations_in, repeatable_in
from ..request import Request
from ..run import Run, begin, refuse_reader, superseded
from ..words import both, count, few, names
from .adopt import adopt
from .down import down
from .rehearse import rehearse
from .resolve import resolve
from .rows import plan_of, progress, rows, show, to_json, to_table
from .version import version_given

logger = logging.getLogger(__name__)

Command: TypeAlias = Callable[[Request], Awaitable[str]]


async def status(request: Request) -> str:
    """Show a row for each migration. Raises NotYet with --exit-code when something is pending."""
    plan, unfinished, is_theirs, repeated = await plan_of(await begin(request.config))
    shown = rows(plan, unfinished, is_theirs=is_theirs, repeated=repeated)
    again = [row.filename for row in repeated if row.state == PENDING]
    pending = both(len(plan.pending), len(again))
    left = [row.filename for row in repeated if row.state == SUPERSEDED]
    show(to_json(shown) if request.options.json else to_table(shown))
    if request.options.exit_code and is_theirs:
        raise NotYet(f"{count(len(plan.applied), 'migration')} to adopt, {len(plan.pending) + len(again)} pending")
    if request.options.exit_code and (plan.pending or again):
        raise NotYet(f"{pending} pending: {few([*(one.filename for one in plan.pending), *again])}")
    return f"{pending} pending{superseded(left)}"


async def plan(request: Request) -> str:
    """Show the files that `up` would apply. Raises the failure with which `up` would refuse."""
    lines, left = await plan_lines(await begin(request.config))
    for line in lines:
        show(line)
    return left


async def plan_lines(run: Run) -> tuple[list[str], str]:
    """Return a line for each file that `up` would apply, and how many these are. Raises as `plan` does."""
    lines = []

    async def first_query(connection: Connection) -> None:
        if not await run.is_current(run.history_as_login, connection):
            await refuse_reader(connection)

    async with connect(run.config, first_query) as (connection, _):
        jobs, unfinished, found = await preview(run, connection)
    if found and found.rows:
        lines.append(f"adopt {count(len(found.rows), 'migration')} from {found.source}: {names(found.rows)}")
        lines += [f"  {warning}" for warning in found.warnings]
    for job in jobs:
        how = "in a transaction" if job.contents.transactional else "without a transaction"
        so_far = None if job.repeats else unfinished.get(job.migration.version)
        done = f"; {progress(so_far)}" if so_far else ""
        lines.append(f"apply {job.filename} ({count(job.contents.count, 'statement')}, {how}{done})")
    return lines, f"{run.counted([job.filename for job in jobs])} to apply{superseded(run.superseded)}"


async def check(request: Request) -> str:
    """Check the files alone, without a database. Raises BadMigrations with all problems."""
    folder = files.discover(request.config.dir, request.config.layout)
    migrations = migrations_in(folder)
    since = version_given("--since", request.options.since, folder.layout) if request.options.since else range(1)
    chosen = [migration for migration in migrations if migration.version >= since.start]
    problems, squashes = [], []
    over_schemas = request.config.has_targets and request.config.target_kind == "schema"
    for migration in chosen:
        _, contents = checked(migration, None)
        problems += contents.problems
        problems += contents.owned_by_one if over_schemas else []
        squashes += [migration] * contents.is_squash
        await asyncio.sleep(0)  # a signal may come while many files are read
    problems += disorder(migrations, chosen) + misplaced(migrations, squashes)
    repeated = repeatable_in(folder)
    for one in repeated:
        _, contents = checked(one, None)
        problems += contents.problems + misfits(one, contents)
        problems += contents.owned_by_one if over_schemas else []
    if problems:
        raise BadMigrations(*problems)
    laid_out = f", laid out as by {folder.layout}" if folder.layout != files.PLAIN else ""
    told = f" (told by {folder.decided_by})" if folder.decided_by and laid_out else ""
    if folder.ignored:
        logger.info("not read: %s", few(folder.ignored, 20))
    return f"checked {both(len(chosen), len(repeated))}{laid_out}{told}: nothing wrong"


COMMANDS: dict[str, Command] = {
    "status": status, "plan": plan, "adopt": adopt, "down": down, "resolve": resolve, "check": check,
    "rehearse": rehearse,
}  # fmt: skip
CREATING = {"adopt"}
"""The commands that may create a database."""
