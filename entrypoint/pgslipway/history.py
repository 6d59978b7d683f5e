"""The history table: a row for each applied migration, and nothing else; read, upgraded in place, recorded.

It is always named with its schema, since a migration may change the search path; our own look-ups name
pg_catalog for the same reason.
"""

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import asyncpg

from .connect import HEALING, Connection
from .errors import AccessRefused, DatabaseUnavailable, HistoryConflict, SlipwayError
from .migrations import Migration
from .quote import milliseconds, quote_array, quote_literal, quote_name

if TYPE_CHECKING:
    from .plan import Applied

LARGEST_INT = 2**31 - 1
COLUMNS = """
SELECT a.attname AS name, pg_catalog.format_type(a.atttypid, NULL) AS type, c.relkind::text AS kind,
       EXISTS (SELECT FROM pg_catalog.pg_index i
                WHERE i.indrelid = c.oid AND i.indisunique AND i.indisvalid AND i.indpred IS NULL
                  AND i.indnkeyatts = 1 AND i.indkey[0] = a.attnum) AS is_key
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
 WHERE n.nspname = $1 AND c.relname = $2
"""
UNREADABLE = (
    asyncpg.UndefinedTableError,
    asyncpg.UndefinedColumnError,
    asyncpg.InvalidSchemaNameError,
    asyncpg.CannotCoerceError,
    asyncpg.WrongObjectTypeError,
    asyncpg.DataError,
)
"""What asking a table fails with that is not there, was taken over, or belongs to another tool."""
LOOK = "SET LOCAL lock_timeout = '5s';"
"""Bounds how long a look at the table may wait for somebody who has locked it."""
HAS_SCHEMA = "SELECT true FROM pg_catalog.pg_namespace WHERE nspname = $1"
CREATE = """CREATE TABLE {table} (
    version {integer} PRIMARY KEY, filename TEXT NOT NULL, applied_at TIMESTAMPTZ DEFAULT NOW(),
    checksum TEXT, minimum_version BIGINT)"""
