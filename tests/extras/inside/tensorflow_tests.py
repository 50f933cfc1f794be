"""Keras on TensorFlow as a learner: parity of its files, resuming; SavedModels and what is refused of them. Runs where
the extra is installed."""

import pathlib
import shutil
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from mlflow.models import infer_signature

from raymlops.errors import ArtifactError, SpecError
from raymlops.lifecycle.govern.convert import convert_file
from raymlops.lifecycle.govern.logged_models import convert_model
from raymlops.settings import Settings
from raymlops.training import keras_models, worker
from raymlops.training.learners import keras as keras_learner
from raymlops.training.saved_models import Request
from raymlops.training.saved_models.tensorflow_folder import open_model
from tests.conftest import settings_in
from tests.learner_rows import (
    TASKS,
    assert_agree,
    draw_rows,
    job_for,
    job_of_counts,
    scores_of_file,
    spec_for,
    train,
)
from tests.logged_models import log_in

pytestmark = pytest.mark.filterwarnings("default")  # TensorFlow and tf2onnx warn of each other

ROWS = pd.DataFrame(np.random.default_rng(0).normal(size=(200, 3)).astype("f4"), columns=["a", "b", "c"])


@pytest.fixture(autouse=True)
def every_part_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keras_learner, "REPORT_SECONDS", 0.0)


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return settings_in(tmp_path_factory.mktemp("home"))


def options(model: str, **more: Any) -> dict[str, Any]:
    named = {"model": f"tests.own_keras_models:{model}", "backend": "tensorflow"}
    return {**named, "steps": 60, "batch_size": 64, "lr": 0.02, **more}


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("model", ["joined", "embedded"])
def test_the_file_answers_dirty_rows_as_the_trained_model_does_and_a_killed_training_goes_on(
    model: str, task: str, tmp_path: pathlib.Path
) -> None:
    spec = spec_for("keras", options(model), epochs=4, patience=4)
    job = job_for(spec, task, draw_rows(800, task, 1), draw_rows(300, task, 2))
    scorer, _, _ = train(job)
    rows = draw_rows(400, task, 3, missing=0.4, unseen=0.1, empty=0.1)
    expected = scorer.scores(rows)
    assert_agree(scores_of_file(scorer, job, rows), expected, task)
    one = {name: values[:1] for name, values in rows.items()}
    assert_agree(scores_of_file(scorer, job, one), expected[:1], task)
    _, state, _ = train(job, reports=2)
    with worker.saved(state, str(tmp_path)) as directory:
        loaded = worker.load_state(directory)
    resumed, _, _ = train(job, loaded)
    np.testing.assert_array_equal(resumed.scores(rows), expected)


def test_a_regression_of_counts_by_poisson() -> None:
    job = job_of_counts(spec_for("keras", options("joined", steps=150), loss="poisson"))
    scorer, _, _ = train(job)
    rows = job.validation.load()
    assert_agree(scores_of_file(scorer, job, rows), scorer.scores(rows), "regression")


def test_a_process_has_one_backend() -> None:
    keras_models.import_keras("tensorflow")
    with pytest.raises(SpecError, match="Keras runs on tensorflow in this process"):
        keras_models.import_keras("torch")


def save_network(folder: pathlib.Path) -> None:
    keras = keras_models.import_keras("tensorflow")
    layers = keras.layers
    scaled = layers.Normalization(mean=[0.1] * 3, variance=[2.0] * 3)
    hidden = layers.Dense(8, activation="gelu")
    model = keras.Sequential([keras.Input((3,)), scaled, hidden, layers.Dense(4, activation="softmax")])
    model.export(folder, format="tf_saved_model", verbose=False)


def save_function(folder: pathlib.Path, call: Callable[[Any], Any]) -> None:
    import tensorflow as tf

    class Module(tf.Module):  # type: ignore[misc]
        @tf.function(input_signature=[tf.TensorSpec([None, 3], tf.float32, name="x")])  # type: ignore[untyped-decorator]
        def __call__(self, x: Any) -> Any:
            return call(x)

    module = Module()
    tf.saved_model.save(module, folder, signatures=module.__call__)


def test_saved_models_answer_as_a_version_as_they_did(own: Settings, tmp_path: pathlib.Path) -> None:
    import tensorflow as tf

    save_network(tmp_path / "network")
    ROWS.to_parquet(tmp_path / "sample.parquet")
    names = ("p", "q", "r", "s")
    found = convert_file(
        tmp_path / "network", "network", own, data=tmp_path / "sample.parquet", classes=names
    )
    assert found.inputs == ("a", "b", "c")
    assert found.sample is not None
    assert (found.sample.rows, found.sample.flipped) == (200, 0)
    save_function(tmp_path / "amounts", lambda x: {"amount": tf.reduce_sum(x, axis=1) * 100 + 5000})
    found = convert_file(tmp_path / "amounts", "amounts", own, data=tmp_path / "sample.parquet")
    assert "TensorFlow" not in found.summary
    assert found.library.startswith("tensorflow ")


