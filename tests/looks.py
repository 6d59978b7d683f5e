"""The glance by itself, inside of this process."""

from __future__ import annotations

import asyncio
import time
from contextlib import redirect_stderr
from io import StringIO
from typing import TYPE_CHECKING, TypeAlias

from pgslipway import glance
from pgslipway.signals import Stop
from servers import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Mapping

Said: TypeAlias = tuple[int | None, str]
"""The exit code, or None, and what it wrote."""
NOTHING_SAID: Said = (None, "")


def glance_at(environ: Mapping[str, str], seconds: float = PATIENCE) -> Said:
    """It may take so many seconds: a second is not always enough on a busy machine."""
    usual, glance.LONGEST = glance.LONGEST, seconds
    try:
        with redirect_stderr(StringIO()) as said:
            code, _ = glance.glance([], environ, Stop(), time.monotonic())
    finally:
        glance.LONGEST = usual
    return code, said.getvalue()


async def look(environ: Mapping[str, str], seconds: float = PATIENCE) -> Said:
    """One after the other: what they write is one for the whole process."""
    async with asyncio.timeout(2 * PATIENCE):
        return await asyncio.to_thread(glance_at, environ, seconds)
