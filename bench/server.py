"""The one server that all tools are measured against, its databases, and the question when it first answers."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import socket
import statistics
import subprocess
import tempfile
import threading
import time
from collections import Counter
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from bench.peer import Target
from servers import HBA, LOCALHOST, Embedded

if TYPE_CHECKING:
    from collections.abc import Iterator

    from asyncpg import Record

    from servers import Cluster, Database

PASSWORD = "bench"
TEMPLATE = "bench_template"
PROBER = "prober"
"""May log in without a password, so that asking whether the server answers costs next to nothing."""
PROBE_EVERY = 0.005
WITH_CONTRIB = Path(".venv/postgres/17")
"""From tests/setup/postgres-versions.sh; the one in the Python package lacks TLS, and pgcrypto for Concourse."""
MEMORY, DISK = Path("/dev/shm"), Path("/var/tmp")
LOG = "pg_wal"
HOLD_APPLIED = "CREATE SCHEMA bench; CREATE TABLE bench.applied (version bigint NOT NULL)"
COLUMNS = """
SELECT table_schema, table_name, column_name, data_type FROM information_schema.columns
WHERE table_schema NOT IN ('pg_catalog', 'information_schema', 'bench')
"""
INDEXES = """
SELECT schemaname, tablename, indexname, indexdef FROM pg_indexes
WHERE schemaname NOT IN ('pg_catalog', 'information_schema', 'bench')
"""


@dataclass(slots=True)
class BenchServer:
    """A running Postgres with its defaults: it waits for the disk. With TLS for those who want it."""

    cluster: Cluster
    postgres: Database
    certificate: Path | None
    """None if the server has no TLS."""
    used: list[str] = field(default_factory=list)
    """Databases that may be dropped once nobody measures."""

    @property
    def port(self) -> int:
        return self.cluster.server.port

    def target(self, database: str, port: int = 0, *, tls: bool = False) -> Target:
        """A database as a tool is told of it, through a proxy's port if one is given."""
        certificate = self.certificate if tls else None
        return Target(port=port or self.port, password=PASSWORD, database=database, certificate=certificate)

    def execute(self, sql: str, database: str = "postgres") -> str:
        return asyncio.run(self.database(database).execute(sql))

    def fetch(self, sql: str, database: str = "postgres") -> list[Record]:
        return asyncio.run(self.database(database).fetch(sql))

    def make_database(self) -> str:
        """A database with nothing in it but the empty table bench.applied; dropped by `tidy`."""
        name = f"bench_{secrets.token_hex(6)}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE} STRATEGY wal_log")
        self.used.append(name)
        return name

    def keep(self, database: str) -> str:
        """Let a database live until the server is gone."""
        self.used.remove(database)
        return database

    def tidy(self) -> None:
        """Drop what was used and write everything to disk, so that no run pays for another."""
        while self.used:
            self.execute(f"DROP DATABASE {self.used.pop()} WITH (FORCE)")
        self.execute("CHECKPOINT")

    def wrong_versions(self, database: str, expected: range) -> str:
        """What is wrong with the versions that were applied: nothing, or a sentence."""
        counted = Counter(row["version"] for row in self.fetch("SELECT version FROM bench.applied", database))
        missing = sum(version not in counted for version in expected)
        twice = sum(count > 1 for count in counted.values())
        stray = sum(version not in expected for version in counted)
        counts = {"missing": missing, "applied twice": twice, "nobody's": stray}
        found = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
        return found and f"of {len(expected)} versions: {found}"

    def schema(self, database: str, history: frozenset[str]) -> set[tuple[str, ...]]:
        """The columns and indexes of a database, without what a tool keeps its records in."""
        rows = [tuple(map(str, row.values())) for sql in (COLUMNS, INDEXES) for row in self.fetch(sql, database)]
        return {row for row in rows if not {row[0], f"{row[0]}.{row[1]}"} & history}

    def commit_milliseconds(self) -> float:
        """What one commit takes, which says what kind of disk this is: the median of 200."""
        return asyncio.run(_commit_milliseconds(self.database(TEMPLATE)))

    def database(self, name: str) -> Database:
        """A database of this server."""
        return replace(self.postgres, name=name)


async def _commit_milliseconds(database: Database) -> float:
    async with database.connection() as connection:
        await connection.execute("CREATE TABLE public.commits (at int)")
        took = []
        for number in range(200):
            started = time.perf_counter()
            await connection.execute(f"INSERT INTO public.commits VALUES ({number})")
            took.append(time.perf_counter() - started)
        await connection.execute("DROP TABLE public.commits")
    return statistics.median(took) * 1000


