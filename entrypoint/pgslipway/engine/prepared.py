"""Our own statements around each file. Where the session is ours they are PREPAREd, so that they are planned only once.

A file can drop them. The message that has one of them fails then (26000), at no place in the file; so the file is sent
again in three messages, which prepare them anew and execute none of them, as after every failure of that kind.
"""

from functools import lru_cache
from typing import NamedTuple

import asyncpg

from ..history import History
from ..migrations import row_sql_values
from .findings import verify_sql
from .leftovers import OURS, drop_prepared_sql, is_put_back_sql, keeps_prepared
from .lock import Held
from .lock_sql import lock_key
from .repeatable import texts_of
from .sending import Job, settings_sql
from .undo import forget_sql, verify_gone_sql

RECORD, VERIFY, SETTINGS, END = OURS
MOST_TABLES = 64
"""The tables whose SQL is kept: a run over many targets has one for each."""
OPENING = 140
"""More characters than come before `tables_sql` in the message that prepares, besides the role."""


class Around(NamedTuple):
    """The SQL that is sent around a file."""

    record: str
    """Our settings, and the row."""
    verify: str
    end: str
    """After COMMIT; returns a row if the lock is still ours and nothing is left to be dropped."""
    width: int = 0
    """Characters that come before the file at least. A prepared statement that does not fit its table any more fails at
    a place in the message that prepared it: none of the file's text is at that place."""


def plain(held: Held, job: Job, settings: str, condition: str) -> Around:
    """Return what can be sent at any time, with such settings; the row is written on a `condition`."""
    version = job.migration.version
    if job.undoes:
        texts = texts_of(job.history).name if job.forgets else ""
        record, verify = forget_sql(job.history, version, condition, texts), verify_gone_sql(job.history, version)
    elif job.repeats:
        record, verify = texts_of(job.history).around_sql(job.migration, condition)
    else:
        record = job.history.record_sql(row_sql_values(job.migration, job.contents.minimum_version), condition)
        verify = verify_sql(job.history, version)
    return Around(f"{settings}; {record}", verify, end_sql(held, job))


def short(held: Held, job: Job) -> Around:
    """Return what can be sent after a file that was applied in the same session and has left nothing."""
    if job.repeats:  # no key keeps a second runner from writing the row of another text
        return plain(held, job, settings_sql(job.config, "LOCAL"), held.condition)
    if not keeps_prepared(held):
        return plain(held, job, settings_sql(job.config, "LOCAL"), "true")
    row = row_sql_values(job.migration, job.contents.minimum_version)
    record, verify = f"EXECUTE {SETTINGS}; EXECUTE {RECORD} ({row})", f"EXECUTE {VERIFY} ({job.migration.version})"
    return Around(record, verify, f"EXECUTE {END}", width_of(job.history))


def prepare_sql(held: Held, job: Job) -> str:
    """Return SQL that drops what files have prepared, and prepares ours. The role has to be taken already."""
    if not keeps_prepared(held) or job.repeats:
        return drop_prepared_sql(held)
    return f"""
        {drop_prepared_sql(held)} {tables_sql(job.history)}
        PREPARE {SETTINGS} AS {settings_sql(job.config, "LOCAL")}; PREPARE {END} AS {end_sql(held, job)};"""


@lru_cache(MOST_TABLES)
def tables_sql(history: History) -> str:
    """Return SQL that prepares the statements that name a table."""
    return f"""
        PREPARE {RECORD} (bigint, text, text, bigint) AS {history.record_sql("$1, $2, $3, $4", "true")};
        PREPARE {VERIFY} (bigint) AS {verify_sql(history, "$1")};"""


@lru_cache(MOST_TABLES)
def width_of(history: History) -> int:
    """Return where the table is named last in the message that prepares, or farther on.

    It is early: pg_stat_activity shows no more than the first kilobyte of a message, and is to show the file there.
    """
    return OPENING + len(history.set_role_sql) + tables_sql(history).rindex("$1")


def end_sql(held: Held, job: Job) -> str:
    """Return the query of `Around.end`."""
    return f"SELECT 1 WHERE {is_put_back_sql(held, lock_key(job.history.schema, job.history.table))}"


def is_missing(error: BaseException | None) -> bool:
    """Tell whether a message failed since a file has dropped a statement of ours."""
    return isinstance(error, asyncpg.InvalidSQLStatementNameError) and any(name in str(error) for name in OURS)
