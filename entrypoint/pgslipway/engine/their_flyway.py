"""Flyway's history, read: the rows of versions, which later rows may void, and those of repeatable files."""

from collections.abc import Sequence

from ..layouts.versions import flyway as flyway_number
from ..migrations import Migration
from . import sums
from .their_rows import Entry, Fit, Row, Theirs, number_or_none, text_of

VOID = {"DELETE", "UNDO_SQL", "UNDO_SCRIPT", "UNDO_JDBC"}
"""The types of Flyway's rows that void the earlier ones of their version."""
BASELINES = {"BASELINE", "SQL_BASELINE"}
"""The types of Flyway's rows that stand for all files up to their version."""


def flyway(rows: Sequence[Row], migrations: Sequence[Migration]) -> Theirs:
    """Read Flyway's: a later row may void an earlier one, and a baseline stands for all that is not above it."""
    applied: dict[int, Entry] = {}
    written: dict[int, Entry] = {}
    for row in rows:
        if (number := flyway_version(row)) is None:
            continue
        entry = Entry(number, row["script"], row["at"], flyway_fit(row["sum"]), row["script"])
        if not row["success"]:
            written[number] = entry
        elif row["type"] in VOID:
            applied.pop(number, None)
            written.pop(number, None)
        elif row["type"] in BASELINES:
            below = [one for one in migrations if one.version <= number]
            applied.update((one.version, Entry(one.version, one.filename, row["at"])) for one in below)
        else:
            applied[number] = written[number] = entry
    refusals = [*filter(None, map(flyway_refusal, rows))]
    return Theirs([*applied.values()], [*written.values()], refusals, flyway_repeatable(rows))


def flyway_repeatable(rows: Sequence[Row]) -> dict[str, Entry]:
    """Return the last row of each repeatable file, by name: its description, which the name has, tells it."""
    found = {}
    for row in rows:
        name = row["script"].rpartition("/")[2]
        if row["version"] is not None or row["type"] == "SCHEMA":
            continue
        found[name] = Entry(0, row["script"], row["at"], flyway_fit(row["sum"]))
        if row["type"] in VOID or not row["success"]:
            del found[name]
    return found


def flyway_version(row: Row) -> int | None:
    """Return the version of a row; None for a repeatable file's, and for the mark that the schema was made."""
    version = row["version"]
    return None if version is None or row["type"] == "SCHEMA" else number_or_none(flyway_number, version)


def flyway_refusal(row: Row) -> str:
    """Return the reason for which a row cannot be adopted; empty without one."""
    if not row["success"]:
        return f"{row['script']} failed and is marked so; mend it and run: flyway repair"
    if row["version"] is not None and row["type"] != "SCHEMA" and flyway_version(row) is None:
        return f"{row['script']} has a version that no file can have: {row['version']!r}"
    return ""


def flyway_fit(checksum: int | None) -> Fit | None:
    """Return whether a file has the checksum; None where Flyway keeps none."""
    return None if checksum is None else lambda migration: sums.flyway(text_of(migration)) == checksum
