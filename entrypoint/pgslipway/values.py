"""The values that a repeatable file depends on: with another value of a variable it is another text."""

import re
from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256

from .config import Variables
from .errors import BadConfiguration, Problem
from .files import FLYWAY, Source
from .migrations import Repeatable

DECLARED = re.compile(rb"variables:([^\r\n]*)", re.IGNORECASE)
PLACEHOLDER = re.compile(rb"\$\{([^{}'\"\s]*)\}")
"""Flyway's form of a variable, which needs no declaration."""


def with_values(one: Repeatable, variables: Variables) -> Repeatable:
    """Return a repeatable file whose checksum is over the values of its variables as well.

    A value that is not there counts as empty; the check of the file, once it is to be applied, asks for it. Raises
    BadConfiguration for a value that cannot be read, and FilesChanged.
    """
    names = sorted({*names_in(one.read(), one.layout)})
    if not names:
        return one
    try:
        values = [variables.value(name) or "" for name in names]
    except ValueError as problem:
        raise BadConfiguration(Problem(str(problem), one.filename)) from problem
    lines = [f"{name}={sha256(value.encode()).hexdigest()}" for name, value in zip(names, values, strict=True)]
    return replace(one, checksum=sha256("\n".join([one.checksum, *lines]).encode()).hexdigest(), written=one.checksum)


def names_in(source: Source, layout: str) -> Iterator[str]:
    """Yield the names of the variables that a file may have, in lower case: one too many does no harm."""
    for match in PLACEHOLDER.finditer(source) if layout == FLYWAY else ():
        yield match[1].decode(errors="replace").lower()
    for match in DECLARED.finditer(source):
        yield from (name.strip().lower() for name in match[1].decode(errors="replace").split(",") if name.strip())
