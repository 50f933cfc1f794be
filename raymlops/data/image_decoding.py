"""Columns of encoded images, as bytes or as paths of files, into columns of pixels of one size. Reads no tables."""

import io
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from ray.data.extensions import ArrowTensorArray

from raymlops import locations
from raymlops.errors import DataError, StorageError, shorten, unknown_name
from raymlops.specs.dataset import ImageColumn

_SHOWN = 3

Pixels = npt.NDArray[np.uint8]


def decode_columns(table: pa.Table, images: Mapping[str, ImageColumn]) -> pa.Table:
    """The table with pixels (rows, height, width[, channels]) UINT8 in these columns.

    Raises DataError for a column that the table lacks, and for values that are no images.
    """
    if table.num_columns == 0:
        return table
    for name, how in images.items():
        if name not in table.column_names:
            raise DataError(f"dataset.images: {unknown_name('column', name, table.column_names)}")
        pixels = _decode_column(table[name], name, how)
        table = table.set_column(table.column_names.index(name), name, ArrowTensorArray.from_numpy(pixels))
    return table


def _decode_column(values: pa.ChunkedArray, name: str, how: ImageColumn) -> Pixels:
    kinds = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)
    if not any(matches(values.type) for matches in kinds):
        raise DataError(
            f"dataset.images: column {name!r} is {values.type}; expected the bytes of image files, or their paths"
        )
    height, width = how.size
    found = np.zeros((len(values), height, width, *((3,) if how.mode == "RGB" else ())), dtype=np.uint8)
    wrong = []
    for row, value in enumerate(values.to_pylist()):
        try:
            found[row] = _decode(value, how)
        except (OSError, ValueError, SyntaxError, StorageError, MemoryError) as error:
            shown = shorten(value, 60) if isinstance(value, str) else f"row {row + 1:,} of a block"
            wrong.append(f"{shown} ({shorten(' '.join(str(error).split()), 80)})")
    if wrong:
        raise DataError(
            f"Column {name!r} has {len(wrong):,} values that are no images, such as {'; '.join(wrong[:_SHOWN])}; leave "
            "such rows out by dataset.where, or mend the files"
        )
    return found


def _decode(value: Any, how: ImageColumn) -> Pixels:
    """Raises OSError, ValueError, SyntaxError."""
    from PIL import Image  # not needed by tables without images

    if value is None:
        raise ValueError("missing")
    data = (
        value
        if isinstance(value, bytes)
        else _read(locations.join(how.folder, value) if how.folder else value)
    )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(str(error)) from None
    with image:
        height, width = how.size
        return np.asarray(image.convert(how.mode).resize((width, height), Image.Resampling.BILINEAR))


def _read(path: str) -> bytes:
    files, place = locations.open_location(path)
    with files.open(place, "rb") as file:
        return bytes(file.read())
