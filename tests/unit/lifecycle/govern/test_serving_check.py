"""The gate learns whether an endpoint would open a file and answer as it does itself."""

import pathlib

import numpy as np
import onnx
import pytest

from raymlops.features import FittedTarget
from raymlops.lifecycle.govern.serving_check import try_serving
from raymlops.models.safety import read_model
from raymlops.models.session import open_session
from raymlops.onnx_builder import GraphBuilder, to_value_info
from raymlops.tensors import TensorSpec

TARGET = FittedTarget("y", "binary", "boolean", (False, True), (0.5, 0.5))
COLUMNS = {"x": np.linspace(-3, 3, 100).astype(np.float32)}


def write(path: pathlib.Path, operator: str) -> onnx.ModelProto:
    build = GraphBuilder()
    build.add(operator, "x", name="probability")
    found = build.to_model(
        "core",
        [to_value_info(TensorSpec("x", "FP32", (-1,)))],
        [to_value_info(TensorSpec("probability", "FP32", (-1,)))],
    )
    path.write_bytes(found.SerializeToString())
    return found


@pytest.mark.slow
def test_a_file_that_answers_in_a_process_of_its_own_is_served_and_one_that_changed_is_not(
    tmp_path: pathlib.Path,
) -> None:
    path = tmp_path / "model.onnx"
    write(path, "Sigmoid")
    model = read_model(path)
    session = open_session(model)
    found = try_serving(path, model, session, COLUMNS, TARGET)
    assert (found.fault, found.isolated) == ("", "")
    write(tmp_path / "other.onnx", "Tanh")
    other = open_session(read_model(tmp_path / "other.onnx"))
    assert "otherwise than this process" in try_serving(path, model, other, COLUMNS, TARGET).fault
    write(path, "Tanh")  # after it was read: what lies there is no longer what was judged
    assert "would not open" in try_serving(path, model, session, COLUMNS, TARGET).fault
