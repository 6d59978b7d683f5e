"""Measures: alternating runs of all tools in each cell; what comes out is plain data."""

from __future__ import annotations

import queue
import statistics
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from bench import sets
from bench.far import far
from bench.native import PSQL_ONE_SESSION
from bench.ours import NAME, WORK
from bench.peer import INSTALLED
from bench.run import Process, Ran, contained, image, kibibytes, reason, start
from bench.server import Prober, pg_isready
from bench.turns import turns

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from bench.far import Far
    from bench.peer import Invocation, Migration, Peer
    from bench.server import BenchServer

REPLICAS = 50
HEAD_START = 5.0
"""Seconds that a runner waits for the server before it is started."""
WAIT = 'until pg_isready -q; do sleep 1; done; exec "$@"'
"""What scripts put before a tool that does not wait by itself."""


@dataclass(frozen=True, slots=True)
class Cell:
    """Something to do at some distance."""

    work: str
    """"apply" or "nothing" (to do)."""
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


@dataclass(slots=True)
class Bench:
    """The tools, the server, and what was measured."""

    server: BenchServer
    peers: Sequence[Peer]
    runs: int
    say: Callable[[str], None]
    results: dict[str, Any]
    prepared: dict[tuple[str, int | str], str] = field(default_factory=dict)
    """Databases in which a tool has nothing to do."""
    expected: set[tuple[str, ...]] = field(default_factory=set)
    """The columns and indexes that Concourse ends with, by psql."""

    # --- one run ------------------------------------------------------------------------------------------------

    def migrations(self, files: int | str) -> list[Migration]:
        """Return the set of this name or of so many files."""
        if files == "concourse":
            return sets.concourse()
        return sets.small(REPLICAS // 5, sets.SLOW) if isinstance(files, str) else sets.small(files)

    def folder(self, peer: Peer, files: int | str) -> Path:
        """Return the folder with a set in a tool's own format, written once."""
        folder = WORK / peer.name / str(files)
        if not folder.exists():
            folder.mkdir(parents=True)
            peer.write(folder, self.migrations(files))
        return folder

    def up(self, peer: Peer, files: int | str, database: str, port: int = 0) -> Invocation:
        """Return how the tool is started on a database."""
        return peer.up(self.folder(peer, files), self.server.target(database, port))

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

    def nothing(self, peer: Peer, files: int | str, port: int = 0) -> Ran:
        """Run where everything is applied."""
        if (peer.name, files) not in self.prepared and (problem := self.apply(peer, files).problem):
            return Ran(0, 0, problem)
        return start(peer, self.up(peer, files, self.prepared[peer.name, files], port)).end()

    # --- a cell -------------------------------------------------------------------------------------------------

    def measure(self, cell: Cell) -> None:
        """Run all tools in turns until each has the runs that are due to it."""
        began = time.perf_counter()
        work = self.apply if cell.work == "apply" else self.nothing
        samples = {peer.name: Samples() for peer in self.peers if cell.work == "apply" or not is_floor(peer)}
        with ExitStack() as stack:
            lanes: queue.SimpleQueue[Far | None] = queue.SimpleQueue()
            for _ in range(cell.lanes):
                lanes.put(stack.enter_context(far(self.server.port, cell.milliseconds)) if cell.milliseconds else None)

            def once(peer: Peer) -> None:
                lane = lanes.get()
                try:
                    if lane:
                        lane.counted()
                    ran = work(peer, cell.files, lane.port if lane else 0)
                    note(samples[peer.name], ran, lane)
                finally:
                    lanes.put(lane)

            pool = stack.enter_context(ThreadPoolExecutor(cell.lanes))
            for _ in range(self.runs):
                list(pool.map(once, due(self.peers, samples, self.runs, once=cell.once)))
                self.server.tidy()
        self.results["cells"].append({**asdict(cell), "tools": {name: asdict(one) for name, one in samples.items()}})
        self.say(f"{cell} took {time.perf_counter() - began:.0f} s: {summary(samples)}")

    def containers(self, files: int) -> None:
        """Do nothing in containers, whole: from `docker run` until it returns."""
        tools = [peer for peer in self.peers if not is_floor(peer)]
        peers = [peer for peer in tools if (peer.name, files) in self.prepared and has_image(peer)]
        samples = {peer.name: Samples() for peer in peers}
        for _ in range(self.runs):
            for peer in due(peers, samples, self.runs):
                target = self.server.target(self.prepared[peer.name, files])
                command = contained(peer, self.folder(peer, files), target)
                began = time.perf_counter()
                ended = subprocess.run(command, capture_output=True, text=True, check=False)
                ran = Ran(time.perf_counter() - began, 0, reason(ended.stderr) if ended.returncode else "")
                note(samples[peer.name], ran, None)
        cell = {"work": "nothing in a container", "files": files, "milliseconds": 0, "lanes": 1}
        self.results["cells"].append({**cell, "tools": {name: asdict(one) for name, one in samples.items()}})
        self.say(f"containers, {files} files: {summary(samples)}")

    # --- the rest -----------------------------------------------------------------------------------------------

    def replicas(self) -> None:
        """Start many runners at once on an empty database."""
        peers = [peer for peer in self.peers if not is_floor(peer)]
        samples = {peer.name: Samples() for peer in peers}
        found: dict[str, list[dict[str, Any]]] = {peer.name: [] for peer in peers}
        for _ in range(self.runs):
            for peer in due(peers, samples, self.runs):
                run = self.at_once(peer)
                found[peer.name].append(run)
                samples[peer.name].seconds.append(run["seconds"])
                self.server.tidy()
        self.results["replicas"] = found
        self.say(f"{REPLICAS} replicas: { {name: runs[-1] for name, runs in found.items()} }")

    def at_once(self, peer: Peer) -> dict[str, Any]:
        """Return what became of as many runners as there are replicas."""
        database = self.server.make_database()
        invocation = self.up(peer, "replicas", database)
        began = time.perf_counter()
        ended = [process.end() for process in [start(peer, invocation) for _ in range(REPLICAS)]]
        failed = [ran.problem for ran in ended if ran.problem]
        return {
            "seconds": max(ran.at for ran in ended) - began,
            "failed": len(failed),
            "failure": failed[0] if failed else "",
            "wrong": self.server.wrong_versions(database, range(1, REPLICAS // 5 + 1)),
        }

    def readiness(self, groups: Sequence[Sequence[Peer]]) -> None:
        """Start runners, some seconds later the server, and see how long after its first answer they are done."""
        samples = {peer.name: Samples() for group in groups for peer in group if (peer.name, 10) in self.prepared}
        for _ in range(self.runs):
            for group in groups:
                peers = [peer for peer in group if peer.name in samples]
                self.server.cluster.stop()
                with ThreadPoolExecutor(len(self.peers)) as pool:
                    ends = {peer.name: pool.submit(self.start_waiting(peer).end) for peer in peers}
                    time.sleep(HEAD_START)
                    prober = Prober(self.server.port)
                    prober.start()
                    self.server.cluster.start()
                prober.join()
                for name, end in ends.items():
                    ran = end.result()
                    note(samples[name], Ran(ran.at - prober.answered_at, ran.at, ran.problem), None)
        self.results["readiness"] = {name: asdict(one) for name, one in samples.items()}
        self.say(f"readiness: {summary(samples)}")

    def start_waiting(self, peer: Peer) -> Process:
        """Start a tool as it waits by itself, or after a loop that asks each second."""
        target = self.server.target(self.prepared[peer.name, 10])
        invocation = (peer.waits or peer.up)(self.folder(peer, 10), target)
        if peer.waits:
            return start(peer, invocation)
        return start(
            peer, invocation, "env", *(f"{name}={value}" for name, value in target.environ.items()),
            "sh", "-c", WAIT.replace("pg_isready", pg_isready()), "sh",
        )  # fmt: skip

    def memory(self, files: int) -> None:
        """Note the peak memory of applying, and of having nothing to do."""
        found = self.results["kibibytes"] = {}
        for peer in self.peers:
            if not is_floor(peer) and (peer.name, files) in self.prepared:
                applied = kibibytes(peer, self.up(peer, files, self.server.make_database()))
                idle = kibibytes(peer, self.up(peer, files, self.prepared[peer.name, files]))
                found[peer.name] = {"apply": applied, "nothing": idle}
        self.server.tidy()
        self.say(f"memory: {found}")

    def sizes(self) -> None:
        """Note the compressed size of each image, with all of its layers, and of what runs the floor."""
        found = self.results["image_bytes"] = {}
        for peer in filter(has_image, self.peers):
            command = f"docker save {image(peer)} | gzip -6 | wc -c"
            found[peer.name] = int(subprocess.run(command, shell=True, capture_output=True, check=True).stdout)
        self.say(f"sizes: {found}")

    def images(self) -> None:
        """Build an image for each tool; one that cannot be built is listed as missing."""
        for peer in self.peers:
            if peer.dockerfile:
                context = INSTALLED / peer.name
                (context / "Dockerfile").write_text(peer.dockerfile)
                built = subprocess.run(
                    ["docker", "build", "--quiet", f"--tag={image(peer)}", context],
                    capture_output=True, text=True, check=False,
                )  # fmt: skip
                if built.returncode:
                    self.results["missing"][f"image of {peer.name}"] = reason(built.stderr)


def is_floor(peer: Peer) -> bool:
    """Tell whether it is no tool, but psql: it keeps no history, so it cannot do nothing."""
    return peer.name.startswith("psql")


def has_image(peer: Peer) -> bool:
    """Tell whether there is an image of it."""
    return subprocess.run(["docker", "image", "inspect", image(peer)], capture_output=True, check=False).returncode == 0


def note(samples: Samples, ran: Ran, lane: Far | None) -> None:
    """Add a run to those of its tool."""
    if ran.problem:
        samples.problem = ran.problem
        return
    samples.seconds.append(round(ran.seconds, 5))
    if lane:
        samples.connections, samples.round_trips = lane.counted()


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
