"""The folder of migrations: names, versions and checksums of its files, and the problems of the unusable ones.

Plain strings and tuples, and no heavy import: a start with nothing to do gets no further. The folders of other tools
are in `layouts`.
"""

import io
import posix
from _hashlib import openssl_sha256 as sha256
from _stat import S_ISREG

from .errors import BadMigrations, Problem, Undivided, bad_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from mmap import mmap  # noqa: F401  # in the quoted type
    from typing import NoReturn, TypeAlias

    from .layouts.entries import Entry, Leaf

HOW_TO_NAME = "name it <version>_<description>.sql, such as 007_add_orders.sql"
HOW_TO_REPEAT = "not a repeatable file's name; name it R__<description>.sql, such as R__views.sql"
REPEATABLE = -1
"""Stands for the version of a file that is applied again whenever it changes."""
LARGEST_VERSION = 2**63 - 1
"""The largest BIGINT, the type that the history's version column is widened to."""
BOM = b"\xef\xbb\xbf"
LARGE = 1 << 20
"""Bytes above which a file is mapped, not read, and sent in pieces."""
CHUNK = 1 << 16
EINVAL = 22
PLAIN, AUTO, FLYWAY = "plain", "auto", "flyway"
DIVIDED = {"goose", "dbmate", "tern"}
"""The layouts in which a file has a part that applies its change, and one that undoes it."""
MARKS = (b"+goose", b"migrate:", b" / drop below ", b"tern: disable-tx")
"""The words in the first file of a folder that may be another tool's."""

Source: "TypeAlias" = "bytes | mmap"
Found: "TypeAlias" = tuple[int, str, str, str]
"""Version, filename, checksum and path of a migration."""
Part: "TypeAlias" = "Callable[[Source], tuple[int, int]]"
"""Returns the first byte of a file's up part and the one after it. Raises Undivided."""


class Folder:
    """The migrations in a folder, by ascending version, and how they are laid out."""

    __slots__ = ("decided_by", "found", "ignored", "layout", "repeatable")

    def __init__(self, found: list[Found], layout: str, decided_by: str = "", ignored: "Iterable[str]" = ()) -> None:
        self.repeatable = sorted((one for one in found if one[0] == REPEATABLE), key=by_description)
        """The files that are applied after all versions, whenever they have changed, in their order."""
        self.found = found[len(self.repeatable) :]
        self.layout = layout
        self.decided_by = decided_by
        """The file that told the layout; empty where a setting did, or nothing."""
        self.ignored = [*ignored]
        """The files beside the migrations that are not read, nor by the tool whose layout this is."""


def visible_in(folder: str) -> "dict[str, Entry]":
    """Return the entries of a folder by name, without hidden ones. Raises BadMigrations."""
    try:
        with posix.scandir(folder) as entries:
            return {entry.name: entry for entry in entries if not entry.name.startswith(".")}
    except OSError as error:
        raise BadMigrations(f"{folder}: {error.strerror}; MIGRATE_DIR must be the folder of migrations") from error


def discover(folder: str, layout: str = AUTO, visible: "Mapping[str, Entry] | None" = None) -> Folder:
    """Return the migrations in `folder`, laid out as said, or as its names and markers tell.

    Its entries may be known already. Raises BadMigrations, which names every file that cannot be used, or the folder if
    it holds no migration: skipping a file silently would deploy code without its schema.
    """
    visible = visible_in(folder) if visible is None else visible
    repeatable: dict[str, Leaf] = {name: visible[name] for name in visible if name[0] in "Rr" and is_repeatable(name)}
    if repeatable:
        visible = {name: visible[name] for name in visible if name not in repeatable}
    files = {name: entry for name, entry in visible.items() if is_sql(name)}
    if (layout == PLAIN and len(files) == len(visible)) or (layout == AUTO and is_plain(visible, files)):
        return Folder(load_all(files, plain_version, None, repeatable), PLAIN) if files else nothing_in(folder)
    return elsewhere(folder, layout, visible, repeatable)


