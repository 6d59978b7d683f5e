"""What one sitting of the benchmark adds to results.json, which may hold the parts of an earlier one."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

SAME = ("machine", "postgres", "image", "tools")
"""What has to be the same, or two numbers of one table cannot be compared."""
ALONE = frozenset({"targets"})
"""Parts that are compared with no other, and that note themselves what they were measured on."""


def begun(about: Mapping[str, Any]) -> dict[str, Any]:
    """Return results without a measurement."""
    return {**about, "cells": [], "minutes": 0}


def continued(earlier: dict[str, Any], about: Mapping[str, Any], parts: Iterable[str]) -> dict[str, Any]:
    """Return the earlier results, to which parts are to be added; ValueError if they are of something else."""
    if ALONE.issuperset(parts):
        return earlier
    if other := [name for name in SAME if earlier.get(name) != about[name]]:
        raise ValueError(f"what was measured before differs in {', '.join(other)}")
    days = dict.fromkeys([*earlier["date"].split(" and "), about["date"]])
    return {**earlier, "date": " and ".join(days), "missing": {**earlier["missing"], **about["missing"]}}


def read(path: Path) -> dict[str, Any]:
    """Return the results of a file."""
    return dict(json.loads(path.read_text()))


def write(path: Path, results: Mapping[str, Any]) -> None:
    """Write results, whole or not at all."""
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps(results, indent=1) + "\n")
    draft.replace(path)
