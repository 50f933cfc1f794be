"""Checks that bytes are the same as those verified before, in a tenth of the time of a SHA-256. Proves nothing to
other processes.

Uses a Galois message authentication code (NIST SP 800-38D) under a key that is made with the process and never leaves
it: without the key nobody can make other bytes with the same code, and no code is ever shown.
"""

import functools
import hmac

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_NONCE = bytes(12)
"""The same nonce for all: codes are compared here and never shown."""


@functools.cache
def _cipher() -> AESGCM:
    return AESGCM(AESGCM.generate_key(bit_length=256))


def code_of(data: bytes) -> bytes:
    """For at most 2 GiB - 1 bytes; meaningless in another process."""
    return _cipher().encrypt(_NONCE, b"", data)


def has_code(data: bytes, code: bytes) -> bool:
    """Whether the code was made from these bytes."""
    return hmac.compare_digest(code_of(data), code)
