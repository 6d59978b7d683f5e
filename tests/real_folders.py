"""Other tools' real folders, cut by rules of their own, and the schema that they make, as pg_dump writes it."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

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
    path = embedded.folder / f"{database.port}-{database.name}.sql"
    ours = ("schema_migrations", "schema_migrations_steps", "pgslipway_migrations", "pgslipway_migrations_steps")
    embedded.run(
        "pg_dump", "--schema-only", "--file", path,
        *(f"--exclude-table=*.{name}" for name in (*ours, *histories)),
        *(f"--exclude-table=*.{name}_id_seq" for name in histories),
        *address(database),
        PGPASSWORD=database.password,
    )  # fmt: skip
    return [line for line in path.read_text().splitlines() if line and not line.startswith(("--", "\\"))]


def address(database: Database) -> list[str]:
    return [f"--host={database.host}", f"--port={database.port}", f"--username={database.user}", database.name]
