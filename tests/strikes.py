"""A run that is struck at one of its messages: its connection is cut, or it is killed."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

from proxy import Fault

if TYPE_CHECKING:
    from conftest import Process
    from proxy import FaultProxy

ENDS = {"cut": {0, 13}, "killed": {-signal.SIGKILL}}
"""The exit codes, by the means."""
AFTER = {"cut": True, "killed": False}
"""Whether the message is handed on first: a server that has it and loses its client, and one that never gets it."""


async def finish_struck(process: Process, proxy: FaultProxy, number: int, means: str) -> list[str]:
    """Strike at the message of this number; what is wrong with the exit code."""

    def strike() -> None:
        if means == "killed":
            process.terminate(signal.SIGKILL)
            proxy.close()
        else:
            proxy.reset()

    proxy.faults = [Fault(number, AFTER[means], strike)]
    finished = await asyncio.to_thread(process.finish)
    return [] if finished.code in (ENDS[means] if proxy.struck_at else {0}) else [f"exit code {finished.code}"]
