"""Repeatable files: which of them are pending, by the texts that the database had, and our SQL around one.

In a rollout, pods of two releases start in any order, and each has its own text. So the table has a row for every text
that was ever applied, with the newest version of an image that had it: the newer image wins, and of two with the
same newest version the text that was never applied before. What nobody can tell apart is left alone and said.
"""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar

from ..dial import Connection
from ..driver_errors import made_once
from ..errors import HistoryConflict, Problem
from ..history import ON_PRIMARY, History
from ..layouts.versions import written
from ..migrations import Migration, Repeatable
from ..question import texts_name
from ..quote import milliseconds, quote_literal
from ..run import Run
from .contents import Contents
from .findings import IS_OF_THIS_TRANSACTION, ROW_HIDDEN, ROW_REMOVED, TRANSACTION_ENDED
from .lock import Held

logger = logging.getLogger(__name__)

CREATE = """CREATE TABLE {table} (
    filename TEXT, checksum TEXT, newest BIGINT NOT NULL, applied_at TIMESTAMPTZ NOT NULL DEFAULT NOW(),
    PRIMARY KEY (filename, checksum))"""
TYPES = {"filename": "text", "checksum": "text", "newest": "bigint", "applied_at": "timestamp with time zone"}
EXISTS = "SELECT pg_catalog.to_regclass($1) IS NOT NULL"
COLUMNS = """
SELECT attname, pg_catalog.format_type(atttypid, NULL) AS type FROM pg_catalog.pg_attribute
 WHERE attrelid = pg_catalog.to_regclass($1) AND attnum > 0 AND NOT attisdropped
"""
TEXTS = f"""
SELECT filename, checksum, newest, applied_at FROM {{table}} WHERE filename = ANY ($1::text[]) AND {ON_PRIMARY}
"""
ADOPT = """
INSERT INTO {table} (filename, checksum, newest, applied_at)
SELECT * FROM ROWS FROM (pg_catalog.unnest($1::text[]), pg_catalog.unnest($2::text[]), pg_catalog.unnest($3::bigint[]),
                         pg_catalog.unnest($4::timestamptz[])) AS row (filename, checksum, newest, applied_at)
    ON CONFLICT (filename, checksum) DO UPDATE SET newest = excluded.newest, applied_at = excluded.applied_at
"""
APPLIED, PENDING, SUPERSEDED = "applied", "pending", "superseded"
ONE_TRANSACTION = "a repeatable file is one transaction; put what cannot be in one into a file with a version"
NO_VERSION = "a repeatable file has no version, so it has no {}; say it in a file that has one"


@dataclass(frozen=True, slots=True)
class Text:
    """A text of a repeatable file that was applied."""

    filename: str
    checksum: str
    newest: int
    """The newest version of the images that have applied it, or found it applied as the last one."""
    applied_at: datetime


