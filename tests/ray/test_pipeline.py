"""The main job on small tables: what it leaves in the tracking store and the registry, and what its model answers."""

import collections
import dataclasses
import datetime
import json
import pathlib
import re
import time
from typing import Any

import mlflow
import numpy as np
import onnx
import pyarrow as pa
import pyarrow.compute as pc
import pytest

import raymlops
from raymlops.artifact import DEFAULTS_FILE, FEATURES_FILE, PROFILE_FILE
from raymlops.captures.labels import LabelColumns
from raymlops.captures.selection import Selection
from raymlops.captures.store import CaptureStore
from raymlops.errors import DataError, SpecError, UntrustedError
from raymlops.features import FittedFeatures, table_to_batch
from raymlops.lifecycle.captures import labelling
from raymlops.lifecycle.govern import lineage, version_record
from raymlops.lifecycle.govern.drift import find_drift, make_reference, read_reference
from raymlops.lifecycle.govern.drift_page import write_drift_page
from raymlops.lifecycle.monitoring.measured_quality import measure_days
from raymlops.lifecycle.train import launch, stages
from raymlops.lifecycle.train.develop import Outcome, Request, develop_model
from raymlops.models.session import open_session
from raymlops.monitoring.quality import measure_quality
from raymlops.observers import Event
from raymlops.serving.endpoints.capture import CaptureObserver
from raymlops.settings import Settings
from raymlops.specs.dataset import DatasetSpec
from raymlops.specs.experiment import ExperimentSpec
from raymlops.specs.monitoring import Capture
from raymlops.tracking import registry, run_reader, store
from tests import experiments

pytestmark = pytest.mark.usefixtures("ray_cluster")


@dataclasses.dataclass(frozen=True)
class Done:
    """A finished main job."""

    name: str
    outcome: Outcome
    told: experiments.Told
    said: list[str]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("tables")
    for ending in ("parquet", "csv", "json"):
        experiments.write_table(experiments.signal_table(), folder / f"rows.{ending}")
    return folder


@pytest.fixture(scope="module")
def binary(folder: pathlib.Path, settings: Settings) -> Done:
    told, said = experiments.Told(), list[str]()
    spec = experiments.spec_of(
        "binary",
        {"path": str(folder / "rows.parquet")},
        description="learns late",
        contract={"columns": {"z": {"max": 2.5}}},
    )
    outcome = develop_model(spec, settings, Request(why="a test"), observers=[told], tell=said.append)
    return Done("binary", outcome, told, said)


def client_of(settings: Settings) -> mlflow.MlflowClient:
    return store.connect(settings)


def features_of(version: registry.ModelVersion) -> FittedFeatures:
    return FittedFeatures.from_json(json.loads((version.path / FEATURES_FILE).read_text()))


def runs_of(settings: Settings, experiment: str) -> list[Any]:
    client = client_of(settings)
    return list(client.search_runs([client.get_experiment_by_name(experiment).experiment_id]))


def test_labels_of_captured_requests_measure_the_quality_of_each_day(
    binary: Done, settings: Settings, tmp_path: pathlib.Path
) -> None:
    version = registry.resolve(f"models:/binary/{binary.outcome.version}", settings)
    reference = read_reference(client_of(settings), version)
    assert reference.calibration is not None
    table = experiments.signal_table().slice(0, 300)
    given = table_to_batch(table, features_of(version))
    answer = open_session(version.file).infer(given)
    observer = CaptureObserver(Capture(path=str(tmp_path)), Selection(), {}, lambda model: {})
    now = time.time()
    observer.observe(
        [
            Event(
                "endpoint", str(version.version), f"r{row}", {name: one[row : row + 1] for name, one in given.items()},
                {name: one[row : row + 1] for name, one in answer.items()}, 1, 1, 200, now - 86_400 * (row % 2), "", "",
                "", 1, 1, "", False, "",
            )
            for row in range(table.num_rows)
        ]
    )  # fmt: skip
    observer.close()
    captures = CaptureStore(str(tmp_path))
    labels = pa.table({"id": [f"r{row}" for row in range(280)], "label": table["late"].slice(0, 280)})
    labelling.store_table(captures, "endpoint", labels, LabelColumns(id="id"))
    today = datetime.datetime.fromtimestamp(now, datetime.UTC).date()
    days = measure_days(
        captures, "endpoint", version.uri, reference.calibration, today - datetime.timedelta(days=1), today, settings
    )  # fmt: skip
    assert [days[start].rows for start in sorted(days)] == [140, 140]
    (auc, *_) = measure_quality(
        reference.calibration, sum(list(days.values())[1:], next(iter(days.values())))
    )
    assert (auc.metric, auc.rows) == ("roc_auc", 280)
    assert auc.value == pytest.approx(auc.usual, abs=0.15)


