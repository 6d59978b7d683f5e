"""Many runners at once on an empty database: when the last is done, who failed, and what is wrong afterwards."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from bench.measure import Samples, due
from bench.results import REPLICAS
from bench.run import start
from bench.sets import OF_REPLICAS

if TYPE_CHECKING:
    from bench.measure import Bench
    from bench.peer import Peer

RUNNERS = 50


def replicas(bench: Bench) -> None:
    """Let the replicas of one tool after the other start."""
    samples = {peer.name: Samples() for peer in bench.tools}
    found: dict[str, list[dict[str, Any]]] = {peer.name: [] for peer in bench.tools}
    for _ in range(bench.runs):
        for peer in due(bench.tools, samples, bench.runs):
            run = at_once(bench, peer)
            found[peer.name].append(run)
            samples[peer.name].seconds.append(run["seconds"])
            bench.server.tidy()
    bench.add_part(REPLICAS, found, str({name: runs[-1] for name, runs in found.items()}))


def at_once(bench: Bench, peer: Peer) -> dict[str, Any]:
    """Return what became of as many runners as there are replicas."""
    database = bench.server.make_database()
    invocation = bench.up(peer, "replicas", database)
    began = time.perf_counter()
    ended = [process.end() for process in [start(peer, invocation) for _ in range(RUNNERS)]]
    failed = [ran.problem for ran in ended if ran.problem]
    return {
        "seconds": max(ran.at for ran in ended) - began,
        "failed": len(failed),
        "failure": failed[0] if failed else "",
        "wrong": bench.server.wrong_versions(database, range(1, OF_REPLICAS + 1)),
    }
