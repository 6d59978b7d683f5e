"""Statements that commit inside, CALL and DO: whether one would, and whether one that failed already had."""

import re
from itertools import pairwise

from ..dial import Connection
from .sql import BLANK, SqlError, tokens

MAY_COMMIT = re.compile(r"(CALL|DO)\b", re.IGNORECASE)
COMMITS = {b"COMMIT", b"ROLLBACK", b"SPI_COMMIT", b"SPI_ROLLBACK"}
QUOTES = re.compile(rb"^(\w*'|\$[^$]*\$)|('|\$[^$]*\$)$")
AFTER_IT = {b";", b"AND", b"()"}
"""What comes next where such a word is the statement, in PL/pgSQL and in other languages."""
# The sources of the procedures that a text names, and of those that they name, where such a word is in them.
CALLED = r"""
WITH RECURSIVE procedures AS (
    SELECT oid, prosrc, '\m' || pg_catalog.regexp_replace(proname, '(\W)', '\\\1', 'g') || '\M' AS word
      FROM pg_catalog.pg_proc WHERE prokind = 'p'
), called AS (
    SELECT p.oid, p.prosrc FROM procedures p WHERE $1 ~* p.word
    UNION
    SELECT p.oid, p.prosrc FROM called c JOIN procedures p ON c.prosrc ~* p.word
)
SELECT prosrc FROM called WHERE prosrc ~* 'commit|rollback'
"""
# A session counts its transactions.
TRANSACTION = """
SELECT pg_catalog.split_part(virtualtransaction, '/', 2)::bigint
  FROM pg_catalog.pg_locks WHERE pid = pg_catalog.pg_backend_pid() AND locktype = 'virtualxid'
"""


async def commits_inside(connection: Connection, text: str) -> bool:
    """Tell whether a statement is one that commits or rolls back inside, by its text and the procedures it calls."""
    if not MAY_COMMIT.match(text):
        return False
    if any(map(says_commit, bodies(text.encode()))):
        return True
    async with connection.transaction():
        return any(says_commit(row["prosrc"].encode()) for row in await connection.fetch(CALLED, text))


def bodies(text: bytes) -> list[bytes]:
    """Return the strings of a statement, one of which is the body of a DO."""
    quoted = [text[start:end] for kind, start, end in tokens(text) if kind in {"string", "dollar"}]
    return [QUOTES.sub(b"", string).replace(b"''", b"'") for string in quoted]


def says_commit(body: bytes) -> bool:
    """Tell whether COMMIT or ROLLBACK is a statement in the body of a routine; comments and strings do not count."""
    try:
        words = [body[start:end].upper() for kind, start, end in tokens(body) if kind not in BLANK]
    except SqlError:  # another language; Postgres will tell
        return False
    return any(word in COMMITS and after in AFTER_IT for word, after in pairwise(words))


async def transaction_number(connection: Connection) -> int:
    """Return the number of the session's transaction that this question is."""
    async with connection.transaction():
        number: int = await connection.fetchval(TRANSACTION)
    return number


async def has_committed(connection: Connection, before: int) -> bool:
    """Tell whether the statement since the transaction numbered `before` was more than one transaction."""
    return await transaction_number(connection) != before + 2
