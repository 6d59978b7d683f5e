"""What the benchmark knows of each tool: how its files look, how it is started, what it locks."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

BENCH = Path(__file__).parent
INSTALLED = BENCH / ".peers"
"""One folder for each tool that could be had; those in its `bin` are what is run."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One migration, before it is written in a tool's own format."""

    version: int
    description: str
    sql: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The database that a tool is to bring up to date."""

    port: int
    password: str = field(repr=False)
    certificate: Path | None = None
    """The server's, where TLS is to be used; for tools that verify it whatever they are told."""
    host: str = "127.0.0.1"
    user: str = "postgres"
    database: str = "postgres"

    def url(self, scheme: str = "postgres") -> str:
        """The address with its password."""
        password = quote(self.password, safe="")
        return f"{scheme}://{self.user}:{password}@{self.host}:{self.port}/{self.database}?sslmode={self.sslmode}"

    @property
    def sslmode(self) -> str:
        """Libpq's word: TLS without a look at the certificate, or none."""
        return "require" if self.certificate else "disable"

    @property
    def environ(self) -> dict[str, str]:
        """The same as libpq's variables."""
        return {
            "PGHOST": self.host,
            "PGPORT": str(self.port),
            "PGUSER": self.user,
            "PGPASSWORD": self.password,
            "PGDATABASE": self.database,
            "PGSSLMODE": self.sslmode,
        }


@dataclass(frozen=True, slots=True)
class Invocation:
    """A command line; its first word is looked up in the tool's own `bin`, on the host as in its image."""

    argv: Sequence[str]
    environ: Mapping[str, str] = field(default_factory=dict)
    """Besides PATH, HOME and LANG, which the benchmark sets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """One tool."""

    name: str
    """As its makers write it in lower case; also the folder that it is installed in."""
    version: Invocation
    """Prints a line that holds the version; {home} is the folder that the tool is installed in."""
    lock: str
    """What keeps two runners apart: "advisory lock", "row lock", "none" …, as the run is set up here."""
    transaction: str
    """What one transaction spans: "file", "all files", "none"."""
    history: frozenset[str]
    """What it keeps its own records in: "schema.table", or a schema that is all its own; empty for none."""
    write: Callable[[Path, Sequence[Migration]], None]
    """Write migrations in the tool's own format into an empty folder, with any settings file that it wants."""
    up: Callable[[Path, Target], Invocation]
    """Apply what is pending among the files of a folder."""
    waits: Callable[[Path, Target], Invocation] | None = None
    """The same, waiting for Postgres by the tool's own means; None where it has none."""
    contained: Callable[[Path, Target], Invocation] | None = None
    """The same in a container of its image, where that takes other words."""
    dockerfile: str = ""
    """Makes an image with the tool on its PATH; the build context is the tool's own folder. Empty where it has none."""
    note: str = ""
    """What a reader of the numbers must know, in a sentence."""
