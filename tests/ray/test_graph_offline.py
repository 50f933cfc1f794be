"""A graph over a file, as `raymlops predict GRAPH DATA` runs it on Ray Data."""

import io
import json
import pathlib
import shutil
from typing import Any

import numpy as np
import orjson
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import ray
from ray.data.extensions import ArrowVariableShapedTensorArray

from examples import models
from examples.ocr import client
from examples.ocr.lettering import draw_page
from raymlops.errors import DataError, StorageError
from raymlops.lifecycle.batch.predict import (
    OnnxScorer,
    Scoring,
    lists_to_elements,
    predict_dataset,
    predict_files,
)
from raymlops.lifecycle.batch.signature_columns import read_column
from raymlops.lifecycle.batch.text_files import write_lines
from raymlops.runtime.open_graph import OfflineGraph
from raymlops.serving.deploy.config_files import read_graphs
from raymlops.specs.dataset import DatasetSpec
from raymlops.specs.document import parse_document
from raymlops.specs.graph import GraphSpec, read_graph
from raymlops.tensors import TensorSpec
from tests import own_kinds
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
  held: {{kind: "own_kinds:Clip", of: [after.y], low: 0.3, high: 0.6}}
outputs: {{y: after.y, first: answer.label, held: held.y}}
"""
    (tmp_path / "graph.yaml").write_text(text)
    shutil.copy(own_kinds.__file__, tmp_path / "own_kinds.py")
    spec = read_graph(tmp_path / "graph.yaml")
    x = np.random.default_rng(0).normal(size=(500, 3)).astype(np.float32)
    values = pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), 3)
    dataset = ray.data.from_arrow(pa.table({"id": np.arange(500), "x": values}))
    rows = predict_dataset(dataset, spec, Scoring(keep=("id",), workers=1, cpus_per_worker=0.5)).to_pandas()
    expected = OfflineGraph(spec).infer({"x": x})
    np.testing.assert_allclose(np.stack(rows["y"].tolist()), expected["y"], rtol=1e-5)
    np.testing.assert_allclose(np.stack(rows["held"].tolist()), np.clip(expected["y"], 0.3, 0.6), rtol=1e-5)
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


@pytest.fixture
def ocr(tmp_path: pathlib.Path) -> GraphSpec:
    """The example of docs/python_nodes.md, its models in this folder."""
    path = pathlib.Path(__file__).parents[2] / "examples/ocr/serving.yaml"
    text = json.dumps(read_graphs(path)[0].model_dump(exclude_unset=True))
    for name in ("models/ocr_detect.onnx", "models/ocr_recognise.onnx"):
        file = tmp_path / pathlib.Path(name).name
        file.write_bytes(models.FILES[name]().SerializeToString())
        text = text.replace(name, str(file))
    return GraphSpec.model_validate_json(text)


@pytest.mark.usefixtures("ray_cluster")
def test_pages_of_many_sizes_become_texts_and_boxes_in_every_format_that_holds_them(
    tmp_path: pathlib.Path, ocr: GraphSpec
) -> None:
    sizes = [(160, 640), (300, 700), (160, 640), (64, 64), (800, 1300)]
    pages = [draw_page(height, width, 5, seed=i) for i, (height, width) in enumerate(sizes)]
    client.write(str(tmp_path / "pages.parquet"), pages)
    data = DatasetSpec(reader="parquet", path=str(tmp_path / "pages.parquet"))
    scoring = Scoring(keep=("page",), workers=1, cpus_per_worker=0.5)
    read = {
        "parquet": pd.read_parquet,
        "jsonl": lambda folder: pd.concat(map(read_lines, folder.glob("*.jsonl"))),
    }
    for file_format, read_folder in read.items():
        folder = tmp_path / file_format
        assert predict_files(data, ocr, str(folder), scoring, file_format=file_format) == len(pages)
        rows = read_folder(folder).sort_values("page")
        assert [list(texts) for texts in rows["texts"]] == [list(page.words) for page in pages]
        for boxes, page in zip(rows["boxes"], pages, strict=True):
            assert [list(box) for box in boxes] == page.boxes.tolist()
        with pytest.raises(StorageError, match="already holds"):
            predict_files(data, ocr, str(folder), scoring, file_format=file_format)
    with pytest.raises(DataError, match=r"CSV cannot hold 'texts' .* 'boxes' .* --format jsonl"):
        predict_files(data, ocr, str(tmp_path / "csv"), scoring, file_format="csv")
    assert not (tmp_path / "csv").exists()


def read_lines(path: pathlib.Path) -> pd.DataFrame:
    return pd.DataFrame(orjson.loads(line) for line in path.read_bytes().splitlines())


@pytest.mark.usefixtures("ray_cluster")
def test_numbers_in_text_files_are_those_of_the_answer(tmp_path: pathlib.Path) -> None:
    (tmp_path / "1.onnx").write_bytes(read_model("1"))
    text = f"nodes: {{one: {{kind: model, model: {tmp_path}/1.onnx}}}}\noutputs: {{sure: one.sure, label: one.label}}"
    spec = parse_document(text, GraphSpec)
    x = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    expected = OfflineGraph(spec).infer({"x": x})
    names = ['a, "b"\nc', "", "dée", *map(str, range(47))]
    pq.write_table(pa.table({"id": names, "x": x.tolist()}), tmp_path / "x.parquet")
    data = DatasetSpec(reader="parquet", path=str(tmp_path / "x.parquet"))
    for file_format, read in (
        ("csv", lambda path: pd.read_csv(path, keep_default_na=False)),
        ("jsonl", read_lines),
    ):
        folder = tmp_path / file_format
        scoring = Scoring(keep=("id",), workers=1, cpus_per_worker=0.5)
        assert predict_files(data, spec, str(folder), scoring, file_format=file_format) == 50
        rows = pd.concat(map(read, sorted(folder.iterdir())))
        assert rows["id"].tolist() == names
        assert np.array_equal(rows["sure"].to_numpy(np.float32), expected["sure"])
        assert rows["label"].tolist() == expected["label"].tolist()
    wide = Scoring(workers=1, cpus_per_worker=0.5)
    with pytest.raises(DataError, match="CSV cannot hold 'x'"):
        predict_files(data, spec, str(tmp_path / "wide"), wide, file_format="csv")


SHAPED = """
import numpy as np
class Node:
    rows_independent = True
    def run(self, batch):
        sizes = [image.size for image in batch["image"]]
        return {
            "size": np.array(sizes, np.int64),
            "mask": batch["image"][..., 0] > 0,
            "name": np.array([name.upper() for name in batch["name"]], object),
        }
