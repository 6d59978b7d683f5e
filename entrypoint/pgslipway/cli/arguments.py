"""The command line: commands, their options, and a flag for each setting."""

import argparse
from collections.abc import Sequence
from typing import NoReturn

from .. import __version__, errors
from ..errors import BadConfiguration, SlipwayError
from ..request import Options
from ..settings import SETTINGS
from ..words import redact

COMMANDS = {
    "up": "wait for Postgres, lock, apply the pending migrations (the default)",
    "wait": "block until another run has applied everything; reads the history only (14 when it takes too long)",
    "status": "show a row for each migration (--json, --exit-code: 14 when something is pending)",
    "plan": "show what `up` would adopt and apply, or exit with the code of its refusal",
    "adopt": "take over what another tool has applied (MIGRATE_ADOPT), and nothing else",
    "down": "undo every applied migration above VERSION, newest first (down 0: all)",
    "resolve": "decide on a half-done file: resolve VERSION --done, --retry or --restart",
    "check": "check the files alone, without a database (--since VERSION)",
    "rehearse": "apply everything to a throw-away Postgres (DIR, --on URL; --locks or --down, --since VERSION)",
}
DECISIONS = ("done", "retry", "restart")
OPTIONS = {
    "json": ("status", "rehearse"),
    "exit_code": ("status",),
    "since": ("check", "rehearse"),
    **dict.fromkeys(DECISIONS, ("resolve",)),
    "target": ("up", "wait", "status", "plan", "adopt", "down", "resolve"),
    **dict.fromkeys(("locks", "down", "on", "refuse_blocking"), ("rehearse",)),
}
"""The options, and the commands that they go with."""
OF_REHEARSALS = {"json": ("locks",), "refuse_blocking": ("locks",), "since": ("locks", "down")}
"""The options of `rehearse` that go with others of it."""
TAKE_VALUE = {"since", "on", "target"}
TAKE_ARGUMENT = {"down", "rehearse", "resolve"}


class Parser(argparse.ArgumentParser):
    """A parser whose complaints are ours."""

    def error(self, message: str) -> NoReturn:
        """Raise BadConfiguration instead of leaving with exit code 2."""
        raise BadConfiguration(f"{redact(message)}; see pgslipway --help")


def parse(arguments: Sequence[str]) -> tuple[Options, dict[str, str]]:
    """Return the command with its options, and the settings given as flags, by variable name.

    Raises BadConfiguration, and SystemExit after printing --help or --version.
    """
    options, unknown = make_parser().parse_known_intermixed_args(arguments, Options())
    if unknown:  # their values are not shown: --password=… is one of them
        names = ", ".join(argument.partition("=")[0] for argument in unknown if argument.startswith("-"))
        raise BadConfiguration(f"unknown arguments: {names or 'too many'}; see pgslipway --help")
    check_options(options)
    if options.argument is not None and options.command not in TAKE_ARGUMENT:
        raise BadConfiguration(f"{options.command} takes no argument; see pgslipway --help")
    if check := CHECKS.get(options.command):
        check(options)
    flags = {variable: value for variable in SETTINGS if (value := getattr(options, variable)) is not None}
    if options.command == "rehearse" and options.argument is not None:
        flags["MIGRATE_DIR"] = options.argument
    return options, flags


def check_options(options: Options) -> None:
    """Raise BadConfiguration for an option of another command, or one whose value was forgotten."""
    if options.since == "":
        raise BadConfiguration("--since: the version is empty")
    for name, commands in OPTIONS.items():
        if getattr(options, name) and options.command not in commands:
            raise BadConfiguration(f"{flag(name)} goes with {' and '.join(commands)}, not with {options.command}")


def check_down(options: Options) -> None:
    """Raise BadConfiguration unless a version is given."""
    if options.argument is None:
        raise BadConfiguration("down takes the version to go back to, as in: pgslipway down 3; `down 0` undoes all")


def check_resolve(options: Options) -> None:
    """Raise BadConfiguration unless a version and one decision are given."""
    if not options.argument or sum(getattr(options, name) for name in DECISIONS) != 1:
        raise BadConfiguration(
            "resolve takes the version of the unfinished file, and one of --done (its statement in flight took effect: "
            "go on after it), --retry (it did not: run it again) and --restart (all that the file did was undone by "
            "hand: begin it anew), as in: pgslipway resolve 3 --done"
        )


def check_rehearse(options: Options) -> None:
    """Raise BadConfiguration for options that do not go together."""
    if options.locks and options.down:
        raise BadConfiguration("rehearse takes one of --locks and --down; run it once with each")
    for name, others in OF_REHEARSALS.items():
        if getattr(options, name) and not any(getattr(options, other) for other in others):
            raise BadConfiguration(f"rehearse {flag(name)} goes with {' or '.join(map(flag, others))}")


CHECKS = {"down": check_down, "resolve": check_resolve, "rehearse": check_rehearse}


def flag(name: str) -> str:
    """Return an option as it is written."""
    return f"--{name.replace('_', '-')}"


def make_parser() -> Parser:
    """Return the parser."""
    parser = Parser(
        prog="pgslipway",
        usage="pgslipway [COMMAND] [options]",
        description="Bring a Postgres schema up to date before the app starts.",
        epilog=epilog(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("command", nargs="?", default="up", choices=COMMANDS, metavar="COMMAND")
    parser.add_argument("argument", nargs="?", metavar="DIR|VERSION", help=argparse.SUPPRESS)
    parser.add_argument("--version", action="version", version=f"pgslipway {__version__}")
    for name in OPTIONS:
        action = "store" if name in TAKE_VALUE else "store_true"
        parser.add_argument(flag(name), action=action, default=getattr(Options, name), help=argparse.SUPPRESS)
    settings = parser.add_argument_group("settings, each also an environment variable")
    for variable, setting in SETTINGS.items():
        default = f" [{setting.default}]" if setting.default else ""
        name = flag(variable.removeprefix("MIGRATE_").lower())
        settings.add_argument(name, dest=variable, metavar="VALUE", help=f"{variable}: {setting.meaning}{default}")
    return parser


def epilog() -> str:
    """Return the commands and the exit codes, as --help shows them."""
    codes = [f"  {code:<8} {result}" for code, result in exit_codes().items()]
    commands = [f"  {name:<8} {meaning}" for name, meaning in COMMANDS.items()]
    return "\n".join([
        "commands:", *commands, "",
        "Postgres is found by DATABASE_URL, or by PGHOST, PGPORT, PGUSER, PGPASSWORD, PGDATABASE, PGSSLMODE and",
        "so on, as by psql. Any setting X can be given as X_FILE, the path of a file that holds the value.",
        "With many targets (MIGRATE_TARGETS) --target NAME makes a command about one of them.", "",
        "exit codes (10-19 can heal by trying again, 20-29 need a person):", *codes,
    ])  # fmt: skip


def exit_codes() -> dict[str, str]:
    """Return the name of each exit code."""
    failures = [error for error in SlipwayError.__subclasses__() if error is not errors.Stopped]
    return {
        str(errors.UP_TO_DATE): "up to date",
        **{str(error.exit_code): error.result for error in failures},
        str(errors.INTERNAL_ERROR): "internal error",
        "130, 143": "stopped by SIGINT, SIGTERM",
    }
