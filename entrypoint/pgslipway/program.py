"""The program: settings, command, outcome, exit code."""

import asyncio
import logging
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import closing

from . import config
from .config import Config
from .errors import INTERNAL_ERROR, UP_TO_DATE, BadConfiguration, Problem, SlipwayError, Stopped
from .libpq import PG_VARIABLES
from .log import set_up_logging
from .outcome import Outcome, write_outcome
from .request import Options, Request
from .signals import Stop, note
from .up import up

logger = logging.getLogger(__package__)

OVERDUE = (
    ", without waiting any longer for the server's answer; what was not committed is rolled back there, and the next "
    "run looks how far this one got"
)
"""The end of the message about a stop for which the server was not waited for any longer."""
WITHOUT_DATABASE = {"check", "rehearse"}
DEFAULTS = {"wait": {"MIGRATE_WAIT_TIMEOUT": "10m"}}
"""The settings whose default depends on the command."""


def run_command(arguments: Sequence[str], environ: Mapping[str, str], stop: Stop) -> int:
    """Run a command and report how it ended; return the exit code."""
    for variable in [name for name in PG_VARIABLES if os.environ.get(name) == ""]:
        del os.environ[variable]  # empty counts as unset; the driver would take PGPASSWORD= for a password
    started = time.monotonic()
    applied: list[str] = []
    settings = config.from_environ(environ, {}, needs_database=False)
    set_up_logging(settings)

    def end(exit_code: int, result: str, message: str, problems: Sequence[Problem] = ()) -> int:
        stop.report = note
        seconds = time.monotonic() - started
        outcome = Outcome(
            exit_code=exit_code, result=result, message=message, problems=problems, applied=applied, seconds=seconds
        )
        return finish(outcome, settings)

    def fail(error: SlipwayError) -> int:
        return end(error.exit_code, error.result, str(error), error.problems)

    stop.report = lambda: fail(Stopped(stop.signum, OVERDUE))
    try:
        request = requested(arguments, environ, applied)
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


def requested(arguments: Sequence[str], environ: Mapping[str, str], applied: list[str]) -> Request:
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
    return Request(config=settings, options=options, applied=applied)


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
    for warning in request.config.warnings:
        logger.warning(warning)
    if request.config.location and request.config.location.ignored:
        logger.info("has no meaning here: %s", ", ".join(request.config.location.ignored))
    if request.config.problems:
        raise BadConfiguration(*request.config.problems)
    if request.options.command == "up":
        return await up(request.config, request.applied)
    if request.options.command == "wait":
        from .wait import wait

        return await wait(request.config)
    from .cli.commands import COMMANDS

    return await COMMANDS[request.options.command](request)


def finish(outcome: Outcome, settings: Config) -> int:
    """Log the outcome and write it for the orchestrator; return the exit code."""
    level = logging.ERROR if outcome.exit_code else logging.INFO
    write_outcome(outcome, settings.termination_log)
    fields = {"exit_code": outcome.exit_code, "result": outcome.result, "seconds": round(outcome.seconds, 3)}
    logger.log(level, "%s", outcome.text, extra=fields)
    if outcome.exit_code:
        logger.error("exit %d: %s", outcome.exit_code, outcome.result)
    if settings.github_workspace:
        from . import github

        github.report(outcome, settings)
    return outcome.exit_code
