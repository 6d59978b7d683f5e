"""The settings for one target: the same as for a run over it alone."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from ..config import Config, Location
from ..errors import BadConfiguration
from ..libpq import URL
from ..quote import quote_name
from ..words import redact
from .names import Target, path_of
from .shared import Shared

ALONE = {"targets": None, "targets_query": None}
"""A target has none of its own."""


@dataclass(slots=True)
class Each:
    """The settings of a run over many, from which each target's come."""

    config: Config
    shared: Shared | None = None
    """The connections, where the targets are schemas of one database."""
    path: list[str] = field(default_factory=list)
    """The schemas that are searched besides a target's own."""

    def __post_init__(self) -> None:
        """Read MIGRATE_TARGET_PATH. Raises BadConfiguration for settings that do not go together."""
        self.path = path_of(self.config)
        problems = misfits(self.config)
        if self.config.target_kind == "schema":
            problems += misfits_of_schemas(self.config)
            self.shared = Shared()
        if problems:
            raise BadConfiguration(*problems)

    def close(self) -> None:
        """Close the connections that are kept."""
        if self.shared:
            self.shared.close()

    @property
    def base(self) -> Config:
        """The settings for the connection to the database that has the schemas, or that the query is asked in."""
        return self.config.but(**ALONE, shared=self.shared)

    def of(self, target: Target) -> Config:
        """Return the settings for one target. Raises BadConfiguration for a URL that cannot be read."""
        if self.config.target_kind == "schema":
            return self.of_schema(target.name)
        environ = dict(self.config.location.environ if self.config.location else {})
        if target.url:
            environ = {name: value for name, value in environ.items() if name != f"{URL}_FILE"} | {URL: target.url}
            location = Location(environ)
        else:
            location = Location(environ, database=target.name)
        if location.problems:
            raise BadConfiguration(*location.problems)
        return self.config.but(**ALONE, location=location)

    def check(self, targets: Iterable[Target]) -> None:
        """Raise BadConfiguration with every URL that cannot be read."""
        problems = []
        for target in targets if self.config.target_kind == "url" else ():
            try:
                self.of(target)
            except BadConfiguration as error:
                problems += [f"{target.name}: {problem}" for problem in error.problems]
        if problems:
            raise BadConfiguration(*problems)

    def of_schema(self, schema: str) -> Config:
        """Return the settings for a schema: its own history, and a search_path with nothing else."""
        path = ", ".join(map(quote_name, [schema, *self.path]))
        adopt = adopted_in(schema, self.config.adopt)
        return self.config.but(**ALONE, schema=schema, search_path=path, adopt=adopt, shared=self.shared)


def adopted_in(schema: str, adopt: str | None) -> str | None:
    """Return MIGRATE_ADOPT for a schema: a relation that it names is that schema's."""
    tool, colon, relation = (adopt or "").partition(":")
    version, at, witness = relation.partition("@")
    if at:
        return f"{tool}:{version}@{quote_name(schema)}.{witness}"
    return f"{tool}:{quote_name(schema)}.{relation}" if colon else adopt


def misfits(config: Config) -> list[str]:
    """Return which settings of a run over many do not go together, and why."""
    problems = []
    if config.targets is not None and config.targets_query is not None:
        problems.append("MIGRATE_TARGETS and MIGRATE_TARGETS_QUERY are both set; keep one of them")
    if config.target_kind != "schema" and config.target_path:
        problems.append(f"MIGRATE_TARGET_PATH goes with MIGRATE_TARGET_KIND=schema, not with {config.target_kind}")
    return problems


def misfits_of_schemas(config: Config) -> list[str]:
    """Return which settings do not go with targets that are schemas, and why."""
    problems = []
    if config.schema != "public":
        problems.append(
            f"MIGRATE_SCHEMA={redact(config.schema)}: each target's history is in its own schema; remove it"
        )
    if config.location and "search_path" in config.location.server_settings:
        problems.append(
            "search_path: a target's own schema is searched, and MIGRATE_TARGET_PATH; remove it from the URL"
        )
    tool, _, relation = (config.adopt or "").partition(":")
    table = relation.rpartition("@")[2]
    if "." in table:
        problems.append(
            f"MIGRATE_ADOPT={config.adopt}: the relation is looked for in each target's schema; write its name alone"
        )
    if tool and not relation:
        from ..engine.tools import TOOLS  # a team moves in once

        known = TOOLS.get(tool)
        if known and known.schema:
            problems.append(
                f"MIGRATE_ADOPT={tool}: its table is in the schema {known.schema}, which is no target; where each "
                f"target has one, name it: {tool}:{known.tables[0]}"
            )
    return problems
