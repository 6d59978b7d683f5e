"""THE PAGE of a run over many: find the targets, look which of them have anything to do, go over those."""

import asyncio
from functools import partial
from math import inf

from ..connect import connect
from ..errors import BadConfiguration
from ..log import TARGET
from ..request import Request
from ..up import bring_up_to_date
from ..wait import wait
from .names import Target
from .over import SOON, Over

LAST_LOOK = 0.25
"""Seconds that `wait` gives a target at least."""


async def over_targets(request: Request) -> str | None:
    """Run a command over all targets; return the last line of the log. Raises the failure that stands for all.

    Returns None where the command is for one target: the request has the settings for that one then.
    """
    over = Over(request)
    try:
        if request.options.target is not None or request.options.command == "resolve":
            await choose(over)
            return None
        if request.options.command in COMMANDS:
            return await COMMANDS[request.options.command](over)
        from .typed import COMMANDS as TYPED  # for people and pipelines

        return await TYPED[request.options.command](over)
    finally:
        over.each.close()


async def up(over: Over) -> str:
    """Bring every target up to date: canaries, then several at a time, until too many have failed."""
    pending = await over.pending(over.config.role)
    await over.go(pending, partial(bring_up, over))
    return over.up_to_date()


async def bring_up(over: Over, target: Target, waits: bool) -> bool:
    """Bring one target up to date; tell whether that took anything. Raises every SlipwayError."""
    config = over.each.of(target)
    run = over.run_over(config if waits else config.but(lock_timeout=SOON))
    run.is_pending = over.has_schemas  # an older look at a database may have got no answer
    try:
        await bring_up_to_date(run, partial(connect, config))
    finally:
        over.note(run.applied)
    return bool(run.applied or run.adopted)


async def wait_for_all(over: Over) -> str:
    """Block until every target holds every migration. Raises NotYet when the wait timeout has passed."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + (over.config.wait_timeout or inf)
    pending = await over.pending(None)

    async def wait_for(target: Target, _: bool) -> bool:
        left = max(LAST_LOOK, deadline - loop.time())
        await wait(over.each.of(target).but(wait_timeout=round(left, 1) if left < inf else 0.0))
        return False

    over.config = over.config.but(canaries=0)
    await over.go(pending, wait_for)
    return over.up_to_date()


async def choose(over: Over) -> None:
    """Give the request the settings for the one target that it is about. Raises BadConfiguration."""
    name, command = over.request.options.target, over.request.options.command
    if name is None:
        raise BadConfiguration(f"{command} takes one of the targets, as in: pgslipway {command} --target NAME …")
    over.config = over.config.but(shards=None)
    found = [target for target in await over.targets() if target.name == name]
    if not found:
        raise BadConfiguration(f"--target: {name!r} is none of the targets")
    TARGET.set(name)
    over.request.config = over.each.of(found[0]).but(shared=None)


COMMANDS = {"up": up, "wait": wait_for_all}
