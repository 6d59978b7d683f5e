"""The request of one start: the settings, the command and its options."""

from typing import Any

from .config import Config


class Options:
    """The command line without its settings."""

    command = "up"
    argument: str | None = None
    """The version of `resolve`, the folder of `rehearse`."""
    json = False
    exit_code = False
    done = False
    retry = False
    restart = False
    since: str | None = None
    locks = False
    down = False
    on: str | None = None
    """The server for a rehearsal."""
    refuse_blocking = False
    target: str | None = None
    """The one target, of many."""


class Request:
    """A command's settings and options, and the list that names each file once it is applied."""

    __slots__ = ("applied", "changed", "config", "options", "targets")

    def __init__(self, config: Config, options: Options) -> None:
        self.config = config
        self.options = options
        self.applied: list[str] = []
        self.changed = 0
        """How many migrations were taken over or undone."""
        self.targets: dict[str, Any] = {}
        """Of a run over many: how many targets ended in which way, and the failures."""
