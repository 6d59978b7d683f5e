"""The schema of a database as a value, and the differences between two."""

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import NamedTuple, TypeAlias

from ...words import short

MISSING, LEFT_OVER, DIFFERENT = "missing", "left over", "different"
ORDER = "order of the columns in "
"""Begins the name of what is apart from the columns, since one that is dropped and added again comes last."""

PRIVILEGES = "privileges of "
"""Begins the name of what a role may do with an object; not there where that is the same as without any GRANT."""


class Definition(NamedTuple):
    """An object of the schema."""

    text: str
    """The lines that define it, as PostgreSQL writes them."""
    parents: tuple[str, ...] = ()
    """The names of the objects that it goes with, when one of them is dropped."""


Schema: TypeAlias = Mapping[str, Definition]
"""The objects of a database, their privileges and comments, by name: `table column public.orders.note`."""
Step: TypeAlias = tuple[Schema, Schema]
"""The schema before and after a file was applied or undone."""


def differing(before: Schema, after: Schema) -> set[str]:
    """Return the names of the objects that are not the same in both, but for the order of columns."""
    names = before.keys() | after.keys()
    return {name for name in names if not name.startswith(ORDER) and text(before, name) != text(after, name)}


def new_differences(expected: Step, found: Step) -> set[str]:
    """Return the names of the objects that this step has left otherwise than expected.

    Not those that an earlier step had left so; unless this one was expected to change them, and has not touched them.
    """
    known = differing(expected[0], found[0])
    return {
        name
        for name in differing(expected[1], found[1])
        if name not in known
        or (text(found[0], name) == text(found[1], name) and text(expected[0], name) != text(expected[1], name))
    }


def text(schema: Schema, name: str) -> str | None:
    """Return the definition of an object, None where it is not there."""
    return schema[name].text if name in schema else None


def described(before: Schema, after: Schema, names: Collection[str], mask: Callable[[str], str] = str) -> Iterator[str]:
    """Yield a line for each of these differences; what is missing or left over with its parent goes without saying.

    `mask` hides the values of variables in a name.
    """
    kinds = {name: kind_of(before, after, name) for name in names}
    for name, kind in sorted(kinds.items()):
        here = (before if kind == MISSING else after)[name]
        if kind == DIFFERENT:
            yield f"{kind}: {mask(name)} ({change(before[name].text, after[name].text)})"
        elif kind not in {kinds.get(parent) for parent in here.parents}:
            yield f"{kind}: {mask(name)}" + (f" ({here.text})" if name.startswith(PRIVILEGES) else "")


def kind_of(before: Schema, after: Schema, name: str) -> str:
    """Return what became of an object that is not what it was."""
    if name not in after:
        return MISSING
    return DIFFERENT if name in before else LEFT_OVER


def change(before: str, after: str) -> str:
    """Say which lines of a definition are others now."""
    old, new = before.split("\n"), after.split("\n")
    gone, come = ([line for line in one if line not in other] for one, other in ((old, new), (new, old)))
    if not gone and not come:  # the same lines in another order
        gone, come = old, new
    was, now = (short(", ".join(lines)) for lines in (gone, come))
    if not now:
        return f"no longer {was}"
    return f"was {was}, is {now}" if was else f"now {now}"


def reordered(before: Schema, after: Schema) -> set[str]:
    """Return the names of the tables with the columns that both have in another order."""
    orders = {name for name in before.keys() & after.keys() if name.startswith(ORDER)}
    return {name.removeprefix(ORDER) for name in orders if common(before, after, name) != common(after, before, name)}


def common(one: Schema, other: Schema, name: str) -> list[str]:
    """Return the columns of a table that another schema has as well, in their order here."""
    there = other[name].text.split("\n")
    return [column for column in one[name].text.split("\n") if column in there]
