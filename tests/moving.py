"""The tools that teams come from: a small folder as each of them has it, and the history that each of them leaves.

The folders do the same: file n makes what it needs IF NOT EXISTS and inserts n, so that one applied twice shows, though
nothing fails. The tables are made as the tools make them.
"""

from __future__ import annotations

import hashlib
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pgslipway.engine.sums import refinery as refinery_sums

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    import asyncpg

    from conftest import Finished, Process, Slipway
    from servers import Database

FILES = 4
OURS = "pgslipway_migrations"
"""The history table of ours: its default name is taken by some of the tools."""
MOMENT = "2026-01-{:02} 10:00:00"
"""When they applied a file, by their session's clock, which has UTC."""


def up(number: int) -> str:
    """What file n does; what the last one is about was there before."""
    return f"CREATE TABLE IF NOT EXISTS orders (id int);\nINSERT INTO orders VALUES ({number});\n"


def down(number: int) -> str:
    return f"DELETE FROM orders WHERE id = {number};\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A tool as this suite needs it."""

    name: str
    layout: str
    table: str
    """Where it has its history by itself."""
    create: str
    """The table's definition, after its name."""
    filename: Callable[[int], str]
    """The name of file n, from 1 on, as our history has it."""
    version: Callable[[int], int]
    """The version of file n in our history."""
    row: Callable[[int, str, str], str]
    """The values of the row for file n, of which it takes the number, the filename and the text."""
    entry: Callable[[int], str]
    """How a message names the row of file n."""
    text: Callable[[int], str] = up
    shown: Callable[[int], str] = str
    """The version of file n as the layout writes it."""
    beside: Mapping[str, str] = field(default_factory=dict)
    """Files that its folder has besides."""
    keeps_last_only: bool = False
    keeps_time: bool = False
    compares: bool | None = None
    """Whether it refuses a file that was edited; None where it keeps no checksum."""
    failed: Callable[[int], str] = lambda _: ""
    """SQL that marks file n as failed, where the tool has such a mark."""
    first: str = ""
    """The values of a row that it writes before any other."""
    keys: Callable[[str], Sequence[int]] = lambda _: ()
    """The keys of its lock, by the name of the database."""

    def __str__(self) -> str:
        return self.name

    def files(self, last: int = FILES, first: int = 1) -> dict[str, str]:
        """The files of the folder, by name."""
        return {self.filename(number): self.text(number) for number in range(first, last + 1)} | dict(self.beside)

    def write(self, folder: Path, last: int = FILES, first: int = 1) -> Path:
        """Write the folder."""
        return write(folder, self.files(last, first))

    async def create_table(self, database: Database, table: str = "") -> None:
        """Make its table, without a migration."""
        name = table or self.table
        schema, dot, _ = name.partition(".")
        await database.execute(
            f"{f'CREATE SCHEMA IF NOT EXISTS {schema};' if dot else ''} CREATE TABLE {name} ({self.create});"
            + (f"INSERT INTO {name} VALUES ({self.first})" if self.first else "")
        )

    async def record(self, database: Database, numbers: Sequence[int], table: str = "") -> None:
        """Write the rows of files that are applied, as the tool does."""
        name = table or self.table
        for number in numbers:
            if self.keeps_last_only:
                await database.execute(f"DELETE FROM {name}")
            filename = self.filename(number)
            await database.execute(
                f"SET TimeZone = 'UTC'; INSERT INTO {name} VALUES ({self.row(number, filename, self.text(number))})"
            )

    async def migrate(self, database: Database, last: int, first: int = 1, table: str = "") -> None:
        """Do what the tool does: apply files and write their rows."""
        if first == 1:
            await self.create_table(database, table)
        for number in range(first, last + 1):
            await database.execute(up(number))
        await self.record(database, range(first, last + 1), table)


