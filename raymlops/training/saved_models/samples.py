"""The sample rows of a conversion as the arrays that other libraries take."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raymlops.errors import DataError


def require_numbers(sample: pa.Table, names: Sequence[str]) -> None:
    """Raises DataError unless these columns are numbers."""
    for name in names:
        if not is_number(kind := sample.schema.field(name).type):
            raise DataError(
                f"Column {name!r} of the sample is {kind}; the model takes numbers. Give the columns as it was "
                "trained on them, encoded: how categories became numbers is not in its file"
            )


def to_numbers(sample: pa.Table, names: Sequence[str]) -> npt.NDArray[np.float64]:
    """(rows, columns) of these columns of numbers, NaN where missing."""
    found = np.empty((sample.num_rows, len(names)))
    for place, name in enumerate(names):
        values = sample[name]
        numbers = values.cast(pa.int8()) if pa.types.is_boolean(values.type) else values
        found[:, place] = numbers.cast(pa.float64(), safe=False).to_numpy()
    return found


def is_number(kind: pa.DataType) -> bool:
    types = pa.types
    return bool(
        types.is_integer(kind)
        or types.is_floating(kind)
        or types.is_decimal(kind)
        or types.is_boolean(kind)
        or types.is_null(kind)
    )
