import pathlib

import mlflow
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from raymlops.errors import ArtifactError, NotFoundError, SpecError, UserError
from raymlops.lifecycle.govern import promotion
from raymlops.lifecycle.govern.register import promote_version, register_file
from raymlops.settings import Settings
from raymlops.tracking import registry, store


def write_model(path: pathlib.Path) -> pathlib.Path:
    """y = 2x + name, of an origin that is not ours."""
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch"])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch"])]
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "double", inputs, outputs)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


@pytest.fixture(scope="module")
def client(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> mlflow.MlflowClient:
    client = store.connect(settings)
    for _ in range(2):
        register_file(write_model(tmp_path_factory.mktemp("m") / "double.onnx"), "double", "a test", settings)
    return client


def test_a_file_of_any_origin_becomes_a_version_that_resolves_to_its_bytes(
    client: mlflow.MlflowClient, settings: Settings, tmp_path: pathlib.Path
) -> None:
    version = registry.resolve("models:/double/1", settings)
    assert version.file.read_bytes() == write_model(tmp_path / "again.onnx").read_bytes()
    assert (version.tags["raymlops.why"], version.tags["raymlops.who"]) == ("a test", "tester")
    loaded = mlflow.pyfunc.load_model(str(version.path))
    assert np.ravel(loaded.predict({"x": np.array([1.5], dtype=np.float32)})["y"]).tolist() == [3.0]


def test_an_alias_moves_on_the_record_and_resolves_to_an_exact_version(
    client: mlflow.MlflowClient, settings: Settings
) -> None:
    for alias in ("a b", "a/b", "latest", "v2", ""):
        with pytest.raises(SpecError, match="cannot be an alias"):
            promote_version("double", "1", alias, "refused before it is recorded", settings)
    assert promote_version("double", "1", "best", "it is", settings) is None
    assert promote_version("double", "2", "best", "better", settings) == "1"
    assert registry.resolve("models:/double@best", settings).uri == "models:/double/2"


def test_what_no_gate_passed_becomes_champion_by_force_alone_and_can_be_left_again(
    client: mlflow.MlflowClient, settings: Settings
) -> None:
    with pytest.raises(
        UserError, match=r"was never judged; run `raymlops gate models:/double/1`, or .*--force"
    ):
        promote_version("double", "1", "champion", "it is", settings)
    for version in ("1", "2"):
        promote_version("double", version, "champion", "an emergency", settings, force=True)
    assert promotion.roll_back("double", "back again", settings).version == "1"
    record = promotion.read_record("double", settings)
    assert record.problems == ()
    champions = [(entry.action, entry.forced) for entry in record.entries if entry.alias == "champion"]
    assert champions == [("promote", True), ("promote", True), ("rollback", False)]


@pytest.mark.parametrize(
    ("uri", "error", "message"),
    [
        ("models:/doubel@champion", NotFoundError, "Unknown model 'doubel'; did you mean 'double'"),
        ("models:/double@bset", NotFoundError, "Unknown alias 'bset'"),
        ("models:/double/77", NotFoundError, "has no version 77; it has 1, 2"),
        ("double", UserError, "names no model version; expected models:/NAME@ALIAS"),
        ("models:/double/Production", UserError, "names no model version"),
    ],
)
@pytest.mark.usefixtures("client")
def test_what_is_not_registered_is_named_with_what_is(
    uri: str, error: type[Exception], message: str, settings: Settings
) -> None:
    with pytest.raises(error, match=message):
        registry.resolve(uri, settings)


@pytest.mark.usefixtures("client")
def test_a_file_that_was_changed_after_registration_is_not_loaded(settings: Settings) -> None:
    file = registry.resolve("models:/double/2", settings).file
    content = file.read_bytes()
    try:
        file.write_bytes(content + b"\0")
        with pytest.raises(ArtifactError, match="was changed after registration"):
            registry.resolve("models:/double/2", settings)
    finally:
        file.write_bytes(content)


def test_what_cannot_be_loaded_is_not_registered(
    client: mlflow.MlflowClient, settings: Settings, tmp_path: pathlib.Path
) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"not a model")
    with pytest.raises(ArtifactError):
        register_file(broken, "broken", "why not", settings)
    with pytest.raises(NotFoundError, match="No ONNX file"):
        register_file(tmp_path / "none.onnx", "broken", "why not", settings)
    assert client.get_experiment_by_name("broken") is None
    assert not client.search_registered_models("name='broken'")
