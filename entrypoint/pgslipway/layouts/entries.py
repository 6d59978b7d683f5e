"""The entries of a folder and of the folders in it: what all layouts share."""

import posix
from _stat import S_ISDIR, S_ISREG

from ..errors import bad_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping  # noqa: F401  # in the quoted types
    from typing import Protocol, TypeAlias

    class Entry(Protocol):
        """A file, as `os.scandir` gives it."""

        @property
        def path(self) -> str: ...  # noqa: D102
        def is_file(self) -> bool: ...  # noqa: D102
        def is_dir(self) -> bool: ...  # noqa: D102


Visible: "TypeAlias" = "Mapping[str, Entry]"
"""The entries of the folder by name, without hidden ones."""
Chosen: "TypeAlias" = "tuple[Mapping[str, Entry], Callable[[str], int] | None, list[str]]"
"""The files that are migrations by filename, the function for the version in a filename (None: that of the plain
layout), and the names of those that are not read."""


class File:
    """A file below the folder, in the manner of an entry of `os.scandir`."""

    __slots__ = ("mode", "path")

    def __init__(self, path: str) -> None:
        self.path = path
        try:
            self.mode = posix.stat(path).st_mode
        except OSError:
            self.mode = 0

    def is_file(self) -> bool:
        """Tell whether it is a regular file, or a link to one."""
        return S_ISREG(self.mode)

    def is_dir(self) -> bool:
        """Tell whether it is a folder, or a link to one."""
        return S_ISDIR(self.mode)


def folders(visible: "Visible") -> "list[tuple[str, Entry]]":
    """Return the folders among the entries."""
    return [(name, entry) for name, entry in visible.items() if entry.is_dir()]


def others(visible: "Visible", chosen: "Iterable[str]") -> list[str]:
    """Return the names of the entries that are not chosen, by name; a folder's with a slash."""
    return sorted(f"{name}/" if visible[name].is_dir() else name for name in visible.keys() - {*chosen})


def below(name: str, path: str, seen: "tuple[tuple[int, int], ...]" = ()) -> "Iterator[str]":
    """Yield the names of the files in a folder in any depth, each after the folder's; hidden ones are left out.

    A folder that a link leads back to is not entered again. Raises BadMigrations for one that cannot be read.
    """
    try:
        found = posix.stat(path)
        if (found.st_dev, found.st_ino) in seen:
            return
        with posix.scandir(path) as entries:
            inside = [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise bad_file(name, f"cannot be read: {error.strerror}") from error
    for entry in inside:
        if entry.is_dir():
            yield from below(f"{name}/{entry.name}", entry.path, (*seen, (found.st_dev, found.st_ino)))
        else:
            yield f"{name}/{entry.name}"
