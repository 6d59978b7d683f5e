"""The rows that `status` and `plan` show: one for each migration, as a table or as JSON."""

import json
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime

from ..connect import connect
from ..dial import Connection
from ..engine.adopt import Adoption, look
from ..engine.journal import Progress, Unfinished
from ..engine.plan import Plan, make_plan
from ..engine.preflight import unfinished_as_login
from ..engine.repeatable import Text, read, state_of
from ..engine.sending import own_sql
from ..engine.squash import is_squash
from ..engine.their_lock import refuse
from ..files import PLAIN
from ..migrations import Applied, shown
from ..run import Run
from ..words import short, visible

NOT_HERE = "(a file that this image does not have)"


@dataclass(frozen=True, slots=True)
class Row:
    """One migration as `status` shows it."""

    version: int | None
    """None for a repeatable file."""
    filename: str
    state: str
    """applied, pending, edited, missing, ahead or unfinished; adoptable: applied by another tool; squashed: a part of
    the first file now; superseded: a repeatable file that was left alone, since another image's text counts"""
    applied_at: str | None = None
    """ISO 8601, to the second."""
    progress: str | None = None
    """How far an unfinished file got."""
    layout: str = PLAIN

    @property
    def text(self) -> str:
        """The version as the layout writes it."""
        return "-" if self.version is None else shown(self.layout, self.version, self.filename)


async def plan_of(run: Run) -> tuple[Plan, Unfinished, bool, list[Row]]:
    """Read the history and the journal, once Postgres answers; compare the history with the files.

    And tell whether that is another tool's history, which is still to be adopted; and return the rows of the repeatable
    files.
    """

    async def first_look(connection: Connection) -> tuple[list[Applied], Adoption | None]:
        rows, found = await look(run, run.history_as_login, connection)
        await refuse(found, connection)
        return rows, found

    async with connect(run.config, first_look) as (connection, (history, found)), own_sql(run.history):
        rows = found.rows if found else history
        plan = make_plan(run.migrations, rows, is_squash=is_squash(run.migrations, rows))
        run.newest_row = plan.newest_row
        unfinished = await unfinished_as_login(run, connection)
        adopted = found.texts if found else []
        repeated = repeatable_rows(run, await read(run, run.history_as_login, connection), adopted)
        return plan, unfinished, bool(found and found.rows), repeated


def repeatable_rows(run: Run, texts: Sequence[Text], adopted: Sequence[Text]) -> list[Row]:
    """Return a row for each repeatable file, with the moment at which its text was applied last."""
    theirs = {text.filename for text in adopted}
    moments = {(text.filename, text.checksum): moment(text.applied_at) for text in (*texts, *adopted)}
    return [
        Row(
            None,
            one.filename,
            "adoptable" if one.filename in theirs else state_of(one, texts, run.newest_row),
            moments.get((one.filename, one.checksum)),
        )
        for one in run.repeatable
    ]


def rows(plan: Plan, unfinished: Unfinished, is_theirs: bool = False, repeated: Sequence[Row] = ()) -> list[Row]:
    """Return a row for each migration of the image, the history or the journal, by version; `repeated` come last."""
    edited = {row.version for _, row in plan.edited}
    known = [
        (row, state)
        for state, group in (("ahead", plan.ahead), ("missing", plan.missing), ("squashed", plan.squashed))
        for row in group
    ] + [
        (row, "edited" if row.version in edited else "adoptable" if is_theirs else "applied") for _, row in plan.applied
    ]
    result = [Row(row.version, row.filename, state, moment(row.applied_at)) for row, state in known]
    left = {version: progress(so_far) for version, so_far in unfinished.items()}
    for row, _ in known:
        left.pop(row.version, None)
    result += [
        Row(migration.version, migration.filename, "unfinished" if so_far else "pending", progress=so_far)
        for migration in plan.pending
        for so_far in [left.pop(migration.version, None)]
    ]
    result += [Row(version, NOT_HERE, "unfinished", progress=so_far) for version, so_far in left.items()]
    by_version = sorted(result, key=lambda row: row.version or 0)
    return [*(replace(row, layout=plan.layout) for row in by_version), *repeated]


def progress(progress: Progress) -> str:
    """Say how far an unfinished file got."""
    parts = [f"{progress.done} done, up to line {progress.line}"] if progress.done else []
    if entry := progress.in_flight:
        parts.append(f"line {entry.line} in flight since {moment(entry.started_at)}: {short(entry.statement or '')}")
    return "; ".join(parts)


def moment(applied_at: datetime | None) -> str | None:
    """Return a moment as ISO 8601, to the second, in UTC."""
    return applied_at.astimezone(UTC).isoformat(timespec="seconds") if applied_at else None


def to_table(rows: Sequence[Row]) -> str:
    """Return the rows as a table with a header."""
    cells = [("VERSION", "STATE", "APPLIED AT", "FILE")]
    cells += [(row.text, row.state, row.applied_at or "-", row.filename) for row in rows]
    lines = aligned(cells)
    lines += [f"{row.filename}: {row.progress}" for row in rows if row.progress]
    return visible("\n".join(lines))


def aligned(cells: Sequence[Sequence[str]]) -> list[str]:
    """Return a line for each row of cells, in columns."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(map(str.ljust, line, widths)).rstrip() for line in cells]


def to_json(rows: Sequence[Row]) -> str:
    """Return the rows as a JSON array of objects; versions are numbers in the plain layout, and texts in others."""
    objects = [asdict(row) | ({} if row.layout == PLAIN else {"version": row.text}) for row in rows]
    for one in objects:
        del one["layout"]
    return json.dumps(objects, indent=2, ensure_ascii=False)


def show(text: str) -> None:
    """Print `text` to stdout; a reader that has gone away is no failure."""
    with suppress(BrokenPipeError):
        encoding = sys.stdout.encoding or "utf-8"
        sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")
