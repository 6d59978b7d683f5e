"""What a run does where something is pending: lock, plan again, preflight, and each file in order."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial

import asyncpg

from . import steps
from .apply import BUSY, Busy, Job, apply, lost_while
from .check import check
from .connect import Connection
from .errors import AccessRefused, BadConfiguration, BadMigrations, NewSession, Problem, StartOver, TableBusy
from .history import History
from .journal import NOT_BEGUN, Journal, Unfinished
from .lock import Held, is_session, lock
from .mend import wait_for_orphan
from .migrations import Migration
from .patience import is_out_of_patience, patiently
from .plan import Applied, Plan
from .run import Run
from .watch import FIRST_LOOK, SOON, Watch

logger = logging.getLogger(__name__)

UNAVAILABLE = """
SELECT name FROM pg_catalog.unnest($1::text[]) AS wanted (name)
 WHERE name NOT IN (SELECT name FROM pg_catalog.pg_available_extensions)
   AND name NOT IN (SELECT extname FROM pg_catalog.pg_extension)
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_extension WHERE extname = 'pg_tle')
 ORDER BY name
"""


async def migrate(run: Run, connection: Connection, *, may_connect: bool) -> None:
    """Apply what is pending, under the lock. Raises StartOver and every SlipwayError but the configuration's."""
    async with translated(run.history):
        await migrate_under_lock(run, connection, may_connect=may_connect)


@asynccontextmanager
async def translated(history: History) -> AsyncIterator[None]:
    """Translate what goes wrong outside files: the connection breaks, or the server refuses our own queries."""
    try:
        async with lost_while("no file was being applied"):
            yield
    except BUSY as error:
        raise TableBusy(f"{error}; the history table {history.name} is locked by somebody") from error
    except asyncpg.PostgresError as error:
        raise history.failure(error, "no file was being applied") from error


async def read_plan(run: Run, connection: Connection) -> Plan:
    """Read the history and compare. Raises HistoryConflict where the run must not go on."""
    return run.compare(await run.history.read(connection))


async def migrate_under_lock(run: Run, connection: Connection, *, may_connect: bool) -> None:
    """Do what `migrate` says, with what Postgres says about our own tables not yet translated."""
    if not (await read_plan(run, connection)).pending:
        return
    history, journal = run.history, Journal(run.history)
    undone = history.undone(run.migrations)
    async with lock(connection, run.config, history, undone, may_connect=may_connect) as held:
        if held is None:
            logger.info("another runner has applied everything")
            return
        unfinished = await journal.read(held.connection)
        pending = (await read_plan(run, held.connection)).pending
        for migration in pending:
            if in_flight := unfinished.get(migration.version, NOT_BEGUN).in_flight:
                await wait_for_orphan(held.connection, in_flight.statement or "", run.config.lock_timeout)
        jobs = await preflight(run, held.connection, pending, unfinished, journal)
        if held.is_pooled:
            refuse_what_needs_a_session(jobs)
        if jobs:
            await patiently(run, partial(upgrade, run, held, jobs[-1].migration.version))
        is_ours = False  # until a file's end has told
        for job in jobs:
            is_ours = await apply_file(run, held, job, at_once=is_ours)


async def preflight(
    run: Run, connection: Connection, pending: Sequence[Migration], unfinished: Unfinished, journal: Journal
) -> list[Job]:
    """Check every pending file before anything is applied. Raises BadMigrations with all problems, HalfDone."""
    jobs = []
    for migration in pending:
        jobs.append(Job(migration, check(migration, migration.read()), run.history, run.config))
        await asyncio.sleep(0)  # a signal may come while many files are read
    problems = [problem for job in jobs for problem in job.contents.problems]
    if wanted := set().union(*(job.contents.extensions for job in jobs)):
        async with connection.transaction():
            unavailable = {row["name"] for row in await connection.fetch(UNAVAILABLE, list(wanted))}
        problems += [
            Problem(f'the server does not offer the extension "{name}"; install its package there', job.filename)
            for job in jobs
            for name in sorted(job.contents.extensions & unavailable)
        ]
    if problems:
        raise BadMigrations(*problems)
    for job in jobs:
        if progress := unfinished.get(job.migration.version):
            await steps.refuse_what_is_stuck(connection, journal, job, progress)
    return jobs


