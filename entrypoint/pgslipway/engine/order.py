"""The order in which another tool would apply a folder's files, where that may differ from the order of versions."""

from collections.abc import Callable, Sequence
from typing import TypeAlias

from ..errors import Problem
from ..layouts.nested import journal
from ..migrations import Migration

Order: TypeAlias = Callable[[Sequence[Migration]], list[Migration]]


def by_name(migrations: Sequence[Migration]) -> list[Migration]:
    """Return them as Prisma and dbmate sort them: by the bytes of their names."""
    return sorted(migrations, key=lambda one: one.filename.encode())


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

    `migrations` are by ascending version.
    """
    order = ORDERS.get(migrations[0].layout)
    theirs = order(migrations) if order and pending else [*migrations]
    if theirs == [*migrations]:
        return []
    place = {one.version: number for number, one in enumerate(theirs)}
    problems = []
    for one in pending:
        for other in migrations:
            is_before = place[one.version] < place[other.version]
            if one is not other and is_before != (one.version < other.version):
                text = (
                    f"{one.layout} would apply this {'before' if is_before else 'after'} {other.filename}, and "
                    "pgslipway, by the versions, the other way round; give it one that is the highest in both orders"
                )
                problems.append(Problem(text, one.filename))
                break
    return problems
