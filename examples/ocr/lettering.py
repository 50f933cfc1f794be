"""Letters of 8 x 8 pixels, and pages on which words of them are drawn: what the example reads."""

import dataclasses

import numpy as np
import numpy.typing as npt

LETTERS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
CELL, SCALE = 8, 4
"""Pixels of a letter's sides before it is drawn, and how often each of them is drawn each way."""
SIDE = CELL * SCALE

_ROWS = (
    "3c66666e7666663c 183818181818187e 3c66060c1830607e 3c66061c0606663c 0c1c2c4c7e0c0c0c 7e607c0606066c38 "
    "1c30607c6666663c 7e06060c18303030 3c66663c6666663c 3c6666663e060c38 183c66667e666666 7c66667c6666667c "
    "3c6660606060663c 786c666666666c78 7e60607c6060607e 7e60607c60606060 3c66606e6666663c 6666667e66666666 "
    "3c1818181818183c 1e0c0c0c0c6c6c38 666c787070706c66 606060606060607e 63777f6b63636363 66767e7e6e666666 "
    "3c6666666666663c 7c66667c60606060 3c666666666e3c06 7c66667c786c6666 3c66603c0606663c 7e18181818181818 "
    "666666666666663c 66666666663c3c18 6363636b7f776363 66663c18183c6666 6666663c18181818 7e060c183060607e "
)
"""Of each letter its rows, a byte a row, a bit a pixel."""


def draw_letters() -> npt.NDArray[np.float32]:
    """(letters, CELL, CELL) of 1 where there is ink."""
    rows = np.frombuffer(bytes.fromhex(_ROWS), np.uint8).reshape(len(LETTERS), CELL)
    return np.unpackbits(rows[:, :, None], axis=2).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Page:
    image: npt.NDArray[np.uint8]
    """(height, width, 3)."""
    words: tuple[str, ...]
    """In reading order."""
    boxes: npt.NDArray[np.int64]
    """(words, 4): left, top, right and bottom of their plates, in pixels."""


def draw_page(height: int, width: int, words: int, seed: int = 0) -> Page:
    """So many words, or as many as there is room for, each on a grey plate of its own, on light paper with noise."""
    noise = np.random.default_rng(seed)
    image = noise.integers(220, 256, (height, width, 3), np.uint8)
    letters = draw_letters()
    columns, rows = width // (10 * SIDE), height // (2 * SIDE)
    places = np.sort(noise.permutation(columns * rows)[:words])
    drawn, boxes = [], []
    for place in places.tolist():
        y, x = (place // columns) * 2 * SIDE + SCALE, (place % columns) * 10 * SIDE + SCALE
        word = "".join(noise.choice(list(LETTERS), size=noise.integers(1, 8)))
        plate = image[y : y + SIDE, x : x + len(word) * SIDE]
        plate[:] = noise.integers(150, 171, plate.shape)
        for i, letter in enumerate(word):
            ink = np.kron(letters[LETTERS.index(letter)], np.ones((SCALE, SCALE))) > 0
            image[y : y + SIDE, x + i * SIDE : x + (i + 1) * SIDE][ink] = noise.integers(0, 40)
        drawn.append(word)
        boxes.append((x, y, x + len(word) * SIDE, y + SIDE))
    return Page(image, tuple(drawn), np.array(boxes, np.int64).reshape(-1, 4))