def test_what_mlflow_logs_is_converted(own: Settings, tmp_path: pathlib.Path) -> None:
    import tensorflow as tf
    from mlflow import tensorflow as flavour

    keras = keras_models.import_keras("tensorflow")
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    signature = infer_signature(ROWS.to_numpy(), np.zeros((1, 1), np.float32))

    class Module(tf.Module):  # type: ignore[misc]
        @tf.function(input_signature=[tf.TensorSpec([None, 3], tf.float32)])  # type: ignore[untyped-decorator]
        def __call__(self, x: Any) -> Any:
            return tf.reduce_sum(x, axis=1, keepdims=True)

    for number, (logged, library) in enumerate(((model, "keras "), (Module(), "tensorflow "))):
        folder = tmp_path / f"logged_{number}"
        for uri in log_in(own, folder, flavour.log_model, logged, signature=signature):
            found = convert_model(uri, "logged", own, data=to_table())
            assert found.library.startswith(library)
            assert found.sample is not None
            assert found.sample.rows == 200


def test_operations_on_files_need_trust(own: Settings, tmp_path: pathlib.Path) -> None:
    import tensorflow as tf

    written = tmp_path / "written"

    def write(x: Any) -> Any:
        tf.io.write_file(str(written), "x")
        return {"y": x[:, 0]}

    def read_inside_a_branch(x: Any) -> Any:
        size = tf.cond(
            tf.shape(x)[0] > 10**6, lambda: tf.strings.length(tf.io.read_file("/etc/hostname")), lambda: 1
        )
        return {"y": x[:, 0] * tf.cast(size, tf.float32)}

    def python(x: Any) -> Any:
        return {"y": tf.reshape(tf.py_function(lambda values: values[:, 0], [x], tf.float32), [-1])}

    for number, (call, operation) in enumerate(
        ((write, "WriteFile"), (read_inside_a_branch, "ReadFile"), (python, "EagerPyFunc"))
    ):
        folder = tmp_path / f"m{number}"
        save_function(folder, call)
        with pytest.raises(ArtifactError, match=rf"read or write files, or run code: {operation}.*--trust"):
            convert_file(folder, "files", own, data=to_table())
    assert not written.exists()
    convert_file(tmp_path / "m0", "files", own, data=to_table(), trust=True)
    assert written.exists()


def to_table() -> Any:
    import pyarrow as pa

    return pa.Table.from_pandas(ROWS, preserve_index=False)


def test_broken_folders_and_what_has_no_equal_are_refused(own: Settings, tmp_path: pathlib.Path) -> None:
    import tensorflow as tf

    save_function(tmp_path / "whole", lambda x: {"y": x[:, 0]})

    def complaint(folder: pathlib.Path) -> str:
        with pytest.raises(ArtifactError) as caught:
            convert_file(folder, "broken", own, data=to_table())
        return str(caught.value)

    def copy(name: str) -> pathlib.Path:
        return pathlib.Path(shutil.copytree(tmp_path / "whole", tmp_path / name))

    whole = (tmp_path / "whole" / "saved_model.pb").read_bytes()
    cut = copy("cut")
    (cut / "saved_model.pb").write_bytes(whole[: len(whole) // 2])
    assert "is no whole SavedModel" in complaint(cut)
    (cut / "saved_model.pb").write_bytes(b"")
    assert "no SavedModel of TensorFlow 2" in complaint(cut)
    linked = copy("linked")
    (linked / "assets").rmdir()
    (linked / "assets").symlink_to("/etc")
    assert "has links" in complaint(linked)
    empty = copy("empty")
    shutil.rmtree(empty / "variables")
    assert "TensorFlow does not open it" in complaint(empty)
    assert "is a folder of no known format" in complaint(own.home)
    save_function(tmp_path / "two", lambda x: {"y": x[:, 0], "z": x[:, 1]})
    assert "has 2 outputs (y, z)" in complaint(tmp_path / "two")
    save_function(tmp_path / "sorted", lambda x: {"y": tf.linalg.svd(x[:, :, None], compute_uv=False)[:, 0]})
    assert "for which ONNX has nothing: Svd" in complaint(tmp_path / "sorted")


def test_what_a_saved_model_lacks_is_said(tmp_path: pathlib.Path) -> None:
    with pytest.raises(SpecError, match="give --data"):
        open_model(Request(tmp_path))
