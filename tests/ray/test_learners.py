"""A search over several learners ends in one file, whatever families its members are of."""

import dataclasses
import json
import pathlib
from typing import Any

import numpy as np
import pytest

from raymlops.lifecycle.govern.reproduce import reproduce_version
from raymlops.lifecycle.train import stages
from raymlops.lifecycle.train.develop import Outcome, Request, develop_model
from raymlops.lifecycle.train.distillation import School, distill
from raymlops.lifecycle.train.prepare import prepare
from raymlops.models.session import open_session
from raymlops.settings import Settings
from raymlops.specs.experiment import ExperimentSpec
from raymlops.tracking import registry, store
from raymlops.training.blends import Member, Winner
from tests import experiments

pytestmark = pytest.mark.usefixtures("ray_cluster")
OWN = "tests.own_learners:Logistic"


@pytest.fixture(scope="module")
def spec(ray_cluster: int, tmp_path_factory: pytest.TempPathFactory) -> ExperimentSpec:
    path = tmp_path_factory.mktemp("learners") / "rows.parquet"
    experiments.write_table(experiments.signal_table(400), path)
    search: dict[str, Any] = {
        "learners": {"network": {"lr": 0.02, "network.options.hidden": 16}, OWN: {}},
        "trials": 4,
        "folds": 2,
    }
    return experiments.spec_of(
        "blended", {"path": str(path)}, network={}, training={"epochs": 2, "batch_size": 64}, search=search
    )


@pytest.fixture(scope="module")
def outcome(spec: ExperimentSpec, settings: Settings) -> Outcome:
    return develop_model(spec, settings, Request(name="blended"))


def test_each_learner_is_tried_with_what_the_spec_holds_and_varies(outcome: Outcome) -> None:
    tried = [trial.parameters for trial in outcome.search.trials]
    assert {one["training.learner"] for one in tried} == {"network", OWN}
    networks = [one for one in tried if one["training.learner"] == "network"]
    assert all((one["lr"], one["network.options.hidden"]) == (0.02, 16) for one in networks)
    assert len(tried) == 4


def test_the_file_answers_as_the_folds_that_made_it_and_the_version_names_them(
    spec: ExperimentSpec, outcome: Outcome, settings: Settings
) -> None:
    assert outcome.version is not None
    version = registry.resolve(f"models:/blended/{outcome.version}", settings)
    members = json.loads(version.tags["raymlops.members"])
    assert sum(one["models"] for one in members["members"]) >= 2
    assert members["judged"]["rows"] > 200
    assert outcome.proof.parity.difference < 1e-5
    assert outcome.proof.parity.flipped == 0
    answers = open_session(pathlib.Path(version.file)).infer(outcome.proof.example)
    assert np.isfinite(answers["probability"]).all()


def test_the_learners_are_ranked_on_the_same_rows_with_a_file_of_each(
    outcome: Outcome, settings: Settings
) -> None:
    ranking = outcome.learners
    assert ranking is not None
    assert {"network", OWN} <= {line.name for line in ranking.lines} <= {"network", OWN, "blend"}
    assert sum(line.first for line in ranking.lines) == pytest.approx(1)
    assert ranking.folds > 1
    assert all(line.size and line.p50_ms for line in ranking.lines)
    version = registry.resolve(f"models:/blended/{outcome.version}", settings)
    assert version.manifest is not None
    assert "learners.json" in version.manifest.documents
    assert outcome.trusted is not None
    report = outcome.trusted.report.read_text(encoding="utf-8")
    assert "<h3>Learners</h3>" in report
    assert "<h3>Members of the blend</h3>" in report
    assert outcome.trusted.importance is not None
    assert outcome.trusted.importance.columns[0].low > 0


def test_every_trial_is_a_run_with_its_learner(outcome: Outcome, settings: Settings) -> None:
    client = store.connect(settings)
    experiment = client.get_experiment_by_name("blended")
    assert experiment is not None
    wanted = f"tags.mlflow.parentRunId = '{outcome.run}'"
    held = client.search_runs([experiment.experiment_id], wanted)
    found = [run.data.params["training.learner"] for run in held]
    assert sorted(found) == sorted(one.parameters["training.learner"] for one in outcome.search.trials)


def test_a_trial_alone_is_taken_where_no_blend_is_asked_for(spec: ExperimentSpec, outcome: Outcome) -> None:
    alone = spec.model_copy(update={"search": spec.search.model_copy(update={"blend": False})})
    (winner, _) = stages.blend(alone, None, None, b"", None, None, outcome.search, location="")  # type: ignore[arg-type]
    assert [member.trial for member in winner.members] == [outcome.search.best]


def test_a_winner_of_several_models_is_reproduced_to_the_byte(outcome: Outcome, settings: Settings) -> None:
    found = reproduce_version(f"models:/blended/{outcome.version}", settings, print, trusted=True)
    assert found.same_bytes
    assert found.largest < 1e-9


def test_a_winner_that_was_trained_again_on_all_rows_says_so_and_is_reproduced_to_the_byte(
    spec: ExperimentSpec, settings: Settings
) -> None:
    networks = {"network": {"lr": 0.02, "network.options.hidden": 16}}
    search = spec.search.model_copy(update={"learners": networks, "trials": 1, "folds": 0, "refit": True})
    told: list[str] = []
    found = develop_model(
        spec.model_copy(update={"search": search}), settings, Request(name="refitted"), tell=told.append
    )
    assert any("1 of 1 models were trained again on 34" in line for line in told)
    assert found.proof.parity.difference < 1e-5
    assert found.version is not None
    version = registry.resolve(f"models:/blended/{found.version}", settings)
    (member,) = json.loads(version.tags["raymlops.members"])["members"]
    assert member["whole"]
    again = reproduce_version(f"models:/blended/{found.version}", settings, print, trusted=True)
    assert again.same_bytes


def test_a_network_learns_from_a_blend_and_the_record_gives_the_same_again(
    spec: ExperimentSpec, outcome: Outcome, tmp_path: pathlib.Path
) -> None:
    prepared, trials = prepare(spec), outcome.search
    school = School(
        prepared.spec, prepared.rows, prepared.features, prepared.encoder, prepared.train, prepared.validation,
        trials, str(tmp_path / "first"),
    )  # fmt: skip
    first = {trial.parameters["training.learner"]: trial for trial in trials.trials if trial.checkpoint}
    blend = Winner(tuple(Member(trial, 1 / len(first)) for trial in first.values()))
    student = distill(school, blend)
    assert student is not None
    assert student.distilled is not None
    # all training rows and five times as many that were drawn anew
    assert student.distilled.rows == 6 * prepared.train.count
    assert student.distilled.student == pytest.approx(student.distilled.teacher, abs=0.05)
    record = json.loads(json.dumps(student.to_json()))
    assert [one["parameters"]["training.learner"] for one in record["teacher"]] == list(first)
    (member,) = record["members"]
    elsewhere = dataclasses.replace(school, location=str(tmp_path / "second"))
    again = distill(elsewhere, blend, parameters=member["parameters"])
    assert again is not None
    files = [stages.export(prepared.spec, prepared.features, one).model for one in (student, again)]
    assert files[0] == files[1]
    late: list[str] = []
    assert distill(elsewhere, blend, seconds=0.0, tell=late.append) is None
    assert "did not end in time" in late[0]