@dataclass(frozen=True, slots=True)
class Texts(History):
    """The table of the texts, beside the history of the schema."""

    grants: ClassVar[str] = "SELECT, INSERT and UPDATE, and DELETE for `down`"

    @property
    def name(self) -> str:
        """The qualified, quoted name."""
        return texts_name(self.schema, self.table)

    async def exists(self, connection: Connection) -> bool:
        """Tell whether the table is there. Raises HistoryConflict for one that is not ours, AccessRefused."""
        async with self.transaction(connection):
            return await self.is_there(connection)

    async def is_there(self, connection: Connection) -> bool:
        """Return what `exists` does, within a transaction."""
        columns = {row["attname"]: row["type"] for row in await connection.fetch(COLUMNS, self.name)}
        if not columns and not await connection.fetchval(EXISTS, self.name):
            return False
        if others := [f"{name} {type_}" for name, type_ in TYPES.items() if columns.get(name) != type_]:
            raise HistoryConflict(
                f"{self.name} is not pgslipway's: it has no column {', '.join(others)}; it was left alone. Set "
                "MIGRATE_TABLE to another name, such as pgslipway_migrations"
            )
        return True

    async def texts(self, connection: Connection, filenames: Sequence[str]) -> list[Text]:
        """Return the texts of these files; none where there is no table yet. Raises HistoryConflict, AccessRefused."""
        async with self.transaction(connection):
            if not await self.is_there(connection):
                return []
            return [Text(**row) for row in await connection.fetch(TEXTS.format(table=self.name), filenames)]

    async def create(self, connection: Connection, lock_timeout: float) -> None:
        """Make the table where it is missing. Raises AccessRefused, StartOver, Busy after `lock_timeout` seconds."""
        async with self.transaction(connection):
            if not await self.is_there(connection):
                with made_once("the table of the repeatable files"):
                    await connection.execute(
                        f"SET LOCAL lock_timeout = {milliseconds(lock_timeout)}; {CREATE.format(table=self.name)}"
                    )

    async def adopt(self, connection: Connection, texts: Sequence[Text], lock_timeout: float) -> None:
        """Write rows for texts that another tool has applied. Raises as `create` does."""
        await self.create(connection, lock_timeout)
        columns = ([getattr(text, name) for text in texts] for name in Text.__slots__)
        await connection.execute(ADOPT.format(table=self.name), *columns)

    async def confirm(self, held: Held, repeatable: Sequence[Repeatable]) -> None:
        """Note that an image of this newest version has these texts, where they are the last ones."""
        for one in repeatable:
            await held.connection.execute(f"""
                {self.look_sql}
                UPDATE {self.name} AS text SET newest = {one.version}
                 WHERE filename = {quote_literal(one.filename)} AND checksum = {quote_literal(one.checksum)}
                   AND NOT EXISTS (SELECT FROM {self.name} AS other
                                    WHERE other.filename = text.filename AND other.newest >= {one.version})
                   AND ({held.condition})""")

    def row_sql(self, migration: Migration) -> str:
        """Return the query for the row of the text as this image has applied it, without columns."""
        return f"{self.text_sql(migration)} AND newest = {migration.version}"

    def text_sql(self, migration: Migration, columns: str = "") -> str:
        """Return the query for the row of the text."""
        filename, checksum = quote_literal(migration.filename), quote_literal(migration.checksum)
        return f"SELECT {columns} FROM {self.name} WHERE filename = {filename} AND checksum = {checksum}"

    def around_sql(self, migration: Migration, condition: str) -> tuple[str, str]:
        """Return the SQL that writes the row if `condition` holds, and the SQL that fails unless it is there.

        The first one's tag counts the row. It is later than all others of the file, whatever the clock says.
        """
        filename, checksum = quote_literal(migration.filename), quote_literal(migration.checksum)
        record = f"""
            INSERT INTO {self.name} (filename, checksum, newest, applied_at)
            SELECT {filename}, {checksum}, {migration.version}, greatest(pg_catalog.now(), (
                SELECT pg_catalog.max(applied_at) + '1 microsecond'::pg_catalog.interval
                  FROM {self.name} WHERE filename = {filename}))
             WHERE {condition}
            ON CONFLICT (filename, checksum) DO UPDATE SET newest = excluded.newest, applied_at = excluded.applied_at"""
        verify = f"""
            WITH row AS ({self.text_sql(migration, "xmin")})
            SELECT pg_catalog.set_config(CASE
                WHEN pg_catalog.count(*) > 0 THEN {quote_literal(TRANSACTION_ENDED)}
                WHEN pg_catalog.row_security_active({quote_literal(self.name)}) THEN {quote_literal(ROW_HIDDEN)}
                ELSE {quote_literal(ROW_REMOVED)} END, '', true)
              FROM row
            HAVING pg_catalog.bool_and({IS_OF_THIS_TRANSACTION}) IS NOT TRUE"""
        return record, verify


def texts_of(history: History) -> Texts:
    """Return the table of the texts beside a history."""
    return Texts(history.schema, history.table, history.role, history.search_path)


