"""`run_targets`: the run over many schemas for an application, over connections of its pool."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from os import PathLike
from typing import Any

import asyncpg

from ..config import Config, converted, from_keywords
from ..errors import BadConfiguration
from ..pool import acquire, run_on_pool
from ..request import Options, Request
from ..words import few
from .looks import Looks
from .names import Target, Word, targets_of
from .over import Over
from .rollout import Rollout

NUMBERS = ("parallel", "canaries", "max_failures")
KEYWORDS = (
    "table", "role", "lock_timeout", "ddl_lock_timeout", "ddl_retry", "statement_timeout", "ahead", "out_of_order",
    "edited", "layout", "adopt", "variables", "target_path", *NUMBERS,
)  # fmt: skip


@dataclass(slots=True)
class TargetResult:
    """What came of one target."""

    target: str
    state: str = "not begun"
    """"up to date", "migrated", "failed" or "not begun"."""
    applied: list[str] = field(default_factory=list)
    """The filenames newly applied, in order."""
    error: Exception | None = None
    """Why it failed: one of `pgslipway.errors`."""


async def run_on_targets(
    pool: "asyncpg.Pool[asyncpg.Record]", folder: "str | PathLike[str]", names: Iterable[str], keywords: dict[str, Any]
) -> list[TargetResult]:
    """Bring each schema up to date, and return what came of it, in the order of the names, each once.

    Raises BadConfiguration and BadMigrations for what is wrong before the first one is begun, TypeError for an unknown
    keyword. What happens to one target is in its result.
    """
    over = Over(Request(config_of(folder, keywords), Options()))
    over.each.shared = None  # the pool keeps the connections
    targets, _double = targets_of([Word(f"targets[{number}]", text) for number, text in enumerate(names)], "schema")
    looks = Looks(over.each, over.run, over.tally, role=over.config.role)
    async with acquire(pool, over.run, lambda connection: looks.schemas(connection, targets)) as (_, pending):
        left = {*pending}
        results = {one.name: TargetResult(one.name, "not begun" if one in left else "up to date") for one in targets}

    async def bring_up(target: Target, waits: bool) -> bool:
        result, run = results[target.name], over.run_to_bring_up(target, waits=waits)
        try:
            await run_on_pool(pool, run)
        except Exception as error:
            result.state, result.error = "failed", error
            raise
        finally:
            result.applied += run.applied
        result.state, result.error = "migrated" if result.applied or run.adopted else "up to date", None
        return result.state == "migrated"

    await Rollout(over.config, pending, bring_up, over.tally).run()
    return [*results.values()]


def config_of(folder: "str | PathLike[str]", keywords: dict[str, Any]) -> Config:
    """Return the settings given as keywords. Raises TypeError for an unknown one, BadConfiguration for a bad value."""
    if unknown := keywords.keys() - KEYWORDS:
        raise TypeError(f"run_targets has no keyword {few(sorted(unknown))}")
    try:
        numbers = {
            name: converted(f"MIGRATE_{name.upper()}", str(keywords[name]), is_shown=True)
            for name in NUMBERS
            if name in keywords
        }
        others = {name: value for name, value in keywords.items() if name not in NUMBERS}
        return from_keywords(folder, **others).but(**numbers, targets="")
    except ValueError as error:
        raise BadConfiguration(str(error)) from error
