"""Two rare cases of reading a file: a large one, mapped so that memory stays bounded, and one that is not UTF-8.

No heavy import, since the glance reads files too.
"""

import io
from _hashlib import openssl_sha256 as sha256
from codecs import getincrementaldecoder
from mmap import ACCESS_READ, mmap

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

PIECE = 1 << 16


def read_large(
    descriptor: int, part: "Callable[[bytes | mmap], tuple[int, int]] | None", longest: int
) -> "tuple[bytes | mmap, str]":
    """Return what `files.read` does of a file, and hold no more than `longest` bytes of it."""
    source: bytes | mmap = mmap(descriptor, 0, access=ACCESS_READ)
    start, end = part(source) if part else (0, len(source))
    source[:start].decode()  # which raises
    if end <= longest:
        source = source[:end]
    elif end < len(source):
        source = mmap(descriptor, end, access=ACCESS_READ)
    digest = sha256()
    decoder = io.IncrementalNewlineDecoder(getincrementaldecoder("utf-8-sig")(), translate=True)
    for place in range(start, end, PIECE):
        digest.update(decoder.decode(source[place : min(place + PIECE, end)]).encode())
    digest.update(decoder.decode(b"", final=True).encode())
    return source, digest.hexdigest()


def undecodable_line(path: str) -> int:
    """Return the number of the first line that is not UTF-8."""
    with io.FileIO(path) as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode()
            except UnicodeDecodeError:
                return number
    raise AssertionError(f"{path} is UTF-8 after all")
