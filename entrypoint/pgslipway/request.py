"""The request of one start: the settings, the command and its options."""

from dataclasses import dataclass, field

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
    since: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A command's settings and options, and the list that names each file once it is applied."""

    config: Config
    options: Options
    applied: list[str] = field(default_factory=list)