async def unfinished_as_login(run: Run, connection: Connection) -> Unfinished:
    """Read the journal for those who only look; a role that may not has to do without it."""
    journal = Journal(run.history_as_login)
    try:
        return await journal.read(connection)
    except AccessRefused:
        logger.warning("%s cannot be read by this role, so unfinished files show as pending", journal.name)
        return {}


async def preview(run: Run, connection: Connection, history: Sequence[Applied]) -> tuple[list[Job], Unfinished]:
    """Return what `up` would apply after such a history, and how far it got before. Raises what `up` would."""
    async with translated(run.history):
        unfinished = await unfinished_as_login(run, connection)
        pending = run.compare(history).pending
        jobs = await preflight(run, connection, pending, unfinished, Journal(run.history_as_login))
        if not await is_session(connection, run.config):
            refuse_what_needs_a_session(jobs)
        return jobs, unfinished


def refuse_what_needs_a_session(jobs: Sequence[Job]) -> None:
    """Raise BadConfiguration where a file without a transaction needs a session of its own."""
    problems = [problem for job in jobs for problem in job.contents.session_state]
    problems += [problem for job in jobs if job.config.role for problem in job.contents.outside]
    if problems:
        raise BadConfiguration(*problems)


async def upgrade(run: Run, held: Held, largest: int) -> None:
    """Make the history table fit for versions up to `largest`."""
    try:
        await run.history.upgrade(held.connection, largest, run.config.ddl_lock_timeout)
    except BUSY as error:
        raise Busy(str(error), recording=False) from error
    except (asyncpg.UniqueViolationError, asyncpg.DuplicateSchemaError, asyncpg.DuplicateTableError) as error:
        raise StartOver(f"somebody else made the schema or the table of the history: {error}") from error


async def apply_file(run: Run, held: Held, job: Job, *, at_once: bool) -> bool:
    """Apply one file, again while its tables are busy. Raises TableBusy or Locked when patience ends.

    Takes whether it may go in one message, and returns whether the next one may.
    """
    started = time.monotonic()
    async with Watch(held, soon(run) if is_told_apart(run, job) else FIRST_LOOK) as watch:
        is_ours = await patiently(run, partial(attempt, run, held, watch, job, at_once=at_once), job.filename)
    seconds = time.monotonic() - started
    run.applied.append(job.filename)
    logger.info("applied %s in %.0f ms", job.filename, seconds * 1000, extra={"file": job.filename, "seconds": seconds})
    return is_ours


def is_told_apart(run: Run, job: Job) -> bool:
    """Tell whether the next try of a file has to tell whether its tables are busy or its row in the history, and why.

    What was busy before may give up now, and so may anything where nothing is tried again.
    """
    return (job.filename, 0) in run.busy_since or not run.config.ddl_retry


def soon(run: Run) -> float:
    """Return the seconds before the first look at a statement that may be busy: within its lock timeout."""
    return min(SOON, run.config.ddl_lock_timeout / 4 or SOON)


async def attempt(run: Run, held: Held, watch: Watch, job: Job, *, at_once: bool) -> bool:
    """Apply one file, once; creating an extension is tried again on a new connection only."""
    try:
        if job.contents.transactional:
            at_once = at_once and not job.contents.is_large and not is_told_apart(run, job)
            return await apply(held, job, watch, at_once=at_once)
        await steps.run(held, job, watch)
    except Busy as busy:
        busy.blocker, watch.first_look = watch.blocker, soon(run)
        if job.contents.extensions and not is_out_of_patience(run, busy, job.filename, 0.0):
            raise NewSession(f"{job.filename}: {busy}") from busy
        raise
    return False
