"""Undoes in this process what importing the modules of graphs has left."""

import contextlib
import sys
from collections.abc import Iterator

from raymlops.graphs import user_modules


@contextlib.contextmanager
def forgotten() -> Iterator[None]:
    """Neither modules nor paths of what runs inside are left to others."""
    modules, places = set(sys.modules), list(sys.path)
    yield
    for name in set(sys.modules) - modules:
        if str(getattr(sys.modules[name], "__file__", "")).find("raymlops-modules-") >= 0:
            del sys.modules[name]
    sys.path[:] = places
    user_modules._FILES.clear()
