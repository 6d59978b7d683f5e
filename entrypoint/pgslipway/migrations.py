"""A migration and a row of the history, as plain values."""

import os
from dataclasses import dataclass
from datetime import datetime

from . import files
from .errors import FilesChanged, Problem, Undivided
from .files import Source
from .quote import quote_literal

CHANGED = "changed since this run began; run it again"


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """A file to apply once. Its text stays on disk until it is needed."""

    version: int
    filename: str
    checksum: str
    path: str
    layout: str = files.PLAIN

    @property
    def is_sql(self) -> bool:
        """Tell whether its text is SQL; some tools have migrations in code, too."""
        return files.has_sql(self.filename)

    @property
    def repeats(self) -> bool:
        """Tell whether it is applied again whenever it has changed."""
        return False

    @property
    def checksum_as_written(self) -> str:
        """The checksum of the file."""
        return self.checksum

    @property
    def text(self) -> str:
        """The version as the layout writes it."""
        return shown(self.layout, self.version, self.filename)

    def read(self) -> Source:
        """Return the file's bytes up to the end of its up part, or their mapping if it is large.

        Raises FilesChanged if the file is no longer the one that was discovered.
        """
        try:
            source, checksum = files.read(self.path, files.part_of(self.layout) if self.is_sql else None)
        except (OSError, UnicodeDecodeError, Undivided) as error:
            cause = f"changed since this run began: {error}; run it again"
            raise FilesChanged(Problem(cause, self.filename)) from error
        if checksum != self.checksum_as_written:
            raise FilesChanged(Problem(CHANGED, self.filename))
        return source


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeatable(Migration):
    """A file that is applied again whenever it has changed; its version is the newest one of its image.

    Its checksum has the values of its variables in it.
    """

    written: str = ""
    """The checksum of the file, where it has variables."""

    @property
    def repeats(self) -> bool:
        """Tell that it is applied again."""
        return True

    @property
    def checksum_as_written(self) -> str:
        """The checksum of the file."""
        return self.written or self.checksum


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """A row of the history. Rows that were taken over have no checksum."""

    version: int
    filename: str
    applied_at: datetime | None = None
    checksum: str | None = None
    minimum_version: int | None = None


def discover(folder: "str | os.PathLike[str]", layout: str = files.AUTO) -> list[Migration]:
    """Return the migrations in `folder`, by ascending version. Raises BadMigrations with all that is wrong."""
    return migrations_in(files.discover(os.fspath(folder), layout))


def discover_all(folder: str, layout: str = files.AUTO) -> tuple[list[Migration], list[Repeatable]]:
    """Return what `discover` does, and the repeatable files."""
    found = files.discover(folder, layout)
    return migrations_in(found), repeatable_in(found)


def migrations_in(folder: files.Folder) -> list[Migration]:
    """Return the migrations in a folder that was read."""
    return [
        Migration(version=version, filename=filename, checksum=checksum, path=path, layout=folder.layout)
        for version, filename, checksum, path in folder.found
    ]


def repeatable_in(folder: files.Folder) -> list[Repeatable]:
    """Return the repeatable files in a folder that was read, in their order."""
    newest, layout = folder.found[-1][0], folder.layout if folder.layout == files.FLYWAY else files.PLAIN
    return [
        Repeatable(version=newest, filename=filename, checksum=checksum, path=path, layout=layout)
        for _, filename, checksum, path in folder.repeatable
    ]


def shown(layout: str, version: int, filename: str) -> str:
    """Return a version as a layout writes it."""
    if layout == files.PLAIN:
        return str(version)
    from .layouts.versions import shown as shown_elsewhere  # a plain folder needs no other layout

    return shown_elsewhere(layout, version, filename)


def row_sql_values(migration: Migration, minimum_version: int | None) -> str:
    """Return the values of the row that records `migration` as applied, but for the time."""
    literals = quote_literal(migration.filename), quote_literal(migration.checksum)
    return f"{migration.version}, {', '.join(literals)}, {minimum_version or 'NULL'}::bigint"
