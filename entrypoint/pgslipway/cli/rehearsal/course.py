"""The course of a rehearsal: which server, and what is looked at there."""

from ...request import Request
from ...run import run_of
from ...up import up
from ..rows import plan_of, rows, show, to_table
from .locks import rehearse_locks
from .servers import embedded


async def rehearse(request: Request) -> str:
    """Apply everything to a throw-away Postgres; return the last line of the log. Raises as `up` does."""
    async with embedded(request.config) as config:
        if request.options.locks:
            told = f": {await rehearse_locks(config, request.options, request.applied)}"
        else:
            await up(config, request.applied)
            plan, unfinished, is_theirs, repeated = await plan_of(config)
            show(to_table(rows(plan, unfinished, is_theirs, repeated)))
            told = ""
    done = run_of(request.config, request.applied).counted(request.applied)
    return f"rehearsed {done} on an embedded Postgres, which is gone again{told}"
