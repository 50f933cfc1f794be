"""Requests by whose shapes a process would end: ranks and sizes that are not proven are checked before the operator, or
before the run, and what is proven stays as it is."""

import contextlib
import io
import json
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto as T
from onnx import helper as h

from raymlops.errors import ArtifactError, InputError
from raymlops.models.fatal_operators import examine
from raymlops.models.session import SessionOptions, open_session
from tests.unit.models.test_fatal_operators import run_python

V, N = h.make_tensor_value_info, h.make_node
Feed = dict[str, np.ndarray[Any, Any]]
Fatal = tuple[str, onnx.ModelProto, Feed, Feed]


def make_model(
    nodes: list[onnx.NodeProto], inputs: dict[str, Any], weights: Feed | None = None, opset: int = 20
) -> onnx.ModelProto:
    """Inputs of FLOAT with these shapes, None for any; the output `y`."""
    graph = h.make_graph(
        nodes,
        "g",
        [V(name, T.FLOAT, shape) for name, shape in inputs.items()],
        [onnx.ValueInfoProto(name="y")],
        [onnx.numpy_helper.from_array(array, name) for name, array in (weights or {}).items()],
    )
    opsets = [h.make_opsetid("", opset), h.make_opsetid("com.microsoft", 1)]
    return h.make_model(graph, opset_imports=opsets, ir_version=9)


def ones(*shape: int) -> np.ndarray[Any, Any]:
    return np.ones(shape, np.float32)


def make_scan(
    in_axis: int, out_axis: int, rank: int = 2, *, declared: bool = True, opset: int = 20
) -> onnx.ModelProto:
    inner = [None] * (rank - 1) if declared else None
    body = h.make_graph([N("Neg", ["e"], ["o"])], "b", [V("e", T.FLOAT, inner)], [V("o", T.FLOAT, inner)])
    attributes = {"scan_input_axes": [in_axis], "scan_output_axes": [out_axis]} if opset > 8 else {}
    names = ["x"] if opset > 8 else ["", "x"]
    scan = N("Scan", names, ["y"], body=body, num_scan_inputs=1, **attributes)
    return make_model([scan], {"x": [f"d{n}" for n in range(rank)] if declared else None}, opset=opset)


def make_inserting_body() -> onnx.GraphProto:
    """Of a loop that adds the rows of `x` to a sequence, without their first axis where there is one row."""
    kind = h.make_sequence_type_proto(h.make_tensor_type_proto(T.FLOAT, [2, 2]))
    nodes = [
        N("Identity", ["c"], ["c2"]),
        N("Squeeze", ["x"], ["q"]),
        N("SequenceInsert", ["s", "q"], ["s2"]),
    ]
    inputs = [V("i", T.INT64, []), V("c", T.BOOL, []), h.make_value_info("s", kind)]
    return h.make_graph(nodes, "b", inputs, [V("c2", T.BOOL, []), h.make_value_info("s2", kind)])


