"""The cheap look: which targets have anything to do? One query for hundreds of schemas, a connection for each database.

As the glance does, it knows one answer for a target, "nothing to do"; about all others the run over it says more.
"""

import asyncio
from collections.abc import Iterator, Sequence

import asyncpg

from ..connect import ATTEMPT_TIMEOUT, location_of
from ..dial import Connection, open_connection
from ..driver_errors import BROKEN, heals, is_full
from ..errors import SlipwayError
from ..question import UP_TO_DATE, digest, digests_sql, look_sql, texts_digest
from ..quote import quote_array, quote_literal
from ..run import Run
from .each import Each
from .names import Target
from .source import column, present
from .tally import Tally

AT_ONCE = 500
"""Schemas in one query: it locks a table and an index of each, and the server has place for a few thousand locks."""
LOOK_SECONDS = 1.0
"""How long such a query may wait for the lock of one of the tables: without an answer there is the run over each."""
# The schemas with a history that such a query can ask; one that it cannot ask would fail it for all.
ASKABLE = """
SELECT n.nspname FROM pg_catalog.pg_namespace n
  JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = {table} AND c.relkind IN ('r', 'p')
 WHERE n.nspname = ANY ({names}::text[]) AND pg_catalog.has_schema_privilege({role}, n.oid, 'USAGE')
   AND pg_catalog.has_table_privilege({role}, c.oid, 'SELECT')
   AND 2 = (SELECT pg_catalog.count(*) FROM pg_catalog.pg_attribute a
             WHERE a.attrelid = c.oid AND a.attname IN ('version', 'checksum') AND NOT a.attisdropped)
"""


class Looks:
    """The looks of one run at its targets; `tally` counts those with nothing to do."""

    def __init__(self, each: Each, run: Run, tally: Tally, *, role: str | None) -> None:
        self.each = each
        self.run = run
        self.tally = tally
        self.role = role
        self.config = each.config
        self.gone = 0
        """How many schemas that a query has named are not there any more."""
        self.expected = digest([(one.version, one.checksum) for one in run.migrations])
        if run.repeatable:
            self.expected += texts_digest((one.filename, one.checksum) for one in run.repeatable)

    async def schemas(self, connection: Connection, targets: Sequence[Target]) -> list[Target]:
        """Return the schemas that may have something to do. Raises BadConfiguration for those that are not there."""
        self.tally.begin(len(targets))
        found = [await self.soon(connection, targets[n : n + AT_ONCE]) for n in range(0, len(targets), AT_ONCE)]
        pending = [target for some in found for target in some]
        self.tally.succeed(len(targets) - len(pending) - self.gone)
        return pending

    async def soon(self, connection: Connection, targets: Sequence[Target]) -> Sequence[Target]:
        """Return those of a few hundred schemas that may have something to do; all, where the server does not say.

        The run over each of them waits, and says why.
        """
        if connection.is_closed():
            return targets
        try:
            async with asyncio.timeout(ATTEMPT_TIMEOUT):
                return await self.few_schemas(connection, targets)
        except BROKEN as error:
            if isinstance(error, TimeoutError):
                connection.terminate()
            return targets

    async def few_schemas(self, connection: Connection, targets: Sequence[Target]) -> Sequence[Target]:
        """Return those of a few hundred schemas that may have something to do: all, where nothing can be told."""
        look = self.look_sql(targets)
        try:
            if await connection.execute(f"{look_sql(self.role, LOOK_SECONDS)} {look}") == UP_TO_DATE:
                return []
            return await self.named(connection, targets, look)
        except asyncpg.PostgresError as error:
            if connection.is_closed() or isinstance(error, asyncpg.LockNotAvailableError):
                raise
        targets = await self.present(connection, targets)
        askable = await column(connection, self.askable_sql(targets))
        asked = [target for target in targets if target.name in {*askable}]
        try:
            differing = await self.named(connection, asked, self.look_sql(asked)) if asked else []
        except asyncpg.PostgresError:
            if connection.is_closed():
                raise
            return targets
        current = {target.name for target in asked} - {target.name for target in differing}
        return [target for target in targets if target.name not in current]

    async def present(self, connection: Connection, targets: Sequence[Target]) -> list[Target]:
        """Return those of the schemas that are there. Raises BadConfiguration for one of a list that is not."""
        found = await present(self.config, connection, targets)
        self.tally.begin(self.tally.total - len(targets) + len(found))
        self.gone += len(targets) - len(found)
        return found

    async def named(self, connection: Connection, targets: Sequence[Target], look: str) -> list[Target]:
        """Return the targets that the query names."""
        async with connection.transaction():
            await connection.execute(look_sql(self.role, LOOK_SECONDS))
            names = {*await column(connection, look)}
        return [target for target in targets if target.name in names]

    def look_sql(self, targets: Sequence[Target]) -> str:
        """Return the query for the names of the schemas whose history is not exactly this image's."""
        filenames = [one.filename for one in self.run.repeatable]
        newest = self.run.migrations[-1].version

        def rows() -> Iterator[str]:
            for target in targets:
                look = digests_sql(target.name, self.config.table, filenames, newest)
                yield f"({quote_literal(target.name)}, ({look}))"

        return f"""
            SELECT name FROM (VALUES {", ".join(rows())}) AS look (name, digest)
             WHERE digest IS DISTINCT FROM {quote_literal(self.expected)}"""

    def askable_sql(self, targets: Sequence[Target]) -> str:
        """Return the query for the schemas that can be asked."""
        return ASKABLE.format(
            table=quote_literal(self.config.table),
            names=quote_array(target.name for target in targets),
            role=quote_literal(self.role) if self.role else "current_user",
        )

    async def databases(self, targets: Sequence[Target]) -> list[Target]:
        """Return the databases that may have something to do.

        Where one gives no answer for now, no other one is looked at: the run over it waits, and says why.
        """
        self.tally.begin(len(targets))
        left, current = iter(targets), set()
        is_silent = False
        is_one_server = self.config.target_kind == "database"

        async def look() -> None:
            nonlocal is_silent
            while not is_silent and (target := next(left, None)):
                try:
                    is_current = await self.is_current(target)
                except (*BROKEN, SlipwayError) as error:
                    is_silent = is_silent or (is_one_server and heals(error) and not is_full(error))
                else:
                    if is_current:
                        current.add(target.name)
                        self.tally.succeed()

        async with asyncio.TaskGroup() as group:
            for _ in range(self.config.parallel):
                group.create_task(look())
        return [target for target in targets if target.name not in current]

    async def is_current(self, target: Target) -> bool:
        """Tell whether there is nothing to do in a database. Raises whatever a connection does."""
        location = location_of(self.each.of(target))
        async with asyncio.timeout(ATTEMPT_TIMEOUT):
            connection = await open_connection(location, 0, 0.95 * ATTEMPT_TIMEOUT)
            try:
                history = self.run.history if self.role else self.run.history_as_login
                return await history.is_current(connection, self.run.migrations, self.run.repeatable)
            finally:
                connection.terminate()
