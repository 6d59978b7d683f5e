"""The checksums with which other tools tell an edited file, each over the file as it is."""

import hashlib
import re
import zlib

LINE_END = re.compile(rb"\r\n|\n|\r")
BOM = b"\xef\xbb\xbf"
MASK = 2**64 - 1


def flyway(text: bytes) -> int:
    """Return Flyway's CRC-32 over the lines without their ends, as a signed number of 32 bits."""
    number = zlib.crc32(LINE_END.sub(b"", text.removeprefix(BOM)))
    return number - 2**32 if number >= 2**31 else number


def sqlx(text: bytes) -> bytes:
    """Return sqlx's SHA-384."""
    return hashlib.sha384(text).digest()


def prisma(text: bytes) -> set[str]:
    """Return the SHA-256 sums that Prisma takes for a file's: of any line ends, and as old versions wrote them."""
    unix = text.replace(b"\r\n", b"\n")
    digests = [hashlib.sha256(variant).digest() for variant in (text, unix, unix.replace(b"\n", b"\r\n"))]
    return {digest.hex() for digest in digests} | {"".join(f"{byte:x}" for byte in digest) for digest in digests}


def drizzle(text: bytes) -> str:
    """Return Drizzle's SHA-256."""
    return hashlib.sha256(text).hexdigest()


def refinery(name: str, version: int, text: bytes) -> set[str]:
    """Return refinery's SipHash-1-3, for versions of 32 and of 64 bits."""
    return {
        str(siphash13(name.encode() + b"\xff" + version.to_bytes(size, "little") + text + b"\xff"))
        for size in (4, 8)
        if version < 2 ** (8 * size - 1)
    }


def siphash13(data: bytes) -> int:
    """Return SipHash with one round for each word, three at the end, and a key of zeros."""
    state = [0x736F6D6570736575, 0x646F72616E646F6D, 0x6C7967656E657261, 0x7465646279746573]
    whole = len(data) - len(data) % 8
    words = [int.from_bytes(data[place : place + 8], "little") for place in range(0, whole, 8)]
    words.append((len(data) & 0xFF) << 56 | int.from_bytes(data[whole:], "little"))
    for word in words:
        state[3] ^= word
        sip_round(state)
        state[0] ^= word
    state[2] ^= 0xFF
    for _ in range(3):
        sip_round(state)
    return state[0] ^ state[1] ^ state[2] ^ state[3]


def sip_round(state: list[int]) -> None:
    """Mix the four words of the state."""
    a, b, c, d = state
    a = a + b & MASK
    b = rotated(b, 13) ^ a
    a = rotated(a, 32)
    c = c + d & MASK
    d = rotated(d, 16) ^ c
    a = a + d & MASK
    d = rotated(d, 21) ^ a
    c = c + b & MASK
    b = rotated(b, 17) ^ c
    c = rotated(c, 32)
    state[:] = a, b, c, d


def rotated(word: int, bits: int) -> int:
    """Return a word of 64 bits, rotated to the left."""
    return (word << bits | word >> (64 - bits)) & MASK
