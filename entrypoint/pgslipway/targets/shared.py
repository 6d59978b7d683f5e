"""The connections that targets of one database share, one target at a time each: none is opened for each schema."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

from ..config import Config
from ..connect import ATTEMPT_TIMEOUT, close, wait_for_answer
from ..dial import Connection
from ..driver_errors import BROKEN
from ..errors import DatabaseUnavailable, NotYet

Answer = TypeVar("Answer")


class Shared:
    """The connections that nobody uses now; a run has at most as many as targets are at work, and some that wait."""

    def __init__(self) -> None:
        self.free: list[Connection] = []

    @asynccontextmanager
    async def use(
        self, config: Config, first_query: Callable[[Connection], Awaitable[Answer]]
    ) -> AsyncIterator[tuple[Connection, Answer]]:
        """Give a connection on which `first_query` was answered, as `connect` does, and the answer.

        After a failure it is closed: nobody knows what the session still has. So it is in a transaction that somebody
        has left open.
        """
        config = config.but(shared=None)
        connection, answer = await self.answered(config, first_query)
        try:
            yield connection, answer
        except BaseException:
            await close(connection)
            raise
        if connection.is_closed() or connection.is_in_transaction():
            await close(connection)
        else:
            self.free.append(connection)

    async def answered(
        self, config: Config, first_query: Callable[[Connection], Awaitable[Answer]]
    ) -> tuple[Connection, Answer]:
        """Return a connection and the answer: a free one if it still is one, else a new one."""
        while self.free:
            connection = self.free.pop()
            try:
                async with asyncio.timeout(ATTEMPT_TIMEOUT):  # a network may have forgotten it
                    return connection, await first_query(connection)
            except (*BROKEN, NotYet, DatabaseUnavailable):  # the server may have ended it while nobody used it
                connection.terminate()
            except BaseException:
                await close(connection)
                raise
        return await wait_for_answer(config, first_query)

    def close(self) -> None:
        """Close them all."""
        while self.free:
            self.free.pop().terminate()
