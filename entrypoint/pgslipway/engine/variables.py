"""Variables: `${name}` in a file becomes a value of the environment, fitted to its place by the rules of Postgres.

In quotes a value is escaped as those quotes need it. Elsewhere it is a plain word or a number, and stands alone. No
value changes a token outside its place: the filled text is taken apart once more, and has to have the same tokens.
"""

import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

from ..config import VARIABLE, Variables
from ..errors import Problem
from ..files import Source
from ..migrations import Migration
from ..values import PLACEHOLDER
from .check import EXTENSION_UPDATE, OUTSIDE, SETTINGS, check
from .contents import Contents
from .filled import Filled, has_variable, put_in
from .masks import masked
from .message import excerpt
from .places import Use, fitted, uses
from .same_tokens import changed
from .sql import SqlError, leading_comments, statements
from .wishes import replaces_placeholders

DIRECTIVE = re.compile(r"variables:(.*)", re.IGNORECASE)
NAME = re.compile(r"(?!.*_file$)[a-z_][a-z0-9_]*", re.IGNORECASE | re.ASCII)
"""One that ends in _file would have the setting of another one's file."""
A_NAME = "a name of letters, digits and _ that begins with no digit and does not end in _file"
NOT_FLYWAYS = f"Flyway's own placeholders, and others than {A_NAME}, have no value here; write it"
UNUSED = "variables: ${{{}}} is nowhere in the SQL, where it could have a value; use it, or remove it from the list"
CHANGES = "the value of this variable would change what stands beside it; put all of that in quotes, or write the value"
RUNS_OUTSIDE = (
    "a statement that runs outside a transaction can have no variable, since its text is kept in the journal; write "
    "its value"
)


@dataclass(frozen=True, slots=True)
class Wanted:
    """The variables that a file may have."""

    pattern: re.Pattern[bytes]
    names: tuple[str, ...]
    """The declared ones; none where every one counts."""
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Filling(Migration):
    """A migration with variables, which is read with their values in it."""

    unfilled: Migration
    wanted: Wanted
    variables: Variables = field(repr=False)

    @property
    def is_sql(self) -> bool:
        """Tell whether its text is SQL."""
        return self.unfilled.is_sql

    @property
    def repeats(self) -> bool:
        """Tell whether it is applied again whenever it has changed."""
        return self.unfilled.repeats

    def read(self) -> Source:
        """Return the text with the values. Raises FilesChanged."""
        return fill(self.unfilled, self.unfilled.read(), self.wanted, self.variables, is_checked=True)


def checked(
    migration: Migration, variables: Variables | None, missing: list[Problem] | None = None
) -> tuple[Migration, Contents]:
    """Check a file with the values of its variables; return it as it is to be read, and its contents.

    `missing` gets a problem for each value that is not there. Without `variables` the file is checked as it stands.
    """
    source = migration.read()
    wanted = wanted_by(migration, source)
    if wanted is None:
        return migration, check(migration, source)
    lacking = [*lacks(migration, source, wanted, variables)] if variables else []
    (missing if missing is not None else []).extend(lacking)
    filled = fill(migration, source, wanted, None if lacking else variables)
    contents = check(migration, filled)
    contents.problems += [*wanted.problems, *filled.problems, *run_outside(migration, filled, contents)]
    return (filling(migration, wanted, variables) if variables else migration), contents


def filling(migration: Migration, wanted: Wanted, variables: Variables) -> Filling:
    """Return the migration that is read with values."""
    return Filling(
        version=migration.version,
        filename=migration.filename,
        checksum=migration.checksum,
        path=migration.path,
        layout=migration.layout,
        unfilled=migration,
        wanted=wanted,
        variables=variables,
    )


