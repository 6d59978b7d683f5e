"""What is to be said besides the measurements: the machine, the server, the tools and their versions."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.ours import PGSLIPWAY, WORK
from bench.peer import INSTALLED
from bench.run import environ, image

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.peer import Peer
    from bench.server import BenchServer


def image_id() -> str:
    """Return what tells our image from one of other code."""
    command = ["docker", "image", "inspect", "--format={{.Id}}", image(PGSLIPWAY)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def versions(peers: Sequence[Peer]) -> dict[str, dict[str, str]]:
    """Return what is to be said of each tool."""
    return {
        peer.name: {
            "version": version(peer),
            "lock": peer.lock,
            "transaction": peer.transaction,
            "waits": "by itself" if peer.waits else "after a loop around pg_isready, with a pause of 1 s",
            "note": peer.note,
        }
        for peer in peers
    }


def version(peer: Peer) -> str:
    """Return the version that the tool prints last: what it runs on may come before it."""
    argv = [word.format(home=INSTALLED / peer.name) for word in peer.version.argv]
    env = {**os.environ, **environ(peer, peer.version.environ)}
    ended = subprocess.run(argv, env=env, cwd=WORK, capture_output=True, text=True, check=False)
    found = re.findall(r"\d+\.\d+(?:\.\d+)?", ended.stderr + ended.stdout)
    return found[-1] if found else "unknown"


def missing() -> dict[str, str]:
    """Return the tools that could not be had, and why."""
    lines = (INSTALLED / "missing.tsv").read_text().splitlines()
    return dict(line.split("\t") for line in lines)


def machine() -> dict[str, str | int]:
    """Describe this machine."""
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    memory = re.search(r"MemTotal:\s*(\d+)", Path("/proc/meminfo").read_text())
    return {
        "cpu": cpu[1] if cpu else platform.machine(),
        "cores": os.cpu_count() or 0,
        "memory_gib": round(int(memory[1]) / 2**20) if memory else 0,
        "system": platform.freedesktop_os_release()["PRETTY_NAME"],
    }


def about(peers: Sequence[Peer], server: BenchServer) -> dict[str, Any]:
    """Return what is to be said besides the measurements."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
        "postgres": server.fetch("SHOW server_version")[0][0],
        "commit_ms": round(server.commit_milliseconds(), 3),
        "image": image_id(),
        "tools": versions(peers),
        "missing": missing(),
    }
