"""The plots of many tenants in docs/benchmarks.md: time against their number."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from bench.ours import NAME
from bench.plots import INK, colour, figure, in_words, label, nothing
from bench.results import APPLY, NOTHING, SIZES, Results
from bench.target_ways import XARGS
from bench.tenants import DATABASE, SCHEMA

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes

TITLES = {NOTHING: "Nothing to do", APPLY: "10 files"}
RIGHT, LEFT = 60, 0.69
"""Where the scale ends, as times the largest number, and where the names begin, as part of the width."""


def growth(results: Results, kind: str, work: str, axes: Axes) -> None:
    """Draw a line for each way by the number of tenants; ours is the thick one, those of xargs are dashed."""
    points = {number: results.ways_medians(kind, work, number) for number in SIZES}
    title = f"{TITLES[work]}, by the number of {kind}s"
    ends: dict[str, tuple[float, float]] = {}
    for name in {name: None for medians in points.values() for name in medians}:
        known = [number for number in SIZES if name in points[number]]
        seconds = [points[number][name] for number in known]
        axes.plot(known, seconds, dashes(name), color=colour(name), linewidth=3.0 if name == NAME else 1.1, marker=".")
        ends[name] = (known[-1], seconds[-1])
    if not ends:
        nothing(axes, title)
        return
    scale(axes, title)
    label(axes, ends, LEFT)


def dashes(way: str) -> str:
    """Return how a way's line is drawn."""
    return "--" if way.endswith(XARGS) else "-"


def scale(axes: Axes, title: str) -> None:
    """Make both scales logarithmic, with room for names at the right."""
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(in_words)
    axes.yaxis.set_minor_formatter("")
    axes.set_xlim(0.8, RIGHT * SIZES[-1])
    axes.set_xticks(SIZES, [f"{number:,}" for number in SIZES])
    axes.xaxis.set_minor_formatter("")
    axes.set_title(title, color=INK, fontsize=10)


def target_plots(results: Results, folder: Path) -> None:
    """Write the pictures: schemas at the left, databases at the right."""
    for work, name in ((NOTHING, "nothing"), (APPLY, "apply")):
        both = [partial(growth, results, kind, work) for kind in (SCHEMA, DATABASE)]
        figure(folder / f"benchmarks-targets-{name}.svg", *both)
