"""Saved models of other libraries as registered versions: their own predictions, and what is refused."""

import json
import pathlib
from typing import Any

import lightgbm
import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pytest
import torch
import xgboost
from click.testing import CliRunner

from raymlops import cli
from raymlops.errors import ArtifactError, DataError, NotFoundError, ParityError, SpecError
from raymlops.lifecycle.batch.predict import OnnxScorer
from raymlops.lifecycle.govern import convert
from raymlops.lifecycle.govern.convert import convert_file
from raymlops.models.safety import read_model
from raymlops.settings import Settings
from raymlops.tracking import registry
from tests.conftest import settings_in

pytestmark = pytest.mark.slow  # each starts processes, and some register versions

RANDOM = np.random.default_rng(0)
ROWS = pd.DataFrame(RANDOM.normal(size=(300, 3)).astype(np.float32), columns=["a", "b c", "label_of"])
ROWS.iloc[::7, 1] = np.nan
SIGN = (ROWS.a + RANDOM.normal(size=300) > 0).astype(int)
THIRDS = np.digitize(ROWS.a, [-0.5, 0.5])


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return settings_in(tmp_path_factory.mktemp("home"))


def predict(name: str, version: str, own: Settings) -> pd.DataFrame:
    found = registry.resolve(f"models:/{name}/{version}", own)
    scorer = OnnxScorer(read_model(found.file, found.digest), (), threads=1, max_rows=100)
    return scorer(pa.Table.from_pandas(ROWS)).to_pandas()


def require_equal(found: pd.Series, expected: npt.NDArray[Any], limit: float = 1e-6) -> None:
    np.testing.assert_allclose(np.stack(found.to_numpy()), expected, atol=limit)


