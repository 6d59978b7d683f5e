"""Other tools' real folders, cut by rules of their own, and the schema that they make, as pg_dump writes it."""

from __future__ import annotations

import json
import os
import re
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import asyncpg
import pytest

from containers import ROOT
from servers import Embedded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from servers import Database

MOVING = ROOT.parent / "shared" / "real" / "moving"
VERSION = 17
"""The server has the extensions that some of the folders create; the embedded one has none."""

UP_AND_DOWN = re.compile(r"^-- \+goose (?:Up|Down)\n", re.MULTILINE)
OUTSIDE = "-- +goose NO TRANSACTION\n"
DOWN_OF_TERN = "---- create above / drop below ----\n"


@dataclass(frozen=True, slots=True)
class UpPart:
    """The SQL with which a tool applies a migration."""

    filename: str
    sql: str
    in_transaction: bool = True


def goose(folder: Path) -> list[UpPart]:
    """What stands between the first two markers, by the number before the underscore."""
    texts = [(path.name, path.read_text()) for path in by_number(folder)]
    return [UpPart(name, UP_AND_DOWN.split(text)[1], OUTSIDE not in text) for name, text in texts]


def tern(folder: Path) -> list[UpPart]:
    """What stands above the line, by the number before the underscore."""
    return [UpPart(path.name, path.read_text().partition(DOWN_OF_TERN)[0]) for path in by_number(folder)]


def by_number(folder: Path, pattern: str = "*.sql") -> list[Path]:
    return sorted(folder.glob(pattern), key=lambda path: int(path.name.partition("_")[0]))


def flyway(folder: Path) -> list[UpPart]:
    """All files, by the numbers between V and the two underscores."""
    paths = sorted(folder.glob("V*.sql"), key=lambda path: [*map(int, path.name[1:].partition("__")[0].split("_"))])
    return [UpPart(path.name, path.read_text()) for path in paths]


def prisma(folder: Path) -> list[UpPart]:
    """The file in each folder, by the folder's name."""
    return [UpPart(f"{path.parent.name}/{path.name}", path.read_text()) for path in sorted(folder.glob("*/*.sql"))]


def sqlx(folder: Path) -> list[UpPart]:
    """The files that go up, by the number before the underscore."""
    return [UpPart(path.name, path.read_text()) for path in by_number(folder, "*.up.sql")]


def drizzle(folder: Path) -> list[UpPart]:
    """What the journal lists, as it does."""
    names = [f"{entry['tag']}.sql" for entry in json.loads((folder / "meta/_journal.json").read_text())["entries"]]
    return [UpPart(name, (folder / name).read_text()) for name in names]


@dataclass(frozen=True, slots=True)
class Real:
    """A real folder that one of the tools above migrates with."""

    name: str
    cut: Callable[[Path], list[UpPart]]

    @property
    def path(self) -> Path:
        return MOVING / self.name

    @property
    def layout(self) -> str:
        return "plain" if self.cut is sqlx else self.cut.__name__

    def parts(self) -> list[UpPart]:
        return self.cut(self.path)


E2B = Real("goose/e2b-infra", goose)
NCPS = Real("atlas/ncps", goose)
KESTRA = Real("flyway/kestra", flyway)
HOPPSCOTCH = Real("prisma/hoppscotch", prisma)
DOCS_RS = Real("sqlx/docs.rs", sqlx)
ZERO = Real("drizzle/zero", drizzle)
SIGNUP = Real("tern/discord-signup-bot", tern)


def servers(version: int = VERSION) -> Iterator[Embedded]:
    """Binaries of a server with extensions, for as long as there are tests; they are a failure to lack in CI."""
    home = ROOT / ".venv" / "postgres" / str(version)
    if not home.exists():
        missing = f"no server of PostgreSQL {version} here: tests/setup/postgres-versions.sh gets it"
        if os.environ.get("CI") == "true":
            pytest.fail(missing, pytrace=False)
        pytest.skip(missing)
    binaries = Embedded(home)
    try:
        yield binaries
    finally:
        binaries.close()


def apply(parts: list[UpPart], database: Database, embedded: Embedded) -> None:
    """Have psql apply them, each in a transaction unless it says otherwise."""
    file = embedded.folder / f"{database.port}.sql"
    for part in parts:
        file.write_text(part.sql)
        embedded.run(
            "psql", "--no-psqlrc", "--set=ON_ERROR_STOP=1", "--quiet", "--file", file,
            *(["--single-transaction"] if part.in_transaction else []), *address(database),
            PGPASSWORD=database.password,
        )  # fmt: skip


