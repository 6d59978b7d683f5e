"""How far a run over many is: a bar on a terminal, a line from time to time elsewhere."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from ..words import count
from .tally import Tally

logger = logging.getLogger(__name__)

INTERVAL = 10.0
"""Seconds between two lines."""
FRAME = 0.2
"""Seconds between two pictures of the bar."""
WIDTH = 24
"""Characters of the bar."""


@asynccontextmanager
async def shown(tally: Tally, command: str) -> AsyncIterator[None]:
    """Show how far the work in the block is."""
    showing = asyncio.create_task(show(tally, command))
    try:
        yield
    finally:
        showing.cancel()
        await asyncio.wait({showing})


async def show(tally: Tally, command: str) -> None:
    """Draw the bar where the log is on a terminal, else log a line every INTERVAL."""
    is_bar = logger.isEnabledFor(logging.DEBUG)
    before, began = tally.done, time.monotonic()
    while True:
        await asyncio.sleep(FRAME if is_bar else INTERVAL)
        seconds = time.monotonic() - began
        rate = (tally.done - before) / seconds
        if is_bar:
            logger.debug("%s", bar(tally, rate))
        else:
            logger.info("%s: %s", command, line(tally, rate))


def bar(tally: Tally, rate: float) -> str:
    """Return the picture: how many of all targets have ended, how many a second, how many failed, and what is left."""
    full = WIDTH * tally.done // max(1, tally.total)
    return f"[{'#' * full}{'.' * (WIDTH - full)}] {line(tally, rate)}"


def line(tally: Tally, rate: float) -> str:
    """Return how many of all targets have ended, how many a second, how many failed, and how long the others take."""
    parts = [f"{tally.done} of {count(tally.total, 'target')}", f"{rate:.1f}/s"]
    parts += [f"{len(tally.failures)} failed"] if tally.failures else []
    if rate and tally.done < tally.total:
        seconds = round((tally.total - tally.done) / rate)
        parts.append(f"{seconds // 60}:{seconds % 60:02d} left")
    return ", ".join(parts)
