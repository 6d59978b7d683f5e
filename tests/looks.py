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


def glance_at(environ: Mapping[str, str], *arguments: str) -> Said:
    with redirect_stderr(StringIO()) as said:
        code = glance.glance(arguments, environ, Stop(), time.monotonic())
    return code, said.getvalue()


async def look(environ: Mapping[str, str]) -> Said:
    """One after the other: what they write is one for the whole process."""
    async with asyncio.timeout(PATIENCE):
        return await asyncio.to_thread(glance_at, environ)
