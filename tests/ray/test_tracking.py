import pathlib

import mlflow
import pytest

from raymlops.errors import StorageError, UnreachableError
from raymlops.settings import Settings
from raymlops.tracking import runs, store, write_behind_queue
from raymlops.tracking.earlier_trials import FINGERPRINT_TAG, TABLE_TAG, find_earlier, name_table
from raymlops.training.candidates import Candidate
from raymlops.training.learners import find_learner
from raymlops.training.warm_start import choose_points
from tests.conftest import settings_in
from tests.learner_rows import spec_for


@pytest.fixture(scope="module")
def client(settings: Settings) -> mlflow.MlflowClient:
    return store.connect(settings)


@pytest.fixture(autouse=True)
def _send_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write_behind_queue, "_GATHERING", 0.0)


class Search:
    """One search's runs in an experiment of its own."""

    def __init__(
        self, client: mlflow.MlflowClient, settings: Settings, name: str, folder: pathlib.Path
    ) -> None:
        self.client = client
        self.experiment = store.ensure_experiment(client, name, settings).experiment_id
        self.name = name
        self.said: list[str] = []
        self._spool = folder / "spool.jsonl"
        self.parent = self.start()

    def start(self) -> str:
        return runs.start_run(
            self.client, self.experiment, search=self.name, tags={"why": "x" * 9000}, parameters={"trials": 2}
        )

    def trials(self) -> runs.TrialRuns:
        return runs.TrialRuns(
            self.client, self.experiment, self.parent, spool=self._spool, tell=self.said.append
        )

    def found(self) -> list[mlflow.entities.Run]:
        return list(self.client.search_runs([self.experiment], order_by=["attributes.start_time"]))

    def steps(self, run: str, metric: str = "train_loss") -> list[int]:
        return [point.step for point in self.client.get_metric_history(run, metric)]


def report(trials: runs.TrialRuns, trial: str, *epochs: int, metric: str = "train_loss") -> None:
    for epoch in epochs:
        trials.trial_reported(trial, {"epoch": epoch, metric: 1 / epoch})


def test_a_search_is_one_parent_and_one_child_a_trial(
    client: mlflow.MlflowClient, settings: Settings, tmp_path: pathlib.Path
) -> None:
    search = Search(client, settings, "plain", tmp_path)
    trials = search.trials()
    trials.trial_started("a", {"lr": 0.1})
    trials.trial_started("b", {"lr": 0.2})
    report(trials, "a", 1, 2)
    trials.trial_ended("a", None)
    trials.trial_ended("b", "ValueError: it broke")
    assert trials.close() == 0
    runs.finish_run(client, search.parent, metrics={"test": 0.5}, tags={})
    statuses = {run.info.run_name: run.info.status for run in search.found()}
    assert statuses == {"plain": "FINISHED", "trial-a": "FINISHED", "trial-b": "FAILED"}
    failed = next(run for run in search.found() if run.info.run_name == "trial-b")
    assert failed.data.tags["raymlops.error"] == "ValueError: it broke"
    assert trials.run_of("a") is not None
    assert search.steps(str(trials.run_of("a"))) == [1, 2]


@pytest.mark.parametrize("metric", ["train_loss", "best_roc_auc", "roc_auc"])
def test_a_resumed_search_finds_its_runs_and_repeats_no_step(
    client: mlflow.MlflowClient, settings: Settings, tmp_path: pathlib.Path, metric: str
) -> None:
    search = Search(client, settings, f"resumed_{metric}", tmp_path)
    first = search.trials()
    first.trial_started("a", {"lr": 0.1})
    report(first, "a", 1, 2, metric=metric)
    first.close()  # the driver was killed here: nothing was ended
    assert search.start() == search.parent
    second = search.trials()
    second.trial_started("a", {"lr": 0.1})
    report(second, "a", 2, 3, metric=metric)  # from its checkpoint it repeats an epoch
    second.trial_ended("a", None)
    second.close()
    assert len(search.found()) == 2
    assert second.run_of("a") == first.run_of("a")
    assert search.steps(str(second.run_of("a")), metric) == [1, 2, 3]


