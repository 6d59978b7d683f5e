"""The glance: is there anything to do? Without an event loop and the driver, which are nine tenths of such a start.

It knows one answer, "nothing to do". Whatever else it meets, a setting that it does not know, an error, a slow server,
it says nothing, and the program runs as if nobody had looked. It never writes.
"""

from time import monotonic

from .config import DEFAULTS, Location, from_environ
from .line import Line
from .lines import to_stderr
from .outcome import Outcome
from .report import announce, finish
from .signals import note
from .wire import Wire
from .words import newest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .config import Config
    from .signals import Stop

LONGEST = 1.0
"""Seconds for all of it, besides the time that reading the files takes."""
COMMANDS = {"up": "nothing to do; ", "wait": ""}
"""The commands that end where there is nothing to do, and their words for it."""
HONOURED = {
    "PGHOST", "PGHOSTADDR", "PGPORT", "PGUSER", "PGPASSWORD", "PGDATABASE", "PGSSLMODE", "PGSSLROOTCERT",
    "PGOPTIONS", "PGTZ", "PGDATESTYLE", "PGGEQO",
}  # fmt: skip
"""The variables that this look reads as the program does; any other one is left to it."""


def glance(
    arguments: "Sequence[str]", environ: "Mapping[str, str]", stop: "Stop", started: float
) -> tuple[int | None, float]:
    """Where there is nothing to do, say so, and return the exit code; else return None.

    And the seconds that a server was waited for in vain: they count into MIGRATE_WAIT_TIMEOUT.
    """
    command = arguments[0] if arguments else "up"
    if len(arguments) > 1 or command not in COMMANDS:
        return None, 0.0
    config = from_environ(environ, {}, defaults=DEFAULTS.get(command), needs_database=False)

    def end(exit_code: int, result: str, message: str) -> int:
        stop.report = note
        seconds = monotonic() - started
        outcome = Outcome(exit_code=exit_code, result=result, message=message, seconds=seconds)
        return finish(outcome, config, to_stderr(config))

    def report() -> int:
        from .errors import Stopped

        stopped = Stopped(stop.signum, overdue=True)
        return end(stopped.exit_code, stopped.result, str(stopped))

    stop.report = report
    config = config.but(location=Location(environ))
    filenames, waited = look(config, config.role if command == "up" else None, stop)
    if not filenames or stop.signum:
        return None, waited
    announce(config, to_stderr(config))
    return end(0, "up to date", f"up to date: {COMMANDS[command]}{newest(filenames)}"), 0.0


def look(config: "Config", role: str | None, stop: "Stop") -> tuple[list[str] | None, float]:
    """Return the names of the migrations if the history has exactly them, else None; and the seconds in vain."""
    location, began = config.location, monotonic()
    if config.problems or not location or location.problems or not location.libpq.keys() <= HONOURED:
        return None, 0.0
    line = Line(location, began + min(LONGEST, config.wait_timeout or LONGEST))
    stop.action = line.interrupt
    try:
        line.dial()
        wire = Wire(line)
        wire.begin()
        from .files import discover  # while the server forks
        from .question import digest, digest_sql, look_sql, table_name

        wire.log_in(f"{look_sql(role, LONGEST)} {digest_sql(table_name(config.schema, config.table))}")
        waited = monotonic()
        found = discover(config.dir, config.layout).found  # while the server looks
        line.deadline += monotonic() - waited  # a slow disk is slow for the program as well
        is_current = wire.answer() == digest([(version, checksum) for version, _, checksum, _ in found])
        return [filename for _, filename, _, _ in found] if is_current else None, 0.0
    except Exception:  # noqa: BLE001  # the program says what it is, if it is still there
        return None, 0.0 if line.received else monotonic() - began
    finally:
        stop.action = note
        line.close()
