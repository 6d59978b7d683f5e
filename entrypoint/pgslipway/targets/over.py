"""The state of a run over many targets."""

import logging
from collections.abc import Callable, Iterable
from contextlib import nullcontext

from ..connect import connect, reconnect
from ..dial import Connection
from ..errors import BadConfiguration, FilesChanged
from ..request import Request
from ..run import Run, newest_of, run_of
from .each import Each
from .looks import Looks
from .names import Target
from .progress import shown
from .rollout import Rollout, Work
from .source import present, read
from .tally import Tally

logger = logging.getLogger(__name__)

SOON = 0.001
"""Seconds for which a target is waited for that another run is at work on, as long as there are others."""


class Applied(list[str]):
    """The files that were applied to one target; the run over many notes each as soon as it is committed."""

    def __init__(self, note: Callable[[str], None]) -> None:
        super().__init__()
        self.note = note

    def append(self, filename: str) -> None:
        """Add a file."""
        super().append(filename)
        self.note(filename)


class Over:
    """One command over many targets."""

    def __init__(self, request: Request) -> None:
        """Take the settings. Raises BadConfiguration where they do not go together, BadMigrations."""
        self.request = request
        create = request.config.create_database
        creates = {"up": create, "adopt": create, "wait": "expect" if create == "yes" else "no"}
        self.config = request.config.but(create_database=creates.get(request.options.command, "no"))
        self.each = Each(self.config)
        self.run = run_of(self.each.base, [])
        """The files, which are the same for all."""
        self.tally = Tally(request.targets)
        self.noted: set[str] = set()
        """The names of files that were applied to some target."""

    @property
    def has_schemas(self) -> bool:
        """Tell whether the targets are schemas."""
        return self.config.target_kind == "schema"

    @property
    def share(self) -> str:
        """The end of the last line, which says which share of the targets it was."""
        index = f"JOB_COMPLETION_INDEX={self.config.completion_index} of MIGRATE_SHARDS={self.config.shards}"
        return f"; {index}" if self.config.shards else ""

    def up_to_date(self) -> str:
        """Return the last line of a run after which all targets are up to date. Raises as `Tally.result` does."""
        return f"up to date: {self.tally.result()}; {newest_of(self.run)}{self.share}"

    async def targets(self, only: str | None = None) -> list[Target]:
        """Return the targets of this pod, or the `only` one.

        Raises BadConfiguration for an empty list, and for schemas that are not there.
        """
        if not self.has_schemas and self.config.targets is not None:
            return chosen(await read(self.config, None), only)
        async with reconnect(self.each.base) as connection:
            targets = chosen(await read(self.config, connection), only)
            return await present(self.config, connection, targets) if self.has_schemas else targets

    async def pending(self, role: str | None) -> list[Target]:
        """Return the targets that may have something to do; the others are counted.

        Raises as `targets` does, and for URLs that cannot be read.
        """
        looks = Looks(self.each, self.run, self.tally, role=role)
        if not self.has_schemas:
            targets = await self.targets()
            self.each.check(targets)
            async with shown(self.tally, "look"):
                return await looks.databases(targets)
        async with connect(self.each.base, no_question) as (connection, _):  # the looks may be many, and take long
            pending = await looks.schemas(connection, await read(self.config, connection))
        if pending and self.config.location:
            logger.info("connected to %s", self.config.location.name)
        return pending

    async def go(self, targets: Iterable[Target], work: Work) -> None:
        """Do the work on every target, by the rules of the rollout."""
        command = self.request.options.command
        async with nullcontext() if command == "wait" else shown(self.tally, command):  # it says what it waits for
            await Rollout(self.config, targets, work, self.tally).run()

    def run_over(self, target: Target) -> Run:
        """Return the run over one target, with the files as they are now. Raises FilesChanged if they keep changing."""
        self.follow_files()
        run = Run(self.each.of(target), self.run.migrations, Applied(self.note))
        run.repeatable, run.contents = self.run.repeatable, self.run.contents
        run.folder = self.run.folder
        return run

    def run_to_bring_up(self, target: Target, *, waits: bool) -> Run:
        """Return the run over one of those that `pending` has named; told not to wait, it gives up a held lock at once.

        A look at a database may have got no answer, so the run asks once more whether there is anything to do.
        """
        run = self.run_over(target)
        run.is_pending = self.has_schemas
        if not waits:
            run.config = run.config.but(lock_timeout=SOON)
        return run

    def note(self, filename: str) -> None:
        """Note a file that was applied to a target: how many these are, and each name once."""
        self.tally.apply()
        if filename not in self.noted:
            self.noted.add(filename)
            self.request.applied.append(filename)

    def follow_files(self) -> None:
        """Take the files as they are now. Raises FilesChanged if they keep changing."""
        try:
            self.run.refuse_changed()
        except FilesChanged as error:
            self.run.start_over(error)

    def files(self) -> set[tuple[str, str]]:
        """Return name and checksum of each file as it is now. Raises FilesChanged if they keep changing."""
        self.follow_files()
        return self.run.files


def chosen(targets: list[Target], only: str | None) -> list[Target]:
    """Return the targets, or the `only` one. Raises BadConfiguration where it is none of them."""
    found = [target for target in targets if only in {None, target.name}]
    if not found and only is not None:
        raise BadConfiguration(f"--target: {only!r} is none of the targets")
    return found


async def no_question(_: Connection) -> None:
    """Ask nothing: the first question comes afterwards."""
