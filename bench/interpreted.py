"""Migration tools that run on Python, Node.js and the JVM."""

from __future__ import annotations

import json
from hashlib import sha1
from typing import TYPE_CHECKING

from bench.native import or_select, stems, words
from bench.peer import Invocation, Migration, Peer, Target

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

PYTHON = """\
FROM debian:trixie-slim AS build
RUN apt-get update && apt-get install -y --no-install-recommends python3 python3-venv
RUN python3 -m venv /opt/tool && /opt/tool/bin/pip install --no-cache-dir {packages}
FROM debian:trixie-slim
RUN apt-get update && apt-get install -y --no-install-recommends python3 && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/tool /opt/tool
ENV PATH=/opt/tool/bin:/usr/bin:/bin
"""
NODE = """\
FROM debian:trixie-slim
RUN apt-get update && apt-get install -y --no-install-recommends nodejs && rm -rf /var/lib/apt/lists/*
COPY node_modules /opt/tool/node_modules
ENV PATH=/opt/tool/node_modules/.bin:/usr/bin:/bin
"""
JAVA = """\
FROM debian:trixie-slim
RUN mkdir -p /usr/share/man/man1 && apt-get update \\
    && apt-get install -y --no-install-recommends default-jre-headless && rm -rf /var/lib/apt/lists/*
COPY . /opt/tool
ENV PATH=/opt/tool/bin:/usr/bin:/bin
"""

# --- Python -----------------------------------------------------------------------------------------------------

ALEMBIC_INI = "[alembic]\nscript_location = {folder}\npath_separator = os\n"
ALEMBIC_ENV = """\
import os

from alembic import context
from sqlalchemy import create_engine, pool

engine = create_engine(os.environ["DATABASE_URL"], poolclass=pool.NullPool)
with engine.connect() as connection:
    context.configure(connection=connection)
    with context.begin_transaction():
        context.run_migrations()
"""
ALEMBIC_REVISION = """\
from alembic import op

revision = {revision!r}
down_revision = {previous!r}


def upgrade():
    op.get_bind().exec_driver_sql({sql!r})
"""


def _write_alembic(folder: Path, migrations: Sequence[Migration]) -> None:
    """Write revisions in Python that execute the SQL as it is."""
    (folder / "alembic.ini").write_text(ALEMBIC_INI.format(folder=folder))
    (folder / "env.py").write_text(ALEMBIC_ENV)
    (folder / "versions").mkdir()
    previous = None
    for number, migration in enumerate(migrations, 1):
        revision = f"r{number:05}"
        sql = migration.sql.replace("%", "%%")
        text = ALEMBIC_REVISION.format(revision=revision, previous=previous, sql=sql)
        (folder / f"versions/{revision}.py").write_text(text)
        previous = revision


def _alembic(folder: Path, target: Target) -> Invocation:
    environ = {"DATABASE_URL": target.url("postgresql+psycopg")}
    return Invocation(["alembic", "--config", f"{folder}/alembic.ini", "upgrade", "head"], environ)


ALEMBIC = Peer(
    name="alembic",
    version=Invocation(["alembic", "--version"]),
    lock="none",
    transaction="all files",
    history=frozenset({"public.alembic_version"}),
    write=_write_alembic,
    up=_alembic,
    dockerfile=PYTHON.format(packages="alembic 'psycopg[binary]'"),
    note="Its files are Python.",
)


def _write_yoyo(folder: Path, migrations: Sequence[Migration]) -> None:
    for stem, migration in zip(stems(migrations), migrations, strict=True):
        (folder / f"{stem}.sql").write_text(migration.sql)


def _yoyo(folder: Path, target: Target) -> Invocation:
    database = target.url("postgresql+psycopg")
    return Invocation(["yoyo", "apply", "--batch", "--no-config-file", "--database", database, str(folder)])


