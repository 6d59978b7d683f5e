"""What users script against, as tests compare it with the code, the pages and real runs."""

from __future__ import annotations

CONTRACT = {
    0: "up to date",
    10: "database unavailable",
    11: "locked",
    12: "table busy",
    13: "connection lost",
    14: "not yet",
    15: "targets to retry",
    20: "bad configuration",
    21: "bad migration files",
    22: "access refused",
    23: "history conflict",
    24: "migration failed",
    25: "half done",
    26: "targets to mend",
    70: "internal error",
    130: "stopped",
    143: "stopped",
}
"""The result that goes with each exit code."""
