"""`up`, the whole run on one page: wait for Postgres, take the lock, apply the pending migrations, say how it ended."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from itertools import zip_longest
from random import uniform
from typing import TypeAlias

from .config import Config
from .connect import connect
from .dial import Connection
from .errors import FilesChanged, StartOver
from .run import Run, begin, newest_of
from .words import count

logger = logging.getLogger(__name__)

Connect: TypeAlias = Callable[
    [Callable[[Connection], Awaitable[bool]]], AbstractAsyncContextManager[tuple[Connection, bool]]
]
"""Gives a connection and the answer to the first look, as `connect` does."""
LONGEST_PAUSE = 0.5
"""Seconds before a run starts over; the pause is random below it, so that two runners do not keep meeting."""


async def up(config: Config, applied: list[str]) -> str:
    """Bring the schema up to date; return the last line of the log. Raises every SlipwayError.

    `applied` gets the name of each file once it is committed, whatever comes afterwards.
    """
    run = await begin(config, applied)
    await bring_up_to_date(run, partial(connect, run.config))
    done = [f"adopted {count(run.adopted, 'migration')}"] if run.adopted else []
    done += [f"applied {run.counted(applied)}"] if applied else []
    return f"up to date: {', '.join(done) or 'nothing to do'}; {newest_of(run)}"


async def bring_up_to_date(run: Run, connect: Connect) -> None:
    """Connect, look, and apply the pending migrations; start over when another runner got in between or files changed.

    Nothing pending costs one round trip after the handshake, takes no lock and writes nothing.
    """
    while True:
        try:
            async with connect(run.look) as (connection, is_current):
                if not is_current:
                    await apply_pending(run, connection)
                return
        except (StartOver, FilesChanged) as error:
            run.start_over(error)
        await asyncio.sleep(uniform(0, LONGEST_PAUSE))  # noqa: S311


async def apply_pending(run: Run, connection: Connection) -> None:
    """Lock, plan, check every pending file, adopt, and apply each. Raises StartOver, and every SlipwayError."""
    from .engine import (  # a start with nothing to do never comes here
        adopt,
        apply,
        lock,
        plan,
        preflight,
        repeatable,
        sending,
        their_lock,
    )

    if run.config.location and not run.config.shared:
        logger.info("connected to %s", run.config.location.name)
    async with sending.own_sql(run.history):
        rows, found = await adopt.look(run, run.history, connection)
        is_pending = bool(plan.compare(run, found.rows if found else rows).pending or found)
        if not await repeatable.pending(run, run.history, connection) and not is_pending and run.is_confirmed:
            return
        differs_sql = run.history.differs_sql(run.migrations, run.repeatable, rows)
        async with lock.lock(connection, run.config, run.history, differs_sql) as held:
            if held is None:
                run.refuse_changed()
                run.superseded = []
                logger.info("another runner has applied everything")
                return
            async with their_lock.their_lock(run, held, found):
                jobs = await preflight.prepare(run, held, adopts=found is not None)
                await apply.upgrade(run, held, jobs)
                is_ours = False  # until the end of the first file has told
                with apply.meanwhile() as ahead:
                    for job, following in zip_longest(jobs, jobs[1:]):
                        ahead.following = following
                        is_ours = await apply.apply(run, held, job, ahead, at_once=is_ours)
                await repeatable.confirm(run, held)
