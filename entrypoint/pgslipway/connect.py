"""Wait for Postgres: a connection once a query was answered."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import count
from math import inf
from typing import TypeVar

from .config import Config, Location
from .dial import Connection, open_connection
from .driver_errors import BROKEN, NO_ANSWER, RETRIED, describe, heals, is_full, lacks_database, verdict
from .errors import AccessRefused, BadConfiguration, DatabaseUnavailable, NoDatabase, NoPlace, NotYet, SlipwayError

Answer = TypeVar("Answer")

ATTEMPT_TIMEOUT = 10.0
"""Seconds for one attempt: a server or pooler that accepts and then says nothing is tried anew after that."""
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
    if config.shared:
        async with config.shared.use(config, first_query) as used:
            yield used
        return
    connection, answer = await wait_for_answer(config, first_query)
    try:
        yield connection, answer
    except BaseException:
        await close(connection)
        raise
    connection.terminate()  # tells the server, and is spared the round trip until the server has closed as well


@asynccontextmanager
async def use(
    connection: Connection,
    first_query: Callable[[Connection], Awaitable[Answer]],
    *,
    closes: Callable[[Answer | None], bool],
) -> AsyncIterator[tuple[Connection, Answer]]:
    """Ask `first_query` on a connection that is there, like `connect` on a new one.

    It is closed afterwards where the answer, or None without one, `closes` it.
    """
    answer = None
    try:
        answer = await first_query(connection)
        yield connection, answer
    finally:
        if closes(answer):
            await close(connection)


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
    deadline = loop.time() + (config.wait_timeout or inf) - location.waited
    location.waited = 0.0
    numbers = count()
    causes: dict[str, float] = {}
    told: Exception | None = None

    async def attempt() -> tuple[Connection, Answer]:
        nonlocal told
        try:
            seconds = max(LAST_ATTEMPT, min(ATTEMPT_TIMEOUT, deadline - loop.time()))
            async with asyncio.timeout(seconds):  # which leaves open_connection the time to tell who did not answer
                connection = await open_connection(location, next(numbers), 0.95 * seconds)
                return connection, await ask(connection, first_query)
        except Exception as error:
            told = told if describe(error) == NO_ANSWER else error
            await help_next(config, location, seconds, error)
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
        if failure := gave_up(error, config, list(causes), told):
            raise failure from error
        raise


async def help_next(config: Config, location: Location, seconds: float, error: Exception) -> None:
    """After a failed attempt, create the missing database or read the settings again: the next attempt may succeed.

    Raises DatabaseUnavailable then, NoDatabase where somebody else creates it, and the failures of doing so.
    """
    if config.create_database != "no" and lacks_database(error):
        if config.create_database == "expect":
            raise NoDatabase(describe(error)) from None
        from .create import create_database  # once in the life of a database

        await create_database(config, location, seconds)
        raise DatabaseUnavailable(describe(error)) from None
    if location.read_again() and verdict(error) in {AccessRefused, BadConfiguration}:
        raise DatabaseUnavailable(f"{describe(error)}; the settings have changed since") from None


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


def gave_up(
    error: Exception, config: Config, causes: Sequence[str], told: Exception | None = None
) -> SlipwayError | None:
    """Return the meaning of the last `error`, after earlier causes; None where its own message is enough.

    `told` is the last one that was an answer.
    """
    failure = verdict(error)
    if failure is None or (isinstance(error, SlipwayError) and failure not in RETRIED):
        return None
    if failure is DatabaseUnavailable and is_full(told):
        failure = NoPlace
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
