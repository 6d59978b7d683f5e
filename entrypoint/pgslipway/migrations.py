"""The folder of migrations: which files count, what they are called, and what is wrong with the rest."""

import codecs
import hashlib
import io
import mmap
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, TypeAlias

from .errors import BadMigrations, Problem

if TYPE_CHECKING:
    from pathlib import Path

    from .plan import Applied

NAME = re.compile(r"(?P<version>[0-9]+)_(?P<description>.+?)(\.up)?\.sql")
HOW_TO_NAME = "name it <version>_<description>.sql, such as 007_add_orders.sql"
LARGEST_VERSION = 2**63 - 1
"""The largest BIGINT, the type that the history's version column is widened to."""
BOM = "\ufeff"
UTF_8 = codecs.getincrementaldecoder("utf-8-sig")
LARGE = 1 << 20
"""Bytes above which a file is mapped, not read, and sent statement by statement."""
CHUNK = 1 << 16
LONGEST_SHOWN = 300
"""Characters of a text that are shown in a line."""

Source: TypeAlias = bytes | mmap.mmap


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """A file to apply once. Its text stays on disk until it is needed."""

    version: int
    filename: str
    checksum: str
    path: str

    def read(self) -> Source:
        """Return the file's bytes, or its mapping if it is large.

        Raises BadMigrations if the file is no longer the one that was discovered: waiting for the lock may take
        minutes, in which a mounted ConfigMap can change.
        """
        try:
            source, found = read(self.path)
        except (OSError, UnicodeDecodeError) as error:
            cause = f"changed since this run began: {error}; run it again"
            raise BadMigrations(Problem(cause, self.filename)) from error
        if found != self.checksum:
            raise BadMigrations(Problem("changed since this run began; run it again", self.filename))
        return source


def discover(folder: "Path") -> list[Migration]:
    """Return the migrations in `folder`, by ascending version.

    Raises BadMigrations, which names every file that cannot be used, or the folder if it holds no migration:
    skipping a file silently would deploy code without its schema.
    """
    try:
        with os.scandir(folder) as entries:
            files = sorted((entry for entry in entries if is_sql(entry.name)), key=attrgetter("name"))
    except OSError as error:
        raise BadMigrations(f"{folder}: {error.strerror}; MIGRATE_DIR must be the folder of migrations") from error
    problems: list[Problem | str] = []
    migrations = []
    for file in files:
        try:
            migrations.append(load(file))
        except BadMigrations as problem:
            problems += problem.problems
    problems += duplicates(migrations)
    if problems:
        raise BadMigrations(*problems)
    if not migrations:
        raise BadMigrations(f"{folder}: no migration in this folder; {HOW_TO_NAME}")
    return sorted(migrations, key=lambda migration: migration.version)


def is_sql(name: str) -> bool:
    """Tell whether a directory entry claims to be a migration; hidden entries and *.down.sql do not."""
    lower = name.lower()
    return lower.endswith(".sql") and not lower.endswith(".down.sql") and not name.startswith(".")


def load(entry: os.DirEntry[str]) -> Migration:
    """Return the migration in the file at `entry`, or raise BadMigrations."""
    name = entry.name
    match = NAME.fullmatch(name)
    shown = name if name.isprintable() else ascii(name)
    if not match or not name.isprintable():
        raise BadMigrations(Problem(f"not a migration's name; {HOW_TO_NAME}", shown))
    version = int(match["version"])
    if version > LARGEST_VERSION:
        raise BadMigrations(Problem(f"the version is too large; the largest is {LARGEST_VERSION}", shown))
    try:
        if not entry.is_file():
            raise BadMigrations(Problem(f"not a file; {entry.path} must be a regular file or a link to one", shown))
        _, checksum = read(entry.path)
    except OSError as error:
        raise BadMigrations(Problem(f"cannot be read: {error.strerror}", shown)) from error
    except UnicodeDecodeError as error:
        raise BadMigrations(
            Problem("not UTF-8; save the file as UTF-8", shown, undecodable_line(entry.path))
        ) from error
    return Migration(version=version, filename=name, checksum=checksum, path=entry.path)


def read(path: str) -> tuple[Source, str]:
    """Return the bytes and the checksum of the file at `path`; a large one is mapped, so that memory stays bounded.

    The checksum is the hexadecimal SHA-256 over the text without a BOM and with LF line ends. Raises OSError, and
    UnicodeDecodeError for what is not UTF-8. A small file gets neither a file object nor a decoder: with 10,000 files,
    that saves a sixth of the time.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        chunks = iter(partial(os.read, descriptor, CHUNK), b"")
        if os.fstat(descriptor).st_size > LARGE:
            return mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ), checksum_of_large(chunks)
        source = b"".join(chunks)
    finally:
        os.close(descriptor)
    text = source.decode().removeprefix(BOM).replace("\r\n", "\n").replace("\r", "\n")
    return source, hashlib.sha256(text.encode()).hexdigest()


def checksum_of_large(chunks: Iterable[bytes]) -> str:
    """Return the checksum of a file without holding all of it."""
    digest = hashlib.sha256()
    decoder = io.IncrementalNewlineDecoder(UTF_8(), translate=True)
    for chunk in chunks:
        digest.update(decoder.decode(chunk).encode())
    digest.update(decoder.decode(b"", final=True).encode())
    return digest.hexdigest()


def undecodable_line(path: str) -> int:
    """Return the number of the first line that is not UTF-8."""
    with io.FileIO(path) as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode()
            except UnicodeDecodeError:
                return number
    raise AssertionError(f"{path} is UTF-8 after all")


def duplicates(migrations: list[Migration]) -> Iterator[str]:
    """Describe the versions that more than one file has."""
    filenames = defaultdict(list)
    for migration in migrations:
        filenames[migration.version].append(migration.filename)
    for version, names in filenames.items():
        if len(names) > 1:
            yield f"version {version} is taken by {' and '.join(names)}; give each file a version of its own"


def count(number: int, noun: str) -> str:
    """Return "1 file", "2 files"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def names(items: "Sequence[Migration | Applied]") -> str:
    """List the filenames of migrations or of rows of the history, the first few of many."""
    return few([item.filename for item in items])


def few(filenames: Sequence[str], most: int = 5) -> str:
    """List the first few of many filenames."""
    listed = ", ".join(filenames[:most])
    return listed if len(filenames) <= most else f"{listed} and {len(filenames) - most} more"


def short(text: str) -> str:
    """Return a text in one line of bounded length."""
    line = " ".join(text.split())
    return line if len(line) <= LONGEST_SHOWN else f"{line[:LONGEST_SHOWN]} …"