def last_of(one: Repeatable, texts: Iterable[Text]) -> Text | None:
    """Return the text of a file that was applied last."""
    return max((text for text in texts if text.filename == one.filename), key=moment_of, default=None)


def moment_of(text: Text) -> tuple[int, datetime]:
    """Return what texts are ordered by."""
    return text.newest, text.applied_at


def state_of(one: Repeatable, texts: Sequence[Text], newest_row: int = 0) -> str:
    """Return whether a file is APPLIED, PENDING or SUPERSEDED, by the texts that were applied so far.

    And by the newest version in the history: the schema of a newer image may have no place for a file of this one.
    """
    last = last_of(one, texts)
    if last is None:
        return PENDING if newest_row <= one.version else SUPERSEDED
    if last.checksum == one.checksum:
        return APPLIED
    if last.newest != one.version:
        return PENDING if one.version > last.newest else SUPERSEDED
    was_here = any((text.filename, text.checksum) == (one.filename, one.checksum) for text in texts)
    return SUPERSEDED if was_here else PENDING


def is_before(one: Repeatable, last: Text | None) -> bool:
    """Tell whether a file is applied by images of older versions only: one in between could replace it then."""
    return last is not None and last.checksum == one.checksum and last.newest < one.version


async def read(run: Run, history: History, connection: Connection) -> list[Text]:
    """Return the texts of the image's repeatable files that were applied. Nothing is sent where it has none."""
    filenames = [one.filename for one in run.repeatable]
    return await texts_of(history).texts(connection, filenames) if filenames else []


async def pending(run: Run, history: History, connection: Connection, adopted: Sequence[Text] = ()) -> list[Repeatable]:
    """Return the repeatable files to apply, in their order; `adopted` are texts that another tool has applied.

    Notes the superseded ones in the run, logs a warning about each, and notes whether the applied ones are confirmed.
    """
    texts = [*await read(run, history, connection), *adopted]
    states = {one: state_of(one, texts, run.newest_row) for one in run.repeatable}
    left_alone = [one for one in run.repeatable if states[one] == SUPERSEDED]
    run.is_confirmed = not any(is_before(one, last_of(one, texts)) for one in run.repeatable)
    run.superseded = [one.filename for one in left_alone]
    layout = run.migrations[0].layout
    for warning in [superseded_warning(one, last_of(one, texts), layout) for one in left_alone]:
        if warning not in run.warned:
            logger.warning(warning)
            run.warned.add(warning)
    return [one for one in run.repeatable if states[one] == PENDING]


def superseded_warning(one: Repeatable, last: Text | None, layout: str) -> str:
    """Say why a file is left alone, and the way out."""
    if last is None:
        return (
            f"{one.filename} is superseded: no image has applied it yet, and the database is ahead of this one, so it "
            "may not fit; a newer image that has the file applies it"
        )
    if last.newest > one.version:
        return (
            f"{one.filename} is superseded: an image with version {written(layout, last.newest)} has applied its own "
            "text of it; a newer one may change it again"
        )
    return (
        f"{one.filename} is superseded: its text, with the values of its variables, was applied before, and another "
        "one since, by an image with the same newest version, so nobody can tell which is the newer one; if this one "
        "is, change a comment in it, or add a version"
    )


def misfits(one: Migration, contents: Contents) -> list[Problem]:
    """Return a problem for each directive that a repeatable file cannot have."""
    problems = [] if contents.transactional else [Problem(ONE_TRANSACTION, one.filename)]
    found = {"squash": contents.is_squash, "minimum-version": contents.minimum_version is not None}
    return problems + [Problem(NO_VERSION.format(name), one.filename) for name, is_there in found.items() if is_there]


async def confirm(run: Run, held: Held) -> None:
    """Note that this image has the texts that are applied, where only older ones had."""
    if not run.is_confirmed:
        await texts_of(run.history).confirm(held, run.repeatable)
