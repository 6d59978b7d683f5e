"""THE PAGE of a run over many: find the targets, look which of them have anything to do, go over those."""

import asyncio
from copy import copy
from functools import partial

from ..connect import connect, location_of
from ..errors import BadConfiguration
from ..log import TARGET
from ..request import Request
from ..up import bring_up_to_date
from ..wait import wait
from .names import Target
from .over import Over
from .source import NO_SCHEMA


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
    files = None
    # A mounted ConfigMap may change meanwhile: then all are looked at again.
    while files != (files := over.files()) and not over.tally.failures:
        over.tally.reset()
        await over.go(await over.pending(over.config.role), partial(bring_up, over))
    return over.up_to_date()


async def bring_up(over: Over, target: Target, waits: bool) -> bool:
    """Bring one target up to date; tell whether that took anything. Raises every SlipwayError."""
    run = over.run_to_bring_up(target, waits=waits)
    await bring_up_to_date(run, partial(connect, run.config))
    return bool(run.applied or run.adopted)


async def wait_for_all(over: Over) -> str:
    """Block until every target holds every migration. Raises NotYet when the wait timeout has passed."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    files = None

    async def wait_for(target: Target, _: bool) -> bool:
        config = over.each.of(target)
        location = copy(location_of(config))
        location.waited = loop.time() - began
        await wait(config.but(location=location))
        return False

    over.config = over.config.but(canaries=0)
    while files != (files := over.files()) and not over.tally.failures:
        over.tally.reset()
        await over.go(await over.pending(None), wait_for)
    return over.up_to_date()


async def choose(over: Over) -> None:
    """Give the request the settings for the one target that it is about. Raises BadConfiguration."""
    name, command = over.request.options.target, over.request.options.command
    if name is None:
        raise BadConfiguration(f"{command} takes one of the targets, as in: pgslipway {command} --target NAME …")
    over.config = over.config.but(shards=None)
    targets = await over.targets(name)
    if not targets:
        raise BadConfiguration(NO_SCHEMA.format(name))
    TARGET.set(name)
    over.request.config = over.each.of(targets[0]).but(shared=None)


COMMANDS = {"up": up, "wait": wait_for_all}
