"""The program: settings, command, outcome, exit code."""

import asyncio
import logging
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any

from . import config
from .errors import INTERNAL_ERROR, UP_TO_DATE, BadConfiguration, Problem, SlipwayError, Stopped
from .libpq import PG_VARIABLES
from .log import set_up_logging
from .outcome import Outcome
from .report import announce, finish
from .request import Options, Request
from .settings import DEFAULTS
from .signals import Stop, note
from .up import up

logger = logging.getLogger(__package__)

WITHOUT_DATABASE = {"check", "rehearse"}
LEVELS = {"info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def run_command(
    arguments: Sequence[str], environ: Mapping[str, str], stop: Stop, started: float | None = None, waited: float = 0.0
) -> int:
    """Run a command and report how it ended; return the exit code.

    The process `started` at that time, and has `waited` for Postgres for so many seconds.
    """
    for variable in [name for name in PG_VARIABLES if os.environ.get(name) == ""]:
        del os.environ[variable]  # empty counts as unset; the driver would take PGPASSWORD= for a password
    started = started or time.monotonic()
    applied: list[str] = []
    targets: dict[str, Any] = {}
    settings = config.from_environ(environ, {}, needs_database=False)
    set_up_logging(settings)

    def end(exit_code: int, result: str, message: str, problems: Sequence[Problem] = ()) -> int:
        stop.report = note
        seconds = time.monotonic() - started
        outcome = Outcome(
            exit_code=exit_code, result=result, message=message, problems=problems, applied=applied, seconds=seconds,
            targets=targets,
        )  # fmt: skip
        return finish(outcome, settings, log)

    def fail(error: SlipwayError) -> int:
        return end(error.exit_code, error.result, str(error), error.problems)

    stop.report = lambda: fail(Stopped(stop.signum, overdue=True))
    try:
        request = requested(arguments, environ, waited)
        request.applied, request.targets = applied, targets
        settings = request.config
        set_up_logging(settings)
        with closing(asyncio.new_event_loop()) as loop:  # asyncio.run waits for a resolver that does not answer
            message = loop.run_until_complete(execute(request, stop))
        return end(UP_TO_DATE, "up to date", message)
    except SystemExit:  # --help and --version
        return UP_TO_DATE
    except SlipwayError as error:
        return fail(error)
    except asyncio.CancelledError:
        return fail(Stopped(stop.signum))
    except Exception as error:
        logger.exception("a bug in pgslipway; please report it with this traceback")
        bug = f"{type(error).__name__}: {error}"
        return end(INTERNAL_ERROR, "internal error", bug, [Problem(bug)])


def requested(arguments: Sequence[str], environ: Mapping[str, str], waited: float) -> Request:
    """Return the command, its options and its settings; a container is mostly started without arguments."""
    options = Options()
    flags: dict[str, str] = {}
    if arguments:
        from .cli.arguments import parse

        options, flags = parse(arguments)
    settings = config.from_environ(
        environ,
        flags,
        defaults=DEFAULTS.get(options.command),
        needs_database=options.command not in WITHOUT_DATABASE,
    )
    if options.target is not None and not settings.has_targets:
        raise BadConfiguration("--target goes with MIGRATE_TARGETS or MIGRATE_TARGETS_QUERY, and neither is set")
    if settings.location:
        settings.location.waited = waited
    return Request(settings, options)


async def execute(request: Request, stop: Stop) -> str:
    """Run the command so that a signal cancels it. Raises BadConfiguration with everything that is wrong."""
    loop = asyncio.get_running_loop()
    command = asyncio.ensure_future(perform(request))
    unarmed, stop.action = stop.action, lambda: loop.call_soon_threadsafe(command.cancel)
    if stop.signum:
        command.cancel()
    try:
        return await command
    finally:
        stop.action = unarmed


async def perform(request: Request) -> str:
    """Run the command, with settings that are free of problems."""
    announce(request.config, log)
    if request.config.problems:
        raise BadConfiguration(*request.config.problems)
    if request.config.has_targets and request.options.command not in WITHOUT_DATABASE:
        from .targets.commands import over_targets

        if (message := await over_targets(request)) is not None:
            return message
    if request.options.command == "up":
        return await up(request.config, request.applied)
    if request.options.command == "wait":
        from .wait import wait

        return await wait(request.config)
    from .cli.commands import COMMANDS, CREATING

    if request.options.command not in CREATING:
        request.config = request.config.but(create_database="no")
    return await COMMANDS[request.options.command](request)


def log(level: str, message: str, fields: Mapping[str, Any]) -> None:
    """Write a line of the log."""
    logger.log(LEVELS[level], "%s", message, extra=dict(fields))
