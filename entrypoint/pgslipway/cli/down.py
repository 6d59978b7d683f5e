"""`down VERSION`: every applied migration above a version is undone, newest first, by its down part."""

import logging
import time
from collections.abc import Sequence
from contextlib import closing
from functools import partial

from ..dial import Connection
from ..engine.ahead import Ahead
from ..engine.apply import patiently
from ..engine.journal import Journal
from ..engine.lock import Held
from ..engine.plan import Plan, make_plan, missing_problem, moved_problem, squash_problem
from ..engine.repeatable import texts_of
from ..engine.sending import Job
from ..engine.squash import is_squash
from ..engine.transaction import apply
from ..engine.undo import undo_of
from ..engine.variables import checked
from ..engine.watch import SOON, Watch
from ..errors import BadConfiguration, BadMigrations, HistoryConflict, Problem
from ..layouts.versions import written
from ..migrations import Applied
from ..request import Request
from ..run import Run, begin
from ..words import count, few, names
from .again import under_lock, until_done
from .version import version_given

logger = logging.getLogger(__name__)

NO_TRANSACTION = "a down part is one transaction with the removal of its row; undo by hand what cannot be in one"


async def down(request: Request) -> str:
    """Undo the migrations. Raises BadConfiguration for an unknown version, and every failure of `up`."""
    run = await begin(request.config)
    undone: list[str] = []
    try:
        return await until_done(run, partial(undo_all, run, request.options.argument or "", undone))
    finally:
        request.changed = len(undone)


async def undo_all(run: Run, text: str, undone: list[str]) -> str:
    """Undo under the lock all migrations above a version. Raises StartOver where a down part has dropped the lock."""
    async with under_lock(run) as held:
        run.refuse_changed()
        rows = await run.history.rows(held.connection)
        target = target_of(run, text, rows)
        jobs = await prepare(run, held.connection, rows, target)
        for job in jobs:
            await undo(run, held, job)
            undone.append(job.filename)
        kept = [row for row in rows if row.version <= target]
    newest = f"the newest that is applied is {kept[-1].filename}" if kept else "none is applied any more"
    return f"undone {count(len(undone), 'migration')}; {newest}"


def target_of(run: Run, text: str, rows: Sequence[Applied]) -> int:
    """Return the number of the version that a person has given; -1 for 0, which no file has."""
    known = {one.version for one in run.migrations} | {row.version for row in rows}
    found = known.intersection(version_given("down", text, run.migrations[0].layout))
    if found:
        return max(found)
    if text == "0":
        return -1
    raise BadConfiguration(f"down: no file and no row of the history has the version {text}")


async def prepare(run: Run, connection: Connection, rows: Sequence[Applied], target: int) -> list[Job]:
    """Return the down parts, newest first. Raises HistoryConflict or BadMigrations with all that is in the way."""
    plan = make_plan(run.migrations, rows, is_squash=is_squash(run.migrations, rows))
    refuse_what_differs(plan, target)
    unfinished = await Journal(run.history).unfinished(connection)
    if begun := [version for version in unfinished if version > target]:
        here = {one.version: one.filename for one in run.migrations}
        files = [here.get(version, f"version {written(plan.layout, version)}") for version in begun]
        raise HistoryConflict(f"unfinished: {few(files)}; finish it with `up`, or undo it and `resolve --restart`")
    forgets = await texts_of(run.history).exists(connection)
    jobs: list[Job] = []
    problems: list[Problem] = []
    missing: list[Problem] = []
    for migration, row in reversed(plan.applied):
        if row.version <= target:
            continue
        try:
            part = undo_of(migration, run.config.dir)
        except BadMigrations as error:
            problems += error.problems
            continue
        filled, contents = checked(part, run.config.variables, missing)
        problems += contents.problems
        if not contents.transactional:
            problems.append(Problem(NO_TRANSACTION, part.filename))
        jobs.append(Job(filled, contents, run.history, run.config, undoes=True, forgets=forgets))
    if missing:
        raise BadConfiguration(*missing)
    if problems:
        raise BadMigrations(*problems)
    return jobs


def refuse_what_differs(plan: Plan, target: int) -> None:
    """Raise HistoryConflict for applied migrations above a version that this image does not have as they were."""
    problems = [missing_problem(row) for row in plan.missing if row.version > target]
    problems += [
        Problem("was applied by a newer image, which has its down part; use that one", row.filename, joint=" ")
        for row in plan.ahead
        if row.version > target
    ]
    problems += [
        Problem(f"stands for {names(plan.squashed)} in this database; undo it by hand", migration.filename, joint=" ")
        for migration, row in plan.applied[:1]
        if plan.squashed and row.version > target
    ]
    if plan.squash and any(row.version > target for row in plan.squashed):
        problems.append(squash_problem(plan.squash, plan.squashed))
    problems += [moved_problem(pair) for pair in plan.moved if pair[1].version > target]
    problems += [
        Problem(
            "was edited after it was applied, so its down part may not fit; put the old text back",
            one.filename,
            joint=" ",
        )
        for one, row in plan.edited
        if row.version > target
    ]
    if problems:
        raise HistoryConflict(*problems)


async def undo(run: Run, held: Held, job: Job) -> None:
    """Undo one migration and remove its row, in one transaction; again while its tables are busy."""
    started = time.monotonic()
    with closing(Watch(held, SOON, SOON, mask=job.mask)) as watch, closing(Ahead()) as ahead:
        await patiently(run, partial(apply, held, job, watch, ahead, at_once=False), job.filename)
    seconds = time.monotonic() - started
    fields = {"file": job.filename, "seconds": seconds}
    logger.info("undone %s in %.0f ms", job.filename, seconds * 1000, extra=fields)
