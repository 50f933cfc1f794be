"""A graph over a file, as `raymlops predict GRAPH DATA` runs it on Ray Data."""

import pathlib

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import ray

from raymlops.errors import DataError
from raymlops.pipelines.predict import Scoring, lists_to_elements, predict_dataset
from raymlops.serving.opening import OfflineGraph
from raymlops.specs.document import parse_document
from raymlops.specs.graph import GraphSpec
from raymlops.tensors import TensorSpec
from tests.graph_models import read_model


@pytest.mark.usefixtures("ray_cluster")
def test_a_graph_scores_a_dataset_as_it_answers_a_request(tmp_path: pathlib.Path) -> None:
    for name in ("1", "2", "3"):
        (tmp_path / f"{name}.onnx").write_bytes(read_model(name))
    text = f"""
nodes:
  small: {{kind: model, model: {tmp_path}/1.onnx}}
  large: {{kind: model, model: {tmp_path}/2.onnx, placement: separate}}
  answer: {{kind: cascade, steps: [small, large], confidence: sure, threshold: 0.7}}
  after: {{kind: model, model: {tmp_path}/3.onnx, inputs: {{x: answer.y}}}}
outputs: {{y: after.y, first: answer.label}}
"""
    spec = parse_document(text, GraphSpec)
    x = np.random.default_rng(0).normal(size=(500, 3)).astype(np.float32)
    values = pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), 3)
    dataset = ray.data.from_arrow(pa.table({"id": np.arange(500), "x": values}))
    rows = predict_dataset(dataset, spec, Scoring(keep=("id",), workers=1, cpus_per_worker=0.5)).to_pandas()
    expected = OfflineGraph(spec).infer({"x": x})
    np.testing.assert_allclose(np.stack(rows["y"].tolist()), expected["y"], rtol=1e-5)
    assert rows["first"].tolist() == expected["first"].tolist()
    assert rows["id"].tolist() == list(range(500))


@pytest.mark.usefixtures("ray_cluster")
def test_lists_of_elements_enter_and_leave_a_graph_as_columns_of_lists(tmp_path: pathlib.Path) -> None:
    (tmp_path / "look.onnx").write_bytes(read_model("1,two"))
    text = f"""
inputs:
  - {{name: crops, shape: [-1, 3], ragged: true}}
  - {{name: image, shape: [-1, 3]}}
nodes:
  look: {{kind: model, model: {tmp_path}/look.onnx, inputs: {{a: inputs.crops, b: inputs.image}}}}
  all: {{kind: each, over: inputs.crops, run: look}}
outputs: {{y: all.y, label: all.label}}
"""
    spec = parse_document(text, GraphSpec)
    noise = np.random.default_rng(0)
    lengths = noise.integers(0, 4, size=60)
    crops = noise.normal(size=(lengths.sum(), 3)).astype(np.float32)
    image = noise.normal(size=(60, 3)).astype(np.float32)
    parts = np.split(crops, np.cumsum(lengths)[:-1])
    rows = [part.tolist() if len(part) else None for part in parts]  # a missing list is an empty one
    table = pa.table({"crops": pa.array(rows, pa.list_(pa.list_(pa.float32()))), "image": list(image)})
    scored = predict_dataset(
        ray.data.from_arrow(table), spec, Scoring(keep=(), workers=1, cpus_per_worker=0.5)
    )
    answer = pa.concat_tables(ray.get(scored.to_arrow_refs()))
    expected = OfflineGraph(spec).infer({"crops": crops, "crops_lengths": lengths, "image": image})
    assert answer.column_names == ["y", "label"]
    assert [len(row) for row in answer["label"].to_pylist()] == lengths.tolist()
    found = np.array([element for row in answer["y"].to_pylist() for element in row], np.float32)
    np.testing.assert_allclose(found, expected["y"], rtol=1e-5)
    assert pc.list_flatten(answer["label"]).to_pylist() == expected["label"].tolist()


def test_a_column_that_is_no_list_is_refused_with_what_the_graph_takes() -> None:
    spec = TensorSpec("crops", "FP32", (-1, 3))
    with pytest.raises(
        DataError, match=r"Column 'crops' is double; the graph takes a list of crops: FP32\[-1,3\]"
    ):
        lists_to_elements(pa.table({"crops": [1.0, 2.0]}), spec)
    with pytest.raises(DataError, match="Unknown column 'crops'"):
        lists_to_elements(pa.table({"crop": [[1.0]]}), spec)


def test_lists_of_strings_are_elements_too() -> None:
    values, lengths = lists_to_elements(
        pa.table({"words": [["a", None], [], ["b"]]}), TensorSpec("words", "BYTES", (-1,))
    )
    assert values.tolist() == ["a", "", "b"]
    assert lengths.tolist() == [2, 0, 1]