def test_a_version_knows_what_its_rows_were_and_says_what_changed_in_others(
    binary: Done, folder: pathlib.Path, settings: Settings
) -> None:
    uri = f"models:/binary/{binary.outcome.version}"
    table = experiments.signal_table()
    again = find_drift(uri, DatasetSpec(path=str(folder / "rows.parquet"), reader="parquet"), settings)
    assert not again.differs
    assert any(column.role == "score" for column in again.reference.columns)
    calibration = again.reference.calibration
    assert calibration is not None
    assert calibration.target == "late"
    assert calibration.rows > 0.25 * table.num_rows  # validation and test rows
    moved = pc.add(table["x"], 3.0)
    changed = find_drift(uri, table.set_column(table.column_names.index("x"), "x", moved), settings)
    first = changed.periods[0][1].findings[0]
    assert first.column.name == "x"
    lost = find_drift(uri, table.drop_columns(["x"]), settings)
    assert "x: 100% of rows are missing" in lost.periods[0][1].describe()
    page = write_drift_page(changed, uri, "rows", None)
    assert "x: " in page
    assert "<script" not in page
    with pytest.raises(DataError, match="takes it"):
        find_drift(uri, table.select(["late"]), settings)
    path = f"trust/version-{binary.outcome.version}/reference.zip"
    run_reader.write_files(client_of(settings), uri, {path: b"forged"})
    with pytest.raises(UntrustedError, match="not as it was signed"):
        find_drift(uri, table, settings)
    make_reference(uri, table, settings, why="it was forged")
    assert not find_drift(uri, table, settings).differs


def test_it_learns_proves_and_registers(binary: Done) -> None:
    outcome = binary.outcome
    assert outcome.proof.metrics["roc_auc"] > 0.7
    assert outcome.proof.parity.rows > 50
    assert outcome.proof.parity.difference < 1e-4
    assert outcome.proof.parity.flipped == 0
    assert (outcome.version, outcome.alias) == ("1", "champion")
    assert outcome.model.is_file()
    assert any("break the contract and are left out" in line for line in binary.said)


def test_the_best_trial_is_the_first(binary: Done) -> None:
    scores = [trial.learned["best_roc_auc"] for trial in binary.outcome.search.trials]
    assert len(scores) == 2
    assert scores == sorted(scores, reverse=True)


def test_observers_hear_of_every_trial_and_every_epoch_once(binary: Done) -> None:
    assert len(binary.told.started) == len(set(binary.told.started)) == 2
    assert binary.told.reported == {trial: [1, 2] for trial in binary.told.started}
    assert binary.told.ended == dict.fromkeys(binary.told.started)


def test_there_is_one_parent_run_and_one_child_a_trial_and_none_still_runs(
    binary: Done, settings: Settings
) -> None:
    runs = runs_of(settings, "binary")
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = [run for run in runs if run not in parents]
    assert [run.info.run_id for run in parents] == [binary.outcome.run]
    assert len(children) == 2
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {binary.outcome.run}
    assert {run.info.status for run in runs} == {"FINISHED"}


def test_each_epoch_of_a_trial_is_one_step_of_its_run(binary: Done, settings: Settings) -> None:
    client = client_of(settings)
    for run in runs_of(settings, "binary"):
        if run.info.run_id == binary.outcome.run:
            continue
        for metric in ("train_loss", "roc_auc", "best_roc_auc"):
            steps = [point.step for point in client.get_metric_history(run.info.run_id, metric)]
            assert steps == [1, 2], metric
        assert 0.005 <= float(run.data.params["lr"]) <= 0.05


