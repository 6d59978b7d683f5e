"""The effects of a statement on the relations that were there before its file."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from .looks import ACCESS_EXCLUSIVE, MODES, ROW_EXCLUSIVE, SHARE, Relation, State
from .planner import Names

SEQUENCE, MATERIALIZED = "S", "m"
"""A relkind each: of what has one row, and of what only a REFRESH writes to."""
ABOUT_ROWS = re.compile(r"(SELECT|INSERT|UPDATE|DELETE|MERGE|COPY|WITH|VALUES|TABLE|REFRESH|CREATE MATERIALIZED)\b")
NOBODY, WRITERS, EVERYBODY = "", "writers", "readers and writers"


@dataclass(frozen=True, slots=True)
class Effect:
    """The effect of a statement on one relation."""

    relation: Relation
    lock: int
    """The strongest lock that is held while it runs, as an index of MODES."""
    is_new: bool
    """It took that lock itself, and not an earlier statement of the file."""
    reads: bool
    """It reads the table as a whole, or an index of it is built."""
    rewrites: bool

    @property
    def lock_name(self) -> str:
        """The lock as LOCK TABLE writes it."""
        words = "".join(f" {letter}" if letter.isupper() else letter for letter in MODES[self.lock])
        return words.removesuffix(" Lock").strip().upper()

    @property
    def blocks(self) -> str:
        """Who has to wait for the end of that lock."""
        if self.lock == ACCESS_EXCLUSIVE:
            return EVERYBODY
        return WRITERS if self.lock >= SHARE and self.relation.kind != MATERIALIZED else NOBODY


@dataclass(frozen=True, slots=True)
class Observed:
    """A statement of a file that was run, and its effects."""

    file: str
    line: int
    text: str
    """The statement as it was written, on one line."""
    kind: str
    """Its words, in upper case."""
    transaction: int
    """Counts the transactions of a file: locks are held to the end of one."""
    effects: Sequence[Effect] = ()
    is_seen: bool = True
    """False for a statement whose locks were gone before anybody could look, and that is none of a known kind."""

    @property
    def truncates(self) -> bool:
        """Tell whether it is a TRUNCATE, which changes files and reads none."""
        return self.kind.startswith("TRUNCATE")

    @property
    def changes_rows(self) -> bool:
        """Tell whether it is about rows, and takes a lock for what it does to them only."""
        return ABOUT_ROWS.match(self.kind) is not None


def effects(
    owners: Mapping[int, Relation], before: Mapping[int, State], after: Mapping[int, State], read: Names = frozenset()
) -> Iterator[Effect]:
    """Yield the effect of a statement on each relation that it locks, reads or rewrites, of two looks around it.

    `read` has the tables that it read as a whole by its plan.
    """
    touched = {owners[oid] for oid, state in after.items() if state != before[oid]}
    touched |= {one for one in owners.values() if (one.schema, one.bare_name) in read}
    parts: dict[Relation, list[int]] = {relation: [] for relation in sorted(touched, key=lambda one: one.name)}
    for oid, relation in owners.items():
        if relation in touched:
            parts[relation].append(oid)
    for relation, oids in parts.items():
        held, lock = (max(look[oid].lock for oid in oids) for look in (before, after))
        changed = {oid for oid in oids if relation.kind != SEQUENCE and is_rewritten(before[oid], after[oid])}
        rewrites = relation.oid in changed
        is_read = after[relation.oid].scans > before[relation.oid].scans
        reads = is_read or bool(changed) or (relation.schema, relation.bare_name) in read
        if reads or (lock > held and lock >= ROW_EXCLUSIVE):
            yield Effect(relation, lock, lock > held, reads and not rewrites, rewrites)


def is_rewritten(before: State, after: State) -> bool:
    """Tell whether a relation has other files than before; one that was dropped has none."""
    return None not in {before.filenode, after.filenode} and before.filenode != after.filenode
