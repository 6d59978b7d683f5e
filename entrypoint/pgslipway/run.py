"""The run: plan, lock, plan again, preflight, and each pending file in order. The image and the API share it."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

import asyncpg
from tenacity import AsyncRetrying, retry_if_exception_type, wait_random, wait_random_exponential

from . import steps
from .apply import BUSY, Busy, Job, StartOver, apply, lost_while
from .check import check
from .config import Config
from .connect import Connection, connect, failure_of
from .errors import (
    AccessRefused,
    BadConfiguration,
    BadMigrations,
    DatabaseUnavailable,
    Locked,
    NotYet,
    SlipwayError,
    TableBusy,
)
from .history import History
from .journal import NOT_BEGUN, Journal, Unfinished
from .libpq import target
from .lock import Held, is_session, lock
from .mend import wait_for_orphan
from .migrations import Migration
from .plan import Applied, Plan, Policy, count, make_plan, names
from .watch import FIRST_LOOK, SOON, Watch

logger = logging.getLogger(__name__)

LONGEST_PAUSE = 5.0
"""Seconds between two tries of a file whose tables are busy: time for the queue behind it to drain."""
RESTARTS = 100
"""How often, besides once a file, a run may find its ground shifted before it gives up."""
IN_RECOVERY = "SELECT 1 WHERE pg_catalog.pg_is_in_recovery()"
UNAVAILABLE = """
SELECT name FROM pg_catalog.unnest($1::text[]) AS wanted (name)
 WHERE name NOT IN (SELECT name FROM pg_catalog.pg_available_extensions)
   AND name NOT IN (SELECT extname FROM pg_catalog.pg_extension)
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_extension WHERE extname = 'pg_tle')
 ORDER BY name
