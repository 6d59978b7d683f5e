"""The state of one run over the migrations of an image."""

import logging
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import asyncpg

from .config import Config
from .connect import connect
from .dial import Connection
from .errors import (
    BadConfiguration,
    DatabaseUnavailable,
    FilesChanged,
    LayoutsMeet,
    Locked,
    NewSession,
    Problem,
    StartOver,
)
from .files import PLAIN
from .history import History
from .migrations import CHANGED, Migration, Repeatable, discover_all
from .values import with_values
from .words import both, few, newest

logger = logging.getLogger(__name__)

RESTARTS = 100
"""How often, besides once a file, a run may start over before it gives up."""
CHANGES = 10
"""How often a run may start over with other files before it gives up."""
OLDEST = 14
"""The oldest version of PostgreSQL that knows every setting that a run uses."""
WRITES = """
SELECT FROM pg_catalog.generate_series(1, CASE WHEN pg_catalog.pg_is_in_recovery() THEN 2
    WHEN pg_catalog.current_setting('transaction_read_only')::bool THEN 1 ELSE 0 END)
"""
NO_WRITES = {
    "SELECT 2": "the server is a standby, which takes no writes",
    "SELECT 1": "the database takes no writes: its transactions are read-only (default_transaction_read_only)",
}
"""Why a run cannot write, by the tag of the question."""


@dataclass(slots=True)
class Run:
    """One run; `applied` names the files that it has committed so far."""

    config: Config
    migrations: Sequence[Migration]
    applied: list[str] = field(default_factory=list)
    restarts: int = 0
    changes: int = 0
    """How often the files were other ones than before."""
    repeatable: Sequence[Repeatable] = ()
    """The files that are applied after the migrations, whenever they have changed."""
    superseded: list[str] = field(default_factory=list)
    """Those that the last look has left alone, since a newer image, or another of the same version, has its own."""
    is_confirmed: bool = True
    """Each of them that is applied is so by an image of this newest version, or of a newer one."""
    folder: tuple[int, int, int] | None = None
    """The folder's state when its files were last looked at."""
    is_pending: bool = False
    """A look at many targets has found that there is something to do in this one."""
    contents: dict[Migration, Any] = field(default_factory=dict)
    """The findings in files so far: the same for all targets of a run over many."""
    busy_since: dict[tuple[str, int], float] = field(default_factory=dict)
    """When a file, or a line of one that keeps the statements before it, first found its tables busy."""
    claims: dict[str, list[asyncpg.UniqueViolationError]] = field(default_factory=dict)
    """Why another runner seemed to have applied a file, for each time."""
    warned: set[str] = field(default_factory=set)
    """The warnings so far; the history is compared more than once."""
    adopted: int = 0
    """How many migrations were taken over from another tool."""
    adopts_beside_empty: bool = False
    """A person has decided that another tool's history counts where ours is there and empty."""
    newest_row: int = 0
    """The newest version in the history when it was last compared."""
    missing: str = ""
    """The migrations that the last look of `wait` missed."""

    def __post_init__(self) -> None:
        """Note the state of the folder."""
        self.folder = folder_state(self.config)

    @property
    def history(self) -> History:
        """The history table."""
        return History(self.config.schema, self.config.table, self.config.role, self.config.search_path)

    @property
    def history_as_login(self) -> History:
        """The history table for those who only read it, which never takes the role."""
        return History(self.config.schema, self.config.table, search_path=self.config.search_path)

    @property
    def files(self) -> set[tuple[str, str]]:
        """Name and checksum of each file."""
        return named(self.migrations, self.repeatable)

    async def look(self, connection: Connection) -> bool:
        """Tell whether there is nothing to do; if there is, the server must be one that a run can write to."""
        self.refuse_changed()
        if not self.is_pending and await self.is_current(self.history, connection):
            return True
        self.is_pending = False
        await refuse_reader(connection)
        return False

    async def is_current(self, history: History, connection: Connection) -> bool:
        """Tell in one round trip whether there is nothing to do; then no repeatable file is left alone, either."""
        if is_current := await history.is_current(connection, self.migrations, self.repeatable):
            self.superseded = []
        return is_current

    def counted(self, filenames: Sequence[str]) -> str:
        """Return how many of these files are migrations with a version, and how many are repeatable."""
        repeatable = sum(name in {one.filename for one in self.repeatable} for name in filenames)
        return both(len(filenames) - repeatable, repeatable)

    def note_busy(self, file: str, line: int) -> None:
        """Note when a file, or a line of it, was first found busy."""
        self.busy_since.setdefault((file, line), time.monotonic())

    def refuse_changed(self) -> None:
        """Raise FilesChanged where the folder has other migrations now: waiting may take minutes."""
        if (state := folder_state(self.config)) == self.folder:
            return
        self.folder = state
        if changed := {filename for filename, _ in named(*files_of(self.config)) ^ self.files}:
            raise FilesChanged(*(Problem(CHANGED, filename) for filename in sorted(changed)))

    def start_over(self, error: StartOver | FilesChanged) -> None:
        """Count one more start; one on a new session is bounded otherwise.

        Raises Locked when there were too many, FilesChanged when the files did not stay the same, BadMigrations for
        what they are now.
        """
        if isinstance(error, FilesChanged):
            self.changes += 1
            if self.changes > CHANGES:
                raise error
            changed = few([problem.file for problem in error.problems])
            logger.info("starting over with the files as they are now; changed: %s", changed)
            self.folder = folder_state(self.config)
            self.migrations, self.repeatable = files_of(self.config)
            return
        self.restarts += not isinstance(error, NewSession)
        if self.restarts > len(self.migrations) + RESTARTS:
            raise Locked(f"the migration lock cannot be kept: {error}") from error
        logger.info("starting over: %s", error)


