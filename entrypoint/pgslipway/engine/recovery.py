"""The fate of a statement that was interrupted outside a transaction: told by Postgres's catalogs, and mended.

The statements are those that call PreventInTransactionBlock in Postgres's sources. Each is recognised by the object
that it makes or removes: one of its name that has another oid than before was made by it.
"""

import logging
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import inf

from tenacity import AsyncRetrying, RetryError, retry_if_result, stop_after_delay, wait_fixed

from ..dial import Connection
from ..errors import Locked, Problem
from ..migrations import Migration
from ..quote import quote_literal, quote_name
from ..words import short
from .journal import Entry
from .sql import Statement, folded, names, statements

logger = logging.getLogger(__name__)

MAKES, REMOVES, REPEATS = "makes", "removes", "repeats"

# The qualified name of an index that a statement makes: it goes into the schema of its table.
TABLES_INDEX = """
SELECT pg_catalog.format('%I.%I', n.nspname, {index})
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE c.oid = pg_catalog.to_regclass({name})
"""
# The qualified name of a relation, found by the search path as the statement finds it.
RELATION = """
SELECT pg_catalog.format('%I.%I', n.nspname, c.relname)
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE c.oid = pg_catalog.to_regclass({name})
"""
PLAIN = "SELECT {name}"
# Index-like relations, and for an invalid one the statement that drops it; the conditions follow.
DROP_INVALID = """
SELECT c.oid::bigint AS oid, CASE WHEN NOT i.indisvalid THEN
           pg_catalog.format('DROP INDEX CONCURRENTLY IF EXISTS %I.%I', n.nspname, c.relname) END AS mend
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN pg_catalog.pg_index i ON i.indexrelid = c.oid
"""
INDEX = f"{DROP_INVALID} WHERE c.oid = pg_catalog.to_regclass($1)"
LEFTOVERS = f"""{DROP_INVALID}
 WHERE NOT i.indisvalid AND c.relname ~ '_cc(new|old)[0-9]*$' AND pg_catalog.pg_has_role(c.relowner, 'USAGE')
   AND pg_catalog.has_schema_privilege(n.oid, 'USAGE') AND $1::text IS NULL
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_locks l
                    WHERE l.relation = i.indrelid AND l.mode = 'ShareUpdateExclusiveLock' AND l.granted)
"""
"""What REINDEX CONCURRENTLY left behind, but where somebody is at it right now. Of a TOAST table only a superuser can
drop it, and it does no harm there."""
# Whether a table is still a partition, and where DETACH CONCURRENTLY stopped half-way, the statement that ends it.
PARTITION = """
SELECT i.inhrelid::bigint AS oid, CASE WHEN i.inhdetachpending THEN
           pg_catalog.format('ALTER TABLE %I.%I DETACH PARTITION %I.%I FINALIZE',
                             pn.nspname, p.relname, n.nspname, c.relname) END AS mend
  FROM pg_catalog.pg_inherits i
  JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_catalog.pg_class p ON p.oid = i.inhparent JOIN pg_catalog.pg_namespace pn ON pn.oid = p.relnamespace
 WHERE i.inhrelid = pg_catalog.to_regclass($1)
"""
NAMED = "SELECT oid::bigint AS oid, NULL AS mend FROM pg_catalog.{catalog} WHERE {column} = $1::text::name"
DATABASE = NAMED.format(catalog="pg_database", column="datname")
TABLESPACE = NAMED.format(catalog="pg_tablespace", column="spcname")
SUBSCRIPTION = NAMED.format(catalog="pg_subscription", column="subname")


@dataclass(frozen=True)
class Rule:
    """How the fate of one kind of statement is told."""

    start: str
    """A pattern for the words before the name."""
    effect: str = REPEATS
    name: str = PLAIN
    """SQL for the qualified name of the statement's object."""
    look: str = ""
    """SQL for the objects of that name now: oid, and the statement that mends a half-made one."""
    may_wait: bool = False
    """It queues for locks as long as it takes: a time-out would leave it half done, and it blocks nobody meanwhile."""

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """The pattern, compiled when it is needed."""
        return re.compile(self.start)


RULES = (
    Rule(r"CREATE (UNIQUE )?INDEX CONCURRENTLY (IF NOT EXISTS )?(?=\S)", MAKES, TABLES_INDEX, INDEX, may_wait=True),
    Rule(r"DROP INDEX CONCURRENTLY (IF EXISTS )?(?=\S)", REMOVES, RELATION, INDEX, may_wait=True),
    Rule(r"ALTER TABLE .*?DETACH PARTITION (?=.* CONCURRENTLY$)", REMOVES, RELATION, PARTITION, may_wait=True),
    Rule(r"REINDEX .*CONCURRENTLY", REPEATS, "SELECT NULL::text", LEFTOVERS, may_wait=True),
    Rule(r"CREATE DATABASE (?=\S)", MAKES, look=DATABASE),
    Rule(r"DROP DATABASE (IF EXISTS )?(?=\S)", REMOVES, look=DATABASE),
    Rule(r"CREATE TABLESPACE (?=\S)", MAKES, look=TABLESPACE),
    Rule(r"DROP TABLESPACE (IF EXISTS )?(?=\S)", REMOVES, look=TABLESPACE),
    Rule(r"CREATE SUBSCRIPTION (?=\S)", MAKES, look=SUBSCRIPTION),
    Rule(r"DROP SUBSCRIPTION (IF EXISTS )?(?=\S)", REMOVES, look=SUBSCRIPTION),
    Rule(r"VACUUM|ANALYZE|CLUSTER|REPACK|REINDEX|ALTER (SYSTEM|DATABASE|EXTENSION .* UPDATE)|DISCARD"),
)
"""What is not here, nobody can tell: CALL and DO that commit inside, COMMIT PREPARED, extensions' own commands."""
ORPHAN_POLL = 1.0
"""Seconds between two looks whether an orphan is still at it."""
ORPHAN = """
SELECT a.pid FROM pg_catalog.pg_stat_activity a
 WHERE a.datname = pg_catalog.current_database() AND a.pid <> pg_catalog.pg_backend_pid() AND a.state = 'active'
   AND a.query = pg_catalog.left($1, pg_catalog.length(a.query))
   AND (a.query = $1 OR pg_catalog.octet_length(a.query) >= 90)
"""
"""A session that works on a statement; the server shows the beginning of a long one only."""


