"""Fixes tracebacks in logs. Serve replaces `print` in its replicas by one that writes the tuple of its arguments to
any file but stdout; `logging` and `traceback` print tracebacks that way, in Serve's own log too. Writes no log."""

import builtins
import logging
import sys
import traceback
from typing import Any

from raymlops.serving import serve_internals


class TracebackFormatter(logging.Formatter):
    """Like logging's own method, whatever `print` was replaced by."""

    def formatException(self, ei: Any) -> str:  # noqa: N802
        return "".join(traceback.format_exception(*ei)).rstrip("\n")


def repair_print() -> None:
    """Make Serve's `print` write text to files; any other replacement is left unchanged."""
    redirected, original = serve_internals.find_prints()
    if redirected is None or builtins.print is not redirected:
        return

    def print_text(
        *objects: Any, sep: str | None = " ", end: str | None = "\n", file: Any = None, flush: bool = False
    ) -> None:
        if file is None or file in (sys.stdout, sys.stderr):  # logged as Serve does, with the caller's line
            message = (" " if sep is None else sep).join(map(str, objects)) + ("\n" if end is None else end)
            logging.getLogger("ray.serve").info(message, stacklevel=2)
        else:
            original(*objects, sep=sep, end=end, file=file, flush=flush)

    builtins.print = print_text
