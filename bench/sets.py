"""The migrations that every tool gets: small ones by the number, and those of a real product."""

from __future__ import annotations

from bench.peer import BENCH, Migration

CONCOURSE = BENCH.parents[1] / "shared/real/concourse"
TWICE = "1626194317_add_pipeline_pauses_table.up.sql"
"""Two of its files share a version, which most tools refuse; this one gets the next."""
TABLE = """\
CREATE TABLE table_{0} (id bigint PRIMARY KEY, name text NOT NULL);
INSERT INTO bench.applied (version) VALUES ({0});
"""
OF_REPLICAS = 10
SLOW = "INSERT INTO bench.applied (version) VALUES ({0}); SELECT pg_sleep(0.02);\n"


def small(number: int, text: str = TABLE) -> list[Migration]:
    """Return so many migrations, each of which notes that it was applied."""
    return [Migration(version, "small", text.format(version)) for version in range(1, number + 1)]


def concourse() -> list[Migration]:
    """Return the migrations of Concourse, or none in a clone that does not have them."""
    found = []
    for path in CONCOURSE.glob("*.up.sql"):
        version, _, name = path.name.removesuffix(".up.sql").partition("_")
        found.append(Migration(int(version) + (path.name == TWICE), name, path.read_text()))
    return sorted(found, key=lambda migration: migration.version)
