"""What we aim at, computed from what was measured: each goal, what it came to, and by how much it is met or missed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.ours import NAME
from bench.results import (
    APPLY,
    CONTAINER,
    DISTANCES,
    IMAGE_BYTES,
    KIBIBYTES,
    NOTHING,
    ONE_SESSION,
    TLS,
    fastest_peer,
)  # fmt: skip

if TYPE_CHECKING:
    from bench.results import Results

DBMATE = "dbmate"
FAR = 5
"""Milliseconds from which round trips outweigh the start of a process."""
OF_NO_TLS = 1.2
OF_ONE_FILE = 1.35
MICROSECONDS = 10.0
OF_CONTAINERS = 1.1
OF_FLOOR = 1.17
LAG = 0.117
"""What it was on 2026-11-25, when this became a goal."""
MEBIBYTES = 20.0
MEGABYTES = 12.6
THOUSAND, MANY = 1000, 10_000


@dataclass(frozen=True, slots=True)
class Goal:
    """Ours against a limit, which is another value, times a factor, or a number of its own."""

    name: str
    ours: float | None
    limit: float | None
    unit: str = "s"
    """"s", "µs", "MB" or "MiB"; none for a number of things."""
    of: str = ""
    """Whose value the limit is, and how many times."""
    inclusive: bool = True
    """Whether reaching the limit is enough; one who is to be ahead has to be below."""

    @property
    def is_met(self) -> bool:
        """Whether it was reached; not if there is nothing to compare."""
        if self.ours is None or self.limit is None:
            return False
        return self.ours < self.limit or (self.inclusive and self.ours == self.limit)

    @property
    def verdict(self) -> str:
        """Say whether it is met, and how far from the limit we are."""
        if self.ours is None or self.limit is None:
            return "not measured"
        return f"{'met' if self.is_met else 'missed'} by {abs(self.ours / self.limit - 1):.0%}"


def ahead(name: str, values: dict[str, float]) -> Goal:
    """Return the goal to have less than every peer."""
    peer = fastest_peer(values)
    return Goal(f"{name}: ahead of every peer", values.get(NAME), values.get(peer), of=peer, inclusive=False)


def within(name: str, ours: float | None, factor: float, other: float | None, of: str, whose: str = "") -> Goal:
    """Return the goal to have at most so many times another value; `whose` it is, if the goal does not say."""
    limit = None if other is None else factor * other
    return Goal(f"{name}: at most {factor:g} x {of}", ours, limit, of=f"{factor:g} x {whose or of}")


def nothing_goals(results: Results) -> list[Goal]:
    """Return the goals of a process that has nothing to do."""
    one, thousand = (results.medians(NOTHING, files) for files in (1, THOUSAND))
    tls = results.medians(TLS, 1).get(NAME)
    return [
        within("nothing to do, 1 file", one.get(NAME), 1, one.get(DBMATE), DBMATE),
        within("nothing to do, 1,000 files", thousand.get(NAME), 1, thousand.get(DBMATE), DBMATE),
        within("nothing to do, 1 file, with TLS", tls, OF_NO_TLS, one.get(NAME), "without"),
        *(
            ahead(f"nothing to do, {files:,} file{'s' * (files > 1)}, +{distance} ms",
                  results.medians(NOTHING, files, distance))
            for distance in DISTANCES if distance >= FAR for files in (1, THOUSAND)
        ),
        within("nothing to do, 1,000 files", thousand.get(NAME), OF_ONE_FILE, one.get(NAME), "1 file"),
        Goal("nothing to do, each file from 1,000 to 10,000: at most 10 µs", microseconds(results), MICROSECONDS, "µs"),
    ]  # fmt: skip


def microseconds(results: Results) -> float | None:
    """Return what each further file takes a process that has nothing to do."""
    many, thousand = (results.medians(NOTHING, files).get(NAME) for files in (MANY, THOUSAND))
    return (many - thousand) * 1e6 / (MANY - THOUSAND) if many and thousand else None


def apply_goals(results: Results) -> list[Goal]:
    """Return the goals of 1,000 small files."""
    medians = results.medians(APPLY, THOUSAND)
    return [
        within("1,000 files applied", medians.get(NAME), OF_FLOOR, medians.get(ONE_SESSION), ONE_SESSION),
        *(
            ahead(f"1,000 files applied, +{distance} ms", results.medians(APPLY, THOUSAND, distance))
            for distance in DISTANCES
        ),
    ]


def other_goals(results: Results) -> list[Goal]:
    """Return the goals of containers, of waiting, of memory and of size."""
    contained, lags = results.medians(CONTAINER, 1), results.lags()
    peer = fastest_peer(contained)
    kibibytes, size = (results.part(name).get(NAME) for name in (KIBIBYTES, IMAGE_BYTES))
    return [
        within("nothing to do, 1 file, in a container", contained.get(NAME), OF_CONTAINERS, contained.get(peer),
               "the fastest peer", peer),
        ahead("lag after a wait", lags),
        Goal("lag after a wait: not above what it was", lags.get(NAME), LAG),
        Goal("peak memory, nothing to do: at most 20 MiB", kibibytes and kibibytes["nothing"] / 1024, MEBIBYTES, "MiB"),
        Goal("image, compressed: at most 12.6 MB", size and size / 1e6, MEGABYTES, "MB"),
    ]  # fmt: skip


def goals(results: Results) -> list[Goal]:
    """Return all of them."""
    return [*nothing_goals(results), *apply_goals(results), *other_goals(results)]
