"""The glance: is there anything to do? Without an event loop and the driver, which are nine tenths of such a start.

It knows one answer, "nothing to do". Whatever else it meets, a setting that it does not know, an error, a slow server,
it says nothing, and the program runs as if nobody had looked. It never writes.
"""

from time import monotonic

from .config import Location, from_environ, may_have_variables
from .line import Line
from .lines import to_stderr
from .outcome import Outcome
from .report import announce, finish
from .settings import DEFAULTS
from .signals import note
from .wire import Wire
from .words import newest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .config import Config
    from .files import Folder
    from .layouts.entries import Entry
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
    if (
        config.has_targets
        or config.problems
        or not location
        or location.problems
        or not location.libpq.keys() <= HONOURED
    ):
        return None, 0.0
    line = Line(location, began + min(LONGEST, config.wait_timeout or LONGEST))
    stop.action = line.interrupt
    try:
        line.dial()
        wire = Wire(line)
        wire.begin()
        from .files import visible_in  # while the server forks
        from .question import digests_sql, look_sql

        visible = visible_in(config.dir)
        folder = read(config, visible, line) if may_repeat(visible) else None  # the server is to be asked about them
        asked = [filename for _, filename, _, _ in folder.repeatable] if folder else []
        newest_version = folder.found[-1][0] if folder else 0
        wire.log_in(f"{look_sql(role, LONGEST)} {digests_sql(config.schema, config.table, asked, newest_version)}")
        folder = folder or read(config, visible, line)  # while the server looks
        is_current = wire.answer() == digests(folder, asked)
        return [filename for _, filename, _, _ in folder.found] if is_current else None, 0.0
    except Exception:  # noqa: BLE001  # the program says what it is, if it is still there
        return None, 0.0 if line.received else monotonic() - began
    finally:
        stop.action = note
        line.close()


def may_repeat(visible: "Mapping[str, Entry]") -> bool:
    """Tell whether a folder may have repeatable files: in its folders, too, where it is Flyway's."""
    starts = {name[:2] for name in visible}
    if not starts.isdisjoint(("R_", "r_")):
        return True
    return any(start[0] == "V" for start in starts) and any(entry.is_dir() for entry in visible.values())


def read(config: "Config", visible: "Mapping[str, Entry]", line: Line) -> "Folder":
    """Return the migrations in the folder. Raises BadMigrations."""
    from .files import discover

    began = monotonic()
    folder = discover(config.dir, config.layout, visible)
    line.deadline += monotonic() - began  # a slow disk is slow for the program as well
    return folder


def digests(folder: "Folder", asked: "Sequence[str]") -> str:
    """Return the answer to the question where there is nothing to do; none where it was about other repeatable files.

    Nor where one of them may declare variables, whose values count as well.
    """
    from .files import read as read_file
    from .question import digest, texts_digest

    texts = [(filename, checksum) for _, filename, checksum, _ in folder.repeatable]
    has_variables = any(may_have_variables(read_file(path)[0], folder.layout) for _, _, _, path in folder.repeatable)
    if has_variables or [filename for filename, _ in texts] != asked:
        return ""
    own = digest([(version, checksum) for version, _, checksum, _ in folder.found])
    return f"{own}{texts_digest(texts)}" if texts else own
