"""The folder of migrations: names, versions and checksums of its files, and the problems of the unusable ones.

Plain strings and tuples, and no heavy import: a start with nothing to do gets no further.
"""

import io
import posix
from _hashlib import openssl_sha256 as sha256

from .errors import BadMigrations, Problem

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from mmap import mmap  # noqa: F401  # in the quoted type
    from os import DirEntry
    from typing import TypeAlias

HOW_TO_NAME = "name it <version>_<description>.sql, such as 007_add_orders.sql"
LARGEST_VERSION = 2**63 - 1
"""The largest BIGINT, the type that the history's version column is widened to."""
BOM = b"\xef\xbb\xbf"
LARGE = 1 << 20
"""Bytes above which a file is mapped, not read, and sent in pieces."""
CHUNK = 1 << 16
START = 0
"""SEEK_SET."""

Source: "TypeAlias" = "bytes | mmap"
Found: "TypeAlias" = tuple[int, str, str, str]
"""Version, filename, checksum and path of a migration."""


def discover(folder: str) -> list[Found]:
    """Return the migrations in `folder`, by ascending version.

    Raises BadMigrations, which names every file that cannot be used, or the folder if it holds no migration:
    skipping a file silently would deploy code without its schema.
    """
    try:
        with posix.scandir(folder) as entries:
            files = {entry.name: entry for entry in entries if is_sql(entry.name)}
    except OSError as error:
        raise BadMigrations(f"{folder}: {error.strerror}; MIGRATE_DIR must be the folder of migrations") from error
    problems: list[Problem | str] = []
    found = []
    for name in sorted(files):
        try:
            found.append(load(name, files[name]))
        except BadMigrations as problem:
            problems += problem.problems
    if len({one[0] for one in found}) < len(found):
        problems += duplicates(found)
    if problems:
        raise BadMigrations(*problems)
    if not found:
        raise BadMigrations(f"{folder}: no migration in this folder; {HOW_TO_NAME}")
    return sorted(found)


def is_sql(name: str) -> bool:
    """Tell whether a directory entry claims to be a migration; hidden entries and *.down.sql do not."""
    lower = name.lower()
    return lower.endswith(".sql") and not lower.endswith(".down.sql") and not name.startswith(".")


def load(name: str, entry: "DirEntry[str]") -> Found:
    """Return the migration in the file at `entry`, or raise BadMigrations."""
    digits, _, rest = name.partition("_")
    is_version = digits.isdecimal() and digits.isascii()
    if not (is_version and rest.endswith(".sql") and rest != ".sql" and name.isprintable()):
        raise bad(name, f"not a migration's name; {HOW_TO_NAME}")
    if (version := int(digits)) > LARGEST_VERSION:
        raise bad(name, f"the version is too large; the largest is {LARGEST_VERSION}")
    try:
        if not entry.is_file():
            raise bad(name, f"not a file; {entry.path} must be a regular file or a link to one")
        _, checksum = read(entry.path)
    except OSError as error:
        raise bad(name, f"cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise bad(name, "not UTF-8; save the file as UTF-8", undecodable_line(entry.path)) from error
    return version, name, checksum, entry.path


def bad(name: str, text: str, line: int = 0) -> BadMigrations:
    """Return the failure about a file."""
    return BadMigrations(Problem(text, name if name.isprintable() else ascii(name), line))


def read(path: str) -> tuple[Source, str]:
    """Return the bytes and the checksum of the file at `path`; a large one is mapped, so that memory stays bounded.

    The checksum is the hexadecimal SHA-256 over the text without a BOM and with LF line ends. Raises OSError, and
    UnicodeDecodeError for what is not UTF-8. A small file gets neither a file object nor a decoder: of 10,000 files
    each takes half as long then.
    """
    descriptor = posix.open(path, posix.O_RDONLY)
    try:
        source = posix.read(descriptor, CHUNK)
        while len(source) <= LARGE and (more := posix.read(descriptor, CHUNK)):
            source += more
        if len(source) > LARGE:
            from mmap import ACCESS_READ, mmap  # most folders have no such file

            posix.lseek(descriptor, 0, START)
            chunks = iter(lambda: posix.read(descriptor, CHUNK), b"")
            return mmap(descriptor, 0, access=ACCESS_READ), checksum_of_large(chunks)
    finally:
        posix.close(descriptor)
    text = source
    if not source.isascii():
        source.decode()  # which raises
        text = source.removeprefix(BOM)
    if b"\r" in text:
        text = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    return source, sha256(text).hexdigest()


def checksum_of_large(chunks: "Iterable[bytes]") -> str:
    """Return the checksum of a file without holding all of it."""
    from codecs import getincrementaldecoder

    digest = sha256()
    decoder = io.IncrementalNewlineDecoder(getincrementaldecoder("utf-8-sig")(), translate=True)
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


def duplicates(found: list[Found]) -> "Iterator[str]":
    """Describe the versions that more than one file has."""
    filenames: dict[int, list[str]] = {}
    for version, filename, _, _ in found:
        filenames.setdefault(version, []).append(filename)
    for version, names in filenames.items():
        if len(names) > 1:
            yield f"version {version} is taken by {' and '.join(names)}; give each file a version of its own"
