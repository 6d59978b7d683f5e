"""What the outside gets to see: log lines on stderr, and the outcome as one JSON object for the orchestrator."""

import json
import logging
import os
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from . import __version__
from .config import Config
from .errors import Problem
from .migrations import few, short

TERMINATION_LOG = Path("/dev/termination-log")
"""Where Kubernetes reads a container's last words; written only if it exists."""
TERMINATION_BYTES = 4096
"""Kubernetes cuts what is longer."""
CLEAR_LINE = "\r\x1b[K"
"""Back to the start of the line, and erase it (ECMA-48)."""
RECORD = {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"}
"""The attributes that every log record has; the others are fields of ours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a run ended."""

    exit_code: int
    result: str
    """The exit code's name."""
    message: str
    problems: Sequence[Problem] = ()
    """What is wrong, each with its place, where the run failed; `message` is all of it in words."""
    applied: Sequence[str] = ()
    """The filenames that this run applied, in order."""
    seconds: float = 0.0

    @property
    def text(self) -> str:
        """The message and what the run left behind, for a log."""
        return f"{self.message}\n{self.kept}" if self.exit_code and self.kept else self.message

    @property
    def kept(self) -> str:
        """What was applied before a failure and stays."""
        return f"applied in this run and kept: {few(self.applied)}" if self.applied else ""

    def to_json(self, limit: int = TERMINATION_BYTES) -> bytes:
        """Return the outcome as one JSON object of at most `limit` bytes; long parts are cut, and say so."""
        fields: dict[str, Any] = {
            "exit_code": self.exit_code,
            "result": self.result,
            "message": self.message,
            "applied": list(self.applied),
            "seconds": round(self.seconds, 3),
            "applied_count": len(self.applied),
            "pgslipway": __version__,
            "problems": [brief(problem) for problem in self.problems],
        }
        while len(encoded := json.dumps(fields, ensure_ascii=False).encode(errors="replace")) > limit:
            if long := next((name for name in ("applied", "problems") if fields[name]), None):
                fields[long] = fields[long][: len(fields[long]) // 2]
            else:
                fields["message"] = fields["message"][: len(fields["message"]) * 3 // 4] + " …"
        return encoded


def brief(problem: Problem) -> dict[str, str | int | None]:
    """Return a problem as JSON has it: the message has more of its text."""
    first, _, _ = problem.text.partition("\n")
    return {"file": problem.file or None, "line": problem.line or None, "text": short(first)}


def write_outcome(outcome: Outcome, path: Path | None) -> None:
    """Write the outcome to `path`, or to Kubernetes's default place if that exists; never fails."""
    if path is None and not TERMINATION_LOG.exists():
        return
    path = path or TERMINATION_LOG
    try:
        path.write_bytes(outcome.to_json())
    except OSError as error:
        logging.getLogger(__name__).warning("%s: %s; the outcome was not written there", path, error.strerror)


def show(text: str) -> None:
    """Print `text` to stdout; a reader that has gone away is no failure."""
    with suppress(BrokenPipeError):
        encoding = sys.stdout.encoding or "utf-8"
        sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")


class TextFormatter(logging.Formatter):
    """Lines for people: the time in UTC, the level where it matters, the message."""

    converter = staticmethod(time.gmtime)

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        level = f"{record.levelname.lower()}: " if record.levelno > logging.INFO else ""
        stamp = self.formatTime(record, "%H:%M:%S")
        trace = f"\n{self.formatException(record.exc_info)}" if record.exc_info else ""
        return f"{stamp} {level}{record.getMessage()}{trace}"


class JsonFormatter(logging.Formatter):
    """One JSON object a line, with the fields that ride along with a record."""

    converter = staticmethod(time.gmtime)

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        fields = {
            "time": f"{self.formatTime(record, '%Y-%m-%dT%H:%M:%S')}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "message": record.getMessage(),
        }
        fields |= {key: value for key, value in vars(record).items() if key not in RECORD}
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return json.dumps(fields, ensure_ascii=False, default=str)


class Terminal(logging.StreamHandler[TextIO]):
    """Draws records below INFO, which are about progress, over one another; any other record clears that line."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record."""
        if not self.terminator:
            with suppress(OSError, ValueError):
                self.stream.write(CLEAR_LINE)
        self.terminator = "" if record.levelno < logging.INFO else "\n"
        super().emit(record)

    def format(self, record: logging.LogRecord) -> str:
        """Return the line; of progress what fits into one row, since a row that it wraps into stays behind."""
        line = super().format(record)
        if record.levelno < logging.INFO:
            with suppress(OSError, ValueError):
                return line[: os.get_terminal_size(self.stream.fileno()).columns - 1]
        return line


def set_up_logging(config: Config) -> None:
    """Log to stderr, as JSON where that was asked for or Kubernetes collects it, else as text."""
    is_json = config.log_format == "json" or (
        config.log_format == "auto" and config.in_kubernetes and not sys.stderr.isatty()
    )
    is_terminal = sys.stderr.isatty() and not is_json
    handler = Terminal(sys.stderr) if is_terminal else logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if is_json else TextFormatter())
    logging.captureWarnings(capture=True)  # the driver's, about a password file that others can read
    for name in (__package__, "py.warnings"):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(logging.DEBUG if is_terminal else logging.INFO)
        logger.propagate = False
    logging.raiseExceptions = False  # a closed stderr is no reason to stop
