"""pgslipway: your Postgres schema, up to date before your app starts."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path
    from typing import Any

    import asyncpg

    from .targets.api import TargetResult

__all__ = ["run_migrations", "run_targets"]
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


async def run_targets(
    pool: "asyncpg.Pool[asyncpg.Record]", migrations_dir: "str | Path", targets: "Iterable[str]", **settings: "Any"
) -> "list[TargetResult]":
    """Apply the pending migrations in `migrations_dir` to each schema of `targets`; return a result for each.

    A result has the `target`, its `state` ("up to date", "migrated", "failed" or "not begun"), the filenames newly
    `applied`, and the `error`. Each schema has its own history and lock, and is alone in the search path. Settings are
    the keywords of `run_migrations` but `schema`, and `parallel`, `canaries`, `max_failures` and `target_path`; as many
    connections of the pool are used as targets are worked on at a time. Raises BadConfiguration and BadMigrations for
    what is wrong before the first target is begun; cancelling rolls all running files back.
    """
    from .targets.api import run_on_targets

    return await run_on_targets(pool, migrations_dir, targets, settings)
