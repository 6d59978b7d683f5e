"""Repeatable files in a rollout: whatever the order in which pods start, the newest text is there in the end.

That is where the newer release has a newer version, or where the older text was there before. Where neither is so,
nobody can tell, and the release whose text lost is superseded.
"""

from __future__ import annotations

from pgslipway.engine.repeatable import APPLIED, SUPERSEDED
from rollouts import ROLLOUTS, Model, Rollout


def end_of(rollout: Rollout) -> Model:
    model = Model()
    for release in rollout.order:
        model.start(release)
    return model


def newest_has_to_win(rollout: Rollout) -> bool:
    """By the releases and the order alone."""
    *older, newest = rollout.releases
    order = rollout.order
    if newest not in order:
        return False
    rivals = [one for one in older if one.newest == newest.newest and one.text != newest.text]
    were_there = order[: order.index(newest)]
    return not rivals or (
        all(one in were_there for one in rivals) and newest.text not in {one.text for one in were_there}
    )


def test_newest_text_is_there_in_the_end_wherever_that_can_be_told() -> None:
    wrong = []
    for rollout in filter(newest_has_to_win, ROLLOUTS):
        current = end_of(rollout).current
        if current is None or current.checksum != rollout.releases[-1].text:
            wrong.append((rollout, current))

    assert wrong[:3] == []
    assert len([*filter(newest_has_to_win, ROLLOUTS)]) > len(ROLLOUTS) // 2


def test_no_release_undoes_another_for_ever() -> None:
    """Once each has started, further starts change nothing, and each whose text is not there says so."""
    wrong = []
    for rollout in ROLLOUTS:
        if {*rollout.order} != {*rollout.releases}:
            continue
        model = end_of(rollout)
        for release in rollout.releases * 2:
            before = (model.current, [*model.applied])
            state = model.start(release)
            there = model.current is not None and model.current.checksum == release.text
            if state != (APPLIED if there else SUPERSEDED) or before != (model.current, model.applied):
                wrong.append((rollout, release, state))

    assert wrong[:3] == []


def test_each_text_is_applied_once_for_a_version() -> None:
    wrong = []
    for rollout in ROLLOUTS:
        applied = end_of(rollout).applied
        versions = {text: len({one.newest for one in rollout.releases if one.text == text}) for text in applied}
        if any(applied.count(text) > number for text, number in versions.items()):
            wrong.append((rollout, applied))

    assert wrong[:3] == []
