"""Proxies that understand the protocol's messages: one counts round trips, which are what distance multiplies, and
one strikes at a message of choice, which is how connections and clients die."""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, Self

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from types import TracebackType

LOCALHOST = "127.0.0.1"
LENGTH = 4
CHUNK = 1 << 16
TLS_REQUEST = 80877103
GSS_REQUEST = 80877104

QUERY = b"Q"
READY_FOR_QUERY = b"Z"
COMMAND_COMPLETE = b"C"
TERMINATE = b"X"
STARTUP = b""
READABLE = {QUERY, b"P", COMMAND_COMPLETE, b"E", b"N"}
EXCERPT = 90


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
    is_bare: bool = False
    """No more than a byte: the answer to a request for encryption."""

    @property
    def raw(self) -> bytes:
        """The bytes as they came."""
        if self.is_bare:
            return self.body
        return self.kind + (LENGTH + len(self.body)).to_bytes(LENGTH) + self.body

    @property
    def asks_for_encryption(self) -> bool:
        return self.kind == STARTUP and int.from_bytes(self.body[:LENGTH]) in (TLS_REQUEST, GSS_REQUEST)


@dataclass(slots=True)
class Reader:
    """Cuts one direction's bytes into messages, whatever pieces they come in."""

    kind_length: int
    is_next_bare: bool = False
    _buffer: bytearray = field(default_factory=bytearray)

    def feed(self, data: bytes) -> Iterator[Message]:
        """Yield each message that `data` completes."""
        self._buffer += data
        while message := self._next():
            yield message

    def _next(self) -> Message | None:
        if self.is_next_bare and self._buffer:
            self.is_next_bare = False
            return Message(STARTUP, bytes([self._buffer.pop(0)]), is_bare=True)
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
    said_goodbye: bool = False
    _is_ready: bool = False
    _awaits_answer: bool = False
    _awaits_encryption: bool = False
    _from_client: Reader = field(default_factory=lambda: Reader(kind_length=0))
    _from_server: Reader = field(default_factory=lambda: Reader(kind_length=1))

    def client_said(self, data: bytes) -> None:
        """Take in what goes to the server; a burst becomes a round trip only once it is answered."""
        for message in self._from_client.feed(data):
            self.said_goodbye = message.kind == TERMINATE
            self._awaits_answer = not self.said_goodbye
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


class Proxy:
    """`async with …(server) as proxy`: a port to use in the server's place; the classes below say what for."""

    def __init__(self, server: Address) -> None:
        self._server = server
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def port(self) -> int:
        port: int = self._listening.sockets[0].getsockname()[1]
        return port

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
        try:
            with suppress(OSError, asyncio.CancelledError):  # ENOTCONN too, where one end was reset meanwhile
                await self._relay(client, to_client)
        finally:
            to_client.close()

    async def _relay(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        raise NotImplementedError


def reset(*connections: asyncio.StreamWriter) -> None:
    """End connections with a TCP reset, as a firewall or a dying node does."""
    for connection in connections:
        end_at_once = struct.pack("ii", 1, 0)
        with suppress(OSError):  # it is closed already
            connection.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, end_at_once)
        connection.transport.abort()


# --- counting ---------------------------------------------------------------------------------------------------


