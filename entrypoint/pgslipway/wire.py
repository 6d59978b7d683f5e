"""One question to a server: as much of Postgres's protocol as that takes.

The messages: https://www.postgresql.org/docs/current/protocol-message-formats.html. Whatever else a server says raises
Unusual, or the errors of a line.
"""

from .libpq import APPLICATION_NAME
from .line import Line, Unusual

LONGEST_MESSAGE = 1 << 16
STARTUP, SSL_REQUEST = (196608).to_bytes(4, "big"), (80877103).to_bytes(4, "big")
WITHOUT_MEANING = b"SKNC"
"""The server's parameters, the key for cancellations, notices, and the end of each statement."""
KNOWN = b"RZTD" + WITHOUT_MEANING
IDLE = b"I"
OK, CLEARTEXT, SASL, SASL_CONTINUE, SASL_FINAL = 0, 3, 10, 11, 12


class Wire:
    """One login and one question, over a line."""

    def __init__(self, line: Line) -> None:
        self.line = line
        self.location = line.location
        self.promised: list[bytes] = []
        """What the server still has to say for the login to be complete, and to have proven itself."""

    def begin(self) -> None:
        """Say who wants what, or ask for TLS first."""
        self.line.send(packet(SSL_REQUEST) if self.line.wants_tls() else self.startup())

    def startup(self) -> bytes:
        """Return the packet that says who wants what, with the same settings as the driver's."""
        said = {"user": self.location.user, "database": self.location.database, "client_encoding": "UTF8"}
        said |= {**self.location.server_settings, "application_name": APPLICATION_NAME}
        return packet(STARTUP + b"".join(f"{name}\0{value}\0".encode() for name, value in said.items()) + b"\0")

    def encrypt(self) -> None:
        """Hear whether the server has TLS, use it as `sslmode` says, and say who wants what."""
        if not self.line.wants_tls():
            return
        answer = self.line.only_byte()
        if answer == b"S":
            self.line.start_tls()
        elif answer != b"N" or self.location.sslmode != "prefer":
            raise Unusual
        self.line.send(self.startup())

    def log_in(self, question: str) -> None:
        """Log in; the question goes out with the last message of that."""
        self.encrypt()
        asked = message(b"Q", question.encode() + b"\0")
        method, body = self.authentication()
        if method == SASL:
            asked = self.prove(body) + asked
        elif method == CLEARTEXT and self.line.is_encrypted:
            asked = message(b"p", self.password() + b"\0") + asked
            self.promised = [number(OK)]
        elif method != OK:
            raise Unusual
        self.line.send(asked)

    def prove(self, mechanisms: bytes) -> bytes:
        """Begin SCRAM; return the last message of it, after which the server has to prove as much."""
        from .scram import MECHANISM, Scram  # not where a server trusts everybody

        if MECHANISM not in mechanisms.split(b"\0") or not mechanisms.endswith(b"\0\0"):
            raise Unusual
        scram = Scram(self.password())
        self.line.send(message(b"p", MECHANISM + b"\0" + number(len(scram.first)) + scram.first))
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
            if kind == b"Z" and body != IDLE:
                raise Unusual
            if kind == b"D":
                row = body
            if kind not in WITHOUT_MEANING:
                kinds += kind
        if self.promised or kinds.lstrip(b"R") != b"ZTDZ" or row[:6] != b"\0\1" + number(len(row) - 6):
            raise Unusual
        self.say_goodbye()
        return row[6:].decode("ascii")

    def say_goodbye(self) -> None:
        """Have the server not wonder; the answer is good without."""
        try:
            self.line.send(message(b"X", b""))
        except OSError:
            return

    def next_message(self) -> tuple[bytes, bytes]:
        """Return the type and the body of the next message; an error, a refusal and nonsense are not awaited."""
        head = self.line.peek(5)
        size = int.from_bytes(head[1:], "big")
        if head[:1] not in KNOWN or not 4 <= size <= LONGEST_MESSAGE:
            raise Unusual
        return head[:1], self.line.take(size + 1)[5:]


def number(value: int) -> bytes:
    """Return a number as messages have it."""
    return value.to_bytes(4, "big")


def packet(body: bytes) -> bytes:
    """Return a body behind its size, which counts itself."""
    return number(len(body) + 4) + body


def message(kind: bytes, body: bytes) -> bytes:
    """Return a message of a type."""
    return kind + packet(body)
