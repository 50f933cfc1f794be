"""Requests share a run only where the model's operators show that each row is answered by itself."""

import asyncio
import pathlib
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
import pytest
from onnx import TensorProto, helper, numpy_helper

from raymlops.errors import ArtifactError, NodeError
from raymlops.graphs.answer_checks import make_check
from raymlops.graphs.port_types import declare_port
from raymlops.lifecycle.batch.predict import OnnxScorer
from raymlops.models import variants
from raymlops.models.row_independence import prove_rows
from raymlops.models.session import open_session
from raymlops.runtime import run_cost
from raymlops.runtime.open_graph import OfflineGraph, run_python
from raymlops.runtime.python_modules import load_python
from raymlops.serving.endpoints.graph import prepare_graph
from raymlops.serving.endpoints.model import ModelEndpoint
from raymlops.serving.endpoints.model_host import host_model
from raymlops.serving.endpoints.queue_batcher import BatchOptions
from raymlops.serving.endpoints.statistics import Statistics
from raymlops.settings import Settings
from raymlops.specs.document import validate_document
from raymlops.specs.graph import GraphSpec
from raymlops.specs.graph_nodes import PythonNode
from raymlops.specs.serving import Batching, HostedModel
from raymlops.tensors import Batch
from tests import row_checks, small_models, toy_models
from tests.graph_models import make_model

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
node, value = helper.make_node, toy_models.value


def constant(name: str, array: Any) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(array), name)


def tied_mean() -> onnx.ModelProto:
    """Whole numbers less the mean of all rows: zeros and random floats do not show it."""
    nodes = [
        node("Cast", ["x"], ["f"], to=FLOAT),
        node("ReduceMean", ["f", "zero"], ["m"], name="centre", keepdims=1),
        node("Sub", ["f", "m"], ["y"]),
    ]
    ports = [value("x", INT64, "n", 3)], [value("y", FLOAT, "n", 3)]
    return toy_models.make(nodes, *ports, [constant("zero", [0])])