class RoundTrips(Proxy):
    """Counts what goes through it."""

    def __init__(self, server: Address) -> None:
        super().__init__(server)
        self.conversations: list[Conversation] = []
        self._clients: set[asyncio.StreamWriter] = set()

    def reset(self) -> None:
        """End every client's connection with a TCP reset."""
        reset(*self._clients)

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

    async def _relay(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        server, to_server = await asyncio.open_connection(self._server.host, self._server.port)
        conversation = Conversation()
        self.conversations.append(conversation)
        self._clients.add(to_client)
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(_copy(client, to_server, conversation.client_said))
                both.create_task(_copy(server, to_client, conversation.server_said))
        finally:
            self._clients.discard(to_client)
            to_server.close()


class Turns(Proxy):
    """Counts how often the server answers, whatever it is that the two say: TLS as well."""

    def __init__(self, server: Address) -> None:
        super().__init__(server)
        self.number = 0
        self._is_asked = False

    async def _relay(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        server, to_server = await asyncio.open_connection(self._server.host, self._server.port)
        async with asyncio.TaskGroup() as both:
            both.create_task(_copy(client, to_server, self._client_said))
            both.create_task(_copy(server, to_client, self._server_said))
        to_server.close()

    def _client_said(self, _: bytes) -> None:
        self._is_asked = True

    def _server_said(self, _: bytes) -> None:
        self.number += self._is_asked
        self._is_asked = False


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter, look: Callable[[bytes], None]) -> None:
    """Hand on each piece after looking at it, and then the end."""
    with suppress(ConnectionError):
        while data := await source.read(CHUNK):
            look(data)
            target.write(data)
            await target.drain()
    with suppress(OSError):  # a source that was reset has ended as well
        target.write_eof()


# --- faults -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Passage:
    """A message on its way through the proxy, numbered from 1 in order of arrival over all connections."""

    number: int
    connection: int
    from_client: bool
    message: Message

    def __str__(self) -> str:
        """Number, connection, direction, type and, where it can be read, what it says."""
        text = b""
        if self.message.kind in READABLE:
            text = b" ".join(self.message.body.split()).replace(b"\0", b" ")[:EXCERPT]
        way = "client -> server" if self.from_client else "server -> client"
        kind = self.message.kind.decode() or "startup"
        return f"{self.number} on connection {self.connection}, {way}, {kind} {text.decode(errors='replace')}".rstrip()


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens at a message: `strike` is called, and awaited, before the message is handed on or after that.

    The message is the one of this number, or the client's first query that begins with this text. If `strike` ends
    its connection, it is not handed on.
    """

    at: int | bytes
    after: bool
    strike: Callable[[], Awaitable[None] | None]

    def is_for(self, passage: Passage) -> bool:
        if isinstance(self.at, int):
            return passage.number == self.at
        is_query = passage.from_client and passage.message.kind == QUERY
        return is_query and passage.message.body.lstrip().startswith(self.at)


@dataclass(slots=True, eq=False)
class Link:
    """One connection through the proxy; both ends go at once."""

    number: int
    to_client: asyncio.StreamWriter
    to_server: asyncio.StreamWriter
    from_client: Reader = field(default_factory=lambda: Reader(kind_length=0))
    from_server: Reader = field(default_factory=lambda: Reader(kind_length=1))
    is_down: bool = False

    def reset(self) -> None:
        self.is_down = True
        reset(self.to_client, self.to_server)

    def close(self) -> None:
        """Close both ends as the kernel does for a process that is gone."""
        self.is_down = True
        for end in (self.to_client, self.to_server):
            end.transport.abort()

    def understand(self, message: Message, *, from_client: bool) -> None:
        """See how the next messages are to be read."""
        if from_client and message.kind == STARTUP:
            self.from_server.is_next_bare = message.asks_for_encryption
            self.from_client.kind_length = 0 if message.asks_for_encryption else 1


class FaultProxy(Proxy):
    """Hands on whole messages only, numbers them, and lets `faults` happen: `proxy.faults = [Fault(7, …)]`."""

    def __init__(self, server: Address) -> None:
        super().__init__(server)
        self.faults: list[Fault] = []
        """Each happens once."""
        self.alter: Callable[[Passage], bytes] = lambda passage: passage.message.raw
        """The bytes that are handed on for a message."""
        self.passages: list[Passage] = []
        self.struck_at: Passage | None = None
        self._links: list[Link] = []

    def reset(self) -> None:
        """End every open connection, on both sides, with a TCP reset; new ones are let through."""
        for link in self._open():
            link.reset()

    def close(self) -> None:
        """Close every open connection, on both sides, without more ado."""
        for link in self._open():
            link.close()

    def _open(self) -> list[Link]:
        return [link for link in self._links if not link.is_down]

    async def _relay(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        server, to_server = await asyncio.open_connection(self._server.host, self._server.port)
        link = Link(len(self._links) + 1, to_client, to_server)
        self._links.append(link)
        for end in (to_client, to_server):
            end.transport.set_write_buffer_limits(0)  # what was drained has left for the other side
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._hand_on(link, client, from_client=True))
                both.create_task(self._hand_on(link, server, from_client=False))
        finally:
            link.is_down = True
            to_server.close()

    async def _hand_on(self, link: Link, source: asyncio.StreamReader, *, from_client: bool) -> None:
        """Hand on each message of one direction, and then the end."""
        reader, target = (link.from_client, link.to_server) if from_client else (link.from_server, link.to_client)
        try:
            while data := await source.read(CHUNK):
                for message in reader.feed(data):
                    link.understand(message, from_client=from_client)
                    await self._pass(link, target, self._note(link, message, from_client=from_client))
            target.write_eof()
        except OSError:  # besides ConnectionError, ENOTCONN where the other end was reset meanwhile
            if not link.is_down:
                link.reset()

    def _note(self, link: Link, message: Message, *, from_client: bool) -> Passage:
        passage = Passage(len(self.passages) + 1, link.number, from_client, message)
        self.passages.append(passage)
        return passage

    async def _pass(self, link: Link, target: asyncio.StreamWriter, passage: Passage) -> None:
        await self._strike(passage, after=False)
        if link.is_down:
            raise ConnectionAbortedError
        target.write(self.alter(passage))
        await target.drain()
        await self._strike(passage, after=True)

    async def _strike(self, passage: Passage, *, after: bool) -> None:
        for fault in [fault for fault in self.faults if fault.after == after and fault.is_for(passage)]:
            self.faults.remove(fault)
            self.struck_at = passage
            if (strikes := fault.strike()) is not None:
                await strikes
