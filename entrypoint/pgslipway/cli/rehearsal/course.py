"""The course of a rehearsal: which server, and what is looked at there."""

from ...request import Request
from ...up import up
from ...words import both
from ..rows import plan_of, rows, show, to_table
from .servers import embedded


async def rehearse(request: Request) -> str:
    """Apply everything to a throw-away Postgres; return the last line of the log. Raises as `up` does."""
    async with embedded(request.config) as config:
        await up(config, request.applied)
        plan, unfinished, is_theirs, repeated = await plan_of(config)
        show(to_table(rows(plan, unfinished, is_theirs, repeated)))
    done = both(len(request.applied) - len(repeated), len(repeated))
    return f"rehearsed {done} on an embedded Postgres, which is gone again"
