"""A name with several addresses: each is asked, with time of its own, and the name stays the server's."""

from __future__ import annotations

import logging
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from pgslipway.config import Config, Location, from_environ
from pgslipway.connect import open_another, reconnect
from pgslipway.dial import addresses
from pgslipway.driver_errors import describe
from pgslipway.errors import DatabaseUnavailable
from proxy import RoundTrips
from servers import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from conftest import Folder, Slipway
    from servers import Database

NAME = "db.invalid"
GOOD, OTHER = "127.0.0.1", "127.0.0.2"


@pytest.fixture
async def port(database: Database) -> AsyncIterator[int]:
    """A port at which GOOD leads to the server, and OTHER is free."""
    async with RoundTrips(database) as proxy:
        yield proxy.port


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """The addresses of names; all names that are not in it are unknown."""
    names: dict[str, list[str]] = {}

    def getaddrinfo(name: str | bytes, port: int, *_: Any, **__: Any) -> list[Any]:
        found = names.get(name.decode() if isinstance(name, bytes) else name)
        if found is None:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in found]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return names


@contextmanager
def swallowing(address: str, port: int) -> Iterator[None]:
    """An address that answers no packet: Linux drops those that come when nobody has accepted the one before."""
    with socket.socket() as listening, socket.socket() as one, socket.socket() as two:
        listening.bind((address, port))
        listening.listen(0)
        for client in (one, two):
            client.setblocking(False)
            client.connect_ex((address, port))
        yield


@contextmanager
def silent(address: str, port: int) -> Iterator[None]:
    """An address that accepts, and says nothing."""
    with socket.create_server((address, port)):
        yield


@contextmanager
def refusing(address: str, port: int) -> Iterator[None]:
    """An address at which nobody listens."""
    with socket.socket() as held:
        held.bind((address, port))
        yield


def config(database: Database, port: int, wait_timeout: str, **environ: str) -> Config:
    given = database.environ | {"PGHOST": NAME, "PGPORT": str(port), "MIGRATE_WAIT_TIMEOUT": wait_timeout}
    return from_environ(given | environ, {})


