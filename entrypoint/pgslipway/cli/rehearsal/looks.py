"""The relations that were there before a file, and what the own transaction holds and has done of them.

pg_locks has the locks; pg_stat_get_xact_numscans(), which is beneath pg_stat_xact_user_tables.seq_scan, goes up when a
table was read as a whole, also an empty one; pg_relation_filenode() changes when it was rewritten. Measured for the
statements of docs/writing-migrations.md on PostgreSQL 14 to 18.
"""

import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
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
LOOK = """
WITH held AS MATERIALIZED (
    SELECT relation, pg_catalog.array_agg(mode) AS modes
      FROM pg_catalog.pg_locks
     WHERE pid = pg_catalog.pg_backend_pid() AND locktype = 'relation' AND granted AND database <> 0
     GROUP BY relation
)
SELECT known.oid::bigint AS oid, held.modes, pg_catalog.pg_stat_get_xact_numscans(known.oid) AS scans,
       pg_catalog.pg_relation_filenode(known.oid)::bigint AS filenode
  FROM pg_catalog.unnest($1::bigint[]::oid[]) AS known (oid) LEFT JOIN held ON held.relation = known.oid
 WHERE $2 OR held.relation IS NOT NULL
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

    async def look(self, connection: Connection, before: Mapping[int, State] | None = None) -> dict[int, State]:
        """Return what the open transaction holds and has done of each.

        After a look `before` in the same transaction, only what is locked is asked for: nothing else can have changed.
        """
        if not self.owners:
            return {}
        rows = await connection.fetch(LOOK, list(self.owners), before is None)
        found = {row["oid"]: State(strongest(row["modes"] or ()), row["scans"], row["filenode"]) for row in rows}
        return {**(before or {}), **found}


async def known(connection: Connection, history: History) -> Known:
    """Return the relations of the database, without our own tables and those of extensions."""
    ours = [history.name, Journal(history).name, texts_of(history).name]
    rows = await connection.fetch(RELATIONS, ours)
    fields = operator.itemgetter("owner", "schema", "bare_name", "name", "kind")
    return Known({row["oid"]: Relation(*fields(row)) for row in rows})


def strongest(modes: Iterable[str]) -> int:
    """Return the strongest of these locks, as an index of MODES; those of predicates are none."""
    return max((MODES.index(mode) for mode in modes if mode in MODES), default=NONE)
