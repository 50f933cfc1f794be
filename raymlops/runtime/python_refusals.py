"""Tells a request that a Python node cannot take from a fault of the node: the former is the caller's to fix."""

import struct
import zlib

from raymlops.errors import InputError, RaymlopsError, shorten

_REFUSALS = (ValueError, EOFError, struct.error, zlib.error)
"""What decoders raise of data that they cannot read."""


_NETWORK = frozenset({"aiohttp", "http", "httpx", "requests", "socket", "ssl", "urllib", "urllib3"})
"""Packages whose errors are of the system's kind, too, but tell of another service."""


def _is_unreadable_file(error: BaseException) -> bool:
    """What Pillow and other readers say by an OSError without a number of the system."""
    if not isinstance(error, OSError) or error.errno is not None:
        return False
    is_network = type(error).__module__.partition(".")[0] in _NETWORK
    return not is_network and not isinstance(error, TimeoutError | ConnectionError)


class RefusalsNamed:
    """A context that raises InputError where the node could not take its data: images that are none, texts that are no
    number."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if error is None or isinstance(error, RaymlopsError):
            return
        if isinstance(error, _REFUSALS) or _is_unreadable_file(error):
            told = f": {shorten(str(error))}" if isinstance(error, ValueError) else ""
            raise InputError(f"it could not take its data, {type(error).__name__}{told}") from error
