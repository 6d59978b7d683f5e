"""The effects of a statement on the relations that were there before its file."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from .looks import ACCESS_EXCLUSIVE, MODES, NONE, ROW_EXCLUSIVE, SHARE, Looks, Relation, State
from .planner import Names

SEQUENCE, MATERIALIZED = "S", "m"
"""A relkind each: of what has one row, and of what only a REFRESH writes to."""
ABOUT_ROWS = re.compile(r"(SELECT|INSERT|UPDATE|DELETE|MERGE|COPY|WITH|VALUES|TABLE|REFRESH|CREATE MATERIALIZED)\b")
EMPTIES = re.compile(r"TRUNCATE\b|REFRESH .*\bWITH NO DATA$")
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
        """The lock as LOCK TABLE writes it; empty where it was given back at once."""
        if self.lock == NONE:
            return ""
        words = "".join(f" {letter}" if letter.isupper() else letter for letter in MODES[self.lock])
        return words.removesuffix(" Lock").strip().upper()

    @property
    def blocks(self) -> str:
        """Who has to wait for the end of that lock."""
        return blocked(self.relation, self.lock)


@dataclass(frozen=True, slots=True)
class Observed:
    """A statement of a file that was run, and its effects."""

    file: str
    start: int
    """Its first byte."""
    line: int
    text: str
    """The statement as it was written, on one line."""
    kind: str
    """Its words, in upper case."""
    transaction: int
    """Counts the transactions of a file: locks are held to the end of one."""
    effects: Sequence[Effect] = ()
    closed: frozenset[Relation] = frozenset()
    """What writers are kept out of while it runs, since then or before."""
    is_seen: bool = True
    """False for a statement whose locks were gone before anybody could look, and that is none of a known kind."""

    @property
    def truncates(self) -> bool:
        """Tell whether it empties what it names, which changes files and reads none."""
        return EMPTIES.match(self.kind) is not None

    @property
    def changes_rows(self) -> bool:
        """Tell whether it is about rows, and takes a lock for what it does to them only."""
        return ABOUT_ROWS.match(self.kind) is not None


def effects(looks: Looks, changed: Mapping[int, tuple[State, State]], read: Names = frozenset()) -> Iterator[Effect]:
    """Yield the effect of a statement on each relation that it locks, reads or rewrites.

    `changed` is what the last look has seen, and `read` has the tables that it read as a whole by its plan.
    """
    touched = {looks.known.owners[oid] for oid in changed}
    touched |= {one for one in looks.known.parts if (one.schema, one.bare_name) in read} if read else set()
    for relation in sorted(touched, key=lambda one: one.name):
        pairs = {oid: changed.get(oid) or (looks.state(oid),) * 2 for oid in looks.known.parts[relation]}
        held, lock = (max(pair[number].lock for pair in pairs.values()) for number in (0, 1))
        is_changed = relation.kind != SEQUENCE and any(is_rewritten(*pair) for pair in pairs.values())
        rewrites = relation.kind != SEQUENCE and is_rewritten(*pairs[relation.oid])
        before, after = pairs[relation.oid]
        reads = after.scans > before.scans or is_changed or (relation.schema, relation.bare_name) in read
        if reads or (lock > held and lock >= ROW_EXCLUSIVE):
            yield Effect(relation, lock, lock > held, reads and not rewrites, rewrites)


def closed(looks: Looks) -> frozenset[Relation]:
    """Return the relations that writers are kept out of now."""
    owners = looks.known.owners
    return frozenset(owners[oid] for oid, state in looks.now.items() if blocked(owners[oid], state.lock))


def blocked(relation: Relation, lock: int) -> str:
    """Return who has to wait for the end of a lock."""
    if lock == ACCESS_EXCLUSIVE:
        return EVERYBODY
    return WRITERS if lock >= SHARE and relation.kind != MATERIALIZED else NOBODY


def is_rewritten(before: State, after: State) -> bool:
    """Tell whether a relation has other files than before; one that was dropped has none."""
    return None not in {before.filenode, after.filenode} and before.filenode != after.filenode
