"""A squash: the first file of a folder, which stands for all that were before it."""

import re
from collections.abc import Sequence

from ..errors import Problem
from ..migrations import Applied, Migration
from .sql import SqlError, leading_comments

SQUASH = re.compile(r"squash", re.IGNORECASE)
"""The directive in its leading comment."""


def is_squash(migrations: Sequence[Migration], history: Sequence[Applied]) -> bool:
    """Tell whether the first file is a squash; it is read only where that makes a difference."""
    first = migrations[0]
    exact = {(first.version, first.checksum)}
    if all(row.version > first.version or (row.version, row.checksum) in exact for row in history):
        return False
    try:
        return any(SQUASH.fullmatch(comment) for comment in leading_comments(first.read()))
    except SqlError:
        return False  # the check of the file tells


def misplaced(migrations: Sequence[Migration], squashes: Sequence[Migration]) -> list[Problem]:
    """Return a problem for each squash that is not the first file: on a new database both would be applied."""
    return [
        Problem(
            f"stands for all files before it (-- squash), and {migrations[0].filename} is before it; delete the files "
            "that it stands for",
            one.filename,
            joint=" ",
        )
        for one in squashes
        if one.version != migrations[0].version
    ]