TRANSACTION_ENDED = "this file ended the transaction it ran in"
ROW_REMOVED = "this file removed its own row from the history"
"""Neither is the name of a parameter, so that setting it fails, with this text in the error."""
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

    schema: str
    table: str
    role: str | None = None
    """The role to become before the table is touched."""

    @property
    def name(self) -> str:
        """The qualified, quoted name."""
        return f"{quote_name(self.schema)}.{quote_name(self.table)}"

    @property
    def set_role(self) -> str:
        """SQL that becomes the role for the rest of the transaction; empty without one."""
        return f"SET LOCAL ROLE {quote_name(self.role)};" if self.role else ""

    @property
    def look(self) -> str:
        """SQL that takes the role and bounds the wait for somebody who has locked the table, for one message."""
        return f"{LOOK} {self.set_role}"

    def undone(self, migrations: Sequence[Migration]) -> str:
        """Return the query that returns a row unless the history holds exactly these migrations."""
        versions = quote_array(str(migration.version) for migration in migrations)
        checksums = quote_array(migration.checksum for migration in migrations)
        filenames = quote_array(migration.filename for migration in migrations)
        return f"""
            SELECT FROM ROWS FROM (
                pg_catalog.unnest({versions}::bigint[]),
                pg_catalog.unnest({checksums}::text[]),
                pg_catalog.unnest({filenames}::text[])
            ) AS image (version, checksum, filename)
            FULL JOIN {self.name} AS history ON history.version::bigint = image.version
            WHERE coalesce(history.checksum::text = image.checksum, history.filename::text = image.filename) IS NOT TRUE
            LIMIT 1"""

    async def is_current(self, connection: Connection, migrations: Sequence[Migration]) -> bool:
        """Tell in one round trip whether the history holds exactly these migrations.

        The answer is the tag of a simple query, so nothing is prepared. Also False where the table cannot be
        read this way; `read` looks into that.
        """
        try:
            return await connection.execute(f"{self.look} {self.undone(migrations)}") == "SELECT 0"
        except UNREADABLE:
            return False

    async def read(self, connection: Connection) -> "list[Applied]":
        """Return the rows by version; none where there is no table yet.

        Raises HistoryConflict for a table that is not ours, AccessRefused where the role may not read it.
        """
        async with self.transaction(connection):
            if not (columns := await self.columns(connection)):
                return []
            check_columns(columns, self.name)
            ours = ", ".join(name if name in columns else f"NULL AS {name}" for name in OURS)
            query = f"SELECT version, filename, applied_at, {ours} FROM {self.name} ORDER BY version"
            rows = await connection.fetch(query)
        if any(row["version"] is None or row["filename"] is None for row in rows):
            raise HistoryConflict(f"{self.name} has a row without a version or a filename; complete it or delete it")
        from .plan import Applied

        return [Applied(**row) for row in rows]

    async def upgrade(self, connection: Connection, largest: int, lock_timeout: float) -> None:
        """Make the table fit for versions up to `largest`: look first, and change only what is missing.

        Raises HistoryConflict, AccessRefused; asyncpg's LockNotAvailableError after `lock_timeout` seconds.
        """
        async with self.transaction(connection):
            columns = await self.columns(connection)
            if columns:
                check_columns(columns, self.name)
            has_schema = await connection.fetchval(HAS_SCHEMA, self.schema)
            if changes := list(self.changes(columns, bool(has_schema), largest)):
                await connection.execute(f"SET LOCAL lock_timeout = {milliseconds(lock_timeout)}; {';'.join(changes)}")

    def changes(self, columns: Mapping[str, Column], has_schema: bool, largest: int) -> Iterator[str]:
        """Yield the statements that create the table or add what it lacks."""
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

    @asynccontextmanager
    async def transaction(self, connection: Connection) -> AsyncIterator[None]:
        """Run the block in a transaction as the role. Raises AccessRefused where a privilege is missing."""
        try:
            async with connection.transaction():
                await connection.execute(self.look)
                yield
        except (asyncpg.InsufficientPrivilegeError, asyncpg.InvalidParameterValueError) as error:
            raise AccessRefused(
                f"{error}; the history table {self.name} needs SELECT and INSERT, and CREATE on its schema where it "
                "does not exist yet (MIGRATE_SCHEMA, MIGRATE_ROLE)"
            ) from error

    def failure(self, error: asyncpg.PostgresError, doing: str) -> SlipwayError:
        """Return what it means that the server refused something about the table while `doing` it."""
        state = error.sqlstate or ""
        kind: type[SlipwayError] = HistoryConflict
        if state[:2] in HEALING:
            kind = DatabaseUnavailable
        elif state in {"42501", "22023"}:
            kind = AccessRefused
        return kind(f"{doing}: {error} (SQLSTATE {state}); this is about the history table {self.name}")

    def is_about(self, error: asyncpg.PostgresError) -> bool:
        """Tell whether a constraint that was violated is one of the table's."""
        return (error.schema_name, error.table_name) == (self.schema, self.table)

    def record(self, migration: Migration, minimum_version: int | None, condition: str) -> str:
        """Return the SQL that records `migration` as applied if `condition` holds; its tag counts the row."""
        return f"""
            INSERT INTO {self.name} (version, filename, applied_at, checksum, minimum_version)
            SELECT {migration.version}, {quote_literal(migration.filename)}, pg_catalog.now(),
                   {quote_literal(migration.checksum)}, {minimum_version or "NULL"}::bigint
             WHERE {condition}"""

    def has(self, migration: Migration) -> str:
        """Return the query for the row of `migration`, without columns."""
        return f"SELECT FROM {self.name} WHERE version = {migration.version}"

    def verify(self, migration: Migration) -> str:
        """Return SQL that fails unless this transaction wrote the row of `migration`.

        It fails with TRANSACTION_ENDED when another one did, with ROW_REMOVED when there is none.
        """
        row = self.has(migration)
        return f"""
            SELECT pg_catalog.set_config(
                CASE WHEN EXISTS ({row}) THEN {quote_literal(TRANSACTION_ENDED)} ELSE {quote_literal(ROW_REMOVED)} END,
                '', true
            ) WHERE NOT EXISTS ({row} AND xmin = pg_catalog.pg_current_xact_id()::pg_catalog.xid)"""


def check_columns(columns: Mapping[str, Column], table: str) -> None:
    """Raise HistoryConflict unless these are the columns of a history table of ours."""
    if reason := foreign(columns):
        raise HistoryConflict(
            f"{table} is not pgslipway's: {reason}; it was left alone. Set MIGRATE_TABLE to another name, such as "
            "pgslipway_migrations; docs/operating.md says how to take over what was applied"
        )
    if not columns["version"].is_key:
        raise HistoryConflict(
            f"{table} has no unique key on version, which is what keeps a file from being applied twice; "
            f"run: ALTER TABLE {table} ADD PRIMARY KEY (version)"
        )


def foreign(columns: Mapping[str, Column]) -> str | None:
    """Say what shows that the table was made by another tool, or None."""
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
