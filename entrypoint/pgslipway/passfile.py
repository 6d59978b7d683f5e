"""libpq's password file: host:port:database:user:password, `*` for any, a backslash before what is no separator.

Its form: https://www.postgresql.org/docs/current/libpq-pgpass.html. asyncpg reads one too, but not if others may, as
with every mounted Secret, and it leaves the backslashes in.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

ANY = "*"


def find_password(text: str, addresses: "Iterable[tuple[str, str]]", database: str, user: str) -> str | None:
    """Return the password of the first line that fits the first of the addresses, else the next; None without one.

    An address is a host and a port; a socket's folder goes by its path and by the name of localhost.
    """
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    entries = [entry for line in lines if not line.startswith("#") and (entry := fields(line))]
    for host, port in addresses:
        hosts = {host, "localhost"} if host.startswith("/") else {host}
        wanted = (hosts, {port}, {database}, {user})
        for *given, password in entries:
            if all(field == ANY or plain(field) in values for field, values in zip(given, wanted, strict=True)):
                return plain(password)
    return None


def fields(line: str) -> list[str] | None:
    """Return the five fields of a line, backslashes and all; None for a line of another form."""
    found: list[str] = []
    start = position = 0
    while len(found) < 4:
        if position >= len(line):
            return None
        if line[position] == ":":
            found.append(line[start:position])
            start = position + 1
        position += 2 if line[position] == "\\" else 1
    return [*found, line[start:]]


def plain(field: str) -> str:
    """Return a field without the backslashes that protect its characters."""
    characters = iter(field)
    return "".join(next(characters, "\\") if character == "\\" else character for character in characters)
