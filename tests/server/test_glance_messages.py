"""Whatever a server or the network makes of the glance's messages: it says nothing, soon, and is never misled."""

from __future__ import annotations

import asyncio
import random
import socket
import threading
import time
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from looks import NOTHING_SAID, look
from pgslipway import glance
from pgslipway.line import MOST_BYTES
from pgslipway.signals import Stop, note
from pgslipway.wire import LONGEST_MESSAGE
from proxy import Fault, FaultProxy, Passage
from servers import LOCALHOST, PATIENCE, refusing, resetting, silent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import Folder, Slipway
    from proxy import Message
    from servers import Database

FILES = {"001_a.sql": "CREATE TABLE a ();", "002_b.sql": "CREATE TABLE b ();"}
HARMLESS = {b"S", b"K", b"N", b"C", b"T"}
"""The messages whose contents do not matter to the glance."""
SHORT = 0.2
"""Seconds for a glance that is not going to be answered."""


def environ_of(database: Database, folder: Folder, **other: str) -> dict[str, str]:
    return database.environ | {"MIGRATE_DIR": str(folder({})), **other}


def with_length(message: Message, length: int) -> bytes:
    return message.kind + length.to_bytes(4) + message.body


def garbage(message: Message) -> bytes:
    return random.Random(len(message.raw)).randbytes(len(message.raw))


def turned(message: Message) -> bytes:
    """One bit of it is another one: of the last byte but two, since the last ones of a list have no meaning."""
    place = max(len(message.raw) - 3, 0)
    return message.raw[:place] + bytes([message.raw[place] ^ 1]) + message.raw[place + 1 :]


ALTERED: dict[str, Callable[[Message], bytes]] = {
    "garbage": garbage,
    "an error": lambda message: b"E" + message.raw[1:],
    "another type": lambda message: (b"D" if message.kind == b"R" else b"R") + message.raw[1:],
    "a huge length": lambda message: with_length(message, 0x7FFFFFFF),
    "a length below its own": lambda message: with_length(message, 3),
    "too long": lambda message: with_length(message, LONGEST_MESSAGE + 1) + bytes(LONGEST_MESSAGE),
    "without its end": lambda message: with_length(message, len(message.body) + 3)[:-1],
    "nothing": lambda _: b"",
    "twice": lambda message: message.raw * 2,
    "a bit turned": turned,
}


def altered(number: int, alter: Callable[[Message], bytes], passage: Passage) -> bytes:
    return alter(passage.message) if passage.number == number else passage.message.raw


async def from_server(database: Database, folder: Folder) -> list[Passage]:
    """What the server says to a glance that finds nothing to do."""
    async with FaultProxy(database) as proxy:
        assert (await look(environ_of(database.at(proxy.port), folder)))[0] == 0
    return [passage for passage in proxy.passages if not passage.from_client]


@pytest.mark.parametrize("alter", ALTERED.values(), ids=ALTERED)
@pytest.mark.parametrize("is_current", [True, False], ids=["nothing to do", "something to do"])
async def test_altered_message_misleads_nobody(
    alter: Callable[[Message], bytes],
    is_current: bool,
    database: Database,
    folder: Folder,
    slipway: Slipway,
) -> None:
    slipway(env=database.environ, migrations=folder(FILES))
    places = await from_server(database, folder)
    assert {passage.message.kind for passage in places} >= {b"R", b"S", b"K", b"Z", b"C", b"T", b"D"}
    if not is_current:
        folder({"003_c.sql": "CREATE TABLE c ();"})

    for place in places:
        async with FaultProxy(database) as proxy:
            proxy.alter = partial(altered, place.number, alter)
            found = await look(environ_of(database.at(proxy.port), folder), SHORT)
        is_harmless = is_current and (place.message.kind in HARMLESS or place is places[-1])
        assert found == NOTHING_SAID or (is_harmless and found[0] == 0), str(place)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
async def test_cut_at_every_message_is_left_to_the_program(
    after: bool, database: Database, folder: Folder, slipway: Slipway
) -> None:
    slipway(env=database.environ, migrations=folder(FILES))
    async with FaultProxy(database) as proxy:
        await look(environ_of(database.at(proxy.port), folder))
        await asyncio.to_thread(proxy.close)

    for place in proxy.passages:
        async with FaultProxy(database) as cut:
            cut.faults = [Fault(place.number, after, cut.reset)]
            code, said = await look(environ_of(database.at(cut.port), folder))
        is_answered = place.number >= max(one.number for one in proxy.passages if not one.from_client)
        assert (code, said) == NOTHING_SAID or (code == 0 and is_answered), str(place)


