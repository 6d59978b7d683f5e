"""Many tenants in one run: time against their number, with nothing to do and with ten files, beside loops and xargs."""

from __future__ import annotations

import statistics
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Any

from bench import tenants
from bench.about import about
from bench.far import far
from bench.measure import Samples, summary
from bench.ours import NAME, WORK
from bench.results import APPLY, NOTHING, SIZES, TARGETS
from bench.run import kibibytes, start
from bench.target_ways import OURS, WAYS, Job
from bench.tenants import DATABASE, SCHEMA, Tenants
from bench.turns import turns

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from bench.measure import Bench
    from bench.run import Ran
    from bench.target_ways import Way

KINDS = (SCHEMA, DATABASE)
TURNS = {1: 5, 10: 3, 100: 2, 1000: 1}
"""By the number of tenants: how often new ones are made."""
AGAIN, LONG = 3, 20.0
"""Runs with nothing to do in the same tenants where they are made once only, unless they have taken so many seconds."""
GROWS = 10
PATIENCE, MORE_PATIENCE = 60.0, 100.0
"""Seconds: a way that would take longer with ten times the tenants is not tried with them; a tool's quickest way."""
LIMIT = 300.0
THOUSAND, MANY = SIZES[-1], 10 * SIZES[-1]
CLONE = """
CREATE TABLE {0}.schema_migrations (LIKE {1}.schema_migrations INCLUDING ALL);
INSERT INTO {0}.schema_migrations SELECT * FROM {1}.schema_migrations;
"""
BATCH = 500
"""Schemas in a transaction, so that the server has locks enough."""


@dataclass(slots=True)
class Cell:
    """Everything that is measured with so many tenants of a kind."""

    bench: Bench
    kind: str
    number: int
    before: Cell | None
    """The same with fewer tenants, which tells how long this takes."""
    apply: dict[str, Samples] = field(default_factory=dict)
    nothing: dict[str, Samples] = field(default_factory=dict)

    def measure(self, ways: Sequence[Way]) -> None:
        """Let the tools take turns."""
        for turn in range(min(TURNS[self.number], self.bench.runs)):
            for _, of_tool in groupby(ways, lambda way: way.peer.name):
                all_its = list(of_tool)
                due = [way for way in all_its if self.is_due(way, turn)]
                for way in due:
                    self.turn(way, all_its if way is due[-1] else [])

    def is_due(self, way: Way, turn: int) -> bool:
        """Tell whether a way is to be run once more: not if it failed, took long or, a peer's, would take long."""
        if not turn:
            return way in OURS or self.before is None or self.before.goes_on(way)
        made = self.apply[way.name].seconds if way.name in self.apply else []
        fastest = min(statistics.median(one.seconds) for one in self.apply.values() if one.seconds)
        return bool(made) and turn < turns(statistics.median(made), fastest, TURNS[self.number], ours=way in OURS)

    def goes_on(self, way: Way) -> bool:
        """Tell whether a way is tried with ten times the tenants; a tool's quickest, for which there is more time."""
        quickest = min((one for one in WAYS if one.peer is way.peer), key=partial(expected, self.apply))
        return expected(self.apply, way) < (MORE_PATIENCE if way is quickest else PATIENCE)

    def turn(self, way: Way, idle: Sequence[Way]) -> None:
        """Let a way apply everything to new tenants; then these ways of the same tool have nothing to do in them."""
        with new_tenants(self.bench, self.kind, self.number) as made:
            ran = up(self.bench, way, made)
            problem = ran.problem or made.wrong(way.history)
            note(self.apply, way, ran, problem)
            if not problem:
                self.bench.server.execute("CHECKPOINT")
                for other in idle:
                    if self.before is None or expected(self.before.nothing, other) < PATIENCE:
                        self.do_nothing(other, made)

    def do_nothing(self, way: Way, made: Tenants) -> None:
        """Run where everything is applied, more than once where tenants are made once only."""
        taken: list[float] = []
        while not taken or (TURNS[self.number] == 1 and len(taken) < AGAIN and sum(taken) < LONG):
            ran = up(self.bench, way, made)
            note(self.nothing, way, ran, ran.problem)
            taken.append(ran.seconds or LONG)

    def plain(self) -> list[dict[str, Any]]:
        """Return it as results.json has it."""
        works = {NOTHING: self.nothing, APPLY: self.apply}
        return [
            {"kind": self.kind, "work": work, "number": self.number,
             "ways": {name: one.plain() for name, one in samples.items()}}
            for work, samples in works.items()
        ]  # fmt: skip


