"""Other migration tools: how each is had, its folders, and how it is asked to migrate and what it has applied."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

import real_folders
from bench.peer import INSTALLED
from containers import ROOT, Ended
from real_folders import DOCS_RS, UpPart

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from servers import Database, Embedded

CONCOURSE = ROOT.parent / "shared" / "real" / "concourse"
TWICE = "1626194317_add_pipeline_pauses_table"
"""Shares its version with another one."""
IN_CI = {"dbmate"}
"""Had within seconds; the others are for `make test-faults`."""

Command = list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A tool as MIGRATE_ADOPT calls it."""

    name: str
    program: str
    write: Callable[[Path], None]
    """Fills an empty folder with all of its migrations."""
    files: Callable[[Path], list[str]]
    """The migrations in a folder by filename, in the tool's order."""
    migrate: Callable[[Path, Database], Command]
    status: Callable[[Path, Database], Command] | None = None
    half: int
    history: str
    """The name of its table."""
    schema: str = "public"
    """Where it has its table."""
    by_hand: str = ""
    """A file that its version from the registry cannot run."""
    env: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)
    """Our other settings, to take over from it."""
    small: str = ""
    """How it names a file, with a place for the version; empty where it takes no lock."""

    def get(self) -> None:
        """Have it installed, or skip the test that asks."""
        if not self.path.exists():
            if os.environ.get("CI") and self.name not in IN_CI:
                pytest.skip(f"{self.name} is not installed for CI; make test-faults runs this")
            setup = [str(ROOT / "tests" / "setup" / "movers.sh"), self.name]
            finished = subprocess.run(setup, check=False, capture_output=True, text=True)
            if not self.path.exists():
                pytest.skip(f"{self.name} cannot be had: {finished.stderr.strip()}")

    def asked(self, database: Database) -> dict[str, str]:
        """Our environment that asks to take over from it."""
        return {**database.environ, "MIGRATE_ADOPT": self.name, **self.settings}

    @property
    def path(self) -> Path:
        return INSTALLED / self.name / "bin" / self.program

    def migrate_alone(self, folder: Path, database: Database, embedded: Embedded) -> Ended:
        """Have it make the whole schema; it is told of the file that psql has to apply in its place."""
        if self.by_hand:
            files = self.files(folder)
            place = files.index(self.by_hand)
            first = folder.with_name("first")
            shutil.copytree(folder, first)
            keep_first(first, files, place)
            self.run(self.migrate(first, database), database)
            real_folders.apply([UpPart(self.by_hand, (folder / self.by_hand).read_text())], database, embedded)
            self.run([*prisma(folder, "resolve"), "--applied", self.by_hand.partition("/")[0]], database)
        return self.run(self.migrate(folder, database), database)

    def start(self, command: Command, database: Database) -> subprocess.Popen[str]:
        """Run it with what it may need of the environment."""
        environ = {"PATH": f"{self.path.parent}:{os.environ['PATH']}", "HOME": os.environ.get("HOME", "/"), "USER": "t"}
        environ |= database.environ | {"PGSSLMODE": "disable", "DATABASE_URL": url(database)} | dict(self.env)
        return subprocess.Popen(
            command, env=environ, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def run(self, command: Command, database: Database) -> Ended:
        running = self.start(command, database)
        out, err = running.communicate(timeout=120)
        return Ended(running.returncode, out, err)


def url(database: Database) -> str:
    return f"{database.url}?sslmode=disable"


def real(folder: real_folders.Real) -> Callable[[Path], None]:
    def write(target: Path) -> None:
        shutil.copytree(folder.path, target, dirs_exist_ok=True)
        for path in target.rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)

    return write


def keep_first(folder: Path, files: list[str], number: int) -> None:
    """Take out of a folder all that comes after its first migrations, as an older release had it."""
    for name in files[number:]:
        path = folder / name
        if path.parent != folder:
            shutil.rmtree(path.parent)
        else:
            path.unlink()
            (folder / name.replace(".up.sql", ".down.sql")).unlink(missing_ok=True)
    if (journal := folder / "meta" / "_journal.json").exists():
        content = json.loads(journal.read_text())
        content["entries"] = content["entries"][:number]
        journal.write_text(json.dumps(content))


def names(cut: Callable[[Path], list[UpPart]]) -> Callable[[Path], list[str]]:
    return lambda folder: [part.filename for part in cut(folder)]


def by_number(pattern: str) -> Callable[[Path], list[str]]:
    return lambda folder: [path.name for path in real_folders.by_number(folder, pattern)]


# --- folders that were written for another tool, as this one wants them -----------------------------------------


def write_concourse(target: Path) -> None:
    """A real folder of golang-migrate's, with the version that two of its files share mended."""
    for path in CONCOURSE.glob("*.sql"):
        name = path.name.replace("1626194317", "1626194318") if path.name.startswith(TWICE) else path.name
        shutil.copyfile(path, target / name)


def write_dbmate(target: Path) -> None:
    for part in DOCS_RS.parts():
        name = part.filename.replace(".up.sql", ".sql")
        down = (DOCS_RS.path / part.filename.replace(".up.sql", ".down.sql")).read_text()
        (target / name).write_text(f"-- migrate:up\n{part.sql}\n-- migrate:down\n{down}")


def write_refinery(target: Path) -> None:
    """Its versions have 32 bits."""
    for number, part in enumerate(DOCS_RS.parts(), 1):
        words = re.sub(r"\W+", "_", part.filename.partition("_")[2].removesuffix(".up.sql"))
        (target / f"V{number}__{words}.sql").write_text(part.sql)


