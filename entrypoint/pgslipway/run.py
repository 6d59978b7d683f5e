"""The run: plan, lock, plan again, preflight, and each pending file in order. The image and the API share it."""

import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import asyncpg
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception_type,
    stop_after_attempt,
    wait_random,
    wait_random_exponential,
)

from . import steps
from .apply import Busy, Job, StartOver, apply, lost_while
from .check import check
from .config import Config
from .connect import Connection, by_sqlstate, connect, reconnect
from .errors import BadMigrations, DatabaseUnavailable, Locked, SlipwayError, TableBusy
from .history import History
from .libpq import target
from .lock import Held, Reconnect, lock
from .migrations import Migration
from .plan import Plan, Policy, make_plan

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
    busy_since: dict[int, float] = field(default_factory=dict)
    """When a version first found its tables busy."""

    @property
    def history(self) -> History:
        """The history table."""
        return History(self.config.schema, self.config.table, self.config.role)

    @property
    def history_as_login(self) -> History:
        """The history table for those who only read it, which never takes the role."""
        return History(self.config.schema, self.config.table)

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

    async def plan(self, connection: Connection) -> Plan:
        """Read the history and compare. Raises HistoryConflict where the run must not go on."""
        plan = make_plan(self.migrations, await self.history.read(connection))
        plan.refuse(self.policy)
        return plan

    async def migrate(self, connection: Connection, reconnect: Reconnect | None) -> None:
        """Apply what is pending, under the lock. Raises StartOver and every SlipwayError but the configuration's."""
        try:
            async with lost_while("no file was being applied"):
                await self.migrate_under_lock(connection, reconnect)
        except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError) as error:
            raise TableBusy(f"{error}; the history table {self.history.name} is in use, no file was applied") from error
        except asyncpg.PostgresError as error:
            raise by_sqlstate(error)(f"{error}; this was about the history table {self.history.name}") from error

    async def migrate_under_lock(self, connection: Connection, reconnect: Reconnect | None) -> None:
        """Do what `migrate` says, with what Postgres says about our own tables not yet translated."""
        plan = await self.plan(connection)
        for warning in plan.warnings():
            logger.warning(warning)
        if not plan.pending:
            return
        async with lock(connection, self.config, self.is_current, reconnect) as held:
            if held is None:
                logger.info("another runner has applied everything")
                return
            plan = await self.plan(held.connection)
            jobs = await self.preflight(held.connection, plan.pending)
            if jobs:
                await self.history.upgrade(held.connection, jobs[-1].migration.version, self.config.ddl_lock_timeout)
            for job in jobs:
                await self.apply(held, job)

    async def preflight(self, connection: Connection, pending: Sequence[Migration]) -> list[Job]:
        """Check every pending file before anything is applied. Raises BadMigrations with all problems."""
        jobs = [Job(migration, check(migration, migration.read()), self.history, self.config) for migration in pending]
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
        return jobs

    async def apply(self, held: Held, job: Job) -> None:
        """Apply one file, again while its tables are busy. Raises TableBusy or Locked when patience ends."""
        started = time.monotonic()
        try:
            async for attempt in AsyncRetrying(
                retry=retry_if_exception_type(Busy),
                wait=wait_random_exponential(
                    multiplier=max(0.1, self.config.ddl_lock_timeout), min=0.1, max=LONGEST_PAUSE
                ),
                stop=lambda state: self.is_out_of_patience(state, job),
                before_sleep=lambda state: log_retry(state, job),
                reraise=True,
            ):
                with attempt:
                    if attempt.retry_state.attempt_number > 1 and job.contents.extensions:
                        raise StartOver("creating an extension is tried again on a new connection")
                    await (apply if job.contents.transactional else steps.run)(held, job)
        except Busy as busy:
            raise self.out_of_patience(busy, job) from busy
        seconds = time.monotonic() - started
        self.applied.append(job.filename)
        logger.info(
            "applied %s in %.0f ms", job.filename, seconds * 1000, extra={"file": job.filename, "seconds": seconds}
        )

    def is_out_of_patience(self, state: RetryCallState, job: Job) -> bool:
        """Tell whether the next try of `job` would come too late, counted from its first time-out on."""
        busy = state.outcome.exception() if state.outcome else None
        first = self.busy_since.setdefault(job.migration.version, time.monotonic())
        waited = time.monotonic() - first + state.upcoming_sleep
        if isinstance(busy, Busy) and busy.recording:
            return 0 < self.config.lock_timeout < waited
        return waited > self.config.ddl_retry

    def out_of_patience(self, busy: Busy, job: Job) -> SlipwayError:
        """Return the failure of a file that found its tables, or its own history row, busy to the end."""
        if busy.recording:
            return Locked(f"{job.filename}: {busy} since MIGRATE_LOCK_TIMEOUT={self.config.lock_timeout:g}s")
        return TableBusy(
            f"{job.filename}: {busy} (MIGRATE_DDL_LOCK_TIMEOUT={self.config.ddl_lock_timeout:g}s, tried again for "
            f"MIGRATE_DDL_RETRY={self.config.ddl_retry:g}s); it was rolled back. Look in pg_stat_activity for what "
            "uses its tables; a file that may wait longer, for row locks too, can say SET LOCAL lock_timeout"
        )


def log_retry(state: RetryCallState, job: Job) -> None:
    """Log that `job` will be tried again, and why."""
    cause = state.outcome.exception() if state.outcome else None
    logger.warning("%s: %s; rolled back, trying again in %.1f s", job.filename, cause, state.upcoming_sleep)


async def up(run: Run) -> None:
    """Wait for Postgres and apply what is pending. Raises every SlipwayError."""
    await until_settled(partial(connect_and_migrate, run), run)


async def connect_and_migrate(run: Run) -> None:
    """Connect and apply what is pending; nothing pending costs one round trip. Raises StartOver too."""
    async with connect(run.config, run.first_look) as (connection, is_current):
        if not is_current:
            logger.info("connected to %s", target(run.config.libpq))
            await run.migrate(connection, partial(reconnect, run.config))


async def until_settled(migrate: Callable[[], Awaitable[None]], run: Run) -> None:
    """Run `migrate`, again whenever the ground shifts under it."""
    attempts = AsyncRetrying(
        retry=retry_if_exception_type(StartOver),
        wait=wait_random(0, 0.5),
        stop=stop_after_attempt(len(run.migrations) + RESTARTS),
        before_sleep=lambda state: logger.info("starting over: %s", state.outcome and state.outcome.exception()),
        reraise=True,
    )
    try:
        await attempts(migrate)
    except StartOver as error:
        raise Locked(f"the migration lock cannot be kept: {error}") from error