def elsewhere(folder: str, layout: str, visible: "Mapping[str, Entry]", repeatable: "dict[str, Leaf]") -> Folder:
    """Return what `discover` does of a folder that is not plain for sure; Flyway has repeatable files in any depth."""
    from .layouts import files_of, recognise

    decided_by = ""
    if layout == AUTO:
        layout, decided_by = recognise(visible, {name: visible[name] for name in visible if is_sql(name)}, content_of)
    for is_hopeful in (True, False):  # the second time it looks closer, and says what is wrong
        chosen, version_of, ignored = files_of(layout, visible, is_hopeful=is_hopeful)
        if layout == FLYWAY:
            repeatable |= {name: chosen[name] for name in chosen if is_repeatable(name)}
            chosen = {name: chosen[name] for name in chosen if name not in repeatable}
        try:
            found = load_all(chosen, version_of or plain_version, part_of(layout), repeatable) if chosen else []
        except BadMigrations:
            if not is_hopeful:
                raise
        else:
            break
    return Folder(found or nothing_in(folder, layout), layout, decided_by, ignored)


def is_sql(name: str) -> bool:
    """Tell whether a directory entry claims to be a migration; *.down.sql does not."""
    lower = name.lower()
    return lower.endswith(".sql") and not lower.endswith(".down.sql")


def has_sql(name: str) -> bool:
    """Tell whether a migration is SQL; some tools have migrations in code, too."""
    return name[-4:].lower() == ".sql"


def is_repeatable(name: str) -> bool:
    """Tell whether a file is a repeatable one by its name, or meant to be."""
    place = name.rfind("/") + 1
    return name[place : place + 2] in {"R_", "r_"} and is_sql(name)


def by_description(found: Found) -> tuple[str, str]:
    """Return what repeatable files are sorted by, in Flyway's manner."""
    return found[1].rpartition("/")[2][:-4].replace("_", " "), found[1]


def is_plain(visible: "Mapping[str, Entry]", files: "Mapping[str, Entry]") -> bool:
    """Tell whether nothing in the folder speaks for another layout."""
    if not files or not all(name[0].isdecimal() for name in files):
        return False
    others = [name for name in visible if name not in files] if len(files) < len(visible) else []
    try:
        if any(name == "tern.conf" or visible[name].is_dir() for name in others):
            return False
    except OSError:  # a link that leads back to itself
        return False
    first = content_of(files[min(files)]).lower()
    return not any(mark in first for mark in MARKS)


def content_of(entry: "Leaf") -> bytes:
    """Return the first bytes of a file, up to LARGE, for a look at its markers; none of one that cannot be read."""
    try:
        if not entry.is_file():
            return b""
        with io.FileIO(entry.path) as file:
            return file.read(LARGE) or b""
    except OSError:
        return b""


def part_of(layout: str) -> "Part | None":
    """Return the function for the up part of the files in a layout; None where it is the file."""
    if layout not in DIVIDED:
        return None
    from .layouts import parts

    part: Part = getattr(parts, layout)
    return part


def load_all(
    entries: "Mapping[str, Leaf]",
    version_of: "Callable[[str], int]",
    part: "Part | None",
    repeatable: "Mapping[str, Leaf]",
) -> list[Found]:
    """Return the migrations in the files at `entries`, by ascending version, the repeatable ones first.

    The keys are their filenames. Raises BadMigrations, which names every file that cannot be used.
    """
    problems: list[Problem | str] = []
    found = []
    for name in sorted((*entries, *repeatable) if repeatable else entries):
        try:
            if name in repeatable:
                found.append(load(name, repeatable[name], repeatable_version(name), None))
            else:
                found.append(load(name, entries[name], version_of(name), part))
        except BadMigrations as problem:
            problems += problem.problems
    if len({one[0] for one in found}) < len(found):
        problems += duplicates(found)
    if problems:
        raise BadMigrations(*problems)
    return sorted(found)