def files_of(config: Config) -> tuple[list[Migration], list[Repeatable]]:
    """Return the files of the folder; those that are repeatable with the values of their variables.

    Raises BadMigrations, and BadConfiguration for a value that cannot be read.
    """
    migrations, repeatable = discover_all(config.dir, config.layout)
    return migrations, [with_values(one, config.variables) for one in repeatable]


def named(migrations: Sequence[Migration], repeatable: Sequence[Repeatable]) -> set[tuple[str, str]]:
    """Return name and checksum of each file."""
    return {(one.filename, one.checksum) for one in (*migrations, *repeatable)}


def run_of(config: Config, applied: list[str]) -> Run:
    """Return the run over the files of the folder. Raises BadMigrations."""
    migrations, repeatable = files_of(config)
    return Run(config, migrations, applied, repeatable=repeatable)


async def begin(config: Config, applied: list[str] | None = None) -> Run:
    """Return the run over the files of the folder; `applied` gets the name of each file once it is committed.

    Where two layouts meet in the folder, and one of them is the plain one, the history tells whether it was so before:
    then the other files stay what they were, no migrations. Raises BadMigrations, and whatever `connect` raises.
    """
    applied = [] if applied is None else applied
    try:
        return run_of(config, applied)
    except LayoutsMeet as error:
        if PLAIN not in error.layouts or not config.location:
            raise
        run = run_of(config.but(layout=PLAIN), applied)
        async with connect(config, run.history_as_login.rows) as (_, rows):
            if {row.filename for row in rows}.isdisjoint(one.filename for one in run.migrations):
                raise
        return run


def newest_of(run: Run) -> str:
    """Say which is the newest migration, and which repeatable files were left alone."""
    return f"{newest([one.filename for one in run.migrations])}{superseded(run.superseded)}"


def superseded(filenames: Sequence[str]) -> str:
    """Return the end of a last line, which names the repeatable files that were left alone; empty without one."""
    return f"; superseded: {few(filenames)}" if filenames else ""


async def refuse_reader(connection: Connection) -> None:
    """Raise BadConfiguration for a server that is too old, DatabaseUnavailable for one that takes no writes now."""
    if connection.get_server_version().major < OLDEST:
        version = connection.get_settings().server_version
        raise BadConfiguration(f"the server is PostgreSQL {version}; pgslipway needs PostgreSQL {OLDEST} or newer")
    if reason := NO_WRITES.get(await connection.execute(WRITES)):
        raise DatabaseUnavailable(reason)


def folder_state(config: Config) -> tuple[int, int, int] | None:
    """Return a value that differs once the folder has other entries, which a ConfigMap's new content has as well."""
    try:
        found = os.stat(config.dir)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns
