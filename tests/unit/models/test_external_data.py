"""Weights in other files: every place where a tensor can hide is found, and what was checked is what is run."""

import contextlib
import os
import pathlib
import socket

import hypothesis
import hypothesis.strategies as st
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from raymlops.errors import ArtifactError
from raymlops.models import traversal
from raymlops.models.external_data import ModelFiles
from raymlops.models.safety import SafetyLimits, check_model, digest_of, read_model
from raymlops.models.session import SessionOptions, open_session
from tests import toy_models

FLOAT = TensorProto.FLOAT
ROW = {"x": np.array([[1, 2, 3]], np.float32), "c": np.array(True)}


def outside(place: str, size: int = 12, dims: tuple[int, ...] = (3,), **entries: object) -> TensorProto:
    tensor = TensorProto(name="w", data_type=FLOAT, dims=dims, data_location=TensorProto.EXTERNAL)
    for key, value in {"location": place, "offset": 0, "length": size, **entries}.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def graph_of(nodes: list[onnx.NodeProto], **more: object) -> onnx.GraphProto:
    info = helper.make_tensor_value_info
    inputs = [info("x", FLOAT, ["n", 3]), info("c", TensorProto.BOOL, [])]
    return helper.make_graph(nodes, "g", inputs, [info("y", FLOAT, ["n", 3])], **more)


def model_of(graph: onnx.GraphProto, functions: tuple[onnx.FunctionProto, ...] = ()) -> onnx.ModelProto:
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("own", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10, functions=list(functions))


def in_initializer(weight: TensorProto) -> onnx.ModelProto:
    return model_of(graph_of([helper.make_node("Mul", ["x", "w"], ["y"])], initializer=[weight]))


def in_attribute(weight: TensorProto) -> onnx.ModelProto:
    constant = helper.make_node("Constant", [], ["w"], value=weight)
    return model_of(graph_of([constant, helper.make_node("Mul", ["x", "w"], ["y"])]))


def in_branch(weight: TensorProto) -> onnx.ModelProto:
    info = helper.make_tensor_value_info
    then = helper.make_graph(
        [helper.make_node("Mul", ["x", "w"], ["z"])], "then", [], [info("z", FLOAT, None)], [weight]
    )
    other = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["z2"])], "else", [], [info("z2", FLOAT, None)]
    )
    return model_of(graph_of([helper.make_node("If", ["c"], ["y"], then_branch=then, else_branch=other)]))


def in_function(weight: TensorProto) -> onnx.ModelProto:
    body = [helper.make_node("Constant", [], ["w"], value=weight), helper.make_node("Mul", ["a", "w"], ["b"])]
    function = helper.make_function("own", "Scale", ["a"], ["b"], body, [helper.make_opsetid("", 20)])
    return model_of(graph_of([helper.make_node("Scale", ["x"], ["y"], domain="own")]), (function,))


def in_default_of_function(weight: TensorProto) -> onnx.ModelProto:
    body = [helper.make_node("Constant", [], ["w"]), helper.make_node("Mul", ["a", "w"], ["b"])]
    reference = body[0].attribute.add(name="value", type=onnx.AttributeProto.TENSOR)
    reference.ref_attr_name = "by"
    default = helper.make_attribute("by", weight)
    function = helper.make_function(
        "own", "Scale", ["a"], ["b"], body, [helper.make_opsetid("", 20)], attribute_protos=[default]
    )
    return model_of(graph_of([helper.make_node("Scale", ["x"], ["y"], domain="own")]), (function,))


def in_training_info(weight: TensorProto) -> onnx.ModelProto:
    model = model_of(graph_of([helper.make_node("Identity", ["x"], ["y"])]))
    model.training_info.add().algorithm.initializer.append(weight)
    return model


def in_sparse(weight: TensorProto) -> onnx.ModelProto:
    model = model_of(graph_of([helper.make_node("Identity", ["x"], ["y"])]))
    sparse = model.graph.sparse_initializer.add(dims=[3])
    sparse.values.CopyFrom(weight)
    return model


PLACES = {
    made.__name__: made
    for made in (
        in_initializer, in_attribute, in_branch, in_function, in_default_of_function, in_training_info, in_sparse
    )
}  # fmt: skip
RUN = ("in_initializer", "in_attribute", "in_branch", "in_function", "in_default_of_function")


