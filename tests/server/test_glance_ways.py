"""The ways to a server that the glance knows: by name, address and socket, with and without TLS, behind poolers."""

from __future__ import annotations

import asyncio
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from looks import NOTHING_SAID, look
from pgslipway import glance
from pgslipway.signals import Stop
from servers import IN_CLEAR, LOCALHOST, pgbouncer, silent

if TYPE_CHECKING:
    from collections.abc import Mapping

    from conftest import Folder, Slipway
    from servers import Certificates, Cluster, Database, Embedded, Server

FILES = {"001_a.sql": "CREATE TABLE a ();", "002_b.sql": ""}


async def applied(slipway: Slipway, database: Database, folder: Folder) -> dict[str, str]:
    """Apply FILES; the environment in which there is nothing left to do."""
    finished = await asyncio.to_thread(slipway, env=database.environ, migrations=folder(FILES))
    assert finished.code == 0, finished
    return database.environ | {"MIGRATE_DIR": str(folder({}))}


async def assert_seen(environ: Mapping[str, str]) -> None:
    code, said = await look(environ)
    assert code == 0
    assert said.endswith(" up to date: nothing to do; the newest of 2 migrations is 002_b.sql\n")


# --- addresses --------------------------------------------------------------------------------------------------

HBA = """
local all all {method}
host all all 127.0.0.1/32 {method}
host all all ::1/128 {method}
"""


@pytest.fixture(params=["scram-sha-256", "trust"])
def home(request: pytest.FixtureRequest, embedded: Embedded) -> Cluster:
    """A server on this machine that is reached in every way, and asks for a password or trusts everybody."""
    return embedded.cluster(
        HBA.format(method=request.param), listen_addresses="127.0.0.1,::1", unix_socket_directories="/tmp"
    ).start()


def has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


async def test_every_address_of_a_server(home: Cluster, folder: Folder, slipway: Slipway) -> None:
    environ = await applied(slipway, home.database, folder)
    await assert_seen(environ)
    await assert_seen(environ | {"PGHOST": "localhost"})
    await assert_seen(environ | {"PGHOST": "/tmp"})
    await assert_seen(environ | {"PGHOST": "/tmp", "PGSSLMODE": "disable"})
    await assert_seen(environ | {"PGHOST": "no.such.host.invalid", "PGHOSTADDR": LOCALHOST})
    if has_ipv6():
        await assert_seen(environ | {"PGHOST": "::1"})


async def test_name_whose_first_address_refuses(database: Database, folder: Folder, slipway: Slipway) -> None:
    """`localhost` is ::1 first, where most servers of tests do not listen."""
    environ = await applied(slipway, database, folder)

    await assert_seen(environ | {"PGHOST": "localhost"})


# --- TLS --------------------------------------------------------------------------------------------------------

BELIEVED = {
    "prefer": ({"PGSSLMODE": "prefer"}, LOCALHOST),
    "prefer, with another authority": ({"PGSSLMODE": "prefer", "PGSSLROOTCERT": "stranger"}, LOCALHOST),
    "require": ({"PGSSLMODE": "require"}, LOCALHOST),
    "require, with an authority": ({"PGSSLMODE": "require", "PGSSLROOTCERT": "authority"}, LOCALHOST),
    "verify-ca": ({"PGSSLMODE": "verify-ca", "PGSSLROOTCERT": "authority"}, LOCALHOST),
    "verify-full": ({"PGSSLMODE": "verify-full", "PGSSLROOTCERT": "authority"}, "localhost"),
    "verify-full, at an address": (
        {"PGSSLMODE": "verify-full", "PGSSLROOTCERT": "authority", "PGHOSTADDR": LOCALHOST},
        "localhost",
    ),
}
NOT_BELIEVED = {
    "disable": ({"PGSSLMODE": "disable"}, LOCALHOST),
    "require, with another authority": ({"PGSSLMODE": "require", "PGSSLROOTCERT": "stranger"}, LOCALHOST),
    "verify-ca, with another authority": ({"PGSSLMODE": "verify-ca", "PGSSLROOTCERT": "stranger"}, LOCALHOST),
    "verify-full, with another authority": ({"PGSSLMODE": "verify-full", "PGSSLROOTCERT": "stranger"}, "localhost"),
    "verify-full, of another name": ({"PGSSLMODE": "verify-full", "PGSSLROOTCERT": "authority"}, LOCALHOST),
    "verify-full, of another name at the address": (
        {"PGSSLMODE": "verify-full", "PGSSLROOTCERT": "authority", "PGHOSTADDR": LOCALHOST},
        "db.example",
    ),
    "verify-full, without an authority": ({"PGSSLMODE": "verify-full"}, "localhost"),
}


def with_authority(settings: Mapping[str, str], certificates: Certificates, folder: Path) -> dict[str, str]:
    """The settings with the authority in a file."""
    if "PGSSLROOTCERT" not in settings:
        return dict(settings)
    (path := folder / "root.pem").write_bytes(getattr(certificates, settings["PGSSLROOTCERT"]))
    return {**settings, "PGSSLROOTCERT": str(path)}


