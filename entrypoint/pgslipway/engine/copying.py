"""COPY data in a file, as pg_dump writes them: sent as they stand in the file, in bounded memory."""

import re
from collections.abc import AsyncIterator, Mapping
from typing import Any

from ..dial import Connection
from ..files import Source
from .sql import NO_END, Statement, folded, names

CHUNK = 1 << 17
"""Bytes of the data that are sent at once."""
CLIENT = re.compile(r"COPY .*\b(?:(FROM)|TO) (?:STDIN|STDOUT)\b")
NO_READER = "COPY to the client has no reader here; write COPY to a file of the server, or leave it out"
OUTSIDE = "the data of a COPY go into the transaction of a file; put it in a file without the line `-- no-transaction`"
BEFORE_TABLE = {("COPY",), ("BINARY",)}


def refusal(statement: Statement, *, transactional: bool) -> str | None:
    """Say why a COPY that talks to the client cannot work, or None."""
    if not (match := CLIENT.match(statement.text)):
        return None
    if not match[1]:
        return NO_READER
    if not statement.data:
        return NO_END
    return None if transactional else OUTSIDE


async def copy_in(connection: Connection, text: str, source: Source, data: tuple[int, int]) -> None:
    """Run a COPY that reads the bytes from the first to the second of `data`. Raises what `execute` does.

    The driver's public way, `copy_to_table`, takes a table and options of its own; this is the one beneath it, which
    takes the statement. It waits for room on the way to the server even when the connection is lost meanwhile.
    """
    beneath: Any = connection

    def end(_: object) -> None:
        beneath._protocol.resume_writing()

    connection.add_termination_listener(end)
    try:
        await beneath._copy_in(text, chunks(connection, source, *data), None)
    finally:
        connection.remove_termination_listener(end)


async def chunks(connection: Connection, source: Source, first: int, after: int) -> AsyncIterator[bytes]:
    """Yield the data in pieces, while there is somebody to send them to."""
    for place in range(first, after, CHUNK):
        if connection.is_closed():
            return
        yield source[place : min(place + CHUNK, after)]


def line_in(statement: bytes, fields: Mapping[str, str]) -> int:
    """Return the number of the line of data, from 1, that an error is about; 0 where it does not say.

    The context is in the server's language: the table's name and the first number after it are in each of them.
    """
    table = next(parts[-1] for _, parts in names(statement) if parts not in BEFORE_TABLE)
    name, context = re.escape(folded(table)), fields.get("context") or ""
    for words in (rf"^COPY {name}, \w+ (\d+)", rf"^(?:COPY )?{name}\D{{1,12}}(\d+)"):
        if match := re.search(words, context, re.MULTILINE):  # the first one, because data may follow it
            return int(match[1])
    return 0
