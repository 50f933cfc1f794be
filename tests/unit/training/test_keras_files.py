"""Files of Keras: what is read of them, and what is refused before Keras opens it."""

import io
import json
import pathlib
import zipfile
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pytest

from raymlops.errors import ArtifactError, SpecError
from raymlops.training import keras_models
from raymlops.training.saved_models import Request
from raymlops.training.saved_models.keras_file import open_model

pytestmark = pytest.mark.slow  # the import of Keras takes seconds

SAMPLE = pa.table({"a": np.random.rand(30), "b": np.random.rand(30), "shop": np.arange(30) % 5})


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    keras = keras_models.import_keras("torch")
    keras.utils.set_random_seed(0)
    with keras.device("cpu"):
        numbers, shop = keras.Input((2,), name="num"), keras.Input((1,), name="shop", dtype="int64")
        scaled = keras.layers.Normalization(mean=[0.5, 0.5], variance=[0.1, 0.1])(numbers)
        table = keras.layers.Flatten()(keras.layers.Embedding(5, 3)(shop))
        hidden = keras.layers.Dense(8, activation="gelu")(keras.ops.concatenate([scaled, table], axis=-1))
        model = keras.Model([numbers, shop], keras.layers.Dense(3, activation="softmax")(hidden * 2.0))
        model.compile("adam", "sparse_categorical_crossentropy")
        path = tmp_path_factory.mktemp("keras") / "m.keras"
        model.save(path)
    return path


def change(file: pathlib.Path, folder: pathlib.Path, **parts: bytes | None) -> pathlib.Path:
    """A copy in which `config` or `weights` are others, or left out."""
    names = {"config.json": "config", "model.weights.h5": "weights", "metadata.json": "metadata"}
    changed = folder / "changed.keras"
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(changed, "w") as new:
        for name in old.namelist():
            content = parts.get(names[name], old.read(name))
            if content is not None:
                new.writestr(name, content)
    return changed


def test_a_file_is_read_with_its_own_answers(file: pathlib.Path) -> None:
    found = open_model(Request(file, SAMPLE))
    assert {column.name: column.type for column in found.features.raw} == {
        "a": "number",
        "b": "number",
        "shop": "integer",
    }
    assert found.features.target.task == "multiclass"
    np.testing.assert_allclose(found.scores.sum(axis=1), 1, atol=1e-5)
    with pytest.raises(SpecError, match="give --data"):
        open_model(Request(file))


def layer(**config: Any) -> bytes:
    """A model with one more object."""
    held = {
        "class_name": "Sequential",
        "module": "keras",
        "config": {"layers": [config]},
        "registered_name": None,
    }
    return json.dumps(held).encode()


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (layer(class_name="Lambda", module="keras.layers", config={}), "a Lambda layer runs Python code"),
        (layer(class_name="Dense", config={"f": {"class_name": "__lambda__", "config": {}}}), "a lambda is Python"),
        (layer(class_name="system", module="os", config={}), "It has system: os is no module of Keras"),
        (layer(class_name="function", module="os", config="system"), "It has system: os is no module of Keras"),
        (layer(class_name="Mine", module=None, registered_name="own>Mine", config={}), "It has own>Mine"),
        (layer(class_name="TFSMLayer", module="keras.layers", config={"filepath": "/x"}), "loads a SavedModel"),
        (layer(class_name="StringLookup", module="keras.layers", config={}), "looks values up, which has no equal"),
        (b"[1]", "is no model"),
        (None, "lacks config.json"),
    ],
)  # fmt: skip
def test_what_would_run_code_is_refused_before_keras_opens_it(
    config: bytes | None, reason: str, file: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    with pytest.raises(ArtifactError) as caught:
        open_model(Request(change(file, tmp_path, config=config), SAMPLE))
    assert reason in str(caught.value)


def test_weights_elsewhere_and_large_ones_are_refused(file: pathlib.Path, tmp_path: pathlib.Path) -> None:
    def complaint(fill: Any) -> str:
        content = io.BytesIO()
        with h5py.File(content, "w") as held:
            fill(held)
        with pytest.raises(ArtifactError) as caught:
            open_model(Request(change(file, tmp_path, weights=content.getvalue()), SAMPLE))
        return str(caught.value)

    def link(held: Any) -> None:
        held["layers"] = h5py.ExternalLink("/etc/passwd", "/x")

    def bomb(held: Any) -> None:
        held.create_dataset("w", (2**20, 2**10), "f4", chunks=True, compression="gzip")

    def outside(held: Any) -> None:
        held.create_dataset("w", (4,), "f4", external=[(str(tmp_path / "x"), 0, 16)])

    assert "are a link to elsewhere" in complaint(link)
    assert "take more than 1,073,741,824 bytes" in complaint(bomb)
    assert "lie in another file" in complaint(outside)


def test_a_custom_class_of_a_trusted_file_is_imported(
    file: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keras = keras_models.import_keras("torch")
    (tmp_path / "own_layer_of_a_test.py").write_text(
        "import keras\n\n\nclass Twice(keras.layers.Layer):\n    def call(self, x):\n        return x * 2\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import own_layer_of_a_test  # type: ignore[import-not-found]

    with keras.device("cpu"):
        keras.Sequential([keras.Input((2,)), own_layer_of_a_test.Twice(), keras.layers.Dense(1)]).save(
            tmp_path / "o.keras"
        )
    sample = SAMPLE.select(["a", "b"])
    with pytest.raises(
        ArtifactError, match=r"It has Twice: own_layer_of_a_test is no module of Keras.*--trust"
    ):
        open_model(Request(tmp_path / "o.keras", sample))
    assert open_model(Request(tmp_path / "o.keras", sample, trust=True)).features.target.task == "regression"
