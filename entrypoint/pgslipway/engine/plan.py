"""The plan: the image's migrations and the history compared, as a plain value."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from ..errors import HistoryConflict, Problem
from ..layouts.versions import written
from ..migrations import Applied, Migration, shown
from ..run import Run
from ..words import names
from .squash import is_squash

logger = logging.getLogger(__name__)

LONG_AGO = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What the operator allows; `ahead` is None where it was not said."""

    ahead: str | None = None
    out_of_order: str = "allow"
    edited: str = "refuse"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The comparison's result; every collection is in ascending order of versions."""

    newest: int
    """The image's newest version."""
    layout: str
    """The layout of the image's folder."""
    pending: tuple[Migration, ...]
    edited: tuple[tuple[Migration, Applied], ...]
    ahead: tuple[Applied, ...]
    """Applied by a newer image."""
    missing: tuple[Applied, ...]
    """Applied, and gone from this image."""
    out_of_order: tuple[Migration, ...]
    """Pending, below a version that is applied."""
    applied: tuple[tuple[Migration, Applied], ...]
    moved: tuple[tuple[Migration, Applied], ...] = ()
    """Applied, under a version that another file has now."""
    squashed: tuple[Applied, ...] = ()
    """Applied, and part of the first file of this image now, which stands for them."""
    newest_row: int = 0
    """The newest version in the history."""
    squash: Migration | None = None
    """That file, where the history has rows below it and none of its own version."""

    def refusals(self, policy: Policy) -> Iterator[Problem | str]:
        """Yield each reason for which `up` must not run."""
        for row in self.ahead:
            if row.minimum_version and row.minimum_version > self.newest:
                yield Problem(
                    f"was applied and says minimum-version: {written(self.layout, row.minimum_version)}; this image's "
                    f"newest is {written(self.layout, self.newest)}: it cannot work with this schema; deploy a newer "
                    "image",
                    row.filename,
                    joint=" ",
                )
        if self.squash:
            yield squash_problem(self.squash, self.squashed)
        yield from map(missing_problem, self.missing)
        yield from map(moved_problem, self.moved)
        if policy.edited == "refuse":
            yield from map(edited_problem, self.edited)
        if self.ahead and policy.ahead == "refuse":
            yield f"the database is ahead of this image: {names(self.ahead)} (MIGRATE_AHEAD=refuse)"
        elif self.ahead and self.pending and policy.ahead is None:
            yield (
                f"two branches: the database has {names(self.ahead)}, which this image does not have, and this image "
                f"has {names(self.pending)}, which is not applied; build an image with both, or set MIGRATE_AHEAD=allow"
            )
        if self.out_of_order and policy.out_of_order == "refuse":
            yield (
                f"{names(self.out_of_order)} is pending below a version that is applied (MIGRATE_OUT_OF_ORDER=refuse); "
                "give it a higher version"
            )

    def refuse(self, policy: Policy) -> None:
        """Raise HistoryConflict with every reason for which `up` must not run, if there is one."""
        if reasons := list(self.refusals(policy)):
            raise HistoryConflict(*reasons)

    def warnings(self) -> Iterator[Problem | str]:
        """Yield the findings that are allowed but worth a look."""
        if self.ahead:
            yield f"the database is ahead of this image, by {names(self.ahead)}"
        if self.out_of_order:
            yield f"out of order: {names(self.out_of_order)} is pending below a version that is applied"
        yield from map(edited_problem, self.edited)


def compare(run: Run, history: Sequence[Applied]) -> Plan:
    """Make the plan and log its warnings. Raises HistoryConflict where the run must not go on."""
    config = run.config
    policy = Policy(ahead=config.ahead, out_of_order=config.out_of_order, edited=config.edited)
    plan = make_plan(run.migrations, history, is_squash=is_squash(run.migrations, history))
    run.newest_row = plan.newest_row
    refused = set(map(str, plan.refusals(policy)))
    for warning in map(str, plan.warnings()):
        if warning not in refused and warning not in run.warned:
            logger.warning(warning)
            run.warned.add(warning)
    plan.refuse(policy)
    return plan


