"""Wait for Postgres: which failure can heal, which is final, and a connection once a query was answered."""

import asyncio
import logging
import os
import re
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import count
from math import inf
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import asyncpg

from .config import Config, locate
from .errors import AccessRefused, BadConfiguration, DatabaseUnavailable, NotYet, SlipwayError
from .libpq import PG_VARIABLES, host_list, target

if TYPE_CHECKING:
    Connection: TypeAlias = asyncpg.Connection[asyncpg.Record]
else:
    Connection = asyncpg.Connection  # which takes no parameter at run time
Answer = TypeVar("Answer")
logger = logging.getLogger(__name__)

APPLICATION_NAME = "pgslipway"
BROKEN = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)
"""What asyncpg raises when a connection breaks, among what it raises otherwise."""
KEEPALIVE = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 6}
"""Seconds, seconds and tries after which a peer that went away without a word counts as gone."""
ATTEMPT_TIMEOUT = 10.0
"""Seconds for one attempt: a server or pooler that accepts and then says nothing is tried anew after that."""
LAST_ATTEMPT = 0.25
"""Seconds that the attempt at the end of the wait timeout gets at least."""
RETRIED = {DatabaseUnavailable, NotYet}
NO_ANSWER = "no answer in time"
CLOSE_TIMEOUT = 2.0
HEALING = {"08", "25", "40", "53", "57", "58", "XX"}
"""Classes of SQLSTATE that may pass: connection, read-only, conflict, resources, operator, system, internal."""
CERTIFICATE_FILES = {"PEM", "X509"}
"""The parts of OpenSSL that complain when a certificate's file or a key's cannot be used."""
POOLER_REFUSES = re.compile(r"unsupported|no such|auth|not allowed|SSL|TLS", re.IGNORECASE)
"""What PgBouncer says (with 08P01 for everything) when trying again cannot help."""


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
    loop = asyncio.get_running_loop()
    deadline = loop.time() + (config.wait_timeout or inf)
    numbers = count()
    causes: dict[str, float] = {}

    async def attempt() -> tuple[Connection, Answer]:
        async with asyncio.timeout(max(LAST_ATTEMPT, min(ATTEMPT_TIMEOUT, deadline - loop.time()))):
            connection = await open_connection(config, next(numbers))
            try:
                return connection, await first_query(connection)
            except NotYet:
                await close(connection)
                raise
            except BaseException:
                connection.terminate()
                raise

    try:
        try:
            return await attempt()
        except Exception as error:
            if not heals(error):
                raise
            from .waiting import keep_trying, log_causes  # most runs need no second attempt

            log = log_causes(target(config.libpq), describe, causes)
            return await keep_trying(attempt, error, heals=heals, limit=deadline - loop.time(), log=log)
    except Exception as error:
        if failure := gave_up(error, config, list(causes)):
            raise failure from error
        raise


def gave_up(error: Exception, config: Config, causes: Sequence[str]) -> SlipwayError | None:
    """Return what `error` means now that there is no other attempt, after such causes; None where it says so itself."""
    failure = verdict(error)
    if failure is None or (isinstance(error, SlipwayError) and failure not in RETRIED):
        return None
    cause = describe(error)
    if cause == NO_ANSWER and (earlier := [other for other in causes if other != NO_ANSWER]):
        cause += f"; before that: {earlier[-1]}"  # the last attempt is cut short
    return failure(f"{target(config.libpq)}: {cause}{advice(failure, config)}")


def heals(error: BaseException) -> bool:
    """Tell whether another attempt may succeed."""
    return verdict(error) in RETRIED


async def open_another(config: Config, startup: Mapping[str, str] | None = None) -> Connection:
    """Open one more connection, once, with such settings from its start: its first command may then be anything."""
    return await open_connection(config, 0, startup)


async def open_connection(config: Config, first: int, startup: Mapping[str, str] | None = None) -> Connection:
    """Open a connection, once. Poolers refuse start-up parameters and confuse prepared statements: none of them.

    Files of settings are read anew: a Secret may have been rotated. Raises BadConfiguration for one that went bad.
    Everything but the hosts reaches asyncpg by its own PG* variables. Of several hosts, the one numbered `first`
    (modulo their number) is asked first: asyncpg's timeout is for all of them together, so a host that swallows
    packets would keep the others from ever being asked.
    """
    config = locate(config)
    if config.problems:
        raise BadConfiguration(*config.problems)
    export(config.libpq)
    hosts, ports = host_list(config.libpq)
    first %= len(hosts) or 1
    connection = await asyncpg.connect(
        host=hosts[first:] + hosts[:first] or None,
        port=ports[first:] + ports[:first] or None,
        timeout=ATTEMPT_TIMEOUT,
        statement_cache_size=0,
        server_settings={**config.server_settings, **(startup or {}), "application_name": APPLICATION_NAME},
    )
    keep_alive(connection)
    return connection


