"""`rehearse --down`: every file applied, undone and applied again; what its down part leaves behind is named.

Each step is a run of the program over the first so many files, with a look at the catalogs after it.
"""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from ...config import Config
from ...connect import connect, reconnect
from ...dial import Connection
from ...engine.masks import masked
from ...engine.preflight import preview
from ...engine.undo import undo_of
from ...errors import BadMigrations, MigrationFailed, Problem
from ...migrations import Applied, Migration
from ...request import Request
from ...run import Run, begin
from ...up import bring_up_to_date
from ...words import both, count, few
from ..again import under_lock, until_done
from ..down import prepare, undo
from ..rows import plan_of, rows, show, to_table
from ..version import newest_before
from .catalogs import read
from .differences import Schema, Step, described, new_differences, reordered

logger = logging.getLogger(__name__)

ALL = -1
"""The version above which all files are."""
CHANGED = "the folder was changed while its files were rehearsed; rehearse them again"
ANOTHER_ORDER = "no down part can put a column back in its place, so that is no failure: columns in another order in %s"
SECOND_TIME = "the second time, "
NOT_AGAIN = "it was applied the first time, but not again after the down parts"


@dataclass(slots=True)
class Course:
    """The files that are rehearsed, and what has come to light so far."""

    run: Run
    kept: int
    """How many of the files, from the oldest on, are not undone."""
    look: Callable[[], Awaitable[Schema]]
    mask: Callable[[str], str]
    """Hides the values of variables."""
    problems: list[Problem] = field(default_factory=list)
    reordered: set[str] = field(default_factory=set)
    """The tables in which a down part has put columns last."""

    @property
    def undone(self) -> range:
        """The numbers of the files that are undone, counted from 1."""
        return range(self.kept + 1, len(self.run.migrations) + 1)

    def file(self, number: int) -> Migration:
        """Return the file with a number."""
        return self.run.migrations[number - 1]


async def undo_and_apply_again(request: Request, config: Config) -> str:
    """Apply all files, undo them and apply them again; return the last line of the log.

    Raises BadMigrations with everything that a down part leaves behind, and whatever `up` and `down` raise.
    """
    run = await begin(config)
    since = newest_before(request.options.since, run.migrations[0].layout)
    async with reconnect(config) as connection:
        await refuse_what_cannot_be_undone(run, connection, since)
        mask = partial(masked, run.config.variables.known)
        look = partial(read, connection, run.history, whole_server=not request.options.on, mask=mask)
        course = Course(run, sum(one.version <= since for one in run.migrations), look, mask)
        applied: list[str] = []
        with each_step_unsaid(config):
            await rehearse(course, applied)
    if course.reordered:
        logger.warning(ANOTHER_ORDER, few([*map(course.mask, sorted(course.reordered))], 20))
    if course.problems:
        raise BadMigrations(*course.problems)
    request.applied += applied
    show(to_table(rows(*await plan_of(await begin(config)))))
    return summary(course, config)


@contextmanager
def each_step_unsaid(config: Config) -> Iterator[None]:
    """Log once where the files are applied, and not for each step."""
    name = config.location.name if config.location else ""
    logger.info("connected to %s", name)
    steps = logging.getLogger(bring_up_to_date.__module__)
    steps.setLevel(logging.WARNING)
    try:
        yield
    finally:
        steps.setLevel(logging.NOTSET)


async def refuse_what_cannot_be_undone(run: Run, connection: Connection, since: int) -> None:
    """Raise BadMigrations for all files that cannot be applied, or else for all without a fit down part."""
    await preview(run, connection)
    applied = [Applied(version=one.version, filename=one.filename, checksum=one.checksum) for one in run.migrations]
    await prepare(run, connection, applied, since)


async def rehearse(course: Course, applied: list[str]) -> None:
    """Apply, undo, apply again. Raises MigrationFailed where that fails, after what has come to light until then."""
    first = [schema async for schema in stages(course, applied)]
    whole = await with_repeatable(course, first[-1], applied)
    try:
        await undo_each(course, first, whole)
        await apply_again(course, first, whole)
    except MigrationFailed as error:
        raise MigrationFailed(*course.problems, *error.problems) from error


