"""A line to a server for one question: TCP or a socket, and TLS; blocking, by modules written in C.

It reaches the server that the driver would reach, and believes it where the driver would. Whatever else there is raises
Unusual or OSError, in bounded time and memory.
"""

import posix
from _socket import AF_UNIX, AI_NUMERICHOST, IPPROTO_TCP, SHUT_RDWR, SOCK_STREAM, TCP_NODELAY, getaddrinfo, socket
from _thread import allocate_lock, start_new_thread
from time import monotonic

from .settings import is_address
from .system import home

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from .config import Location

NEVER = float("-inf")
POLL = 0.05
"""Seconds between two looks whether a name is resolved, or a signal came."""
CHUNK = 1 << 14
MOST_BYTES = 1 << 20
"""The server says a few hundred bytes; a fault might say much more."""


class Unusual(Exception):
    """Nothing that a look has to know; the program finds out what it is."""


class Socket(socket):
    """A socket that can be referred to weakly, as TLS does."""


class Line:
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

    def left(self) -> float:
        """Return the seconds that are left. Raises Unusual without any."""
        if (seconds := self.deadline - monotonic()) <= 0:
            raise Unusual
        return seconds

    def interrupt(self) -> None:
        """End every wait, from the handler of a signal."""
        self.deadline = NEVER
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
        """Connect to the first address that accepts, in the program's order."""
        places = self.location.places()
        self.leave_files_of_the_driver(places)
        for host, family, address in self.addresses(places):
            try:
                self.host, self.socket = host, (line := Socket(family, SOCK_STREAM))
                line.settimeout(self.left())
                line.connect(address)
            except OSError:
                self.close()
                continue
            if family != AF_UNIX:
                line.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)
            self.set_timeout, self.send, self.receive = line.settimeout, line.sendall, line.recv
            return
        raise Unusual

    def leave_files_of_the_driver(self, places: list[tuple[str, str, int]]) -> None:
        """Raise Unusual where the driver looks at files of its own: in a home folder, or for TLS over a socket."""
        given = self.location.libpq
        has_tls = self.location.sslmode != "disable"
        is_local = any(host.startswith("/") for host, _, _ in places)
        if (
            (has_tls and not is_absent(".postgresql"))
            or (has_tls and self.location.sslmode.startswith("verify") and "PGSSLROOTCERT" not in given)
            or (has_tls and is_local and not given.keys().isdisjoint({"PGSSLMODE", "PGSSLROOTCERT"}))
            or ("PGPASSWORD" not in given and not is_absent(".pgpass"))
        ):
            raise Unusual

    def addresses(self, places: list[tuple[str, str, int]]) -> "Iterator[tuple[str, int, Any]]":
        """Yield each host, and the family and the address to reach it by; one of several that were given is unusual."""
        if any("," in self.location.libpq.get(variable, "") for variable in ("PGHOST", "PGHOSTADDR")):
            raise Unusual
        for host, name, port in places:
            if name.startswith("/"):
                yield host, AF_UNIX, f"{name}/.s.PGSQL.{port}"
            else:
                for family, _, _, _, address in self.resolved(name, port):
                    yield host, family, address

    def resolved(self, name: str, port: int) -> "list[Any]":
        """Return what the system knows of a name; it is asked in a thread, since it may take its time."""
        encoded = name.encode("ascii")  # text would be encoded by a module that takes longer to load than all of this
        flags = AI_NUMERICHOST if is_address(name) else 0  # with it, nobody is asked
        found: list[Any] = []
        is_done = allocate_lock()

        def resolve() -> None:
            try:
                found.extend(getaddrinfo(encoded, port, 0, SOCK_STREAM, 0, flags))
            except OSError:
                pass  # nothing was found
            finally:
                is_done.release()

        is_done.acquire()
        if flags:
            resolve()
        else:
            start_new_thread(resolve, ())
        while not is_done.acquire(timeout=min(POLL, self.left())):
            pass
        return found

    def wants_tls(self) -> bool:
        """Tell whether TLS is asked for first."""
        return not self.host.startswith("/") and self.location.sslmode not in {"disable", "allow"}

    def start_tls(self) -> None:
        """Encrypt, and have the server proven, as the driver does."""
        from _ssl import CERT_NONE, CERT_REQUIRED, PROTOCOL_TLS_CLIENT, _SSLContext

        mode, authority = self.location.sslmode, self.location.libpq.get("PGSSLROOTCERT")
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

    def only_byte(self) -> bytes:
        """Return one byte, and leave what is behind it to TLS."""
        self.set_timeout(self.left())
        answer = self.receive(1)
        self.received += len(answer)
        return answer

    def peek(self, size: int) -> bytes:
        """Return the next bytes, which stay pending."""
        while len(self.pending) < size:
            self.set_timeout(self.left())
            more = self.receive(CHUNK)
            self.received += len(more)
            if not more or self.received > MOST_BYTES:
                raise Unusual
            self.pending += more
        return self.pending[:size]

    def take(self, size: int) -> bytes:
        """Return the next bytes."""
        taken = self.peek(size)
        self.pending = self.pending[size:]
        return taken


def is_absent(path: str) -> bool:
    """Tell whether there is surely no such file in the home folder; the driver fails where it may not look."""
    if (folder := home()) is None:
        return True
    try:
        posix.stat(f"{folder}/{path}")
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False
