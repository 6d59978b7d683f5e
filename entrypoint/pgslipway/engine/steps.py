"""Files without a transaction, statement by statement, each noted in the journal.

A statement that can run in a transaction does, together with its row in the journal: it happens exactly once. For the
others the journal knows which one was in flight, and the catalogs (`recovery`) its fate. A file that was stopped
anywhere goes on from there; SET and RESET before that place run again.
"""

import asyncio
import logging
import re
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from functools import partial

from ..errors import BadConfiguration, Busy, HalfDone, MigrationFailed, NotInTransaction, Problem, StartOver
from ..files import Source
from ..migrations import row_sql_values
from ..quote import milliseconds
from .check import EXTENSION_UPDATE, NEEDS_ROLE, OUTSIDE
from .commits import MAY_COMMIT, commits_inside, has_committed, transaction_number
from .findings import verify_sql
from .journal import NOT_BEGUN, Entry
from .leftovers import is_put_back_sql, put_back_sql
from .lock import Held
from .lock_sql import lock_key
from .message import excerpt
from .recovery import Rule, hides_invalid, look_before, rule_for, rule_of, settle, undecided
from .resume import Step, refuse_edited, refuse_lost_temporary, refuse_values, steps
from .sending import Job, lost_while, own_sql, rolled_back_on_failure, see_through, sendable, settings_sql
from .steps_session import ALL, LOCKS, StepsSession
from .watch import Watch

logger = logging.getLogger(__name__)

NOT_IN_TRANSACTION = {"25001", "2D000"}
"""SQLSTATEs of a statement that refuses to run inside a transaction, and of one that commits in there."""
RESETS = re.compile(r"RESET (ALL|LOCK_TIMEOUT|STANDARD_CONFORMING_STRINGS)\b")


async def apply(held: Held, job: Job, watch: Watch) -> bool:
    """Run the rest of a file without a transaction and record the file; return False: the lock has to be asked for.

    Raises MigrationFailed, Busy, StartOver, ConnectionLost, HalfDone where only a person can decide,
    Locked where an earlier run is still at it, AccessRefused, HistoryConflict and BadConfiguration.
    """
    session, version = StepsSession(held, job, watch), job.migration.version
    async with lost_while(f"{job.filename}: the next run looks how far it got", job.mask):
        # A file before this one may have dropped the lock; outside a transaction no history row keeps a second runner
        # from the same statement.
        if not await held.is_ours():
            raise StartOver("the migration lock was dropped")
        await session.journal.create(held.connection)
        in_flight = (await session.journal.unfinished(held.connection)).get(version, NOT_BEGUN).in_flight
        async with session.settings():
            done = await session.journal.checksums(held.connection, version)
            try:
                await SteppedFile(session, job, done, job.migration.read()).go_on(in_flight)
            except MigrationFailed as error:
                error.state = (
                    f"what comes before it in {job.filename} is done and stays; the next run goes on from there"
                )
                raise
    return False