@pytest.mark.parametrize("place", PLACES)
def test_a_tensor_is_found_wherever_the_format_lets_it_hide(place: str, tmp_path: pathlib.Path) -> None:
    secret = tmp_path / "secret.bin"
    secret.write_bytes(bytes(12))
    path = toy_models.save(PLACES[place](outside("../secret.bin")), tmp_path / "model" / "model.onnx")
    with pytest.raises(ArtifactError, match="leads out of the model's folder"):
        read_model(path)
    with pytest.raises(ArtifactError, match="no folder"):
        check_model(path.read_bytes())


def test_every_message_of_the_format_that_reaches_a_tensor_is_visited() -> None:
    """Each path of fields from a model to a tensor, made by the format's own description, is walked."""
    paths: list[tuple[str, ...]] = []

    def follow(kind: object, path: tuple[str, ...], seen: tuple[str, ...]) -> None:
        for field in kind.fields:  # type: ignore[attr-defined]
            below = field.message_type
            if below is None or below.full_name in seen:
                continue
            if below.full_name == "onnx.TensorProto":
                paths.append((*path, field.name))
            follow(below, (*path, field.name), (*seen, below.full_name))

    follow(onnx.ModelProto.DESCRIPTOR, (), ())
    assert len(paths) > 20
    for path in paths:
        model = onnx.ModelProto()
        message = model
        for name in path:
            field = message.DESCRIPTOR.fields_by_name[name]
            message = getattr(message, name).add() if field.is_repeated else getattr(message, name)
        message.name = "here"
        assert [tensor.name for tensor in traversal.find_tensors(model) if tensor.name] == ["here"], path


@pytest.mark.parametrize("place", RUN)
@pytest.mark.parametrize("optimisation", ["all", "none"])
def test_weights_are_those_that_were_read_whatever_becomes_of_the_file(
    place: str, optimisation: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = toy_models.save(PLACES[place](outside("w.bin")), tmp_path / "model.onnx")
    weights = np.array([2, 3, 4], np.float32)
    (tmp_path / "w.bin").write_bytes(weights.tobytes())
    model = read_model(path)
    for name in ("w.bin", "weights-0"):
        (tmp_path / name).write_bytes(bytes(12))
    path.write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    session = open_session(model, SessionOptions(optimisation=optimisation))
    names = {spec.name for spec in session.signature.inputs}
    answer = session.infer({name: ROW[name] for name in ROW if name in names})
    np.testing.assert_array_equal(answer["y"], [[2, 6, 12]])
    assert isinstance(model, ModelFiles)
    check_model(model.embed().SerializeToString())


@pytest.mark.parametrize("place", RUN)
def test_the_runtime_opens_no_file_of_a_model_given_as_bytes(
    place: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "w.bin").write_bytes(np.ones(3, "<f4").tobytes())
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ArtifactError):
        open_session(PLACES[place](outside("w.bin")).SerializeToString())


def test_the_digest_covers_every_byte_that_is_loaded(tmp_path: pathlib.Path) -> None:
    path = toy_models.save(in_initializer(outside("w.bin")), tmp_path / "model.onnx")
    (tmp_path / "w.bin").write_bytes(np.array([2, 3, 4], "<f4").tobytes())
    before = digest_of(read_model(path))
    assert read_model(path, before)
    content = bytearray((tmp_path / "w.bin").read_bytes())
    for place in range(len(content)):
        changed = content.copy()
        changed[place] ^= 1
        (tmp_path / "w.bin").write_bytes(changed)
        with pytest.raises(ArtifactError, match="was registered"):
            read_model(path, before)


def test_a_file_with_a_name_elsewhere_is_read_only_when_its_digest_is_known(tmp_path: pathlib.Path) -> None:
    path = toy_models.save(in_initializer(outside("w.bin")), tmp_path / "model" / "model.onnx")
    secret = tmp_path / "secret"
    secret.write_bytes(np.array([2, 3, 4], "<f4").tobytes())
    copied = path.parent / "w.bin"
    copied.write_bytes(secret.read_bytes())
    digest = digest_of(read_model(path))
    copied.unlink()
    os.link(secret, copied)
    with pytest.raises(ArtifactError, match="hard links"):
        read_model(path)
    assert digest_of(read_model(path, digest)) == digest


