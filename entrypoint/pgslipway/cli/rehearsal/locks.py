"""`rehearse --locks`: every file applied as `up` applies it, and each statement looked at."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

from ...connect import connect
from ...engine import preflight
from ...engine.apply import apply, meanwhile, upgrade
from ...errors import BadMigrations
from ...request import Options
from ...run import Run
from ...up import bring_up_to_date
from ...words import count
from ..again import under_lock, until_done
from ..rows import show
from ..version import newest_before
from .blocking import ACCEPTED, BLOCKING, findings, is_accepted
from .effects import Observed
from .observer import ObservedConnection, Observer
from .shown import annotate, to_json, to_table


async def rehearse_locks(run: Run, options: Options) -> str:
    """Apply everything, show what each statement locks, and return the end of the last line of the log.

    Raises as `up` does, and BadMigrations for what blocks, where that is to be refused.
    """
    accepting = {one.filename for one in (*run.migrations, *run.repeatable) if is_accepted(one)}
    statements = await observe(run, options.since)
    await bring_up_to_date(run, partial(connect, run.config))
    found = [*findings(statements, accepting)]
    show((to_json if options.json else to_table)(statements, found))
    blocking = [finding for finding in found if not finding.is_accepted]
    if blocking and options.refuse_blocking:
        raise BadMigrations(*(finding.problem for finding in blocking))
    annotate(blocking, run.config)
    return told(statements, len(blocking), len(found) - len(blocking))


async def observe(run: Run, since: str | None = None) -> list[Observed]:
    """Apply the pending files; return the statements of those above the version `since`, and of repeatable ones.

    Raises BadConfiguration for what is no version, and as `up` does.
    """
    newest = newest_before(since, run.migrations[0].layout)
    observed: dict[tuple[str, int], Observed] = {}
    await until_done(run, partial(apply_all, run, newest, observed))
    order = [one.filename for one in (*run.migrations, *run.repeatable)]
    return [observed[key] for key in sorted(observed, key=lambda key: (order.index(key[0]), key[1]))]


def told(statements: Sequence[Observed], blocking: int, accepted: int) -> str:
    """Return the numbers for the last line of the log."""
    unseen = sum(not one.is_seen for one in statements)
    numbers = [f"{count(blocking, 'statement')} {BLOCKING}"]
    numbers += [f"{accepted} {ACCEPTED}"] * bool(accepted) + [f"{unseen} not seen"] * bool(unseen)
    return ", ".join(numbers)


async def apply_all(run: Run, newest: int, observed: dict[tuple[str, int], Observed]) -> str:
    """Apply the pending files, and note the statements of those above a version. Raises StartOver."""
    async with under_lock(run) as held:
        observer = Observer(held.connection, observed)
        connection: Any = ObservedConnection(observer)
        held = replace(held, connection=connection)
        jobs = await preflight.prepare(run, held, adopts=False)
        await upgrade(run, held, jobs)
        with meanwhile() as ahead:
            is_ours = False
            for job in jobs:
                is_looked_at = job.repeats or job.migration.version > newest
                async with observer.file(job) if is_looked_at else nullcontext():
                    is_ours = await apply(run, held, job, ahead, at_once=is_ours and not is_looked_at)
    return ""
