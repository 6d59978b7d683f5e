"""What the statements of a file do, seen over the connection that the engine applies the file on."""

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager
from functools import partial
from itertools import count
from typing import Any, TypeVar

from ...dial import Connection
from ...engine.resume import Step, steps
from ...engine.sending import Job, sendable
from ...engine.transaction import parts
from ...files import Source
from ...history import History
from ...words import short
from .effects import Effect, Observed, closed, effects
from .looks import NONE, Known, Looks, Relation, known
from .outside import effects_outside, kind_of, tables_of
from .planner import as_for_large_tables

Answer = TypeVar("Answer")
Send = Callable[[], Awaitable[Answer]]
MAY_UNDO = re.compile(r"(DO|CALL|SELECT|WITH|EXECUTE)\b")
"""What may roll back a part of itself, in a function, and the locks of that part."""


class Observer:
    """Looks before and after each statement of a file. One connection is observed, one file at a time."""

    def __init__(self, connection: Connection, observed: dict[tuple[str, int], Observed]) -> None:
        """Take the connection that files are applied on, and where to note each statement, by file and first byte."""
        self.connection = connection
        self.observed = observed
        self.job: Job
        self.known = Known({}, {})
        self.statements: list[tuple[str, Step]] = []
        """The statements of the file, with their texts as the engine sends them."""
        self.expected: list[tuple[str, Step]] = []
        """Those that are still to come."""
        self.looks: Looks | None = None
        """At the transaction that is open, once one of its statements was sent."""
        self.transactions = count()
        self.transaction = 0

    @asynccontextmanager
    async def file(self, job: Job) -> AsyncIterator[None]:
        """Observe this file in the block, where the engine sends it statement by statement."""
        self.job, self.looks = job, None
        self.known = await known(self.connection, History(job.config.schema, job.config.table))
        source = job.migration.read()
        found = [*steps(source)]
        if job.contents.transactional:
            send_singly(job, found)
        self.statements = [(sendable(self.connection, text), step) for text, step in as_sent(job, source, found)]
        self.expected = [*self.statements]
        yield
        for _, step in self.statements:  # the update of an extension has a session of its own
            if (job.filename, step.statement.start) not in self.observed:
                self.add(step, (), is_seen=step.is_setting)
        self.statements = self.expected = []

    def add(
        self, step: Step, done: Iterable[Effect], *, closed: AbstractSet[Relation] = frozenset(), is_seen: bool = True
    ) -> None:
        """Note the effects of a statement."""
        file, statement = self.job.filename, step.statement
        text = short(self.job.mask(step.written.decode()))
        self.observed[file, statement.start] = Observed(
            file,
            statement.start,
            step.line,
            text,
            statement.text,
            self.transaction,
            tuple(done),
            frozenset(closed),
            is_seen,
        )

    async def over(self, text: str, send: Send[Answer]) -> Answer:
        """Send SQL, and observe it if it is a statement of the file."""
        is_inside = self.connection.is_in_transaction()
        if not is_inside:
            self.looks = None
            if self.statements and self.job.contents.transactional:  # it begins, perhaps anew
                self.expected = [*self.statements]
        place = next((place for place, (expected, _) in enumerate(self.expected) if expected == text), None)
        if place is None:
            return await send()
        step = self.expected[place][1]
        answer = await (self.inside(step, send) if is_inside else self.outside(step, send))
        del self.expected[: place + 1]
        return answer

    async def inside(self, step: Step, send: Send[Answer]) -> Answer:
        """Send a statement within a transaction, which keeps its locks."""
        kind = step.statement.text
        if self.looks is None:
            self.transaction = next(self.transactions)
            self.looks = Looks(self.known)
            await self.looks.begin(self.connection)
        async with as_for_large_tables(self.connection, kind, step.text) as read:
            answer = await send()
        changed = await self.looks.again(self.connection, everywhere=MAY_UNDO.match(kind) is not None)
        done = () if kind.startswith("ROLLBACK") else effects(self.looks, changed, read)
        self.add(step, done, closed=closed(self.looks))
        return answer

    async def outside(self, step: Step, send: Send[Answer]) -> Answer:
        """Send a statement outside a transaction; the tables that it names may be gone afterwards."""
        self.transaction = next(self.transactions)
        if step.is_setting:
            return await send()
        kind = kind_of(step.text)
        is_told = kind is not None and kind.lock != NONE
        tables = await tables_of(self.connection, step.statement, step.text, self.known) if is_told else []
        answer = await send()
        done = effects_outside(kind, tables) if kind else []
        shut = {effect.relation for effect in done if effect.blocks}
        self.add(step, done, closed=shut, is_seen=kind is not None)
        return answer


def send_singly(job: Job, found: Sequence[Step]) -> None:
    """Have the engine send each statement of a file by itself, as it sends the pieces of a large one."""
    job.contents.is_large, job.contents.pieces = True, [step.statement.start for step in found]


def as_sent(job: Job, source: Source, found: Sequence[Step]) -> Iterator[tuple[str, Step]]:
    """Yield the statements of a file, each with its text as the engine is to send it."""
    if not job.contents.transactional:
        yield from ((step.text, step) for step in found)
        return
    by_place = {step.statement.start: step for step in found}
    for start, text in parts(source, job.contents):
        yield text, by_place[start]


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
