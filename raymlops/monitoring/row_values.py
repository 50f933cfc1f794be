"""Rows as columns of numbers and categories, (rows,) each: what a model was given and what it answered, whatever shapes
its tensors have. Of a text its length, of an image its brightness, of probabilities the class and its probability.

A row's values do not depend on the rows beside it, so that rows may be counted in any parts.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Values = dict[str, npt.NDArray[Any]]

_MOST_PLACES = 16
"""Numbers of a vector that are watched each; of a longer one its mean, its spread, and its lengths in 8 directions."""
_DIRECTIONS = 8
_LEAST_IMAGE = 8
"""Pixels of a side from which a grid of numbers is an image."""
_LENGTHS = "_lengths"
"""Ending of the tensor that holds how many elements of another one are a row's; the others fill it up."""
EXPLANATIONS = frozenset({"contributions"})
"""Outputs that explain an answer."""
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
        lengths = batch.get(name + _LENGTHS)
        if name in texts.words:
            found |= _read_text(name, values, texts.words[name])
        elif lengths is not None and values.ndim > 1 and lengths.ndim == 1:
            found |= _read_list(name, values, lengths)
        else:
            found |= _read(name, values)
    return found


def read_answers(answer: Mapping[str, npt.NDArray[Any]], rows: int) -> Values:
    """Output name -> array as columns; outputs that have no value for each row are left out. Of several numbers to a
    row also the place of the largest as a category, and its value: they may be probabilities or scores of classes. A
    reference keeps those of them that `choose_answers` chose."""
    found: Values = {}
    for name, values in answer.items():
        if not values.ndim or len(values) != rows:
            continue
        found |= _read(name, values)
        if _is_vector(values):
            with np.errstate(invalid="ignore"):
                place = np.where(np.isnan(values).any(axis=1), -1, values.argmax(axis=1))
            found[f"{name}: largest"] = values.max(axis=1)
            found[f"{name}: place of the largest"] = place.astype(str).astype(object)
    return found


def _is_vector(values: npt.NDArray[Any]) -> bool:
    return values.ndim == 2 and values.shape[1] >= 2 and values.dtype.kind == "f"


def choose_answers(
    answer: Mapping[str, npt.NDArray[Any]], rows: int, classes: Collection[str] = ()
) -> tuple[Values, dict[str, str]]:
    """Of an answer to reference rows, the columns that are watched, and why outputs are not. Of the probabilities of
    two classes that of the second says all; of more the likeliest class and its probability do. `classes` are outputs
    that are known to be scores of classes."""
    found: Values = {}
    left_out: dict[str, str] = {}
    for name, values in answer.items():
        if name in EXPLANATIONS:
            left_out[name] = "it explains an answer, which is watched itself"
            continue
        columns = read_answers({name: values}, rows)
        if not columns:
            left_out[name] = _explain(values, rows)
        if _is_vector(values) and len(values) == rows:
            top = {f"{name}: largest", f"{name}: place of the largest"}
            if name in classes or _are_probabilities(values):
                wanted = {f"{name}[1]"} if values.shape[1] == 2 else top
                columns = {key: column for key, column in columns.items() if key in wanted}
            else:
                columns = {key: column for key, column in columns.items() if key not in top}
        found |= columns
    return found, left_out


def name_score(name: str, values: npt.NDArray[Any]) -> str:
    """The column of an output with the number that a label is compared with: the probability of the second class of
    two, that of the likeliest of more, or the prediction."""
    if not _is_vector(values):
        return name
    return f"{name}[1]" if values.shape[1] == 2 else f"{name}: largest"


def _are_probabilities(values: npt.NDArray[Any]) -> bool:
    held = values[np.isfinite(values).all(axis=1)]
    inside = (held >= 0) & (held <= 1)
    return bool(len(held)) and bool(inside.all()) and bool(np.allclose(held.sum(axis=1), 1.0, atol=1e-3))


def explain_inputs(batch: Mapping[str, npt.NDArray[Any]], rows: int, texts: Texts) -> dict[str, str]:
    """Why inputs are not watched."""
    found = {}
    for name, values in batch.items():
        by_row = values.ndim and len(values) == rows
        if not by_row or not read_inputs({**_only(batch, name), name: values}, texts):
            found[name] = _explain(values, rows)
    return found


def _only(batch: Mapping[str, npt.NDArray[Any]], name: str) -> dict[str, npt.NDArray[Any]]:
    return {name + _LENGTHS: batch[name + _LENGTHS]} if name + _LENGTHS in batch else {}


def _explain(values: npt.NDArray[Any], rows: int) -> str:
    if not values.ndim or len(values) != rows:
        return "it has no value for each row"
    if values.size == 0:
        return "its rows are empty"
    return "its rows are lists of texts"


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
    if values.size == 0:
        return {}
    if values.ndim == 4:
        return _read_images(name, values)
    if values.ndim == 3 and min(values.shape[1:]) >= _LEAST_IMAGE:
        return {**_read_vector(name, values), **_read_images(name, values[..., None])}
    return _read_vector(name, values)


def _read_vector(name: str, values: npt.NDArray[Any]) -> Values:
    flat = np.ascontiguousarray(values.reshape(len(values), -1), np.float64)
    width = flat.shape[1]
    if width <= _MOST_PLACES:
        return {f"{name}[{place}]": flat[:, place] for place in range(width)}
    found = {f"{name}: mean": flat.mean(axis=1), f"{name}: spread": flat.std(axis=1)}
    for number in range(1, _DIRECTIONS + 1):
        # each row is summed by itself: a product of matrices depends on how many rows there are
        found[f"{name}: direction {number}"] = (flat * _find_direction(width, number)).sum(axis=1)
    return found


@functools.lru_cache(maxsize=256)
def _find_direction(width: int, number: int) -> npt.NDArray[np.float64]:
    """A unit vector, the same on every machine: signs by the fractional parts of multiples of irrational numbers."""
    parts = np.modf(np.arange(1, width + 1) * math.sqrt(_PRIMES[number - 1]))[0]
    return np.where(parts < 0.5, 1.0, -1.0) / math.sqrt(width)


_PRIMES = (2, 3, 5, 7, 11, 13, 17, 19)


def _read_list(name: str, values: npt.NDArray[Any], lengths: npt.NDArray[Any]) -> Values:
    """Of rows with several numbers each, as many as the row's length; the length is a column of its own. Of lists of
    texts there is nothing but that."""
    if values.dtype.kind not in "fiub" or values.shape[1] == 0:
        return {}
    held = np.arange(values.shape[1]) < lengths[:, None]
    flat = values.astype(np.float64).reshape(*values.shape[:2], -1).mean(axis=2)
    counts = held.sum(axis=1)
    mean = np.where(held, flat, 0.0).sum(axis=1) / np.maximum(counts, 1)
    square = np.where(held, (flat - mean[:, None]) ** 2, 0.0).sum(axis=1) / np.maximum(counts, 1)
    empty = counts == 0
    return {
        f"{name}: mean": np.where(empty, np.nan, mean),
        f"{name}: spread": np.where(empty, np.nan, np.sqrt(square)),
    }


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