def test_the_parent_run_tells_data_code_environment_and_result(binary: Done, settings: Settings) -> None:
    client = client_of(settings)
    run = client.get_run(binary.outcome.run)
    assert run.data.tags["raymlops.why"] == "a test"
    assert run.data.tags["mlflow.user"] == "tester"
    assert len(run.data.tags["raymlops.fingerprint"]) == 16
    assert run.data.tags["raymlops.commit"]
    assert run.data.metrics["test_roc_auc"] == pytest.approx(binary.outcome.proof.metrics["roc_auc"])
    assert run.data.metrics["parity_flipped"] == 0
    root = pathlib.Path(run.info.artifact_uri.removeprefix("file://"))
    data = json.loads((root / "data.json").read_text())
    assert data["failed"] == data["findings"][0]["rows"] > 0
    assert json.loads((root / "spec.json").read_text())["name"] == "binary"
    assert f"ray=={__import__('ray').__version__}" in (root / "requirements.lock.txt").read_text()


def test_the_version_tells_where_it_comes_from(binary: Done, settings: Settings) -> None:
    version = registry.resolve("models:/binary@champion", settings)
    assert (version.version, version.uri) == ("1", "models:/binary/1")
    assert version.digest == binary.outcome.digest
    assert version.file.read_bytes() == binary.outcome.model.read_bytes()
    best = binary.outcome.search.best
    assert version.tags["raymlops.trial"] == best.name
    child = client_of(settings).get_run(version.tags["raymlops.trial_run"])
    assert child.data.tags["mlflow.parentRunId"] == binary.outcome.run == version.tags["raymlops.search_run"]
    assert json.loads(version.tags["raymlops.parameters"]) == pytest.approx(best.parameters)
    assert version.tags["raymlops.who"] == "tester"
    profile = json.loads((version.path / PROFILE_FILE).read_text())
    assert {"x", "z", "count", "word", "flag", "when"} <= set(profile["columns"])
    assert profile["predictions"]["rows"] == binary.outcome.proof.parity.rows
    assert profile["columns"]["word"]["missing"] > 0


def test_the_registered_file_keeps_its_opset_its_ir_and_has_no_data_beside_it(
    binary: Done, settings: Settings
) -> None:
    version = registry.resolve("models:/binary/1", settings)
    model = onnx.load(version.file, load_external_data=False)
    assert model.ir_version == 10
    assert {entry.domain: entry.version for entry in model.opset_import} == {"": 20, "ai.onnx.ml": 2}
    assert not [file for file in version.path.rglob("*") if file.suffix in (".data", ".pkl")]
    assert [column["name"] for column in open_session(version.file).contract["columns"]]


def test_mlflow_loads_the_version_and_answers_the_same(binary: Done, settings: Settings) -> None:
    version = registry.resolve("models:/binary/1", settings)
    table = experiments.signal_table(20, seed=9)
    batch = table_to_batch(table, features_of(version))
    expected = open_session(version.file).infer(batch)
    # MLflow's signatures know strings as numpy's, not as objects.
    given = mlflow.pyfunc.load_model(str(version.path)).predict(
        {name: values.astype(str) if values.dtype == object else values for name, values in batch.items()}
    )
    np.testing.assert_allclose(given["probability"], expected["probability"], rtol=1e-6)
    assert list(given["label"]) == list(expected["label"])


def test_mlflow_answers_data_frames_with_strings_and_missing_values(binary: Done, settings: Settings) -> None:
    import pandas as pd

    version = registry.resolve("models:/binary/1", settings)
    table = experiments.signal_table(20, seed=9)
    batch = table_to_batch(table, features_of(version))
    frame = pd.DataFrame({name: list(values) for name, values in batch.items()}).astype(
        {name: values.dtype for name, values in batch.items()}
    )
    given = mlflow.pyfunc.load_model(str(version.path)).predict(frame)
    expected = open_session(version.file).infer(batch)
    np.testing.assert_allclose(np.ravel(given["probability"]), expected["probability"], rtol=1e-6)


TASKS = [
    ("multiclass", "parquet", "kind", "log_loss", 1.08),
    ("regression", "csv", "price", "rmse", 120.0),
    ("booleans", "json", "sure", "log_loss", 0.69),
]


