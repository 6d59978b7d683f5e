"""The plots of docs/benchmarks.md: SVG without a background, to be read on white as on black."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib as mpl

from bench.ours import NAME
from bench.results import DISTANCES, FLOORS, Results
from bench.tables import duration

mpl.use("svg")

import matplotlib.pyplot as plt

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

plt.rcParams["svg.hashsalt"] = NAME
OURS, FLOOR, OTHERS = "#d9480f", "#868e96", "#4c8bd6"
"""Each can be told from white and from black, and from the others without colour by its place and its line."""
INK = "#808080"
GAP, TOP = 0.038, 0.97
"""Of the labels, as parts of the height."""


def colour(name: str) -> str:
    """Return the colour of a tool, or of a way to use it, whose name begins with the tool's."""
    return OURS if name.split(", ")[0] == NAME else FLOOR if name in FLOORS else OTHERS


def in_words(seconds: float, _: object) -> str:
    """Return what stands at an axis."""
    return f"{seconds:g} s" if seconds >= 1 else f"{seconds * 1000:g} ms"


def bars(axes: Axes, medians: dict[str, float], title: str) -> None:
    """Draw a bar for each tool, the fastest on top, on a scale of powers of ten."""
    if not medians:
        nothing(axes, title)
        return
    names = sorted(medians, key=lambda name: -medians[name])
    drawn = axes.barh(names, [medians[name] for name in names], color=[colour(name) for name in names])
    axes.bar_label(drawn, [duration(medians[name]) for name in names], padding=3, color=INK, fontsize=8)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(in_words)
    axes.xaxis.set_minor_formatter("")
    axes.set_title(title, color=INK, fontsize=10)
    axes.margins(x=0.25)


def nothing(axes: Axes, title: str) -> None:
    """Say that there is nothing to draw yet: a scale of powers of ten needs a value."""
    axes.set_title(f"{title}: not measured yet", color=INK, fontsize=10)


def lines(axes: Axes, results: Results, files: int, title: str) -> None:
    """Draw a line for each tool by distance; ours is the thick one."""
    points = {distance: results.medians("apply", files, distance) for distance in DISTANCES}
    ends: dict[str, tuple[float, float]] = {}
    for name in reversed(results.order()):
        known = [distance for distance in DISTANCES if name in points[distance]]
        width, dashes = (3.0, "-") if name == NAME else (1.4, "--") if name in FLOORS else (0.9, "-")
        seconds = [points[ms][name] for ms in known]
        axes.plot(known, seconds, dashes, color=colour(name), linewidth=width, marker=".")
        if known:
            ends[name] = (known[-1], seconds[-1])
    if not ends:
        nothing(axes, title)
        return
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(in_words)
    axes.yaxis.set_minor_formatter("")
    axes.set_xlim(-1, 31)
    axes.set_xticks(DISTANCES)
    axes.set_xlabel("added round-trip time, ms", color=INK)
    axes.set_title(title, color=INK, fontsize=10)
    label(axes, ends)


def label(axes: Axes, ends: dict[str, tuple[float, float]], left: float = 0.82) -> None:
    """Write each tool's name at the right, by the end of its line; those that end early are on top."""
    order = sorted(ends, key=lambda name: (-ends[name][0], ends[name][1]))
    heights = apart([axes.transAxes.inverted().transform(axes.transData.transform(ends[name]))[1] for name in order])
    for name, height in zip(order, heights, strict=True):
        axes.annotate(
            name, ends[name], xytext=(left, height), textcoords=axes.transAxes, va="center",
            fontsize=7, color=colour(name), fontweight="bold" if name == NAME else "normal",
            arrowprops={"arrowstyle": "-", "color": colour(name), "linewidth": 0.4, "relpos": (0, 0.5), "shrinkA": 0},
        )  # fmt: skip


def apart(heights: Sequence[float]) -> list[float]:
    """Move heights, the lowest first, until none is nearer to the next than GAP or above the top."""
    low = -1.0
    raised = [low := max(height, low + GAP) for height in heights]
    return [min(height, TOP - GAP * above) for above, height in zip(range(len(raised))[::-1], raised, strict=True)]


def figure(path: Path, *draw: Callable[[Axes], None]) -> None:
    """Write a picture without a background, so that the page's own, light or dark, shows."""
    drawn, axes = plt.subplots(1, len(draw), figsize=(5.5 * len(draw), 4.6), squeeze=False)
    for one, axis in zip(draw, axes[0], strict=True):
        axis.tick_params(colors=INK, labelsize=8, which="both")
        axis.patch.set_alpha(0)
        for spine in axis.spines.values():
            spine.set_color(INK)
        one(axis)
    drawn.tight_layout()
    drawn.savefig(path, transparent=True, metadata={"Date": None})
    plt.close(drawn)


def plots(results: Results, folder: Path) -> None:
    """Write the pictures."""
    figure(
        folder / "benchmarks-nothing.svg",
        lambda axes: bars(axes, results.medians("nothing", 1), "Nothing to do, +0 ms"),
        lambda axes: bars(axes, results.medians("nothing", 1, 5), "Nothing to do, +5 ms"),
    )
    figure(
        folder / "benchmarks-apply.svg",
        lambda axes: bars(axes, results.medians("apply", 1000), "1,000 small files, +0 ms"),
        lambda axes: lines(axes, results, 1000, "1,000 small files by distance"),
    )
