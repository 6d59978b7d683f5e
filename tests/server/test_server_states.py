"""What the program makes of a server's state: wait for what heals, end at once where a person is needed.

Every row of the table "What asyncpg raises" is here, against the real thing.
"""

from __future__ import annotations

import asyncio
import re
import socket
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import TYPE_CHECKING

import asyncpg
import pytest

from proxy import RoundTrips
from servers import (
    LOCALHOST,
    eventually,
    free_port,
    pgbouncer,
    published_port,
    refusing,
    resetting,
    silent,
    timescaledb_container,
    until,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractContextManager
    from pathlib import Path

    from conftest import Finished, Folder, Process, Slipway
    from servers import Certificates, Cluster, Database, Embedded, Server

TABLE = {"001_a.sql": "CREATE TABLE a ();"}
ENDLESS = {"001_endless.sql": "SELECT pg_sleep(600);"}


@pytest.fixture
def migrations(folder: Folder) -> Path:
    """One migration that anybody may apply."""
    return folder(TABLE)


async def backends(database: Database, running: str) -> list[int]:
    """The pids of the program's sessions whose statement holds a text."""
    rows = await database.fetch(
        "SELECT pid FROM pg_stat_activity WHERE application_name = 'pgslipway' AND strpos(query, $1) > 0"
        " AND datname = current_database()",
        running,
    )
    return [row["pid"] for row in rows]


async def tables(database: Database) -> set[str]:
    rows = await database.fetch("SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace")
    return {row["relname"] for row in rows}


def assert_ended(finished: Finished, code: int, *words: str) -> None:
    """It ended with a code, and its last words, in the log and in the outcome, hold all of some words."""
    assert finished.outcome, str(finished)
    assert (finished.code, finished.outcome["exit_code"]) == (code, code), str(finished)
    assert finished.outcome["message"] in finished.err, str(finished)
    assert not [word for word in words if word not in finished.outcome["message"]], str(finished)


def assert_gave_up(finished: Finished, target: str, cause: str) -> None:
    """It said where and why each time that it tried again, and in the end."""
    retries = [line for line in finished.err.splitlines() if f"waiting for {target}: " in line]
    assert retries, str(finished)
    assert all(cause in line for line in retries), str(finished)
    assert_ended(finished, 10, target, cause)


def assert_refused(finished: Finished, target: str, cause: str, code: int = 22) -> None:
    """It did not try again, and said where and why."""
    assert "waiting for" not in finished.err, str(finished)
    assert_ended(finished, code, target, cause)


# --- nobody answers ---------------------------------------------------------------------------------------------


PORTS = {"refused": (refusing, "Connection refused"), "reset": (resetting, "Connection reset by peer")}


@pytest.mark.parametrize(("port", "cause"), PORTS.values(), ids=PORTS)
def test_gives_up_on_a_port_that_does_not_serve(
    slipway: Slipway, server: Server, migrations: Path, port: Callable[[], AbstractContextManager[int]], cause: str
) -> None:
    with port() as number:
        database = server.database().at(number)
        finished = slipway(env=database.environ, migrations=migrations, wait_timeout="1s")

    assert_gave_up(finished, database.target, cause)


def test_same_cause_is_not_logged_for_every_attempt(slipway: Slipway, migrations: Path) -> None:
    nobody = {"PGHOST": LOCALHOST, "PGPORT": "1", "PGUSER": "app"}

    finished = slipway(env=nobody, migrations=migrations, wait_timeout="3s")

    assert finished.err.count("Connection refused (attempt") == 1, finished


def test_gives_up_on_a_server_that_says_nothing(slipway: Slipway, server: Server, migrations: Path) -> None:
    with silent() as port:
        database = server.database().at(port)
        finished = slipway(env=database.environ, migrations=migrations, wait_timeout="1s")

    assert_ended(finished, 10, database.target, "no answer in time")


def test_last_attempt_that_is_cut_short_does_not_hide_the_cause(slipway: Slipway, migrations: Path) -> None:
    with socket.socket() as port:
        port.bind((LOCALHOST, 0))
        environ = {"PGHOST": LOCALHOST, "PGPORT": str(port.getsockname()[1]), "PGUSER": "app"}
        process = slipway.start(env=environ, migrations=migrations, wait_timeout="2s")
        process.wait_for_log("Connection refused")
        port.listen()  # and from now on it accepts, and says nothing
        finished = process.finish()

    assert_ended(finished, 10, "no answer in time; before that: Connection refused (gave up after")


def test_gives_up_on_a_name_that_nobody_knows(slipway: Slipway, server: Server, migrations: Path) -> None:
    database = server.database().at(server.port, host="nowhere.invalid")

    finished = slipway(env=database.environ, migrations=migrations, wait_timeout="1s")

    assert_gave_up(finished, database.target, "not known")


def test_gives_up_on_a_socket_that_is_not_there(
    slipway: Slipway, server: Server, migrations: Path, tmp_path: Path
) -> None:
    database = server.database().at(server.port, host=str(tmp_path))

    finished = slipway(env=database.environ, migrations=migrations, wait_timeout="1s")

    assert_gave_up(finished, database.target, "No such file or directory")


async def test_waits_for_a_server_that_is_started_later(slipway: Slipway, embedded: Embedded, migrations: Path) -> None:
    cluster = embedded.cluster()
    process = slipway.start(env=cluster.database.environ, migrations=migrations)
    process.wait_for_log(f"waiting for {cluster.database.target}: Connection refused")

    cluster.start()

    assert process.finish().code == 0
    assert "a" in await tables(cluster.database)


@pytest.mark.docker_only
async def test_waits_while_the_image_of_the_server_initialises_it(
    slipway: Slipway, server: Server, migrations: Path
) -> None:
    assert server.network
    port = free_port()
    database = server.database().at(port)
    process = slipway.start(env=database.environ, migrations=migrations)
    process.wait_for_log("waiting for")

    with timescaledb_container(server.network, "later", host_port=port):
        finished = process.finish()

        assert finished.code == 0, str(finished)
        assert "a" in await tables(database)


def test_tries_the_next_host_when_the_first_is_dead(slipway: Slipway, database: Database, migrations: Path) -> None:
    with refusing() as dead:
        hosts = {"PGHOST": f"{LOCALHOST},{LOCALHOST}", "PGPORT": f"{dead},{database.port}"}
        finished = slipway(env=database.environ | hosts, migrations=migrations, wait_timeout="5s")

    assert finished.code == 0, str(finished)


def test_host_that_swallows_packets_does_not_hide_the_next(
    slipway: Slipway, database: Database, migrations: Path
) -> None:
    with silent() as port:
        hosts = {"PGHOST": f"127.0.0.1:{port},127.0.0.1", "PGPORT": str(database.port)}
        finished = slipway(env=database.environ | hosts, migrations=migrations, wait_timeout="30s")

    assert finished.code == 0, finished
    assert "no answer in time" in finished.err


def test_reads_several_hosts_from_the_url(slipway: Slipway, database: Database, migrations: Path) -> None:
    with refusing() as dead:
        url = database.url.replace(f"@{LOCALHOST}:", f"@{LOCALHOST}:{dead},{LOCALHOST}:")
        finished = slipway(env={"DATABASE_URL": url}, migrations=migrations, wait_timeout="5s")

    assert finished.code == 0, str(finished)


# --- not now ----------------------------------------------------------------------------------------------------


def test_gives_up_on_a_server_that_keeps_starting_up(slipway: Slipway, embedded: Embedded, migrations: Path) -> None:
    cluster = embedded.cluster()

    with cluster.starting_up():
        finished = slipway(env=cluster.database.environ, migrations=migrations, wait_timeout="1s")

    assert_gave_up(finished, cluster.database.target, "the database system is starting up")


def test_waits_for_a_server_that_is_starting_up(slipway: Slipway, embedded: Embedded, migrations: Path) -> None:
    cluster = embedded.cluster()

    with cluster.starting_up():
        process = slipway.start(env=cluster.database.environ, migrations=migrations)
        process.wait_for_log("the database system is starting up")

    assert process.finish().code == 0


async def test_waits_for_a_server_that_is_restarted(slipway: Slipway, cluster: Cluster, migrations: Path) -> None:
    async with cluster.database.connection():
        cluster.stop("smart", wait=False)
        process = slipway.start(env=cluster.database.environ, migrations=migrations)
        process.wait_for_log("the database system is shutting down")

    cluster.stop()
    cluster.start()

    assert process.finish().code == 0


def test_does_not_wait_for_a_standby_that_never_lets_clients_in(
    slipway: Slipway, embedded: Embedded, migrations: Path
) -> None:
    cluster = embedded.cluster()

    with cluster.without_hot_standby():
        finished = slipway(env=cluster.database.environ, migrations=migrations)

    assert_ended(finished, 22, cluster.database.target, "the database system is not accepting connections")


# --- no slot ----------------------------------------------------------------------------------------------------


@asynccontextmanager
async def no_slot_left(database: Database) -> AsyncIterator[None]:
    """Hold connections for a role until the server gives no more."""
    async with AsyncExitStack() as held:
        with suppress(asyncpg.TooManyConnectionsError):
            while True:
                await held.enter_async_context(database.connection())
        yield


async def crowded(embedded: Embedded, limit: str) -> Database:
    """A database with few slots, for a role that does not get the reserved ones."""
    cluster = embedded.cluster(max_connections=4, superuser_reserved_connections=2).start()
    database = await cluster.database.create_role("app")
    await cluster.database.execute(limit)
    return database


LIMITS = {
    "server": ("SELECT", "remaining connection slots are reserved"),
    "role": ("ALTER ROLE app CONNECTION LIMIT 1", 'too many connections for role "app"'),
    "database": ("ALTER DATABASE postgres CONNECTION LIMIT 1", 'too many connections for database "postgres"'),
}


@pytest.mark.parametrize(("limit", "cause"), LIMITS.values(), ids=LIMITS)
async def test_gives_up_when_no_slot_gets_free(
    slipway: Slipway, embedded: Embedded, migrations: Path, limit: str, cause: str
) -> None:
    database = await crowded(embedded, limit)

    async with no_slot_left(database):
        finished = slipway(env=database.environ, migrations=migrations, wait_timeout="1s")

    assert_gave_up(finished, database.target, cause)


async def test_waits_for_a_slot(slipway: Slipway, embedded: Embedded, migrations: Path) -> None:
    database = await crowded(embedded, "ALTER ROLE app CONNECTION LIMIT 1")

    async with no_slot_left(database):
        process = slipway.start(env=database.environ, migrations=migrations)
        process.wait_for_log("too many connections for role")

    assert process.finish().code == 0


# --- access refused ---------------------------------------------------------------------------------------------


def test_wrong_password_is_final(slipway: Slipway, server: Server, migrations: Path) -> None:
    database = server.database().login("postgres", "another/never:printed")

    finished = slipway(env=database.environ, migrations=migrations)

    assert_refused(finished, database.target, 'password authentication failed for user "postgres"')


def test_missing_password_is_final(slipway: Slipway, server: Server, migrations: Path) -> None:
    database = server.database().login("postgres", "")

    finished = slipway(env=database.environ, migrations=migrations)

    assert_refused(finished, database.target, "password")


def test_role_that_is_not_there_is_final(slipway: Slipway, server: Server, migrations: Path) -> None:
    database = server.database().login("nobody")

    finished = slipway(env=database.environ, migrations=migrations)

    assert_refused(finished, database.target, 'password authentication failed for user "nobody"')


def test_address_that_may_not_log_in_is_final(slipway: Slipway, embedded: Embedded, migrations: Path) -> None:
    cluster = embedded.cluster(hba="host all all 192.0.2.1/32 scram-sha-256\n")
    cluster.start()

    finished = slipway(env=cluster.database.environ, migrations=migrations)

    assert_refused(finished, cluster.database.target, 'no pg_hba.conf entry for host "127.0.0.1"')


async def test_role_that_may_not_log_in_is_final(slipway: Slipway, cluster: Cluster, migrations: Path) -> None:
    database = await cluster.database.create_role("app", "NOLOGIN")

    finished = slipway(env=database.environ, migrations=migrations)

    assert_refused(finished, database.target, 'role "app" is not permitted to log in')


def test_database_that_is_not_there_is_final(slipway: Slipway, server: Server, migrations: Path) -> None:
    database = server.database("nowhere")

    finished = slipway(env=database.environ, migrations=migrations)

    assert_refused(finished, database.target, 'database "nowhere" does not exist')


async def test_database_that_one_may_not_enter_is_final(slipway: Slipway, cluster: Cluster, migrations: Path) -> None:
    database = await cluster.database.create_role("app")
    await cluster.database.execute("REVOKE CONNECT ON DATABASE postgres FROM PUBLIC")

    finished = slipway(env=database.environ, migrations=migrations)

    assert_refused(finished, database.target, 'permission denied for database "postgres"')


# --- TLS --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["require", "verify-full"])
def test_server_without_tls_is_final_when_tls_is_asked_for(
    slipway: Slipway, server: Server, migrations: Path, mode: str
) -> None:
    authority = {"PGSSLROOTCERT": "/etc/ssl/certs/ca-certificates.crt"} if mode == "verify-full" else {}
    database = server.database()

    finished = slipway(env=database.environ | {"PGSSLMODE": mode} | authority, migrations=migrations)

    assert_refused(finished, database.target, "rejected SSL upgrade")


@pytest.mark.docker_only
def test_clear_text_is_final_when_the_server_wants_tls(slipway: Slipway, encrypted: Server, migrations: Path) -> None:
    database = encrypted.database()

    finished = slipway(env=database.environ | {"PGSSLMODE": "disable"}, migrations=migrations)

    assert_refused(finished, database.target, "no encryption")


@pytest.mark.docker_only
@pytest.mark.parametrize(
    ("mode", "host", "authority", "cause"),
    [
        ("verify-full", "localhost", "stranger", "certificate verify failed"),
        ("verify-ca", "localhost", "stranger", "certificate verify failed"),
        ("verify-full", LOCALHOST, "authority", "IP address mismatch"),
    ],
    ids=["other-authority-full", "other-authority-ca", "other-host"],
)
def test_certificate_that_does_not_fit_is_final(
    slipway: Slipway, encrypted: Server, certificates: Certificates, migrations: Path, tmp_path: Path,
    mode: str, host: str, authority: str, cause: str,
) -> None:  # fmt: skip
    (root := tmp_path / "root.pem").write_bytes(getattr(certificates, authority))
    database = encrypted.database().at(encrypted.port, host)
    tls = {"PGSSLMODE": mode, "PGSSLROOTCERT": str(root)}

    finished = slipway(env=database.environ | tls, migrations=migrations)

    assert_refused(finished, database.target, cause)


@pytest.mark.docker_only
@pytest.mark.parametrize(
    ("mode", "host"),
    [("prefer", LOCALHOST), ("require", LOCALHOST), ("verify-ca", LOCALHOST), ("verify-full", "localhost")],
    ids=["prefer", "require", "verify-ca", "verify-full"],
)
async def test_certificate_that_fits_is_let_in(
    slipway: Slipway, encrypted: Server, certificates: Certificates, migrations: Path, tmp_path: Path,
    mode: str, host: str,
) -> None:  # fmt: skip
    (root := tmp_path / "root.pem").write_bytes(certificates.authority)
    tls = {"PGSSLMODE": mode} | ({"PGSSLROOTCERT": str(root)} if mode.startswith("verify") else {})

    async with encrypted.fresh_database() as database:
        finished = slipway(env=database.at(encrypted.port, host).environ | tls, migrations=migrations)

    assert finished.code == 0, str(finished)


# --- a standby --------------------------------------------------------------------------------------------------


@pytest.fixture
def standby(embedded: Embedded, cluster: Cluster) -> Cluster:
    """A running copy of `cluster` that takes no writes."""
    return embedded.standby_of(cluster, hot_standby_feedback="on").start()


@pytest.mark.parametrize("command", ["up", "plan"])
def test_gives_up_on_a_standby_with_work_to_do(
    command: str, slipway: Slipway, standby: Cluster, migrations: Path
) -> None:
    finished = slipway(command, env=standby.database.environ, migrations=migrations, wait_timeout="1s")

    assert_gave_up(finished, standby.database.target, "the server is a standby")


async def test_waits_for_a_standby_to_be_promoted(slipway: Slipway, standby: Cluster, migrations: Path) -> None:
    process = slipway.start(env=standby.database.environ, migrations=migrations)
    process.wait_for_log("the server is a standby")

    standby.promote()

    assert process.finish().code == 0
    assert "a" in await tables(standby.database)


@pytest.mark.parametrize("command", ["up", "plan", "status", "wait"])
async def test_standby_will_do_when_there_is_nothing_to_do(
    command: str, slipway: Slipway, cluster: Cluster, standby: Cluster, migrations: Path
) -> None:
    slipway(env=cluster.database.environ, migrations=migrations)
    await eventually(lambda: has_history(standby.database), "the history to reach the standby")

    finished = slipway(command, env=standby.database.environ, migrations=migrations, wait_timeout="1s")

    assert finished.code == 0, str(finished)


async def has_history(database: Database) -> bool:
    if "schema_migrations" not in await tables(database):
        return False
    return bool(await database.fetch("SELECT FROM schema_migrations"))


def test_gives_up_on_a_standby_when_a_primary_is_asked_for(
    slipway: Slipway, standby: Cluster, migrations: Path
) -> None:
    env = standby.database.environ | {"PGTARGETSESSIONATTRS": "primary"}

    finished = slipway(env=env, migrations=migrations, wait_timeout="1s")

    assert_gave_up(finished, standby.database.target, "")


async def test_finds_the_primary_among_several_hosts(
    slipway: Slipway, cluster: Cluster, standby: Cluster, migrations: Path
) -> None:
    url = cluster.database.url.replace(f"@{LOCALHOST}:", f"@{LOCALHOST}:{standby.server.port},{LOCALHOST}:")

    finished = slipway(env={"DATABASE_URL": f"{url}?target_session_attrs=primary"}, migrations=migrations)

    assert finished.code == 0, str(finished)
    assert "a" in await tables(cluster.database)


# --- PgBouncer --------------------------------------------------------------------------------------------------


@pytest.mark.docker_only
@pytest.mark.usefixtures("tools")
@pytest.mark.parametrize("mode", ["session", "transaction"])
async def test_works_through_pgbouncer(
    slipway: Slipway, server: Server, database: Database, migrations: Path, mode: str
) -> None:
    with pgbouncer(server, pool_mode=mode, default_pool_size=2) as bouncer:
        finished = slipway(env=database.at(bouncer.port).environ, migrations=migrations)
        again = slipway(env=database.at(bouncer.port).environ, migrations=migrations)

    assert (finished.code, again.code) == (0, 0), f"{finished}{again}"
    assert "a" in await tables(database)


@pytest.mark.docker_only
@pytest.mark.usefixtures("tools")
async def test_waits_for_a_pgbouncer_that_hangs_until_its_server_is_there(
    slipway: Slipway, server: Server, migrations: Path
) -> None:
    assert server.network
    with pgbouncer(server.known_as("behind"), pool_mode="transaction") as bouncer:
        process = slipway.start(env=server.database().at(bouncer.port).environ, migrations=migrations)
        until(lambda: "login attempt" in bouncer.log, "the program to reach PgBouncer")

        with timescaledb_container(server.network, "behind") as running:
            finished = process.finish()

            assert finished.code == 0, str(finished)
            assert "a" in await tables(server.database().at(published_port(running, 5432)))


@pytest.mark.docker_only
@pytest.mark.usefixtures("tools")
async def test_waits_for_a_pgbouncer_that_hangs_up_until_its_server_is_there(
    slipway: Slipway, server: Server, migrations: Path
) -> None:
    assert server.network
    with pgbouncer(server.known_as("behind"), pool_mode="session", query_wait_timeout=1) as bouncer:
        process = slipway.start(env=server.database().at(bouncer.port).environ, migrations=migrations)
        process.wait_for_log("query_wait_timeout")

        with timescaledb_container(server.network, "behind") as running:
            finished = process.finish()

            assert finished.code == 0, str(finished)
            assert "a" in await tables(server.database().at(published_port(running, 5432)))


@pytest.mark.docker_only
@pytest.mark.usefixtures("tools")
async def test_waits_for_a_place_in_the_pool(
    slipway: Slipway, server: Server, database: Database, migrations: Path
) -> None:
    with pgbouncer(server, pool_mode="session", default_pool_size=2, query_wait_timeout=1) as bouncer:
        pooled = database.at(bouncer.port)
        async with pooled.connection() as one, pooled.connection() as two:
            await one.execute("SELECT")
            await two.execute("SELECT")
            process = slipway.start(env=pooled.environ, migrations=migrations)
            process.wait_for_log("query_wait_timeout")
        finished = process.finish()

    assert finished.code == 0, str(finished)


@pytest.mark.docker_only
@pytest.mark.usefixtures("tools")
@pytest.mark.parametrize(
    ("query", "options", "refused"),
    [("?search_path=public", "", "search_path"), ("", "-c search_path=public", "search_path"), ("?role=x", "", "role")],
    ids=["search_path", "PGOPTIONS", "role"],
)
async def test_startup_parameter_that_pgbouncer_does_not_know_is_final(
    query: str, options: str, refused: str, slipway: Slipway, server: Server, database: Database, migrations: Path
) -> None:
    with pgbouncer(server, pool_mode="transaction") as bouncer:
        pooled = database.at(bouncer.port)
        finished = slipway(env={"DATABASE_URL": f"{pooled.url}{query}", "PGOPTIONS": options}, migrations=migrations)

    advice = "poolers pass few settings on: give them to the role by ALTER ROLE … SET, or SET them in the files"
    assert_refused(finished, pooled.target, f": {refused}; {advice}", code=20)


@pytest.mark.docker_only
@pytest.mark.usefixtures("tools")
async def test_time_zone_passes_a_pooler(
    slipway: Slipway, server: Server, database: Database, migrations: Path
) -> None:
    with pgbouncer(server, pool_mode="transaction") as bouncer:
        environ = database.at(bouncer.port).environ | {"PGTZ": "Asia/Tokyo", "PGDATESTYLE": "ISO"}
        finished = slipway(env=environ, migrations=migrations)

    assert finished.code == 0, finished


# --- lost on the way --------------------------------------------------------------------------------------------


async def start_endless(slipway: Slipway, database: Database, folder: Folder) -> tuple[Process, int]:
    """A run in the middle of a statement, and its backend's pid."""
    process = slipway.start(env=database.environ, migrations=folder(ENDLESS))
    pids = await eventually(lambda: backends(database, "pg_sleep"), "the statement to run")
    return process, pids[0]


async def test_backend_killed_in_a_statement_is_a_lost_connection(
    slipway: Slipway, database: Database, folder: Folder
) -> None:
    process, pid = await start_endless(slipway, database, folder)

    await database.fetch("SELECT pg_terminate_backend($1)", pid)

    finished = process.finish()
    assert_ended(finished, 13, "001_endless.sql", "terminating connection due to administrator command")
    assert await database.fetch("SELECT FROM schema_migrations") == []


async def test_crash_of_the_server_in_a_statement_is_a_lost_connection(
    slipway: Slipway, cluster: Cluster, folder: Folder
) -> None:
    process, _ = await start_endless(slipway, cluster.database, folder)

    cluster.stop("immediate")

    finished = process.finish()
    assert_ended(finished, 13, "001_endless.sql")


async def test_reset_in_a_statement_is_a_lost_connection(slipway: Slipway, database: Database, folder: Folder) -> None:
    async with RoundTrips(database) as proxy:
        environ = database.at(proxy.port).environ | {"PGSSLMODE": "disable"}
        process = slipway.start(env=environ, migrations=folder(ENDLESS))
        await eventually(lambda: backends(database, "pg_sleep"), "the statement to run")
        proxy.reset()
        finished = await asyncio.to_thread(process.finish)

    assert_ended(finished, 13, "001_endless.sql was not committed", "Connection reset by peer")


async def test_lost_answer_to_commit_is_told_by_the_next_run(
    slipway: Slipway, database: Database, folder: Folder
) -> None:
    slow_commit = """
        CREATE TABLE a (n int);
        CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(1); RETURN NULL; END';
        CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON a DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION slow();
        INSERT INTO a VALUES (1);
    """
    migrations = folder({"001_slow.sql": slow_commit})
    async with RoundTrips(database) as proxy:
        environ = database.at(proxy.port).environ | {"PGSSLMODE": "disable"}
        process = slipway.start(env=environ, migrations=migrations)
        await eventually(lambda: backends(database, "SET CONSTRAINTS ALL IMMEDIATE"), "COMMIT to be sent")
        proxy.reset()
        finished = await asyncio.to_thread(process.finish)
    again = await asyncio.to_thread(slipway, env=database.environ, migrations=migrations)

    assert_ended(finished, 13, "001_slow.sql is either applied and recorded or neither; the next run will tell")
    assert "rolled back" not in finished.err
    assert again.code == 0, again
    assert len(await database.fetch("SELECT FROM a")) == 1


async def test_waiter_keeps_no_connection_between_two_looks_at_the_lock(
    slipway: Slipway, database: Database, folder: Folder
) -> None:
    """Waiters without number would leave no slot for the application, and an idle connection could be killed."""
    ours = "SELECT FROM pg_stat_activity WHERE application_name = 'pgslipway' AND datname = current_database()"

    async def none_is_open() -> bool:
        return not await database.fetch(ours)

    async with database.migration_lock():
        waiter = slipway.start(env=database.environ, migrations=folder(TABLE))
        waiter.wait_for_log("waiting for the migration lock")
        await eventually(none_is_open, "no connection is open")

    finished = await asyncio.to_thread(waiter.finish)

    assert_ended(finished, 0)


READ_ONLY = "the database takes no writes: its transactions are read-only (default_transaction_read_only)"


@pytest.mark.parametrize("command", ["up", "plan"])
async def test_database_that_takes_no_writes_is_unavailable(
    command: str, slipway: Slipway, database: Database, folder: Folder
) -> None:
    await database.execute(f"ALTER DATABASE {database.name} SET default_transaction_read_only = on")

    finished = slipway(command, env=database.environ, migrations=folder(TABLE), wait_timeout="1s")

    assert_gave_up(finished, database.target, READ_ONLY)
    assert finished.out == ""


async def test_waits_for_a_database_to_take_writes(slipway: Slipway, database: Database, folder: Folder) -> None:
    await database.execute(f"ALTER DATABASE {database.name} SET default_transaction_read_only = on")
    process = slipway.start(env=database.environ, migrations=folder(TABLE))
    process.wait_for_log(READ_ONLY)

    async with database.connection() as connection:
        await connection.execute("SET default_transaction_read_only = off")
        await connection.execute(f"ALTER DATABASE {database.name} RESET default_transaction_read_only")

    assert_ended(process.finish(), 0)


@pytest.mark.parametrize(("command", "code"), [("up", 0), ("plan", 0), ("status", 0), ("wait", 0)])
async def test_database_that_takes_no_writes_will_do_when_there_is_nothing_to_do(
    command: str, code: int, slipway: Slipway, database: Database, folder: Folder
) -> None:
    files = folder(TABLE)
    slipway(env=database.environ, migrations=files)
    await database.execute(f"ALTER DATABASE {database.name} SET default_transaction_read_only = on")

    finished = slipway(command, env=database.environ, migrations=files, wait_timeout="1s")

    assert finished.code == code, str(finished)


@pytest.mark.parametrize(("command", "code"), [("status", 0), ("wait", 14)])
async def test_who_only_looks_needs_no_writes(
    command: str, code: int, slipway: Slipway, database: Database, folder: Folder
) -> None:
    await database.execute(f"ALTER DATABASE {database.name} SET default_transaction_read_only = on")

    finished = slipway(command, env=database.environ, migrations=folder(TABLE), wait_timeout="1s")

    assert finished.code == code, str(finished)


# --- an old server ----------------------------------------------------------------------------------------------


@asynccontextmanager
async def older(database: Database, version: str) -> AsyncIterator[Database]:
    """The database behind a proxy that tells another version of the server; it knows whatever this one knows."""
    told = f"server_version\0{version}\0".encode()
    status = b"S" + (4 + len(told)).to_bytes(4) + told

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            writer.write(re.sub(rb"S....server_version\0[^\0]*\0", lambda _: status, data, flags=re.DOTALL))
            await writer.drain()
        writer.close()

    async def accept(client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        server, to_server = await asyncio.open_connection(database.host, database.port)
        await asyncio.gather(carry(client, to_server), carry(server, to_client), return_exceptions=True)

    async with await asyncio.start_server(accept, LOCALHOST, 0) as proxy:
        yield database.at(proxy.sockets[0].getsockname()[1])


@pytest.mark.parametrize("version", ["13.22 (Debian 13.22-0+deb11u1)", "9.6.24"])
@pytest.mark.parametrize("command", [["up"], ["plan"], ["resolve", "1", "--done"]], ids=lambda given: given[0])
async def test_server_that_is_too_old_is_refused(
    command: list[str], version: str, slipway: Slipway, database: Database, folder: Folder
) -> None:
    async with older(database, version) as old:
        environ = old.environ | {"PGSSLMODE": "disable"}
        finished = await asyncio.to_thread(slipway, *command, env=environ, migrations=folder(TABLE))

    assert finished.code == 20, str(finished)
    assert finished.outcome
    assert finished.outcome["message"] == f"the server is PostgreSQL {version}; pgslipway needs PostgreSQL 14 or newer"
    assert await tables(database) == set()


# --- refused on the way -----------------------------------------------------------------------------------------


def test_statement_that_takes_too_long_has_failed(slipway: Slipway, database: Database, folder: Folder) -> None:
    finished = slipway(env=database.environ, migrations=folder(ENDLESS), statement_timeout="100ms")

    assert_ended(finished, 24, "001_endless.sql", "canceling statement due to statement timeout")


@pytest.mark.docker_only
async def test_full_disk_has_failed_the_migration(slipway: Slipway, database: Database, folder: Folder) -> None:
    await database.execute("COPY (SELECT) TO PROGRAM 'cat > /dev/null; mkdir -p /small/space'")
    await database.execute("CREATE TABLESPACE small LOCATION '/small/space'")
    fill = "CREATE TABLE a TABLESPACE small AS SELECT repeat('x', 1000) FROM generate_series(1, 100000);"

    finished = slipway(env=database.environ, migrations=folder({"001_fill.sql": fill}))

    await database.execute("DROP TABLESPACE small")
    assert_ended(finished, 24, "001_fill.sql", "No space left on device")
    assert "a" not in await tables(database)


async def test_gives_up_on_a_table_that_stays_busy(slipway: Slipway, database: Database, folder: Folder) -> None:
    await database.execute("CREATE TABLE busy ()")
    migrations = folder({"001_busy.sql": "ALTER TABLE busy ADD a int;"})

    async with database.connection() as reader:
        await reader.execute("BEGIN; SELECT FROM busy")
        finished = slipway(env=database.environ, migrations=migrations, ddl_lock_timeout="50ms", ddl_retry="500ms")

    assert_ended(finished, 12, "001_busy.sql")


async def test_tries_again_after_a_deadlock(slipway: Slipway, database: Database, folder: Folder) -> None:
    await database.execute("CREATE TABLE one (); CREATE TABLE two ()")
    await database.execute(f"ALTER DATABASE {database.name} SET deadlock_timeout = '1s'")
    migrations = folder({"001_both.sql": "LOCK TABLE one; LOCK TABLE two;"})

    async with database.connection() as other:
        await other.execute("SET deadlock_timeout = '1h'; BEGIN; LOCK TABLE two")
        process = slipway.start(env=database.environ, migrations=migrations, ddl_lock_timeout="2s")
        await eventually(lambda: waits_for(database, "two"), "the migration to wait for the second table")
        await other.execute("LOCK TABLE one")

    finished = process.finish()
    assert finished.code == 0, str(finished)
    assert "deadlock detected" in finished.err


async def waits_for(database: Database, table: str) -> bool:
    rows = await database.fetch("SELECT FROM pg_locks WHERE NOT granted AND relation = $1::text::regclass", table)
    return bool(rows)