@pytest.mark.parametrize(("name", "ending", "target", "metric", "limit"), TASKS, ids=[t[0] for t in TASKS])
def test_every_task_and_reader_ends_in_a_version_that_answers_its_own_labels(
    name: str, ending: str, target: str, metric: str, limit: float, folder: pathlib.Path, settings: Settings
) -> None:
    columns = {"when": {"type": "timestamp"}, "flag": {"type": "boolean"}}
    spec = experiments.spec_of(
        name,
        {"reader": ending, "path": str(folder / f"rows.{ending}")},
        target,
        contract={"columns": columns},
        search={"algorithm": "random", "scheduler": "none", "trials": 1},
    )
    outcome = develop_model(spec, settings)
    assert outcome.proof.metrics[metric] < limit
    assert outcome.proof.parity.flipped == 0
    version = registry.resolve(f"models:/{name}/{outcome.version}", settings)
    reference = read_reference(client_of(settings), version)
    assert reference.calibration is not None  # of each task
    assert reference.calibration.rows == reference.rows
    assert len(reference.days) == reference.rows  # by the timestamp among the columns
    assert lineage.trace_version(version.uri, settings)["reference"].startswith("sha256 ")
    table = experiments.signal_table(30, seed=4)
    answers = open_session(version.file).infer(table_to_batch(table, features_of(version)))
    if name == "regression":
        assert 500 < answers["prediction"].mean() < 1500
    else:
        assert set(answers["label"].tolist()) <= set(table[target].to_pylist())


def test_a_second_version_challenges_and_shares_the_experiment(
    binary: Done, folder: pathlib.Path, settings: Settings
) -> None:
    spec = experiments.spec_of(
        "binary",
        {"path": str(folder / "rows.parquet")},
        search={"algorithm": "random", "scheduler": "none", "trials": 1},
        training={"epochs": 1, "batch_size": 64},
    )
    outcome = develop_model(spec, settings, Request(name="again"))
    assert (outcome.version, outcome.alias) == ("2", "challenger")
    assert registry.resolve("models:/binary@champion", settings).version == "1"
    counts = collections.Counter("mlflow.parentRunId" in run.data.tags for run in runs_of(settings, "binary"))
    assert counts == {False: 2, True: 3}


def test_what_a_search_prints_is_what_its_gate_measured(binary: Done) -> None:
    trusted = binary.outcome.trusted
    assert trusted is not None
    assert set(trusted.own_rows.values()) == {""}
    for name, value in binary.outcome.proof.metrics.items():
        assert trusted.evaluation.metrics[name].value == pytest.approx(value, abs=1e-12), name


def test_a_champion_is_not_measured_on_its_own_rows_without_saying_so_and_folds_tell_what_a_split_does(
    binary: Done, folder: pathlib.Path, settings: Settings
) -> None:
    said: list[str] = []
    short = {"algorithm": "random", "scheduler": "none", "trials": 1}
    parts: dict[str, Any] = {"search": short, "training": {"epochs": 1, "batch_size": 64}}
    place = {"path": [str(folder / "rows.parquet")], "derive": {"twice": "2 * x"}}
    split, folds = {"by": "random", "seed": 7}, {"folds": 3, "bootstrap": 100}
    dealt_anew = experiments.spec_of("binary", place, split=split, evaluation=folds, **parts)
    outcome = develop_model(dealt_anew, settings, Request(name="dealt anew"), tell=said.append)
    assert outcome.trusted is not None
    assert "rows of the champion" in {check.name for check in outcome.trusted.verdict.failures}
    assert any(re.search(r"ROC AUC 0\.\d+ \[.*\] over 3 folds", line) for line in said)
    assert "anew on 3 folds of all rows" in outcome.trusted.report.read_text()
    told = [line for line in said if "were training rows of models:/binary/1" in line]
    assert re.search(r"of 90 rows \(about [678]\d%\) were training rows", told[0])
    second = f"models:/binary/{outcome.version}"
    found = launch.evaluate(second, settings, spec=with_gate(dealt_anew, new_rows=10))
    assert {check.name: check.passed for check in found.verdict.checks}["rows of the champion"]
    assert "own_rows" not in {check.name for check in found.verdict.checks}
    # On other data: those that it was trained on, and others.
    own = launch.evaluate(second, settings, data=str(folder / "rows.parquet"))
    assert "of 600 rows (about 70%) were training rows" in own.own_rows[second]
    assert "own rows" in {check.name for check in own.verdict.checks}
    others = experiments.write_table(experiments.signal_table(600, seed=9), folder / "others.parquet")
    assert set(launch.evaluate(second, settings, data=str(others)).own_rows.values()) == {""}
    shares = [
        change for change in lineage.compare_versions("models:/binary/1", second, settings)
        if change.name == "test rows that the other was trained on"
    ]  # fmt: skip
    assert re.fullmatch(r"about [678]\d%", shares[0].first)
    assert not lineage.compare_versions(second, second, settings)


