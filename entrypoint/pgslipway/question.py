"""The question of nearly every start, whether there is anything to do, as SQL."""

from _hashlib import openssl_sha256 as sha256

from .quote import milliseconds, quote_array, quote_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

LOOK_TIMEOUT = 5.0
"""Seconds that a look at the history may wait for somebody who has locked it."""
UP_TO_DATE = "SELECT 0"
"""The tag that answers `undone_sql` where there is nothing to do; nothing is prepared, and no row is sent."""


def table_name(schema: str, table: str) -> str:
    """Return the qualified, quoted name of a table."""
    return f"{quote_name(schema)}.{quote_name(table)}"


def set_role_sql(role: str | None) -> str:
    """Return SQL that becomes the role for the rest of the transaction; empty without one."""
    return f"SET LOCAL ROLE {quote_name(role)};" if role else ""


def look_sql(role: str | None, seconds: float = LOOK_TIMEOUT) -> str:
    """Return SQL that takes the role and bounds the wait for the history's lock, for one message."""
    return f"SET LOCAL lock_timeout = {milliseconds(seconds)}; {set_role_sql(role)}"


def digest_sql(table: str) -> str:
    """Return the query for the `digest` of the history's rows: as short for many migrations as for one."""
    return f"""
        SELECT pg_catalog.encode(pg_catalog.sha256(pg_catalog.convert_to(pg_catalog.concat(pg_catalog.count(*),
            pg_catalog.string_agg(pg_catalog.concat(E'\\n', version::bigint, ' ', checksum), '' ORDER BY version)),
            'UTF8')), 'hex') AS digest FROM {table}"""


def digest(migrations: "Sequence[tuple[int, str]]") -> str:
    """Return the SHA-256 over the number of these (version, checksum) and a line for each, by ascending version.

    The number keeps a checksum with a line end in it from passing for two rows.
    """
    lines = [f"\n{version} {checksum}" for version, checksum in migrations]
    return sha256(f"{len(lines)}{''.join(lines)}".encode()).hexdigest()


def differs_sql(table: str, migrations: "Sequence[tuple[int, str]]") -> str:
    """Return the query that returns a row unless the history has exactly these, all of them with their checksums."""
    return f"SELECT FROM ({digest_sql(table)}) AS history WHERE digest IS DISTINCT FROM '{digest(migrations)}'"


def undone_sql(table: str, migrations: "Iterable[tuple[int, str, str]]") -> str:
    """Return the query that returns a row unless the history holds exactly these (version, checksum, filename).

    Every version and checksum travels with it, and the server compares: a row of either side without its partner, or
    with another checksum, is a row of the answer. A row without a checksum is compared by its filename, or has the
    version in place of one.
    """
    versions, checksums, filenames = zip(*migrations, strict=True)
    return f"""
        SELECT FROM ROWS FROM (
            pg_catalog.unnest({quote_array(map(str, versions))}::bigint[]),
            pg_catalog.unnest({quote_array(checksums)}::text[]),
            pg_catalog.unnest({quote_array(filenames)}::text[])
        ) AS image (version, checksum, filename)
        FULL JOIN {table} AS history ON history.version::bigint = image.version
        WHERE coalesce(history.checksum::text = image.checksum,
                       history.filename::text IN (image.filename, image.version::text)) IS NOT TRUE
        LIMIT 1"""
