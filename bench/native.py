"""Migration tools that are native programs."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from bench.peer import Invocation, Migration, Peer, Target

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

PATIENCE = 600
"""Seconds for a tool that gives up waiting for its own lock, or for Postgres where it can wait."""

DEBIAN = """\
FROM debian:trixie-slim
RUN apt-get update \\
    && apt-get install -y --no-install-recommends {packages} \\
    && rm -rf /var/lib/apt/lists/*
"""
SCRATCH = """\
FROM scratch
COPY bin/{program} /usr/local/bin/{program}
ENV PATH=/usr/local/bin
"""
REAL_PSQL = "RUN ln -s /usr/lib/postgresql/*/bin/psql /usr/local/bin/psql\n"
"""Ahead of Debian's psql in PATH, which is a Perl script that looks for the real one."""


def stems(migrations: Sequence[Migration]) -> list[str]:
    """Name a file for each, without a suffix; all versions have the same width, for tools that sort by name."""
    width = max(len(str(migration.version)) for migration in migrations)
    return [f"{migration.version:0{width}}_{words(migration.description)}" for migration in migrations]


def words(description: str) -> str:
    return re.sub(r"\W+", "_", description)


def _ended(sql: str) -> str:
    """Give the SQL a line end if it has none."""
    return sql if sql.endswith("\n") else f"{sql}\n"


def or_select(sql: str) -> str:
    """Give a tool that refuses a file without a statement one that does nothing."""
    return _ended(sql) if sql.strip() else "SELECT 1;\n"


def write_plain(folder: Path, migrations: Sequence[Migration]) -> None:
    """`0001_create_orders.sql`, the SQL as it is."""
    for stem, migration in zip(stems(migrations), migrations, strict=True):
        (folder / f"{stem}.sql").write_text(_ended(migration.sql))


# --- golang-migrate ---------------------------------------------------------------------------------------------


def _write_golang_migrate(folder: Path, migrations: Sequence[Migration]) -> None:
    for stem, migration in zip(stems(migrations), migrations, strict=True):
        (folder / f"{stem}.up.sql").write_text(_ended(migration.sql))


def _golang_migrate(folder: Path, target: Target) -> Invocation:
    options = [f"-path={folder}", f"-database={target.url()}", f"-lock-timeout={PATIENCE}"]
    return Invocation(["migrate", *options, "up"])


GOLANG_MIGRATE = Peer(
    name="golang-migrate",
    version=Invocation(["migrate", "-version"]),
    lock=f"advisory lock, waited for {PATIENCE} s (-lock-timeout; 15 s by default)",
    transaction="file",
    history=frozenset({"public.schema_migrations"}),
    write=_write_golang_migrate,
    up=_golang_migrate,
    dockerfile=SCRATCH.format(program="migrate"),
    note="A file is sent as one query, so one transaction; the version is written before and after it, in two more. "
    "Built with the postgres driver only; the makers' program has every driver.",
)


# --- goose ------------------------------------------------------------------------------------------------------


def _write_goose(folder: Path, migrations: Sequence[Migration]) -> None:
    for stem, migration in zip(stems(migrations), migrations, strict=True):
        (folder / f"{stem}.sql").write_text(f"-- +goose Up\n{_goose_statements(migration.sql)}")


def _goose_statements(sql: str) -> str:
    """Goose splits at each semicolon that ends a line; what that would break, or has none at its end, is kept whole."""
    if "$" in sql or not sql.rstrip().endswith(";"):
        return f"-- +goose StatementBegin\n{_ended(sql)}-- +goose StatementEnd\n"
    return _ended(sql)


def _goose(folder: Path, target: Target) -> Invocation:
    environ = {"GOOSE_DRIVER": "postgres", "GOOSE_DBSTRING": target.url()}
    return Invocation(["goose", "-env", "none", "-dir", str(folder), "up"], environ)


GOOSE = Peer(
    name="goose",
    version=Invocation(["goose", "-version"]),
    lock="none",
    transaction="file",
    history=frozenset({"public.goose_db_version"}),
    write=_write_goose,
    up=_goose,
    dockerfile=SCRATCH.format(program="goose"),
    note="No lock in its CLI; its Go library offers one. Each statement is a round trip.",
)


# --- tern -------------------------------------------------------------------------------------------------------


def _write_tern(folder: Path, migrations: Sequence[Migration]) -> None:
    """Versions from 1 without a gap, whatever they are elsewhere: tern accepts no others."""
    for number, migration in enumerate(migrations, 1):
        (folder / f"{number:05}_{words(migration.description)}.sql").write_text(or_select(migration.sql))


def _tern(folder: Path, target: Target) -> Invocation:
    # Where no account has the user's number, as in an empty image, Go takes the name from USER, and tern wants one.
    return Invocation(["tern", "migrate", "--migrations", str(folder)], {**target.environ, "USER": "bench"})


TERN = Peer(
    name="tern",
    version=Invocation(["tern", "version"]),
    lock="advisory lock, waited for without end",
    transaction="file",
    history=frozenset({"public.schema_version"}),
    write=_write_tern,
    up=_tern,
    dockerfile=SCRATCH.format(program="tern"),
    note="Keeps one number and no history. Versions count from 1, so timestamps are renumbered. It refuses an "
    "empty file; that one of Concourse's is `SELECT 1` for it.",
)


# --- dbmate -----------------------------------------------------------------------------------------------------


