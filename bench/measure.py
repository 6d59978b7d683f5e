"""Measures: alternating runs of all tools in each cell; what comes out is plain data."""

from __future__ import annotations

import queue
import statistics
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from bench import sets
from bench.far import far
from bench.floor import PSQL_ONE_SESSION
from bench.ours import NAME, WORK
from bench.results import APPLY, FLOORS, TLS
from bench.run import Ran, start
from bench.turns import turns

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from pathlib import Path

    from bench.far import Far
    from bench.peer import Invocation, Migration, Peer
    from bench.server import BenchServer


@dataclass(frozen=True, slots=True)
class Cell:
    """Something to do at some distance."""

    work: str
    """One of results' APPLY, NOTHING (to do), TLS and CONTAINER."""
    files: int | str
    milliseconds: int = 0
    """Added to each round trip."""
    lanes: int = 1
    """How many tools run at once, which is fair where they mostly wait."""
    once: bool = False
    """Whether the others run once only."""


@dataclass(slots=True)
class Samples:
    """The runs of one tool in one cell."""

    seconds: list[float] = field(default_factory=list)
    round_trips: int | None = None
    connections: int | None = None
    problem: str = ""

    def plain(self) -> dict[str, Any]:
        """Return it as results.json has it."""
        return asdict(self)

    def note(self, ran: Ran, lane: Far | None = None) -> None:
        """Add a run."""
        if ran.problem:
            self.problem = ran.problem
            return
        self.seconds.append(round(ran.seconds, 5))
        if lane:
            self.connections, self.round_trips = lane.counted()


@dataclass(slots=True)
class Bench:
    """The tools, the server, and what was measured."""

    server: BenchServer
    peers: Sequence[Peer]
    runs: int
    results: dict[str, Any]
    save: Callable[[], None]
    say: Callable[[str], None]
    prepared: dict[tuple[str, int | str], str] = field(default_factory=dict)
    """Databases in which a tool has nothing to do."""
    problems: dict[tuple[str, int | str], str] = field(default_factory=dict)
    """Why there is none, once it was tried: a run that takes too long is not made again for each cell."""
    expected: set[tuple[str, ...]] = field(default_factory=set)
    """The columns and indexes that Concourse ends with, by psql."""
    only: Collection[str] = ()
    """Names of the tools that were asked for; none if all were."""

    @property
    def tools(self) -> list[Peer]:
        """All but psql: it keeps no history, so it cannot do nothing."""
        return [peer for peer in self.peers if not is_floor(peer)]

    # --- one run ------------------------------------------------------------------------------------------------

    def migrations(self, files: int | str) -> list[Migration]:
        """Return the set of this name or of so many files."""
        if files == "concourse":
            return sets.concourse()
        return sets.small(sets.OF_REPLICAS, sets.SLOW) if isinstance(files, str) else sets.small(files)

    def folder(self, peer: Peer, files: int | str) -> Path:
        """Return the folder with a set in a tool's own format, written once."""
        folder = WORK / peer.name / str(files)
        if not folder.exists():
            folder.mkdir(parents=True)
            peer.write(folder, self.migrations(files))
        return folder

    def up(self, peer: Peer, files: int | str, database: str, port: int = 0, *, tls: bool = False) -> Invocation:
        """Return how the tool is started on a database."""
        return peer.up(self.folder(peer, files), self.server.target(database, port, tls=tls))

    def expect(self) -> None:
        """Learn from psql, which keeps no records of its own, what the Concourse set makes."""
        database = self.server.make_database()
        if problem := start(PSQL_ONE_SESSION, self.up(PSQL_ONE_SESSION, "concourse", database)).end().problem:
            raise SystemExit(f"psql cannot apply the Concourse set: {problem}")
        self.expected = self.server.schema(database, PSQL_ONE_SESSION.history)

    def wrong(self, peer: Peer, database: str, files: int | str) -> str:
        """Say what is wrong with what was applied, or nothing."""
        if isinstance(files, int):
            return self.server.wrong_versions(database, range(1, files + 1))
        return differences(self.expected, self.server.schema(database, peer.history))

    def apply(self, peer: Peer, files: int | str, port: int = 0) -> Ran:
        """Apply a set to an empty database and check what came of it."""
        database = self.server.make_database()
        ran = start(peer, self.up(peer, files, database, port)).end()
        problem = ran.problem or self.wrong(peer, database, files)
        if not problem and (peer.name, files) not in self.prepared:
            self.prepared[peer.name, files] = self.server.keep(database)
        return Ran(ran.seconds, ran.at, problem)

    def prepare(self, peer: Peer, files: int | str) -> str:
        """Have a database in which the tool has nothing to do; say what went wrong, or nothing."""
        key = peer.name, files
        if key not in self.prepared and key not in self.problems:
            self.problems[key] = self.apply(peer, files).problem
        return "" if key in self.prepared else self.problems[key]

    def able(self, files: int) -> list[Peer]:
        """Return the tools that have such a database."""
        return [peer for peer in self.tools if not self.prepare(peer, files)]

    def nothing(self, peer: Peer, files: int | str, port: int = 0, *, tls: bool = False) -> Ran:
        """Run where everything is applied."""
        if problem := self.prepare(peer, files):
            return Ran(0, 0, problem)
        return start(peer, self.up(peer, files, self.prepared[peer.name, files], port, tls=tls)).end()

    def run(self, peer: Peer, cell: Cell, port: int) -> Ran:
        """Do the work of a cell once."""
        if cell.work == APPLY:
            return self.apply(peer, cell.files, port)
        return self.nothing(peer, cell.files, port, tls=cell.work == TLS)

    # --- a cell -------------------------------------------------------------------------------------------------

    def measure(self, cell: Cell, peers: Sequence[Peer] | None = None) -> None:
        """Run all tools, or these, in turns until each has the runs that are due to it."""
        peers = self.peers if peers is None else peers
        samples = {peer.name: Samples() for peer in peers if cell.work == APPLY or not is_floor(peer)}
        with ExitStack() as stack:
            lanes: queue.SimpleQueue[Far | None] = queue.SimpleQueue()
            for _ in range(cell.lanes):
                lanes.put(stack.enter_context(far(self.server.port, cell.milliseconds)) if cell.milliseconds else None)

            def once(peer: Peer) -> None:
                lane = lanes.get()
                try:
                    if lane:
                        lane.counted()
                    samples[peer.name].note(self.run(peer, cell, lane.port if lane else 0), lane)
                finally:
                    lanes.put(lane)

            pool = stack.enter_context(ThreadPoolExecutor(cell.lanes))
            for _ in range(self.runs):
                list(pool.map(once, due(peers, samples, self.runs, once=cell.once)))
                self.server.tidy()
        self.add(cell, samples)

    def add(self, cell: Cell, samples: dict[str, Samples]) -> None:
        """Put a cell to the results, in the place of the one that an earlier sitting measured."""
        made = {**asdict(cell), "tools": {name: one.plain() for name, one in samples.items()}}
        others = [other for other in self.results["cells"] if place(other) != place(made)]
        self.results["cells"] = [*others, made]
        self.save()
        self.say(f"{cell}: {summary(samples)}")

    def add_part(self, name: str, found: dict[str, Any], said: str = "") -> None:
        """Put to the results what is measured once for each tool."""
        self.results[name] = found
        self.save()
        self.say(f"{name}: {said or found}")


