"""The histories of other tools, read: which migrations they have as applied, and what is wrong with them.

By the sources of the versions that docs/moving.md names; tests run the tools themselves.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeAlias

from ..layouts.versions import flyway as flyway_number
from ..migrations import Migration
from . import sums

Row: TypeAlias = Any
"""A row of their history, by the names in the tool's query."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A migration that their history has as applied."""

    version: int
    name: str
    """As they have it, for messages and for the rows of newer images."""
    at: datetime | None = None
    fits: Callable[[Migration], bool] | None = None
    """Whether a file is the one that was applied, where they keep a checksum."""


@dataclass(slots=True)
class Theirs:
    """Their history, read."""

    entries: list[Entry] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)
    """What has to be mended with their tool first."""
    note: str = ""
    """What the history does not tell."""


def last_version(name: str, none: int | None = None) -> Callable[[Sequence[Row], Sequence[Migration]], Theirs]:
    """Return the reader of a history that has the last version only: every file up to it counts.

    `none` is the version that stands for none.
    """

    def read(rows: Sequence[Row], migrations: Sequence[Migration]) -> Theirs:
        if not rows:
            return Theirs()
        row = max(rows, key=lambda row: row["version"])
        last = row["version"]
        if row["failed"]:
            return Theirs(refusals=[f"version {last} is dirty: it began and failed; mend it, and run: migrate force"])
        if last == none:
            return Theirs()
        if last not in {one.version for one in migrations}:
            return Theirs(refusals=[f"its last version is {last}, which no file of this folder has"])
        entries = [Entry(one.version, one.filename) for one in migrations if one.version <= last]
        return Theirs(entries, note=f"{name} keeps its last version only: every file up to {last} counts as applied")

    return read


def last_of_each(rows: Sequence[Row], _: Sequence[Migration]) -> Theirs:
    """Read goose's, where of the rows of a version the last one counts; its first one is version 0."""
    last = {row["version"]: row for row in rows if row["version"]}
    return Theirs([Entry(version, str(version), row["at"]) for version, row in last.items() if row["applied"]])


def texts(number: Callable[[str], int]) -> Callable[[Sequence[Row], Sequence[Migration]], Theirs]:
    """Return the reader of a history whose versions are texts."""

    def read(rows: Sequence[Row], _: Sequence[Migration]) -> Theirs:
        theirs = Theirs()
        for row in rows:
            try:
                theirs.entries.append(Entry(number(row["version"]), row["version"], row["at"]))
            except ValueError:
                theirs.refusals.append(f"it has a version that no file can have: {row['version']!r}")
        return theirs

    return read


def flyway(rows: Sequence[Row], migrations: Sequence[Migration]) -> Theirs:
    """Read Flyway's: a later row may void an earlier one, and a baseline stands for all that is not above it."""
    applied: dict[int, Entry] = {}
    theirs = Theirs()
    for row in rows:
        kind = row["type"]
        if not row["success"]:
            theirs.refusals.append(f"{row['script']} failed and is marked so; mend it and run: flyway repair")
        elif row["version"] is None:
            continue  # a repeatable one, or the mark that the schema was made
        elif kind in {"DELETE", "UNDO_SQL", "UNDO_SCRIPT", "UNDO_JDBC"}:
            applied.pop(flyway_number(row["version"]), None)
        elif kind == "BASELINE":
            number = flyway_number(row["version"])
            for one in migrations:
                if one.version <= number:
                    applied[one.version] = Entry(one.version, one.filename, row["at"])
        else:
            number = flyway_number(row["version"])
            applied[number] = Entry(number, row["script"], row["at"], flyway_fit(row["sum"]))
    theirs.entries += applied.values()
    return theirs


def flyway_fit(checksum: int | None) -> Callable[[Migration], bool] | None:
    """Return whether a file has the checksum; None where Flyway keeps none."""
    return None if checksum is None else lambda migration: sums.flyway(text_of(migration)) == checksum


def sqlx(rows: Sequence[Row], _: Sequence[Migration]) -> Theirs:
    """Read sqlx's."""
    theirs = Theirs()
    for row in rows:
        if not row["success"]:
            theirs.refusals.append(f"version {row['version']} failed and is marked so; mend it, and delete its row")
        theirs.entries.append(Entry(row["version"], row["name"], row["at"], sqlx_fit(row["sum"])))
    return theirs


def sqlx_fit(checksum: bytes) -> Callable[[Migration], bool]:
    """Return whether a file has the checksum."""
    return lambda migration: sums.sqlx(text_of(migration)) == checksum


def prisma(rows: Sequence[Row], migrations: Sequence[Migration]) -> Theirs:
    """Read Prisma's, by the names of the folders; a row that was rolled back is void."""
    versions = {one.filename.partition("/")[0]: one.version for one in migrations}
    theirs = Theirs()
    for row in rows:
        name = row["name"]
        digits = name.partition("_")[0]
        if row["rolled_back"]:
            continue
        if not row["finished"]:
            theirs.refusals.append(
                f"{name} failed; mend it and run: prisma migrate resolve --applied (or --rolled-back)"
            )
        elif name not in versions and not digits.isdecimal():
            theirs.refusals.append(f"{name} is applied, and is not in this folder")
        else:
            version = versions.get(name, int(digits) * 10 if digits.isdecimal() else 0)
            theirs.entries.append(Entry(version, f"{name}/migration.sql", row["at"], prisma_fit(row["sum"])))
    return theirs


def prisma_fit(checksum: str) -> Callable[[Migration], bool]:
    """Return whether a file has the checksum."""
    return lambda migration: checksum in sums.prisma(text_of(migration))


def drizzle(rows: Sequence[Row], _: Sequence[Migration]) -> Theirs:
    """Read Drizzle's, by the moment in the journal."""
    theirs = Theirs()
    for row in rows:
        if row["version"] is None:
            theirs.refusals.append(f"row {row['id']} has no created_at, so nobody knows which file it is")
        else:
            theirs.entries.append(Entry(row["version"], str(row["version"]), row["at"], drizzle_fit(row["sum"])))
    return theirs


def drizzle_fit(checksum: str) -> Callable[[Migration], bool]:
    """Return whether a file has the checksum."""
    return lambda migration: checksum == sums.drizzle(text_of(migration))


def refinery(rows: Sequence[Row], _: Sequence[Migration]) -> Theirs:
    """Read refinery's."""
    entries = [
        Entry(flyway_number(str(row["version"])), f"V{row['version']}__{row['name']}.sql", at, refinery_fit(row))
        for row in rows
        for at in [row["at"]]
    ]
    return Theirs(entries)


def refinery_fit(row: Row) -> Callable[[Migration], bool]:
    """Return whether a file has the name and the checksum."""

    def fits(migration: Migration) -> bool:
        name = migration.filename.rpartition("/")[2].partition("__")[2].removesuffix(".sql")
        return row["sum"] in sums.refinery(row["name"], row["version"], text_of(migration)) and name == row["name"]

    return fits


def text_of(migration: Migration) -> bytes:
    """Return the whole of a file: their checksums are over all of it."""
    with open(migration.path, "rb") as file:
        return file.read()
