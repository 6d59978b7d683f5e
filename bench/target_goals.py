"""What we aim at with many tenants, computed from what was measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.goals import Goal, within
from bench.ours import NAME
from bench.results import APPLY, NOTHING, SIZES
from bench.target_ways import LOOP, XARGS
from bench.tenants import DATABASE, SCHEMA

if TYPE_CHECKING:
    from bench.results import Results

THOUSAND, MANY = SIZES[-1], 10 * SIZES[-1]
OF_LOOP_OF_SCHEMAS, OF_LOOP_OF_DATABASES = 0.1, 0.5
ROUND_TRIPS = 10.0
OF_THOUSAND = 12
"""Times what 1,000 schemas take: for ten times as many that is as good as linear."""
MEBIBYTES = 128.0


def target_goals(results: Results) -> list[Goal]:
    """Return all of them."""
    schemas, databases = (results.ways_medians(kind, NOTHING, THOUSAND) for kind in (SCHEMA, DATABASE))
    applied = results.ways_medians(SCHEMA, APPLY, THOUSAND)
    loop, other_loop, xargs = fastest(schemas, LOOP), fastest(databases, LOOP), fastest(applied, XARGS)
    return [
        within(f"nothing to do, {THOUSAND:,} schemas", schemas.get(NAME), OF_LOOP_OF_SCHEMAS, schemas.get(loop),
               "the fastest loop", loop),
        within(f"nothing to do, {THOUSAND:,} databases", databases.get(NAME), OF_LOOP_OF_DATABASES,
               databases.get(other_loop), "the fastest loop", other_loop),
        Goal(f"10 files, {THOUSAND:,} schemas: ahead of the fastest {XARGS}", applied.get(NAME), applied.get(xargs),
             of=xargs, inclusive=False),
        *grown_goals(results),
    ]  # fmt: skip


def fastest(medians: dict[str, float], by: str) -> str:
    """Return the fastest way of this kind, LOOP or XARGS; "" if there is none."""
    names = [name for name in medians if name.endswith(f", {by}")]
    return min(names, key=lambda name: medians[name], default="")


def grown_goals(results: Results) -> list[Goal]:
    """Return the goals of having nothing to do in 1,000 and in 10,000 schemas."""
    medians = results.grown_medians()
    thousand, many = (results.grown().get(number, {}) for number in (THOUSAND, MANY))
    kibibytes = many.get("kibibytes")
    return [
        Goal(f"nothing to do, {THOUSAND:,} schemas: under {ROUND_TRIPS:g} round trips", thousand.get("round_trips"),
             ROUND_TRIPS, "", inclusive=False),
        within(f"nothing to do, {MANY:,} schemas", medians.get(MANY), OF_THOUSAND, medians.get(THOUSAND),
               f"{THOUSAND:,} schemas"),
        Goal(f"peak memory, nothing to do, {MANY:,} schemas: under {MEBIBYTES:g} MiB", kibibytes and kibibytes / 1024,
             MEBIBYTES, "MiB", inclusive=False),
    ]  # fmt: skip
