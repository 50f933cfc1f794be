"""A file that ends the process that opens it is told by name, and ends nothing of ours."""

import pathlib

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from raymlops.errors import ArtifactError
from raymlops.models.model_trial import try_model
from raymlops.runtime import sources
from raymlops.serving.deploy.spec_trial import try_models
from raymlops.settings import Settings
from raymlops.specs.serving import ServingSpec
from tests import toy_models


def ends_the_process() -> bytes:
    """ONNX Runtime 1.31.1 moves the transposition behind the cast, where the kernel that it then wants is not."""
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[1, 2, 0]),
        helper.make_node("Cast", ["t"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["f", "w"], ["y"]),
    ]
    weights = [numpy_helper.from_array(np.ones((3, 2), np.float32), "w")]
    ports = (
        [toy_models.value("x", TensorProto.INT64, 3, 1, 3)],
        [toy_models.value("y", TensorProto.FLOAT, 1, 3, 2)],
    )
    return toy_models.make(nodes, *ports, weights).SerializeToString()  # type: ignore[no-any-return]


def test_a_model_that_cannot_be_opened_is_named_before_anything_is_deployed(
    tmp_path: pathlib.Path, settings: Settings
) -> None:
    toy_models.save(toy_models.doubler(), tmp_path / "good.onnx")
    broken = toy_models.make(
        [helper.make_node("Relu", ["x"], ["y"])],
        [toy_models.value("x", TensorProto.STRING, "n")],
        [toy_models.value("y", TensorProto.STRING, "n")],
    )
    toy_models.save(broken, tmp_path / "bad.onnx")
    models = {name: {"source": str(tmp_path / f"{name}.onnx")} for name in ("good", "bad")}
    spec = sources.pin(ServingSpec.model_validate({"name": "two", "models": models}), settings)
    with pytest.raises(ArtifactError, match=r"Model 'bad' \(.*bad\.onnx\): ONNX Runtime cannot load .*Relu"):
        try_models(spec, settings)


@pytest.mark.slow
def test_one_of_many_that_ends_its_process_is_named(tmp_path: pathlib.Path, settings: Settings) -> None:
    models = {}
    for number in range(9):
        model = toy_models.doubler()
        model.graph.initializer[0].raw_data = np.array(number, "<f4").tobytes()
        models[f"m{number}"] = {"source": str(toy_models.save(model, tmp_path / f"m{number}.onnx"))}
    spec = ServingSpec.model_validate({"name": "many", "models": models})
    try_models(sources.pin(spec, settings), settings)
    (tmp_path / "m6.onnx").write_bytes(ends_the_process())
    try:
        try_models(sources.pin(spec, settings), settings)
    except ArtifactError as error:  # a later ONNX Runtime may open it
        assert "Model 'm6'" in str(error)  # noqa: PT017
        assert "m6.onnx" in str(error)  # noqa: PT017


def test_a_model_that_ends_its_process_is_an_error_of_the_model() -> None:
    try_model("The model", toy_models.doubler().SerializeToString())
    try:
        try_model("The model 'm.onnx'", ends_the_process())
    except ArtifactError as error:
        assert "The model 'm.onnx' cannot be opened: The process of" in str(error)  # noqa: PT017