def test_links_inside_the_folder_are_followed_and_circles_are_not(tmp_path: pathlib.Path) -> None:
    path = toy_models.save(in_initializer(outside("w.bin")), tmp_path / "model.onnx")
    (tmp_path / "..data").mkdir()  # as Kubernetes mounts a folder
    (tmp_path / "..data" / "w.bin").write_bytes(np.ones(3, "<f4").tobytes())
    (tmp_path / "w.bin").symlink_to("..data/w.bin")
    assert isinstance(read_model(path), ModelFiles)
    (tmp_path / "w.bin").unlink()
    (tmp_path / "w.bin").symlink_to("w.bin")
    with pytest.raises(ArtifactError, match=r"w\.bin"):
        read_model(path)


def test_what_is_no_plain_file_is_not_waited_for(tmp_path: pathlib.Path) -> None:
    path = toy_models.save(in_initializer(outside("w.bin")), tmp_path / "model.onnx")
    os.mkfifo(tmp_path / "w.bin")
    with pytest.raises(ArtifactError, match="not a plain file"):
        read_model(path)
    (tmp_path / "w.bin").unlink()
    (tmp_path / "w.bin").mkdir()
    with pytest.raises(ArtifactError, match="not a plain file"):
        read_model(path)
    (tmp_path / "w.bin").rmdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "w.bin"))
        with pytest.raises(ArtifactError, match=r"w\.bin"):
            read_model(path)
    fifo = tmp_path / "pipe.onnx"
    os.mkfifo(fifo)
    with pytest.raises(ArtifactError, match="not a plain file"):
        read_model(fifo)


def test_a_sparse_file_of_a_terabyte_is_not_read(tmp_path: pathlib.Path) -> None:
    path = toy_models.save(in_initializer(outside("w.bin")), tmp_path / "model.onnx")
    for size in (2**40, 2**30):
        with (tmp_path / "w.bin").open("wb") as file:
            file.truncate(size)
        with pytest.raises(ArtifactError, match=r"limit|the weights use 12 of them"):
            read_model(path)


@pytest.mark.parametrize(
    "entries",
    [
        {"offset": -1}, {"offset": 1}, {"offset": "0x1"}, {"offset": "1_0"}, {"offset": "٣"}, {"offset": 10**30},
        {"length": 4}, {"length": -12}, {"length": 13}, {"length": 10**17}, {"basepath": "/etc"},
        {"location": "C:\\w.bin"}, {"location": "C:w.bin"}, {"location": "\\\\host\\w.bin"}, {"location": "/w.bin"},
        {"location": "//w.bin"}, {"location": "a\0b"}, {"location": "w.bin\n"}, {"location": "."},
        {"location": "x" * 5000}, {"location": "*/_ORT_MEM_ADDR_/*"},
        {"location": "w.bin/../w2"},
    ],
    ids=str,
)  # fmt: skip
def test_what_is_no_place_in_the_folder_is_refused(
    entries: dict[str, object], tmp_path: pathlib.Path
) -> None:
    weight = outside("w.bin", **entries)
    path = toy_models.save(in_initializer(weight), tmp_path / "model.onnx")
    (tmp_path / "w.bin").write_bytes(np.ones(3, "<f4").tobytes())
    with pytest.raises(ArtifactError):
        open_session(path)


def test_an_entry_that_is_given_twice_is_refused(tmp_path: pathlib.Path) -> None:
    weight = outside("w.bin")
    weight.external_data.add(key="location", value="/etc/passwd")
    path = toy_models.save(in_initializer(weight), tmp_path / "model.onnx")
    (tmp_path / "w.bin").write_bytes(bytes(12))
    with pytest.raises(ArtifactError, match="once at the most"):
        read_model(path)


def test_many_weights_of_one_file_are_counted_each(tmp_path: pathlib.Path) -> None:
    model = in_initializer(outside("w.bin"))
    for number in range(100):
        weight = model.graph.initializer.add()
        weight.CopyFrom(outside("w.bin"))
        weight.name = f"w{number}"
    path = toy_models.save(model, tmp_path / "model.onnx")
    (tmp_path / "w.bin").write_bytes(bytes(12))
    assert read_model(path)
    with pytest.raises(ArtifactError, match="limit"):
        read_model(path, limits=SafetyLimits(largest=1000))


