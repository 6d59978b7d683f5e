"""`resolve`: a person's decision about a file without a transaction that an earlier run has left unfinished."""

from collections.abc import Sequence

from ..config import Config
from ..engine.journal import NOT_BEGUN, Journal, Progress
from ..engine.recovery import rule_of, wait_for_orphan
from ..errors import BadConfiguration, BadMigrations, HistoryConflict
from ..files import AUTO, PLAIN
from ..migrations import Migration, discover
from ..request import Options, Request
from ..run import Run
from ..words import count, short
from .again import under_lock
from .version import version_given


async def resolve(request: Request) -> str:
    """Take the decision down in the journal. Raises HistoryConflict where there is nothing to decide."""
    config, text = request.config, request.options.argument or ""
    migrations = files_of(config)
    numbers = version_given("resolve", text, layout_of(config, migrations))
    run = Run(config, [])
    journal = Journal(run.history)
    async with under_lock(run) as held:
        unfinished = await journal.unfinished(held.connection)
        rows = await run.history.rows(held.connection)
        known = {one.version for one in migrations} | {row.version for row in rows} | unfinished.keys()
        if known.isdisjoint(numbers):
            raise BadConfiguration(f"resolve: no file and no row of the history has the version {text}")
        version = next((number for number in numbers if number in unfinished), numbers.start)
        progress = unfinished.get(version, NOT_BEGUN)
        sql, noted = decision(request.options, journal, version, text, progress)
        if progress.in_flight:
            await wait_for_orphan(held.connection, progress.in_flight.statement or "", config.lock_timeout)
        async with run.history.transaction(held.connection):
            await held.connection.execute(sql)
    return f"noted: {noted}"


def files_of(config: Config) -> list[Migration]:
    """Return the migrations of the folder; none where it is not there, or is not fit for a run."""
    try:
        return discover(config.dir, config.layout)
    except BadMigrations:
        return []


def layout_of(config: Config, migrations: Sequence[Migration]) -> str:
    """Return the layout of the folder; the one that was said, or the plain one, where it is not fit for a run."""
    if migrations:
        return migrations[0].layout
    layout: str = config.layout
    return PLAIN if layout == AUTO else layout


def decision(options: Options, journal: Journal, version: int, text: str, progress: Progress) -> tuple[str, str]:
    """Return the SQL that takes the decision down, and its consequence in words."""
    if options.restart:
        return restart(journal, version, text, progress)
    entry = progress.in_flight
    if entry is None:
        raise HistoryConflict(f"version {text} has no statement in flight, so there is nothing to resolve")
    if rule_of(entry):
        raise HistoryConflict(
            f"version {text}: nothing to resolve; the catalogs tell what became of line {entry.line}, "
            f"{short(entry.statement or '')}: the next `up` mends it and goes on by itself"
        )
    place = f"line {entry.line} of version {text}"
    if options.done:
        return journal.finish_sql(entry), f"{place} took effect; the next run goes on after it"
    return journal.remove_sql(entry), f"{place} did not take effect; the next run repeats it"


def restart(journal: Journal, version: int, text: str, progress: Progress) -> tuple[str, str]:
    """Return the SQL that forgets all statements of a file, and its consequence in words."""
    known = progress.done + (progress.in_flight is not None)
    if not known:
        raise HistoryConflict(f"version {text} is not unfinished, so there is nothing to begin anew")
    return journal.clear_sql(version), (
        f"the next run begins version {text} anew; {count(known, 'statement')} of it had been begun"
    )
