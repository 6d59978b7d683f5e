"""What was measured, by what is asked of it."""

from __future__ import annotations

import statistics
from typing import Any

from bench.ours import NAME

APPLY, NOTHING, TLS, CONTAINER = "apply", "nothing", "nothing with TLS", "nothing in a container"
"""The works of a cell."""
READINESS, REPLICAS, KIBIBYTES, IMAGE_BYTES = "readiness", "replicas", "kibibytes", "image_bytes"
"""What is measured once for each tool."""
TARGETS = "targets"
SIZES = (1, 10, 100, 1000)
"""Numbers of tenants."""
PER_FILE, ONE_SESSION = "psql-per-file", "psql-one-session"
FLOORS = {PER_FILE, ONE_SESSION}
DISTANCES = (0, 1, 5, 20)
"""Milliseconds that were added to each round trip."""


class Results:
    """The contents of results.json."""

    def __init__(self, data: dict[str, Any]) -> None:
        self.data = data
        self.tools: dict[str, dict[str, str]] = data["tools"]

    def part(self, name: str) -> dict[str, Any]:
        """Return what was measured once for each tool, such as its image; nothing in a run that was cut short."""
        return dict(self.data.get(name, {}))

    def samples(self, work: str, files: int | str, milliseconds: int = 0) -> dict[str, dict[str, Any]]:
        """Return the runs of each tool in a cell."""
        for cell in self.data["cells"]:
            if (cell["work"], cell["files"], cell["milliseconds"]) == (work, files, milliseconds):
                return dict(cell["tools"])
        return {}

    def medians(self, work: str, files: int | str, milliseconds: int = 0) -> dict[str, float]:
        """Return the median seconds of each tool that got there."""
        return medians_of(self.samples(work, files, milliseconds))

    def lags(self) -> dict[str, float]:
        """Return the median seconds from the server's first answer until each is done."""
        return medians_of(self.part(READINESS))

    def ways(self, kind: str, work: str, number: int) -> dict[str, dict[str, Any]]:
        """Return the runs of each way over so many tenants of a kind."""
        for cell in self.part(TARGETS).get("cells", []):
            if (cell["kind"], cell["work"], cell["number"]) == (kind, work, number):
                return dict(cell["ways"])
        return {}

    def ways_medians(self, kind: str, work: str, number: int) -> dict[str, float]:
        """Return the median seconds of each way that got there."""
        return medians_of(self.ways(kind, work, number))

    def grown(self) -> dict[int, dict[str, Any]]:
        """Return what it takes us to find nothing to do, by the number of schemas."""
        return {int(number): one for number, one in self.part(TARGETS).get("grown", {}).items()}

    def grown_medians(self) -> dict[int, float]:
        """Return the median seconds of that."""
        return {number: statistics.median(one["seconds"]) for number, one in self.grown().items()}

    def order(self) -> list[str]:
        """Return the tools: us, the others by how fast they apply 1,000 files, and the floor."""
        speed = self.medians("apply", 1000) or self.medians("apply", 10)
        return sorted(self.tools, key=lambda name: (name != NAME, name in FLOORS, speed.get(name, 1e9)))


def medians_of(samples: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Return the median seconds of each tool that has a run."""
    return {name: statistics.median(one["seconds"]) for name, one in samples.items() if one["seconds"]}


def fastest_peer(values: dict[str, float]) -> str:
    """Return the tool with the least, neither us nor the floor; "" if there is none."""
    peers = {name: value for name, value in values.items() if name != NAME and name not in FLOORS}
    return min(peers, key=lambda name: peers[name], default="")
