"""How often each tool is run: ten times what is fast, less often what takes long and is far behind."""

from __future__ import annotations

QUICK = 0.3
"""Seconds; what takes less has all of its runs, however far behind it is."""
NEAR = 1.3
"""What takes at most this many times the fastest tool's seconds has all of its runs, unless it is LONG."""
LONG = 10.0
SHORT = 5.0
ENOUGH = 3
"""Runs of what is near but LONG, and of what is far behind but SHORT; anything else runs once."""


def turns(seconds: float, fastest: float, runs: int, *, ours: bool, once: bool = False) -> int:
    """Return how many runs are due to a tool with this median; `once` is for what takes long for everybody."""
    near = ours or seconds <= NEAR * fastest
    if not once and (seconds < QUICK or (near and seconds < LONG)):
        return runs
    return min(ENOUGH, runs) if ours or (not once and (near or seconds < SHORT)) else 1
