"""The ways to bring many tenants up to date: one command of ours, a shell loop or xargs around a peer, a peer's own."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING
from urllib.parse import quote

from bench import interpreted, native
from bench.ours import NAME, PGSLIPWAY, ROOT
from bench.peer import BENCH, INSTALLED, Invocation, Peer
from bench.tenants import SCHEMA

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from bench.peer import Migration, Target

PARALLEL = 4
"""What ours has by default, so what xargs gets."""
LOOP, XARGS = "loop", f"xargs -P {PARALLEL}"
HERE = "{}"
"""Stands for a tenant in a command line."""
PROJECT = """\
env "tenants" {{
  for_each = toset(split("\\n", trimspace(file("{names}"))))
  url = "{url}"
  migration {{
    dir = "file://{folder}"
  }}
}}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What is to be done: the files in the tool's own format, for the tenants of a list, of one kind."""

    folder: Path
    kind: str
    names: Path
    """A file with a tenant in each line."""
    target: Target
    """The database that has the schemas, or any where the databases are the tenants."""

    @property
    def is_schemas(self) -> bool:
        return self.kind == SCHEMA


@dataclass(frozen=True, slots=True)
class Way:
    """One way."""

    name: str
    peer: Peer
    history: str
    """Where it keeps its records, {} in it the schema."""
    run: Callable[[Job], Invocation]
    needs: str = ""
    """Another program."""

    @property
    def is_there(self) -> bool:
        """Whether its tool could be had."""
        return (INSTALLED / self.peer.name).is_dir() and (not self.needs or shutil.which(self.needs) is not None)


# --- one tenant, by a peer --------------------------------------------------------------------------------------


def _url(job: Job, parameter: str) -> str:
    """Return the address of a tenant; `parameter` makes its schema the search path."""
    target = job.target
    login = f"postgres://{target.user}:{quote(target.password, safe='')}@{target.host}:{target.port}"
    if job.is_schemas:
        return f"{login}/{target.database}?sslmode={target.sslmode}&{parameter}"
    return f"{login}/{HERE}?sslmode={target.sslmode}"


def _sqlx(job: Job) -> list[str]:
    """Its history is where the search path says."""
    url = _url(job, "options=-c%20search_path%3D{}")
    return ["sqlx", "migrate", "run", "--no-dotenv", "--source", str(job.folder), "--database-url", url]


def _tern(job: Job) -> list[str]:
    """Its history is in public for all of them, unless it is told."""
    table = f"{HERE if job.is_schemas else 'public'}.schema_version"
    files = ["--migrations", str(job.folder), "--version-table", table]
    return ["tern", "migrate", *files, "--conn-string", _url(job, "search_path={}")]


def _dbmate(job: Job) -> list[str]:
    """Its history is in the first schema of the search path."""
    files = ["--no-dump-schema", "--migrations-dir", str(job.folder)]
    return ["dbmate", *files, "--url", _url(job, "search_path={}"), "migrate"]


def _golang_migrate(job: Job) -> list[str]:
    """Its history is where the search path says."""
    options = [f"-path={job.folder}", f"-database={_url(job, 'search_path={}')}"]
    return ["migrate", *options, f"-lock-timeout={native.PATIENCE}", "up"]


def _jdbc(job: Job) -> str:
    target = job.target
    database = target.database if job.is_schemas else HERE
    return f"jdbc:postgresql://{target.host}:{target.port}/{database}?sslmode={target.sslmode}"


def _flyway(job: Job) -> list[str]:
    """Its history is in the first of its schemas."""
    login = [f"-url={_jdbc(job)}", f"-user={job.target.user}", f"-password={job.target.password}"]
    files = [f"-locations=filesystem:{job.folder}", f"-schemas={HERE if job.is_schemas else 'public'}"]
    return ["flyway", *login, *files, "-skipCheckForUpdate", "migrate"]


# --- many -------------------------------------------------------------------------------------------------------


def loop(words: Sequence[str], names: Path) -> list[str]:
    """Return the command line of a shell loop over the tenants, which ends at the first failure."""
    command = " ".join('"$t"'.join(map(shlex.quote, word.split(HERE))) for word in words)
    return ["sh", "-c", f"for t in $(cat {names}); do {command} || exit; done"]


