"""The course of a rehearsal: which server, and what is looked at there."""

from contextlib import AbstractAsyncContextManager
from functools import partial

from ...config import Config
from ...connect import connect, location_of
from ...request import Options, Request
from ...run import Run, begin
from ...up import bring_up_to_date
from ..rows import plan_of, rows, show, to_table
from .locks import rehearse_locks
from .scratch import scratch
from .servers import embedded
from .undoing import undo_and_apply_again


async def rehearse(request: Request) -> str:
    """Apply everything to a throw-away Postgres; return the last line of the log. Raises as `up` does.

    Nothing stays applied, so a failure names nothing.
    """
    applied: list[str] = []
    async with server_for(request) as config:
        if request.options.down:
            return await undo_and_apply_again(request, config)
        run = await begin(config, applied)
        told = await look(run, request.options)
    request.applied += applied
    where = f"{'on' if request.options.on is None else 'in'} {location_of(config).name}"
    return f"rehearsed {run.counted(applied)} {where}, which is gone again{told}"


async def look(run: Run, options: Options) -> str:
    """Apply everything, show what was asked for, and return the end of the last line of the log."""
    if options.locks:
        return f": {await rehearse_locks(run, options)}"
    await bring_up_to_date(run, partial(connect, run.config))
    show(to_table(rows(*await plan_of(await begin(run.config)))))
    return ""


def server_for(request: Request) -> AbstractAsyncContextManager[Config]:
    """Return the context that gives the settings for a database that is thrown away."""
    if request.options.on is None:
        return embedded(request.config)
    return scratch(request.config, request.options.on, down=request.options.down)
