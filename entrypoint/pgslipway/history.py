"""The history table: a row for each applied migration, and nothing else; read, upgraded in place, recorded.

It is always named with its schema, since a migration may change the search path; our own look-ups name
pg_catalog for the same reason.
"""

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import ClassVar

import asyncpg

from . import question
from .dial import Connection
from .driver_errors import BROKEN, made_once
from .errors import AccessRefused, HistoryConflict
from .migrations import Applied, Migration
from .quote import milliseconds, quote_literal, quote_name

LARGEST_INT = 2**31 - 1
# The columns of the table, their types, and whether one is its key: a valid unique index over it alone, without WHERE.
# A table without columns has a row as well: it is there. The schema is looked up first: thousands may have the table.
COLUMNS = """
SELECT coalesce(a.attname, '') AS name, pg_catalog.format_type(a.atttypid, NULL) AS type, c.relkind::text AS kind,
       EXISTS (SELECT FROM pg_catalog.pg_index i
                WHERE i.indrelid = c.oid AND i.indisunique AND i.indisvalid AND i.indpred IS NULL
                  AND i.indnkeyatts = 1 AND i.indkey[0] = a.attnum) AS is_key
  FROM pg_catalog.pg_class c
  LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
 WHERE c.relnamespace = (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = $1) AND c.relname = $2
"""
UNREADABLE = (
    asyncpg.UndefinedTableError,
    asyncpg.UndefinedColumnError,
    asyncpg.InvalidSchemaNameError,
    asyncpg.CannotCoerceError,
    asyncpg.WrongObjectTypeError,
    asyncpg.DataError,
)
"""The failures of a question to a table that is not there, was taken over, or belongs to another tool."""
EXISTS = """
SELECT FROM pg_catalog.pg_namespace n CROSS JOIN LATERAL (
    SELECT UNION ALL SELECT FROM pg_catalog.pg_class WHERE relnamespace = n.oid AND relname = {table}) AS is_there
 WHERE n.nspname = {schema}
"""
HAS_NOTHING, HAS_SCHEMA, HAS_TABLE = "SELECT 0", "SELECT 1", "SELECT 2"
"""Its tags."""
CREATE = """CREATE TABLE {table} (
    version {integer} PRIMARY KEY, filename TEXT NOT NULL, applied_at TIMESTAMPTZ DEFAULT NOW(),
    checksum TEXT, minimum_version BIGINT)"""
ON_PRIMARY = "EXISTS (SELECT FROM pg_catalog.pg_class)"
"""Always true. Pgpool-II asks the primary about the system catalogs; about all else perhaps a standby that lags."""
TYPES = {
    "version": {"smallint", "integer", "bigint"},
    "filename": {"text", "character varying"},
    "applied_at": {"timestamp with time zone"},
    "checksum": {"text"},
    "minimum_version": {"bigint"},
}
OURS = {"checksum": "TEXT", "minimum_version": "BIGINT"}
"""Our own columns: nullable, added to a table that lacks them."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column as the catalogs describe it."""

    type: str
    kind: str
    is_key: bool


