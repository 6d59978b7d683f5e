"""The entries of a folder and of the folders in it: what all layouts share."""

import posix
from _stat import S_IFREG, S_ISREG

from ..errors import BadMigrations, Problem, bad_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping  # noqa: F401  # in the quoted types
    from typing import Protocol, TypeAlias

    class Leaf(Protocol):
        """A file that may be a migration."""

        @property
        def path(self) -> str: ...  # noqa: D102
        def is_file(self) -> bool: ...  # noqa: D102

    class Entry(Leaf, Protocol):
        """An entry of a folder, as `os.scandir` gives it."""

        def is_dir(self) -> bool: ...  # noqa: D102
        def is_symlink(self) -> bool: ...  # noqa: D102


Visible: "TypeAlias" = "Mapping[str, Entry]"
"""The entries of the folder by name, without hidden ones."""
Chosen: "TypeAlias" = "tuple[Mapping[str, Leaf], Callable[[str], int] | None, list[str]]"
"""The files that are migrations by filename, the function for the version in a filename (None: that of the plain
layout), and the names of those that are not read."""
JOURNAL = "meta/_journal.json"
"""Where Drizzle lists its migrations."""
NOT_THERE = {2, 20}
"""ENOENT and ENOTDIR."""


class File:
    """A file below the folder, as it is found there."""

    __slots__ = ("error", "mode", "path")

    def __init__(self, path: str) -> None:
        self.path = path
        self.error = ""
        """Why it cannot be looked at, if it is there."""
        try:
            self.mode = posix.stat(path).st_mode
        except OSError as error:
            self.mode = 0
            self.error = "" if error.errno in NOT_THERE else f"{error.strerror}"

    def is_file(self) -> bool:
        """Tell whether it is a regular file, or a link to one."""
        return S_ISREG(self.mode)


class Hoped:
    """A file that nobody has looked for yet: opening it will tell, and a look at each of 10,000 takes as long."""

    __slots__ = ("path",)
    error = ""
    mode = S_IFREG

    def __init__(self, path: str) -> None:
        self.path = path

    def is_file(self) -> bool:
        """Hope so."""
        return True


def is_folder(entry: "Entry") -> bool:
    """Tell whether an entry is a folder, or a link to one."""
    try:
        return entry.is_dir()
    except OSError:  # a link that leads back to itself
        return False


def must_be_folder(name: str, entry: "Entry") -> bool:
    """Tell what `is_folder` does. Raises BadMigrations for a link that leads nowhere: it may have been a folder."""
    if is_folder(entry):
        return True
    if entry.is_symlink():
        try:
            posix.stat(entry.path)
        except OSError as error:
            raise bad_file(name, f"a link that leads nowhere: {error.strerror}; mend it, or remove it") from error
    return False


def folders(visible: "Visible") -> "dict[str, Entry]":
    """Return the folders among the entries. Raises BadMigrations for links that lead nowhere."""
    found = {}
    problems: list[Problem] = []
    for name, entry in visible.items():
        try:
            if is_folder(entry) or must_be_folder(name, entry):
                found[name] = entry
        except BadMigrations as error:
            problems += error.problems
    if problems:
        raise BadMigrations(*problems)
    return found


def others(visible: "Visible", chosen: "Iterable[str]") -> list[str]:
    """Return the names of the entries that are not chosen, by name; a folder's with a slash."""
    return sorted(f"{name}/" if is_folder(visible[name]) else name for name in visible.keys() - {*chosen})


def below(name: str, path: str, seen: "set[tuple[int, int]]") -> "Iterator[tuple[str, Entry]]":
    """Yield (name, entry) for the files in a folder in any depth; hidden ones are left out.

    A folder is entered once, however many links lead to it: `seen` has those that were. Raises BadMigrations for one
    that cannot be read, and for a link that leads nowhere.
    """
    waiting = [(name, path)]
    while waiting:
        folder, path = waiting.pop()
        try:
            found = posix.stat(path)
            if (found.st_dev, found.st_ino) in seen:
                continue
            seen.add((found.st_dev, found.st_ino))
            with posix.scandir(path) as entries:
                inside = {entry.name: entry for entry in entries if not entry.name.startswith(".")}
        except OSError as error:
            raise bad_file(folder, f"cannot be read: {error.strerror}") from error
        deeper = []
        for base in sorted(inside):
            file = f"{folder}/{base}"
            if must_be_folder(file, inside[base]):
                deeper.append((file, inside[base].path))
            else:
                yield file, inside[base]
        waiting += reversed(deeper)
