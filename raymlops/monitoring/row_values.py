"""Rows as columns of numbers and categories, (rows,) each: what a model was given and what it answered, whatever shapes
its tensors have. Of a text its length, of an image its brightness, of probabilities the class and its probability."""

import dataclasses
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Values = dict[str, npt.NDArray[Any]]

_MOST_PLACES = 16
"""Numbers of a vector that are watched each; of a longer one, their mean and their spread."""
_VOCABULARY = 2_000
_WORD = re.compile(r"\w+")


@dataclasses.dataclass(frozen=True)
class Texts:
    """Columns that hold texts, each with the most frequent words of its reference."""

    words: Mapping[str, frozenset[str]]

    @classmethod
    def fit(cls, columns: Mapping[str, npt.NDArray[Any]]) -> "Texts":
        return cls({name: _find_words(values) for name, values in columns.items()})

    def to_json(self) -> dict[str, list[str]]:
        return {name: sorted(words) for name, words in self.words.items()}

    @classmethod
    def from_json(cls, held: Mapping[str, list[str]]) -> "Texts":
        return cls({str(name): frozenset(map(str, words)) for name, words in held.items()})


def _find_words(values: npt.NDArray[Any]) -> frozenset[str]:
    counts: dict[str, int] = {}
    for value in values.tolist():
        for word in _WORD.findall(_to_text(value).lower()):
            counts[word] = counts.get(word, 0) + 1
    return frozenset(sorted(counts, key=lambda word: (-counts[word], word))[:_VOCABULARY])


def find_texts(batch: Mapping[str, npt.NDArray[Any]]) -> Texts:
    """The columns whose values are texts rather than categories: nearly each row has its own, with several words."""
    found = {}
    for name, values in batch.items():
        if values.dtype.kind in "OSU" and values.ndim <= 2 and len(values):
            texts = [_to_text(value) for value in values.ravel().tolist()]
            words = sum(len(_WORD.findall(text)) for text in texts) / len(texts)
            if words >= 3 and len(set(texts)) > 0.5 * len(texts):
                found[name] = values
    return Texts.fit(found)


def read_inputs(batch: Mapping[str, npt.NDArray[Any]], texts: Texts) -> Values:
    """Input name -> array (rows, ...) as columns."""
    found: Values = {}
    for name, values in batch.items():
        found |= _read_text(name, values, texts.words[name]) if name in texts.words else _read(name, values)
    return found


def read_answers(answer: Mapping[str, npt.NDArray[Any]], rows: int) -> Values:
    """Output name -> array as columns; outputs that have no value for each row are left out. Of probabilities or
    scores of classes, (rows, classes): the place of the largest as a category, and its value."""
    found: Values = {}
    for name, values in answer.items():
        if not values.ndim or len(values) != rows:
            continue
        if values.ndim == 2 and values.shape[1] >= 2 and values.dtype.kind == "f":
            with np.errstate(invalid="ignore"):
                place = np.where(np.isnan(values).any(axis=1), -1, values.argmax(axis=1))
            found[f"{name}: largest"] = values.max(axis=1)
            found[f"{name}: place of the largest"] = place.astype(str).astype(object)
        else:
            found |= _read(name, values)
    return found


def name_answers(answers: Values, inputs: Collection[str]) -> Values:
    """Beside inputs of the same name."""
    return {f"predicted {name}" if name in inputs else name: values for name, values in answers.items()}


def _read(name: str, values: npt.NDArray[Any]) -> Values:
    rows = len(values)
    if values.ndim == 1 or values.size == rows:
        column = values.reshape(rows)
        return {name: column.astype(np.uint8) if column.dtype.kind == "b" else column}
    if values.dtype.kind not in "fiub":
        return {}  # lists of texts: no one value to a row
    if values.ndim == 4:
        return _read_images(name, values)
    flat = values.reshape(rows, -1).astype(np.float64)
    if flat.shape[1] <= _MOST_PLACES:
        return {f"{name}[{place}]": flat[:, place] for place in range(flat.shape[1])}
    return {f"{name}: mean": flat.mean(axis=1), f"{name}: spread": flat.std(axis=1)}


def _read_text(name: str, values: npt.NDArray[Any], known: frozenset[str]) -> Values:
    texts = [_to_text(value) for value in values.ravel().tolist()]
    words = [_WORD.findall(text.lower()) for text in texts]
    unknown = [sum(word not in known for word in one) / len(one) if one else np.nan for one in words]
    return {
        f"{name}: characters": np.array([len(text) if text else np.nan for text in texts], np.float64),
        f"{name}: words": np.array([len(one) if one else np.nan for one in words], np.float64),
        f"{name}: unknown words": np.array(unknown, np.float64),
    }


def _to_text(value: Any) -> str:
    if value is None or value != value:
        return ""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _read_images(name: str, values: npt.NDArray[Any]) -> Values:
    """Of images (rows, height, width, channels) or (rows, channels, height, width)."""
    images = values.astype(np.float32)
    if images.shape[1] in (1, 3, 4) and images.shape[3] not in (1, 3, 4):
        images = images.transpose(0, 2, 3, 1)
    grey = images.mean(axis=3)
    steps = [np.abs(np.diff(grey, axis=axis)).mean(axis=(1, 2)) for axis in (1, 2) if grey.shape[axis] > 1]
    border = np.concatenate([grey[:, 0], grey[:, -1], grey[:, :, 0], grey[:, :, -1]], axis=1)
    measured: dict[str, Callable[[], Any]] = {
        "brightness": lambda: grey.mean(axis=(1, 2)),
        "contrast": lambda: grey.std(axis=(1, 2)),
        "sharpness": lambda: np.sum(steps, axis=0) / (grey.std(axis=(1, 2)) + 1e-6) if steps else None,
        "border": lambda: border.mean(axis=1),  # what a crop or a shifted frame changes
        "height": lambda: np.full(len(grey), grey.shape[1]),
        "width": lambda: np.full(len(grey), grey.shape[2]),
    }
    found = {
        f"{name}: {what}": np.asarray(one, np.float64)
        for what, make in measured.items()
        if (one := make()) is not None
    }
    if images.shape[3] in (3, 4):
        for place, channel in enumerate(("red", "green", "blue")):
            found[f"{name}: {channel}"] = images[..., place].mean(axis=(1, 2)).astype(np.float64)
    return found
