"""Estimators that skops saved, and models that others logged in MLflow, as registered versions; what is refused."""

import os
import pathlib
import pickle
import zipfile
from collections.abc import Iterator
from typing import Any

import lightgbm
import mlflow
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import skops.io
import xgboost
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from raymlops.errors import ArtifactError, DataError, NotFoundError, SpecError, UntrustedError
from raymlops.lifecycle.batch.predict import OnnxScorer
from raymlops.lifecycle.govern.convert import convert_file
from raymlops.lifecycle.govern.logged_models import convert_model
from raymlops.models.safety import read_model
from raymlops.settings import Settings
from raymlops.tracking import registry
from raymlops.tracking.logged_models import fetch_model
from raymlops.training.saved_models import Request, skops_file
from raymlops.training.saved_models.skops_file import open_model
from tests.conftest import settings_in
from tests.logged_models import log_in
from tests.own_estimators import OwnForest

pytestmark = pytest.mark.slow  # each starts processes, and registers versions

DRAW = np.random.default_rng(0)
ROWS = pd.DataFrame(DRAW.normal(size=(300, 3)).astype(np.float32), columns=["a", "b", "c"])
ROWS.iloc[::7, 1] = np.nan
NAMES = np.where(ROWS.a + ROWS.c > 0, "yes", "no")


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return settings_in(tmp_path_factory.mktemp("home"))


def predict(uri: str, own: Settings) -> pd.DataFrame:
    found = registry.resolve(uri, own)
    scorer = OnnxScorer(read_model(found.file, found.digest), (), threads=1, max_rows=100)
    return scorer(pa.Table.from_pandas(ROWS)).to_pandas()


def save(estimator: Any, folder: pathlib.Path) -> pathlib.Path:
    skops.io.dump(estimator, folder / "model.skops")
    return folder / "model.skops"


def test_a_pipeline_of_skops_answers_as_it_did(own: Settings, tmp_path: pathlib.Path) -> None:
    numbers = ColumnTransformer([("filled", make_pipeline(SimpleImputer(), StandardScaler()), ["b", "c"])],
                                remainder="passthrough")  # fmt: skip
    fitted = make_pipeline(numbers, RandomForestClassifier(11, random_state=0)).fit(ROWS, NAMES)
    found = convert_file(save(fitted, tmp_path), "pipeline", own, data=pa.Table.from_pandas(ROWS))
    assert found.inputs == ("a", "b", "c")
    assert found.sample is not None
    assert found.sample.flipped == 0
    answers = predict(f"models:/pipeline/{found.version}", own)
    np.testing.assert_allclose(answers["probability"], fitted.predict_proba(ROWS)[:, 1], atol=1e-6)
    assert (answers["label"].to_numpy() == fitted.predict(ROWS)).all()
    far = HistGradientBoostingRegressor(max_iter=30).fit(ROWS.to_numpy(), ROWS.a * 3 + 1e6)
    opened = open_model(Request(save(far, tmp_path), pa.Table.from_pandas(ROWS)))
    assert any("does not name its inputs" in note for note in opened.notes)
    assert opened.features.target.mean == pytest.approx(1e6, rel=1e-3)


def test_types_that_skops_does_not_know_are_listed_and_not_loaded(
    own: Settings, tmp_path: pathlib.Path
) -> None:
    file = save(OwnForest(3).fit(ROWS, NAMES), tmp_path)
    with pytest.raises(UntrustedError, match=r"may run code: tests\.own_estimators\.OwnForest; give --trust"):
        open_model(Request(file))
    with pytest.raises(ArtifactError, match="The probabilities of tests's OwnForest are not converted"):
        open_model(Request(file, trust=True))


