"""What the statements of a file do, seen over the connection that the engine applies the file on."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from itertools import count
from typing import Any, TypeVar

from ...dial import Connection
from ...engine.resume import Step, steps
from ...engine.sending import Job, sendable
from ...engine.transaction import parts
from ...history import History
from ...words import short
from .effects import Effect, Observed, effects
from .looks import Known, State, known
from .outside import effects_outside, kind_of, tables_of
from .planner import as_for_large_tables

Answer = TypeVar("Answer")
Send = Callable[[], Awaitable[Answer]]


class Observer:
    """Looks before and after each statement of a file. One connection is observed, one file at a time."""

    def __init__(self, connection: Connection, observed: dict[tuple[str, int], Observed]) -> None:
        """Take the connection that files are applied on, and where to note each statement, by file and first byte."""
        self.connection = connection
        self.observed = observed
        self.job: Job
        self.known = Known({})
        self.expected: list[tuple[str, Step]] = []
        """The statements of the file that are still to come, with their texts as the engine sends them."""
        self.last: dict[int, State] | None = None
        """The last look, in the transaction that is still open."""
        self.transactions = count()
        self.transaction = 0

    @asynccontextmanager
    async def file(self, job: Job) -> AsyncIterator[None]:
        """Observe this file in the block, where the engine sends it statement by statement."""
        self.job, self.last = job, None
        self.known = await known(self.connection, History(job.config.schema, job.config.table))
        self.expected = [(sendable(self.connection, text), step) for text, step in by_statement(job)]
        yield
        for _, step in by_statement(job):  # the update of an extension has a session of its own
            if (job.filename, step.statement.start) not in self.observed:
                self.add(step, (), is_seen=step.is_setting)
        self.expected = []

    def add(self, step: Step, effects: Iterable[Effect], *, is_seen: bool = True) -> None:
        """Note the effects of a statement."""
        file, statement = self.job.filename, step.statement
        text = short(self.job.mask(step.written.decode()))
        self.observed[file, statement.start] = Observed(
            file, step.line, text, statement.text, self.transaction, tuple(effects), is_seen
        )

    async def over(self, text: str, send: Send[Answer]) -> Answer:
        """Send SQL, and observe it if it is a statement of the file."""
        place = next((place for place, (expected, _) in enumerate(self.expected) if expected == text), None)
        is_inside = self.connection.is_in_transaction()
        if not is_inside:
            self.last = None
        if place is None:
            return await send()
        step = self.expected[place][1]
        answer = await (self.inside(step, send) if is_inside else self.outside(step, send))
        del self.expected[: place + 1]
        return answer

    async def inside(self, step: Step, send: Send[Answer]) -> Answer:
        """Send a statement within a transaction, which keeps its locks."""
        if self.last is None:
            self.transaction = next(self.transactions)
            self.last = await self.known.look(self.connection)
        before = self.last
        async with as_for_large_tables(self.connection, step.statement.text, step.text) as read:
            answer = await send()
        self.last = await self.known.look(self.connection, before)
        self.add(step, effects(self.known.owners, before, self.last, read))
        return answer

    async def outside(self, step: Step, send: Send[Answer]) -> Answer:
        """Send a statement outside a transaction; the tables that it names may be gone afterwards."""
        self.transaction = next(self.transactions)
        if step.is_setting:
            return await send()
        kind = kind_of(short(step.text))
        tables = await tables_of(self.connection, step.statement, step.text, self.known) if kind else []
        answer = await send()
        self.add(step, effects_outside(kind, tables) if kind else (), is_seen=kind is not None)
        return answer


def by_statement(job: Job) -> Iterator[tuple[str, Step]]:
    """Yield the statements of a file, each with its text as the engine is to send it."""
    source, contents = job.migration.read(), job.contents
    found = {step.statement.start: step for step in steps(source)}
    if not contents.transactional:
        yield from ((step.text, step) for step in found.values())
        return
    contents.is_large, contents.pieces = True, [*found]
    for start, text in parts(source, contents):
        yield text, found[start]


class ObservedConnection:
    """A connection that sends what it is given through an observer; everything else is the connection's own."""

    def __init__(self, observer: Observer) -> None:
        """Take the observer, which has the connection."""
        self.observer = observer

    def __getattr__(self, name: str) -> Any:
        """Return what the connection has by that name."""
        return getattr(self.observer.connection, name)

    async def execute(self, text: str, *arguments: Any, **options: Any) -> str:
        """Execute SQL as the connection does."""
        return await self.observer.over(text, partial(self.observer.connection.execute, text, *arguments, **options))

    async def _copy_in(self, text: str, *arguments: Any) -> Any:
        """Send rows, as `copying` does beneath the driver's public way."""
        beneath: Any = self.observer.connection
        return await self.observer.over(text, partial(beneath._copy_in, text, *arguments))
