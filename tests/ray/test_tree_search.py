"""A search over trees ends in a registered file of raw columns, as one over networks does."""

import pathlib

import numpy as np
import onnx
import pytest

from raymlops.lifecycle.train.develop import Outcome, Request, develop_model
from raymlops.models.row_independence import prove_rows
from raymlops.models.session import open_session
from raymlops.settings import Settings
from raymlops.specs.experiment import ExperimentSpec
from raymlops.tracking import registry, store
from tests import experiments

pytestmark = [pytest.mark.usefixtures("ray_cluster"), pytest.mark.slow]


@pytest.fixture(scope="module")
def spec(ray_cluster: int, tmp_path_factory: pytest.TempPathFactory) -> ExperimentSpec:
    path = tmp_path_factory.mktemp("trees") / "rows.parquet"
    experiments.write_table(experiments.signal_table(600), path)
    search = {"trials": 3, "concurrent": 2}
    return experiments.spec_of(
        "boosted",
        {"path": str(path)},
        defaults="fitted",
        network={},
        training={"learner": "lightgbm", "options": {"rounds": 60}},
        search=search,
    )


@pytest.fixture(scope="module")
def outcome(spec: ExperimentSpec, settings: Settings) -> Outcome:
    return develop_model(spec, settings, Request(name="boosted"))


def test_the_registered_file_is_one_ensemble_on_raw_columns(outcome: Outcome, settings: Settings) -> None:
    version = registry.resolve(f"models:/boosted/{outcome.version}", settings)
    assert outcome.proof.parity.difference < 1e-5
    assert outcome.proof.parity.flipped == 0
    model = onnx.load(pathlib.Path(version.file))
    operators = [node.op_type for node in model.graph.node]
    assert operators.count("TreeEnsembleRegressor") == 1
    assert "Sin" not in operators, "what networks read is not computed"
    assert prove_rows(version.file.read_bytes()), "requests share a run"
    answers = open_session(version.file.read_bytes()).infer(outcome.proof.example)
    assert set(np.unique(answers["label"])) <= {0, 1}
    assert outcome.proof.metrics["roc_auc"] > 0.9


def test_the_first_trial_has_the_options_of_the_rows_and_all_are_recorded(
    outcome: Outcome, settings: Settings
) -> None:
    (first,) = [trial for trial in outcome.search.trials if trial.place == 0]
    assert first.parameters["training.options.num_leaves"] == 8
    assert first.parameters["training.options.learning_rate"] == 0.03
    client = store.connect(settings)
    run = client.get_run(outcome.run)
    assert run.data.params["learner"] == "lightgbm"
