"""The functions of a notebook take what a notebook holds, and say in a sentence what they do not."""

import pathlib
from typing import Any

import numpy as np
import pandas as pd
import pytest

import raymlops
from raymlops.errors import DataError, SpecError
from tests import toy_models

SPEC: dict[str, Any] = {
    "name": "toy",
    "dataset": {"path": pathlib.Path("rows.csv")},
    "features": {"target": {"column": "y"}, "numbers": np.array(["a", "b"])},
}


def test_specs_are_made_of_paths_and_numbers_of_numpy_too() -> None:
    found = raymlops.read_spec(SPEC, {"search.trials": np.int64(3), "training.lr": np.float32(0.5)})
    assert (found.dataset.path, found.features.numbers) == ("rows.csv", ("a", "b"))
    assert (found.search.trials, found.training.lr) == (3, 0.5)
    assert raymlops.read_spec(found, {"search.trials": 4}).search.trials == 4  # a spec is read again


@pytest.mark.parametrize("value", [object(), {1, 2}, b"bytes"])
def test_what_no_spec_can_hold_is_named(value: object) -> None:
    with pytest.raises(SpecError, match=type(value).__name__):
        raymlops.read_spec({**SPEC, "description": value})


def test_a_model_takes_frames_whatever_their_index_and_nothing_else(tmp_path: pathlib.Path) -> None:
    model = raymlops.load_model(toy_models.save(toy_models.doubler(), tmp_path / "toy.onnx"))
    (column,) = (spec.name for spec in model.signature.inputs)
    frame = pd.DataFrame({column: [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]]}, index=[7, 7, 9])
    answer = model.predict(frame)
    assert answer.index.tolist() == [7, 7, 9]
    assert [list(row) for row in answer.iloc[:, 0]] == [[2, 4, 6], [8, 10, 12], [14, 16, 18]]
    with pytest.raises(DataError, match="got dict"):
        model.predict({column: [1.0]})  # type: ignore[arg-type]
    with pytest.raises(AttributeError, match="no attribute 'serch'"):
        raymlops.serch  # noqa: B018
