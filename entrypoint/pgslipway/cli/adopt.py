"""`adopt`: what another tool has applied is taken over, and nothing else is done."""

from functools import partial

from ..dial import Connection
from ..engine.adopt import Adoption, look, write
from ..engine.apply import patiently
from ..engine.journal import Journal
from ..engine.plan import compare
from ..engine.their_lock import their_lock
from ..errors import BadConfiguration, HistoryConflict
from ..request import Request
from ..run import Run, begin
from ..words import count, few
from .again import under_lock, until_done


async def adopt(request: Request) -> str:
    """Adopt, also beside a history of ours that is empty. Raises as `up` does before it applies a file."""
    config = request.config
    if config.adopt in {None, "none"}:
        raise BadConfiguration("adopt needs MIGRATE_ADOPT: the tool to take over from, or baseline:VERSION@RELATION")
    run = await begin(config)
    run.adopts_beside_empty = True
    try:
        return await until_done(run, partial(adopt_all, run))
    finally:
        request.changed = run.adopted


async def adopt_all(run: Run) -> str:
    """Adopt under the lock. Raises StartOver where somebody else makes the history at the same moment."""
    async with under_lock(run) as held:
        run.refuse_changed()
        _, found = await look(run, run.history, held.connection)
        async with their_lock(run, held, found):
            rows, found = await look(run, run.history, held.connection)
            compare(run, found.rows if found else rows)
            if found:
                found.refuse()
                await refuse_begun(run, held.connection, found)
                await patiently(run, partial(write, run, run.history, held.connection, found))
    if not found or not found.rows:
        return f"nothing to adopt: the history has {count(len(rows), 'row')}" if rows else "nothing to adopt"
    return f"adopted {count(run.adopted, 'migration')} from {found.source}"


async def refuse_begun(run: Run, connection: Connection, found: Adoption) -> None:
    """Raise HistoryConflict for a file that is to count as applied, and that an earlier run of ours has left half done.

    It may have made the very relation that witnesses a baseline.
    """
    unfinished = await Journal(run.history).unfinished(connection)
    if begun := [row.filename for row in found.rows if row.version in unfinished]:
        raise HistoryConflict(
            f"{few(begun)}: pgslipway has begun with it, and it is not done, so it cannot count as applied; go on with "
            "MIGRATE_ADOPT=none, or forget what was done: pgslipway resolve VERSION --restart"
        )
