"""Hostile and broken model files are refused with a sentence, before ONNX Runtime sees them."""

import hashlib
import os
import pathlib
from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from raymlops.errors import ArtifactError, NotFoundError, ResourceError
from raymlops.models.safety import SafetyLimits, check_model, read_model
from raymlops.models.session import SessionOptions, open_session
from tests import toy_models


def with_external(location: str, size: int = 4) -> onnx.ModelProto:
    """A model whose weight is said to lie in another file."""
    model = toy_models.doubler()
    weight = model.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    for key, text in (("location", location), ("offset", "0"), ("length", str(size))):
        weight.external_data.add(key=key, value=text)
    return model


def foreign() -> onnx.ModelProto:
    node = helper.make_node("Run", ["x"], ["y"], domain="com.evil")
    tensors = [toy_models.value(name, TensorProto.FLOAT, "n") for name in "xy"]
    model = toy_models.make([node], tensors[:1], tensors[1:])
    model.opset_import.append(helper.make_opsetid("com.evil", 1))
    return model


def foreign_inside_a_branch() -> onnx.ModelProto:
    inner = helper.make_graph(
        [helper.make_node("Run", ["x"], ["z"], domain="com.evil")],
        "inner",
        [],
        [toy_models.value("z", TensorProto.FLOAT, "n")],
    )
    node = helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)
    inputs = [toy_models.value("c", TensorProto.BOOL), toy_models.value("x", TensorProto.FLOAT, "n")]
    return toy_models.make([node], inputs, [toy_models.value("y", TensorProto.FLOAT, "n")])


def cyclic() -> onnx.ModelProto:
    nodes = [helper.make_node("Add", ["x", "b"], ["a"]), helper.make_node("Relu", ["a"], ["b"])]
    return toy_models.make(
        nodes,
        [toy_models.value("x", TensorProto.FLOAT, "n")],
        [toy_models.value("b", TensorProto.FLOAT, "n")],
    )


def enormous() -> onnx.ModelProto:
    model = toy_models.doubler()
    model.graph.initializer[0].dims.extend([2**20, 2**20])
    return model


def negative() -> onnx.ModelProto:
    model = toy_models.doubler()
    model.graph.initializer[0].dims.extend([-1])
    return model


def understated() -> onnx.ModelProto:
    model = toy_models.doubler()
    model.graph.initializer[0].dims.extend([7])
    return model


HOSTILE: dict[str, tuple[Callable[[], onnx.ModelProto], str]] = {
    "absolute path": (lambda: with_external("/etc/passwd"), "only a relative path"),
    "path out of the folder": (lambda: with_external("../secret.bin"), "leads out"),
    "path that is hidden": (lambda: with_external("a/../../secret.bin"), "leads out"),
    "symlink out of the folder": (lambda: with_external("link.bin"), "leads out"),
    "symlinked folder": (lambda: with_external("folder/secret.bin"), "leads out"),
    "missing file": (lambda: with_external("absent.bin"), "does not exist"),
    "empty path": (lambda: with_external(""), "only a relative path"),
    "file too short": (lambda: with_external("short.bin"), "that file has 2 bytes"),
    "foreign operators": (foreign, "operator domain 'com.evil'"),
    "foreign operators inside a branch": (foreign_inside_a_branch, "operator domain 'com.evil'"),
    "cyclic graph": (cyclic, "cyclic"),
    "enormous weight": (enormous, "the limit is"),
    "negative size": (negative, "negative size"),
    "weight shorter than declared": (understated, "the file is broken"),
}


@pytest.mark.parametrize(("make", "words"), HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_model_is_refused_with_a_sentence(
    tmp_path: pathlib.Path, make: Callable[[], onnx.ModelProto], words: str
) -> None:
    folder = tmp_path / "artifact"
    path = toy_models.save(make(), folder / "model.onnx")
    (tmp_path / "secret.bin").write_bytes(bytes(16))
    (folder / "short.bin").write_bytes(bytes(2))
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    (folder / "folder").symlink_to(tmp_path)
    with pytest.raises(ArtifactError, match=words):
        read_model(path)


def test_a_truncated_file_or_random_bytes_are_refused(tmp_path: pathlib.Path) -> None:
    data = toy_models.mlp().SerializeToString()
    for cut in (0, 1, 10, len(data) // 2, len(data) - 1):
        path = tmp_path / "model.onnx"
        path.write_bytes(data[:cut])
        with pytest.raises(ArtifactError):
            read_model(path)
    path.write_bytes(os.urandom(5000))
    with pytest.raises(ArtifactError):
        read_model(path)


def test_a_file_that_is_not_the_registered_one_is_refused(tmp_path: pathlib.Path) -> None:
    path = toy_models.save(toy_models.doubler(), tmp_path / "model.onnx")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert read_model(path, digest) == path.read_bytes()
    with pytest.raises(ArtifactError, match="was registered"):
        read_model(path, "0" * 64)
    with pytest.raises(NotFoundError):
        read_model(tmp_path / "absent.onnx")


def test_weights_beside_the_file_are_allowed_and_loaded(tmp_path: pathlib.Path) -> None:
    path = toy_models.save(with_external("weights.bin"), tmp_path / "model.onnx")
    (tmp_path / "weights.bin").write_bytes(np.array(2, "<f4").tobytes())
    model = read_model(path)
    (tmp_path / "weights.bin").write_bytes(np.array(3, "<f4").tobytes())  # what was read is what is run
    answer = open_session(model).infer({"x": np.ones((1, 3), np.float32)})
    np.testing.assert_array_equal(answer["y"], [[2, 2, 2]])


def test_models_with_weights_elsewhere_are_refused_as_bytes() -> None:
    with pytest.raises(ArtifactError, match="no folder"):
        check_model(with_external("weights.bin").SerializeToString())


def test_weights_together_stay_under_the_limit() -> None:
    model = toy_models.doubler()
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(1000, np.float32), "unused"))
    with pytest.raises(ArtifactError, match="limit"):
        check_model(model.SerializeToString(), limits=SafetyLimits(largest=2000))


def test_a_gpu_that_was_not_assigned_is_an_error_not_a_silent_cpu() -> None:
    assert SessionOptions.for_device("auto", []).providers == ("CPUExecutionProvider",)
    with pytest.raises(ResourceError, match="gpus: 1"):
        SessionOptions.for_device("cuda", [])
    model = toy_models.doubler().SerializeToString()
    if not torch.cuda.is_available():
        with pytest.raises(ResourceError, match=r"cannot use CUDAExecutionProvider.*device: cpu"):
            open_session(model, SessionOptions.for_device("cuda", ["0"]))
    providers = SessionOptions.for_device("tensorrt", ["0"]).providers
    assert [p if isinstance(p, str) else p[0] for p in providers] == [
        "TensorrtExecutionProvider",
        "CUDAExecutionProvider",
        "CPUExecutionProvider",
    ]
