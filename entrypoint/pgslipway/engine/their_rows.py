"""The histories of other tools, read: which migrations they have as applied, and what is wrong with them.

By the sources of the versions that docs/moving.md names; tests run the tools themselves.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeAlias

from ..errors import FilesChanged, Problem
from ..files import LARGEST_VERSION
from ..layouts.versions import PLACES, is_number
from ..layouts.versions import flyway as flyway_number
from ..migrations import CHANGED, Migration
from . import sums

Row: TypeAlias = Any
"""A row of their history, by the names in the tool's query."""
Fit: TypeAlias = Callable[[Migration], bool]
"""Tells whether a file is the one that was applied."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A migration that their history has as applied."""

    version: int
    name: str
    """As they have it, for messages."""
    at: datetime | None = None
    fits: Fit | None = None
    """Whether a file is the one that was applied, where they keep a checksum."""
    filename: str = ""
    """The file's name, where they have it."""


@dataclass(slots=True)
class Theirs:
    """Their history, read."""

    entries: list[Entry] = field(default_factory=list)
    rows: list[Entry] = field(default_factory=list)
    """What is written in it, applied or failed: a baseline, or a last version, stands for more."""
    refusals: list[str] = field(default_factory=list)
    """What has to be mended with their tool first."""
    repeatable: dict[str, Entry] = field(default_factory=dict)
    """The files without a version that are applied, by name without folder."""
    note: str = ""
    """What the history does not tell."""


Reader: TypeAlias = Callable[[Sequence[Row], Sequence[Migration]], Theirs]
"""Reads the rows of a history, beside the files of the folder."""


def last_version(name: str, none: int | None = None) -> Reader:
    """Return the reader of a history that has the last version only: every file up to it counts.

    `none` is the version that stands for none.
    """

    def read(rows: Sequence[Row], migrations: Sequence[Migration]) -> Theirs:
        last = max((row["version"] for row in rows), default=none)
        if last is None or last == none:
            return Theirs()
        theirs = Theirs(rows=[Entry(last, f"version {last}")])
        if any(row["failed"] for row in rows):
            theirs.refusals.append(f"version {last} is dirty: it began and failed; mend it, and run: migrate force")
        elif last not in {one.version for one in migrations}:
            theirs.refusals.append(f"its last version is {last}, which no file of this folder has")
        else:
            theirs.entries += [Entry(one.version, one.filename) for one in migrations if one.version <= last]
            theirs.note = f"{name} keeps its last version only: every file up to {last} counts as applied"
        return theirs

    return read


def last_of_each(rows: Sequence[Row], _: Sequence[Migration]) -> Theirs:
    """Read goose's, where of the rows of a version the last one counts; its first one is version 0."""
    last = {row["version"]: row for row in rows if row["version"]}
    entries = [Entry(version, f"version {version}", row["at"]) for version, row in last.items() if row["applied"]]
    return Theirs(entries, rows=entries)


def texts(number: Callable[[str], int]) -> Reader:
    """Return the reader of a history whose versions are texts."""

    def read(rows: Sequence[Row], _: Sequence[Migration]) -> Theirs:
        theirs = Theirs()
        for row in rows:
            if (version := number_or_none(number, row["version"])) is None:
                theirs.refusals.append(f"it has a version that no file can have: {row['version']!r}")
            else:
                theirs.entries.append(Entry(version, f"version {row['version']}", row["at"]))
        theirs.rows = theirs.entries
        return theirs

    return read


def number_or_none(number: Callable[[str], int], text: str) -> int | None:
    """Return the number of a version; None for a text that is none, or too large for our history."""
    try:
        version = number(text)
    except ValueError:
        return None
    return version if version <= LARGEST_VERSION else None


def digits(text: str) -> int:
    """Return the number that is written as digits. Raises ValueError."""
    if not is_number(text):
        raise ValueError(text)
    return int(text)


def sqlx(rows: Sequence[Row], _: Sequence[Migration]) -> Theirs:
    """Read sqlx's."""
    entries = [
        Entry(row["version"], f"version {row['version']} ({row['name']})", row["at"], sqlx_fit(row["sum"]))
        for row in rows
    ]
    failed = {row["version"] for row in rows if not row["success"]}
    refusals = [f"version {version} failed and is marked so; mend it, and delete its row" for version in sorted(failed)]
    return Theirs([entry for entry in entries if entry.version not in failed], entries, refusals)


