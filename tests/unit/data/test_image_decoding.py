import io
import pathlib

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from raymlops.data.fitting import type_of
from raymlops.data.image_decoding import decode_columns
from raymlops.errors import DataError
from raymlops.features import stack_images
from raymlops.specs.dataset import ImageColumn

PIXELS = np.random.default_rng(0).integers(0, 256, (3, 8, 6, 3), dtype=np.uint8)


def encode(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def test_bytes_and_paths_become_the_pixels_that_were_saved(tmp_path: pathlib.Path) -> None:
    names = []
    for number, pixels in enumerate(PIXELS):
        (tmp_path / f"{number}.png").write_bytes(encode(pixels))
        names.append(f"{number}.png")
    table = pa.table({"held": [encode(pixels) for pixels in PIXELS], "named": names, "other": [1, 2, 3]})
    found = decode_columns(
        table,
        {"held": ImageColumn(size=(8, 6)), "named": ImageColumn(size=(4, 3), mode="L", folder=str(tmp_path))},
    )
    assert type_of(found.schema.field("held").type, "held") == "image"
    np.testing.assert_array_equal(stack_images(found["held"]), PIXELS)
    assert stack_images(found["named"]).shape == (3, 4, 3)
    assert found["other"].to_pylist() == [1, 2, 3]


def test_values_that_are_no_images_are_told_with_the_reason(tmp_path: pathlib.Path) -> None:
    good = encode(PIXELS[0])
    bomb = encode(np.zeros((10_000, 10_000), dtype=np.uint8))
    for bad, said in (
        (good[:60], "values that are no images"), (b"", "cannot identify"), (None, "missing"),
        (bomb, "exceeds limit of"),
    ):  # fmt: skip
        with pytest.raises(DataError, match=said):
            decode_columns(
                pa.table({"c": pa.array([good, bad], pa.binary())}), {"c": ImageColumn(size=(8, 6))}
            )
    for column, said in ((["none.png"], "none.png"), ([1], "expected the bytes of image files")):
        with pytest.raises(DataError, match=said):
            decode_columns(pa.table({"c": column}), {"c": ImageColumn(size=(8, 6), folder=str(tmp_path))})
    with pytest.raises(DataError, match="did you mean 'photo'"):
        decode_columns(pa.table({"photo": [good]}), {"foto": ImageColumn(size=(8, 6))})