async def test_program_runs_as_ever_after_a_glance_that_was_cut(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    slipway(env=database.environ, migrations=folder(FILES))

    async with FaultProxy(database) as proxy:
        proxy.faults = [Fault(b"SET LOCAL", after=False, strike=proxy.reset)]
        finished = await asyncio.to_thread(slipway, env=database.at(proxy.port).environ, migrations=folder({}))

    assert finished.code == 0
    assert finished.err.endswith(" up to date: nothing to do; the newest of 2 migrations is 002_b.sql\n")
    assert finished.err.count("\n") == 1
    assert {passage.connection for passage in proxy.passages} == {1, 2}


async def test_silence_after_every_message_ends_with_the_time_for_it(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    slipway(env=database.environ, migrations=folder(FILES))
    places = await from_server(database, folder)

    for place in places:
        async with FaultProxy(database) as proxy:
            proxy.faults = [Fault(place.number, after=False, strike=partial(asyncio.sleep, PATIENCE))]
            assert await look(environ_of(database.at(proxy.port), folder), SHORT) == NOTHING_SAID, str(place)


@pytest.mark.parametrize("server", [refusing, resetting, silent])
async def test_server_that_does_not_answer_is_left_to_the_program(
    server: Callable[[], Iterator[int]], folder: Folder
) -> None:
    environ = {"PGHOST": LOCALHOST, "PGUSER": "u", "MIGRATE_DIR": str(folder(FILES))}

    with server() as port:  # type: ignore[attr-defined]
        assert await look(environ | {"PGPORT": str(port)}, SHORT) == NOTHING_SAID


ENDLESS = {
    "one message": b"S\x7f\xff\xff\xff" + bytes(MOST_BYTES),
    "many messages": (b"N" + (1 << 15).to_bytes(4) + bytes((1 << 15) - 4)) * 32,
    "zeros": bytes(MOST_BYTES),
}
MOST_SENT = 64


@pytest.mark.parametrize("piece", ENDLESS.values(), ids=ENDLESS)
async def test_server_that_does_not_stop_is_not_listened_to_for_long(piece: bytes, folder: Folder) -> None:
    sent: list[int] = []

    def flood(listening: socket.socket) -> None:
        client, _ = listening.accept()
        with client:
            client.recv(1)
            client.sendall(b"R\0\0\0\x08\0\0\0\0")
            try:
                while len(sent) < MOST_SENT:
                    client.sendall(piece)
                    sent.append(len(piece))
            except OSError:
                return

    with socket.create_server((LOCALHOST, 0)) as listening:
        server = threading.Thread(target=flood, args=(listening,))
        server.start()
        port = str(listening.getsockname()[1])
        environ = {"PGHOST": LOCALHOST, "PGPORT": port, "PGUSER": "u", "PGSSLMODE": "disable"}
        found = await look(environ | {"MIGRATE_DIR": str(folder(FILES))})
        await asyncio.to_thread(server.join)

    assert found == NOTHING_SAID
    assert len(sent) < MOST_SENT


async def test_server_that_asks_for_a_password_in_the_clear_does_not_get_it(folder: Folder) -> None:
    heard: list[bytes] = []

    def ask(listening: socket.socket) -> None:
        client, _ = listening.accept()
        with client:
            client.recv(1 << 16)
            client.sendall(b"R\0\0\0\x08\0\0\0\x03")
            heard.append(client.recv(1 << 16))

    with socket.create_server((LOCALHOST, 0)) as listening:
        server = threading.Thread(target=ask, args=(listening,))
        server.start()
        port = str(listening.getsockname()[1])
        environ = {"PGHOST": LOCALHOST, "PGPORT": port, "PGUSER": "u", "PGPASSWORD": "secret", "PGSSLMODE": "disable"}
        found = await look(environ | {"MIGRATE_DIR": str(folder(FILES))})
        await asyncio.to_thread(server.join)

    assert found == NOTHING_SAID
    assert heard == [b""]


async def test_nothing_to_do_takes_four_round_trips_and_a_short_question(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    """Those of TCP and SCRAM, and one for the question, whatever the number of files."""
    slipway(env=database.environ, migrations=folder({f"{number:04}_a.sql": "" for number in range(1, 1001)}))

    async with FaultProxy(database) as proxy:
        code, _ = await look(environ_of(database.at(proxy.port), folder, PGSSLMODE="disable"))

    assert code == 0
    ways = [passage.from_client for passage in proxy.passages]
    tcp = 1
    assert tcp + sum(one and not other for one, other in pairwise(ways)) == 4
    [question] = [passage.message for passage in proxy.passages if passage.message.kind == b"Q"]
    assert len(question.raw) < 500


@pytest.mark.parametrize("number", [1, 4, 7, 9])
async def test_signal_ends_a_glance_at_a_server_that_says_nothing_more(
    number: int, database: Database, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here the time for it does not: it is longer than this test may take."""
    monkeypatch.setattr(glance, "LONGEST", 2 * PATIENCE)
    folder(FILES)
    stop, is_silent = Stop(), asyncio.Event()

    async def fall_silent() -> None:
        is_silent.set()
        await asyncio.sleep(2 * PATIENCE)

    async with FaultProxy(database) as proxy:
        proxy.faults = [Fault(number, after=False, strike=fall_silent)]
        environ = environ_of(database.at(proxy.port), folder, MIGRATE_WAIT_TIMEOUT="0")
        looking = asyncio.create_task(asyncio.to_thread(glance.glance, [], environ, stop, time.monotonic()))
        async with asyncio.timeout(PATIENCE):
            await is_silent.wait()
            stop.action()
            assert (await looking)[0] is None

    assert stop.action is note
