"""pgslipway itself, from its own image: as a process in the image's root, and as a container."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.native import write_plain
from bench.peer import INSTALLED, Invocation, Peer, Target

if TYPE_CHECKING:
    from pathlib import Path

NAME = "pgslipway"
IMAGE = "pgslipway:1"
ROOT = INSTALLED / NAME / "root"
"""The image's files. All tools' migrations are below, since a process in there sees no others."""
WORK = ROOT / "tmp/bench"


def _environ(target: Target, folder: str) -> dict[str, str]:
    return {**target.environ, "MIGRATE_DIR": folder}


def _up(folder: Path, target: Target) -> Invocation:
    return Invocation(["chroot", str(ROOT), "/usr/bin/pgslipway"], _environ(target, f"/{folder.relative_to(ROOT)}"))


def _contained(folder: Path, target: Target) -> Invocation:
    return Invocation([], _environ(target, str(folder)))


PGSLIPWAY = Peer(
    name=NAME,
    version=Invocation(["chroot", str(ROOT), "/usr/bin/pgslipway", "--version"]),
    lock="advisory lock, polled for 10 min",
    transaction="file",
    history=frozenset({"public.schema_migrations"}),
    write=write_plain,
    up=_up,
    waits=_up,
    contained=_contained,
    note="As a process: that of its image, in the image's root; `chroot` is part of its time.",
)