@contextmanager
def bench_server() -> Iterator[BenchServer]:
    """Start one with Postgres's defaults, in particular with fsync; remove it in the end.

    Its tables are in memory and its log on the disk, so that commits cost what they cost: ext4 avoids the inodes that
    were deleted in the last minutes (fs/ext4/ialloc.c), which makes each new file of whoever runs after a DROP DATABASE
    take milliseconds.
    """
    tempfile.tempdir = str(MEMORY) if MEMORY.is_dir() else None
    embedded = Embedded(WITH_CONTRIB.resolve() if WITH_CONTRIB.is_dir() else None)
    try:
        cluster = embedded.cluster(hba=f"host all {PROBER} 127.0.0.1/32 trust\n{HBA}", max_connections=400)
        cluster.configure(fsync="on", shared_buffers="128MB")
        put_log_on_disk(cluster.data)
        certificate = offer_tls(cluster) if WITH_CONTRIB.is_dir() else None
        cluster.start()
        asyncio.run(cluster.database.execute(f"ALTER ROLE postgres PASSWORD '{PASSWORD}'; CREATE ROLE {PROBER} LOGIN"))
        server = BenchServer(cluster, replace(cluster.database, password=PASSWORD), certificate)
        server.execute(f"CREATE DATABASE {TEMPLATE} TEMPLATE template0")
        server.execute(HOLD_APPLIED, TEMPLATE)
        yield server
    finally:
        log = (embedded.clusters[0].data / LOG).resolve().parent
        embedded.close()  # first: a server that runs may make a file in a folder that is being removed
        shutil.rmtree(log, ignore_errors=True)
        tempfile.tempdir = None


def put_log_on_disk(data: Path) -> None:
    """Move a new cluster's write-ahead log to a folder of its own."""
    folder = Path(tempfile.mkdtemp(prefix="pgslipway-bench-", dir=DISK))
    owner = data.stat()
    os.chown(folder, owner.st_uid, owner.st_gid)
    shutil.copytree(data / LOG, folder / LOG)
    for path in (folder / LOG, *(folder / LOG).rglob("*")):
        os.chown(path, owner.st_uid, owner.st_gid)
        path.chmod(0o700 if path.is_dir() else 0o600)
    shutil.rmtree(data / LOG)
    (data / LOG).symlink_to(folder / LOG)


def offer_tls(cluster: Cluster) -> Path:
    """Give a new cluster a certificate of its own making, and return it."""
    key, certificate = (cluster.data / name for name in ("server.key", "server.crt"))
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-addext", f"subjectAltName=IP:{LOCALHOST}", "-keyout", key, "-out", certificate],
        capture_output=True, check=True,
    )  # fmt: skip
    owner = cluster.data.stat()
    for path in (key, certificate):
        os.chown(path, owner.st_uid, owner.st_gid)
        path.chmod(0o600)
    cluster.configure(ssl="on")
    return certificate


def pg_isready() -> str:
    """The program that scripts wait with."""
    found = shutil.which("pg_isready") or next(Path(".venv").glob("lib/*/site-packages/pixeltable*/**/bin/pg_isready"))
    return str(found)


# --- when it first answers --------------------------------------------------------------------------------------

STARTUP = f"user\0{PROBER}\0database\0postgres\0\0".encode()
HELLO = (8 + len(STARTUP)).to_bytes(4) + (196608).to_bytes(4) + STARTUP
QUERY = b"Q" + (4 + len(b"SELECT 1\0")).to_bytes(4) + b"SELECT 1\0"
READY = b"Z\0\0\0\5I"


class Prober(threading.Thread):
    """Asks a server every few milliseconds, with a connection each, until a query is answered; notes when."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self._port = port
        self.answered_at = 0.0
        """By time.perf_counter()."""

    def run(self) -> None:
        while not self._is_answered():
            time.sleep(PROBE_EVERY)
        self.answered_at = time.perf_counter()

    def _is_answered(self) -> bool:
        with suppress(OSError), socket.create_connection((LOCALHOST, self._port), timeout=1) as connection:
            connection.sendall(HELLO)
            if self._hears_ready(connection):
                connection.sendall(QUERY)
                return self._hears_ready(connection)
        return False

    def _hears_ready(self, connection: socket.socket) -> bool:
        heard = b""
        while not heard.endswith(READY):
            if not (data := connection.recv(4096)):
                return False
            heard += data
        return True