"""


@pytest.fixture
def shaped(tmp_path: pathlib.Path) -> GraphSpec:
    (tmp_path / "shaped_nodes.py").write_text(SHAPED)
    (tmp_path / "graph.yaml").write_text(
        """
nodes:
  own:
    kind: python
    target: shaped_nodes:Node
    takes: [{name: image, datatype: UINT8, shape: [-1, -1, -1, 3]}, {name: name, datatype: BYTES}]
    outputs:
      - {name: size, datatype: INT64}
      - {name: mask, datatype: BOOL, shape: [-1, -1, -1]}
      - {name: name, datatype: BYTES}
outputs: [own]
"""
    )
    return read_graph(tmp_path / "graph.yaml")


def make_images(kind: str, images: list[Any]) -> Any:
    if kind == "lists":
        return pa.array([image.tolist() for image in images], pa.list_(pa.list_(pa.list_(pa.uint8()))))
    if kind == "lists of long integers":
        return pa.array([image.tolist() for image in images])
    return ArrowVariableShapedTensorArray.from_numpy(images)


@pytest.mark.parametrize("kind", ["lists", "lists of long integers", "tensors"])
def test_images_of_sizes_of_their_own_are_scored_row_by_row(shaped: GraphSpec, kind: str) -> None:
    noise = np.random.default_rng(0)
    images = [noise.integers(0, 2, (height, 4, 3), np.uint8) for height in (2, 2, 5, 1, 5, 5, 2)]
    table = pa.table({"image": make_images(kind, images), "name": [*"abcdef", None]})
    answer = OnnxScorer(shaped, ("name",), 1, 8192)(table)
    assert answer["size"].to_pylist() == [image.size for image in images]
    assert answer["mask"].to_pylist() == [(image[..., 0] > 0).tolist() for image in images]
    assert answer["mask"].type == pa.list_(pa.list_(pa.bool_()))  # the same in every block, whatever is in it
    assert answer["predicted_name"].to_pylist() == [*"ABCDEF", ""]
    assert answer["name"].to_pylist() == [*"abcdef", None]  # a column that is kept is not replaced


def test_a_part_without_rows_has_the_columns_of_the_others(shaped: GraphSpec, ocr: GraphSpec) -> None:
    images = make_images("lists", [np.zeros((40, 40, 3), np.uint8)] * 2)
    for spec in (shaped, ocr):
        table = pa.table({"image": images, "name": ["a", "b"]})
        scorer = OnnxScorer(spec, ("name",), 1, 8192)
        assert scorer(table.slice(0, 0)).schema == scorer(table).schema


@pytest.mark.parametrize(
    ("column", "told"),
    [
        (pa.array([b"\x89PNG", b"\x89PNG"]), "nested lists or tensors"),
        (pa.array([[[[1, 2, 3]]], None]), "null"),
        (pa.array([[[[1, 2, 3]], [[1, 2, 3], [1, 2, 3]]]] * 2), "its lists have 2 lengths"),
        (pa.array([[[[1, 2, 300]]]] * 2), "300 not in range"),
        (pa.array([[[[1, 2, None]]]] * 2), "nulls"),
        (pa.array([[], []], pa.list_(pa.list_(pa.list_(pa.uint8())))), "shape"),
        (pa.array(["x", "y"]), "the model takes image"),
    ],
)
def test_what_is_no_image_is_refused_with_its_column(shaped: GraphSpec, column: pa.Array, told: str) -> None:
    with pytest.raises(DataError, match=f"Column 'image' .*{told}"):
        OnnxScorer(shaped, ("name",), 1, 8192)(pa.table({"image": column, "name": ["a", "b"]}))


def test_lines_of_json_hold_what_they_can_and_refuse_the_rest() -> None:
    file = io.BytesIO()
    held = {"a": [1.5, float("nan")], "b": [[b"x"], []], "c": [[[1.0]], None], "d": [True, None]}
    write_lines(pa.table(held), file)
    lines = [orjson.loads(line) for line in file.getvalue().splitlines()]
    assert lines[0] == {"a": 1.5, "b": ["x"], "c": [[1.0]], "d": True}
    assert lines[1] == {"a": None, "b": [], "c": None, "d": None}
    for wrong, told in (
        ([[float("inf")]], "infinite numbers of column 'x'"),
        ([b"\xff"], "bytes that are not text"),
    ):
        with pytest.raises(DataError, match=told):
            write_lines(pa.table({"x": wrong}), io.BytesIO())


@pytest.mark.parametrize("kind", [pa.timestamp("us"), pa.date32(), pa.duration("s"), pa.time64("us")])
def test_times_are_refused_where_no_contract_says_their_unit(kind: pa.DataType) -> None:
    table = pa.table({"x": pa.array([1, 2], kind)})
    for datatype in ("INT64", "FP32", "BYTES"):
        with pytest.raises(DataError, match="in what unit it counts time"):
            read_column(table, TensorSpec("x", datatype, (-1,)))


def test_bytes_are_numbers_where_their_shape_is_known() -> None:
    numbers = np.arange(12, dtype="<i4").reshape(2, 2, 3)
    table = pa.table({"x": [row.tobytes() for row in numbers]})
    assert np.array_equal(read_column(table, TensorSpec("x", "INT32", (-1, 2, 3))), numbers)
    with pytest.raises(DataError, match="its bytes are not the numbers of INT32"):
        read_column(table, TensorSpec("x", "INT32", (-1, 2, 4)))


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