"""


@dataclass(slots=True)
class Run:
    """One run over the migrations of an image; `applied` names what it has committed so far."""

    config: Config
    migrations: Sequence[Migration]
    applied: list[str] = field(default_factory=list)
    busy_since: dict[tuple[str, str], float] = field(default_factory=dict)
    """When a file, or a line of one that keeps what stands before it, first found its tables busy."""
    warned: set[str] = field(default_factory=set)
    """What was warned of already; the history is compared more than once."""
    missing: str = ""
    """What the last look for everything missed."""

    @property
    def history(self) -> History:
        """The history table."""
        return History(self.config.schema, self.config.table, self.config.role)

    @property
    def history_as_login(self) -> History:
        """The history table for those who only read it, which never takes the role."""
        return History(self.config.schema, self.config.table)

    @property
    def journal(self) -> Journal:
        """The journal of non-transactional files."""
        return Journal(self.history)

    @property
    def policy(self) -> Policy:
        """What the operator allows."""
        return Policy(ahead=self.config.ahead, out_of_order=self.config.out_of_order, edited=self.config.edited)

    async def is_current(self, connection: Connection) -> bool:
        """Tell whether there is nothing to do."""
        return await self.history.is_current(connection, self.migrations)

    async def first_look(self, connection: Connection) -> bool:
        """Tell whether there is nothing to do; if there is, the server must take writes."""
        if await self.is_current(connection):
            return True
        if await connection.execute(IN_RECOVERY) == "SELECT 1":
            raise DatabaseUnavailable("the server is a standby, which takes no writes")
        return False

    async def look_for_all(self, connection: Connection) -> None:
        """Raise NotYet unless the history holds every migration, as far as the role can see.

        Logs what is missing when that changes. Raises HistoryConflict where `up` would.
        """
        history = self.history_as_login
        try:
            if await history.is_current(connection, self.migrations):
                return
            pending = self.compare(await history.read(connection)).pending
            missing = f"{count(len(pending), 'migration')} missing: {names(pending)}" if pending else ""
        except (AccessRefused, asyncpg.InsufficientPrivilegeError) as error:
            cause = error.__cause__ or error
            missing = f"{history.name} cannot be read yet: {cause}; it takes SELECT on it and USAGE on its schema"
        except asyncpg.LockNotAvailableError as error:
            missing = f"{history.name} cannot be read yet: {error}"
        if missing and missing != self.missing:
            logger.info("waiting for the schema: %s", missing)
        self.missing = missing
        if missing:
            raise NotYet(missing)

    async def plan(self, connection: Connection) -> Plan:
        """Read the history and compare. Raises HistoryConflict where the run must not go on."""
        return self.compare(await self.history.read(connection))

    def compare(self, history: Sequence[Applied]) -> Plan:
        """Compare and log what is worth a look. Raises HistoryConflict where the run must not go on."""
        plan = make_plan(self.migrations, history)
        refused = set(plan.refusals(self.policy))
        for warning in plan.warnings():
            if warning not in refused and warning not in self.warned:
                logger.warning(warning)
                self.warned.add(warning)
        plan.refuse(self.policy)
        return plan

    async def migrate(self, connection: Connection, *, may_connect: bool) -> None:
        """Apply what is pending, under the lock. Raises StartOver and every SlipwayError but the configuration's."""
        async with self.translated():
            await self.migrate_under_lock(connection, may_connect=may_connect)

    @asynccontextmanager
    async def translated(self) -> AsyncIterator[None]:
        """Translate what goes wrong outside files: the connection breaks, or the server refuses our own queries."""
        try:
            async with lost_while("no file was being applied"):
                yield
        except BUSY as error:
            raise TableBusy(f"{error}; the history table {self.history.name} is locked by somebody") from error
        except asyncpg.PostgresError as error:
            raise self.history.failure(error, "no file was being applied") from error

    async def migrate_under_lock(self, connection: Connection, *, may_connect: bool) -> None:
        """Do what `migrate` says, with what Postgres says about our own tables not yet translated."""
        if not (await self.plan(connection)).pending:
            return
        undone = self.history.undone(self.migrations)
        async with lock(connection, self.config, self.history, undone, may_connect=may_connect) as held:
            if held is None:
                logger.info("another runner has applied everything")
                return
            unfinished = await self.journal.read(held.connection)
            pending = (await self.plan(held.connection)).pending
            for migration in pending:
                if in_flight := unfinished.get(migration.version, NOT_BEGUN).in_flight:
                    await wait_for_orphan(held.connection, in_flight.statement or "", self.config.lock_timeout)
            jobs = await self.preflight(held.connection, pending, unfinished, self.journal)
            if held.is_pooled:
                refuse_what_needs_a_session(jobs)
            if jobs:
                await self.patiently(partial(self.upgrade, held, jobs[-1].migration.version), self.history.name)
            for job in jobs:
                await self.apply(held, job)

    async def preflight(
        self, connection: Connection, pending: Sequence[Migration], unfinished: Unfinished, journal: Journal
    ) -> list[Job]:
        """Check every pending file before anything is applied. Raises BadMigrations with all problems, HalfDone."""
        jobs = []
        for migration in pending:
            jobs.append(Job(migration, check(migration, migration.read()), self.history, self.config))
            await asyncio.sleep(0)  # a signal may come while many files are read
        problems = [problem for job in jobs for problem in job.contents.problems]
        if wanted := set().union(*(job.contents.extensions for job in jobs)):
            async with connection.transaction():
                unavailable = {row["name"] for row in await connection.fetch(UNAVAILABLE, list(wanted))}
            problems += [
                f'{job.filename}: the server does not offer the extension "{name}"; install its package there'
                for job in jobs
                for name in sorted(job.contents.extensions & unavailable)
            ]
        if problems:
            raise BadMigrations("\n".join(problems))
        for job in jobs:
            if progress := unfinished.get(job.migration.version):
                await steps.refuse_what_is_stuck(connection, journal, job, progress)
        return jobs

    async def unfinished_as_login(self, connection: Connection) -> Unfinished:
        """Read the journal for those who only look; a role that may not has to do without it."""
        try:
            return await Journal(self.history_as_login).read(connection)
        except AccessRefused:
            logger.warning("%s cannot be read by this role, so unfinished files show as pending", self.journal.name)
            return {}

    async def preview(self, connection: Connection, history: Sequence[Applied]) -> tuple[list[Job], Unfinished]:
        """Return what `up` would apply after such a history, and how far it got before. Raises what `up` would."""
        async with self.translated():
            unfinished = await self.unfinished_as_login(connection)
            pending = self.compare(history).pending
            jobs = await self.preflight(connection, pending, unfinished, Journal(self.history_as_login))
            if not await is_session(connection, self.config):
                refuse_what_needs_a_session(jobs)
            return jobs, unfinished

    async def upgrade(self, held: Held, largest: int) -> None:
        """Make the history table fit for versions up to `largest`."""
        try:
            await self.history.upgrade(held.connection, largest, self.config.ddl_lock_timeout)
        except BUSY as error:
            raise Busy(str(error), recording=False) from error
        except (asyncpg.UniqueViolationError, asyncpg.DuplicateSchemaError, asyncpg.DuplicateTableError) as error:
            raise StartOver(f"somebody else made the schema or the table of the history: {error}") from error

    async def apply(self, held: Held, job: Job) -> None:
        """Apply one file, again while its tables are busy. Raises TableBusy or Locked when patience ends."""
        started = time.monotonic()
        is_last_try = (job.filename, "") in self.busy_since or not self.config.ddl_retry
        async with Watch(held, self.soon if is_last_try else FIRST_LOOK) as watch:
            await self.patiently(partial(self.attempt, held, job, watch), job.filename)
        seconds = time.monotonic() - started
        self.applied.append(job.filename)
        logger.info(
            "applied %s in %.0f ms", job.filename, seconds * 1000, extra={"file": job.filename, "seconds": seconds}
        )

    @property
    def soon(self) -> float:
        """Seconds before the first look at a statement that may be busy: within its lock timeout."""
        return min(SOON, self.config.ddl_lock_timeout / 4 or SOON)

    async def attempt(self, held: Held, job: Job, watch: Watch) -> None:
        """Apply one file, once; creating an extension is tried again on a new connection only."""
        try:
            await (apply if job.contents.transactional else steps.run)(held, job, watch)
        except Busy as busy:
            busy.blocker, watch.first_look = watch.blocker, self.soon
            if job.contents.extensions and not self.is_out_of_patience(busy, job.filename, 0.0):
                raise NewSession(f"{job.filename}: {busy}") from busy
            raise

    async def patiently(self, work: Callable[[], Awaitable[None]], name: str) -> None:
        """Do `work` on what `name` says, again while it is Busy. Raises TableBusy or Locked when patience ends."""
        attempts = AsyncRetrying(
            retry=retry_if_exception_type(Busy),
            wait=wait_random_exponential(multiplier=max(0.1, self.config.ddl_lock_timeout), min=0.1, max=LONGEST_PAUSE),
            stop=lambda state: self.is_out_of_patience(failure_of(state), name, state.upcoming_sleep),
            before_sleep=lambda state: logger.warning(
                "%s: %s; rolled back, trying again in %.1f s",
                getattr(failure_of(state), "place", "") or name,
                failure_of(state),
                state.upcoming_sleep,
            ),
            reraise=True,
        )
        try:
            await attempts(work)
        except Busy as busy:
            raise self.out_of_patience(busy, name) from busy

    def is_out_of_patience(self, failure: BaseException | None, name: str, pause: float) -> bool:
        """Tell whether a try after `pause` seconds would come too late, counted from the first time-out on."""
        place = failure.place if isinstance(failure, Busy) else ""
        first = self.busy_since.setdefault((name, place), time.monotonic())
        waited = time.monotonic() - first + pause
        if isinstance(failure, Busy) and failure.recording:
            return 0 < self.config.lock_timeout < waited
        return waited > self.config.ddl_retry

    def out_of_patience(self, busy: Busy, name: str) -> SlipwayError:
        """Return the failure of what found its tables, or its own history row, busy to the end."""
        if busy.recording:
            return Locked(f"{name}: {busy} since MIGRATE_LOCK_TIMEOUT={self.config.lock_timeout:g}s")
        kept, scope = ("what comes before it stays", "SET") if busy.place else ("it was rolled back", "SET LOCAL")
        return TableBusy(
            f"{busy.place or name}: {busy} (MIGRATE_DDL_LOCK_TIMEOUT={self.config.ddl_lock_timeout:g}s, tried again "
            f"for MIGRATE_DDL_RETRY={self.config.ddl_retry:g}s); {kept}. "
            + ("" if busy.blocker else "Look in pg_stat_activity for what uses its tables. ")
            + f"A file that may wait longer, for row locks too, can say {scope} lock_timeout"
        )