def calling(levels: int, calls: int, turn: bool = False) -> onnx.ModelProto:
    """Functions that call the next one several times; with `turn` the last calls the first."""
    functions = []
    for level in range(levels):
        below = level + 1 if level + 1 < levels else 0 if turn else None
        nodes = []
        for call in range(calls):
            names = [f"t{call}"], [f"t{call + 1}" if call + 1 < calls else "b"]
            inner = ("Relu", "") if below is None else (f"F{below}", "own")
            nodes.append(helper.make_node(inner[0], names[0] if call else ["a"], names[1], domain=inner[1]))
        opsets = [helper.make_opsetid("", 20), helper.make_opsetid("own", 1)]
        functions.append(helper.make_function("own", f"F{level}", ["a"], ["b"], nodes, opsets))
    return model_of(graph_of([helper.make_node("F0", ["x"], ["y"], domain="own")]), tuple(functions))


def test_functions_may_call_functions_but_not_grow_by_powers() -> None:
    data = calling(4, 3).SerializeToString()
    check_model(data)
    row = {"x": ROW["x"], "c": ROW["c"]}
    session = open_session(data)
    names = {spec.name for spec in session.signature.inputs}
    np.testing.assert_array_equal(session.infer({n: row[n] for n in names})["y"], ROW["x"])
    for levels, calls in ((40, 2), (20, 2), (3, 100), (2000, 2)):
        with pytest.raises(ArtifactError, match="too many nodes once"):
            check_model(calling(levels, calls).SerializeToString())


@pytest.mark.parametrize("levels", [1, 2, 7])
def test_functions_that_call_themselves_are_refused(levels: int) -> None:
    with pytest.raises(ArtifactError, match="call themselves: F0"):
        check_model(calling(levels, 1, turn=True).SerializeToString())


@pytest.mark.parametrize("operator", ["EPContext", "PythonOp"])
def test_operators_that_run_code_from_outside_the_graph_are_refused(operator: str) -> None:
    node = helper.make_node(operator, ["x"], ["y"], domain="com.microsoft", ep_cache_context="/tmp/engine.so")
    model = model_of(graph_of([node]))
    with pytest.raises(ArtifactError, match="runs code that is not in the graph"):
        check_model(model.SerializeToString())


def test_a_domain_of_a_function_is_no_licence_for_other_operators() -> None:
    model = calling(1, 1)
    model.graph.node[0].op_type = "Run"
    with pytest.raises(ArtifactError, match="foreign library"):
        check_model(model.SerializeToString())


def nested(depth: int) -> onnx.ModelProto:
    info = helper.make_tensor_value_info
    inner = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["z0"])], "g0", [], [info("z0", FLOAT, None)]
    )
    for level in range(1, depth):
        node = helper.make_node("If", ["c"], [f"z{level}"], then_branch=inner)
        inner = helper.make_graph([node], f"g{level}", [], [info(f"z{level}", FLOAT, None)])
    return model_of(graph_of([helper.make_node("If", ["c"], ["y"], then_branch=inner)]))


def test_graphs_within_graphs_end_somewhere() -> None:
    with pytest.raises(ArtifactError, match=r"over 20 deep|truncated"):
        check_model(nested(22).SerializeToString())
    data = toy_models.doubler().SerializeToString()
    deep = b""
    for _ in range(20_000):  # a group of an unknown field within a group
        deep = b"\xfb\x3e" + deep + b"\xfc\x3e" if len(deep) < 60_000 else deep
    with pytest.raises(ArtifactError):
        check_model(data + deep)


def test_fields_that_this_release_does_not_know_are_refused() -> None:
    data = toy_models.doubler().SerializeToString()
    check_model(data)
    with pytest.raises(ArtifactError, match="does not know"):
        check_model(data + b"\xc2\x3e\x03abc")  # field 1000 of the model


def test_too_many_nodes_are_refused() -> None:
    nodes = [helper.make_node("Relu", ["x"], ["y"])] * 300
    with pytest.raises(ArtifactError, match="the limit is 200"):
        check_model(model_of(graph_of(nodes)).SerializeToString(), limits=SafetyLimits(nodes=200))


@hypothesis.given(st.binary(max_size=200), st.integers(0, 10_000), st.integers(0, 200))
def test_whatever_a_file_holds_it_is_checked_or_refused_with_a_sentence(
    tmp_path_factory: pytest.TempPathFactory, noise: bytes, place: int, cut: int
) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    data = PLACES[list(PLACES)[place % len(PLACES)]](outside("w.bin")).SerializeToString()
    place %= len(data)
    (folder / "model.onnx").write_bytes(data[:place] + noise + data[place + cut % 5 :])
    (folder / "w.bin").write_bytes(np.ones(3, "<f4").tobytes())
    with contextlib.suppress(ArtifactError):
        open_session(folder / "model.onnx")
