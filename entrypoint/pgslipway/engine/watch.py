"""The watch over a long statement, by a second connection: who blocks it, or how far it got."""

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import asyncpg

from ..dial import Connection
from ..driver_errors import BROKEN, describe
from ..errors import Busy, SlipwayError
from ..quote import milliseconds
from .lock import Held
from .message import UNPRINTABLE

logger = logging.getLogger(__name__)

FIRST_LOOK = 2.0
"""Seconds that a statement may run before its session is looked at."""
INTERVAL = 10.0
"""Seconds between two lines in a log."""
REDRAW = 1.0
"""Seconds between two looks on a terminal, where a line is drawn over the one before."""
SOON = 0.1
"""Seconds between two looks once a lock was waited for in vain: the next try gives up soon as well."""
# The lock that the worker waits for, and a row for each session that is in its way.
BLOCKERS = """
SELECT w.mode, w.locked, blocker.pid, b.usename, b.application_name, b.state, b.backend_type,
       pg_catalog.host(b.client_addr) AS host, b.query,
       pg_catalog.date_part('epoch', pg_catalog.clock_timestamp() - b.state_change)::int AS seconds
  FROM (SELECT a.pid FROM pg_catalog.pg_stat_activity a WHERE {worker} ORDER BY a.query_start LIMIT 1) AS a
  CROSS JOIN LATERAL (
       SELECT l.mode, coalesce(l.relation::pg_catalog.regclass::text, 'a ' || l.locktype) AS locked
         FROM pg_catalog.pg_locks l WHERE l.pid = a.pid AND NOT l.granted LIMIT 1) AS w
  CROSS JOIN LATERAL pg_catalog.unnest(pg_catalog.pg_blocking_pids(a.pid)) AS blocker (pid)
  LEFT JOIN pg_catalog.pg_stat_activity b ON b.pid = blocker.pid
"""
# How far the worker is, from the view of whichever command it runs.
PROGRESS = """
SELECT p.what, p.phase, (100 * p.done / nullif(p.total, 0))::int AS percent
  FROM pg_catalog.pg_stat_activity a JOIN (
       SELECT pid, 'index build' AS what, phase,
              CASE WHEN lockers_total > 0 AND phase LIKE 'waiting%' THEN lockers_done
                   WHEN tuples_total > 0 THEN tuples_done ELSE blocks_done END AS done,
              CASE WHEN lockers_total > 0 AND phase LIKE 'waiting%' THEN lockers_total
                   WHEN tuples_total > 0 THEN tuples_total ELSE blocks_total END AS total
         FROM pg_catalog.pg_stat_progress_create_index
       UNION ALL SELECT pid, 'VACUUM', phase, heap_blks_scanned, heap_blks_total
         FROM pg_catalog.pg_stat_progress_vacuum
       UNION ALL SELECT pid, command, phase, heap_blks_scanned, heap_blks_total
         FROM pg_catalog.pg_stat_progress_cluster
       UNION ALL SELECT pid, 'ANALYZE', phase, sample_blks_scanned, sample_blks_total
         FROM pg_catalog.pg_stat_progress_analyze
       UNION ALL SELECT pid, 'COPY', pg_catalog.concat(tuples_processed, ' rows'), NULL, NULL
         FROM pg_catalog.pg_stat_progress_copy
       ) AS p USING (pid)
 WHERE {worker}
"""
# A lock_timeout above the time after which autovacuum gives way, unless waiting is unlimited anyway.
LONG_ENOUGH = """
SELECT pg_catalog.set_config('lock_timeout', greatest({usual}, setting::int + 500)::text, {is_local})
  FROM pg_catalog.pg_settings WHERE name = 'deadlock_timeout' AND {usual} > 0
"""
SHOWN = 100
"""Characters of a query that a message shows."""
POOLED = """
a.application_name = 'pgslipway' AND a.state = 'active' AND a.pid <> pg_catalog.pg_backend_pid()
AND a.datname = pg_catalog.current_database()
"""
"""Behind a pooler the driver does not know its backend; under the lock one runner works, and waiters ask briefly."""
DIRECT = f"""
(a.pid = {{pid}} OR {POOLED} AND NOT EXISTS (SELECT FROM pg_catalog.pg_stat_activity WHERE pid = {{pid}}))
"""
"""Pgpool-II tells the pid on the server that it reads from, which nobody has on the one that it writes to."""


