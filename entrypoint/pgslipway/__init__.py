"""pgslipway: your Postgres schema, up to date before your app starts."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import asyncpg

__all__ = ["run_migrations"]
__version__ = "1.0.0"


async def run_migrations(
    pool: "asyncpg.Pool[asyncpg.Record]",
    migrations_dir: "str | Path",
    *,
    schema: str = "public",
    table: str = "schema_migrations",
    role: str | None = None,
    lock_timeout: float = 600.0,
    ddl_lock_timeout: float = 0.5,
    ddl_retry: float = 300.0,
    statement_timeout: float = 0.0,
    ahead: str | None = None,
    out_of_order: str = "allow",
    edited: str = "refuse",
    layout: str = "auto",
    adopt: str | None = None,
    variables: "Mapping[str, str] | None" = None,
) -> list[str]:
    """Apply the pending migrations in `migrations_dir`, over one connection of `pool` at a time.

    Returns the filenames newly applied, in order; [] when there is nothing to do. The keywords are the image's
    settings of the same names (see README.md); timeouts are in seconds, 0 for no limit. `variables` has the values
    for those of files, by name. The environment is not read. Cancelling rolls the running file back. Raises the
    errors of `pgslipway.errors`.
    """
    from .config import from_keywords
    from .errors import BadConfiguration
    from .pool import run_on_pool
    from .run import run_of

    try:
        config = from_keywords(
            migrations_dir, schema=schema, table=table, role=role, lock_timeout=lock_timeout,
            ddl_lock_timeout=ddl_lock_timeout, ddl_retry=ddl_retry, statement_timeout=statement_timeout,
            ahead=ahead, out_of_order=out_of_order, edited=edited, layout=layout, adopt=adopt, variables=variables,
        )  # fmt: skip
    except ValueError as error:
        raise BadConfiguration(str(error)) from error
    return await run_on_pool(pool, run_of(config, []))
