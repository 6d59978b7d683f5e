"""A connection for one question: as much of Postgres's protocol as that takes, blocking, by modules written in C.

The messages: https://www.postgresql.org/docs/current/protocol-message-formats.html. Whatever else a server says raises
Unusual or OSError, in bounded time and memory.
"""

import os
from _socket import AF_UNIX, IPPROTO_TCP, SHUT_RDWR, SOCK_STREAM, TCP_NODELAY, getaddrinfo, socket
from _thread import allocate_lock, start_new_thread
from time import monotonic

from .libpq import APPLICATION_NAME
from .settings import is_address

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from .config import Location

POLL = 0.05
"""Seconds between two looks whether a name is resolved, or a signal came."""
CHUNK = 1 << 14
LONGEST_MESSAGE = 1 << 16
MOST_BYTES = 1 << 20
"""The server says a few hundred bytes; a fault might say much more."""
STARTUP, SSL_REQUEST = (196608).to_bytes(4, "big"), (80877103).to_bytes(4, "big")
WITHOUT_MEANING = b"SKNC"
"""The server's parameters, the key for cancellations, notices, and the end of each statement."""
KNOWN = b"RZTD" + WITHOUT_MEANING
OK, CLEARTEXT, SASL, SASL_CONTINUE, SASL_FINAL = 0, 3, 10, 11, 12


class Unusual(Exception):
    """Nothing that a look has to know; the program finds out what it is."""


class Socket(socket):
    """A socket that can be referred to weakly, as TLS does."""


