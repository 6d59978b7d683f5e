"""The operating system for a start that does not load `os`: that takes 2 ms, a tenth of one with nothing to do."""

import posix
import sys
from _stat import S_ISREG


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