def keep_alive(connection: Connection) -> None:
    """Have the kernel notice a peer that is gone, for statements and waits that take hours; asyncpg does not."""
    peer = connection._transport.get_extra_info("socket")  # type: ignore[attr-defined]  # there is no public way
    if peer is not None and peer.family != socket.AF_UNIX:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in KEEPALIVE.items():
            if hasattr(socket, option):
                peer.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


def export(libpq: Mapping[str, str]) -> None:
    """Make these the PG* variables of the process, which asyncpg reads by itself: an empty one as a value."""
    for variable in PG_VARIABLES:
        os.environ.pop(variable, None)
    os.environ.update(libpq)


async def close(connection: Connection) -> None:
    """Close `connection`, politely where the server answers."""
    try:
        await connection.close(timeout=CLOSE_TIMEOUT)
    except BROKEN:
        connection.terminate()


def verdict(error: BaseException) -> type[SlipwayError] | None:
    """Return what a failure to connect means: DatabaseUnavailable where waiting can heal it, None for a bug.

    The cases are the rows of "What asyncpg raises" in the tests; the cause says more than the error itself.
    """
    match error := root(error):
        case SlipwayError():
            return type(error)
        case asyncpg.PostgresError():
            return by_sqlstate(error)
        case asyncpg.TargetServerAttributeNotMatched() | ssl.SSLEOFError() | ssl.SSLZeroReturnError():
            return DatabaseUnavailable
        case ssl.SSLError() | PermissionError():  # before ValueError, which a certificate's error is as well
            return BadConfiguration if is_about_a_file(error) else AccessRefused
        case asyncpg.ClientConfigurationError() | ValueError() | OverflowError():
            return BadConfiguration
        case asyncpg.InterfaceError() | asyncpg.InternalClientError():
            return AccessRefused if "authentication" in str(error) else DatabaseUnavailable
        case OSError():
            return AccessRefused if "rejected SSL upgrade" in str(error) else DatabaseUnavailable
    return None


def is_about_a_file(error: BaseException) -> bool:
    """Tell whether a TLS error is about the file of a certificate or of a key."""
    return getattr(error, "library", None) in CERTIFICATE_FILES or "PEM lib" in str(error)


def by_sqlstate(error: asyncpg.PostgresError) -> type[SlipwayError]:
    """Return what the server's own refusal of a connection means."""
    state = error.sqlstate or ""
    if state == "57P03" and "Hot standby mode is disabled" in (error.detail or ""):
        return AccessRefused
    if state == "08P01" and POOLER_REFUSES.search(str(error)):
        return BadConfiguration if "unsupported startup" in str(error) else AccessRefused
    if state in {"42704", "22023"}:
        return BadConfiguration
    return DatabaseUnavailable if state[:2] in HEALING or state == "55P03" else AccessRefused


def root(error: BaseException) -> BaseException:
    """Return the error that says most: asyncpg hides the server's last words behind "connection was closed"."""
    while isinstance(cause := error.__cause__ or hidden_by(error), asyncpg.PostgresError | OSError):
        error = cause
    return error


def hidden_by(error: BaseException) -> BaseException | None:
    """Return what went wrong before asyncpg complained that a broken connection cannot be tidied up."""
    is_broken = isinstance(error, asyncpg.InterfaceError) and not isinstance(error, asyncpg.ClientConfigurationError)
    return error.__context__ if is_broken else None


def describe(error: BaseException | None) -> str:
    """Return what went wrong in one line, for a log."""
    if error is None:
        return "no answer"
    error = root(error)
    if isinstance(error, ValueError | OverflowError) and not isinstance(error, asyncpg.InterfaceError | OSError):
        return "a connection setting cannot be used"  # Python's own text may quote a piece of a password
    if isinstance(error, TimeoutError) and not error.errno:
        return NO_ANSWER
    if isinstance(error, ConnectionError) and error.errno:
        return os.strerror(error.errno)  # asyncio's own text does not say why
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    if isinstance(error, ssl.SSLError) and is_about_a_file(error):
        return f"{text}; look at PGSSLCERT, PGSSLKEY (without a passphrase), PGSSLROOTCERT and PGSSLCRL"
    if "connection_lost()" in text:
        return "the server closed the connection"  # the driver's own words are about itself
    return " ".join(text.split()) or type(error).__name__


def advice(failure: type[SlipwayError], config: Config) -> str:
    """Return what the operator may do, as the end of a message."""
    if failure in RETRIED:
        return f" (gave up after MIGRATE_WAIT_TIMEOUT={config.wait_timeout:g}s)"
    if failure is AccessRefused:
        return "; check the user and its privileges, the password, the database and the TLS settings"
    return ""