def write(folder: Path, files: Mapping[str, str]) -> Path:
    """Write a folder, with folders in it."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def moment(number: int) -> str:
    return f"'{MOMENT.format(number)}'"


def sha(algorithm: str, text: str) -> str:
    return hashlib.new(algorithm, text.encode()).hexdigest()


def flyway_sum(text: str) -> int:
    """The CRC-32 as a signed number."""
    return (zlib.crc32(text.replace("\n", "").encode()) + 2**31) % 2**32 - 2**31


def golang_migrate_keys(database: str) -> list[int]:
    return [
        zlib.crc32(f"public\0schema_migrations\0{name}".encode()) * 1486364155 % 2**32
        for name in (f"/{database}", database)
    ]


FLYWAY_COLUMNS = """installed_rank int PRIMARY KEY, version varchar(50), description varchar(200) NOT NULL,
    type varchar(20) NOT NULL, script varchar(1000) NOT NULL, checksum integer, installed_by varchar(100) NOT NULL,
    installed_on timestamp NOT NULL DEFAULT now(), execution_time integer NOT NULL, success boolean NOT NULL"""
PRISMA_COLUMNS = """id varchar(36) PRIMARY KEY NOT NULL, checksum varchar(64) NOT NULL, finished_at timestamptz,
    migration_name varchar(255) NOT NULL, logs text, rolled_back_at timestamptz,
    started_at timestamptz NOT NULL DEFAULT now(), applied_steps_count integer NOT NULL DEFAULT 0"""
JOURNAL = """{"version": "7", "dialect": "postgresql", "entries": [
  {"idx": 0, "version": "7", "when": 1738890788001, "tag": "0000_first", "breakpoints": true},
  {"idx": 1, "version": "7", "when": 1738890788002, "tag": "0001_next", "breakpoints": true},
  {"idx": 2, "version": "7", "when": 1738890788003, "tag": "0002_next", "breakpoints": true},
  {"idx": 3, "version": "7", "when": 1738890788004, "tag": "0003_next", "breakpoints": true}
]}"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drizzle(Tool):
    """Drizzle, whose journal names the files."""

    def files(self, last: int = FILES, first: int = 1) -> dict[str, str]:
        lines = JOURNAL.splitlines()
        entries = "\n".join(lines[first : last + 1]).removesuffix(",")
        found = {self.filename(number): self.text(number) for number in range(first, last + 1)}
        return found | {"meta/_journal.json": f"{lines[0]}\n{entries}\n]}}"}


TOOLS = [
    Tool(
        name="golang-migrate", layout="plain", table="schema_migrations",
        create="version bigint NOT NULL PRIMARY KEY, dirty boolean NOT NULL",
        filename="{:03}_orders.up.sql".format, version=int, row=lambda n, *_: f"{n}, false", entry="version {}".format,
        keeps_last_only=True, failed="UPDATE schema_migrations SET version = {}, dirty = true".format,
        keys=golang_migrate_keys,
    ),
    Tool(
        name="goose", layout="goose", table="goose_db_version",
        create="id integer PRIMARY KEY GENERATED BY DEFAULT AS IDENTITY, version_id bigint NOT NULL, "
        "is_applied boolean NOT NULL, tstamp timestamp NOT NULL DEFAULT now()",
        filename="2026010{}120000_orders.sql".format, version=lambda n: int(f"2026010{n}120000"),
        entry="version 2026010{}120000".format,
        shown="2026010{}120000".format, text=lambda n: f"-- +goose Up\n{up(n)}-- +goose Down\n{down(n)}",
        row=lambda n, *_: f"DEFAULT, 2026010{n}120000, true, {moment(n)}", keeps_time=True,
        first="DEFAULT, 0, true", keys=lambda _: [4097083626],
    ),
    Tool(
        name="dbmate", layout="dbmate", table="schema_migrations", create="version varchar PRIMARY KEY",
        filename="2026010{}120000_orders.sql".format, version=lambda n: int(f"2026010{n}120000"),
        entry="version 2026010{}120000".format,
        shown="2026010{}120000".format, text=lambda n: f"-- migrate:up\n{up(n)}-- migrate:down\n{down(n)}",
        row=lambda n, *_: f"'2026010{n}120000'",
    ),
    Tool(
        name="flyway", layout="flyway", table="flyway_schema_history", create=FLYWAY_COLUMNS,
        filename="V1.{}__orders.sql".format, entry="V1.{}__orders.sql".format,
        version=lambda n: 10**12 + n * 10**8, shown="1.{}".format,
        row=lambda n, name, text: f"{n}, '1.{n}', 'orders', 'SQL', '{name}', {flyway_sum(text)}, 'me', {moment(n)}, "
        "5, true", keeps_time=True, compares=True,
        failed="UPDATE flyway_schema_history SET success = false WHERE installed_rank = {}".format,
        keys=lambda _: [77433833903597],
    ),
    Tool(
        name="sqlx", layout="plain", table="_sqlx_migrations",
        create="version bigint PRIMARY KEY, description text NOT NULL, installed_on timestamptz NOT NULL DEFAULT now(),"
        "success boolean NOT NULL, checksum bytea NOT NULL, execution_time bigint NOT NULL",
        filename="2026010{}120000_orders.sql".format, version=lambda n: int(f"2026010{n}120000"),
        entry="version 2026010{}120000 (orders)".format,
        shown="2026010{}120000".format, keeps_time=True, compares=True,
        row=lambda n, _, text: f"2026010{n}120000, 'orders', {moment(n)}, true, '\\x{sha('sha384', text)}', 5",
        failed="UPDATE _sqlx_migrations SET success = false WHERE version = 2026010{}120000".format,
        keys=lambda database: [0x3D32AD9E * zlib.crc32(database.encode())],
    ),
    Tool(
        name="prisma", layout="prisma", table="_prisma_migrations", create=PRISMA_COLUMNS,
        filename="2026010{}120000_orders/migration.sql".format, entry="2026010{}120000_orders".format,
        version=lambda n: int(f"2026010{n}1200000"),
        shown="2026010{}120000".format, beside={"migration_lock.toml": 'provider = "postgresql"'},
        row=lambda n, name, text: f"'{n}', '{sha('sha256', text)}', {moment(n)}, '{name.partition('/')[0]}', NULL, "
        f"NULL, {moment(n)}, 1", keeps_time=True, compares=False,
        failed="UPDATE _prisma_migrations SET finished_at = NULL WHERE id = '{}'".format, keys=lambda _: [72707369],
    ),
    Drizzle(
        name="drizzle", layout="drizzle", table="drizzle.__drizzle_migrations",
        create="id serial PRIMARY KEY, hash text NOT NULL, created_at bigint",
        filename=lambda n: "0000_first.sql" if n == 1 else f"000{n - 1}_next.sql", version=lambda n: 1738890788000 + n,
        shown=lambda n: str(1738890788000 + n), compares=False, entry="the entry of 173889078800{}".format,
        row=lambda n, _, text: f"DEFAULT, '{sha('sha256', text)}', {1738890788000 + n}",
    ),
    Tool(
        name="diesel", layout="diesel", table="__diesel_schema_migrations",
        create="version varchar(50) PRIMARY KEY NOT NULL, run_on timestamp NOT NULL DEFAULT current_timestamp",
        filename="2026-01-0{}-120000_orders/up.sql".format, entry="version 2026010{}120000".format,
        version=lambda n: int(f"2026010{n}1200000000"),
        shown="2026-01-0{}-120000".format, row=lambda n, *_: f"'2026010{n}120000', {moment(n)}", keeps_time=True,
    ),
    Tool(
        name="refinery", layout="flyway", table="refinery_schema_history",
        create="version int4 PRIMARY KEY, name varchar(255), applied_on varchar(255), checksum varchar(255)",
        filename="V{}__orders.sql".format, version=lambda n: n * 10**12, entry="V{}__orders".format,
        compares=True, keeps_time=True,
        row=lambda n, _, text: f"{n}, 'orders', '{MOMENT.format(n).replace(' ', 'T')}.000000001Z', "
        f"'{min(refinery_sums('orders', n, text.encode()))}'",
    ),
    Tool(
        name="tern", layout="tern", table="schema_version", create="version int4 NOT NULL",
        filename="{:03}_orders.sql".format, version=int, entry="version {}".format,
        row=lambda n, *_: str(n), keeps_last_only=True, first="0",
        text=lambda n: f"{up(n)}---- create above / drop below ----\n{down(n)}", keys=lambda _: [9628173550095224],
        beside={"tern.conf": "[database]\n"},
    ),
    Tool(
        name="supabase", layout="plain", table="supabase_migrations.schema_migrations",
        create="version text PRIMARY KEY, statements text[], name text",
        filename="2026010{}120000_orders.sql".format, version=lambda n: int(f"2026010{n}120000"),
        entry="version 2026010{}120000".format,
        shown="2026010{}120000".format, row=lambda n, *_: f"'2026010{n}120000', ARRAY['…'], 'orders'",
    ),
]  # fmt: skip
"""With a row for each file: their own values; the shortest folder that each of them takes."""


