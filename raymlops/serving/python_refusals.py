"""Tells a request that a Python node cannot take from a fault of the node: the former is the caller's to mend."""

import struct
import zlib

from raymlops.errors import InputError, RaymlopsError, shorten

_REFUSALS = (ValueError, EOFError, struct.error, zlib.error)
"""What decoders raise of data that they cannot read."""


class RefusalsNamed:
    """A context that raises InputError where the node could not take its data: images that are none, texts that are no
    number. Pillow says so by an OSError without a number of the system."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if error is None or isinstance(error, RaymlopsError):
            return
        if isinstance(error, _REFUSALS) or (isinstance(error, OSError) and error.errno is None):
            told = f": {shorten(str(error))}" if isinstance(error, ValueError) else ""
            raise InputError(f"it could not take its data, {type(error).__name__}{told}") from error
