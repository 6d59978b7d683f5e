"""Tenants: many schemas of one database, or many databases of the server; their ten files, and what came of them."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import asyncpg

from bench.peer import Migration

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from bench.server import BenchServer

T = TypeVar("T")

SCHEMA, DATABASE = "schema", "database"
"""The kinds, as MIGRATE_TARGET_KIND has them."""
STRATEGY = "file_copy"
AT_ONCE = 8
"""Connections that make, look at and drop databases."""
SHOP = """\
CREATE TABLE customers (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, email text NOT NULL UNIQUE);

CREATE TABLE products (id bigint PRIMARY KEY, name text NOT NULL, price numeric(10, 2) NOT NULL);
CREATE INDEX products_name ON products (name);

CREATE TABLE orders (id bigint PRIMARY KEY, customer bigint NOT NULL REFERENCES customers);
CREATE INDEX orders_customer ON orders (customer);

CREATE TABLE lines (orders bigint REFERENCES orders, product bigint REFERENCES products, number int NOT NULL,
    PRIMARY KEY (orders, product));

CREATE TABLE payments (id bigint PRIMARY KEY, orders bigint NOT NULL REFERENCES orders, paid timestamptz);
ALTER TABLE products ADD CONSTRAINT price_is_positive CHECK (price > 0);

CREATE TABLE addresses (customer bigint PRIMARY KEY REFERENCES customers, street text, city text);

CREATE TABLE shipments (id bigint PRIMARY KEY, orders bigint NOT NULL REFERENCES orders, sent date);
ALTER TABLE customers ADD COLUMN name text NOT NULL DEFAULT '';

CREATE TABLE invoices (id bigint PRIMARY KEY, orders bigint NOT NULL UNIQUE REFERENCES orders, sum numeric);

CREATE TABLE settings (name text PRIMARY KEY, value jsonb NOT NULL);
INSERT INTO settings VALUES ('currency', '"EUR"'), ('language', '"de"');

CREATE TABLE events (id bigint PRIMARY KEY, at timestamptz NOT NULL DEFAULT now(), what text NOT NULL);
CREATE INDEX events_at ON events (at);
"""
FILES = SHOP.split("\n\n")
"""What the shop of a tenant may have; each makes a table."""
MADE = [sql.split()[2] for sql in FILES]
"""The tables."""
COUNTED = f"""
SELECT nspname, count(*) FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
WHERE relkind = 'r' AND relname IN ({", ".join(f"'{name}'" for name in MADE)}) GROUP BY nspname
"""
NEWEST = "SELECT max(version::text::bigint) FILTER (WHERE version::text ~ '^[0-9]+$') AS newest FROM {}"


def migrations() -> list[Migration]:
    """Return the ten files, each of which makes a table."""
    return [
        Migration(number, f"create {name}", sql) for number, (name, sql) in enumerate(zip(MADE, FILES, strict=True), 1)
    ]


@dataclass(frozen=True, slots=True)
class Tenants:
    """Schemas or databases that were made for a run."""

    server: BenchServer
    kind: str
    names: Sequence[str]
    database: str
    """That has the schemas, or by way of which the databases are made."""

    def of(self, number: int) -> Tenants:
        """Return the first so many of them."""
        return replace(self, names=self.names[:number])

    def wrong(self, history: str) -> str:
        """Say what is wrong after the ten files: nothing, or a sentence; `history` is a table, {} in it the schema."""
        try:
            states = self._states(history)
        except asyncpg.UndefinedTableError as error:
            return f"a history is missing: {error}"
        right = states.count((len(FILES), len(FILES)))
        return "" if right == len(self.names) else f"of {len(self.names)} tenants: {len(self.names) - right} not right"

    def _states(self, history: str) -> list[tuple[int, int]]:
        """Return the number of tables and the newest version of each."""
        if self.kind == DATABASE:
            return asyncio.run(each(partial(_state, self.server, history.format("public")), self.names))
        counted = {row["nspname"]: row["count"] for row in self.server.fetch(COUNTED, self.database)}
        newest = " UNION ALL ".join(NEWEST.format(history.format(name)) for name in self.names)
        versions = [row["newest"] for row in self.server.fetch(newest, self.database)]
        return [(counted.get(name, 0), version) for name, version in zip(self.names, versions, strict=True)]

    def drop(self) -> None:
        """Remove them, and write everything to disk, so that no run pays for another."""
        names = self.names if self.kind == DATABASE else [self.database]
        asyncio.run(execute_all(self.server, [f"DROP DATABASE {name} WITH (FORCE)" for name in names]))
        self.server.execute("CHECKPOINT")


async def _state(server: BenchServer, history: str, name: str) -> tuple[int, int]:
    rows = await server.database(name).fetch(f"SELECT ({NEWEST.format(history)}), * FROM ({COUNTED}) AS counted")
    return (rows[0]["count"], rows[0]["newest"]) if rows else (0, 0)


async def each(work: Callable[[str], Awaitable[T]], names: Iterable[str]) -> list[T]:
    """Do something for each name, for some at once."""
    free = asyncio.Semaphore(AT_ONCE)

    async def one(name: str) -> T:
        async with free:
            return await work(name)

    return await asyncio.gather(*map(one, names))


async def execute_all(server: BenchServer, statements: Iterable[str]) -> None:
    """Run statements on the server, some at once, each by itself."""
    await each(server.database("postgres").execute, statements)


def make(server: BenchServer, kind: str, number: int) -> Tenants:
    """Make so many empty tenants."""
    names = [f"tenant_{tenant:05}" for tenant in range(1, number + 1)]
    if kind == DATABASE:
        made = [f"CREATE DATABASE {name} TEMPLATE template0 STRATEGY {STRATEGY}" for name in names]
        asyncio.run(execute_all(server, made))
        database = "postgres"
    else:
        database = f"tenants_{secrets.token_hex(6)}"
        server.execute(f"CREATE DATABASE {database} TEMPLATE template0")
        server.execute("".join(f"CREATE SCHEMA {name};" for name in names), database)
    server.execute("CHECKPOINT")
    return Tenants(server, kind, names, database)