class Wire:
    """One connection. It ends by itself at `deadline`, on the clock of `time.monotonic`."""

    def __init__(self, location: "Location", deadline: float) -> None:
        self.location = location
        self.deadline = deadline
        self.socket: Socket | None = None
        self.set_timeout: Callable[[float], None]
        self.send: Callable[[bytes], Any]
        self.receive: Callable[[int], bytes]
        self.host = ""
        self.is_encrypted = False
        self.pending = b""
        self.received = 0
        self.promised: list[bytes] = []
        """What the server still has to say for the login to be complete, and to have proven itself."""

    def left(self) -> float:
        """Return the seconds that are left. Raises Unusual without any."""
        if (seconds := self.deadline - monotonic()) <= 0:
            raise Unusual
        return seconds

    def interrupt(self) -> None:
        """End every wait, from the handler of a signal."""
        self.deadline = 0.0
        if self.socket:
            try:
                self.socket.shutdown(SHUT_RDWR)
            except OSError:  # not connected yet
                return

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self.socket:
            self.socket.close()

    def dial(self) -> None:
        """Connect to the first address that accepts, in the program's order, and send the first packet."""
        for host, family, address in self.addresses():
            self.host, self.socket = host, (line := Socket(family, SOCK_STREAM))
            line.settimeout(self.left())
            try:
                line.connect(address)
            except OSError:
                line.close()
                continue
            if family != AF_UNIX:
                line.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)
            self.set_timeout, self.send, self.receive = line.settimeout, line.sendall, line.recv
            self.send(packet(SSL_REQUEST) if self.wants_tls() else self.startup())
            return
        raise Unusual

    def addresses(self) -> "Iterator[tuple[str, int, Any]]":
        """Yield each host, and the family and the address to reach it by; one of several that were given is unusual."""
        if any("," in self.location.libpq.get(variable, "") for variable in ("PGHOST", "PGHOSTADDR")):
            raise Unusual
        for host, name, port in self.location.places():
            if name.startswith("/"):
                yield host, AF_UNIX, f"{name}/.s.PGSQL.{port}"
            else:
                for family, _, _, _, address in self.resolved(name, port):
                    yield host, family, address

    def resolved(self, name: str, port: int) -> "list[Any]":
        """Return what the system knows of a name; it is asked in a thread, since it may take its time."""
        encoded = name.encode("ascii")  # text would be encoded by a module that takes longer to load than all of this
        found: list[Any] = []
        is_done = allocate_lock()

        def resolve() -> None:
            try:
                found.extend(getaddrinfo(encoded, port, 0, SOCK_STREAM))
            except OSError:
                pass  # nothing was found
            finally:
                is_done.release()

        is_done.acquire()
        if is_address(name):
            resolve()
        else:
            start_new_thread(resolve, ())
        while not is_done.acquire(timeout=min(POLL, self.left())):
            pass
        return found

    def wants_tls(self) -> bool:
        """Tell whether TLS is asked for first."""
        return not self.host.startswith("/") and self.location.sslmode not in {"disable", "allow"}

    def startup(self) -> bytes:
        """Return the packet that says who wants what, with the same settings as the driver's."""
        said = {"user": self.location.user, "database": self.location.database, "client_encoding": "UTF8"}
        said |= {**self.location.server_settings, "application_name": APPLICATION_NAME}
        return packet(STARTUP + b"".join(f"{name}\0{value}\0".encode() for name, value in said.items()) + b"\0")

    def encrypt(self) -> None:
        """Hear whether the server has TLS, use it as `sslmode` says, and say who wants what."""
        if not self.wants_tls():
            return
        self.set_timeout(self.left())
        answer = self.receive(1)
        if answer == b"S":
            self.start_tls()
        elif answer != b"N" or self.location.sslmode != "prefer":
            raise Unusual
        self.send(self.startup())

    def start_tls(self) -> None:
        """Encrypt, and have the server proven, as the driver does; files in a home folder are unusual."""
        from _ssl import CERT_NONE, CERT_REQUIRED, PROTOCOL_TLS_CLIENT, _SSLContext

        mode, authority = self.location.sslmode, self.location.libpq.get("PGSSLROOTCERT")
        if os.path.exists(os.path.expanduser("~/.postgresql")) or (mode.startswith("verify") and not authority):
            raise Unusual
        context = _SSLContext(PROTOCOL_TLS_CLIENT)
        context.check_hostname = mode == "verify-full"
        context.verify_mode = CERT_REQUIRED if authority and mode != "prefer" else CERT_NONE
        context.minimum_version = 0x0303  # TLS 1.2
        context._set_alpn_protocols(b"\x0apostgresql")  # type: ignore[attr-defined]  # as `ssl` does
        if context.verify_mode == CERT_REQUIRED:
            context.load_verify_locations(authority, None, None)
        tls = context._wrap_socket(self.socket, False, self.host)  # type: ignore[attr-defined]
        self.set_timeout(self.left())
        tls.do_handshake()
        self.send, self.receive, self.is_encrypted = tls.write, tls.read, True

    def log_in(self, question: str) -> None:
        """Log in; the question goes out with the last message of that."""
        self.encrypt()
        asked = message(b"Q", question.encode() + b"\0")
        method, body = self.authentication()
        if method == SASL:
            asked = self.prove(body) + asked
        elif method == CLEARTEXT and self.is_encrypted:
            asked = message(b"p", self.password() + b"\0") + asked
            self.promised = [number(OK)]
        elif method != OK:
            raise Unusual
        self.send(asked)

    def prove(self, mechanisms: bytes) -> bytes:
        """Begin SCRAM; return the last message of it, after which the server has to prove as much."""
        from .scram import MECHANISM, Scram  # not where a server trusts everybody

        if MECHANISM not in mechanisms.split(b"\0") or not mechanisms.endswith(b"\0\0"):
            raise Unusual
        scram = Scram(self.password())
        self.send(message(b"p", MECHANISM + b"\0" + number(len(scram.first)) + scram.first))
        method, challenge = self.authentication()
        if method != SASL_CONTINUE:
            raise Unusual
        proof = scram.answer(challenge)
        self.promised = [number(SASL_FINAL) + scram.expected, number(OK)]
        return message(b"p", proof)

    def password(self) -> bytes:
        """Return the password, if there is one that no method would encode in a way of its own."""
        text = self.location.libpq.get("PGPASSWORD", "")
        if not text or not text.isascii() or not text.isprintable():
            raise Unusual
        return text.encode()

    def authentication(self) -> "tuple[int, bytes]":
        """Return the server's next word on the login: its method, and the rest."""
        kind, body = self.next_message()
        if kind != b"R" or len(body) < 4:
            raise Unusual
        return int.from_bytes(body[:4], "big"), body[4:]

    def answer(self) -> str:
        """Return the one value that the question is answered with, of a server that proved to know the password."""
        kinds, row = b"", b""
        while kinds.count(b"Z") < 2:
            kind, body = self.next_message()
            if kind == b"R" and (not self.promised or body != self.promised.pop(0)):
                raise Unusual
            if kind == b"D":
                row = body
            if kind not in WITHOUT_MEANING:
                kinds += kind
        if self.promised or kinds.lstrip(b"R") != b"ZTDZ" or row[:6] != b"\0\1" + number(len(row) - 6):
            raise Unusual
        return row[6:].decode("ascii")

    def next_message(self) -> "tuple[bytes, bytes]":
        """Return the type and the body of the next message; an error, a refusal and nonsense are not awaited."""
        self.have(5)
        size = int.from_bytes(self.pending[1:5], "big")
        if self.pending[:1] not in KNOWN or not 4 <= size <= LONGEST_MESSAGE:
            raise Unusual
        self.have(size + 1)
        found, self.pending = self.pending[: size + 1], self.pending[size + 1 :]
        return found[:1], found[5:]

    def have(self, size: int) -> None:
        """Receive until so many bytes are pending."""
        while len(self.pending) < size:
            self.set_timeout(self.left())
            more = self.receive(CHUNK)
            self.received += len(more)
            if not more or self.received > MOST_BYTES:
                raise Unusual
            self.pending += more


def number(value: int) -> bytes:
    """Return a number as messages have it."""
    return value.to_bytes(4, "big")


def packet(body: bytes) -> bytes:
    """Return a body behind its size, which counts itself."""
    return number(len(body) + 4) + body


def message(kind: bytes, body: bytes) -> bytes:
    """Return a message of a type."""
    return kind + packet(body)