async def stages(course: Course, applied: list[str]) -> AsyncIterator[Schema]:
    """Apply the files; yield the schema before the first one that is undone, and after each of these."""
    for number in (course.kept, *course.undone):
        if number:
            await bring_up(Run(course.run.config, course.run.migrations[:number], applied))
        yield await course.look()


async def with_repeatable(course: Course, schema: Schema, applied: list[str]) -> Schema:
    """Apply the repeatable files; return the schema, which was `schema` before."""
    if not course.run.repeatable:
        return schema
    await bring_up(Run(course.run.config, course.run.migrations, applied, repeatable=course.run.repeatable))
    return await course.look()


async def bring_up(run: Run) -> None:
    """Apply the files of a run. Raises BadMigrations where it has begun anew with other files."""
    files = [*run.migrations]
    await bring_up_to_date(run, partial(connect, run.config))
    if run.migrations != files:
        raise BadMigrations(CHANGED)


async def undo_each(course: Course, first: list[Schema], whole: Schema) -> None:
    """Undo the files, newest first, and note what each of them leaves behind.

    The objects of repeatable files stay, as they do after `down`: `whole` has them, and no file is to blame.
    """
    logger.info("undoing %s", count(len(course.undone), "migration"))
    before = whole
    for number in reversed(course.undone):
        part = Run(course.run.config, course.run.migrations[:number])
        await until_done(part, partial(undo_newest, part))
        after, stage = await course.look(), number - course.kept
        note(course, down_part(course, number), (first[stage], first[stage - 1]), (before, after))
        course.reordered |= reordered(first[stage - 1], after)
        before = after


async def undo_newest(run: Run) -> str:
    """Undo the newest file of a run; return its name. Raises as `down` does."""
    below = run.migrations[-2].version if len(run.migrations) > 1 else ALL
    async with under_lock(run) as held:
        for job in await prepare(run, held.connection, await run.history.rows(held.connection), below):
            await undo(run, held, job)
    return run.migrations[-1].filename


async def apply_again(course: Course, first: list[Schema], whole: Schema) -> None:
    """Apply everything once more, and note what comes out otherwise than the first time."""
    logger.info("applying %s again", count(len(course.undone), "migration"))
    again: list[Schema] = []
    try:
        async for schema in stages(course, []):
            again.append(schema)
            if stage := len(again) - 1:
                place = Problem(SECOND_TIME, course.file(course.kept + stage).filename)
                note(course, place, (first[stage - 1], first[stage]), (again[stage - 1], schema))
        note(
            course, Problem(SECOND_TIME), (first[-1], whole), (again[-1], await with_repeatable(course, again[-1], []))
        )
    except MigrationFailed as error:
        raise MigrationFailed(*(second(problem) for problem in error.problems)) from error


def note(course: Course, place: Problem, expected: Step, found: Step) -> None:
    """Note the differences for which a file is to blame."""
    names = new_differences(expected, found)
    course.problems += [
        Problem(f"{place.text}{line}", place.file, place.line)
        for line in described(expected[1], found[1], names, course.mask)
    ]


def second(problem: Problem) -> Problem:
    """Return a problem of the second time, which says so."""
    return Problem(f"{problem.text}\n{NOT_AGAIN}", problem.file, problem.line, joint=problem.joint)


def down_part(course: Course, number: int) -> Problem:
    """Return the place of the down part of a file, as a problem without a text."""
    part = undo_of(course.file(number), course.run.config.dir)
    line = Path(part.path).read_bytes()[: part.first].count(b"\n") + 1 if part.first else 0
    return Problem("", part.filename, line)


def summary(course: Course, config: Config) -> str:
    """Say what was rehearsed, and where."""
    rehearsed = both(len(course.run.migrations), len(course.run.repeatable))
    which = f"{len(course.undone)} of them " if course.kept or course.run.repeatable else ""
    place = config.location.name if config.location else ""
    return f"rehearsed {rehearsed}, {which}undone and applied again, on {place}: nothing left behind"
