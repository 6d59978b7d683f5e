"""A connection: which addresses to ask, in which order, for how long; and the driver's arguments."""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, TypeVar
from urllib.parse import urlencode

import asyncpg

from .config import Location
from .driver_errors import NO_ANSWER, describe, nobody_answered
from .errors import BadConfiguration
from .libpq import APPLICATION_NAME, HONOURED
from .settings import bracketed, is_address

if TYPE_CHECKING:
    Connection: TypeAlias = asyncpg.Connection[asyncpg.Record]
else:
    Connection = asyncpg.Connection  # which takes no parameter at run time
Item = TypeVar("Item")
logger = logging.getLogger(__name__)

KEEPALIVE = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 6}
"""Seconds, seconds and tries after which a peer that went away without a word counts as gone."""
DIAL_TIMEOUT = 1.5
"""Seconds for an address to accept, while others are left; a first packet that was lost is sent again after one."""
NEXT_ADDRESS = (OSError, asyncpg.CannotConnectNowError, asyncpg.TargetServerAttributeNotMatched)
"""After these, libpq asks the next address."""
TLS_FILES = (
    "sslrootcert",
    "sslcert",
    "sslkey",
    "sslcrl",
    "ssl_min_protocol_version",
    "ssl_max_protocol_version",
)
"""The parameters that asyncpg takes in a URL only."""


class Address(NamedTuple):
    """An address to ask for a connection, or a socket's folder; and how many others are left, at least."""

    host: str
    address: str
    port: int
    attributes: str
    others: int

    def __str__(self) -> str:
        """Return address and port for messages."""
        return f"{bracketed(self.address)}:{self.port}"


async def open_connection(
    location: Location, turn: int, seconds: float, startup: Mapping[str, str] | None = None
) -> Connection:
    """Open a connection within so many seconds, at the first address that lets us in; with every `turn` another begins.

    Raises BadConfiguration for a setting that went bad.
    """
    if location.problems:
        raise BadConfiguration(*location.problems)
    deadline = asyncio.get_running_loop().time() + seconds
    failures: dict[str, Exception] = {}
    async for address in addresses(location, turn, failures):
        left = deadline - asyncio.get_running_loop().time()
        try:
            connection = await open_at(address, location, left / (1 + address.others), startup or {})
        except NEXT_ADDRESS as error:
            failures[str(address)] = error
        else:
            for silent in [place for place, error in failures.items() if describe(error) == NO_ANSWER]:
                logger.info("%s: %s; connected to %s instead", silent, NO_ANSWER, address)
            return connection
    raise nobody_answered(failures)


async def open_at(address: Address, location: Location, seconds: float, startup: Mapping[str, str]) -> Connection:
    """Open a connection to one address.

    Poolers refuse start-up parameters and confuse prepared statements: none of them without need.
    """
    connection: Connection = await asyncpg.connect(  # type: ignore[call-overload]  # its types know no such loop
        **driver_arguments(location),
        host=address.host,
        port=address.port,
        target_session_attrs=address.attributes,
        loop=Dialler(address.address, DIAL_TIMEOUT if address.others else None),
        timeout=seconds,
        statement_cache_size=0,
        server_settings={**location.server_settings, **startup, "application_name": APPLICATION_NAME},
    )
    keep_alive(connection)
    return connection


async def addresses(location: Location, turn: int, failures: dict[str, Exception]) -> AsyncIterator[Address]:
    """Yield each address; a name that cannot be resolved goes to `failures`."""
    places, wanted = location.places(), location.libpq.get("PGTARGETSESSIONATTRS", "any")
    rounds = ["standby", "any"] if wanted == "prefer-standby" else [wanted]
    asked = [(*place, kind) for kind in rounds for place in turned(places, turn)]
    for number, (host, name, port, kind) in enumerate(asked, 1):
        try:
            found = turned(await resolved(name, port), turn // len(places))
        except OSError as error:
            failures[host] = error
            continue
        for place, address in enumerate(found, 1):
            yield Address(host, address, port, kind, len(asked) - number + len(found) - place)


async def resolved(name: str, port: int) -> list[str]:
    """Return the addresses of a name, in the system's order."""
    if name.startswith("/") or is_address(name):
        return [name]
    host = name.encode() if name.isascii() else name  # text would load the codec for names that are not ASCII
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def turned(items: list[Item], turn: int) -> list[Item]:
    """Return the items with another one at the front each turn."""
    return items[turn % len(items) :] + items[: turn % len(items)]


class Dialler:
    """The event loop as the driver sees it for one connection: it dials an address and not the name of the host.

    The driver keeps the name, for TLS; and its cancellations reach the same server.
    """

    def __init__(self, address: str, seconds: float | None) -> None:
        """Dial `address`, for so many seconds."""
        self.address, self.seconds, self.loop = address, seconds, asyncio.get_running_loop()

    def __getattr__(self, name: str) -> Any:
        """Return everything else as the event loop has it."""
        return getattr(self.loop, name)

    async def create_connection(self, factory: Any, host: str, port: int, *, ssl: Any = None) -> Any:
        """Connect to the address as if it were `host`.

        Where the attempt is given up, nobody asks what came of its question for TLS, and asyncio would complain of that
        in the log.
        """
        named = {"ssl": ssl, "server_hostname": host} if ssl else {}

        def made() -> Any:
            protocol = factory()
            if answer := getattr(protocol, "on_data", None):  # to the question for TLS
                answer.add_done_callback(lambda answer: answer.cancelled() or answer.exception())
            return protocol

        async with asyncio.timeout(self.seconds):
            return await self.loop.create_connection(made, self.address, port, **named)


def keep_alive(connection: Connection) -> None:
    """Have the kernel notice a peer that is gone, for statements and waits that take hours; asyncpg does not."""
    peer = connection._transport.get_extra_info("socket")  # type: ignore[attr-defined]  # there is no public way
    if peer is not None and peer.family != socket.AF_UNIX:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in KEEPALIVE.items():
            if hasattr(socket, option):
                peer.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


def driver_arguments(location: Location) -> dict[str, Any]:
    """Return asyncpg's arguments, but for the address: all of them, or it reads the others from `os.environ`."""
    files = {name: location.libpq[variable] for name in TLS_FILES if (variable := HONOURED[name]) in location.libpq}
    return {
        "dsn": f"postgresql://?{urlencode(files)}" if files else None,
        "user": location.user,
        "password": location.libpq.get("PGPASSWORD"),
        "database": location.database,
        "ssl": location.sslmode,
        "direct_tls": location.libpq.get("PGSSLNEGOTIATION") == "direct",
        "krbsrvname": location.libpq.get("PGKRBSRVNAME"),
        "gsslib": location.libpq.get("PGGSSLIB", "gssapi"),
    }
