"""The tables of tools whose history cannot be taken over: told by name and columns, so that a run stops beside them."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Stranger:
    """A tool, and how to tell its table."""

    name: str
    table: str
    columns: frozenset[str]
    schema: str | None = None
    """The schema of its table; None for the current one."""

    def made(self, columns: dict[str, str]) -> bool:
        """Tell whether a table with these columns is this tool's."""
        return self.columns <= columns.keys()


STRANGERS = (
    Stranger("Liquibase", "databasechangelog", frozenset({"id", "author", "filename", "md5sum"})),
    Stranger(
        "Atlas", "atlas_schema_revisions", frozenset({"version", "applied", "hash"}), schema="atlas_schema_revisions"
    ),
    Stranger("Atlas", "atlas_schema_revisions", frozenset({"version", "applied", "hash"})),
    Stranger("Alembic", "alembic_version", frozenset({"version_num"})),
    Stranger("Django", "django_migrations", frozenset({"app", "name", "applied"})),
    Stranger("Rails", "ar_internal_metadata", frozenset({"key", "value"})),
    Stranger("Knex", "knex_migrations", frozenset({"name", "batch", "migration_time"})),
    Stranger("Ecto", "schema_migrations", frozenset({"version", "inserted_at"})),
    Stranger("Sqitch", "changes", frozenset({"change_id", "change", "project"}), schema="sqitch"),
    Stranger("yoyo", "_yoyo_migration", frozenset({"migration_hash", "migration_id"})),
    Stranger("graphile-migrate", "migrations", frozenset({"hash", "previous_hash"}), schema="graphile_migrate"),
    Stranger("node-pg-migrate", "pgmigrations", frozenset({"name", "run_on"})),
    Stranger("Hasura", "hdb_version", frozenset({"hasura_uuid"}), schema="hdb_catalog"),
)
