"""The run: look whether there is anything to do, which costs one round trip where there is not, and have it done."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from random import uniform
from typing import TYPE_CHECKING

import asyncpg

from .config import Config
from .connect import Connection, connect
from .errors import AccessRefused, DatabaseUnavailable, Locked, NewSession, NotYet, StartOver
from .history import History
from .libpq import target
from .migrations import Migration, count, names

if TYPE_CHECKING:
    from .plan import Applied, Plan

logger = logging.getLogger(__name__)

RESTARTS = 100
"""How often, besides once a file, a run may find its ground shifted before it gives up."""
LONGEST_RESTART_PAUSE = 0.5
"""Seconds; the pause is random below it, so that two runners do not keep meeting."""
IN_RECOVERY = "SELECT 1 WHERE pg_catalog.pg_is_in_recovery()"


@dataclass(slots=True)
class Run:
    """One run over the migrations of an image; `applied` names what it has committed so far."""

    config: Config
    migrations: Sequence[Migration]
    applied: list[str] = field(default_factory=list)
    busy_since: dict[tuple[str, int], float] = field(default_factory=dict)
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

    async def first_look(self, connection: Connection) -> bool:
        """Tell whether there is nothing to do; if there is, the server must take writes."""
        if await self.history.is_current(connection, self.migrations):
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

    def compare(self, history: "Sequence[Applied]") -> "Plan":
        """Compare and log what is worth a look. Raises HistoryConflict where the run must not go on."""
        from .plan import Policy, make_plan

        config = self.config
        policy = Policy(ahead=config.ahead, out_of_order=config.out_of_order, edited=config.edited)
        plan = make_plan(self.migrations, history)
        refused = set(map(str, plan.refusals(policy)))
        for warning in map(str, plan.warnings()):
            if warning not in refused and warning not in self.warned:
                logger.warning(warning)
                self.warned.add(warning)
        plan.refuse(policy)
        return plan


async def up(run: Run) -> None:
    """Wait for Postgres and apply what is pending. Raises every SlipwayError."""
    await until_settled(partial(connect_and_migrate, run), run)


async def connect_and_migrate(run: Run) -> None:
    """Connect and apply what is pending; nothing pending costs one round trip. Raises StartOver too."""
    async with connect(run.config, run.first_look) as (connection, is_current):
        if not is_current:
            from .migrate import migrate  # a run that finds nothing to do is spared the time

            logger.info("connected to %s", target(run.config.libpq))
            await migrate(run, connection, may_connect=True)


async def until_settled(work: Callable[[], Awaitable[None]], run: Run) -> None:
    """Do `work`, again whenever the ground shifts under it. Raises Locked where that does not end."""
    restarts = len(run.migrations) + RESTARTS
    while True:
        try:
            return await work()
        except StartOver as error:
            restarts -= not isinstance(error, NewSession)
            if restarts < 0:
                raise Locked(f"the migration lock cannot be kept: {error}") from error
            logger.info("starting over: %s", error)
        await asyncio.sleep(uniform(0, LONGEST_RESTART_PAUSE))  # noqa: S311