def wanted_by(migration: Migration, source: Source) -> Wanted | None:
    """Return the variables that a file may have; None for a file without."""
    if migration.layout == "flyway":
        has_some = source.find(b"${") >= 0 and replaces_placeholders(migration)
        return Wanted(PLACEHOLDER, ()) if has_some else None
    try:
        lists = [match[1] for line in leading_comments(source) if (match := DIRECTIVE.fullmatch(line))]
    except SqlError:  # the check of the file tells
        return None
    names = [name.strip() for one in lists for name in one.split(",")]
    bad = [name for name in names if not NAME.fullmatch(name)]
    problems = [Problem(f"variables: expected {A_NAME}, not {name!r}", migration.filename) for name in bad]
    declared = tuple(dict.fromkeys(name for name in names if name not in bad))
    pattern = re.compile(rb"\$\{(%s)\}" % "|".join(declared or ["(?!)"]).encode())
    return Wanted(pattern, declared, tuple(problems)) if names else None


def used(source: Source, wanted: Wanted) -> list[Use]:
    """Return the variables of a file at their places. Raises SqlError where its text is no SQL."""
    return [*uses(bytes(source), wanted.pattern)]


def names_in(source: Source, wanted: Wanted) -> Iterable[str]:
    """Return the names of the variables of a file, whose values it needs."""
    if wanted.names:
        return wanted.names
    try:
        return dict.fromkeys(use.name for use in used(source, wanted) if NAME.fullmatch(use.name))
    except SqlError:
        return ()


def lacks(migration: Migration, source: Source, wanted: Wanted, variables: Variables) -> Iterator[Problem]:
    """Yield a problem for each variable of a file whose value is not there or cannot be read."""
    for name in names_in(source, wanted):
        try:
            if variables.value(name) is None:
                text = f"needs {VARIABLE}{name.upper()}, the value of its variable ${{{name}}}"
                yield Problem(text, migration.filename, joint=" ")
        except ValueError as problem:
            yield Problem(str(problem), migration.filename)


def fill(
    migration: Migration, source: Source, wanted: Wanted, variables: Variables | None, *, is_checked: bool = False
) -> Filled:
    """Return a text with the values of its variables, or with each variable as its own value.

    Where it `is_checked`, it was filled before: the same text, with the same values.
    """
    written = bytes(source)
    at = partial(excerpt, migration.filename, written)
    try:
        found = used(written, wanted)
    except SqlError:  # the check of the file tells
        return put_in(written, (), str)
    problems, values = [*unused(migration, wanted, found)], []
    for use in found:
        try:
            values.append((use.start, use.end, value_at(use, variables) or written[use.start : use.end]))
        except SqlError as error:
            problems.append(at(error.offset, str(error)))
    filled = put_in(written, values, partial(masked, variables.known if variables else {}))
    if not problems and not is_checked and variables and (place := changed(filled)) is not None:
        problems.append(at(place, CHANGES))
    filled.problems = problems
    return filled


def value_at(use: Use, variables: Variables | None) -> bytes | None:
    """Return the value of a variable, fitted to its place; None without values. Raises SqlError."""
    if problem := use.problem or ("" if NAME.fullmatch(use.name) else NOT_FLYWAYS):
        raise SqlError(use.start, problem)
    value = variables.value(use.name) if variables else None
    return None if value is None else fitted(value, use)


def unused(migration: Migration, wanted: Wanted, found: Iterable[Use]) -> Iterator[Problem]:
    """Yield a problem for each declared variable that has no place."""
    names = {use.name for use in found}
    for name in wanted.names:
        if name not in names:
            yield Problem(UNUSED.format(name), migration.filename)


def run_outside(migration: Migration, filled: Filled, contents: Contents) -> Iterator[Problem]:
    """Yield a problem for each statement with a variable that runs outside a transaction."""
    with suppress(SqlError):  # the check of the file tells
        found = () if contents.transactional else statements(filled)
        for number, one in enumerate(one for one in found if not SETTINGS.match(one.text)):
            runs_outside = OUTSIDE.match(one.text) or (not number and EXTENSION_UPDATE.match(one.text))
            if runs_outside and has_variable(filled, one.start, one.end):
                yield excerpt(migration.filename, filled, one.start, RUNS_OUTSIDE)
