"""Runs a tool once: as a process, as a container, or under GNU time for its memory; and says how it ended."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from bench.ours import WORK
from bench.peer import INSTALLED

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bench.peer import Invocation, Peer, Target

LIMIT = 120.0
"""Seconds from its start after which a run is given up."""
ERROR = re.compile(r"\b[a-z.]*(error|fatal|exception)\b", re.IGNORECASE)
LAST_LINES = 3
EXCERPT = 160
DOCKER = ["docker", "run", "--rm", "--network=host", f"--volume={WORK}:{WORK}:ro"]


@dataclass(frozen=True, slots=True)
class Ran:
    """How a run ended; `at` is when, by time.perf_counter()."""

    seconds: float
    at: float
    problem: str = ""


class Running(Protocol):
    """A process that was started."""

    def end(self) -> Ran:
        """Wait for it."""


@dataclass(slots=True)
class Process:
    """A process in a session of its own; what it prints goes to a file, so that no pipe slows it down."""

    popen: subprocess.Popen[bytes]
    started: float
    log: Path
    limit: float
    is_given_up: bool = False
    watchdog: threading.Timer = field(init=False)
    """In place of a wait with a limit, which is late by up to 50 ms, and begins with the wait."""

    def __post_init__(self) -> None:
        self.watchdog = threading.Timer(self.limit, self.give_up)
        self.watchdog.daemon = True
        self.watchdog.start()

    def give_up(self) -> None:
        """End it with all that it has started."""
        self.is_given_up = True
        with suppress(ProcessLookupError):
            os.killpg(self.popen.pid, signal.SIGKILL)

    def end(self) -> Ran:
        """Wait for it."""
        self.popen.wait()
        at = time.perf_counter()
        self.watchdog.cancel()
        problem = self.problem()
        self.log.unlink()
        return Ran(at - self.started, at, problem)

    def problem(self) -> str:
        """Say what went wrong, or nothing; one that was over before its limit may have waited to be asked."""
        code = self.popen.returncode
        if self.is_given_up and code == -signal.SIGKILL:
            return f"took more than {self.limit:g} s"
        return f"exit {code}: {reason(self.log.read_text(errors='replace'))}" if code else ""


def reason(log: str) -> str:
    """Return what a tool says went wrong: from its first line that tells of an error, past any banner, in short.

    Without where things are on this machine, which is nobody's business and long.
    """
    for folder in (WORK, INSTALLED):
        log = log.replace(f"{folder}/", "")
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    telling = [number for number, line in enumerate(lines) if ERROR.search(line)]
    return " ".join(lines[telling[0] :] if telling else lines[-LAST_LINES:])[:EXCERPT]


def environ(peer: Peer, more: Mapping[str, str]) -> dict[str, str]:
    """Return a clean environment in which the tool's own programs come first."""
    path = f"{INSTALLED / peer.name / 'bin'}:{os.environ['PATH']}"
    return {"PATH": path, "HOME": "/tmp", "LANG": "C.UTF-8", **more}


def start(peer: Peer, invocation: Invocation, *before: str, limit: float | None = None) -> Process:
    """Start a tool; `before` are words in front of its own. It is given up after `limit` seconds, LIMIT by default."""
    descriptor, name = tempfile.mkstemp()
    env = environ(peer, invocation.environ)
    started = time.perf_counter()
    popen = subprocess.Popen(
        [*before, *invocation.argv], env=env, cwd=WORK, start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=descriptor, stderr=descriptor,
    )  # fmt: skip
    os.close(descriptor)
    return Process(popen, started, Path(name), LIMIT if limit is None else limit)


def contained(peer: Peer, folder: Path, target: Target) -> Sequence[str]:
    """Return the command that runs the tool in a container of its image."""
    invocation = (peer.contained or peer.up)(folder, target)
    variables = [f"--env={name}={value}" for name, value in invocation.environ.items()]
    return [*DOCKER, *variables, image(peer), *invocation.argv]


def image(peer: Peer) -> str:
    """Return the tag of the tool's image."""
    return f"pgslipway-bench/{peer.name}"


def kibibytes(peer: Peer, invocation: Invocation) -> int:
    """Return the peak resident memory of the largest process of a run.

    By a small program in between: what is started inherits the peak of who starts it.
    """
    with tempfile.NamedTemporaryFile("r") as file:
        start(peer, invocation, "/usr/bin/time", "--format=%M", f"--output={file.name}").end()
        return int(file.read().split()[-1])
