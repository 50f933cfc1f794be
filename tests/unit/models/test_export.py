import functools
import json
import pathlib
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
import pytest
import torch

from raymlops.artifact import CONTRACT_KEY
from raymlops.errors import ArtifactError
from raymlops.features import FittedColumn, FittedFeatures, FittedTarget, packing_of, table_to_batch
from raymlops.models import encoder, export, parity
from raymlops.models.session import open_session
from raymlops.specs.training import NetworkSpec
from raymlops.training import torch_export
from raymlops.training.heads import HEADS
from raymlops.training.learners.network import network_of
from tests import feature_tables

pytestmark = pytest.mark.slow  # files are exported, quantised and timed

TARGETS = {
    "binary-strings": FittedTarget("y", "binary", "string", ("no", "yes"), threshold=0.4),
    "binary-booleans": FittedTarget("y", "binary", "boolean", (False, True)),
    "binary-integers": FittedTarget("y", "binary", "integer", (7, -1)),
    "multiclass-strings": FittedTarget("y", "multiclass", "string", ("a", "b", "é")),
    "multiclass-integers": FittedTarget("y", "multiclass", "integer", (3, 5, 9, 2**40)),
    "regression": FittedTarget("y", "regression", "number", mean=-1e4, std=2e3),
}
IMAGE = FittedColumn("pixels", "image", "image", nullable=False, shape=(8, 8), scale=16.0)
LARGEST = 1000


def tabular(target: FittedTarget) -> FittedFeatures:
    return feature_tables.features_of(target)


def build(features: FittedFeatures, name: str = "mlp", **options: Any) -> torch.nn.Module:
    torch.manual_seed(3)
    network = network_of(NetworkSpec(name=name, options=options), packing_of(features), features.target)
    return network.eval()


def export_network(network: torch.nn.Module, features: FittedFeatures, *, name: str) -> onnx.ModelProto:
    trained = torch_export.export_network(network, packing_of(features))
    return export.export_model(trained, features, name=name)


@functools.cache
def exported(kind: str) -> tuple[torch.nn.Module, onnx.ModelProto]:
    """A small network for that target and its file; an export costs a second."""
    features = tabular(TARGETS[kind])
    network = build(features, hidden=16)
    return network, export_network(network, features, name="toy")


def agree(model: bytes, network: torch.nn.Module, features: FittedFeatures, table: pa.Table) -> parity.Parity:
    batch = table_to_batch(table, features)
    front = open_session(encoder.build_encoder(features).SerializeToString())
    packed = {name: torch.from_numpy(values) for name, values in encoder.run_encoder(front, batch).items()}
    with torch.inference_mode():
        expected = HEADS[features.target.task].scores(network(**packed)).numpy()
    answers = open_session(model).infer(batch)
    assert {name: values.dtype for name, values in answers.items()} == {
        spec.name: spec.dtype for spec in export.signature_of(features).outputs
    }
    assert all(len(values) == table.num_rows for values in answers.values())
    return parity.compare(expected, answers, features.target)


@pytest.mark.parametrize("kind", TARGETS)
def test_one_file_answers_as_the_network_does_on_raw_rows_of_any_number(kind: str) -> None:
    features = tabular(TARGETS[kind])
    network, model = exported(kind)
    content = model.SerializeToString()
    for rows in (1, 2, 7, LARGEST):
        found = agree(content, network, features, feature_tables.random_table(rows, seed=rows))
        assert found.rows == rows
        assert found.difference < 1e-5
        assert found.flipped == 0


@pytest.mark.parametrize(
    ("name", "options"),
    [("mlp", {"normalise": True, "layers": 3}), ("tests.own_networks:Linear", {"bias": False})],
)
def test_networks_of_every_origin_are_exported(name: str, options: dict[str, Any]) -> None:
    features = tabular(TARGETS["multiclass-strings"])
    network = build(features, name, **options)
    model = export_network(network, features, name="toy").SerializeToString()
    found = agree(model, network, features, feature_tables.random_table(50))
    assert found.difference < 1e-5


