"""Tools that wait: started before the server, and how long after its first answer each is done."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from bench.measure import Samples, summary
from bench.results import READINESS
from bench.run import Process, Ran, start
from bench.server import Prober, pg_isready

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.measure import Bench
    from bench.peer import Peer

FILES = 10
HEAD_START = 5.0
"""Seconds that a runner waits for the server, at least, before it is started."""
PERIOD = 1.0
"""Seconds within which the runs of a tool are spread: most ask once in so many, so when the server comes is luck."""
WAIT = 'until pg_isready -q; do sleep 1; done; exec "$@"'
"""What scripts put before a tool that does not wait by itself."""


def readiness(bench: Bench) -> None:
    """Run the tools in four groups, so that they do not wait for each other's processes."""
    samples = {peer.name: Samples() for peer in bench.able(FILES)}
    for turn in range(bench.runs):
        for group in groups([peer for peer in bench.tools if peer.name in samples]):
            pause = HEAD_START + PERIOD * turn / bench.runs
            for name, ran in wait_together(bench, group, pause).items():
                samples[name].note(ran)
    bench.add_part(READINESS, {name: one.plain() for name, one in samples.items()}, summary(samples))


def groups(peers: Sequence[Peer]) -> list[list[Peer]]:
    """Divide the tools: those that wait by themselves, and the others, each in two."""
    waiting = [peer for peer in peers if peer.waits]
    others = [peer for peer in peers if not peer.waits]
    return [group for group in (waiting[0::2], waiting[1::2], others[0::2], others[1::2]) if group]


def wait_together(bench: Bench, peers: Sequence[Peer], pause: float) -> dict[str, Ran]:
    """Start runners, some seconds later the server, and return how long after its first answer each was done."""
    bench.server.cluster.stop()
    with ThreadPoolExecutor(len(peers)) as pool:
        ends = {peer.name: pool.submit(start_waiting(bench, peer).end) for peer in peers}
        time.sleep(pause)
        prober = Prober(bench.server.port)
        prober.start()
        bench.server.cluster.start()
    prober.join()
    ended = {name: end.result() for name, end in ends.items()}
    return {name: Ran(ran.at - prober.answered_at, ran.at, ran.problem) for name, ran in ended.items()}


def start_waiting(bench: Bench, peer: Peer) -> Process:
    """Start a tool as it waits by itself, or after a loop that asks each second."""
    target = bench.server.target(bench.prepared[peer.name, FILES])
    invocation = (peer.waits or peer.up)(bench.folder(peer, FILES), target)
    if peer.waits:
        return start(peer, invocation)
    return start(
        peer, invocation, "env", *(f"{name}={value}" for name, value in target.environ.items()),
        "sh", "-c", WAIT.replace("pg_isready", pg_isready()), "sh",
    )  # fmt: skip