def dump(database: Database, embedded: Embedded, *histories: str) -> list[str]:
    """The schema as pg_dump writes it, without the tables of these names and what differs from dump to dump."""
    lines = write_dump(database, embedded, "--schema-only", *histories).read_text().splitlines()
    return essence(lines)


def essence(lines: list[str]) -> list[str]:
    """The lines of a dump without those that differ from dump to dump."""
    return [line for line in lines if line and not line.startswith(("--", "\\restrict", "\\unrestrict"))]


def write_dump(database: Database, embedded: Embedded, option: str, *histories: str) -> Path:
    """The file that pg_dump writes, without the tables of these names."""
    path = embedded.folder / f"{database.port}-{database.name}.sql"
    ours = ("schema_migrations", "schema_migrations_steps", "pgslipway_migrations", "pgslipway_migrations_steps")
    embedded.run(
        "pg_dump", option, "--file", path,
        *(f"--exclude-table=*.{name}" for name in (*ours, *histories)),
        *(f"--exclude-table=*.{name}_id_seq" for name in histories),
        *address(database),
        PGPASSWORD=database.password,
    )  # fmt: skip
    return path


COLUMNS = """
SELECT a.attrelid::regclass::text AS table, pg_catalog.quote_ident(a.attname) AS name, t.typcategory::text AS category,
       pg_catalog.format_type(a.atttypid, NULL) AS type,
       (SELECT pg_catalog.format('(SELECT %I FROM %s OFFSET {row} LIMIT 1)', f.attname, k.confrelid::regclass)
          FROM pg_catalog.pg_constraint k
          JOIN pg_catalog.pg_attribute f ON f.attrelid = k.confrelid AND f.attnum = k.confkey[1]
         WHERE k.contype = 'f' AND k.conrelid = a.attrelid AND k.conkey = ARRAY[a.attnum] LIMIT 1) AS other
  FROM pg_catalog.pg_attribute a
  JOIN pg_catalog.pg_class c ON c.oid = a.attrelid AND c.relkind IN ('r', 'p') AND NOT c.relispartition
  JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
 WHERE a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '' AND a.attidentity <> 'a'
   AND c.relnamespace::regnamespace::text NOT IN ('pg_catalog', 'information_schema')
   AND c.relname NOT LIKE 'schema_migrations%'
 ORDER BY a.attrelid, a.attnum
"""
BY_TYPE = {
    "uuid": "pg_catalog.md5('{row}')::uuid", "bytea": r"'\x00ff0{row}'", "json": r"""'{{"a": [1, "\\n"]}}'""",
    "jsonb": r"""'{{"a": [1, "\\n\\\\"]}}'""",
}  # fmt: skip
BY_CATEGORY = {
    "N": "{row} + 1", "S": r"E'tab\t\\ \\N \\. \n''é\u00a0' || {row}", "B": "true", "D": "'2026-01-01'::date + {row}",
    "E": "(pg_catalog.enum_range(NULL::{type}))[1]", "A": "'{{}}'", "I": "'10.0.0.{row}'", "T": "'{row} days'",
}  # fmt: skip


async def fill(database: Database) -> int:
    """Put some rows into as many tables as take them; return the number of these tables."""
    tables: dict[str, dict[str, str]] = {}
    for row in await database.fetch(COLUMNS):
        value = row["other"] or BY_TYPE.get(row["type"]) or BY_CATEGORY.get(row["category"], "NULL")
        tables.setdefault(row["table"], {})[row["name"]] = value.replace("{type}", row["type"])
    filled = set()
    async with database.connection() as connection:
        for table, columns in [*tables.items()] * 3:  # a table may need rows of a later one
            for number in range(3):
                values = ", ".join(columns.values()).replace("{row}", str(number)).replace("{{", "{").replace("}}", "}")
                with suppress(asyncpg.PostgresError):
                    await connection.execute(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({values})")
                    filled.add(table)
    return len(filled)


def address(database: Database) -> list[str]:
    return [f"--host={database.host}", f"--port={database.port}", f"--username={database.user}", database.name]
