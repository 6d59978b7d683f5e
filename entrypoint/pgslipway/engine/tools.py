"""The tools whose history can be taken over: how to tell each one's table, to read it, and to hold its lock.

By the sources of the versions that docs/moving.md names; tests run the tools themselves.
"""

import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from ..layouts.versions import diesel as diesel_number
from .their_flyway import flyway
from .their_rows import Reader, digits, drizzle, last_of_each, last_version, prisma, refinery, sqlx, texts

MIX = 1486364155
"""golang-migrate multiplies its checksum by this for the key of its lock."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A tool, and how to read its history."""

    name: str
    layout: str
    """The layout of its folders."""
    tables: tuple[str, ...]
    """The names of its table: today's, and older ones."""
    columns: frozenset[str]
    """The columns that tell its table."""
    query: str
    read: Reader
    schema: str | None = None
    """The schema of its table; None for the current one."""
    is_common: bool = False
    """Other tools' tables look like it, so it is nothing but the one in its schema."""
    is_exact: bool = False
    """The table has no other columns."""
    types: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """The types of a column, where the names alone do not tell."""
    needs_version: bool = True
    """Each row has a version."""
    compares: bool = True
    """It refuses a file that was edited."""
    keys: Callable[[str, str, str], list[int]] = lambda _schema, _table, _database: []
    """The keys of its advisory lock, by the schema and the name of its table and the database."""

    def made(self, columns: dict[str, str]) -> bool:
        """Tell whether a table with these columns, by name, with their types, is this tool's."""
        fits = self.columns == columns.keys() if self.is_exact else self.columns <= columns.keys()
        return fits and all(columns[name] in types for name, types in self.types.items())


def golang_migrate_keys(schema: str, table: str, database: str) -> list[int]:
    """Return the keys of golang-migrate's lock: the database is called as in the path of a URL, or by its name."""
    texts = (f"{schema}\0{table}\0{name}" for name in (f"/{database}", database))
    return [zlib.crc32(text.encode()) * MIX % 2**32 for text in texts]


def flyway_keys(schema: str, table: str, _: str) -> list[int]:
    """Return the key of Flyway's lock: a number of its own and Java's hash of the table's name."""
    name = f'"{schema}"."{table}"'.encode("utf-16-be")
    total = 0
    for place in range(0, len(name), 2):
        total = (31 * total + int.from_bytes(name[place : place + 2], "big")) % 2**32
    return [77431708279161 + (total - 2**32 if total >= 2**31 else total)]


def sqlx_keys(_: str, __: str, database: str) -> list[int]:
    """Return the key of sqlx's lock."""
    return [0x3D32AD9E * zlib.crc32(database.encode())]


def known(keys: Iterable[int]) -> Callable[[str, str, str], list[int]]:
    """Return the function for keys that are the same everywhere."""
    return lambda _schema, _table, _database: [*keys]


TEXTS = ("character varying", "text")
LOCAL = "::pg_catalog.timestamptz"
"""They write a moment without a zone: now() in that of their session, which is mostly the server's."""
TOOLS = {
    tool.name: tool
    for tool in (
        Tool(
            name="golang-migrate", layout="plain", tables=("schema_migrations",), is_exact=True,
            read=last_version("golang-migrate"), columns=frozenset({"version", "dirty"}), keys=golang_migrate_keys,
            query="SELECT version, dirty AS failed FROM {table}",
        ),
        Tool(
            name="goose", layout="goose", tables=("goose_db_version",), read=last_of_each, keys=known([4097083626]),
            columns=frozenset({"id", "version_id", "is_applied", "tstamp"}),
            query=f"SELECT version_id AS version, is_applied AS applied, tstamp{LOCAL} AS at FROM {{table}} "
            "ORDER BY id",
        ),
        Tool(
            name="dbmate", layout="dbmate", tables=("schema_migrations",), read=texts(digits), is_exact=True,
            columns=frozenset({"version"}), types={"version": TEXTS},
            query="SELECT version::text, NULL AS at FROM {table}",
        ),
        Tool(
            name="flyway", layout="flyway", needs_version=False, read=flyway,
            tables=("flyway_schema_history", "schema_version"),
            columns=frozenset({"installed_rank", "version", "type", "script", "checksum", "installed_on", "success"}),
            keys=flyway_keys,
            query=f"SELECT version, type, script, checksum AS sum, installed_on{LOCAL} AS at, success FROM {{table}} "
            "ORDER BY installed_rank",
        ),
        Tool(
            name="sqlx", layout="plain", tables=("_sqlx_migrations",), read=sqlx, keys=sqlx_keys,
            columns=frozenset({"version", "description", "installed_on", "success", "checksum"}),
            query="SELECT version, description AS name, installed_on AS at, success, checksum AS sum FROM {table}",
        ),
        Tool(
            name="prisma", layout="prisma", needs_version=False, tables=("_prisma_migrations",), read=prisma,
            keys=known([72707369]),
            columns=frozenset({"migration_name", "checksum", "started_at", "finished_at", "rolled_back_at"}),
            compares=False,
            query="SELECT migration_name AS name, checksum AS sum, coalesce(finished_at, started_at) AS at, "
            "finished_at IS NOT NULL AS finished, rolled_back_at IS NOT NULL AS rolled_back FROM {table}",
        ),
        Tool(
            name="drizzle", layout="drizzle", needs_version=False, tables=("__drizzle_migrations",), schema="drizzle",
            read=drizzle, compares=False,
            columns=frozenset({"id", "hash", "created_at"}), types={"created_at": ("bigint",)},
            query="SELECT id, hash AS sum, created_at AS version, "
            "NULL AS at FROM {table} ORDER BY id",
        ),
        Tool(
            name="diesel", layout="diesel", tables=("__diesel_schema_migrations",), read=texts(diesel_number),
            columns=frozenset({"version", "run_on"}), is_exact=True,
            query=f"SELECT version, run_on{LOCAL} AS at FROM {{table}}",
        ),
        Tool(
            name="refinery", layout="flyway", tables=("refinery_schema_history",), read=refinery, is_exact=True,
            columns=frozenset({"version", "name", "applied_on", "checksum"}),
            query=f"SELECT version, name, applied_on{LOCAL} AS at, checksum AS sum FROM {{table}}",
        ),
        Tool(
            name="tern", layout="tern", tables=("schema_version",), is_exact=True, types={"version": ("integer",)},
            read=last_version("tern", none=0), columns=frozenset({"version"}), keys=known([9628173550095224]),
            query="SELECT version, false AS failed FROM {table}",
        ),
        Tool(
            name="supabase", layout="plain", tables=("schema_migrations",), schema="supabase_migrations",
            columns=frozenset({"version"}), types={"version": TEXTS}, is_common=True, read=texts(digits),
            query="SELECT version::text, NULL AS at FROM {table}",
        ),
    )
}  # fmt: skip
"""By name."""
