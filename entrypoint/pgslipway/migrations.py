"""A migration and a row of the history, as plain values."""

import os
from dataclasses import dataclass
from datetime import datetime

from . import files
from .errors import FilesChanged, Problem
from .files import Source

CHANGED = "changed since this run began; run it again"


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """A file to apply once. Its text stays on disk until it is needed."""

    version: int
    filename: str
    checksum: str
    path: str

    def read(self) -> Source:
        """Return the file's bytes, or its mapping if it is large.

        Raises FilesChanged if the file is no longer the one that was discovered.
        """
        try:
            source, checksum = files.read(self.path)
        except (OSError, UnicodeDecodeError) as error:
            cause = f"changed since this run began: {error}; run it again"
            raise FilesChanged(Problem(cause, self.filename)) from error
        if checksum != self.checksum:
            raise FilesChanged(Problem(CHANGED, self.filename))
        return source


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """A row of the history. Rows that were taken over have no checksum."""

    version: int
    filename: str
    applied_at: datetime | None = None
    checksum: str | None = None
    minimum_version: int | None = None


def discover(folder: "str | os.PathLike[str]") -> list[Migration]:
    """Return the migrations in `folder`, by ascending version. Raises BadMigrations with all that is wrong."""
    return [
        Migration(version=version, filename=filename, checksum=checksum, path=path)
        for version, filename, checksum, path in files.discover(os.fspath(folder))
    ]
