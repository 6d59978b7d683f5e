"""libpq's password file: host:port:database:user:password, `*` for any, a backslash before what is no separator.

Its form: https://www.postgresql.org/docs/current/libpq-pgpass.html. asyncpg reads one too, but not if others may, as
with every mounted Secret, and it leaves the backslashes in.
"""

import re
from collections.abc import Iterable

LINE = re.compile(r"((?:\\.|[^:\\])*):" * 4 + "(.*)")
ANY = "*"


def find_password(text: str, addresses: Iterable[tuple[str, str]], database: str, user: str) -> str | None:
    """Return the password of the first line that fits the first of the addresses, else the next; None without one.

    An address is a host and a port; a socket's folder goes by its path and by the name of localhost.
    """
    lines = [
        match.groups()
        for line in re.split(r"\r?\n", text)
        if not line.startswith("#") and (match := LINE.fullmatch(line))
    ]
    for host, port in addresses:
        hosts = {host, "localhost"} if host.startswith("/") else {host}
        wanted = (hosts, {port}, {database}, {user})
        for *fields, password in lines:
            if all(field == ANY or plain(field) in values for field, values in zip(fields, wanted, strict=True)):
                return plain(password)
    return None


def plain(field: str) -> str:
    """Return a field without the backslashes that protect its characters."""
    return re.sub(r"\\(.)", r"\1", field)
