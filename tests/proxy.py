"""A proxy that counts how often a client waits for Postgres: the round trips, which are what distance multiplies."""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

LOCALHOST = "127.0.0.1"
LENGTH = 4
CHUNK = 1 << 16
TLS_REQUEST = 80877103
GSS_REQUEST = 80877104

QUERY = b"Q"
READY_FOR_QUERY = b"Z"
TERMINATE = b"X"
STARTUP = b""


class Address(Protocol):
    """What has a host and a port: a server, a database."""

    @property
    def host(self) -> str: ...

    @property
    def port(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Message:
    """One message of the protocol; those that open a conversation have no type byte."""

    kind: bytes
    body: bytes

    @property
    def asks_for_encryption(self) -> bool:
        return self.kind == STARTUP and int.from_bytes(self.body[:LENGTH]) in (TLS_REQUEST, GSS_REQUEST)


@dataclass(slots=True)
class Reader:
    """Cuts one direction's bytes into messages, whatever pieces they come in."""

    kind_length: int
    _buffer: bytearray = field(default_factory=bytearray)

    def feed(self, data: bytes) -> Iterator[Message]:
        """Yield each message that `data` completes."""
        self._buffer += data
        while message := self._next():
            yield message

    def _next(self) -> Message | None:
        head = self.kind_length + LENGTH
        if len(self._buffer) < head:
            return None
        end = self.kind_length + int.from_bytes(self._buffer[self.kind_length : head])
        if len(self._buffer) < end:
            return None
        message = Message(bytes(self._buffer[: self.kind_length]), bytes(self._buffer[head:end]))
        del self._buffer[:end]
        return message


@dataclass(slots=True)
class Conversation:
    """What one connection said: its round trips and the texts of its simple queries."""

    handshake: int = 0
    after_handshake: int = 0
    queries: list[str] = field(default_factory=list)
    _is_ready: bool = False
    _awaits_answer: bool = False
    _awaits_encryption: bool = False
    _from_client: Reader = field(default_factory=lambda: Reader(kind_length=0))
    _from_server: Reader = field(default_factory=lambda: Reader(kind_length=1))

    def client_said(self, data: bytes) -> None:
        """Take in what goes to the server; a burst becomes a round trip only once it is answered."""
        for message in self._from_client.feed(data):
            self._awaits_answer = message.kind != TERMINATE
            self._awaits_encryption = message.asks_for_encryption
            if message.kind == STARTUP and not message.asks_for_encryption:
                self._from_client.kind_length = 1
            if message.kind == QUERY:
                self.queries.append(message.body.removesuffix(b"\0").decode())

    def server_said(self, data: bytes) -> None:
        """Take in what goes to the client."""
        self._count()
        if self._awaits_encryption:
            assert data == b"N", "only conversations in the clear can be counted"
            self._awaits_encryption = False
            return
        for message in self._from_server.feed(data):
            self._is_ready |= message.kind == READY_FOR_QUERY

    def _count(self) -> None:
        if self._awaits_answer and self._is_ready:
            self.after_handshake += 1
        elif self._awaits_answer:
            self.handshake += 1
        self._awaits_answer = False


class RoundTrips:
    """`async with RoundTrips(server) as proxy`: a port to use in the server's place, and what went through it."""

    def __init__(self, server: Address) -> None:
        self.conversations: list[Conversation] = []
        self._server = server
        self._tasks: set[asyncio.Task[None]] = set()
        self._clients: set[asyncio.StreamWriter] = set()

    def reset(self) -> None:
        """End every client's connection with a TCP reset, as a firewall or a dying node does."""
        for client in self._clients:
            end_at_once = struct.pack("ii", 1, 0)
            client.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, end_at_once)
            client.transport.abort()

    @property
    def port(self) -> int:
        port: int = self._listening.sockets[0].getsockname()[1]
        return port

    @property
    def handshake(self) -> int:
        """Round trips up to each connection's first ReadyForQuery."""
        return sum(conversation.handshake for conversation in self.conversations)

    @property
    def after_handshake(self) -> int:
        """Round trips after that; saying good-bye is none."""
        return sum(conversation.after_handshake for conversation in self.conversations)

    @property
    def queries(self) -> list[str]:
        """The texts of the simple queries, connection by connection."""
        return [query for conversation in self.conversations for query in conversation.queries]

    async def __aenter__(self) -> Self:
        self._listening = await asyncio.start_server(self._serve, LOCALHOST, 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listening.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._listening.wait_closed()

    async def _serve(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._clients.add(to_client)
        with suppress(ConnectionError, asyncio.CancelledError):
            await self._relay(client, to_client)
        self._clients.discard(to_client)
        to_client.close()

    async def _relay(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        server, to_server = await asyncio.open_connection(self._server.host, self._server.port)
        conversation = Conversation()
        self.conversations.append(conversation)
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(_copy(client, to_server, conversation.client_said))
                both.create_task(_copy(server, to_client, conversation.server_said))
        finally:
            to_server.close()


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter, look: Callable[[bytes], None]) -> None:
    """Hand on each piece after looking at it, and then the end."""
    with suppress(ConnectionError):
        while data := await source.read(CHUNK):
            look(data)
            target.write(data)
            await target.drain()
        target.write_eof()
