"""Statements that run outside a transaction: their locks are gone when they are done, so their kind has to tell."""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from ...dial import Connection
from ...engine.recovery import qualified
from ...engine.sql import BLANK, Statement, folded, names, tokens
from .effects import Effect
from .looks import ACCESS_EXCLUSIVE, NONE, SHARE_UPDATE_EXCLUSIVE, Known, Relation


class Kind(NamedTuple):
    """The effect of a kind of statement; its lock by https://www.postgresql.org/docs/current/explicit-locking.html ."""

    pattern: re.Pattern[str]
    """Of the statement in upper case, without comments, with a space between its tokens."""
    lock: int
    reads: bool = False
    rewrites: bool = False
    last_lock: int = NONE
    """That of the last table that it names, where it is another one."""


KINDS = (
    Kind(re.compile(r"CREATE (UNIQUE )?INDEX CONCURRENTLY"), SHARE_UPDATE_EXCLUSIVE, reads=True),
    Kind(re.compile(r"DROP INDEX CONCURRENTLY"), SHARE_UPDATE_EXCLUSIVE),
    Kind(
        re.compile(r"ALTER TABLE .* DETACH PARTITION .*CONCURRENTLY"),
        SHARE_UPDATE_EXCLUSIVE,
        last_lock=ACCESS_EXCLUSIVE,  # of the partition, in a second transaction, once nobody uses it
    ),
    Kind(re.compile(r"(REINDEX|REPACK)\b.*\bCONCURRENTLY\b(?! (FALSE|OFF))"), SHARE_UPDATE_EXCLUSIVE, reads=True),
    Kind(re.compile(r"REINDEX\b"), ACCESS_EXCLUSIVE, reads=True),  # of the index, for which readers wait as well
    Kind(
        re.compile(r"VACUUM ?(\([^)]*\b)?FULL\b(?! (FALSE|OFF|0))|CLUSTER\b|REPACK\b"), ACCESS_EXCLUSIVE, rewrites=True
    ),
    Kind(re.compile(r"VACUUM\b"), SHARE_UPDATE_EXCLUSIVE, reads=True),
    Kind(re.compile(r"ANALYZE\b"), SHARE_UPDATE_EXCLUSIVE),
    Kind(re.compile(r"(CREATE|DROP|ALTER) (DATABASE|TABLESPACE|SUBSCRIPTION|SYSTEM)|DISCARD"), NONE),
)
COMMANDS = "VACUUM ANALYZE CLUSTER REPACK REINDEX INDEX DROP ALTER TABLE DETACH PARTITION FINALIZE"
OPTIONS = "FULL FREEZE VERBOSE CONCURRENTLY USING IF EXISTS CASCADE RESTRICT ONLY"
KEYWORDS = {(word,) for words in (COMMANDS, OPTIONS) for word in words.split()}
"""What is no name in these statements."""
TABLES = """
SELECT coalesce(i.indrelid, given.oid)::bigint AS oid
  FROM (SELECT pg_catalog.to_regclass(name)::oid AS oid, number
          FROM pg_catalog.unnest($1::text[]) WITH ORDINALITY AS names (name, number)) given
  LEFT JOIN pg_catalog.pg_index i ON i.indexrelid = given.oid
 ORDER BY given.number
"""


def kind_of(text: str) -> Kind | None:
    """Return the effect of the statement `text`; None for one whose kind does not tell."""
    source = text.encode()
    words = " ".join(source[start:end].decode() for kind, start, end in tokens(source) if kind not in BLANK)
    return next((kind for kind in KINDS if kind.pattern.match(words.upper())), None)


async def tables_of(connection: Connection, statement: Statement, text: str, known: Known) -> list[Relation]:
    """Return the tables that a statement names, directly or by an index; all of them where it names none."""
    tables = [relation for relation in known.parts if relation.kind in "rm"]
    match statement.words[:2]:
        case ["REINDEX", "SYSTEM"]:
            return []
        case ["REINDEX", "DATABASE"]:
            return tables
        case ["REINDEX", "SCHEMA"]:
            schema = folded(statement.words[-1])
            return [relation for relation in tables if relation.schema == schema]
    given = [qualified(parts) for parts in named(text)]
    if not given:
        return tables
    async with connection.transaction():
        oids = [row["oid"] for row in await connection.fetch(TABLES, given)]
    return [*dict.fromkeys(known.owners[oid] for oid in oids if oid in known.owners)]


def named(text: str) -> list[tuple[str, ...]]:
    """Return the names of objects in a statement; of one that builds an index, that of the table."""
    parts = [one for _, one in names(text.encode())]
    if ("ON",) in parts and parts[:1] == [("CREATE",)]:
        return [one for one in parts[parts.index(("ON",)) + 1 :] if one != ("ONLY",)][:1]
    return [one for one in parts if one not in KEYWORDS]


def effects_outside(kind: Kind, relations: Sequence[Relation]) -> list[Effect]:
    """Return the effects of a statement of that kind on the tables that it names, in their order."""
    if kind.lock == NONE:
        return []
    found = [Effect(one, kind.lock, True, kind.reads, kind.rewrites) for one in relations]
    if kind.last_lock != NONE and found:
        found[-1] = replace(found[-1], lock=kind.last_lock)
    return sorted(found, key=lambda effect: effect.relation.name)