def named(*names: str) -> list[Tool]:
    """The tools of these names."""
    return [tool for tool in TOOLS if tool.name in names]


# --- taking over from them -------------------------------------------------------------------------------------------

HISTORY = f"SELECT version, filename, checksum, applied_at FROM public.{OURS} ORDER BY version"


class Moving:
    """A database, a folder, and the runs of pgslipway with them."""

    def __init__(self, database: Database, slipway: Slipway, folder: Path, adopt: str) -> None:
        self.database, self.slipway, self.folder = database, slipway, folder
        self.settings = {"MIGRATE_ADOPT": adopt, "MIGRATE_TABLE": OURS}

    @property
    def environ(self) -> dict[str, str]:
        return self.database.environ | {"MIGRATE_DIR": str(self.folder)} | self.settings

    def run(self, *command: str, **settings: str) -> Finished:
        """Run it to its end; an empty setting is one that is not there."""
        return self.start(*command, **settings).finish()

    def start(self, *command: str, **settings: str) -> Process:
        given = {f"MIGRATE_{name.upper()}": value for name, value in settings.items()}
        return self.slipway.start(*command, env=self.environ | given)

    async def history(self) -> list[asyncpg.Record]:
        return await self.database.fetch(HISTORY)

    async def orders(self) -> list[int]:
        return [row["id"] for row in await self.database.fetch("SELECT id FROM orders ORDER BY id")]

    async def assert_refused(self, *reasons: str, code: int = 23, **settings: str) -> None:
        """Nobody adopts, for these reasons and no others, and nothing is written."""
        finished = self.run("up", **settings)
        assert finished.code == code, finished
        assert finished.outcome
        assert finished.outcome["message"].splitlines() == [*reasons]
        assert self.run("plan", **settings).code == code
        assert not await self.database.fetch("SELECT FROM pg_class WHERE relname = $1", OURS)
