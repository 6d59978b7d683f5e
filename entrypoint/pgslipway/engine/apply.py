"""One file of the run: applied by the sender for its kind, and again while its tables are busy."""

import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import closing
from functools import partial
from typing import TypeVar

import asyncpg
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

from ..errors import Busy, Locked, NewSession, Problem, SlipwayError, StartOver, TableBusy
from ..retry import after, failure_of
from ..run import Run
from . import steps, transaction
from .ahead import Ahead
from .leftovers import drop_prepared
from .lock import Held
from .repeatable import texts_of
from .sending import Job
from .watch import FIRST_LOOK, SOON, Watch

Answer = TypeVar("Answer")
logger = logging.getLogger(__name__)

LONGEST_PAUSE = 5.0
"""Seconds between two tries of a file whose tables are busy: time for the queue behind it to drain."""


async def upgrade(run: Run, held: Held, jobs: Sequence[Job]) -> None:
    """Make the history table fit for the files to come. Raises TableBusy, StartOver, HistoryConflict, AccessRefused."""
    if jobs:
        largest = jobs[-1].migration.version
        await patiently(run, partial(run.history.upgrade, held.connection, largest, run.config.ddl_lock_timeout))
    if any(job.repeats for job in jobs):
        await patiently(run, partial(texts_of(run.history).create, held.connection, run.config.ddl_lock_timeout))


def meanwhile() -> closing[Ahead]:
    """Return the work to do while the server works on the files in the block."""
    return closing(Ahead())


async def apply(run: Run, held: Held, job: Job, ahead: Ahead, *, at_once: bool) -> bool:
    """Apply one file, again while its tables are busy. Raises TableBusy or Locked when patience ends.

    Takes whether it may go in one message, and returns whether the next one may.
    """
    started = time.monotonic()
    soon = min(SOON, run.config.ddl_lock_timeout / 4 or SOON)
    first_look = soon if is_told_apart(run, job) else FIRST_LOOK
    with closing(Watch(held, soon, first_look, mask=job.mask)) as watch:

        def once() -> Awaitable[bool]:
            if not job.contents.transactional:
                ahead.say()
                return steps.apply(held, job, watch)
            is_short = not (job.contents.is_large or job.contents.drops_prepared)
            may = at_once and is_short and not is_told_apart(run, job)
            return transaction.apply(held, job, watch, ahead, at_once=may)

        try:
            is_ours = await patiently(run, once, job.filename, needs_new_session=bool(job.contents.extensions))
        except StartOver as error:
            if isinstance(error.__cause__, asyncpg.UniqueViolationError):
                run.claims.setdefault(job.filename, []).append(error.__cause__)
            raise
    seconds = time.monotonic() - started
    run.applied.append(job.filename)
    fields = {"file": job.filename, "seconds": seconds}
    ahead.line = partial(logger.info, "applied %s in %.0f ms", job.filename, seconds * 1000, extra=fields)
    if not is_ours:
        await drop_prepared(held)
    return is_ours


def is_told_apart(run: Run, job: Job) -> bool:
    """Tell whether the next try of a file has to tell whether its tables are busy or its row in the history, and why.

    A file that was busy before may give up now, and so may any file where nothing is tried again.
    """
    return (job.filename, 0) in run.busy_since or not run.config.ddl_retry


async def patiently(
    run: Run, work: Callable[[], Awaitable[Answer]], file: str = "", *, needs_new_session: bool = False
) -> Answer:
    """Do `work` on `file`, or on the history, again while it is Busy. Raises TableBusy or Locked when patience ends.

    Raises NewSession instead of trying again where that `needs_new_session`: a CREATE EXTENSION that was rolled back
    can leave a session that cannot create it any more.
    """
    try:
        return await work()
    except Busy as busy:
        first = busy
        run.note_busy(file, busy.line)
        if is_out_of_patience(run, busy, file):
            raise out_of_patience(run, busy, file) from busy
        if needs_new_session:
            raise NewSession(f"{file}: {busy}") from busy
    return await try_again(run, work, file, first)


async def try_again(run: Run, work: Callable[[], Awaitable[Answer]], file: str, first: Busy) -> Answer:
    """Do `work` once more, with growing pauses, until it is not Busy or patience ends."""

    def ends(state: RetryCallState) -> bool:
        busy = busy_of(state)
        run.note_busy(file, busy.line)
        return is_out_of_patience(run, busy, file, state.upcoming_sleep)

    def log(state: RetryCallState) -> None:
        busy = busy_of(state)
        place = Problem("", file or run.history.name, busy.line).place
        logger.warning("%s: %s; rolled back, trying again in %.1f s", place, busy, state.upcoming_sleep)

    attempts = AsyncRetrying(
        retry=retry_if_exception_type(Busy),
        wait=wait_random_exponential(multiplier=max(0.1, run.config.ddl_lock_timeout), min=0.1, max=LONGEST_PAUSE),
        stop=ends,
        before_sleep=log,
        reraise=True,
    )
    try:
        return await attempts(after(first, work))
    except Busy as busy:
        raise out_of_patience(run, busy, file) from busy


def busy_of(state: RetryCallState) -> Busy:
    """Return the failure after which tenacity asks whether to try again: nothing else is retried here."""
    busy = failure_of(state)
    assert isinstance(busy, Busy)  # noqa: S101
    return busy


def is_out_of_patience(run: Run, busy: Busy, file: str, pause: float = 0.0) -> bool:
    """Tell whether a try after `pause` seconds would come too late, counted from the first time-out on."""
    waited = time.monotonic() - run.busy_since[file, busy.line] + pause
    return 0 < run.config.lock_timeout < waited if busy.recording else waited > run.config.ddl_retry


def out_of_patience(run: Run, busy: Busy, file: str) -> SlipwayError:
    """Return the failure of a file whose tables, or whose history row, were busy to the end."""
    if busy.recording:
        since = f"{busy} since MIGRATE_LOCK_TIMEOUT={run.config.lock_timeout:g}s"
        return Locked(Problem(since, file))
    kept, scope = ("what comes before it stays", "SET") if busy.line else ("it was rolled back", "SET LOCAL")
    text = (
        f"{busy} (MIGRATE_DDL_LOCK_TIMEOUT={run.config.ddl_lock_timeout:g}s, tried again "
        f"for MIGRATE_DDL_RETRY={run.config.ddl_retry:g}s); {kept}"
        + ("" if busy.blocker else ". Look in pg_stat_activity for what uses its tables")
    )
    if file and isinstance(busy.__cause__, asyncpg.LockNotAvailableError):
        text += f". A file that may wait longer, for row locks too, can say {scope} lock_timeout"
    return TableBusy(Problem(text, file, busy.line) if file else f"{run.history.name}: {text}")
