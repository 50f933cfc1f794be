"""ONNX files of a user's own in front of the model."""

import dataclasses
import pathlib
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
import pytest
from onnx import helper

from raymlops.errors import ArtifactError, DataError, NotFoundError
from raymlops.features import FittedColumn, FittedFeatures, table_to_batch
from raymlops.lifecycle.train import target_fitting
from raymlops.lifecycle.train.row_encoding import Dealing
from raymlops.models import encoder
from raymlops.models.encoder_files import read_encoder
from raymlops.models.session import open_session
from raymlops.specs.features import FeaturesSpec
from tests import feature_tables
from tests.column_encoders import make_image_encoder, save, train_text_encoder, value

TEXTS = ["good red car", "bad old car", "good new house", "bad red house", "old house"]
SPEC = FeaturesSpec.model_validate(
    {"target": {"column": "y"}, "columns": {"c": {"kind": "encoded", "encoder": "x"}}}
)


def fit(column: FittedColumn, table: pa.Table) -> FittedFeatures:
    """As a search does it with one block."""
    column = dataclasses.replace(column, digest=read_encoder(column.encoder).digest)
    features = FittedFeatures((column,), feature_tables.BINARY)
    codes = encoder.build_codes(features).SerializeToString()
    dealing = Dealing(frozenset(), together=False)
    measured = target_fitting.measure_block(table, features, codes, None, dealing)
    return target_fitting.complete_features(features, measured, SPEC)


def encode(features: FittedFeatures, table: pa.Table) -> Any:
    session = open_session(encoder.build_encoder(features, ("plain", "numeric")).SerializeToString())
    return encoder.run_encoder(session, table_to_batch(table, features))


def test_a_text_encoder_is_a_part_of_the_graph_and_scaled_by_the_training_rows(
    tmp_path: pathlib.Path,
) -> None:
    train_text_encoder(tmp_path / "texts.onnx", TEXTS)
    table = pa.table({"c": [*TEXTS, None, "unseen words"], "y": [0, 1, 0, 1, 0, 1, 0]})
    features = fit(FittedColumn("c", "encoded", "string", encoder=str(tmp_path / "texts.onnx")), table)
    found = encode(features, table)
    own = open_session((tmp_path / "texts.onnx").read_bytes())
    expected = own.infer({"texts": np.array([*TEXTS, "", "unseen words"], dtype=object)})["numbers"]
    np.testing.assert_allclose(found["plain"], expected, atol=1e-6)
    scaled = (expected - expected.mean(0)) / expected.std(0)
    np.testing.assert_allclose(found["numeric"], scaled.clip(-4, 4), atol=1e-4)
    assert FittedFeatures.from_json(features.to_json()) == features


@pytest.mark.parametrize("shape", [(8, 6), (8, 6, 1)])
def test_a_backbone_of_images_takes_their_channels_first(
    tmp_path: pathlib.Path, shape: tuple[int, ...]
) -> None:
    make_image_encoder(tmp_path / "images.onnx")
    images = np.random.default_rng(1).integers(0, 256, (5, *shape)).astype(np.float32)
    table = pa.table({"c": pa.array(images.reshape(5, -1).tolist()), "y": [0, 1, 0, 1, 0]})
    column = FittedColumn(
        "c", "encoded", "image", False, shape=shape, scale=255.0, encoder=str(tmp_path / "images.onnx")
    )
    tensors = pa.ExtensionArray.from_storage(
        pa.fixed_shape_tensor(pa.float32(), shape),
        pa.array(images.reshape(5, -1).tolist(), pa.list_(pa.float32(), 48)),
    )
    table = table.set_column(0, "c", tensors)
    found = encode(fit(column, table), table)["plain"]
    own = open_session((tmp_path / "images.onnx").read_bytes())
    expected = own.infer({"pixels": (images / 255).reshape(5, 1, 8, 6)})["numbers"].reshape(5, -1)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def one_node(
    path: pathlib.Path, node: Any, kind: int = 1, shape: tuple[Any, ...] = ("rows", 1), **more: Any
) -> str:
    graph = helper.make_graph(
        [node], "g", [value("x", kind, *shape)], [value("y", more.get("to", 1), "rows", 1)]
    )
    opsets = [helper.make_opsetid("", more.get("opset", 20)), *more.get("also", [])]
    save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    return str(path)


def test_files_that_cannot_be_a_part_are_refused_with_the_reason(tmp_path: pathlib.Path) -> None:
    same, foreign = helper.make_node("Relu", ["x"], ["y"]), helper.make_opsetid("com.microsoft", 1)
    refused: dict[str, tuple[Any, dict[str, Any]]] = {
        "free first axis": (same, {"shape": (4, 1)}),
        "export it with opset 20": (same, {"opset": 21}),
        "expected numbers": (helper.make_node("Cast", ["x"], ["y"], to=7), {"to": 7}),
        "com.microsoft": (
            helper.make_node("Gelu", ["x"], ["y"], domain="com.microsoft"),
            {"also": [foreign]},
        ),
    }
    file = tmp_path / "e.onnx"
    for said, (node, more) in refused.items():
        path = one_node(file, node, **more)
        with pytest.raises(ArtifactError, match=said):
            read_encoder(path)
    with pytest.raises(NotFoundError):
        read_encoder(str(tmp_path / "none.onnx"))
    file.write_bytes(b"\x00\x01 no model")
    with pytest.raises(ArtifactError):
        read_encoder(str(file))


def test_a_file_that_couples_rows_or_changed_since_is_refused(tmp_path: pathlib.Path) -> None:
    table = pa.table({"c": [1.0, 2.0, 5.0, 9.0], "y": [0, 1, 0, 1]})
    coupled = helper.make_node("Softmax", ["x"], ["y"], axis=0)
    path = one_node(tmp_path / "e.onnx", coupled)
    column = FittedColumn("c", "encoded", "number", encoder=path)
    with pytest.raises(DataError, match="alone than beside others"):
        fit(column, table)
    one_node(tmp_path / "e.onnx", helper.make_node("Log", ["x"], ["y"]))
    features = fit(column, table)
    with pytest.raises(DataError, match="NaN or infinite"):
        fit(column, table.set_column(0, "c", pa.array([-1.0, 2.0, 5.0, 9.0])))
    with pytest.raises(ArtifactError, match="takes numbers"):
        fit(dataclasses.replace(column, type="string"), table.set_column(0, "c", pa.array(list("abcd"))))
    one_node(tmp_path / "e.onnx", helper.make_node("Exp", ["x"], ["y"]))
    with pytest.raises(ArtifactError, match="was changed"):
        encode(features, table)
    assert onnx.load(path).graph.node[0].op_type == "Exp"