@pytest.mark.docker_only
@pytest.mark.parametrize("login", ["as usual", IN_CLEAR])
async def test_server_with_tls_is_believed_as_the_program_believes_it(
    login: str, encrypted: Server, certificates: Certificates, folder: Folder, slipway: Slipway, tmp_path: Path
) -> None:
    async with encrypted.fresh_database() as database:
        await applied(slipway, database, folder)
        if login == IN_CLEAR:
            database = await database.create_role(IN_CLEAR, "SUPERUSER LOGIN")
        for settings, host in BELIEVED.values():
            environ = database.at(encrypted.port, host).environ | with_authority(settings, certificates, tmp_path)
            await assert_seen(environ | {"MIGRATE_DIR": str(folder({}))})
        for name, (settings, host) in NOT_BELIEVED.items():
            environ = database.at(encrypted.port, host).environ | with_authority(settings, certificates, tmp_path)
            assert await look(environ | {"MIGRATE_DIR": str(folder({}))}) == NOTHING_SAID, name


@pytest.mark.docker_only
async def test_certificate_of_the_home_folder_is_left_to_the_program(
    encrypted: Server, folder: Folder, slipway: Slipway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with encrypted.fresh_database() as database:
        environ = await applied(slipway, database, folder)
        monkeypatch.setenv("HOME", str(tmp_path))
        await assert_seen(environ)

        (tmp_path / ".postgresql").mkdir()
        assert await look(environ) == NOTHING_SAID


# --- poolers ----------------------------------------------------------------------------------------------------


@pytest.mark.docker_only
@pytest.mark.parametrize("mode", ["session", "transaction"])
async def test_pooler_is_asked_like_a_server(
    mode: str, database: Database, tools: str, folder: Folder, slipway: Slipway
) -> None:
    assert tools
    environ = await applied(slipway, database, folder)

    with pgbouncer(database.server, pool_mode=mode, default_pool_size=2) as pooler:
        for _ in range(5):
            await assert_seen(environ | {"PGPORT": str(pooler.port)})


# --- what the driver reads by itself ------------------------------------------------------------------------------

BROKEN = "-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n"


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home folder of this process."""
    (path := tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(path))
    return path


async def test_files_of_the_home_folder_are_left_to_the_driver(
    database: Database, folder: Folder, slipway: Slipway, house: Path
) -> None:
    environ = await applied(slipway, database, folder)
    await assert_seen(environ)

    (house / ".pgpass").write_text("localhost:5432\n")
    await assert_seen(environ)
    assert await look({name: value for name, value in environ.items() if name != "PGPASSWORD"}) == NOTHING_SAID

    (house / ".postgresql").mkdir()
    (house / ".postgresql/postgresql.crt").write_text(BROKEN)
    assert await look(environ) == NOTHING_SAID
    await assert_seen(environ | {"PGSSLMODE": "disable"})


async def test_home_folder_that_cannot_be_looked_at_is_left_to_the_driver(
    database: Database, folder: Folder, slipway: Slipway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its name is too long here; where another user's is closed, the driver fails as well."""
    environ = await applied(slipway, database, folder)
    monkeypatch.setenv("HOME", "/" + "x" * 300)

    assert await look(environ) == NOTHING_SAID


async def test_file_of_tls_is_left_to_the_driver_at_a_socket_too(
    home: Cluster, folder: Folder, slipway: Slipway, tmp_path: Path
) -> None:
    environ = await applied(slipway, home.database, folder) | {"PGHOST": "/tmp"}
    (broken := tmp_path / "broken.pem").write_text(BROKEN)

    assert await look(environ | {"PGSSLMODE": "require", "PGSSLROOTCERT": str(broken)}) == NOTHING_SAID
    assert await look(environ | {"PGSSLMODE": "verify-full"}) == NOTHING_SAID
    assert await look(environ | {"PGSSLMODE": "prefer"}) == NOTHING_SAID


async def test_address_beside_the_folder_of_a_socket_is_refused(
    home: Cluster, folder: Folder, slipway: Slipway
) -> None:
    """libpq would take the address, the driver the socket, and TLS the name."""
    environ = await applied(slipway, home.database, folder) | {"PGHOST": "/tmp", "PGHOSTADDR": LOCALHOST}

    finished = await asyncio.to_thread(slipway, env=environ, migrations=folder({}))

    assert await look(environ) == NOTHING_SAID
    assert finished.code == 20, finished
    assert "PGHOSTADDR: expected no address where PGHOST has the folder of a socket" in finished.err


@pytest.mark.parametrize("host", ["1.2.3.400", "300.300.300.300", "::1%nowhere"])
async def test_name_that_looks_like_an_address_is_not_asked_of_anybody(host: str, folder: Folder) -> None:
    environ = {"PGHOST": host, "PGUSER": "u", "MIGRATE_DIR": str(folder(FILES))}

    assert await look(environ) == NOTHING_SAID


async def test_only_a_server_that_said_nothing_was_waited_for(database: Database, folder: Folder) -> None:
    environ = database.environ | {"MIGRATE_DIR": str(folder(FILES))}

    def waited(**other: str) -> float:
        return glance.glance([], environ | other, Stop(), time.monotonic())[1]

    with silent() as port:
        assert await asyncio.to_thread(waited, PGPORT=str(port), MIGRATE_WAIT_TIMEOUT="200ms") > 0
    assert await asyncio.to_thread(waited) == 0
    assert await asyncio.to_thread(waited, PGPASSWORD="wrong") == 0