def sqlx_fit(checksum: bytes) -> Fit:
    """Return whether a file has the checksum."""
    return lambda migration: sums.sqlx(text_of(migration)) == checksum


def prisma(rows: Sequence[Row], migrations: Sequence[Migration]) -> Theirs:
    """Read Prisma's, by the names of the folders; a row that was rolled back is void."""
    valid = [row for row in rows if not row["rolled_back"]]
    versions = prisma_versions([row["name"] for row in valid], migrations)
    theirs = Theirs()
    for row in valid:
        name = row["name"]
        if (version := versions.get(name)) is None:
            theirs.refusals.append(f"{name} is applied, and is not in this folder")
            continue
        entry = Entry(version, name, row["at"], prisma_fit(row["sum"]), f"{name}/migration.sql")
        theirs.rows.append(entry)
        if row["finished"]:
            theirs.entries.append(entry)
        else:
            theirs.refusals.append(
                f"{name} failed; mend it and run: prisma migrate resolve --applied (or --rolled-back)"
            )
    return theirs


def prisma_versions(names: Sequence[str], migrations: Sequence[Migration]) -> dict[str, int]:
    """Return the versions of the folders and of the names that are not among them, as a newer image has those.

    Names that could have none in it are left out: of equal digits the ones in the folder keep their places.
    """
    versions = {one.filename.partition("/")[0]: one.version for one in migrations}
    places = {version // 10: version % 10 for version in sorted(versions.values())}
    last = {version // 10: name for name, version in sorted(versions.items())}
    for name in sorted({*names} - versions.keys()):
        number = number_or_none(digits, name.partition("_")[0])
        if number is None or name < last.get(number, ""):
            continue
        place = places[number] = places.get(number, -1) + 1
        if place < PLACES and 10 * number + place <= LARGEST_VERSION:
            versions[name] = 10 * number + place
    return versions


def prisma_fit(checksum: str) -> Fit:
    """Return whether a file has the checksum."""
    return lambda migration: checksum in sums.prisma(text_of(migration))


def drizzle(rows: Sequence[Row], _: Sequence[Migration]) -> Theirs:
    """Read Drizzle's, by the moment in the journal."""
    entries = [
        Entry(row["version"], f"the entry of {row['version']}", row["at"], drizzle_fit(row["sum"]))
        for row in rows
        if row["version"] is not None
    ]
    nameless = [row["id"] for row in rows if row["version"] is None]
    refusals = [f"row {number} has no created_at, so nobody knows which file it is" for number in nameless]
    return Theirs(entries, entries, refusals)


def drizzle_fit(checksum: str) -> Fit:
    """Return whether a file has the checksum."""
    return lambda migration: checksum == sums.drizzle(text_of(migration))


def refinery(rows: Sequence[Row], _: Sequence[Migration]) -> Theirs:
    """Read refinery's."""
    theirs = Theirs()
    for row in rows:
        name = f"V{row['version']}__{row['name']}"
        if (version := number_or_none(flyway_number, str(row["version"]))) is None:
            theirs.refusals.append(f"{name} has a version that no file can have")
        else:
            theirs.entries.append(Entry(version, name, row["at"], refinery_fit(row)))
    theirs.rows = theirs.entries
    return theirs


def refinery_fit(row: Row) -> Fit:
    """Return whether a file has the name and the checksum."""

    def fits(migration: Migration) -> bool:
        name = migration.filename.rpartition("/")[2].partition("__")[2].rpartition(".")[0]
        is_named = bool(name == row["name"])
        if not is_named or not migration.is_sql:  # code makes its SQL when it runs
            return is_named
        return row["sum"] in sums.refinery(row["name"], row["version"], text_of(migration))

    return fits


def text_of(migration: Migration) -> bytes:
    """Return the whole of a file: their checksums are over all of it. Raises FilesChanged."""
    try:
        with open(migration.path, "rb") as file:
            return file.read()
    except OSError as error:
        raise FilesChanged(Problem(CHANGED, migration.filename)) from error