YOYO = Peer(
    name="yoyo",
    version=Invocation(["python3", "-c", "import importlib.metadata as m; print(m.version('yoyo-migrations'))"]),
    lock="a table, polled for 10 s",
    transaction="file",
    history=frozenset({"public._yoyo_log", "public._yoyo_migration", "public._yoyo_version", "public.yoyo_lock"}),
    write=_write_yoyo,
    up=_yoyo,
    dockerfile=PYTHON.format(packages="yoyo-migrations 'psycopg[binary]' setuptools"),
    note="A runner that was killed leaves its lock behind.",
)


def _write_pogo(folder: Path, migrations: Sequence[Migration]) -> None:
    """Write files each of which names the one before it."""
    previous = ""
    for number, migration in enumerate(migrations, 1):
        name = f"{number:05}_{words(migration.description)}"
        header = f"-- {migration.description}\n-- depends:{previous}\n\n-- migrate: apply\n\n"
        (folder / f"{name}.sql").write_text(f"{header}{migration.sql}\n\n-- migrate: rollback\n")
        previous = f" {name}"
    settings = f"[tool.pogo]\nmigrations = '{folder}'\ndatabase_config = '{{DATABASE_URL}}'\n"
    (folder / "pyproject.toml").write_text(settings)


def _pogo(folder: Path, target: Target) -> Invocation:
    return Invocation(["sh", "-c", f"cd {folder} && exec pogo apply"], {"DATABASE_URL": target.url()})


POGO = Peer(
    name="pogo-migrate",
    version=Invocation(["pogo", "--version"]),
    lock="none",
    transaction="file",
    history=frozenset({"public._pogo_migration", "public._pogo_version"}),
    write=_write_pogo,
    up=_pogo,
    dockerfile=PYTHON.format(packages="pogo-migrate"),
    note="Each statement is a round trip; each file names the one before it.",
)

# --- Node.js ----------------------------------------------------------------------------------------------------


def _write_node_pg_migrate(folder: Path, migrations: Sequence[Migration]) -> None:
    for number, migration in enumerate(migrations, 1):
        (folder / f"{number:05}_{words(migration.description)}.sql").write_text(f"-- Up Migration\n{migration.sql}\n")


def _node_url(target: Target) -> str:
    """Return the address; by node's own rules, `require` would verify the certificate."""
    return f"{target.url()}&uselibpqcompat=true" if target.certificate else target.url()


def _node_pg_migrate(folder: Path, target: Target) -> Invocation:
    argv = ["node-pg-migrate", "up", "--migrations-dir", str(folder), "--advisory-lock-mode", "wait"]
    return Invocation(argv, {"DATABASE_URL": _node_url(target)})


NODE_PG_MIGRATE = Peer(
    name="node-pg-migrate",
    version=Invocation(["npm", "ls", "--prefix", "{home}", "node-pg-migrate"]),
    lock="advisory lock, waited for (--advisory-lock-mode wait; by default it fails at once)",
    transaction="all files",
    history=frozenset({"public.pgmigrations"}),
    write=_write_node_pg_migrate,
    up=_node_pg_migrate,
    dockerfile=NODE,
)


def _write_graphile(folder: Path, migrations: Sequence[Migration]) -> None:
    """Write committed migrations, each with its hash over the text and the hash before it."""
    (folder / ".gmrc").write_text(json.dumps({}))
    committed = folder / "migrations/committed"
    committed.mkdir(parents=True)
    (folder / "migrations/current.sql").write_text("")
    previous = ""
    for number, migration in enumerate(migrations, 1):
        body = migration.sql.strip() + "\n"
        digest = "sha1:" + sha1(f"{previous}\n{body.strip()}".strip().encode() + b"\n").hexdigest()
        header = f"--! Previous: {previous or '-'}\n--! Hash: {digest}\n\n"
        (committed / f"{number:06}-{words(migration.description)}.sql").write_text(header + body)
        previous = digest


