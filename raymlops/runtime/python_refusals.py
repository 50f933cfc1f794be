"""Distinguishes a request that a Python node cannot process, which the caller can fix, from a fault of the node."""

import struct
import zlib

from raymlops.errors import InputError, RaymlopsError, shorten

_REFUSALS = (ValueError, EOFError, struct.error, zlib.error)
"""Errors that decoders raise for data that they cannot read."""


_NETWORK = frozenset({"aiohttp", "http", "httpx", "requests", "socket", "ssl", "urllib", "urllib3"})
"""Packages whose errors are OSErrors too, but are about another service."""


def _is_unreadable_file(error: BaseException) -> bool:
    """OSErrors without an errno, by which Pillow and other readers report bad data."""
    if not isinstance(error, OSError) or error.errno is not None:
        return False
    is_network = type(error).__module__.partition(".")[0] in _NETWORK
    return not is_network and not isinstance(error, TimeoutError | ConnectionError)


class RefusalsAsInputErrors:
    """A context that raises InputError if the node could not process its data: images that are not images, texts that
    are not numbers."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if error is None or isinstance(error, RaymlopsError):
            return
        if isinstance(error, _REFUSALS) or _is_unreadable_file(error):
            told = f": {shorten(str(error))}" if isinstance(error, ValueError) else ""
            raise InputError(f"it could not process its data, {type(error).__name__}{told}") from error
