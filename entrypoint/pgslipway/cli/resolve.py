"""`resolve`: a person's decision about a file without a transaction that an earlier run has left unfinished."""

from ..connect import connect
from ..engine.journal import NOT_BEGUN, Journal, Progress
from ..engine.lock import lock
from ..engine.lock_sql import ANYTHING
from ..engine.recovery import rule_of, wait_for_orphan
from ..engine.sending import own_sql
from ..errors import HistoryConflict
from ..request import Options, Request
from ..run import Run, refuse_reader
from ..words import count, short


async def resolve(request: Request) -> str:
    """Take the decision down in the journal. Raises HistoryConflict where there is nothing to decide."""
    config, version = request.config, int(request.options.argument or 0)
    run = Run(config, [])
    journal = Journal(run.history)
    async with (
        connect(config, refuse_reader) as (connection, _),
        own_sql(run.history),
        lock(connection, config, run.history, ANYTHING) as held,
    ):
        progress = (await journal.unfinished(held.connection)).get(version, NOT_BEGUN) if held else NOT_BEGUN
        sql, noted = decision(request.options, journal, version, progress)
        if held and progress.in_flight:
            await wait_for_orphan(held.connection, progress.in_flight.statement or "", config.lock_timeout)
        if held:
            async with run.history.transaction(held.connection):
                await held.connection.execute(sql)
    return f"noted: {noted}"


def decision(options: Options, journal: Journal, version: int, progress: Progress) -> tuple[str, str]:
    """Return the SQL that takes the decision down, and its consequence in words."""
    if options.restart:
        return restart(journal, version, progress)
    entry = progress.in_flight
    if entry is None:
        raise HistoryConflict(f"version {version} has no statement in flight, so there is nothing to resolve")
    if rule_of(entry):
        raise HistoryConflict(
            f"version {version}: nothing to resolve; the catalogs tell what became of line {entry.line}, "
            f"{short(entry.statement or '')}: the next `up` mends it and goes on by itself"
        )
    place = f"line {entry.line} of version {version}"
    if options.done:
        return journal.finish_sql(entry), f"{place} took effect; the next run goes on after it"
    return journal.remove_sql(entry), f"{place} did not take effect; the next run repeats it"


def restart(journal: Journal, version: int, progress: Progress) -> tuple[str, str]:
    """Return the SQL that forgets all statements of a file, and its consequence in words."""
    known = progress.done + (progress.in_flight is not None)
    if not known:
        raise HistoryConflict(f"version {version} is not unfinished, so there is nothing to begin anew")
    return journal.clear_sql(version), (
        f"the next run begins version {version} anew; {count(known, 'statement')} of it had been begun"
    )