def _write_dbmate(folder: Path, migrations: Sequence[Migration]) -> None:
    for stem, migration in zip(stems(migrations), migrations, strict=True):
        text = f"-- migrate:up\n{_ended(migration.sql)}\n-- migrate:down\n"
        (folder / f"{stem}.sql").write_text(text)


def _dbmate(folder: Path, target: Target, *options: str) -> Invocation:
    # Not `up`, which also asks the database "postgres" whether this one exists: no other tool here does.
    argv = ["dbmate", "--no-dump-schema", "--migrations-dir", str(folder), *options, "migrate"]
    return Invocation(argv, {"DATABASE_URL": target.url()})


def _dbmate_waiting(folder: Path, target: Target) -> Invocation:
    return _dbmate(folder, target, "--wait", f"--wait-timeout={PATIENCE}s")


DBMATE = Peer(
    name="dbmate",
    version=Invocation(["dbmate", "--version"]),
    lock="none",
    transaction="file",
    history=frozenset({"public.schema_migrations"}),
    write=_write_dbmate,
    up=_dbmate,
    waits=_dbmate_waiting,
    dockerfile=SCRATCH.format(program="dbmate"),
    note="No lock at all.",
)


# --- sqitch -----------------------------------------------------------------------------------------------------


def _write_sqitch(folder: Path, migrations: Sequence[Migration]) -> None:
    """Write a project with its plan; sqitch leaves the transaction to each script."""
    names = stems(migrations)
    plan = ["%syntax-version=1.0.0", "%project=bench", ""]
    plan += [f"{stem} 2026-01-01T00:00:00Z bench <bench@example.com>" for stem in names]
    (folder / "sqitch.plan").write_text("\n".join(plan) + "\n")
    (folder / "sqitch.conf").write_text("[core]\n\tengine = pg\n")
    (folder / "deploy").mkdir()
    for stem, migration in zip(names, migrations, strict=True):
        # What has no semicolon at its end would run into the COMMIT; one too many does nothing.
        (folder / f"deploy/{stem}.sql").write_text(f"BEGIN;\n\n{_ended(migration.sql)};\nCOMMIT;\n")


def _sqitch(folder: Path, target: Target) -> Invocation:
    address = f"db:pg://{target.user}@{target.host}:{target.port}/{target.database}"
    who = {"SQITCH_FULLNAME": "bench", "SQITCH_EMAIL": "bench@example.com"}
    argv = ["sqitch", "-C", str(folder), "deploy", "--lock-timeout", str(PATIENCE), address]
    return Invocation(argv, {**target.environ, **who})


SQITCH = Peer(
    name="sqitch",
    version=Invocation(["sqitch", "--version"]),
    lock=f"advisory lock, waited for {PATIENCE} s (--lock-timeout; 60 s by default); a table lock for each change",
    transaction="file",
    history=frozenset({"sqitch"}),
    write=_write_sqitch,
    up=_sqitch,
    dockerfile=DEBIAN.format(packages="libdbd-pg-perl postgresql-client sqitch") + REAL_PSQL,
    note="Runs psql for each change; what it records is another transaction.",
)


# --- sqlx and refinery ------------------------------------------------------------------------------------------


def _sqlx(folder: Path, target: Target, *options: str) -> Invocation:
    argv = ["sqlx", "migrate", "run", "--no-dotenv", "--source", str(folder), *options]
    return Invocation(argv, {"DATABASE_URL": target.url()})


def _sqlx_waiting(folder: Path, target: Target) -> Invocation:
    return _sqlx(folder, target, f"--connect-timeout={PATIENCE}")


SQLX = Peer(
    name="sqlx",
    version=Invocation(["sqlx", "--version"]),
    lock="none",
    transaction="file",
    history=frozenset({"public._sqlx_migrations"}),
    write=write_plain,
    up=_sqlx,
    waits=_sqlx_waiting,
    dockerfile="FROM debian:trixie-slim\nCOPY bin/sqlx /usr/local/bin/sqlx\n",
    note="No lock in its CLI; its Rust library takes an advisory lock. Waits only for a port that refuses or resets, "
    "10 s by default, not for a server that answers that it is starting.",
)


def _write_refinery(folder: Path, migrations: Sequence[Migration]) -> None:
    for migration in migrations:
        name = f"V{migration.version}__{words(migration.description)}.sql"
        (folder / name).write_text(_ended(migration.sql))


def _refinery(folder: Path, target: Target) -> Invocation:
    environ = {"DATABASE_URL": target.url()}
    if target.certificate:
        environ["SSL_CERT_FILE"] = str(target.certificate)
    return Invocation(["refinery", "migrate", "-e", "DATABASE_URL", "-p", str(folder)], environ)


REFINERY = Peer(
    name="refinery",
    version=Invocation(["refinery", "--version"]),
    lock="none",
    transaction="file",
    history=frozenset({"public.refinery_schema_history"}),
    write=_write_refinery,
    up=_refinery,
    dockerfile=DEBIAN.format(packages="ca-certificates libssl3t64") + "COPY bin/refinery /usr/local/bin/refinery\n",
    note="What it records is another transaction, so a crash between the two applies a file twice.",
)


PEERS = [
    GOLANG_MIGRATE,
    GOOSE,
    TERN,
    DBMATE,
    SQLX,
    REFINERY,
    SQITCH,
]
