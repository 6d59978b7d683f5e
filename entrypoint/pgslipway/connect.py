"""Wait for Postgres: a connection once a query was answered."""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import count
from math import inf
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, TypeVar

import asyncpg

from .config import Config, Location
from .driver_errors import BROKEN, NO_ANSWER, RETRIED, describe, heals, nobody_answered, verdict
from .errors import AccessRefused, BadConfiguration, DatabaseUnavailable, NotYet, SlipwayError
from .settings import bracketed, is_address

if TYPE_CHECKING:
    Connection: TypeAlias = asyncpg.Connection[asyncpg.Record]
else:
    Connection = asyncpg.Connection  # which takes no parameter at run time
Answer = TypeVar("Answer")
Item = TypeVar("Item")
logger = logging.getLogger(__name__)

APPLICATION_NAME = "pgslipway"
KEEPALIVE = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 6}
"""Seconds, seconds and tries after which a peer that went away without a word counts as gone."""
ATTEMPT_TIMEOUT = 10.0
"""Seconds for one attempt: a server or pooler that accepts and then says nothing is tried anew after that."""
DIAL_TIMEOUT = 1.5
"""Seconds for an address to accept, while others are left; a first packet that was lost is sent again after one."""
NEXT_ADDRESS = (OSError, asyncpg.CannotConnectNowError, asyncpg.TargetServerAttributeNotMatched)
"""After these, libpq asks the next address."""
LAST_ATTEMPT = 0.25
"""Seconds that the attempt at the end of the wait timeout gets at least."""
CLOSE_TIMEOUT = 2.0


def location_of(config: Config) -> Location:
    """Return where Postgres is; without that nothing may connect, and nothing tries to."""
    assert config.location  # noqa: S101
    return config.location


@asynccontextmanager
async def connect(
    config: Config, first_query: Callable[[Connection], Awaitable[Answer]]
) -> AsyncIterator[tuple[Connection, Answer]]:
    """Connect, ask `first_query`, and give both the connection and the answer; close the connection afterwards.

    Tries again until the wait timeout has passed, also while `first_query` raises NotYet. Raises DatabaseUnavailable
    or NotYet then, AccessRefused or BadConfiguration at once, and whatever `first_query` raises that is not about the
    connection.
    """
    connection, answer = await wait_for_answer(config, first_query)
    try:
        yield connection, answer
    except BaseException:
        await close(connection)
        raise
    connection.terminate()  # tells the server, and is spared the round trip until the server has closed as well


@asynccontextmanager
async def reconnect(config: Config) -> AsyncIterator[Connection]:
    """Open another connection while the block runs, like `connect`."""

    async def first_query(connection: Connection) -> str:
        return await connection.execute("SELECT 1")

    async with connect(config, first_query) as (connection, _):
        yield connection


async def wait_for_answer(
    config: Config, first_query: Callable[[Connection], Awaitable[Answer]]
) -> tuple[Connection, Answer]:
    """Return a connection on which `first_query` was answered, and the answer."""
    location, loop = location_of(config), asyncio.get_running_loop()
    deadline = loop.time() + (config.wait_timeout or inf)
    numbers = count()
    causes: dict[str, float] = {}

    async def attempt() -> tuple[Connection, Answer]:
        try:
            seconds = max(LAST_ATTEMPT, min(ATTEMPT_TIMEOUT, deadline - loop.time()))
            async with asyncio.timeout(seconds):  # which leaves open_connection the time to tell who did not answer
                connection = await open_connection(location, next(numbers), 0.95 * seconds)
                return connection, await ask(connection, first_query)
        except Exception as error:
            if location.read_again() and verdict(error) in {AccessRefused, BadConfiguration}:
                raise DatabaseUnavailable(f"{describe(error)}; the settings have changed since") from None
            raise

    try:
        try:
            return await attempt()
        except Exception as error:
            if not heals(error):
                raise
            from .retry import keep_trying, log_causes  # most runs need no second attempt

            log = log_causes(location.name, describe, causes)
            return await keep_trying(attempt, error, heals=heals, limit=deadline - loop.time(), log=log)
    except Exception as error:
        if failure := gave_up(error, config, list(causes)):
            raise failure from error
        raise


async def ask(connection: Connection, first_query: Callable[[Connection], Awaitable[Answer]]) -> Answer:
    """Return the answer; a connection that gives none is closed."""
    try:
        return await first_query(connection)
    except NotYet:
        await close(connection)
        raise
    except BaseException:
        connection.terminate()
        raise


def gave_up(error: Exception, config: Config, causes: Sequence[str]) -> SlipwayError | None:
    """Return the meaning of the last `error`, after earlier causes; None where its own message is enough."""
    failure = verdict(error)
    if failure is None or (isinstance(error, SlipwayError) and failure not in RETRIED):
        return None
    cause = describe(error)
    if cause == NO_ANSWER and (earlier := [other for other in causes if other != NO_ANSWER]):
        cause += f"; before that: {earlier[-1]}"  # the last attempt is cut short
    return failure(f"{location_of(config).name}: {cause}{advice(failure, config)}")


async def open_another(config: Config, startup: Mapping[str, str] | None = None) -> Connection:
    """Open one more connection, with such settings from its start: its first command may then be anything.

    It is tried once, and once more with new settings: a Secret may have been rotated.
    """
    location = location_of(config)
    try:
        return await open_connection(location, 0, ATTEMPT_TIMEOUT, startup)
    except Exception:
        if not location.read_again():
            raise
    return await open_connection(location, 0, ATTEMPT_TIMEOUT, startup)


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
        **location.driver_arguments(),
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
    found = await asyncio.get_running_loop().getaddrinfo(name, port, type=socket.SOCK_STREAM)
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
        """Connect to the address as if it were `host`."""
        named = {"ssl": ssl, "server_hostname": host} if ssl else {}
        async with asyncio.timeout(self.seconds):
            return await self.loop.create_connection(factory, self.address, port, **named)


def keep_alive(connection: Connection) -> None:
    """Have the kernel notice a peer that is gone, for statements and waits that take hours; asyncpg does not."""
    peer = connection._transport.get_extra_info("socket")  # type: ignore[attr-defined]  # there is no public way
    if peer is not None and peer.family != socket.AF_UNIX:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in KEEPALIVE.items():
            if hasattr(socket, option):
                peer.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


async def close(connection: Connection) -> None:
    """Close `connection`, politely where the server answers."""
    try:
        await connection.close(timeout=CLOSE_TIMEOUT)
    except BROKEN:
        connection.terminate()


def advice(failure: type[SlipwayError], config: Config) -> str:
    """Return the end of a message: the operator's next step."""
    if failure in RETRIED:
        return f" (gave up after MIGRATE_WAIT_TIMEOUT={config.wait_timeout:g}s)"
    if failure is AccessRefused:
        return "; check the user and its privileges, the password, the database and the TLS settings"
    return ""
