"""The request of one start: the settings, the command and its options."""

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


class Request:
    """A command's settings and options, and the list that names each file once it is applied."""

    __slots__ = ("applied", "config", "options")

    def __init__(self, config: Config, options: Options, applied: list[str]) -> None:
        self.config = config
        self.options = options
        self.applied = applied
