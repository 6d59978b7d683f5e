"""The question of nearly every start, whether there is anything to do, as SQL."""

from _hashlib import openssl_sha256 as sha256

from .quote import milliseconds, quote_array, quote_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from .migrations import Migration

LOOK_TIMEOUT = 5.0
"""Seconds that a look at the history may wait for somebody who has locked it."""
UP_TO_DATE = "SELECT 0"
"""The tag that answers `undone_sql` where there is nothing to do; nothing is prepared, and no row is sent."""


REPEATABLE_SUFFIX = "_repeatable"


def texts_name(schema: str, table: str) -> str:
    """Return the qualified, quoted name of the table of the repeatable files, beside the history."""
    return table_name(schema, f"{table}{REPEATABLE_SUFFIX}")


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


def texts_digest_sql(table: str, filenames: "Iterable[str]", newest: int) -> str:
    """Return the query for the `digest` of the last texts of these repeatable files.

    One that no image with this `newest` version, or with a newer one, had for the last one is a text by itself.
    """
    return f"""
        SELECT pg_catalog.encode(pg_catalog.sha256(pg_catalog.convert_to(pg_catalog.concat(pg_catalog.count(*),
            pg_catalog.string_agg(pg_catalog.concat(E'\\n', filename, ' ', checksum,
                CASE WHEN newest < {newest} THEN ' before' END), '' ORDER BY pg_catalog.convert_to(filename, 'UTF8'))),
            'UTF8')), 'hex') AS digest
          FROM (SELECT DISTINCT ON (filename) filename, checksum, newest FROM {table}
                 WHERE filename = ANY ({quote_array(filenames)}::text[])
                 ORDER BY filename, newest DESC, applied_at DESC) AS text"""


def texts_digest(texts: "Iterable[tuple[str, str]]") -> str:
    """Return the digest of these (filename, checksum)."""
    return sha256_of(f"\n{filename} {checksum}" for filename, checksum in sorted(texts))


def sha256_of(lines: "Iterable[str]") -> str:
    """Return the SHA-256 over the number of such lines, each with its line end before it, and the lines."""
    lines = [*lines]
    return sha256(f"{len(lines)}{''.join(lines)}".encode()).hexdigest()


def digests_sql(schema: str, table: str, filenames: "Sequence[str]", newest: int) -> str:
    """Return the query for the digest of the history and, behind it, of the last texts of these repeatable files."""
    history = digest_sql(table_name(schema, table))
    if not filenames:
        return history
    texts = texts_digest_sql(texts_name(schema, table), filenames, newest)
    return f"SELECT pg_catalog.concat(({history}), ({texts}))"


def digest(migrations: "Sequence[tuple[int, str]]") -> str:
    """Return the SHA-256 over the number of these (version, checksum) and a line for each, by ascending version.

    The number keeps a checksum with a line end in it from passing for two rows.
    """
    return sha256_of(f"\n{version} {checksum}" for version, checksum in migrations)


def differs_sql(table: str, migrations: "Sequence[tuple[int, str]]") -> str:
    """Return the query that returns a row unless the history has exactly these, all of them with their checksums."""
    return f"SELECT FROM ({digest_sql(table)}) AS history WHERE digest IS DISTINCT FROM '{digest(migrations)}'"


def or_stale_sql(undone: str, schema: str, table: str, repeatable: "Sequence[Migration]") -> str:
    """Return a query that returns a row where `undone` does, or where the last text of a repeatable file is another."""
    if not repeatable:
        return undone
    filenames = [one.filename for one in repeatable]
    digest = texts_digest_sql(texts_name(schema, table), filenames, repeatable[0].version)
    expected = texts_digest((one.filename, one.checksum) for one in repeatable)
    return f"({undone}) UNION ALL (SELECT FROM ({digest}) AS texts WHERE digest IS DISTINCT FROM '{expected}')"


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