@dataclass(slots=True)
class Watch:
    """Watches the statements of one file; its connection is opened when one of them takes long."""

    held: Held
    soon: float
    """Seconds before the first look at a statement that may be busy: within its lock timeout."""
    first_look: float = FIRST_LOOK
    """Seconds that a statement may run before it is looked at."""
    blocker: str = ""
    """Who kept a lock that was waited for, when somebody was last seen to do so."""
    is_autovacuum: bool = False
    """Autovacuum is among who kept it, which gives way to those who wait for deadlock_timeout only."""
    mask: Callable[[str], str] = str
    """Hides what must not be shown in the server's words."""
    connection: Connection | None = None
    looking: "asyncio.Task[str] | None" = None
    """A look that is on its way. It outlives its statement: cut off, it would leave a transaction open, which takes
    the place in a small pool that the next statement waits for; and far away, connecting takes longer than a try."""

    def close(self) -> None:
        """Give up the connection."""
        if self.looking:
            self.looking.cancel()
        self.hang_up()

    def busy(self, error: asyncpg.PostgresError, line: int) -> Busy:
        """Return that a lock was waited for in vain, and whose it was; the next try is looked at soon."""
        self.first_look = self.soon
        return Busy(self.mask(str(error)), line=line, blocker=self.blocker)

    def hang_up(self) -> None:
        """Close the connection, whatever it is used for."""
        if self.connection:
            self.connection.terminate()
        self.connection = None

    @contextmanager
    def over(self, place: str) -> Iterator[None]:
        """Watch the statement in the block; `place` names it in the log. A short one costs a timer, and no task."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        reports: list[asyncio.Task[None]] = []
        timer = loop.call_later(
            self.first_look, lambda: reports.append(asyncio.ensure_future(self.report(place, started)))
        )
        try:
            yield
        finally:
            timer.cancel()
            for report in reports:
                report.cancel()

    async def report(self, place: str, started: float) -> None:
        """Log the blocker or the progress, again and again. Where nobody can be asked, the work goes on unnamed."""
        level, interval = (logging.DEBUG, REDRAW) if logger.isEnabledFor(logging.DEBUG) else (logging.INFO, INTERVAL)
        clock = asyncio.get_running_loop().time
        try:
            while True:
                if self.looking is None or self.looking.done():
                    self.looking = asyncio.ensure_future(self.look())
                    self.looking.add_done_callback(lambda look: look.cancelled() or look.exception())
                doing = await asyncio.shield(self.looking)
                pause = SOON
                if clock() - started >= FIRST_LOOK:
                    logger.log(level, "%s: %s, %.0f s so far", place, doing, clock() - started)
                    pause = interval
                await asyncio.sleep(pause)
        except (*BROKEN, SlipwayError) as error:
            logger.log(level, "%s: nobody can be asked what it is doing: %s", place, self.mask(describe(error)))
            self.hang_up()

    async def look(self) -> str:
        """Return the blocker or the progress of the statement, right now."""
        if self.connection is None:
            if self.held.another is None:
                raise ConnectionError("run_migrations opens no second connection")
            self.connection = await self.held.another()
        worker = DIRECT.format(pid=self.held.pid) if self.held.pid else POOLED
        async with self.connection.transaction():
            if blockers := await self.connection.fetch(BLOCKERS.format(worker=worker)):
                self.blocker = self.mask(blocked_by(blockers, self.mask))
                self.is_autovacuum = any(row["pid"] and not row["usename"] for row in blockers)
                return self.blocker
            progress = await self.connection.fetchrow(PROGRESS.format(worker=worker))
        return progress_text(progress) if progress else "at work"

    def lock_timeout_sql(self, usual: float, scope: str) -> str:
        """Return the SQL that sets a longer lock_timeout than the usual, where autovacuum is in the way."""
        if not self.is_autovacuum:
            return ""
        is_local = "true" if scope == "LOCAL" else "false"
        return LONG_ENOUGH.format(usual=milliseconds(usual), is_local=is_local)


def blocked_by(blockers: Sequence[asyncpg.Record], mask: Callable[[str], str]) -> str:
    """Describe the lock that is waited for and its holders, as far as the role may see them."""
    holders = "; ".join(holder(blocker, mask) for blocker in blockers)
    return f"waiting for {blockers[0]['mode']} on {blockers[0]['locked']}, held by {holders}"


def holder(row: asyncpg.Record, mask: Callable[[str], str]) -> str:
    """Describe one session that blocks; `mask` hides what nobody is to see, before its query is cut."""
    if not row["pid"]:
        return "a prepared transaction (see pg_prepared_xacts)"
    known = [
        f"user {row['usename']}" if row["usename"] else row["backend_type"] or "a background process",
        row["application_name"],
        row["host"] and f"from {row['host']}",
        f"{row['state']} for {row['seconds']} s" if row["seconds"] is not None else "",  # not where nobody tracks it
    ]
    query = UNPRINTABLE.sub("�", " ".join(mask(row["query"] or "").split()))[:SHOWN] if row["state"] else ""
    what = "" if not query else f", {'its query' if row['state'] == 'active' else 'its last query'}: {query}"
    return f"pid {row['pid']} ({', '.join(filter(None, known))}{what})"


def progress_text(row: asyncpg.Record) -> str:
    """Describe how far an index build and the like got."""
    percent = "" if row["percent"] is None else f", {row['percent']} %"
    return f"{row['what']}: {row['phase']}{percent}"
