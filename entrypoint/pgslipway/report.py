"""How a run ended, said to everybody who wants to know: the log, Kubernetes, GitHub."""

from .system import exists

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from .config import Config
    from .lines import Log
    from .outcome import Outcome

TERMINATION_LOG = "/dev/termination-log"
"""Where Kubernetes reads a container's last words; written only if it exists."""


def announce(config: "Config", log: "Log") -> None:
    """Log what is odd about the settings."""
    for warning in config.warnings:
        log("warning", warning, {})
    if config.location and config.location.ignored:
        log("info", f"has no meaning here: {', '.join(config.location.ignored)}", {})


def finish(outcome: "Outcome", config: "Config", log: "Log") -> int:
    """Log the outcome and write it for the orchestrator; return the exit code."""
    write_outcome(outcome, config.termination_log, log)
    fields: Mapping[str, Any] = {
        "exit_code": outcome.exit_code,
        "result": outcome.result,
        "seconds": round(outcome.seconds, 3),
        **({"targets": outcome.targets} if outcome.targets else {}),
    }
    log("error" if outcome.exit_code else "info", outcome.text, fields)
    if outcome.exit_code:
        log("error", f"exit {outcome.exit_code}: {outcome.result}", {})
    if config.github_workspace:
        from . import github

        github.report(outcome, config, log)
    return outcome.exit_code


def write_outcome(outcome: "Outcome", path: str | None, log: "Log") -> None:
    """Write the outcome to `path`, or to Kubernetes's default place if that exists; never fails."""
    if path is None and not exists(TERMINATION_LOG):
        return
    path = path or TERMINATION_LOG
    try:
        with open(path, "wb") as file:
            file.write(outcome.to_json())
    except OSError as error:
        log("warning", f"{path}: {error.strerror}; the outcome was not written there", {})
