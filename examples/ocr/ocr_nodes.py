"""The nodes in Python of the example: what stands between its models. Needs numpy alone; see docs/python_nodes.md."""

from typing import Any

import numpy as np
import numpy.typing as npt

Batch = dict[str, npt.NDArray[Any]]
CELL, LONGEST = 8, 8


class Regions:
    """image and heat -> boxes and crops: any number for each image."""

    rows_independent = True  # each image is looked at by itself

    def __init__(self, threshold: float = 0.5, field: int = 4) -> None:
        """`field` is how many pixels of the image, each way, one of the heat stands for."""
        self._threshold = threshold
        self._field = field

    def run(self, batch: Batch) -> Batch:
        images, heat = batch["image"], batch["heat"]
        boxes, crops = np.empty(len(images), object), np.empty(len(images), object)
        for row, (image, warm) in enumerate(zip(images, heat > self._threshold, strict=True)):
            height, width = image.shape[:2]
            found = np.array(find_boxes(warm), np.int64).reshape(-1, 4) * self._field
            found = np.minimum(found, [width, height, width, height])  # the last fields may be cut
            boxes[row] = found
            parts = [cut(image, *box) for box in found.tolist()]
            crops[row] = np.array(parts, np.float32).reshape(-1, CELL, CELL * LONGEST)
        return {"boxes": boxes, "crops": crops}


class Decode:
    """letters, by number -> texts."""

    rows_independent = True

    def __init__(self, letters: str) -> None:
        self._letters = np.array([*letters, ""])

    def run(self, batch: Batch) -> Batch:
        texts = np.empty(len(batch["letters"]), object)
        for row, found in enumerate(batch["letters"]):
            words = ["".join(word) for word in self._letters[found]]
            texts[row] = np.array(words, object)
        return {"texts": texts}


def find_boxes(warm: npt.NDArray[np.bool_]) -> list[tuple[int, int, int, int]]:
    """left, top, right, bottom of what is warm, in reading order; plates stand in lines."""
    return [
        (left, top, right, bottom)
        for top, bottom in find_runs(warm.any(axis=1))
        for left, right in find_runs(warm[top:bottom].any(axis=0))
    ]


def find_runs(line: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Where each run of true values begins and ends."""
    changes = np.flatnonzero(np.diff(np.concatenate([[False], line, [False]]).astype(np.int8)))
    return [(int(start), int(end)) for start, end in changes.reshape(-1, 2)]


def cut(
    image: npt.NDArray[np.uint8], left: int, top: int, right: int, bottom: int
) -> npt.NDArray[np.float32]:
    """The ink in a box, 0 to 1, scaled to the height of a letter, and filled up to the longest text."""
    height, width = bottom - top, right - left
    columns = min(CELL * LONGEST, max(1, round(width * CELL / height)))
    y = top + ((np.arange(CELL) + 0.5) * height / CELL).astype(int)
    x = left + ((np.arange(columns) + 0.5) * width / columns).astype(int)
    ink = np.zeros((CELL, CELL * LONGEST), np.float32)
    ink[:, :columns] = image[y][:, x].mean(axis=2) < 100
    return ink
