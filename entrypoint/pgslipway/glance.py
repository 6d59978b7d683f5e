"""The glance: is there anything to do? Without an event loop and the driver, which are nine tenths of such a start.

It knows one answer, "nothing to do". Whatever else it meets, a setting that it does not know, an error, a slow server,
it says nothing, and the program runs as if nobody had looked. It never writes.
"""

from time import monotonic

from .config import DEFAULTS, from_environ
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


def glance(arguments: "Sequence[str]", environ: "Mapping[str, str]", stop: "Stop", started: float) -> int | None:
    """Say so, and return the exit code, where there is nothing to do; else return None."""
    command = arguments[0] if arguments else "up"
    if len(arguments) > 1 or command not in COMMANDS:
        return None
    config = from_environ(environ, {}, defaults=DEFAULTS.get(command))
    filenames = look(config, config.role if command == "up" else None, stop)
    if not filenames or stop.signum:
        return None
    log = to_stderr(config)
    announce(config, log)
    outcome = Outcome(
        exit_code=0,
        result="up to date",
        message=f"up to date: {COMMANDS[command]}{newest(filenames)}",
        seconds=monotonic() - started,
    )
    return finish(outcome, config, log)


def look(config: "Config", role: str | None, stop: "Stop") -> list[str] | None:
    """Return the names of the migrations if the history has exactly them; None for anything else."""
    location = config.location
    if config.problems or not location or not location.libpq.keys() <= HONOURED:
        return None
    wire = Wire(location, monotonic() + min(LONGEST, config.wait_timeout or LONGEST))
    stop.action = wire.interrupt
    try:
        wire.dial()
        from .files import discover  # while the server forks
        from .question import digest, digest_sql, look_sql, table_name

        wire.log_in(f"{look_sql(role)} {digest_sql(table_name(config.schema, config.table))}")
        waited = monotonic()
        found = discover(config.dir)  # while the server looks
        wire.deadline += monotonic() - waited  # a slow disk is slow for the program as well
        is_current = wire.answer() == digest([(version, checksum) for version, _, checksum, _ in found])
        wire.send(b"X\0\0\0\4")
        return [filename for _, filename, _, _ in found] if is_current else None
    except Exception:  # noqa: BLE001  # the program says what it is, if it is still there
        return None
    finally:
        stop.action = note
        wire.close()