def test_nothing_is_lost_while_the_store_is_away(
    client: mlflow.MlflowClient, settings: Settings, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write_behind_queue, "_LONGEST_PAUSE", 0.05)
    search = Search(client, settings, "away", tmp_path)
    trials = search.trials()
    real = client.log_batch
    refused = []

    def unreachable(*arguments: object, **options: object) -> None:
        refused.append(arguments)
        if len(refused) > 3:
            monkeypatch.setattr(client, "log_batch", real)
        raise ConnectionError("the store is away")

    trials.trial_started("a", {"lr": 0.1})
    report(trials, "a", 1)
    while trials.run_of("a") is None or search.steps(str(trials.run_of("a"))) != [1]:
        pass
    monkeypatch.setattr(client, "log_batch", unreachable)
    report(trials, "a", 2, 3, 4)
    trials.trial_ended("a", None)
    assert trials.close() == 0
    assert search.steps(str(trials.run_of("a"))) == [1, 2, 3, 4]
    assert "does not answer" in search.said[0]
    assert {run.info.status for run in search.found() if run.info.run_name == "trial-a"} == {"FINISHED"}


def test_a_run_that_was_made_and_no_more_gets_its_parameters_and_stays_the_only_one(
    client: mlflow.MlflowClient, settings: Settings, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write_behind_queue, "_LONGEST_PAUSE", 0.05)
    search = Search(client, settings, "cut", tmp_path)
    trials = search.trials()
    real = client.create_run

    def answer_is_lost(*arguments: object, **options: object) -> None:
        monkeypatch.setattr(client, "create_run", real)
        real(*arguments, **options)  # type: ignore[arg-type]
        raise ConnectionError("the server was killed before it answered")

    monkeypatch.setattr(client, "create_run", answer_is_lost)
    trials.trial_started("a", {"lr": 0.1})
    trials.trial_ended("a", None)
    assert trials.close() == 0
    [run] = [run for run in search.found() if run.info.run_name == "trial-a"]
    assert (run.info.status, run.data.params) == ("FINISHED", {"lr": "0.1"})

    second = real(search.experiment, tags=dict(run.data.tags), run_name="trial-a")  # by a request sent twice
    trials.settle()
    assert [one.info.run_id for one in search.found() if one.info.run_name == "trial-a"] == [run.info.run_id]
    assert client.get_run(second.info.run_id).info.lifecycle_stage == "deleted"


def test_what_the_store_refuses_is_told_once_and_holds_up_nothing(
    client: mlflow.MlflowClient, settings: Settings, tmp_path: pathlib.Path
) -> None:
    search = Search(client, settings, "refused", tmp_path)
    trials = search.trials()
    for trial in "ab":
        trials.trial_started(trial, {})
        report(trials, trial, 1)
    while trials.run_of("b") is None or search.steps(str(trials.run_of("b"))) != [1]:
        pass
    client.delete_run(str(trials.run_of("a")))
    for trial in "ab":
        report(trials, trial, 2, 3)
        trials.trial_ended(trial, None)
    assert trials.close() == 0
    assert search.steps(str(trials.run_of("b"))) == [1, 2, 3]
    [said] = search.said
    assert said.startswith("The tracking store refuses a report of trial a")


def test_no_run_stays_running_whose_driver_is_gone(
    client: mlflow.MlflowClient, settings: Settings, tmp_path: pathlib.Path
) -> None:
    search = Search(client, settings, "gone", tmp_path)
    for trial in "ab":
        trials = search.trials()
        trials.trial_started(trial, {})
        report(trials, trial, 1)
        trials.close()
    assert runs.end_lost(client, search.experiment, lambda name: False) == []
    assert runs.end_lost(client, search.experiment, lambda name: name == "gone") == ["gone"]
    assert {run.info.status for run in search.found()} == {"KILLED"}

    again = search.trials()
    assert search.start() == search.parent
    again.trial_started("a", {})
    again.trial_started("b", {})
    again.trial_ended("a", None)
    again.abandon()
    again.close()
    statuses = {run.info.run_name: run.info.status for run in search.found()}
    assert statuses == {"gone": "RUNNING", "trial-a": "FINISHED", "trial-b": "KILLED"}