def expected(samples: Mapping[str, Samples], way: Way) -> float:
    """Return the seconds that a way would take with ten times the tenants; endless if it did not get here."""
    one = samples.get(way.name)
    return GROWS * min(one.seconds) if one and one.seconds else float("inf")


def note(samples: dict[str, Samples], way: Way, ran: Ran, problem: str) -> None:
    """Add a run of a way, or what went wrong."""
    one = samples.setdefault(way.name, Samples())
    if problem:
        one.problem = problem
    else:
        one.note(ran)


@contextmanager
def new_tenants(bench: Bench, kind: str, number: int) -> Iterator[Tenants]:
    """Have so many empty tenants for as long as the context lasts."""
    made = tenants.make(bench.server, kind, number)
    try:
        yield made
    finally:
        made.drop()


def job(bench: Bench, way: Way, made: Tenants, port: int = 0) -> Job:
    """Write what a way needs to be told of these tenants, and return it."""
    folder = WORK / TARGETS / way.peer.name
    if not folder.exists():
        folder.mkdir(parents=True)
        way.peer.write(folder, tenants.migrations())
    names = WORK / TARGETS / "names"
    names.write_text("".join(f"{name}\n" for name in made.names))
    return Job(folder=folder, kind=made.kind, names=names, target=bench.server.target(made.database, port))


def up(bench: Bench, way: Way, made: Tenants) -> Ran:
    """Run a way over these tenants."""
    return start(way.peer, way.run(job(bench, way, made)), limit=LIMIT).end()


# --- ours, with nothing to do -----------------------------------------------------------------------------------


def grown(bench: Bench) -> dict[str, Any]:
    """Return what it takes us to find nothing to do in 1,000 and in 10,000 schemas of one database."""
    with new_tenants(bench, SCHEMA, MANY) as made:
        first = made.of(1)
        if problem := up(bench, OURS[0], first).problem or first.wrong(OURS[0].history):
            raise SystemExit(f"a schema cannot be made: {problem}")
        clone_histories(made)
        return {str(number): looked(bench, made.of(number)) for number in (THOUSAND, MANY)}


def clone_histories(made: Tenants) -> None:
    """Give all schemas the history of the first: to have nothing to do takes no more."""
    first, *others = made.names
    for begin in range(0, len(others), BATCH):
        batch = others[begin : begin + BATCH]
        made.server.execute("".join(CLONE.format(name, first) for name in batch), made.database)
    made.server.execute("CHECKPOINT")


def looked(bench: Bench, made: Tenants) -> dict[str, Any]:
    """Return the seconds, the peak memory, and how often the server was asked."""
    samples = Samples()
    for _ in range(min(bench.runs, TURNS[100])):
        samples.note(up(bench, OURS[0], made))
    with far(bench.server.port, 0) as line:
        start(OURS[0].peer, OURS[0].run(job(bench, OURS[0], made, line.port)), limit=LIMIT).end()
        samples.connections, samples.round_trips = line.counted()
    return {**samples.plain(), "kibibytes": kibibytes(OURS[0].peer, OURS[0].run(job(bench, OURS[0], made)))}


# --- the part ---------------------------------------------------------------------------------------------------


def targets(bench: Bench) -> None:
    """Measure all kinds and numbers; what was measured on another day or of another image is replaced as a whole."""
    ways = [way for way in WAYS if way.is_there and (not bench.only or way.peer.name in bench.only)]
    peers = list({way.peer.name: way.peer for way in ways}.values())
    found: dict[str, Any] = {"about": about(peers, bench.server), "cells": []}
    for kind in KINDS:
        cell = None
        for number in SIZES:
            cell = Cell(bench, kind, number, cell)
            cell.measure(ways)
            found["cells"] += cell.plain()
            said = f"apply: {summary(cell.apply)}; nothing: {summary(cell.nothing)}"
            bench.add_part(TARGETS, found, f"{number} {kind}: {said}")
    if any(way.peer.name == NAME for way in ways):
        found["grown"] = grown(bench)
    bench.add_part(TARGETS, found, str(found.get("grown")))
