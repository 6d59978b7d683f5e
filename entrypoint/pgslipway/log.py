"""Log lines on stderr, as text for people or as JSON."""

import logging
import os
import sys
from contextlib import suppress
from contextvars import ContextVar
from typing import TextIO

from .config import Config
from .lines import is_json, json_line, text_line

CLEAR_LINE = "\r\x1b[K"
"""Back to the start of the line, and erase it (ECMA-48)."""
TARGET: ContextVar[str] = ContextVar("target", default="")
"""The target that is being worked on, of many; each line of the log has it."""
RECORD = {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"}
"""The attributes that every log record has; the others are fields of ours."""


class TextFormatter(logging.Formatter):
    """Lines for people."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        trace = f"\n{self.formatException(record.exc_info)}" if record.exc_info else ""
        target = f"{TARGET.get()}: " if TARGET.get() else ""
        return text_line(record.created, record.levelname.lower(), f"{target}{record.getMessage()}{trace}")


class JsonFormatter(logging.Formatter):
    """One JSON object a line, with the fields that ride along with a record."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        fields = {"target": TARGET.get()} if TARGET.get() else {}
        fields |= {key: value for key, value in vars(record).items() if key not in RECORD}
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return json_line(record.created, record.levelname.lower(), record.getMessage(), fields)


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
        """Return the line; a line about progress is cut to one row, since a second row would not be drawn over."""
        line = super().format(record)
        if record.levelno < logging.INFO:
            with suppress(OSError, ValueError):
                return line[: os.get_terminal_size(self.stream.fileno()).columns - 1]
        return line


def set_up_logging(config: Config) -> None:
    """Log to stderr, as JSON where that was asked for or Kubernetes collects it, else as text."""
    has_json = is_json(config)
    is_terminal = sys.stderr.isatty() and not has_json
    handler = Terminal(sys.stderr) if is_terminal else logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if has_json else TextFormatter())
    logging.captureWarnings(capture=True)  # the driver's, about a password file that others can read
    for name in (__package__, "py.warnings"):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(logging.DEBUG if is_terminal else logging.INFO)
        logger.propagate = False
    logging.raiseExceptions = False  # a closed stderr is no reason to stop
    # No line says from where it comes: https://docs.python.org/3/howto/logging.html#optimization
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None
