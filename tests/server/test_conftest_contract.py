"""What the other tests rely on: the servers are in the state that they claim, the proxy counts right."""

from __future__ import annotations

from typing import TYPE_CHECKING

import asyncpg
import pytest

from conftest import Finished, check
from proxy import RoundTrips
from servers import eventually, pgbouncer, refusing, resetting, silent

if TYPE_CHECKING:
    from pathlib import Path

    from servers import Cluster, Database, Embedded, Server


GIVEN = {
    "as-it-is": ("PGPASSWORD", "never printed"),
    "in-a-url": ("DATABASE_URL", "postgresql://a:never%20printed@b/c"),
    "in-a-parameter": ("DATABASE_URL", "postgresql://a@b/c?password=never%20printed"),
    "as-an-argument": ("", "postgresql://a:never%20printed@b/c"),
}


@pytest.mark.parametrize("given", GIVEN.values(), ids=GIVEN)
def test_password_in_an_output_is_noticed(given: tuple[str, str]) -> None:
    with pytest.raises(AssertionError):
        check(Finished(0, "", "it was never printed", None), [given])


def test_password_from_a_file_is_noticed(tmp_path: Path) -> None:
    (file := tmp_path / "password").write_text("never printed\n")

    with pytest.raises(AssertionError):
        check(Finished(0, "", "never%20printed", None), [("PGPASSWORD_FILE", str(file))])


@pytest.mark.parametrize("code", [1, 2, 27, 127])
def test_undocumented_code_is_noticed(code: int) -> None:
    with pytest.raises(AssertionError):
        check(Finished(code, "", "", None), [])


def test_traceback_is_noticed() -> None:
    with pytest.raises(AssertionError):
        check(Finished(0, "", "Traceback (most recent call last):", None), [])


@pytest.mark.usefixtures("database")
def test_what_needs_a_server_is_told_by_its_fixtures(request: pytest.FixtureRequest) -> None:
    assert request.node.get_closest_marker("needs_server")


@pytest.mark.parametrize("server", [1])
def test_parameter_of_that_name_is_no_server(server: int, request: pytest.FixtureRequest) -> None:
    assert server
    assert not request.node.get_closest_marker("needs_server")


async def test_database_is_empty_and_new(database: Database) -> None:
    extensions = await database.fetch("SELECT extname FROM pg_extension WHERE extname <> 'plpgsql'")

    assert extensions == []


async def test_simple_query_is_one_round_trip(database: Database) -> None:
    async with RoundTrips(database) as proxy, database.at(proxy.port).connection() as connection:
        await connection.execute("SELECT 1; SELECT 2")
        await connection.execute("SELECT 3")
        await connection.close()

        assert (proxy.after_handshake, proxy.queries) == (2, ["SELECT 1; SELECT 2", "SELECT 3"])


async def test_prepared_query_is_two_round_trips(database: Database) -> None:
    async with RoundTrips(database) as proxy, database.at(proxy.port).connection() as connection:
        await connection.fetch("SELECT $1::int", 1)

        assert proxy.after_handshake == 2


async def test_scram_handshake_after_a_refused_tls_request_is_four_round_trips(database: Database) -> None:
    async with RoundTrips(database) as proxy, database.at(proxy.port).connection():
        assert proxy.handshake == 4


async def test_message_in_pieces_is_counted_once(database: Database) -> None:
    async with RoundTrips(database) as proxy, database.at(proxy.port).connection() as connection:
        await connection.execute(f"SELECT '{'x' * 3_000_000}'")

        assert proxy.after_handshake == 1


async def test_refusing_port_refuses(database: Database) -> None:
    with refusing() as port, pytest.raises(ConnectionRefusedError):
        await database.at(port).connect()


async def test_resetting_port_resets(database: Database) -> None:
    with resetting() as port, pytest.raises((ConnectionResetError, asyncpg.ConnectionDoesNotExistError)):
        await database.at(port).connect()


async def test_silent_port_is_silent(database: Database) -> None:
    with silent() as port, pytest.raises(TimeoutError):
        await asyncpg.connect(database.at(port).url, timeout=0.1)


async def test_cluster_says_that_it_starts_up(embedded: Embedded) -> None:
    cluster = embedded.cluster()

    with cluster.starting_up(), pytest.raises(asyncpg.CannotConnectNowError, match="starting up"):
        await cluster.database.connect()

    await eventually(cluster.server.answers, "recovery to end")


async def test_cluster_says_that_it_shuts_down(cluster: Cluster) -> None:
    async with cluster.database.connection():
        cluster.stop("smart", wait=False)

        with pytest.raises(asyncpg.CannotConnectNowError, match="shutting down"):
            await cluster.database.connect()


async def test_cluster_without_hot_standby_lets_nobody_in(embedded: Embedded) -> None:
    cluster = embedded.cluster()

    with cluster.without_hot_standby():
        detail = await eventually(lambda: refusal_detail(cluster), "recovery to be consistent")

    assert detail == "Hot standby mode is disabled."


async def refusal_detail(cluster: Cluster) -> str | None:
    with pytest.raises(asyncpg.CannotConnectNowError) as caught:
        await cluster.database.connect()
    return caught.value.detail


async def test_standby_is_read_only(embedded: Embedded, cluster: Cluster) -> None:
    standby = embedded.standby_of(cluster).start()

    with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
        await standby.database.execute("CREATE TABLE a ()")


@pytest.mark.docker_only
@pytest.mark.parametrize("mode", ["session", "transaction"])
@pytest.mark.usefixtures("tools")
async def test_pgbouncer_leads_to_the_server(server: Server, database: Database, mode: str) -> None:
    with pgbouncer(server, pool_mode=mode) as bouncer:
        rows = await database.at(bouncer.port).fetch("SELECT current_database()")

    assert rows[0][0] == database.name


@pytest.mark.docker_only
async def test_encrypted_server_refuses_clear_text(encrypted: Server) -> None:
    with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError, match="no encryption"):
        await asyncpg.connect(encrypted.database().url, ssl="disable")