def tied_scale() -> onnx.ModelProto:
    """Embeddings quantised by the range of the whole batch, as every dynamically quantised model does."""
    table = np.concatenate([np.ones((5, 4), np.float32), 300 * np.ones((5, 4), np.float32)])
    nodes = [
        node("Gather", ["table", "x"], ["g"]),
        node("DynamicQuantizeLinear", ["g"], ["q", "s", "z"], name="quantise"),
        node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    return toy_models.make(
        nodes, [value("x", INT64, "n")], [value("y", FLOAT, "n", 4)], [constant("table", table)]
    )


def tied_branch() -> onnx.ModelProto:
    """Another branch for all rows where one of them is large."""
    nodes = [
        node("ReduceSum", ["x"], ["t"], name="total", keepdims=0),
        node("Greater", ["t", "ten"], ["g"]),
        node(
            "If",
            ["g"],
            ["y"],
            then_branch=helper.make_graph([node("Neg", ["x"], ["a"])], "a", [], [value("a", FLOAT)]),
            else_branch=helper.make_graph([node("Identity", ["x"], ["b"])], "b", [], [value("b", FLOAT)]),
        ),
    ]
    ports = [value("x", FLOAT, "n", 3)], [value("y", FLOAT, "n", 3)]
    return toy_models.make(nodes, *ports, [constant("ten", np.float32(10))])


def counted() -> onnx.ModelProto:
    """Each row divided by the number of rows."""
    nodes = [
        node("Shape", ["x"], ["s"], start=0, end=1),
        node("Cast", ["s"], ["n"], name="number", to=FLOAT),
        node("Div", ["x", "n"], ["y"]),
    ]
    return toy_models.make(nodes, [value("x", FLOAT, "n", 3)], [value("y", FLOAT, "n", 3)])


def numbered() -> onnx.ModelProto:
    """The place of each row in the batch."""
    nodes = [
        node("Shape", ["x"], ["s"], start=0, end=1),
        node("Squeeze", ["s"], ["n"]),
        node("Range", ["zero", "n", "one"], ["y"], name="places"),
    ]
    weights = [constant("zero", np.int64(0)), constant("one", np.int64(1))]
    return toy_models.make(nodes, [value("x", FLOAT, "n", 3)], [value("y", INT64, "n")], weights)


def in_a_function() -> onnx.ModelProto:
    """The mean of all rows inside a function of the model's own, with the axes given by the call."""
    body = [
        node("ReduceMean", ["f"], ["m"], name="inner"),
        node("Sub", ["f", "m"], ["out"]),
    ]
    body[0].attribute.append(
        onnx.AttributeProto(name="axes", ref_attr_name="over", type=onnx.AttributeProto.INTS)
    )
    function = helper.make_function(
        "own", "centre", ["f"], ["out"], body, [helper.make_opsetid("", 17)], ["over"]
    )
    graph = helper.make_graph(
        [node("centre", ["x"], ["y"], domain="own", over=[0])],
        "g",
        [value("x", FLOAT, "n", 3)],
        [value("y", FLOAT, "n", 3)],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    return helper.make_model(graph, functions=[function], opset_imports=opsets, ir_version=10)


def one_value_for_all() -> onnx.ModelProto:
    """An output of one value, beside one of a value for each row."""
    nodes = [node("Identity", ["x"], ["y"]), node("ReduceSum", ["x"], ["total"], name="sum", keepdims=0)]
    return toy_models.make(
        nodes, [value("x", FLOAT, "n", 3)], [value("y", FLOAT, "n", 3), value("total", FLOAT)]
    )


def any_row() -> onnx.ModelProto:
    """A row's largest: ONNX Runtime sees NaN in it or not by where it lies in memory."""
    nodes = [node("ReduceMax", ["x", "one"], ["y"], name="largest", keepdims=1)]
    ports = [value("x", FLOAT, "n", 3)], [value("y", FLOAT, "n", 1)]
    return toy_models.make(nodes, *ports, [constant("one", [1])])


TIED = {
    "ReduceMean 'centre'": tied_mean(),
    "DynamicQuantizeLinear 'quantise'": tied_scale(),
    "ReduceSum 'total'": tied_branch(),
    "Cast 'number'": counted(),
    "Range 'places'": numbered(),
    "ReduceMean 'inner'": in_a_function(),
    "ReduceSum 'sum'": one_value_for_all(),
    "ReduceMax 'largest'": any_row(),
}


@pytest.mark.parametrize("operator", TIED)
def test_the_operator_that_ties_rows_is_named(operator: str) -> None:
    proof = prove_rows(TIED[operator].SerializeToString())
    assert not proof
    assert operator in proof.reason


def serve(model: onnx.ModelProto, mode: str = "auto") -> ModelEndpoint:
    data = model.SerializeToString()
    options, proof = BatchOptions(), prove_rows(data)
    return ModelEndpoint(open_session(data), Statistics("toy", "1"), options, mode, independence=proof)


def ask_together(endpoint: Any, batches: Sequence[Batch]) -> list[Batch]:
    async def run() -> list[Batch]:
        return await asyncio.gather(*(endpoint.infer(batch) for batch in batches))

    return asyncio.run(run())


@pytest.mark.parametrize("inline", [60.0, 0.0], ids=["on the event loop", "in a thread"])
@pytest.mark.parametrize("operator", [*TIED])
def test_every_caller_gets_the_answer_that_it_gets_alone(
    operator: str, inline: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_cost, "INLINE_S", inline)
    model = TIED[operator]
    spec = open_session(model.SerializeToString()).signature.inputs[0]
    shape = (1, 3) if len(spec.shape) == 2 else (1,)
    rows = [{"x": np.full(shape, number, spec.dtype)} for number in (0, 9, 1, 5, 9, 2)]
    session = open_session(model.SerializeToString())
    for row, answer in zip(rows, ask_together(serve(model), rows), strict=True):
        for name, alone in session.infer(row).items():
            np.testing.assert_array_equal(answer[name], alone)


def test_requests_of_a_model_whose_rows_are_tied_cannot_be_asked_to_share(tmp_path: pathlib.Path) -> None:
    path = toy_models.save(tied_mean(), tmp_path / "tied.onnx")
    for mode in ("auto", "off"):
        hosted = host_model("tied", path, HostedModel(source=str(path), batching=Batching(mode=mode)))
        told = hosted.statistics.to_json()["shared_runs"]
        assert told == hosted.statistics.sharing
        assert ("ReduceMean 'centre'" in told) == (mode == "auto")
    with pytest.raises(ArtifactError, match=r"'tied' cannot share.*ReduceMean 'centre'.*mode: off"):
        host_model("tied", path, HostedModel(source=str(path), batching=Batching(mode="on")))


def test_a_separate_node_that_must_join_is_refused_before_anything_is_deployed(
    tmp_path: pathlib.Path, settings: Settings
) -> None:
    toy_models.save(tied_mean(), tmp_path / "tied.onnx")
    resources = {"max_rows": 16}
    nodes = {"tied": {"kind": "model", "model": str(tmp_path / "tied.onnx"), "resources": resources}}
    spec = validate_document({"nodes": nodes, "outputs": ["tied.y"]}, GraphSpec)
    with pytest.raises(ArtifactError, match="ReduceMean 'centre'"):
        prepare_graph(spec, settings)


def test_a_model_with_less_company_than_inputs_is_not_joined() -> None:
    """Two inputs with other numbers of rows: the model takes them, but there is no row to answer by itself."""
    nodes = [node("MatMul", ["a", "b"], ["c"]), node("Identity", ["c"], ["y"])]
    ports = [value("a", FLOAT, "n", "k"), value("b", FLOAT, "k", 2)], [value("y", FLOAT, "n", 2)]
    assert "MatMul" in prove_rows(toy_models.make(nodes, *ports).SerializeToString()).reason


def exported_as_torch_does() -> onnx.ModelProto:
    """Reshapes by a shape that was read from a tensor, to heads and back, as exporters write attention."""
    nodes = [
        node("Shape", ["x"], ["shape"]),
        node("Gather", ["shape", "zero"], ["rows"]),
        node("Concat", ["rows", "heads"], ["split"], axis=0),
        node("Reshape", ["x", "split"], ["apart"]),
        node("Transpose", ["apart"], ["turned"], perm=[0, 2, 1, 3]),
        node("Transpose", ["turned"], ["keys"], perm=[0, 1, 3, 2]),
        node("MatMul", ["turned", "keys"], ["scores"]),
        node("Softmax", ["scores"], ["shares"], axis=-1),
        node("MatMul", ["shares", "turned"], ["mixed"]),
        node("Transpose", ["mixed"], ["back"], perm=[0, 2, 1, 3]),
        node("Reshape", ["back", "flat"], ["y"]),
    ]
    weights = [
        constant("zero", np.array([0])),
        constant("heads", np.array([-1, 2, 4])),
        constant("flat", np.array([0, -1, 8])),
    ]
    return toy_models.make(nodes, [value("x", FLOAT, "n", "t", 8)], [value("y", FLOAT, "n", "t", 8)], weights)


def test_models_as_exporters_write_them_are_proven(tmp_path: pathlib.Path) -> None:
    assert prove_rows(exported_as_torch_does().SerializeToString()).reason == ""
    weights = small_models.fit(*small_models.draw_flights(500))
    path = tmp_path / "model.onnx"
    path.write_bytes(small_models.build_model(weights))
    rows, _ = small_models.draw_flights(300, seed=1)
    assert prove_rows(path.read_bytes()).reason == ""
    told = {}
    for kind in variants.KINDS:
        made = variants.make_variant(kind, path, tmp_path / f"{kind}.onnx", rows=rows)
        told[kind] = prove_rows(pathlib.Path(made.path).read_bytes()).reason.partition(" ")[0]
    assert told == {"fp16": "", "int8": "DynamicQuantizeLinear", "int8_static": ""}


BOUNDS = {"model": 1e-6, "fp16": 2e-3, "int8_static": 1e-6}
"""Largest difference of a probability that company may make: float32 sums are taken in another order; half precision
rounds to 11 bits; sums of whole numbers are exact."""


def test_company_moves_an_answer_by_rounding_only(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(small_models.build_model(small_models.fit(*small_models.draw_flights(500))))
    rows, _ = small_models.draw_flights(256, seed=1)
    for kind, bound in BOUNDS.items():
        file = (
            path
            if kind == "model"
            else variants.make_variant(kind, path, tmp_path / f"{kind}.onnx", rows=rows).path
        )
        session = open_session(file)
        together = session.infer(rows)["probability"]
        for row in range(0, 256, 5):
            alone = session.infer({name: values[row : row + 1].copy() for name, values in rows.items()})
            assert abs(alone["probability"][0] - together[row]) <= bound, kind


def test_two_hundred_random_graphs_answer_alike_alone_and_beside_others() -> None:
    count = row_checks.check_random_graphs(0, 200)
    assert count.differing == []
    assert (count.models, count.proven > 60) == (200, True)


@pytest.mark.slow
def test_what_onnx_generates_for_each_operator_answers_alike_alone_and_beside_others() -> None:
    count = row_checks.check_corpus(most_free=1, quick=True)
    assert count.differing == []
    assert count.models > 1500
    assert count.ran > 400


def test_broken_files_prove_nothing_and_break_nothing() -> None:
    noise = random.Random(0)
    for model in TIED.values():
        for _ in range(60):
            damaged = bytearray(model.SerializeToString())
            for _ in range(noise.randint(1, 4)):
                damaged[noise.randrange(len(damaged))] = noise.randrange(256)
            prove_rows(bytes(damaged))
    stray = tied_mean()
    del stray.graph.node[0].attribute[:]
    assert not prove_rows(stray.SerializeToString())


def test_files_are_scored_row_by_row_where_rows_are_tied() -> None:
    table = pa.table({"x": pa.FixedSizeListArray.from_arrays(pa.array(range(9)), 3)})
    scorer = OnnxScorer(tied_mean().SerializeToString(), None, 1, 8192)
    scored = scorer(table.slice(0, 3))
    assert scored["y"].to_pylist() == [[0.0] * 3] * 3
    totals = OnnxScorer(one_value_for_all().SerializeToString(), None, 1, 8192)(
        pa.table({"x": pa.FixedSizeListArray.from_arrays(pa.array(np.arange(6, dtype=np.float32)), 3)})
    )
    assert totals["total"].to_pylist() == [3.0, 12.0]


def test_a_graph_over_files_keeps_rows_apart_unless_its_python_nodes_say_that_they_do(
    tmp_path: pathlib.Path,
) -> None:
    (tmp_path / "1.onnx").write_bytes(make_model(1))
    ports = {"takes": [{"name": "x", "shape": [-1, 3]}], "outputs": [{"name": "y", "shape": [-1, 3]}]}

    def open_with(target: str) -> OfflineGraph:
        own = {"kind": "python", "target": f"tests.unit.models.test_row_independence:{target}", **ports}
        nodes = {
            "own": own,
            "model": {"kind": "model", "model": str(tmp_path / "1.onnx"), "inputs": {"x": "own.y"}},
        }
        return OfflineGraph(validate_document({"nodes": nodes, "outputs": ["model.y"]}, GraphSpec))

    assert "rows_independent" in open_with("Centre").independence.reason
    assert open_with("Twice").independence.reason == ""


class Centre:
    def run(self, batch: Batch) -> Batch:
        return {"y": batch["x"] - batch["x"].mean(axis=0)}


class Twice:
    rows_independent = True

    def run(self, batch: Batch) -> Batch:
        return {"y": 2 * batch["x"]}


class Answers:
    """Answers what it was made with."""

    given: Any = None

    def run(self, batch: Batch) -> Batch:
        return self.given  # type: ignore[no-any-return]


WRONG: dict[str, Any] = {
    "FP64": {"y": np.zeros(2)},
    "INT64": {"y": np.zeros(2, np.int64)},
    "1 rows for 2": {"y": np.zeros(1, np.float32)},
    r"FP32\[2,1\]": {"y": np.zeros((2, 1), np.float32)},
    "declares output 'y', but answered 'z'": {"z": np.zeros(2, np.float32)},
    "list, not a numpy array": {"y": [0.0, 0.0]},
    "not a dict": np.zeros(2, np.float32),
}


@pytest.mark.parametrize("fault", WRONG)
def test_a_python_node_is_held_to_what_it_declares(fault: str) -> None:
    spec = validate_document(
        {
            "kind": "python",
            "target": "tests.unit.models.test_row_independence:Answers",
            "outputs": [{"name": "y"}],
        },
        PythonNode,
    )
    instance = load_python("own", spec)
    run = run_python(instance, make_check("own", [declare_port(tensor) for tensor in spec.outputs])).run
    instance.given = {"y": np.ones(2, np.float32), "more": np.ones(7)}
    assert list(asyncio.run(run({"x": np.zeros(2)}))) == ["y"]
    instance.given = WRONG[fault]
    with pytest.raises(NodeError, match=rf"Node 'own'.*{fault}"):
        asyncio.run(run({"x": np.zeros(2)}))