def list_fatal() -> list[Fatal]:
    """Models, inputs that they answer, and inputs that end a process which runs them as they are."""
    two = {"w": ones(2, 2)}
    squeezed = N("Squeeze", ["x"], ["t"])
    product = N("Einsum", ["t", "w"], ["y"], equation="ij,jk->ki")
    heads = N("Einsum", ["q", "k"], ["y"], equation="bhid,bjhd->bhij")
    recurrent = {"w": ones(1, 12, 2), "r": ones(1, 12, 3)}
    lstm, gru = (
        N(name, ["x", "w", "r"], ["y"], hidden_size=size) for name, size in (("LSTM", 3), ("GRU", 4))
    )
    gates = {"w": ones(1, 12, 2), "r": ones(1, 12, 4)}
    attended = N("Attention", ["q", "k", "v"], ["y"])
    joined = N("Concat", ["a", "b"], ["y"], axis=0)
    turned = N("ReverseSequence", ["x", "lengths"], ["y"], batch_axis=0, time_axis=1)
    every: dict[str, Any] = {name: ["b", "h", "t", 8] for name in ("q", "k", "v")}
    filled = dict.fromkeys(every, ones(1, 2, 3, 8))
    return [
        (
            "Einsum of one row",
            make_model([squeezed, product], {"x": ["n", 2]}, two),
            {"x": ones(3, 2)},
            {"x": ones(1, 2)},
        ),
        ("Einsum of any rank", make_model([product], {"t": None}, two), {"t": ones(3, 2)}, {"t": ones(2)}),
        (
            "Einsum of no rows",
            make_model([heads], {"q": ["n", 2, 3, 4], "k": ["n", 3, 2, 4]}),
            {"q": ones(1, 2, 3, 4), "k": ones(1, 3, 2, 4)},
            {"q": ones(0, 2, 3, 4), "k": ones(0, 3, 2, 4)},
        ),
        (
            "LSTM of no rows",
            make_model([lstm], {"x": ["t", "n", 2]}, recurrent),
            {"x": ones(2, 3, 2)},
            {"x": ones(2, 0, 2)},
        ),
        ("GRU of no steps", make_model([gru], {"x": ["t", "n", 2]}, gates), {"x": ones(2, 3, 2)}, {"x": ones(0, 3, 2)}),
        (
            "Attention of no heads",
            make_model([attended], every, opset=23),
            filled,
            {name: ones(1, 0, 3, 8) for name in every},
        ),
        (
            "Concat of other ranks",
            make_model([joined], {"a": None, "b": None}),
            {"a": ones(1, 2), "b": ones(3, 2)},
            {"a": ones(0), "b": ones(2, 2)},
        ),
        (
            "ReverseSequence of a vector",
            make_model([turned], {"x": None}, {"lengths": np.array([2])}),
            {"x": ones(1, 2)},
            {"x": ones(1)},
        ),
        (
            "Unique of none",
            make_model([N("Unique", ["x"], ["y"], axis=0)], {"x": ["n", "m"]}),
            {"x": ones(1, 2)},
            {"x": ones(1, 0)},
        ),
        (
            "ConvTranspose of nothing",
            make_model([N("ConvTranspose", ["x", "w"], ["y"])], {"x": [1, 1, "d", 4, 5]}, {"w": ones(1, 2, 3, 3, 3)}),
            {"x": ones(1, 1, 2, 4, 5)},
            {"x": ones(1, 1, 0, 4, 5)},
        ),
        (
            "rows that inputs of one size do not agree on",
            make_model(
                [N("Add", ["x", "s"], ["a"]), N("LayerNormalization", ["a", "g", "g"], ["y"])],
                {"x": ["n", "t", 4], "s": ["n", "t", 4]},
                {"g": ones(4)},
            ),
            {"x": ones(2, 3, 4), "s": ones(2, 3, 4)},
            {"x": ones(2, 3, 4), "s": ones(0, 3, 4)},
        ),
        (
            "an element that a loop put into a sequence",
            make_model(
                [
                    N("SequenceConstruct", ["x"], ["before"]),
                    N("Loop", ["one", "", "before"], ["after"], body=make_inserting_body()),
                    N("SequenceAt", ["after", "one"], ["t"]),
                    product,
                ],
                {"x": ["n", 2]},
                {**two, "one": np.array(1)},
            ),
            {"x": ones(3, 2)},
            {"x": ones(1, 2)},
        ),
        (
            "Einsum of what a selection left",
            make_model(
                [
                    N("Greater", ["by", "zero"], ["some"]),
                    N("Compress", ["x", "some"], ["t"], axis=0),
                    N("Einsum", ["t", "t"], ["y"], equation="bhid,bjhd->bhij"),
                ],
                {"x": [2, 2, 2, 2], "by": [2]},
                {"zero": np.float32(0)},
            ),
            {"x": ones(2, 2, 2, 2), "by": ones(2)},
            {"x": ones(2, 2, 2, 2), "by": -ones(2)},
        ),
        (
            "Conv of a vector",
            make_model([N("Conv", ["x", "w"], ["y"])], {"x": None, "w": None}),
            {"x": ones(1, 1, 4), "w": ones(1, 1, 2)},
            {"x": ones(2), "w": ones(1)},
        ),
    ]  # fmt: skip


FATAL = """
import os, resource
from tests.unit.models import test_fatal_shapes as fatal
from tests.unit.models.test_fatal_operators import run_unguarded
from raymlops.errors import InputError
from raymlops.models.session import SessionOptions, open_session
for name, model, good, bad in fatal.list_fatal():
    child = os.fork()
    if not child:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.close(2)
        run_unguarded(model, good)
        run_unguarded(model, bad)
        os._exit(0)
    died = os.WIFSIGNALED(os.waitpid(child, 0)[1])
    session = open_session(model.SerializeToString(), SessionOptions(shared=True))
    answer, right = session.infer(good)["y"], run_unguarded(model, good)[0]
    assert (answer == right).all() and answer.shape == right.shape, name
    try:
        session.infer(bad)
        raise AssertionError(name)
    except InputError:
        print(name, died)
for in_axis, out_axis, shape in ((1, 0, (3, 0)), (0, 1, (3, 0)), (1, 1, (0, 0))):
    child = os.fork()
    if not child:
        os.close(2)
        run_unguarded(fatal.make_scan(in_axis, out_axis), {"x": fatal.ones(*shape)})
        os._exit(0)
    print("Scan", os.WIFSIGNALED(os.waitpid(child, 0)[1]))
"""


