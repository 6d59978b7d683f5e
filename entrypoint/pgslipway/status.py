"""What `status` and `plan` show: a row for each migration, as a table or as JSON."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from .plan import Plan


@dataclass(frozen=True, slots=True)
class Row:
    """One migration as `status` shows it."""

    version: int
    filename: str
    state: str
    """applied, pending, edited, missing or ahead"""
    applied_at: str | None = None
    """ISO 8601, to the second."""


def rows(plan: Plan) -> list[Row]:
    """Return a row for each migration of the image or the history, by version."""
    edited = {row.version for _, row in plan.edited}
    known = [(row, state) for state, group in (("ahead", plan.ahead), ("missing", plan.missing)) for row in group] + [
        (row, "edited" if row.version in edited else "applied") for _, row in plan.applied
    ]
    result = [Row(row.version, row.filename, state, moment(row.applied_at)) for row, state in known]
    result += [Row(migration.version, migration.filename, "pending") for migration in plan.pending]
    return sorted(result, key=lambda row: row.version)


def moment(applied_at: datetime | None) -> str | None:
    """Return a moment as ISO 8601, to the second, in UTC."""
    return applied_at.astimezone(UTC).isoformat(timespec="seconds") if applied_at else None


def to_table(rows: Sequence[Row]) -> str:
    """Return the rows as a table with a header."""
    cells = [("VERSION", "STATE", "APPLIED AT", "FILE")]
    cells += [(str(row.version), row.state, row.applied_at or "-", row.filename) for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in cells)


def to_json(rows: Sequence[Row]) -> str:
    """Return the rows as a JSON array of objects."""
    return json.dumps([asdict(row) for row in rows], indent=2, ensure_ascii=False)