def refuse_what_needs_a_session(jobs: Sequence[Job]) -> None:
    """Raise BadConfiguration where a file without a transaction needs a session of its own."""
    problems = [problem for job in jobs for problem in job.contents.session_state]
    problems += [problem for job in jobs if job.config.role for problem in job.contents.outside]
    if problems:
        raise BadConfiguration("\n".join(problems))


class NewSession(StartOver):
    """The same file is tried again, on a new session; MIGRATE_DDL_RETRY bounds it."""


async def up(run: Run) -> None:
    """Wait for Postgres and apply what is pending. Raises every SlipwayError."""
    await until_settled(partial(connect_and_migrate, run), run)


async def connect_and_migrate(run: Run) -> None:
    """Connect and apply what is pending; nothing pending costs one round trip. Raises StartOver too."""
    async with connect(run.config, run.first_look) as (connection, is_current):
        if not is_current:
            logger.info("connected to %s", target(run.config.libpq))
            await run.migrate(connection, may_connect=True)


async def until_settled(migrate: Callable[[], Awaitable[None]], run: Run) -> None:
    """Run `migrate`, again whenever the ground shifts under it."""
    attempts = AsyncRetrying(
        retry=retry_if_exception_type(StartOver),
        wait=wait_random(0, 0.5),
        stop=lambda state: (
            not isinstance(failure_of(state), NewSession) and state.attempt_number > len(run.migrations) + RESTARTS
        ),
        before_sleep=lambda state: logger.info("starting over: %s", failure_of(state)),
        reraise=True,
    )
    try:
        await attempts(migrate)
    except StartOver as error:
        raise Locked(f"the migration lock cannot be kept: {error}") from error