def with_gate(spec: ExperimentSpec, **gate: Any) -> ExperimentSpec:
    return spec.model_copy(update={"gate": spec.gate.model_copy(update=gate)})


def test_images_are_learned_from_a_folder_of_files(tmp_path: pathlib.Path, settings: Settings) -> None:
    image = pytest.importorskip("PIL.Image")
    draw = np.random.default_rng(0)
    for number in range(120):
        label = number % 3
        pixels = draw.integers(0, 60, (8, 8), dtype=np.uint8)
        pixels[:, label * 3 : label * 3 + 2] += 150
        place = tmp_path / "images" / f"digit={label}"
        place.mkdir(parents=True, exist_ok=True)
        image.fromarray(pixels, mode=None).save(place / f"{number}.png")
    spec = experiments.spec_of(
        "pictures",
        {"reader": "images", "path": str(tmp_path / "images"),
         "options": {"size": [8, 8], "mode": "L", "partitioning": "hive"}},
        features={"target": {"column": "digit"}, "images": ["image"]},
        network={"name": "cnn", "options": {"channels": 8}},
        training={"epochs": 8, "batch_size": 16, "lr": 0.01},
        search={"algorithm": "random", "scheduler": "none", "trials": 1},
    )  # fmt: skip
    outcome = develop_model(spec, settings)
    assert outcome.proof.metrics["accuracy"] > 0.5
    assert outcome.proof.parity.difference < 1e-4


@pytest.mark.parametrize("target", ["late", "kind"])
def test_a_family_of_ones_own_goes_all_the_way_to_the_registry(
    target: str, folder: pathlib.Path, settings: Settings
) -> None:
    told = experiments.Told()
    spec = experiments.spec_of(
        f"own-{target}",
        {"path": str(folder / "rows.parquet")},
        target,
        network={},
        training={"learner": "tests.own_learners:Logistic"},
        search={"trials": 2},  # over the learner's own space
    )
    outcome = develop_model(spec, settings, Request(), observers=[told])
    assert [set(trial.parameters) for trial in outcome.search.trials] == [{"training.options.C"}] * 2
    assert all(trial.learned["epoch"] == 1 for trial in outcome.search.trials)
    assert outcome.proof.parity.difference < 1e-5
    assert outcome.proof.metrics["accuracy"] > 0.65
    assert outcome.alias == "champion"
    version = registry.resolve(f"models:/own-{target}@champion", settings)
    batch = table_to_batch(experiments.signal_table(7, seed=5), features_of(version))
    labels = open_session(version.file.read_bytes()).infer(batch)["label"]
    assert set(labels.tolist()) <= {0, 1, "low", "mid", "high"}


def test_what_a_family_cannot_do_is_told_before_a_trial_runs(
    folder: pathlib.Path, settings: Settings
) -> None:
    def make(target: str = "late", **training: Any) -> ExperimentSpec:
        return experiments.spec_of(
            "refused", {"path": str(folder / "rows.parquet")}, target, network={}, search={},
            training={"learner": "tests.own_learners:Logistic", **training},
        )  # fmt: skip

    with pytest.raises(SpecError, match="takes C"):
        develop_model(make(options={"c": 1}), settings)
    features = {}
    for target in ("late", "price"):
        (rows,) = stages.scan(make(target))
        features[target], _ = stages.fit(make(target), rows)
    for told, spec in {
        "takes C": make(options={"c": 1}),
        "needs classes": make("price"),
        "trains in one process": make(workers=2),
        "cannot make 'tests.own_learners:Missing'": make(learner="tests.own_learners:Missing"),
        "has no teams, space": make(learner="builtins:dict"),
    }.items():
        with pytest.raises(SpecError, match=told):  # as `prepare` does before it encodes the rows
            stages.check_learner(spec, features[spec.features.target.column])


