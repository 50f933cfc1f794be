import io
import pathlib

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from raymlops.errors import ArtifactError
from raymlops.models.session import open_session
from raymlops.models.weights_as_inputs import extract_weights, read_weights
from raymlops.tensors import Batch
from tests import toy_models
from tests.graph_models import make_mlp

ROWS = {"x": np.random.default_rng(5).normal(size=(7, 20)).astype(np.float32)}


def run_lifted(data: bytes, batch: Batch) -> Batch:
    lifted = extract_weights(data)
    weights = read_weights(io.BytesIO(data), lifted.weights)
    return open_session(lifted.skeleton).with_weights(weights).infer(batch)


@pytest.mark.parametrize(
    "model", [make_mlp(1), make_mlp(2, width=3), toy_models.mlp(), toy_models.mlp(layers=4)]
)
def test_a_skeleton_with_weights_is_the_model(model: onnx.ModelProto) -> None:
    data = model.SerializeToString()
    alone = open_session(data)
    name = alone.signature.inputs[0].name
    together = run_lifted(data, {name: ROWS["x"]})
    for output, array in alone.infer({name: ROWS["x"]}).items():
        np.testing.assert_allclose(together[output], array, rtol=1e-6)


def test_models_of_one_structure_have_one_skeleton_wherever_they_come_from() -> None:
    first, second, wider = make_mlp(1), make_mlp(2), make_mlp(3, width=65)
    second.producer_name, second.doc_string = "another", "trained on Monday"
    helper.set_model_props(second, {"raymlops.contract": "{}"})
    second.graph.name = second.graph.node[0].doc_string = "other"
    skeletons = [extract_weights(model.SerializeToString()).skeleton for model in (first, second, wider)]
    assert skeletons[0] == skeletons[1] != skeletons[2]
    assert len(skeletons[0]) < 500


def test_the_signature_of_a_model_does_not_show_its_weights() -> None:
    data = make_mlp(1).SerializeToString()
    lifted = extract_weights(data)
    skeleton = open_session(lifted.skeleton)
    session = skeleton.with_weights(read_weights(io.BytesIO(data), lifted.weights))
    assert session.signature == open_session(data).signature
    assert len(skeleton.signature.inputs) == 3


def make_graph(nodes: list[onnx.NodeProto], **weights: np.ndarray) -> bytes:
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "made",
        [info("x", TensorProto.FLOAT, ["rows", 4])],
        [info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return model.SerializeToString()


def list_lifted(data: bytes) -> list[str]:
    return [weight.name for weight in extract_weights(data).weights]


def test_what_an_operator_needs_as_a_constant_stays() -> None:
    kernel, scale = np.ones((1, 1, 1), np.float32), np.ones(4, np.float32)
    nodes = [
        helper.make_node("Mul", ["x", "scale"], ["scaled"]),
        helper.make_node("Mul", ["scaled", "two"], ["doubled"]),
        helper.make_node("Unsqueeze", ["doubled", "axis"], ["row"]),
        helper.make_node("Conv", ["row", "kernel"], ["y"]),
    ]
    data = make_graph(nodes, scale=scale, two=np.float32(2), axis=np.array([1]), kernel=kernel)
    assert list_lifted(data) == ["scale"]


def test_what_the_body_of_a_loop_may_read_stays() -> None:
    body = helper.make_graph(
        [helper.make_node("Add", ["x", "bias"], ["z"])],
        "body",
        [],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)],
    )
    nodes = [
        helper.make_node("Add", ["x", "bias"], ["unused"]),
        helper.make_node("If", ["always"], ["y"], then_branch=body, else_branch=body),
    ]
    assert list_lifted(make_graph(nodes, bias=np.ones(4, np.float32), always=np.array(True))) == []


def test_a_file_that_is_cut_short_is_told(tmp_path: pathlib.Path) -> None:
    data = make_mlp(1).SerializeToString()
    with pytest.raises(ArtifactError, match="Weight 'b' is truncated"):
        read_weights(io.BytesIO(data[:-1000]), extract_weights(data).weights)