@dataclass(frozen=True, slots=True)
class SteppedFile:
    """A file without a transaction while it runs."""

    session: StepsSession
    job: Job
    done: list[str]
    """The checksums of its statements that earlier runs have done."""
    source: Source

    async def go_on(self, in_flight: Entry | None) -> None:
        """Go on where earlier runs stopped, to the end."""
        session, job = self.session, self.job
        if in_flight and await self.settle_in_flight(in_flight):
            self.done.append(in_flight.checksum)
        refuse_edited(job, self.source, self.done)
        await refuse_lost_temporary(session.connection, job, self.source, self.done)
        for step in steps(self.source):
            if step.is_setting:
                await self.set(step)
            elif step.number > len(self.done):
                await self.perform(step)
        await self.record()

    async def set(self, step: Step) -> None:
        """Send a SET or RESET; after a RESET our own settings are set again, not the server's."""
        session = self.session
        await session.send(step.sent, step.line, f"{self.job.filename} is not done")
        if RESETS.match(step.statement.text):
            await session.connection.execute(settings_sql(self.job.config, "SESSION", session.watch))

    # --- the statement in flight when an earlier run stopped --------------------------------------------------------

    async def settle_in_flight(self, entry: Entry) -> bool:
        """Find out whether the statement that an earlier run had in flight took effect. Raises HalfDone."""
        rule = rule_of(entry)
        if rule is None:
            raise HalfDone(undecided(self.job.migration, entry))
        took_effect = await self.settle(rule, entry, ALL)
        what = "took effect" if took_effect else "did not take effect, and is repeated"
        logger.info("%s: what an earlier run had in flight here %s", self.session.place(entry), what)
        return took_effect

    async def settle(self, rule: Rule, entry: Entry, lifted: str) -> bool:
        """Mend a half-done statement and journal its fate; tell whether it took effect."""
        session = self.session
        async with session.refusals(entry, f"{session.place(entry)} is half done; the next run goes on with it"):
            took_effect = await settle(session.connection, rule, entry, partial(session.mend, entry, lifted))
        journal = session.journal
        await session.write(journal.finish_sql(entry) if took_effect else journal.remove_sql(entry))
        return took_effect

    def text_of(self, step: Step) -> str:
        """Return the text of a statement as it is sent."""
        return sendable(self.session.connection, step.text)

    # --- the statements that are still to be run --------------------------------------------------------------------

    async def perform(self, step: Step) -> None:
        """Run a statement and journal it, in a transaction where Postgres lets it."""
        if step.number == 1 and EXTENSION_UPDATE.match(step.statement.text):
            await self.update_extension(step)
            return
        commits = await commits_inside(self.session.connection, self.text_of(step))
        if not commits and not OUTSIDE.match(step.statement.text):
            with suppress(NotInTransaction):
                await self.perform_inside(step)
                return
        await self.perform_outside(step)

    async def perform_inside(self, step: Step) -> None:
        """Run a statement in one transaction with its row in the journal. Raises NotInTransaction."""
        session, entry = self.session, step.entry(self.job.migration.version)
        add = session.journal.add_sql(entry, session.held.condition, is_done=True)
        async with rolled_back_on_failure(session.connection, session.place(entry)):
            await session.add(f"{session.begin_sql} {add}")
            try:
                await session.send(step.sent, step.line, f"{session.place(entry)} was not committed")
            except MigrationFailed as error:
                if getattr(error.__cause__, "sqlstate", "") in NOT_IN_TRANSACTION:
                    raise NotInTransaction from error
                raise
            await session.commit(entry)

    async def perform_outside(self, step: Step) -> None:
        """Run a statement on its own, in flight in the journal meanwhile."""
        refuse_values(self.job, step)
        session, rule = self.session, rule_for(step.statement)
        if not session.held.is_direct and (self.job.history.role or self.job.config.search_path):
            raise BadConfiguration(excerpt(self.job.filename, self.source, step.statement.start, NEEDS_ROLE))
        await session.held.give_up_theirs()  # whoever waits for it has a snapshot, for which this may wait in turn
        entry = replace(step.entry(self.job.migration.version), statement=self.text_of(step))
        if_lost = f"{session.place(entry)} may be half done; the next run looks, and goes on from there"
        async with session.refusals(entry, if_lost):
            name, before = await look_before(session.connection, rule, step.text)
        entry = replace(entry, object=name, before=before)
        # In flight is committed before the statement is sent: killed in between, the next run finds no effect and
        # repeats it; the other way round, nobody would know that it ever ran.
        await session.add(session.journal.add_sql(entry, session.held.condition, is_done=False))
        begun = await self.count_transactions(entry)
        try:
            async with session.unlimited(LOCKS) if rule and rule.may_wait else nullcontext():
                await session.send(step.sent, step.line, if_lost)
        except (MigrationFailed, Busy) as error:
            if not await self.took_effect(rule, entry, error, begun):
                raise
            return
        except asyncio.CancelledError:
            logger.warning("%s: cancelled; the next run looks what became of it", session.place(entry))
            raise
        await self.refuse_invalid(rule, entry, if_lost)
        await session.write(session.journal.finish_sql(entry))

    async def refuse_invalid(self, rule: Rule | None, entry: Entry, if_lost: str) -> None:
        """Raise MigrationFailed where CREATE INDEX … IF NOT EXISTS found an invalid index and left it alone."""
        session = self.session
        async with session.refusals(entry, if_lost):
            is_invalid = await hides_invalid(session.connection, rule, entry)
        if is_invalid:
            await session.write(session.journal.remove_sql(entry))
            invalid = (
                f"the index {entry.object} exists but is invalid: left by a build that did not end, or being built; "
                "drop it with DROP INDEX CONCURRENTLY and run again"
            )
            raise MigrationFailed(Problem(invalid, self.job.filename, entry.line))

    async def count_transactions(self, entry: Entry) -> int | None:
        """Return the number of the transaction before a statement that may commit inside; None where it tells nothing.

        Behind a pooler the next question may reach another session.
        """
        if MAY_COMMIT.match(entry.statement or "") and self.session.held.is_direct:
            return await transaction_number(self.session.connection)
        return None

    async def took_effect(
        self, rule: Rule | None, entry: Entry, error: MigrationFailed | Busy, begun: int | None
    ) -> bool:
        """Tell whether a statement that Postgres refused took effect all the same, and mend it: it is not in flight.

        Raises HalfDone for one that may have committed a part before: it must not be repeated unasked.
        """
        session = self.session
        may_be_half_done = rule is None and MAY_COMMIT.match(entry.statement or "")
        if may_be_half_done and (begun is None or await has_committed(session.connection, begun)):
            busy = [Problem(str(error), self.job.filename, entry.line)]
            causes = error.problems if isinstance(error, MigrationFailed) else busy
            raise HalfDone(*causes, undecided(self.job.migration, entry)) from error
        if rule is None:
            await session.write(session.journal.remove_sql(entry))
            return False
        try:
            return await self.settle(rule, entry, LOCKS)
        except (MigrationFailed, Busy) as second:
            logger.warning("%s: what it left is not mended yet, the next run goes on: %s", session.place(entry), second)
            return False

    async def update_extension(self, step: Step) -> None:
        """Update an extension as the first command of a session of its own, while this one keeps the lock.

        TimescaleDB takes it nowhere else. Raises StartOver once it is done: this session may have loaded the old one.
        """
        session = self.session
        if session.held.another is None:
            needs = "needs a second connection, which run_migrations does not open; use the image, or the command line"
            raise BadConfiguration(Problem(needs, self.job.filename, step.line, joint=" "))
        refuse_values(self.job, step)
        entry = replace(step.entry(self.job.migration.version), statement=step.text)
        connection = await session.held.another(session.startup)
        try:
            await session.add(session.journal.add_sql(entry, session.held.condition, is_done=False))
            await session.send(
                step.sent, step.line, f"{session.place(entry)} may be done; the next run repeats it", connection
            )
        except (MigrationFailed, Busy):
            await session.write(session.journal.remove_sql(entry))
            raise
        finally:
            connection.terminate()
        await session.write(session.journal.finish_sql(entry))
        raise StartOver(f"{session.place(entry)} updated an extension, which the sessions before it cannot use")

    async def record(self) -> None:
        """Record the file as applied, take its rows out of the journal, and give the session back."""
        filename, history, session = self.job.filename, self.job.history, self.session
        row = row_sql_values(self.job.migration, self.job.contents.minimum_version)
        command = f"""
            BEGIN;
            {history.set_role_sql}
            SET LOCAL lock_timeout = {milliseconds(self.job.config.ddl_lock_timeout)};
            {session.journal.clear_sql(self.job.migration.version)};
            {history.record_sql(row, "true")};
            {verify_sql(history, self.job.migration.version)};
            RESET SESSION AUTHORIZATION;
            {put_back_sql(session.held)}
            COMMIT;
            SELECT 1 WHERE {is_put_back_sql(session.held, lock_key(history.schema, history.table))}"""
        if_lost = f"{filename} was done and is perhaps not recorded; the next run does that"
        async with (
            own_sql(
                history,
                f"{filename} is done, and the next run records it; now it could not be recorded",
                if_lost,
                rival=f"{filename} was applied by another runner",
                busy="somebody has locked the history",
                mask=self.job.mask,
            ),
            rolled_back_on_failure(session.connection, f"the record of {filename}"),
        ):
            await see_through(session.connection.execute(command), if_lost)