def test_a_spec_that_leaves_all_open_gets_what_fits_its_rows_and_records_it(
    folder: pathlib.Path, settings: Settings
) -> None:
    spec = ExperimentSpec.model_validate({
        "name": "open", "dataset": {"path": str(folder / "rows.parquet")},
        "features": {"target": {"column": "price", "transform": "log"}, "numbers": ["x", "z"], "categories": ["word"]},
        "training": {"learner": "network", "sample_weights": "id"}, "search": {"trials": 2},
    })  # fmt: skip
    told, said = experiments.Told(), list[str]()
    outcome = develop_model(spec, settings, Request(), observers=[told], tell=said.append)
    assert outcome.trusted is not None
    assert outcome.trusted.verdict.passed, outcome.trusted.verdict
    lines = {line.name: line.value.value for line in outcome.trusted.leaderboard.by_metric["rmse"]}
    assert lines["model"] < 1.1 * lines["linear"] < lines["constant"]
    evaluation = outcome.trusted.evaluation  # rows weigh by `id`, at the gate as in the test of the search
    assert evaluation.metrics["rmse"].value == pytest.approx(outcome.proof.metrics["rmse"], rel=1e-3)
    assert lines["model"] == pytest.approx(outcome.proof.metrics["rmse"], rel=1e-3)
    assert evaluation.rows == outcome.proof.parity.rows
    first = outcome.search.trials[0]
    assert outcome.search.metric == "rmse"
    assert {"lr", "network.options.hidden"} < set(first.parameters)
    client = store.connect(settings)
    version = registry.resolve("models:/open/1", settings)
    recorded = version_record.read_spec(client, version)
    assert recorded.defaults == "fixed"
    assert recorded.network.options["linear"] is True
    assert recorded.features.min_count == 2
    assert recorded.search.varied.keys() == first.parameters.keys()
    chosen = version_record.read_record_file(client, version, DEFAULTS_FILE)
    assert chosen["training.batch_size"]["why"]
    report = outcome.trusted.report.read_text()
    assert "What the spec left open" in report
    assert report.index('id="leaderboard"') < report.index('id="quality"')


def test_a_notebook_searches_evaluates_and_predicts_by_the_same_functions(
    folder: pathlib.Path, settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    monkeypatch.setenv("RAYMLOPS_HOME", str(settings.home))
    content = experiments.spec_of("notebook", {"path": str(folder / "rows.parquet")}).model_dump(mode="json")
    with pytest.raises(SpecError, match="did you mean 'epochs'"):
        raymlops.read_spec(content, {"training.epocs": 3})
    found = raymlops.train(content, why="tried out", overrides={"training.epochs": 1}, progress=False)
    assert found.version == "models:/notebook/1"
    assert found.leaderboard["epoch"].dropna().tolist() == [1]
    assert found.leaderboard["trial"].tolist()[1:] == ["constant", "linear", "boosting"]
    assert set(found.baselines["model"]) == {"model", "constant", "linear", "boosting"}
    assert set(found.metrics) > {"roc_auc", "log_loss"}
    shown = found._repr_html_()
    assert "models:/notebook/1" in shown
    assert "<iframe" in shown
    frame = experiments.signal_table(5, seed=8).to_pandas().set_index("id")
    answers = raymlops.predict(found.version, frame, keep=["x"])
    assert answers.index.equals(frame.index)
    assert set(answers) == {"x", "label", "probability"}
    again = raymlops.load_model(found.model)
    np.testing.assert_array_equal(again.predict(frame)["probability"], answers["probability"])
    assert [output.name for output in again.signature.outputs] == ["label", "probability"]
    measured = raymlops.evaluate("models:/notebook@champion")
    assert measured.metrics["metric"].tolist()[0] == "roc_auc"
    assert measured.report.is_file()
    assert raymlops.register(found.model, "from-a-file", why="tried out") == "models:/from-a-file/1"
    raymlops.promote("from-a-file", 1, "tried out", force=True)
    assert raymlops.load_model("models:/from-a-file@champion").uri == "models:/from-a-file@champion"
