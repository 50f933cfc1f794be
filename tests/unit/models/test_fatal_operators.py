"""Requests by which a process would end: integer divisions are guarded with the same answers, sizes and loops that
values decide are bounded, and what cannot be guarded is refused where callers share a process."""

import concurrent.futures
import itertools
import pathlib
import subprocess
import sys
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import TensorProto as T
from onnx import helper as h

from raymlops.errors import ArtifactError, DeadlineError, InputError
from raymlops.models.fatal_operators import examine
from raymlops.models.session import SessionOptions, open_session

INTEGERS = {
    "int8": T.INT8, "int16": T.INT16, "int32": T.INT32, "int64": T.INT64,
    "uint8": T.UINT8, "uint16": T.UINT16, "uint32": T.UINT32, "uint64": T.UINT64,
}  # fmt: skip
OPSETS = [h.make_opsetid("", 17)]
V, N = h.make_tensor_value_info, h.make_node


def make_model(graph: onnx.GraphProto, **more: Any) -> onnx.ModelProto:
    return h.make_model(graph, opset_imports=more.pop("opsets", OPSETS), ir_version=9, **more)


def make_division(operator: str, dtype: str, **attributes: int) -> onnx.ModelProto:
    kind = INTEGERS[dtype]
    inputs = [V("a", kind, None), V("b", kind, None)]
    return make_model(
        h.make_graph([N(operator, ["a", "b"], ["y"], **attributes)], "g", inputs, [V("y", kind, None)])
    )


def run_unguarded(model: onnx.ModelProto, feed: dict[str, Any]) -> list[Any]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return list(session.run(None, feed))


KINDS = [
    ("Div", {}),
    ("Mod", {}),
    ("Mod", {"fmod": 1}),
]
SHAPES = [((), ()), ((4,), (4,)), ((4,), ()), ((), (4,)), ((3, 1), (1, 4)), ((0,), (1,)), ((2, 3), (3,))]


@pytest.mark.parametrize("dtype", INTEGERS)
@settings(max_examples=60)
@given(data=st.data())
def test_a_guarded_division_answers_as_an_unguarded_one_wherever_that_survives(dtype: str, data: Any) -> None:
    operator, attributes = data.draw(st.sampled_from(KINDS))
    limits = np.iinfo(dtype)
    edges = [limits.min, limits.min + 1, -1, 0, 1, 2, limits.max - 1, limits.max]
    numbers = st.one_of(
        st.sampled_from([edge for edge in edges if limits.min <= edge]),
        st.integers(int(limits.min), int(limits.max)),
    )
    left, right = data.draw(st.sampled_from(SHAPES))
    a = data.draw(hnp.arrays(dtype, left, elements=numbers))
    b = data.draw(hnp.arrays(dtype, right, elements=numbers))
    b[b == 0] = 1
    fatal = limits.min < 0 and np.any((a == limits.min) & (b == -1))
    model = make_division(operator, dtype, **attributes)
    answer = open_session(model.SerializeToString()).infer({"a": a, "b": b})["y"]
    if not fatal:
        np.testing.assert_array_equal(answer, run_unguarded(model, {"a": a, "b": b})[0])
        return
    wrapped = -(a.astype(object)) if operator == "Div" else np.zeros_like(a, dtype=object)
    expected = np.where(b == -1, wrapped, 0)
    there = np.broadcast_to(b == -1, answer.shape)
    values = np.array([int(v) for v in np.broadcast_to(expected, answer.shape)[there].ravel()], dtype=object)
    modulus = 2**limits.bits
    values = [(int(v) - int(limits.min)) % modulus + int(limits.min) for v in values]
    assert answer[there].ravel().tolist() == values


FATAL = """
import numpy as np
from tests.unit.models import test_fatal_operators as fatal
from raymlops.errors import InputError
from raymlops.models.session import open_session
for name, model, feed, expected in fatal.list_fatal():
    try:
        answer = open_session(model.SerializeToString()).infer(feed)["y"]
    except InputError as error:
        answer = str(error)
    good = expected in answer if isinstance(expected, str) else np.array_equal(answer, expected)
    assert good, (name, answer)
    print(name)
"""


