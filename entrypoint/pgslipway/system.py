"""The operating system for a start that does not load `os`: that takes 2 ms, a tenth of one with nothing to do."""

import posix
import sys
from _stat import S_ISREG

PEM = b"-----BEGIN"
USER_VARIABLES = ("LOGNAME", "USER", "LNAME", "USERNAME")
"""Where the name of the user is looked for, before the user id, as in Python's getpass."""
FROM_PIPES: dict[str, bytes] = {}
"""The contents of pipes, by path: a pipe gives them only once."""


def environment() -> dict[str, str]:
    """Return the variables of this process, decoded as `os.environ` does; its own ones once somebody has loaded it."""
    if "os" in sys.modules:
        return dict(sys.modules["os"].environ)
    coding = sys.getfilesystemencoding()
    return {
        name.decode(coding, "surrogateescape"): value.decode(coding, "surrogateescape")
        for name, value in posix.environ.items()
    }


def exists(path: str) -> bool:
    """Tell whether there is something at `path`, as far as this process may look."""
    try:
        posix.stat(path)
    except (OSError, ValueError):
        return False
    return True


def is_file(path: str) -> bool:
    """Tell whether there is a regular file at `path`, or a link to one, as far as this process may look."""
    try:
        return S_ISREG(posix.stat(path).st_mode)
    except (OSError, ValueError):
        return False


def home() -> str | None:
    """Return the home folder of the user that this process runs as; None where the system knows none."""
    if (folder := environment().get("HOME")) is not None:
        return folder
    import pwd

    try:
        return pwd.getpwuid(posix.getuid()).pw_dir
    except KeyError:
        return None


def contents(path: str) -> bytes:
    """Return the contents of a file now, or of a pipe such as /dev/stdin or a shell's <(…). Raises OSError."""
    if path in FROM_PIPES:
        return FROM_PIPES[path]
    with open(path, "rb") as file:
        content = file.read()
        if not S_ISREG(posix.fstat(file.fileno()).st_mode):
            FROM_PIPES[path] = content
    return content


def login_name() -> str | None:
    """Return the name of the user that this process runs as, if the system knows one."""
    if name := next(filter(None, map(environment().get, USER_VARIABLES)), None):
        return name
    import pwd  # in a container there may be no such file, and most have PGUSER

    try:
        return pwd.getpwuid(posix.getuid()).pw_name
    except KeyError:
        return None


def system_roots() -> str:
    """Return the path of the bundle of authorities that this system trusts; empty without one."""
    import ssl  # most starts do not ask

    return ssl.get_default_verify_paths().cafile or ""


def is_pem(path: str) -> bool:
    """Tell whether there is something in PEM format in a file."""
    try:
        with open(path, "rb") as file:
            return PEM in file.read()
    except OSError:
        return False