def make_plan(migrations: Sequence[Migration], history: Sequence[Applied], *, is_squash: bool = False) -> Plan:
    """Compare `migrations` with `history`, both in any order and each with unique versions.

    The first migration may be a squash of all that were before it.
    """
    in_image = {migration.version: migration for migration in migrations}
    first = min(in_image)
    squash = in_image[first] if is_squash else None
    squashed = tuple(row for row in sorted(history, key=by_version) if squash and row.version < first)
    in_history = {row.version: row for row in history if not squash or row.version >= first}
    newest = max(in_image)
    applied = [(in_image[version], row) for version, row in sorted(in_history.items()) if version in in_image]
    unknown = [row for version, row in sorted(in_history.items()) if version not in in_image]
    filenames = {migration.filename for migration in migrations}
    moved = [(one, row) for one, row in applied if row.filename != one.filename and row.filename in filenames]
    last = max((row.applied_at or LONG_AGO for _, row in applied), default=None)
    ahead = [row for row in unknown if is_ahead(row, newest, last)]
    pending = [migration for version, migration in sorted(in_image.items()) if version not in in_history]
    return Plan(
        newest=newest,
        layout=migrations[0].layout,
        pending=tuple(pending),
        edited=tuple(pair for pair in applied if is_edited(*pair) and pair not in moved and pair[0] is not squash),
        moved=tuple(moved),
        squashed=squashed,
        newest_row=max((row.version for row in history), default=0),
        squash=squash if squashed and first not in in_history else None,
        ahead=tuple(ahead),
        missing=tuple(row for row in unknown if row not in ahead),
        out_of_order=tuple(migration for migration in pending if migration.version < max(in_history, default=0)),
        applied=tuple(applied),
    )


def by_version(row: Applied) -> int:
    """Return the version of a row."""
    return row.version


def is_ahead(row: Applied, newest: int, last: datetime | None) -> bool:
    """Tell whether an unknown row is a newer image's: above our newest, or applied after all that we have."""
    return row.version > newest or (last is not None and (row.applied_at or LONG_AGO) > last)


def is_edited(migration: Migration, row: Applied) -> bool:
    """Tell whether the file differs from the applied one; a row without a checksum matches by filename.

    One that was adopted from a tool that keeps no names, by an image without the file, has its version for a name.
    """
    if row.checksum is None:
        return row.filename not in {migration.filename, str(migration.version)}
    return row.checksum != migration.checksum


def squash_problem(squash: Migration, rows: Sequence[Applied]) -> Problem:
    """Describe a database that has some of the files that a squash stands for, and the way out."""
    return Problem(
        f"stands for all files before it, and this database has only {names(rows)} of them; bring it up to that "
        "version with the last image that has these files",
        squash.filename,
        joint=" ",
    )


def missing_problem(row: Applied) -> Problem:
    """Describe an applied migration that is gone, and the way out."""
    return Problem(
        "was applied but is not in this image; put the file back, as it was, or, if it never belongs here, "
        "delete its row from the history",
        row.filename,
        joint=" ",
    )


def moved_problem(pair: tuple[Migration, Applied]) -> Problem:
    """Describe an applied migration whose version is another file's now, and the way out."""
    migration, row = pair
    return Problem(
        f"was applied as version {shown(migration.layout, row.version, row.filename)}, which {migration.filename} has "
        "now; give each file the version that it was applied with",
        row.filename,
        joint=" ",
    )


def edited_problem(pair: tuple[Migration, Applied]) -> Problem:
    """Describe an edited file and the way out."""
    migration, row = pair
    if row.checksum is None:
        return Problem(
            f"version {migration.text} was applied as {row.filename} but is {migration.filename} in this image"
        )
    return Problem(
        "was edited after it was applied; put the old text back and make the change in a new file (MIGRATE_EDITED=warn "
        "lets it pass)",
        migration.filename,
        joint=" ",
    )