def list_fatal() -> list[tuple[str, onnx.ModelProto, dict[str, Any], Any]]:
    """Models and the inputs that end a process which runs them as they are, with the right answer."""
    found: list[tuple[str, onnx.ModelProto, dict[str, Any], Any]] = []
    for dtype, operator in itertools.product(("int32", "int64"), ("Div", "Mod")):
        least = np.iinfo(dtype).min
        feed = {"a": np.array([least, 7, least], dtype), "b": np.array([-1, -1, 2], dtype)}
        right = np.array([least, -7, least // 2] if operator == "Div" else [0, 0, 0], dtype)
        plain = make_division(operator, dtype)
        found.append((f"{operator} {dtype}", plain, feed, right))
        for wrap in (put_into_if, put_into_loop, put_into_scan, put_into_function, put_into_nested_functions):
            found.append((f"{operator} {dtype} {wrap.__name__}", wrap(operator, dtype), feed, right))
        constant = make_division(operator, dtype)
        constant.graph.initializer.append(h.make_tensor("b", INTEGERS[dtype], [3], feed["b"].tolist()))
        del constant.graph.input[1]
        found.append((f"{operator} {dtype} by a constant", constant, {"a": feed["a"]}, right))
    for region in ([0, 0, 1e10, 1e10], [0, 0, np.nan, 1], [-np.inf, 0, 1, 1], [1e30, 1e30, -1e30, 1]):
        model, given = make_regions([[0, 0, 3, 3], region])
        found.append((f"RoiAlign {region}", model, given, "regions of RoiAlign"))
    for window, length in ((None, 0), (0, None), (0, 16), (16, 0)):
        model, given = make_frames(window, length)
        found.append((f"STFT window {window} frame {length}", model, given, "division by zero"))
    return found


def make_regions(regions: Any, **attributes: Any) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """Regions of a picture of 8 by 6 points."""
    inputs = [
        V("x", T.FLOAT, [1, 2, "h", "w"]),
        V("r", T.FLOAT, ["n", 4]),
        V("b", T.INT64, ["n"]),
    ]
    node = N("RoiAlign", ["x", "r", "b"], ["y"], output_height=2, output_width=2, **attributes)
    feed = {
        "x": np.arange(96, dtype=np.float32).reshape(1, 2, 8, 6),
        "r": np.array(regions, np.float32).reshape(-1, 4),
        "b": np.zeros(len(regions), np.int64),
    }
    return make_model(h.make_graph([node], "g", inputs, [V("y", T.FLOAT, None)])), feed


def make_frames(window: int | None, length: int | None) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """A short-time Fourier transform of 64 samples with a window of so many, or a frame of this length."""
    names = ["s", "step", "w" if window is not None else "", "l" if length is not None else ""]
    feed: dict[str, Any] = {"s": np.ones((1, 64, 1), np.float32), "step": np.array(8)}
    inputs = [V("s", T.FLOAT, [1, None, 1]), V("step", T.INT64, [])]
    if window is not None:
        inputs.append(V("w", T.FLOAT, [None]))
        feed["w"] = np.ones(window, np.float32)
    if length is not None:
        inputs.append(V("l", T.INT64, []))
        feed["l"] = np.array(length)
    return make_model(h.make_graph([N("STFT", names, ["y"])], "g", inputs, [V("y", T.FLOAT, None)])), feed


def put_into_if(operator: str, dtype: str) -> onnx.ModelProto:
    kind = INTEGERS[dtype]
    then = h.make_graph([N(operator, ["a", "b"], ["t"])], "then", [], [V("t", kind, None)])
    other = h.make_graph([N("Identity", ["a"], ["e"])], "other", [], [V("e", kind, None)])
    nodes = [
        N("Size", ["a"], ["n"]),
        N("Constant", [], ["zero"], value_int=0),
        N("Greater", ["n", "zero"], ["some"]),
        N("If", ["some"], ["y"], then_branch=then, else_branch=other),
    ]
    return make_model(
        h.make_graph(nodes, "g", [V("a", kind, None), V("b", kind, None)], [V("y", kind, None)])
    )


def put_into_loop(operator: str, dtype: str) -> onnx.ModelProto:
    kind = INTEGERS[dtype]
    body = h.make_graph(
        [N("Identity", ["c"], ["c2"]), N(operator, ["s", "b"], ["s2"])],
        "body",
        [V("i", T.INT64, []), V("c", T.BOOL, []), h.make_value_info("s", onnx.TypeProto())],
        [V("c2", T.BOOL, []), h.make_value_info("s2", onnx.TypeProto())],
    )
    nodes = [N("Constant", [], ["m"], value_int=1), N("Loop", ["m", "", "a"], ["y"], body=body)]
    return make_model(
        h.make_graph(nodes, "g", [V("a", kind, ["n"]), V("b", kind, ["n"])], [V("y", kind, ["n"])])
    )


def put_into_scan(operator: str, dtype: str) -> onnx.ModelProto:
    kind = INTEGERS[dtype]
    body = h.make_graph(
        [N(operator, ["p", "q"], ["r"])], "body", [V("p", kind, []), V("q", kind, [])], [V("r", kind, [])]
    )
    nodes = [N("Scan", ["a", "b"], ["y"], body=body, num_scan_inputs=2)]
    return make_model(
        h.make_graph(nodes, "g", [V("a", kind, ["n"]), V("b", kind, ["n"])], [V("y", kind, ["n"])])
    )


def put_into_function(operator: str, dtype: str) -> onnx.ModelProto:
    kind = INTEGERS[dtype]
    function = h.make_function("own", "Divide", ["p", "q"], ["r"], [N(operator, ["p", "q"], ["r"])], OPSETS)
    graph = h.make_graph(
        [N("Divide", ["a", "b"], ["y"], domain="own")],
        "g",
        [V("a", kind, ["n"]), V("b", kind, ["n"])],
        [V("y", kind, ["n"])],
    )
    return make_model(graph, functions=[function], opsets=[*OPSETS, h.make_opsetid("own", 1)])


def put_into_nested_functions(operator: str, dtype: str) -> onnx.ModelProto:
    model = put_into_function(operator, dtype)
    own = h.make_opsetid("own", 1)
    outer = h.make_function(
        "own", "Outer", ["u", "v"], ["w"], [N("Divide", ["u", "v"], ["w"], domain="own")], [own]
    )
    model.functions.append(outer)
    model.graph.node[0].op_type = "Outer"
    return model


def test_what_ends_a_process_unguarded_is_answered_in_graphs_bodies_and_functions() -> None:
    assert run_python(FATAL) == [name for name, *_ in list_fatal()]


def test_a_guarded_fourier_transform_answers_as_before() -> None:
    for window, length in ((16, None), (None, 16), (16, 16)):
        model, feed = make_frames(window, length)
        answer = open_session(model.SerializeToString()).infer(feed)["y"]
        np.testing.assert_array_equal(answer, run_unguarded(model, feed)[0])


@pytest.mark.parametrize("scale", [1.0, 0.25, 1 / 16])
def test_guarded_regions_answer_as_before(scale: float) -> None:
    corners = np.sort(np.random.default_rng(0).normal(size=(9, 2, 2)), axis=1).reshape(9, 4) * 8 / scale
    for regions in (corners.clip(-30 / scale, 30 / scale), []):
        model, feed = make_regions(regions, spatial_scale=scale)
        answer = open_session(model.SerializeToString()).infer(feed)["y"]
        np.testing.assert_array_equal(answer, run_unguarded(model, feed)[0])
    sampled, _ = make_regions([], sampling_ratio=2)
    assert examine(sampled).model is None


def test_an_operator_that_was_not_tried_with_integers_needs_a_process_of_its_own() -> None:
    inputs = [V("x", T.FLOAT, ["n", 3]), V("p", T.INT64, ["n"])]
    for name, refused in (("RestorePadding", True), ("GatherND", False)):
        node = N(name, ["x", "p"], ["y"], domain="com.microsoft")
        graph = h.make_graph([node], "g", inputs, [V("y", T.FLOAT, None)])
        model = make_model(graph, opsets=[*OPSETS, h.make_opsetid("com.microsoft", 1)])
        assert bool(examine(model).refused) is refused


def test_scores_beside_whole_labels_are_no_integers() -> None:
    classifier = N(
        "LinearClassifier",
        ["x"],
        ["label", "scores"],
        domain="ai.onnx.ml",
        coefficients=[1.0, -1.0, -1.0, 1.0],
        intercepts=[0.5, 1.0],
        classlabels_ints=[3, 5],
    )
    trees = N(
        "TreeEnsembleClassifier",
        ["x"],
        ["label", "scores"],
        domain="ai.onnx.ml",
        nodes_treeids=[0],
        nodes_nodeids=[0],
        nodes_featureids=[0],
        nodes_values=[0.0],
        nodes_modes=["LEAF"],
        nodes_truenodeids=[0],
        nodes_falsenodeids=[0],
        class_treeids=[0],
        class_nodeids=[0],
        class_ids=[0],
        class_weights=[1.0],
        classlabels_int64s=[3, 5],
    )
    for node in (classifier, trees):
        nodes = [node, N("Div", ["scores", "scores"], ["share"]), N("Div", ["label", "label"], ["y"])]
        outputs = [V("share", T.FLOAT, None), V("y", T.INT64, None)]
        graph = h.make_graph(nodes, "g", [V("x", T.FLOAT, ["n", 2])], outputs)
        model = make_model(graph, opsets=[*OPSETS, h.make_opsetid("ai.onnx.ml", 3)])
        answer = open_session(model.SerializeToString()).infer({"x": np.ones((1, 2), np.float32)})
        assert answer["y"].tolist() == [1]
        assert answer["share"].dtype == np.float32


@pytest.mark.parametrize("opset", [13, 21, 24])
def test_a_division_of_dequantised_numbers_is_none_of_integers(opset: int) -> None:
    nodes = [N("DequantizeLinear", ["q", "s"], ["x"]), N("Div", ["x", "x"], ["y"])]
    inputs = [V("q", T.INT32, ["n"]), V("s", T.FLOAT, [])]
    graph = h.make_graph(nodes, "g", inputs, [V("y", T.FLOAT, ["n"])])
    examined = examine(make_model(graph, opsets=[h.make_opsetid("", opset)]))
    assert (examined.model, examined.refused) == (None, ())


def test_a_divisor_that_is_proven_safe_leaves_the_model_as_it_is() -> None:
    for values, guarded in (([2, 3, 7], False), ([2, -1, 7], True)):
        model = make_division("Div", "int64")
        del model.graph.input[1]
        model.graph.initializer.append(h.make_tensor("b", T.INT64, [3], values))
        assert (examine(model).model is not None) is guarded
    for dtype in ("int8", "uint64"):
        assert examine(make_division("Div", dtype)).model is None
    floats = h.make_graph(
        [N("Div", ["a", "a"], ["y"])], "g", [V("a", T.FLOAT, ["n"])], [V("y", T.FLOAT, ["n"])]
    )
    assert examine(make_model(floats)).model is None


def test_the_given_model_and_its_error_texts_stay_as_they_were() -> None:
    inputs = [V("a", T.INT64, ["n"]), V("b", T.INT64, ["n"])]
    nodes = [N("Div", ["a", "b"], ["y"], name="ratio")]
    model = make_model(h.make_graph(nodes, "g", inputs, [V("y", T.INT64, ["n"])]))
    before = model.SerializeToString()
    assert examine(model).model is not None
    assert model.SerializeToString() == before
    with pytest.raises(InputError, match=r"'ratio'.*division by zero"):
        open_session(before).infer({"a": np.array([1]), "b": np.array([0])})


def test_names_that_a_guard_would_take_are_left_to_the_model() -> None:
    model = make_division("Div", "int64")
    for n in range(12):
        for word in ("constant", "equal", "cast", "add", "sub", "quotient"):
            model.graph.node.append(N("Identity", ["a"], [f"guard_{word}_{n}"]))
    answer = open_session(model.SerializeToString()).infer({"a": np.array([7]), "b": np.array([-1])})
    assert answer["y"].tolist() == [-7]


def make_sized(*nodes: onnx.NodeProto, dtype: int = T.INT64, shape: tuple[Any, ...] = ("n",)) -> bytes:
    graph = h.make_graph(list(nodes), "g", [V("x", dtype, shape)], [V("y", T.UNDEFINED, None)])
    graph.output[0].ClearField("type")
    return bytes(make_model(graph).SerializeToString())


def make_loop(count: str) -> list[onnx.NodeProto]:
    body = h.make_graph(
        [N("Identity", ["c"], ["c2"]), N("Identity", ["s"], ["s2"])],
        "body",
        [V("i", T.INT64, []), V("c", T.BOOL, []), V("s", T.INT64, None)],
        [V("c2", T.BOOL, []), V("s2", T.INT64, None)],
    )
    return [
        N("Constant", [], ["three"], value_int=3),
        N("Size", ["x"], ["size"]),
        N("Loop", [count, "", "x"], ["y"], body=body),
    ]


BY_VALUE = {
    "sizes that values say": (make_sized(N("ConstantOfShape", ["x"], ["y"])), ("ConstantOfShape",)),
    "sizes of what was sent": (
        make_sized(N("Shape", ["x"], ["s"]), N("ConstantOfShape", ["s"], ["y"])), ()
    ),
    "a sum that becomes a size": (
        make_sized(N("ReduceSum", ["x"], ["s"]), N("Expand", ["x", "s"], ["y"])), ("Expand",)
    ),
    "a count of loops that values say": (make_sized(*make_loop("x"), shape=()), ("Loop",)),
    "a constant count": (make_sized(*make_loop("three")), ()),
    "as many as were sent": (make_sized(*make_loop("size")), ()),
    "without a count": (make_sized(*make_loop("")), ("Loop",)),
}  # fmt: skip


@pytest.mark.parametrize("case", BY_VALUE)
def test_a_session_knows_what_goes_by_values(case: str) -> None:
    data, operators = BY_VALUE[case]
    assert open_session(data).by_value == operators


def test_a_run_can_be_ended_from_another_thread() -> None:
    data, _ = BY_VALUE["a count of loops that values say"]
    session = open_session(data)
    control = session.begin()
    with concurrent.futures.ThreadPoolExecutor(1) as threads:
        run = threads.submit(session.infer, {"x": np.array(2**62)}, control=control)
        control.end()
        with pytest.raises(DeadlineError, match="ended"):
            run.result()
    assert session.infer({"x": np.array(5)})["y"] == 5


def test_strings_that_are_repeated_as_often_as_values_say_need_a_process_of_their_own() -> None:
    inputs = [V("x", T.STRING, ["n"]), V("i", T.INT64, ["m"])]
    graph = h.make_graph([N("Gather", ["x", "i"], ["y"], name="pick")], "g", inputs, [V("y", T.STRING, None)])
    data = make_model(graph).SerializeToString()
    assert open_session(data).infer({"x": np.array(["a"], object), "i": np.array([0, 0])})["y"].size == 2
    with pytest.raises(ArtifactError, match=r"Gather 'pick' repeats strings.*isolate: true"):
        open_session(data, SessionOptions(shared=True))


REPEATING_OR_NOT = [
    ("a column of constant place", [N("Gather", ["x", "zero"], ["y"], axis=1)], ["n", 2], ["n", 1], False),
    ("one text for each row", [N("Where", ["b", "x", "x"], ["y"])], [1], ["n"], True),
    ("texts of rows, or others", [N("Where", ["b", "x", "x"], ["y"])], ["n", 2], ["n", 1], False),
    (
        "as many as another input has",
        [N("Shape", ["b"], ["s"]), N("Expand", ["x", "s"], ["y"])],
        ["n", 1],
        ["n", "m"],
        True,
    ),
]


@pytest.mark.parametrize(
    ("name", "nodes", "texts", "flags", "refused"),
    REPEATING_OR_NOT,
    ids=[name for name, *_ in REPEATING_OR_NOT],
)
def test_texts_of_a_request_are_repeated_only_as_the_file_says(
    name: str, nodes: Any, texts: list[Any], flags: list[Any], refused: bool
) -> None:
    inputs = [V("x", T.STRING, texts), V("b", T.BOOL, flags)]
    zero = h.make_tensor("zero", T.INT64, [1], [0])
    model = make_model(h.make_graph(nodes, "g", inputs, [V("y", T.STRING, None)], [zero]))
    assert bool(examine(model).refused) is refused


MEMORY = """
import numpy as np
from tests.unit.models import test_fatal_operators as fatal
from raymlops.errors import TooLargeError
from raymlops.models.session import SessionOptions, open_session
options = SessionOptions(memory=64 * 2**20)
data, _ = fatal.BY_VALUE["sizes that values say"]
session, other = open_session(data, options), open_session(data, options)
session.infer({"x": np.array([1])})  # the first part of the memory stays, and so should be small
for count, fits in ((8, 1), (10, 1), (2**40, 0), (2**61, 0), (14, 1), (2**30, 0), (3, 1), (15, 1), (5, 1), (15.5, 1)):
    for asked, control in ((session, None), (other, None), (session, session.begin())):
        elements = int(count * 2**20) if count < 2**20 else count
        try:
            assert len(asked.infer({"x": np.array([elements])}, control=control)["y"]) == elements
            answered = 1
        except TooLargeError as error:
            assert "run_memory_mb" in str(error), error
            answered = 0
        assert answered == fits, (count, answered)
print("bounded")
"""


def test_runs_take_no_more_memory_than_their_bound_and_a_refused_one_leaves_room_for_the_next() -> None:
    assert run_python(MEMORY) == ["bounded"]


def run_python(text: str) -> list[str]:
    """Lines that a process of its own prints."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", text],
        cwd=pathlib.Path(__file__).parents[3],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.splitlines()
