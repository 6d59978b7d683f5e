"""The commands for people and pipelines over many targets: status, plan, down, adopt."""

import json
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeAlias

from ..cli.adopt import adopt
from ..cli.commands import Command, plan_lines
from ..cli.down import down
from ..cli.rows import Row, aligned, plan_of, rows, show, to_json
from ..errors import NotYet
from ..request import Request
from ..words import count, few, visible
from .names import Target
from .over import Over

OverAll: TypeAlias = Callable[[Over], Awaitable[str]]
PENDING = {"pending", "adoptable"}
WITHOUT_END = 10**9
"""Failures after which a command that only reads goes on."""


async def status(over: Over) -> str:
    """Show a row for each target, or with --json the rows of each. Raises NotYet with --exit-code."""
    told: dict[str, Counter[str]] = {}
    newest: dict[str, str] = {}
    targets = await read_only(over)
    as_json = over.request.options.json

    async def look(target: Target, _: bool) -> bool:
        found = rows(*await plan_of(over.run_over(target)))
        if as_json:
            show(f'{"," if told else "["}\n{{"target": {json.dumps(target.name)}, "migrations": {to_json(found)}}}')
        told[target.name] = Counter(row.state for row in found)
        newest[target.name] = newest_applied(found)
        return False

    await over.go(targets, look)
    end = "]" if told else "[]"
    show(end if as_json else table([target.name for target in targets], told, newest))
    over.tally.result()
    behind = [target.name for target in targets if PENDING & told[target.name].keys()]
    summary = f"{len(behind)} of {count(len(targets), 'target')} with something pending{over.share}"
    if behind and over.request.options.exit_code:
        raise NotYet(f"{summary}: {few(behind)}")
    return summary


def newest_applied(found: Sequence[Row]) -> str:
    """Return the newest applied file; a dash where there is none."""
    return next((row.filename for row in reversed(found) if row.version and row.state not in PENDING), "-")


def table(names: Sequence[str], told: Mapping[str, Counter[str]], newest: Mapping[str, str]) -> str:
    """Return a row for each target: how many of its migrations are in which state, and the newest that is applied."""
    cells = [("TARGET", "MIGRATIONS", "NEWEST APPLIED")]
    for name in names:
        states = told.get(name)
        said = ", ".join(f"{number} {state}" for state, number in states.items()) if states else "failed; see the log"
        cells.append((name, said, newest.get(name, "-")))
    return visible("\n".join(aligned(cells)))


async def plan(over: Over) -> str:
    """Show what `up` would do, once for all targets where it is the same. Raises the failure that stands for all."""
    same: dict[tuple[str, ...], list[str]] = {}
    targets = await read_only(over)

    async def look(target: Target, _: bool) -> bool:
        lines, _left = await plan_lines(over.run_over(target))
        same.setdefault(tuple(lines), []).append(target.name)
        return False

    await over.go(targets, look)
    nothing = len(same.pop((), []))
    place = {target.name: number for number, target in enumerate(targets)}
    for names, lines in sorted(
        ((sorted(names, key=place.__getitem__), lines) for lines, names in same.items()),
        key=lambda one: place[one[0][0]],
    ):
        show(visible("\n  ".join([f"{count(len(names), 'target')}: {few(names)}", *lines])))
    over.tally.result()
    return f"{len(targets) - nothing} of {count(len(targets), 'target')} with something to do{over.share}"


async def read_only(over: Over) -> list[Target]:
    """Return the targets; a failure of one keeps no other from being looked at."""
    over.config = over.config.but(canaries=0, max_failures=WITHOUT_END)
    targets = await over.targets()
    over.tally.begin(len(targets))
    return targets


def changing(name: str, command: Command) -> OverAll:
    """Return a command that changes one database or schema as one over all targets."""

    async def over_all(over: Over) -> str:
        targets = await over.targets()
        over.tally.begin(len(targets))

        async def work(target: Target, _: bool) -> bool:
            request = Request(over.each.of(target), over.request.options)
            try:
                await command(request)
            finally:
                over.tally.applied += request.changed
            return request.changed > 0

        await over.go(targets, work)
        return f"{name}: {over.tally.result()}{over.share}"

    return over_all


COMMANDS: dict[str, OverAll] = {
    "status": status,
    "plan": plan,
    "down": changing("down", down),
    "adopt": changing("adopt", adopt),
}
