"""The pauses between attempts: random, growing with the time waited, and cut so that the last try ends in time."""

from __future__ import annotations

from math import inf

import pytest
from tenacity import AsyncRetrying, RetryCallState

from pgslipway.retry import pause

DRAWS = 300


def drawn(waited: float, limit: float, share: float = 0.05) -> tuple[float, float]:
    """The shortest and the longest of many pauses after so many seconds of waiting: from 0.1 s, at most 5 s."""
    state = RetryCallState(AsyncRetrying(), None, (), {})
    state.outcome_timestamp = state.start_time + waited
    seconds = pause(0.1, 5.0, limit, share)
    pauses = [seconds(state) for _ in range(DRAWS)]
    return min(pauses), max(pauses)


@pytest.mark.parametrize(
    ("waited", "share", "longest"),
    [(0.0, 0.05, 0.2), (1.0, 0.05, 0.2), (40.0, 0.05, 2.0), (40.0, 0.2, 5.0), (3600.0, 0.05, 5.0)],
)
def test_pause_is_random_up_to_a_share_of_the_time_waited(waited: float, share: float, longest: float) -> None:
    shortest_drawn, longest_drawn = drawn(waited, inf, share)

    assert 0.1 <= shortest_drawn < 0.1 + (longest - 0.1) / 10
    assert longest - (longest - 0.1) / 10 < longest_drawn <= longest


@pytest.mark.parametrize(("waited", "left"), [(599.95, 0.05), (600.0, 0.0), (601.0, 0.0)])
def test_last_pause_ends_with_the_limit(waited: float, left: float) -> None:
    assert drawn(waited, 600.0) == pytest.approx((left, left))