def rule_for(statement: Statement) -> Rule | None:
    """Return the rule for `statement`; None where only a person can tell its fate."""
    return next((rule for rule in RULES if rule.pattern.match(statement.text)), None)


def rule_of(entry: Entry) -> Rule | None:
    """Return the rule for the statement of `entry`."""
    return rule_for(next(statements((entry.statement or "").encode()), Statement(0, 0, ())))


async def look_before(connection: Connection, rule: Rule | None, text: str) -> tuple[str | None, Sequence[int] | None]:
    """Return the qualified name of the object of the statement `text`, and the oids of that name now."""
    if rule is None or not rule.look:
        return None, None
    async with connection.transaction():
        name = await connection.fetchval(name_sql(rule, text))
    return name, [oid for oid, _ in await look(connection, rule, name)]


def name_sql(rule: Rule, text: str) -> str:
    """Return the SQL for the name of the object that the statement `text` makes or removes."""
    first = (rule.pattern.match(next(statements(text.encode())).text) or [""])[0].count(" ")
    index, *others = [parts for place, parts in names(text.encode()) if place >= first] or [("",)]
    if rule.name == TABLES_INDEX:
        table = next((parts for parts in others if parts not in {("ON",), ("ONLY",)}), ("",))
        return rule.name.format(index=quote_literal(folded(index[-1])), name=quote_literal(qualified(table)))
    return rule.name.format(name=quote_literal(folded(index[-1]) if rule.name == PLAIN else qualified(index)))


def qualified(parts: Sequence[str]) -> str:
    """Return the quoted name of a relation, with its schema where that was given."""
    return ".".join(quote_name(folded(part)) for part in parts[-2:])


async def look(connection: Connection, rule: Rule, name: str | None) -> list[tuple[int, str | None]]:
    """Return (oid, statement that mends it) for each object called `name`; None for a sound one."""
    async with connection.transaction():
        return [(row["oid"], row["mend"]) for row in await connection.fetch(rule.look, name)]


async def settle(connection: Connection, rule: Rule, entry: Entry, execute: Callable[[str], Awaitable[object]]) -> bool:
    """Mend a half-done statement; tell whether it took effect. If not, it is to be repeated.

    `execute` sends a statement outside a transaction; its failures go on. An object of the same name that somebody
    else made is not touched: it has another oid.
    """
    if not rule.look:
        return False
    before = entry.before or ()

    def is_ours(oid: int) -> bool:
        return (oid in before) == (rule.effect == REMOVES)

    for oid, mend in await look(connection, rule, entry.object):
        if mend and is_ours(oid):
            await execute(mend)
    left = any(is_ours(oid) for oid, _ in await look(connection, rule, entry.object))
    return left if rule.effect == MAKES else rule.effect == REMOVES and bool(before) and not left


async def hides_invalid(connection: Connection, rule: Rule | None, entry: Entry) -> bool:
    """Tell whether a CREATE … IF NOT EXISTS that succeeded found something invalid."""
    if rule is None or rule.effect != MAKES:
        return False
    return any(mend for _, mend in await look(connection, rule, entry.object))


async def wait_for_orphan(connection: Connection, statement: str, limit: float) -> None:
    """Wait until no session works on `statement` any more, `limit` seconds at most, 0 for ever. Raises Locked.

    Behind a pooler the session of a run that was killed may live on; a second one must not do the same work.
    """
    seen: set[int] = set()

    async def look_for_it() -> int | None:
        async with connection.transaction():
            pid: int | None = await connection.fetchval(ORPHAN, statement)
        if pid and pid not in seen:
            seen.add(pid)
            logger.info("an earlier run's session, pid %d, still works on: %s", pid, short(statement))
        return pid

    attempts = AsyncRetrying(
        retry=retry_if_result(bool), wait=wait_fixed(ORPHAN_POLL), stop=stop_after_delay(limit or inf)
    )
    try:
        await attempts(look_for_it)
    except RetryError as error:
        raise Locked(
            f"an earlier run's session, pid {error.last_attempt.result()}, still works on: {short(statement)} "
            f"(MIGRATE_LOCK_TIMEOUT={limit:g}s)"
        ) from error


def undecided(migration: Migration, entry: Entry) -> Problem:
    """Say that only a person can tell the fate of the statement in flight, with the commands to run."""
    begun = f", begun at {entry.started_at.isoformat(' ', 'seconds')}," if entry.started_at else ""
    return Problem(
        f"this was stopped while it ran outside a transaction{begun} and nobody but you can tell how far it got:\n"
        f"  {short(entry.statement or '')}\n"
        "look at the database, then say so, and run again:\n"
        f"  pgslipway resolve {migration.text} --done    it took effect: go on after it\n"
        f"  pgslipway resolve {migration.text} --retry   it did not, or doing it again is harmless: run it again",
        migration.filename,
        entry.line,
    )
