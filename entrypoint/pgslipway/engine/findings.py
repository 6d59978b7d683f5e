"""What became of a file's row in the history, told by the server as the file ends, and what that means."""

from collections.abc import Callable
from itertools import product

import asyncpg

from ..driver_errors import HEALING
from ..errors import AccessRefused, DatabaseUnavailable, HistoryConflict, SlipwayError
from ..history import TYPES, History
from ..quote import quote_literal

TRANSACTION_ENDED = "this file ended the transaction it ran in"
ROW_REMOVED = "this file removed its own row from the history"
ROW_HIDDEN = "row-level security hides the row of this file"
TABLE_CHANGED = "this file changed the columns or the key of the history table"
ROW_WRITTEN = "this file wrote its own row into the history again"
FINDINGS = (TRANSACTION_ENDED, ROW_REMOVED, ROW_HIDDEN, ROW_WRITTEN, TABLE_CHANGED)
"""None of them is the name of a parameter, so that setting it fails, with this text in the error."""
# Tells of a row of the table whether its columns are as TYPES says, and whether there is an index. For each file this
# is asked anew, so it is the cheapest question that finds a type changed by a loop over all tables, or the key dropped:
# the replica identity is the primary key where nobody chose another one, and spares a look at files on the disk.
IS_FIT = f"""pg_catalog.concat_ws(' ', {", ".join(f"pg_catalog.pg_typeof({name})" for name in TYPES)})
    IN ({", ".join(quote_literal(" ".join(types)) for types in product(*map(sorted, TYPES.values())))})
    AND coalesce(pg_catalog.pg_get_replica_identity_index(tableoid)::int8, pg_catalog.pg_indexes_size(tableoid)) > 0"""
IS_OF_THIS_TRANSACTION = "xmin = pg_catalog.pg_current_xact_id()::pg_catalog.xid"


def failure_of(
    history: History, error: asyncpg.PostgresError, doing: str, mask: Callable[[str], str] = str
) -> SlipwayError:
    """Return the failure for a refusal of the server that is about the table; `doing` names its consequence."""
    if finding := finding_in(error):
        trigger = f"a trigger on {history.name} lets no row in; remove it"
        return HistoryConflict(f"{doing}: {trigger if finding == ROW_REMOVED else f'{finding}, {history.name}'}")
    state = error.sqlstate or ""
    kind: type[SlipwayError] = HistoryConflict
    if state[:2] in HEALING:
        kind = DatabaseUnavailable
    elif state in {"42501", "22023"}:
        kind = AccessRefused
    return kind(f"{doing}: {mask(str(error))} (SQLSTATE {state}); this is about the history table {history.name}")


def verify_sql(history: History, version: int | str) -> str:
    """Return SQL that fails unless this transaction wrote the row of `version`, and the table is still fit.

    It fails with one of FINDINGS. A COMMIT that the splitter could not see leaves a row with the xmin of an earlier
    transaction: so this asks for its own.
    """
    return f"""
        WITH row AS (SELECT xmin, tableoid, {", ".join(TYPES)} FROM {history.name} WHERE version = {version})
        SELECT pg_catalog.set_config(CASE
            WHEN pg_catalog.bool_or(NOT {IS_OF_THIS_TRANSACTION}) THEN {quote_literal(TRANSACTION_ENDED)}
            WHEN pg_catalog.count(*) > 0 THEN {quote_literal(TABLE_CHANGED)}
            WHEN pg_catalog.row_security_active({quote_literal(history.name)}) THEN {quote_literal(ROW_HIDDEN)}
            ELSE {quote_literal(ROW_REMOVED)} END, '', true)
          FROM row
        HAVING pg_catalog.bool_and({IS_OF_THIS_TRANSACTION} AND {IS_FIT}) IS NOT TRUE"""


def finding_in(error: asyncpg.PostgresError) -> str:
    """Return the finding of `verify_sql` with which SQL failed; empty where it failed otherwise."""
    return next((finding for finding in FINDINGS if finding in str(error)), "")
