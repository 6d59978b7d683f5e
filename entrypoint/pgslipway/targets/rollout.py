"""The order of a run over many: canaries one after the other, then several at a time, until too many have failed."""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeAlias

from ..config import Config
from ..errors import Locked, NoPlace, SlipwayError
from ..log import TARGET
from ..words import count
from .names import Target
from .tally import Tally

logger = logging.getLogger(__name__)

Work: TypeAlias = Callable[[Target, bool], Awaitable[bool]]
"""Works on one target, and tells whether that changed anything. Told not to wait, it raises Locked at once."""

MOST_TOLD = 100
"""Failures that are remembered, so that the same one is not told again in full."""


class Rollout:
    """The targets that are still to be begun, and the rules by which they are."""

    def __init__(self, config: Config, targets: Iterable[Target], work: Work, tally: Tally) -> None:
        self.config = config
        self.work = work
        self.tally = tally
        self.left = deque(targets)
        self.later: deque[Target] = deque()
        """Those for which there was no place, and those at which another run is at work, which does them: we look again
        when all others are done."""
        self.workers = 0
        self.told: dict[str, str] = {}
        """The first target of each failure that was logged in full."""

    async def run(self) -> None:
        """Begin every target, unless too many have failed; those at work end in peace. Cancelling cancels them all."""
        for _ in range(self.config.canaries):
            await self.begin(is_canary=True)
        self.workers = min(self.config.parallel, len(self.left) + len(self.later))  # at once: the first is not alone
        async with asyncio.TaskGroup() as group:
            for _ in range(self.workers):
                group.create_task(self.go_on())
        if left := len(self.left) + len(self.later):
            limit = self.config.max_failures
            logger.error("no further target is begun after more than MIGRATE_MAX_FAILURES=%d; %d left", limit, left)

    async def go_on(self) -> None:
        """Work on one target after the other."""
        while await self.begin():
            pass
        self.workers -= 1

    async def begin(self, *, is_canary: bool = False) -> bool:
        """Work on the next target; False where there is none, and where another worker has to do it instead."""
        if len(self.tally.failures) > self.config.max_failures or not (self.left or self.later):
            return False
        waits, is_alone = is_canary or not self.left, self.workers <= 1
        target = self.left.popleft() if self.left else self.later.popleft()
        token = TARGET.set(target.name)
        self.tally.start()
        try:
            changed = await self.work(target, waits)
        except asyncio.CancelledError:
            self.tally.leave()
            self.tally.stop()
            raise
        except Exception as error:  # noqa: BLE001  # a bug, too, leaves those at work in peace
            self.tally.leave()
            return self.failed(target, error, has_waited=waits, is_alone=is_alone)
        finally:
            TARGET.reset(token)
        self.tally.leave()
        self.tally.succeed(changed=changed)
        return True

    def failed(self, target: Target, error: Exception, *, has_waited: bool, is_alone: bool) -> bool:
        """Note a failure, or put the target back; False where the server has no place for this worker's connection.

        Several workers find that in the same moment; the last of them goes on, and has the server to itself then.
        """
        if isinstance(error, Locked) and not has_waited:
            self.later.append(target)
            return True
        if isinstance(error, NoPlace) and not is_alone:
            self.later.append(target)  # a limit of this one database would take a place from all others
            left = max(1, self.workers - 1)
            logger.warning("%s at a time from now on: %s", count(left, "target"), error)
            return left == self.workers
        self.log(target, error)
        self.tally.fail(target.name, error)
        return True

    def log(self, target: Target, error: Exception) -> None:
        """Log a failure, in full where it is the first of its kind: one bad file fails for all targets."""
        if not isinstance(error, SlipwayError):
            logger.error("a bug in pgslipway; please report it with this traceback", exc_info=error)
            return
        text = str(error)
        first = self.told.setdefault(text, target.name) if len(self.told) < MOST_TOLD else self.told.get(text, "")
        same = f"failed as {first} did, exit code {error.exit_code}"
        is_first = first in {"", target.name}
        logger.error("%s", text if is_first else same, extra={"exit_code": error.exit_code, "result": error.result})