def test_a_store_that_is_away_is_waited_for_and_one_that_refuses_is_not(
    client: mlflow.MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "_PAUSE", 0.01)
    tries, said = [], list[str]()

    def call() -> str:
        tries.append(1)
        if len(tries) < 4:
            raise ConnectionError("no route to host")
        return "here"

    assert store.retry_until_answered(call, said.append) == "here"
    assert said == ["The tracking store does not answer (no route to host); it is tried again"]
    tries.clear()
    with pytest.raises(UnreachableError, match="no route to host"):
        store.retry_until_answered(call, said.append, patience=-1)
    with pytest.raises(mlflow.MlflowException, match="not found"):
        store.retry_until_answered(lambda: client.get_run("0" * 32), said.append)
    assert len(said) == 1


def test_a_metric_that_is_no_number_does_not_stop_the_others(
    client: mlflow.MlflowClient, settings: Settings, tmp_path: pathlib.Path
) -> None:
    search = Search(client, settings, "numbers", tmp_path)
    trials = search.trials()
    trials.trial_started("a", {})
    for epoch, value in enumerate((float("nan"), float("inf"), float("-inf"), 1.0), start=1):
        trials.trial_reported("a", {"epoch": epoch, "train_loss": value})
    trials.trial_ended("a", None)
    assert trials.close() == 0
    assert search.steps(str(trials.run_of("a"))) == [1, 2, 3, 4]


def test_a_deleted_experiment_is_explained(client: mlflow.MlflowClient, settings: Settings) -> None:
    client.delete_experiment(store.ensure_experiment(client, "deleted", settings).experiment_id)
    with pytest.raises(StorageError, match="was deleted; restore it"):
        store.ensure_experiment(client, "deleted", settings)


def test_a_store_that_cannot_be_used_is_told_without_its_password(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="Cannot use the tracking store"):
        store.connect(settings_in(tmp_path / "file"))
    assert store.hide_password("postgresql://me:secret@host/db") == "postgresql://me:***@host/db"
    assert store.hide_password("sqlite:////tmp/a.db") == "sqlite:////tmp/a.db"


def test_the_best_trials_of_the_same_rows_and_of_other_states_of_the_table_are_found_again(
    client: mlflow.MlflowClient, settings: Settings, tmp_path: pathlib.Path
) -> None:
    search, table = Search(client, settings, "warm", tmp_path), name_table("s3://b/flights.csv?key=1", "late")
    assert table == name_table("/home/flights.csv", "late") != name_table("/home/flights.csv", "early")

    def run_trials(fingerprint: str, table: str, values: dict[str, float]) -> None:
        tags = {FINGERPRINT_TAG: fingerprint, TABLE_TAG: table}
        spool = tmp_path / f"{fingerprint}.jsonl"
        trials = runs.TrialRuns(
            client, search.experiment, search.parent, spool=spool, tell=search.said.append, tags=tags
        )
        for name, value in values.items():
            trials.trial_started(name, {"training.learner": "linear", "training.options.C": value})
            trials.trial_reported(name, {"epoch": 1, "train_loss": 1.0, "best_roc_auc": value})
            trials.trial_ended(name, "it failed" if value > 0.9 else None)
        assert trials.close() == 0

    run_trials("now", table, {"a": 0.7, "b": 0.8, "c": 0.95})
    run_trials("before", table, {"d": 0.85})
    run_trials("else", "other", {"e": 0.75})
    found = find_earlier(client, search.experiment, fingerprint="now", table=table, metric="roc_auc")
    assert [(one.value, one.same_rows) for one in found] == [(0.8, True), (0.7, True), (0.85, False)]
    candidate = Candidate("linear", find_learner("linear").space, {})
    spec = spec_for("linear")
    chosen = choose_points(found, [candidate], spec)["linear"]
    assert [one.values for one in chosen.tried] == [{"training.options.C": 0.8}, {"training.options.C": 0.7}]
    assert [one.value for one in chosen.tried] == [0.8, 0.7]
    assert chosen.observed == ()
