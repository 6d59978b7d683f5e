"""The parts of the benchmark by their names, in the order in which a whole run measures them.

The first one makes most of the databases in which there is nothing to do.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from bench.containers import containers, sizes
from bench.measure import Bench, Cell, place
from bench.ours import PGSLIPWAY
from bench.readiness import readiness
from bench.replicas import replicas
from bench.results import APPLY, DISTANCES, KIBIBYTES, NOTHING, TLS
from bench.run import kibibytes
from bench.sets import CONCOURSE
from bench.targets import targets

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from bench.peer import Peer

LANES = {0: 1, 1: 3, 5: 6, 20: 16}
"""Tools that apply files at once, by distance: the farther away, the less each of them does."""
LANES_OF_FEW = {0: 1, 1: 2, 5: 2, 20: 6}
"""The same for few files, where starting the tool is most of what it does."""
FAST_ENOUGH = 2.5
"""Seconds for 1,000 files within which a tool gets 10,000 as well."""
MANY = 10_000


def nothing(bench: Bench) -> None:
    """Have nothing to do, near and far, with one file and with more."""
    for files in (1, 1000):
        for distance in DISTANCES:
            bench.measure(Cell(NOTHING, files, distance))
    for files in (10, 100):
        bench.measure(Cell(NOTHING, files))


def tls(bench: Bench) -> None:
    """Have nothing to do over TLS, near and far."""
    if not bench.server.certificate:
        bench.say("This Postgres has no TLS: not measured.")
        return
    for distance in DISTANCES:
        bench.measure(Cell(TLS, 1, distance))


def apply(files: int | str, lanes: Mapping[int, int], bench: Bench) -> None:
    """Apply a set, near and far."""
    for distance in DISTANCES:
        bench.measure(Cell(APPLY, files, distance, lanes[distance]))


def concourse(bench: Bench) -> None:
    """Apply the migrations of a real product, where they are."""
    if not CONCOURSE.is_dir():
        bench.say("The migrations of Concourse are not here: not measured.")
        return
    bench.expect()
    apply("concourse", LANES, bench)


def memory(bench: Bench) -> None:
    """Note the peak memory of applying, and of having nothing to do."""
    found = {}
    for peer in bench.able(1000):
        applied = kibibytes(peer, bench.up(peer, 1000, bench.server.make_database()))
        idle = kibibytes(peer, bench.up(peer, 1000, bench.prepared[peer.name, 1000]))
        found[peer.name] = {"apply": applied, "nothing": idle}
    bench.server.tidy()
    bench.add_part(KIBIBYTES, found)


def many(bench: Bench) -> None:
    """Let the faster tools apply 10,000 files, and have nothing to do with them."""
    if (APPLY, 1000, 0) not in map(place, bench.results["cells"]):
        bench.measure(Cell(APPLY, 1000))
    fast = [peer for peer in bench.peers if peer is PGSLIPWAY or thousand(bench.results, peer) < FAST_ENOUGH]
    bench.measure(Cell(APPLY, MANY, once=True), fast)
    bench.measure(Cell(NOTHING, MANY), [peer for peer in fast if (peer.name, MANY) in bench.prepared])


def thousand(results: dict[str, Any], peer: Peer) -> float:
    """Return the seconds that a tool took for 1,000 files; endless if it did not get there."""
    for cell in results["cells"]:
        if place(cell) == (APPLY, 1000, 0) and peer.name in cell["tools"]:
            return min(cell["tools"][peer.name]["seconds"], default=float("inf"))
    return float("inf")


PARTS: dict[str, Callable[[Bench], None]] = {
    "apply-1000": partial(apply, 1000, LANES),
    "nothing": nothing,
    "tls": tls,
    "containers": containers,
    "memory": memory,
    "sizes": sizes,
    "readiness": readiness,
    "replicas": replicas,
    "apply-10": partial(apply, 10, LANES_OF_FEW),
    "apply-100": partial(apply, 100, LANES),
    "concourse": concourse,
    "apply-10000": many,
    "targets": targets,
}
