"""`make bench`: measures pgslipway beside its peers, all in one go against one server; writes results.json."""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench import interpreted, native
from bench.measure import Bench, Cell
from bench.ours import PGSLIPWAY, ROOT, WORK
from bench.peer import BENCH, INSTALLED, Peer
from bench.run import environ
from bench.server import bench_server
from bench.sets import CONCOURSE

ALL = [PGSLIPWAY, *native.PEERS, *interpreted.PEERS]
FAST_ENOUGH = 2.5
"""Seconds for 1,000 files within which a tool gets 10,000 as well."""
RESULTS = BENCH / "results.json"
DISTANCES = (0, 1, 5, 20)
"""Milliseconds that are added to each round trip."""
LANES = {0: 1, 1: 3, 5: 6, 20: 16}
"""Tools that apply files at once, by distance: the farther away, the less each of them does."""
LANES_OF_FEW = {0: 1, 1: 2, 5: 2, 20: 6}
"""The same for few files, where starting the tool is most of what it does."""


def nothing() -> list[Cell]:
    """Return the cells with nothing to do."""
    cells = [Cell("nothing", files, distance) for files in (1, 1000) for distance in DISTANCES]
    return [*cells, Cell("nothing", 10), Cell("nothing", 100)]


def applying(*sets: int | str) -> list[Cell]:
    """Return the cells in which such sets are applied."""
    lanes = {files: LANES_OF_FEW if files == 10 else LANES for files in sets}
    return [Cell("apply", files, distance, lanes[files][distance]) for files in sets for distance in DISTANCES]


def installed() -> list[Peer]:
    """Return the tools that there are."""
    return [peer for peer in ALL if (INSTALLED / peer.name).is_dir()]


def unpack_ours() -> None:
    """Put the files of our image where a process can have them for its root."""
    shutil.rmtree(ROOT, ignore_errors=True)
    ROOT.mkdir(parents=True)
    container = subprocess.run(
        ["docker", "create", "pgslipway:1"], capture_output=True, text=True, check=True
    ).stdout.strip()
    subprocess.run(f"docker export {container} | tar -x -C {ROOT}", shell=True, check=True)
    subprocess.run(["docker", "rm", container], capture_output=True, check=True)
    WORK.mkdir(parents=True)


def versions(peers: list[Peer]) -> dict[str, dict[str, str]]:
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


def save(results: dict[str, Any]) -> None:
    """Write the results, whole or not at all."""
    draft = RESULTS.with_suffix(".draft")
    draft.write_text(json.dumps(results, indent=1) + "\n")
    draft.replace(RESULTS)


def main() -> None:
    """Measure everything."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--only", nargs="*", default=[], help="names of tools")
    arguments = parser.parse_args()
    began = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - began:6.0f} s  {text}", file=sys.stderr, flush=True)

    unpack_ours()
    peers = [peer for peer in installed() if not arguments.only or peer.name in arguments.only]
    with bench_server() as server:
        results: dict[str, Any] = {
            "date": datetime.now(UTC).date().isoformat(),
            "machine": machine(),
            "postgres": server.fetch("SHOW server_version")[0][0],
            "commit_ms": round(server.commit_milliseconds(), 3),
            "tools": versions(peers),
            "missing": missing(),
            "cells": [],
        }
        bench = Bench(server, peers, arguments.runs, say, results)
        bench.images()
        if CONCOURSE.is_dir():
            bench.expect()
        for cell in nothing() + applying(1000):
            bench.measure(cell)
            save(results)
        bench.containers(1)
        bench.containers(1000)
        bench.memory(1000)
        bench.sizes()
        save(results)
        waiting = [peer for peer in peers if peer.waits]
        others = [peer for peer in peers if not peer.waits and not peer.name.startswith("psql")]
        bench.readiness([waiting[0::2], waiting[1::2], others[0::2], others[1::2]])
        save(results)
        bench.replicas()
        for cell in applying(10, 100, *(["concourse"] if CONCOURSE.is_dir() else [])):
            bench.measure(cell)
            save(results)
        bench.peers = [peer for peer in peers if peer is PGSLIPWAY or thousand(results, peer) < FAST_ENOUGH]
        bench.measure(Cell("apply", 10_000, once=True))
        bench.peers = [peer for peer in peers if (peer.name, 10_000) in bench.prepared]
        bench.measure(Cell("nothing", 10_000))
        results["minutes"] = round((time.monotonic() - began) / 60)
        save(results)


def thousand(results: dict[str, Any], peer: Peer) -> float:
    """Return the seconds that a tool took for 1,000 files; endless if it did not get there."""
    for cell in results["cells"]:
        if (cell["work"], cell["files"], cell["milliseconds"]) == ("apply", 1000, 0):
            return min(cell["tools"][peer.name]["seconds"], default=float("inf"))
    return float("inf")


if __name__ == "__main__":
    main()
