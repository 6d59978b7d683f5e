"""The down parts of migrations: the section, or the file beside, that undoes a migration; and our SQL around it."""

import posix
from dataclasses import dataclass

from .. import files
from ..errors import BadMigrations, FilesChanged, Problem, Undivided, bad_file
from ..files import Source
from ..history import History
from ..migrations import CHANGED, Migration
from ..quote import quote_literal
from .findings import ROW_WRITTEN, TRANSACTION_ENDED

BESIDE = {"diesel": "down.sql", "prisma": "down.sql"}
"""The file in the folder of a migration that undoes it."""
NOT_UTF_8 = "not UTF-8, in its down part perhaps; save the file as UTF-8"
UNDOING = "pgslipway.undoing"
"""The setting that keeps the number of the transaction that undoes a file; empty, after RESET ALL, it says nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Undo(Migration):
    """The down part of a migration."""

    first: int = 0
    """The first byte of the down part in its file."""

    @property
    def is_sql(self) -> bool:
        """Tell that its text is SQL, whatever its name says."""
        return True

    def read(self) -> Source:
        """Return the file with line ends alone before its down part, so that lines keep their numbers.

        Raises FilesChanged if it is no longer what it was.
        """
        try:
            source, checksum = files.read(self.path)
        except (OSError, UnicodeDecodeError) as error:
            raise FilesChanged(Problem(f"{CHANGED}: {error}", self.filename)) from error
        if checksum != self.checksum:
            raise FilesChanged(Problem(CHANGED, self.filename))
        return b"\n" * source[: self.first].count(b"\n") + source[self.first :] if self.first else source


def undo_of(migration: Migration, folder: str) -> Undo:
    """Return the down part of a migration. Raises BadMigrations where it has none, or more than one."""
    if migration.layout in files.DIVIDED:
        return section(migration)
    found = beside(migration, folder)
    if len(found) != 1:
        how = (
            f"{' and '.join(sorted(found))} undo it; keep one" if found else "nothing here undoes it; add its down file"
        )
        raise bad_file(migration.filename, how)
    ((name, path),) = found.items()
    _, checksum = content(name, path)
    return Undo(version=migration.version, filename=name, checksum=checksum, path=path, layout=migration.layout)


def section(migration: Migration) -> Undo:
    """Return the down section of a file."""
    part = files.part_of(migration.layout) if files.is_sql(migration.filename) else None
    source, checksum = content(migration.filename, migration.path)
    try:
        _, end = part(source) if part else (0, len(source))
    except Undivided as error:
        raise bad_file(migration.filename, str(error), error.line) from error
    if end == len(source):
        raise bad_file(migration.filename, "it has no down part; add one, or undo it by hand")
    line_end = source.find(b"\n", end)
    first = line_end + 1 if line_end >= 0 else len(source)
    return Undo(
        version=migration.version,
        filename=migration.filename,
        checksum=checksum,
        path=migration.path,
        layout=migration.layout,
        first=first,
    )


def content(name: str, path: str) -> tuple[Source, str]:
    """Return the bytes and the checksum of a file with a down part. Raises BadMigrations."""
    try:
        return files.read(path)
    except OSError as error:
        raise bad_file(name, f"cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise bad_file(name, NOT_UTF_8) from error


def beside(migration: Migration, folder: str) -> dict[str, str]:
    """Return the paths of the files that undo a migration, by name."""
    place, _, base = migration.filename.rpartition("/")
    path = migration.path.removesuffix(base)
    prefix = f"{place}/" if place else ""
    if migration.layout == "drizzle":
        raise bad_file(migration.filename, "Drizzle has no down parts; undo it by hand")
    try:
        names = posix.listdir(path or folder)
    except OSError as error:
        raise bad_file(migration.filename, f"cannot be read: {error.strerror}") from error
    if name := BESIDE.get(migration.layout):
        fitting = [name] if name in names else []
    elif migration.layout == "flyway":
        fitting = [one for one in names if one.lower().endswith(".sql") and one.partition("__")[0] == f"U{stem(base)}"]
    else:
        fitting = [one for one in names if one.lower().endswith(".down.sql") and number(one) == migration.version]
    return {f"{prefix}{one}": f"{path}{one}" for one in fitting}


def stem(base: str) -> str:
    """Return the version in a filename of Flyway's as it is written there."""
    return base[1:].partition("__")[0]


def number(name: str) -> int:
    """Return the version in the name of a plain file; -1 for another name."""
    try:
        return files.plain_version(name)
    except BadMigrations:
        return -1


def forget_sql(history: History, version: int, condition: str, texts: str = "") -> str:
    """Return the SQL that removes the row of `version` if `condition` holds; its tag counts the row.

    All rows of the table `texts` of the repeatable files go first: the next `up` applies them again.
    """
    forget = f"DELETE FROM {texts};" if texts else ""
    return f"""
        {forget}
        SELECT pg_catalog.set_config('{UNDOING}', pg_catalog.pg_current_xact_id()::text, true);
        DELETE FROM {history.name} WHERE version = {version} AND ({condition})"""


def verify_gone_sql(history: History, version: int) -> str:
    """Return SQL that fails, with one of FINDINGS, unless this is still the transaction that removed the row."""
    noted = f"nullif(pg_catalog.current_setting('{UNDOING}', true), '')"
    return f"""
        SELECT pg_catalog.set_config({quote_literal(TRANSACTION_ENDED)}, '', true)
         WHERE {noted} <> pg_catalog.pg_current_xact_id()::text;
        SELECT pg_catalog.set_config({quote_literal(ROW_WRITTEN)}, '', true)
         WHERE EXISTS (SELECT FROM {history.name} WHERE version = {version})"""