@pytest.mark.slow
def test_what_ends_a_process_unguarded_is_refused_and_the_rest_answered_as_before() -> None:
    names = [name for name, *_ in list_fatal()]
    assert run_python(FATAL) == [f"{name} True" for name in (*names, "Scan", "Scan", "Scan")]


@settings(max_examples=60, deadline=None)
@given(
    rank=st.integers(2, 4),
    axes=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    shape=st.tuples(*[st.integers(0, 3)] * 4),
)
def test_a_scan_along_any_axis_answers_as_numpy_does(
    rank: int, axes: tuple[int, int], shape: tuple[int, ...]
) -> None:
    in_axis, out_axis = (axis % rank for axis in axes)
    model = make_scan(in_axis - rank if axes[0] % 2 else in_axis, out_axis, rank)
    x = np.arange(np.prod(shape[:rank]), dtype=np.float32).reshape(shape[:rank])
    session = open_session(model.SerializeToString(), SessionOptions(shared=True))
    if not x.shape[in_axis]:
        with contextlib.suppress(InputError):  # where the body does not say the shape of what it would stack
            assert session.infer({"x": x})["y"].size == 0
        return
    np.testing.assert_array_equal(session.infer({"x": x})["y"], np.moveaxis(-x, in_axis, out_axis))


def test_a_scan_whose_axes_cannot_be_known_needs_a_process_of_its_own() -> None:
    for model in (
        make_scan(1, 0, declared=False),
        make_scan(0, 1, declared=False),
        make_scan(0, 0, 3, opset=8),
    ):
        with pytest.raises(ArtifactError, match=r"Scan.*isolate: true"):
            open_session(model.SerializeToString(), SessionOptions(shared=True))
    plain = examine(make_scan(0, 0, declared=False))
    assert (plain.model, plain.refused, plain.filled) == (None, (), ())


def test_a_division_within_a_scan_whose_axes_are_turned_is_guarded_too() -> None:
    body = h.make_graph(
        [N("Div", ["e", "e"], ["o"])], "b", [V("e", T.INT64, [None])], [V("o", T.INT64, [None])]
    )
    scan = N("Scan", ["x"], ["y"], body=body, num_scan_inputs=1, scan_input_axes=[1])
    model = make_model([scan], {"x": ["n", "m"]})
    model.graph.input[0].type.tensor_type.elem_type = T.INT64
    guarded = examine(model).model
    assert guarded is not None
    inner = next(node for node in guarded.graph.node if node.op_type == "Scan").attribute
    assert {"Equal", "Div"} <= {node.op_type for node in next(a.g for a in inner if a.name == "body").node}


def test_a_loop_without_a_count_or_a_condition_in_them_is_refused() -> None:
    body = h.make_graph(
        [N("Identity", ["c"], ["c2"]), N("Identity", ["s"], ["s2"])],
        "b",
        [V("i", T.INT64, []), V("c", T.BOOL, None), V("s", T.FLOAT, None)],
        [V("c2", T.BOOL, None), V("s2", T.FLOAT, None)],
    )
    nodes = [
        N("Cast", ["x"], ["count"], to=T.INT64),
        N("Cast", ["x"], ["go"], to=T.BOOL),
        N("Loop", ["count", "go", "x"], ["y"], body=body),
    ]
    session = open_session(make_model(nodes, {"x": ["n"]}).SerializeToString(), SessionOptions(shared=True))
    assert session.infer({"x": ones(1)})["y"].shape == (1,)
    with pytest.raises(InputError):
        session.infer({"x": ones(0)})


def test_a_loop_whose_body_makes_no_condition_is_refused() -> None:
    for nodes, fails in (
        ([N("Cast", ["s"], ["q"], to=T.BOOL), N("Not", ["q"], ["c2"])], True),
        ([N("Less", ["i", "three"], ["c2"])], False),
    ):
        body = h.make_graph(
            [*nodes, N("Identity", ["s"], ["s2"])],
            "b",
            [V("i", T.INT64, []), V("c", T.BOOL, []), V("s", T.FLOAT, None)],
            [V("c2", T.BOOL, None), V("s2", T.FLOAT, None)],
        )
        model = make_model([N("Loop", ["", "", "x"], ["y"], body=body)], {"x": ["n"]}, {"three": np.array(3)})
        assert (examine(model).model is not None) is fails
        session = open_session(model.SerializeToString(), SessionOptions(shared=True))
        assert session.infer({"x": ones(1)})["y"].shape == (1,)
        with pytest.raises(InputError) if fails else contextlib.nullcontext():
            session.infer({"x": ones(0)})