def nothing_in(folder: str, layout: str = PLAIN) -> "NoReturn":
    """Raise BadMigrations for a folder without a migration."""
    if layout == PLAIN:
        raise BadMigrations(f"{folder}: no migration in this folder; {HOW_TO_NAME}")
    raise BadMigrations(f"{folder}: no migration in this folder as {layout} has them; see MIGRATE_LAYOUT")


def plain_version(name: str) -> int:
    """Return the version in a filename of the plain layout, or raise BadMigrations."""
    digits, _, rest = name.partition("_")
    is_version = digits.isdecimal() and digits.isascii()
    if not (is_version and rest.endswith(".sql") and rest != ".sql" and name.isprintable()):
        raise bad_file(name, f"not a migration's name; {HOW_TO_NAME}")
    return int(digits)


def repeatable_version(name: str) -> int:
    """Return REPEATABLE, or raise BadMigrations for a file that is called by another name than it has to be."""
    base = name.rpartition("/")[2]
    if not (base.startswith("R__") and base.endswith(".sql") and base != "R__.sql"):
        raise bad_file(name, HOW_TO_REPEAT)
    return REPEATABLE


def load(name: str, entry: "Leaf", version: int, part: "Part | None") -> Found:
    """Return the migration in the file at `entry`, or raise BadMigrations."""
    if version > LARGEST_VERSION:
        raise bad_file(name, f"the version is too large; the largest is {LARGEST_VERSION}")
    if not name.isprintable():
        raise bad_file(name, "not a migration's name: it has characters that cannot be printed")
    try:
        if not entry.is_file():
            raise bad_file(name, f"not a file; {entry.path} must be a regular file or a link to one")
        _, checksum = read(entry.path, part if part and name.endswith(".sql") else None)
    except OSError as error:
        raise bad_file(name, f"cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        from .reading import undecodable_line

        raise bad_file(name, "not UTF-8; save the file as UTF-8", undecodable_line(entry.path)) from error
    except Undivided as error:
        raise bad_file(name, str(error), error.line) from error
    return version, name, checksum, entry.path


def read(path: str, part: "Part | None" = None) -> tuple[Source, str]:
    """Return the bytes and the checksum of the file at `path`; a large one is mapped, so that memory stays bounded.

    The checksum is the hexadecimal SHA-256 over the text without a BOM and with LF line ends; with a `part`, over that
    part alone, with whose end the bytes end. Raises OSError, Undivided, and UnicodeDecodeError for what is not UTF-8.
    A small file gets neither a file object nor a decoder: of 10,000 files each takes half as long then.
    """
    descriptor = posix.open(path, posix.O_RDONLY | posix.O_NONBLOCK)
    try:
        source = posix.read(descriptor, CHUNK)
        if not source and not S_ISREG(posix.fstat(descriptor).st_mode):
            raise OSError(EINVAL, "not a regular file")
        while len(source) <= LARGE and (more := posix.read(descriptor, CHUNK)):
            source += more
        if len(source) > LARGE:
            from .reading import read_large

            return read_large(descriptor, part, LARGE)
    finally:
        posix.close(descriptor)
    text = source
    if part:
        start, end = part(source)
        source, text = source[:end], source[start:end]
    if not source.isascii():
        source.decode()  # which raises
        text = text.removeprefix(BOM)
    if b"\r" in text:
        text = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    return source, sha256(text).hexdigest()


def duplicates(found: list[Found]) -> "Iterator[str]":
    """Describe the versions that more than one file has."""
    filenames: dict[int, list[str]] = {}
    for version, filename, _, _ in found:
        filenames.setdefault(version, []).append(filename)
    for version, names in filenames.items():
        if len(names) > 1 and version != REPEATABLE:
            yield f"version {version} is taken by {' and '.join(names)}; give each file a version of its own"
