"""The work of a command under the migration lock, begun anew when the ground has shifted below it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from random import uniform

from ..connect import connect
from ..engine.lock import Held, lock
from ..engine.lock_sql import ANYTHING
from ..engine.sending import own_sql
from ..errors import FilesChanged, StartOver
from ..run import Run, refuse_reader

LONGEST_PAUSE = 0.5
"""Seconds before it begins anew; the pause is random below it."""


async def until_done(run: Run, work: Callable[[], Awaitable[str]]) -> str:
    """Return the result of the first `work` that is not to start over. Raises as `Run.start_over` after too many."""
    while True:
        try:
            return await work()
        except (StartOver, FilesChanged) as error:
            run.start_over(error)
        await asyncio.sleep(uniform(0, LONGEST_PAUSE))  # noqa: S311


@asynccontextmanager
async def under_lock(run: Run) -> AsyncIterator[Held]:
    """Connect to a server that takes writes, and hold the migration lock while the block runs."""
    async with (
        connect(run.config, refuse_reader) as (connection, _),
        own_sql(run.history),
        lock(connection, run.config, run.history, ANYTHING) as held,
    ):
        assert held  # noqa: S101  # something is always pending for ANYTHING
        yield held