@pytest.mark.parametrize("bad", [swallowing, silent, refusing])
@pytest.mark.parametrize("order", [[OTHER, GOOD], [GOOD, OTHER]], ids=["first", "last"])
async def test_address_that_lets_nobody_in_does_not_hide_the_other(
    bad: Any, order: list[str], database: Database, port: int, known: dict[str, list[str]],
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    known[NAME] = order
    caplog.set_level(logging.INFO, "pgslipway")
    monkeypatch.setattr(logging.getLogger("pgslipway"), "propagate", True)  # a program that ran in here turns it off

    with bad(OTHER, port):
        async with reconnect(config(database, port, "8s")):  # so that one attempt is enough
            pass

    is_slow = bad is not refusing and order[0] == OTHER
    expected = f"{OTHER}:{port}: no answer in time; connected to {GOOD}:{port} instead"
    assert caplog.messages == ([expected] if is_slow else [])


async def test_names_of_several_hosts_are_asked_like_addresses(
    database: Database, port: int, known: dict[str, list[str]]
) -> None:
    known["b.invalid"] = [OTHER, GOOD]

    with swallowing(OTHER, port):
        async with reconnect(config(database, port, "8s", PGHOST="nowhere.invalid,b.invalid")):
            pass


async def test_message_has_the_answer_of_each_address(
    database: Database, port: int, known: dict[str, list[str]]
) -> None:
    known[NAME] = ["127.0.0.3", OTHER]

    with swallowing(OTHER, port), refusing("127.0.0.3", port), pytest.raises(DatabaseUnavailable) as raised:
        async with reconnect(config(database, port, "1s")):
            pass

    assert str(raised.value) == (
        f"{NAME}:{port}/{database.name}: {OTHER}:{port}: no answer in time; 127.0.0.3:{port}: Connection refused "
        "(gave up after MIGRATE_WAIT_TIMEOUT=1s)"
    )


async def test_answer_of_all_addresses_is_told_once(database: Database, port: int, known: dict[str, list[str]]) -> None:
    known[NAME] = ["127.0.0.3", OTHER]

    with refusing(OTHER, port), refusing("127.0.0.3", port), pytest.raises(DatabaseUnavailable) as raised:
        async with reconnect(config(database, port, "100ms")):
            pass

    assert str(raised.value) == (
        f"{NAME}:{port}/{database.name}: Connection refused (gave up after MIGRATE_WAIT_TIMEOUT=0.1s)"
    )


async def test_cancellation_reaches_the_server_whatever_the_name_means_by_then(
    database: Database, port: int, known: dict[str, list[str]]
) -> None:
    known[NAME] = [OTHER, GOOD]
    with refusing(OTHER, port):
        connection = await open_another(config(database, port, "8s"))
    known.clear()
    pid = connection.get_server_pid()

    with pytest.raises(TimeoutError):
        await connection.execute("SELECT pg_sleep(600)", timeout=0.1)

    async def is_idle() -> bool:
        state = f"SELECT state = 'idle' FROM pg_stat_activity WHERE pid = {pid}"
        async with database.connection() as other:
            return bool(await other.fetchval(state))

    await eventually(is_idle, "the statement to be cancelled")
    await connection.close()


TURNS = [
    (0, "any", ["a1", "a2", "b1", "b2"]),
    (1, "any", ["b1", "b2", "a1", "a2"]),
    (2, "any", ["a2", "a1", "b2", "b1"]),
    (3, "any", ["b2", "b1", "a2", "a1"]),
    (0, "prefer-standby", ["a1", "a2", "b1", "b2", "a1", "a2", "b1", "b2"]),
]


@pytest.mark.parametrize(("turn", "wanted", "expected"), TURNS)
async def test_each_address_is_the_first_one_once(
    turn: int, wanted: str, expected: list[str], known: dict[str, list[str]]
) -> None:
    known |= {"a": ["a1", "a2"], "b": ["b1", "b2"]}
    location = Location({"PGUSER": "u", "PGHOST": "a,b", "PGTARGETSESSIONATTRS": wanted})
    failures: dict[str, Exception] = {}

    found = [address async for address in addresses(location, turn, failures)]

    assert [address.address for address in found] == expected
    assert [address.host for address in found] == [address[0] for address in expected]
    kinds = ["any"] * 4 if wanted == "any" else ["standby"] * 4 + ["any"] * 4
    assert [address.attributes for address in found] == kinds
    assert (found[-1].others, failures) == (0, {})
    assert all(address.others for address in found[:-1])


async def test_name_that_is_unknown_is_a_failure_among_others(known: dict[str, list[str]]) -> None:
    known["a"] = ["a1"]
    failures: dict[str, Exception] = {}

    found = [address async for address in addresses(Location({"PGUSER": "u", "PGHOST": "b,a"}), 0, failures)]

    assert [address.address for address in found] == ["a1"]
    assert [describe(failure) for failure in failures.values()] == ["Name or service not known"]


def test_address_is_asked_instead_of_the_name_which_the_password_file_goes_by(
    database: Database, folder: Folder, slipway: Slipway, tmp_path: Path
) -> None:
    (passfile := tmp_path / ".pgpass").write_text(f"{NAME}:*:*:*:{database.password}\n")
    passfile.chmod(0o600)
    given = {name: value for name, value in database.environ.items() if name != "PGPASSWORD"}
    named = given | {"PGHOST": NAME, "PGHOSTADDR": GOOD}

    finished = slipway(env=named | {"HOME": str(tmp_path)}, migrations=folder({"001_a.sql": "CREATE TABLE a ();"}))
    again = slipway(env=named | {"PGPASSFILE": str(passfile)}, migrations=folder({}))

    assert (finished.code, again.code) == (0, 0), (finished, again)
    assert f"connected to {NAME}:{database.port}/{database.name}\n" in finished.err


@pytest.mark.parametrize("wanted", ["prefer-standby", "primary", "read-write"])
def test_primary_is_taken_where_it_is_wanted_or_nothing_better_is_there(
    wanted: str, database: Database, folder: Folder, slipway: Slipway
) -> None:
    environ = database.environ | {"PGTARGETSESSIONATTRS": wanted, "PGHOST": f"{database.host},{database.host}"}

    finished = slipway(env=environ, migrations=folder({"001_a.sql": "CREATE TABLE a ();"}))

    assert finished.code == 0, finished
