"""Preflight: every pending file is read and checked before the first write, and refused with all its problems."""

import asyncio
import logging
from collections.abc import Sequence
from functools import partial

from ..dial import Connection
from ..errors import AccessRefused, BadConfiguration, BadMigrations, Problem, StartOver
from ..migrations import Migration
from ..run import Run
from .adopt import Adoption, look, refuse_still_at_work, write
from .apply import patiently
from .contents import Contents
from .hidden import refuse_hidden
from .journal import NOT_BEGUN, Journal, Unfinished
from .lock import Held, is_direct
from .order import disorder
from .plan import compare
from .recovery import wait_for_orphan
from .repeatable import misfits, texts_of
from .repeatable import pending as pending_repeatable
from .resume import refuse_what_is_stuck
from .sending import Job, own_sql
from .squash import misplaced
from .their_lock import refuse
from .variables import checked

logger = logging.getLogger(__name__)

# Which of these extensions the server neither has nor offers; with pg_tle it can offer more than its catalog says.
UNAVAILABLE = """
SELECT name FROM pg_catalog.unnest($1::text[]) AS wanted (name)
 WHERE name NOT IN (SELECT name FROM pg_catalog.pg_available_extensions)
   AND name NOT IN (SELECT extname FROM pg_catalog.pg_extension)
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_extension WHERE extname = 'pg_tle')
 ORDER BY name
"""
FILES_AT_ONCE = 16
"""Small files that are checked without a look at whether we are to stop."""


async def prepare(run: Run, held: Held, *, adopts: bool) -> list[Job]:
    """Plan again, now under the lock, and check the pending files; return them, ready to be applied.

    Then adopt what another tool has applied, where the look before the lock has found it.

    Waits until the session of an earlier run that was killed works on none of them. Raises FilesChanged,
    HistoryConflict, AccessRefused, BadMigrations with all problems, BadConfiguration, HalfDone, and Locked for a
    session that does not end.
    """
    run.refuse_changed()
    journal = Journal(run.history)
    unfinished = await journal.unfinished(held.connection)
    rows, found = await look(run, run.history, held.connection)
    if found and not adopts:  # their lock is not held yet
        raise StartOver(f"{found.source} has come to be there")
    if found:
        found.refuse()
    pending = compare(run, found.rows if found else rows).pending
    repeatable = await pending_repeatable(run, run.history, held.connection, found.texts if found else ())
    await refuse_still_at_work(run, run.history, held.connection, rows if pending else [])
    for migration in pending:
        if in_flight := unfinished.get(migration.version, NOT_BEGUN).in_flight:
            await wait_for_orphan(held.connection, in_flight.statement or "", run.config.lock_timeout)
    jobs = await check_all(run, held.connection, [*pending, *repeatable], unfinished, journal)
    if not held.is_direct:
        refuse_what_needs_a_session(jobs)
    await refuse_hidden(run, held.connection, [job for job in jobs if not job.repeats])
    if found:
        await patiently(run, partial(write, run, run.history, held.connection, found))
    return jobs


async def preview(run: Run, connection: Connection) -> tuple[list[Job], Unfinished, Adoption | None]:
    """Return the files that `up` would apply, the unfinished ones, and what it would adopt. Raises as `up` would."""
    async with own_sql(run.history):
        rows, found = await look(run, run.history_as_login, connection)
        await refuse(found, connection)
        unfinished = await unfinished_as_login(run, connection)
        pending = compare(run, found.rows if found else rows).pending
        texts = found.texts if found else ()
        repeatable = await pending_repeatable(run, run.history_as_login, connection, texts)
        await refuse_still_at_work(run, run.history_as_login, connection, rows if pending else [])
        jobs = await check_all(run, connection, [*pending, *repeatable], unfinished, Journal(run.history_as_login))
        if not await is_direct(connection, run.config):
            refuse_what_needs_a_session(jobs)
        return jobs, unfinished, found


async def unfinished_as_login(run: Run, connection: Connection) -> Unfinished:
    """Read the journal for those who only look; a role that may not has to do without it."""
    journal = Journal(run.history_as_login)
    try:
        return await journal.unfinished(connection)
    except AccessRefused:
        logger.warning("%s cannot be read by this role, so unfinished files show as pending", journal.name)
        return {}


async def check_all(
    run: Run, connection: Connection, pending: Sequence[Migration], unfinished: Unfinished, journal: Journal
) -> list[Job]:
    """Check every pending file, one in memory at a time. Raises BadMigrations with all problems, HalfDone."""
    jobs: list[Job] = []
    missing: list[Problem] = []
    for migration in pending:
        history = texts_of(run.history) if migration.repeats else run.history
        filled, contents = checked_once(run, migration, missing)
        jobs.append(Job(filled, contents, history, run.config))
        if jobs[-1].contents.is_large or len(jobs) % FILES_AT_ONCE == 0:
            await asyncio.sleep(0)  # a signal may come while many files are read
    if missing:
        raise BadConfiguration(*missing)
    problems = [problem for job in jobs for problem in job.contents.problems]
    problems += [problem for job in jobs if run.config.search_path for problem in job.contents.owned_by_one]
    versions = [job for job in jobs if not job.repeats]
    problems += disorder(run.migrations, [job.migration for job in versions])
    problems += misplaced(run.migrations, [job.migration for job in versions if job.contents.is_squash])
    problems += [problem for job in jobs if job.repeats for problem in misfits(job.migration, job.contents)]
    if wanted := set().union(*(job.contents.extensions for job in jobs)):
        async with connection.transaction():
            unavailable = {row["name"] for row in await connection.fetch(UNAVAILABLE, list(wanted))}
        problems += [
            Problem(
                f'the server does not offer the extension "{job.mask(name)}"; install its package there', job.filename
            )
            for job in jobs
            for name in sorted(job.contents.extensions & unavailable)
        ]
    if problems:
        raise BadMigrations(*problems)
    for job in versions:
        if progress := unfinished.get(job.migration.version):
            await refuse_what_is_stuck(connection, journal, job, progress)
    return jobs


def checked_once(run: Run, migration: Migration, missing: list[Problem]) -> tuple[Migration, Contents]:
    """Return a file as it is to be read, and its contents; those of one with values may be large, and are not kept."""
    if contents := run.contents.get(migration):
        return migration, contents
    filled, contents = checked(migration, run.config.variables, missing)
    if filled is migration:
        run.contents[migration] = contents
    return filled, contents


def refuse_what_needs_a_session(jobs: Sequence[Job]) -> None:
    """Raise BadConfiguration where a file without a transaction needs a session of its own."""
    problems = [problem for job in jobs for problem in job.contents.session_state]
    problems += [
        problem for job in jobs if job.config.role or job.config.search_path for problem in job.contents.outside
    ]
    if problems:
        raise BadConfiguration(*problems)
