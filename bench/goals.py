"""What we aim at, computed from what was measured: each goal, what it came to, and by how much it is met or missed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.ours import NAME
from bench.results import CONTAINER, DISTANCES, ONE_SESSION, PER_FILE, fastest_peer

if TYPE_CHECKING:
    from bench.results import Results

DBMATE = "dbmate"
OF_DBMATE = 75 / 24
OF_CONTAINERS = 1.1
OF_FLOOR = 1.3
LAG = 0.150
MEBIBYTES = 40.0
OF_ONE_FILE = 3.0
MANY, THOUSAND = 10_000, 1000


@dataclass(frozen=True, slots=True)
class Goal:
    """Ours against a limit, which is another tool's value, times a factor, or a number of its own."""

    name: str
    ours: float | None
    limit: float | None
    unit: str = "s"
    """"s", "MB", "MiB" or "x"."""
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


def ahead(name: str, values: dict[str, float], unit: str = "s") -> Goal:
    """Return the goal to have less than every peer."""
    peer = fastest_peer(values)
    return Goal(name, values.get(NAME), values.get(peer), unit, peer, inclusive=False)


def within(name: str, values: dict[str, float], peer: str, factor: float) -> Goal:
    """Return the goal to have at most so many times what a peer has."""
    limit = factor * values[peer] if peer in values else None
    return Goal(name, values.get(NAME), limit, of=f"{factor:.3g} x {peer}")


def nothing_goals(results: Results) -> list[Goal]:
    """Return the goals of a run that has nothing to do."""
    contained = results.medians(CONTAINER, 1)
    goals = [
        *(
            within(f"nothing to do, {files:,} applied: at most 3.1 x dbmate", results.medians("nothing", files),
                   DBMATE, OF_DBMATE)
            for files in (1, THOUSAND)
        ),
        within("nothing to do in a container: at most 1.1 x the fastest peer", contained, fastest_peer(contained),
               OF_CONTAINERS),
    ]  # fmt: skip
    for distance in (5, 20):
        for files in (1, THOUSAND):
            name = f"nothing to do, {files:,} applied, +{distance} ms: ahead of every peer"
            goals.append(ahead(name, results.medians("nothing", files, distance)))
    return goals


def apply_goals(results: Results) -> list[Goal]:
    """Return the goals of 1,000 small files."""
    goals = []
    for distance in DISTANCES:
        medians = results.medians("apply", THOUSAND, distance)
        name = f"1,000 files, +{distance} ms"
        goals.append(ahead(f"{name}: ahead of every peer", medians))
        goals += [
            within(f"{name}: within 1.3 x {floor}", medians, floor, OF_FLOOR) for floor in (PER_FILE, ONE_SESSION)
        ]
    return goals


def other_goals(results: Results) -> list[Goal]:
    """Return the goals of waiting, of size and of memory."""
    lags = results.lags()
    sizes = {name: size / 1e6 for name, size in results.part("image_bytes").items()}
    kibibytes = results.part("kibibytes").get(NAME)
    return [
        Goal("readiness: under 150 ms", lags.get(NAME), LAG, inclusive=False),
        ahead("readiness: ahead of every peer", lags),
        ahead("image, compressed: the smallest", sizes, "MB"),
        Goal("peak memory: under 40 MiB", max(kibibytes.values()) / 1024 if kibibytes else None, MEBIBYTES, "MiB",
             inclusive=False),
    ]  # fmt: skip


def growth_goals(results: Results) -> list[Goal]:
    """Return the goals of how time grows with the number of files."""

    def ratio(work: str, fewer: int) -> float | None:
        many, few = (results.medians(work, files).get(NAME) for files in (MANY, fewer))
        return many / few if many and few else None

    applied = ratio("apply", THOUSAND)
    per_file = applied * THOUSAND / MANY if applied else None
    return [
        Goal("nothing to do: 10,000 applied against 1, under 3 x", ratio("nothing", 1), OF_ONE_FILE, "x",
             inclusive=False),
        Goal("applying, time per file: 10,000 against 1,000, no more", per_file, 1.0, "x"),
    ]  # fmt: skip


def goals(results: Results) -> list[Goal]:
    """Return all of them."""
    return [*nothing_goals(results), *apply_goals(results), *other_goals(results), *growth_goals(results)]
