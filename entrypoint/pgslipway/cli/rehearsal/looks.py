"""The relations that were there before a file, and what the own transaction holds and has done of them.

pg_locks has the locks; pg_stat_get_xact_numscans(), which is beneath pg_stat_xact_user_tables.seq_scan, goes up when a
table was read as a whole, also an empty one; pg_relation_filenode() changes when it was rewritten. Measured for the
statements of docs/writing-migrations.md on PostgreSQL 14 to 18.
"""

import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from ...dial import Connection
from ...engine.journal import Journal
from ...engine.repeatable import texts_of
from ...history import History

MODES = (
    "AccessShareLock", "RowShareLock", "RowExclusiveLock", "ShareUpdateExclusiveLock", "ShareLock",
    "ShareRowExclusiveLock", "ExclusiveLock", "AccessExclusiveLock",
)  # fmt: skip
"""The locks of a table, from the weakest, by their names in pg_locks: https://www.postgresql.org/docs/current/explicit-locking.html"""
NONE, ROW_EXCLUSIVE, SHARE_UPDATE_EXCLUSIVE, SHARE, ACCESS_EXCLUSIVE = -1, 2, 3, 4, 7
# Tables, views, sequences; each index, TOAST table and index of one counts as its table.
RELATIONS = """
SELECT c.oid::bigint AS oid, t.oid::bigint AS owner, n.nspname::text AS schema, t.relname::text AS bare_name,
       t.relkind::text AS kind,
       CASE n.nspname WHEN 'public' THEN '' ELSE pg_catalog.quote_ident(n.nspname) || '.' END
           || pg_catalog.quote_ident(t.relname) AS name
  FROM pg_catalog.pg_class c
  LEFT JOIN pg_catalog.pg_index i ON i.indexrelid = c.oid
  LEFT JOIN pg_catalog.pg_class m ON m.reltoastrelid = coalesce(i.indrelid, c.oid)
  JOIN pg_catalog.pg_class t ON t.oid = coalesce(m.oid, i.indrelid, c.oid)
  JOIN pg_catalog.pg_namespace n ON n.oid = t.relnamespace
 WHERE t.relkind IN ('r', 'p', 'm', 'v', 'f', 'S') AND t.relpersistence <> 't'
   AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
   AND t.oid NOT IN (SELECT pg_catalog.to_regclass(name) FROM pg_catalog.unnest($1::text[]) AS ours (name)
                      WHERE pg_catalog.to_regclass(name) IS NOT NULL)
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                    WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objid = t.oid
                      AND d.deptype = 'e')
"""
# Of these relations, and of all that are locked; a lock may have been given back by ROLLBACK TO.
LOOK = """
WITH held AS MATERIALIZED (
    SELECT relation, pg_catalog.array_agg(mode) AS modes
      FROM pg_catalog.pg_locks
     WHERE pid = pg_catalog.pg_backend_pid() AND locktype = 'relation' AND granted AND database <> 0
     GROUP BY relation
), asked (oid) AS (
    SELECT relation FROM held UNION SELECT pg_catalog.unnest($1::bigint[]::oid[])
)
SELECT asked.oid::bigint AS oid, held.modes, pg_catalog.pg_stat_get_xact_numscans(asked.oid) AS scans,
       pg_catalog.pg_relation_filenode(asked.oid)::bigint AS filenode
  FROM asked LEFT JOIN held ON held.relation = asked.oid
"""


class Relation(NamedTuple):
    """A table, a view or a sequence that was there before the file."""

    oid: int
    schema: str
    bare_name: str
    name: str
    """As SQL has it; with its schema where that is not public."""
    kind: str
    """Its relkind: r, p (partitioned), m (materialized view), v, f (foreign), S (sequence)."""


class State(NamedTuple):
    """What a transaction holds and has done of one relation so far."""

    lock: int
    """The strongest lock, as an index of MODES; NONE without one."""
    scans: int
    """How often a table or an index was read; of an index that says nothing."""
    filenode: int | None


@dataclass(frozen=True, slots=True)
class Known:
    """The relations that were there before a file, with what belongs to them."""

    owners: Mapping[int, Relation]
    """For each oid, those of indexes and TOAST tables too, the table, view or sequence."""
    parts: Mapping[Relation, Sequence[int]]
    """The other way round."""


@dataclass(slots=True)
class Looks:
    """What an open transaction holds and has done of the relations that were there before its file."""

    known: Known
    first: dict[int, State] = field(default_factory=dict)
    """Each of them before the first statement."""
    now: dict[int, State] = field(default_factory=dict)
    """Those that were locked at some time since."""

    def state(self, oid: int) -> State:
        """Return what the last look saw."""
        return self.now.get(oid) or self.first[oid]

    async def begin(self, connection: Connection) -> None:
        """Look at each, before the first statement."""
        self.first = await self.look(connection, [*self.known.owners])

    async def again(self, connection: Connection, *, everywhere: bool) -> dict[int, tuple[State, State]]:
        """Look after a statement; return what is other than before, and how it was and is.

        What was never locked cannot have changed, unless a part of the statement was rolled back: look `everywhere`.
        """
        found = await self.look(connection, [*self.known.owners] if everywhere else [*self.now])
        changed = {oid: (self.state(oid), state) for oid, state in found.items() if state != self.state(oid)}
        self.now |= {oid: state for oid, (_, state) in changed.items()}
        return changed

    async def look(self, connection: Connection, oids: Sequence[int]) -> dict[int, State]:
        """Return the states of these and of all that are locked."""
        rows = await connection.fetch(LOOK, oids)
        return {
            row["oid"]: State(strongest(row["modes"] or ()), row["scans"], row["filenode"])
            for row in rows
            if row["oid"] in self.known.owners
        }


async def known(connection: Connection, history: History) -> Known:
    """Return the relations of the database, without our own tables and those of extensions."""
    ours = [history.name, Journal(history).name, texts_of(history).name]
    rows = await connection.fetch(RELATIONS, ours)
    fields = operator.itemgetter("owner", "schema", "bare_name", "name", "kind")
    owners = {row["oid"]: Relation(*fields(row)) for row in rows}
    parts: dict[Relation, list[int]] = {}
    for oid, relation in owners.items():
        parts.setdefault(relation, []).append(oid)
    return Known(owners, parts)


def strongest(modes: Iterable[str]) -> int:
    """Return the strongest of these locks, as an index of MODES; those of predicates are none."""
    return max((MODES.index(mode) for mode in modes if mode in MODES), default=NONE)
