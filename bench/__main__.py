"""`make bench`: measures pgslipway beside its peers, against one server; writes results.json."""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
from functools import partial
from typing import TYPE_CHECKING

from bench import floor, interpreted, native, sitting
from bench.about import about
from bench.measure import Bench
from bench.ours import IMAGE, PGSLIPWAY, ROOT, WORK
from bench.parts import PARTS
from bench.peer import BENCH, INSTALLED
from bench.run import image
from bench.server import bench_server

if TYPE_CHECKING:
    from bench.peer import Peer

ALL = [PGSLIPWAY, *floor.PEERS, *native.PEERS, *interpreted.PEERS]
RESULTS = BENCH / "results.json"


def installed() -> list[Peer]:
    """Return the tools that there are."""
    return [peer for peer in ALL if (INSTALLED / peer.name).is_dir()]


def unpack_ours() -> None:
    """Put the files of our image where a process can have them for its root.

    The image gets a tag of its own, since `make image` may move the other one meanwhile.
    """
    subprocess.run(["docker", "tag", IMAGE, image(PGSLIPWAY)], check=True)
    shutil.rmtree(ROOT, ignore_errors=True)
    ROOT.mkdir(parents=True)
    container = subprocess.run(
        ["docker", "create", image(PGSLIPWAY)], capture_output=True, text=True, check=True
    ).stdout.strip()
    subprocess.run(f"docker export {container} | tar -x -C {ROOT}", shell=True, check=True)
    subprocess.run(["docker", "rm", container], capture_output=True, check=True)
    WORK.mkdir(parents=True)


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--only", nargs="*", default=[], metavar="TOOL", help="names of tools")
    parser.add_argument(
        "--parts", nargs="*", default=[], choices=PARTS, metavar="PART",
        help=f"to add these to results.json, or put them in the place of what is there: {', '.join(PARTS)}",
    )  # fmt: skip
    parser.add_argument("--anew", action="store_true", help="with --parts: begin a new results.json")
    return parser.parse_args()


def main() -> None:
    """Measure everything, or some parts."""
    options = arguments()
    began = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - began:6.0f} s  {text}", file=sys.stderr, flush=True)

    unpack_ours()
    peers = [peer for peer in installed() if not options.only or peer.name in options.only]
    with bench_server() as server:
        known = about(peers, server)
        try:
            adds = options.parts and not options.anew and RESULTS.is_file()
            results = sitting.continued(sitting.read(RESULTS), known, options.parts) if adds else sitting.begun(known)
        except ValueError as error:
            raise SystemExit(f"{RESULTS.name}: {error}; --anew begins a new one") from error
        bench = Bench(
            server, peers, options.runs, results, partial(sitting.write, RESULTS, results), say, only=options.only
        )
        for part in options.parts or PARTS:
            PARTS[part](bench)
        results["minutes"] += round((time.monotonic() - began) / 60)
        bench.save()


if __name__ == "__main__":
    main()