def test_models_of_xgboost_answer_as_a_version_as_they_did(
    own: Settings, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ROWS.to_parquet(tmp_path / "sample.parquet")
    stopped = xgboost.XGBClassifier(n_estimators=60, early_stopping_rounds=2, n_jobs=1, max_depth=3)
    stopped.fit(ROWS[:200], SIGN[:200], eval_set=[(ROWS[200:], SIGN[200:])], verbose=False)
    stopped.save_model(tmp_path / "stopped.json")
    found = convert_file(
        tmp_path / "stopped.json", "stopped", own, data=tmp_path / "sample.parquet", classes=("no", "yes")
    )
    grown = stopped.get_booster().num_boosted_rounds()
    assert found.summary == f"binary:logistic, {stopped.best_iteration + 1} of {grown} rounds"
    assert found.sample is not None
    assert (found.sample.rows, found.sample.flipped) == (300, 0)
    answers = predict("stopped", found.version, own)
    require_equal(answers["probability"], stopped.predict_proba(ROWS)[:, 1])
    assert (answers["label"].to_numpy() == np.array(["no", "yes"])[stopped.predict(ROWS)]).all()
    tags = registry.resolve(f"models:/stopped/{found.version}", own).tags
    assert tags["raymlops.source"].startswith("stopped.json (xgboost ")

    classes = xgboost.XGBClassifier(n_estimators=5, n_jobs=1).fit(ROWS, THIRDS)
    classes.save_model(tmp_path / "classes.ubj")
    for name, value in (("RAYMLOPS_HOME", own.home), ("MLFLOW_TRACKING_URI", own.tracking_uri)):
        monkeypatch.setenv(name, str(value))
    done = CliRunner().invoke(cli.raymlops, ["convert", str(tmp_path / "classes.ubj"), "--name", "classes"])
    assert done.exit_code == 0, done.output
    assert "5 of 5 rounds, 3 inputs" in done.output
    assert "no --data was given" in done.output
    answers = predict("classes", "1", own)
    require_equal(answers["probabilities"], classes.predict_proba(ROWS))
    assert (answers["label"].to_numpy() == classes.predict(ROWS)).all()


def test_models_of_lightgbm_answer_as_a_version_as_they_did(own: Settings, tmp_path: pathlib.Path) -> None:
    far = lightgbm.LGBMRegressor(n_estimators=30, n_jobs=1, verbose=-1).fit(ROWS, ROWS.a * 2 + 5000)
    far.booster_.save_model(tmp_path / "far.txt")
    found = convert_file(tmp_path / "far.txt", "far", own, data=pa.Table.from_pandas(ROWS))
    require_equal(predict("far", found.version, own)["prediction"], far.predict(ROWS), 5e-4)

    counts = lightgbm.LGBMRegressor(objective="poisson", n_estimators=5, n_jobs=1, verbose=-1)
    counts.fit(ROWS, THIRDS).booster_.save_model(tmp_path / "counts.txt")
    found = convert_file(tmp_path / "counts.txt", "counts", own, data=pa.Table.from_pandas(ROWS))
    require_equal(predict("counts", found.version, own)["prediction"], counts.predict(ROWS))


def test_an_exported_program_of_torch_answers_as_a_version_as_it_did(
    own: Settings, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Linear(2, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1), torch.nn.Sigmoid()
    )
    rows = ROWS[["a", "label_of"]]
    shapes = ({0: torch.export.Dim("rows")},)
    program = torch.export.export(network.eval(), (torch.zeros(2, 2),), dynamic_shapes=shapes)
    torch.export.save(program, tmp_path / "net.pt2")
    rows.to_parquet(tmp_path / "sample.parquet")
    for name, value in (("RAYMLOPS_HOME", own.home), ("MLFLOW_TRACKING_URI", own.tracking_uri)):
        monkeypatch.setenv(name, str(value))
    command = ["convert", str(tmp_path / "net.pt2"), "--name", "net", "--classes", "no,yes"]
    assert "give --data" in str(CliRunner().invoke(cli.raymlops, command).exception)
    done = CliRunner().invoke(cli.raymlops, [*command, "--data", str(tmp_path / "sample.parquet")])
    assert done.exit_code == 0, done.output
    assert "Parity on 300 rows of the sample: worst difference" in done.output
    with torch.inference_mode():
        expected = network(torch.tensor(rows.to_numpy())).numpy()[:, 0]
    answers = predict("net", "1", own)
    require_equal(answers["probability"], expected)
    assert (answers["label"] == np.where(expected >= 0.5, "yes", "no")).all()


def test_what_cannot_be_converted_is_answered_and_not_registered(
    own: Settings, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "m.json"
    model = xgboost.XGBClassifier(n_estimators=3, n_jobs=1).fit(ROWS, SIGN)
    model.save_model(file)
    texts = pa.table({**{name: ROWS[name].to_numpy() for name in ("a", "label_of")}, "b c": ["x"] * 300})
    for data, message in (
        (texts, "'b c' of the sample is string; the model takes numbers"),
        (texts[:0], "0 rows"),
    ):
        with pytest.raises(DataError, match=message):
            convert_file(file, "refused", own, data=data)
    with pytest.raises(SpecError, match=r"3 names .*2 classes"):
        convert_file(file, "refused", own, classes=("x", "y", "z"))
    with pytest.raises(NotFoundError, match="No sample"):
        convert_file(file, "refused", own, data=tmp_path / "none.parquet")
    monkeypatch.setattr(convert, "LIMIT", -1.0)
    with pytest.raises(ParityError, match="it is not registered"):
        convert_file(file, "refused", own)
    deep = tmp_path / "deep.json"
    deep.write_text('{"learner":' * 300_000)
    with pytest.raises(ArtifactError, match=r"ends the process|does not open"):
        convert_file(deep, "refused", own)
    held = json.loads(file.read_text())
    held["learner"]["feature_names"] = ["a", "label", "c"]
    file.write_text(json.dumps(held))
    with pytest.raises(SpecError, match="'label', which is a name of an output"):
        convert_file(file, "refused", own)
    with pytest.raises(NotFoundError):
        registry.resolve("models:/refused/1", own)