def test_broken_files_and_samples_that_do_not_fit_are_told(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = save(LogisticRegression().fit(ROWS[["a", "c"]], NAMES), tmp_path)
    sample = pa.Table.from_pandas(ROWS)
    with pytest.raises(DataError, match="column 'c'"):
        open_model(Request(file, sample.drop_columns(["c"])))
    with pytest.raises(DataError, match="is string; the model takes numbers"):
        open_model(Request(file, pa.table({"a": ["x"] * 9, "c": [1.0] * 9})))
    cut = tmp_path / "cut.skops"
    cut.write_bytes(file.read_bytes()[:-300])
    with pytest.raises(ArtifactError, match="not a whole"):
        open_model(Request(cut))
    with zipfile.ZipFile(tmp_path / "bomb.skops", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("0.npy", b"\0" * 2**21)
    monkeypatch.setattr(skops_file, "LARGEST", 2**20)
    with pytest.raises(ArtifactError, match="unpacked; expected"):
        open_model(Request(tmp_path / "bomb.skops"))
    with pytest.raises(ArtifactError, match="StandardScaler; expected a fitted estimator"):
        open_model(Request(save(StandardScaler().fit(ROWS), tmp_path)))


class Evil:
    def __reduce__(self) -> Any:
        return os.mkdir, (os.environ["EVIL"],)


@pytest.fixture
def logged(own: Settings, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Logs a folder of files as an artifact of a run, as MLflow has it; returns runs:/RUN/PATH."""
    client = mlflow.MlflowClient(tracking_uri=own.tracking_uri)
    experiment = client.create_experiment(tmp_path.name, artifact_location=f"file://{tmp_path}/artifacts")

    def log(saver: Any, **told: Any) -> str:
        folder = tmp_path / f"model_{len(list(tmp_path.iterdir()))}"
        # without requirements, MLflow loads the model in a process to find them
        saver(path=str(folder), **told)
        run = client.create_run(experiment).info.run_id
        client.log_artifacts(run, str(folder), "model")
        return f"runs:/{run}/model"

    monkeypatch.setenv("EVIL", str(tmp_path / "evil"))
    yield log
    assert not (tmp_path / "evil").exists(), "a pickle was loaded"


def test_models_that_others_logged_are_converted_by_their_flavor(own: Settings, logged: Any) -> None:
    line = make_pipeline(SimpleImputer(), LogisticRegression()).fit(ROWS, NAMES)
    uri = logged(
        mlflow.sklearn.save_model,
        sk_model=line,
        serialization_format="skops",
        pip_requirements=["scikit-learn"],
        input_example=ROWS[:50],
        skops_trusted_types=["numpy.dtype"],
    )
    found = convert_model(uri, "logged", own)
    assert found.sample is not None
    assert found.sample.rows == 50
    assert any("input example" in note for note in found.notes)
    answers = predict(f"models:/logged/{found.version}", own)
    np.testing.assert_allclose(answers["probability"], line.predict_proba(ROWS)[:, 1], atol=1e-6)

    trees = lightgbm.LGBMClassifier(n_estimators=5, verbose=-1).fit(ROWS, NAMES)
    uri = logged(mlflow.lightgbm.save_model, lgb_model=trees, serialization_format="skops",
                 pip_requirements=["lightgbm"])  # fmt: skip
    found = convert_model(uri, "logged", own, data=pa.Table.from_pandas(ROWS))
    answers = predict(f"models:/logged/{found.version}", own)
    assert (answers["label"].to_numpy() == trees.predict(ROWS)).all()
    assert registry.resolve(f"models:/logged/{found.version}", own).tags["raymlops.source"].startswith(uri)


def test_what_mlflow_logs_is_found_by_each_of_its_names(
    own: Settings, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trees = xgboost.XGBClassifier(n_estimators=5).fit(ROWS, NAMES == "yes")
    names = log_in(own, tmp_path, mlflow.xgboost.log_model, trees, registered_model_name="stock")
    mlflow.MlflowClient(own.tracking_uri).set_registered_model_alias("stock", "best", "1")
    # by the store of the settings, whatever MLflow takes by default
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/other.db")
    for place, uri in enumerate((*names, "models:/stock/1", "models:/stock/latest", "models:/stock@best")):
        files = fetch_model(uri, own, tmp_path / str(place))
        assert (files / "MLmodel").is_file()
    found = convert_model(names[1], "from_stock", own, data=pa.Table.from_pandas(ROWS))
    assert found.library.startswith("xgboost ")
    assert found.sample is not None
    assert (found.sample.rows, found.sample.flipped) == (300, 0)
    assert names[0].startswith("models:/m-")
    for missing in ("models:/m-0123", f"{names[1]}_of_others", "models:/stock/7"):
        with pytest.raises(NotFoundError, match=f"No model '{missing}'"):
            fetch_model(missing, own, tmp_path)


def test_pickles_and_what_is_no_model_are_refused(own: Settings, logged: Any, tmp_path: pathlib.Path) -> None:
    def evil(path: str, flavors: str, file: str) -> None:
        pathlib.Path(path).mkdir()
        pathlib.Path(path, "MLmodel").write_text(f"flavors: {flavors}\n")
        pathlib.Path(path, file).write_bytes(pickle.dumps(Evil()))

    for flavors, file, reason in (
        ("{sklearn: {pickled_model: model.pkl}}", "model.pkl", "serialization_format='skops'"),
        ("{lightgbm: {data: model.pkl}}", "model.pkl", "model.booster_"),
        ("{pytorch: {model_data: data}}", "data", "serialization_format='pt2'"),
        ("{python_function: {data: x.pkl}}", "x.pkl", "by the flavor of its library"),
        ("{sklearn: {pickled_model: ../../../../etc/passwd.skops}}", "x.pkl", "lies outside the model"),
        ("{onnx: {data: model.onnx}}", "model.onnx", "raymlops register"),
        ("nothing", "x.pkl", "names no flavors"),
        ("!!python/object/apply:os.mkdir [x]", "x.pkl", "Cannot read MLmodel"),
    ):
        with pytest.raises(ArtifactError, match=reason.replace("(", r"\(")):
            convert_model(logged(evil, flavors=flavors, file=file), "evil", own)
    with pytest.raises(ArtifactError, match="no file MLmodel"):
        convert_model(
            logged(lambda path: (pathlib.Path(path).mkdir(), pathlib.Path(path, "x").touch())), "evil", own
        )
    with pytest.raises(NotFoundError, match="No model 'runs:/0000/model'"):
        convert_model("runs:/0000/model", "evil", own)
    with pytest.raises(NotFoundError, match="No model 'models:/nobody/1'"):
        convert_model("models:/nobody/1", "evil", own)
    for wrong in ("runs:/", "models:/x"):
        with pytest.raises(SpecError, match="names no model"):
            convert_model(wrong, "evil", own)
