"""What can be found wrong before a cluster is started, which takes seconds: files that do not exist. Reads none."""

import pathlib
from collections.abc import Iterable

from raymlops import locations
from raymlops.specs.dataset import CAPTURED, TableSpec


def require_files(tables: Iterable[TableSpec]) -> None:
    """Raises NotFoundError or DataError for a local file that does not exist or is empty; others are found when they
    are read."""
    for table in tables:
        if table.reader == CAPTURED:
            continue
        paths = [table.path] if isinstance(table.path, str) else table.path or ()
        if all(locations.is_remote(path) or _has_content(path) for path in paths):
            continue
        from raymlops.data.sources import locate  # imports Ray Data, for its message only

        locate(tuple(paths))


def _has_content(path: str) -> bool:
    try:
        found = pathlib.Path(path).stat()
    except (OSError, ValueError):
        return False
    return found.st_size > 0
