"""SCRAM-SHA-256 as a client, without channel binding: RFC 5802 and 7677, by the functions of OpenSSL."""

import posix
from _hashlib import hmac_digest, openssl_sha256, pbkdf2_hmac
from binascii import a2b_base64, b2a_base64

MECHANISM = b"SCRAM-SHA-256"
HASH = "sha256"
MOST_ITERATIONS = 100_000
"""Rounds that a server may ask for: Postgres asks for 4,096, and nothing interrupts them."""


class Scram:
    """One proof of a password to the server, and the server's to us."""

    def __init__(self, password: bytes) -> None:
        """Begin, with a password that SASLprep leaves as it is, as it does any of printable ASCII."""
        self.password = password
        self.nonce = b2a_base64(posix.urandom(18), newline=False)
        self.first = b"n,,n=,r=" + self.nonce
        self.expected = b""
        """The server's last message, if it knows the password as well."""

    def answer(self, challenge: bytes) -> bytes:
        """Return the client's last message. Raises ValueError or KeyError for a challenge that is none of ours."""
        given = dict(field.split(b"=", 1) for field in challenge.split(b","))
        iterations, salt, nonce = int(given[b"i"]), a2b_base64(given[b"s"]), given[b"r"]
        if not (nonce.startswith(self.nonce) and nonce != self.nonce and 0 < iterations <= MOST_ITERATIONS):
            raise ValueError("not an answer to this client")
        salted = pbkdf2_hmac(HASH, self.password, salt, iterations)
        key = hmac_digest(salted, b"Client Key", HASH)
        bare = b"c=biws,r=" + nonce
        signed = b",".join((self.first.removeprefix(b"n,,"), challenge, bare))
        signature = hmac_digest(openssl_sha256(key).digest(), signed, HASH)
        server_key = hmac_digest(salted, b"Server Key", HASH)
        self.expected = b"v=" + b2a_base64(hmac_digest(server_key, signed, HASH), newline=False)
        proof = bytes(one ^ other for one, other in zip(key, signature, strict=True))
        return bare + b",p=" + b2a_base64(proof, newline=False)