@dataclass(frozen=True, slots=True)
class History:
    """The history table of one schema, read and written over a connection that is passed in."""

    grants: ClassVar[str] = "SELECT and INSERT"
    schema: str
    table: str
    role: str | None = None
    """The role to become before the table is touched."""
    search_path: str = ""
    """Where its schema is a target: the schemas that a look for another tool's tables searches, as SQL."""

    @property
    def name(self) -> str:
        """The qualified, quoted name."""
        return question.table_name(self.schema, self.table)

    @property
    def set_role_sql(self) -> str:
        """SQL that becomes the role for the rest of the transaction; empty without one."""
        return question.set_role_sql(self.role)

    @property
    def look_sql(self) -> str:
        """SQL that takes role and search path, and bounds the wait for the table's lock, for one message."""
        path = f" SET LOCAL search_path = {self.search_path};" if self.search_path else ""
        return f"{question.look_sql(self.role)}{path}"

    def undone_sql(self, migrations: Sequence[Migration], repeatable: Sequence[Migration] = ()) -> str:
        """Return the query that returns a row unless the history has exactly these, and these are current."""
        undone = question.undone_sql(self.name, ((one.version, one.checksum, one.filename) for one in migrations))
        return question.or_stale_sql(undone, self.schema, self.table, repeatable)

    def differs_sql(
        self, migrations: Sequence[Migration], repeatable: Sequence[Migration], rows: Sequence[Applied]
    ) -> str:
        """Return `undone_sql` for a history with these rows so far; a short one where all of them have checksums."""
        if all(row.checksum for row in rows):
            differs = question.differs_sql(self.name, [(one.version, one.checksum) for one in migrations])
            return question.or_stale_sql(differs, self.schema, self.table, repeatable)
        return self.undone_sql(migrations, repeatable)

    async def is_current(
        self, connection: Connection, migrations: Sequence[Migration], repeatable: Sequence[Migration] = ()
    ) -> bool:
        """Tell in one round trip whether the history holds exactly these, and repeatable files are current.

        The answer is the tag of a simple query, so nothing is prepared. Also False where the table cannot be
        asked this way; `rows` looks into that.
        """
        try:
            answer = await connection.execute(f"{self.look_sql} {self.undone_sql(migrations, repeatable)}")
        except UNREADABLE:
            return False
        return answer == question.UP_TO_DATE

    async def rows(self, connection: Connection) -> list[Applied]:
        """Return the rows by version; none where there is no table yet.

        Raises HistoryConflict for a table that is not ours, AccessRefused where the role may not read it.
        """
        async with self.transaction(connection, self.exists_sql) as found:
            if found != HAS_TABLE:
                return []
            columns = await self.columns(connection)
            check_columns(columns, self.name)
            ours = ", ".join(name if name in columns else f"NULL AS {name}" for name in OURS)
            query = f"SELECT version, filename, applied_at, {ours} FROM {self.name} WHERE {ON_PRIMARY} ORDER BY version"
            rows = await connection.fetch(query)
        if any(row["version"] is None or row["filename"] is None for row in rows):
            raise HistoryConflict(f"{self.name} has a row without a version or a filename; complete it or delete it")
        return [Applied(**row) for row in rows]

    async def upgrade(self, connection: Connection, largest: int, lock_timeout: float) -> None:
        """Make the table fit for versions up to `largest`: look first, and change only missing parts.

        Raises HistoryConflict, AccessRefused, StartOver, and Busy after `lock_timeout` seconds.
        """
        async with self.transaction(connection, self.exists_sql) as found:
            columns = await self.columns(connection) if found == HAS_TABLE else {}
            if columns:
                check_columns(columns, self.name)
            if self.search_path and found == HAS_NOTHING:
                raise AccessRefused(f"the schema {self.schema} does not exist any more")
            changes = list(self.changes_sql(columns, found != HAS_NOTHING, largest))
            if changes:
                with made_once("the schema or the table of the history"):
                    await connection.execute(
                        f"SET LOCAL lock_timeout = {milliseconds(lock_timeout)}; {';'.join(changes)}"
                    )

    def changes_sql(self, columns: Mapping[str, Column], has_schema: bool, largest: int) -> Iterator[str]:
        """Yield the statements that create the table or add its missing columns."""
        if not has_schema:
            yield f"CREATE SCHEMA {quote_name(self.schema)}"
        if not columns:
            yield CREATE.format(table=self.name, integer="INT" if largest <= LARGEST_INT else "BIGINT")
            return
        for name, type_ in OURS.items():
            if name not in columns:
                yield f"ALTER TABLE {self.name} ADD COLUMN {name} {type_}"
        if largest > LARGEST_INT and columns["version"].type != "bigint":
            yield f"ALTER TABLE {self.name} ALTER COLUMN version TYPE BIGINT"

    async def columns(self, connection: Connection) -> dict[str, Column]:
        """Return the table's columns by name; none where there is no such table."""
        rows = await connection.fetch(COLUMNS, self.schema, self.table)
        return {row["name"]: Column(row["type"], row["kind"], row["is_key"]) for row in rows}

    @property
    def exists_sql(self) -> str:
        """The query whose tag is HAS_NOTHING, HAS_SCHEMA or HAS_TABLE."""
        return EXISTS.format(schema=quote_literal(self.schema), table=quote_literal(self.table))

    @asynccontextmanager
    async def transaction(self, connection: Connection, ask: str = "") -> AsyncIterator[str]:
        """Run the block in a transaction as the role; give the tag of the query that is to be asked as it begins.

        Raises AccessRefused where a privilege is missing.
        """
        is_nested = connection.is_in_transaction()
        try:
            async with nullcontext() if is_nested else begun(connection):
                yield await connection.execute(f"{'' if is_nested else 'BEGIN;'} {self.look_sql} {ask}")
        except (asyncpg.InsufficientPrivilegeError, asyncpg.InvalidParameterValueError) as error:
            raise AccessRefused(
                f"{error}; the history table {self.name} needs {self.grants}, and CREATE on its schema where it "
                "does not exist yet (MIGRATE_SCHEMA, MIGRATE_ROLE)"
            ) from error

    def record_sql(self, values: str, condition: str) -> str:
        """Return the SQL that writes a row of such values if `condition` holds; its tag counts the row."""
        return f"""
            INSERT INTO {self.name} (version, filename, checksum, minimum_version, applied_at)
            SELECT {values}, pg_catalog.now() WHERE {condition}"""

    def row_sql(self, migration: Migration) -> str:
        """Return the query for the row of `migration`, without columns."""
        return f"SELECT FROM {self.name} WHERE version = {migration.version}"


@asynccontextmanager
async def begun(connection: Connection) -> AsyncIterator[None]:
    """Commit the transaction that the block begins, or roll it back after a failure."""
    try:
        yield
    except BaseException:
        with suppress(*BROKEN):
            await connection.execute("ROLLBACK")
        raise
    await connection.execute("COMMIT")


def check_columns(columns: Mapping[str, Column], table: str) -> None:
    """Raise HistoryConflict unless these are the columns of a history table of ours."""
    if reason := foreign(columns):
        raise HistoryConflict(
            f"{table} is not pgslipway's: {reason}; it was left alone. Set MIGRATE_TABLE to another name, such as "
            "pgslipway_migrations; docs/moving.md says how to take over what was applied"
        )
    if not columns["version"].is_key:
        raise HistoryConflict(
            f"{table} has no unique key on version, which is what keeps a file from being applied twice; "
            f"run: ALTER TABLE {table} ADD PRIMARY KEY (version)"
        )


def foreign(columns: Mapping[str, Column]) -> str | None:
    """Return the sign that another tool made the table, or None."""
    version = columns.get("version")
    if any(column.kind not in {"r", "p"} for column in columns.values()):
        return "it is not a table"
    if "dirty" in columns:
        return "it has a column dirty, as golang-migrate's has"
    if version and version.type in {"text", "character varying"}:
        return "its version is text, as dbmate's and Rails's is"
    if missing := {"version", "filename", "applied_at"} - columns.keys():
        return f"it has no column {', '.join(sorted(missing))}"
    for name, types in TYPES.items():
        if name in columns and columns[name].type not in types:
            return f"its {name} is of type {columns[name].type}"
    return None
