"""The tools as containers: an image of each, its size, and how long one takes that has nothing to do."""

from __future__ import annotations

import os
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from bench.measure import Cell, Samples, due
from bench.peer import INSTALLED
from bench.results import CONTAINER, IMAGE_BYTES
from bench.run import Ran, contained, image, reason

if TYPE_CHECKING:
    from bench.measure import Bench
    from bench.peer import Peer


def build_images(bench: Bench) -> None:
    """Build an image for each tool; one that cannot be built is listed as missing."""
    for peer in bench.peers:
        if peer.dockerfile:
            context = INSTALLED / peer.name
            (context / "Dockerfile").write_text(peer.dockerfile)
            built = subprocess.run(
                ["docker", "build", "--quiet", f"--tag={image(peer)}", context],
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            if built.returncode:
                bench.results["missing"][f"image of {peer.name}"] = reason(built.stderr)


def has_image(peer: Peer) -> bool:
    """Tell whether there is an image of it."""
    return subprocess.run(["docker", "image", "inspect", image(peer)], capture_output=True, check=False).returncode == 0


def containers(bench: Bench) -> None:
    """Do nothing in containers, whole: from `docker run` until it returns."""
    build_images(bench)
    for files in (1, 1000):
        measure(bench, files)


def measure(bench: Bench, files: int) -> None:
    """Run the tools' containers in turns."""
    peers = [peer for peer in bench.able(files) if has_image(peer)]
    samples = {peer.name: Samples() for peer in peers}
    bench.server.tidy()
    for _ in range(bench.runs):
        for peer in due(peers, samples, bench.runs):
            samples[peer.name].note(once(bench, peer, files))
    bench.add(Cell(CONTAINER, files), samples)


def once(bench: Bench, peer: Peer, files: int) -> Ran:
    """Run a tool's container."""
    target = bench.server.target(bench.prepared[peer.name, files])
    command = contained(peer, bench.folder(peer, files), target)
    began = time.perf_counter()
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    at = time.perf_counter()
    return Ran(at - began, at, reason(ended.stderr) if ended.returncode else "")


def sizes(bench: Bench) -> None:
    """Note the compressed size of each image, with all of its layers, and of what runs the floor."""
    build_images(bench)
    peers = list(filter(has_image, bench.peers))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = pool.map(compressed, peers)
        bench.add_part(IMAGE_BYTES, {peer.name: size for peer, size in zip(peers, found, strict=True)})


def compressed(peer: Peer) -> int:
    """Return the bytes of a tool's image."""
    command = f"docker save {image(peer)} | gzip -6 | wc -c"
    return int(subprocess.run(command, shell=True, capture_output=True, check=True).stdout)
