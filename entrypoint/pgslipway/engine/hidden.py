"""Rows of the history that take the key of a pending file, and that this role cannot see.

Row-level security can hide them. Then a file looks pending, its own row is refused as a duplicate, and another runner
seems to have applied it; but starting over shows the same again.
"""

from collections.abc import Sequence

import asyncpg

from ..dial import Connection
from ..errors import AccessRefused, HistoryConflict, Problem, SlipwayError
from ..history import History
from ..migrations import row_sql_values
from ..question import table_name
from ..quote import quote_literal
from ..run import Run
from .sending import Job

CLAIMS = 2
"""How often another runner may seem to have applied a file that is pending all the same."""
IS_FILTERED = "SELECT 1 WHERE pg_catalog.row_security_active(pg_catalog.to_regclass({table}))"


async def refuse_hidden(run: Run, connection: Connection, jobs: Sequence[Job]) -> None:
    """Raise AccessRefused or HistoryConflict where the row of a pending file is there and cannot be seen."""
    for job in jobs:
        if len(claims := run.claims.get(job.filename, [])) >= CLAIMS:
            raise await failure(connection, job, claims[-1])
    # A file without a transaction writes its row last: by then it would have run twice.
    if any(not job.contents.transactional for job in jobs) and await is_filtered(connection, run.history):
        for job in jobs:
            if claim := await duplicate(connection, job):
                raise await failure(connection, job, claim) from claim


async def failure(connection: Connection, job: Job, claim: asyncpg.UniqueViolationError) -> SlipwayError:
    """Return why the row of a file is a duplicate of none that can be seen."""
    table = table_name(claim.schema_name or job.history.schema, claim.table_name or job.history.table)
    if await is_filtered(connection, job.history, table):
        hidden = (
            f"has a row in {table} that row-level security hides from this role; let the role see every row, by a "
            f"policy, by BYPASSRLS, or, if it owns the table, by ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY"
        )
        return AccessRefused(Problem(hidden, job.filename, joint=" "))
    taken = (
        "could not be recorded, though no row that can be seen has its version; look for a trigger, a rule or another "
        f"unique index on {table}: {job.mask(str(claim))}"
    )
    return HistoryConflict(Problem(taken, job.filename, joint=" "))


async def is_filtered(connection: Connection, history: History, table: str = "") -> bool:
    """Tell whether row-level security chooses what the role sees of `table`, or of the history."""
    look = IS_FILTERED.format(table=quote_literal(table or history.name))
    return await connection.execute(f"{history.look_sql} {look}") == "SELECT 1"


async def duplicate(connection: Connection, job: Job) -> asyncpg.UniqueViolationError | None:
    """Write the row of a file and take it back; return the refusal if its key is taken."""
    row = job.history.record_sql(row_sql_values(job.migration, job.contents.minimum_version), "true")
    try:
        await connection.execute(f"BEGIN; {job.history.look_sql} {row}")
    except asyncpg.UniqueViolationError as error:
        return error
    except asyncpg.PostgresError:
        return None  # another refusal is told when the row is written for good
    finally:
        await connection.execute("ROLLBACK")
    return None