def test_a_network_of_images_is_exported() -> None:
    features = FittedFeatures((IMAGE,), FittedTarget("digit", "multiclass", "integer", tuple(range(10))))
    network = build(features, "cnn", channels=4)
    model = export_network(network, features, name="digits").SerializeToString()
    for rows in (1, 7):
        pixels = np.random.default_rng(rows).integers(0, 17, (rows, 8, 8)).astype(np.float32)
        table = pa.table({"pixels": pa.FixedShapeTensorArray.from_numpy_ndarray(pixels)})
        assert agree(model, network, features, table).difference < 1e-5


def test_a_network_of_images_beside_numbers_and_categories_is_exported() -> None:
    columns = (IMAGE, *(column for column in feature_tables.COLUMNS if column.name in ("x", "word")))
    features = FittedFeatures(columns, FittedTarget("digit", "multiclass", "integer", tuple(range(10))))
    network = build(features, "cnn", channels=4, hidden=16)
    model = export_network(network, features, name="digits").SerializeToString()
    for rows in (1, 7):
        pixels = np.random.default_rng(rows).integers(0, 17, (rows, 8, 8)).astype(np.float32)
        table = feature_tables.random_table(rows)
        table = table.append_column("pixels", pa.FixedShapeTensorArray.from_numpy_ndarray(pixels))
        assert agree(model, network, features, table).difference < 1e-5


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    _, model = exported("binary-strings")
    path, _ = export.save_model(export.to_bytes(model), tmp_path_factory.mktemp("saved") / "new" / "folder")
    return path


def test_the_model_is_one_file_without_data_beside_it(saved: pathlib.Path) -> None:
    assert [file.name for file in saved.parent.iterdir()] == ["model.onnx"]
    model = onnx.load(saved, load_external_data=False)
    assert all(tensor.data_location == onnx.TensorProto.DEFAULT for tensor in model.graph.initializer)


def test_the_file_stands_at_the_one_opset_and_ir(saved: pathlib.Path) -> None:
    model = onnx.load(saved)
    onnx.checker.check_model(model, full_check=True)
    assert model.ir_version == 10
    assert {entry.domain: entry.version for entry in model.opset_import} == {"": 20, "ai.onnx.ml": 2}


def test_the_file_says_what_it_takes_and_answers(saved: pathlib.Path) -> None:
    session = open_session(saved)
    features = tabular(TARGETS["binary-strings"])
    assert session.signature == export.signature_of(features)
    contract = session.contract
    columns = {column["name"]: column for column in contract["columns"]}
    assert list(columns) == [column.name for column in features.columns]
    assert columns["word"]["vocabulary"] == 3
    assert columns["when"]["kind"] == "timestamp"
    assert contract["target"]["classes"] == ["no", "yes"]
    assert contract["versions"]["opset"] == 20


def test_the_file_tells_nothing_of_the_machine_it_was_made_on(saved: pathlib.Path) -> None:
    content = saved.read_bytes()
    for trace in (
        str(pathlib.Path.home()).encode() + b"/",
        b"site-packages",
        str(pathlib.Path.cwd()).encode(),
    ):
        assert trace not in content
    [entry] = onnx.load(saved).metadata_props
    assert entry.key == CONTRACT_KEY
    json.loads(entry.value)


def test_the_same_weights_give_the_same_bytes(tmp_path: pathlib.Path) -> None:
    features = tabular(TARGETS["regression"])
    again = export_network(build(features, hidden=16), features, name="toy")
    digests = [
        export.save_model(export.to_bytes(model), tmp_path / str(i))[1]
        for i, model in enumerate((exported("regression")[1], again))
    ]
    assert digests[0] == digests[1]


def test_an_untrained_network_answers_only_numbers_on_the_worst_rows(saved: pathlib.Path) -> None:
    features = tabular(TARGETS["binary-strings"])
    answers = open_session(saved).infer(table_to_batch(feature_tables.random_table(LARGEST), features))
    assert np.isfinite(answers["probability"]).all()
    assert set(answers["label"]) <= {"no", "yes"}


def test_a_network_that_branches_on_its_values_is_refused_with_the_reason() -> None:
    features = tabular(TARGETS["binary-strings"])
    network = build(features, "tests.own_networks:Branching")
    with pytest.raises(ArtifactError, match=r"cannot export network Branching .* must not branch"):
        export_network(network, features, name="toy")
