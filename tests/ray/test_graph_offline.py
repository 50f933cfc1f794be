"""A graph over a file, as `raymlops predict GRAPH DATA` runs it on Ray Data."""

import pathlib

import numpy as np
import pyarrow as pa
import pytest
import ray

from raymlops.pipelines.predict import Scoring, predict_dataset
from raymlops.serving.opening import OfflineGraph
from raymlops.specs.document import parse_document
from raymlops.specs.graph import GraphSpec
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