def _graphile(folder: Path, target: Target) -> Invocation:
    environ = {
        "DATABASE_URL": _node_url(target),
        "SHADOW_DATABASE_URL": f"{target.url()}&shadow=1",
        "ROOT_DATABASE_URL": "template1",
    }
    argv = ["sh", "-c", f"cd {folder} && exec graphile-migrate migrate --config {folder}/.gmrc"]
    return Invocation(argv, environ)


GRAPHILE_MIGRATE = Peer(
    name="graphile-migrate",
    version=Invocation(["npm", "ls", "--prefix", "{home}", "graphile-migrate"]),
    lock="advisory lock around each file; fails at once where it is held",
    transaction="file",
    history=frozenset({"graphile_migrate"}),
    write=_write_graphile,
    up=_graphile,
    dockerfile=NODE,
)

# --- JVM --------------------------------------------------------------------------------------------------------


def _write_flyway(folder: Path, migrations: Sequence[Migration]) -> None:
    for migration in migrations:
        (folder / f"V{migration.version}__{words(migration.description)}.sql").write_text(migration.sql)


def _jdbc(target: Target) -> str:
    return f"jdbc:postgresql://{target.host}:{target.port}/{target.database}?sslmode={target.sslmode}"


def _flyway(folder: Path, target: Target, *options: str) -> Invocation:
    login = [f"-url={_jdbc(target)}", f"-user={target.user}", f"-password={target.password}"]
    argv = ["flyway", *login, f"-locations=filesystem:{folder}", "-skipCheckForUpdate", "-lockRetryCount=-1", *options]
    return Invocation([*argv, "migrate"], {"REDGATE_DISABLE_TELEMETRY": "true"})


def _flyway_waiting(folder: Path, target: Target) -> Invocation:
    return _flyway(folder, target, "-connectRetries=600", "-connectRetriesInterval=1")


FLYWAY = Peer(
    name="flyway",
    version=Invocation(["flyway", "--version"]),
    lock="advisory lock, polled without end (lockRetryCount=-1; 50 s by default)",
    transaction="file",
    history=frozenset({"public.flyway_schema_history"}),
    write=_write_flyway,
    up=_flyway,
    waits=_flyway_waiting,
    dockerfile=JAVA,
    note="The newest packed command line that is served is older, so it is started from its jars, with those for "
    "Postgres only.",
)


def _write_liquibase(folder: Path, migrations: Sequence[Migration]) -> None:
    """Write a changeset for each, and the changelog that includes all of the folder."""
    for stem, migration in zip(stems(migrations), migrations, strict=True):
        header = f"--liquibase formatted sql\n--changeset bench:{migration.version} splitStatements:false\n"
        (folder / f"{stem}.sql").write_text(f"{header}{or_select(migration.sql)}\n")
    include = {"path": ".", "endsWithFilter": ".sql", "relativeToChangelogFile": True}
    (folder / "changelog.json").write_text(json.dumps({"databaseChangeLog": [{"includeAll": include}]}))


def _liquibase(folder: Path, target: Target) -> Invocation:
    login = [f"--url={_jdbc(target)}", f"--username={target.user}", f"--password={target.password}"]
    files = [f"--search-path={folder}", "--changelog-file=changelog.json"]
    return Invocation(["liquibase", *files, "--analytics-enabled=false", *login, "update"])


LIQUIBASE = Peer(
    name="liquibase",
    version=Invocation(["liquibase", "--version"]),
    lock="a table, polled every 10 s for 5 min",
    transaction="file",
    history=frozenset({"public.databasechangelog", "public.databasechangeloglock"}),
    write=_write_liquibase,
    up=_liquibase,
    dockerfile=JAVA,
    note="The newest version under an open-source licence, started from its jars. A runner that was killed leaves its "
    "lock behind. It refuses an empty file; that one of Concourse's is `SELECT 1` for it.",
)

PEERS = [ALEMBIC, YOYO, POGO, NODE_PG_MIGRATE, GRAPHILE_MIGRATE, FLYWAY, LIQUIBASE]
