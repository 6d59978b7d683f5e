"""What distance multiplies: how often a run waits for the server, counted by a proxy in between."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from proxy import RoundTrips
from servers import eventually

if TYPE_CHECKING:
    from conftest import Finished, Folder, Slipway
    from servers import Database


async def run_through_proxy(
    database: Database, folder: Folder, slipway: Slipway, role: str = ""
) -> tuple[Finished, RoundTrips]:
    """Run over the files in the folder, as they are now."""
    async with RoundTrips(database) as proxy:
        environ = database.at(proxy.port).environ | {"PGSSLMODE": "disable"}
        finished = await asyncio.to_thread(slipway, env=environ, migrations=folder({}), role=role)
    assert finished.code == 0, finished
    return finished, proxy


async def test_nothing_to_do_is_no_round_trip_after_the_handshake(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    folder({f"{number:03}_a.sql": f"CREATE TABLE t{number} ();" for number in range(1, 101)})
    await run_through_proxy(database, folder, slipway)

    _, proxy = await run_through_proxy(database, folder, slipway)

    assert (proxy.handshake, proxy.after_handshake) == (3, 0)
    assert len(proxy.conversations) == 1


async def test_nothing_to_do_as_a_role_is_none_either(database: Database, folder: Folder, slipway: Slipway) -> None:
    folder({"001_a.sql": ""})
    await run_through_proxy(database, folder, slipway, role=database.user)

    _, proxy = await run_through_proxy(database, folder, slipway, role=database.user)

    assert (proxy.handshake, proxy.after_handshake) == (3, 0)


async def test_transactional_file_after_the_first_is_one_round_trip(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    counted = []
    for first, last in ((1, 1), (2, 11), (12, 111)):
        folder({f"{number:03}_a.sql": f"CREATE TABLE t{number} ();" for number in range(first, last + 1)})
        _, proxy = await run_through_proxy(database, folder, slipway)
        counted.append(proxy.after_handshake)

    one_file_and_the_history, ten_files, hundred_files = counted
    assert hundred_files - ten_files == 90
    assert one_file_and_the_history <= 31
    assert ten_files <= 39


async def test_the_server_is_told_goodbye_and_not_waited_for(
    database: Database, folder: Folder, slipway: Slipway
) -> None:
    folder({"001_a.sql": ""})
    await run_through_proxy(database, folder, slipway)

    async with RoundTrips(database) as proxy:
        finished = await asyncio.to_thread(
            slipway, env=database.at(proxy.port).environ | {"PGSSLMODE": "disable"}, migrations=folder({})
        )

        async def goodbye() -> bool:
            return [conversation.said_goodbye for conversation in proxy.conversations] == [True]

        await eventually(goodbye, "the client's goodbye")
    assert finished.code == 0


async def test_nothing_is_prepared_where_nothing_is_to_do(database: Database, folder: Folder, slipway: Slipway) -> None:
    folder({"001_a.sql": ""})
    await run_through_proxy(database, folder, slipway)

    _, proxy = await run_through_proxy(database, folder, slipway)

    assert len(proxy.queries) == 1
