"""How long a run keeps trying what finds its tables busy, and what it says when it gives up."""

import logging
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from tenacity import AsyncRetrying, retry_if_exception_type, wait_random_exponential

from .apply import Busy
from .errors import Locked, Problem, SlipwayError, TableBusy
from .run import Run
from .waiting import after, failure_of

Answer = TypeVar("Answer")
logger = logging.getLogger(__name__)

LONGEST_PAUSE = 5.0
"""Seconds between two tries of a file whose tables are busy: time for the queue behind it to drain."""


async def patiently(run: Run, work: Callable[[], Awaitable[Answer]], file: str = "") -> Answer:
    """Do `work` on `file`, or on the history, again while it is Busy. Raises TableBusy or Locked when patience ends."""
    try:
        return await work()
    except Busy as busy:
        first = busy
    attempts = AsyncRetrying(
        retry=retry_if_exception_type(Busy),
        wait=wait_random_exponential(multiplier=max(0.1, run.config.ddl_lock_timeout), min=0.1, max=LONGEST_PAUSE),
        stop=lambda state: is_out_of_patience(run, failure_of(state), file, state.upcoming_sleep),
        before_sleep=lambda state: logger.warning(
            "%s: %s; rolled back, trying again in %.1f s",
            Problem("", file or run.history.name, getattr(failure_of(state), "line", 0)).place,
            failure_of(state),
            state.upcoming_sleep,
        ),
        reraise=True,
    )
    try:
        return await attempts(after(first, work))
    except Busy as busy:
        raise out_of_patience(run, busy, file) from busy


def is_out_of_patience(run: Run, failure: BaseException | None, file: str, pause: float) -> bool:
    """Tell whether a try after `pause` seconds would come too late, counted from the first time-out on."""
    line = failure.line if isinstance(failure, Busy) else 0
    first = run.busy_since.setdefault((file, line), time.monotonic())
    waited = time.monotonic() - first + pause
    if isinstance(failure, Busy) and failure.recording:
        return 0 < run.config.lock_timeout < waited
    return waited > run.config.ddl_retry


def out_of_patience(run: Run, busy: Busy, file: str) -> SlipwayError:
    """Return the failure of what found its tables, or its own history row, busy to the end."""
    if busy.recording:
        since = f"{busy} since MIGRATE_LOCK_TIMEOUT={run.config.lock_timeout:g}s"
        return Locked(Problem(since, file))
    kept, scope = ("what comes before it stays", "SET") if busy.line else ("it was rolled back", "SET LOCAL")
    text = (
        f"{busy} (MIGRATE_DDL_LOCK_TIMEOUT={run.config.ddl_lock_timeout:g}s, tried again "
        f"for MIGRATE_DDL_RETRY={run.config.ddl_retry:g}s); {kept}. "
        + ("" if busy.blocker else "Look in pg_stat_activity for what uses its tables. ")
        + f"A file that may wait longer, for row locks too, can say {scope} lock_timeout"
    )
    return TableBusy(Problem(text, file, busy.line) if file else f"{run.history.name}: {text}")
