"""The work of a command, begun anew when the ground has shifted below it."""

import asyncio
from collections.abc import Awaitable, Callable
from random import uniform

from ..errors import FilesChanged, StartOver
from ..run import Run

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
