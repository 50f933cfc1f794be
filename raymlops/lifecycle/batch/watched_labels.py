"""Labels of rows beside a model's answers: which answer a label is compared with, and labels as class numbers or as
numbers. Values that are no label of the model are told apart from missing ones, and none is an error: other labels than
before are a finding."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raymlops.conversions.conversion import Conversion
from raymlops.errors import ArtifactError, DataError, unknown_name
from raymlops.lifecycle.govern.scoring import SCORE_OF_TASK, features_of
from raymlops.monitoring import row_values
from raymlops.monitoring.calibration import Calibration, Labels, Task
from raymlops.monitoring.cells import to_text

Floats = npt.NDArray[np.floating[Any]]


@dataclasses.dataclass(frozen=True)
class LabelledAnswer:
    """An output of a model, and the column that says what was right. `classes` in the order of the output's places, as
    texts; empty for numbers."""

    column: str
    task: Task
    output: str
    classes: tuple[str, ...] = ()
    conversion: Conversion | None = None

    def read(self, values: pa.ChunkedArray) -> Floats:
        """Class numbers or numbers (rows,): NaN where missing, -1 for what no class of the model is."""
        if self.conversion is not None:
            converted = self.conversion.apply(values)
            failed = converted.failed
            values = converted.values
        else:
            failed = np.zeros(len(values), bool)
        if pa.types.is_dictionary(values.type):
            values = values.cast(values.type.value_type)
        if self.task == "regression":
            converted = Conversion("number").apply(values)
            return np.asarray(converted.values.cast(pa.float64()).to_numpy(), np.float64)
        places = {name: float(place) for place, name in enumerate(self.classes)}
        found = [_find_place(value, places) for value in values.to_pylist()]
        return np.where(failed, -1.0, np.array(found, np.float64))

    def join(self, answered: Mapping[str, npt.NDArray[Any]], labels: Floats, inputs: Sequence[str]) -> Labels:
        """Labels (rows,) beside the answers to these rows; `inputs` are the names of the model's inputs."""
        values = answered[self.output]
        score = row_values.name_score(self.output, values)
        named = next(iter(row_values.name_answers({score: values}, inputs)))
        found = Labels.of_answers(self.task, named, self.column, values, labels)
        return dataclasses.replace(found, output=self.output, classes=self.classes)


def _find_place(value: Any, places: Mapping[str, float]) -> float:
    text = to_text(value)
    if text is None:
        return float("nan")
    if isinstance(value, bool) and text not in places:  # classes of a boolean may be 0 and 1
        text = str(int(value))
    return places.get(text, -1.0)


def find_labelled_answer(contract: Mapping[str, Any]) -> LabelledAnswer | None:
    """Of the model's contract; None for a model of another origin."""
    try:
        target = features_of(contract).target
    except ArtifactError:
        return None
    classes = tuple(str(int(one)) if isinstance(one, bool) else str(to_text(one)) for one in target.classes)
    task: Task = target.task
    return LabelledAnswer(target.name, task, SCORE_OF_TASK[task], classes, target.conversion)


def labelled_answer_of(calibration: Calibration, contract: Mapping[str, Any]) -> LabelledAnswer:
    """Of a reference that was made with labels: that of the model's contract if it is of the same output."""
    known = find_labelled_answer(contract)
    if known is not None and calibration.output in ("", known.output):
        return dataclasses.replace(known, column=calibration.target)
    return LabelledAnswer(calibration.target, calibration.task, calibration.output, calibration.classes)


def guess_labelled_answer(
    column: str, values: pa.ChunkedArray, answered: Mapping[str, npt.NDArray[Any]], output: str = ""
) -> LabelledAnswer:
    """Of a model of another origin, from labels and its answers to the same rows: probabilities of classes where its
    output has several numbers to a row, a probability where it has one from 0 to 1 and labels have two values, else
    a number. Classes are in the order of their values, as scikit-learn has them. Raises DataError."""
    rows = len(values)
    able = [name for name, one in answered.items() if one.dtype.kind == "f" and one.ndim and len(one) == rows]
    if output and output not in able:
        raise DataError(f"--answer: {unknown_name('output with numbers', output, able)}")
    chosen = [output] if output else able
    if len(chosen) != 1:
        told = ", ".join(map(repr, able)) or "none has numbers"
        raise DataError(f"Say with which output labels are compared, with --answer: {told}")
    scores = answered[chosen[0]].reshape(rows, -1)
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    distinct = sorted(one for one in values.unique().to_pylist() if to_text(one) is not None)
    classes = tuple(str(int(one)) if isinstance(one, bool) else str(to_text(one)) for one in distinct)
    if scores.shape[1] == 1:
        with np.errstate(invalid="ignore"):
            is_chance = len(classes) == 2 and not ((scores < 0) | (scores > 1)).any()
        if is_chance:
            return LabelledAnswer(column, "binary", chosen[0], classes)
        return LabelledAnswer(column, "regression", chosen[0])
    if len(classes) != scores.shape[1]:
        places = tuple(map(str, range(scores.shape[1])))
        if not set(classes) <= set(places):
            raise DataError(
                f"Column {column!r} has {len(classes)} different labels, and {chosen[0]!r} {scores.shape[1]} classes; "
                "give rows with a label of each class, or labels that are the places of the classes, from 0"
            )
        classes = places
    task: Task = "binary" if scores.shape[1] == 2 else "multiclass"
    return LabelledAnswer(column, task, chosen[0], classes)
