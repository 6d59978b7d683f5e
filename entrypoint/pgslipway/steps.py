"""Non-transactional files, statement by statement, each noted in the journal.

What can run in a transaction does, together with its row in the journal: it happens exactly once. For the rest the
journal knows which statement was in flight, and the catalogs (`mend`) what became of it. A file that was stopped
anywhere goes on from there; SET and RESET before that place run again.
"""

import asyncio
import hashlib
import logging
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

import asyncpg

from .apply import Busy, Job, StartOver, lost_while, rolled_back_on_failure, see_through
from .check import EXTENSION_UPDATE, NEEDS_ROLE, OUTSIDE, SETTINGS, TEMPORARY
from .errors import BadConfiguration, HalfDone, HistoryConflict, MigrationFailed
from .history import ROW_REMOVED
from .journal import Entry
from .lock import Held
from .mend import Rule, hides_invalid, look_before, rule_for, rule_of, settle, undecided, wait_for_orphan
from .message import excerpt
from .migrations import Source
from .session import LIMIT_AGAIN, NO_LIMIT, Session
from .sql import Statement, folded, quote_literal, quote_name, statements
from .watch import Watch

logger = logging.getLogger(__name__)

NOT_IN_TRANSACTION = {"25001", "2D000"}
"""SQLSTATEs of what refuses to run inside a transaction, and of what commits in there."""
HAS_TEMPORARY = "SELECT 1 WHERE pg_catalog.to_regclass({name}) IS NOT NULL"


class NotInTransaction(Exception):
    """Postgres refuses to run the statement inside a transaction."""


@dataclass(frozen=True, slots=True)
class Step:
    """A statement of a file, at its place."""

    statement: Statement
    text: str
    line: int
    number: int
    """Counts what is journalled from 1; SET and RESET, which are not, have the number of the step before them."""

    @property
    def is_setting(self) -> bool:
        """Tell whether it changes the session and nothing else."""
        return SETTINGS.match(self.statement.text) is not None

    def entry(self, version: int) -> Entry:
        """Return what the journal is to hold of it."""
        text = self.text.replace("\r\n", "\n").replace("\r", "\n")
        checksum = hashlib.sha256(text.encode()).hexdigest()
        return Entry(version=version, step=self.number, checksum=checksum, line=self.line)


def steps(source: Source) -> Iterator[Step]:
    """Yield the statements of a file with their places."""
    line, position, number = 1, 0, 0
    for statement in statements(source):
        line += source[position : statement.start].count(b"\n")
        position = statement.start
        number += SETTINGS.match(statement.text) is None
        yield Step(statement, source[statement.start : statement.end].decode(), line, number)


async def run(held: Held, job: Job, watch: Watch) -> None:
    """Run what is left of a non-transactional file and record the file.

    Raises MigrationFailed, Busy, StartOver, ConnectionLost, HalfDone where only a person can tell what happened,
    Locked where an earlier run is still at it, AccessRefused, HistoryConflict and BadConfiguration.
    """
    if not await held.is_ours():
        raise StartOver("the migration lock was dropped")
    session = Session(held, job, watch)
    await session.create_journal()
    entries = [*(await session.journal.read(held.connection)).get(job.migration.version, ())]
    if entries and entries[-1].statement and not entries[-1].done_at:
        await wait_for_orphan(held.connection, entries[-1].statement, job.config.lock_timeout)
    async with lost_while(f"{job.filename}: the next run looks how far it got"), session.settings():
        try:
            await File(session, job, entries, job.migration.read()).run()
        except MigrationFailed as error:
            error.state = f"what comes before it in {job.filename} is done and stays; the next run goes on from there"
            raise


