"""The tables of many tenants in docs/benchmarks.md, in Markdown."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

from bench.ours import NAME
from bench.results import SIZES, TARGETS
from bench.tables import against, cell, of_goals, plain_text, table
from bench.target_goals import target_goals

if TYPE_CHECKING:
    from bench.results import Results

NOT_YET = "Not measured yet."


def by_number(results: Results, kind: str, work: str) -> str:
    """Return a work by the number of tenants, and below it why some ways failed."""
    cells = {number: results.ways(kind, work, number) for number in SIZES}
    names = order(cells)
    if not names:
        return NOT_YET
    largest = results.ways_medians(kind, work, SIZES[-1])
    head = ["way", *(f"{number:,}" for number in SIZES), f"of ours, {SIZES[-1]:,}"]
    rows = [
        [name, *(cell(cells[number].get(name)) for number in SIZES), against(largest, name, NAME)] for name in names
    ]
    return table(head, rows) + failures(cells)


def order(cells: dict[int, dict[str, Any]]) -> list[str]:
    """Return the ways: ours, then those that got to the most tenants, the fastest first."""
    reached: dict[str, tuple[int, float]] = {}
    for number, ways in cells.items():
        for name, one in ways.items():
            reached.setdefault(name, (0, 0.0))
            if one["seconds"]:
                reached[name] = (-number, statistics.median(one["seconds"]))
    return sorted(reached, key=lambda name: (name != NAME, not is_ours(name), *reached[name]))


def is_ours(way: str) -> bool:
    """Tell our ways from the others'."""
    return way.split(", ")[0] == NAME


def failures(cells: dict[int, dict[str, Any]]) -> str:
    """Return a table of which way failed where, with what it said."""
    rows = [
        [name, f"{number:,}", plain_text(one["problem"])]
        for number, ways in cells.items()
        for name, one in ways.items()
        if one["problem"]
    ]
    return "\n\n" + table(["way", "fails at", "and says"], rows, "---") if rows else ""


def grown(results: Results) -> str:
    """Return what it takes us to find nothing to do in many schemas."""
    rows = [
        [
            f"{number:,}",
            cell(one),
            str(one["round_trips"]),
            str(one["connections"]),
            f"{one['kibibytes'] / 1024:.1f} MiB",
        ]
        for number, one in results.grown().items()
    ]
    return table(["schemas", "time", "round trips", "connections", "peak memory"], rows) if rows else NOT_YET


def versions(results: Results) -> str:
    """Return the versions of the tools that were measured."""
    tools = results.part(TARGETS).get("about", {}).get("tools", {})
    return ", ".join(f"{name} {tool['version']}" for name, tool in tools.items()) + "." if tools else NOT_YET


def aims(results: Results) -> str:
    """Return the goals with what they came to."""
    return of_goals(target_goals(results))
