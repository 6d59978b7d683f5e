"""The order in which another tool would apply a folder's files, where that may differ from the order of versions."""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import TypeAlias

from ..errors import Problem
from ..layouts.nested import journal
from ..migrations import Migration

Order: TypeAlias = Callable[[Sequence[Migration]], list[Migration]]


def by_name(migrations: Sequence[Migration]) -> list[Migration]:
    """Return them as dbmate sorts files, and Prisma and Drizzle sort folders: by the bytes of their names."""
    return sorted(migrations, key=lambda one: one.filename.partition("/")[0].encode())


def by_journal(migrations: Sequence[Migration]) -> list[Migration]:
    """Return them as Drizzle's journal lists them, whatever moments it gives."""
    folder, _, _ = migrations[0].path.rpartition("/")
    if migrations[0].filename.endswith("/migration.sql"):
        return by_name(migrations)
    places = {f"{tag}.sql": place for place, tag in enumerate(journal(f"{folder}/meta"))}
    return sorted(migrations, key=lambda one: places.get(one.filename, -1))


ORDERS: dict[str, Order] = {"dbmate": by_name, "prisma": by_name, "drizzle": by_journal}
"""How a layout's tool sorts, where it is not by the number that is the version."""


def disorder(migrations: Sequence[Migration], pending: Sequence[Migration]) -> list[Problem]:
    """Return a problem for each pending file that the layout's tool would apply before or after another one than we.

    `migrations` are by ascending version. At most n log n, for folders of any size.
    """
    order = ORDERS.get(migrations[0].layout)
    if not order or not pending:
        return []
    place = {one.version: number for number, one in enumerate(order(migrations))}
    places = [place[one.version] for one in migrations]
    latest = [*accumulate(places, max)]
    """The last of their places up to each of our files."""
    earliest = [*accumulate(reversed(places), min)][::-1]
    """The first of their places from each of our files on."""
    number_of = {their: number for number, their in enumerate(places)}
    ours = {one.version: number for number, one in enumerate(migrations)}
    problems = []
    for one in pending:
        number = ours[one.version]
        if latest[number] > places[number]:
            other = migrations[bisect_right(latest, places[number])]  # the first file that they have later
        elif earliest[number] < places[number]:
            other = migrations[number_of[earliest[number]]]
        else:
            continue
        before = "before" if latest[number] > places[number] else "after"
        text = (
            f"{one.layout} would apply this {before} {other.filename}, and pgslipway, by the versions, the other way "
            "round; give it one that is the highest in both orders"
        )
        problems.append(Problem(text, one.filename))
    return problems