@dataclass(frozen=True, slots=True)
class File:
    """A non-transactional file that is being run."""

    session: Session
    job: Job
    entries: list[Entry]
    """What earlier runs did of it; the last one may be in flight."""
    source: Source

    async def run(self) -> None:
        """Go on where earlier runs stopped, to the end."""
        await self.settle_in_flight()
        number = 0
        for step in steps(self.source):
            number = step.number
            if step.is_setting:
                await self.send(step)
            elif number <= len(self.entries):
                await self.compare(step, self.entries[number - 1])
            else:
                await self.perform(step)
        if number < len(self.entries):
            raise HalfDone(f"{self.job.filename} has {number} statements now, but {self.way_out}")
        await self.record()

    async def send(self, step: Step) -> None:
        """Send a statement. Raises Busy, MigrationFailed, ConnectionLost."""
        await self.session.send(step.statement, step.line, self.source)

    # --- what earlier runs did --------------------------------------------------------------------------------------

    async def settle_in_flight(self) -> None:
        """Find out what became of the statement that an earlier run had in flight. Raises HalfDone."""
        if not self.entries or self.entries[-1].done_at:
            return
        entry = self.entries[-1]
        rule = rule_of(entry)
        if rule is None:
            raise HalfDone(undecided(self.job.filename, entry))
        took_effect = await self.settle(rule, entry)
        what = "took effect" if took_effect else "did not take effect, and is repeated"
        logger.info("%s: what an earlier run had in flight here %s", self.session.place(entry), what)
        if not took_effect:
            self.entries.pop()

    async def settle(self, rule: Rule, entry: Entry) -> bool:
        """Mend what `entry` left half done and journal what became of it; tell whether it took effect."""
        session = self.session
        async with session.refusals(entry, f"{session.place(entry)} is half done; the next run goes on with it"):
            took_effect = await settle(session.connection, rule, entry, partial(session.mend, entry))
        await session.write(session.journal.finish(entry) if took_effect else session.journal.remove(entry))
        return took_effect

    async def compare(self, step: Step, entry: Entry) -> None:
        """Raise HalfDone unless what was done is still what the file says, and still there."""
        reason = ""
        if step.entry(entry.version).checksum != entry.checksum:
            reason = "this was edited after it was done"
        elif match := TEMPORARY.match(step.statement.text):
            name = f"pg_temp.{quote_name(folded(step.statement.words[match[0].count(' ')]))}"
            if await self.session.connection.execute(HAS_TEMPORARY.format(name=quote_literal(name))) != "SELECT 1":
                reason = "what this made is temporary and gone with the session of an earlier run; use a plain table"
        if reason:
            message = f"{reason}; {self.way_out}"
            raise HalfDone(excerpt(self.job.filename, self.source, step.statement.start, message))

    @property
    def way_out(self) -> str:
        """What to do where the file cannot go on after what was done of it."""
        return (
            f"its first {len(self.entries)} are done, the last one at line {self.entries[-1].line}. Put their text "
            "back as it was; or undo by hand what they did, and have the file start anew with: "
            + self.session.journal.clear(self.job.migration.version)
        )

    # --- what is left to do -----------------------------------------------------------------------------------------

    async def perform(self, step: Step) -> None:
        """Run a statement and journal it, in a transaction where Postgres lets it."""
        if step.number == 1 and EXTENSION_UPDATE.match(step.statement.text):
            await self.update_extension(step)
            return
        if not OUTSIDE.match(step.statement.text):
            with suppress(NotInTransaction):
                await self.perform_inside(step)
                return
        await self.perform_outside(step)

    async def perform_inside(self, step: Step) -> None:
        """Run a statement in one transaction with its row in the journal. Raises NotInTransaction."""
        entry = step.entry(self.job.migration.version)
        async with rolled_back_on_failure(self.session.connection, self.session.place(entry)):
            row = self.session.journal.add(entry, self.session.held.condition, is_done=True)
            await self.session.add(f"{self.session.begin} {row}")
            try:
                await self.send(step)
            except MigrationFailed as error:
                if getattr(error.__cause__, "sqlstate", "") in NOT_IN_TRANSACTION:
                    raise NotInTransaction from error
                raise
            await self.session.commit(entry)

    async def perform_outside(self, step: Step) -> None:
        """Run a statement on its own, in flight in the journal meanwhile."""
        if self.session.held.is_pooled and self.job.history.role:
            raise BadConfiguration(excerpt(self.job.filename, self.source, step.statement.start, NEEDS_ROLE))
        rule = rule_for(step.statement)
        name, before = await look_before(self.session.connection, step.statement)
        entry = replace(step.entry(self.job.migration.version), statement=step.text, object=name, before=before)
        may_wait = not self.session.held.is_pooled and (rule is None or rule.may_wait)
        row = self.session.journal.add(entry, self.session.held.condition, is_done=False)
        await self.session.add(f"{NO_LIMIT if may_wait else ''} {row}")
        try:
            await self.send(step)
        except (MigrationFailed, Busy):  # Postgres refused it, so it is not in flight
            await (self.settle(rule, entry) if rule else self.session.write(self.session.journal.remove(entry)))
            raise
        except asyncio.CancelledError:
            logger.warning("%s: cancelled; the next run looks what became of it", self.session.place(entry))
            raise
        if await hides_invalid(self.session.connection, rule, entry):
            await self.session.write(self.session.journal.remove(entry))
            raise MigrationFailed(
                f"{self.session.place(entry)}: the index {name} exists but is invalid, left by a build that did not "
                "end; drop it with DROP INDEX CONCURRENTLY and run again"
            )
        await self.session.write(f"{self.session.journal.finish(entry)}; {LIMIT_AGAIN if may_wait else ''}")

    async def update_extension(self, step: Step) -> None:
        """Update an extension as the first command of a session of its own, while this one keeps the lock.

        TimescaleDB takes it nowhere else. Raises StartOver once it is done: this session may have loaded the old one.
        """
        if self.session.held.another is None:
            raise BadConfiguration(
                f"{self.job.filename}:{step.line} needs a second connection, which run_migrations does not open; use "
                "the image, or the command line"
            )
        entry = replace(step.entry(self.job.migration.version), statement=step.text)
        await self.session.add(self.session.journal.add(entry, self.session.held.condition, is_done=False))
        connection = await self.session.held.another(self.job.history.role)
        try:
            await self.session.send(step.statement, step.line, self.source, connection)
        except (MigrationFailed, Busy):
            await self.session.write(self.session.journal.remove(entry))
            raise
        finally:
            connection.terminate()
        await self.session.write(self.session.journal.finish(entry))
        raise StartOver(f"{self.session.place(entry)} updated an extension, which the sessions before it cannot use")

    async def record(self) -> None:
        """Record the file as applied, and take its rows out of the journal."""
        filename, history = self.job.filename, self.job.history
        command = f"""
            BEGIN;
            {history.set_role}
            SET LOCAL lock_timeout = 0;
            {self.session.journal.clear(self.job.migration.version)};
            {history.record(self.job.migration, self.job.contents.minimum_version, "true")};
            {history.verify(self.job.migration)};
            DISCARD TEMP;
            COMMIT"""
        unknown = f"{filename} was done and is perhaps not recorded; the next run does that"
        try:
            async with lost_while(unknown), rolled_back_on_failure(self.session.connection, filename):
                await see_through(self.session.connection.execute(command), unknown)
        except asyncpg.UniqueViolationError as error:
            raise StartOver(f"{filename} was applied by another runner") from error
        except asyncpg.PostgresError as error:
            doing = f"{filename} is done, and the next run records it; now it could not be recorded"
            if ROW_REMOVED in str(error):
                raise HistoryConflict(f"{doing}: a trigger on {history.name} lets no row in; remove it") from error
            raise history.failure(error, doing) from error
