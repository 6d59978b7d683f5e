"""The commands that run unattended, `up` and `wait`, and where the others are.

Each takes the settings, does its work and returns the last line of a success.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from . import run
from .config import Config
from .connect import connect
from .errors import DatabaseUnavailable, NotYet
from .migrations import Migration, count, discover
from .run import Run


class Options:
    """What the command line says besides settings."""

    command = "up"
    argument: str | None = None
    """The version of `resolve`, the folder of `rehearse`."""
    json = False
    exit_code = False
    done = False
    retry = False
    since: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A command's settings and options, and the list that names each file once it is applied."""

    config: Config
    options: Options
    applied: list[str] = field(default_factory=list)


Command: TypeAlias = Callable[[Request], Awaitable[str]]


def find(name: str) -> Command:
    """Return the command; those for people at a terminal are only loaded when they are asked for."""
    if name in UNATTENDED:
        return UNATTENDED[name]
    from .by_hand import COMMANDS

    return COMMANDS[name]


async def up(request: Request) -> str:
    """Wait, lock, apply what is pending."""
    migrations = discover(request.config.dir)
    await run.up(Run(request.config, migrations, request.applied))
    done = f"applied {count(len(request.applied), 'migration')}" if request.applied else "nothing to do"
    return f"up to date: {done}; {newest(migrations)}"


async def wait(request: Request) -> str:
    """Block until the schema holds every migration of this image; only read. Raises NotYet with what is missing."""
    looking = Run(request.config, discover(request.config.dir))
    try:
        async with connect(request.config, looking.look_for_all):
            return f"up to date: {newest(looking.migrations)}"
    except DatabaseUnavailable as error:
        if not looking.missing:
            raise
        raise NotYet(f"{error}; when it last answered: {looking.missing}") from error


def newest(migrations: Sequence[Migration]) -> str:
    """Say how many migrations there are, and which is the newest."""
    return f"the newest of {count(len(migrations), 'migration')} is {migrations[-1].filename}"


UNATTENDED: dict[str, Command] = {"up": up, "wait": wait}
