"""The work of a command, begun anew when the ground has shifted below it."""

import logging
from collections.abc import Awaitable, Callable

from ..errors import Locked, StartOver

logger = logging.getLogger(__name__)

RESTARTS = 10
"""How often it is begun anew, after a file has dropped the lock for instance."""


async def until_done(work: Callable[[], Awaitable[str]]) -> str:
    """Return the result of the first `work` that is not to start over. Raises Locked after too many of them."""
    for _ in range(RESTARTS):
        try:
            return await work()
        except StartOver as error:
            last = error
            logger.info("starting over: %s", error)
    raise Locked(f"the migration lock cannot be kept: {last}") from last