def test_shapes_that_the_file_claims_of_inner_tensors_are_not_believed() -> None:
    product = N("Einsum", ["t", "w"], ["y"], equation="ij,jk->ki")
    model = make_model([N("Squeeze", ["x"], ["t"]), product], {"x": ["n", 2]}, {"w": ones(2, 2)})
    model.graph.value_info.append(V("t", T.FLOAT, [5, 2]))
    assert examine(model).model is not None


def export(module: torch.nn.Module, args: Any, dynamic: dict[str, dict[int, str]]) -> onnx.ModelProto:
    file = io.BytesIO()
    torch.onnx.export(module, args, file, input_names=list(dynamic), dynamic_axes=dynamic, dynamo=False)
    return onnx.ModelProto.FromString(file.getvalue())


class Heads(torch.nn.Module):
    def forward(self, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        return torch.einsum("bhid,bjhd->bhij", q, k)


class Last(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.LSTM(4, 8, batch_first=True, bidirectional=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)[0][:, -1]


@pytest.mark.filterwarnings("ignore")
def test_exported_models_run_as_they_are_and_refuse_no_rows_by_name() -> None:
    q, k = torch.ones(2, 2, 3, 4), torch.ones(2, 3, 2, 4)
    cases = [
        (export(Heads(), (q, k), {"q": {0: "n"}, "k": {0: "n"}}), {"q": q.numpy(), "k": k.numpy()}),
        (export(Last(), (torch.ones(2, 3, 4),), {"x": {0: "n", 1: "t"}}), {"x": ones(2, 3, 4)}),
    ]
    for model, feed in cases:
        examined = examine(model)
        assert (examined.model, examined.refused) == (None, ())
        session = open_session(model.SerializeToString(), SessionOptions(shared=True))
        session.infer(feed)
        with pytest.raises(InputError, match=r"shape \[0, .*axis 0 of length 0: send at least one"):
            session.infer({name: array[:0] for name, array in feed.items()})
    convolution = export(torch.nn.Conv2d(3, 4, 3), (torch.ones(1, 3, 8, 8),), {"x": {0: "n", 2: "h", 3: "w"}})
    examined = examine(convolution)
    assert (examined.model, examined.refused, examined.filled) == (None, (), ())


def test_a_nearest_neighbour_search_scans_rows_as_before() -> None:
    """As skl2onnx writes distances to known points."""
    body = h.make_graph(
        [
            N("Sub", ["points", "row"], ["d"]),
            N("ReduceSumSquare", ["d", "one"], ["sum"], keepdims=0),
            N("Sqrt", ["sum"], ["distance"]),
            N("Identity", ["points"], ["points_out"]),
        ],
        "b",
        [V("points", T.FLOAT, [None, 3]), V("row", T.FLOAT, [3])],
        [V("points_out", T.FLOAT, [None, 3]), V("distance", T.FLOAT, [None])],
    )
    scan = N("Scan", ["known", "x"], ["same", "y"], body=body, num_scan_inputs=1)
    weights = {"known": np.arange(6, dtype=np.float32).reshape(2, 3), "one": np.array([1])}
    model = make_model([scan], {"x": ["n", 3]}, weights)
    assert examine(model) == examine(make_model([N("Neg", ["x"], ["y"])], {"x": ["n", 3]}))
    session = open_session(model.SerializeToString(), SessionOptions(shared=True))
    distances = session.infer({"x": weights["known"]})["y"]
    np.testing.assert_allclose(distances, [[0, 27**0.5], [27**0.5, 0]], rtol=1e-6)


SAMPLE = """
from tests import hostile_shapes
hostile_shapes.main(0.005, 0)
"""


@pytest.mark.slow
def test_a_sample_of_hostile_shapes_ends_no_process() -> None:
    found = json.loads(run_python(SAMPLE)[-1])
    assert found["deaths"] == []
    assert set(found["counts"]) <= {"answered", "InputError", "TooLargeError", "DeadlineError"}
    assert sum(found["counts"].values()) > 300