def write_signup(target: Path) -> None:
    """Without the files from the one on that Postgres does not take."""
    real(real_folders.SIGNUP)(target)
    keep_first(target, names(real_folders.tern)(target), 5)


# --- a small folder, as each tool names its files -----------------------------------------------------------------

FIRST, GATE, BEYOND = (
    "CREATE TABLE first ();",
    "ALTER TABLE side.gate ADD COLUMN passed int;",
    "CREATE TABLE beyond ();",
)
"""The second one waits for whoever has locked the table `gate`."""


def write_small(tool: Tool, folder: Path, *texts: str) -> list[str]:
    """Write a file of each; their filenames."""
    filenames = [tool.small.format(version) for version in range(1, len(texts) + 1)]
    for filename, sql in zip(filenames, texts, strict=True):
        (folder / filename).parent.mkdir(parents=True, exist_ok=True)
        (folder / filename).write_text(f"{sql}\n")
    return filenames


TOOLS = {
    tool.name: tool
    for tool in (
        Tool(
            name="golang-migrate", program="migrate", history="schema_migrations", half=75,
            write=write_concourse, files=by_number("*.up.sql"),
            migrate=lambda folder, database: ["migrate", f"-path={folder}", f"-database={url(database)}", "up"],
            status=lambda folder, database: ["migrate", f"-path={folder}", f"-database={url(database)}", "version"],
            settings={"MIGRATE_TABLE": "pgslipway_migrations"}, small="{}_small.up.sql",
        ),
        Tool(
            name="goose", program="goose", history="goose_db_version", half=65,
            write=real(real_folders.E2B), files=names(real_folders.goose),
            migrate=lambda folder, database: ["goose", "-env=none", f"-dir={folder}", "postgres", url(database), "up"],
            status=lambda folder, database: ["goose", "-env=none", f"-dir={folder}", "postgres", url(database),
                                             "status"],
        ),
        Tool(
            name="tern", program="tern", history="schema_version", half=3, small="00{}_small.sql",
            write=write_signup, files=names(real_folders.tern),
            migrate=lambda folder, _: ["tern", "migrate", f"--migrations={folder}"],
            status=lambda folder, _: ["tern", "status", f"--migrations={folder}"],
            settings={"MIGRATE_LAYOUT": "tern"},
        ),
        Tool(
            name="dbmate", program="dbmate", history="schema_migrations", half=16,
            write=write_dbmate, files=by_number("*.sql"),
            migrate=lambda folder, _: ["dbmate", "--no-dump-schema", f"--migrations-dir={folder}", "migrate"],
            status=lambda folder, _: ["dbmate", f"--migrations-dir={folder}", "status"],
            settings={"MIGRATE_TABLE": "pgslipway_migrations"},
        ),
        Tool(
            name="sqlx", program="sqlx", history="_sqlx_migrations", half=17,
            write=real(real_folders.DOCS_RS), files=names(real_folders.sqlx),
            migrate=lambda folder, _: ["sqlx", "migrate", "run", "--no-dotenv", f"--source={folder}"],
            status=lambda folder, _: ["sqlx", "migrate", "info", "--no-dotenv", f"--source={folder}"],
        ),
        Tool(
            name="refinery", program="refinery", history="refinery_schema_history", half=16,
            write=write_refinery, files=names(real_folders.flyway),
            migrate=lambda folder, _: ["refinery", "migrate", "-e", "DATABASE_URL", "-p", str(folder)],
        ),
        Tool(
            name="flyway", program="flyway", history="flyway_schema_history", half=13, small="V{}__small.sql",
            write=real(real_folders.KESTRA), files=names(real_folders.flyway),
            env={"REDGATE_DISABLE_TELEMETRY": "true"},
            migrate=lambda folder, database: flyway(folder, database, "migrate"),
            status=lambda folder, database: flyway(folder, database, "info"),
        ),
        Tool(
            name="prisma", program="prisma", history="_prisma_migrations", half=10,
            small="2026010{}000000_small/migration.sql", by_hand="20251016080714_mock_server/migration.sql",
            env={"PRISMA_QUERY_ENGINE_LIBRARY": "/dev/null"},
            write=real(real_folders.HOPPSCOTCH), files=names(real_folders.prisma),
            migrate=lambda folder, _: prisma(folder, "deploy"),
            status=lambda folder, _: prisma(folder, "status"),
        ),
        Tool(
            name="drizzle", program="drizzle", history="__drizzle_migrations", schema="drizzle", half=13,
            write=real(real_folders.ZERO), files=names(real_folders.drizzle),
            migrate=lambda folder, _: ["drizzle", str(folder)],
        ),
    )
}  # fmt: skip
"""By name."""


def prisma(folder: Path, action: str) -> Command:
    config = INSTALLED / "prisma" / "prisma.config.mjs"
    return ["env", f"MIGRATIONS={folder}", "prisma", "migrate", action, f"--config={config}"]


def flyway(folder: Path, database: Database, action: str) -> Command:
    address = f"jdbc:postgresql://{database.host}:{database.port}/{database.name}?sslmode=disable"
    login = [f"-url={address}", f"-user={database.user}", f"-password={database.password}"]
    return ["flyway", *login, f"-locations=filesystem:{folder}", "-skipCheckForUpdate", action]
