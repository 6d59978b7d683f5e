"""Statements that run outside a transaction: their locks are gone when they are done, so their kind has to tell."""

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ...dial import Connection
from ...engine.recovery import qualified
from ...engine.sql import Statement, names
from .effects import Effect
from .looks import ACCESS_EXCLUSIVE, NONE, SHARE_UPDATE_EXCLUSIVE, Known, Relation


class Kind(NamedTuple):
    """The effect of a kind of statement; its lock by https://www.postgresql.org/docs/current/explicit-locking.html ."""

    pattern: re.Pattern[str]
    """Of the statement in upper case, in one line."""
    lock: int
    reads: bool = False
    rewrites: bool = False


KINDS = (
    Kind(re.compile(r"CREATE (UNIQUE )?INDEX CONCURRENTLY"), SHARE_UPDATE_EXCLUSIVE, reads=True),
    Kind(re.compile(r"DROP INDEX CONCURRENTLY|ALTER TABLE .* DETACH PARTITION .*CONCURRENTLY"), SHARE_UPDATE_EXCLUSIVE),
    Kind(re.compile(r"(REINDEX|REPACK)\b.*\bCONCURRENTLY\b(?! (FALSE|OFF))"), SHARE_UPDATE_EXCLUSIVE, reads=True),
    Kind(re.compile(r"REINDEX\b"), ACCESS_EXCLUSIVE, reads=True),  # of the index, for which readers wait as well
    Kind(re.compile(r"VACUUM ?(\([^)]*\b)?FULL\b(?! (FALSE|OFF))|CLUSTER\b|REPACK\b"), ACCESS_EXCLUSIVE, rewrites=True),
    Kind(re.compile(r"VACUUM\b"), SHARE_UPDATE_EXCLUSIVE, reads=True),
    Kind(re.compile(r"ANALYZE\b"), SHARE_UPDATE_EXCLUSIVE),
    Kind(re.compile(r"(CREATE|DROP|ALTER) (DATABASE|TABLESPACE|SUBSCRIPTION|SYSTEM)|DISCARD"), NONE),
)
OLDER = "SELECT pg_catalog.to_regclass(name)::oid::bigint AS oid FROM pg_catalog.unnest($1::text[]) AS given (name)"


def kind_of(text: str) -> Kind | None:
    """Return what the statement `text`, in one line, does; None for one whose kind does not tell."""
    return next((kind for kind in KINDS if kind.pattern.match(text.upper())), None)


async def tables_of(connection: Connection, statement: Statement, text: str, known: Known) -> list[Relation]:
    """Return the tables that a statement names, directly or by an index; all of them where it names none."""
    given = [qualified(parts) for parts in named(text)]
    async with connection.transaction():
        found = {row["oid"] for row in await connection.fetch(OLDER, given)}
    chosen = [relation for oid, relation in known.owners.items() if oid in found]
    whole = [one for one in known.owners.values() if one.kind in "rm" and is_in(one, statement, given)]
    return sorted({*(chosen or whole)}, key=lambda relation: relation.name)


def named(text: str) -> Iterator[tuple[str, ...]]:
    """Yield the names in a statement; of one that builds an index, those after ON."""
    parts = [one for _, one in names(text.encode())]
    if parts[:1] == [("CREATE",)]:
        parts = [one for one in parts[parts.index(("ON",)) + 1 :] if one != ("ONLY",)][:1]
    yield from parts


def is_in(relation: Relation, statement: Statement, given: Sequence[str]) -> bool:
    """Tell whether a statement that names no table is about this one too: its schema, where it names that."""
    return "SCHEMA" not in statement.words or qualified([f'"{relation.schema}"']) in given


def effects_outside(kind: Kind, relations: Sequence[Relation]) -> list[Effect]:
    """Return the effects of a statement of that kind."""
    if kind.lock == NONE:
        return []
    return [Effect(one, kind.lock, True, kind.reads, kind.rewrites) for one in relations]