def place(cell: dict[str, Any]) -> tuple[str, int | str, int]:
    """Return what tells a cell from the others."""
    return cell["work"], cell["files"], cell["milliseconds"]


def is_floor(peer: Peer) -> bool:
    """Tell whether it is no tool, but psql."""
    return peer.name in FLOORS


def due(peers: Sequence[Peer], samples: dict[str, Samples], runs: int, *, once: bool = False) -> list[Peer]:
    """Return the tools that are to be run once more, in their order; one that failed is not."""
    medians = {name: statistics.median(one.seconds) for name, one in samples.items() if one.seconds}
    fastest = min((medians[peer.name] for peer in peers if peer.name in medians and not is_floor(peer)), default=0)

    def is_due(name: str) -> bool:
        made = len(samples[name].seconds) if name in samples else runs
        if name not in samples or samples[name].problem or made >= runs:
            return False
        return not made or made < turns(medians[name], fastest, runs, ours=name == NAME, once=once)

    return [peer for peer in peers if is_due(peer.name)]


def differences(expected: set[tuple[str, ...]], found: set[tuple[str, ...]]) -> str:
    """Say how a schema differs from the one that psql makes, or nothing."""
    counts = {"missing": len(expected - found), "nobody else's": len(found - expected)}
    said = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
    return said and f"columns and indexes: {said}"


def summary(samples: dict[str, Samples]) -> str:
    """List the medians, the fastest first."""
    medians = {name: statistics.median(one.seconds) for name, one in samples.items() if one.seconds}
    good = [
        f"{name} {seconds:.3f} ({len(samples[name].seconds)})"
        for name, seconds in sorted(medians.items(), key=lambda item: item[1])
    ]
    return ", ".join(good + [f"{name}: {one.problem}" for name, one in samples.items() if one.problem])