def xargs(words: Sequence[str], names: Path) -> list[str]:
    """Return the command line of xargs over the tenants, some at once."""
    return ["xargs", "-a", str(names), "-P", str(PARALLEL), "-I", HERE, *words]


def around(peer: Peer, history: str, one: Callable[[Job], list[str]], **environ: str) -> list[Way]:
    """Return the ways of the shell with a peer: a loop, and xargs."""

    def by(name: str, many: Callable[[Sequence[str], Path], list[str]]) -> Way:
        return Way(f"{peer.name}, {name}", peer, history, lambda job: Invocation(many(one(job), job.names), environ))

    return [by(LOOP, loop), by(XARGS, xargs)]


# --- all of them, in one process --------------------------------------------------------------------------------


def ours(name: str, **environ: str) -> Way:
    """Return our way, as the process of the image in the image's root."""

    def run(job: Job) -> Invocation:
        files = {"MIGRATE_DIR": job.folder, "MIGRATE_TARGETS_FILE": job.names}
        told = {variable: f"/{path.relative_to(ROOT)}" for variable, path in files.items()}
        told |= {**job.target.environ, "MIGRATE_TARGET_KIND": job.kind, **environ}
        return Invocation(["chroot", str(ROOT), "/usr/bin/pgslipway"], told)

    return Way(name, PGSLIPWAY, "{}.schema_migrations", run)


def _flyway_program(job: Job) -> Invocation:
    login = [_jdbc(job), job.target.user, job.target.password]
    classes = f"{INSTALLED / 'flyway/lib/*'}:{compiled()}"
    return Invocation(["java", "-cp", classes, "FlywayTenants", job.kind, *login, str(job.folder), str(job.names)])


@cache
def compiled() -> Path:
    """Compile the program that calls Flyway, and return the folder that it is in."""
    folder = INSTALLED / "flyway/classes"
    source = BENCH / "FlywayTenants.java"
    subprocess.run(["javac", "-cp", INSTALLED / "flyway/lib/*", "-d", folder, source], check=True)
    return folder


def _write_atlas(folder: Path, migrations: Sequence[Migration]) -> None:
    native.write_plain(folder, migrations)
    atlas = INSTALLED / "atlas/bin/atlas"
    subprocess.run([atlas, "migrate", "hash", "--dir", f"file://{folder}"], check=True)


def _atlas(job: Job) -> Invocation:
    """Its project file names an environment for each tenant, which it migrates one after the other."""
    project = job.names.with_suffix(".hcl")
    url = _url(job, "search_path={}").replace(HERE, "${each.value}") + ("" if job.is_schemas else "&search_path=public")
    project.write_text(PROJECT.format(names=job.names, url=url, folder=job.folder))
    return Invocation(["atlas", "migrate", "apply", "--config", f"file://{project}", "--env", "tenants"])


def _atlas_of_one(folder: Path, target: Target) -> Invocation:
    return Invocation(["atlas", "migrate", "apply", "--dir", f"file://{folder}", "--url", target.url()])


ATLAS = Peer(
    name="atlas",
    version=Invocation(["atlas", "version"]),
    lock="advisory lock",
    transaction="file",
    history=frozenset({"atlas_schema_revisions"}),
    write=_write_atlas,
    up=_atlas_of_one,
)
OURS = [ours(NAME), ours(f"{NAME}, 8 at once", MIGRATE_PARALLEL="8")]
WAYS = [
    *OURS,
    *around(native.SQLX, "{}._sqlx_migrations", _sqlx),
    *around(native.TERN, "{}.schema_version", _tern, USER="bench"),
    *around(native.DBMATE, "{}.schema_migrations", _dbmate),
    *around(native.GOLANG_MIGRATE, "{}.schema_migrations", _golang_migrate),
    Way("atlas, for_each", ATLAS, "{}.atlas_schema_revisions", _atlas),
    Way("flyway, a program", interpreted.FLYWAY, "{}.flyway_schema_history", _flyway_program, needs="javac"),
]
