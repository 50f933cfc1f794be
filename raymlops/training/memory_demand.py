"""The memory that a trial will take, by measured constants, and the rows that fit into what the nodes have. Starts and
stops nothing."""

from collections.abc import Iterable, Mapping

from raymlops.features import Packing

BASE_BYTES = 650 * 2**20
"""Of the process of a trial with its libraries."""
ROW_BYTES = {
    "linear": 2.0,
    "lightgbm": 16.0,
    "xgboost": 12.0,
    "forest": 10.0,
    "ebm": 25.0,
    "network": 20.0,
    "realmlp": 40.0,
    "tabm": 40.0,
}
"""Bytes for each training row and column, with a quarter as many validation rows: the growth of a process at its peak,
on 400,000 rows of 20 numbers and 5 categories. Rows in the object store are beside that, once for all trials."""
_OTHER_BYTES = 40.0
"""Of a learner that was not measured."""
_LEAST_ROWS = 1_000


def predict_bytes(learner: str, rows: int, packing: Packing) -> int:
    """Of one trial."""
    columns = packing.plain + len(packing.categories) or packing.numeric
    return BASE_BYTES + round(ROW_BYTES.get(learner, _OTHER_BYTES) * rows * columns)


def find_most_rows(
    learners: Iterable[str], rows: int, packing: Packing, free: int | None
) -> Mapping[str, int]:
    """The training rows on which a trial of each learner may train, of those that do not fit into `free` bytes with all
    rows; 0 for those that do not fit even with few. None of images, which no one has measured."""
    if free is None or packing.image:
        return {}
    found = {}
    for name in learners:
        if predict_bytes(name, rows, packing) <= free:
            continue
        per_row = (predict_bytes(name, rows, packing) - BASE_BYTES) / max(1, rows)
        fitting = int((free - BASE_BYTES) / per_row)
        found[name] = fitting if fitting >= _LEAST_ROWS else 0
    return found
