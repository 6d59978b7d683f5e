"""Many schemas of one database, or many databases, and files whose effects in each of them can be counted."""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from servers import Database, Server

SHARED = (
    "CREATE SCHEMA shared; CREATE TABLE shared.effects (tenant text, file int, pod text); CREATE TABLE shared.gate ()"
)
"""Where all tenants' files leave a row each, and what some wait for; in every database, where those are the tenants."""
GATE = "INSERT INTO shared.gate DEFAULT VALUES"
"""Lets those go on that wait."""
CLOSED = """
DO $$ BEGIN
    WHILE {tenant} ~ '{which}' AND NOT EXISTS (SELECT FROM shared.gate) LOOP PERFORM pg_sleep(0.02); END LOOP;
END $$;
"""
EFFECT = "INSERT INTO shared.effects VALUES ({tenant}, {file}, current_setting('app.pod', true))"
TENANT = {"schema": "current_schema()", "database": "current_database()"}
"""By the kind of the targets, who a file runs for; NULL where the search_path has no schema."""


def files_for(kind: str) -> dict[str, str]:
    """Three files with an effect each; the last one without a transaction, with an index that is built beside it."""
    effect = [EFFECT.format(tenant=TENANT[kind], file=number) for number in (0, 1, 2, 3)]
    return {
        "001_a.sql": f"CREATE TABLE own (n int); {effect[1]};",
        "002_b.sql": f"{effect[2]}; INSERT INTO own VALUES (2);",
        "003_c.sql": f"-- no-transaction\n{effect[3]};\nCREATE INDEX CONCURRENTLY own_n ON own (n);\n",
    }


def gated(kind: str, which: str) -> dict[str, str]:
    """The same, of which the second waits for the gate, for the tenants whose name a pattern matches."""
    files = files_for(kind)
    return files | {"002_b.sql": files["002_b.sql"] + CLOSED.format(tenant=TENANT[kind], which=which)}


def quoted(name: str) -> str:
    """A name as SQL has it."""
    return '"' + name.replace('"', '""') + '"'


@dataclass(frozen=True, slots=True)
class Tenants:
    """The targets of a run."""

    kind: str
    names: list[str]
    databases: list[Database]
    """The one with all schemas, or one for each name."""

    @property
    def environ(self) -> dict[str, str]:
        """What a run over all of them is given."""
        targets = {"MIGRATE_TARGETS": "\n".join(self.names), "MIGRATE_TARGET_KIND": self.kind}
        return self.databases[0].environ | targets

    async def effects(self) -> Counter[tuple[str, int]]:
        """How often each file had its effect for each tenant."""
        query = "SELECT coalesce(tenant, 'nobody') AS tenant, file FROM shared.effects"
        found = await asyncio.gather(*(database.fetch(query) for database in self.databases))
        return Counter((row["tenant"], row["file"]) for rows in found for row in rows)

    async def open_gate(self) -> None:
        """Let all of them go on."""
        await asyncio.gather(*(database.execute(GATE) for database in self.databases))

    async def invalid_indexes(self) -> int:
        """How many indexes are invalid."""
        query = "SELECT FROM pg_index WHERE NOT indisvalid"
        return sum(map(len, await asyncio.gather(*(database.fetch(query) for database in self.databases))))

    async def tables(self) -> set[str]:
        """The tenants that have the table of the first file."""
        query = "SELECT {} AS tenant FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace WHERE relname = 'own'"
        query = query.format("nspname::text" if self.kind == "schema" else "current_database()::text")
        found = await asyncio.gather(*(database.fetch(query) for database in self.databases))
        return {row["tenant"] for rows in found for row in rows}

    async def assert_all_done_once(self, files: int = 3) -> None:
        """Each tenant has the effect of each of the first `files` files, once, and no index is left half built."""
        expected = Counter((name, number) for name in self.names for number in range(1, files + 1))
        effects = await self.effects()
        assert effects == expected, (effects - expected, expected - effects)
        assert await self.tables() == {*self.names}
        assert await self.invalid_indexes() == 0


@asynccontextmanager
async def schemas(server: Server, names: Sequence[str]) -> AsyncIterator[Tenants]:
    """A fresh database with these schemas."""
    async with server.fresh_database() as database:
        await database.execute(";".join([SHARED, *(f"CREATE SCHEMA {quoted(name)}" for name in names)]))
        yield Tenants("schema", [*names], [database])


@asynccontextmanager
async def databases(server: Server, number: int) -> AsyncIterator[Tenants]:
    """So many fresh databases."""
    prefix = f"tenant_{secrets.token_hex(4)}"
    names = [f"{prefix}_{index}" for index in range(number)]
    made = [server.database(name) for name in names]
    try:
        for database in made:
            await server.database().execute(f"CREATE DATABASE {database.name} TEMPLATE template0")
            await database.execute(SHARED)
        yield Tenants("database", names, made)
    finally:
        for name in names:
            await server.database().execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
